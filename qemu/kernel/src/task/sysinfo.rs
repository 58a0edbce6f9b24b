//! sysinfo(2), getrandom(2).

use syscalls::Errno;
use syscalls::user_memory::PAGE_SIZE;

use super::time_ns;
use crate::arch::clock;
use crate::mm::user;

/// Bytes of `struct sysinfo`.
const SIZE: usize = 112;
const GRND_NONBLOCK: u32 = 1;
const GRND_RANDOM: u32 = 2;
const GRND_INSECURE: u32 = 4;
/// So much is made at a time.
const CHUNK: usize = 256;

/// sysinfo(2).
pub(super) fn sysinfo(addr: usize) -> Result<usize, Errno> {
    let mut bytes = [0; SIZE];
    let mut put = |at: usize, value: u64| bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
    // A second that has begun counts.
    put(0, time_ns::seen_ns(time_ns::Clock::Boottime, clock::now_ns()).div_ceil(1_000_000_000));
    put(32, (crate::mm::frames::total() * PAGE_SIZE) as u64);
    put(40, (crate::mm::frames::free() * PAGE_SIZE) as u64);
    let processes = u16::try_from(super::stats().threads).unwrap_or(u16::MAX);
    bytes[80..82].copy_from_slice(&processes.to_le_bytes());
    // The unit of memory sizes.
    bytes[104..108].copy_from_slice(&1_u32.to_le_bytes());
    user::write(addr, &bytes).map(|()| 0)
}

/// getrandom(2).
pub(super) fn getrandom(addr: usize, len: usize, flags: u32) -> Result<usize, Errno> {
    if flags & !(GRND_NONBLOCK | GRND_RANDOM | GRND_INSECURE) != 0
        || flags & (GRND_RANDOM | GRND_INSECURE) == GRND_RANDOM | GRND_INSECURE
    {
        return Err(Errno::EINVAL);
    }
    let len = len.min(i32::MAX as usize);
    let mut done = 0;
    while done < len {
        let mut chunk = [0; CHUNK];
        let chunk = &mut chunk[..CHUNK.min(len - done)];
        crate::random::fill(chunk);
        let wrote = user::copy_out(addr.wrapping_add(done), chunk);
        done += wrote;
        if wrote < chunk.len() {
            return if done == 0 { Err(Errno::EFAULT) } else { Ok(done) };
        }
        if super::with_current(super::Thread::signal_pending) == Some(true) {
            break;
        }
    }
    Ok(done)
}
