//! Sending and receiving.

use alloc::sync::Arc;
use alloc::vec::Vec;

use linux_raw_sys::general as abi;
use linux_raw_sys::net;
use syscalls::Errno;

use super::address::{self, Address};
use super::end::{End, Packet, Sender};
use super::flight::Cargo;
use super::{DATAGRAMS_MAX, Kind, Socket, Stage};
use crate::arch::clock;
use crate::fs::copy::{Sink, Source};
use crate::fs::file::OpenFile;
use crate::sched::wait::Wait;
use crate::task;
use crate::task::signal::{self, Info};

/// The largest part that a stream is cut into.
const PART: usize = 32 << 10;

/// Messages that wait at one end: empty ones cost memory too.
const PACKETS_MAX: usize = 4096;

/// What goes with the bytes.
#[derive(Default)]
pub(in crate::ipc) struct Sent {
    /// Where to, unless the socket is connected.
    pub(in crate::ipc) to: Option<Address>,
    pub(in crate::ipc) files: Vec<Arc<OpenFile>>,
    /// Who the sender says it is; it may.
    pub(in crate::ipc) sender: Option<Sender>,
}

/// What came.
#[derive(Default)]
pub(in crate::ipc) struct Received {
    pub(in crate::ipc) count: usize,
    /// How long the message was.
    pub(in crate::ipc) whole: usize,
    pub(in crate::ipc) from: Option<Arc<Address>>,
    pub(in crate::ipc) files: Vec<Arc<OpenFile>>,
    pub(in crate::ipc) sender: Option<Sender>,
}

/// How a call waits.
#[derive(Clone, Copy)]
struct Patience {
    nonblocking: bool,
    deadline: Option<u64>,
}

impl Patience {
    fn new(flags: u32, timeout: Option<u64>) -> Self {
        let deadline = timeout.map(|ns| clock::now_ns().saturating_add(ns));
        Patience { nonblocking: flags & net::MSG_DONTWAIT != 0, deadline }
    }

    /// Waits as long as the call may.
    fn wait<T>(
        self,
        list: &crate::sched::wait::WaitList,
        mut ready: impl FnMut() -> Option<T>,
    ) -> Result<T, Errno> {
        if self.nonblocking {
            return ready().ok_or(Errno::EAGAIN);
        }
        match list.wait(Wait::INTERRUPTIBLE.until(self.deadline), ready) {
            Err(Errno::ETIMEDOUT) => Err(Errno::EAGAIN),
            // How long it has waited would be forgotten.
            Err(error) if error == signal::ERESTARTSYS && self.deadline.is_some() => Err(Errno::EINTR),
            other => other,
        }
    }
}

/// A buffer with the next `len` bytes of `from`.
fn take(from: &mut Source<'_>, len: usize) -> Result<Arc<Vec<u8>>, Errno> {
    let mut data = Vec::new();
    data.try_reserve_exact(len).map_err(|_| Errno::ENOBUFS)?;
    data.resize(len, 0);
    let taken = from.take(&mut data)?;
    data.truncate(taken);
    mnt_table::memory::arc(data).map_err(|_| Errno::ENOBUFS)
}

impl Socket {
    /// sendmsg(2)
    ///
    /// # Errors
    /// `EPIPE`, with `SIGPIPE` unless `flags` say otherwise; `ENOTCONN`, `EISCONN`, `EOPNOTSUPP`, `EMSGSIZE`, `EAGAIN`, `ECONNRESET`,
    /// `ECONNREFUSED`, `EFAULT`, `ENOBUFS`, `ERESTARTSYS`; those of finding a name.
    pub(in crate::ipc) fn send(&self, from: &mut Source<'_>, flags: u32, sent: Sent) -> Result<usize, Errno> {
        if flags & net::MSG_OOB != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        if let Some(error) = self.take_error() {
            return Err(error);
        }
        let result = match self.kind {
            Kind::Stream => self.send_stream(from, flags, sent),
            Kind::Sequence => self.send_sequence(from, flags, sent),
            Kind::Datagram => self.send_datagram(from, flags, sent),
        };
        if result == Err(Errno::EPIPE) && flags & net::MSG_NOSIGNAL == 0 && self.kind != Kind::Datagram {
            signal::send_to_thread(&task::current(), Info::kernel(abi::SIGPIPE));
        }
        result
    }

    fn packet(&self, data: Arc<Vec<u8>>, cargo: Cargo, sender: Sender) -> Packet {
        Packet { data, offset: 0, cargo, sender, from: self.end.address() }
    }

    /// The peer of a socket that has to be connected.
    fn connected(&self, to: Option<&Address>) -> Result<Arc<End>, Errno> {
        let state = self.state.lock();
        match (state.stage, to) {
            (Stage::Connected, Some(_)) if self.kind == Kind::Stream => Err(Errno::EISCONN),
            (_, Some(_)) if self.kind == Kind::Stream => Err(Errno::EOPNOTSUPP),
            (Stage::Connected, _) if state.write_shut => Err(Errno::EPIPE),
            (Stage::Connected, _) => state.peer.clone().ok_or(Errno::ENOTCONN),
            _ => Err(Errno::ENOTCONN),
        }
    }

