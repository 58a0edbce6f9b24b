//! System calls on sockets. There is one family, `AF_UNIX`.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;

use linux_raw_sys::{general as abi, net};
use mnt_table::memory::Grow;
use syscalls::Errno;
use syscalls::file::OtherNamespace;

use super::control::{self, Control};
use super::unix::address::{Address, Named};
use super::unix::{Kind, Received, Sent, Socket};
use crate::arch::clock;
use crate::fs::copy::{Piece, Sink, Source};
use crate::fs::file::OpenFile;
use crate::fs::{self, anon};
use crate::mm::user;
use crate::task;

/// The longest name of any family.
const NAME_MAX: usize = 128;
/// The most pieces of one message.
const PIECES_MAX: usize = 1024;
/// Bytes of `struct mmsghdr`: a `struct msghdr`, and how long the message was.
const MMSGHDR: usize = 64;
/// The most messages of one call.
const MESSAGES_MAX: usize = 1024;
/// What can be given with a kind of socket.
const SOCK_CLOEXEC: u32 = abi::O_CLOEXEC;
const SOCK_NONBLOCK: u32 = abi::O_NONBLOCK;
const SOCK_FLAGS: u32 = SOCK_CLOEXEC | SOCK_NONBLOCK;
const SOCK_TYPE: u32 = 0xf;
/// Only the first message of recvmmsg(2) is waited for.
const MSG_WAITFORONE: u32 = 0x10000;

/// A socket and its file.
struct Open {
    file: Arc<OpenFile>,
    socket: Arc<Socket>,
}

/// # Errors
/// `EBADF`, `ENOTSOCK`.
fn open(fd: i32) -> Result<Open, Errno> {
    let file = task::current().files().get_open(fd)?;
    let ops: Arc<dyn Any + Send + Sync> = file.ops().clone();
    let socket = ops.downcast().map_err(|_| Errno::ENOTSOCK)?;
    Ok(Open { file, socket })
}

impl Open {
    /// `flags`, with what the file's own status flags say.
    fn flags(&self, flags: u32) -> u32 {
        if self.file.is_nonblocking() { flags | net::MSG_DONTWAIT } else { flags }
    }
}

/// # Errors
/// `EAFNOSUPPORT`, `EINVAL`, `ESOCKTNOSUPPORT`, `EPROTONOSUPPORT`.
fn kind(family: u32, kind: u32, protocol: u32) -> Result<(Kind, u32), Errno> {
    let flags = kind & !SOCK_TYPE;
    if flags & !SOCK_FLAGS != 0 {
        return Err(Errno::EINVAL);
    }
    if family != net::AF_UNIX {
        return Err(Errno::EAFNOSUPPORT);
    }
    let kind = match kind & SOCK_TYPE {
        net::SOCK_STREAM => Kind::Stream,
        // Raw ones are as good as datagrams.
        net::SOCK_DGRAM | net::SOCK_RAW => Kind::Datagram,
        net::SOCK_SEQPACKET => Kind::Sequence,
        0 | 7.. => return Err(Errno::EINVAL),
        _ => return Err(Errno::ESOCKTNOSUPPORT),
    };
    if protocol != 0 && protocol != net::AF_UNIX {
        return Err(Errno::EPROTONOSUPPORT);
    }
    Ok((kind, flags))
}

fn file(socket: Arc<Socket>, flags: u32) -> Result<Arc<OpenFile>, Errno> {
    anon::open(socket, anon::Kind::Socket, abi::O_RDWR | flags & SOCK_NONBLOCK)
}

/// The network namespace of the caller, for abstract names.
fn space() -> u64 {
    task::current().namespaces().net.id()
}

/// socket(2)
///
/// # Errors
/// Those of [`kind`]; `EMFILE`, `ENOMEM`.
pub(super) fn socket(family: u32, what: u32, protocol: u32) -> Result<usize, Errno> {
    let (kind, flags) = kind(family, what, protocol)?;
    fs::install(file(Socket::new(kind, space())?, flags)?, flags & SOCK_CLOEXEC != 0)
}

/// socketpair(2)
///
/// # Errors
/// As [`socket`]; `EFAULT`.
pub(super) fn socketpair(family: u32, what: u32, protocol: u32, to: usize) -> Result<usize, Errno> {
    let (kind, flags) = kind(family, what, protocol)?;
    let [first, second] = Socket::pair(kind, space())?;
    let files = [file(first, flags)?, file(second, flags)?];
    fs::install_pair(files, flags & SOCK_CLOEXEC != 0, to)
}

