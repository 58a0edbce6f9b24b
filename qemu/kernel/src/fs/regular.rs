//! Regular files and directories of memory.

use alloc::sync::Arc;
use core::ops::Range;

use linux_raw_sys::general as abi;
use mnt_table::dentry::Dentry;
use mnt_table::{MountFlags, PathRef, UserNs, pin};
use syscalls::Errno;
use syscalls::credentials::Capabilities;
use tmpfs::{Contents, FILE_MAX, PAGE_SIZE, Page, TmpDentry, mode};

use super::attributes::Change;
use super::copy::{Sink, Source};
use super::file::{Entries, FileOps, OpenFile, Whence};
use super::kernel::Call;
use super::permission::without_set_id;
use super::{error, identity, node};
use crate::mm::backing::{Backing, Description};

/// A regular file.
pub(crate) struct RegularOps;

fn contents(file: &OpenFile) -> Result<&Contents, Errno> {
    file.dentry().ok_or(Errno::EBADF)?.contents().map_err(error)
}

/// `at` was read: notes when, if the mount and the file say so. Relative times are noted when they are older than the last
/// change, or a day.
pub(crate) fn accessed(file: &OpenFile) {
    const DAY_NS: i64 = 86_400_000_000_000;
    let Some(at) = file.file().path() else { return };
    let flags = at.mount.flags();
    let directory = at.dentry.is_dir();
    if file.flags() & abi::O_NOATIME != 0
        || flags.contains(MountFlags::NOATIME)
        || directory && flags.contains(MountFlags::NODIRATIME)
        || at.mount.is_read_only()
    {
        return;
    }
    let now = at.dentry.super_block().now();
    node::real(&at.dentry).inode().change_times(|times| {
        let due = !flags.contains(MountFlags::RELATIME)
            || times.accessed <= times.modified
            || times.accessed <= times.changed
            || now - times.accessed >= DAY_NS;
        if due {
            times.accessed = now;
        }
    });
}

impl FileOps for RegularOps {
    fn read(&self, file: &OpenFile, to: &mut Sink<'_>, at: u64) -> Result<usize, Errno> {
        static ZEROES: [u8; PAGE_SIZE] = [0; PAGE_SIZE];
        let contents = contents(file)?;
        let mut done = 0;
        while to.left() != 0 {
            let offset = at + done as u64;
            let left = contents.size().saturating_sub(offset);
            if left == 0 {
                break;
            }
            let start = (offset % PAGE_SIZE as u64) as usize;
            let count = (PAGE_SIZE - start).min(to.left()).min(usize::try_from(left).unwrap_or(usize::MAX));
            let put = match contents.page(offset / PAGE_SIZE as u64) {
                Some(page) => to.put_page(&page, start, count),
                None => to.put(&ZEROES[..count]),
            };
            match put {
                Ok(put) => done += put,
                Err(_) if done != 0 => break,
                Err(error) => return Err(error),
            }
        }
        accessed(file);
        Ok(done)
    }

    fn write(&self, file: &OpenFile, from: &mut Source<'_>, at: u64) -> Result<(usize, u64), Errno> {
        let contents = contents(file)?;
        let path = file.file().path().ok_or(Errno::EBADF)?;
        let _whole = contents.writing().lock();
        let at = if file.flags() & abi::O_APPEND != 0 { contents.size() } else { at };
        if from.left() == 0 {
            return Ok((0, at));
        }
        from.limit(super::room_below_limit(at)?);
        if at >= FILE_MAX {
            return Err(Errno::EFBIG);
        }
        from.limit(usize::try_from(FILE_MAX - at).unwrap_or(usize::MAX));
        contents.may_write(at.saturating_add(from.left() as u64)).map_err(error)?;
        let mut done = 0;
        let mut failure = None;
        while from.left() != 0 {
            let offset = at + done as u64;
            let start = (offset % PAGE_SIZE as u64) as usize;
            let count = (PAGE_SIZE - start).min(from.left());
            let taken = match contents.page_for_write(offset / PAGE_SIZE as u64) {
                Ok(page) => from.take_page(&page, start, count),
                Err(failure) => Err(error(failure)),
            };
            match taken {
                Ok(taken) => done += taken,
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            }
            contents.grow(at + done as u64);
        }
        if failure.is_some() {
            contents.trim();
        }
        if done != 0 {
            changed(file, path);
            return Ok((done, at + done as u64));
        }
        failure.map_or(Ok((0, at)), Err)
    }