    fn send_stream(&self, from: &mut Source<'_>, flags: u32, sent: Sent) -> Result<usize, Errno> {
        let peer = self.connected(sent.to.as_ref())?;
        let options = self.options();
        let patience = Patience::new(flags, options.send_timeout);
        let sender = sent.sender.unwrap_or_else(Sender::current);
        let mut cargo = Some(Cargo::new(sent.files)?);
        let mut done = 0;
        while from.left() != 0 {
            let room = || {
                let queue = peer.queue.lock();
                if queue.closed {
                    return Some(Err(Errno::EPIPE));
                }
                (queue.bytes < options.send_buffer && queue.packets.len() < PACKETS_MAX).then_some(Ok(()))
            };
            let part = patience.wait(&peer.writable, room).and_then(|room| room);
            let part = part.and_then(|()| take(from, from.left().min(PART)));
            let data = match part {
                Ok(data) => data,
                Err(_) if done != 0 => break,
                Err(error) => return Err(error),
            };
            let count = data.len();
            match peer.push(self.packet(data, cargo.take().unwrap_or_default(), sender.clone())) {
                Ok(()) => done += count,
                Err(_) if done != 0 => break,
                Err((error, _packet)) => return Err(error),
            }
        }
        Ok(done)
    }

    fn send_sequence(&self, from: &mut Source<'_>, flags: u32, sent: Sent) -> Result<usize, Errno> {
        let peer = self.connected(None)?;
        let options = self.options();
        if from.left() > options.send_buffer {
            return Err(Errno::EMSGSIZE);
        }
        let cargo = Cargo::new(sent.files)?;
        let sender = sent.sender.unwrap_or_else(Sender::current);
        let data = take(from, from.left())?;
        let count = data.len();
        let room = || {
            let queue = peer.queue.lock();
            if queue.closed {
                return Some(Err(Errno::EPIPE));
            }
            (queue.bytes < options.send_buffer && queue.packets.len() < PACKETS_MAX).then_some(Ok(()))
        };
        Patience::new(flags, options.send_timeout).wait(&peer.writable, room)??;
        peer.push(self.packet(data, cargo, sender)).map_err(|(error, _packet)| error)?;
        Ok(count)
    }

    fn send_datagram(&self, from: &mut Source<'_>, flags: u32, sent: Sent) -> Result<usize, Errno> {
        let options = self.options();
        if from.left() > options.send_buffer {
            return Err(Errno::EMSGSIZE);
        }
        let peer = match &sent.to {
            Some(name) => {
                let other = address::find(name, self.kind, self.space)?;
                self.may_send_to(&other)?;
                Arc::clone(&other.end)
            }
            None => self.peer().ok_or(Errno::ENOTCONN)?,
        };
        if self.state.lock().write_shut {
            return Err(Errno::EPIPE);
        }
        let cargo = Cargo::new(sent.files)?;
        let sender = sent.sender.unwrap_or_else(Sender::current);
        let data = take(from, from.left())?;
        let count = data.len();
        let room = || {
            let queue = peer.queue.lock();
            if queue.gone {
                return Some(Err(Errno::ECONNREFUSED));
            }
            if queue.closed {
                return Some(Err(Errno::EPIPE));
            }
            let many = queue.peer != self.end.id && queue.packets.len() >= DATAGRAMS_MAX;
            let full = many || queue.bytes >= options.send_buffer || queue.packets.len() >= PACKETS_MAX;
            (!full).then_some(Ok(()))
        };
        let room = Patience::new(flags, options.send_timeout).wait(&peer.writable, room)?;
        if room == Err(Errno::ECONNREFUSED) && sent.to.is_none() {
            let old = self.state.lock().peer.take();
            drop(old);
        }
        room?;
        peer.push(self.packet(data, cargo, sender)).map_err(|(error, _packet)| error)?;
        Ok(count)
    }

    /// recvmsg(2)
    ///
    /// # Errors
    /// `EINVAL`: a listener, or it never was connected. `ENOTCONN`, `EOPNOTSUPP`, `EAGAIN`, `ECONNRESET`, `EFAULT`, `ENOMEM`,
    /// `ERESTARTSYS`.
    pub(in crate::ipc) fn receive(&self, to: &mut Sink<'_>, flags: u32) -> Result<Received, Errno> {
        if flags & net::MSG_OOB != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        if self.kind != Kind::Datagram && self.state.lock().stage != Stage::Connected {
            return Err(if self.kind == Kind::Stream { Errno::EINVAL } else { Errno::ENOTCONN });
        }
        let patience = Patience::new(flags, self.options().receive_timeout);
        if self.kind == Kind::Stream {
            self.receive_stream(to, flags, patience)
        } else {
            self.receive_message(to, flags, patience)
        }
    }

