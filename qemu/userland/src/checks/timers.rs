//! timer_create(2) and its like.

use std::mem::zeroed;
use std::ptr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::io::Errno;

use super::Check;
use crate::sys;

pub(super) const ALL: &[Check] = &[
    ("a timer sends its signal with what it was given", sends),
    ("what is due while the signal waits is counted", counts),
    ("a timer goes by the time that its process uses", uses),
    ("a timer says what is left", left),
    ("a child has none of its parent's timers", not_inherited),
    ("what is no timer is refused", refused),
];

const SIGNAL: i32 = libc::SIGUSR1;
const MS: i64 = 1_000_000;
/// `SI_TIMER`
const SI_TIMER: i32 = -2;

/// A timer that sends [`SIGNAL`].
struct Timer(libc::timer_t);

impl Timer {
    fn new(clock: i32, signal: i32, value: usize) -> Result<Timer, Errno> {
        // SAFETY: numbers and unions of numbers, for which zero is a value.
        let mut event: libc::sigevent = unsafe { zeroed() };
        event.sigev_notify = libc::SIGEV_SIGNAL;
        event.sigev_signo = signal;
        event.sigev_value.sival_ptr = ptr::without_provenance_mut(value);
        let mut timer = ptr::null_mut();
        // SAFETY: both are ours.
        sys::done(unsafe { libc::timer_create(clock, &raw mut event, &raw mut timer) })?;
        Ok(Timer(timer))
    }

    fn set(&self, value_ns: i64, interval_ns: i64) -> Result<(), Errno> {
        let time = |ns: i64| libc::timespec { tv_sec: ns / 1_000_000_000, tv_nsec: ns % 1_000_000_000 };
        let new = libc::itimerspec { it_value: time(value_ns), it_interval: time(interval_ns) };
        // SAFETY: the timer is ours; nobody wants the old setting.
        sys::done(unsafe { libc::timer_settime(self.0, 0, &raw const new, ptr::null_mut()) })
    }

    /// What is left, and the interval.
    fn left_ns(&self) -> Result<(i64, i64), Errno> {
        // SAFETY: numbers, for which zero is a value.
        let mut now: libc::itimerspec = unsafe { zeroed() };
        // SAFETY: the timer is ours, or its number is refused.
        sys::done(unsafe { libc::timer_gettime(self.0, &raw mut now) })?;
        let ns = |time: libc::timespec| time.tv_sec * 1_000_000_000 + time.tv_nsec;
        Ok((ns(now.it_value), ns(now.it_interval)))
    }

    fn overrun(&self) -> i32 {
        // SAFETY: the timer is ours.
        unsafe { libc::timer_getoverrun(self.0) }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        // SAFETY: the timer is ours, and nobody uses it any more.
        unsafe { libc::timer_delete(self.0) };
    }
}

/// Waits for [`SIGNAL`]; returns its code and value.
fn wait() -> Result<(i32, usize)> {
    let info = sys::wait_signal(SIGNAL, Duration::from_secs(10)).context("no signal")?;
    // SAFETY: a signal of a timer has a value.
    Ok((info.si_code, unsafe { info.si_value() }.sival_ptr.addr()))
}

fn sends() -> Result<()> {
    sys::block(SIGNAL)?;
    let timer = Timer::new(libc::CLOCK_MONOTONIC, SIGNAL, 42)?;
    timer.set(MS, 0)?;
    let (code, value) = wait()?;
    ensure!((code, value) == (SI_TIMER, 42), "code {code}, value {value}");
    ensure!(timer.left_ns()? == (0, 0), "it is due again");
    ensure!(timer.overrun() == 0, "it was due more than once");
    Ok(())
}

fn counts() -> Result<()> {
    sys::block(SIGNAL)?;
    let timer = Timer::new(libc::CLOCK_REALTIME, SIGNAL, 1)?;
    timer.set(MS, MS)?;
    std::thread::sleep(Duration::from_millis(30));
    wait()?;
    let first = timer.overrun();
    ensure!(first >= 20, "30 ms are {first} times too many");
    let (code, _) = wait()?;
    ensure!(code == SI_TIMER, "code {code}");
    timer.set(0, 0)?;
    ensure!(timer.left_ns()? == (0, 0), "a timer that is off has {:?} left", timer.left_ns());
    Ok(())
}

fn uses() -> Result<()> {
    sys::block(SIGNAL)?;
    for clock in [libc::CLOCK_PROCESS_CPUTIME_ID, libc::CLOCK_THREAD_CPUTIME_ID] {
        let timer = Timer::new(clock, SIGNAL, 7)?;
        timer.set(20 * MS, 0)?;
        std::thread::sleep(Duration::from_millis(100));
        ensure!(sys::wait_signal(SIGNAL, Duration::ZERO).is_err(), "sleeping used time of clock {clock}");
        let start = Instant::now();
        loop {
            if let Ok(info) = sys::wait_signal(SIGNAL, Duration::ZERO) {
                ensure!(info.si_code == SI_TIMER, "code {}", info.si_code);
                break;
            }
            ensure!(start.elapsed() < Duration::from_secs(10), "no signal of clock {clock}");
        }
    }
    Ok(())
}

fn left() -> Result<()> {
    const HOUR: i64 = 3_600_000 * MS;
    let timer = Timer::new(libc::CLOCK_MONOTONIC, SIGNAL, 0)?;
    ensure!(timer.left_ns()? == (0, 0), "it was set when it was made");
    timer.set(HOUR, 5 * MS)?;
    let (left, interval) = timer.left_ns()?;
    ensure!((HOUR - 10_000 * MS..=HOUR).contains(&left), "{left} ns left");
    ensure!(interval == 5 * MS, "every {interval} ns");
    Ok(())
}

fn not_inherited() -> Result<()> {
    let timer = Timer::new(libc::CLOCK_MONOTONIC, SIGNAL, 0)?;
    let child = sys::fork(|| u8::from(timer.left_ns() != Err(Errno::INVAL)))?;
    ensure!(sys::wait(child) == Some((child, 0)), "the child knows it");
    ensure!(timer.left_ns().is_ok(), "the parent does not");
    Ok(())
}

fn refused() -> Result<()> {
    for (clock, signal, wanted) in [
        (99, SIGNAL, Errno::INVAL),
        (libc::CLOCK_MONOTONIC, 0, Errno::INVAL),
        (libc::CLOCK_MONOTONIC, 65, Errno::INVAL),
        (libc::CLOCK_MONOTONIC_RAW, SIGNAL, Errno::OPNOTSUPP),
    ] {
        let made = Timer::new(clock, signal, 0).map(|_| ());
        ensure!(made == Err(wanted), "clock {clock}, signal {signal}: {made:?}");
    }
    let timer = Timer::new(libc::CLOCK_MONOTONIC, SIGNAL, 0)?;
    let set = timer.set(-1, 0);
    ensure!(set == Err(Errno::INVAL), "a time before the beginning: {set:?}");
    Ok(())
}
