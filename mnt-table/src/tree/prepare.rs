//! Preparing changes of a tree: everything that can fail.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ptr::NonNull;

use crate::dentry::{Dentry, RegisterError};
use crate::foresight::ask;
use crate::group::Group;
use crate::list::NoMemory;
use crate::memory::{self, Grow};
use crate::mount::{Edge, Mount, MountSpec};
use crate::namespace::{MntNamespace, Mountpoint};
use crate::table::Unlinked;
use crate::write_set::WriteSet;

/// An edge that is ready to be linked.
pub struct Joint<D: Dentry> {
    pub(super) edge: Unlinked<Edge<D>>,
    pub(super) parent: Arc<Mount<D>>,
    pub(super) mountpoint: Arc<Mountpoint<D>>,
}

impl<D: Dentry> Joint<D> {
    /// The mount that the child will be attached to.
    pub fn parent(&self) -> &Arc<Mount<D>> {
        &self.parent
    }

    /// Asks for what attaching by it is going to write ([`crate::foresight`]), but for the child.
    #[inline]
    pub fn foresee(&self) {
        ask(self.edge.address().as_ptr());
        self.parent.foresee();
    }
}

/// The edges inside a tree that moves to another namespace.
pub struct Adoption<D: Dentry> {
    pub(super) joints: Vec<Joint<D>>,
    /// Room for those that it had before.
    pub(super) left: Vec<NonNull<Edge<D>>>,
}

/// Preparing.
impl<D: Dentry> WriteSet<D> {
    /// A mount that will be in `ns`, attached nowhere yet.
    ///
    /// # Errors
    /// `ENOMEM`; also when ids run out.
    pub fn new_mount(
        &mut self,
        ns: &Arc<MntNamespace<D>>,
        spec: MountSpec<D>,
    ) -> Result<Arc<Mount<D>>, NoMemory> {
        let plan = self.plan;
        self.namespace_mut(ns).order.promise(plan, 1)?;
        Mount::new(spec, ns, ns.lock.mount_ids.take_both().ok_or(NoMemory)?)
    }

    /// The mounts that are made in `to` from here on are younger than those of `from`, which it is going to be a copy of.
    pub fn follow_ids(&mut self, to: &MntNamespace<D>, from: &MntNamespace<D>) {
        debug_assert!(self.holds(to) && self.holds(from));
        to.lock.mount_ids.follow(&from.lock.mount_ids);
    }

    /// A peer group without members, with the lowest free id of `ns`; younger than `master`. Nobody else knows it, and the
    /// set holds it.
    ///
    /// # Errors
    /// `ENOMEM`; also when ids run out.
    pub fn new_group(
        &mut self,
        ns: &Arc<MntNamespace<D>>,
        master: Option<&Group<D>>,
    ) -> Result<Arc<Group<D>>, NoMemory> {
        debug_assert!(self.holds(ns));
        let id = ns.lock.group_ids.take().ok_or(NoMemory)?;
        let group = Group::new(id, master, self.plan)?;
        self.adopt_group(Arc::clone(&group))?;
        Ok(group)
    }