/// Reads a name of `len` bytes.
fn name(addr: usize, len: usize) -> Result<Named, Errno> {
    if len > NAME_MAX {
        return Err(Errno::EINVAL);
    }
    let mut bytes = [0; NAME_MAX];
    user::read(addr, &mut bytes[..len])?;
    Address::parse(&bytes[..len])
}

/// Writes a name into a buffer whose length is at `len`, where the name's whole length goes.
fn put_name(address: Option<&Address>, addr: usize, len: usize) -> Result<(), Errno> {
    let room = user::get::<i32>(len)?;
    let room = usize::try_from(room).map_err(|_| Errno::EINVAL)?;
    let bytes = Address::encode(address);
    user::write(addr, &bytes[..room.min(bytes.len())])?;
    user::put(len, bytes.len() as u32)
}

/// bind(2)
///
/// # Errors
/// `EBADF`, `ENOTSOCK`, `EFAULT`, `EINVAL`, `EADDRINUSE`, `ENOMEM`; those of making a file.
pub(super) fn bind(fd: i32, addr: usize, len: usize) -> Result<usize, Errno> {
    let open = open(fd)?;
    open.socket.bind(name(addr, len)?).map(|()| 0)
}

/// listen(2)
///
/// # Errors
/// `EBADF`, `ENOTSOCK`, `EOPNOTSUPP`, `EINVAL`.
pub(super) fn listen(fd: i32, backlog: i32) -> Result<usize, Errno> {
    open(fd)?.socket.listen(backlog as u32).map(|()| 0)
}

/// connect(2)
///
/// # Errors
/// `EBADF`, `ENOTSOCK`, `EFAULT`; those of [`Socket::connect`].
pub(super) fn connect(fd: i32, addr: usize, len: usize) -> Result<usize, Errno> {
    let open = open(fd)?;
    open.socket.connect(name(addr, len)?, open.file.is_nonblocking()).map(|()| 0)
}

/// accept4(2)
///
/// # Errors
/// `EINVAL`: unknown flags; `EBADF`, `ENOTSOCK`, `EFAULT`, `EMFILE`, `ENOMEM`; those of [`Socket::accept`].
pub(super) fn accept(fd: i32, addr: usize, len: usize, flags: u32) -> Result<usize, Errno> {
    if flags & !SOCK_FLAGS != 0 {
        return Err(Errno::EINVAL);
    }
    let open = open(fd)?;
    let accepted = open.socket.accept(open.file.is_nonblocking())?;
    let peer = accepted.peer_name().ok().flatten();
    let file = file(accepted, flags)?;
    if addr != 0 {
        put_name(peer.as_deref(), addr, len)?;
    }
    fs::install(file, flags & SOCK_CLOEXEC != 0)
}

/// shutdown(2)
///
/// # Errors
/// `EBADF`, `ENOTSOCK`, `EINVAL`, `ENOTCONN`.
pub(super) fn shutdown(fd: i32, how: u32) -> Result<usize, Errno> {
    open(fd)?.socket.shutdown(how).map(|()| 0)
}

/// getsockname(2)
///
/// # Errors
/// `EBADF`, `ENOTSOCK`, `EFAULT`, `EINVAL`.
pub(super) fn getsockname(fd: i32, addr: usize, len: usize) -> Result<usize, Errno> {
    put_name(open(fd)?.socket.name().as_deref(), addr, len).map(|()| 0)
}

/// getpeername(2)
///
/// # Errors
/// As [`getsockname`]; `ENOTCONN`.
pub(super) fn getpeername(fd: i32, addr: usize, len: usize) -> Result<usize, Errno> {
    put_name(open(fd)?.socket.peer_name()?.as_deref(), addr, len).map(|()| 0)
}

fn limit(len: usize) -> usize {
    len.min(isize::MAX as usize & !0xfff)
}

/// The name that a message is sent to.
fn destination(addr: usize, len: usize) -> Result<Option<Address>, Errno> {
    if addr == 0 || len == 0 {
        return Ok(None);
    }
    match name(addr, len)? {
        Named::Socket(address) => Ok(Some(address)),
        _ => Err(Errno::EINVAL),
    }
}

