//! mount(2).
//!
//! The operation is chosen by the first of these flags that is set: REMOUNT with BIND, BIND, one of the propagation types,
//! MOVE; otherwise it is a new mount. The target is walked first, and under the locks moved to the top of what is
//! mounted there.

use alloc::sync::Arc;

use linux_raw_sys::general as abi;
use mnt_table::mount::MountFlags;
use mnt_table::namespace::MntNamespace;
use mnt_table::walk::{Last, walk_to_change};
use mnt_table::{Dentry, LockPlan, Mount, MountSpec, WriteSet};
use propagate::attach::{Place, Rules, What, attach};
use propagate::copy_tree::{Extent, NewTree, copy_tree, make_siblings, members, places};
use propagate::graph::{PropagationType, change_type, is_shared, missing_groups};
use propagate::pivot_root::{Position, top_of};
use propagate::{Error, Retry, with_locks};

use crate::context::Context;
use crate::file_system::{SuperFlags, Value, find_type};
use crate::user_memory::Text;
use crate::{Errno, FileSystems, MOUNTS_MAX, Task};

/// What a mount call did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Copies that other mounts received.
    pub propagated: usize,
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
    let target = walk_to_change(&task.fs(), &target.into().read()?, Last::Follow)?;
    let flags = known_flags(flags.into())?;
    task.may_mount()?;
    let ns = task.namespace();
    ns.make_room().map_err(Error::from)?;
    if flags & abi::MS_REMOUNT != 0 {
        // The superblock's own flags are not the table's; what a mount has of them is the per-mount part.
        return set_flags(&ns, &target, flags);
    }
    if flags & abi::MS_BIND != 0 {
        return bind(task, &ns, source, &target, flags & abi::MS_REC != 0);
    }
    let types = abi::MS_SHARED | abi::MS_PRIVATE | abi::MS_SLAVE | abi::MS_UNBINDABLE;
    if flags & types != 0 {
        return set_type(&ns, &target, flags);
    }
    if flags & abi::MS_MOVE != 0 {
        return move_mount(task, &ns, source, &target);
    }
    let fs_type = fs_type.ok_or(Errno::EINVAL)?;
    let context = create(task, kernel, fs_type, source, flags, data)?;
    let instance = context.instance().ok_or(Errno::EINVAL)?;
    let source = Arc::from(context.source().unwrap_or(b"none"));
    new_mount(&ns, instance.root(), source, mount_flags(flags), &target).map_err(Errno::from)
}

/// The flags that mean something: without the magic number that programs before Linux 2.4 give.
///
/// # Errors
/// `EINVAL`: the sign bit, which programs may have extended, or above.
fn known_flags(flags: u64) -> Result<u32, Errno> {
    let magic = flags & u64::from(abi::MS_MGC_MSK) == u64::from(abi::MS_MGC_VAL);
    let flags = if magic { flags & !u64::from(abi::MS_MGC_MSK) } else { flags };
    u32::try_from(flags).ok().filter(|flags| flags & abi::MS_NOUSER == 0).ok_or(Errno::EINVAL)
}

/// An instance of `fs_type`, which may have a subtype behind a dot.
fn create<D: Dentry>(
    task: &Task<D>,
    kernel: &impl FileSystems<D>,
    fs_type: &[u8],
    source: Option<&[u8]>,
    flags: u32,
    data: &[u8],
) -> Result<Context<D>, Errno> {
    let (found, subtype) = find_type(kernel, fs_type)?;
    let credentials = task.credentials();
    let mut context = Context::for_mount(found, &credentials, SuperFlags::from_bits_truncate(flags))?;
    match subtype {
        Some(b"") => return Err(Errno::EINVAL),
        Some(subtype) => context.set_subtype(subtype),
        None => {}
    }
    if let Some(source) = source {
        context.set_parameter(b"source", &Value::String(source))?;
    }
    context.set_options(data)?;
    context.create(&credentials, false)?;
    Ok(context)
}

