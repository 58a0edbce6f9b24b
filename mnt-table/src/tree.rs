//! Changes of a namespace's tree: prepare everything that can fail, then commit what cannot.
//!
//! A [`Joint`] is an edge that is ready to be linked: memory, mountpoint and list space are there. The commits take
//! joints, are called pinned, and neither allocate nor fail. Which of them need a window is said at each; the caller
//! opens it ([`WriteSet::begin`]) when the operation as a whole changes more than one edge that a walk can meet.
//!
//! In every commit the child's own edge pointer changes before the old edge is retired, because a walk reads it to go
//! up; and before the new edge is linked, because a walk that comes down by the new edge may go up at once.

use alloc::sync::Arc;
use core::ptr::{self, NonNull};

use smallvec::SmallVec;

use crate::dentry::Dentry;
use crate::list::{List, NoMemory, Slot};
use crate::memory;
use crate::mount::{Anchor, Edge, Mount, detached_into_raw, state};
use crate::namespace::{MntNamespace, Mountpoint, Touched, namespace_of};
use crate::reclaim::{Guard, pin};
use crate::sync::{Ordering, order, planted};
use crate::write_set::WriteSet;

mod prepare;
mod reading;

pub use prepare::{Adoption, Joint};

/// How a mount leaves its tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// It was condemned ([`WriteSet::condemn_if_idle`]): its superblock goes now.
    Dead,
    /// Lazily: it lives until its last reference is put.
    Detached,
    /// Lazily, and it stays attached to its parent, which leaves too; see [`crate::mount`] on fragments.
    Connected,
}

/// Committing: none of these fails or allocates.
impl<D: Dentry> WriteSet<D> {
    /// Says that the change of `ns` that begins has more than one edge that a walk can meet: opens its window.
    ///
    /// Context: pinned to the end of the commit; [`WriteSet::end`] closes it.
    pub fn begin(&mut self, ns: &Arc<MntNamespace<D>>, guard: &Guard) {
        self.open_window(ns, guard);
    }

    /// Closes all windows.
    pub fn end(&mut self) {
        self.close_windows();
    }

    /// Makes `mount` the root of its empty namespace.
    pub fn attach_root(&mut self, ns: &Arc<MntNamespace<D>>, mount: &Arc<Mount<D>>) {
        debug_assert!(self.root(ns).is_none());
        self.namespace_mut(ns).root = Some(Arc::clone(mount));
        self.enter_order(ns, mount);
        ns.bump_generation();
    }

    /// Attaches `child`, which no walk can meet yet. One edge: no window of its own.
    pub fn attach(&mut self, child: &Arc<Mount<D>>, joint: Joint<D>, guard: &Guard) {
        let ns = Arc::clone(self.namespace_of(child).expect("the child's namespace is locked"));
        self.enter_order(&ns, child);
        self.link(&ns, child, joint, None, guard);
        ns.bump_generation();
    }

    /// Moves `child` from where it is attached. Two edges: in a window.
    pub fn rehang(&mut self, child: &Arc<Mount<D>>, joint: Joint<D>, guard: &Guard) {
        let ns = Arc::clone(self.namespace_of(child).expect("the child's namespace is locked"));
        let old = self.edge_of(child);
        self.unhook(&ns, child);
        self.link(&ns, child, joint, None, guard);
        self.unlink(&ns, old, guard);
        ns.bump_generation();
    }

    /// Moves `root`, the root of an anonymous namespace, and `below`, all that is below it, to the namespace of the joint:
    /// `inner` is for `below` ([`WriteSet::prepare_adoption`]). The anonymous namespace is dissolved.
    ///
    /// In a window of the anonymous namespace. In the other one it is one edge, the root's, which comes last: what is
    /// below is complete by then. A walk inside the tree names either namespace, and finds every edge in its hash until
    /// the window makes it look again.
    pub fn adopt(
        &mut self,
        root: &Arc<Mount<D>>,
        joint: Joint<D>,
        below: &[Arc<Mount<D>>],
        inner: Adoption<D>,
        guard: &Guard,
    ) {
        let from = Arc::clone(self.namespace_of(root).expect("the root's namespace is locked"));
        let to = Arc::clone(self.namespace_of(&joint.parent).expect("the parent's namespace is locked"));
        self.begin(&from, guard);
        to.lock.mount_ids.follow(&from.lock.mount_ids);
        let Adoption { joints, left: mut old } = inner;
        for (mount, Joint { edge, mountpoint, .. }) in below.iter().zip(joints) {
            old.push(self.edge_of(mount));
            let place = self.list_on_mut(&mountpoint).push_back(Arc::clone(mount));
            let (left, slot) =
                self.tree_mut(mount).mountpoint.replace((mountpoint, place)).expect("it is below the root");
            self.list_on_mut(&left).remove(slot);
            self.touch(&from, left);
            // Release [Pair]: as in `link`.
            mount.edge.store(edge.address().as_ptr(), Ordering::Release);
            self.namespace_mut(&to).edges.insert(&to.table, edge, guard);
        }
        for mount in core::iter::once(root).chain(below) {
            let place = self.tree_mut(mount).in_order.take().expect("it is in its namespace");
            drop(self.leave_order(&from, place));
            // Release [Home]: after the edges in the new hash.
            mount.ns.store(Arc::as_ptr(&to).cast_mut(), Ordering::Release);
            self.enter_order(&to, mount);
        }
        for edge in old {
            self.unlink(&from, edge, guard);
        }
        self.namespace_mut(&from).root = None;
        self.link(&to, root, joint, None, guard);
        from.bump_generation();
        to.bump_generation();
        self.dissolve(&from);
    }

