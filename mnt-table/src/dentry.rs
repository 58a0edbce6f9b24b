//! What the mount table needs of a file system: dentries, superblocks, and the hint that something is mounted here.
//!
//! A file system implements [`Dentry`] for its directory entry objects, which it shares by `Arc`, and
//! [`SuperBlock`] for its instances. Everything in this crate is generic over the dentry type, so a step of a walk
//! is a direct call.
//!
//! # Rules for a file system
//! - The lock-free hooks (`lookup`, `may_search`, `parent`, `symlink`, `is_dir`) touch only memory that is retired through
//!   [`crate::reclaim`], and no device; they may be called up to one grace period after [`SuperBlock::shutdown`].
//! - What a hook meets of a shutdown it meets by an Acquire of a Release, so that a walk which then looks at its mount's
//!   state sees that the mount is gone.
//! - An `&Arc<Self>` that a hook returns lives in an object that a pin protects, never in one that is changed in
//!   place: a rename links a fresh entry.

use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::list::NoMemory;
use crate::memory;
use crate::mount::Mount;
use crate::namespace::{MntNamespace, Mountpoint};
use crate::place::PathRef;
use crate::reclaim::Guard;
use crate::sync::{AtomicBool, AtomicU32, Mutex, Ordering, order, planted};
use crate::user_ns::UserNs;
use crate::walk::WalkError;
use crate::writers::Writers;

/// Why a name was not found in a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookupError {
    /// `ENOENT`: no such name.
    NotFound,
    /// `ENOTDIR`: not a directory.
    NotDirectory,
    /// The directory cannot say without blocking: the walk asks it to ([`Dentry::instantiate`]) and looks again.
    Ask,
}

/// A name in a file system.
pub trait Dentry: Send + Sync + Sized + 'static {
    /// An instance of the file system.
    type SuperBlock: SuperBlock;

    /// The superblock that this dentry is in.
    fn super_block(&self) -> &Arc<Self::SuperBlock>;

    /// The hint that something is mounted here.
    fn mounted_here(&self) -> &MountedHere<Self>;

    /// Whether this is a directory. Fixed for life.
    fn is_dir(&self) -> bool;

    /// The entry `name`, which is neither empty nor `.` nor `..`, of this directory.
    ///
    /// Context: pinned; never blocks.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, or [`LookupError::Ask`].
    fn lookup<'g>(&'g self, name: &[u8], guard: &'g Guard) -> Result<&'g Arc<Self>, LookupError>;

    /// Finds out about the entry `name`, of which [`Dentry::lookup`] could not tell; the next lookup can, unless things
    /// have changed again.
    ///
    /// Context: not pinned; no lock of this crate held; may block.
    ///
    /// # Errors
    /// `ENOENT`: there is no such entry. What else the file system says.
    fn instantiate(self: &Arc<Self>, name: &[u8]) -> Result<(), WalkError> {
        let _ = name;
        Err(WalkError::NotFound)
    }

    /// Whether the caller may look names up in this directory, reached through `mount` (`EACCES`).
    ///
    /// Context: pinned; never blocks.
    #[inline]
    fn may_search(&self, mount: &Mount<Self>) -> bool {
        let _ = mount;
        true
    }

    /// The name of this dentry and the directory it is in; `None` for the root of its superblock.
    ///
    /// Context: pinned; never blocks.
    fn parent<'g>(&'g self, guard: &'g Guard) -> Option<(&'g [u8], &'g Arc<Self>)>;

    /// The target of a symbolic link; `None` for anything else. Fixed for life.
    fn symlink(&self) -> Option<&[u8]>;

    /// Whether this is a link that leads to a place and not along a path (`/proc/PID/fd/N` and its like). Fixed for life.
    fn is_magic_link(&self) -> bool {
        false
    }

    /// Where a magic link leads the task that asks: exactly there, whatever is mounted on it.
    ///
    /// Context: not pinned; may block.
    ///
    /// # Errors
    /// `ENOENT`, or what the file system says.
    fn follow_magic_link(&self) -> Result<PathRef<Self>, WalkError> {
        Err(WalkError::NotFound)
    }

    /// Whether the dentry was removed from its directory, so that nothing can be mounted on it any more.
    fn is_removed(&self) -> bool;

    /// Whether it may go at any time without a word, so that nothing can be mounted on it: `/proc/PID/fd/N`.
    fn is_fleeting(&self) -> bool {
        false
    }

    /// The mount namespace that this file of a namespace file system stands for.
    fn mnt_namespace(&self) -> Option<&Arc<MntNamespace<Self>>> {
        None
    }

    /// Whether this is the file of a namespace or a process (nsfs, pidfs): it can be bound though the mount that it is
    /// reached through is the kernel's own.
    fn is_handle(&self) -> bool {
        self.mnt_namespace().is_some()
    }

    /// A mount whose root this is was made.
    ///
    /// Context: may be under the locks of a change; must not block.
    fn mounted(&self) {}

    /// A mount whose root this is has ended, or was never attached.
    ///
    /// Context: as [`SuperBlock::shutdown`].
    fn unmounted(&self) {}

    /// Whether this is `other` or an ancestor of it, by directories alone.
    ///
    /// Context: pinned; beside a rename the answer is that of some order of the steps.
    fn is_ancestor_of(&self, other: &Self, guard: &Guard) -> bool {
        let mut at = other;
        loop {
            if core::ptr::eq(self, at) {
                return true;
            }
            match at.parent(guard) {
                Some((_, parent)) => at = parent,
                None => return false,
            }
        }
    }
}

