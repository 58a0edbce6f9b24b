//! The flags of a mount in the words of each interface: `MS_*` of mount(2), `MOUNT_ATTR_*` of the newer calls, `ST_*` of
//! statfs(2), and the words of listings.

use linux_raw_sys::general as abi;
use mnt_table::MountFlags;

use crate::Errno;
use crate::file_system::SuperFlags;
use crate::mountinfo::OptionFlags;

/// A flag in each of them. Access times are apart, but for the words of listings.
const FLAGS: [(MountFlags, u32, u32, OptionFlags); 6] = [
    (MountFlags::READONLY, abi::MS_RDONLY, abi::MOUNT_ATTR_RDONLY, OptionFlags::RDONLY),
    (MountFlags::NOSUID, abi::MS_NOSUID, abi::MOUNT_ATTR_NOSUID, OptionFlags::NOSUID),
    (MountFlags::NODEV, abi::MS_NODEV, abi::MOUNT_ATTR_NODEV, OptionFlags::NODEV),
    (MountFlags::NOEXEC, abi::MS_NOEXEC, abi::MOUNT_ATTR_NOEXEC, OptionFlags::NOEXEC),
    (MountFlags::NODIRATIME, abi::MS_NODIRATIME, abi::MOUNT_ATTR_NODIRATIME, OptionFlags::NODIRATIME),
    (MountFlags::NOSYMFOLLOW, abi::MS_NOSYMFOLLOW, abi::MOUNT_ATTR_NOSYMFOLLOW, OptionFlags::NOSYMFOLLOW),
];

const TIMES: [(MountFlags, OptionFlags); 2] =
    [(MountFlags::NOATIME, OptionFlags::NOATIME), (MountFlags::RELATIME, OptionFlags::RELATIME)];

/// What a lock keeps set.
const LOCKS: [(MountFlags, MountFlags); 4] = [
    (MountFlags::LOCK_READONLY, MountFlags::READONLY),
    (MountFlags::LOCK_NOSUID, MountFlags::NOSUID),
    (MountFlags::LOCK_NODEV, MountFlags::NODEV),
    (MountFlags::LOCK_NOEXEC, MountFlags::NOEXEC),
];

/// The per-mount flags in the flags of mount(2).
pub fn from_ms(flags: u32) -> MountFlags {
    let mut found: MountFlags =
        FLAGS.iter().filter(|(_, ms, ..)| flags & ms != 0).map(|(flag, ..)| *flag).collect();
    let relative = flags & abi::MS_NOATIME == 0;
    found |= if relative { MountFlags::RELATIME } else { MountFlags::NOATIME };
    if flags & abi::MS_STRICTATIME != 0 {
        found.remove(MountFlags::RELATIME | MountFlags::NOATIME);
    }
    found
}

/// As [`from_ms`], for a remount of a mount that has `old`: one that does not speak of access times leaves them as they
/// are.
pub fn remounted(flags: u32, old: MountFlags) -> MountFlags {
    let says_times = abi::MS_NOATIME | abi::MS_NODIRATIME | abi::MS_RELATIME | abi::MS_STRICTATIME;
    let new = from_ms(flags);
    if flags & says_times != 0 {
        return new;
    }
    new.difference(MountFlags::TIMES) | old.intersection(MountFlags::TIMES)
}

/// The per-mount flags in `MOUNT_ATTR_*`, access times aside but for `NODIRATIME`.
pub fn from_attr(attr: u64) -> MountFlags {
    FLAGS.iter().filter(|(_, _, bit, _)| attr & u64::from(*bit) != 0).map(|(flag, ..)| *flag).collect()
}

/// The kind of access times in `MOUNT_ATTR_*`.
///
/// # Errors
/// `EINVAL`: more than one.
pub fn times_from_attr(attr: u64) -> Result<MountFlags, Errno> {
    match attr as u32 & abi::MOUNT_ATTR__ATIME {
        abi::MOUNT_ATTR_RELATIME => Ok(MountFlags::RELATIME),
        abi::MOUNT_ATTR_NOATIME => Ok(MountFlags::NOATIME),
        abi::MOUNT_ATTR_STRICTATIME => Ok(MountFlags::empty()),
        _ => Err(Errno::EINVAL),
    }
}

/// The per-mount flags as `MOUNT_ATTR_*`.
pub fn to_attr(flags: MountFlags) -> u64 {
    let times = if flags.contains(MountFlags::NOATIME) {
        abi::MOUNT_ATTR_NOATIME
    } else if flags.contains(MountFlags::RELATIME) {
        abi::MOUNT_ATTR_RELATIME
    } else {
        abi::MOUNT_ATTR_STRICTATIME
    };
    let others = FLAGS.iter().filter(|(flag, ..)| flags.contains(*flag));
    u64::from(others.fold(times, |attr, (_, _, bit, _)| attr | bit))
}

/// The words that listings have for them.
pub fn to_options(flags: MountFlags) -> OptionFlags {
    let others = FLAGS.iter().map(|(flag, _, _, word)| (*flag, *word));
    others.chain(TIMES).filter(|(flag, _)| flags.contains(*flag)).map(|(_, word)| word).collect()
}

/// The flags of a mount and its superblock as statfs(2) shows them: `ST_*`, and a bit that says that they are valid. No crate
/// has these numbers.
pub fn to_statfs(mount: MountFlags, super_block: SuperFlags) -> u64 {
    const VALID: u64 = 0x20;
    const MOUNT: [(MountFlags, u64); 8] = [
        (MountFlags::READONLY, 1),
        (MountFlags::NOSUID, 2),
        (MountFlags::NODEV, 4),
        (MountFlags::NOEXEC, 8),
        (MountFlags::NOATIME, 0x400),
        (MountFlags::NODIRATIME, 0x800),
        (MountFlags::RELATIME, 0x1000),
        (MountFlags::NOSYMFOLLOW, 0x2000),
    ];
    const SUPER: [(SuperFlags, u64); 3] =
        [(SuperFlags::RDONLY, 1), (SuperFlags::SYNCHRONOUS, 0x10), (SuperFlags::MANDLOCK, 0x40)];
    let of_mount = MOUNT.iter().filter(|(flag, _)| mount.contains(*flag)).map(|(_, bit)| bit);
    let of_super = SUPER.iter().filter(|(flag, _)| super_block.contains(*flag)).map(|(_, bit)| bit);
    of_mount.chain(of_super).fold(VALID, |bits, bit| bits | bit)
}

/// Whether a mount that has `old` may get `new`: no locked restriction is lifted, and locked access times stay.
pub fn locks_allow(old: MountFlags, new: MountFlags) -> bool {
    let kept = LOCKS.iter().all(|(lock, flag)| !old.contains(*lock) || new.contains(*flag));
    let times = |flags: MountFlags| flags.intersection(MountFlags::TIMES);
    kept && (!old.contains(MountFlags::LOCK_ATIME) || times(old) == times(new))
}

/// `new` for what a user can set, and the locks of `old`.
pub fn keeping_locks(old: MountFlags, new: MountFlags) -> MountFlags {
    old.difference(MountFlags::USER) | new.intersection(MountFlags::USER)
}