/// The per-mount flags in the flags of mount(2).
pub fn mount_flags(flags: u32) -> MountFlags {
    let mut found = MountFlags::RELATIME;
    if flags & abi::MS_NOATIME != 0 {
        found = MountFlags::NOATIME;
    }
    let named = [
        (abi::MS_RDONLY, MountFlags::READONLY),
        (abi::MS_NOSUID, MountFlags::NOSUID),
        (abi::MS_NODEV, MountFlags::NODEV),
        (abi::MS_NOEXEC, MountFlags::NOEXEC),
        (abi::MS_NODIRATIME, MountFlags::NODIRATIME),
        (abi::MS_NOSYMFOLLOW, MountFlags::NOSYMFOLLOW),
    ];
    for (bit, flag) in named {
        found.set(flag, flags & bit != 0);
    }
    if flags & abi::MS_STRICTATIME != 0 {
        found.remove(MountFlags::RELATIME | MountFlags::NOATIME);
    }
    found
}

/// What an attach for a caller in `ns` has to keep to.
fn rules<D: Dentry>(ns: &MntNamespace<D>) -> Rules {
    Rules { mounts_max: MOUNTS_MAX, owner: ns.owner().clone() }
}

/// Where something is to be attached: the top of the stack at `target`, if `target` still is in `ns`.
fn lock_target<D: Dentry>(
    locks: &WriteSet<D>,
    ns: &Arc<MntNamespace<D>>,
    target: &Position<D>,
) -> Result<Position<D>, Error> {
    if target.1.is_removed() || !target.0.is_mounted() {
        return Err(Error::NotFound);
    }
    if !locks.is_in(&target.0, ns) {
        return Err(Error::Invalid);
    }
    Ok(top_of(locks, target))
}

fn new_mount<D: Dentry>(
    ns: &Arc<MntNamespace<D>>,
    root: &Arc<D>,
    source: Arc<[u8]>,
    flags: MountFlags,
    target: &Position<D>,
) -> Result<Done, Error> {
    with_locks(LockPlan::new(ns), |locks| {
        let (parent, on) = lock_target(locks, ns, target)?;
        let same = Arc::ptr_eq(parent.super_block(), root.super_block()) && Arc::ptr_eq(parent.root(), &on);
        if same {
            return Err(Error::Busy.into());
        }
        if root.symlink().is_some() {
            return Err(Error::Invalid.into());
        }
        if root.is_dir() != on.is_dir() {
            return Err(Error::NotDirectory.into());
        }
        let spec = MountSpec::new(Arc::clone(root), flags, Arc::clone(&source));
        let mount = locks.new_mount(ns, spec)?;
        let what = What::New(NewTree::single(mount), alloc::vec::Vec::new());
        Ok(Done { propagated: attach(locks, what, Place::top(&parent, &on), &rules(ns))? })
    })
}

fn source_path<D: Dentry>(task: &Task<D>, source: Option<&[u8]>) -> Result<Position<D>, Errno> {
    match source {
        None | Some(b"") => Err(Errno::EINVAL),
        Some(source) => Ok(walk_to_change(&task.fs(), source, Last::Follow)?),
    }
}

fn bind<D: Dentry>(
    task: &Task<D>,
    ns: &Arc<MntNamespace<D>>,
    source: Option<&[u8]>,
    target: &Position<D>,
    recursive: bool,
) -> Result<Done, Errno> {
    let (mount, dentry) = source_path(task, source)?;
    let done = with_locks(LockPlan::new(ns), |locks| {
        let (parent, on) = lock_target(locks, ns, target)?;
        if !locks.is_in(&mount, ns) || locks.is_unbindable(&mount) {
            return Err(Error::Invalid.into());
        }
        if dentry.is_dir() != on.is_dir() {
            return Err(Error::NotDirectory.into());
        }
        if dentry.is_removed() {
            return Err(Error::NotFound.into());
        }
        let extent = if recursive { Extent::Bindable } else { Extent::Root };
        let originals = members(locks, &mount, &dentry, extent)?;
        let missing = missing_groups(locks, &originals);
        if !missing.is_empty() {
            return Err(Retry::With(missing));
        }
        let inside = places(locks, &originals);
        let mut tree = copy_tree(locks, &originals, &inside, &dentry, ns)?;
        let mut steps = alloc::vec::Vec::new();
        make_siblings(locks, &originals, &mut tree, &mut steps);
        Ok(Done { propagated: attach(locks, What::New(tree, steps), Place::top(&parent, &on), &rules(ns))? })
    });
    done.map_err(Errno::from)
}

