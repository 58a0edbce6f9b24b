//! The locks that one change holds, and everything that may only be done under them.
//!
//! A [`WriteSet`] is the write side of exactly the namespaces that an operation changes, and the locks of the peer
//! groups whose rings and slave lists it reads or changes. It is the witness that every accessor asks for: what a lock
//! guards can be reached only through the set that holds it, `&` through `&`, `&mut` through `&mut`.
//!
//! # Taking the locks
//! [`LockPlan`] collects what is needed, then locks: groups in ascending stamp, and namespaces in ascending id. For a
//! group whose *receivers* are needed, the groups of its members' slaves are found once it is locked; they are younger
//! (`[Older]` in [`crate::group`]), so the closure is locked in order while it is discovered, and is stable from then
//! on. A group that turns out older than one already held is noted, everything is dropped, and the next try starts with
//! it: order is never broken, so there is no deadlock.
//!
//! Planning code that meets a mount whose group or namespace is not held says so ([`Missing`]), the set is dropped, and
//! the operation starts again with the union. After [`TRIES`] such starts an operation asks for the machine to itself:
//! it raises [`ESCALATED`], which others look at before they start (and never write), so those in flight finish and
//! the next try meets nobody.
//!
//! # After the change
//! Dropping the set unlocks in reverse order, then buries the mounts that died (superblock shutdown; no lock is held
//! then) and retires them.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::Cell;
use core::task::Waker;

use smallvec::SmallVec;

use crate::dentry::Dentry;
use crate::foresight::{AHEAD, foreseen};
use crate::group::{Group, GroupState};
use crate::id::unique_after;
use crate::list::{NoMemory, Plan};
use crate::memory::{Claims, Grow};
use crate::mount::{Mount, TreeLinks, detached_into_raw, state};
use crate::namespace::{MntNamespace, NamespaceId, NsState};
use crate::reclaim::{self, Guard, claims_for, pin};
use crate::sync::{Ordering, fence, planted};
use crate::visits;

mod plan;

pub use plan::{ESCALATED, ESCALATIONS, LockPlan, Missing, TRIES};

/// The locks of one change; see the module's header.
pub struct WriteSet<D: Dentry> {
    /// Names this set in the locks that it holds: the address of the first one's object, which nobody else can have
    /// while it is locked. 0 while it holds nothing.
    token: usize,
    groups: SmallVec<[Arc<Group<D>>; 2]>,
    namespaces: SmallVec<[Arc<MntNamespace<D>>; 2]>,
    /// Addresses of `namespaces` with their index, sorted: to tell whether a mount's namespace is held without
    /// following the mount's pointer, which may be stale if it is not.
    homes: SmallVec<[(usize, usize); 2]>,
    /// Where the last look in `homes` ended.
    last_home: Cell<usize>,
    receiving: Vec<Arc<MntNamespace<D>>>,
    /// Those who wait for changes of `namespaces`, to be woken after the unlock.
    watchers: SmallVec<[Vec<Waker>; 2]>,
    ended: SmallVec<[Ended<D>; 2]>,
    /// Those that are to come and have their room in `ended`.
    ended_to_come: usize,
    /// Retirements that `claims` are for.
    retirements: usize,
    /// Tells this change's marks on mounts from others'; 0 while there are none.
    stamp: u64,
    /// Whose promises lists make to this change.
    pub(crate) plan: Plan,
    /// What is retired after the change as well: dropped last.
    claims: Claims,
}

/// A mount that left its tree in this change.
enum Ended<D: Dentry> {
    Dead(Arc<Mount<D>>),
    Detached(Arc<Mount<D>>),
    Disconnected(Arc<Mount<D>>),
    Namespace(Arc<MntNamespace<D>>),
}

impl<D: Dentry> WriteSet<D> {
    fn empty() -> Self {
        WriteSet {
            token: 0,
            groups: SmallVec::new(),
            namespaces: SmallVec::new(),
            homes: SmallVec::new(),
            last_home: Cell::new(0),
            receiving: Vec::new(),
            watchers: SmallVec::new(),
            ended: SmallVec::new(),
            ended_to_come: 0,
            retirements: 0,
            stamp: 0,
            plan: Plan::default(),
            claims: Claims::none(),
        }
    }

