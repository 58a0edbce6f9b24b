//! Users and groups of a thread: setuid(2) and its family, setgroups(2).
//!
//! Credentials hold ids of the initial user namespace; calls take and tell those of the caller's.

use alloc::sync::Arc;
use alloc::vec::Vec;

use linux_raw_sys::general as abi;
use mnt_table::memory::Grow;
use syscalls::credentials::{Capabilities, Groups};
use syscalls::ids::Kind;
use syscalls::{Credentials, Errno};

use super::{Thread, caps, users};
use crate::mm::user;

/// The most supplementary groups.
const GROUPS_MAX: usize = abi::NGROUPS_MAX as usize;
/// "Leave it as it is."
const KEEP: u32 = u32::MAX;

/// As whom a thread asks to look into another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum As {
    /// As whom files know it.
    Files,
    /// As whom it is.
    Itself,
}

impl Thread {
    /// Whether it may look into `target`, as for ptrace(2).
    pub(crate) fn may_inspect(&self, target: &Thread, as_whom: As) -> bool {
        if Arc::ptr_eq(&self.process, &target.process) {
            return true;
        }
        self.may_inspect_as(&target.credentials(), target.process.dumpable() == 1, as_whom)
    }

    /// Whether it may look into another process that has these credentials.
    pub(crate) fn may_inspect_as(&self, other: &Credentials, dumpable: bool, as_whom: As) -> bool {
        let own = self.credentials();
        let (uid, gid, capabilities) = match as_whom {
            As::Files => (own.fsuid, own.fsgid, own.effective),
            As::Itself => (own.uid, own.gid, own.permitted),
        };
        let same = [other.uid, other.euid, other.suid] == [uid; 3]
            && [other.gid, other.egid, other.sgid] == [gid; 3];
        let within = other.user_ns == own.user_ns && capabilities.contains(other.permitted);
        same && dumpable && within || own.capable(&other.user_ns, Capabilities::SYS_PTRACE)
    }
}

/// Makes `thread` somebody else, who is counted as such.
///
/// # Errors
/// `ENOMEM`.
pub(super) fn set(thread: &Thread, credentials: Credentials) -> Result<(), Errno> {
    let uid = credentials.uid;
    thread.mounts.set_credentials(credentials)?;
    // Without memory it stays counted as whom it was.
    thread.pid().charge_to(uid);
    Ok(())
}

/// An id of the caller's user namespace; `None`: it is to stay.
fn absolute(kind: Kind, credentials: &Credentials, id: u32) -> Result<Option<u32>, Errno> {
    if id == KEEP {
        return Ok(None);
    }
    kind.absolute(&credentials.user_ns, id).map(Some).ok_or(Errno::EINVAL)
}

/// An id of the caller's user namespace that must be one.
fn required(kind: Kind, credentials: &Credentials, id: u32) -> Result<u32, Errno> {
    absolute(kind, credentials, id)?.ok_or(Errno::EINVAL)
}

fn shown(kind: Kind, credentials: &Credentials, id: u32) -> u32 {
    kind.seen_by(&credentials.user_ns, id).unwrap_or(caps::NOBODY)
}

/// getuid(2) and its like.
pub(super) fn get(thread: &Thread, nr: u32) -> usize {
    let c = thread.credentials();
    let (kind, id) = match nr {
        abi::__NR_getuid => (Kind::Users, c.uid),
        abi::__NR_geteuid => (Kind::Users, c.euid),
        abi::__NR_getgid => (Kind::Groups, c.gid),
        _ => (Kind::Groups, c.egid),
    };
    shown(kind, &c, id) as usize
}

/// getresuid(2), getresgid(2).
pub(super) fn get_all(thread: &Thread, kind: Kind, addrs: [usize; 3]) -> Result<usize, Errno> {
    let c = thread.credentials();
    let all = match kind {
        Kind::Users => [c.uid, c.euid, c.suid],
        Kind::Groups => [c.gid, c.egid, c.sgid],
    };
    for (addr, id) in addrs.into_iter().zip(all) {
        user::put(addr, shown(kind, &c, id))?;
    }
    Ok(0)
}

