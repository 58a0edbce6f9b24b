//! What programs tell the scheduler: affinity, policies, nice values.
//!
//! Policies and nice values are kept and told; all threads are scheduled alike.

use alloc::sync::Arc;
use core::sync::atomic::Ordering::Relaxed;

use linux_raw_sys::general as abi;
use syscalls::Errno;
use syscalls::credentials::{Capabilities, Credentials};
use syscalls::user_memory::structure;

use super::{Process, Thread};
use crate::arch::percpu;
use crate::mm::user;
use crate::sched;

fn target(thread: &Arc<Thread>, pid: i32) -> Result<Arc<Thread>, Errno> {
    match pid {
        0 => Ok(Arc::clone(thread)),
        1.. => thread.pid_ns().thread(pid as u32).ok_or(Errno::ESRCH),
        _ => Err(Errno::EINVAL),
    }
}

/// All CPUs, a bit for each.
fn all_cpus() -> u64 {
    u64::MAX >> (64 - percpu::count())
}

/// Whether `thread` may change how `target` is scheduled.
fn may_change(thread: &Thread, target: &Thread) -> bool {
    let (own, other) = (thread.credentials(), target.credentials());
    own.euid == other.uid || own.euid == other.euid || own.capable(&other.user_ns, Capabilities::SYS_NICE)
}

/// sched_setaffinity(2).
pub(super) fn setaffinity(thread: &Arc<Thread>, pid: i32, len: usize, addr: usize) -> Result<usize, Errno> {
    let mut bytes = [0; 8];
    let len = len.min(bytes.len());
    user::read(addr, &mut bytes[..len])?;
    let target = target(thread, pid)?;
    if !may_change(thread, &target) {
        return Err(Errno::EPERM);
    }
    let allowed = u64::from_le_bytes(bytes) & all_cpus();
    if allowed == 0 {
        return Err(Errno::EINVAL);
    }
    let entity = target.entity().ok_or(Errno::ESRCH)?;
    sched::set_allowed(&entity, allowed);
    Ok(0)
}

/// sched_getaffinity(2).
pub(super) fn getaffinity(thread: &Arc<Thread>, pid: i32, len: usize, addr: usize) -> Result<usize, Errno> {
    if len * 8 < percpu::count() || !len.is_multiple_of(8) {
        return Err(Errno::EINVAL);
    }
    let allowed = target(thread, pid)?.entity().map_or(u64::MAX, |entity| entity.allowed()) & all_cpus();
    user::put(addr, allowed)?;
    Ok(8)
}

/// getcpu(2).
pub(super) fn getcpu(cpu: usize, node: usize) -> Result<usize, Errno> {
    if cpu != 0 {
        user::put(cpu, percpu::this().index as u32)?;
    }
    if node != 0 {
        user::put(node, 0_u32)?;
    }
    Ok(0)
}

/// Whether a policy is one, and goes with a priority.
fn check_policy(policy: u32, priority: i32) -> Result<(), Errno> {
    let fits = match policy {
        abi::SCHED_NORMAL | abi::SCHED_BATCH | abi::SCHED_IDLE => priority == 0,
        abi::SCHED_FIFO | abi::SCHED_RR => (1..=99).contains(&priority),
        _ => false,
    };
    if fits { Ok(()) } else { Err(Errno::EINVAL) }
}

/// sched_setscheduler(2), sched_setparam(2).
pub(super) fn setscheduler(
    thread: &Arc<Thread>,
    pid: i32,
    policy: Option<u32>,
    addr: usize,
) -> Result<usize, Errno> {
    if addr == 0 || pid < 0 {
        return Err(Errno::EINVAL);
    }
    let priority: i32 = user::get(addr)?;
    let target = target(thread, pid)?;
    let reset = policy.is_some_and(|policy| policy & abi::SCHED_RESET_ON_FORK != 0);
    let policy = policy.map(|policy| policy & !abi::SCHED_RESET_ON_FORK);
    let policy = policy.unwrap_or_else(|| target.settings.lock().policy);
    check_policy(policy, priority)?;
    may_schedule(thread, &target, policy)?;
    let mut settings = target.settings.lock();
    (settings.policy, settings.priority, settings.reset_on_fork) = (policy, priority, reset);
    Ok(0)
}

