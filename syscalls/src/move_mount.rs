//! move_mount(2): to a place, beneath what is there, or into a peer group (8.8).

use linux_raw_sys::general as abi;
use mnt_table::{Dentry, LockPlan};
use propagate::graph::set_group;
use propagate::{Error, with_locks};

use crate::mount::is_root;
use crate::mount::move_tree::{How, move_tree};
use crate::path::{Argument, Empty, Spot, last};
use crate::scope::{home, is_mounted};
use crate::{Errno, Kernel, Task};

/// One end of a move, as user space names it.
#[derive(Clone, Copy, Debug)]
pub struct End {
    /// A directory.
    pub dfd: i32,
    /// Where the path is.
    pub path: usize,
}

/// move_mount(2).
///
/// # Errors
/// `EPERM`, `EINVAL`, those of both walks, `ELOOP`, `ENOENT`, `ENOSPC`, `ENOMEM`.
pub fn move_mount<D: Dentry, K: Kernel<D>>(kernel: &K, from: End, to: End, flags: u32) -> Result<(), Errno> {
    let task = kernel.task();
    task.may_mount()?; // 1
    let both = abi::MOVE_MOUNT_BENEATH | abi::MOVE_MOUNT_SET_GROUP;
    if flags & !abi::MOVE_MOUNT__MASK != 0 || flags & both == both {
        return Err(Errno::EINVAL); // 2
    }
    let find = |end: End, empty: u32, follow: u32| {
        let empty = if flags & empty != 0 { Empty::NullIsHere } else { Empty::Refused };
        Argument::read(kernel, end.dfd, end.path, empty)?.spot(task, last(flags & follow != 0))
    };
    let to = find(to, abi::MOVE_MOUNT_T_EMPTY_PATH, abi::MOVE_MOUNT_T_SYMLINKS)?; // 3
    let from = find(from, abi::MOVE_MOUNT_F_EMPTY_PATH, abi::MOVE_MOUNT_F_SYMLINKS)?;
    let ns = task.namespace();
    ns.make_room().map_err(Error::from)?;
    if flags & abi::MOVE_MOUNT_SET_GROUP != 0 {
        return join(task, &from, &to); // 5
    }
    let how = if flags & abi::MOVE_MOUNT_BENEATH != 0 { How::Beneath } else { How::OnTop };
    move_tree(task, &from, &to, how).map(drop)
}

/// Gives `to` the group and the master of `from` (8.8.2).
fn join<D: Dentry>(task: &Task<D>, from: &Spot<'_, D>, to: &Spot<'_, D>) -> Result<(), Errno> {
    let done = with_locks(LockPlan::new(&task.namespace()), |locks| {
        let (from, to) = (from.now(locks)?, to.now(locks)?);
        for (mount, _) in [&from, &to] {
            let Some(home) = home(locks, mount)?.filter(|_| is_mounted(mount)) else {
                return Err(Error::Invalid.into()); // 1, 2
            };
            task.may_administer(&home).map_err(|_| Error::Permission)?;
        }
        if !is_root(&from) || !is_root(&to) {
            return Err(Error::Invalid.into()); // 3
        }
        set_group(locks, &from.0, &to.0) // 4 to 8
    });
    done.map_err(Errno::from)
}