    /// Attaches `child`, which no walk can meet yet, where `upper` is, and hangs `upper` by its own joint: on the root of
    /// the topmost mount of `child`'s tree.
    ///
    /// No window: `child` gets its way up, then `upper` is linked in its new place, then one store gives its old place to
    /// `child`. A walk lands on `upper` at every moment, and `..` from it climbs to the same position at every moment.
    pub fn tuck(
        &mut self,
        child: &Arc<Mount<D>>,
        joint: Joint<D>,
        upper: &Arc<Mount<D>>,
        upper_joint: Joint<D>,
        guard: &Guard,
    ) {
        let ns = Arc::clone(self.namespace_of(child).expect("the child's namespace is locked"));
        let old = self.edge_of(upper);
        if !planted("tuck_without_way_up") {
            // Release [Pair]: a walk that climbs from `upper` over `child` finds where that is going to be.
            child.edge.store(joint.edge.address().as_ptr(), Ordering::Release);
        }
        self.unhook(&ns, upper);
        self.link(&ns, upper, upper_joint, None, guard);
        self.enter_order(&ns, child);
        self.link(&ns, child, joint, Some(old), guard);
        ns.bump_generation();
    }

    /// Takes `mount`, on which nothing is attached any more but what stays connected, out of its tree and namespace.
    ///
    /// One edge: in a window only if the operation removes or changes others in this namespace too.
    pub fn leave(&mut self, mount: &Arc<Mount<D>>, how: Leave, guard: &Guard) {
        let ns = Arc::clone(self.namespace_of(mount).expect("the mount's namespace is locked"));
        let place = self.tree_mut(mount).in_order.take().expect("it is in its namespace");
        let life = self.leave_order(&ns, place);
        if how != Leave::Dead && !planted("detached_count_late") {
            // Before anybody can see DETACHED: whoever puts the last reference may settle the mount at once, long
            // before this change is over, and takes this count.
            detached_into_raw(Arc::clone(&life));
        }
        let state = match how {
            Leave::Dead => state::DEAD,
            Leave::Detached => state::DETACHED,
            Leave::Connected => state::DETACHED | state::CONNECTED,
        };
        // Release [Detached]: pairs with the fence in `Mount::settle`, on whichever CPU puts the last reference. DEAD is
        // published by the superblock's shutdown [Killed].
        mount.state.store(state, Ordering::Release);
        if how == Leave::Connected {
            let parent = Arc::clone(self.parent(mount).expect("what has a parent stays connected to it"));
            self.tree_mut(&parent).connected += 1;
            self.namespace_mut(&ns).fragments += 1;
        } else {
            debug_assert!(
                self.tree(mount).children.len() == self.tree(mount).connected as usize,
                "children leave first"
            );
            self.separate(&ns, mount, guard);
            if self.tree(mount).connected == 0 {
                // Release [Home]: a walk that enters from here on finds no namespace: nothing is mounted on this.
                mount.ns.store(ptr::null_mut(), Ordering::Release);
            } else {
                self.namespace_mut(&ns).fragments += 1;
            }
        }
        match how {
            Leave::Dead => self.end_dead(life),
            Leave::Detached | Leave::Connected => self.end_detached(life),
        }
        ns.bump_generation();
    }

    /// Takes `mount` from its parent, or from its place as the root.
    fn separate(&mut self, ns: &Arc<MntNamespace<D>>, mount: &Arc<Mount<D>>, guard: &Guard) {
        if self.tree(mount).parent.is_none() {
            self.namespace_mut(ns).root = None;
            return;
        }
        let old = self.edge_of(mount);
        self.unhook(ns, mount);
        // Release [Pair], [Top]: before the edge is retired, and after the state says that the mount leaves.
        mount.edge.store(ptr::null_mut(), order(Ordering::Release, "top_relaxed"));
        self.unlink(ns, old, guard);
    }

