//! poll(2), ppoll(2), select(2), pselect6(2).
//!
//! 1. Every file is asked, with the caller's waker until one has something to tell; whoever is asked first keeps the waker.
//! 2. If none has, the caller sleeps; woken, it asks all again.
//! 3. At the end the waker is taken back everywhere.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::task::Waker;

use linux_raw_sys::general as abi;
use mnt_table::memory::Grow;
use syscalls::Errno;

use super::wait::{self, Deadline};
use crate::arch::clock;
use crate::fs::file::OpenFile;
use crate::mm::user;
use crate::sched;
use crate::task::{self, signal};

/// Bytes of `struct pollfd`.
const POLLFD: usize = 8;
/// What nobody has to ask for.
const ALWAYS: u32 = abi::POLLERR | abi::POLLHUP | abi::POLLNVAL;
/// What select(2) means by its three sets.
const SETS: [u32; 3] = [
    abi::POLLRDNORM | abi::POLLRDBAND | abi::POLLIN | abi::POLLHUP | abi::POLLERR,
    abi::POLLWRBAND | abi::POLLWRNORM | abi::POLLOUT | abi::POLLERR,
    abi::POLLPRI,
];

/// A file that is waited for.
struct Waited {
    file: Option<Arc<OpenFile>>,
    wanted: u32,
    there: u32,
}

impl Waited {
    /// Asks the file; true if it has something to tell.
    fn ask(&mut self, waker: Option<&Waker>) -> Result<bool, Errno> {
        if let Some(file) = &self.file {
            self.there = file.ops().poll(file, waker)? & (self.wanted | ALWAYS);
        }
        Ok(self.there != 0)
    }
}

/// Waits until some have something to tell; how many have. 0: it is late.
///
/// # Errors
/// `ERESTARTNOHAND`: a signal. `ENOMEM`.
fn wait_for(all: &mut [Waited], deadline: Deadline) -> Result<usize, Errno> {
    let waker = sched::waker();
    let result = wait_with(all, deadline, &waker);
    for file in all.iter().filter_map(|waited| waited.file.as_ref()) {
        file.ops().unwatch(file, &waker);
    }
    result
}

fn wait_with(all: &mut [Waited], deadline: Deadline, waker: &Waker) -> Result<usize, Errno> {
    loop {
        let mut found = 0;
        for waited in &mut *all {
            found += usize::from(waited.ask((found == 0).then_some(waker))?);
        }
        if found != 0 || deadline.is_some_and(|deadline| clock::now_ns() >= deadline) {
            return Ok(found);
        }
        if task::with_current(|thread| thread.signal_pending()) == Some(true) {
            return Err(signal::ERESTARTNOHAND);
        }
        sched::park_until(deadline);
    }
}

/// poll(2)
///
/// # Errors
/// `EINVAL`: more than the caller can have open. `EFAULT`, `EINTR`, `ENOMEM`.
pub(super) fn poll(addr: usize, count: usize, timeout_ms: i32) -> Result<usize, Errno> {
    poll_until(addr, count, wait::after_ms(timeout_ms))
}

/// ppoll(2)
///
/// # Errors
/// As [`poll`]; `EINVAL`: no time, no set of signals.
pub(super) fn ppoll(
    addr: usize,
    count: usize,
    timeout: usize,
    (set, size): (usize, usize),
) -> Result<usize, Errno> {
    let deadline = wait::timespec(timeout)?;
    wait::block_signals(set, size)?;
    let result = poll_until(addr, count, deadline);
    wait::put_rest(timeout, deadline, 1);
    result
}

fn poll_until(addr: usize, count: usize, deadline: Deadline) -> Result<usize, Errno> {
    let thread = task::current();
    if count as u64 > thread.process().limit(abi::RLIMIT_NOFILE).soft {
        return Err(Errno::EINVAL);
    }
    let files = thread.files();
    let mut all = Vec::new();
    all.make_room(count).map_err(|_| Errno::ENOMEM)?;
    for index in 0..count {
        let [fd, events] = user::get::<[u32; 2]>(addr + index * POLLFD)?;
        let (fd, wanted) = (fd as i32, events & 0xffff);
        let file = files.get_open(fd).ok();
        let there = if fd >= 0 && file.is_none() { abi::POLLNVAL } else { 0 };
        all.push(Waited { file, wanted, there });
    }
    let found = wait_for(&mut all, deadline)?;
    for (index, waited) in all.iter().enumerate() {
        user::put(addr + index * POLLFD + 6, waited.there as u16)?;
    }
    Ok(found)
}

/// select(2)
///
/// # Errors
/// `EBADF`, `EINVAL`, `EFAULT`, `EINTR`, `ENOMEM`.
pub(super) fn select(count: i32, sets: [usize; 3], timeout: usize) -> Result<usize, Errno> {
    let deadline = wait::timeval(timeout)?;
    let result = select_until(count, sets, deadline);
    wait::put_rest(timeout, deadline, 1000);
    result
}

/// pselect6(2)
///
/// # Errors
/// As [`select`].
pub(super) fn pselect6(count: i32, sets: [usize; 3], timeout: usize, signals: usize) -> Result<usize, Errno> {
    let deadline = wait::timespec(timeout)?;
    if signals != 0 {
        let [set, size] = user::get::<[usize; 2]>(signals)?;
        wait::block_signals(set, size)?;
    }
    let result = select_until(count, sets, deadline);
    wait::put_rest(timeout, deadline, 1);
    result
}

fn select_until(count: i32, sets: [usize; 3], deadline: Deadline) -> Result<usize, Errno> {
    let thread = task::current();
    let count = usize::try_from(count).map_err(|_| Errno::EINVAL)?;
    let count = count.min(thread.files().slots());
    let words = count.div_ceil(64);
    let mut bits = [Vec::new(), Vec::new(), Vec::new()];
    for (addr, bits) in sets.into_iter().zip(&mut bits) {
        bits.make_room(words).map_err(|_| Errno::ENOMEM)?;
        for word in 0..words {
            bits.push(if addr == 0 { 0 } else { user::get::<u64>(addr + 8 * word)? });
        }
    }
    let is_set = |bits: &[u64], fd: usize| bits[fd / 64] >> (fd % 64) & 1 != 0;
    let (mut all, mut fds) = (Vec::new(), Vec::new());
    for fd in 0..count {
        let masks = bits.iter().zip(SETS).map(|(bits, mask)| if is_set(bits, fd) { mask } else { 0 });
        let wanted = masks.fold(0, |all, mask| all | mask);
        if wanted == 0 {
            continue;
        }
        let file = Some(thread.files().get_open(fd as i32)?);
        all.make_room(1).and_then(|()| fds.make_room(1)).map_err(|_| Errno::ENOMEM)?;
        all.push(Waited { file, wanted, there: 0 });
        fds.push(fd);
    }
    wait_for(&mut all, deadline)?;
    let mut found = 0;
    let mut out = bits.clone();
    out.iter_mut().for_each(|bits| bits.fill(0));
    for (fd, waited) in fds.into_iter().zip(&all) {
        for ((wanted, out), mask) in bits.iter().zip(&mut out).zip(SETS) {
            if is_set(wanted, fd) && waited.there & mask != 0 {
                out[fd / 64] |= 1 << (fd % 64);
                found += 1;
            }
        }
    }
    for (addr, bits) in sets.into_iter().zip(&out).filter(|(addr, _)| *addr != 0) {
        for (index, word) in bits.iter().enumerate() {
            user::put(addr + 8 * index, *word)?;
        }
    }
    Ok(found)
}