/// An instance of a file system.
pub trait SuperBlock: Send + Sync + 'static {
    /// The count of the mounts that keep this instance going.
    fn active(&self) -> &ActiveMounts;

    /// Called once, when the last mount of this instance is gone, by the operation that made it go.
    ///
    /// Context: no lock of this crate held; not pinned; may block.
    fn shutdown(&self);

    /// Gives up what users of this instance wait for (umount2(2) with `MNT_FORCE`).
    ///
    /// Context: as [`SuperBlock::shutdown`].
    fn abort(&self) {}

    /// The user namespace that owns this instance.
    fn user_ns(&self) -> UserNs {
        UserNs::INITIAL
    }

    /// Makes the whole instance read-only (umount2(2) on the caller's root); `false` if it cannot be, or is in use for
    /// writing. Twice is as good as once.
    ///
    /// Context: as [`SuperBlock::shutdown`].
    fn make_read_only(&self) -> bool {
        self.active().set_read_only(true)
    }
}

/// The root of a file system instance that is about to be mounted: keeps the instance going until its first mount does.
pub struct SuperBlockRef<D: Dentry>(Arc<D>);

impl<D: Dentry> SuperBlockRef<D> {
    /// Holds the instance whose root is `root`.
    pub fn new(root: Arc<D>) -> Self {
        root.super_block().active().add();
        SuperBlockRef(root)
    }

    /// The root dentry.
    pub fn root(&self) -> &Arc<D> {
        &self.0
    }
}

impl<D: Dentry> Drop for SuperBlockRef<D> {
    fn drop(&mut self) {
        let super_block = self.0.super_block();
        if super_block.active().remove() {
            super_block.shutdown();
        }
    }
}

/// How many mounts of a superblock there are, in all namespaces, and who writes through them.
///
/// Mounts of one superblock share this; mounts of different superblocks share nothing.
pub struct ActiveMounts {
    count: AtomicU32,
    writers: Writers,
    /// Held by whoever changes whether the superblock is read-only.
    transition: Mutex<()>,
}

impl ActiveMounts {
    /// None yet.
    #[expect(
        clippy::new_without_default,
        reason = "a count is made where its superblock is, never by default"
    )]
    pub fn new() -> Self {
        ActiveMounts { count: AtomicU32::new(0), writers: Writers::new(), transition: Mutex::new(()) }
    }

    /// The number of mounts.
    pub fn count(&self) -> u32 {
        // Relaxed: statistics.
        self.count.load(Ordering::Relaxed)
    }

    /// Who writes through any mount, and whether the superblock is read-only.
    pub(crate) fn writers(&self) -> &Writers {
        &self.writers
    }

    /// Whether the superblock is read-only; a moment's answer.
    pub fn is_read_only(&self) -> bool {
        self.writers.is_read_only()
    }

    /// Makes the superblock read-only, or writable again. `false`: somebody writes through one of its mounts, so it stays
    /// writable.
    ///
    /// Context: the caller does not write itself; never blocks.
    #[must_use]
    pub fn set_read_only(&self, read_only: bool) -> bool {
        let _one_at_a_time = self.transition.lock();
        if !read_only {
            self.writers.set_writable();
            return true;
        }
        let hold = self.writers.hold();
        let idle = hold.is_idle();
        if idle {
            hold.set_read_only();
        }
        idle
    }

    pub(crate) fn add(&self) {
        // Relaxed: the caller reached the superblock through a mount or is its creator, so it cannot be the last.
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether this was the last.
    pub(crate) fn remove(&self) -> bool {
        // AcqRel: what other mounts did with the superblock comes before its shutdown.
        self.count.fetch_sub(1, Ordering::AcqRel) == 1
    }
}

