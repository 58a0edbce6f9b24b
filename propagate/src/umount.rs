//! Taking mounts out of a tree, and their counterparts with them.
//!
//! Let V be the mounts that the caller removes: one, or a whole tree (lazily).
//!
//! - **Candidates**: for each v in V, in each receiver of its parent, what is attached on the same dentry, whatever it is.
//! - **Kept**: a candidate stays if a child of it that is not on its root, or anything below that child, stays. What is
//!   on its root never saves it.
//! - **Sliding down**: the mount on the root of one that goes, if it stays itself, is re-attached where the bottom of the
//!   removed stack was.
//! - **Busy** (not lazy): one reference from outside to anything that would go, anywhere, and nothing goes.
//!
//! What goes leaves the propagation graph; its slaves go to its next peer that stays, else up the chain of masters.
//! Nothing here waits for readers: see [`mnt_table::mount`] for why that is right.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;

use mnt_table::tree::{Joint, Leave};
use mnt_table::{Dentry, MntNamespace, Mount, WriteSet, pin};

use crate::graph::{is_shared, leave_graph, missing_groups};
use crate::receivers::{depth_first, receivers};
use crate::{Error, Retry};

/// What goes.
struct Plan<D: Dentry> {
    /// In the order in which they leave the propagation graph.
    leaving: Vec<Arc<Mount<D>>>,
    /// Children before parents.
    going: Vec<Going<D>>,
}

/// A mount that goes, and what slides down into its place.
struct Going<D: Dentry> {
    mount: Arc<Mount<D>>,
    slides: Option<(Arc<Mount<D>>, Joint<D>)>,
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
        locks.reserve_ended(1)?;
        if !locks.condemn_if_idle(&[(Arc::clone(mount), 0)]) {
            return Err(Error::Busy.into());
        }
        leave_alone(locks, mount, Leave::Dead);
        return Ok(0);
    }
    let removed = alloc::vec![Arc::clone(mount)];
    let plan = plan(locks, removed, true)?;
    let all: Vec<_> = plan.leaving.iter().map(|mount| (Arc::clone(mount), 0)).collect();
    if !locks.condemn_if_idle(&all) {
        return Err(Error::Busy.into());
    }
    Ok(commit(locks, plan, Leave::Dead) - 1)
}

/// Removes `mount` and everything below it, now, whoever uses it. Returns the number of mounts that went along
/// elsewhere.
///
/// # Errors
/// `ENOMEM`. Also: missing locks.
pub fn detach<D: Dentry>(locks: &mut WriteSet<D>, mount: &Arc<Mount<D>>) -> Result<usize, Retry<D>> {
    if locks.is_leaf(mount) && concerns_nobody_else(locks, mount)? {
        locks.reserve_ended(1)?;
        leave_alone(locks, mount, Leave::Detached);
        return Ok(0);
    }
    let removed = locks.subtree(mount);
    let own = removed.len();
    let plan = plan(locks, removed, true)?;
    Ok(commit(locks, plan, Leave::Detached) - own)
}

/// Removes everything in `ns`, without propagation, and dissolves it: the end of a namespace. Returns how many mounts it
/// had.
///
/// # Errors
/// `ENOMEM`. Also: missing locks.
pub fn dissolve<D: Dentry>(locks: &mut WriteSet<D>, ns: &Arc<MntNamespace<D>>) -> Result<usize, Retry<D>> {
    let removed = locks.root(ns).cloned().map_or(Vec::new(), |root| locks.subtree(&root));
    let plan = plan(locks, removed, false)?;
    let gone = commit(locks, plan, Leave::Detached);
    locks.dissolve(ns);
    Ok(gone)
}

/// Removes what is attached on `dentry` in `ns`, without propagation: the directory entry was removed from elsewhere.
///
/// # Errors
/// `ENOMEM`. Also: missing locks.
pub fn detach_from<D: Dentry>(
    locks: &mut WriteSet<D>,
    ns: &Arc<MntNamespace<D>>,
    dentry: &Arc<D>,
) -> Result<usize, Retry<D>> {
    let mut removed = Vec::new();
    for mount in locks.mounts_on(ns, dentry) {
        // One may be below another.
        if !removed.iter().any(|seen| Arc::ptr_eq(seen, &mount)) {
            removed.extend(locks.subtree(&mount));
        }
    }
    let mut seen = BTreeSet::new();
    removed.retain(|mount| seen.insert(mount.unique_id()));
    let plan = plan(locks, removed, false)?;
    Ok(commit(locks, plan, Leave::Detached))
}

