//! Private mounts: how a file system that lies on others, such as overlayfs, holds those (`clone_private_mount`).

use alloc::sync::Arc;

use mnt_table::{Dentry, LockPlan, MountFlags, MountSpec, PathRef};
use propagate::Error;
use propagate::copy_tree::has_locked_children;

use crate::detached::Detached;
use crate::file::Object;
use crate::scope::{home, is_usable};
use crate::{Errno, File, Task};

/// A mount of what is at `at` that nobody finds: in a namespace of its own, without peers, and with nothing on it. `at` may
/// be umounted; the private mount, which keeps the file system going, ends with the file.
///
/// # Errors
/// `EINVAL`: `at` is unbindable or in another namespace, or a locked mount covers something of it. `ENOMEM`.
pub fn private_mount<D: Dentry>(
    task: &Task<D>,
    at: &PathRef<D>,
    flags: MountFlags,
) -> Result<File<D>, Errno> {
    let caller = task.namespace();
    let mount = at.mount.to_arc();
    let to = Detached::private(&caller)?;
    let root = to.fill(LockPlan::new(&caller), |locks, to| {
        let usable = home(locks, &mount)?.is_some() && is_usable(locks, &caller, &mount)?;
        if !usable || locks.is_unbindable(&mount) || has_locked_children(locks, &mount, &at.dentry) {
            return Err(Error::Invalid.into());
        }
        let mut spec = MountSpec::new(Arc::clone(&at.dentry), flags, mount.source().clone());
        spec.idmap = mount.idmap();
        let private = locks.new_mount(to, spec)?;
        locks.attach_root(to, &private);
        Ok(private)
    })?;
    Ok(File::new(Some(root), Object::Tree))
}
