//! How sockets come to have names and peers, and lose them.

use alloc::sync::Arc;

use linux_raw_sys::net;
use syscalls::Errno;

use super::address::{self, Address, Named};
use super::end::{End, Sender};
use super::{Kind, Socket, Stage};
use crate::arch::clock;
use crate::sched::wait::Wait;
use crate::task;

/// The longest backlog (`/proc/sys/net/core/somaxconn`).
const BACKLOG_MAX: usize = 4096;

impl Sender {
    /// The calling task.
    pub(in crate::ipc) fn current() -> Sender {
        let thread = task::current();
        let credentials = thread.credentials();
        Sender { pid: Arc::clone(thread.process().identity()), uid: credentials.euid, gid: credentials.egid }
    }
}

impl Socket {
    /// socketpair(2)
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(in crate::ipc) fn pair(kind: Kind, space: u64) -> Result<[Arc<Socket>; 2], Errno> {
        let pair = [Socket::new(kind, space)?, Socket::new(kind, space)?];
        let sender = Sender::current();
        for (own, other) in [(0, 1), (1, 0)] {
            pair[own].join(&pair[other].end, &sender);
        }
        Ok(pair)
    }

    /// Makes `peer` its peer.
    fn join(&self, peer: &Arc<End>, sender: &Sender) {
        self.end.queue.lock().peer = peer.id;
        let mut state = self.state.lock();
        state.stage = Stage::Connected;
        state.peer = Some(Arc::clone(peer));
        state.peer_sender = Some(sender.clone());
    }

    /// bind(2)
    ///
    /// # Errors
    /// `EINVAL`: no name, or it has one. Those of [`address::bind`].
    pub(in crate::ipc) fn bind(self: &Arc<Self>, name: Named) -> Result<(), Errno> {
        if self.state.lock().bound.is_some() {
            return match name {
                Named::None => Ok(()),
                // That the name is taken is noticed first.
                Named::Socket(Address::Path(path))
                    if crate::fs::find_socket(&path).err() != Some(Errno::ENOENT) =>
                {
                    Err(Errno::EADDRINUSE)
                }
                _ => Err(Errno::EINVAL),
            };
        }
        let bound = match name {
            Named::None => address::bind_any(self, self.space)?,
            Named::Socket(address) => address::bind(self, address, self.space)?,
            Named::Unspecified => return Err(Errno::EINVAL),
        };
        let mut state = self.state.lock();
        if state.bound.is_some() {
            // Somebody was faster.
            drop(state);
            drop(bound);
            return Err(Errno::EINVAL);
        }
        self.end.set_address(Arc::clone(&bound.address));
        state.bound = Some(bound);
        Ok(())
    }

    /// getsockname(2)
    pub(in crate::ipc) fn name(&self) -> Option<Arc<Address>> {
        self.end.address()
    }

    /// getpeername(2)
    ///
    /// # Errors
    /// `ENOTCONN`.
    pub(in crate::ipc) fn peer_name(&self) -> Result<Option<Arc<Address>>, Errno> {
        self.peer().map(|peer| peer.address()).ok_or(Errno::ENOTCONN)
    }

    /// listen(2)
    ///
    /// # Errors
    /// `EOPNOTSUPP`: datagrams. `EINVAL`: it has no name, or is connected.
    pub(in crate::ipc) fn listen(&self, backlog: u32) -> Result<(), Errno> {
        if self.kind == Kind::Datagram {
            return Err(Errno::EOPNOTSUPP);
        }
        let mut state = self.state.lock();
        if state.bound.is_none() || state.stage == Stage::Connected {
            return Err(Errno::EINVAL);
        }
        state.stage = Stage::Listening;
        state.backlog_max = (backlog as usize).min(BACKLOG_MAX);
        state.peer_sender = Some(Sender::current());
        drop(state);
        self.arrivals.wake();
        Ok(())
    }

    /// connect(2)
    ///
    /// # Errors
    /// `EINVAL`: no name. `ECONNREFUSED`, `EPROTOTYPE`: nobody listens there, or not for this kind. `EISCONN`. `EAGAIN`: the
    /// backlog is full, and the caller does not wait. `EPERM`: the other one is connected to somebody else. `ENOMEM`;
    /// `ERESTARTSYS`.
    pub(in crate::ipc) fn connect(self: &Arc<Self>, name: Named, nonblocking: bool) -> Result<(), Errno> {
        match (self.kind, name) {
            (Kind::Datagram, Named::Unspecified) => {
                self.end.queue.lock().peer = 0;
                let old = self.state.lock().peer.take();
                self.end.writable.wake();
                drop(old);
                Ok(())
            }
            (Kind::Datagram, Named::Socket(name)) => {
                let other = address::find(&name, self.kind, self.space)?;
                self.may_send_to(&other)?;
                self.join(&other.end, &Sender::current());
                self.end.writable.wake();
                Ok(())
            }
            (_, Named::Socket(name)) => self.connect_stream(&name, nonblocking),
            _ => Err(Errno::EINVAL),
        }
    }

    /// # Errors
    /// `EPROTOTYPE`, `EPERM`.
    pub(super) fn may_send_to(&self, other: &Socket) -> Result<(), Errno> {
        if other.kind != self.kind {
            return Err(Errno::EPROTOTYPE);
        }
        let peer = other.end.queue.lock().peer;
        if peer != 0 && peer != self.end.id { Err(Errno::EPERM) } else { Ok(()) }
    }