/// Whether `thread` may give `target` a policy.
fn may_schedule(thread: &Thread, target: &Thread, policy: u32) -> Result<(), Errno> {
    let is_realtime = matches!(policy, abi::SCHED_FIFO | abi::SCHED_RR);
    let credentials = thread.credentials();
    if is_realtime && !credentials.capable(&mnt_table::UserNs::INITIAL, Capabilities::SYS_NICE)
        || !may_change(thread, target)
    {
        return Err(Errno::EPERM);
    }
    Ok(())
}

/// Bytes of `struct sched_attr`: at first, and now.
const ATTR_FIRST: usize = 48;
const ATTR: usize = 56;

/// sched_setattr(2).
pub(super) fn setattr(thread: &Arc<Thread>, pid: i32, addr: usize, flags: u32) -> Result<usize, Errno> {
    const PAGE: usize = 4096;
    const KNOWN: u32 = abi::SCHED_FLAG_ALL;
    if addr == 0 || pid < 0 || flags != 0 {
        return Err(Errno::EINVAL);
    }
    let size = match user::get::<u32>(addr)? as usize {
        0 => ATTR_FIRST,
        size => size,
    };
    let mut bytes = [0; ATTR];
    let read = if (ATTR_FIRST..=PAGE).contains(&size) {
        structure(&super::calls::Memory, addr, size, &mut bytes)
    } else {
        Err(Errno::E2BIG)
    };
    if read == Err(Errno::E2BIG) {
        user::put(addr, ATTR as u32)?;
    }
    read?;
    let word = |at: usize| u32::from_le_bytes(core::array::from_fn(|byte| bytes[at + byte]));
    let (policy, flags, nice, priority) = (word(4), word(8), word(16) as i32, word(20) as i32);
    if (policy as i32) < 0 || word(12) != 0 || flags & !KNOWN != 0 {
        return Err(Errno::EINVAL);
    }
    let target = target(thread, pid)?;
    let now = *target.settings.lock();
    let has = |flag| flags & flag != 0;
    let policy = if has(abi::SCHED_FLAG_KEEP_POLICY) { now.policy } else { policy };
    let keeps = has(abi::SCHED_FLAG_KEEP_PARAMS);
    let (priority, nice) = if keeps { (now.priority, now.nice.into()) } else { (priority, nice) };
    check_policy(policy, priority)?;
    may_schedule(thread, &target, policy)?;
    let nice = nice.clamp(NICE_MIN, NICE_MAX);
    let is_realtime = matches!(policy, abi::SCHED_FIFO | abi::SCHED_RR);
    if !is_realtime && !may_be_nice(&thread.credentials(), &target, nice) {
        return Err(Errno::EPERM);
    }
    let mut settings = target.settings.lock();
    (settings.policy, settings.priority) = (policy, priority);
    settings.reset_on_fork = has(abi::SCHED_FLAG_RESET_ON_FORK);
    if !is_realtime {
        settings.nice = nice as i8;
    }
    Ok(0)
}

/// sched_getattr(2).
pub(super) fn getattr(
    thread: &Arc<Thread>,
    pid: i32,
    addr: usize,
    size: usize,
    flags: u32,
) -> Result<usize, Errno> {
    const PAGE: usize = 4096;
    if addr == 0 || pid < 0 || !(ATTR_FIRST..=PAGE).contains(&size) || flags != 0 {
        return Err(Errno::EINVAL);
    }
    let settings = *target(thread, pid)?.settings.lock();
    let mut bytes = [0; ATTR];
    let mut put = |at: usize, value: u32| bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    put(0, size.min(ATTR) as u32);
    put(4, settings.policy);
    put(8, if settings.reset_on_fork { abi::SCHED_FLAG_RESET_ON_FORK } else { 0 });
    match settings.policy {
        abi::SCHED_FIFO | abi::SCHED_RR => put(20, settings.priority as u32),
        _ => put(16, i32::from(settings.nice) as u32),
    }
    user::write(addr, &bytes[..size.min(ATTR)])?;
    Ok(0)
}

/// sched_getscheduler(2).
pub(super) fn getscheduler(thread: &Arc<Thread>, pid: i32) -> Result<usize, Errno> {
    let settings = *target(thread, pid)?.settings.lock();
    let reset = if settings.reset_on_fork { abi::SCHED_RESET_ON_FORK } else { 0 };
    Ok((settings.policy | reset) as usize)
}

/// sched_getparam(2).
pub(super) fn getparam(thread: &Arc<Thread>, pid: i32, addr: usize) -> Result<usize, Errno> {
    if addr == 0 {
        return Err(Errno::EINVAL);
    }
    let priority = target(thread, pid)?.settings.lock().priority;
    user::put(addr, priority).map(|()| 0)
}

