//! Remounts: of one mount (3.6), and of its superblock (3.7).

use alloc::sync::Arc;

use mnt_table::attributes::Attributes;
use mnt_table::mount::Unkept;
use mnt_table::{Dentry, LockPlan, Mount, MountFlags, WriteSet, pin};
use propagate::{Error, Retry, with_locks};

use super::{Call, Done, own_mount};
use crate::attributes::{keeping_locks, locks_allow, remounted};
use crate::context::Context;
use crate::file_system::SuperFlags;
use crate::{Errno, FileSystems};

/// Sets the flags of one mount.
///
/// # Errors
/// As mount(2) says.
pub(super) fn mount<D: Dentry>(call: &Call<'_, D>) -> Result<Done, Errno> {
    let done = with_locks(LockPlan::new(&call.ns), |locks| {
        let (mount, new) = new_flags(call, locks)?;
        let flags = keeping_locks(mount.flags(), new);
        locks.set_attributes(&[Attributes { mount, flags, idmap: None }], |_| Ok::<_, Retry<D>>(()))?; // 4
        Ok(Done::default())
    });
    done.map_err(Errno::from)
}

/// The target, and the flags that it is to have (rows 1 to 3).
fn new_flags<D: Dentry>(
    call: &Call<'_, D>,
    locks: &WriteSet<D>,
) -> Result<(Arc<Mount<D>>, MountFlags), Retry<D>> {
    let mount = own_mount(locks, &call.ns, call.target.now(locks)?)?;
    let new = remounted(call.flags, mount.flags());
    if locks_allow(mount.flags(), new) { Ok((mount, new)) } else { Err(Error::Permission.into()) }
}

/// Changes the superblock, then the flags of the target.
///
/// # Errors
/// As mount(2) says.
pub(super) fn super_block<D: Dentry>(
    call: &Call<'_, D>,
    kernel: &impl FileSystems<D>,
    data: &[u8],
) -> Result<Done, Errno> {
    let (mount, new, kept) = with_locks(LockPlan::new(&call.ns), |locks| {
        let (mount, new) = new_flags(call, locks)?;
        // So that the instance is there when the context takes it.
        let kept = mount.keep(&pin());
        Ok((mount, new, kept))
    })?;
    let Ok(_kept) = kept.map_err(Unkept::settle) else { return Err(Errno::EINVAL) };
    let flags = SuperFlags::from_bits_truncate(call.flags);
    let fs_type = kernel.type_of(mount.root());
    let mut context = Context::for_reconfigure(fs_type, mount.root(), flags, SuperFlags::CHANGEABLE)?;
    context.set_options(data)?; // 4
    call.task.may_reconfigure(mount.super_block())?; // 5
    context.reconfigure(kernel.super_flags(mount.root()))?; // 6 to 8
    // Needs no memory: the superblock has changed.
    let mut locks = WriteSet::one(&call.ns);
    // Unless somebody umounted it meanwhile.
    if locks.is_in(&mount, &call.ns) {
        locks.set_flags(&mount, keeping_locks(mount.flags(), new));
    }
    Ok(Done::default())
}
