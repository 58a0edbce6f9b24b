//! Open files, and what kinds of them do.
//!
//! An [`OpenFile`] is what descriptors share: the offset, the status flags, the place that it was opened at. What it does
//! is up to its [`FileOps`]. Everything here may block but for what says that it does not.
//!
//! # Lock order
//! `offset` → whatever the operations take. Operations copy from and to user memory, which may fault and block: never
//! under a spin lock.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use core::task::Waker;

use linux_raw_sys::general as abi;
use mnt_table::MountRef;
use mnt_table::sync::BlockingMutex;
use mnt_table::writers::WriteRef;
use syscalls::{Credentials, Errno, File};
use tmpfs::TmpDentry;

use super::copy::{Sink, Source};
use super::node;
use crate::mm::backing::Backing;

/// Status flags that fcntl(2) can change.
pub(crate) const CHANGEABLE: u32 =
    abi::O_APPEND | abi::O_NONBLOCK | abi::O_DIRECT | abi::O_NOATIME | abi::FASYNC;

/// What lseek(2) asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whence {
    /// From the beginning.
    Set,
    /// From where the offset is.
    Current,
    /// From the end.
    End,
    /// To data.
    Data,
    /// To a hole.
    Hole,
}

/// Takes the entries of a directory, one after the other, until it is full.
pub(crate) trait Entries {
    /// An entry; `next` is the offset at which reading goes on behind it, `kind` a `DT_*`. `false`: it was not taken, and
    /// no other is wanted.
    fn add(&mut self, ino: u64, next: u64, kind: u8, name: &[u8]) -> bool;
}

/// What a kind of open file does.
pub(crate) trait FileOps: Any + Send + Sync {
    /// read(2) at `at`, which means nothing to files that are not seekable. 0: the end.
    ///
    /// # Errors
    /// `EAGAIN`, if it would block and [`OpenFile::is_nonblocking`].
    fn read(&self, file: &OpenFile, to: &mut Sink<'_>, at: u64) -> Result<usize, Errno> {
        let _ = (file, to, at);
        Err(Errno::EINVAL)
    }

    /// write(2) at `at`, as [`FileOps::read`]. With `O_APPEND` a seekable file writes at its end; returns where it
    /// ended and how many bytes there were.
    fn write(&self, file: &OpenFile, from: &mut Source<'_>, at: u64) -> Result<(usize, u64), Errno> {
        let _ = (file, from, at);
        Err(Errno::EINVAL)
    }

    /// Whether it has an offset, and pread(2) makes sense.
    fn is_seekable(&self) -> bool {
        false
    }

    /// lseek(2): the new offset. `now` is the old one.
    fn seek(&self, file: &OpenFile, now: u64, offset: i64, whence: Whence) -> Result<u64, Errno> {
        let _ = (file, now, offset, whence);
        Err(Errno::ESPIPE)
    }

    /// poll(2): the `POLL*` bits that are there now. Registers `waker` before it looks, to be woken once after the next
    /// change.
    ///
    /// # Errors
    /// `ENOMEM`.
    fn poll(&self, file: &OpenFile, waker: Option<&Waker>) -> Result<u32, Errno> {
        let _ = (file, waker);
        Ok(abi::POLLIN | abi::POLLOUT | abi::POLLRDNORM | abi::POLLWRNORM)
    }

    /// Forgets a waker that [`FileOps::poll`] registered.
    fn unwatch(&self, file: &OpenFile, waker: &Waker) {
        let _ = (file, waker);
    }

    /// Whether epoll can wait for it: it is no regular file or directory.
    fn can_wait(&self) -> bool {
        true
    }

    /// ioctl(2), for all that is not the same for every file.
    fn ioctl(&self, file: &Arc<OpenFile>, request: u32, arg: usize) -> Result<usize, Errno> {
        let _ = (file, request, arg);
        Err(Errno::ENOTTY)
    }

    /// getdents64(2) from offset `at` on.
    fn readdir(&self, file: &OpenFile, at: u64, entries: &mut dyn Entries) -> Result<(), Errno> {
        let _ = (file, at, entries);
        Err(Errno::ENOTDIR)
    }