    /// The write side of one namespace: all that a change without propagation needs. Needs no memory.
    ///
    /// Context: not pinned; no lock held; may block.
    pub fn one(ns: &Arc<MntNamespace<D>>) -> Self {
        let mut set = Self::empty();
        // Without, what it retires finds memory nearly always.
        let _few = set.reserve_retirements(1);
        set.lock_namespace(Arc::clone(ns));
        set.sort_homes();
        set
    }

    /// The write side of one or two namespaces.
    ///
    /// Context: as [`WriteSet::one`].
    pub fn two(a: &Arc<MntNamespace<D>>, b: &Arc<MntNamespace<D>>) -> Self {
        let (first, second) = if a.id() <= b.id() { (a, b) } else { (b, a) };
        let mut set = Self::one(first);
        if !Arc::ptr_eq(first, second) {
            set.lock_namespace(Arc::clone(second));
            set.sort_homes();
        }
        set
    }

    /// Also holds `ns`, which is younger than all that the set holds: a namespace that the caller just made, so
    /// nobody else waits for it or holds it. Needs no memory.
    pub fn add_new(&mut self, ns: &Arc<MntNamespace<D>>) {
        assert!(self.namespaces.last().is_none_or(|last| last.id() < ns.id()), "lock order");
        self.lock_namespace(Arc::clone(ns));
        self.sort_homes();
    }

    /// Room for `count` namespaces and a new one.
    fn reserve_namespaces(&mut self, count: usize) -> Result<(), NoMemory> {
        self.namespaces.make_room(count + 1)?;
        self.homes.make_room(count + 1)?;
        self.watchers.make_room(count + 1)
    }

    fn sort_homes(&mut self) {
        self.homes.clear();
        self.homes.extend(self.namespaces.iter().enumerate().map(|(at, ns)| (Arc::as_ptr(ns).addr(), at)));
        self.homes.sort_unstable();
        self.last_home.set(0);
    }

    /// The index in `namespaces` of the namespace that `mount` is in, if this set holds it.
    fn home(&self, mount: &Mount<D>) -> Option<usize> {
        // Relaxed: it can change only under a lock that this set holds, if this set holds it at all.
        let ns = mount.ns.load(Ordering::Relaxed).addr();
        let last = self.last_home.get();
        if self.homes.get(last)?.0 == ns {
            return Some(self.homes[last].1);
        }
        let at = self.homes.binary_search_by_key(&ns, |home| home.0).ok()?;
        self.last_home.set(at);
        Some(self.homes[at].1)
    }

    fn lock_namespace(&mut self, ns: Arc<MntNamespace<D>>) {
        let in_order = self.namespaces.last().is_none_or(|last| last.id() < ns.id());
        debug_assert!(in_order || planted("no_common_order"), "lock order");
        ns.lock.lock.lock();
        if self.token == 0 {
            self.token = Arc::as_ptr(&ns).addr();
        }
        // Relaxed: only the holder of a token compares with it, and it stored it itself.
        ns.lock.holder.store(self.token, Ordering::Relaxed);
        self.namespaces.push(Arc::clone(&ns));
        if self.namespaces.len() == 1 {
            self.plan = self.namespace_mut(&ns).plan.begin();
        }
    }

    fn lock_group(&mut self, group: Arc<Group<D>>) -> Result<(), NoMemory> {
        self.groups.make_room(1)?;
        group.lock.lock();
        if self.token == 0 {
            self.token = Arc::as_ptr(&group).addr();
        }
        // Relaxed: as for namespaces.
        group.holder.store(self.token, Ordering::Relaxed);
        self.groups.push(group);
        Ok(())
    }

    /// Holds a group that nobody else knows yet; so its place in the order does not matter.
    pub(crate) fn adopt_group(&mut self, group: Arc<Group<D>>) -> Result<(), NoMemory> {
        self.lock_group(Arc::clone(&group))?;
        debug_assert!(self.group(&group).members.is_empty(), "somebody else knows the group");
        Ok(())
    }

    /// Whether the set holds `ns`.
    #[inline]
    pub fn holds(&self, ns: &MntNamespace<D>) -> bool {
        ns.held_by(self.token)
    }

