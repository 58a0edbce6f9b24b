//! The edges that hang mounts in a tree.

use alloc::sync::Arc;
use core::ptr::{self, NonNull};

use super::Mount;
use crate::dentry::Dentry;
use crate::namespace::Mountpoint;
use crate::reclaim::Guard;
use crate::sync::Memory;
use crate::table::{Entry, Links};

/// A hash entry and a tree edge at once: `child` is mounted on `(parent, dentry)`. Never changes; a move makes a fresh
/// one.
pub struct Edge<D: Dentry> {
    pub(super) memory: Memory,
    links: Links<Edge<D>>,
    parent: NonNull<Mount<D>>,
    dentry: *const D,
    child: NonNull<Mount<D>>,
    mountpoint: Arc<Mountpoint<D>>,
}

// SAFETY: the pointers are to objects that are Send and Sync themselves; who may follow them is argued where it is
// done.
unsafe impl<D: Dentry> Send for Edge<D> {}
// SAFETY: as above; an edge has no interior mutability besides its atomic links.
unsafe impl<D: Dentry> Sync for Edge<D> {}

impl<D: Dentry> Edge<D> {
    pub(crate) fn new(
        parent: &Arc<Mount<D>>,
        mountpoint: &Arc<Mountpoint<D>>,
        child: &Arc<Mount<D>>,
    ) -> Self {
        Edge {
            memory: Memory::new(),
            links: Links::new(),
            parent: NonNull::from(&**parent),
            dentry: Arc::as_ptr(mountpoint.dentry()),
            child: NonNull::from(&**child),
            mountpoint: Arc::clone(mountpoint),
        }
    }

    /// The mount that is attached.
    pub(crate) fn child<'g>(&'g self, _guard: &'g Guard) -> &'g Mount<D> {
        // SAFETY: while the edge is linked its child is in the tree; both are retired after it was unlinked, and an
        // edge that a pin holds was linked during the pin, so the pin holds the child too [Reach].
        unsafe { self.child.as_ref() }
    }

    /// The mount that it is attached to.
    pub(crate) fn parent<'g>(&'g self, _guard: &'g Guard) -> &'g Mount<D> {
        // SAFETY: as for `child`: a mount leaves a tree after the edges to its children.
        unsafe { self.parent.as_ref() }
    }

    pub(crate) fn mountpoint(&self) -> &Arc<Mountpoint<D>> {
        &self.mountpoint
    }

    #[inline]
    pub(crate) fn is_at(&self, parent: &Mount<D>, dentry: &D) -> bool {
        self.memory.check();
        ptr::eq(self.parent.as_ptr(), parent) && ptr::eq(self.dentry, dentry)
    }
}

/// The key's hash: multiply-shift of both addresses. In models all are one chain: addresses differ from run to run, and
/// the most is seen where everything meets.
#[inline]
pub(crate) fn edge_hash<D: Dentry>(parent: *const Mount<D>, dentry: *const D) -> u64 {
    if cfg!(loom) {
        return 0;
    }
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    ((parent.addr() as u64).rotate_left(32) ^ dentry.addr() as u64).wrapping_mul(ODD)
}

impl<D: Dentry> Entry for Edge<D> {
    fn hash(&self) -> u64 {
        edge_hash(self.parent.as_ptr(), self.dentry)
    }

    fn links(&self) -> &Links<Self> {
        &self.links
    }
}