    /// ftruncate(2); the caller has looked at permissions.
    fn truncate(&self, file: &OpenFile, size: u64) -> Result<(), Errno> {
        let _ = (file, size);
        Err(Errno::EINVAL)
    }

    /// fallocate(2).
    fn allocate(&self, file: &OpenFile, mode: u32, offset: u64, len: u64) -> Result<(), Errno> {
        let _ = (file, mode, offset, len);
        Err(Errno::ENODEV)
    }

    /// fsync(2).
    fn sync(&self, file: &OpenFile) -> Result<(), Errno> {
        let _ = file;
        Err(Errno::EINVAL)
    }

    /// What memory is mapped to (mmap(2)).
    fn backing(&self, file: &Arc<OpenFile>) -> Result<Arc<dyn Backing>, Errno> {
        let _ = file;
        Err(Errno::ENODEV)
    }

    /// A descriptor of it was closed.
    fn flush(&self, file: &OpenFile) {
        let _ = file;
    }

    /// The last descriptor was closed: the file ends.
    fn release(&self, file: &OpenFile) {
        let _ = file;
    }

    /// Lines of `/proc/PID/fdinfo/N` beyond those of every file.
    fn fdinfo(&self, file: &OpenFile, text: &mut Vec<u8>) {
        let _ = (file, text);
    }
}

/// What an open file means for who may write the file's contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    Nothing,
    Writes,
    /// It is run.
    Forbids,
}

/// An open file.
pub(crate) struct OpenFile {
    ops: Arc<dyn FileOps>,
    file: Arc<File<TmpDentry>>,
    /// As open(2) got them, without those that are used up there.
    flags: AtomicU32,
    offset: BlockingMutex<u64>,
    /// Opening it made what it is of.
    created: AtomicBool,
    /// Who opened it.
    credentials: Arc<Credentials>,
    /// Whether it counts among those who write its contents, or those who forbid that.
    use_of_contents: Use,
    /// Open for writing, it keeps its mount writable.
    _writes: Option<WriteRef<MountRef<TmpDentry>>>,
}

impl OpenFile {
    /// A file with `ops` at the place of `file`; `flags` as open(2) has them: access mode and status flags, `O_PATH`.
    pub(crate) fn new(
        ops: Arc<dyn FileOps>,
        file: Arc<File<TmpDentry>>,
        flags: u32,
        credentials: Arc<Credentials>,
        writes: Option<WriteRef<MountRef<TmpDentry>>>,
    ) -> Result<Arc<Self>, Errno> {
        let mut use_of_contents = Use::Nothing;
        if let Some(path) = file.path() {
            let writes = writes.is_some() && node::kind(&path.dentry) == tmpfs::Kind::File;
            if writes {
                path.dentry.inode().begin_write().map_err(super::error)?;
                use_of_contents = Use::Writes;
            }
            if let Err(failure) = path.dentry.inode().open() {
                if writes {
                    path.dentry.inode().end_write();
                }
                return Err(super::error(failure));
            }
        }
        let open = OpenFile {
            use_of_contents,
            ops,
            file,
            flags: AtomicU32::new(flags),
            offset: BlockingMutex::new(0),
            created: AtomicBool::new(false),
            credentials,
            _writes: writes,
        };
        mnt_table::memory::arc(open).map_err(|_| Errno::ENOMEM)
    }

    /// A file that is run: while it is open, nobody writes its contents.
    ///
    /// # Errors
    /// `ETXTBSY`: somebody has it open for writing. `ENOMEM`, `ENOENT`.
    pub(crate) fn new_run(
        ops: Arc<dyn FileOps>,
        file: Arc<File<TmpDentry>>,
        credentials: Arc<Credentials>,
    ) -> Result<Arc<Self>, Errno> {
        let mut open = Self::new(ops, file, abi::O_RDONLY | abi::O_LARGEFILE, credentials, None)?;
        let own = Arc::get_mut(&mut open).expect("nobody has it yet");
        if let Some(path) = own.file.path() {
            path.dentry.inode().forbid_write().map_err(super::error)?;
            own.use_of_contents = Use::Forbids;
        }
        Ok(open)
    }