    /// Ends the connection of `mount`, which is detached, to its parent.
    ///
    /// One edge: no window of its own.
    pub fn disconnect(&mut self, mount: &Arc<Mount<D>>, guard: &Guard) {
        self.cut(mount, guard);
        self.end_disconnected(Arc::clone(mount));
    }

    /// As [`WriteSet::disconnect`]; the caller settles the mount, without locks.
    fn cut(&mut self, mount: &Arc<Mount<D>>, guard: &Guard) {
        let ns = Arc::clone(self.namespace_of(mount).expect("the mount's namespace is locked"));
        let parent = Arc::clone(self.parent(mount).expect("it is connected"));
        self.tree_mut(&parent).connected -= 1;
        self.separate(&ns, mount, guard);
        // After the edge is gone: whoever settles it from here on retires it after that.
        mount.disconnect();
        self.leave_fragment(&ns, mount);
        self.leave_fragment(&ns, &parent);
    }

    /// If `mount`, which is detached, has neither a parent nor children left, it names no namespace any more.
    fn leave_fragment(&mut self, ns: &Arc<MntNamespace<D>>, mount: &Arc<Mount<D>>) {
        let tree = self.tree(mount);
        if tree.in_order.is_some() || tree.parent.is_some() || tree.connected != 0 {
            return;
        }
        // Release [Home]: as in `leave`.
        mount.ns.store(ptr::null_mut(), Ordering::Release);
        self.namespace_mut(ns).fragments -= 1;
        self.end_namespace_without_fragments(ns);
    }

    /// Everybody whose root or working directory is `old`'s root stands on `new`'s. In the window of a pivot.
    pub fn move_anchors(&mut self, old: &Arc<Mount<D>>, new: &Arc<Mount<D>>) {
        debug_assert!(self.namespace_of(old).is_some() && self.namespace_of(new).is_some());
        if planted("anchors_outside_window") {
            self.end();
        }
        if let Some(ns) = self.namespace_of(old) {
            // Release [Pivots]: pairs with the Acquire in `MntNamespace::pivots`. After the window was opened, and before the
            // anchors move.
            ns.lock.pivots.fetch_add(1, order(Ordering::Release, "pivots_relaxed"));
        }
        Anchor::move_all(old, new);
    }

    /// Room for [`WriteSet::move_anchors`].
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn prepare_anchors(&mut self, old: &Arc<Mount<D>>, new: &Arc<Mount<D>>) -> Result<(), NoMemory> {
        Anchor::reserve_move(old, new)
    }

    /// Puts `mount` in `ns`'s order of creation.
    fn enter_order(&mut self, ns: &Arc<MntNamespace<D>>, mount: &Arc<Mount<D>>) {
        let state = self.namespace_mut(ns);
        let order = &mut state.order;
        // Beside the one before it, nearly always: trees come in order, copies in reverse.
        let mut before = state.entered.or(order.last());
        while let Some(slot) = before
            && order.get(slot).unique_id() > mount.unique_id()
        {
            before = order.prev(slot);
        }
        while let Some(next) = before.map_or(order.first(), |slot| order.next(slot))
            && order.get(next).unique_id() < mount.unique_id()
        {
            before = Some(next);
        }
        let slot = match before {
            Some(slot) => order.insert_after(slot, Arc::clone(mount)),
            None => order.push_front(Arc::clone(mount)),
        };
        state.entered = Some(slot);
        self.tree_mut(mount).in_order = Some(slot);
        // Relaxed: published with the edge.
        mount.state.store(state::LIVE, Ordering::Relaxed);
    }

    /// Takes the mount at `place` out of `ns`'s order of creation; returns the count that stands for being in a tree.
    fn leave_order(&mut self, ns: &MntNamespace<D>, place: Slot) -> Arc<Mount<D>> {
        let state = self.namespace_mut(ns);
        if state.entered == Some(place) {
            state.entered = None;
        }
        state.order.remove(place)
    }

    fn list_on(&self, mountpoint: &Mountpoint<D>) -> &List<Arc<Mount<D>>> {
        mountpoint.memory.check();
        // SAFETY: only called for mountpoints found in a namespace or a mount of this set; `&self` excludes
        // `list_on_mut`.
        unsafe { &*mountpoint.mounts.get() }
    }

    fn list_on_mut(&mut self, mountpoint: &Mountpoint<D>) -> &mut List<Arc<Mount<D>>> {
        mountpoint.memory.change();
        // SAFETY: as in `list_on`; `&mut self` excludes every other borrow through this set.
        unsafe { &mut *mountpoint.mounts.get() }
    }

    fn edge_of(&self, mount: &Mount<D>) -> NonNull<Edge<D>> {
        // Relaxed: written under this lock.
        NonNull::new(mount.edge.load(Ordering::Relaxed)).expect("the mount is attached")
    }

