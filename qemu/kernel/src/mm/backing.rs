//! What a mapping's memory comes from.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;

use syscalls::Errno;
use tmpfs::Page;

/// A file, or something like one, that can be mapped.
///
/// All calls come with the address space's lock held, which may be held while blocking: no method may touch user memory, and code
/// of the file must not copy from or to user memory under a lock that a method takes.
pub(crate) trait Backing: Send + Sync {
    /// The page `index` of the file. For writing (a shared mapping) it is the file's own page and is made if it was a hole; for
    /// reading a hole may be a page of zeroes that is not kept. The mapping keeps its share until it is unmapped or the file is
    /// cut short.
    ///
    /// # Errors
    /// `EFAULT`: beyond the end of the file, the program gets SIGBUS; so it does for `EIO` and `ENOSPC`. `ENOMEM`: it is killed.
    fn page(&self, index: u64, for_write: bool) -> Result<Page, Errno>;

    /// Shows the pages of a range that are there without being made, or some of them: they are mapped beside one that was touched.
    /// `show` neither blocks nor allocates.
    fn present(&self, range: Range<u64>, show: &mut dyn FnMut(u64, &Page)) {
        let _ = (range, show);
    }

    /// The file's size in bytes, for the loader of programs.
    fn size(&self) -> u64;

    /// For `/proc/PID/maps`: the device's number (as `st_dev` has it), the inode's, and the path.
    ///
    /// # Errors
    /// `ENOMEM`.
    fn describe(&self) -> Result<Description, Errno>;

    /// Whether a private or shared mapping may be made executable: false on a mount with `noexec`.
    fn may_exec(&self) -> bool;

    /// A shared mapping that may be written is to be made: counts it.
    ///
    /// # Errors
    /// `EPERM`: the file is sealed.
    fn begin_writing(&self) -> Result<(), Errno> {
        Ok(())
    }

    /// It is gone, with all of its parts and copies.
    fn end_writing(&self) {}

    /// Distinguishes objects: mappings with the same number and offset share memory. For non-private futexes.
    fn identity(&self) -> u64;
}

/// See [`Backing::describe`].
#[derive(Debug, Default, Clone)]
pub(crate) struct Description {
    pub(crate) dev: u64,
    pub(crate) ino: u64,
    pub(crate) path: Vec<u8>,
}

/// A shared mapping that may be written, with all of its parts and copies.
pub(super) struct Writing(Arc<dyn Backing>);

impl Writing {
    /// # Errors
    /// Those of [`Backing::begin_writing`]. `ENOMEM`.
    pub(super) fn begin(backing: &Arc<dyn Backing>) -> Result<Arc<Self>, Errno> {
        backing.begin_writing()?;
        let writing = Writing(backing.clone());
        mnt_table::memory::arc(writing).map_err(|_| Errno::ENOMEM)
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.0.end_writing();
    }
}
