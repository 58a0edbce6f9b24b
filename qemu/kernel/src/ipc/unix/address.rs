//! Names of sockets: paths, and abstract names, which live as long as the socket.
//!
//! # Lock order
//! `NAMES` is a leaf. It holds sockets weakly.

use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};

use linux_raw_sys::net;
use syscalls::Errno;

use super::{Kind, Socket};
use crate::arch::spin::SpinLock;
use crate::fs;

/// Where the name begins in `struct sockaddr_un`.
const PATH: usize = 2;
/// Bytes of `struct sockaddr_un`.
const SIZE: usize = 110;

/// A name.
#[derive(Debug)]
pub(crate) enum Address {
    /// A path, as it was given to bind(2).
    Path(Vec<u8>),
    /// A name of a network namespace, without the zero byte that it begins with.
    Abstract(Vec<u8>),
}

/// What a call names.
pub(crate) enum Named {
    /// A socket.
    Socket(Address),
    /// No name: bind(2) chooses one.
    None,
    /// No family: connect(2) takes the connection of a datagram socket back.
    Unspecified,
}

impl Address {
    /// Reads a `struct sockaddr`.
    ///
    /// # Errors
    /// `EINVAL`: it is no name of a socket of this family.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Named, Errno> {
        let [low, high, path @ ..] = bytes else { return Err(Errno::EINVAL) };
        if bytes.len() > SIZE {
            return Err(Errno::EINVAL);
        }
        let copy = |name: &[u8]| -> Result<Vec<u8>, Errno> {
            let mut copy = Vec::new();
            copy.try_reserve_exact(name.len()).map_err(|_| Errno::ENOMEM)?;
            copy.extend_from_slice(name);
            Ok(copy)
        };
        match (u32::from(u16::from_ne_bytes([*low, *high])), path) {
            (net::AF_UNSPEC, _) => Ok(Named::Unspecified),
            (net::AF_UNIX, []) => Ok(Named::None),
            (net::AF_UNIX, [0, name @ ..]) => Ok(Named::Socket(Address::Abstract(copy(name)?))),
            (net::AF_UNIX, path) => {
                let end = path.iter().position(|byte| *byte == 0).unwrap_or(path.len());
                Ok(Named::Socket(Address::Path(copy(&path[..end])?)))
            }
            _ => Err(Errno::EINVAL),
        }
    }

    /// The `struct sockaddr_un` of a name, or of no name, and its length.
    pub(crate) fn encode(address: Option<&Address>) -> heapless::Vec<u8, { SIZE + 1 }> {
        let mut out = heapless::Vec::new();
        // It fits: what was parsed is no longer than that, and a path gets a zero byte.
        let _ = out.extend_from_slice(&(net::AF_UNIX as u16).to_ne_bytes());
        match address {
            None => {}
            Some(Address::Path(path)) => {
                let _ = out.extend_from_slice(path);
                let _ = out.push(0);
            }
            Some(Address::Abstract(name)) => {
                let _ = out.push(0);
                let _ = out.extend_from_slice(name);
            }
        }
        debug_assert!(out.len() >= PATH);
        out
    }
}

/// What finds a bound socket.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    /// Network namespace, kind of socket, and name.
    Abstract(u64, Kind, Vec<u8>),
    /// File system and file.
    File(u32, u64),
}

static NAMES: SpinLock<BTreeMap<Key, Weak<Socket>>> = SpinLock::new(BTreeMap::new());

/// A name that a socket has; dropped, it is free again.
pub(super) struct Bound {
    key: Key,
    pub(super) address: Arc<Address>,
}

impl Drop for Bound {
    fn drop(&mut self) {
        let old = NAMES.lock().remove(&self.key);
        drop(old);
    }
}

/// Gives `socket` a name.
///
/// # Errors
/// `EADDRINUSE`; what making a file says; `ENOMEM`.
pub(super) fn bind(socket: &Arc<Socket>, address: Address, space: u64) -> Result<Bound, Errno> {
    match &address {
        Address::Abstract(name) => {
            let key = Key::Abstract(space, socket.kind, name.clone());
            register(key, socket, address)
        }
        Address::Path(path) => {
            let file = fs::make_socket(path).map_err(|error| match error {
                Errno::EEXIST => Errno::EADDRINUSE,
                error => error,
            })?;
            let (dev, ino) = file.id();
            register(Key::File(dev, ino), socket, address)
        }
    }
}

fn register(key: Key, socket: &Arc<Socket>, address: Address) -> Result<Bound, Errno> {
    let address = mnt_table::memory::arc(address).map_err(|_| Errno::ENOMEM)?;
    let weak = Arc::downgrade(socket);
    let mut names = NAMES.lock();
    if names.get(&key).is_some_and(|other| other.strong_count() != 0) {
        return Err(Errno::EADDRINUSE);
    }
    let inserted = mnt_table::memory::once(|| names.insert(key.clone(), weak));
    drop(names);
    inserted.map(|_| Bound { key, address }).map_err(|_| Errno::ENOMEM)
}

/// Gives `socket` an abstract name that nobody has.
///
/// # Errors
/// `ENOSPC`: there is none left. `ENOMEM`.
pub(super) fn bind_any(socket: &Arc<Socket>, space: u64) -> Result<Bound, Errno> {
    /// Names are five digits of base 16.
    const ALL: u32 = 1 << 20;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    for _ in 0..ALL {
        // Relaxed: a number.
        let number = NEXT.fetch_add(1, Ordering::Relaxed) % ALL;
        let address = Address::Abstract(alloc::format!("{number:05x}").into_bytes());
        match bind(socket, address, space) {
            Err(Errno::EADDRINUSE) => {}
            other => return other,
        }
    }
    Err(Errno::ENOSPC)
}

/// The socket that `address` names, for whoever wants to send to it from a socket of this kind. Kinds have abstract names of
/// their own, and paths in common.
///
/// # Errors
/// `ECONNREFUSED`: nobody has that name. What the walk of a path says; `EACCES`.
pub(super) fn find(address: &Address, kind: Kind, space: u64) -> Result<Arc<Socket>, Errno> {
    let key = match address {
        Address::Abstract(name) => Key::Abstract(space, kind, name.clone()),
        Address::Path(path) => {
            let (dev, ino) = fs::find_socket(path)?.id();
            Key::File(dev, ino)
        }
    };
    let found = NAMES.lock().get(&key).cloned();
    found.and_then(|socket| socket.upgrade()).ok_or(Errno::ECONNREFUSED)
}
