//! `uid_map`, `gid_map` and `setgroups`: what a user namespace maps. Who may say so is in [`user_ns`].
//!
//! Source: user_namespaces(7), "User and group ID mappings".

use alloc::vec::Vec;

use mnt_table::UserNs;
use mnt_table::memory::Grow;
use mnt_table::user_ns::IdRange;
use syscalls::Errno;
use syscalls::ids::Kind;

use super::directory::{say, say_bytes};
use super::process::Target;
use crate::fs::file::OpenFile;
use crate::task::{self, user_ns};

/// A map is shorter than a page.
const BYTES_MAX: usize = 4096;
const OVERFLOW: u32 = u32::MAX;

fn namespace(target: &Target) -> Result<UserNs, Errno> {
    Ok(target.thread()?.credentials().user_ns.clone())
}

pub(super) fn uids(target: &Target, out: &mut Vec<u8>) -> Result<(), Errno> {
    show(target, Kind::Users, out)
}

pub(super) fn gids(target: &Target, out: &mut Vec<u8>) -> Result<(), Errno> {
    show(target, Kind::Groups, out)
}

/// A line for each range; what it is mapped to, as the reader's user namespace numbers it, or the parent if the reader is
/// in the namespace itself.
fn show(target: &Target, kind: Kind, out: &mut Vec<u8>) -> Result<(), Errno> {
    let ns = namespace(target)?;
    let Some(parent) = ns.parent() else {
        return say(out, format_args!("{:10} {:10} {:10}\n", 0, 0, u32::MAX));
    };
    let Some(maps) = ns.maps() else { return Ok(()) };
    let ranges = if kind == Kind::Users { maps.uids } else { maps.gids };
    let reader = task::current().credentials().user_ns.clone();
    let viewer = if reader == ns { parent } else { &reader };
    for range in ranges.iter() {
        let outside = kind.absolute(parent, range.outside).and_then(|id| kind.seen_by(viewer, id));
        say(
            out,
            format_args!("{:10} {:10} {:10}\n", range.inside, outside.unwrap_or(OVERFLOW), range.count),
        )?;
    }
    Ok(())
}

/// Reads a map.
///
/// # Errors
/// `EINVAL`: not three numbers in each line, or too many lines.
fn parse(bytes: &[u8]) -> Result<Vec<IdRange>, Errno> {
    let mut ranges: Vec<IdRange> = Vec::new();
    let text = core::str::from_utf8(bytes).map_err(|_| Errno::EINVAL)?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    if bytes.len() >= BYTES_MAX {
        return Err(Errno::EINVAL);
    }
    for line in text.split('\n') {
        let mut words = line.split_ascii_whitespace();
        let mut word =
            || -> Result<u32, Errno> { words.next().and_then(|word| word.parse().ok()).ok_or(Errno::EINVAL) };
        let range = IdRange { inside: word()?, outside: word()?, count: word()? };
        if words.next().is_some() {
            return Err(Errno::EINVAL);
        }
        ranges.make_room(1).map_err(|_| Errno::ENOMEM)?;
        ranges.push(range);
    }
    Ok(ranges)
}

pub(super) fn set_uids(target: &Target, file: &OpenFile, bytes: &[u8]) -> Result<(), Errno> {
    set(target, Kind::Users, file, bytes)
}

pub(super) fn set_gids(target: &Target, file: &OpenFile, bytes: &[u8]) -> Result<(), Errno> {
    set(target, Kind::Groups, file, bytes)
}

fn set(target: &Target, kind: Kind, file: &OpenFile, bytes: &[u8]) -> Result<(), Errno> {
    let writer = task::current().credentials();
    user_ns::set_map(&namespace(target)?, kind, parse(bytes)?, file.credentials(), &writer)
}

pub(super) fn setgroups(target: &Target, out: &mut Vec<u8>) -> Result<(), Errno> {
    say_bytes(out, if namespace(target)?.setgroups() { b"allow\n" } else { b"deny\n" })
}

/// Whether `setgroups` may be opened to be written.
///
/// # Errors
/// `EACCES`
pub(super) fn may_set_setgroups(target: &Target) -> Result<(), Errno> {
    let ns = namespace(target)?;
    if task::current().credentials().is_admin(&ns) { Ok(()) } else { Err(Errno::EACCES) }
}

pub(super) fn set_setgroups(target: &Target, file: &OpenFile, bytes: &[u8]) -> Result<(), Errno> {
    let allow = match bytes.trim_ascii_end() {
        b"allow" => true,
        b"deny" => false,
        _ => return Err(Errno::EINVAL),
    };
    user_ns::set_setgroups(&namespace(target)?, allow, file.credentials())
}
