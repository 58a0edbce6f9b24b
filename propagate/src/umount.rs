//! Taking mounts out of a tree, and their counterparts with them.
//!
//! Let V be the mounts that the caller removes: one, or a whole tree (lazily).
//!
//! - **Candidates** (C1): for each v in V, in each receiver of its parent, what is attached on the same dentry, whatever it
//!   is.
//! - **Kept** (C2, C3): a candidate stays if a child of it that is not on its root, or anything below that child, stays.
//!   What is on its root never saves it.
//! - **Locked** (C4): a locked candidate goes only together with its parent. Of a chain of candidates, each the parent of
//!   the one before, all go if what is above the chain goes; else those up to the highest that is not locked.
//! - **Unlocked**: the counterparts of the top of V are locked no more, whether they go or not.
//! - **Sliding down** (C6): the mount on the root of one that goes, if it stays itself, is re-attached where the bottom of
//!   the removed stack was.
//! - **Connected** (L2, L3): what goes lazily is taken from its parent, unless that goes too and it is locked, or the whole
//!   tree ends as one.
//! - **Busy** (not lazy): one reference from outside to anything that would go, anywhere, and nothing goes.
//!
//! What goes leaves the propagation graph; its slaves go to its next peer that stays, else up the chain of masters
//! ([`crate::heirs`]).
//!
//! # What it costs
//! Proportional to what goes, and to the counterparts and the receivers that were looked at for them: each receiver once for
//! every dentry that something is removed from, however many mounts are removed from it (`counterparts`). From there
//! on every mount is touched a bounded number of times: as a candidate and as a child of one it is decided once, stacks are
//! disjoint when something slides down them, a chain that a lock holds back is given up as a whole, and heirs are remembered.
//!
//! Nothing here waits for readers: see [`mnt_table::mount`] for why that is right.

use alloc::sync::Arc;
use alloc::vec::Vec;

use hashbrown::{HashMap, HashSet};
use mnt_table::foresight::{AHEAD, foreseen};
use mnt_table::list::NoMemory;
use mnt_table::memory::Grow;
use mnt_table::namespace::NamespaceId;
use mnt_table::tree::{Joint, Leave};
use mnt_table::{Dentry, Kind, MntNamespace, Mount, WriteSet, memory, pin};
use smallvec::SmallVec;

use crate::graph::{is_shared, missing_groups, need_groups};
use crate::heirs::Heirs;
use crate::receivers::has_receivers;
use crate::{Error, Retry};

mod counterparts;

use counterparts::{Found, decide};

/// How mounts are removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// All must be idle, and die.
    Now,
    /// They live for whoever uses them. Locked ones stay connected to a parent that goes too.
    Lazily,
    /// As `Lazily`, and all stay connected.
    AsOne,
}

/// What goes.
struct Plan<D: Dentry> {
    /// In the order in which they leave the propagation graph.
    leaving: Vec<Arc<Mount<D>>>,
    /// Who gets their slaves.
    heirs: Heirs<D>,
    /// The same, children before parents, if any has children.
    going: Option<Vec<Arc<Mount<D>>>>,
    /// What slides down, and where to.
    sliding: Vec<(Arc<Mount<D>>, Joint<D>)>,
    /// What is not locked any more.
    unlocked: Vec<Arc<Mount<D>>>,
    changes: Changes<D>,
}

/// Removes `mount` alone: it and its counterparts must be idle. Returns the number of counterparts that went along.
///
/// # Errors
/// `EBUSY`: it has children, or a reference from outside to it or to a counterpart. `ENOMEM`. Also: missing locks.
pub fn umount<D: Dentry>(locks: &mut WriteSet<D>, mount: &Arc<Mount<D>>) -> Result<usize, Retry<D>> {
    if !locks.is_leaf(mount) {
        return Err(Error::Busy.into());
    }
    if concerns_nobody_else(locks, mount)? {
        let heirs = reserve_alone(locks, mount)?;
        if !locks.condemn_if_idle(core::slice::from_ref(mount)) {
            return Err(Error::Busy.into());
        }
        leave_alone(locks, mount, heirs, Leave::Dead);
        return Ok(0);
    }
    let plan = plan(locks, memory::collect([Arc::clone(mount)])?, true)?;
    if !locks.condemn_if_idle(&plan.leaving) {
        return Err(Error::Busy.into());
    }
    Ok(commit(locks, plan, Manner::Now) - 1)
}

