//! Clocks and sleeping: clock_gettime(2), clock_nanosleep(2), times(2), getrusage(2) and their like.
//!
//! There is one clock, the kernel's, which began with the machine; the wall clock is that and an offset, read from the
//! machine's own clock once and set by clock_settime(2).

use alloc::sync::Arc;
use core::sync::atomic::{AtomicI64, Ordering::Relaxed};

use linux_raw_sys::general as abi;
use syscalls::Errno;
use syscalls::credentials::Capabilities;

use super::signal::{ERESTART_RESTARTBLOCK, ERESTARTNOHAND, ERESTARTSYS, Restart};
use super::time_ns::{self, Clock};
use super::{Thread, process::Process};
use crate::arch::{clock, rtc};
use crate::mm::user;
use crate::sched;
use crate::sched::wait::Wait;

const NS: u64 = 1_000_000_000;
/// Ticks of times(2) are this long.
pub(crate) const NS_PER_TICK: u64 = 10_000_000;
/// What does not fit is as good as for ever.
const FOREVER_NS: u64 = i64::MAX as u64;

/// Wall clock minus the kernel's clock. Relaxed, everywhere: a number.
static WALL_OFFSET_NS: AtomicI64 = AtomicI64::new(0);

/// Sets the wall clock by the machine's.
pub(crate) fn init() {
    let wall_ns = rtc::seconds() * NS;
    WALL_OFFSET_NS.store(wall_ns.saturating_sub(clock::now_ns()) as i64, Relaxed);
}

/// Wall clock minus the kernel's clock.
pub(crate) fn wall_offset_ns() -> u64 {
    // Relaxed, here and where it is set: a number that stands for itself.
    WALL_OFFSET_NS.load(Relaxed) as u64
}

/// The wall clock.
pub(crate) fn wall_ns() -> u64 {
    clock::now_ns().wrapping_add(wall_offset_ns())
}

/// Reads a `struct timespec`, as ns.
///
/// # Errors
/// `EFAULT`; `EINVAL`: negative, or no fraction of a second.
pub(crate) fn get_timespec(addr: usize) -> Result<u64, Errno> {
    let [seconds, ns]: [i64; 2] = user::get(addr)?;
    let (Ok(seconds), Ok(ns)) = (u64::try_from(seconds), u64::try_from(ns)) else {
        return Err(Errno::EINVAL);
    };
    if ns >= NS {
        return Err(Errno::EINVAL);
    }
    Ok(seconds.checked_mul(NS).and_then(|sum| sum.checked_add(ns)).unwrap_or(FOREVER_NS).min(FOREVER_NS))
}

/// Writes a `struct timespec`.
pub(crate) fn put_timespec(addr: usize, ns: u64) -> Result<(), Errno> {
    user::put(addr, [ns / NS, ns % NS])
}

/// When a time that is `struct timespec` long is over.
pub(crate) fn deadline_after(addr: usize) -> Result<u64, Errno> {
    Ok(clock::now_ns().saturating_add(get_timespec(addr)?))
}

/// When a time has come, on the wall clock (`None`) or one of the running thread's.
pub(crate) fn deadline_at(addr: usize, by: Option<Clock>) -> Result<u64, Errno> {
    let ns = get_timespec(addr)?;
    Ok(by.map_or_else(|| ns.saturating_sub(wall_offset_ns()), |clock| time_ns::machine_ns(clock, ns)))
}

/// What a clock says. Numbers below 0 are clocks of processes and threads.
fn read_clock(thread: &Arc<Thread>, id: i32) -> Result<u64, Errno> {
    let sum = |(user, system): (u64, u64)| user + system;
    Ok(match u32::try_from(id) {
        Ok(abi::CLOCK_REALTIME | abi::CLOCK_REALTIME_COARSE | abi::CLOCK_REALTIME_ALARM | abi::CLOCK_TAI) => {
            wall_ns()
        }
        Ok(abi::CLOCK_MONOTONIC | abi::CLOCK_MONOTONIC_COARSE | abi::CLOCK_MONOTONIC_RAW) => {
            time_ns::seen_ns(Clock::Monotonic, clock::now_ns())
        }
        Ok(abi::CLOCK_BOOTTIME | abi::CLOCK_BOOTTIME_ALARM) => {
            time_ns::seen_ns(Clock::Boottime, clock::now_ns())
        }
        Ok(abi::CLOCK_PROCESS_CPUTIME_ID) => sum(thread.process.times().0),
        Ok(abi::CLOCK_THREAD_CPUTIME_ID) => sum(thread.cpu_times()),
        Ok(_) => return Err(Errno::EINVAL),
        Err(_) => match cpu_clock(thread, id)? {
            CpuClock::Thread(other) => sum(other.cpu_times()),
            CpuClock::Process(other) => sum(other.times().0),
        },
    })
}

