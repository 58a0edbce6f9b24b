//! capget(2), capset(2), and what prctl(2) does with capabilities.

use linux_raw_sys::general as abi;
use syscalls::credentials::Capabilities;
use syscalls::{Credentials, Errno};

use super::{Thread, creds};
use crate::mm::user;

/// Who has no number in a user namespace.
pub(crate) const NOBODY: u32 = 65534;

/// `SECBIT_NOROOT`: the administrator has no capabilities by being that.
pub(crate) const NOROOT: u32 = 1 << 0;
/// `SECBIT_NO_SETUID_FIXUP`: changes of users leave capabilities alone.
pub(crate) const NO_SETUID_FIXUP: u32 = 1 << 2;
/// `SECBIT_KEEP_CAPS`: they keep the permitted ones.
pub(crate) const KEEP_CAPS: u32 = 1 << 4;
/// `SECBIT_KEEP_CAPS_LOCKED`
const KEEP_CAPS_LOCKED: u32 = 1 << 5;
/// `SECBIT_NO_CAP_AMBIENT_RAISE`
const NO_AMBIENT_RAISE: u32 = 1 << 6;
const ALL_BITS: u32 = 0xff;
/// Of each pair the second locks the first.
const LOCKS: u32 = 0xaa;

/// Capabilities that a thread has and shows.
struct Sets {
    effective: u64,
    permitted: u64,
    inheritable: u64,
}

/// Reads the header: how many 32-bit halves the sets have, and whose they are.
fn header(addr: usize, data: usize) -> Result<Option<(usize, i32)>, Errno> {
    let [version, pid]: [u32; 2] = user::get(addr)?;
    let halves = match version {
        abi::_LINUX_CAPABILITY_VERSION_1 => 1,
        abi::_LINUX_CAPABILITY_VERSION_2 | abi::_LINUX_CAPABILITY_VERSION_3 => 2,
        _ => {
            user::put(addr, abi::_LINUX_CAPABILITY_VERSION_3)?;
            return if data == 0 { Ok(None) } else { Err(Errno::EINVAL) };
        }
    };
    Ok(Some((halves, pid as i32)))
}

/// capget(2).
pub(super) fn capget(thread: &Thread, addr: usize, data: usize) -> Result<usize, Errno> {
    let Some((halves, pid)) = header(addr, data)? else { return Ok(0) };
    if pid < 0 {
        return Err(Errno::EINVAL);
    }
    let credentials = if pid == 0 {
        thread.credentials()
    } else {
        thread.pid_ns().thread(pid as u32).ok_or(Errno::ESRCH)?.credentials()
    };
    if data == 0 {
        return Ok(0);
    }
    let sets = [credentials.effective, credentials.permitted, credentials.inheritable];
    for half in 0..halves {
        user::put(data + 12 * half, sets.map(|set| (set.bits() >> (32 * half)) as u32))?;
    }
    Ok(0)
}

/// capset(2).
pub(super) fn capset(thread: &Thread, addr: usize, data: usize) -> Result<usize, Errno> {
    let Some((halves, pid)) = header(addr, data)? else { return Ok(0) };
    if pid != 0 && Some(pid as u32) != thread.tid_in(thread.pid_ns()) {
        return Err(Errno::EPERM);
    }
    let mut sets = Sets { effective: 0, permitted: 0, inheritable: 0 };
    for half in 0..halves {
        let [effective, permitted, inheritable]: [u32; 3] = user::get(data + 12 * half)?;
        sets.effective |= u64::from(effective) << (32 * half);
        sets.permitted |= u64::from(permitted) << (32 * half);
        sets.inheritable |= u64::from(inheritable) << (32 * half);
    }
    let set = |bits: u64| Capabilities::from_bits_retain(bits) & Capabilities::EXISTING;
    let (effective, permitted, inheritable) =
        (set(sets.effective), set(sets.permitted), set(sets.inheritable));
    let old = thread.credentials();
    let may_inherit = old.capable(&old.user_ns, Capabilities::SETPCAP);
    let allowed = (may_inherit || (old.inheritable | old.permitted).contains(inheritable))
        && (old.inheritable | old.bounding).contains(inheritable)
        && old.permitted.contains(permitted)
        && permitted.contains(effective);
    if !allowed {
        return Err(Errno::EPERM);
    }
    let ambient = old.ambient & permitted & inheritable;
    creds::set(thread, Credentials { effective, permitted, inheritable, ambient, ..(*old).clone() })?;
    Ok(0)
}

