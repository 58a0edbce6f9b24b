//! Bind mounts (3.4), and the copies that open_tree(2) makes.

use alloc::sync::Arc;
use alloc::vec::Vec;

use mnt_table::{Dentry, LockPlan, MntNamespace, MountSpec, WriteSet};
use propagate::attach::{Place, What, attach, topmost};
use propagate::copy_tree::{
    Extent, NewTree, Step, copy_tree, has_locked_children, make_siblings, members, places,
};
use propagate::graph::need_groups;
use propagate::pivot_root::Position;
use propagate::{Error, Retry, with_locks};

use linux_raw_sys::general as abi;

use super::{Call, Done, lock_own_target, rules, source_path};
use crate::Errno;
use crate::scope::{home, is_usable, would_loop};

/// Attaches a copy of what is at `source`.
///
/// # Errors
/// As mount(2) says.
pub(super) fn bind<D: Dentry>(call: &Call<'_, D>, source: Option<&[u8]>) -> Result<Done, Errno> {
    let Call { task, ns, target, flags } = call;
    let source = source_path(task, source)?; // 1, 2
    let extent = if flags & abi::MS_REC != 0 { Extent::Bindable } else { Extent::Root };
    let done = with_locks(LockPlan::new(ns), |locks| {
        let from = source.now(locks)?;
        if would_loop(&*from.1, ns) {
            return Err(Error::Invalid.into()); // 3
        }
        let (parent, on) = lock_own_target(locks, ns, &target.now(locks)?)?; // 4, 5
        let (tree, steps) = copy(locks, CopyFrom { caller: ns, from: &from, extent }, ns)?; // 6 to 9
        if from.1.is_dir() != on.is_dir() {
            return Err(Error::NotDirectory.into()); // 10
        }
        if tree.mounts[topmost(&tree)].root().is_removed() {
            return Err(Error::NotFound.into()); // 11
        }
        let place = Place::top(&parent, &on);
        Ok(Done { propagated: attach(locks, What::New(tree, steps), place, &rules(ns))? })
    });
    done.map_err(Errno::from)
}

/// What is copied.
pub(crate) struct CopyFrom<'a, D: Dentry> {
    /// The caller's namespace.
    pub(crate) caller: &'a Arc<MntNamespace<D>>,
    /// The root of the copy.
    pub(crate) from: &'a Position<D>,
    /// How much of what is below.
    pub(crate) extent: Extent,
}

/// A copy for a user, in `to`, where it is attached nowhere yet; and what its mounts will be in the graph.
///
/// # Errors
/// `EINVAL`: unbindable; in another namespace; a locked mount would be left out. `EPERM`: one would, because it is
/// unbindable. `ENOMEM`. Also: missing locks.
#[expect(clippy::type_complexity, reason = "the two halves of what is attached")]
pub(crate) fn copy<D: Dentry>(
    locks: &mut WriteSet<D>,
    CopyFrom { caller, from: (mount, dentry), extent }: CopyFrom<'_, D>,
    to: &Arc<MntNamespace<D>>,
) -> Result<(NewTree<D>, Vec<Step<D>>), Retry<D>> {
    if home(locks, mount)?.is_none() {
        if !dentry.is_handle() {
            return Err(Error::Invalid.into());
        }
        // The file of a namespace is good on a detached mount too; such a mount has no peers, and nothing is on it.
        let spec = MountSpec::new(Arc::clone(dentry), mount.flags(), mount.source().clone());
        return Ok((NewTree::single(locks.new_mount(to, spec)?), Vec::new()));
    }
    if locks.is_unbindable(mount) || !is_usable(locks, caller, mount)? && !dentry.is_handle() {
        return Err(Error::Invalid.into());
    }
    if extent == Extent::Root && has_locked_children(locks, mount, dentry) {
        return Err(Error::Invalid.into());
    }
    let originals = members(locks, mount, dentry, extent)?;
    need_groups(locks, &originals)?;
    let inside = places(locks, &originals)?;
    let mut tree = copy_tree(locks, &originals, &inside, dentry, to)?;
    let mut steps = Vec::new();
    make_siblings(locks, &originals, &mut tree, &mut steps)?;
    Ok((tree, steps))
}