/// Whether the end of `mount`, a leaf, has no counterparts: the usual case, for which no plan is needed.
///
/// # Errors
/// Missing locks, of its own groups as well.
fn concerns_nobody_else<D: Dentry>(locks: &WriteSet<D>, mount: &Arc<Mount<D>>) -> Result<bool, Retry<D>> {
    if let Some(parent) = locks.parent(mount).filter(|parent| is_shared(parent)) {
        let receivers = receivers(locks, parent).map_err(|closure| Retry::With(alloc::vec![closure]))?;
        if !receivers.is_empty() {
            return Ok(false);
        }
    }
    let missing = missing_groups(locks, [mount]);
    if missing.is_empty() { Ok(true) } else { Err(Retry::With(missing)) }
}

/// Removes a leaf that concerns nobody else: one edge, so no window.
fn leave_alone<D: Dentry>(locks: &mut WriteSet<D>, mount: &Arc<Mount<D>>, how: Leave) {
    leave_graph(locks, mount, |_| true);
    locks.leave(mount, how, &pin());
}

/// All that goes.
fn plan<D: Dentry>(
    locks: &mut WriteSet<D>,
    removed: Vec<Arc<Mount<D>>>,
    propagates: bool,
) -> Result<Plan<D>, Retry<D>> {
    let mut fates = Fates { known: BTreeMap::new() };
    for mount in &removed {
        fates.known.insert(mount.unique_id(), Fate { goes: true, wholly: true });
    }
    let candidates = if propagates { candidates(locks, &removed)? } else { Vec::new() };
    let eligible: BTreeSet<u64> = candidates.iter().map(|mount| mount.unique_id()).collect();
    for candidate in &candidates {
        fates.decide(locks, candidate, &eligible);
    }
    let along = in_order(locks, &removed, candidates.into_iter().rev().filter(|mount| fates.goes(mount)));
    let leaving: Vec<Arc<Mount<D>>> = removed.into_iter().chain(along).collect();
    let missing = missing_groups(locks, &leaving);
    if !missing.is_empty() {
        return Err(Retry::With(missing));
    }
    locks.reserve_ended(leaving.len())?;
    let mut going = Vec::new();
    going.try_reserve_exact(leaving.len()).map_err(|_| Error::NoMemory)?;
    for mount in departing(locks, &leaving, &fates) {
        let slides = match survivor(locks, &mount, &fates) {
            Some(upper) => {
                let parent =
                    Arc::clone(locks.parent(&mount).expect("only attached mounts have counterparts"));
                let dentry = Arc::clone(locks.mountpoint(&mount).expect("it has a parent"));
                let joint = locks.prepare(&upper, &parent, &dentry)?;
                Some((upper, joint))
            }
            None => None,
        };
        going.push(Going { mount, slides });
    }
    Ok(Plan { leaving, going })
}

/// `along`, the counterparts that go, in the order in which they leave the graph: first those on which nothing is left
/// when their turn comes, then the others, each followed by those of its ancestors that are still there.
fn in_order<D: Dentry>(
    locks: &WriteSet<D>,
    removed: &[Arc<Mount<D>>],
    along: impl Iterator<Item = Arc<Mount<D>>>,
) -> Vec<Arc<Mount<D>>> {
    let mut gone: BTreeSet<u64> = removed.iter().map(|mount| mount.unique_id()).collect();
    let mut order = Vec::new();
    let mut later = Vec::new();
    for mount in along {
        if locks.children(&mount).all(|child| gone.contains(&child.unique_id())) {
            gone.insert(mount.unique_id());
            order.push(mount);
        } else {
            later.push(mount);
        }
    }
    let mut waiting: BTreeSet<u64> = later.iter().map(|mount| mount.unique_id()).collect();
    for mount in later {
        let mut at = Some(mount);
        while let Some(mount) = at.filter(|mount| waiting.remove(&mount.unique_id())) {
            at = locks.parent(&mount).cloned();
            order.push(mount);
        }
    }
    order
}

/// The counterparts of `removed` in the receivers of their parents, each once.
fn candidates<D: Dentry>(
    locks: &WriteSet<D>,
    removed: &[Arc<Mount<D>>],
) -> Result<Vec<Arc<Mount<D>>>, Retry<D>> {
    let mut seen: BTreeSet<u64> = removed.iter().map(|mount| mount.unique_id()).collect();
    let mut found = Vec::new();
    let mut missing = Vec::new();
    for mount in removed {
        let Some(parent) = locks.parent(mount).filter(|parent| is_shared(parent)) else { continue };
        let on = locks.mountpoint(mount).expect("it has a parent");
        match depth_first(locks, parent) {
            Err(closure) => missing.push(closure),
            Ok(receivers) => found.extend(
                receivers
                    .iter()
                    .filter_map(|receiver| locks.child_at(receiver, on))
                    .filter(|mount| seen.insert(mount.unique_id())),
            ),
        }
    }
    if missing.is_empty() { Ok(found) } else { Err(Retry::With(missing)) }
}