    fn connect_stream(self: &Arc<Self>, name: &Address, nonblocking: bool) -> Result<(), Errno> {
        let timeout = self.options().send_timeout.filter(|_| !nonblocking);
        let deadline = timeout.map(|ns| clock::now_ns().saturating_add(ns));
        loop {
            let listener = address::find(name, self.kind, self.space)?;
            match self.state.lock().stage {
                Stage::Fresh => {}
                Stage::Connected => return Err(Errno::EISCONN),
                Stage::Listening => return Err(Errno::EINVAL),
            }
            if listener.kind != self.kind {
                return Err(Errno::EPROTOTYPE);
            }
            match self.join_backlog(&listener)? {
                true => return Ok(()),
                false if nonblocking => return Err(Errno::EAGAIN),
                false => {}
            }
            let room = || listener.has_room_or_ended().then_some(());
            match listener.arrivals.wait(Wait::INTERRUPTIBLE.until(deadline), room) {
                Err(Errno::ETIMEDOUT) => return Err(Errno::EAGAIN),
                other => other?,
            }
        }
    }

    fn has_room_or_ended(&self) -> bool {
        let state = self.state.lock();
        state.stage != Stage::Listening || state.backlog.len() <= state.backlog_max
    }

    /// Puts the other side of this socket's connection into the backlog; `false`: there is no room.
    fn join_backlog(self: &Arc<Self>, listener: &Arc<Socket>) -> Result<bool, Errno> {
        let server = Socket::new(self.kind, listener.space)?;
        if let Some(address) = listener.end.address() {
            server.end.set_address(address);
        }
        let sender = {
            let mut state = listener.state.lock();
            let sender = match (state.stage, &state.peer_sender) {
                (Stage::Listening, Some(sender)) => sender.clone(),
                _ => return Err(Errno::ECONNREFUSED),
            };
            if listener.end.queue.lock().closed {
                return Err(Errno::ECONNREFUSED);
            }
            if state.backlog.len() > state.backlog_max {
                return Ok(false);
            }
            state.backlog.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            sender
        };
        {
            // Only one connect of this socket gets on.
            let mut state = self.state.lock();
            if state.stage != Stage::Fresh {
                return Err(Errno::EISCONN);
            }
            state.stage = Stage::Connected;
            state.peer = Some(Arc::clone(&server.end));
            state.peer_sender = Some(sender);
        }
        self.end.queue.lock().peer = server.end.id;
        // Not before: a socket that has a peer tells it of its end.
        server.join(&self.end, &Sender::current());
        let pushed = {
            let mut state = listener.state.lock();
            let room = state.stage == Stage::Listening && state.backlog.try_reserve(1).is_ok();
            if room {
                state.backlog.push_back(Arc::clone(&server));
            }
            room
        };
        if !pushed {
            // The listener ended just now.
            let mut state = self.state.lock();
            state.stage = Stage::Fresh;
            let old = (state.peer.take(), state.peer_sender.take());
            drop(state);
            drop(old);
            server.end.change(|queue| queue.gone = true);
            return Err(Errno::ECONNREFUSED);
        }
        listener.arrivals.wake();
        self.end.writable.wake();
        Ok(true)
    }

    /// accept4(2): the next connection.
    ///
    /// # Errors
    /// `EOPNOTSUPP`: datagrams. `EINVAL`: it does not listen. `EAGAIN`, `ERESTARTSYS`.
    pub(in crate::ipc) fn accept(&self, nonblocking: bool) -> Result<Arc<Socket>, Errno> {
        if self.kind == Kind::Datagram {
            return Err(Errno::EOPNOTSUPP);
        }
        let take = || {
            let mut state = self.state.lock();
            match state.stage {
                Stage::Listening if self.end.queue.lock().closed => Some(Err(Errno::EINVAL)),
                Stage::Listening => state.backlog.pop_front().map(Ok),
                _ => Some(Err(Errno::EINVAL)),
            }
        };
        let timeout = self.options().receive_timeout;
        let deadline = timeout.map(|ns| clock::now_ns().saturating_add(ns));
        let taken = match take() {
            Some(taken) => taken,
            None if nonblocking => Err(Errno::EAGAIN),
            None => match self.arrivals.wait(Wait::INTERRUPTIBLE.until(deadline), take) {
                Ok(taken) => taken,
                Err(Errno::ETIMEDOUT) => Err(Errno::EAGAIN),
                Err(error) => Err(error),
            },
        }?;
        // Room for another one.
        self.arrivals.wake();
        Ok(taken)
    }

    /// shutdown(2)
    ///
    /// # Errors
    /// `EINVAL`: no way that there is. `ENOTCONN`.
    pub(in crate::ipc) fn shutdown(&self, how: u32) -> Result<(), Errno> {
        let (read, write) = match how {
            net::SHUT_RD => (true, false),
            net::SHUT_WR => (false, true),
            net::SHUT_RDWR => (true, true),
            _ => return Err(Errno::EINVAL),
        };
        let peer = {
            let mut state = self.state.lock();
            state.write_shut |= write;
            state.peer.clone()
        };
        if read {
            self.end.change(|queue| (queue.closed, queue.finished) = (true, true));
        }
        if let Some(peer) = peer.filter(|_| self.kind != Kind::Datagram)
            && write
        {
            peer.change(|queue| queue.finished = true);
        }
        self.end.writable.wake();
        self.arrivals.wake();
        Ok(())
    }
}
