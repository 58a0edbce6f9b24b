//! Files that stand for things of the kernel's: what proc, sysfs, devpts and nsfs consist of.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;

use mnt_table::namespace::MntNamespace;
use mnt_table::walk::WalkError;
use mnt_table::{PathRef, memory};
use syscalls::Errno;
use syscalls::file::Object;
use tmpfs::{Handle, TmpDentry};

use super::file::{Entries, FileOps};

/// What opening a [`Node`] gives.
pub(crate) struct Opened {
    /// What the open file does.
    pub(crate) ops: Arc<dyn FileOps>,
    /// What it is to calls about mounts.
    pub(crate) object: Object<TmpDentry>,
}

impl From<Arc<dyn FileOps>> for Opened {
    fn from(ops: Arc<dyn FileOps>) -> Self {
        Opened { ops, object: Object::Plain }
    }
}

/// A file that stands for something.
pub(crate) trait Node: Handle {
    /// Opens it, at `at`, with the flags of open(2); permissions were looked at. Not asked of directories and links.
    ///
    /// # Errors
    /// `ENXIO`, and whatever else it says.
    fn open(&self, at: &PathRef<TmpDentry>, flags: u32) -> Result<Opened, Errno> {
        let _ = (at, flags);
        Err(Errno::ENXIO)
    }

    /// What readlink(2) of a magic link reads, if that is not the path of where it leads.
    fn readlink(&self) -> Option<Result<Vec<u8>, Errno>> {
        None
    }

    /// The entries of a directory behind `.` and `..`, those with offsets above `at`, which is at least 2; `None`: those
    /// that are there.
    fn list(
        &self,
        directory: &Arc<TmpDentry>,
        at: u64,
        entries: &mut dyn Entries,
    ) -> Option<Result<(), Errno>> {
        let _ = (directory, at, entries);
        None
    }

    /// The name that listings show in the place of a path, of what is mounted (`mnt:[4026531841]`).
    fn root_name(&self) -> Option<Vec<u8>> {
        None
    }

    /// The inode's number that stat(2) tells, if it is not the dentry's.
    fn ino(&self) -> Option<u64> {
        None
    }

    /// What whoever wants to make an entry of a directory is told.
    fn refuses_entries(&self) -> Errno {
        Errno::EPERM
    }

    /// Whether chmod(2) changes it.
    fn takes_permissions(&self) -> bool {
        true
    }

    /// The size that stat(2) tells.
    fn size(&self) -> u64 {
        0
    }
}

/// The one kind of handle that the kernel has.
struct NodeHandle(Box<dyn Node>);

/// A handle of `node`.
///
/// # Errors
/// `ENOMEM`.
pub(crate) fn handle(node: impl Node) -> Result<Arc<dyn Handle>, Errno> {
    let no_memory = |_| Errno::ENOMEM;
    let node = memory::once(|| Box::new(node) as Box<dyn Node>).map_err(no_memory)?;
    Ok(memory::arc(NodeHandle(node)).map_err(no_memory)?)
}

/// The node behind a dentry.
pub(crate) fn of(dentry: &TmpDentry) -> Option<&dyn Node> {
    let handle: &dyn Any = &**dentry.handle()?;
    Some(&*handle.downcast_ref::<NodeHandle>()?.0)
}

/// The node behind a dentry, if it is a `T`.
pub(crate) fn downcast<T: Node>(dentry: &TmpDentry) -> Option<&T> {
    let node: &dyn Any = of(dentry)?;
    node.downcast_ref()
}

impl Handle for NodeHandle {
    fn mode(&self) -> u32 {
        self.0.mode()
    }

    fn owner(&self) -> Option<(u32, u32)> {
        self.0.owner()
    }

    fn follow(&self) -> Option<Result<PathRef<TmpDentry>, WalkError>> {
        self.0.follow()
    }

    fn is_link(&self) -> bool {
        self.0.is_link()
    }

    fn is_dynamic(&self) -> bool {
        self.0.is_dynamic()
    }

    fn is_stale(&self) -> bool {
        self.0.is_stale()
    }

    fn is_fleeting(&self) -> bool {
        self.0.is_fleeting()
    }

    fn symlink(&self) -> Option<&[u8]> {
        self.0.symlink()
    }

    fn is_permanently_empty(&self) -> bool {
        self.0.is_permanently_empty()
    }

    fn instantiate(&self, directory: &Arc<TmpDentry>, name: &[u8]) -> Result<(), WalkError> {
        self.0.instantiate(directory, name)
    }

    fn is_handle(&self) -> bool {
        self.0.is_handle()
    }

    fn mnt_namespace(&self) -> Option<&Arc<MntNamespace<TmpDentry>>> {
        self.0.mnt_namespace()
    }

    fn mounted(&self) {
        self.0.mounted();
    }

    fn unmounted(&self) {
        self.0.unmounted();
    }
}
