//! Processes that helpers are forked from.
//!
//! A nursery stays on one processor, and so do its helpers, since each processor has ids of its own to give to namespaces,
//! whose order shows. It is small, because a fork costs its parent a fault per page that either writes. And it stands in a
//! mount namespace with next to nothing in it, because a helper's own begins as a copy.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result, ensure};
use rustix::io::{IoSlice, IoSliceMut};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recv, recvmsg, send, sendmsg, socketpair,
};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::helper::{self, Quit};

/// Tasks that one program can have: their sockets come in one message.
const TASKS_MAX: usize = 64;

/// The directory of the helpers' namespace, and of the nursery's, that the next root is mounted on: the first exists on
/// every machine, the second is of those that roots here have.
const MOUNTED_ON: [&str; 2] = ["/proc", "/a"];

/// The driver's end of one.
pub struct Nursery {
    socket: OwnedFd,
    cpu: usize,
}

/// The processors that this process may run on.
///
/// # Errors
/// Those of sched_getaffinity(2).
pub fn processors() -> Result<Vec<usize>> {
    let allowed = sched_getaffinity(None).context("cannot ask for the processors")?;
    Ok((0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).collect())
}

fn stay_on(cpu: usize) -> Result<()> {
    let mut one = CpuSet::new();
    one.set(cpu);
    sched_setaffinity(None, &one).context("cannot stay on one processor")
}

impl Nursery {
    /// One on the first processor that this process may use.
    ///
    /// Context and errors: as [`Nursery::new`].
    pub fn on_first() -> Result<Self> {
        Self::new(*processors()?.first().context("there is no processor to run on")?)
    }

    /// Forks one that stays on processor `cpu`.
    ///
    /// Context: this process has one thread.
    ///
    /// # Errors
    /// The machine cannot make a process or a namespace.
    pub fn new(cpu: usize) -> Result<Self> {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .context("cannot make sockets")?;
        if helper::clone(0).context("cannot fork")? == 0 {
            let _quit = Quit;
            match helper::keep_only(&[theirs.as_fd()])
                .and_then(|()| helper::open_proc())
                .and_then(|()| stay_on(cpu))
                .and_then(|()| helper::set_up(MOUNTED_ON[0]))
            {
                Ok(()) => serve(),
                Err(error) => eprintln!("nursery: {error:#}"),
            }
            drop(_quit);
            unreachable!("the process ended");
        }
        drop(theirs);
        let nursery = Nursery { socket: ours, cpu };
        nursery.answer().context("the nursery could not make its namespace")?;
        Ok(nursery)
    }

    /// Lets the calling thread run where the helpers do: they take turns.
    ///
    /// # Errors
    /// Those of sched_setaffinity(2).
    pub fn stay(&self) -> Result<()> {
        stay_on(self.cpu)
    }

    /// Starts the process of task 0. It serves the first of `sockets`, its descendants the others. Returns its pid.
    pub(super) fn start(&self, sockets: &[OwnedFd]) -> Result<i32> {
        ensure!(sockets.len() <= TASKS_MAX, "{TASKS_MAX} tasks at most");
        let sockets: Vec<BorrowedFd<'_>> = sockets.iter().map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(TASKS_MAX))];
        let mut rights = SendAncillaryBuffer::new(&mut space);
        ensure!(rights.push(SendAncillaryMessage::ScmRights(&sockets)), "the message is too short");
        sendmsg(&self.socket, &[IoSlice::new(&[0])], &mut rights, SendFlags::NOSIGNAL)
            .context("the nursery is gone")?;
        match self.answer()? {
            pid if pid > 0 => Ok(pid),
            error => Err(rustix::io::Errno::from_raw_os_error(-error)).context("cannot fork"),
        }
    }

    fn answer(&self) -> Result<i32> {
        let mut answer = [0; 4];
        let (len, _) = recv(&self.socket, &mut answer[..], RecvFlags::empty()).context("no answer")?;
        ensure!(len == answer.len(), "the nursery is gone");
        Ok(i32::from_le_bytes(answer))
    }
}

/// What a nursery does, until the driver is gone: a child for each message.
fn serve() {
    // SAFETY: open since `keep_only`, as long as this process lives.
    let socket = unsafe { BorrowedFd::borrow_raw(helper::SOCKETS) };
    let answer = |number: i32| send(socket, &number.to_le_bytes(), SendFlags::NOSIGNAL).is_ok();
    let mut alive = answer(0);
    while alive {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(TASKS_MAX))];
        let mut rights = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        match recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut rights, RecvFlags::empty()) {
            Ok(message) if message.bytes != 0 => {}
            _ => return,
        }
        let sockets: Vec<OwnedFd> = rights
            .drain()
            .filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(sockets) => Some(sockets),
                _ => None,
            })
            .flatten()
            .collect();
        match helper::clone(0) {
            Ok(0) => {
                let _quit = Quit;
                let sockets: Vec<BorrowedFd<'_>> = sockets.iter().map(AsFd::as_fd).collect();
                helper::run(&sockets, MOUNTED_ON[1]);
                return;
            }
            Ok(pid) => alive = answer(pid),
            Err(error) => alive = answer(-error.raw_os_error()),
        }
    }
}
