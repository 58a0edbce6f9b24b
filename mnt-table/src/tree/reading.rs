//! Reading a tree, and asking for what changes of it are going to read.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::Joint;
use crate::dentry::Dentry;
use crate::foresight::{AHEAD, ask};
use crate::list::NoMemory;
use crate::memory::{self, Grow};
use crate::mount::{Mount, edge_hash};
use crate::namespace::MntNamespace;
use crate::reclaim::pin;
use crate::write_set::WriteSet;

/// Reading a tree.
impl<D: Dentry> WriteSet<D> {
    /// The root mount of `ns`.
    pub fn root(&self, ns: &MntNamespace<D>) -> Option<&Arc<Mount<D>>> {
        self.namespace(ns).root.as_ref()
    }

    /// The number of mounts in `ns`.
    pub fn mounts_len(&self, ns: &MntNamespace<D>) -> usize {
        self.namespace(ns).order.len()
    }

    /// The mounts of `ns` by unique id, which is the order of their creation.
    pub fn mounts(&self, ns: &MntNamespace<D>) -> impl Iterator<Item = &Arc<Mount<D>>> + Clone {
        self.namespace(ns).order.iter().map(|(_, mount)| mount)
    }

    /// The parent of `mount`; `None` for the root of a tree.
    pub fn parent(&self, mount: &Mount<D>) -> Option<&Arc<Mount<D>>> {
        self.tree(mount).parent.as_ref()
    }

    /// The dentry that `mount` is attached on; `None` for the root of a tree.
    pub fn mountpoint(&self, mount: &Mount<D>) -> Option<&Arc<D>> {
        self.tree(mount).mountpoint.as_ref().map(|(mountpoint, _)| mountpoint.dentry())
    }

    /// The mounts attached to `mount`, in the order in which they came.
    pub fn children(&self, mount: &Mount<D>) -> impl Iterator<Item = &Arc<Mount<D>>> {
        self.tree(mount).children.iter().map(|(_, child)| child)
    }

    /// Whether nothing is attached to `mount`.
    pub fn is_leaf(&self, mount: &Mount<D>) -> bool {
        self.tree(mount).children.is_empty()
    }

    /// Whether `mount` cannot be bound.
    pub fn is_unbindable(&self, mount: &Mount<D>) -> bool {
        self.tree(mount).unbindable
    }

    /// Sets whether `mount` can be bound.
    pub fn set_unbindable(&mut self, mount: &Mount<D>, unbindable: bool) {
        self.tree_mut(mount).unbindable = unbindable;
    }

    /// Whether a user may not separate `mount` from its parent.
    pub fn is_locked(&self, mount: &Mount<D>) -> bool {
        self.tree(mount).locked
    }

    /// Sets whether a user may separate `mount` from its parent.
    pub fn set_locked(&mut self, mount: &Mount<D>, locked: bool) {
        self.tree_mut(mount).locked = locked;
    }

    /// The mount attached on `dentry` in `parent`.
    pub fn child_at(&self, parent: &Mount<D>, dentry: &D) -> Option<Arc<Mount<D>>> {
        let guard = pin();
        let ns = self.namespace_of(parent)?;
        ns.lookup_mnt(parent, dentry, &guard).map(|mount| mount.to_arc(&guard))
    }

