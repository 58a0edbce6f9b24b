//! open_tree(2) and open_tree_attr(2): a place, or a copy of the tree there (8.6, 8.7).
//!
//! Numbers in comments are rows of the ordered checks.

use alloc::sync::Arc;

use linux_raw_sys::general as abi;
use mnt_table::namespace::{NamespaceId, namespace_of};
use mnt_table::{Dentry, Kind, LockPlan, MntNamespace, Mount};
use propagate::Error;
use propagate::copy_tree::{Extent, commit_steps};

use crate::detached::Detached;
use crate::file::Object;
use crate::mount::{CopyFrom, copy};
use crate::path::{Argument, Empty, Spot, last};
use crate::setattr::{self, Idmaps};
use crate::{Errno, File, Kernel, Task};

/// open_tree(2). Returns the descriptor of a place as it is, or with `OPEN_TREE_CLONE` of the root of a copy.
///
/// # Errors
/// `EINVAL`, `EPERM`, those of the walk, `ENOSPC`, `ENOMEM`; those of [`Kernel::install`].
pub fn open_tree<D: Dentry, K: Kernel<D>>(
    kernel: &K,
    dfd: i32,
    path: usize,
    flags: u32,
) -> Result<i32, Errno> {
    let file = open(kernel, dfd, path, flags)?;
    kernel.install(file, flags & abi::OPEN_TREE_CLOEXEC != 0)
}

/// open_tree_attr(2): as [`open_tree`], with attributes from the structure of `size` bytes at `attr` set before anybody
/// can see it.
///
/// # Errors
/// Those of [`open_tree`] and of [`setattr::mount_setattr`].
pub fn open_tree_attr<D: Dentry, K: Kernel<D>>(
    kernel: &K,
    dfd: i32,
    path: usize,
    flags: u32,
    (attr, size): (usize, usize),
) -> Result<i32, Errno> {
    if attr == 0 && size != 0 {
        return Err(Errno::EINVAL);
    }
    let file = open(kernel, dfd, path, flags)?;
    if attr != 0 {
        let idmaps = if flags & abi::OPEN_TREE_CLONE != 0 { Idmaps::Replaceable } else { Idmaps::Final };
        if let Some(change) = setattr::read(kernel, attr, size, idmaps)? {
            let at = file.path().ok_or(Errno::EINVAL)?;
            let at = Spot::at(kernel.task(), (at.mount.to_arc(), Arc::clone(&at.dentry)));
            setattr::apply(kernel, &at, &change, flags & abi::AT_RECURSIVE != 0)?;
        }
    }
    kernel.install(file, flags & abi::OPEN_TREE_CLOEXEC != 0)
}

fn open<D: Dentry, K: Kernel<D>>(kernel: &K, dfd: i32, path: usize, flags: u32) -> Result<File<D>, Errno> {
    let known = abi::AT_EMPTY_PATH
        | abi::AT_NO_AUTOMOUNT
        | abi::AT_RECURSIVE
        | abi::AT_SYMLINK_NOFOLLOW
        | abi::OPEN_TREE_CLONE
        | abi::OPEN_TREE_CLOEXEC;
    let has = |flag| flags & flag != 0;
    if flags & !known != 0 || has(abi::AT_RECURSIVE) && !has(abi::OPEN_TREE_CLONE) {
        return Err(Errno::EINVAL); // 1, 2
    }
    let task = kernel.task();
    if has(abi::OPEN_TREE_CLONE) {
        task.may_mount()?; // 3
    }
    let empty = if has(abi::AT_EMPTY_PATH) { Empty::Here } else { Empty::Refused };
    let at = Argument::read(kernel, dfd, path, empty)?; // 4
    let last = last(!has(abi::AT_SYMLINK_NOFOLLOW));
    if !has(abi::OPEN_TREE_CLONE) {
        return Ok(File::place(at.kept(task, last)?));
    }
    let extent = if has(abi::AT_RECURSIVE) { Extent::Bindable } else { Extent::Root };
    detached_copy(task, &at.spot(task, last)?, extent)
}

/// A copy in an anonymous namespace, which the file takes along when it is closed (row 5).
fn detached_copy<D: Dentry>(task: &Task<D>, spot: &Spot<'_, D>, extent: Extent) -> Result<File<D>, Errno> {
    let caller = task.namespace();
    caller.make_room().map_err(Error::from)?;
    let mut origin = origin_of(&spot.found().0);
    loop {
        let to = Detached::empty(&caller, origin)?;
        let mut now = origin;
        let copied = to.fill(LockPlan::new(&caller), |locks, to| {
            let from = &spot.now(locks)?;
            let (mut tree, steps) = copy(locks, CopyFrom { caller: &caller, from, extent }, to)?;
            // It may have moved since its origin was looked at.
            now = origin_of(&from.0);
            if now != origin {
                return Err(Error::Invalid.into());
            }
            let guard = mnt_table::pin();
            commit_steps(locks, steps);
            locks.expect_edges(to, tree.mounts.len());
            locks.attach_root(to, &tree.mounts[0]);
            for (mount, joint) in tree.mounts[1..].iter().zip(core::mem::take(&mut tree.inner)) {
                locks.attach(mount, joint, &guard);
            }
            Ok(Arc::clone(&tree.mounts[0]))
        });
        if now == origin {
            return Ok(File::new(Some(copied?), Object::Tree));
        }
        origin = now;
    }
}

/// Where a copy of `mount` comes from: the namespace that it is in, or the one that this came from.
fn origin_of<D: Dentry>(mount: &Arc<Mount<D>>) -> Option<NamespaceId> {
    let origin = |ns: Arc<MntNamespace<D>>| match ns.kind() {
        Kind::Anonymous => ns.origin(),
        Kind::Ordinary => Some(ns.id()),
        Kind::Internal => None,
    };
    namespace_of(&**mount).and_then(origin)
}