fn may(credentials: &Credentials, kind: Kind) -> bool {
    let capability = match kind {
        Kind::Users => Capabilities::SETUID,
        Kind::Groups => Capabilities::SETGID,
    };
    credentials.capable(&credentials.user_ns, capability)
}

/// The three ids of one kind.
fn triple(c: &Credentials, kind: Kind) -> [u32; 3] {
    match kind {
        Kind::Users => [c.uid, c.euid, c.suid],
        Kind::Groups => [c.gid, c.egid, c.sgid],
    }
}

/// Sets the ids of one kind, that of file systems with the effective one.
///
/// # Errors
/// `ENOMEM`.
fn apply(
    thread: &Thread,
    old: &Credentials,
    kind: Kind,
    [real, effective, saved]: [u32; 3],
) -> Result<(), Errno> {
    let mut new = old.clone();
    match kind {
        Kind::Users => {
            (new.uid, new.euid, new.suid, new.fsuid) = (real, effective, saved, effective);
            fix_capabilities(old, &mut new);
        }
        Kind::Groups => (new.gid, new.egid, new.sgid, new.fsgid) = (real, effective, saved, effective),
    }
    let is_else = new.euid != old.euid || new.egid != old.egid || new.uid != old.uid || new.gid != old.gid;
    set(thread, new)?;
    if is_else {
        use core::sync::atomic::Ordering::Relaxed;
        // Relaxed, both: numbers.
        thread.process.dumpable.store(0, Relaxed);
        thread.death_signal.store(0, Relaxed);
    }
    Ok(())
}

/// What changes of users do to capabilities (capabilities(7)).
fn fix_capabilities(old: &Credentials, new: &mut Credentials) {
    if old.securebits & caps::NO_SETUID_FIXUP != 0 {
        return;
    }
    let root = Kind::Users.absolute(&old.user_ns, 0);
    let any_root = |c: &Credentials| [c.uid, c.euid, c.suid].iter().any(|uid| Some(*uid) == root);
    if any_root(old) && !any_root(new) {
        if old.securebits & caps::KEEP_CAPS == 0 {
            new.permitted = Capabilities::empty();
            new.effective = Capabilities::empty();
        }
        new.ambient = Capabilities::empty();
    }
    if Some(old.euid) == root && Some(new.euid) != root {
        new.effective = Capabilities::empty();
    }
    if Some(old.euid) != root && Some(new.euid) == root {
        new.effective = new.permitted;
    }
}

/// Capabilities that the file system's user gives and takes.
const FILE_CAPABILITIES: Capabilities = Capabilities::CHOWN
    .union(Capabilities::DAC_OVERRIDE)
    .union(Capabilities::DAC_READ_SEARCH)
    .union(Capabilities::FOWNER)
    .union(Capabilities::FSETID)
    .union(Capabilities::MKNOD)
    .union(Capabilities::from_bits_retain(1 << abi::CAP_LINUX_IMMUTABLE | 1 << abi::CAP_MAC_OVERRIDE));

/// setuid(2), setgid(2).
pub(super) fn set_one(thread: &Thread, kind: Kind, id: u32) -> Result<usize, Errno> {
    let old = thread.credentials();
    let id = required(kind, &old, id)?;
    let [real, _, saved] = triple(&old, kind);
    let ids = if may(&old, kind) {
        [id; 3]
    } else if id == real || id == saved {
        [real, id, saved]
    } else {
        return Err(Errno::EPERM);
    };
    note_limit(thread, &old, kind, ids[0]);
    apply(thread, &old, kind, ids)?;
    Ok(0)
}

/// setreuid(2), setregid(2).
pub(super) fn set_two(thread: &Thread, kind: Kind, [real, effective]: [u32; 2]) -> Result<usize, Errno> {
    let old = thread.credentials();
    let wanted_real = absolute(kind, &old, real)?;
    let wanted_effective = absolute(kind, &old, effective)?;
    let [real, effective, saved] = triple(&old, kind);
    let free = may(&old, kind);
    if !free && wanted_real.is_some_and(|id| id != real && id != effective) {
        return Err(Errno::EPERM);
    }
    if !free && wanted_effective.is_some_and(|id| id != real && id != effective && id != saved) {
        return Err(Errno::EPERM);
    }
    let (new_real, new_effective) = (wanted_real.unwrap_or(real), wanted_effective.unwrap_or(effective));
    let follows = wanted_real.is_some() || wanted_effective.is_some_and(|id| id != real);
    let new_saved = if follows { new_effective } else { saved };
    note_limit(thread, &old, kind, new_real);
    apply(thread, &old, kind, [new_real, new_effective, new_saved])?;
    Ok(0)
}