    /// Takes `child` out of its parent's and its mountpoint's list; its edge stays linked.
    fn unhook(&mut self, ns: &Arc<MntNamespace<D>>, child: &Arc<Mount<D>>) {
        let links = self.tree_mut(child);
        let parent = links.parent.take().expect("the mount is attached");
        let in_parent = links.in_parent.take().expect("the mount is attached");
        let (mountpoint, place): (Arc<Mountpoint<D>>, Slot) =
            links.mountpoint.take().expect("the mount is attached");
        self.tree_mut(&parent).children.remove(in_parent);
        self.list_on_mut(&mountpoint).remove(place);
        self.touch(ns, mountpoint);
    }

    /// Notes that `mountpoint`, of `ns`, may not be one any more.
    fn touch(&mut self, ns: &Arc<MntNamespace<D>>, mountpoint: Arc<Mountpoint<D>>) {
        if !self.list_on(&mountpoint).is_empty() {
            return;
        }
        let first = &mut self.namespace_mut(ns).touched;
        // SAFETY: guarded by the namespace's lock, as `first` is, through which alone it is reached: here and in `untouch`.
        let here = unsafe { &mut *mountpoint.touched.get() };
        if here.is_none() {
            *here = Some(Touched(first.take()));
            *first = Some(mountpoint);
        }
    }

    /// Takes one of the mountpoints of `ns` that were noted.
    fn untouch(&mut self, ns: &MntNamespace<D>) -> Option<Arc<Mountpoint<D>>> {
        let first = &mut self.namespace_mut(ns).touched;
        let mountpoint = first.take()?;
        // SAFETY: as in `touch`.
        *first = unsafe { &mut *mountpoint.touched.get() }.take().and_then(|Touched(next)| next);
        Some(mountpoint)
    }

    /// Enters `child` in the lists of the joint's ends and links the edge, in the place of `instead` if given.
    fn link(
        &mut self,
        ns: &Arc<MntNamespace<D>>,
        child: &Arc<Mount<D>>,
        joint: Joint<D>,
        instead: Option<NonNull<Edge<D>>>,
        guard: &Guard,
    ) {
        let Joint { edge, parent, mountpoint } = joint;
        let in_parent = self.tree_mut(&parent).children.push_back(Arc::clone(child));
        let place = self.list_on_mut(&mountpoint).push_back(Arc::clone(child));
        let links = self.tree_mut(child);
        links.parent = Some(parent);
        links.in_parent = Some(in_parent);
        links.mountpoint = Some((mountpoint, place));
        let edges = &mut self.namespace_mut(ns).edges;
        // Release [Pair]: pairs with the Acquire in `Mount::up`.
        child.edge.store(edge.address().as_ptr(), order(Ordering::Release, "pair_relaxed"));
        match instead {
            // SAFETY: `instead` is the edge of a mount of this namespace, read from it under this lock; its mount's
            // pointer was changed to another edge before.
            Some(old) => unsafe { edges.replace(&ns.table, old, edge, guard) },
            None => edges.insert(&ns.table, edge, guard),
        };
    }

    fn unlink(&mut self, ns: &Arc<MntNamespace<D>>, old: NonNull<Edge<D>>, guard: &Guard) {
        // SAFETY: as for `replace` in `link`.
        unsafe { self.namespace_mut(ns).edges.remove(&ns.table, old, guard) };
    }
}

/// Takes the connected children of `dead`, the count of a mount that just died, from it; they live for their own
/// references from here on, and the caller, who made `room` for so many, looks whether they have any.
///
/// Context: as [`Mount::settle`].
///
/// # Errors
/// `ENOMEM`; nothing was changed.
pub(crate) fn release_children<D: Dentry>(
    dead: &Arc<Mount<D>>,
    room: impl FnOnce(usize) -> Result<(), NoMemory>,
) -> Result<SmallVec<[Arc<Mount<D>>; 1]>, NoMemory> {
    let Some(ns) = namespace_of(&**dead) else { return Ok(SmallVec::new()) };
    let mut locks = WriteSet::one(&ns);
    if locks.namespace_of(&**dead).is_none() {
        // The change that detached it was not over: it died at once, and nothing is connected to it.
        return Ok(SmallVec::new());
    }
    let children: SmallVec<[Arc<Mount<D>>; 1]> = memory::collect(locks.children(dead).cloned())?;
    locks.reserve_retirements(children.len())?;
    room(children.len())?;
    let guard = pin();
    if children.len() > 1 {
        locks.begin(&ns, &guard);
    }
    children.iter().for_each(|child| locks.cut(child, &guard));
    locks.end();
    Ok(children)
}
