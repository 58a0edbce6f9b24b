//! Control messages of sendmsg(2) and recvmsg(2): files and credentials.
//!
//! Source: cmsg(3), unix(7).

use alloc::sync::Arc;
use alloc::vec::Vec;

use linux_raw_sys::net;
use mnt_table::memory::Grow;
use syscalls::Errno;
use syscalls::credentials::Capabilities;
use syscalls::ids;

use super::unix::end::Sender;
use crate::fs;
use crate::fs::file::OpenFile;
use crate::mm::user;
use crate::task;

/// The most files of one message.
pub(super) const FILES_MAX: usize = 253;
/// The longest control data.
const CONTROL_MAX: usize = 20_480;
/// `struct cmsghdr`: its length, which counts it, the level and the type.
const HEADER: usize = 16;
/// `struct ucred`: process, user, group.
const CREDENTIALS: usize = 12;
/// Ids that a user namespace has no number for.
const OVERFLOW: u32 = 65534;

/// What came with a message that is sent.
#[derive(Default)]
pub(super) struct Control {
    pub(super) files: Vec<Arc<OpenFile>>,
    pub(super) sender: Option<Sender>,
}

/// Reads control messages from user memory.
///
/// # Errors
/// `ENOBUFS`: too long. `EFAULT`. `EINVAL`: not well-formed, or not known. `EBADF`; `EPERM`: credentials that are not the
/// caller's. `ENOMEM`.
pub(super) fn read(addr: usize, len: usize) -> Result<Control, Errno> {
    let mut control = Control::default();
    if len > CONTROL_MAX {
        return Err(Errno::ENOBUFS);
    }
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len).map_err(|_| Errno::ENOMEM)?;
    bytes.resize(len, 0);
    user::read(addr, &mut bytes)?;
    let mut rest = &bytes[..];
    while rest.len() >= HEADER {
        let word = |at: usize| u32::from_ne_bytes([rest[at], rest[at + 1], rest[at + 2], rest[at + 3]]);
        let length = u64::from(word(0)) | u64::from(word(4)) << 32;
        let (level, kind) = (word(8), word(12));
        let length = usize::try_from(length).map_err(|_| Errno::EINVAL)?;
        if length < HEADER || length > rest.len() {
            return Err(Errno::EINVAL);
        }
        let data = &rest[HEADER..length];
        if level == net::SOL_SOCKET {
            match kind {
                net::SCM_RIGHTS => read_files(data, &mut control.files)?,
                net::SCM_CREDENTIALS => control.sender = Some(read_credentials(data)?),
                _ => return Err(Errno::EINVAL),
            }
        }
        rest = &rest[length.next_multiple_of(8).min(rest.len())..];
    }
    Ok(control)
}

fn read_files(data: &[u8], files: &mut Vec<Arc<OpenFile>>) -> Result<(), Errno> {
    let table = task::current().files();
    let fds = data.chunks_exact(4);
    if files.len() + fds.len() > FILES_MAX {
        return Err(Errno::EINVAL);
    }
    files.make_room(fds.len()).map_err(|_| Errno::ENOMEM)?;
    for fd in fds {
        files.push(table.get(i32::from_ne_bytes([fd[0], fd[1], fd[2], fd[3]]))?);
    }
    Ok(())
}