/// Removes `mount` and everything below it, now, whoever uses it. Returns the number of mounts that went along
/// elsewhere.
///
/// # Errors
/// `ENOMEM`. Also: missing locks.
pub fn detach<D: Dentry>(locks: &mut WriteSet<D>, mount: &Arc<Mount<D>>) -> Result<usize, Retry<D>> {
    if locks.is_leaf(mount) && concerns_nobody_else(locks, mount)? {
        let heirs = reserve_alone(locks, mount)?;
        leave_alone(locks, mount, heirs, Leave::Detached);
        return Ok(0);
    }
    let removed = locks.subtree(mount)?;
    let own = removed.len();
    let plan = plan(locks, removed, true)?;
    Ok(commit(locks, plan, Manner::Lazily) - own)
}

/// Removes everything in `ns`, without propagation, and dissolves it: the end of a namespace. The tree of an anonymous one
/// stays connected. Returns how many mounts it had.
///
/// # Errors
/// `ENOMEM`. Also: missing locks.
pub fn dissolve<D: Dentry>(locks: &mut WriteSet<D>, ns: &Arc<MntNamespace<D>>) -> Result<usize, Retry<D>> {
    let removed = locks.root(ns).map_or(Ok(Vec::new()), |root| locks.subtree(root))?;
    // The namespace itself.
    locks.reserve_ended(1)?;
    let plan = plan(locks, removed, false)?;
    let manner = if ns.kind() == Kind::Anonymous { Manner::AsOne } else { Manner::Lazily };
    let gone = commit(locks, plan, manner);
    locks.dissolve(ns);
    Ok(gone)
}

/// Removes what is attached on `dentry` in `ns`, without propagation: the directory entry was removed from elsewhere. What
/// is below stays connected, but nothing stays on the dentry.
///
/// # Errors
/// `ENOMEM`. Also: missing locks.
pub fn detach_from<D: Dentry>(
    locks: &mut WriteSet<D>,
    ns: &Arc<MntNamespace<D>>,
    dentry: &Arc<D>,
) -> Result<usize, Retry<D>> {
    let here: Vec<_> = memory::collect(locks.mounts_on(ns, dentry).cloned())?;
    let mut removed = Vec::new();
    for mount in here.iter().filter(|mount| locks.is_attached(mount)) {
        removed.try_extend(locks.subtree(mount)?)?;
    }
    // One may be below another.
    let mut seen = HashSet::new();
    seen.try_reserve(removed.len()).map_err(|_| Error::NoMemory)?;
    removed.retain(|mount| seen.insert(mount.unique_id()));
    // Those that are connected here, or will be; and the namespace, if it is gone and they are the last.
    locks.reserve_ended(here.len() + 1)?;
    let plan = plan(locks, removed, false)?;
    let gone = commit(locks, plan, Manner::AsOne);
    let guard = pin();
    for mount in &here {
        if locks.namespace_of(mount).is_some() && locks.parent(mount).is_some() {
            locks.disconnect(mount, &guard);
        }
    }
    Ok(gone)
}

/// Whether the end of `mount`, a leaf, has no counterparts: the usual case, for which no plan is needed.
///
/// # Errors
/// Missing locks, of its own groups as well; `ENOMEM`.
fn concerns_nobody_else<D: Dentry>(locks: &WriteSet<D>, mount: &Arc<Mount<D>>) -> Result<bool, Retry<D>> {
    if let Some(parent) = locks.parent(mount)
        && has_receivers(locks, parent)?
    {
        return Ok(false);
    }
    need_groups(locks, [mount])?;
    Ok(true)
}

/// Makes room for [`leave_alone`].
fn reserve_alone<D: Dentry>(locks: &mut WriteSet<D>, mount: &Arc<Mount<D>>) -> Result<Heirs<D>, NoMemory> {
    locks.reserve_ended(1)?;
    Heirs::find(locks, [(0, mount)], |_, _| true)
}

/// Removes a leaf that concerns nobody else: one edge, so no window.
fn leave_alone<D: Dentry>(locks: &mut WriteSet<D>, mount: &Arc<Mount<D>>, mut heirs: Heirs<D>, how: Leave) {
    heirs.leave(locks, 0, mount);
    locks.leave(mount, how, &pin());
}

/// What a plan notes at mounts ([`WriteSet::mark`]).
mod mark {
    /// Is a candidate.
    pub(super) const CANDIDATE: u8 = 1;
    /// It was decided whether it could go, as far as what is below it is concerned.
    pub(super) const DECIDED: u8 = 2;
    /// It could.
    pub(super) const WILLING: u8 = 4;
    /// And so could everything below it.
    pub(super) const WHOLLY: u8 = 8;
    /// It is not locked any more.
    pub(super) const UNLOCKED: u8 = 16;
    /// It is willing, and waits for its turn.
    pub(super) const WAITS: u8 = 32;
    /// It goes.
    pub(super) const GOES: u8 = 64;
    /// The caller removes it, and it was met as a counterpart of another one that the caller removes.
    pub(super) const MET: u8 = 128;
}

