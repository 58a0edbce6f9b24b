//! Sockets of the family `AF_UNIX`.
//!
//! | file | what |
//! |---|---|
//! | this one | a socket: its kind, its stage, poll and close |
//! | [`end`] | what arrives at one end of a connection |
//! | [`connect`] | pairs, bind, listen, connect, accept, shutdown |
//! | [`transfer`] | sending and receiving |
//! | [`address`] | names |
//! | [`flight`] | files in flight, and sockets that only they keep |
//!
//! 1. Every socket has an end for what arrives, which lasts as long as somebody has it. A connection is two sockets that
//!    have each other's ends.
//! 2. Whoever sends puts a packet into the receiver's queue, as long as there are fewer bytes in it than the sender may
//!    have under way; so a queue holds no more than that and one packet.
//! 3. A stream's or a sequence's connection is made whole by connect(2): the server's socket waits in the listener's
//!    backlog until it is accepted.
//!
//! # Lock order
//! `reading` (sleeping) → `state` of one socket → `flight` → a queue. Sockets, packets and files are dropped under none of
//! the spinning ones, and lists of waiters woken under none.
//!
//! # Left out
//! Out-of-band data: `MSG_OOB` is `EOPNOTSUPP`, as on Linux without `CONFIG_AF_UNIX_OOB`.
//!
//! Source: unix(7).

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use core::task::Waker;

use linux_raw_sys::{general as abi, ioctl, net};
use mnt_table::sync::BlockingMutex;
use syscalls::Errno;

use self::address::Bound;
use self::end::{End, Packet, Sender};
use crate::arch::spin::SpinLock;
use crate::fs::copy::{Sink, Source};
use crate::fs::file::{FileOps, OpenFile};
use crate::mm::user;
use crate::sched::wait::WaitList;

pub(super) mod address;
mod connect;
pub(super) mod end;
pub(super) mod flight;
mod transfer;

pub(super) use transfer::{Received, Sent};

/// Bytes that a sender may have under way, unless it says otherwise (`/proc/sys/net/core/wmem_default`).
const SEND_BUFFER: usize = 212_992;
/// The most that it can say (`wmem_max`, doubled),
const SEND_BUFFER_MAX: usize = 425_984;
/// and the least.
const SEND_BUFFER_MIN: usize = 4608;
/// Messages that wait for one socket which many send to (`/proc/sys/net/unix/max_dgram_qlen`, and one).
const DATAGRAMS_MAX: usize = 11;

/// What kind of socket it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// `SOCK_STREAM`
    Stream,
    /// `SOCK_DGRAM`
    Datagram,
    /// `SOCK_SEQPACKET`
    Sequence,
}

/// A socket.
pub(crate) struct Socket {
    kind: Kind,
    /// The network namespace, for abstract names.
    space: u64,
    end: Arc<End>,
    state: SpinLock<State>,
    /// A connection arrived, one was accepted, or the socket's stage changed.
    arrivals: WaitList,
    /// Held by whoever reads.
    reading: BlockingMutex<()>,
}

struct State {
    stage: Stage,
    peer: Option<Arc<End>>,
    /// Who is on the other side (`SO_PEERCRED`).
    peer_sender: Option<Sender>,
    bound: Option<Bound>,
    /// Connections that were not accepted yet, and how many there may be.
    backlog: VecDeque<Arc<Socket>>,
    backlog_max: usize,
    /// What the next call is told (`SO_ERROR`).
    error: Option<Errno>,
    /// shutdown(2) for writing.
    write_shut: bool,
    options: Options,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Fresh,
    /// With who listens.
    Listening,
    Connected,
}

/// What setsockopt(2) sets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Options {
    /// Receivers get the sender of everything (`SO_PASSCRED`).
    pub(super) pass_credentials: bool,
    pub(super) send_buffer: usize,
    pub(super) receive_buffer: usize,
    /// How long calls wait, in nanoseconds.
    pub(super) send_timeout: Option<u64>,
    pub(super) receive_timeout: Option<u64>,
    pub(super) reuse_address: bool,
    pub(super) keep_alive: bool,
}