    /// Waits until packet `index` is there, or the end; `false`: the end.
    /// `tell`: an error that waits is told, and is over then.
    fn wait_for_packet(&self, index: usize, patience: Patience, tell: bool) -> Result<bool, Errno> {
        let ready = || {
            let mut queue = self.end.queue.lock();
            if queue.packets.len() > index {
                Some(Ok(true))
            } else if tell && core::mem::take(&mut queue.reset) {
                Some(Err(Errno::ECONNRESET))
            } else {
                queue.finished.then_some(Ok(false))
            }
        };
        if let Some(error) = self.take_error().filter(|_| tell) {
            return Err(error);
        }
        patience.wait(&self.end.readable, ready)?
    }

    fn receive_message(&self, to: &mut Sink<'_>, flags: u32, patience: Patience) -> Result<Received, Errno> {
        let peek = flags & net::MSG_PEEK != 0;
        loop {
            if !self.wait_for_packet(0, patience, true)? {
                return Ok(Received::default());
            }
            let _reading = self.reading.lock();
            let front = {
                let queue = self.end.queue.lock();
                queue
                    .packets
                    .front()
                    .map(|packet| (Arc::clone(&packet.data), packet.sender.clone(), packet.from.clone()))
            };
            // Somebody else was faster.
            let Some((data, sender, from)) = front else { continue };
            let whole = data.len();
            let mut received = Received { whole, from, sender: Some(sender), ..Received::default() };
            received.count = if to.left() == 0 { 0 } else { to.put(&data)? };
            if peek {
                received.files = self.peek_files(0)?;
            } else {
                let packet = {
                    let mut queue = self.end.queue.lock();
                    queue.bytes -= whole;
                    queue.packets.pop_front()
                };
                received.files = packet.map(|packet| packet.cargo.land()).unwrap_or_default();
                self.end.writable.wake();
            }
            return Ok(received);
        }
    }

    fn receive_stream(&self, to: &mut Sink<'_>, flags: u32, patience: Patience) -> Result<Received, Errno> {
        let peek = flags & net::MSG_PEEK != 0;
        let all = flags & net::MSG_WAITALL != 0;
        let by_sender = self.options().pass_credentials;
        let mut received = Received::default();
        // The packet at hand, which moves on only if packets stay.
        let mut index = 0;
        while to.left() != 0 {
            // With something at hand, an error waits for the next call.
            if received.count != 0 && (peek || !all) && self.end.queue.lock().packets.len() <= index {
                break;
            }
            match self.wait_for_packet(index, patience, received.count == 0) {
                Ok(true) => {}
                Ok(false) => break,
                Err(_) if received.count != 0 => break,
                Err(error) => return Err(error),
            }
            let _reading = self.reading.lock();
            let front = {
                let queue = self.end.queue.lock();
                queue.packets.get(index).map(|packet| {
                    (
                        Arc::clone(&packet.data),
                        packet.offset,
                        packet.sender.clone(),
                        packet.from.clone(),
                        packet.cargo.is_empty(),
                    )
                })
            };
            let Some((data, offset, sender, from, no_files)) = front else { continue };
            if received.count != 0
                && by_sender
                && received.sender.as_ref().is_some_and(|first| !first.is(&sender))
            {
                break;
            }
            // Files begin a new read, so that who sent them is plain.
            if received.count != 0 && !no_files {
                break;
            }
            let count = match to.put(&data[offset..]) {
                Ok(count) => count,
                Err(_) if received.count != 0 => break,
                Err(error) => return Err(error),
            };
            received.count += count;
            received.sender.get_or_insert(sender);
            if received.from.is_none() {
                received.from = from;
            }
            let complete = offset + count == data.len();
            if peek {
                if !no_files {
                    received.files = self.peek_files(index)?;
                    break;
                }
                index += 1;
            } else {
                let (packet, cargo) = {
                    let mut queue = self.end.queue.lock();
                    queue.bytes -= count;
                    let cargo = queue.packets.front_mut().map(|packet| {
                        packet.offset += count;
                        core::mem::take(&mut packet.cargo)
                    });
                    (if complete { queue.packets.pop_front() } else { None }, cargo)
                };
                drop(packet);
                self.end.writable.wake();
                if !no_files {
                    received.files = cargo.map(Cargo::land).unwrap_or_default();
                    break;
                }
            }
            if !complete {
                break;
            }
        }
        received.whole = received.count;
        Ok(received)
    }

    /// The files of packet `index`, which stay in flight.
    fn peek_files(&self, index: usize) -> Result<Vec<Arc<OpenFile>>, Errno> {
        let mut files = Vec::new();
        // As many as one message can have.
        files.try_reserve_exact(super::super::control::FILES_MAX).map_err(|_| Errno::ENOMEM)?;
        let queue = self.end.queue.lock();
        if let Some(packet) = queue.packets.get(index) {
            files.extend(packet.cargo.files().iter().cloned());
        }
        Ok(files)
    }
}
