//! Words for flags, and numbers as C programs write them.

use linux_raw_sys::general as abi;

/// Words and bits.
pub type Table = [(&'static str, u64)];

/// Words of mount(8)'s `-o` for flags of mount(2).
pub const MOUNT: &Table = &[
    ("ro", abi::MS_RDONLY as u64),
    ("rw", 0),
    ("nosuid", abi::MS_NOSUID as u64),
    ("nodev", abi::MS_NODEV as u64),
    ("noexec", abi::MS_NOEXEC as u64),
    ("noatime", abi::MS_NOATIME as u64),
    ("nodiratime", abi::MS_NODIRATIME as u64),
    ("relatime", abi::MS_RELATIME as u64),
    ("strictatime", abi::MS_STRICTATIME as u64),
    ("nosymfollow", abi::MS_NOSYMFOLLOW as u64),
    ("sync", abi::MS_SYNCHRONOUS as u64),
    ("dirsync", abi::MS_DIRSYNC as u64),
    ("mand", abi::MS_MANDLOCK as u64),
    ("lazytime", abi::MS_LAZYTIME as u64),
    ("silent", abi::MS_SILENT as u64),
    ("remount", abi::MS_REMOUNT as u64),
    ("bind", abi::MS_BIND as u64),
];

/// Words for `MOUNT_ATTR_*`.
pub const ATTRIBUTES: &Table = &[
    ("ro", abi::MOUNT_ATTR_RDONLY as u64),
    ("nosuid", abi::MOUNT_ATTR_NOSUID as u64),
    ("nodev", abi::MOUNT_ATTR_NODEV as u64),
    ("noexec", abi::MOUNT_ATTR_NOEXEC as u64),
    ("relatime", abi::MOUNT_ATTR_RELATIME as u64),
    ("noatime", abi::MOUNT_ATTR_NOATIME as u64),
    ("strictatime", abi::MOUNT_ATTR_STRICTATIME as u64),
    ("atime", abi::MOUNT_ATTR__ATIME as u64),
    ("nodiratime", abi::MOUNT_ATTR_NODIRATIME as u64),
    ("nosymfollow", abi::MOUNT_ATTR_NOSYMFOLLOW as u64),
    ("idmap", abi::MOUNT_ATTR_IDMAP as u64),
];

/// Propagation types.
pub const TYPES: &Table = &[
    ("shared", abi::MS_SHARED as u64),
    ("slave", abi::MS_SLAVE as u64),
    ("private", abi::MS_PRIVATE as u64),
    ("unbindable", abi::MS_UNBINDABLE as u64),
];

/// What statmount(2) is asked for.
pub const STATMOUNT: &Table = &[
    ("sb-basic", abi::STATMOUNT_SB_BASIC as u64),
    ("basic", abi::STATMOUNT_MNT_BASIC as u64),
    ("from", abi::STATMOUNT_PROPAGATE_FROM as u64),
    ("root", abi::STATMOUNT_MNT_ROOT as u64),
    ("point", abi::STATMOUNT_MNT_POINT as u64),
    ("type", abi::STATMOUNT_FS_TYPE as u64),
    ("ns", abi::STATMOUNT_MNT_NS_ID as u64),
    ("opts", abi::STATMOUNT_MNT_OPTS as u64),
    ("subtype", abi::STATMOUNT_FS_SUBTYPE as u64),
    ("source", abi::STATMOUNT_SB_SOURCE as u64),
    ("opt-array", abi::STATMOUNT_OPT_ARRAY as u64),
    ("sec-array", abi::STATMOUNT_OPT_SEC_ARRAY as u64),
    ("supported", abi::STATMOUNT_SUPPORTED_MASK as u64),
    ("uidmap", abi::STATMOUNT_MNT_UIDMAP as u64),
    ("gidmap", abi::STATMOUNT_MNT_GIDMAP as u64),
];

/// Words for `RESOLVE_*`.
pub const RESOLVE: &Table = &[
    ("no-xdev", abi::RESOLVE_NO_XDEV as u64),
    ("no-magiclinks", abi::RESOLVE_NO_MAGICLINKS as u64),
    ("no-symlinks", abi::RESOLVE_NO_SYMLINKS as u64),
    ("beneath", abi::RESOLVE_BENEATH as u64),
    ("in-root", abi::RESOLVE_IN_ROOT as u64),
    ("cached", abi::RESOLVE_CACHED as u64),
];

/// Words for capabilities.
pub const CAPABILITIES: &Table = &[
    ("dac_override", 1 << abi::CAP_DAC_OVERRIDE),
    ("dac_read_search", 1 << abi::CAP_DAC_READ_SEARCH),
    ("sys_chroot", 1 << abi::CAP_SYS_CHROOT),
    ("sys_admin", 1 << abi::CAP_SYS_ADMIN),
    ("mknod", 1 << abi::CAP_MKNOD),
];

/// A table of constants by their own names.
macro_rules! constants {
    ($($name:ident)*) => { &[$((stringify!($name), abi::$name as i64 as u64)),*] };
}

/// Constants that `raw` and others know by name.
const CONSTANTS: &Table = constants![
    MS_RDONLY MS_NOSUID MS_NODEV MS_NOEXEC MS_SYNCHRONOUS MS_REMOUNT MS_MANDLOCK MS_DIRSYNC MS_NOSYMFOLLOW MS_NOATIME
    MS_NODIRATIME MS_BIND MS_MOVE MS_REC MS_SILENT MS_POSIXACL MS_UNBINDABLE MS_PRIVATE MS_SLAVE MS_SHARED MS_RELATIME
    MS_KERNMOUNT MS_I_VERSION MS_STRICTATIME MS_LAZYTIME MNT_FORCE MNT_DETACH MNT_EXPIRE UMOUNT_NOFOLLOW AT_FDCWD
    AT_SYMLINK_NOFOLLOW AT_NO_AUTOMOUNT AT_EMPTY_PATH AT_RECURSIVE AT_REMOVEDIR OPEN_TREE_CLONE OPEN_TREE_CLOEXEC
    MOVE_MOUNT_F_SYMLINKS MOVE_MOUNT_F_EMPTY_PATH MOVE_MOUNT_T_SYMLINKS MOVE_MOUNT_T_EMPTY_PATH MOVE_MOUNT_SET_GROUP
    MOVE_MOUNT_BENEATH FSOPEN_CLOEXEC FSMOUNT_CLOEXEC FSPICK_CLOEXEC FSPICK_SYMLINK_NOFOLLOW FSPICK_EMPTY_PATH
    MOUNT_ATTR_RDONLY MOUNT_ATTR_NOSUID MOUNT_ATTR_NODEV MOUNT_ATTR_NOEXEC MOUNT_ATTR_NOATIME MOUNT_ATTR_STRICTATIME
    MOUNT_ATTR__ATIME MOUNT_ATTR_NODIRATIME MOUNT_ATTR_IDMAP MOUNT_ATTR_NOSYMFOLLOW CLONE_NEWNS CLONE_NEWUSER CLONE_FS
    CLONE_FILES CLONE_NEWPID O_RDONLY O_WRONLY O_RDWR O_CREAT O_EXCL O_TRUNC O_DIRECTORY O_NOFOLLOW O_PATH O_CLOEXEC LSMT_ROOT
    RESOLVE_NO_XDEV RESOLVE_BENEATH RESOLVE_IN_ROOT STATMOUNT_SB_BASIC STATMOUNT_MNT_BASIC STATMOUNT_MNT_ROOT
    STATMOUNT_MNT_POINT STATMOUNT_FS_TYPE STATX_MNT_ID STATX_MNT_ID_UNIQUE
];

/// Numbers and names of constants with bars between.
pub(super) fn number(text: &str) -> Result<u64, String> {
    text.split('|').try_fold(0, |bits, word| {
        let known = CONSTANTS.iter().find(|(name, _)| *name == word).map(|(_, bits)| *bits);
        let plain = || match word.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16).ok(),
            None => word.parse().ok().or_else(|| word.parse::<i64>().ok().map(|number| number as u64)),
        };
        known.or_else(plain).map(|more| bits | more).ok_or_else(|| format!("`{word}` is no number"))
    })
}

/// The bits of the words of `text`, with commas between.
pub(super) fn bits(text: &str, table: &Table) -> Result<u64, String> {
    text.split(',').filter(|word| !word.is_empty()).try_fold(0, |bits, word| {
        let known = table.iter().find(|(name, _)| *name == word).map(|(_, bits)| *bits);
        known.map_or_else(|| number(word), Ok).map(|more| bits | more)
    })
}

/// The words for `bits`, with commas between; what has none is a number.
pub fn spell(mut bits: u64, table: &Table) -> String {
    let mut words = Vec::new();
    for (name, bit) in table.iter().filter(|(_, bit)| bit.is_power_of_two()) {
        if bits & bit != 0 {
            words.push((*name).to_owned());
            bits &= !bit;
        }
    }
    if bits != 0 {
        words.push(format!("{bits:#x}"));
    }
    words.join(",")
}
