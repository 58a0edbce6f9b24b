//! Files that are executed.

use alloc::sync::Arc;

use syscalls::Errno;

use super::file::OpenFile;
use super::kernel::Call;
use super::permission::owner;
use crate::mm::backing::Backing;
use crate::task::Thread;

/// Opens `path` from `dfd` to be executed; `flags` are those of execveat(2).
///
/// # Errors
/// As execve(2): `EACCES`: no regular file, not executable, on a `noexec` mount. `ELOOP`. Those of the walk.
pub(crate) fn open(thread: &Arc<Thread>, dfd: i32, path: &[u8], flags: u32) -> Result<Arc<OpenFile>, Errno> {
    super::open::open_exec(&Call { thread }, dfd, path, flags)
}

/// What its pages come from.
///
/// # Errors
/// `ENODEV`: it cannot be mapped. `ENOMEM`.
pub(crate) fn backing(file: &Arc<OpenFile>) -> Result<Arc<dyn Backing>, Errno> {
    file.ops().backing(file)
}

/// Its mode, and its owner and group as the mount shows them.
pub(crate) fn set_id(file: &OpenFile) -> (u32, u32, u32) {
    match file.file().path() {
        Some(at) => {
            let (uid, gid) = owner(&at.mount, at.dentry.inode());
            (at.dentry.inode().mode(), uid, gid)
        }
        None => (0, 0, 0),
    }
}
