//! Changes of the propagation type (3.8).

use linux_raw_sys::general as abi;
use mnt_table::{Dentry, LockPlan};
use propagate::graph::{self, PropagationType, change_types};
use propagate::{Error, with_locks};

use super::{Call, Done, is_root};
use crate::Errno;
use crate::scope::{home, is_mounted};

/// The type that one of the flags of mount(2) asks for; `None` for any other set of flags.
pub(crate) fn type_of(flags: u32) -> Option<PropagationType> {
    match flags {
        abi::MS_SHARED => Some(PropagationType::Shared),
        abi::MS_SLAVE => Some(PropagationType::Slave),
        abi::MS_PRIVATE => Some(PropagationType::Private),
        abi::MS_UNBINDABLE => Some(PropagationType::Unbindable),
        _ => None,
    }
}

/// Changes the target, in whatever namespace it is, and with `MS_REC` all below it.
///
/// # Errors
/// As mount(2) says.
pub(super) fn change_type<D: Dentry>(call: &Call<'_, D>) -> Result<Done, Errno> {
    let Call { task, ns, target, flags } = call;
    let to = type_of(flags & !(abi::MS_REC | abi::MS_SILENT)).ok_or(Errno::EINVAL)?; // 2
    let done = with_locks(LockPlan::new(ns), |locks| {
        let target = target.now(locks)?;
        if !is_root(&target) {
            return Err(Error::Invalid.into()); // 1
        }
        let Some(home) = home(locks, &target.0)?.filter(|_| is_mounted(&target.0)) else {
            return Err(Error::Invalid.into()); // 3
        };
        task.may_administer(&home).map_err(|_| Error::Permission)?; // 4
        if flags & abi::MS_REC != 0 {
            let mounts = locks.subtree(&target.0)?;
            change_types(locks, &mounts, to)?; // 5
        } else {
            graph::change_type(locks, &target.0, to)?;
        }
        Ok(Done::default())
    });
    done.map_err(Errno::from)
}
