//! Resource limits: getrlimit(2), setrlimit(2), prlimit(2).

use alloc::sync::Arc;
use core::sync::atomic::Ordering::Relaxed;

use linux_raw_sys::general as abi;
use syscalls::Errno;
use syscalls::credentials::Capabilities;

use super::{Process, Thread};
use crate::mm::space::AddressSpace;
use crate::mm::user;

/// No limit.
pub(crate) const INFINITY: u64 = u64::MAX;
const COUNT: usize = abi::RLIM_NLIMITS as usize;

/// One limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limit {
    pub(crate) soft: u64,
    pub(crate) hard: u64,
}

impl Limit {
    /// Whether it limits anything.
    pub(crate) fn is_one(self) -> bool {
        self.soft != INFINITY || self.hard != INFINITY
    }
}

/// All limits of a process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits([Limit; COUNT]);

impl Limits {
    /// Those of the first process.
    pub(super) fn initial() -> Limits {
        let both = |value| Limit { soft: value, hard: value };
        let threads = (super::stats::threads_max() / 2) as u64;
        let mut limits = Limits([both(INFINITY); COUNT]);
        for (resource, limit) in [
            (abi::RLIMIT_STACK, Limit { soft: 8 << 20, hard: INFINITY }),
            (abi::RLIMIT_CORE, Limit { soft: 0, hard: INFINITY }),
            (abi::RLIMIT_NPROC, both(threads)),
            (abi::RLIMIT_NOFILE, Limit { soft: 1024, hard: 4096 }),
            (abi::RLIMIT_MEMLOCK, both(8 << 20)),
            (abi::RLIMIT_SIGPENDING, both(threads)),
            (abi::RLIMIT_MSGQUEUE, both(819_200)),
            (abi::RLIMIT_NICE, both(0)),
            (abi::RLIMIT_RTPRIO, both(0)),
        ] {
            limits.0[resource as usize] = limit;
        }
        limits
    }

    pub(crate) fn get(&self, resource: u32) -> Limit {
        self.0[resource as usize]
    }

    /// Tells a space what its process may have.
    pub(super) fn tell(&self, space: &AddressSpace) {
        let bytes = |resource| usize::try_from(self.get(resource).soft).unwrap_or(usize::MAX);
        let limits = &space.limits;
        // Relaxed, all: numbers.
        limits.total.store(bytes(abi::RLIMIT_AS), Relaxed);
        limits.data.store(bytes(abi::RLIMIT_DATA), Relaxed);
        limits.stack.store(bytes(abi::RLIMIT_STACK), Relaxed);
        limits.locked.store(bytes(abi::RLIMIT_MEMLOCK), Relaxed);
    }
}

impl Process {
    /// The limit `RLIMIT_*`.
    pub(crate) fn limit(&self, resource: u32) -> Limit {
        self.limits.lock().get(resource)
    }

    /// All limits.
    pub(crate) fn limits(&self) -> Limits {
        *self.limits.lock()
    }
}

fn read(addr: usize) -> Result<Limit, Errno> {
    let [soft, hard]: [u64; 2] = user::get(addr)?;
    Ok(Limit { soft, hard })
}

fn write(addr: usize, limit: Limit) -> Result<(), Errno> {
    user::put(addr, [limit.soft, limit.hard])
}

/// Sets and returns a limit of `target`.
fn change(thread: &Thread, target: &Process, resource: u32, new: Option<Limit>) -> Result<Limit, Errno> {
    if resource as usize >= COUNT {
        return Err(Errno::EINVAL);
    }
    let Some(new) = new else { return Ok(target.limit(resource)) };
    if new.soft > new.hard {
        return Err(Errno::EINVAL);
    }
    let too_many_files = resource == abi::RLIMIT_NOFILE && new.hard > crate::fs::fd::NR_OPEN as u64;
    let credentials = thread.credentials();
    let may_raise = credentials.capable(&mnt_table::UserNs::INITIAL, Capabilities::SYS_RESOURCE);
    let mut limits = target.limits.lock();
    let old = limits.get(resource);
    if too_many_files || new.hard > old.hard && !may_raise {
        return Err(Errno::EPERM);
    }
    limits.0[resource as usize] = new;
    super::timers::limit(target, limits.get(abi::RLIMIT_CPU));
    let all = *limits;
    drop(limits);
    // Memory is counted where it is mapped.
    if let Some(space) = target.leader().and_then(|leader| leader.space()) {
        all.tell(&space);
    }
    Ok(old)
}

/// getrlimit(2).
pub(super) fn getrlimit(thread: &Thread, resource: u32, addr: usize) -> Result<usize, Errno> {
    let limit = change(thread, &thread.process, resource, None)?;
    write(addr, limit).map(|()| 0)
}

/// setrlimit(2).
pub(super) fn setrlimit(thread: &Thread, resource: u32, addr: usize) -> Result<usize, Errno> {
    let new = read(addr)?;
    change(thread, &thread.process, resource, Some(new)).map(|_| 0)
}

/// prlimit64(2).
pub(super) fn prlimit(
    thread: &Arc<Thread>,
    pid: u32,
    resource: u32,
    new: usize,
    old: usize,
) -> Result<usize, Errno> {
    let new = if new == 0 { None } else { Some(read(new)?) };
    let target =
        if pid == 0 { Arc::clone(thread) } else { thread.pid_ns().thread(pid).ok_or(Errno::ESRCH)? };
    if !Arc::ptr_eq(&target.process, &thread.process) && !may_change_limits(thread, &target) {
        return Err(Errno::EPERM);
    }
    let before = change(thread, &target.process, resource, new)?;
    if old != 0 {
        write(old, before)?;
    }
    Ok(0)
}

/// Whether `thread` may see and set the limits of `target`'s process.
fn may_change_limits(thread: &Thread, target: &Thread) -> bool {
    let (own, other) = (thread.credentials(), target.credentials());
    let same = [other.uid, other.euid, other.suid].iter().all(|uid| *uid == own.uid)
        && [other.gid, other.egid, other.sgid].iter().all(|gid| *gid == own.gid);
    same || own.capable(&other.user_ns, Capabilities::SYS_RESOURCE)
}
