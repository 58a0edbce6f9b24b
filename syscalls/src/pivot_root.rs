//! pivot_root(2).

use mnt_table::walk::{Last, walk_to_change};
use mnt_table::{Dentry, LockPlan};
use propagate::{pivot_root as change, with_locks};

use crate::{Errno, Task};

/// pivot_root(2): everybody in the system who stands exactly on the caller's root stands on the new one afterwards.
///
/// # Errors
/// As pivot_root(2) says: `ENOENT`, `ENOTDIR`, `EINVAL`, `EBUSY`, those of the walks, `ENOMEM`.
pub fn pivot_root<D: Dentry>(task: &Task<D>, new_root: &[u8], put_old: &[u8]) -> Result<(), Errno> {
    let new = walk_to_change(task.fs(), new_root, Last::Follow)?;
    if !new.1.is_dir() {
        return Err(Errno::ENOTDIR);
    }
    let old = walk_to_change(task.fs(), put_old, Last::Follow)?;
    if !old.1.is_dir() {
        return Err(Errno::ENOTDIR);
    }
    let ns = task.namespace();
    ns.make_room().map_err(propagate::Error::from)?;
    let done = with_locks(LockPlan::new(&ns), |locks| {
        // Under the lock: another pivot may have moved this task's root meanwhile.
        let root = task.fs().root();
        Ok(change::pivot_root(locks, &ns, &root, &new, &old)?)
    });
    done.map_err(Errno::from)
}
