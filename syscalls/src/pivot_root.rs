//! pivot_root(2).

use mnt_table::walk::{Last, walk_to_change};
use mnt_table::{Dentry, LockPlan};
use propagate::pivot_root::{self as change, Position};
use propagate::with_locks;

use crate::user_memory::Text;
use crate::{Errno, Task};

/// pivot_root(2): everybody in the system who stands exactly on the caller's root stands on the new one afterwards.
///
/// # Errors
/// `EPERM`: it may not change its namespace. As pivot_root(2) says: `EFAULT`, `ENOENT`, `ENOTDIR`, `EINVAL`, `EBUSY`,
/// those of the walks, `ENOMEM`.
pub fn pivot_root<'a, D: Dentry>(
    task: &Task<D>,
    new_root: impl Into<Text<'a>>,
    put_old: impl Into<Text<'a>>,
) -> Result<(), Errno> {
    task.may_mount()?;
    let new = directory(task, new_root.into())?;
    let old = directory(task, put_old.into())?;
    let ns = task.namespace();
    ns.make_room().map_err(propagate::Error::from)?;
    let done = with_locks(LockPlan::new(&ns), |locks| {
        // Under the lock: another pivot may have moved this task's root meanwhile.
        let root = task.fs().root();
        Ok(change::pivot_root(locks, &ns, &root, &new, &old)?)
    });
    done.map_err(Errno::from)
}

fn directory<D: Dentry>(task: &Task<D>, path: Text<'_>) -> Result<Position<D>, Errno> {
    let found = walk_to_change(&task.fs(), &path.read()?, Last::Follow)?;
    if found.1.is_dir() { Ok(found) } else { Err(Errno::ENOTDIR) }
}