    fn is_seekable(&self) -> bool {
        true
    }

    fn can_wait(&self) -> bool {
        false
    }

    fn seek(&self, file: &OpenFile, now: u64, offset: i64, whence: Whence) -> Result<u64, Errno> {
        let contents = contents(file)?;
        let from = match whence {
            Whence::Set => 0,
            Whence::Current => now,
            Whence::End => contents.size(),
            Whence::Data | Whence::Hole => {
                let from = u64::try_from(offset).map_err(|_| Errno::ENXIO)?;
                return contents.seek(from, whence == Whence::Data).map_err(error);
            }
        };
        super::file::offset_from(from, offset)
    }

    fn truncate(&self, file: &OpenFile, size: u64) -> Result<(), Errno> {
        let path = file.file().path().ok_or(Errno::EINVAL)?;
        let contents = contents(file)?;
        super::room_below_limit(size.saturating_sub(1))?;
        let _whole = contents.writing().lock();
        contents.set_size(size).map_err(error)?;
        changed(file, path);
        Ok(())
    }

    fn allocate(&self, file: &OpenFile, mode: u32, offset: u64, len: u64) -> Result<(), Errno> {
        let contents = contents(file)?;
        let path = file.file().path().ok_or(Errno::EBADF)?;
        let end = offset.checked_add(len).filter(|end| *end <= FILE_MAX).ok_or(Errno::EFBIG)?;
        let _whole = contents.writing().lock();
        match mode {
            0 | abi::FALLOC_FL_KEEP_SIZE => {
                super::room_below_limit(end.saturating_sub(1))?;
                if contents.seals() & abi::F_SEAL_GROW != 0 && end > contents.size() {
                    return Err(Errno::EPERM);
                }
                let pages = offset / PAGE_SIZE as u64..end.div_ceil(PAGE_SIZE as u64);
                // Kept or given back as a whole.
                let free = file.dentry().and_then(|dentry| {
                    let usage = dentry.super_block().usage();
                    usage.pages_max.map(|max| max.saturating_sub(usage.pages))
                });
                let missing = (pages.end - pages.start).saturating_sub(contents.pages());
                if free.is_some_and(|free| missing > free) {
                    return Err(Errno::ENOSPC);
                }
                for index in pages {
                    if let Err(failure) = contents.page_for_write(index) {
                        contents.trim();
                        return Err(error(failure));
                    }
                }
                if mode == 0 {
                    contents.grow(end);
                }
            }
            _ if mode == abi::FALLOC_FL_PUNCH_HOLE | abi::FALLOC_FL_KEEP_SIZE => {
                contents.punch(offset..end).map_err(error)?;
            }
            _ => return Err(Errno::EOPNOTSUPP),
        }
        changed(file, path);
        Ok(())
    }

    fn sync(&self, _file: &OpenFile) -> Result<(), Errno> {
        Ok(())
    }

    fn backing(&self, file: &Arc<OpenFile>) -> Result<Arc<dyn Backing>, Errno> {
        let contents = contents(file)?;
        contents.set_mapped();
        let mapped = Mapped { file: Arc::clone(file) };
        let mapped: Arc<dyn Backing> = mnt_table::memory::arc(mapped).map_err(|_| Errno::ENOMEM)?;
        Ok(mapped)
    }
}

/// The contents were changed: times, and set-id bits that somebody without privilege loses.
fn changed(file: &OpenFile, path: &PathRef<TmpDentry>) {
    path.dentry.inode().touch();
    let _ = file;
    drop_privileges(path);
}

/// Takes the set-id bits away that somebody who changes contents may not keep: it takes the machine's own privilege to keep
/// them, not that of a user namespace.
pub(crate) fn drop_privileges(path: &PathRef<TmpDentry>) {
    let bits = path.dentry.inode().mode();
    if bits & mode::TYPE == mode::FILE && without_set_id(bits) != bits {
        let who = super::permission::current();
        if !who.capable(&UserNs::INITIAL, Capabilities::FSETID) {
            let permissions = Some(without_set_id(bits) & 0o7777);
            let change = Change { permissions, ..Change::default() };
            // The contents are changed already.
            let _ = super::attributes::change(&path.dentry, &change);
        }
    }
}

