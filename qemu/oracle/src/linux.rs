//! The running kernel as an executor: each task is a process in a mount namespace that is not this machine's.
//!
//! The driver forks the first helper, which unshares, makes everything private, mounts a fresh file system, pivots into
//! it and detaches the old root ([`helper`]). It reads one operation per line from a socket and answers with an error
//! number. A `fork` makes the next helper, which serves a socket of its own: all sockets are made beforehand. The driver
//! reads `/proc/PID/mountinfo` anew after each step, since an open one keeps showing the namespace and root that the
//! task had before.
//!
//! Helpers end when their socket does, so none outlives the driver.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use anyhow::{Context, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use syscalls::mountinfo::MountInfo;

use crate::{Answer, Call, Executor, Step, Views};

mod helper;

/// The oldest kernel whose rules are those that the crates follow.
const OLDEST: (u32, u32) = (6, 15);

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

/// What the whole process needs once, before the first [`Linux::new`]: helpers that end are forgotten at once, those of
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
    socket: UnixStream,
}

impl Process {
    fn new(pid: i32, socket: UnixStream) -> Result<Self> {
        let pid = Pid::from_raw(pid).context("a helper without a pid")?;
        let end = pidfd_open(pid, PidfdFlags::empty()).context("a helper is gone already")?;
        Ok(Process { pid, end, socket })
    }

    /// Sends one operation and waits for its answer: an error number, and the pid of a child or 0.
    fn call(&mut self, call: &Call) -> Result<(Answer, i32)> {
        let mut reply = [0; 8];
        let line = format!("{call}\n");
        self.socket
            .write_all(line.as_bytes())
            .and_then(|()| self.socket.read_exact(&mut reply))
            .with_context(|| {
                format!("the helper {} is gone; it was asked to `{call}`", self.pid.as_raw_nonzero())
            })?;
        let number = |at: usize| i32::from_ne_bytes([reply[at], reply[at + 1], reply[at + 2], reply[at + 3]]);
        Ok((Answer(number(0) as u32), number(4)))
    }

    /// Ends it, and waits for the end: its namespace is gone then, unless others are in it.
    fn end(self) -> Result<()> {
        drop(self.socket);
        poll(&mut [PollFd::new(&self.end, PollFlags::IN)], None).context("cannot wait for a helper")?;
        Ok(())
    }

    fn mountinfo(&self) -> Result<Vec<MountInfo>> {
        let path = format!("/proc/{}/mountinfo", self.pid.as_raw_nonzero());
        let text = fs::read(&path).with_context(|| format!("cannot read {path}"))?;
        let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| MountInfo::parse(line).map_err(|error| anyhow::anyhow!("{path}: {error}"))).collect()
    }
}

/// Tasks of the running kernel; see the module's header.
pub struct Linux {
    tasks: Vec<Option<Process>>,
    /// The driver's ends of the sockets of tasks that are not there yet.
    sockets: Vec<Option<UnixStream>>,
}

impl Linux {
    /// One task alone in a namespace; up to `tasks_max` can follow.
    ///
    /// # Errors
    /// The machine cannot make a process or a namespace.
    pub fn new(tasks_max: usize) -> Result<Self> {
        let mut ours = Vec::new();
        let mut theirs = Vec::new();
        for _ in 0..tasks_max {
            let (our, their) = UnixStream::pair().context("cannot make a socket")?;
            ours.push(Some(our));
            theirs.push(their);
        }
        let pid = helper::start(&mut ours, theirs)?;
        let socket = ours[0].take().context("a program has at least one task")?;
        let mut first = Process::new(pid, socket)?;
        let mut ready = [0; 8];
        first.socket.read_exact(&mut ready).context("the first helper could not make its namespace")?;
        Ok(Linux { tasks: vec![Some(first)], sockets: ours })
    }
}

impl Executor for Linux {
    fn run(&mut self, step: &Step) -> Result<Answer> {
        let Some(Some(process)) = self.tasks.get_mut(step.task) else { bail!("task {} is gone", step.task) };
        if step.call == Call::Exit {
            self.tasks[step.task].take().map_or(Ok(()), Process::end)?;
            return Ok(Answer::OK);
        }
        let (answer, pid) = process.call(&step.call)?;
        if let Call::Fork { child } = step.call {
            ensure!(answer == Answer::OK, "a helper cannot fork: {answer}");
            let socket = self.sockets.get_mut(child).and_then(Option::take);
            let socket = socket.with_context(|| format!("a program makes task {child} once at most"))?;
            if self.tasks.len() <= child {
                self.tasks.resize_with(child + 1, || None);
            }
            self.tasks[child] = Some(Process::new(pid, socket)?);
        }
        Ok(answer)
    }

    fn views(&mut self) -> Result<Views> {
        let see = |task: &Option<Process>| task.as_ref().map(Process::mountinfo).transpose();
        let mut views = Views(self.tasks.iter().map(see).collect::<Result<_>>()?);
        views.normalise();
        Ok(views)
    }
}

impl Drop for Linux {
    fn drop(&mut self) {
        for task in self.tasks.iter_mut().filter_map(Option::take) {
            // Nothing is left to do about one that cannot be waited for.
            let _ = task.end();
        }
    }
}
