//! Who receives what happens in a shared mount, in Linux's order.
//!
//! First the mount's own group, the ring starting behind it. Then, depth first, for each member of the group just
//! finished in the order in which it was visited (for the first group: from the mount itself), that member's slave list
//! from its head: each entry begins a group, its peers in ring order or itself alone, which is visited whole before the
//! slaves of its members, before the next entry of the list.
//!
//! Context of everything here: the locks of the group's whole closure ([`Missing::Receivers`]).

use alloc::sync::Arc;
use alloc::vec::Vec;

use hashbrown::HashSet;
use mnt_table::list::{NoMemory, Slot};
use mnt_table::memory::{self, Grow};
use mnt_table::{Dentry, Group, Missing, Mount, WriteSet};

use crate::Retry;

/// A receiver.
pub struct Receiver<D: Dentry> {
    /// The mount.
    pub mount: Arc<Mount<D>>,
    /// Which set of peers it belongs to, counted in the order of visits; 0 is the sender's own group.
    pub set: usize,
    /// The set whose member is this set's master; of no use for set 0.
    pub upstream: usize,
    /// Whether it sends on.
    pub shared: bool,
}

/// A group whose members have been visited and whose slaves are being gone through.
struct Frame<D: Dentry> {
    group: Arc<Group<D>>,
    set: usize,
    first: Slot,
    member: Slot,
    /// The slave to look at next; `None` at the end of the member's list.
    slave: Option<Slot>,
}

/// Whether `sender` has any receivers.
///
/// # Errors
/// Its group is not locked; the closure will be needed if it has some.
pub fn has_receivers<D: Dentry>(locks: &WriteSet<D>, sender: &Mount<D>) -> Result<bool, Retry<D>> {
    let Some((group, first)) = sender.propagation().peers else { return Ok(false) };
    if !locks.holds_group(&group) {
        return Err(Retry::needs(Missing::Receivers(group)));
    }
    let members = &locks.group(&group).members;
    Ok(members.len() > 1 || !members.get(first).slaves.is_empty())
}

/// All receivers of `sender`, without itself.
///
/// # Errors
/// The closure is not locked yet; `ENOMEM`.
pub fn receivers<D: Dentry>(locks: &WriteSet<D>, sender: &Mount<D>) -> Result<Vec<Receiver<D>>, Retry<D>> {
    let Some((group, first)) = sender.propagation().peers else { return Ok(Vec::new()) };
    if !locks.holds_group(&group) {
        return Err(Retry::needs(Missing::Receivers(group)));
    }
    let members = &locks.group(&group).members;
    if members.len() == 1 && members.get(first).slaves.is_empty() {
        return Ok(Vec::new()); // Nobody else is in the group, nor below it.
    }
    let own = Arc::clone(&group);
    let mut found = Vec::new();
    let mut seen: HashSet<u64> = HashSet::default();
    seen.try_reserve(1).map_err(|_| NoMemory)?;
    seen.insert(group.stamp());
    let mut sets = 1;
    visit(locks, &group, first, 0, 0, &mut found)?;
    found.remove(0); // the sender itself
    let mut stack: Vec<_> = memory::collect([frame(locks, group, 0, first)])?;
    while let Some(top) = stack.last_mut() {
        let members = &locks.group(&top.group).members;
        let Some(place) = top.slave else {
            top.member = members.next_in_ring(top.member);
            if top.member == top.first {
                stack.pop();
            } else {
                top.slave = members.get(top.member).slaves.first();
            }
            continue;
        };
        let slaves = &members.get(top.member).slaves;
        let slave = slaves.get(place);
        top.slave = slaves.next(place);
        let upstream = top.set;
        match slave.propagation().peers {
            None => {
                found.try_push(Receiver { mount: Arc::clone(slave), set: sets, upstream, shared: false })?;
                sets += 1;
            }
            Some((group, slot)) => {
                if !locks.holds_group(&group) {
                    return Err(Retry::needs(Missing::Receivers(group)));
                }
                seen.try_reserve(1).map_err(|_| NoMemory)?;
                if seen.insert(group.stamp()) {
                    visit(locks, &group, slot, sets, upstream, &mut found)?;
                    stack.try_push(frame(locks, group, sets, slot))?;
                    sets += 1;
                }
            }
        }
    }
    are_held(locks, &own, found.iter().map(|receiver| &receiver.mount))?;
    Ok(found)
}

/// All receivers of `sender`, without itself, each before its slaves and their slaves: the order in which an umount looks
/// for counterparts.
///
/// # Errors
/// The closure is not locked yet; `ENOMEM`.
pub fn depth_first<D: Dentry>(
    locks: &WriteSet<D>,
    sender: &Mount<D>,
) -> Result<Vec<Arc<Mount<D>>>, Retry<D>> {
    let Some((group, first)) = sender.propagation().peers else { return Ok(Vec::new()) };
    if !locks.holds_group(&group) {
        return Err(Retry::needs(Missing::Receivers(group)));
    }
    let mut found = Vec::new();
    let mut at = first;
    loop {
        let mut stack: Vec<_> = memory::collect([frame(locks, Arc::clone(&group), 0, at)])?;
        while let Some(top) = stack.last_mut() {
            let slaves = &locks.group(&top.group).members.get(top.member).slaves;
            let Some(place) = top.slave else {
                stack.pop();
                continue;
            };
            let slave = slaves.get(place);
            top.slave = slaves.next(place);
            found.try_push(Arc::clone(slave))?;
            if let Some((group, slot)) = slave.propagation().peers {
                if !locks.holds_group(&group) {
                    return Err(Retry::needs(Missing::Receivers(group)));
                }
                stack.try_push(frame(locks, group, 0, slot))?;
            }
        }
        let members = &locks.group(&group).members;
        at = members.next_in_ring(at);
        if at == first {
            break;
        }
        found.try_push(Arc::clone(&members.get(at).mount))?;
    }
    are_held(locks, &group, found.iter())?;
    Ok(found)
}

/// A receiver whose namespace is not held entered the graph after the closure was locked, or left it.
fn are_held<'a, D: Dentry>(
    locks: &WriteSet<D>,
    group: &Arc<Group<D>>,
    mut found: impl Iterator<Item = &'a Arc<Mount<D>>>,
) -> Result<(), Retry<D>> {
    if found.all(|mount| locks.namespace_of(mount).is_some()) {
        return Ok(());
    }
    Err(Retry::needs(Missing::Receivers(Arc::clone(group))))
}

fn frame<D: Dentry>(locks: &WriteSet<D>, group: Arc<Group<D>>, set: usize, first: Slot) -> Frame<D> {
    let slave = locks.group(&group).members.get(first).slaves.first();
    Frame { group, set, first, member: first, slave }
}

fn visit<D: Dentry>(
    locks: &WriteSet<D>,
    group: &Group<D>,
    first: Slot,
    set: usize,
    upstream: usize,
    found: &mut Vec<Receiver<D>>,
) -> Result<(), NoMemory> {
    let members = &locks.group(group).members;
    let mut at = first;
    loop {
        let mount = Arc::clone(&members.get(at).mount);
        found.try_push(Receiver { mount, set, upstream, shared: true })?;
        at = members.next_in_ring(at);
        if at == first {
            return Ok(());
        }
    }
}