fn goes<D: Dentry>(locks: &WriteSet<D>, mount: &Mount<D>) -> bool {
    locks.marks(mount) & mark::GOES != 0
}

/// All that goes.
fn plan<D: Dentry>(
    locks: &mut WriteSet<D>,
    removed: Vec<Arc<Mount<D>>>,
    propagates: bool,
) -> Result<Plan<D>, Retry<D>> {
    for mount in &removed {
        locks.mark(mount, mark::GOES | mark::DECIDED | mark::WHOLLY);
    }
    let found = if propagates { Found::all(locks, &removed)? } else { Found::default() };
    for candidate in &found.nested {
        decide(locks, candidate)?;
    }
    let mut leaving = removed;
    leave_in_order(locks, &mut leaving, found.candidates)?;
    let mut missing = Vec::new();
    let mut shared = Vec::new();
    let mut nested = false;
    let mut changes = Changes::default();
    for (turn, mount) in foreseen(leaving.iter()).enumerate() {
        missing.try_extend(missing_groups(locks, mount).into_iter().flatten())?;
        if is_shared(mount) {
            shared.try_push((turn, mount))?;
        }
        nested |= !locks.is_leaf(mount);
        changes.count(locks, mount)?;
    }
    if !missing.is_empty() {
        return Err(Retry::With(missing));
    }
    let heirs = Heirs::find(locks, shared, |locks, mount| !goes(locks, mount))?;
    locks.reserve_ended(leaving.len())?;
    let mut sliding = Vec::new();
    let mut going = None;
    if nested {
        for mount in leaving.iter() {
            let Some(upper) = locks.overmount(mount).filter(|upper| !goes(locks, upper)) else { continue };
            let bottom = bottom(locks, mount);
            let parent = Arc::clone(locks.parent(bottom).expect("only attached mounts have counterparts"));
            let dentry = Arc::clone(locks.mountpoint(bottom).expect("it has a parent"));
            let joint = locks.prepare(&upper, &parent, &dentry)?;
            changes.count(locks, &upper)?;
            sliding.try_push((upper, joint))?;
        }
        going = Some(children_first(locks, &leaving)?);
    }
    Ok(Plan { leaving, heirs, going, sliding, unlocked: found.unlocked, changes })
}

/// Adds to `leaving` those of `candidates`, from the last, that go, in the order in which they leave the graph: first
/// those that are not locked and on which nothing is left when their turn comes, then the others, each followed by
/// those of its ancestors that go with it.
fn leave_in_order<D: Dentry>(
    locks: &mut WriteSet<D>,
    leaving: &mut Vec<Arc<Mount<D>>>,
    candidates: Vec<Arc<Mount<D>>>,
) -> Result<(), NoMemory> {
    let locked = |locks: &WriteSet<D>, mount: &Mount<D>| {
        locks.is_locked(mount) && locks.marks(mount) & mark::UNLOCKED == 0
    };
    let mut later = Vec::new();
    leaving.make_room(candidates.len())?;
    let mut candidates = candidates.into_iter();
    while let Some(mount) = candidates.next_back() {
        if let Some(ahead) = candidates.as_slice().len().checked_sub(AHEAD) {
            candidates.as_slice()[ahead].foresee();
        }
        if locks.marks(&mount) & mark::WILLING == 0 {
            continue;
        }
        if !locked(locks, &mount) && locks.children(&mount).all(|child| goes(locks, child)) {
            locks.mark(&mount, mark::GOES);
            leaving.try_push(mount)?;
        } else {
            locks.mark(&mount, mark::WAITS);
            later.try_push(mount)?;
        }
    }
    for mount in later {
        let mut chain = Vec::new();
        let mut at = Some(mount);
        while let Some(mount) = at.clone().filter(|mount| locks.marks(mount) & mark::WAITS != 0) {
            at = locks.parent(&mount).cloned();
            chain.try_push(mount)?;
        }
        let end = if at.is_some_and(|above| goes(locks, &above)) {
            chain.len()
        } else {
            chain.iter().rposition(|mount| !locked(locks, mount)).map_or(0, |highest| highest + 1)
        };
        for (at, mount) in chain.into_iter().enumerate() {
            // Those above the end are all locked, beneath one that stays for good: no chain gets past them any more.
            locks.unmark(&mount, mark::WAITS);
            if at < end {
                locks.mark(&mount, mark::GOES);
                leaving.try_push(mount)?;
            }
        }
    }
    Ok(())
}