/// sched_get_priority_min(2), sched_get_priority_max(2).
pub(super) fn priority_limit(policy: u32, is_max: bool) -> Result<usize, Errno> {
    match policy {
        abi::SCHED_FIFO | abi::SCHED_RR => Ok(if is_max { 99 } else { 1 }),
        abi::SCHED_NORMAL | abi::SCHED_BATCH | abi::SCHED_IDLE | abi::SCHED_DEADLINE => Ok(0),
        _ => Err(Errno::EINVAL),
    }
}

/// sched_rr_get_interval(2).
pub(super) fn rr_get_interval(thread: &Arc<Thread>, pid: i32, addr: usize) -> Result<usize, Errno> {
    // Who is first of those that wait for nobody has no slices.
    let policy = target(thread, pid)?.settings.lock().policy;
    super::time::put_timespec(addr, if policy == abi::SCHED_FIFO { 0 } else { sched::SLICE_NS }).map(|()| 0)
}

const PRIO_PROCESS: u32 = 0;
const PRIO_PGRP: u32 = 1;
const PRIO_USER: u32 = 2;
const NICE_MIN: i32 = -20;
const NICE_MAX: i32 = 19;

/// Calls `each` with the threads that `which` and `who` name.
fn for_each(
    thread: &Arc<Thread>,
    which: u32,
    who: i32,
    each: &mut dyn FnMut(&Arc<Thread>),
) -> Result<(), Errno> {
    let all = |process: &Arc<Process>, each: &mut dyn FnMut(&Arc<Thread>)| {
        process.threads().iter().for_each(each);
    };
    match which {
        PRIO_PROCESS => each(&target(thread, who).map_err(|_| Errno::ESRCH)?),
        PRIO_PGRP => {
            let group = if who == 0 {
                thread.process.group()
            } else {
                thread.pid_ns().pid(who as u32).ok_or(Errno::ESRCH)?
            };
            group.group_members().iter().for_each(|process| all(process, each));
        }
        PRIO_USER => {
            let credentials = thread.credentials();
            let uid = if who == 0 {
                credentials.uid
            } else {
                let known = syscalls::ids::Kind::Users.absolute(&credentials.user_ns, who as u32);
                known.ok_or(Errno::EINVAL)?
            };
            let mut from = 1;
            while let Some((nr, process)) = thread.pid_ns().next_process(from) {
                from = nr + 1;
                if process.leader().is_some_and(|leader| leader.credentials().uid == uid) {
                    all(&process, each);
                }
            }
        }
        _ => return Err(Errno::EINVAL),
    }
    Ok(())
}

/// getpriority(2): 20 minus the lowest nice value.
pub(super) fn getpriority(thread: &Arc<Thread>, which: u32, who: i32) -> Result<usize, Errno> {
    let mut best = None;
    for_each(thread, which, who, &mut |thread| {
        let value = 20 - thread.nice();
        best = best.max(Some(value));
    })?;
    best.map(|value| value as usize).ok_or(Errno::ESRCH)
}

/// Whether somebody with `credentials` may make `target` as nice as that.
fn may_be_nice(credentials: &Credentials, target: &Thread, nice: i32) -> bool {
    let lowest = 20 - target.process.limit(abi::RLIMIT_NICE).soft.min(40) as i32;
    nice >= target.nice()
        || nice >= lowest
        || credentials.capable(&credentials.user_ns, Capabilities::SYS_NICE)
}

/// setpriority(2).
pub(super) fn setpriority(thread: &Arc<Thread>, which: u32, who: i32, nice: i32) -> Result<usize, Errno> {
    let nice = nice.clamp(NICE_MIN, NICE_MAX);
    let mut result = Err(Errno::ESRCH);
    let credentials = thread.credentials();
    for_each(thread, which, who, &mut |target| {
        let may_raise = may_be_nice(&credentials, target, nice);
        if !may_change(thread, target) {
            result = Err(Errno::EPERM);
        } else if !may_raise {
            result = Err(Errno::EACCES);
        } else {
            target.settings.lock().nice = nice as i8;
            if result == Err(Errno::ESRCH) {
                result = Ok(0);
            }
        }
    })?;
    result
}

