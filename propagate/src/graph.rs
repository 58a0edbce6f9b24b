//! Edits of the propagation graph: rings, slave lists, and the type of a mount.
//!
//! All of these run under the lock of the mount's namespace and of every group that they name; [`need_groups`] tells
//! beforehand which are not held, and room for who comes is made in the plan. The places at which members and slaves are inserted are Linux's, because they become
//! visible as the order in which copies are made:
//!
//! - a clone that is a peer stands right behind its original in the ring;
//! - a mount made a slave, and a clone made as a slave, stand at the head of their master's list;
//! - a clone of a slave stands right behind its original in the list;
//! - slaves that lose their master stand, in their order, in front of those that the new master has.

use alloc::sync::Arc;
use alloc::vec::Vec;

use hashbrown::HashMap;
use mnt_table::group::{MasterLink, Member};
use mnt_table::list::{List, NoMemory, Slot};
use mnt_table::memory::Grow;
use mnt_table::{Dentry, Group, Missing, Mount, WriteSet, pin};

use crate::copy_tree::has_locked_children;
use crate::{Error, Retry};

/// The type that a caller asks for (mount(2): `MS_SHARED` and so on).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PropagationType {
    /// Sends and receives.
    Shared,
    /// Receives.
    Slave,
    /// Neither.
    Private,
    /// Neither, and cannot be bound.
    Unbindable,
}

/// Makes sure that `locks` holds the groups that a change of `mounts`' places in the graph touches.
///
/// # Errors
/// Those that it does not hold; `ENOMEM`.
pub fn need_groups<'a, D: Dentry>(
    locks: &WriteSet<D>,
    mounts: impl IntoIterator<Item = &'a Arc<Mount<D>>>,
) -> Result<(), Retry<D>> {
    let mut missing = Vec::new();
    for mount in mounts {
        missing.try_extend(missing_groups(locks, mount).into_iter().flatten())?;
    }
    if missing.is_empty() { Ok(()) } else { Err(Retry::With(missing)) }
}

/// The groups that a change of `mount`'s place in the graph touches and `locks` does not hold.
pub fn missing_groups<D: Dentry>(locks: &WriteSet<D>, mount: &Mount<D>) -> [Option<Missing<D>>; 2] {
    mount.with_propagation(|here| {
        let group = here.peers.as_ref().map(|(group, _)| group);
        let master = here.master.as_ref().map(|link| &link.group);
        let missing =
            |group: &Arc<Group<D>>| (!locks.holds_group(group)).then(|| Missing::Group(Arc::clone(group)));
        [group.and_then(missing), master.and_then(missing)]
    })
}

/// Whether `mount` is shared.
pub fn is_shared<D: Dentry>(mount: &Mount<D>) -> bool {
    mount.with_propagation(|here| here.peers.is_some())
}

/// Puts `mount` alone in `group`, which is new.
pub fn found_group<D: Dentry>(locks: &mut WriteSet<D>, group: &Arc<Group<D>>, mount: &Arc<Mount<D>>) {
    let slot = locks.group_mut(group).members.push_back(Member::new(mount));
    mount.set_peers(Some((Arc::clone(group), slot)));
}

/// Makes `copy` a peer of `original`, right behind it.
pub fn join_after<D: Dentry>(locks: &mut WriteSet<D>, original: &Mount<D>, copy: &Arc<Mount<D>>) {
    let peers = original.with_propagation(|here| here.peers.clone());
    let (group, slot) = peers.expect("the original is shared");
    let slot = locks.group_mut(&group).members.insert_after(slot, Member::new(copy));
    copy.set_peers(Some((group, slot)));
}

/// Makes `slave` a slave of `master`, at the head of its list.
pub fn enslave<D: Dentry>(locks: &mut WriteSet<D>, master: &Mount<D>, slave: &Arc<Mount<D>>) {
    let peers = master.with_propagation(|here| here.peers.clone());
    let (group, member) = peers.expect("a master is shared");
    enslave_to(locks, &group, member, slave);
}

fn enslave_to<D: Dentry>(
    locks: &mut WriteSet<D>,
    group: &Arc<Group<D>>,
    member: Slot,
    slave: &Arc<Mount<D>>,
) {
    let place = locks.group_mut(group).members.get_mut(member).slaves.push_front(Arc::clone(slave));
    slave.set_master(Some(MasterLink { group: Arc::clone(group), member, place }));
}

/// Makes `copy` a slave of `original`'s master, right behind `original`.
pub fn enslave_after<D: Dentry>(locks: &mut WriteSet<D>, original: &Mount<D>, copy: &Arc<Mount<D>>) {
    let MasterLink { group, member, place } =
        original.propagation().master.expect("the original has a master");
    let slaves = &mut locks.group_mut(&group).members.get_mut(member).slaves;
    let place = slaves.insert_after(place, Arc::clone(copy));
    copy.set_master(Some(MasterLink { group, member, place }));
}

