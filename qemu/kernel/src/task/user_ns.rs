//! What is written to `/proc/PID/{uid_map,gid_map,setgroups}` (user_namespaces(7)).

use alloc::sync::Arc;
use alloc::vec::Vec;

use mnt_table::UserNs;
use mnt_table::user_ns::IdRange;
use syscalls::credentials::Capabilities;
use syscalls::ids::Kind;
use syscalls::{Credentials, Errno};

/// The most lines of a map.
const LINES_MAX: usize = 340;

/// Sets the map of `ns` of one kind. `opener` is who opened the file, `writer` who writes it; both must be allowed to.
///
/// # Errors
/// `EPERM`: it is set, or not allowed; the opener is neither in `ns` nor in its parent; the parent does not map the ids itself. `EINVAL`: it makes no sense: empty, too long, ranges that overlap or wrap.
pub(crate) fn set_map(
    ns: &UserNs,
    kind: Kind,
    ranges: Vec<IdRange>,
    opener: &Credentials,
    writer: &Credentials,
) -> Result<(), Errno> {
    let parent = ns.parent().ok_or(Errno::EPERM)?;
    let is_set = match kind {
        Kind::Users => ns.has_uids(),
        Kind::Groups => ns.has_gids(),
    };
    let stranger = opener.user_ns != *ns && opener.user_ns != *parent;
    if stranger || is_set || !opener.is_admin(ns) {
        return Err(Errno::EPERM);
    }
    check(&ranges)?;
    let without_setgroups = may_map(ns, parent, kind, &ranges, opener, writer)?;
    // The outer ids must be of the parent, and together there.
    let whole = |range: &IdRange| {
        let last = range.count - 1;
        let ends = kind.absolute(parent, range.outside).zip(kind.absolute(parent, range.outside + last));
        ends.is_some_and(|(first, end)| end.wrapping_sub(first) == last)
    };
    if !ranges.iter().all(whole) {
        return Err(Errno::EPERM);
    }
    let ranges: Arc<[IdRange]> = ranges.into();
    let set = match kind {
        Kind::Users => ns.set_uids(ranges),
        Kind::Groups => ns.set_gids(ranges, without_setgroups),
    };
    set.map_err(|_| Errno::EPERM)
}

fn check(ranges: &[IdRange]) -> Result<(), Errno> {
    if ranges.is_empty() || ranges.len() > LINES_MAX {
        return Err(Errno::EINVAL);
    }
    let fits = |range: &IdRange| {
        range.count != 0
            && range.inside != u32::MAX
            && range.outside != u32::MAX
            && range.inside.checked_add(range.count).is_some()
            && range.outside.checked_add(range.count).is_some()
    };
    let overlap = |a: u32, b: u32, x: &IdRange, y: &IdRange| a < b + y.count && b < a + x.count;
    let sound = ranges.iter().enumerate().all(|(index, range)| {
        fits(range)
            && ranges[..index].iter().all(|other| {
                !overlap(range.inside, other.inside, range, other)
                    && !overlap(range.outside, other.outside, range, other)
            })
    });
    if sound { Ok(()) } else { Err(Errno::EINVAL) }
}

/// Whether such a map may be written; `true` if that is only so as long as setgroups(2) is forbidden.
fn may_map(
    ns: &UserNs,
    parent: &UserNs,
    kind: Kind,
    ranges: &[IdRange],
    opener: &Credentials,
    writer: &Credentials,
) -> Result<bool, Errno> {
    // The root of the parent can give capabilities to files, so whoever maps it from there has to be able to.
    let maps_root = kind == Kind::Users && ranges.iter().any(|range| range.outside == 0);
    if maps_root && opener.user_ns == *parent && !opener.capable(parent, Capabilities::SETFCAP) {
        return Err(Errno::EPERM);
    }
    // Its own id is everybody's to map, who made the namespace.
    if let [range] = ranges
        && range.count == 1
        && ns.owner() == opener.euid
    {
        let own = match kind {
            Kind::Users => opener.euid,
            Kind::Groups => opener.egid,
        };
        if kind.absolute(parent, range.outside) == Some(own) {
            match kind {
                Kind::Users => return Ok(false),
                Kind::Groups if !ns.setgroups() => return Ok(true),
                Kind::Groups => {}
            }
        }
    }
    let capability = match kind {
        Kind::Users => Capabilities::SETUID,
        Kind::Groups => Capabilities::SETGID,
    };
    let may = writer.capable(parent, capability) && opener.capable(parent, capability);
    if may { Ok(false) } else { Err(Errno::EPERM) }
}

/// Writes `/proc/PID/setgroups`.
///
/// # Errors
/// `EPERM`.
pub(crate) fn set_setgroups(ns: &UserNs, allow: bool, writer: &Credentials) -> Result<(), Errno> {
    if !writer.is_admin(ns) {
        return Err(Errno::EPERM);
    }
    ns.set_setgroups(allow).map_err(|_| Errno::EPERM)
}