/// sendto(2)
///
/// # Errors
/// `EBADF`, `ENOTSOCK`, `EFAULT`; those of [`Socket::send`].
pub(super) fn sendto(
    fd: i32,
    (addr, len): (usize, usize),
    flags: u32,
    (to, to_len): (usize, usize),
) -> Result<usize, Errno> {
    let open = open(fd)?;
    let sent = Sent { to: destination(to, to_len)?, ..Sent::default() };
    let pieces = [Piece { addr, len: limit(len) }];
    open.socket.send(&mut Source::user(&pieces), open.flags(flags), sent)
}

/// recvfrom(2)
///
/// # Errors
/// `EBADF`, `ENOTSOCK`, `EFAULT`; those of [`Socket::receive`].
pub(super) fn recvfrom(
    fd: i32,
    (addr, len): (usize, usize),
    flags: u32,
    (from, from_len): (usize, usize),
) -> Result<usize, Errno> {
    let open = open(fd)?;
    let pieces = [Piece { addr, len: limit(len) }];
    let received = open.socket.receive(&mut Sink::user(&pieces), open.flags(flags))?;
    match &received.from {
        Some(name) if from != 0 => put_name(Some(name), from, from_len)?,
        None if from != 0 => user::put(from_len, 0_u32)?,
        _ => {}
    }
    Ok(told(&open, &received, flags))
}

/// What a receiver is told that it got.
fn told(open: &Open, received: &Received, flags: u32) -> usize {
    let whole = flags & net::MSG_TRUNC != 0 && open.socket.kind() != Kind::Stream;
    if whole { received.whole } else { received.count }
}

/// `struct msghdr`
struct Header {
    name: usize,
    name_len: usize,
    pieces: Vec<Piece>,
    control: usize,
    control_len: usize,
}

/// Where things are in it.
const NAME_LEN: usize = 8;
const CONTROL_LEN: usize = 40;
const FLAGS: usize = 48;

fn header(addr: usize) -> Result<Header, Errno> {
    let [name, name_len, iov, count, control, control_len, _flags] = user::get::<[usize; 7]>(addr)?;
    let name_len = i32::try_from(name_len as u32).map_err(|_| Errno::EINVAL)? as usize;
    if count > PIECES_MAX {
        return Err(Errno::EMSGSIZE);
    }
    let mut pieces = Vec::new();
    pieces.make_room(count).map_err(|_| Errno::ENOMEM)?;
    let mut left = limit(usize::MAX);
    for index in 0..count {
        let [addr, len] = user::get::<[usize; 2]>(iov + 16 * index)?;
        if isize::try_from(len).is_err() {
            return Err(Errno::EINVAL);
        }
        let len = len.min(left);
        left -= len;
        pieces.push(Piece { addr, len });
    }
    Ok(Header { name, name_len, pieces, control, control_len })
}

/// sendmsg(2)
///
/// # Errors
/// `EBADF`, `ENOTSOCK`, `EFAULT`, `EMSGSIZE`, `EINVAL`, `ENOMEM`; those of [`control::read`] and [`Socket::send`].
pub(super) fn sendmsg(fd: i32, message: usize, flags: u32) -> Result<usize, Errno> {
    let open = open(fd)?;
    send_message(&open, message, flags)
}

fn send_message(open: &Open, message: usize, flags: u32) -> Result<usize, Errno> {
    let header = header(message)?;
    let to = destination(header.name, header.name_len)?;
    let control = match header.control_len {
        0 => Control::default(),
        len => control::read(header.control, len)?,
    };
    let sent = Sent { to, files: control.files, sender: control.sender };
    open.socket.send(&mut Source::user(&header.pieces), open.flags(flags), sent)
}

/// recvmsg(2)
///
/// # Errors
/// `EBADF`, `ENOTSOCK`, `EFAULT`, `EMSGSIZE`, `EINVAL`, `ENOMEM`; those of [`Socket::receive`].
pub(super) fn recvmsg(fd: i32, message: usize, flags: u32) -> Result<usize, Errno> {
    let open = open(fd)?;
    receive_message(&open, message, flags)
}

