//! mount(2).
//!
//! The operation is chosen by the first of these that is set (3.2): REMOUNT with BIND, REMOUNT, BIND, one of the
//! propagation types, MOVE; otherwise it is a new mount. The target is walked first; under the locks it is walked again if
//! the namespace has changed meanwhile ([`Spot`]), and moved to the top of what is mounted there.
//!
//! Numbers in comments are rows of the ordered checks that mount(2) makes.

use alloc::sync::Arc;

use linux_raw_sys::general as abi;
use mnt_table::walk::Last;
use mnt_table::{Dentry, MntNamespace, Mount, WriteSet};
use propagate::attach::Rules;
use propagate::pivot_root::{Position, top_of};
use propagate::{Error, Retry};

use crate::path::{Argument, Spot};
use crate::scope::{hold_stack, is_mounted};
use crate::user_memory::Text;
use crate::{Errno, FileSystems, Task, sysctl};

mod bind;
mod change_type;
mod create;
pub(crate) mod move_tree;
mod remount;
pub(crate) mod revealing;

pub use crate::attributes::from_ms as mount_flags;
pub(crate) use bind::{CopyFrom, copy};
pub(crate) use change_type::type_of;

/// What a mount call did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Copies that other mounts received.
    pub propagated: usize,
}

/// A mount call: who makes it, where, and with which flags.
struct Call<'a, D: Dentry> {
    task: &'a Task<D>,
    ns: Arc<MntNamespace<D>>,
    target: Spot<'a, D>,
    flags: u32,
}

/// mount(2), with strings as user space gave them.
///
/// # Errors
/// As mount(2) says, in Linux's order.
pub fn mount<'a, D: Dentry>(
    task: &Task<D>,
    kernel: &impl FileSystems<D>,
    source: Option<&[u8]>,
    target: impl Into<Text<'a>>,
    fs_type: Option<&[u8]>,
    flags: impl Into<u64>,
    data: &[u8],
) -> Result<Done, Errno> {
    let target = Argument::text(&target.into().read()?)?.spot(task, Last::Follow)?;
    let flags = known_flags(flags.into())?;
    task.may_mount()?;
    let ns = task.namespace();
    ns.make_room().map_err(Error::from)?;
    let call = Call { task, ns, target, flags };
    let types = abi::MS_SHARED | abi::MS_PRIVATE | abi::MS_SLAVE | abi::MS_UNBINDABLE;
    let has = |flag| flags & flag != 0;
    if has(abi::MS_REMOUNT) && has(abi::MS_BIND) {
        remount::mount(&call)
    } else if has(abi::MS_REMOUNT) {
        remount::super_block(&call, kernel, data)
    } else if has(abi::MS_BIND) {
        bind::bind(&call, source)
    } else if has(types) {
        change_type::change_type(&call)
    } else if has(abi::MS_MOVE) {
        let source = source_path(task, source)?;
        move_tree::move_tree(task, &source, &call.target, move_tree::How::OnTop)
    } else {
        create::create(&call, kernel, fs_type, source, data)
    }
}

/// The flags that mean something: without the magic number that programs before Linux 2.4 give.
///
/// # Errors
/// `EINVAL`: the sign bit, which programs may have extended, or above.
fn known_flags(flags: u64) -> Result<u32, Errno> {
    let magic = flags & u64::from(abi::MS_MGC_MSK) == u64::from(abi::MS_MGC_VAL);
    let flags = if magic { flags & u64::from(!abi::MS_MGC_MSK) } else { flags };
    u32::try_from(flags).ok().filter(|flags| flags & abi::MS_NOUSER == 0).ok_or(Errno::EINVAL)
}

/// What an attach for a caller in `ns` has to keep to.
pub(crate) fn rules<D: Dentry>(ns: &MntNamespace<D>) -> Rules {
    Rules { mounts_max: sysctl::mounts_max(), owner: ns.owner().clone() }
}

/// Where something is to be attached: the top of the stack at `target`, which counts as used by that, whatever becomes of
/// the call.
///
/// # Errors
/// `ENOENT`: the place is gone, or might go at any time.
pub(crate) fn lock_target<D: Dentry>(
    locks: &WriteSet<D>,
    target: &Position<D>,
) -> Result<Position<D>, Error> {
    if !is_mounted(&target.0) {
        return Err(Error::NotFound);
    }
    let place = top_of(locks, target);
    place.0.note_use();
    if place.1.is_removed() || place.1.is_fleeting() { Err(Error::NotFound) } else { Ok(place) }
}

/// As [`lock_target`], in `ns`.
///
/// # Errors
/// `ENOENT`: the place is gone. `EINVAL`: it is in another namespace. A lock is missing.
fn lock_own_target<D: Dentry>(
    locks: &WriteSet<D>,
    ns: &Arc<MntNamespace<D>>,
    target: &Position<D>,
) -> Result<Position<D>, Retry<D>> {
    hold_stack(locks, target)?;
    let place = lock_target(locks, target)?;
    if locks.is_in(&place.0, ns) { Ok(place) } else { Err(Error::Invalid.into()) }
}

fn source_path<'a, D: Dentry>(task: &'a Task<D>, source: Option<&[u8]>) -> Result<Spot<'a, D>, Errno> {
    match source {
        None | Some(b"") => Err(Errno::EINVAL),
        Some(source) => Argument::text(source)?.spot(task, Last::Follow),
    }
}

/// Whether `dentry` is the root of `mount`.
pub(crate) fn is_root<D: Dentry>((mount, dentry): &Position<D>) -> bool {
    Arc::ptr_eq(mount.root(), dentry)
}

/// The mount whose root `target` is, which must be in `ns`.
///
/// # Errors
/// `EINVAL`.
fn own_mount<D: Dentry>(
    locks: &WriteSet<D>,
    ns: &Arc<MntNamespace<D>>,
    target: Position<D>,
) -> Result<Arc<Mount<D>>, Error> {
    if locks.is_in(&target.0, ns) && is_root(&target) { Ok(target.0) } else { Err(Error::Invalid) }
}