/// Whose time a clock with a number below 0 tells.
pub(super) enum CpuClock {
    Process(Arc<Process>),
    Thread(Arc<Thread>),
}

/// # Errors
/// `EINVAL`: there is no such clock, or nobody that it is of.
pub(super) fn cpu_clock(thread: &Arc<Thread>, id: i32) -> Result<CpuClock, Errno> {
    let (pid, kind) = (!(id >> 3) as u32, id & 7);
    // Bit 2: of a thread; 2 in the low bits: time as scheduled, which is all there is here.
    if kind & 3 == 3 {
        return Err(Errno::EINVAL);
    }
    Ok(match (kind & 4 != 0, pid) {
        (true, 0) => CpuClock::Thread(Arc::clone(thread)),
        (true, tid) => CpuClock::Thread(thread.pid_ns().thread(tid).ok_or(Errno::EINVAL)?),
        (false, 0) => CpuClock::Process(Arc::clone(&thread.process)),
        (false, pid) => CpuClock::Process(thread.pid_ns().process(pid).ok_or(Errno::EINVAL)?),
    })
}

/// clock_gettime(2).
pub(super) fn clock_gettime(thread: &Arc<Thread>, id: i32, addr: usize) -> Result<usize, Errno> {
    put_timespec(addr, read_clock(thread, id)?).map(|()| 0)
}

/// clock_getres(2).
pub(super) fn clock_getres(thread: &Arc<Thread>, id: i32, addr: usize) -> Result<usize, Errno> {
    read_clock(thread, id)?;
    let coarse = matches!(u32::try_from(id), Ok(abi::CLOCK_REALTIME_COARSE | abi::CLOCK_MONOTONIC_COARSE));
    if addr != 0 {
        put_timespec(addr, if coarse { 4_000_000 } else { 1 })?;
    }
    Ok(0)
}

fn may_set_time(thread: &Thread) -> Result<(), Errno> {
    let may = thread.credentials().capable(&mnt_table::UserNs::INITIAL, Capabilities::SYS_TIME);
    if may { Ok(()) } else { Err(Errno::EPERM) }
}

/// clock_settime(2).
pub(super) fn clock_settime(thread: &Thread, id: i32, addr: usize) -> Result<usize, Errno> {
    if u32::try_from(id) != Ok(abi::CLOCK_REALTIME) {
        return Err(Errno::EINVAL);
    }
    let ns = get_timespec(addr)?;
    may_set_time(thread)?;
    WALL_OFFSET_NS.store(ns.wrapping_sub(clock::now_ns()) as i64, Relaxed);
    Ok(0)
}

/// gettimeofday(2).
pub(super) fn gettimeofday(time: usize, zone: usize) -> Result<usize, Errno> {
    if time != 0 {
        let ns = wall_ns();
        user::put(time, [ns / NS, ns % NS / 1000])?;
    }
    if zone != 0 {
        user::put(zone, [0_u32; 2])?;
    }
    Ok(0)
}

/// settimeofday(2).
pub(super) fn settimeofday(thread: &Thread, time: usize) -> Result<usize, Errno> {
    if time != 0 {
        let [seconds, us]: [u64; 2] = user::get(time)?;
        if us >= 1_000_000 || seconds > FOREVER_NS / NS {
            return Err(Errno::EINVAL);
        }
        may_set_time(thread)?;
        let ns = seconds * NS + us * 1000;
        WALL_OFFSET_NS.store(ns.wrapping_sub(clock::now_ns()) as i64, Relaxed);
    }
    Ok(0)
}

/// time(2).
pub(super) fn time(addr: usize) -> Result<usize, Errno> {
    let seconds = wall_ns() / NS;
    if addr != 0 {
        user::put(addr, seconds)?;
    }
    Ok(seconds as usize)
}

