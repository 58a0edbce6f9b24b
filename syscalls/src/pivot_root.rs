//! pivot_root(2).

use mnt_table::walk::Last;
use mnt_table::{Dentry, LockPlan};
use propagate::{Error, pivot_root as change, with_locks};

use crate::path::{Argument, Spot};
use crate::scope::hold_stack;
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
    ns.make_room().map_err(Error::from)?;
    let done = with_locks(LockPlan::new(&ns), |locks| {
        // Under the lock: another pivot may have moved this task's root meanwhile.
        let root = task.fs().root();
        let (new, old) = (new.now(locks)?, old.now(locks)?);
        if !new.1.is_dir() || !old.1.is_dir() {
            return Err(Error::NotDirectory.into());
        }
        hold_stack(locks, &old)?;
        Ok(change::pivot_root(locks, &ns, &root, &new, &old)?)
    });
    done.map_err(Errno::from)
}

fn directory<'a, D: Dentry>(task: &'a Task<D>, path: Text<'_>) -> Result<Spot<'a, D>, Errno> {
    let spot = Argument::text(&path.read()?)?.spot(task, Last::Follow)?;
    if spot.found().1.is_dir() { Ok(spot) } else { Err(Errno::ENOTDIR) }
}
