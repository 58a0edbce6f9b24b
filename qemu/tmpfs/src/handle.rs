//! Things of the kernel's that have a dentry.

use alloc::sync::Arc;
use core::any::Any;

use mnt_table::PathRef;
use mnt_table::namespace::MntNamespace;
use mnt_table::walk::WalkError;

use crate::dentry::TmpDentry;
use crate::inode::mode;

/// A thing of the kernel's that has a dentry here: a link of a process's directory, the file of a namespace, a directory
/// whose entries are made when they are asked for.
pub trait Handle: Any + Send + Sync {
    /// Type and permissions. Fixed for life.
    fn mode(&self) -> u32 {
        if self.is_link() { mode::SYMLINK | 0o777 } else { mode::FILE | 0o444 }
    }

    /// Owner and group, if they are not those that it was made with.
    ///
    /// Context: may be pinned; never blocks.
    fn owner(&self) -> Option<(u32, u32)> {
        None
    }

    /// Where it leads, if it is a magic link: `Some` always or never. As [`mnt_table::Dentry::follow_magic_link`].
    fn follow(&self) -> Option<Result<PathRef<TmpDentry>, WalkError>> {
        None
    }

    /// The target of a symbolic link, which may be another for each thread; as [`mnt_table::Dentry::symlink`].
    ///
    /// Context: may be pinned; never blocks.
    fn symlink(&self) -> Option<&[u8]> {
        None
    }

    /// Whether it is a magic link.
    fn is_link(&self) -> bool {
        false
    }

    /// Of a directory: whether names that it has no entry for are to be asked for. Fixed for life.
    fn is_dynamic(&self) -> bool {
        false
    }

    /// Of an entry of a directory that [`Handle::is_dynamic`]: whether what it stands for is gone, so that the directory
    /// is to be asked again. A cheap test.
    ///
    /// Context: pinned; never blocks.
    fn is_stale(&self) -> bool {
        false
    }

    /// Of a directory: whether it is empty and stays so, being there only to be mounted on.
    fn is_permanently_empty(&self) -> bool {
        false
    }

    /// Makes the entry `name` of `directory`, whose body this is, or takes it away if there is no such thing any more; as
    /// [`mnt_table::Dentry::instantiate`]. Another thread may have done it.
    ///
    /// # Errors
    /// `ENOENT`: there is no such thing.
    fn instantiate(&self, directory: &Arc<TmpDentry>, name: &[u8]) -> Result<(), WalkError> {
        let _ = (directory, name);
        Err(WalkError::NotFound)
    }

    /// As [`mnt_table::Dentry::is_fleeting`].
    fn is_fleeting(&self) -> bool {
        false
    }

    /// As [`mnt_table::Dentry::is_handle`].
    fn is_handle(&self) -> bool {
        self.mnt_namespace().is_some()
    }

    /// The mount namespace that it is the file of.
    fn mnt_namespace(&self) -> Option<&Arc<MntNamespace<TmpDentry>>> {
        None
    }

    /// As [`mnt_table::Dentry::mounted`].
    fn mounted(&self) {}

    /// As [`mnt_table::Dentry::unmounted`].
    fn unmounted(&self) {}

    /// The instance whose root this is was shut down: the last mount of it is gone.
    ///
    /// Context: as [`mnt_table::dentry::SuperBlock::shutdown`].
    fn shut_down(&self) {}
}