impl Socket {
    /// A new one.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(super) fn new(kind: Kind, space: u64) -> Result<Arc<Self>, Errno> {
        let state = State {
            stage: Stage::Fresh,
            peer: None,
            peer_sender: None,
            bound: None,
            backlog: VecDeque::new(),
            backlog_max: 0,
            error: None,
            write_shut: false,
            options: Options {
                pass_credentials: false,
                send_buffer: SEND_BUFFER,
                receive_buffer: SEND_BUFFER,
                send_timeout: None,
                receive_timeout: None,
                reuse_address: false,
                keep_alive: false,
            },
        };
        let socket = Socket {
            kind,
            space,
            end: End::new()?,
            state: SpinLock::new(state),
            arrivals: WaitList::new(),
            reading: BlockingMutex::new(()),
        };
        mnt_table::memory::arc(socket).map_err(|_| Errno::ENOMEM)
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    pub(super) fn is_listening(&self) -> bool {
        self.state.lock().stage == Stage::Listening
    }

    pub(super) fn options(&self) -> Options {
        self.state.lock().options
    }

    pub(super) fn set_options(&self, set: impl FnOnce(&mut Options)) {
        let mut state = self.state.lock();
        set(&mut state.options);
        let options = &mut state.options;
        options.send_buffer = options.send_buffer.clamp(SEND_BUFFER_MIN, SEND_BUFFER_MAX);
        options.receive_buffer = options.receive_buffer.clamp(SEND_BUFFER_MIN, SEND_BUFFER_MAX);
    }

    /// The error that waits, which is told once.
    pub(super) fn take_error(&self) -> Option<Errno> {
        self.state.lock().error.take()
    }

    /// Who is on the other side; `None`: nobody ever was.
    pub(super) fn peer_sender(&self) -> Option<Sender> {
        self.state.lock().peer_sender.clone()
    }

    fn peer(&self) -> Option<Arc<End>> {
        self.state.lock().peer.clone()
    }

    /// Takes out all that arrived.
    fn empty(&self) -> (VecDeque<Packet>, VecDeque<Arc<Socket>>) {
        let packets = self.end.empty();
        let backlog = core::mem::take(&mut self.state.lock().backlog);
        (packets, backlog)
    }

    /// Calls `found` with every file that is in its queue, or in that of a socket of its backlog.
    ///
    /// Context: under the lock of `flight`.
    fn queued_files(&self, found: &mut dyn FnMut(&Arc<OpenFile>) -> Result<(), Errno>) -> Result<(), Errno> {
        let state = self.state.lock();
        let backlog = state.backlog.iter().map(|socket| &socket.end);
        for end in backlog.chain([&self.end]) {
            for packet in &end.queue.lock().packets {
                packet.cargo.files().iter().try_for_each(&mut *found)?;
            }
        }
        Ok(())
    }

    /// The socket's last descriptor was closed, or it was in a backlog that ended.
    fn close(&self) {
        let (peer, bound) = {
            let mut state = self.state.lock();
            state.stage = Stage::Fresh;
            (state.peer.take(), state.bound.take())
        };
        drop(bound);
        self.end.change(|queue| (queue.closed, queue.finished, queue.gone) = (true, true, true));
        let (packets, backlog) = self.empty();
        if let Some(peer) = peer
            && self.kind != Kind::Datagram
        {
            let unread = !packets.is_empty();
            peer.change(|queue| {
                queue.finished = true;
                queue.closed = true;
                queue.reset |= unread;
            });
        }
        backlog.iter().for_each(|socket| {
            // Whoever connected is told as of any other socket that is closed before it has read everything.
            socket.state.lock().peer.iter().for_each(|peer| peer.queue.lock().reset = true);
            socket.close();
        });
        self.arrivals.wake();
        drop((packets, backlog));
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // One that never got a descriptor, or that a backlog dropped, is not told of its end.
        if !self.end.queue.lock().gone {
            self.close();
        }
    }
}

