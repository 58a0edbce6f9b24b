//! umount2(2).

use alloc::sync::Arc;

use linux_raw_sys::general as abi;
use mnt_table::walk::{Last, walk_to_change};
use mnt_table::{Dentry, LockPlan, SuperBlock};
use propagate::umount::{detach, umount as remove};
use propagate::{Error, with_locks};

use crate::user_memory::Text;
use crate::{Errno, Task};

/// What an umount did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Mounts that went along elsewhere.
    pub propagated: usize,
}

/// umount2(2). A plain umount has shut the file system down when it returns, if this was its last mount. A plain umount
/// of the mount that the caller's root is on makes its file system read-only instead.
///
/// # Errors
/// `EINVAL`: unknown flags; not the root of a mount of the caller's namespace, or its root mount. `EBUSY`: children or
/// users, here or at a counterpart; a root's file system that is written to. Those of the walk. `ENOMEM`.
pub fn umount2<'a, D: Dentry>(
    task: &Task<D>,
    target: impl Into<Text<'a>>,
    flags: u32,
) -> Result<Done, Errno> {
    let known = abi::MNT_FORCE | abi::MNT_DETACH | abi::UMOUNT_NOFOLLOW;
    if flags & !known != 0 {
        return Err(Errno::EINVAL);
    }
    let last = if flags & abi::UMOUNT_NOFOLLOW != 0 { Last::NoFollowAndCross } else { Last::FollowAndCross };
    let (mount, dentry) = walk_to_change(&task.fs(), &target.into().read()?, last)?;
    task.may_mount()?;
    if !Arc::ptr_eq(mount.root(), &dentry) {
        return Err(Errno::EINVAL);
    }
    let ns = task.namespace();
    let propagated = with_locks(LockPlan::new(&ns), |locks| {
        if !locks.is_in(&mount, &ns) || locks.is_locked(&mount) {
            return Err(Error::Invalid.into());
        }
        if flags & abi::MNT_DETACH == 0 && Arc::ptr_eq(&task.fs().root().0, &mount) {
            return Ok(None);
        }
        if locks.parent(&mount).is_none() {
            return Err(Error::Invalid.into());
        }
        let removed =
            if flags & abi::MNT_DETACH != 0 { detach(locks, &mount) } else { remove(locks, &mount) };
        removed.map(Some)
    })?;
    match propagated {
        Some(propagated) => Ok(Done { propagated }),
        None if mount.super_block().make_read_only() => Ok(Done::default()),
        None => Err(Errno::EBUSY),
    }
}
