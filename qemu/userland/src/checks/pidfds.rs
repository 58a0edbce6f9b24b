//! Descriptors of processes.

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use anyhow::{Context, Result, ensure};
use linux_raw_sys::general as abi;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::Check;
use crate::sys;

pub(super) const ALL: &[Check] = &[
    ("a signal goes by a directory of proc", by_directory),
    ("a process that has ended still has a user namespace", of_the_dead),
    ("the next process has the number after the last", next_number),
    ("numbers of a child can be chosen for the namespace that it begins", chosen),
];

/// A child that waits to be killed.
fn child() -> Result<i32> {
    Ok(sys::fork(|| {
        std::thread::sleep(std::time::Duration::from_secs(60));
        1
    })?)
}

fn by_directory() -> Result<()> {
    let child = child()?;
    let directory = File::open(format!("/proc/{child}"))?;
    let args = [directory.as_raw_fd() as usize, libc::SIGTERM as usize, 0, 0];
    // SAFETY: numbers, and a signal to a child.
    unsafe { sys::call(abi::__NR_pidfd_send_signal, args) }?;
    let ended = sys::wait(child);
    ensure!(ended == Some((child, 128 + libc::SIGTERM as u8)), "{ended:?}");
    let file = File::open("/proc/self/status")?;
    // SAFETY: as above.
    let sent = unsafe { sys::call(abi::__NR_pidfd_send_signal, [file.as_raw_fd() as usize, 0, 0, 0]) };
    ensure!(sent == Err(Errno::BADF), "by a file: {sent:?}");
    Ok(())
}

fn of_the_dead() -> Result<()> {
    let child = sys::fork(|| 0)?;
    let pid = Pid::from_raw(child).context("no child")?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    let mut ready = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
    rustix::event::poll(&mut ready, None)?;
    let ino = |pid: &str| File::open(format!("/proc/{pid}/ns/user")).and_then(|file| file.metadata());
    let (dead, own) = (ino(&child.to_string())?.ino(), ino("self")?.ino());
    ensure!(dead == own, "{dead}, and not {own}");
    let other = File::open(format!("/proc/{child}/ns/mnt")).map(drop);
    ensure!(other.is_err(), "it has a mount namespace");
    ensure!(sys::wait(child) == Some((child, 0)), "it did not end well");
    Ok(())
}

fn next_number() -> Result<()> {
    std::fs::write("/proc/sys/kernel/ns_last_pid", "20000")?;
    let child = sys::fork(|| 0)?;
    ensure!(sys::wait(child) == Some((child, 0)), "it did not end well");
    // Others may have made processes meanwhile.
    ensure!((20001..20100).contains(&child), "{child}");
    Ok(())
}

fn chosen() -> Result<()> {
    /// Words of `struct clone_args`.
    const WORDS: usize = 11;
    let numbers = [1_u32, 4321];
    let mut pidfd = -1_i32;
    let mut args = [0_u64; WORDS];
    args[0] = u64::from(abi::CLONE_NEWPID | abi::CLONE_PIDFD);
    args[1] = (&raw mut pidfd).addr() as u64;
    args[4] = libc::SIGCHLD as u64;
    (args[8], args[9]) = (numbers.as_ptr().addr() as u64, numbers.len() as u64);
    // SAFETY: the structure is ours; the child has a copy of this process's memory, as after fork(2), and ends at once.
    let child = unsafe { sys::call(abi::__NR_clone3, [args.as_ptr().addr(), size_of_val(&args)]) }?;
    if child == 0 {
        let well = std::process::id() == 1;
        // SAFETY: ends the process without what the parent registered for its own end.
        unsafe { libc::_exit(if well { 0 } else { 1 }) }
    }
    ensure!(child == 4321, "the child's number is {child}");
    // SAFETY: the call opened it, and nobody else has it.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    let shown = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()))?;
    let ended = sys::wait(child as i32);
    ensure!(ended == Some((child as i32, 0)), "{ended:?}");
    ensure!(shown.contains("NSpid:\t4321\t1\n"), "{shown}");
    Ok(())
}