#[derive(Clone, Copy)]
struct Fate {
    goes: bool,
    /// It and everything below it goes.
    wholly: bool,
}

struct Fates {
    known: BTreeMap<u64, Fate>,
}

impl Fates {
    fn goes<D: Dentry>(&self, mount: &Mount<D>) -> bool {
        self.known.get(&mount.unique_id()).is_some_and(|fate| fate.goes)
    }

    /// Decides about `candidate` and every candidate below it, children first, without recursion.
    fn decide<D: Dentry>(
        &mut self,
        locks: &WriteSet<D>,
        candidate: &Arc<Mount<D>>,
        eligible: &BTreeSet<u64>,
    ) {
        let mut waiting = alloc::vec![(Arc::clone(candidate), false)];
        while let Some((mount, children_decided)) = waiting.pop() {
            let id = mount.unique_id();
            if self.known.contains_key(&id) {
                continue;
            }
            if !eligible.contains(&id) {
                // It stays; what is below it is no concern of those above it.
                self.known.insert(id, Fate { goes: false, wholly: false });
            } else if !children_decided {
                waiting.push((Arc::clone(&mount), true));
                waiting.extend(locks.children(&mount).map(|child| (Arc::clone(child), false)));
            } else {
                let wholly = |child: &Arc<Mount<D>>| self.known[&child.unique_id()].wholly;
                let on_root = |child: &Arc<Mount<D>>| {
                    locks.mountpoint(child).is_some_and(|on| Arc::ptr_eq(on, mount.root()))
                };
                let goes = locks.children(&mount).all(|child| on_root(child) || wholly(child));
                let wholly = goes && locks.children(&mount).all(wholly);
                self.known.insert(id, Fate { goes, wholly });
            }
        }
    }
}

/// The first mount of the stack on `mount`'s root that stays.
fn survivor<D: Dentry>(locks: &WriteSet<D>, mount: &Arc<Mount<D>>, fates: &Fates) -> Option<Arc<Mount<D>>> {
    core::iter::successors(locks.overmount(mount), |upper| locks.overmount(upper))
        .find(|upper| !fates.goes(upper))
}

/// `leaving` with children before parents.
///
/// What slides down comes last among the children of its new parent, so the order of those is that of `leaving`: of the
/// mounts on whose roots they were. Mounts that go and hang together leave one place between them, so one at most slides
/// into it.
fn departing<D: Dentry>(locks: &WriteSet<D>, leaving: &[Arc<Mount<D>>], fates: &Fates) -> Vec<Arc<Mount<D>>> {
    let lowest = |mount: &Arc<Mount<D>>| {
        let above = core::iter::successors(Some(mount), |mount| locks.parent(mount));
        let going = above.take_while(|mount| fates.goes(mount));
        going.fold((0, 0), |(count, _), mount| (count + 1, mount.unique_id()))
    };
    let mut ranks: BTreeMap<u64, usize> = BTreeMap::new();
    let mut keyed = Vec::new();
    for (rank, mount) in leaving.iter().enumerate() {
        let (depth, root) = lowest(mount);
        if locks.overmount(mount).is_some_and(|upper| !fates.goes(&upper)) {
            ranks.insert(root, rank);
        }
        keyed.push((root, depth, mount));
    }
    keyed.sort_by_key(|(root, depth, _)| (ranks.get(root), *root, core::cmp::Reverse(*depth)));
    keyed.into_iter().map(|(_, _, mount)| Arc::clone(mount)).collect()
}

/// Removes them. Returns how many.
fn commit<D: Dentry>(locks: &mut WriteSet<D>, Plan { leaving, going }: Plan<D>, how: Leave) -> usize {
    let count = going.len();
    let goes: BTreeSet<u64> = leaving.iter().map(|mount| mount.unique_id()).collect();
    for mount in &leaving {
        leave_graph(locks, mount, |peer| !goes.contains(&peer.unique_id()));
    }
    let mut changes: BTreeMap<_, (Arc<MntNamespace<D>>, usize)> = BTreeMap::new();
    for Going { mount, slides } in &going {
        let ns = locks.namespace_of(mount).expect("the plan found it in its namespace");
        let weight = if slides.is_some() { 2 } else { 1 };
        changes.entry(ns.id()).or_insert_with(|| (Arc::clone(ns), 0)).1 += weight;
    }
    let guard = pin();
    for (ns, weight) in changes.values() {
        if *weight > 1 {
            locks.begin(ns, &guard);
        }
    }
    for Going { mount, slides } in going {
        match slides {
            Some((upper, joint)) => locks.leave_beneath(&mount, how, &upper, joint, &guard),
            None => locks.leave(&mount, how, &guard),
        }
    }
    locks.end();
    count
}
