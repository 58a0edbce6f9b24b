//! Pidfds: pidfd_open(2), pidfd_send_signal(2), pidfd_getfd(2), and those of clone(2).

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::fmt::Write;
use core::task::Waker;

use linux_raw_sys::general as abi;
use mnt_table::memory;
use syscalls::file::Object;
use syscalls::ids::Kind;
use syscalls::{Errno, File};

use super::creds::As;
use super::signal::calls::{To, signal_pidfd};
use super::{Pid, Thread};
use crate::fs;
use crate::fs::anon;
use crate::fs::file::{FileOps, OpenFile};
use crate::fs::nsfs::{self, Namespace};
use crate::mm::user;

/// `PIDFD_NONBLOCK`, `PIDFD_THREAD`
const NONBLOCK: u32 = abi::O_NONBLOCK;
const OF_THREAD: u32 = abi::O_EXCL;

/// What a pidfd does.
pub(crate) struct PidFd {
    pid: Arc<Pid>,
}

impl FileOps for PidFd {
    fn poll(&self, _file: &OpenFile, waker: Option<&Waker>) -> Result<u32, Errno> {
        if let Some(waker) = waker {
            self.pid.exit.watch(waker)?;
        }
        Ok(match self.pid.process() {
            Some(process) if process.is_alive() => 0,
            Some(_) => abi::POLLIN | abi::POLLRDNORM,
            None => abi::POLLIN | abi::POLLRDNORM | abi::POLLHUP,
        })
    }

    fn unwatch(&self, _file: &OpenFile, waker: &Waker) {
        self.pid.exit.unwatch(waker);
    }

    fn fdinfo(&self, _file: &OpenFile, text: &mut Vec<u8>) {
        let thread = super::current();
        let there = self.pid.process().is_some() || self.pid.thread().is_some();
        let seen = if there { self.pid.number_in(thread.pid_ns()).map_or(0, i64::from) } else { -1 };
        let mut lines = heapless::String::<512>::new();
        // They fit: there are no more levels.
        let _ = write!(lines, "Pid:\t{seen}\nNSpid:\t{seen}");
        if seen > 0 {
            for number in self.pid.numbers_from(thread.pid_ns()).skip(1) {
                let _ = write!(lines, "\t{number}");
            }
        }
        let _ = lines.push('\n');
        text.extend_from_slice(lines.as_bytes());
    }

    fn ioctl(&self, _file: &Arc<OpenFile>, request: u32, arg: usize) -> Result<usize, Errno> {
        let thread = super::current();
        if request & !(SIZE_MASK << SIZE_SHIFT) == GET_INFO {
            return info(&thread, &self.pid, (request >> SIZE_SHIFT & SIZE_MASK) as usize, arg);
        }
        let found = NAMESPACES.iter().find(|(known, ..)| *known == request).ok_or(Errno::ENOTTY)?;
        let (_, kind, of_children) = *found;
        let target = self.target().ok_or(Errno::ESRCH)?;
        if arg != 0 {
            return Err(Errno::EINVAL);
        }
        let of = Namespace::of_thread(&target, kind, of_children).ok_or(Errno::EOPNOTSUPP)?;
        if !thread.may_inspect(&target, As::Files) {
            return Err(Errno::EACCES);
        }
        nsfs::install(of)
    }
}

/// Requests that open a namespace: which, and whether it is the one of children.
const NAMESPACES: [(u32, u32, bool); 10] = [
    (0xff01, abi::CLONE_NEWCGROUP, false),
    (0xff02, abi::CLONE_NEWIPC, false),
    (0xff03, abi::CLONE_NEWNS, false),
    (0xff04, abi::CLONE_NEWNET, false),
    (0xff05, abi::CLONE_NEWPID, false),
    (0xff06, abi::CLONE_NEWPID, true),
    (0xff07, abi::CLONE_NEWTIME, false),
    (0xff08, abi::CLONE_NEWTIME, true),
    (0xff09, abi::CLONE_NEWUSER, false),
    (0xff0a, abi::CLONE_NEWUTS, false),
];