    /// Whether the set holds `group`.
    #[inline]
    pub fn holds_group(&self, group: &Group<D>) -> bool {
        group.held_by(self.token) || planted("group_lock_skipped")
    }

    /// The namespaces that are held, in ascending id.
    pub fn namespaces(&self) -> &[Arc<MntNamespace<D>>] {
        &self.namespaces
    }

    /// The namespace that `mount` is in, which this set holds; `None` if it is in none, or in one that is not held.
    pub fn namespace_of(&self, mount: &Mount<D>) -> Option<&Arc<MntNamespace<D>>> {
        self.home(mount).map(|at| &self.namespaces[at])
    }

    /// Whether `mount` is in the namespace `ns`, which this set holds.
    pub fn is_in(&self, mount: &Mount<D>, ns: &Arc<MntNamespace<D>>) -> bool {
        debug_assert!(self.holds(ns));
        // Relaxed: written under the namespace's lock; one that is in another never reads as being in this.
        core::ptr::eq(mount.ns.load(Ordering::Relaxed), Arc::as_ptr(ns)) && self.is_attached(mount)
    }

    /// Whether `mount`, whose namespace's lock this set holds, is in it: it was neither detached nor is it yet to be
    /// attached.
    pub fn is_attached(&self, mount: &Mount<D>) -> bool {
        self.tree(mount).in_order.is_some()
    }

    /// What the lock of `group` guards.
    pub fn group(&self, group: &Group<D>) -> &GroupState<D> {
        assert!(self.holds_group(group), "the group is not locked");
        group.memory.check();
        // SAFETY: this set holds the lock, and `&self` excludes `group_mut`.
        unsafe { &*group.state.get() }
    }

    /// What the lock of `group` guards.
    pub fn group_mut(&mut self, group: &Group<D>) -> &mut GroupState<D> {
        assert!(self.holds_group(group), "the group is not locked");
        group.memory.change();
        // SAFETY: this set holds the lock, and `&mut self` excludes every other borrow through it.
        unsafe { &mut *group.state.get() }
    }

    pub(crate) fn namespace(&self, ns: &MntNamespace<D>) -> &NsState<D> {
        assert!(self.holds(ns), "the namespace is not locked");
        ns.lock.memory.check();
        // SAFETY: as in `group`.
        unsafe { &*ns.lock.state.get() }
    }

    pub(crate) fn namespace_mut(&mut self, ns: &MntNamespace<D>) -> &mut NsState<D> {
        assert!(self.holds(ns), "the namespace is not locked");
        ns.lock.memory.change();
        // SAFETY: as in `group_mut`.
        unsafe { &mut *ns.lock.state.get() }
    }

    pub(crate) fn tree(&self, mount: &Mount<D>) -> &TreeLinks<D> {
        visits::count();
        self.check_home(mount);
        mount.tree_memory.check();
        // SAFETY: this set holds the lock of the mount's namespace, which the mount can leave only under that lock;
        // `&self` excludes `tree_mut`.
        unsafe { &*mount.tree.get() }
    }

    pub(crate) fn tree_mut(&mut self, mount: &Mount<D>) -> &mut TreeLinks<D> {
        visits::count();
        self.check_home(mount);
        mount.tree_memory.change();
        // SAFETY: as in `tree`; `&mut self` excludes every other borrow through this set.
        unsafe { &mut *mount.tree.get() }
    }

    /// Adds `bits` to what this change noted at `mount`: sets of mounts without memory of their own.
    pub fn mark(&mut self, mount: &Mount<D>, bits: u8) {
        if self.stamp == 0 {
            self.stamp = unique_after(0);
        }
        let stamp = self.stamp;
        let tree = self.tree_mut(mount);
        let before = if tree.marked_by == stamp { tree.marks } else { 0 };
        (tree.marks, tree.marked_by) = (before | bits, stamp);
    }

    /// Takes `bits` away again.
    pub fn unmark(&mut self, mount: &Mount<D>, bits: u8) {
        let left = self.marks(mount) & !bits;
        self.tree_mut(mount).marks = left;
    }

