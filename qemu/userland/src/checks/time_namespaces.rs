//! Time namespaces.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::io::Errno;
use rustix::thread::{UnshareFlags, unshare_unsafe};
use rustix::time::{ClockId, clock_gettime};

use super::Check;
use crate::sys;

pub(super) const ALL: &[Check] = &[
    ("clocks of children are ahead by the offsets of their namespace", ahead),
    ("offsets are set before anybody enters, and not after", once),
];

const OFFSETS: &str = "/proc/self/timens_offsets";

fn unshare() -> Result<()> {
    // SAFETY: one thread, whose children are in the namespace, and not itself.
    unsafe { unshare_unsafe(UnshareFlags::NEWTIME) }.context("no time namespace")
}

fn seconds(clock: ClockId) -> i64 {
    clock_gettime(clock).tv_sec
}

fn ahead() -> Result<()> {
    const DAY: i64 = 86_400;
    unshare()?;
    fs::write(OFFSETS, format!("monotonic {DAY} 0\nboottime {} 500000000", 2 * DAY))?;
    let shown = fs::read_to_string(OFFSETS)?;
    let words: Vec<&str> = shown.split_ascii_whitespace().collect();
    ensure!(words == ["monotonic", "86400", "0", "boottime", "172800", "500000000"], "{shown}");
    let (monotonic, boottime) = (seconds(ClockId::Monotonic), seconds(ClockId::Boottime));
    ensure!(monotonic < DAY, "its own clock changed");
    let child = sys::fork(|| {
        let near = |clock, from: i64| (from..from + 20).contains(&seconds(clock));
        let uptime = fs::read_to_string("/proc/uptime").unwrap_or_default();
        let up: f64 = uptime.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0.0);
        let wrong = [
            !near(ClockId::Monotonic, monotonic + DAY),
            !near(ClockId::Boottime, boottime + 2 * DAY),
            up < 2.0 * DAY as f64,
        ];
        // A time that is a second from now on its own clock.
        let start = std::time::Instant::now();
        let mut until = clock_gettime(ClockId::Monotonic);
        until.tv_nsec += 50_000_000;
        if until.tv_nsec >= 1_000_000_000 {
            (until.tv_sec, until.tv_nsec) = (until.tv_sec + 1, until.tv_nsec - 1_000_000_000);
        }
        let request = libc::timespec { tv_sec: until.tv_sec, tv_nsec: until.tv_nsec };
        // SAFETY: the structure is ours; nobody wants what is left.
        let slept = unsafe {
            libc::clock_nanosleep(
                libc::CLOCK_MONOTONIC,
                libc::TIMER_ABSTIME,
                &raw const request,
                std::ptr::null_mut(),
            )
        };
        let took = start.elapsed();
        let slept_well = slept == 0 && (Duration::from_millis(40)..Duration::from_secs(10)).contains(&took);
        u8::from(wrong.contains(&true)) | u8::from(!slept_well) << 1
    })?;
    let ended = sys::wait(child);
    ensure!(ended == Some((child, 0)), "the child ended with {ended:?}");
    Ok(())
}

fn once() -> Result<()> {
    unshare()?;
    let set = |text: &str| fs::write(OFFSETS, text).map_err(|error| Errno::from_io_error(&error));
    ensure!(set("monotonic 1") == Err(Some(Errno::INVAL)), "two words");
    ensure!(set("realtime 1 0") == Err(Some(Errno::INVAL)), "a clock that cannot");
    ensure!(set("monotonic -100000000 0") == Err(Some(Errno::RANGE)), "before the beginning");
    ensure!(set("7 10 0\n") == Ok(()), "a clock by its number");
    let child = sys::fork(|| 0)?;
    ensure!(sys::wait(child) == Some((child, 0)), "it did not end well");
    let after = set("monotonic 1 0");
    ensure!(after == Err(Some(Errno::ACCESS)), "after somebody was there: {after:?}");
    Ok(())
}
