//! The running kernel as a machine: each task is a process in a mount namespace that is not this machine's.
//!
//! 1. The driver makes a socket for each task that there can be, and has the first helper (`helper`) forked from a small
//!    process (`nursery`). That one unshares, makes everything private, mounts a tmpfs, pivots into it and detaches the old
//!    root.
//! 2. A request is one message and so is its answer (`wire`): raw calls, whose arguments the helper lays out in memory
//!    (`arena`) before it makes them; or a clone, whose child serves the next socket.
//! 3. The driver reads `/proc/PID/mountinfo` anew after each step, since an open one keeps showing the namespace and root
//!    that the task had before.
//!
//! Helpers end when their socket does, so none outlives the driver.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{RecvFlags, SendFlags, recv, send};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use syscalls::mountinfo::MountInfo;

use crate::machine::Machine;
use crate::raw::{Raw, Reply};
use wire::{MESSAGE_MAX, Reader, Request, Writer};

mod arena;
mod helper;
mod nursery;
mod wire;

pub use nursery::{Nursery, processors};

/// The oldest kernel whose rules are those that the crates follow, and that has all calls.
const OLDEST: (u32, u32) = (6, 18);

/// How long a call may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whether this machine can be asked.
///
/// # Errors
/// What is missing.
pub fn check() -> Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "mounting needs root: the running kernel cannot be asked without it"
    );
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map_while(|number| number.parse().ok());
    let version: (u32, u32) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    ensure!(
        version >= OLDEST,
        "this kernel is Linux {release}, and its mount rules are older than {}.{}",
        OLDEST.0,
        OLDEST.1
    );
    Ok(())
}

/// What the whole process needs once, before the first [`Nursery`]: helpers that end are forgotten at once, those of
/// helpers too.
///
/// # Errors
/// Those of prctl(2).
pub fn prepare() -> Result<()> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .context("cannot become the parent of orphans")?;
    helper::forget_children();
    Ok(())
}

/// A helper process.
struct Process {
    pid: Pid,
    /// Becomes readable when the process is gone.
    end: OwnedFd,
    socket: OwnedFd,
}

impl Process {
    fn new(pid: i32, socket: OwnedFd) -> Result<Self> {
        let pid = Pid::from_raw(pid).context("a helper without a pid")?;
        let end = pidfd_open(pid, PidfdFlags::empty()).context("a helper is gone already")?;
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE)).context("cannot set a timeout")?;
        Ok(Process { pid, end, socket })
    }

    /// Waits for the answers to a request.
    fn receive(&self, buffer: &mut [u8], count: usize) -> Result<Vec<Reply>> {
        let (len, _) = recv(&self.socket, &mut *buffer, RecvFlags::empty()).context("no answer")?;
        let mut reader = Reader(&buffer[..len]);
        let replies: Option<Vec<_>> = (0..count).map(|_| reader.reply()).collect();
        replies.with_context(|| format!("the helper {} is gone", self.pid.as_raw_nonzero()))
    }

    /// Tells it to end.
    fn end(self) -> End {
        End(self.end)
    }

    fn mountinfo(&self, buffer: &mut Vec<u8>) -> Result<Vec<MountInfo>> {
        let path = format!("/proc/{}/mountinfo", self.pid.as_raw_nonzero());
        let mut file = File::open(&path).with_context(|| format!("cannot open {path}"))?;
        buffer.clear();
        file.read_to_end(buffer).with_context(|| format!("cannot read {path}"))?;
        let lines = buffer.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| MountInfo::parse(line).map_err(|error| anyhow!("{path}: {error}"))).collect()
    }
}

/// The end of a helper process that was told to.
struct End(OwnedFd);

impl End {
    /// Waits for it: the helper's namespace is gone then, unless others are in it.
    fn wait(self) -> Result<()> {
        poll(&mut [PollFd::new(&self.0, PollFlags::IN)], None).context("cannot wait for a helper")?;
        Ok(())
    }
}

