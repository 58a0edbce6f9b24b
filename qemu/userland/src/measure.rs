//! What calls cost, in ticks of the time stamp counter: with instructions counted (`--icount`) a tick is an instruction.
//!
//! Each call is made many times; the least and the median are told. The first costs of a fresh path are not in them.

use std::arch::x86_64::_rdtsc;
use std::ffi::CString;
use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, unmount};

use crate::debug_call;

/// The counter when this program began.
static BEGAN: AtomicU64 = AtomicU64::new(0);

/// Calls of one measurement.
const CALLS: usize = 200;

fn now() -> u64 {
    // SAFETY: every x86-64 CPU has the instruction, and the kernel lets programs use it.
    unsafe { _rdtsc() }
}

/// Says that this program begins, and notes when that was said.
pub(crate) fn begin() {
    println!("init: begin");
    // Relaxed: one thread.
    BEGAN.store(now(), Ordering::Relaxed);
}

/// Measures `call` and prints a line.
fn row(name: &str, mut call: impl FnMut() -> Result<()>) -> Result<()> {
    let mut times = Vec::with_capacity(CALLS);
    for _ in 0..CALLS {
        let start = now();
        call().with_context(|| name.to_owned())?;
        times.push(now() - start);
    }
    times.sort_unstable();
    println!("@measure {name}: {} {}", times[0], times[CALLS / 2]);
    Ok(())
}

/// A file's path, and the call stat(2) on it.
fn stat(path: &str) -> Result<impl FnMut() -> Result<()> + use<>> {
    let path = CString::new(path)?;
    Ok(move || {
        let mut found = std::mem::MaybeUninit::<libc::stat>::uninit();
        // SAFETY: a string, and room for what the call writes.
        let done = unsafe { libc::stat(path.as_ptr(), found.as_mut_ptr()) };
        anyhow::ensure!(done == 0, "stat fails");
        Ok(())
    })
}

/// Prints the cost of some calls.
///
/// # Errors
/// A call failed.
pub(crate) fn run() -> Result<()> {
    let (start, start_ns) = (now(), crate::sys::now_ns());
    fs::create_dir_all("/tmp/a/b/c/d/e/f")?;
    fs::create_dir_all("/tmp/on")?;
    fs::write("/tmp/file", "x")?;
    fs::write("/tmp/a/b/c/d/e/f/file", "x")?;
    row("getppid", || {
        // SAFETY: the call has no arguments.
        unsafe { libc::syscall(libc::SYS_getppid) };
        Ok(())
    })?;
    row("stat, depth 2", stat("/tmp/file")?)?;
    row("stat, depth 8", stat("/tmp/a/b/c/d/e/f/file")?)?;
    let mut bind = Vec::new();
    row("bind mount and umount", || {
        let start = now();
        mount_bind("/tmp/a", "/tmp/on")?;
        bind.push(now() - start);
        Ok(unmount("/tmp/on", UnmountFlags::empty())?)
    })?;
    bind.sort_unstable();
    println!("@measure bind mount: {} {}", bind[0], bind[CALLS / 2]);
    row("tmpfs mount and umount", || {
        mount("none", "/tmp/on", "tmpfs", MountFlags::empty(), None)?;
        Ok(unmount("/tmp/on", UnmountFlags::empty())?)
    })?;
    let mut forks = Vec::new();
    row("fork, exit and wait", || {
        let start = now();
        let pid = crate::sys::fork(|| 0)?;
        crate::sys::wait(pid);
        forks.push(now() - start);
        Ok(())
    })?;
    if let Some(entry) = debug_call::counters().ok().and_then(|counters| counters.get("entry_tsc").copied()) {
        let ticks = now_of_init()?.saturating_sub(entry);
        println!("@measure from the kernel's entry to the first process: {ticks}");
        // The rate of the counter, over all that was measured.
        let (passed, passed_ns) = (now() - start, crate::sys::now_ns() - start_ns);
        let ns = u128::from(ticks) * u128::from(passed_ns) / u128::from(passed.max(1));
        println!("@measure milliseconds of that: {}", ns / 1_000_000);
    }
    Ok(())
}

/// When process 1 began: it tells its children.
fn now_of_init() -> Result<u64> {
    std::env::var("BEGAN").context("process 1 does not say when it began")?.parse().context("a number")
}

/// When this program began, for its children.
pub(crate) fn began() -> String {
    BEGAN.load(Ordering::Relaxed).to_string()
}
