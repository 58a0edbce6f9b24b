//! Attributes of files: permissions, owners, times, whether something may be done.
//!
//! Sources: chmod(2), chown(2), utimensat(2), access(2), truncate(2).

use alloc::sync::Arc;

use linux_raw_sys::general as abi;
use mnt_table::PathRef;
use mnt_table::dentry::Dentry;
use mnt_table::walk::Last;
use syscalls::credentials::Capabilities;
use syscalls::ids::Kind;
use syscalls::{Credentials, Errno};
use tmpfs::{TmpDentry, mode};

use super::kernel::{Call, writing};
use super::node;
use super::permission::{self, EXEC, Subject, WRITE, is_member, without_set_id};
use crate::mm::user;

/// The place of an open file.
pub(crate) fn place(call: &Call<'_>, fd: i32) -> Result<PathRef<TmpDentry>, Errno> {
    call.open_file(fd)?.file().path().cloned().ok_or(Errno::EBADF)
}

/// What changes of a file's attributes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Change {
    /// Permission bits.
    pub(crate) permissions: Option<u32>,
    /// Owner and group, as the file system stores them.
    pub(crate) owner: Option<(u32, u32)>,
    /// When it was read last.
    pub(crate) accessed: Option<i64>,
    /// When its contents were changed last.
    pub(crate) modified: Option<i64>,
}

/// Changes attributes, for somebody who may.
///
/// # Errors
/// What the file system says that it belongs to.
pub(crate) fn change(dentry: &Arc<TmpDentry>, change: &Change) -> Result<(), Errno> {
    if let Some(done) = node::of(dentry).and_then(|node| node.change(dentry, change)) {
        return done;
    }
    if let Some(permissions) = change.permissions {
        dentry.set_permissions(permissions);
    }
    if let Some((uid, gid)) = change.owner {
        dentry.set_owner(uid, gid);
    }
    let now = dentry.super_block().now();
    dentry.inode().change_times(|times| {
        times.accessed = change.accessed.unwrap_or(times.accessed);
        times.modified = change.modified.unwrap_or(times.modified);
        times.changed = now;
    });
    Ok(())
}

/// chmod(2).
fn change_mode(call: &Call<'_>, at: &PathRef<TmpDentry>, bits: u32) -> Result<usize, Errno> {
    let _writing = writing(&at.mount)?;
    let who = call.credentials();
    let subject = Subject::new(&at.mount, &at.dentry);
    if at.dentry.symlink().is_some() || at.dentry.is_magic_link() {
        return Err(Errno::EOPNOTSUPP);
    }
    subject.may_keep(true, true)?;
    if !subject.is_owner(&who) || super::names::is_proc(&at.dentry) {
        return Err(Errno::EPERM);
    }
    if node::of(&at.dentry).is_some_and(|node| !node.takes_permissions()) {
        return Err(Errno::EPERM);
    }
    let mut bits = bits & 0o7777;
    if !is_member(&who, subject.owner().1) && !subject.capable(&who, Capabilities::FSETID) {
        bits &= !mode::SET_GID;
    }
    change(&at.dentry, &Change { permissions: Some(bits), ..Change::default() })?;
    Ok(0)
}

