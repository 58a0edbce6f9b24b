//! unshare(2) and setns(2) for what mounts do not know of; the calls themselves are in `syscalls::namespaces`, which asks
//! here.

use alloc::sync::Arc;

use linux_raw_sys::general as abi;
use mnt_table::memory;
use syscalls::file::{Object, OtherNamespace};
use syscalls::{Credentials, Errno, File};
use tmpfs::TmpDentry;

use super::clone::OTHER_NAMESPACES;
use super::ns::{HostName, NAME_MAX};
use super::{Thread, ns};
use crate::mm::user;

/// The part of unshare(2) that is none of mounts; `owner` will own new namespaces.
///
/// # Errors
/// `EINVAL`, `ENOSPC`, `ENOMEM`.
pub(crate) fn unshare_others(thread: &Thread, flags: u32, owner: &mnt_table::UserNs) -> Result<(), Errno> {
    let files = if flags & abi::CLONE_FILES != 0 {
        let files = thread.files();
        // Two: the thread's own, and this one.
        if Arc::strong_count(&files) > 2 { Some(files.fork()?) } else { None }
    } else {
        None
    };
    if flags & OTHER_NAMESPACES != 0 {
        let now = thread.namespaces();
        if flags & abi::CLONE_NEWPID != 0 && !Arc::ptr_eq(&now.pid_for_children, thread.pid_ns()) {
            return Err(Errno::EINVAL);
        }
        thread.set_namespaces(now.unshare(flags & OTHER_NAMESPACES, owner)?);
    }
    if let Some(files) = files {
        thread.set_files(files);
    }
    Ok(())
}

/// The part of setns(2) that is none of mounts.
///
/// # Errors
/// `EPERM`, `EINVAL`, `ESRCH`, `ENOMEM`.
pub(crate) fn setns_others(
    thread: &Thread,
    file: &File<TmpDentry>,
    flags: u32,
    credentials: &Credentials,
) -> Result<(), Errno> {
    if flags == 0 {
        return Ok(());
    }
    let join =
        |now: &ns::Namespaces, ns: &Arc<dyn OtherNamespace>| now.join(ns, credentials, thread.pid_ns());
    let now = thread.namespaces();
    let new = match file.object() {
        Object::OtherNamespace(ns) => join(&now, ns)?,
        Object::Process(task) => {
            let target = task.upgrade().and_then(|task| find(thread, &task)).ok_or(Errno::ESRCH)?;
            let theirs = target.namespaces();
            let mut new = (*now).clone();
            for kind in (0..32).map(|bit| 1 << bit).filter(|kind| flags & kind != 0) {
                let ns = if kind == abi::CLONE_NEWPID {
                    Arc::clone(target.pid_ns()) as Arc<dyn OtherNamespace>
                } else {
                    theirs.of_kind(kind).ok_or(Errno::EINVAL)?
                };
                new = join(&new, &ns)?;
            }
            new
        }
        _ => return Err(Errno::EINVAL),
    };
    thread.set_namespaces(memory::arc(new).map_err(|_| Errno::ENOMEM)?);
    Ok(())
}

/// The thread that mounts know as `task`.
fn find(thread: &Thread, task: &Arc<super::Mounts>) -> Option<Arc<Thread>> {
    let mut from = 1;
    while let Some((nr, process)) = thread.pid_ns().next_process(from) {
        from = nr + 1;
        let found = process.threads().into_iter().find(|thread| Arc::ptr_eq(&thread.mounts, task));
        if found.is_some() {
            return found;
        }
    }
    None
}

/// sethostname(2), setdomainname(2).
pub(super) fn set_name(thread: &Thread, addr: usize, len: i32, is_host: bool) -> Result<usize, Errno> {
    let uts = thread.namespaces().uts.clone();
    if !thread.credentials().is_admin(uts.owner()) {
        return Err(Errno::EPERM);
    }
    let len = usize::try_from(len).ok().filter(|len| *len <= NAME_MAX).ok_or(Errno::EINVAL)?;
    let mut name = [0; NAME_MAX];
    user::read(addr, &mut name[..len])?;
    let name = HostName::from_slice(&name[..len]).map_err(|_| Errno::EINVAL)?;
    if is_host {
        uts.set_host(name);
    } else {
        uts.set_domain(name);
    }
    Ok(0)
}

/// The release that the kernel says it is: programs decide by it what they use.
pub(crate) const RELEASE: &str = "6.18.0-mnt";
/// The version that it says it is.
pub(crate) const VERSION: &str = "#1 SMP PREEMPT_DYNAMIC";
const MACHINE: &str = "x86_64";
/// Each of the six fields of `struct new_utsname`.
const FIELD: usize = 65;

/// uname(2).
pub(super) fn uname(thread: &Thread, addr: usize) -> Result<usize, Errno> {
    let uts = thread.namespaces().uts.clone();
    let (host, domain) = (uts.host(), uts.domain());
    let fields = [b"Linux", &*host, RELEASE.as_bytes(), VERSION.as_bytes(), MACHINE.as_bytes(), &*domain];
    let mut bytes = [0; 6 * FIELD];
    for (field, text) in bytes.chunks_exact_mut(FIELD).zip(fields) {
        field[..text.len()].copy_from_slice(text);
    }
    user::write(addr, &bytes).map(|()| 0)
}