/// The lowest mount of the stack of those that go that `mount`, which goes, is in.
fn bottom<'a, D: Dentry>(locks: &'a WriteSet<D>, mount: &'a Arc<Mount<D>>) -> &'a Arc<Mount<D>> {
    let below = |mount: &&'a Arc<Mount<D>>| {
        let (parent, on) = (locks.parent(mount)?, locks.mountpoint(mount)?);
        (goes(locks, parent) && Arc::ptr_eq(on, parent.root())).then_some(parent)
    };
    core::iter::successors(Some(mount), below).last().expect("it begins with one")
}

/// `leaving` with children before parents.
fn children_first<D: Dentry>(
    locks: &WriteSet<D>,
    leaving: &[Arc<Mount<D>>],
) -> Result<Vec<Arc<Mount<D>>>, NoMemory> {
    // How many children of each are still to come.
    let mut children: HashMap<u64, usize> = HashMap::default();
    children.try_reserve(leaving.len()).map_err(|_| NoMemory)?;
    children.extend(leaving.iter().map(|mount| (mount.unique_id(), 0)));
    for parent in leaving.iter().filter_map(|mount| locks.parent(mount)) {
        if let Some(count) = children.get_mut(&parent.unique_id()) {
            *count += 1;
        }
    }
    let mut going = Vec::new();
    going.make_room(leaving.len())?;
    going.extend(leaving.iter().filter(|mount| children[&mount.unique_id()] == 0).cloned());
    let mut next = 0;
    while let Some(mount) = going.get(next) {
        next += 1;
        let Some(parent) = locks.parent(mount) else { continue };
        let Some(count) = children.get_mut(&parent.unique_id()) else { continue };
        *count -= 1;
        if *count == 0 {
            going.push(Arc::clone(parent));
        }
    }
    Ok(going)
}

/// How many edges change in each namespace.
struct Changes<D: Dentry> {
    list: SmallVec<[(Arc<MntNamespace<D>>, usize); 1]>,
    /// Where in `list` a namespace is, if it is not the first.
    index: HashMap<NamespaceId, usize>,
    last: usize,
}

impl<D: Dentry> Default for Changes<D> {
    fn default() -> Self {
        Changes { list: SmallVec::new(), index: HashMap::default(), last: 0 }
    }
}

impl<D: Dentry> Changes<D> {
    /// One more where `mount` is.
    fn count(&mut self, locks: &WriteSet<D>, mount: &Mount<D>) -> Result<(), NoMemory> {
        let ns = locks.namespace_of(mount).expect("the plan found it in its namespace");
        // Those of one namespace come one after the other, mostly.
        let near = |at: &usize| self.list.get(*at).is_some_and(|(known, _)| Arc::ptr_eq(known, ns));
        if let Some(at) = [self.last, 0].into_iter().find(near) {
            self.last = at;
        } else if let Some(at) = self.index.get(&ns.id()) {
            self.last = *at;
        } else {
            self.last = self.list.len();
            if self.last != 0 {
                self.index.try_reserve(1).map_err(|_| NoMemory)?;
                self.index.insert(ns.id(), self.last);
            }
            self.list.try_push((Arc::clone(ns), 0))?;
        }
        self.list[self.last].1 += 1;
        Ok(())
    }
}

/// Removes them. Returns how many.
fn commit<D: Dentry>(locks: &mut WriteSet<D>, plan: Plan<D>, manner: Manner) -> usize {
    let Plan { leaving, mut heirs, going, sliding, unlocked, changes } = plan;
    unlocked.iter().for_each(|mount| locks.set_locked(mount, false));
    for (turn, mount) in foreseen(leaving.iter()).enumerate() {
        heirs.leave(locks, turn, mount);
    }
    let going = going.unwrap_or(leaving);
    let guard = pin();
    for (ns, count) in &changes.list {
        if *count > 1 {
            locks.begin(ns, &guard);
        }
    }
    // In the order in which what they are on leaves: each comes last among the children of its new parent. Its place is
    // still taken for a moment, in the window.
    for (upper, joint) in sliding {
        locks.rehang(&upper, joint, &guard);
    }
    for (turn, mount) in going.iter().enumerate() {
        locks.foresee_leaving(turn, &going);
        let with_parent = || locks.parent(mount).is_some_and(|parent| goes(locks, parent));
        let how = match manner {
            Manner::Now => Leave::Dead,
            Manner::Lazily if locks.is_locked(mount) && with_parent() => Leave::Connected,
            Manner::AsOne if with_parent() => Leave::Connected,
            Manner::Lazily | Manner::AsOne => Leave::Detached,
        };
        locks.leave(mount, how, &guard);
    }
    locks.end();
    going.len()
}
