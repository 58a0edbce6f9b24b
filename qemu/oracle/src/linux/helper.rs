//! The process that stands for a task: sets its namespace up, then makes the calls that it is told to make.

use std::os::fd::{AsRawFd, BorrowedFd, IntoRawFd, OwnedFd};

use anyhow::{Context, Result, ensure};
use linux_raw_sys::general as abi;
use rustix::fs::{CWD, Mode, OFlags, mkdirat, open};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::net::{RecvFlags, SendFlags, recv, send};
use rustix::process::{Signal, chdir, pivot_root, set_parent_process_death_signal};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::arena::Arena;
use super::wire::{MESSAGE_MAX, Reader, Request, Writer};
use crate::DIRECTORIES;
use crate::raw::{Raw, Reply};

/// The descriptor that a task has of a proc file system outside of its namespace.
pub(super) const PROC: i32 = 3;

/// The descriptor of the first helper's socket. Tasks' own descriptors are those between.
pub(super) const SOCKETS: i32 = 400;

/// Children of this process, and of those that it forks from here on, are reaped by the kernel.
pub(super) fn forget_children() {
    // SAFETY: SIG_IGN is no handler, so nothing of this program runs in a signal's context.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
}

/// A child of clone(2) that shares no memory: the parent gets its pid, the child 0.
pub(super) fn clone(flags: u64) -> Result<i32, Errno> {
    const NONE: usize = 0;
    // SAFETY: whoever forks here has one thread, so the child has all that the parent had: no lock stays taken by a thread
    // that is not there. Without CLONE_VM, which `flags` never has, it goes on on its copy of this stack.
    match unsafe { libc::syscall(libc::SYS_clone, flags | libc::SIGCHLD as u64, NONE, NONE, NONE, NONE) } {
        -1 => Err(last_error()),
        pid => Ok(pid as i32),
    }
}

fn last_error() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// Ends the process where it goes out of scope, by return or by panic, without what the parent registered for its own
/// end.
pub(super) struct Quit;

impl Drop for Quit {
    fn drop(&mut self) {
        // SAFETY: ends the process; there is nothing to uphold.
        unsafe { libc::_exit(0) }
    }
}

/// The life of the process of task 0: it serves the first of `sockets`, its descendants the others.
pub(super) fn run(sockets: &[BorrowedFd<'_>], mounted_on: &str) {
    let ready = keep_only(sockets).and_then(|()| set_up(mounted_on));
    match ready.and_then(|()| Arena::new().context("cannot map memory")) {
        Ok(arena) => {
            let mut helper = Helper { socket: SOCKETS, arena };
            if helper.reply(&[Reply::default()]).is_ok() {
                helper.serve();
            }
        }
        Err(error) => eprintln!("helper: {error:#}"),
    }
}

/// Gives the sockets and the proc file system their fixed descriptors and closes all others but the standard ones: tasks
/// hold nothing that programs do not know of.
pub(super) fn keep_only(sockets: &[BorrowedFd<'_>]) -> Result<()> {
    let place = |fd: i32, at: i32| -> Result<()> {
        // SAFETY: what is at that descriptor is of the driver or the nursery, whose owner of it is never dropped in this
        // process.
        ensure!(unsafe { libc::dup2(fd, at) } == at, "cannot place a descriptor");
        Ok(())
    };
    // First to where none of them is.
    let high = SOCKETS + sockets.len() as i32 + 1;
    let mut moved = Vec::new();
    for socket in sockets {
        let fd = rustix::io::fcntl_dupfd_cloexec(socket, high).context("cannot place a socket")?;
        moved.push(fd.into_raw_fd());
    }
    for (at, fd) in (SOCKETS..).zip(&moved) {
        place(*fd, at)?;
    }
    let close = |from: i32, to: u32| {
        // SAFETY: as above; nothing of this process uses them from here on.
        unsafe { libc::syscall(libc::SYS_close_range, from, to, 0) }
    };
    close(PROC + 1, SOCKETS as u32 - 1);
    close(SOCKETS + sockets.len() as i32, u32::MAX);
    Ok(())
}

/// Gives this machine's proc file system its descriptor. Context: after [`keep_only`].
pub(super) fn open_proc() -> Result<()> {
    let proc = open("/proc", OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).context("cannot open /proc")?;
    // SAFETY: as in `keep_only`.
    ensure!(unsafe { libc::dup2(proc.as_raw_fd(), PROC) } == PROC, "cannot place a descriptor");
    if proc.as_raw_fd() == PROC {
        let _ = proc.into_raw_fd();
    }
    Ok(())
}

/// Leaves the namespace that this process is in for one of its own with a fresh root, which is mounted on the directory
/// `on` first.
pub(super) fn set_up(on: &str) -> Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL)).context("cannot die with the parent")?;
    // SAFETY: one thread, and a mount namespace is no property that this program's memory or descriptors rest on.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.context("cannot unshare the mount namespace")?;
    let own = MountFlags::from_bits_retain(abi::MS_REC | abi::MS_PRIVATE);
    mount("none", "/", "", own, None).context("cannot make the mounts private")?;
    mount("none", on, "tmpfs", MountFlags::empty(), None).context("cannot mount a tmpfs")?;
    chdir(on).context("cannot enter the tmpfs")?;
    for path in DIRECTORIES {
        mkdirat(CWD, path, Mode::from_raw_mode(0o755)).context("cannot make the directories")?;
    }
    pivot_root(".", ".").context("cannot pivot into the tmpfs: is the root the initial ramfs?")?;
    unmount(".", UnmountFlags::DETACH).context("cannot detach the old root")?;
    chdir("/").context("cannot enter the root")?;
    rustix::process::umask(Mode::empty());
    ensure!(std::fs::metadata("/a/x").is_ok(), "the root is not the fresh file system");
    Ok(())
}

