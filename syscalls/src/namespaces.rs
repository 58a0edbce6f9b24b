//! unshare(2) and the mount side of clone(2).

use alloc::sync::Arc;

use linux_raw_sys::general as abi;
use mnt_table::{Dentry, Kind, LockPlan, MntNamespace, NamespaceSpec, PathRef, UserNs, pin};
use propagate::copy_tree::{Pairs, clone_namespace};
use propagate::pivot_root::{Position, top_of};
use propagate::{Error, with_locks};

use crate::credentials::Capabilities;
use crate::file::NamespaceRef;
use crate::{Credentials, Errno, Kernel, Task};

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
/// `EPERM`: a user namespace for a task in a chroot; no `CAP_SYS_ADMIN` in the user namespace that would own the others.
/// `ENOMEM`.
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
    let credentials = new_credentials(task, flags)?;
    let to = new_namespace(task, &credentials, flags)?;
    kernel.unshare_others(flags & !(abi::CLONE_FS | abi::CLONE_NEWNS | abi::CLONE_NEWUSER))?;
    if flags & (abi::CLONE_FS | abi::CLONE_NEWUSER) != 0 {
        task.unshare_fs();
    }
    if let Some(to) = to {
        copy(task, &to)?;
    }
    task.set_credentials(credentials);
    Ok(())
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
    Ok(Credentials { user_ns, euid: old.euid, effective: Capabilities::all() })
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
    task.enter(to, root.as_ref(), cwd.as_ref())?;
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
    let ns = task.namespace();
    let root = task.fs().root();
    let top = with_locks(LockPlan::new(&ns), |locks| {
        let first = locks.root(&ns).ok_or(Error::Invalid)?;
        Ok(top_of(locks, &(Arc::clone(first), Arc::clone(first.root()))))
    })?;
    Ok(!Arc::ptr_eq(&root.0, &top.0) || !Arc::ptr_eq(&root.1, &top.1))
}