pub(crate) fn fchmodat(
    call: &Call<'_>,
    dfd: i32,
    addr: usize,
    bits: u32,
    flags: u32,
) -> Result<usize, Errno> {
    if flags & !(abi::AT_SYMLINK_NOFOLLOW | abi::AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    change_mode(call, &call.find_at(dfd, addr, flags)?, bits)
}

pub(crate) fn fchmod(call: &Call<'_>, fd: i32, bits: u32) -> Result<usize, Errno> {
    change_mode(call, &place(call, fd)?, bits)
}

/// chown(2); -1 leaves an id as it is.
fn change_owner(call: &Call<'_>, at: &PathRef<TmpDentry>, uid: u32, gid: u32) -> Result<usize, Errno> {
    const KEEP: u32 = u32::MAX;
    let _writing = writing(&at.mount)?;
    let who = call.credentials();
    let subject = Subject::new(&at.mount, &at.dentry);
    let (old_uid, old_gid) = subject.owner();
    let absolute = |kind: Kind, id: u32| kind.absolute(&who.user_ns, id).ok_or(Errno::EINVAL);
    let new_uid = if uid == KEEP { None } else { Some(absolute(Kind::Users, uid)?) };
    let new_gid = if gid == KEEP { None } else { Some(absolute(Kind::Groups, gid)?) };
    subject.may_keep(new_uid.is_none(), new_gid.is_none())?;
    let privileged = subject.capable(&who, Capabilities::CHOWN);
    let own = who.fsuid == old_uid;
    if new_uid.is_some_and(|new| !(own && new == old_uid)) && !privileged {
        return Err(Errno::EPERM);
    }
    let may_give = |new: u32| own && (new == old_gid || is_member(&who, new));
    if new_gid.is_some_and(|new| !may_give(new)) && !privileged {
        return Err(Errno::EPERM);
    }
    let (uid, gid) = at.dentry.inode().owner();
    let uid = new_uid.map_or(Ok(uid), |new| permission::stored(&at.mount, Kind::Users, new))?;
    let gid = new_gid.map_or(Ok(gid), |new| permission::stored(&at.mount, Kind::Groups, new))?;
    let bits = at.dentry.inode().mode();
    let changes = new_uid.is_some() || new_gid.is_some();
    let drops = changes && bits & mode::TYPE != mode::DIRECTORY;
    let permissions = drops.then(|| without_set_id(bits) & 0o7777);
    change(&at.dentry, &Change { permissions, owner: Some((uid, gid)), ..Change::default() })?;
    Ok(0)
}

pub(crate) fn fchownat(
    call: &Call<'_>,
    dfd: i32,
    addr: usize,
    owner: (u32, u32),
    flags: u32,
) -> Result<usize, Errno> {
    if flags & !(abi::AT_SYMLINK_NOFOLLOW | abi::AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    change_owner(call, &call.find_at(dfd, addr, flags)?, owner.0, owner.1)
}

pub(crate) fn fchown(call: &Call<'_>, fd: i32, owner: (u32, u32)) -> Result<usize, Errno> {
    change_owner(call, &place(call, fd)?, owner.0, owner.1)
}

/// What a time is set to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Time {
    Now,
    Keep,
    At(i64),
}

const NS: i64 = 1_000_000_000;

fn time(seconds: i64, ns: i64) -> Result<Time, Errno> {
    match ns {
        _ if ns == i64::from(abi::UTIME_NOW) => Ok(Time::Now),
        _ if ns == i64::from(abi::UTIME_OMIT) => Ok(Time::Keep),
        0..NS => Ok(Time::At(seconds.saturating_mul(NS).saturating_add(ns))),
        _ => Err(Errno::EINVAL),
    }
}

fn set_times(call: &Call<'_>, at: &PathRef<TmpDentry>, times: Option<(Time, Time)>) -> Result<usize, Errno> {
    let (accessed, modified) = times.unwrap_or((Time::Now, Time::Now));
    let _writing = writing(&at.mount)?;
    let who = call.credentials();
    let subject = Subject::new(&at.mount, &at.dentry);
    let (is_touch, is_owner) = (accessed == Time::Now && modified == Time::Now, subject.is_owner(&who));
    // Whoever may write may say that it was now.
    if is_touch && !is_owner {
        subject.may(&who, WRITE)?;
    }
    subject.may_keep(true, true)?;
    if !is_touch && !is_owner {
        return Err(Errno::EPERM);
    }
    let now = at.dentry.super_block().now();
    let at_time = |time: Time| match time {
        Time::Now => Some(now),
        Time::Keep => None,
        Time::At(at) => Some(at),
    };
    let (accessed, modified) = (at_time(accessed), at_time(modified));
    change(&at.dentry, &Change { accessed, modified, ..Change::default() })?;
    Ok(0)
}

pub(crate) fn utimensat(
    call: &Call<'_>,
    dfd: i32,
    addr: usize,
    times: usize,
    flags: u32,
) -> Result<usize, Errno> {
    let times = if times == 0 {
        None
    } else {
        let [a_s, a_ns, m_s, m_ns]: [i64; 4] = user::get(times)?;
        let times = (time(a_s, a_ns)?, time(m_s, m_ns)?);
        if times == (Time::Keep, Time::Keep) {
            return Ok(0);
        }
        Some(times)
    };
    if flags & !(abi::AT_SYMLINK_NOFOLLOW | abi::AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    let at = if addr == 0 && dfd != abi::AT_FDCWD {
        if flags != 0 {
            return Err(Errno::EINVAL);
        }
        place(call, dfd)?
    } else {
        call.find_at(dfd, addr, flags)?
    };
    set_times(call, &at, times)
}

/// utimes(2), futimesat(2): microseconds.
pub(crate) fn utimes(call: &Call<'_>, dfd: i32, addr: usize, times: usize) -> Result<usize, Errno> {
    let times = if times == 0 {
        None
    } else {
        let [a_s, a_us, m_s, m_us]: [i64; 4] = user::get(times)?;
        let time = |seconds: i64, us: i64| match us {
            0..1_000_000 => Ok(Time::At(seconds.saturating_mul(NS).saturating_add(us * 1000))),
            _ => Err(Errno::EINVAL),
        };
        Some((time(a_s, a_us)?, time(m_s, m_us)?))
    };
    let at = if addr == 0 && dfd != abi::AT_FDCWD { place(call, dfd)? } else { call.find_at(dfd, addr, 0)? };
    set_times(call, &at, times)
}

/// utime(2): seconds.
pub(crate) fn utime(call: &Call<'_>, addr: usize, times: usize) -> Result<usize, Errno> {
    let times = if times == 0 {
        None
    } else {
        let [accessed, modified]: [i64; 2] = user::get(times)?;
        Some((Time::At(accessed.saturating_mul(NS)), Time::At(modified.saturating_mul(NS))))
    };
    set_times(call, &call.find_at(abi::AT_FDCWD, addr, 0)?, times)
}

/// `SECBIT_NO_SETUID_FIXUP`
const SECBIT_NO_SETUID_FIXUP: u32 = 1 << 2;

/// access(2) and its like: with real ids, unless `AT_EACCESS`.
pub(crate) fn faccessat(
    call: &Call<'_>,
    dfd: i32,
    addr: usize,
    wanted: u32,
    flags: u32,
) -> Result<usize, Errno> {
    if wanted & !7 != 0 {
        return Err(Errno::EINVAL);
    }
    if flags & !(abi::AT_EACCESS | abi::AT_SYMLINK_NOFOLLOW | abi::AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    if flags & abi::AT_EACCESS != 0 {
        return access(call, dfd, addr, wanted, flags);
    }
    let who = call.thread.credentials();
    let mut acting = Credentials::clone(&who);
    (acting.fsuid, acting.fsgid) = (who.uid, who.gid);
    if acting.securebits & SECBIT_NO_SETUID_FIXUP == 0 {
        // Without privilege of a real user, but for the administrator's.
        let root = Kind::Users.absolute(&who.user_ns, 0);
        acting.effective = if Some(who.uid) == root { acting.permitted } else { Capabilities::empty() };
    }
    if acting == *who {
        return access(call, dfd, addr, wanted, flags);
    }
    let acting = mnt_table::memory::arc(acting).map_err(|_| Errno::ENOMEM)?;
    call.thread.act_as(Some(acting));
    let result = access(call, dfd, addr, wanted, flags);
    call.thread.act_as(None);
    result
}

fn access(call: &Call<'_>, dfd: i32, addr: usize, wanted: u32, flags: u32) -> Result<usize, Errno> {
    let at = call.find_at(dfd, addr, flags)?;
    let who = call.credentials();
    let subject = Subject::new(&at.mount, &at.dentry);
    let regular = at.dentry.inode().file_type() == mode::FILE;
    if wanted & EXEC != 0 && regular {
        syscalls::access::may_exec(&at.mount)?;
    }
    subject.may_access(&who, wanted)?;
    let special = !matches!(at.dentry.inode().file_type(), mode::FILE | mode::DIRECTORY | mode::SYMLINK);
    if wanted & WRITE != 0 && !special && at.mount.is_read_only() {
        return Err(Errno::EROFS);
    }
    Ok(0)
}

/// truncate(2).
pub(crate) fn truncate(call: &Call<'_>, addr: usize, size: usize) -> Result<usize, Errno> {
    let size = u64::try_from(size as i64).map_err(|_| Errno::EINVAL)?;
    let path = call.text(addr)?;
    let at = call.find(abi::AT_FDCWD, &path, Last::Follow)?;
    if at.dentry.is_dir() {
        return Err(Errno::EISDIR);
    }
    if node::kind(&at.dentry) != tmpfs::Kind::File {
        return Err(Errno::EINVAL);
    }
    let _writing = writing(&at.mount)?;
    Subject::new(&at.mount, &at.dentry).may_access(&call.credentials(), WRITE)?;
    super::room_below_limit(size.saturating_sub(1))?;
    at.dentry.inode().begin_write().map_err(super::error)?;
    let cut = super::regular::truncate(call, &at, size);
    at.dentry.inode().end_write();
    cut.map(|()| 0)
}
