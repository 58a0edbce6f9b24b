//! What would go along elsewhere with mounts that are removed, and what of it could.
//!
//! # Each receiver once for each dentry
//! A counterpart of `v`, which is attached on the dentry `p` in `P`, is what is on `p` in a receiver of `P`. Let the closure
//! of a peer group be its members, the slaves of all of its members, those of their peers, and so on. The receivers of `P`
//! are the closure of `P`'s group without `P`, whichever of its members `P` is. So where `P` stands in its group decides the
//! order in which counterparts are met, and what is met depends on the group and on `p` alone. Of a stack of N peers
//! on one dentry, all of which are removed, each would go through the same N receivers; the first one is enough.
//!
//! What was met once is not met again, and the first meeting alone counts for the order. So whatever adds nothing is left out,
//! and the rest stands in the order that it would have:
//!
//! - **Met**: a removed mount that was met as a counterpart of one before it is not asked for its own. It is on the same
//!   dentry `p` in a receiver `r`, and the visit that came to `r` goes through the whole closure of `r`'s group: the
//!   members of a group all have the same master, so whoever comes down to one of them by the master's list comes to all;
//!   and if `r` is a peer of the sender, the closure is the very same.
//! - **Known**: a visit that comes down to a slave in a group from which one began before, for the same dentry, passes over it
//!   and its slaves: they were in that closure. The only member that the visit before left out was its own sender, and what is
//!   there was removed by the caller.
//!
//! These are all the ways in which two visits for one dentry can overlap: closures are subtrees of the tree of groups, so
//! that one is in the other or they have nothing in common. If the later one is inside, its sender is met. If the earlier one
//! is inside, it is known. What is not shared sends nothing: no visit begins at it, and it ends one.
//!
//! Nothing here depends on whether `r` shows `p` at all, and where it does not, nothing is found there. What is *tucked* is
//! where its receiver has it, on `p`; what it went beneath hangs on it, and is not on `p` any more.
//!
//! Only the *first* of the removed mounts unlocks its counterparts; nothing was visited before it, so it meets all of them.
//!
//! # All dentries of a receiver at once
//! The children of a removed mount are all removed, and have the same receivers: these are gone through once for all of
//! them ([`Beside`]), and in each either its own children are looked at or the dentries, whichever are fewer. So M mounts
//! side by side whose N receivers have nothing there cost M and N and not their product. What is found waits for its turn,
//! and is dropped if its mount is met before that; where a visit for a dentry began before, it is left to one
//! that knows that.

use alloc::sync::Arc;
use alloc::vec::Vec;

use hashbrown::{HashMap, HashSet};
use mnt_table::foresight::foreseen;
use mnt_table::list::NoMemory;
use mnt_table::memory::{self, Grow};
use mnt_table::{Dentry, Group, Missing, Mount, WriteSet};

use super::mark;
use crate::Retry;
use crate::receivers::depth_first;

/// Counterparts of what is removed.
pub(super) struct Found<D: Dentry> {
    /// Each once.
    pub(super) candidates: Vec<Arc<Mount<D>>>,
    /// Those of them on which something is: it is for [`decide`] to say whether they could go.
    pub(super) nested: Vec<Arc<Mount<D>>>,
    /// Those of the first, which is the top, that lose their lock.
    pub(super) unlocked: Vec<Arc<Mount<D>>>,
}

impl<D: Dentry> Default for Found<D> {
    fn default() -> Self {
        Found { candidates: Vec::new(), nested: Vec::new(), unlocked: Vec::new() }
    }
}