fn receive_message(open: &Open, message: usize, flags: u32) -> Result<usize, Errno> {
    let header = header(message)?;
    let mut received = open.socket.receive(&mut Sink::user(&header.pieces), open.flags(flags))?;
    if header.name != 0 {
        let bytes = Address::encode(received.from.as_deref());
        // A connected stream's peer needs no name.
        let bytes = if received.from.is_none() { &[][..] } else { &bytes[..] };
        user::write(header.name, &bytes[..header.name_len.min(bytes.len())])?;
        user::put(message + NAME_LEN, bytes.len() as u32)?;
    }
    let mut writer = control::Writer::new(header.control, header.control_len);
    if open.socket.options().pass_credentials && received.sender.is_some() {
        writer.credentials(received.sender.as_ref())?;
    }
    let cloexec = flags & net::MSG_CMSG_CLOEXEC != 0;
    writer.files(core::mem::take(&mut received.files), cloexec)?;
    let mut out = flags & net::MSG_CMSG_CLOEXEC;
    if received.whole > received.count {
        out |= net::MSG_TRUNC;
    }
    if writer.truncated {
        out |= net::MSG_CTRUNC;
    }
    user::put(message + CONTROL_LEN, writer.done)?;
    user::put(message + FLAGS, out)?;
    Ok(told(open, &received, flags))
}

/// sendmmsg(2)
///
/// # Errors
/// Those of [`sendmsg`], of the first message.
pub(super) fn sendmmsg(fd: i32, messages: usize, count: usize, flags: u32) -> Result<usize, Errno> {
    let open = open(fd)?;
    each(messages, count, |message, _| send_message(&open, message, flags))
}

/// recvmmsg(2)
///
/// # Errors
/// Those of [`recvmsg`], of the first message; `EINVAL`: no time.
pub(super) fn recvmmsg(
    fd: i32,
    messages: usize,
    count: usize,
    flags: u32,
    timeout: usize,
) -> Result<usize, Errno> {
    let deadline = super::wait::timespec(timeout)?;
    let open = open(fd)?;
    each(messages, count, |message, first| {
        // The time is looked at between messages only, as Linux does.
        if !first && deadline.is_some_and(|deadline| clock::now_ns() >= deadline) {
            return Err(Errno::EAGAIN);
        }
        let wait = if first || flags & MSG_WAITFORONE == 0 { 0 } else { net::MSG_DONTWAIT };
        receive_message(&open, message, flags & !MSG_WAITFORONE | wait)
    })
}

/// Calls `transfer` for each message, until one fails; how many did not.
fn each(
    messages: usize,
    count: usize,
    mut transfer: impl FnMut(usize, bool) -> Result<usize, Errno>,
) -> Result<usize, Errno> {
    for index in 0..count.min(MESSAGES_MAX) {
        let message = messages + index * MMSGHDR;
        let moved =
            transfer(message, index == 0).and_then(|len| user::put(message + MMSGHDR - 8, len as u32));
        match moved {
            Ok(()) => {}
            Err(error) if index == 0 => return Err(error),
            Err(_) => return Ok(index),
        }
    }
    Ok(count.min(MESSAGES_MAX))
}

const MICROSECONDS: u64 = 1_000_000;

