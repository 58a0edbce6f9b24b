//! unshare(2), setns(2), and the side of clone(2) that mounts see.

use alloc::sync::Arc;

use linux_raw_sys::general as abi;
use mnt_table::memory::{self, Claims};
use mnt_table::{
    Dentry, Kind, LockPlan, MntNamespace, NamespaceSpec, PathRef, UserNs, WriteSet, pin, reclaim,
};
use propagate::copy_tree::{Pairs, clone_namespace};
use propagate::pivot_root::{Position, top_of};
use propagate::{Error, with_locks};

use crate::credentials::Capabilities;
use crate::file::{NamespaceRef, Object};
use crate::{Credentials, Errno, Kernel, Task, ids, nsfs};

/// All that unshare(2) knows.
const UNSHARABLE: u64 = (abi::CLONE_THREAD
    | abi::CLONE_FS
    | abi::CLONE_NEWNS
    | abi::CLONE_SIGHAND
    | abi::CLONE_VM
    | abi::CLONE_FILES
    | abi::CLONE_SYSVSEM
    | abi::CLONE_NEWUTS
    | abi::CLONE_NEWIPC
    | abi::CLONE_NEWNET
    | abi::CLONE_NEWUSER
    | abi::CLONE_NEWPID
    | abi::CLONE_NEWCGROUP
    | abi::CLONE_NEWTIME) as u64;

/// The kinds of namespaces.
const NAMESPACES: u32 = abi::CLONE_NEWNS
    | abi::CLONE_NEWUTS
    | abi::CLONE_NEWIPC
    | abi::CLONE_NEWNET
    | abi::CLONE_NEWUSER
    | abi::CLONE_NEWPID
    | abi::CLONE_NEWCGROUP
    | abi::CLONE_NEWTIME;

/// unshare(2).
///
/// # Errors
/// `EINVAL`: unknown flags; a user namespace for one of several threads. `ENOSPC`: too many user or mount namespaces.
/// `EPERM`: a user namespace for a task in a chroot, or for one that has no number in its own; no `CAP_SYS_ADMIN` in the
/// user namespace that would own the others. `ENOMEM`.
pub fn unshare<D: Dentry, K: Kernel<D>>(kernel: &K, flags: u64) -> Result<(), Errno> {
    if flags & !UNSHARABLE != 0 {
        return Err(Errno::EINVAL);
    }
    let flags = flags as u32;
    let threads = abi::CLONE_THREAD | abi::CLONE_SIGHAND | abi::CLONE_VM | abi::CLONE_NEWUSER;
    if flags & threads != 0 && !kernel.is_single_threaded() {
        return Err(Errno::EINVAL);
    }
    let task = kernel.task();
    let credentials = memory::arc(new_credentials(task, flags)?)?;
    let to = new_namespace(task, &credentials, flags)?;
    to.iter().try_for_each(|to| kernel.namespaces().add(to))?;
    // The task retires the credentials that it had.
    let mut claims = Claims::none();
    reclaim::claim(&mut claims, 1)?;
    kernel.unshare_others(flags & !(abi::CLONE_FS | abi::CLONE_NEWNS | abi::CLONE_NEWUSER), &credentials)?;
    match to {
        // It has its own root and working directory there.
        Some(to) => {
            copy(task, &to)?;
        }
        None if flags & (abi::CLONE_FS | abi::CLONE_NEWUSER) != 0 => task.unshare_fs()?,
        None => {}
    }
    task.become_somebody(credentials);
    Ok(())
}

/// clone(2), as far as mounts are concerned: a new task beside the calling one, with `CLONE_FS` sharing its root and working
/// directory, with `CLONE_NEWNS` in a copy of its namespace, with `CLONE_NEWUSER` all powerful in a new user namespace.
///
/// # Errors
/// `EINVAL`: `CLONE_FS` with one of the others. Otherwise as [`unshare`].
pub fn clone<D: Dentry, K: Kernel<D>>(kernel: &K, flags: u64) -> Result<Task<D>, Errno> {
    let flags = flags as u32;
    let shares_fs = flags & abi::CLONE_FS != 0;
    if shares_fs && flags & (abi::CLONE_NEWNS | abi::CLONE_NEWUSER) != 0 {
        return Err(Errno::EINVAL);
    }
    let task = kernel.task();
    let credentials = memory::arc(new_credentials(task, flags)?)?;
    let to = new_namespace(task, &credentials, flags)?;
    let mut claims = Claims::none();
    reclaim::claim(&mut claims, 1)?;
    let child = if shares_fs { task.fork_sharing_fs() } else { task.fork()? };
    if let Some(to) = to {
        kernel.namespaces().add(&to)?;
        copy(&child, &to)?;
    }
    child.become_somebody(credentials);
    Ok(child)
}

