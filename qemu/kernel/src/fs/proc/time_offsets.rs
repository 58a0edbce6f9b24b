//! `timens_offsets`: what the clocks of a process's children are going to be ahead.
//!
//! Source: time_namespaces(7).

use alloc::vec::Vec;

use syscalls::Errno;
use syscalls::credentials::Capabilities;
use syscalls::file::OtherNamespace;

use super::directory::say;
use super::process::Target;
use crate::fs::file::OpenFile;
use crate::task::time_ns::Clock;

const NS: i64 = 1_000_000_000;
/// A line for each clock.
const LINES_MAX: usize = 2;

/// The lines.
pub(super) fn show(target: &Target, out: &mut Vec<u8>) -> Result<(), Errno> {
    let offsets = target.thread()?.namespaces().time_for_children.offsets();
    for (name, ns) in [("monotonic", offsets.monotonic_ns), ("boottime", offsets.boottime_ns)] {
        say(out, format_args!("{name:<10} {:>10} {:>9}\n", ns.div_euclid(NS), ns.rem_euclid(NS)))?;
    }
    Ok(())
}

/// Clock, seconds and nanoseconds in each line.
fn parse(bytes: &[u8]) -> Result<heapless::Vec<(Clock, i64), LINES_MAX>, Errno> {
    let text = core::str::from_utf8(bytes).map_err(|_| Errno::EINVAL)?;
    let mut found = heapless::Vec::new();
    for line in text.trim_end_matches(['\n', '\0']).split('\n') {
        let mut words = line.split_ascii_whitespace();
        let clock = match words.next() {
            Some("monotonic" | "1") => Clock::Monotonic,
            Some("boottime" | "7") => Clock::Boottime,
            _ => return Err(Errno::EINVAL),
        };
        let mut number = || words.next().and_then(|word| word.parse::<i64>().ok()).ok_or(Errno::EINVAL);
        let (seconds, rest) = (number()?, number()?);
        if words.next().is_some() || !(0..NS).contains(&rest) {
            return Err(Errno::EINVAL);
        }
        let ns = seconds.checked_mul(NS).and_then(|ns| ns.checked_add(rest)).ok_or(Errno::ERANGE)?;
        found.push((clock, ns)).map_err(|_| Errno::EINVAL)?;
    }
    Ok(found)
}

/// Sets them.
pub(super) fn set(target: &Target, file: &OpenFile, bytes: &[u8]) -> Result<(), Errno> {
    let new = parse(bytes)?;
    let ns = target.thread()?.namespaces().time_for_children.clone();
    if !file.credentials().capable(ns.owner(), Capabilities::SYS_TIME) {
        return Err(Errno::EPERM);
    }
    ns.set(&new)
}