fn read_credentials(data: &[u8]) -> Result<Sender, Errno> {
    if data.len() != CREDENTIALS {
        return Err(Errno::EINVAL);
    }
    let word = |at: usize| u32::from_ne_bytes([data[at], data[at + 1], data[at + 2], data[at + 3]]);
    let (pid, uid, gid) = (word(0), word(4), word(8));
    let thread = task::current();
    let credentials = thread.credentials();
    let own = &credentials.user_ns;
    let uid = ids::Kind::Users.absolute(own, uid).ok_or(Errno::EINVAL)?;
    let gid = ids::Kind::Groups.absolute(own, gid).ok_or(Errno::EINVAL)?;
    let can = |capability| credentials.capable(own, capability);
    let spaces = Arc::clone(thread.pid_ns());
    let process = Arc::clone(thread.process().identity());
    let own_pid = process.number_in(&spaces) == Some(pid);
    let own_uid = [credentials.uid, credentials.euid, credentials.suid].contains(&uid);
    let own_gid = [credentials.gid, credentials.egid, credentials.sgid].contains(&gid);
    let may = (own_pid || can(Capabilities::SYS_ADMIN))
        && (own_uid || can(Capabilities::SETUID))
        && (own_gid || can(Capabilities::SETGID));
    if !may {
        return Err(Errno::EPERM);
    }
    let pid = if own_pid { process } else { spaces.pid(pid).ok_or(Errno::ESRCH)? };
    Ok(Sender { pid, uid, gid })
}

/// `struct ucred` as the calling task sees a sender.
pub(super) fn credentials(sender: Option<&Sender>) -> [u8; CREDENTIALS] {
    let thread = task::current();
    let credentials = thread.credentials();
    let own = &credentials.user_ns;
    let words = match sender {
        Some(sender) => [
            sender.pid.number_in(thread.pid_ns()).unwrap_or(0),
            ids::Kind::Users.seen_by(own, sender.uid).unwrap_or(OVERFLOW),
            ids::Kind::Groups.seen_by(own, sender.gid).unwrap_or(OVERFLOW),
        ],
        None => [0, u32::MAX, u32::MAX],
    };
    let mut bytes = [0; CREDENTIALS];
    bytes.chunks_exact_mut(4).zip(words).for_each(|(place, word)| place.copy_from_slice(&word.to_ne_bytes()));
    bytes
}

/// Writes control messages to user memory.
pub(super) struct Writer {
    addr: usize,
    left: usize,
    /// Bytes so far,
    pub(super) done: usize,
    /// and whether something was left out (`MSG_CTRUNC`).
    pub(super) truncated: bool,
}

impl Writer {
    pub(super) fn new(addr: usize, len: usize) -> Self {
        Writer { addr, left: if addr == 0 { 0 } else { len }, done: 0, truncated: false }
    }

    /// One message; as much of it as there is room for.
    fn put(&mut self, kind: u32, data: &[u8]) -> Result<(), Errno> {
        if self.left < HEADER {
            self.truncated = true;
            return Ok(());
        }
        let room = self.left - HEADER;
        let data = if data.len() > room {
            self.truncated = true;
            &data[..room]
        } else {
            data
        };
        let length = HEADER + data.len();
        user::put(self.addr + self.done, [length as u32, 0, net::SOL_SOCKET, kind])?;
        user::write(self.addr + self.done + HEADER, data)?;
        let step = length.next_multiple_of(8).min(self.left);
        self.done += step;
        self.left -= step;
        Ok(())
    }

    /// The sender of a message.
    ///
    /// # Errors
    /// `EFAULT`
    pub(super) fn credentials(&mut self, sender: Option<&Sender>) -> Result<(), Errno> {
        self.put(net::SCM_CREDENTIALS, &credentials(sender))
    }

    /// Files, which get descriptors as far as there is room for their numbers; the others are closed.
    ///
    /// # Errors
    /// `EFAULT`
    pub(super) fn files(&mut self, files: Vec<Arc<OpenFile>>, cloexec: bool) -> Result<(), Errno> {
        if files.is_empty() {
            return Ok(());
        }
        let room = self.left.saturating_sub(HEADER) / 4;
        let mut fds = heapless::Vec::<u8, { 4 * FILES_MAX }>::new();
        let total = files.len();
        let mut installed = 0;
        for file in files.into_iter().take(room) {
            let Ok(fd) = fs::install(file, cloexec) else { break };
            let _ = fds.extend_from_slice(&(fd as u32).to_ne_bytes()); // No message has more files.
            installed += 1;
        }
        self.truncated |= installed < total;
        if installed == 0 { Ok(()) } else { self.put(net::SCM_RIGHTS, &fds) }
    }
}