/// setresuid(2), setresgid(2).
pub(super) fn set_three(thread: &Thread, kind: Kind, ids: [u32; 3]) -> Result<usize, Errno> {
    let old = thread.credentials();
    let now = triple(&old, kind);
    let mut new = now;
    for (slot, id) in new.iter_mut().zip(ids) {
        if let Some(id) = absolute(kind, &old, id)? {
            *slot = id;
        }
    }
    let foreign = new.iter().zip(ids).any(|(id, asked)| asked != KEEP && !now.contains(id));
    if foreign && !may(&old, kind) {
        return Err(Errno::EPERM);
    }
    note_limit(thread, &old, kind, new[0]);
    apply(thread, &old, kind, new)?;
    Ok(0)
}

/// A change to a user who has too many processes is noticed at the next execve(2).
fn note_limit(thread: &Thread, old: &Credentials, kind: Kind, real: u32) {
    if kind == Kind::Users && real != old.uid {
        let new = Credentials { uid: real, ..old.clone() };
        thread.check_nproc(users::is_over_limit(thread, &new, 1));
    }
}

/// setfsuid(2), setfsgid(2): the one before, whether it was changed or not.
pub(super) fn set_fs(thread: &Thread, kind: Kind, id: u32) -> usize {
    let old = thread.credentials();
    let before = match kind {
        Kind::Users => old.fsuid,
        Kind::Groups => old.fsgid,
    };
    let told = shown(kind, &old, before) as usize;
    let Some(id) = kind.absolute(&old.user_ns, id).filter(|_| id != KEEP) else { return told };
    if !triple(&old, kind).contains(&id) && id != before && !may(&old, kind) {
        return told;
    }
    let mut new = (*old).clone();
    match kind {
        Kind::Users => {
            new.fsuid = id;
            let root = Kind::Users.absolute(&old.user_ns, 0);
            if old.securebits & caps::NO_SETUID_FIXUP == 0 {
                if Some(before) == root && Some(id) != root {
                    new.effective -= FILE_CAPABILITIES;
                } else if Some(before) != root && Some(id) == root {
                    new.effective |= new.permitted & FILE_CAPABILITIES;
                }
            }
        }
        Kind::Groups => new.fsgid = id,
    }
    // It tells no errors: without memory all stays as it was.
    let _ = set(thread, new);
    told
}

/// getgroups(2).
pub(super) fn getgroups(thread: &Thread, size: i32, addr: usize) -> Result<usize, Errno> {
    let c = thread.credentials();
    let groups = c.groups.as_slice();
    let Ok(size) = usize::try_from(size) else { return Err(Errno::EINVAL) };
    if size != 0 {
        if size < groups.len() {
            return Err(Errno::EINVAL);
        }
        for (index, group) in groups.iter().enumerate() {
            user::put(addr + 4 * index, shown(Kind::Groups, &c, *group))?;
        }
    }
    Ok(groups.len())
}

/// setgroups(2).
pub(super) fn setgroups(thread: &Thread, size: usize, addr: usize) -> Result<usize, Errno> {
    let old = thread.credentials();
    let ns = &old.user_ns;
    if !may(&old, Kind::Groups) || !ns.setgroups() || !ns.has_gids() {
        return Err(Errno::EPERM);
    }
    if size as u32 as usize > GROUPS_MAX {
        return Err(Errno::EINVAL);
    }
    let mut groups: Vec<u32> = Vec::new();
    groups.make_room(size as u32 as usize).map_err(|_| Errno::ENOMEM)?;
    for index in 0..size as u32 as usize {
        let group: u32 = user::get(addr.wrapping_add(4 * index))?;
        groups.push(required(Kind::Groups, &old, group)?);
    }
    set(thread, Credentials { groups: Groups::new(groups), ..(*old).clone() })?;
    Ok(0)
}
