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
use mnt_table::foresight::AHEAD;
use mnt_table::group::Slaves;
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
    /// The one that is asked for then.
    ahead: Option<Slot>,
}

impl<D: Dentry> Frame<D> {
    /// At the beginning of the list of `first`.
    fn new(locks: &WriteSet<D>, group: Arc<Group<D>>, set: usize, first: Slot) -> Self {
        let mut frame = Frame { group, set, first, member: first, slave: None, ahead: None };
        frame.begin(locks);
        frame
    }

    fn begin(&mut self, locks: &WriteSet<D>) {
        let slaves = &locks.group(&self.group).members.get(self.member).slaves;
        self.slave = slaves.first();
        self.ahead = self.slave;
        for _ in 0..AHEAD {
            self.look_ahead(slaves);
        }
    }

    /// The slave whose turn it is.
    fn next<'l>(&mut self, locks: &'l WriteSet<D>) -> Option<&'l Arc<Mount<D>>> {
        let place = self.slave?;
        let slaves = &locks.group(&self.group).members.get(self.member).slaves;
        self.slave = slaves.next(place);
        self.look_ahead(slaves);
        Some(slaves.get(place))
    }

    fn look_ahead(&mut self, slaves: &Slaves<D>) {
        if let Some(place) = self.ahead {
            slaves.get(place).foresee();
            self.ahead = slaves.next(place);
        }
    }
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
    // A receiver whose namespace is not held entered the graph after the closure was locked, or left it.
    let mut all_held = true;
    let mut found = Vec::new();
    let mut seen: HashSet<u64> = HashSet::default();
    seen.try_reserve(1).map_err(|_| NoMemory)?;
    seen.insert(group.stamp());
    let mut sets = 1;
    visit(locks, &group, first, 0, 0, &mut found)?;
    found.remove(0); // the sender itself
    found.iter().for_each(|receiver| all_held &= locks.namespace_of(&receiver.mount).is_some());
    let mut stack: Vec<_> = memory::collect([Frame::new(locks, group, 0, first)])?;
    while let Some(top) = stack.last_mut() {
        let Some(slave) = top.next(locks) else {
            top.member = locks.group(&top.group).members.next_in_ring(top.member);
            if top.member == top.first {
                stack.pop();
            } else {
                top.begin(locks);
            }
            continue;
        };
        let upstream = top.set;
        match peers_of(slave) {
            None => {
                all_held &= locks.namespace_of(slave).is_some();
                found.try_push(Receiver { mount: Arc::clone(slave), set: sets, upstream, shared: false })?;
                sets += 1;
            }
            Some((group, slot)) => {
                if !locks.holds_group(&group) {
                    // The sender's group is held for another reason: all that is below it is missing.
                    return Err(Retry::needs(Missing::Receivers(own)));
                }
                seen.try_reserve(1).map_err(|_| NoMemory)?;
                if seen.insert(group.stamp()) {
                    let before = found.len();
                    visit(locks, &group, slot, sets, upstream, &mut found)?;
                    let held = |receiver: &Receiver<D>| locks.namespace_of(&receiver.mount).is_some();
                    all_held &= found[before..].iter().all(held);
                    stack.try_push(Frame::new(locks, group, sets, slot))?;
                    sets += 1;
                }
            }
        }
    }
    if all_held { Ok(found) } else { Err(Retry::needs(Missing::Receivers(own))) }
}

/// All receivers of `sender`, without itself, each before its slaves and their slaves: the order in which an umount looks
/// for counterparts. Slaves in a group that `is_known` are left out, and so are their slaves.
///
/// # Errors
/// The closure is not locked yet; `ENOMEM`.
pub fn depth_first<D: Dentry>(
    locks: &WriteSet<D>,
    sender: &Mount<D>,
    is_known: impl Fn(&Group<D>) -> bool,
) -> Result<Vec<Arc<Mount<D>>>, Retry<D>> {
    let Some((group, first)) = sender.propagation().peers else { return Ok(Vec::new()) };
    if !locks.holds_group(&group) {
        return Err(Retry::needs(Missing::Receivers(group)));
    }
    let mut found = Vec::new();
    // A receiver whose namespace is not held entered the graph after the closure was locked, or left it.
    let mut all_held = true;
    let mut at = first;
    loop {
        let mut stack: Vec<_> = memory::collect([Frame::new(locks, Arc::clone(&group), 0, at)])?;
        while let Some(top) = stack.last_mut() {
            let Some(slave) = top.next(locks) else {
                stack.pop();
                continue;
            };
            let peers = peers_of(slave);
            if peers.as_ref().is_some_and(|(group, _)| is_known(group)) {
                continue;
            }
            all_held &= locks.namespace_of(slave).is_some();
            found.try_push(Arc::clone(slave))?;
            if let Some((below, slot)) = peers {
                if !locks.holds_group(&below) {
                    // As in `receivers`.
                    return Err(Retry::needs(Missing::Receivers(group)));
                }
                stack.try_push(Frame::new(locks, below, 0, slot))?;
            }
        }
        let members = &locks.group(&group).members;
        at = members.next_in_ring(at);
        if at == first {
            break;
        }
        let mount = &members.get(at).mount;
        all_held &= locks.namespace_of(mount).is_some();
        found.try_push(Arc::clone(mount))?;
    }
    if all_held { Ok(found) } else { Err(Retry::needs(Missing::Receivers(group))) }
}

/// The group of a mount, and its place there.
fn peers_of<D: Dentry>(mount: &Mount<D>) -> Option<(Arc<Group<D>>, Slot)> {
    mount.with_propagation(|here| here.peers.clone())
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
