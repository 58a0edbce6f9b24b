//! What a mount lets a task do: for the kernel to ask where it opens and executes files (1.5, 10.2). Who writes says so
//! through [`mnt_table::writers::WriteRef`], which fails with `EROFS`.

use mnt_table::namespace::namespace_of;
use mnt_table::{Dentry, Mount, MountFlags, SuperBlock};

use crate::{Errno, Task};

/// Whether a file on `mount` may be executed (execve(2)). Mapping it executable is refused in the same case, with `EPERM`.
///
/// # Errors
/// `EACCES`.
pub fn may_exec<D: Dentry>(mount: &Mount<D>) -> Result<(), Errno> {
    if mount.flags().contains(MountFlags::NOEXEC) { Err(Errno::EACCES) } else { Ok(()) }
}

/// Whether a device node on `mount` may be opened: neither on a `nodev` mount nor on a file system that belongs to a user
/// namespace, where anybody could have made the node.
///
/// # Errors
/// `EACCES`.
pub fn may_open_device<D: Dentry>(mount: &Mount<D>) -> Result<(), Errno> {
    let trusted = mount.super_block().user_ns().is_initial();
    if trusted && !mount.flags().contains(MountFlags::NODEV) { Ok(()) } else { Err(Errno::EACCES) }
}

/// Whether set-id bits and file capabilities on `mount` mean something to `task`: not on a `nosuid` mount, nor on one of
/// another namespace, nor where the owner of the file system has no say over the task.
pub fn honours_set_id<D: Dentry>(task: &Task<D>, mount: &Mount<D>) -> bool {
    let own = namespace_of(mount).is_some_and(|ns| ns.id() == task.namespace().id());
    own && mount.is_mounted()
        && !mount.flags().contains(MountFlags::NOSUID)
        && task.credentials().user_ns.is_within(&mount.super_block().user_ns())
}
