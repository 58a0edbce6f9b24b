//! What removing a directory entry (rmdir(2), unlink(2), rename(2) onto it) means for mounts on it elsewhere.

use alloc::sync::Arc;

use mnt_table::namespace::MntNamespace;
use mnt_table::{Dentry, LockPlan};
use propagate::umount::detach_from;
use propagate::with_locks;

use crate::Errno;

/// Detaches lazily what `namespaces` have mounted on `dentry`, which was removed ([`mnt_table::removal`]): one namespace
/// after the other, without propagation. Returns how many mounts went.
///
/// # Errors
/// `ENOMEM`: what was not reached keeps its mounts, on an entry that is gone.
pub fn detach_elsewhere<D: Dentry>(
    dentry: &Arc<D>,
    namespaces: &[Arc<MntNamespace<D>>],
) -> Result<usize, Errno> {
    namespaces.iter().try_fold(0, |before, ns| {
        let gone = with_locks(LockPlan::new(ns), |locks| detach_from(locks, ns, dentry))?;
        Ok(before + gone)
    })
}