struct Helper {
    /// The socket that it serves.
    socket: i32,
    arena: Arena,
}

impl Helper {
    fn socket(&self) -> BorrowedFd<'_> {
        // SAFETY: open as long as this process lives; programs close descriptors that they know, which this is none of.
        unsafe { BorrowedFd::borrow_raw(self.socket) }
    }

    fn reply(&self, replies: &[Reply]) -> rustix::io::Result<()> {
        let mut message = Writer::default();
        replies.iter().for_each(|reply| message.reply(reply));
        send(self.socket(), &message.0, SendFlags::NOSIGNAL).map(drop)
    }

    /// Until the driver closes the socket.
    fn serve(&mut self) {
        let mut buffer = vec![0; MESSAGE_MAX];
        loop {
            let len = match recv(self.socket(), &mut buffer[..], RecvFlags::empty()) {
                Ok((0, _)) | Err(_) => return,
                Ok((len, _)) => len,
            };
            let request = Reader(&buffer[..len]).request().expect("the driver wrote it");
            let done = match request {
                Request::Calls(calls) => {
                    let replies: Vec<_> = calls.iter().map(|call| self.call(call)).collect();
                    self.reply(&replies)
                }
                Request::Clone { flags, child } => match clone(flags) {
                    Ok(0) => {
                        self.socket = SOCKETS + child as i32;
                        continue;
                    }
                    done => self.reply(&[reply(done.map(i64::from))]),
                },
                Request::MapRoot => self.reply(&[reply(map_root().map(|()| 0))]),
            };
            if done.is_err() {
                return;
            }
        }
    }

    fn call(&mut self, call: &Raw) -> Reply {
        let mut registers = [0; 6];
        for (at, arg) in call.args.iter().enumerate() {
            registers[at] = self.arena.put(at, arg);
        }
        let [a, b, c, d, e, f] = registers;
        // SAFETY: the calls of programs are those of the table of names, none of which maps, unmaps or changes memory but
        // what a pointer argument points to; that is the arena or an address at which nothing is.
        let result = unsafe { libc::syscall(i64::from(call.nr), a, b, c, d, e, f) };
        let mut reply = reply(if result == -1 { Err(last_error()) } else { Ok(result) });
        let outputs = call.args.iter().enumerate().filter(|(_, arg)| arg.is_output());
        reply.memory = outputs.map(|(at, arg)| self.arena.get(at, arg)).collect();
        reply
    }
}

fn reply(result: rustix::io::Result<i64>) -> Reply {
    let result = result.unwrap_or_else(|error| -i64::from(error.raw_os_error()));
    Reply { result, memory: Vec::new() }
}

/// Writes the maps of this process's user namespace, of which it is the first: root there is who it was outside.
fn map_root() -> rustix::io::Result<()> {
    // SAFETY: open since `keep_only`; programs do not know it by number.
    let proc = unsafe { BorrowedFd::borrow_raw(PROC) };
    for (name, text) in [("self/setgroups", "deny"), ("self/uid_map", "0 0 1"), ("self/gid_map", "0 0 1")] {
        let file = rustix::fs::openat(proc, name, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        rustix::io::write(&file, text.as_bytes())?;
    }
    Ok(())
}

/// Sockets for `count` tasks: the driver's ends, and the helpers'.
///
/// # Errors
/// Those of socketpair(2).
pub(super) fn sockets(count: usize) -> rustix::io::Result<(Vec<OwnedFd>, Vec<OwnedFd>)> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    let pair = || socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
    let pairs = (0..count).map(|_| pair()).collect::<rustix::io::Result<Vec<_>>>()?;
    Ok(pairs.into_iter().unzip())
}