    /// Makes room for `more` members of `group`.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn reserve_members(&mut self, group: &Group<D>, more: usize) -> Result<(), NoMemory> {
        let plan = self.plan;
        self.group_mut(group).members.promise(plan, more)
    }

    /// Makes room for `more` slaves of `mount`, which is a member of a group that the set holds, or will be.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn reserve_slaves(&mut self, mount: &Mount<D>, more: usize) -> Result<(), NoMemory> {
        let plan = self.plan;
        match mount.with_propagation(|here| here.peers.clone()) {
            Some((group, slot)) => self.group_mut(&group).members.get_mut(slot).slaves.promise(plan, more),
            None => mount.reserve_slaves_to_be(plan, more),
        }
    }

    /// Makes ready to attach `child` on `dentry` in `parent`.
    ///
    /// # Errors
    /// `ENOENT`: the dentry is being removed. `ENOMEM`.
    pub fn prepare(
        &mut self,
        child: &Arc<Mount<D>>,
        parent: &Arc<Mount<D>>,
        dentry: &Arc<D>,
    ) -> Result<Joint<D>, RegisterError> {
        let ns = Arc::clone(self.namespace_of(parent).expect("the parent's namespace is locked"));
        self.prepare_in(&ns, child, parent, dentry)
    }

    /// As [`WriteSet::prepare`], for an edge in `ns`, where `parent` is yet to come.
    ///
    /// # Errors
    /// As [`WriteSet::prepare`].
    pub fn prepare_in(
        &mut self,
        ns: &Arc<MntNamespace<D>>,
        child: &Arc<Mount<D>>,
        parent: &Arc<Mount<D>>,
        dentry: &Arc<D>,
    ) -> Result<Joint<D>, RegisterError> {
        let plan = self.plan;
        self.tree_mut(parent).children.promise(plan, 1)?;
        let state = self.namespace_mut(ns);
        let key = Arc::as_ptr(dentry).addr();
        let mountpoint = match state.mountpoints.get(&key) {
            Some(mountpoint) => Arc::clone(mountpoint),
            None => {
                state.mountpoints.try_reserve(1).map_err(|_| NoMemory)?;
                let mountpoint = Mountpoint::new(ns, Arc::clone(dentry))?;
                // The flag is set from here on: before the edge is published.
                dentry.mounted_here().register(&mountpoint)?;
                state.mountpoints.insert(key, Arc::clone(&mountpoint));
                mountpoint
            }
        };
        // Should the operation fail, a mountpoint that is new goes again.
        self.touch(ns, Arc::clone(&mountpoint));
        self.list_on_mut(&mountpoint).promise(plan, 1)?;
        // The edge that this one replaces.
        self.reserve_retirements(1)?;
        let edge = Unlinked::new(memory::boxed(Edge::new(parent, &mountpoint, child))?);
        Ok(Joint { edge, parent: Arc::clone(parent), mountpoint })
    }

    /// Makes ready to move the tree of an anonymous namespace, whose mounts but the root are `below`, to `ns`: the edges
    /// among them as they will be there, in the order of `below`.
    ///
    /// # Errors
    /// As [`WriteSet::prepare`].
    pub fn prepare_adoption(
        &mut self,
        ns: &Arc<MntNamespace<D>>,
        below: &[Arc<Mount<D>>],
    ) -> Result<Adoption<D>, RegisterError> {
        let mut joints = Vec::new();
        joints.make_room(below.len())?;
        let mut left = Vec::new();
        left.make_room(below.len())?;
        let plan = self.plan;
        self.namespace_mut(ns).order.promise(plan, below.len() + 1)?;
        self.reserve_ended(1)?;
        for mount in below {
            let parent = Arc::clone(self.parent(mount).expect("it is below the root"));
            let on = Arc::clone(self.mountpoint(mount).expect("it is below the root"));
            joints.push(self.prepare_in(ns, mount, &parent, &on)?);
        }
        Ok(Adoption { joints, left })
    }

    /// Says that `more` edges are going to be linked in `ns` at once, so that its hash grows in one step.
    pub fn expect_edges(&mut self, ns: &MntNamespace<D>, more: usize) {
        self.namespace_mut(ns).edges.expect(more);
    }

    /// Forgets the mountpoints on which nothing is left.
    pub(crate) fn release_mountpoints(&mut self) {
        for at in 0..self.namespaces().len() {
            let ns = Arc::clone(&self.namespaces()[at]);
            while let Some(mountpoint) = self.untouch(&ns) {
                if !self.list_on(&mountpoint).is_empty() {
                    continue;
                }
                let key = Arc::as_ptr(mountpoint.dentry()).addr();
                let known = &mut self.namespace_mut(&ns).mountpoints;
                if known.get(&key).is_some_and(|known| Arc::ptr_eq(known, &mountpoint)) {
                    known.remove(&key);
                    mountpoint.dentry().mounted_here().unregister(&mountpoint);
                }
            }
        }
    }
}