/// Takes `mount` out of its master's list.
pub fn free_from_master<D: Dentry>(locks: &mut WriteSet<D>, mount: &Mount<D>) {
    if let Some(MasterLink { group, member, place }) = mount.with_propagation(|here| here.master.clone()) {
        locks.group_mut(&group).members.get_mut(member).slaves.remove(place);
        mount.set_master(None);
    }
}

/// A member of a group.
pub(crate) type Peer<D> = (Arc<Group<D>>, Slot);

/// Takes `mount` out of its ring. Its slaves go to `heir`, or lose their master.
///
/// The plan made room for the slaves.
pub(crate) fn leave_group<D: Dentry>(locks: &mut WriteSet<D>, mount: &Mount<D>, heir: Option<&Peer<D>>) {
    let Some((group, slot)) = mount.with_propagation(|here| here.peers.clone()) else { return };
    let slaves = locks.group_mut(&group).members.remove(slot).slaves;
    mount.set_peers(None);
    hand_over(locks, slaves, heir);
}

/// Gives `slaves` to another master, as a block in front of its own; or takes their master away.
fn hand_over<D: Dentry>(locks: &mut WriteSet<D>, mut slaves: List<Arc<Mount<D>>>, to: Option<&Peer<D>>) {
    while let Some(last) = slaves.last() {
        let slave = slaves.remove(last);
        match to {
            Some((group, member)) => enslave_to(locks, group, *member, &slave),
            None => slave.set_master(None),
        }
    }
}

/// Changes the types of `mounts`, parents first, all or none. Context: holds their namespace.
///
/// # Errors
/// `ENOMEM`. Also: missing locks.
pub fn change_types<D: Dentry>(
    locks: &mut WriteSet<D>,
    mounts: &[Arc<Mount<D>>],
    to: PropagationType,
) -> Result<(), Retry<D>> {
    need_groups(locks, mounts)?;
    if to == PropagationType::Shared {
        let mut founders = Vec::new();
        for mount in mounts.iter().filter(|mount| !is_shared(mount)) {
            let ns = Arc::clone(locks.namespace_of(mount).expect("the mount's namespace is locked"));
            let master = mount.propagation().master.map(|link| link.group);
            let group = locks.new_group(&ns, master.as_deref())?;
            founders.try_push((group, mount))?;
        }
        founders.iter().for_each(|(group, mount)| found_group(locks, group, mount));
        mounts.iter().for_each(|mount| locks.set_unbindable(mount, false));
        return Ok(());
    }
    Changes::default().reserve(locks, mounts, to)?;
    mounts.iter().for_each(|mount| unshare(locks, mount, to));
    Ok(())
}

/// Changes the type of one mount: as [`change_types`].
///
/// # Errors
/// As [`change_types`].
pub fn change_type<D: Dentry>(
    locks: &mut WriteSet<D>,
    mount: &Arc<Mount<D>>,
    to: PropagationType,
) -> Result<(), Retry<D>> {
    change_types(locks, core::slice::from_ref(mount), to)
}

/// Makes `mount` a slave, private or unbindable. [`Changes`] made room for that.
fn unshare<D: Dentry>(locks: &mut WriteSet<D>, mount: &Arc<Mount<D>>, to: PropagationType) {
    let was_shared = is_shared(mount);
    let heir = next_peer(locks, mount);
    let master = mount.propagation().master.map(|link| (link.group, link.member));
    leave_group(locks, mount, heir.as_ref().or(master.as_ref()));
    if to == PropagationType::Slave {
        if let Some((group, member)) = heir {
            // Of the peer, whatever it was a slave of before.
            free_from_master(locks, mount);
            enslave_to(locks, &group, member, mount);
        } else if let Some((group, member)) = master {
            // It keeps its master, and comes first in its list.
            free_from_master(locks, mount);
            enslave_to(locks, &group, member, mount);
        }
        if was_shared {
            locks.set_unbindable(mount, false);
        }
        return;
    }
    free_from_master(locks, mount);
    locks.set_unbindable(mount, to == PropagationType::Unbindable);
}

/// The next peer of `mount` in its ring.
fn next_peer<D: Dentry>(locks: &WriteSet<D>, mount: &Mount<D>) -> Option<Peer<D>> {
    let (group, slot) = mount.with_propagation(|here| here.peers.clone())?;
    let next = locks.group(&group).members.next_in_ring(slot);
    (next != slot).then_some((group, next))
}

/// What a sequence of [`unshare`]s is going to do: in it, the heir of one mount may be the next to leave.
struct Changes<D: Dentry> {
    /// Those that will have left their group, and to whom their slaves will have gone: as it was then, or to whom they came
    /// from there ([`Changes::successor`]).
    left: HashMap<u64, Option<Arc<Mount<D>>>>,
    /// How many slaves mounts will have got.
    got: HashMap<u64, usize>,
}

impl<D: Dentry> Default for Changes<D> {
    fn default() -> Self {
        Changes { left: HashMap::default(), got: HashMap::default() }
    }
}

