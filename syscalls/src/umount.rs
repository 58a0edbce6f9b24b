//! umount2(2).
//!
//! Numbers in comments are rows of the ordered checks that umount2(2) makes.

use alloc::sync::Arc;

use linux_raw_sys::general as abi;
use mnt_table::walk::Last;
use mnt_table::{Dentry, LockPlan, Mount, SuperBlock, WriteSet};
use propagate::umount::{detach, umount};
use propagate::{Error, with_locks};

use crate::mount::is_root;
use crate::path::Argument;
use crate::user_memory::Text;
use crate::{Errno, Task};

/// What an umount did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Mounts that went along elsewhere.
    pub propagated: usize,
}

/// What a first look at the mount decides.
enum First<D: Dentry> {
    /// It was marked for the next umount with `MNT_EXPIRE`.
    Marked,
    /// Its file system has to be spoken to first.
    Waits(Arc<Mount<D>>),
    /// It is gone.
    Gone(Done),
}

/// umount2(2). A plain umount has shut the file system down when it returns, if this was its last mount. A plain umount
/// of the mount that the caller's root is on makes its file system read-only instead.
///
/// # Errors
/// `EINVAL`: unknown flags; not the root of a mount of the caller's namespace; locked; `MNT_EXPIRE` with other flags or of
/// the caller's root mount; the namespace's root mount. `EPERM`. `EBUSY`: children or users, here or at a counterpart; a
/// root's file system that is written to. `EAGAIN`: it will go next time. Those of the walk. `ENOMEM`.
pub fn umount2<'a, D: Dentry>(
    task: &Task<D>,
    target: impl Into<Text<'a>>,
    flags: u32,
) -> Result<Done, Errno> {
    let known = abi::MNT_FORCE | abi::MNT_DETACH | abi::MNT_EXPIRE | abi::UMOUNT_NOFOLLOW;
    if flags & !known != 0 {
        return Err(Errno::EINVAL); // 1
    }
    let has = |flag| flags & flag != 0;
    let last = if has(abi::UMOUNT_NOFOLLOW) { Last::NoFollowAndCross } else { Last::FollowAndCross };
    let target = Argument::text(&target.into().read()?)?.spot(task, last)?; // 2
    task.may_mount()?; // 3
    let ns = task.namespace();
    let remove = |locks: &mut WriteSet<D>, mount: &Arc<Mount<D>>| {
        if !locks.is_in(mount, &ns) || locks.is_locked(mount) || locks.parent(mount).is_none() {
            return Err(Error::Invalid.into()); // 14
        }
        let propagated = if has(abi::MNT_DETACH) { detach(locks, mount) } else { umount(locks, mount) }?; // 15
        Ok(Done { propagated })
    };
    let is_callers_root = |mount: &Arc<Mount<D>>| Arc::ptr_eq(&task.fs().root().0, mount);
    let first = with_locks(LockPlan::new(&ns), |locks| {
        let target = target.now(locks)?;
        let mount = &target.0;
        if !is_root(&target) || !locks.is_in(mount, &ns) || locks.is_locked(mount) {
            return Err(Error::Invalid.into()); // 4, 5, 6
        }
        if has(abi::MNT_FORCE) {
            task.may_reconfigure(mount.super_block()).map_err(|_| Error::Permission)?; // 7
        }
        if has(abi::MNT_EXPIRE) {
            if is_callers_root(mount) || has(abi::MNT_FORCE | abi::MNT_DETACH) {
                return Err(Error::Invalid.into()); // 9
            }
            if !locks.is_leaf(mount) || !locks.is_idle(mount) {
                return Err(Error::Busy.into()); // 10
            }
            if !mount.mark_expiring() {
                return Ok(First::Marked); // 11
            }
        }
        if has(abi::MNT_FORCE) || is_callers_root(mount) && !has(abi::MNT_DETACH) {
            return Ok(First::Waits(Arc::clone(mount)));
        }
        remove(locks, mount).map(First::Gone)
    })?;
    let mount = match first {
        First::Marked => return Err(Errno::EAGAIN),
        First::Gone(done) => return Ok(done),
        First::Waits(mount) => mount,
    };
    if has(abi::MNT_FORCE) {
        mount.super_block().abort(); // 12
    }
    if is_callers_root(&mount) && !has(abi::MNT_DETACH) {
        task.may_reconfigure(mount.super_block())?; // 13
        return if mount.super_block().make_read_only() { Ok(Done::default()) } else { Err(Errno::EBUSY) };
    }
    with_locks(LockPlan::new(&ns), |locks| remove(locks, &mount)).map_err(Errno::from)
}