/// The part of a dentry that mounts use: a flag for walks, and who mounts here.
///
/// The flag is set before the first edge on this dentry is published and cleared after the last one is gone, in any
/// namespace. A walk that sees it unset linearizes before the mount; the return of the mount call orders later
/// walks. A stale flag costs one miss in a table.
pub struct MountedHere<D: Dentry> {
    flag: AtomicBool,
    users: Mutex<Users<D>>,
}

struct Users<D: Dentry> {
    mountpoints: Vec<Arc<Mountpoint<D>>>,
    /// Removals of the entry that are under way or done: with one, nobody may start to mount here. Two can be under way
    /// at once; the one that comes too late takes only its own mark back.
    dying: u32,
}

/// The directory is being removed: `ENOENT`; or there was no memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegisterError {
    /// `ENOENT`.
    Dying,
    /// `ENOMEM`.
    NoMemory,
}

impl From<NoMemory> for RegisterError {
    fn from(NoMemory: NoMemory) -> Self {
        RegisterError::NoMemory
    }
}

impl<D: Dentry> MountedHere<D> {
    /// Nothing is mounted here.
    #[expect(clippy::new_without_default, reason = "made where its dentry is, never by default")]
    pub fn new() -> Self {
        MountedHere {
            flag: AtomicBool::new(false),
            users: Mutex::new(Users { mountpoints: Vec::new(), dying: 0 }),
        }
    }

    /// Whether some namespace mounts here; a hint.
    #[inline]
    pub fn is_mountpoint(&self) -> bool {
        // Acquire [Flag]: pairs with the Release in `unregister`.
        self.flag.load(Ordering::Acquire)
    }

    /// A namespace starts to mount here. Leaf lock.
    pub(crate) fn register(&self, mountpoint: &Arc<Mountpoint<D>>) -> Result<(), RegisterError> {
        let mut users = self.users.lock();
        if users.dying != 0 && !planted("dying_not_tested") {
            return Err(RegisterError::Dying);
        }
        users.mountpoints.try_reserve(1).map_err(|_| RegisterError::NoMemory)?;
        users.mountpoints.push(Arc::clone(mountpoint));
        // Relaxed: whoever sees an edge of this dentry, or the window that it was linked in, sees the flag that was set
        // before; who sees the flag alone finds nothing in the table yet.
        self.flag.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// A namespace stops to mount here. Leaf lock.
    pub(crate) fn unregister(&self, mountpoint: &Arc<Mountpoint<D>>) {
        let mut users = self.users.lock();
        if let Some(at) = users.mountpoints.iter().position(|user| Arc::ptr_eq(user, mountpoint)) {
            users.mountpoints.swap_remove(at);
        }
        if users.mountpoints.is_empty() {
            // Release [Flag]: pairs with the Acquire in `is_mountpoint`. The last edge was unlinked before, perhaps in a
            // window: a walk that does not look for it must not take the time before the window for now.
            self.flag.store(false, order(Ordering::Release, "flag_clear_relaxed"));
        }
    }

    /// Nobody may start to mount here any more; returns who does already. The first step of removing a directory
    /// entry: see [`crate::removal`].
    ///
    /// # Errors
    /// `ENOMEM`; nothing was marked.
    pub(crate) fn mark_dying(&self) -> Result<Vec<Arc<Mountpoint<D>>>, NoMemory> {
        let mut users = self.users.lock();
        let here = memory::collect(users.mountpoints.iter().cloned())?;
        users.dying += 1;
        Ok(here)
    }

    /// Takes [`MountedHere::mark_dying`] back.
    pub(crate) fn unmark_dying(&self) {
        self.users.lock().dying -= 1;
    }
}