impl<D: Dentry> Changes<D> {
    /// Makes room for the slaves of each of `mounts`, and for itself as a slave, where they will go in turn.
    fn reserve(
        mut self,
        locks: &mut WriteSet<D>,
        mounts: &[Arc<Mount<D>>],
        to: PropagationType,
    ) -> Result<(), NoMemory> {
        for mount in mounts {
            let master = master_of(locks, mount).and_then(|master| self.successor(master));
            let mut heir = None;
            if let Some((group, slot)) = mount.propagation().peers {
                let members = &locks.group(&group).members;
                // Whoever left between the two had a peer to follow: this mount, at least.
                let next = self.successor(Arc::clone(&members.get(members.next_in_ring(slot)).mount));
                heir = next.filter(|next| !Arc::ptr_eq(next, mount));
                let own = members.get(slot).slaves.len();
                let slaves = own + self.got.get(&mount.unique_id()).unwrap_or(&0);
                let gets = heir.clone().or_else(|| master.clone());
                if let Some(gets) = gets.as_ref().filter(|_| slaves != 0) {
                    self.give(locks, gets, slaves)?;
                }
                self.left.try_reserve(1).map_err(|_| NoMemory)?;
                self.left.insert(mount.unique_id(), gets);
            }
            if to == PropagationType::Slave
                && let Some(master) = heir.or(master)
            {
                self.give(locks, &master, 1)?;
            }
        }
        Ok(())
    }

    /// `mount`, or who will have taken over from it by now; `None` if nobody was left.
    ///
    /// Everybody on the way is pointed to the end of it, so that a long way is gone once.
    fn successor(&mut self, mount: Arc<Mount<D>>) -> Option<Arc<Mount<D>>> {
        let mut end = Some(Arc::clone(&mount));
        while let Some(at) = &end
            && let Some(next) = self.left.get(&at.unique_id())
        {
            end = next.clone();
        }
        let mut at = Some(mount);
        while let Some(mount) = at
            && let Some(next) = self.left.get_mut(&mount.unique_id())
        {
            at = core::mem::replace(next, end.clone());
        }
        end
    }

    fn give(&mut self, locks: &mut WriteSet<D>, to: &Mount<D>, slaves: usize) -> Result<(), NoMemory> {
        locks.reserve_slaves(to, slaves)?;
        self.got.try_reserve(1).map_err(|_| NoMemory)?;
        *self.got.entry(to.unique_id()).or_insert(0) += slaves;
        Ok(())
    }
}

/// The mount that `mount` receives from. Context: holds its group.
pub fn master_of<D: Dentry>(locks: &WriteSet<D>, mount: &Mount<D>) -> Option<Arc<Mount<D>>> {
    let link = mount.propagation().master?;
    Some(Arc::clone(&locks.group(&link.group).members.get(link.member).mount))
}

/// `to` takes over the group and the master of `from`: it becomes its peer, and its master's slave beside it
/// (`MOVE_MOUNT_SET_GROUP`; move_mount(2)). Nothing is mounted. Both are attached.
///
/// Context: holds the namespaces of both.
///
/// # Errors
/// `EINVAL`: not of one superblock; `to` shows what `from` does not, or what a locked mount on `from` covers; `to` is
/// shared, a slave, or unbindable (as from Linux 7.0 on); `from` is neither shared nor a slave. `ENOMEM`. Also: missing
/// locks.
pub fn set_group<D: Dentry>(
    locks: &mut WriteSet<D>,
    from: &Arc<Mount<D>>,
    to: &Arc<Mount<D>>,
) -> Result<(), Retry<D>> {
    let inside = from.root().is_ancestor_of(to.root(), &pin());
    if !Arc::ptr_eq(from.super_block(), to.super_block()) || !inside {
        return Err(Error::Invalid.into());
    }
    if has_locked_children(locks, from, to.root()) {
        return Err(Error::Invalid.into());
    }
    let (source, target) = (from.propagation(), to.propagation());
    if target.peers.is_some() || target.master.is_some() || locks.is_unbindable(to) {
        return Err(Error::Invalid.into());
    }
    if source.peers.is_none() && source.master.is_none() {
        return Err(Error::Invalid.into());
    }
    need_groups(locks, [from])?;
    if let Some(master) = master_of(locks, from) {
        locks.reserve_slaves(&master, 1)?;
    }
    if let Some((group, _)) = &source.peers {
        locks.reserve_members(group, 1)?;
    }
    if source.master.is_some() {
        enslave_after(locks, from, to);
    }
    if source.peers.is_some() {
        join_after(locks, from, to);
    }
    Ok(())
}

/// A mount that leaves its tree leaves the graph. Its slaves go to `heir`: the plan made room for them
/// ([`crate::heirs`]).
pub(crate) fn leave_graph<D: Dentry>(locks: &mut WriteSet<D>, mount: &Mount<D>, heir: Option<&Peer<D>>) {
    leave_group(locks, mount, heir);
    free_from_master(locks, mount);
}
