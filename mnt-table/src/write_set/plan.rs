//! What an operation is going to lock, and in which order; see the parent's header.

use alloc::collections::BinaryHeap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cmp::Reverse;

use smallvec::{SmallVec, smallvec};

use super::WriteSet;
use crate::dentry::Dentry;
use crate::foresight::foreseen;
use crate::group::Group;
use crate::list::NoMemory;
use crate::memory::Grow;
use crate::mount::Mount;
use crate::namespace::{MntNamespace, namespace_of};
use crate::platform;
use crate::sync::{Ordering, plain::AtomicUsize, planted};

/// Starts after which an operation asks for the machine to itself.
pub const TRIES: u32 = 8;

/// How many operations want to be alone. Read by slow operations before they start; written almost never.
pub static ESCALATED: AtomicUsize = AtomicUsize::new(0);

/// How often [`ESCALATED`] was raised since the start.
pub static ESCALATIONS: AtomicUsize = AtomicUsize::new(0);

/// What planning met and the set does not hold; the operation starts again with it.
pub enum Missing<D: Dentry> {
    /// A peer group that is read or changed.
    Group(Arc<Group<D>>),
    /// A group whose receivers' namespaces are changed, its slaves' included.
    Receivers(Arc<Group<D>>),
    /// A namespace that is read or changed.
    Namespace(Arc<MntNamespace<D>>),
}

/// What an operation is going to lock.
pub struct LockPlan<D: Dentry> {
    /// Some may be in it twice.
    groups: Vec<Arc<Group<D>>>,
    /// Groups whose receivers' namespaces are needed too, through all their slaves.
    closures: Vec<Arc<Group<D>>>,
    namespaces: SmallVec<[Arc<MntNamespace<D>>; 2]>,
    /// There was no memory to note all that is needed.
    short: bool,
    tries: u32,
    escalated: bool,
}

impl<D: Dentry> LockPlan<D> {
    /// A plan for a change of `ns`.
    pub fn new(ns: &Arc<MntNamespace<D>>) -> Self {
        let namespaces = smallvec![Arc::clone(ns)];
        LockPlan {
            groups: Vec::new(),
            closures: Vec::new(),
            namespaces,
            short: false,
            tries: 0,
            escalated: false,
        }
    }

    /// Also `ns`.
    pub fn namespace(&mut self, ns: &Arc<MntNamespace<D>>) {
        if !self.namespaces.iter().any(|have| Arc::ptr_eq(have, ns)) {
            self.short |= self.namespaces.try_push(Arc::clone(ns)).is_err();
        }
    }

    /// Also `group`.
    pub fn group(&mut self, group: &Arc<Group<D>>) {
        self.short |= self.groups.try_push(Arc::clone(group)).is_err();
    }

    /// Also `group`, the groups of its slaves and of theirs, and the namespaces of all their members.
    pub fn receivers(&mut self, group: &Arc<Group<D>>) {
        self.short |= self.closures.try_push(Arc::clone(group)).is_err();
    }

    /// What planning was missing; the next [`LockPlan::lock`] has it.
    pub fn add(&mut self, missing: Missing<D>) {
        match missing {
            Missing::Group(group) => self.group(&group),
            Missing::Receivers(group) => self.receivers(&group),
            Missing::Namespace(ns) => self.namespace(&ns),
        }
    }

    /// Takes all the locks.
    ///
    /// Context: not pinned; no lock held; may block.
    ///
    /// # Errors
    /// `ENOMEM`; no lock is held.
    pub fn lock(&mut self) -> Result<WriteSet<D>, NoMemory> {
        self.tries += 1;
        if self.tries > TRIES && !self.escalated {
            self.escalated = true;
            ESCALATED.fetch_add(1, Ordering::SeqCst);
            // Relaxed: statistics.
            ESCALATIONS.fetch_add(1, Ordering::Relaxed);
        }
        let mut spins = 0;
        // SeqCst: whoever raised the word and then looks for others in flight is not our concern: they finish, and
        // start again only behind this loop.
        // A change without groups is no part of what makes others start again, so it does not wait.
        let slow = !self.groups.is_empty() || !self.closures.is_empty();
        while slow && !self.escalated && ESCALATED.load(Ordering::SeqCst) != 0 {
            platform::relax(spins);
            spins += 1;
        }
        loop {
            if self.short {
                return Err(NoMemory);
            }
            let mut set = WriteSet::empty();
            // What the change retires, as far as nobody says that it is more.
            set.reserve_retirements(1)?;
            if self.lock_groups(&mut set)? {
                self.lock_namespaces(&mut set)?;
                return Ok(set);
            }
        }
    }