/// Tasks of the running kernel; see the module's header.
pub struct Linux {
    tasks: Vec<Option<Process>>,
    /// The driver's ends of the sockets of tasks that are not there yet.
    sockets: Vec<Option<OwnedFd>>,
    /// Where answers are received.
    message: Vec<u8>,
    /// Where mountinfo is read.
    text: Vec<u8>,
}

impl Linux {
    /// One task alone in a namespace; up to `tasks_max` can follow.
    ///
    /// # Errors
    /// The machine cannot make a process or a namespace.
    pub fn new(nursery: &Nursery, tasks_max: usize) -> Result<Self> {
        let (ours, theirs) = helper::sockets(tasks_max).context("cannot make sockets")?;
        let mut sockets: Vec<_> = ours.into_iter().map(Some).collect();
        let pid = nursery.start(&theirs)?;
        let socket = sockets[0].take().context("a program has at least one task")?;
        let first = Process::new(pid, socket)?;
        // So that the end of the last helper ends a wait for it.
        drop(theirs);
        let mut message = vec![0; MESSAGE_MAX];
        first.receive(&mut message, 1).context("the first helper could not make its namespace")?;
        Ok(Linux { tasks: vec![Some(first)], sockets, message, text: Vec::new() })
    }

    fn ask(&mut self, task: usize, request: &Request, count: usize) -> Result<Vec<Reply>> {
        let process = self.tasks.get(task).and_then(Option::as_ref);
        let process = process.with_context(|| format!("task {task} is gone"))?;
        let mut message = Writer::default();
        message.request(request);
        send(&process.socket, &message.0, SendFlags::NOSIGNAL).context("cannot send")?;
        process.receive(&mut self.message, count)
    }

    fn ask_one(&mut self, task: usize, request: &Request) -> Result<Reply> {
        Ok(self.ask(task, request, 1)?.remove(0))
    }
}

impl Machine for Linux {
    fn calls(&mut self, task: usize, calls: &[Raw]) -> Result<Vec<Reply>> {
        self.ask(task, &Request::Calls(calls.to_vec()), calls.len())
    }

    fn clone_task(&mut self, task: usize, child: usize, flags: u64) -> Result<Reply> {
        let socket = self.sockets.get_mut(child).and_then(Option::take);
        let socket = socket.with_context(|| format!("a program makes task {child} once at most"))?;
        let reply = self.ask_one(task, &Request::Clone { flags, child: child as u32 })?;
        if reply.errno() != 0 {
            self.sockets[child] = Some(socket);
            return Ok(reply);
        }
        if self.tasks.len() <= child {
            self.tasks.resize_with(child + 1, || None);
        }
        self.tasks[child] = Some(Process::new(reply.result as i32, socket)?);
        Ok(reply)
    }

    fn map_root(&mut self, task: usize) -> Result<Reply> {
        self.ask_one(task, &Request::MapRoot)
    }

    fn exit(&mut self, task: usize) -> Result<()> {
        self.tasks.get_mut(task).and_then(Option::take).map_or(Ok(()), |process| process.end().wait())
    }

    fn pid(&self, task: usize) -> Option<i32> {
        let process = self.tasks.get(task)?.as_ref()?;
        Some(process.pid.as_raw_nonzero().get())
    }

    fn proc_fd(&self) -> i32 {
        helper::PROC
    }

    fn mountinfo(&mut self) -> Result<Vec<Option<Vec<MountInfo>>>> {
        let buffer = &mut self.text;
        let see = |task: &Option<Process>| task.as_ref().map(|task| task.mountinfo(buffer)).transpose();
        self.tasks.iter().map(see).collect()
    }
}

impl Drop for Linux {
    fn drop(&mut self) {
        let ends: Vec<End> = self.tasks.iter_mut().filter_map(Option::take).map(Process::end).collect();
        for end in ends {
            // Nothing is left to do about one that cannot be waited for.
            let _ = end.wait();
        }
    }
}
