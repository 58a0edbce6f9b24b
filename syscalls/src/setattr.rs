//! mount_setattr(2): flags, propagation type and id map of a mount, or of all mounts of a tree at once (8.9).
//!
//! Numbers in comments are rows of the ordered checks.

use alloc::sync::Arc;
use alloc::vec::Vec;

use linux_raw_sys::general as abi;
use mnt_table::attributes::Attributes;
use mnt_table::{Dentry, Kind, LockPlan, Mount, MountFlags, SuperBlock, UserNs, WriteSet, memory};
use propagate::graph::{PropagationType, change_types};
use propagate::{Error, with_locks};

use crate::attributes::{from_attr, keeping_locks, locks_allow, times_from_attr};
use crate::file::Object;
use crate::file_system::TypeFlags;
use crate::mount::{is_root, type_of};
use crate::path::{Argument, Empty, Spot, last};
use crate::scope::{anonymous_root, home};
use crate::user_memory::{PAGE_SIZE, structure};
use crate::{Errno, Kernel};

/// What is to be changed.
pub(crate) struct Change {
    set: MountFlags,
    clear: MountFlags,
    propagation: Option<PropagationType>,
    /// The id map that each mount gets, or loses.
    idmap: Option<Option<UserNs>>,
    idmaps: Idmaps,
}

/// Whether an id map can be replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Idmaps {
    /// Once set it stays.
    Final,
    /// In a copy that nobody has seen it can be replaced and taken away.
    Replaceable,
}

/// mount_setattr(2), with the structure of `size` bytes at `attr`.
///
/// # Errors
/// `EINVAL`, `E2BIG`, `EPERM`, `EFAULT`, `EBADF`, those of the walk, `EBUSY`, `ENOMEM`. Nothing was changed then.
pub fn mount_setattr<D: Dentry, K: Kernel<D>>(
    kernel: &K,
    dfd: i32,
    path: usize,
    flags: u32,
    (attr, size): (usize, usize),
) -> Result<(), Errno> {
    let known = abi::AT_EMPTY_PATH | abi::AT_RECURSIVE | abi::AT_SYMLINK_NOFOLLOW | abi::AT_NO_AUTOMOUNT;
    if flags & !known != 0 {
        return Err(Errno::EINVAL); // 1
    }
    let Some(change) = read(kernel, attr, size, Idmaps::Final)? else { return Ok(()) };
    let empty = if flags & abi::AT_EMPTY_PATH != 0 { Empty::Here } else { Empty::Refused };
    let last = last(flags & abi::AT_SYMLINK_NOFOLLOW == 0);
    let at = Argument::read(kernel, dfd, path, empty)?.spot(kernel.task(), last)?; // 11
    apply(kernel, &at, &change, flags & abi::AT_RECURSIVE != 0)
}

/// Reads the structure, and says what is to be changed; `None` if nothing is (rows 2 to 10).
///
/// # Errors
/// As [`mount_setattr`].
pub(crate) fn read<D: Dentry, K: Kernel<D>>(
    kernel: &K,
    addr: usize,
    size: usize,
    idmaps: Idmaps,
) -> Result<Option<Change>, Errno> {
    if size > PAGE_SIZE {
        return Err(Errno::E2BIG); // 2
    }
    if size < abi::MOUNT_ATTR_SIZE_VER0 as usize {
        return Err(Errno::EINVAL); // 3
    }
    kernel.task().may_mount()?; // 4
    let mut bytes = [0; size_of::<abi::mount_attr>()];
    structure(kernel, addr, size, &mut bytes)?; // 5
    let mut words = bytes.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word));
    let mut next = || words.next().unwrap_or(0);
    let attr = abi::mount_attr { attr_set: next(), attr_clr: next(), propagation: next(), userns_fd: next() };
    if attr.attr_set == 0 && attr.attr_clr == 0 && attr.propagation == 0 {
        return Ok(None); // 6
    }
    let propagation = match attr.propagation {
        0 => None,
        flag => Some(u32::try_from(flag).ok().and_then(type_of).ok_or(Errno::EINVAL)?), // 7
    };
    const KNOWN: u32 = abi::MOUNT_ATTR_RDONLY
        | abi::MOUNT_ATTR_NOSUID
        | abi::MOUNT_ATTR_NODEV
        | abi::MOUNT_ATTR_NOEXEC
        | abi::MOUNT_ATTR__ATIME
        | abi::MOUNT_ATTR_NODIRATIME
        | abi::MOUNT_ATTR_IDMAP
        | abi::MOUNT_ATTR_NOSYMFOLLOW;
    if (attr.attr_set | attr.attr_clr) & !u64::from(KNOWN) != 0 {
        return Err(Errno::EINVAL); // 8
    }
    let (mut set, mut clear) = (from_attr(attr.attr_set), from_attr(attr.attr_clr));
    let times = u64::from(abi::MOUNT_ATTR__ATIME);
    match attr.attr_clr & times {
        0 if attr.attr_set & times == 0 => {}
        cleared if cleared == times => {
            // Kinds of access times exclude each other: all go, then comes the one that is set.
            clear |= MountFlags::RELATIME | MountFlags::NOATIME;
            set |= times_from_attr(attr.attr_set)?;
        }
        _ => return Err(Errno::EINVAL), // 9
    }
    let idmap = new_idmap(kernel, &attr, idmaps)?; // 10
    Ok(Some(Change { set, clear, propagation, idmap, idmaps }))
}