fn move_mount<D: Dentry>(
    task: &Task<D>,
    ns: &Arc<MntNamespace<D>>,
    source: Option<&[u8]>,
    target: &Position<D>,
) -> Result<Done, Errno> {
    let (mount, dentry) = source_path(task, source)?;
    if !Arc::ptr_eq(mount.root(), &dentry) || dentry.is_dir() != target.1.is_dir() {
        return Err(Errno::EINVAL);
    }
    let done = with_locks(LockPlan::new(ns), |locks| {
        let (parent, on) = lock_target(locks, ns, target)?;
        if !locks.is_in(&mount, ns) || locks.is_locked(&mount) {
            return Err(Error::Invalid.into());
        }
        match locks.parent(&mount) {
            Some(old) if !is_shared(old) => {}
            _ => return Err(Error::Invalid.into()),
        }
        if locks.is_below(&parent, &mount) {
            // Behind the check for unbindable mounts, as Linux has it.
            let unbindable = locks.subtree(&mount).iter().any(|mount| locks.is_unbindable(mount));
            let error = if is_shared(&parent) && unbindable { Error::Invalid } else { Error::Loop };
            return Err(error.into());
        }
        if locks.topmost(&mount).root().is_removed() {
            return Err(Error::NotFound.into());
        }
        Ok(Done {
            propagated: attach(locks, What::Move(Arc::clone(&mount)), Place::top(&parent, &on), &rules(ns))?,
        })
    });
    done.map_err(Errno::from)
}

/// `target` is the root of a mount, which is in `ns`.
fn own_mount<D: Dentry>(
    locks: &WriteSet<D>,
    ns: &Arc<MntNamespace<D>>,
    (mount, dentry): &Position<D>,
) -> Result<(), Error> {
    if locks.is_in(mount, ns) && Arc::ptr_eq(mount.root(), dentry) { Ok(()) } else { Err(Error::Invalid) }
}

fn set_flags<D: Dentry>(ns: &Arc<MntNamespace<D>>, target: &Position<D>, flags: u32) -> Result<Done, Errno> {
    const TIMES: MountFlags = MountFlags::NOATIME.union(MountFlags::NODIRATIME).union(MountFlags::RELATIME);
    let says_times = abi::MS_NOATIME | abi::MS_NODIRATIME | abi::MS_RELATIME | abi::MS_STRICTATIME;
    let done = with_locks(LockPlan::new(ns), |locks| {
        own_mount(locks, ns, target)?;
        let mut new = mount_flags(flags);
        if flags & says_times == 0 {
            // A remount that does not speak of access times leaves them as they are.
            new = new.difference(TIMES) | target.0.flags().intersection(TIMES);
        }
        locks.set_flags(&target.0, new);
        Ok(Done::default())
    });
    done.map_err(Errno::from)
}

fn set_type<D: Dentry>(ns: &Arc<MntNamespace<D>>, target: &Position<D>, flags: u32) -> Result<Done, Errno> {
    if !Arc::ptr_eq(target.0.root(), &target.1) {
        return Err(Errno::EINVAL);
    }
    let to = match flags & !(abi::MS_REC | abi::MS_SILENT) {
        abi::MS_SHARED => PropagationType::Shared,
        abi::MS_SLAVE => PropagationType::Slave,
        abi::MS_PRIVATE => PropagationType::Private,
        abi::MS_UNBINDABLE => PropagationType::Unbindable,
        _ => return Err(Errno::EINVAL),
    };
    let done = with_locks(LockPlan::new(ns), |locks| {
        own_mount(locks, ns, target)?;
        let mounts = if flags & abi::MS_REC != 0 {
            locks.subtree(&target.0)
        } else {
            alloc::vec![Arc::clone(&target.0)]
        };
        let missing = missing_groups(locks, &mounts);
        if !missing.is_empty() {
            return Err(Retry::With(missing));
        }
        change_types(locks, &mounts, to)?;
        Ok(Done::default())
    });
    done.map_err(Errno::from)
}

/// Changes all of `mounts`, parents first.
fn change_types<D: Dentry>(
    locks: &mut WriteSet<D>,
    mounts: &[Arc<Mount<D>>],
    to: PropagationType,
) -> Result<(), Error> {
    for mount in mounts {
        change_type(locks, mount, to)?;
    }
    Ok(())
}