/// `PIDFD_GET_INFO`, without the size of what it reads and writes.
const GET_INFO: u32 = 0xc000_ff0b;
const SIZE_SHIFT: u32 = 16;
const SIZE_MASK: u32 = 0x3fff;

impl PidFd {
    /// The thread that it is of: the first of the process, or any if that has ended.
    fn target(&self) -> Option<Arc<Thread>> {
        self.pid.thread().or_else(|| self.pid.process()?.leader())
    }
}

/// What `struct pidfd_info` tells: who it is, whose, and how it ended.
const INFO_PID: u64 = 1;
const INFO_CREDENTIALS: u64 = 2;
const INFO_EXIT: u64 = 8;
/// Bytes of it.
const INFO_FIRST: usize = 64;
const INFO_SIZE: usize = 72;

/// `PIDFD_GET_INFO`: as much of the answer as fits into `size` bytes at `addr`.
///
/// # Errors
/// `EINVAL`, `EFAULT`; `ESRCH`: it has ended, or is nobody to the caller.
fn info(thread: &Thread, pid: &Arc<Pid>, size: usize, addr: usize) -> Result<usize, Errno> {
    if addr == 0 || size < INFO_FIRST {
        return Err(Errno::EINVAL);
    }
    let wanted: u64 = user::get(addr)?;
    let ns = thread.pid_ns();
    let number = pid.number_in(ns).ok_or(Errno::ESRCH)?;
    let mut bytes = [0; INFO_SIZE];
    let mut told = 0;
    let mut put = |at: usize, value: u32| bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    if let Some(status) = pid.ended().filter(|_| wanted & INFO_EXIT != 0) {
        put(60, status);
        told |= INFO_EXIT;
    }
    let leader = pid.process().and_then(|process| process.leader());
    match (pid.thread().or(leader), pid.process()) {
        (Some(target), _) => {
            let (own, other) = (thread.credentials(), target.credentials());
            let shown = |kind: Kind, id: u32| kind.seen_by(&own.user_ns, id).unwrap_or(super::caps::NOBODY);
            let ids = [
                shown(Kind::Users, other.uid),
                shown(Kind::Groups, other.gid),
                shown(Kind::Users, other.euid),
                shown(Kind::Groups, other.egid),
                shown(Kind::Users, other.suid),
                shown(Kind::Groups, other.sgid),
                shown(Kind::Users, other.fsuid),
                shown(Kind::Groups, other.fsgid),
            ];
            ids.into_iter().enumerate().for_each(|(index, id)| put(28 + 4 * index, id));
            let parent = target.process.parent().and_then(|parent| parent.pid_in(ns));
            put(16, number);
            put(20, target.process.pid_in(ns).unwrap_or(0));
            put(24, parent.unwrap_or(0));
            told |= INFO_PID | INFO_CREDENTIALS;
        }
        // It has ended, and nobody has waited for it.
        (None, Some(process)) => {
            let parent = process.parent().and_then(|parent| parent.pid_in(ns));
            put(16, number);
            put(20, number);
            put(24, parent.unwrap_or(0));
            told |= INFO_PID;
        }
        (None, None) if told & INFO_EXIT == 0 => return Err(Errno::ESRCH),
        (None, None) => {}
    }
    bytes[..8].copy_from_slice(&told.to_le_bytes());
    user::write(addr, &bytes[..size.min(INFO_SIZE)])?;
    Ok(0)
}

/// A descriptor for a child that may still fail to be.
pub(super) struct Reserved {
    thread: Arc<Thread>,
    number: i32,
    kept: bool,
}

impl Reserved {
    pub(super) fn number(&self) -> i32 {
        self.number
    }

    pub(super) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if !self.kept {
            let _ = self.thread.files().close(self.number);
        }
    }
}

/// A descriptor's file of who goes by `pid`; `task` is what mounts know of it, if it has not ended.
fn make(pid: &Arc<Pid>, task: Weak<super::Mounts>, flags: u32) -> Result<Arc<OpenFile>, Errno> {
    let no_memory = |_| Errno::ENOMEM;
    let ops = memory::arc(PidFd { pid: Arc::clone(pid) }).map_err(no_memory)?;
    let place = anon::dentry(anon::Kind::Anon("[pidfd]"))?;
    let file = memory::arc(File::new(Some(place), Object::Process(task))).map_err(no_memory)?;
    let who = super::current().credentials();
    OpenFile::new(ops, file, abi::O_RDWR | flags, who, None)
}