    /// Asks for what [`WriteSet::child_at`] is going to read for `parents` after the turn of number `at`, which has come:
    /// first for the mounts, then for the places in the hash that they lead to, then for what is there.
    pub fn foresee_children<'a>(
        &self,
        at: usize,
        dentry: &D,
        parents: impl Fn(usize) -> Option<&'a Arc<Mount<D>>>,
    ) where
        D: 'a,
    {
        if let Some(parent) = parents(at + 3 * AHEAD) {
            parent.foresee();
        }
        let guard = pin();
        let place = |turns: usize| {
            let parent = parents(at + turns)?;
            Some((self.namespace_of(parent)?, edge_hash(Arc::as_ptr(parent), dentry)))
        };
        if let Some((ns, hash)) = place(2 * AHEAD) {
            ns.table.foresee_bucket(hash, &guard);
        }
        if let Some((ns, hash)) = place(AHEAD) {
            ns.table.foresee_entry(hash, &guard);
        }
        if let Some((ns, hash)) = place(AHEAD / 2)
            && let Some(edge) = ns.table.first(hash, &guard)
        {
            edge.child(&guard).foresee();
        }
    }

    /// Asks for what [`WriteSet::leave`] is going to read of `mounts` after the turn of number `at`, which has come.
    pub fn foresee_leaving(&self, at: usize, mounts: &[Arc<Mount<D>>]) {
        if let Some(mount) = mounts.get(at + 3 * AHEAD) {
            mount.foresee();
        }
        let place = |turns: usize| {
            let mount = mounts.get(at + turns)?;
            Some((mount, self.tree(mount).parent.as_ref()?))
        };
        if let Some((mount, parent)) = place(2 * AHEAD) {
            ask(self.edge_of(mount).as_ptr());
            parent.foresee();
        }
        if let Some((mount, parent)) = place(AHEAD) {
            self.tree(parent).children.foresee();
            if let (Some(ns), Some(on)) = (self.namespace_of(parent), self.mountpoint(mount)) {
                ns.table.foresee_bucket(edge_hash(Arc::as_ptr(parent), Arc::as_ptr(on)), &pin());
            }
        }
    }

    /// Asks for what attaching by `joint`, which was asked for ([`Joint::foresee`]), is going to write.
    #[inline]
    pub fn foresee_attach(&self, joint: &Joint<D>) {
        let parent = &joint.parent;
        self.tree(parent).children.foresee();
        if let Some(ns) = self.namespace_of(parent) {
            let hash = edge_hash(Arc::as_ptr(parent), Arc::as_ptr(joint.mountpoint.dentry()));
            ns.table.foresee_bucket(hash, &pin());
        }
    }

    /// The mount on `mount`'s root.
    pub fn overmount(&self, mount: &Mount<D>) -> Option<Arc<Mount<D>>> {
        self.child_at(mount, mount.root())
    }

    /// The end of the stack that begins with `mount`.
    pub fn topmost(&self, mount: &Arc<Mount<D>>) -> Arc<Mount<D>> {
        core::iter::successors(Some(Arc::clone(mount)), |mount| self.overmount(mount))
            .last()
            .expect("it begins with one")
    }

    /// `mount` and everything below it, parents first, children in their order. Without recursion.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn subtree(&self, mount: &Arc<Mount<D>>) -> Result<Vec<Arc<Mount<D>>>, NoMemory> {
        let mut found = Vec::new();
        let mut waiting: Vec<_> = memory::collect([Arc::clone(mount)])?;
        while let Some(mount) = waiting.pop() {
            let before = waiting.len();
            waiting.try_extend(self.children(&mount).cloned())?;
            waiting[before..].reverse();
            found.try_push(mount)?;
        }
        Ok(found)
    }

    /// Whether `mount` is `above` or below it.
    pub fn is_below(&self, mount: &Arc<Mount<D>>, above: &Arc<Mount<D>>) -> bool {
        let mut up = Some(mount);
        core::iter::from_fn(|| {
            let here = up?;
            up = self.parent(here);
            Some(here)
        })
        .any(|here| Arc::ptr_eq(here, above))
    }

    /// The mounts of `ns` that are attached on `dentry`; detached ones that are still connected there, too.
    pub fn mounts_on(&self, ns: &MntNamespace<D>, dentry: &Arc<D>) -> impl Iterator<Item = &Arc<Mount<D>>> {
        let mountpoint = self.namespace(ns).mountpoints.get(&Arc::as_ptr(dentry).addr());
        mountpoint.into_iter().flat_map(|mountpoint| self.list_on(mountpoint).iter().map(|(_, mount)| mount))
    }
}
