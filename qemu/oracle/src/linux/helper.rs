//! The process that stands for a task: sets its namespace up, then does what it is told.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use anyhow::{Context, Result, ensure};
use linux_raw_sys::general as abi;
use rustix::fs::{CWD, Mode, mkdirat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsmount, fsopen, mount, move_mount, unmount,
};
use rustix::process::{Signal, chdir, chroot, pivot_root, set_parent_process_death_signal};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::{Call, DIRECTORIES};

/// Children of this process, and of those that it forks from here on, are reaped by the kernel.
pub(super) fn forget_children() {
    // SAFETY: SIG_IGN is no handler, so nothing of this program runs in a signal's context.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
}

/// Forks: the parent gets the child's pid, the child 0.
fn fork() -> Result<i32, Errno> {
    // SAFETY: this program has one thread, so the child has all that the parent had: no lock stays taken by a thread
    // that is not there.
    match unsafe { libc::fork() } {
        -1 => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::AGAIN)),
        pid => Ok(pid),
    }
}

/// Ends the process where it goes out of scope, by return or by panic, without what the parent registered for its own
/// end.
struct Quit;

impl Drop for Quit {
    fn drop(&mut self) {
        // SAFETY: ends the process; there is nothing to uphold.
        unsafe { libc::_exit(0) }
    }
}

/// Starts the process of task 0. It serves the first of `sockets`, its descendants the others; `ours` are the driver's
/// ends. Returns its pid.
pub(super) fn start(ours: &mut Vec<Option<UnixStream>>, sockets: Vec<UnixStream>) -> Result<i32> {
    let pid = fork().context("cannot fork")?;
    if pid != 0 {
        return Ok(pid);
    }
    let quit = Quit;
    ours.clear();
    let mut helper = Helper { socket: 0, sockets };
    match set_up() {
        Ok(()) => {
            if helper.reply(0, 0).is_ok() {
                helper.serve();
            }
        }
        Err(error) => eprintln!("helper: {error:#}"),
    }
    drop(quit);
    unreachable!("the process ended")
}

/// A fresh file system with the fixed directories, attached nowhere.
fn file_system() -> rustix::io::Result<OwnedFd> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(context.as_fd())?;
    let root = fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    for path in DIRECTORIES {
        mkdirat(root.as_fd(), path, Mode::from_raw_mode(0o755))?;
    }
    Ok(root)
}

fn attach(root: &OwnedFd, target: &str) -> rustix::io::Result<()> {
    move_mount(root.as_fd(), "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

/// Leaves this machine's namespace for one of its own with a fresh root.
fn set_up() -> Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL)).context("cannot die with the parent")?;
    new_namespace().context("cannot unshare the mount namespace")?;
    let own = |flags: u32| mount("none", "/", "", MountFlags::from_bits_retain(flags), None);
    own(abi::MS_REC | abi::MS_PRIVATE).context("cannot make the mounts private")?;
    let root = file_system().context("cannot make a tmpfs")?;
    // Any directory will do, in a namespace of our own; this one exists everywhere.
    attach(&root, "/proc").context("cannot mount a tmpfs")?;
    drop(root);
    chdir("/proc").context("cannot enter the tmpfs")?;
    pivot_root(".", ".").context("cannot pivot into the tmpfs: is the root the initial ramfs?")?;
    unmount(".", UnmountFlags::DETACH).context("cannot detach the old root")?;
    chdir("/").context("cannot enter the root")?;
    ensure!(std::fs::metadata("/a/x").is_ok(), "the root is not the fresh file system");
    Ok(())
}

fn new_namespace() -> rustix::io::Result<()> {
    // SAFETY: one thread, and a mount namespace is no property that this program's memory or descriptors rest on.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }
}

struct Helper {
    /// Which of the sockets is this task's.
    socket: usize,
    sockets: Vec<UnixStream>,
}

impl Helper {
    fn reply(&self, error: i32, pid: i32) -> std::io::Result<()> {
        let mut reply = [0; 8];
        reply[..4].copy_from_slice(&error.to_ne_bytes());
        reply[4..].copy_from_slice(&pid.to_ne_bytes());
        (&self.sockets[self.socket]).write_all(&reply)
    }

    /// Until the driver closes the socket.
    fn serve(&mut self) {
        loop {
            // One request is under way at a time, so the reader holds nothing beyond it.
            let mut line = String::new();
            match BufReader::new(&self.sockets[self.socket]).read_line(&mut line) {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
            let call: Call = line.parse().expect("the driver wrote it");
            let done = match call {
                Call::Fork { child } => match fork() {
                    Ok(0) => {
                        self.socket = child;
                        continue;
                    }
                    Ok(pid) => self.reply(0, pid),
                    Err(error) => self.reply(error.raw_os_error(), 0),
                },
                call => match self.run(&call) {
                    Ok(()) => self.reply(0, 0),
                    Err(error) => self.reply(error.raw_os_error(), 0),
                },
            };
            if done.is_err() {
                return;
            }
        }
    }

    fn run(&self, call: &Call) -> rustix::io::Result<()> {
        let change = |source: &str, target: &str, flags: u32| {
            mount(source, target, "", MountFlags::from_bits_retain(flags), None)
        };
        let recursive = |on: &bool| if *on { abi::MS_REC } else { 0 };
        match call {
            Call::Mount { target } => {
                // By its descriptor, since its directories must be there before anybody sees it.
                attach(&file_system()?, target)
            }
            Call::Bind { source, target, recursive: all } => {
                change(source, target, abi::MS_BIND | recursive(all))
            }
            Call::Move { source, target } => change(source, target, abi::MS_MOVE),
            Call::Make { target, to, recursive: all } => change("none", target, to.flag() | recursive(all)),
            Call::Remount { target, flags } => change("none", target, abi::MS_REMOUNT | abi::MS_BIND | flags),
            Call::Umount { target, lazy } => {
                unmount(target.as_str(), if *lazy { UnmountFlags::DETACH } else { UnmountFlags::empty() })
            }
            Call::PivotRoot { new_root, put_old } => pivot_root(new_root.as_str(), put_old.as_str()),
            Call::Cd { path } => chdir(path.as_str()),
            Call::Chroot { path } => chroot(path.as_str()),
            Call::Unshare => new_namespace(),
            Call::Fork { .. } | Call::Exit => unreachable!("not for the helper to do"),
        }
    }
}