impl FileOps for Socket {
    fn read(&self, file: &OpenFile, to: &mut Sink<'_>, _at: u64) -> Result<usize, Errno> {
        let flags = if file.is_nonblocking() { net::MSG_DONTWAIT } else { 0 };
        self.receive(to, flags).map(|received| received.count)
    }

    fn write(&self, file: &OpenFile, from: &mut Source<'_>, at: u64) -> Result<(usize, u64), Errno> {
        let flags = if file.is_nonblocking() { net::MSG_DONTWAIT } else { 0 };
        self.send(from, flags, Sent::default()).map(|count| (count, at))
    }

    fn poll(&self, _file: &OpenFile, waker: Option<&Waker>) -> Result<u32, Errno> {
        let peer = self.peer();
        if let Some(waker) = waker {
            self.end.readable.watch(waker)?;
            self.end.writable.watch(waker)?;
            self.arrivals.watch(waker)?;
            if let Some(peer) = &peer {
                peer.writable.watch(waker)?;
            }
        }
        let (readable, writable) = (abi::POLLIN | abi::POLLRDNORM, abi::POLLOUT | abi::POLLWRNORM);
        let mut there = 0;
        let (stage, shut, room, error) = {
            let state = self.state.lock();
            if !state.backlog.is_empty() {
                there |= readable;
            }
            (state.stage, state.write_shut, state.options.send_buffer, state.error.is_some())
        };
        if stage == Stage::Listening {
            return Ok(there);
        }
        let ended = {
            let queue = self.end.queue.lock();
            if !queue.packets.is_empty() || queue.finished {
                there |= readable;
            }
            if queue.finished {
                there |= abi::POLLRDHUP;
            }
            if queue.reset || error {
                there |= abi::POLLERR;
            }
            queue.finished
        };
        let fresh = self.kind != Kind::Datagram && stage == Stage::Fresh;
        if fresh || (ended && (shut || peer.as_ref().is_none_or(|peer| peer.queue.lock().closed))) {
            there |= abi::POLLHUP;
        }
        let full = |peer: &Arc<End>| {
            let queue = peer.queue.lock();
            let many = self.kind == Kind::Datagram
                && queue.peer != self.end.id
                && queue.packets.len() >= DATAGRAMS_MAX;
            !queue.closed && (many || queue.bytes >= room)
        };
        if !peer.as_ref().is_some_and(full) {
            there |= writable | abi::POLLWRBAND;
        }
        Ok(there)
    }

    fn unwatch(&self, _file: &OpenFile, waker: &Waker) {
        self.end.readable.unwatch(waker);
        self.end.writable.unwatch(waker);
        self.arrivals.unwatch(waker);
        if let Some(peer) = self.peer() {
            peer.writable.unwatch(waker);
        }
    }

    fn ioctl(&self, _file: &Arc<OpenFile>, request: u32, arg: usize) -> Result<usize, Errno> {
        let count = match request {
            ioctl::FIONREAD if self.is_listening() => return Err(Errno::EINVAL),
            // Of messages, the next one's.
            ioctl::FIONREAD => {
                let queue = self.end.queue.lock();
                match self.kind {
                    Kind::Stream => queue.bytes,
                    _ => queue.packets.front().map_or(0, |packet| packet.data.len()),
                }
            }
            ioctl::TIOCOUTQ => self.peer().map_or(0, |peer| peer.queue.lock().bytes),
            _ => return Err(Errno::ENOTTY),
        };
        user::put(arg, count as u32).map(|()| 0)
    }

    fn release(&self, _file: &OpenFile) {
        self.close();
        if flight::is_busy() {
            flight::collect();
        }
    }
}
