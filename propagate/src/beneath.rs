//! Mounting beneath the top of a stack (`MOVE_MOUNT_BENEATH`; move_mount(2)).
//!
//! What is attached takes the place of the top mount, which is hung on what came ([`crate::attach`]). It must not come to
//! lie on the top mount itself by propagation, nor beneath what the caller stands on or may not move.

use alloc::sync::Arc;

use mnt_table::{Dentry, Group, Missing, Mount, WriteSet};

use crate::{Error, Retry};

/// The place beneath the top of the stack that begins with `mount`: parent, dentry, and the top.
///
/// # Errors
/// `EINVAL`: the top is the root of its namespace.
#[expect(clippy::type_complexity, reason = "three things that belong to the place")]
pub fn place_beneath<D: Dentry>(
    locks: &WriteSet<D>,
    mount: &Arc<Mount<D>>,
) -> Result<(Arc<Mount<D>>, Arc<D>, Arc<Mount<D>>), Error> {
    let top = locks.topmost(mount);
    match (locks.parent(&top), locks.mountpoint(&top)) {
        (Some(parent), Some(dentry)) => Ok((Arc::clone(parent), Arc::clone(dentry), top)),
        _ => Err(Error::Invalid),
    }
}

/// Whether `source` may go beneath `top`, in Linux's order of checks (8.8.1, rows 3 to 8). `root` is the mount of the
/// caller's root, and `own` says whether `source` is in the caller's namespace.
///
/// # Errors
/// `EINVAL`; `ENOMEM`. Also: missing locks.
pub fn may_go_beneath<D: Dentry>(
    locks: &WriteSet<D>,
    source: &Arc<Mount<D>>,
    top: &Arc<Mount<D>>,
    root: &Arc<Mount<D>>,
    own: bool,
) -> Result<(), Retry<D>> {
    let (Some(parent), Some(dentry)) = (locks.parent(top), locks.mountpoint(top)) else {
        return Err(Error::Invalid.into());
    };
    if locks.is_locked(top) || locks.overmount(source).is_some() {
        return Err(Error::Invalid.into());
    }
    if Arc::ptr_eq(top, root) || locks.parent(parent).is_none() {
        return Err(Error::Invalid.into());
    }
    // The top is the source, or has it somewhere on it.
    if locks.is_attached(source) && locks.is_below(source, top) {
        return Err(Error::Invalid.into());
    }
    if would_cover(locks, parent, top, dentry)? || own && would_cover(locks, parent, source, dentry)? {
        return Err(Error::Invalid.into());
    }
    Ok(())
}

/// Whether what is mounted on `dentry` in `parent` would come to lie on `mount`: it is rooted there, and it or a master
/// up its chain is a peer of `parent`.
fn would_cover<D: Dentry>(
    locks: &WriteSet<D>,
    parent: &Mount<D>,
    mount: &Arc<Mount<D>>,
    dentry: &Arc<D>,
) -> Result<bool, Retry<D>> {
    let Some((sender, _)) = parent.propagation().peers else { return Ok(false) };
    if !Arc::ptr_eq(mount.root(), dentry) {
        return Ok(false);
    }
    let is_sender = |group: &Arc<Group<D>>| Arc::ptr_eq(group, &sender);
    let mut at = Arc::clone(mount);
    loop {
        let here = at.propagation();
        if here.peers.is_some_and(|(group, _)| is_sender(&group)) {
            return Ok(true);
        }
        let Some(link) = here.master else { return Ok(false) };
        if !locks.holds_group(&link.group) {
            return Err(Retry::needs(Missing::Group(link.group)));
        }
        at = Arc::clone(&locks.group(&link.group).members.get(link.member).mount);
    }
}