/// Commands of membarrier(2): what is known; to all CPUs; registration, which nothing is needed for.
const MEMBARRIER_QUERY: u32 = 0;
const MEMBARRIER_GLOBAL: u32 = 1 << 0;
const MEMBARRIER_GLOBAL_EXPEDITED: u32 = 1 << 1;
const MEMBARRIER_REGISTER_GLOBAL_EXPEDITED: u32 = 1 << 2;
const MEMBARRIER_PRIVATE_EXPEDITED: u32 = 1 << 3;
const MEMBARRIER_REGISTER_PRIVATE_EXPEDITED: u32 = 1 << 4;
const MEMBARRIER_PRIVATE_EXPEDITED_SYNC_CORE: u32 = 1 << 5;
const MEMBARRIER_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE: u32 = 1 << 6;
const MEMBARRIER_GET_REGISTRATIONS: u32 = 1 << 9;
const MEMBARRIER_ALL: u32 = MEMBARRIER_GLOBAL
    | MEMBARRIER_GLOBAL_EXPEDITED
    | MEMBARRIER_REGISTER_GLOBAL_EXPEDITED
    | MEMBARRIER_PRIVATE_EXPEDITED
    | MEMBARRIER_REGISTER_PRIVATE_EXPEDITED
    | MEMBARRIER_PRIVATE_EXPEDITED_SYNC_CORE
    | MEMBARRIER_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE
    | MEMBARRIER_GET_REGISTRATIONS;

/// membarrier(2): every CPU that runs a thread enters the kernel, and comes back by an instruction that serialises, before
/// this returns.
pub(super) fn membarrier(thread: &Thread, command: u32, flags: u32) -> Result<usize, Errno> {
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    // Relaxed, all: bits that stand for themselves.
    let registered = &thread.process.membarrier;
    let expedite = |needed: u32| {
        if registered.load(Relaxed) & needed == 0 {
            return Err(Errno::EPERM);
        }
        sched::run_on_others().map(|()| 0).map_err(|_| Errno::ENOMEM)
    };
    match command {
        MEMBARRIER_QUERY => Ok(MEMBARRIER_ALL as usize),
        MEMBARRIER_GET_REGISTRATIONS => Ok(registered.load(Relaxed) as usize),
        MEMBARRIER_REGISTER_GLOBAL_EXPEDITED
        | MEMBARRIER_REGISTER_PRIVATE_EXPEDITED
        | MEMBARRIER_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE => {
            registered.fetch_or(command, Relaxed);
            Ok(0)
        }
        MEMBARRIER_GLOBAL | MEMBARRIER_GLOBAL_EXPEDITED => {
            sched::run_on_others().map(|()| 0).map_err(|_| Errno::ENOMEM)
        }
        MEMBARRIER_PRIVATE_EXPEDITED => expedite(MEMBARRIER_REGISTER_PRIVATE_EXPEDITED),
        MEMBARRIER_PRIVATE_EXPEDITED_SYNC_CORE => expedite(MEMBARRIER_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE),
        _ => Err(Errno::EINVAL),
    }
}

const IOPRIO_WHO_PROCESS: u32 = 1;
/// The class is above these bits; there are four.
const IOPRIO_CLASS_SHIFT: u32 = 13;
const IOPRIO_CLASSES: u32 = 4;

/// ioprio_get(2), of threads only.
pub(super) fn ioprio_get(thread: &Arc<Thread>, which: u32, who: i32) -> Result<usize, Errno> {
    if which != IOPRIO_WHO_PROCESS {
        return Err(Errno::EINVAL);
    }
    Ok(target(thread, who)?.settings.lock().io_priority as usize)
}

/// ioprio_set(2), of threads only.
pub(super) fn ioprio_set(thread: &Arc<Thread>, which: u32, who: i32, priority: u32) -> Result<usize, Errno> {
    let (class, level) = (priority >> IOPRIO_CLASS_SHIFT, priority & ((1 << IOPRIO_CLASS_SHIFT) - 1));
    // The lowest bits are the level; none has no levels, and idle ignores them.
    let fits = match class {
        0 => level == 0,
        1 | 2 => level & 7 == level,
        _ => class < IOPRIO_CLASSES,
    };
    if which != IOPRIO_WHO_PROCESS || !fits {
        return Err(Errno::EINVAL);
    }
    let target = target(thread, who)?;
    if !may_change(thread, &target) {
        return Err(Errno::EPERM);
    }
    target.settings.lock().io_priority = priority;
    Ok(0)
}
