//! Open regular files: what they do, the file of the layer does.

use alloc::sync::Arc;
use core::ops::Range;

use linux_raw_sys::general as abi;
use mnt_table::{PathRef, memory};
use once_cell::race::OnceBox;
use syscalls::{Errno, File};
use tmpfs::{Page, TmpDentry};

use super::copy_up::copy_up;
use super::entry::{self, Entry, regular_ops, writes};
use super::layers::Layer;
use super::no_memory;
use crate::fs::copy::{Sink, Source};
use crate::fs::file::{FileOps, OpenFile, Whence};
use crate::fs::kernel::writing;
use crate::fs::node::Opened;
use crate::fs::{regular, stat};
use crate::mm::backing::{Backing, Description};

/// Opens a regular file of an instance.
///
/// # Errors
/// Those of the copy-up; `EACCES`, `ENOMEM`.
pub(super) fn open(entry: &Entry, at: &PathRef<TmpDentry>, flags: u32) -> Result<Opened, Errno> {
    if writes(flags) {
        copy_up(&at.dentry, (flags & abi::O_TRUNC != 0).then_some(0))?;
    }
    let (layer, real) = entry.real_in();
    let opened = open_real(entry, layer, real, flags)?;
    let ops = Contents { dentry: Arc::clone(&at.dentry), opened, copied: OnceBox::new() };
    let ops: Arc<dyn FileOps> = memory::arc(ops).map_err(no_memory)?;
    Ok(ops.into())
}

/// Opens the file of a layer, for whoever mounted the instance.
fn open_real(
    entry: &Entry,
    layer: &Layer,
    real: &Arc<TmpDentry>,
    flags: u32,
) -> Result<Arc<OpenFile>, Errno> {
    // When it was read is noted here.
    let flags = flags & (abi::O_ACCMODE | abi::O_APPEND | abi::O_LARGEFILE) | abi::O_NOATIME;
    let at = layer.path(real)?;
    let write = flags & abi::O_ACCMODE != abi::O_RDONLY;
    let writes = if write { Some(writing(&at.mount)?) } else { None };
    let ops = match crate::fs::node::of(real) {
        Some(node) => node.open(&at, flags)?.ops,
        None => regular_ops()?,
    };
    let file = memory::arc(File::at(at)).map_err(no_memory)?;
    OpenFile::new(ops, file, flags, Arc::clone(&entry.layers.mounter), writes)
}

/// An open file.
struct Contents {
    dentry: Arc<TmpDentry>,
    /// The file of the layer that it was when it was opened.
    opened: Arc<OpenFile>,
    /// The upper file, if it was copied up since.
    copied: OnceBox<Arc<OpenFile>>,
}

impl Contents {
    /// The file of the layer, with the flags that `file` has now.
    fn real(&self, file: &OpenFile) -> Result<&Arc<OpenFile>, Errno> {
        let entry = entry::of(&self.dentry)?;
        let (layer, now) = entry.real_in();
        let is_now = |open: &&Arc<OpenFile>| open.dentry().is_some_and(|dentry| Arc::ptr_eq(dentry, now));
        let real = match Some(&self.opened).filter(is_now).or_else(|| self.copied.get()) {
            Some(real) => real,
            None => {
                let opened = open_real(entry, layer, now, file.flags())?;
                let boxed = memory::boxed(opened).map_err(no_memory)?;
                // Somebody else may have been faster: then this one is of no use.
                drop(self.copied.set(boxed));
                self.copied.get().ok_or(Errno::EIO)?
            }
        };
        real.set_flags(file.flags() | abi::O_NOATIME);
        Ok(real)
    }

    /// The contents were changed: permissions may have been too.
    fn changed(&self) {
        if let Ok(entry) = entry::of(&self.dentry) {
            entry.refresh(&self.dentry);
        }
    }
}

impl FileOps for Contents {
    fn read(&self, file: &OpenFile, to: &mut Sink<'_>, at: u64) -> Result<usize, Errno> {
        let real = self.real(file)?;
        let done = real.ops().read(real, to, at)?;
        if entry::of(&self.dentry)?.upper().is_some() {
            regular::accessed(file);
        }
        Ok(done)
    }

    fn write(&self, file: &OpenFile, from: &mut Source<'_>, at: u64) -> Result<(usize, u64), Errno> {
        let real = self.real(file)?;
        let done = real.ops().write(real, from, at)?;
        self.changed();
        Ok(done)
    }

    fn is_seekable(&self) -> bool {
        true
    }

    fn can_wait(&self) -> bool {
        false
    }

    fn seek(&self, file: &OpenFile, now: u64, offset: i64, whence: Whence) -> Result<u64, Errno> {
        let real = self.real(file)?;
        real.ops().seek(real, now, offset, whence)
    }

    fn truncate(&self, file: &OpenFile, size: u64) -> Result<(), Errno> {
        let real = self.real(file)?;
        real.ops().truncate(real, size)?;
        self.changed();
        Ok(())
    }

    fn allocate(&self, file: &OpenFile, mode: u32, offset: u64, len: u64) -> Result<(), Errno> {
        let real = self.real(file)?;
        real.ops().allocate(real, mode, offset, len)?;
        self.changed();
        Ok(())
    }

    fn sync(&self, file: &OpenFile) -> Result<(), Errno> {
        let real = self.real(file)?;
        real.ops().sync(real)
    }

    fn backing(&self, file: &Arc<OpenFile>) -> Result<Arc<dyn Backing>, Errno> {
        let real = self.opened.ops().backing(&self.opened)?;
        let mapped: Arc<dyn Backing> =
            memory::arc(Mapped { file: Arc::clone(file), real }).map_err(no_memory)?;
        Ok(mapped)
    }
}

/// A file as memory is mapped to it: the memory is the layer's, the name is the instance's. Holds both open.
struct Mapped {
    file: Arc<OpenFile>,
    real: Arc<dyn Backing>,
}

impl Backing for Mapped {
    fn present(&self, range: Range<u64>, show: &mut dyn FnMut(u64, &Page)) {
        self.real.present(range, show);
    }

    fn page(&self, index: u64, for_write: bool) -> Result<Page, Errno> {
        self.real.page(index, for_write)
    }

    fn size(&self) -> u64 {
        self.real.size()
    }

    fn describe(&self) -> Result<Description, Errno> {
        let Some(at) = self.file.file().path() else { return Ok(Description::default()) };
        let identity = stat::identity(&at.dentry);
        let path = crate::fs::names::path_for_proc(at)?;
        Ok(Description { dev: crate::fs::device_number(0, identity.dev), ino: identity.ino, path })
    }

    fn may_exec(&self) -> bool {
        self.file.file().path().is_none_or(|at| syscalls::access::may_exec(&at.mount).is_ok())
    }

    fn begin_writing(&self) -> Result<(), Errno> {
        self.real.begin_writing()
    }

    fn end_writing(&self) {
        self.real.end_writing();
    }

    fn identity(&self) -> u64 {
        self.real.identity()
    }
}