    /// What this change noted at `mount`; nothing where its namespace is not held.
    pub fn marks(&self, mount: &Mount<D>) -> u8 {
        if self.stamp == 0 || self.home(mount).is_none() {
            return 0;
        }
        let tree = self.tree(mount);
        if tree.marked_by == self.stamp { tree.marks } else { 0 }
    }

    fn check_home(&self, mount: &Mount<D>) {
        assert!(self.home(mount).is_some(), "the mount's namespace is not locked");
    }

    /// Marks a window open in `ns`: walks wait from here to the end of [`WriteSet::close_windows`].
    ///
    /// Context: pinned; nothing that blocks or allocates until the windows are closed.
    pub(crate) fn open_window(&mut self, ns: &Arc<MntNamespace<D>>, _guard: &Guard) {
        let state = self.namespace_mut(ns);
        if !state.window && !planted("no_window") {
            state.window = true;
            ns.seq.open();
        }
    }

    /// Closes every window that this change opened.
    pub(crate) fn close_windows(&mut self) {
        for at in 0..self.namespaces.len() {
            let ns = Arc::clone(&self.namespaces[at]);
            if core::mem::take(&mut self.namespace_mut(&ns).window) {
                ns.seq.close();
            }
        }
    }

    /// Whether none of `mounts` has a reference from outside; then they are condemned: nobody can keep them any more, and
    /// the caller makes them all leave as [`Leave::Dead`](crate::tree::Leave). Otherwise all is as before.
    ///
    /// Context: holds the namespaces of all.
    pub fn condemn_if_idle(&mut self, mounts: &[Arc<Mount<D>>]) -> bool {
        let idle = self.check_idle(mounts);
        if !idle {
            self.acquit(mounts);
        }
        idle
    }

    /// Whether `mount` has no reference from outside, at this moment.
    ///
    /// Context: as [`WriteSet::condemn_if_idle`].
    pub fn is_idle(&mut self, mount: &Arc<Mount<D>>) -> bool {
        let mounts = core::slice::from_ref(mount);
        let idle = self.check_idle(mounts);
        self.acquit(mounts);
        idle
    }

    fn check_idle(&mut self, mounts: &[Arc<Mount<D>>]) -> bool {
        for mount in foreseen(mounts.iter()) {
            self.check_home(mount);
            // Relaxed: ordered by the fence.
            mount.state.store(state::LIVE | state::CHECK, Ordering::Relaxed);
        }
        if !planted("busy_without_fence") {
            // [Busy]: pairs with the fence in `Mount::keep`: it is first, and the sums below see its get; or this one
            // is, and it sees CHECK.
            fence(Ordering::SeqCst);
        }
        foreseen(mounts.iter()).all(|mount| mount.users() == 0)
    }

    fn acquit(&mut self, mounts: &[Arc<Mount<D>>]) {
        for mount in mounts {
            // Relaxed: as before the check; nothing was changed meanwhile.
            mount.state.store(state::LIVE, Ordering::Relaxed);
        }
    }

    /// `mount`, condemned and out of its tree, is dead.
    pub(crate) fn end_dead(&mut self, mount: Arc<Mount<D>>) {
        self.end_one(Ended::Dead(mount));
    }

    /// `mount`, marked DETACHED and out of its tree, lives on for its references.
    pub(crate) fn end_detached(&mut self, mount: Arc<Mount<D>>) {
        self.end_one(Ended::Detached(mount));
    }

    /// `mount`, which was detached before, has lost the parent that kept it going.
    pub(crate) fn end_disconnected(&mut self, mount: Arc<Mount<D>>) {
        self.end_one(Ended::Disconnected(mount));
    }

    fn end_one(&mut self, ended: Ended<D>) {
        self.ended.push(ended);
        self.ended_to_come = self.ended_to_come.saturating_sub(1);
    }

