//! References that outlive a pin.

use alloc::sync::Arc;
use core::ptr::NonNull;

use super::Mount;
use crate::dentry::Dentry;
use crate::list::NoMemory;
use crate::reclaim::pin;

/// A reference to a mount that keeps it busy: of an open file, a path that outlives its walk.
///
/// Dropping it may be what ends a lazily detached mount, file system shutdown included: drop it where you may block,
/// with no lock of this crate held.
pub struct MountRef<D: Dentry>(pub(super) NonNull<Mount<D>>);

// SAFETY: a `MountRef` gives `&Mount`, and Mount is Sync; its count may be put from any thread.
unsafe impl<D: Dentry> Send for MountRef<D> {}
// SAFETY: as above.
unsafe impl<D: Dentry> Sync for MountRef<D> {}

impl<D: Dentry> core::ops::Deref for MountRef<D> {
    type Target = Mount<D>;

    fn deref(&self) -> &Mount<D> {
        // SAFETY: a counted mount is not DEAD, so its owner's count is still there [Busy].
        unsafe { self.0.as_ref() }
    }
}

impl<D: Dentry> MountRef<D> {
    /// The owner's handle; see [`Mount::to_arc`].
    pub fn to_arc(&self) -> Arc<Mount<D>> {
        // SAFETY: as in `deref`; the owner's count is not zero while this reference counts.
        unsafe {
            Arc::increment_strong_count(self.this);
            Arc::from_raw(self.this)
        }
    }

    /// Takes over a count that somebody else forgot.
    ///
    /// # Safety
    /// `mount` was kept, and that count was neither ended nor taken over since.
    pub(crate) unsafe fn from_counted(mount: NonNull<Mount<D>>) -> Self {
        MountRef(mount)
    }
}

impl<D: Dentry> Clone for MountRef<D> {
    fn clone(&self) -> Self {
        self.refs.get();
        MountRef(self.0)
    }
}

impl<D: Dentry> Drop for MountRef<D> {
    fn drop(&mut self) {
        // The put may set the mount free for its end; the pin keeps it for the look at its state.
        let guard = pin();
        // SAFETY: alive until the put; from there on the pin, which is older, holds it.
        let detached = unsafe { self.0.as_ref() }.put(&guard);
        drop(guard);
        Unkept(detached).settle();
    }
}

/// What is left to do after a reference ended: a detached mount may have lost its last one.
#[must_use = "a detached mount that nobody settles leaks"]
pub struct Unkept<D: Dentry>(pub(crate) Option<Arc<Mount<D>>>);

impl<D: Dentry> Unkept<D> {
    /// Buries the mount if that was its last reference.
    ///
    /// Context: not pinned; no lock of this crate held; may shut a superblock down, so may block.
    pub fn settle(self) {
        if let Some(mount) = self.0 {
            mount.settle();
        }
    }
}

/// Why a place on a mount was not counted.
pub(crate) enum NotKept<D: Dentry> {
    /// An umount is deciding or has decided.
    Unkept(Unkept<D>),
    /// `ENOMEM`.
    NoMemory,
}

impl<D: Dentry> From<Unkept<D>> for NotKept<D> {
    fn from(unkept: Unkept<D>) -> Self {
        NotKept::Unkept(unkept)
    }
}

impl<D: Dentry> From<NoMemory> for NotKept<D> {
    fn from(NoMemory: NoMemory) -> Self {
        NotKept::NoMemory
    }
}