/// A pidfd of the child `child`, whose identity is `pid`.
pub(super) fn reserve(thread: &Arc<Thread>, child: &Arc<Thread>, of_thread: bool) -> Result<Reserved, Errno> {
    let flags = if of_thread { OF_THREAD } else { 0 };
    let file = make(&child.pid(), Arc::downgrade(&child.mounts), flags)?;
    let number = fs::install(file, true)?;
    Ok(Reserved { thread: Arc::clone(thread), number: number as i32, kept: false })
}

/// pidfd_open(2).
pub(super) fn pidfd_open(thread: &Arc<Thread>, pid: i32, flags: u32) -> Result<usize, Errno> {
    if flags & !(NONBLOCK | OF_THREAD) != 0 || pid <= 0 {
        return Err(Errno::EINVAL);
    }
    let found = thread.pid_ns().pid(pid as u32).ok_or(Errno::ESRCH)?;
    if flags & OF_THREAD == 0 && found.process().is_none() {
        return Err(if found.thread().is_some() { Errno::ENOENT } else { Errno::ESRCH });
    }
    let leader = found.process().and_then(|process| process.leader());
    let target = found.thread().or(leader);
    let mounts = target.map_or_else(Weak::new, |target| Arc::downgrade(&target.mounts));
    let file = make(&found, mounts, flags)?;
    fs::install(file, true)
}

/// The identity that a descriptor is of, which may be that of a directory in proc, and whether it is of a thread.
///
/// # Errors
/// `EBADF`: it is none of these.
fn of_any(thread: &Thread, fd: i32) -> Result<(Arc<Pid>, bool), Errno> {
    let file = thread.files().get(fd)?;
    if let Some(pidfd) = file.as_ops::<PidFd>() {
        return Ok((Arc::clone(&pidfd.pid), file.flags() & OF_THREAD != 0));
    }
    let directory = file.dentry().and_then(|dentry| fs::proc::pid_of(dentry));
    directory.map(|pid| (pid, false)).ok_or(Errno::EBADF)
}

/// The identity that a descriptor is of, and whether waiting through it does not block.
///
/// # Errors
/// `EBADF`: it is no pidfd.
pub(super) fn of_descriptor(thread: &Thread, fd: i32) -> Result<(Arc<Pid>, bool), Errno> {
    let file = thread.files().get(fd)?;
    let pidfd = file.as_ops::<PidFd>().ok_or(Errno::EBADF)?;
    Ok((Arc::clone(&pidfd.pid), file.is_nonblocking()))
}

/// pidfd_send_signal(2).
pub(super) fn pidfd_send_signal(
    thread: &Thread,
    fd: i32,
    signal: u32,
    info: usize,
    flags: u32,
) -> Result<usize, Errno> {
    /// `PIDFD_SIGNAL_*`: to whom, if not to whom the descriptor is of.
    const THREAD: u32 = 1;
    const PROCESS: u32 = 2;
    const GROUP: u32 = 4;
    let (pid, of_thread) = of_any(thread, fd)?;
    let to = match flags {
        0 if of_thread => To::Thread,
        THREAD => To::Thread,
        0 | PROCESS => To::Process,
        GROUP => To::Group,
        _ => return Err(Errno::EINVAL),
    };
    signal_pidfd(thread, &pid, to, signal, info)
}

/// pidfd_getfd(2).
pub(super) fn pidfd_getfd(thread: &Arc<Thread>, fd: i32, other: i32, flags: u32) -> Result<usize, Errno> {
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    let (pid, _) = of_descriptor(thread, fd)?;
    let target = pid.process().and_then(|process| process.leader()).ok_or(Errno::ESRCH)?;
    if !thread.may_inspect(&target, As::Itself) {
        return Err(Errno::EPERM);
    }
    let file = target.try_files().ok_or(Errno::ESRCH)?.get(other)?;
    fs::install(file, true)
}