fn one(capability: usize) -> Result<Capabilities, Errno> {
    if capability > abi::CAP_LAST_CAP as usize {
        return Err(Errno::EINVAL);
    }
    Ok(Capabilities::from_bits_retain(1 << capability))
}

/// `PR_CAPBSET_READ`
pub(super) fn bounding_has(thread: &Thread, capability: usize) -> Result<usize, Errno> {
    Ok(usize::from(thread.credentials().bounding.contains(one(capability)?)))
}

/// `PR_CAPBSET_DROP`
pub(super) fn drop_bounding(thread: &Thread, capability: usize) -> Result<usize, Errno> {
    let old = thread.credentials();
    if !old.capable(&old.user_ns, Capabilities::SETPCAP) {
        return Err(Errno::EPERM);
    }
    let bounding = old.bounding - one(capability)?;
    creds::set(thread, Credentials { bounding, ..(*old).clone() })?;
    Ok(0)
}

/// `PR_CAP_AMBIENT`
pub(super) fn ambient(
    thread: &Thread,
    operation: usize,
    capability: usize,
    rest: usize,
) -> Result<usize, Errno> {
    const IS_SET: u32 = linux_raw_sys::prctl::PR_CAP_AMBIENT_IS_SET;
    const RAISE: u32 = linux_raw_sys::prctl::PR_CAP_AMBIENT_RAISE;
    const LOWER: u32 = linux_raw_sys::prctl::PR_CAP_AMBIENT_LOWER;
    const CLEAR_ALL: u32 = linux_raw_sys::prctl::PR_CAP_AMBIENT_CLEAR_ALL;
    let old = thread.credentials();
    if rest != 0 {
        return Err(Errno::EINVAL);
    }
    let ambient = match operation as u32 {
        CLEAR_ALL if capability != 0 => return Err(Errno::EINVAL),
        CLEAR_ALL => Capabilities::empty(),
        IS_SET => return Ok(usize::from(old.ambient.contains(one(capability)?))),
        RAISE => {
            let one = one(capability)?;
            let may = old.permitted.contains(one)
                && old.inheritable.contains(one)
                && old.securebits & NO_AMBIENT_RAISE == 0;
            if !may {
                return Err(Errno::EPERM);
            }
            old.ambient | one
        }
        LOWER => old.ambient - one(capability)?,
        _ => return Err(Errno::EINVAL),
    };
    creds::set(thread, Credentials { ambient, ..(*old).clone() })?;
    Ok(0)
}

/// `PR_SET_SECUREBITS`
pub(super) fn set_securebits(thread: &Thread, bits: usize) -> Result<usize, Errno> {
    let old = thread.credentials();
    let bits = u32::try_from(bits).map_err(|_| Errno::EPERM)?;
    let now = old.securebits;
    let locked = (now & LOCKS) >> 1;
    let allowed = locked & (now ^ bits) == 0
        && now & LOCKS & !bits == 0
        && bits & !ALL_BITS == 0
        && old.capable(&old.user_ns, Capabilities::SETPCAP);
    if !allowed {
        return Err(Errno::EPERM);
    }
    creds::set(thread, Credentials { securebits: bits, ..(*old).clone() })?;
    Ok(0)
}

/// `PR_SET_KEEPCAPS`
pub(super) fn set_keep_caps(thread: &Thread, keep: usize) -> Result<usize, Errno> {
    let old = thread.credentials();
    if keep > 1 {
        return Err(Errno::EINVAL);
    }
    if old.securebits & KEEP_CAPS_LOCKED != 0 {
        return Err(Errno::EPERM);
    }
    let securebits = if keep == 1 { old.securebits | KEEP_CAPS } else { old.securebits & !KEEP_CAPS };
    creds::set(thread, Credentials { securebits, ..(*old).clone() })?;
    Ok(0)
}