/// setns(2): the calling task joins the namespace of the file `fd`, or those of a process that are of the kinds `kinds`.
///
/// # Errors
/// `EBADF`; `EINVAL`: not such a file; of another kind; a task that shares its root with others, or is one of several
/// threads for a user namespace. `ESRCH`: the process is gone. `EPERM`.
pub fn setns<D: Dentry, K: Kernel<D>>(kernel: &K, fd: i32, kinds: u32) -> Result<(), Errno> {
    let file = kernel.file(fd)?;
    let process = match (nsfs::kind(file.opened()?), file.object()) {
        (Some(kind), _) if kinds == 0 || kinds == kind => None,
        (None, Object::Process(process)) if kinds != 0 && kinds & !NAMESPACES == 0 => Some(process),
        _ => return Err(Errno::EINVAL),
    };
    let process = process.map(|process| process.upgrade().ok_or(Errno::ESRCH)).transpose()?;
    let process = process.as_deref();
    if process.is_some_and(|process| !kernel.may_inspect(process)) {
        return Err(Errno::EPERM);
    }
    let has = |kind: u32| kinds & kind != 0;
    let user_ns = match (file.object(), process) {
        (Object::UserNamespace(ns), _) => Some(ns.clone()),
        (_, Some(process)) if has(abi::CLONE_NEWUSER) => Some(process.credentials().user_ns.clone()),
        _ => None,
    };
    let mount_ns = match (file.object(), process) {
        (Object::MountNamespace(ns), _) => Some(ns.clone()),
        (_, Some(process)) if has(abi::CLONE_NEWNS) => Some(NamespaceRef::new(&process.namespace())),
        _ => None,
    };
    let others = match (file.object(), process) {
        (Object::OtherNamespace(ns), _) => ns.kind(),
        (_, Some(_)) => kinds & !(abi::CLONE_NEWNS | abi::CLONE_NEWUSER),
        _ => 0,
    };
    let task = kernel.task();
    let credentials = memory::arc(joined(kernel, user_ns)?)?;
    let mut claims = Claims::none();
    reclaim::claim(&mut claims, 1)?;
    if let Some(ns) = &mount_ns {
        let alone = process.is_none() || kinds == abi::CLONE_NEWNS;
        may_join(task, ns, &credentials, alone)?;
    }
    kernel.setns_others(&file, others, &credentials)?;
    if let Some(ns) = &mount_ns {
        loop {
            let pivots = ns.pivots();
            let top = top(ns)?;
            if task.enter(ns, Some(&top), Some(&top), pivots)? {
                break;
            }
        }
    }
    task.become_somebody(credentials);
    Ok(())
}

/// The credentials of a task that has joined `user_ns`, if it does: it has all capabilities there.
fn joined<D: Dentry, K: Kernel<D>>(kernel: &K, user_ns: Option<UserNs>) -> Result<Credentials, Errno> {
    let task = kernel.task();
    let own = task.credentials();
    let Some(user_ns) = user_ns else { return Ok((*own).clone()) };
    if user_ns == own.user_ns || !kernel.is_single_threaded() || task.shares_fs() {
        return Err(Errno::EINVAL);
    }
    if !own.is_admin(&user_ns) {
        return Err(Errno::EPERM);
    }
    Ok(own.entering(user_ns))
}

/// Whether a task that will have `credentials` may join `ns`; `alone` says that it joins nothing else.
fn may_join<D: Dentry>(
    task: &Task<D>,
    ns: &NamespaceRef<D>,
    credentials: &Credentials,
    alone: bool,
) -> Result<(), Errno> {
    let now = task.credentials();
    let own = Capabilities::SYS_CHROOT | Capabilities::SYS_ADMIN;
    if !now.is_admin(ns.owner()) || !now.capable(&credentials.user_ns, own) {
        return Err(Errno::EPERM);
    }
    if ns.kind() == Kind::Anonymous || alone && task.shares_fs() {
        return Err(Errno::EINVAL);
    }
    Ok(())
}

