//! The system calls that `rustix` has no function for, and processes.

use std::ffi::CString;
use std::os::fd::{AsRawFd, BorrowedFd};

use anyhow::Result;
use linux_raw_sys::general as abi;
use rustix::io::Errno;

/// The error of the last call of the C library.
pub(crate) fn last_error() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// mount_setattr(2) on what `fd` refers to.
pub(crate) fn mount_setattr(fd: BorrowedFd<'_>, set: u64, clear: u64, propagation: u64) -> Result<(), Errno> {
    set_attributes(fd, [set, clear, propagation, 0])
}

/// mount_setattr(2) that has ids of what `fd` refers to be shown as the user namespace `namespace` maps them.
pub(crate) fn map_ids(fd: BorrowedFd<'_>, namespace: BorrowedFd<'_>) -> Result<(), Errno> {
    set_attributes(fd, [abi::MOUNT_ATTR_IDMAP.into(), 0, 0, namespace.as_raw_fd() as u64])
}

fn set_attributes(fd: BorrowedFd<'_>, attributes: [u64; 4]) -> Result<(), Errno> {
    // SAFETY: an empty string and four numbers, as the call takes them.
    let done = unsafe {
        libc::syscall(
            i64::from(abi::__NR_mount_setattr),
            fd.as_raw_fd(),
            c"".as_ptr(),
            abi::AT_EMPTY_PATH,
            attributes.as_ptr(),
            size_of_val(&attributes),
        )
    };
    if done == -1 { Err(last_error()) } else { Ok(()) }
}

/// Runs `child` in a child process, which dies with this one; its result is the exit status. Returns the pid.
///
/// # Errors
/// Those of fork(2).
pub(crate) fn fork(child: impl FnOnce() -> u8) -> Result<i32, Errno> {
    // SAFETY: this process has one thread where it forks, so no lock is held by one that the child does not have.
    match unsafe { libc::fork() } {
        -1 => Err(last_error()),
        0 => {
            let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
            let status = child();
            // SAFETY: ends the process without what the parent registered for its own end.
            unsafe { libc::_exit(status.into()) }
        }
        pid => Ok(pid),
    }
}

/// Waits for one child; `None` if there is none. A signal that ended it makes 128 and its number.
pub(crate) fn wait(pid: i32) -> Option<(i32, u8)> {
    let mut status = 0;
    loop {
        // SAFETY: `status` is ours.
        match unsafe { libc::waitpid(pid, &raw mut status, 0) } {
            -1 if last_error() == Errno::INTR => {}
            -1 => return None,
            pid if libc::WIFEXITED(status) => return Some((pid, libc::WEXITSTATUS(status) as u8)),
            pid => return Some((pid, 128 + libc::WTERMSIG(status) as u8)),
        }
    }
}

/// A child that has ended, if there is one, as [`wait`] has it.
///
/// # Errors
/// `ECHILD`: there are no children.
pub(crate) fn wait_now() -> Result<Option<(i32, u8)>, Errno> {
    let mut status = 0;
    // SAFETY: `status` is ours.
    match unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) } {
        -1 => Err(last_error()),
        0 => Ok(None),
        pid if libc::WIFEXITED(status) => Ok(Some((pid, libc::WEXITSTATUS(status) as u8))),
        pid => Ok(Some((pid, 128 + libc::WTERMSIG(status) as u8))),
    }
}

/// Sends SIGKILL.
pub(crate) fn kill(pid: i32) {
    // SAFETY: sends a signal; there is nothing to uphold.
    unsafe { libc::kill(pid, libc::SIGKILL) };
}

/// Replaces this process's program by the one that `fd` refers to.
pub(crate) fn exec(fd: BorrowedFd<'_>, words: &[&str]) -> Errno {
    let words: Vec<CString> = words.iter().filter_map(|word| CString::new(*word).ok()).collect();
    let mut pointers: Vec<_> = words.iter().map(|word| word.as_ptr()).collect();
    pointers.push(std::ptr::null());
    let none = [std::ptr::null::<libc::c_char>()];
    // SAFETY: strings and lists that end with a null pointer.
    unsafe {
        libc::syscall(
            i64::from(abi::__NR_execveat),
            fd.as_raw_fd(),
            c"".as_ptr(),
            pointers.as_ptr(),
            none.as_ptr(),
            abi::AT_EMPTY_PATH,
        )
    };
    last_error()
}

/// Nanoseconds since the machine started.
pub(crate) fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// CPUs that this process may run on.
pub(crate) fn cpus() -> usize {
    rustix::thread::sched_getaffinity(None).map_or(1, |set| set.count() as usize)
}

/// The error of a call of the C library that returned -1.
pub(crate) fn done(result: i32) -> Result<(), Errno> {
    if result == -1 { Err(last_error()) } else { Ok(()) }
}

/// The system call `nr`.
///
/// # Safety
/// What the arguments refer to is as the call asks, and nothing in this process rests on what it changes.
pub(crate) unsafe fn call<const N: usize>(nr: u32, args: [usize; N]) -> Result<usize, Errno> {
    let arg = |index: usize| args.get(index).copied().unwrap_or(0);
    // SAFETY: as the caller says.
    let result = unsafe { libc::syscall(nr.into(), arg(0), arg(1), arg(2), arg(3), arg(4), arg(5)) };
    usize::try_from(result).map_err(|_| last_error())
}

/// Has SIGALRM end this process after so many seconds.
pub(crate) fn alarm(seconds: u32) {
    // SAFETY: sets a timer; there is nothing to uphold.
    unsafe { libc::alarm(seconds) };
}

fn set_of(signal: i32) -> libc::sigset_t {
    // SAFETY: numbers, for which zero is a value.
    let mut set = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is ours.
    unsafe {
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, signal);
    }
    set
}

/// Blocks a signal.
pub(crate) fn block(signal: i32) -> Result<(), Errno> {
    let set = set_of(signal);
    // SAFETY: `set` is ours; nobody wants the old mask.
    done(unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) })
}

/// Takes a signal that is blocked, when it comes.
///
/// # Errors
/// `EAGAIN`: it does not come.
pub(crate) fn wait_signal(signal: i32, limit: std::time::Duration) -> Result<libc::siginfo_t, Errno> {
    let set = set_of(signal);
    let limit = libc::timespec { tv_sec: limit.as_secs() as i64, tv_nsec: limit.subsec_nanos().into() };
    // SAFETY: numbers, for which zero is a value.
    let mut info = unsafe { std::mem::zeroed() };
    // SAFETY: all three are ours.
    done(unsafe { libc::sigtimedwait(&raw const set, &raw mut info, &raw const limit) })?;
    Ok(info)
}