impl<D: Dentry> Found<D> {
    /// In the receivers of the parents of `removed`.
    pub(super) fn all(locks: &mut WriteSet<D>, removed: &[Arc<Mount<D>>]) -> Result<Self, Retry<D>> {
        let mut found = Found::default();
        let mut missing = Vec::new();
        let mut begun = Begun::default();
        let mut beside = Beside::default();
        for (index, mount) in removed.iter().enumerate() {
            if locks.marks(mount) & mark::MET != 0 {
                continue;
            }
            let Some(parent) = locks.parent(mount) else { continue };
            let Some(group) =
                parent.with_propagation(|here| here.peers.as_ref().map(|(group, _)| group.clone()))
            else {
                continue;
            };
            let parent = Arc::clone(parent);
            let on = Arc::clone(locks.mountpoint(mount).expect("it has a parent"));
            let known = begun.at(&on);
            if !known && locks.marks(&parent) & mark::GOES != 0 {
                beside.look(locks, &parent, |on| begun.at(on), &mut missing)?;
            }
            // A single one has nobody to share its visit with.
            if removed.len() != 1 && !begun.begin(&group, &on)? {
                continue;
            }
            if let Some(counterparts) = beside.found.remove(&mount.unique_id()) {
                for counterpart in counterparts {
                    found.take(locks, counterpart, false)?;
                }
                continue;
            }
            let is_known = |group: &Group<D>| known && begun.has(group, &on);
            let Some(receivers) = unless_missing(depth_first(locks, &parent, is_known), &mut missing)? else {
                continue;
            };
            for (turn, receiver) in receivers.iter().enumerate() {
                locks.foresee_children(turn, &on, |turn| receivers.get(turn));
                if let Some(counterpart) = locks.child_at(receiver, &on) {
                    found.take(locks, counterpart, index == 0)?;
                }
            }
        }
        if missing.is_empty() { Ok(found) } else { Err(Retry::With(missing)) }
    }

    fn take(
        &mut self,
        locks: &mut WriteSet<D>,
        counterpart: Arc<Mount<D>>,
        of_top: bool,
    ) -> Result<(), NoMemory> {
        if of_top && locks.is_locked(&counterpart) {
            locks.mark(&counterpart, mark::UNLOCKED);
            self.unlocked.try_push(Arc::clone(&counterpart))?;
        }
        let marks = locks.marks(&counterpart);
        if marks & mark::GOES != 0 {
            locks.mark(&counterpart, mark::MET);
            return Ok(());
        }
        if marks & mark::CANDIDATE != 0 {
            return Ok(());
        }
        if locks.is_leaf(&counterpart) {
            let willing = mark::DECIDED | mark::WILLING | mark::WHOLLY;
            locks.mark(&counterpart, mark::CANDIDATE | willing);
        } else {
            locks.mark(&counterpart, mark::CANDIDATE);
            self.nested.try_push(Arc::clone(&counterpart))?;
        }
        self.candidates.try_push(counterpart)
    }
}

/// Receivers, unless locks are `missing`.
fn unless_missing<D: Dentry, R>(
    receivers: Result<R, Retry<D>>,
    missing: &mut Vec<Missing<D>>,
) -> Result<Option<R>, Retry<D>> {
    match receivers {
        Ok(receivers) => Ok(Some(receivers)),
        Err(Retry::With(closure)) => {
            missing.try_extend(closure)?;
            Ok(None)
        }
        Err(failed) => Err(failed),
    }
}

/// Counterparts that were found before their turn.
struct Beside<D: Dentry> {
    /// By the unique id of the mount that is removed.
    found: HashMap<u64, Vec<Arc<Mount<D>>>>,
    /// The parents whose children were looked at, by unique id.
    parents: HashSet<u64>,
}

impl<D: Dentry> Default for Beside<D> {
    fn default() -> Self {
        Beside { found: HashMap::default(), parents: HashSet::default() }
    }
}