/// The top of what is mounted over the root of `ns`, kept.
fn top<D: Dentry>(ns: &NamespaceRef<D>) -> Result<PathRef<D>, Errno> {
    loop {
        let (mount, dentry) = {
            let locks = WriteSet::one(ns);
            let root = locks.root(ns).ok_or(Errno::EINVAL)?;
            top_of(&locks, &(Arc::clone(root), Arc::clone(root.root())))
        };
        let kept = mount.keep(&pin());
        match kept {
            Ok(mount) => return Ok(PathRef { mount, dentry }),
            // An umount of it is being decided about.
            Err(unkept) => unkept.settle(),
        }
    }
}

/// The credentials that the task has afterwards: with `CLONE_NEWUSER` all capabilities in a new user namespace.
fn new_credentials<D: Dentry>(task: &Task<D>, flags: u32) -> Result<Credentials, Errno> {
    let old = task.credentials();
    if flags & abi::CLONE_NEWUSER == 0 {
        return Ok((*old).clone());
    }
    let user_ns = old.user_ns.child(old.euid)?;
    if is_chrooted(task)? {
        return Err(Errno::EPERM);
    }
    // Who made it has to have a name where it was made.
    let user = ids::Kind::Users.seen_by(&old.user_ns, old.euid);
    user.and(ids::Kind::Groups.seen_by(&old.user_ns, old.egid)).ok_or(Errno::EPERM)?;
    Ok(old.entering(user_ns))
}

/// The new mount namespace, still empty, if there is to be one.
fn new_namespace<D: Dentry>(
    task: &Task<D>,
    credentials: &Credentials,
    flags: u32,
) -> Result<Option<NamespaceRef<D>>, Errno> {
    if flags & NAMESPACES & !abi::CLONE_NEWUSER != 0 && !credentials.is_admin(&credentials.user_ns) {
        return Err(Errno::EPERM);
    }
    if flags & abi::CLONE_NEWNS == 0 {
        return Ok(None);
    }
    empty_namespace(task, &credentials.user_ns).map(Some)
}

fn empty_namespace<D: Dentry>(task: &Task<D>, owner: &UserNs) -> Result<NamespaceRef<D>, Errno> {
    let charge = Some(owner.charge()?);
    task.namespace().make_room().map_err(Error::from)?;
    let mut spec = NamespaceSpec::new(Kind::Ordinary);
    (spec.owner, spec.charge) = (owner.clone(), charge);
    let ns = MntNamespace::from_spec(spec).map_err(Error::from)?;
    Ok(NamespaceRef::new(&ns))
}

impl<D: Dentry> Task<D> {
    /// unshare(2) with `CLONE_NEWNS` alone. Returns the number of mounts copied.
    ///
    /// # Errors
    /// As [`unshare`].
    pub fn unshare_mounts(&self) -> Result<usize, Errno> {
        let credentials = self.credentials();
        match new_namespace(self, &credentials, abi::CLONE_NEWNS)? {
            Some(to) => copy(self, &to),
            None => Ok(0),
        }
    }
}

/// Copies the namespace of `task` to `to`, and takes the task there: root and working directory go to the copies.
fn copy<D: Dentry>(task: &Task<D>, to: &NamespaceRef<D>) -> Result<usize, Errno> {
    let from = task.namespace();
    let fs = task.fs();
    let (count, root, cwd) = with_locks(LockPlan::new(&from), |locks| {
        locks.add_new(to);
        let copies = clone_namespace(locks, &from, to)?;
        // A pivot of the old namespace is before or after this, since it takes its lock.
        Ok((copies.len(), translate(&copies, fs.root()), translate(&copies, fs.cwd())))
    })?;
    // Who stands elsewhere than in the namespace that it leaves stays there.
    let there = task.enter(to, root.as_ref(), cwd.as_ref(), to.pivots())?;
    debug_assert!(there, "nobody else is there");
    Ok(count)
}

/// The copy of a place.
fn translate<D: Dentry>(copies: &Pairs<D>, (mount, dentry): Position<D>) -> Option<PathRef<D>> {
    let (_, copy) = copies.iter().find(|(original, _)| Arc::ptr_eq(original, &mount))?;
    let mount = copy.keep(&pin()).ok()?;
    Some(PathRef { mount, dentry })
}

/// Whether the task's root is another place than the top of what is mounted over the root of its namespace.
fn is_chrooted<D: Dentry>(task: &Task<D>) -> Result<bool, Errno> {
    let top = top(&NamespaceRef::new(&task.namespace()))?;
    let root = task.fs().root();
    Ok(!Arc::ptr_eq(&root.0, &top.mount.to_arc()) || !Arc::ptr_eq(&root.1, &top.dentry))
}
