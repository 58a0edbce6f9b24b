//! The kernel's call for tests: there only if its command line says `debug_call`; see `debug_call` in the kernel.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result};

use crate::sys;

/// Its number, which Linux does not use.
const NUMBER: i64 = 1000;
/// Writes the counters as text.
const COUNTERS: u64 = 0;
/// Checks every invariant of every mount namespace; writes the violations, a line each.
const CHECK: u64 = 1;
/// As `COUNTERS`, after everything that was retired has been freed.
const SETTLED: u64 = 2;
/// Makes a mount namespace whose root is a mount of what a descriptor refers to.
const NAMESPACE: u64 = 3;

fn call(what: u64) -> Result<String> {
    let mut buffer = vec![0_u8; 1 << 16];
    // SAFETY: the kernel writes at most as many bytes as it is told; one that does not know the call writes none.
    let done = unsafe { libc::syscall(NUMBER, what, buffer.as_mut_ptr(), buffer.len()) };
    let len = usize::try_from(done).ok().with_context(|| std::io::Error::last_os_error().to_string())?;
    buffer.truncate(len);
    String::from_utf8(buffer).context("the kernel's answer is no text")
}

/// What the kernel counts, by name.
///
/// # Errors
/// The kernel has no such call.
pub(crate) fn counters() -> Result<BTreeMap<String, u64>> {
    parse(&call(COUNTERS)?)
}

/// What the kernel counts when nothing waits to be freed.
///
/// # Errors
/// The kernel has no such call.
pub(crate) fn settled() -> Result<BTreeMap<String, u64>> {
    parse(&call(SETTLED)?)
}

fn parse(text: &str) -> Result<BTreeMap<String, u64>> {
    let line = |line: &str| {
        let (name, value) = line.split_once(' ')?;
        Some((name.to_owned(), value.parse().ok()?))
    };
    text.lines().map(line).collect::<Option<_>>().context("the kernel's counters are none")
}

/// A mount namespace whose own root is a mount of what `fd` refers to.
///
/// # Errors
/// The kernel has no such call, or no memory.
pub(crate) fn namespace(fd: &OwnedFd) -> Result<OwnedFd> {
    // SAFETY: the call takes two numbers.
    let made = unsafe { libc::syscall(NUMBER, NAMESPACE, fd.as_raw_fd()) };
    anyhow::ensure!(made >= 0, "cannot make a namespace: {}", sys::last_error());
    // SAFETY: a descriptor that is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(made as i32) })
}

/// Broken invariants of the mount table, which nobody may change meanwhile.
///
/// # Errors
/// The kernel has no such call.
pub(crate) fn check() -> Result<Vec<String>> {
    Ok(call(CHECK)?.lines().map(str::to_owned).collect())
}