/// The id map that the structure asks for.
fn new_idmap<D: Dentry, K: Kernel<D>>(
    kernel: &K,
    attr: &abi::mount_attr,
    idmaps: Idmaps,
) -> Result<Option<Option<UserNs>>, Errno> {
    let flag = u64::from(abi::MOUNT_ATTR_IDMAP);
    let (set, clear) = (attr.attr_set & flag != 0, attr.attr_clr & flag != 0);
    if clear && idmaps == Idmaps::Final {
        return Err(Errno::EINVAL);
    }
    if !set {
        return Ok(clear.then_some(None));
    }
    let fd = i32::try_from(attr.userns_fd).map_err(|_| Errno::EINVAL)?;
    let file = kernel.file(fd)?;
    let Object::UserNamespace(ns) = file.opened()? else { return Err(Errno::EINVAL) };
    if ns.is_initial() || !kernel.task().credentials().is_admin(ns) {
        return Err(Errno::EPERM);
    }
    Ok(Some(Some(ns.clone())))
}

/// Makes the change, for the mount at `at` or all of its tree: of all or of none.
///
/// # Errors
/// As [`mount_setattr`].
pub(crate) fn apply<D: Dentry, K: Kernel<D>>(
    kernel: &K,
    at: &Spot<'_, D>,
    change: &Change,
    recursive: bool,
) -> Result<(), Errno> {
    if let Some(Some(ns)) = &change.idmap
        && ns.maps().is_none()
    {
        return Err(Errno::EINVAL);
    }
    let ns = kernel.task().namespace();
    let done = with_locks(LockPlan::new(&ns), |locks| {
        let at = at.now(locks)?;
        if !is_root(&at) {
            return Err(Error::Invalid.into()); // 12
        }
        let own = home(locks, &at.0)?.is_some_and(|home| Arc::ptr_eq(&home, &ns));
        if !own && anonymous_root(locks, &at.0)?.is_none() {
            return Err(Error::Invalid.into()); // 13
        }
        let mounts = if recursive { locks.subtree(&at.0)? } else { memory::collect([Arc::clone(&at.0)])? };
        let changes = checked(kernel, locks, &mounts, change)?;
        locks.set_attributes(&changes, |locks| match change.propagation {
            Some(to) => change_types(locks, &mounts, to),
            None => Ok(()),
        })
    });
    done.map_err(Errno::from)
}

/// What becomes of each of `mounts` (rows 14 to 16). The first one that may not change so decides: a writer of one before
/// it counts as well.
fn checked<D: Dentry, K: Kernel<D>>(
    kernel: &K,
    locks: &WriteSet<D>,
    mounts: &[Arc<Mount<D>>],
    change: &Change,
) -> Result<Vec<Attributes<D>>, Error> {
    let mut changes: Vec<Attributes<D>> = Vec::new();
    changes.try_reserve_exact(mounts.len()).map_err(|_| Error::NoMemory)?;
    for mount in mounts {
        let old = mount.flags();
        let new = old.difference(change.clear) | change.set;
        let allowed = if !locks_allow(old, new) {
            Err(Error::Permission) // 14
        } else if let Some(idmap) = &change.idmap {
            may_map(kernel, locks, mount, idmap.as_ref(), change.idmaps) // 15
        } else {
            Ok(())
        };
        if let Err(error) = allowed {
            let busy = changes.iter().any(|change| locks.is_written(change)); // 16
            return Err(if busy { Error::Busy } else { error });
        }
        let (mount, flags) = (Arc::clone(mount), keeping_locks(old, new));
        changes.push(Attributes { mount, flags, idmap: change.idmap.clone() });
    }
    Ok(changes)
}

/// Whether `mount` may get the id map `idmap`.
fn may_map<D: Dentry, K: Kernel<D>>(
    kernel: &K,
    locks: &WriteSet<D>,
    mount: &Arc<Mount<D>>,
    idmap: Option<&UserNs>,
    idmaps: Idmaps,
) -> Result<(), Error> {
    let owner = mount.super_block().user_ns();
    if idmap.is_some_and(|ns| *ns == owner) {
        return Err(Error::Invalid);
    }
    if idmaps == Idmaps::Final && mount.idmap().is_some() {
        return Err(Error::Permission);
    }
    if !kernel.type_of(mount.root()).flags().contains(TypeFlags::ID_MAPS) {
        return Err(Error::Invalid);
    }
    if !kernel.task().credentials().is_admin(&owner) {
        return Err(Error::Permission);
    }
    let unseen = locks.namespace_of(mount).is_some_and(|home| home.kind() == Kind::Anonymous);
    if unseen { Ok(()) } else { Err(Error::Invalid) }
}
