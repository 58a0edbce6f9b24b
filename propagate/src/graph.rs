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

use mnt_table::group::{MasterLink, Member};
use mnt_table::list::{List, Slot};
use mnt_table::memory::Grow;
use mnt_table::{Dentry, Group, Missing, Mount, WriteSet, pin};

use crate::copy_tree::has_locked_children;
use crate::unshare::unshare;
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

pub(crate) fn enslave_to<D: Dentry>(
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
    Ok(unshare(locks, mounts, to)?)
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
    if let Some((group, slot)) = mount.with_propagation(|here| here.peers.clone()) {
        let slaves = locks.group_mut(&group).members.remove(slot).slaves;
        mount.set_peers(None);
        hand_over(locks, slaves, heir);
    }
    free_from_master(locks, mount);
}