/// setsockopt(2)
///
/// # Errors
/// `EBADF`, `ENOTSOCK`, `EINVAL`, `EFAULT`, `EDOM`; `ENOPROTOOPT`: no such option; `EOPNOTSUPP`: of another level.
pub(super) fn setsockopt(fd: i32, level: u32, option: u32, addr: usize, len: i32) -> Result<usize, Errno> {
    let open = open(fd)?;
    if level != net::SOL_SOCKET {
        return Err(Errno::EOPNOTSUPP);
    }
    let len = usize::try_from(len).map_err(|_| Errno::EINVAL)?;
    if let net::SO_RCVTIMEO | net::SO_SNDTIMEO = option {
        if len < 16 {
            return Err(Errno::EINVAL);
        }
        let [seconds, microseconds] = user::get::<[i64; 2]>(addr)?;
        let fraction =
            u64::try_from(microseconds).ok().filter(|rest| *rest < MICROSECONDS).ok_or(Errno::EDOM)?;
        // A time that is over is as good as none.
        let seconds = u64::try_from(seconds).unwrap_or(0);
        let ns = seconds.saturating_mul(MICROSECONDS).saturating_add(fraction).saturating_mul(1000);
        let timeout = (ns != 0).then_some(ns);
        open.socket.set_options(|options| match option {
            net::SO_RCVTIMEO => options.receive_timeout = timeout,
            _ => options.send_timeout = timeout,
        });
        return Ok(0);
    }
    if len < 4 {
        return Err(Errno::EINVAL);
    }
    let value = user::get::<i32>(addr)?;
    let on = value != 0;
    // The kernel takes twice as much for what it needs itself.
    let size = (value.max(0) as usize).saturating_mul(2);
    open.socket.set_options(|options| match option {
        net::SO_PASSCRED => options.pass_credentials = on,
        net::SO_SNDBUF | net::SO_SNDBUFFORCE => options.send_buffer = size,
        net::SO_RCVBUF | net::SO_RCVBUFFORCE => options.receive_buffer = size,
        net::SO_REUSEADDR => options.reuse_address = on,
        net::SO_KEEPALIVE => options.keep_alive = on,
        _ => {}
    });
    match option {
        net::SO_PASSCRED | net::SO_SNDBUF | net::SO_RCVBUF | net::SO_SNDBUFFORCE | net::SO_RCVBUFFORCE => {
            Ok(0)
        }
        net::SO_REUSEADDR | net::SO_KEEPALIVE => Ok(0),
        // Taken, and without meaning here.
        net::SO_BROADCAST | net::SO_LINGER | net::SO_PRIORITY | net::SO_DONTROUTE | net::SO_OOBINLINE => {
            Ok(0)
        }
        _ => Err(Errno::ENOPROTOOPT),
    }
}

/// getsockopt(2)
///
/// # Errors
/// `EBADF`, `ENOTSOCK`, `EINVAL`, `EFAULT`; `ENOPROTOOPT`, `EOPNOTSUPP`.
pub(super) fn getsockopt(fd: i32, level: u32, option: u32, addr: usize, len: usize) -> Result<usize, Errno> {
    let open = open(fd)?;
    if level != net::SOL_SOCKET {
        return Err(Errno::EOPNOTSUPP);
    }
    let room = usize::try_from(user::get::<i32>(len)?).map_err(|_| Errno::EINVAL)?;
    let options = open.socket.options();
    let mut bytes = heapless::Vec::<u8, 16>::new();
    let time = |timeout: Option<u64>| {
        let us = timeout.unwrap_or(0) / 1000;
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&(us / MICROSECONDS).to_ne_bytes());
        bytes[8..].copy_from_slice(&(us % MICROSECONDS).to_ne_bytes());
        bytes
    };
    // All of them fit.
    let _ = match option {
        net::SO_PEERCRED => {
            bytes.extend_from_slice(&control::credentials(open.socket.peer_sender().as_ref()))
        }
        net::SO_RCVTIMEO => bytes.extend_from_slice(&time(options.receive_timeout)),
        net::SO_SNDTIMEO => bytes.extend_from_slice(&time(options.send_timeout)),
        net::SO_LINGER => bytes.extend_from_slice(&[0; 8]),
        _ => {
            let value = match option {
                net::SO_TYPE => match open.socket.kind() {
                    Kind::Stream => net::SOCK_STREAM,
                    Kind::Datagram => net::SOCK_DGRAM,
                    Kind::Sequence => net::SOCK_SEQPACKET,
                },
                net::SO_DOMAIN => net::AF_UNIX,
                net::SO_PROTOCOL => 0,
                net::SO_ERROR => open.socket.take_error().map_or(0, Errno::raw),
                net::SO_ACCEPTCONN => open.socket.is_listening().into(),
                net::SO_PASSCRED => options.pass_credentials.into(),
                net::SO_SNDBUF => options.send_buffer as u32,
                net::SO_RCVBUF => options.receive_buffer as u32,
                net::SO_REUSEADDR => options.reuse_address.into(),
                net::SO_KEEPALIVE => options.keep_alive.into(),
                net::SO_BROADCAST | net::SO_PRIORITY | net::SO_DONTROUTE | net::SO_OOBINLINE => 0,
                _ => return Err(Errno::ENOPROTOOPT),
            };
            bytes.extend_from_slice(&value.to_ne_bytes())
        }
    };
    let count = room.min(bytes.len());
    user::write(addr, &bytes[..count])?;
    user::put(len, count as u32)?;
    Ok(0)
}