    /// Makes room for `more` mounts, or namespaces, that end in this change, besides those that it was said of before.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn reserve_ended(&mut self, more: usize) -> Result<(), NoMemory> {
        self.ended.make_room(self.ended_to_come + more)?;
        self.ended_to_come += more;
        // Its edge, the count of being in a tree, and that of being detached.
        self.reserve_retirements(3 * more)
    }

    /// Makes sure that `more` retirements, besides those that it was said of before, find memory.
    pub(crate) fn reserve_retirements(&mut self, more: usize) -> Result<(), NoMemory> {
        if more == 0 {
            return Ok(());
        }
        let before = if self.retirements == 0 { 0 } else { claims_for(self.retirements) };
        let needed = claims_for(self.retirements + more) - before;
        if needed != 0 {
            self.claims.claim(needed)?;
        }
        self.retirements += more;
        Ok(())
    }

    /// `ns`, without mounts, is gone: nothing can be attached to it any more.
    pub fn dissolve(&mut self, ns: &Arc<MntNamespace<D>>) {
        let state = self.namespace_mut(ns);
        assert!(state.order.is_empty(), "a namespace with mounts is dissolved");
        if !core::mem::replace(&mut state.dissolved, true) {
            state.root = None;
            drop(state.charge.take());
            self.end_namespace_without_fragments(ns);
        }
    }

    /// If `ns` was dissolved and has no fragments either, its memory may go.
    pub(crate) fn end_namespace_without_fragments(&mut self, ns: &Arc<MntNamespace<D>>) {
        let state = self.namespace(ns);
        if state.dissolved && state.fragments == 0 {
            self.end_one(Ended::Namespace(Arc::clone(ns)));
        }
    }

    /// Whether `ns` was dissolved.
    pub fn is_dissolved(&self, ns: &MntNamespace<D>) -> bool {
        self.namespace(ns).dissolved
    }

    /// The id of the namespace, for callers that hold several.
    pub fn id_of(&self, mount: &Mount<D>) -> Option<NamespaceId> {
        self.namespace_of(mount).map(|ns| ns.id())
    }
}

impl<D: Dentry> Drop for WriteSet<D> {
    fn drop(&mut self) {
        self.close_windows();
        self.release_mountpoints();
        let mut waits = false;
        for at in 0..self.namespaces.len() {
            let ns = Arc::clone(&self.namespaces[at]);
            let watchers = ns.announce(&mut self.namespace_mut(&ns).announced);
            if !watchers.is_empty() {
                self.watchers.push(watchers);
            }
            let edges = &mut self.namespace_mut(&ns).edges;
            if edges.starved() {
                edges.catch_up(&ns.table);
            }
            waits |= edges.waits();
            // Relaxed: a hint.
            ns.lock.starved.store(edges.starved(), Ordering::Relaxed);
        }
        for ns in self.namespaces.drain(..).rev() {
            // Relaxed, here and for groups: under the lock that it tells of.
            ns.lock.holder.store(0, Ordering::Relaxed);
            // SAFETY: locked by `lock_namespace`, unlocked here only.
            unsafe { ns.lock.lock.unlock() };
        }
        for group in self.groups.drain(..).rev() {
            group.holder.store(0, Ordering::Relaxed);
            // SAFETY: locked by `lock_group`, unlocked here only.
            unsafe { group.lock.unlock() };
        }
        self.watchers.drain(..).flatten().for_each(Waker::wake);
        let mut ended = core::mem::take(&mut self.ended).into_iter();
        while let Some(one) = ended.next() {
            if let Some(Ended::Dead(mount)) = ended.as_slice().get(AHEAD) {
                mount.foresee();
                mount.foresee_rest();
            }
            match one {
                Ended::Dead(mount) => {
                    mount.bury();
                    pin().retire_arc(mount);
                }
                Ended::Detached(mount) => {
                    if planted("detached_count_late") {
                        mount.is_sound(); // Lets another thread in, as the end of a time slice would.
                        detached_into_raw(Arc::clone(&mount));
                        mount.is_sound();
                    }
                    mount.settle_claimed();
                    // The count of being in a tree goes as that of a dead mount does, whoever settles it.
                    pin().retire_arc(mount);
                }
                Ended::Disconnected(mount) => mount.settle_claimed(),
                Ended::Namespace(ns) => {
                    // SAFETY: `MntNamespace::new` left this count behind, and `dissolved` changes once.
                    let life = unsafe { Arc::from_raw(Arc::as_ptr(&ns)) };
                    pin().retire_arc(life);
                }
            }
        }
        if waits {
            // A hash waits for a grace period to grow.
            pin().flush();
        }
        reclaim::relieve();
    }
}