    /// What it does.
    pub(crate) fn ops(&self) -> &Arc<dyn FileOps> {
        &self.ops
    }

    /// What it does, if it is a `T`.
    pub(crate) fn as_ops<T: FileOps>(&self) -> Option<&T> {
        (&*self.ops as &dyn Any).downcast_ref()
    }

    /// What mounts know of it, its place among that.
    pub(crate) fn file(&self) -> &Arc<File<TmpDentry>> {
        &self.file
    }

    /// The dentry that it was opened at.
    pub(crate) fn dentry(&self) -> Option<&Arc<TmpDentry>> {
        self.file.path().map(|path| &path.dentry)
    }

    /// Access mode and status flags.
    pub(crate) fn flags(&self) -> u32 {
        self.flags.load(Ordering::Relaxed) // Relaxed: bits that stand for themselves.
    }

    /// Changes those status flags that can be (`F_SETFL`).
    pub(crate) fn set_flags(&self, flags: u32) {
        let merge = |old: u32| Some(old & !CHANGEABLE | flags & CHANGEABLE);
        let _ = self.flags.fetch_update(Ordering::Relaxed, Ordering::Relaxed, merge);
    }

    /// Whether opening it made what it is of (`F_CREATED_QUERY`).
    pub(crate) fn is_created(&self) -> bool {
        self.created.load(Ordering::Relaxed) // Relaxed: set before anybody else has the file.
    }

    /// Opening it made what it is of.
    pub(super) fn set_created(&self) {
        self.created.store(true, Ordering::Relaxed); // Relaxed: as above.
    }

    /// `O_NONBLOCK`
    pub(crate) fn is_nonblocking(&self) -> bool {
        self.flags() & abi::O_NONBLOCK != 0
    }

    /// `O_PATH`: a place only.
    pub(crate) fn is_path(&self) -> bool {
        self.flags() & abi::O_PATH != 0
    }

    /// Whether it was opened for reading.
    pub(crate) fn is_readable(&self) -> bool {
        !self.is_path() && matches!(self.flags() & abi::O_ACCMODE, abi::O_RDONLY | abi::O_RDWR)
    }

    /// Whether it was opened for writing.
    pub(crate) fn is_writable(&self) -> bool {
        !self.is_path() && matches!(self.flags() & abi::O_ACCMODE, abi::O_WRONLY | abi::O_RDWR)
    }

    /// The offset, locked for the time of a call.
    pub(crate) fn offset(&self) -> &BlockingMutex<u64> {
        &self.offset
    }

    /// Who opened it.
    pub(crate) fn credentials(&self) -> &Arc<Credentials> {
        &self.credentials
    }

    /// Reads into kernel memory from `at` on, until `to` is full or the file ends; returns how many bytes that was.
    pub(crate) fn read_at(&self, at: u64, to: &mut [u8]) -> Result<usize, Errno> {
        let mut sink = Sink::kernel(to);
        while sink.left() != 0 {
            let from = at + sink.done() as u64;
            if self.ops.read(self, &mut sink, from)? == 0 {
                break;
            }
        }
        Ok(sink.done())
    }
}

/// `offset` bytes from `from`.
///
/// # Errors
/// `EINVAL`: that is before the beginning, or farther than offsets go.
pub(crate) fn offset_from(from: u64, offset: i64) -> Result<u64, Errno> {
    from.checked_add_signed(offset).filter(|at| i64::try_from(*at).is_ok()).ok_or(Errno::EINVAL)
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        if let Some(dentry) = self.dentry() {
            match self.use_of_contents {
                Use::Nothing => {}
                Use::Writes => dentry.inode().end_write(),
                Use::Forbids => dentry.inode().allow_write(),
            }
            dentry.inode().close();
        }
        super::locks::released(self);
        let ops = Arc::clone(&self.ops);
        ops.release(self);
    }
}