impl<D: Dentry> Beside<D> {
    /// Looks in all receivers of `parent`, which is removed, for the counterparts of its children: of those that were not met,
    /// and on whose dentries nothing `is_begun`. The others are not worth it: less than all is to be looked at for them.
    fn look(
        &mut self,
        locks: &WriteSet<D>,
        parent: &Arc<Mount<D>>,
        is_begun: impl Fn(&Arc<D>) -> bool,
        missing: &mut Vec<Missing<D>>,
    ) -> Result<(), Retry<D>> {
        self.parents.try_reserve(1).map_err(|_| NoMemory)?;
        if !self.parents.insert(parent.unique_id()) {
            return Ok(());
        }
        let on = |child: &Arc<Mount<D>>| locks.mountpoint(child).expect("it has a parent");
        let wanted = |child: &&Arc<Mount<D>>| locks.marks(child) & mark::MET == 0 && !is_begun(on(child));
        let children: Vec<_> = memory::collect(locks.children(parent).filter(wanted))?;
        if children.len() < 2 {
            return Ok(());
        }
        let mut found: Vec<Vec<_>> = memory::collect(children.iter().map(|_| Vec::new()))?;
        if let Some(receivers) = unless_missing(depth_first(locks, parent, |_| false), missing)? {
            let mut index: HashMap<usize, usize> = HashMap::default();
            index.try_reserve(children.len()).map_err(|_| NoMemory)?;
            index.extend(children.iter().enumerate().map(|(at, child)| (Arc::as_ptr(on(child)).addr(), at)));
            for receiver in foreseen(receivers.iter()) {
                // Whatever are fewer: what is on it, or the dentries.
                if locks.children(receiver).nth(children.len()).is_none() {
                    for counterpart in locks.children(receiver) {
                        if let Some(at) = index.get(&Arc::as_ptr(on(counterpart)).addr()) {
                            found[*at].try_push(Arc::clone(counterpart))?;
                        }
                    }
                } else {
                    for (child, found) in children.iter().zip(&mut found) {
                        found.try_extend(locks.child_at(receiver, on(child)))?;
                    }
                }
            }
        }
        self.found.try_reserve(children.len()).map_err(|_| NoMemory)?;
        self.found.extend(children.iter().map(|child| child.unique_id()).zip(found));
        Ok(())
    }
}

/// The visits that began: for which dentries, by address, and with which groups, by stamp.
#[derive(Default)]
struct Begun {
    dentries: HashSet<usize>,
    groups: HashSet<(usize, u64)>,
}

impl Begun {
    /// Whether one began for `on`.
    fn at<D>(&self, on: &Arc<D>) -> bool {
        self.dentries.contains(&Arc::as_ptr(on).addr())
    }

    /// Whether one began with `group` for `on`.
    fn has<D: Dentry>(&self, group: &Group<D>, on: &Arc<D>) -> bool {
        self.groups.contains(&(Arc::as_ptr(on).addr(), group.stamp()))
    }

    /// Notes one with `group` for `on`; `false` if it was noted before.
    fn begin<D: Dentry>(&mut self, group: &Group<D>, on: &Arc<D>) -> Result<bool, NoMemory> {
        self.dentries.try_reserve(1).map_err(|_| NoMemory)?;
        self.groups.try_reserve(1).map_err(|_| NoMemory)?;
        let on = Arc::as_ptr(on).addr();
        self.dentries.insert(on);
        Ok(self.groups.insert((on, group.stamp())))
    }
}

/// Decides whether `candidate`, and every candidate below it, could go, children first, without recursion.
pub(super) fn decide<D: Dentry>(locks: &mut WriteSet<D>, candidate: &Arc<Mount<D>>) -> Result<(), NoMemory> {
    let mut waiting: Vec<_> = memory::collect([(Arc::clone(candidate), false)])?;
    while let Some((mount, children_decided)) = waiting.pop() {
        let marks = locks.marks(&mount);
        if marks & mark::DECIDED != 0 {
            continue;
        }
        if marks & mark::CANDIDATE == 0 {
            // It stays; what is below it is no concern of those above it.
            locks.mark(&mount, mark::DECIDED);
        } else if !children_decided {
            waiting.try_push((Arc::clone(&mount), true))?;
            waiting.try_extend(locks.children(&mount).map(|child| (Arc::clone(child), false)))?;
        } else {
            let wholly = |child: &Arc<Mount<D>>| locks.marks(child) & mark::WHOLLY != 0;
            let on_root = |child: &Arc<Mount<D>>| {
                locks.mountpoint(child).is_some_and(|on| Arc::ptr_eq(on, mount.root()))
            };
            let willing = locks.children(&mount).all(|child| on_root(child) || wholly(child));
            let wholly = willing && locks.children(&mount).all(wholly);
            let mut marks = mark::DECIDED;
            if willing {
                marks |= mark::WILLING;
            }
            if wholly {
                marks |= mark::WHOLLY;
            }
            locks.mark(&mount, marks);
        }
    }
    Ok(())
}