/// Sleeps until `deadline_ns`. A sleep for a time goes on after a signal without a handler, and tells what was left after
/// one with.
pub(super) fn sleep(thread: &Thread, deadline_ns: u64, rest: Option<usize>) -> Result<usize, Errno> {
    let how = Wait::INTERRUPTIBLE.until(Some(deadline_ns));
    loop {
        match how.check() {
            Ok(()) => sched::park_until(Some(deadline_ns)),
            Err(Errno::ETIMEDOUT) => return Ok(0),
            Err(ERESTARTSYS) => break,
            Err(error) => return Err(error),
        }
    }
    let Some(rest) = rest else { return Err(ERESTARTNOHAND) };
    if rest != 0 {
        put_timespec(rest, deadline_ns.saturating_sub(clock::now_ns()))?;
    }
    thread.set_restart(Restart::Sleep { deadline_ns, rest });
    Err(ERESTART_RESTARTBLOCK)
}

/// nanosleep(2).
pub(super) fn nanosleep(thread: &Thread, request: usize, rest: usize) -> Result<usize, Errno> {
    sleep(thread, deadline_after(request)?, Some(rest))
}

/// clock_nanosleep(2).
pub(super) fn clock_nanosleep(
    thread: &Thread,
    id: i32,
    flags: u32,
    request: usize,
    rest: usize,
) -> Result<usize, Errno> {
    let by = match u32::try_from(id) {
        Ok(abi::CLOCK_REALTIME | abi::CLOCK_TAI) => None,
        Ok(abi::CLOCK_MONOTONIC) => Some(Clock::Monotonic),
        Ok(abi::CLOCK_BOOTTIME) => Some(Clock::Boottime),
        Ok(
            abi::CLOCK_PROCESS_CPUTIME_ID
            | abi::CLOCK_THREAD_CPUTIME_ID
            | abi::CLOCK_MONOTONIC_RAW
            | abi::CLOCK_REALTIME_COARSE
            | abi::CLOCK_MONOTONIC_COARSE
            | abi::CLOCK_REALTIME_ALARM
            | abi::CLOCK_BOOTTIME_ALARM,
        ) => return Err(Errno::EOPNOTSUPP),
        _ => return Err(Errno::EINVAL),
    };
    if flags & abi::TIMER_ABSTIME != 0 {
        sleep(thread, deadline_at(request, by)?, None)
    } else {
        sleep(thread, deadline_after(request)?, Some(rest))
    }
}

/// times(2).
pub(super) fn times(thread: &Thread, addr: usize) -> Result<usize, Errno> {
    if addr != 0 {
        let (own, children) = thread.process.times();
        let ticks = [own.0, own.1, children.0, children.1].map(|ns| ns / NS_PER_TICK);
        user::put(addr, ticks)?;
    }
    Ok((clock::now_ns() / NS_PER_TICK) as usize)
}

/// Bytes of `struct rusage`.
const RUSAGE_SIZE: usize = 144;
/// Where the two numbers of context switches stand.
const RUSAGE_SWITCHES: usize = 128;

/// `struct rusage`.
pub(super) fn rusage(
    (user, system): (u64, u64),
    (asked, not): (u64, u64),
    peak_pages: usize,
) -> [u8; RUSAGE_SIZE] {
    const PAGE_KIB: u64 = 4;
    let mut bytes = [0; RUSAGE_SIZE];
    let mut put = |at: usize, value: u64| bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
    put(0, user / NS);
    put(8, user % NS / 1000);
    put(16, system / NS);
    put(24, system % NS / 1000);
    put(32, peak_pages as u64 * PAGE_KIB);
    put(RUSAGE_SWITCHES, asked);
    put(RUSAGE_SWITCHES + 8, not);
    bytes
}

/// getrusage(2).
pub(super) fn getrusage(thread: &Thread, who: i32, addr: usize) -> Result<usize, Errno> {
    let process: &Process = &thread.process;
    let bytes = match who {
        0 => rusage(process.times().0, process.switches(), process.peaks().0),
        abi::RUSAGE_CHILDREN => rusage(process.times().1, (0, 0), process.peaks().1),
        1 => {
            let switches = thread.entity().map_or((0, 0), |entity| entity.switches());
            rusage(thread.cpu_times(), switches, process.peaks().0)
        }
        _ => return Err(Errno::EINVAL),
    };
    user::write(addr, &bytes).map(|()| 0)
}

/// restart_syscall(2).
pub(super) fn restart_syscall(thread: &Arc<Thread>) -> Result<usize, Errno> {
    let restart = thread.signals.lock().restart.take();
    match restart {
        Some(Restart::Sleep { deadline_ns, rest }) => sleep(thread, deadline_ns, Some(rest)),
        Some(restart @ Restart::Futex { .. }) => super::futex::restart(thread, restart),
        None => Err(Errno::EINTR),
    }
}
