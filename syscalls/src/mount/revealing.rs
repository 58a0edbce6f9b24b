//! File systems that show the kernel's state (proc, sysfs), in user namespaces (10.3).
//!
//! Where something of such a file system is covered for good, a fresh mount of it would reveal that. So it is allowed only
//! beside a mount of the same type that shows all, with the same restrictions.

use alloc::sync::Arc;

use mnt_table::{Dentry, LockPlan, MntNamespace, Mount, MountFlags, WriteSet, pin};
use propagate::with_locks;

use crate::file_system::{SuperFlags, TypeFlags, TypeRef};
use crate::{Errno, FileSystems};

/// The flags that a new mount with `flags` gets: with the locks of the mount that allows it.
///
/// # Errors
/// `EPERM`: it would reveal too much.
pub(crate) fn check<D: Dentry>(
    kernel: &(impl FileSystems<D> + ?Sized),
    ns: &Arc<MntNamespace<D>>,
    fs_type: &TypeRef<D>,
    flags: MountFlags,
) -> Result<MountFlags, Errno> {
    if ns.owner().is_initial() || !fs_type.flags().contains(TypeFlags::EXPOSES_KERNEL) {
        return Ok(flags);
    }
    let allowed = with_locks(LockPlan::new(ns), |locks| {
        let same_type = |mount: &&Arc<Mount<D>>| kernel.type_of(mount.root()).name() == fs_type.name();
        Ok(locks.mounts(ns).filter(same_type).find_map(|mount| allows(kernel, locks, mount, flags)))
    })?;
    allowed.map(|locks| flags | locks).ok_or(Errno::EPERM)
}

/// The locks that `mount` hands on to a new mount with `flags`, if it shows all that the new one would.
fn allows<D: Dentry>(
    kernel: &(impl FileSystems<D> + ?Sized),
    locks: &WriteSet<D>,
    mount: &Arc<Mount<D>>,
    flags: MountFlags,
) -> Option<MountFlags> {
    let mut has = mount.flags();
    if kernel.super_flags(mount.root()).contains(SuperFlags::RDONLY) {
        has |= MountFlags::LOCK_READONLY;
    }
    let times = |flags: MountFlags| flags.intersection(MountFlags::TIMES);
    let covers_nothing = |child: &Arc<Mount<D>>| {
        !locks.is_locked(child) || locks.mountpoint(child).is_some_and(|on| kernel.is_permanently_empty(on))
    };
    let shows_all = mount.root().parent(&pin()).is_none()
        && (!has.contains(MountFlags::LOCK_READONLY) || flags.contains(MountFlags::READONLY))
        && (!has.contains(MountFlags::LOCK_ATIME) || times(has) == times(flags))
        && locks.children(mount).all(covers_nothing);
    shows_all.then(|| has.intersection(MountFlags::LOCK_READONLY | MountFlags::LOCK_ATIME))
}
