//! `pivot_root`: another mount becomes the root, and the old one hangs below it.
//!
//! Two mounts change places in one window, and with them everybody, in the whole system, whose root or working directory
//! is exactly the old root: they stand on its anchor ([`mnt_table::mount::Anchor`]), so no process is looked for.

use alloc::sync::Arc;

use mnt_table::{Dentry, MntNamespace, Mount, WriteSet, pin};

use crate::Error;
use crate::graph::is_shared;

/// A place: a mount and a dentry in it.
pub type Position<D> = (Arc<Mount<D>>, Arc<D>);

/// Makes `new` the root instead of `root`, and hangs the old root on `put_old`. Checks stand in Linux's order.
///
/// `root` is the caller's root; `put_old` is where its path led, whatever is mounted over it. Context: holds `ns`, and the
/// namespace of `put_old` if something may be mounted over that.
///
/// # Errors
/// `EINVAL`, `ENOENT`, `EBUSY` as pivot_root(2) says; `ENOMEM`.
pub fn pivot_root<D: Dentry>(
    locks: &mut WriteSet<D>,
    ns: &Arc<MntNamespace<D>>,
    root: &Position<D>,
    new: &Position<D>,
    put_old: &Position<D>,
) -> Result<(), Error> {
    let (root_mount, root_dentry) = root;
    let (new_mount, new_dentry) = new;
    if !put_old.0.is_mounted() {
        return Err(Error::NotFound);
    }
    let (own, held) = (locks.is_in(&put_old.0, ns), locks.namespace_of(&put_old.0).is_some());
    let put_old = if held { top_of(locks, put_old) } else { put_old.clone() };
    put_old.0.note_use();
    if put_old.1.is_removed() {
        return Err(Error::NotFound);
    }
    if !locks.is_in(root_mount, ns) || !locks.is_in(new_mount, ns) {
        return Err(Error::Invalid);
    }
    let root_parent = locks.parent(root_mount).cloned();
    let new_parent = locks.parent(new_mount).cloned();
    let shared = |mount: &Option<Arc<Mount<D>>>| mount.as_ref().is_some_and(|mount| is_shared(mount));
    if is_shared(&put_old.0) || shared(&new_parent) || shared(&root_parent) {
        return Err(Error::Invalid);
    }
    if locks.is_locked(new_mount) {
        return Err(Error::Invalid);
    }
    if new_dentry.is_removed() {
        return Err(Error::NotFound);
    }
    if Arc::ptr_eq(new_mount, root_mount) || Arc::ptr_eq(&put_old.0, root_mount) {
        return Err(Error::Busy);
    }
    let is_root_of = |mount: &Arc<Mount<D>>, dentry: &Arc<D>| Arc::ptr_eq(mount.root(), dentry);
    let (Some(root_parent), true) = (root_parent, is_root_of(root_mount, root_dentry)) else {
        return Err(Error::Invalid);
    };
    if !is_root_of(new_mount, new_dentry) || new_parent.is_none() {
        return Err(Error::Invalid);
    }
    if !own || !is_reachable(locks, &put_old, new) || !is_reachable(locks, new, root) {
        return Err(Error::Invalid);
    }

    let on = Arc::clone(locks.mountpoint(root_mount).expect("it has a parent"));
    let new_joint = locks.prepare(new_mount, &root_parent, &on)?;
    let old_joint = locks.prepare(root_mount, &put_old.0, &put_old.1)?;
    locks.prepare_anchors(root_mount, new_mount)?;
    let guard = pin();
    locks.begin(ns, &guard);
    if locks.is_locked(root_mount) {
        locks.set_locked(root_mount, false);
        locks.set_locked(new_mount, true);
    }
    locks.rehang(new_mount, new_joint, &guard);
    locks.rehang(root_mount, old_joint, &guard);
    locks.move_anchors(root_mount, new_mount);
    locks.end();
    Ok(())
}

/// The top of what is mounted on `at`.
pub fn top_of<D: Dentry>(locks: &WriteSet<D>, at: &Position<D>) -> Position<D> {
    match locks.child_at(&at.0, &at.1) {
        Some(mount) => {
            let top = locks.topmost(&mount);
            let dentry = Arc::clone(top.root());
            (top, dentry)
        }
        None => at.clone(),
    }
}

/// Whether `at` is `from` or below it, across mounts.
pub fn is_reachable<D: Dentry>(locks: &WriteSet<D>, at: &Position<D>, from: &Position<D>) -> bool {
    let (mut mount, mut dentry) = at.clone();
    while !Arc::ptr_eq(&mount, &from.0) {
        let Some(parent) = locks.parent(&mount).cloned() else { return false };
        dentry = Arc::clone(locks.mountpoint(&mount).expect("it has a parent"));
        mount = parent;
    }
    from.1.is_ancestor_of(&dentry, &pin())
}