    /// Locks groups and closures in ascending stamp; `false` if one came too late and was noted for the next try.
    fn lock_groups(&mut self, set: &mut WriteSet<D>) -> Result<bool, NoMemory> {
        if self.groups.is_empty() && self.closures.is_empty() {
            return Ok(true);
        }
        let mut waiting = Waiting(BinaryHeap::new());
        self.groups.iter().try_for_each(|group| waiting.push(group, false))?;
        self.closures.iter().try_for_each(|group| waiting.push(group, true))?;
        while let Some(Wanted { group, closure, .. }) = waiting.pop() {
            if !group.held_by(set.token) {
                let late = set.groups.last().is_some_and(|last| last.stamp() > group.stamp());
                if late && !planted("late_group_locked") {
                    // [Older] does not hold here; see the module's header.
                    self.receivers(&group);
                    return Ok(false);
                }
                set.lock_group(Arc::clone(&group))?;
            }
            if !closure {
                continue;
            }
            let mut receiving = core::mem::take(&mut set.receiving);
            for (_, member) in set.group(&group).members.iter() {
                note_home(&mut receiving, &member.mount)?;
                for slave in foreseen(member.slaves.iter().map(|(_, slave)| slave)) {
                    match slave
                        .with_propagation(|here| here.peers.as_ref().map(|(group, _)| Arc::clone(group)))
                    {
                        Some(group) => waiting.push(&group, true)?,
                        None => note_home(&mut receiving, slave)?,
                    }
                }
            }
            set.receiving = receiving;
        }
        Ok(true)
    }

    fn lock_namespaces(&self, set: &mut WriteSet<D>) -> Result<(), NoMemory> {
        if let ([ns], true) = (&*self.namespaces, set.receiving.is_empty()) {
            set.lock_namespace(Arc::clone(ns));
            set.sort_homes();
            return Ok(());
        }
        let mut namespaces = core::mem::take(&mut set.receiving);
        namespaces.try_extend(self.namespaces.iter().cloned())?;
        // The same order for everybody.
        let turn = if planted("no_common_order") && platform::cpu() == 1 { u64::MAX } else { 0 };
        namespaces.sort_unstable_by_key(|ns| ns.id().0 ^ turn);
        namespaces.dedup_by_key(|ns| ns.id());
        set.reserve_namespaces(namespaces.len())?;
        for ns in namespaces {
            set.lock_namespace(ns);
        }
        set.sort_homes();
        Ok(())
    }
}

impl<D: Dentry> Drop for LockPlan<D> {
    fn drop(&mut self) {
        if self.escalated {
            ESCALATED.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

/// Notes the namespace that `mount` is in, unless it was noted last: those of one namespace come one after the other,
/// mostly.
fn note_home<D: Dentry>(homes: &mut Vec<Arc<MntNamespace<D>>>, mount: &Mount<D>) -> Result<(), NoMemory> {
    // Relaxed: the address alone; while it is noted no other namespace has it.
    let home = mount.ns.load(Ordering::Relaxed);
    if homes.last().is_some_and(|last| Arc::as_ptr(last) == home.cast_const()) {
        return Ok(());
    }
    homes.try_extend(namespace_of(mount))
}

/// A group that is going to be locked, and whether its closure is.
struct Wanted<D: Dentry> {
    key: (u64, bool),
    closure: bool,
    group: Arc<Group<D>>,
}

impl<D: Dentry> Ord for Wanted<D> {
    fn cmp(&self, other: &Self) -> core::cmp::Ordering {
        self.key.cmp(&other.key)
    }
}

impl<D: Dentry> PartialOrd for Wanted<D> {
    fn partial_cmp(&self, other: &Self) -> Option<core::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<D: Dentry> PartialEq for Wanted<D> {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl<D: Dentry> Eq for Wanted<D> {}

/// Groups by ascending stamp, each popped once.
struct Waiting<D: Dentry>(BinaryHeap<Reverse<Wanted<D>>>);

impl<D: Dentry> Waiting<D> {
    fn push(&mut self, group: &Arc<Group<D>>, closure: bool) -> Result<(), NoMemory> {
        self.0.try_reserve(1).map_err(|_| NoMemory)?;
        self.0.push(Reverse(Wanted { key: (group.stamp(), closure), closure, group: Arc::clone(group) }));
        Ok(())
    }

    fn pop(&mut self) -> Option<Wanted<D>> {
        let Reverse(first) = self.0.pop()?;
        while self.0.peek().is_some_and(|Reverse(next)| *next == first) {
            self.0.pop();
        }
        Some(first)
    }
}
