//! What calls that wait for descriptors share: how long, and with which signals blocked.

use linux_raw_sys::general as abi;
use syscalls::Errno;

use crate::arch::clock;
use crate::mm::user;
use crate::task;
use crate::task::signal::SigSet;

const SECOND_NS: u64 = 1_000_000_000;

/// When a wait ends: `None` never.
pub(super) type Deadline = Option<u64>;

/// So many milliseconds from now; never, if there are less than 0.
pub(super) fn after_ms(ms: i32) -> Deadline {
    u64::try_from(ms).ok().map(|ms| clock::now_ns().saturating_add(ms * 1_000_000))
}

/// Reads a `struct timespec` that says how long; never, if `addr` is 0.
///
/// # Errors
/// `EFAULT`. `EINVAL`: no time.
pub(super) fn timespec(addr: usize) -> Result<Deadline, Errno> {
    if addr == 0 {
        return Ok(None);
    }
    let [seconds, nanoseconds] = user::get::<[i64; 2]>(addr)?;
    span(seconds, nanoseconds, 1).map(Some)
}

/// As [`timespec`], of a `struct timeval`, whose microseconds may be more than a second.
///
/// # Errors
/// As [`timespec`].
pub(super) fn timeval(addr: usize) -> Result<Deadline, Errno> {
    if addr == 0 {
        return Ok(None);
    }
    let [seconds, microseconds] = user::get::<[i64; 2]>(addr)?;
    let whole = seconds.checked_add(microseconds / 1_000_000).ok_or(Errno::EINVAL)?;
    span(whole, microseconds % 1_000_000, 1000).map(Some)
}

fn span(seconds: i64, fraction: i64, unit_ns: u64) -> Result<u64, Errno> {
    let seconds = u64::try_from(seconds).map_err(|_| Errno::EINVAL)?;
    let fraction = u64::try_from(fraction).map_err(|_| Errno::EINVAL)?;
    let fraction_ns = fraction.saturating_mul(unit_ns);
    if fraction_ns >= SECOND_NS {
        return Err(Errno::EINVAL);
    }
    let ns = seconds.saturating_mul(SECOND_NS).saturating_add(fraction_ns);
    Ok(clock::now_ns().saturating_add(ns))
}

/// Tells the caller how much of its time is left, in units of `unit_ns`. Memory that cannot be written is no error.
pub(super) fn put_rest(addr: usize, deadline: Deadline, unit_ns: u64) {
    if let Some(deadline) = deadline.filter(|_| addr != 0) {
        let left = deadline.saturating_sub(clock::now_ns());
        let _ = user::put(addr, [left / SECOND_NS, left % SECOND_NS / unit_ns]);
    }
}

/// Blocks the signals of the set at `addr` until the call is over; none if it is 0.
///
/// # Errors
/// `EINVAL`: a set of another size. `EFAULT`.
pub(super) fn block_signals(addr: usize, size: usize) -> Result<(), Errno> {
    if addr == 0 {
        return Ok(());
    }
    if size != size_of::<abi::kernel_sigset_t>() {
        return Err(Errno::EINVAL);
    }
    let set = SigSet(user::get::<u64>(addr)?);
    task::current().set_temporary_mask(set);
    Ok(())
}