/// truncate(2) of a regular file that may be written.
pub(crate) fn truncate(call: &Call<'_>, at: &PathRef<TmpDentry>, size: u64) -> Result<(), Errno> {
    let _ = call;
    if let Some(done) = node::of(&at.dentry).and_then(|node| node.truncate(&at.dentry, size)) {
        done?;
        drop_privileges(at);
        return Ok(());
    }
    let contents = at.dentry.contents().map_err(error)?;
    {
        let _whole = contents.writing().lock();
        contents.set_size(size).map_err(error)?;
    }
    at.dentry.inode().touch();
    drop_privileges(at);
    Ok(())
}

/// A file as memory is mapped to it. Holds the file open.
struct Mapped {
    file: Arc<OpenFile>,
}

impl Backing for Mapped {
    fn present(&self, range: Range<u64>, show: &mut dyn FnMut(u64, &Page)) {
        if let Ok(contents) = contents(&self.file) {
            contents.present(range, show);
        }
    }

    fn page(&self, index: u64, _for_write: bool) -> Result<Page, Errno> {
        // A hole gets its page for a reader too, who is to see what is written later.
        contents(&self.file)?.mapped_page(index).map_err(error)
    }

    fn size(&self) -> u64 {
        contents(&self.file).map_or(0, Contents::size)
    }

    fn describe(&self) -> Result<Description, Errno> {
        let Some(at) = self.file.file().path() else { return Ok(Description::default()) };
        let (dev, ino) = at.dentry.id();
        let path = super::names::path_for_proc(at)?;
        Ok(Description { dev: super::device_number(0, dev), ino, path })
    }

    fn may_exec(&self) -> bool {
        self.file.file().path().is_none_or(|at| syscalls::access::may_exec(&at.mount).is_ok())
    }

    fn begin_writing(&self) -> Result<(), Errno> {
        contents(&self.file)?.map_writable(true).map_err(error)
    }

    fn end_writing(&self) {
        if let Ok(contents) = contents(&self.file) {
            let _ = contents.map_writable(false); // Only one more can be refused.
        }
    }

    fn identity(&self) -> u64 {
        self.file.dentry().map_or(0, |dentry| identity(dentry.id()))
    }
}

/// A directory.
pub(crate) struct DirectoryOps;

/// Entries that are listed at a time.
const BATCH: usize = 512;

impl FileOps for DirectoryOps {
    fn read(&self, _file: &OpenFile, _to: &mut Sink<'_>, _at: u64) -> Result<usize, Errno> {
        Err(Errno::EISDIR)
    }

    fn is_seekable(&self) -> bool {
        true
    }

    fn can_wait(&self) -> bool {
        false
    }

    fn seek(&self, _file: &OpenFile, now: u64, offset: i64, whence: Whence) -> Result<u64, Errno> {
        match whence {
            Whence::Set => super::file::offset_from(0, offset),
            Whence::Current => super::file::offset_from(now, offset),
            _ => Err(Errno::EINVAL),
        }
    }

    fn readdir(&self, file: &OpenFile, at: u64, entries: &mut dyn Entries) -> Result<(), Errno> {
        let directory = file.dentry().ok_or(Errno::ENOTDIR)?;
        if directory.is_removed() {
            return Err(Errno::ENOENT);
        }
        accessed(file);
        if !dots(directory, at, entries) {
            return Ok(());
        }
        if let Some(listed) = node::of(directory).and_then(|node| node.list(directory, at.max(2), entries)) {
            return listed;
        }
        let mut after = at.max(2);
        loop {
            let listed = directory.list(after, BATCH).map_err(error)?;
            let Some(last) = listed.last() else { return Ok(()) };
            after = last.offset;
            for entry in &listed {
                let inode = entry.dentry.inode();
                let kind = (inode.file_type() >> 12) as u8;
                if !entries.add(inode.ino(), entry.offset, kind, entry.name()) {
                    return Ok(());
                }
            }
        }
    }

    fn sync(&self, _file: &OpenFile) -> Result<(), Errno> {
        Ok(())
    }
}

/// Adds `.` and `..`, as far as they come behind `at`; `false`: they were not taken.
pub(crate) fn dots(directory: &Arc<TmpDentry>, at: u64, entries: &mut dyn Entries) -> bool {
    const DIRECTORY: u8 = 4;
    let own = directory.inode().ino();
    let above = directory.parent(&pin()).map_or(own, |(_, parent)| parent.inode().ino());
    (at >= 1 || entries.add(own, 1, DIRECTORY, b".")) && (at >= 2 || entries.add(above, 2, DIRECTORY, b".."))
}
