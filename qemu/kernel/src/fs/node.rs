//! Files that stand for things of the kernel's: what proc, sysfs, devpts and nsfs consist of; and those that stand in front
//! of other files, of which overlayfs consists.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;

use mnt_table::namespace::MntNamespace;
use mnt_table::walk::WalkError;
use mnt_table::{PathRef, memory};
use syscalls::Errno;
use syscalls::file::Object;
use tmpfs::{Handle, Inode, Kind, New, Removed, TmpDentry};

use super::attributes::Change;
use super::file::{Entries, FileOps};
use super::xattr::Attributes;

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

    /// The file that it stands in front of now, whose contents and attributes it shows; `None`: it is what it is.
    ///
    /// Context: may be pinned; never blocks.
    fn real(&self) -> Option<&Arc<TmpDentry>> {
        None
    }

    /// What stat(2) tells of `dentry`, whose node this is, that is not what it stands in front of.
    ///
    /// Context: may be pinned; never blocks.
    fn identity(&self, dentry: &TmpDentry) -> Option<Identity> {
        let _ = dentry;
        None
    }

    /// Whether it may be used so (bits of [`super::permission`]), beside what owner and permissions say to the caller.
    ///
    /// Context: may be pinned; never blocks.
    ///
    /// # Errors
    /// `EACCES`, `EROFS`.
    fn may(&self, wanted: u32) -> Result<(), Errno> {
        let _ = wanted;
        Ok(())
    }

    /// Who changes the entries of a directory; `None`: nobody may.
    fn names(&self) -> Option<&dyn Names> {
        None
    }

    /// Who has its extended attributes; `None`: there are none.
    fn attributes(&self) -> Option<&dyn Attributes> {
        None
    }

    /// Changes attributes of `dentry`, whose node this is, for somebody who may; `None`: they are the dentry's own.
    fn change(&self, dentry: &Arc<TmpDentry>, change: &Change) -> Option<Result<(), Errno>> {
        let _ = (dentry, change);
        None
    }

    /// Cuts or extends the contents, for somebody who may; `None`: it has none.
    fn truncate(&self, dentry: &Arc<TmpDentry>, size: u64) -> Option<Result<(), Errno>> {
        let _ = (dentry, size);
        None
    }

    /// What an open directory does, if not what every one does.
    ///
    /// # Errors
    /// `ENOMEM`.
    fn open_directory(&self) -> Result<Option<Arc<dyn FileOps>>, Errno> {
        Ok(None)
    }
}

/// What tells a file from others, and how many names it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The device's minor number.
    pub(crate) dev: u32,
    /// The inode's number.
    pub(crate) ino: u64,
    /// Names.
    pub(crate) names: u32,
}

/// Whether a rename of `moved`, over a target if there is one, is allowed; see [`Names::rename`].
pub(crate) type MayRename<'a> = &'a dyn Fn(&Arc<TmpDentry>, Option<&Arc<TmpDentry>>) -> Result<(), Errno>;

/// A directory and a name in it.
pub(crate) type End<'a> = (&'a Arc<TmpDentry>, &'a [u8]);

/// Who changes the entries of directories that are not memory alone. The caller has looked at permissions, and writes through
/// the mount.
pub(crate) trait Names {
    /// Makes an entry.
    ///
    /// # Errors
    /// `EEXIST`, `ENOENT`, and what the file system says.
    fn make(&self, at: End<'_>, new: New<'_>) -> Result<Arc<TmpDentry>, Errno>;

    /// Makes a file without a name (`O_TMPFILE`).
    ///
    /// # Errors
    /// What the file system says.
    fn nameless(&self, directory: &Arc<TmpDentry>, new: New<'_>) -> Result<Arc<TmpDentry>, Errno>;

    /// Makes another name of `of`, which is no directory and is reached through the same mount.
    ///
    /// # Errors
    /// As [`Names::make`].
    fn link(&self, at: End<'_>, of: &Arc<TmpDentry>) -> Result<(), Errno>;

    /// Removes an entry, a directory or not. `own` is the caller's mount namespace.
    ///
    /// # Errors
    /// `ENOTEMPTY`, `EBUSY`, and what the file system says.
    fn remove(
        &self,
        at: End<'_>,
        directory: bool,
        own: &Arc<MntNamespace<TmpDentry>>,
    ) -> Result<Removed, Errno>;

    /// Renames within the file system, if `may` says so.
    ///
    /// # Errors
    /// As [`tmpfs::rename_if`]; `EXDEV`: it cannot be renamed.
    fn rename(
        &self,
        from: End<'_>,
        to: End<'_>,
        own: &Arc<MntNamespace<TmpDentry>>,
        may: MayRename<'_>,
    ) -> Result<Option<Removed>, Errno>;

    /// Exchanges two entries, as [`Names::rename`].
    ///
    /// # Errors
    /// As [`Names::rename`].
    fn exchange(
        &self,
        one: End<'_>,
        two: End<'_>,
        own: &Arc<MntNamespace<TmpDentry>>,
        may: MayRename<'_>,
    ) -> Result<(), Errno>;
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
    of_inode(dentry.inode())
}

/// The node behind an inode.
pub(crate) fn of_inode(inode: &Inode) -> Option<&dyn Node> {
    let handle: &dyn Any = &**inode.handle()?;
    Some(&*handle.downcast_ref::<NodeHandle>()?.0)
}

/// The file whose contents and attributes a dentry shows: itself, if it stands in front of nothing.
///
/// Context: may be pinned; never blocks.
pub(crate) fn real(dentry: &Arc<TmpDentry>) -> &Arc<TmpDentry> {
    let mut at = dentry;
    while let Some(behind) = of(at).and_then(|node| node.real()) {
        at = behind;
    }
    at
}

/// What a dentry is to whoever opens it.
pub(crate) fn kind(dentry: &Arc<TmpDentry>) -> Kind {
    real(dentry).kind()
}

/// Who changes the entries of `directory`; `None`: the directory itself.
///
/// # Errors
/// What whoever wants to make an entry is told where nobody may.
pub(crate) fn names(directory: &TmpDentry) -> Result<Option<&dyn Names>, Errno> {
    let Some(node) = of(directory) else { return Ok(None) };
    node.names().map(Some).ok_or_else(|| node.refuses_entries())
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

    fn shut_down(&self) {
        self.0.shut_down();
    }
}
