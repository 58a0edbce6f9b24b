//! Pidfds: pidfd_open(2), pidfd_send_signal(2), pidfd_getfd(2), and those of clone(2).

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::Write;
use core::task::Waker;

use linux_raw_sys::general as abi;
use mnt_table::memory;
use syscalls::file::Object;
use syscalls::{Errno, File};

use super::signal::calls::signal_pidfd;
use super::{Pid, Thread};
use crate::fs;
use crate::fs::anon;
use crate::fs::file::{FileOps, OpenFile};

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
        let seen = super::with_current(|thread| self.pid.number_in(thread.pid_ns())).flatten();
        let there = self.pid.process().is_some();
        let number = if there { seen.map_or(0, i64::from) } else { -1 };
        let mut line = heapless::String::<64>::new();
        let _ = writeln!(line, "Pid:\t{number}\nNSpid:\t{number}");
        text.extend_from_slice(line.as_bytes());
    }
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

fn make(pid: &Arc<Pid>, task: Arc<super::Mounts>, flags: u32) -> Result<Arc<OpenFile>, Errno> {
    let no_memory = |_| Errno::ENOMEM;
    let ops = memory::arc(PidFd { pid: Arc::clone(pid) }).map_err(no_memory)?;
    let place = anon::dentry(anon::Kind::Anon("[pidfd]"))?;
    let file =
        memory::arc(File::new(Some(place), Object::Process(Arc::downgrade(&task)))).map_err(no_memory)?;
    let who = super::current().credentials();
    OpenFile::new(ops, file, abi::O_RDWR | flags, who, None)
}

/// A pidfd of the child `child`, whose identity is `pid`.
pub(super) fn reserve(thread: &Arc<Thread>, child: &Arc<Thread>, of_thread: bool) -> Result<Reserved, Errno> {
    let flags = if of_thread { OF_THREAD } else { 0 };
    let file = make(&child.pid(), Arc::clone(&child.mounts), flags)?;
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
    let target = found.thread().or(leader).ok_or(Errno::ESRCH)?;
    let file = make(&found, Arc::clone(&target.mounts), flags)?;
    fs::install(file, true)
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
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    let (pid, _) = of_descriptor(thread, fd)?;
    signal_pidfd(thread, &pid, signal, info)
}

/// pidfd_getfd(2).
pub(super) fn pidfd_getfd(thread: &Arc<Thread>, fd: i32, other: i32, flags: u32) -> Result<usize, Errno> {
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    let (pid, _) = of_descriptor(thread, fd)?;
    let target = pid.process().and_then(|process| process.leader()).ok_or(Errno::ESRCH)?;
    let may = {
        let (own, others) = (thread.credentials(), target.credentials());
        own.euid == others.euid
            || own.capable(&others.user_ns, syscalls::credentials::Capabilities::SYS_PTRACE)
    };
    if !may {
        return Err(Errno::EPERM);
    }
    let file = target.try_files().ok_or(Errno::ESRCH)?.get(other)?;
    fs::install(file, true)
}
