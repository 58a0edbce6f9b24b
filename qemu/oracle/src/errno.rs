//! Error numbers and their names.

use linux_raw_sys::errno as abi;

/// A list of names of this crate's numbers, each beside its number.
macro_rules! names {
    ($($name:ident)*) => { &[$((stringify!($name), abi::$name)),*] };
}

/// The errors that calls about mounts and files have.
const NAMES: &[(&str, u32)] = names![
    EPERM ENOENT ESRCH EINTR EIO ENXIO E2BIG ENOEXEC EBADF ECHILD EAGAIN ENOMEM EACCES EFAULT ENOTBLK EBUSY EEXIST EXDEV
    ENODEV ENOTDIR EISDIR EINVAL ENFILE EMFILE ENOTTY ETXTBSY EFBIG ENOSPC ESPIPE EROFS EMLINK EPIPE EDOM ERANGE
    ENAMETOOLONG ENOSYS ENOTEMPTY ELOOP ENODATA EOVERFLOW EUSERS EOPNOTSUPP ESTALE EMSGSIZE
];

/// The name of `number`, or the number.
pub fn name(number: u32) -> String {
    let known = NAMES.iter().find(|(_, known)| *known == number);
    known.map_or_else(|| format!("E{number}"), |(name, _)| (*name).to_owned())
}

/// The number of `name`.
pub fn number(name: &str) -> Option<u32> {
    let known = NAMES.iter().find(|(known, _)| *known == name);
    known.map(|(_, number)| *number).or_else(|| name.strip_prefix('E')?.parse().ok())
}
