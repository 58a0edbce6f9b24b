//! Extended attributes: the calls, and who may do what with which.
//!
//! File systems of memory keep attributes in their inodes; what stands for something else says itself
//! ([`Node::attributes`](super::node::Node::attributes)). Every other file system has none.
//!
//! | names | who |
//! |---|---|
//! | `user.*` | whoever may read or write the file, a regular one or a directory |
//! | `trusted.*` | admins of the machine; nobody else sees them |
//! | `security.*` | everybody reads; admins of the file system's user namespace write |
//!
//! Without security modules `security.*` means nothing to anybody here; programs keep file capabilities there, which are
//! not looked at when a program is run. Access control lists (`system.*`) are refused, as by a Linux that was built without.
//!
//! Sources: xattr(7), getxattr(2), setxattr(2), listxattr(2), removexattr(2).

use alloc::sync::Arc;
use alloc::vec::Vec;

use linux_raw_sys::general as abi;
use mnt_table::dentry::{Dentry, SuperBlock};
use mnt_table::walk::Last;
use mnt_table::{Mount, PathRef, UserNs};
use syscalls::credentials::Capabilities;
use syscalls::user_memory::structure;
use syscalls::{Credentials, Errno};
use tmpfs::{Set, TmpDentry, Value, mode};

use super::kernel::{Call, writing};
use super::permission::{READ, Subject, WRITE};
use super::{error, node};
use crate::mm::user;

const NAME_MAX: usize = abi::XATTR_NAME_MAX as usize;
const VALUE_MAX: usize = abi::XATTR_SIZE_MAX as usize;
const LIST_MAX: usize = abi::XATTR_LIST_MAX as usize;

const USER: &[u8] = b"user.";
const TRUSTED: &[u8] = b"trusted.";
const SECURITY: &[u8] = b"security.";
const CAPABILITY: &[u8] = b"security.capability";

/// The attributes of what stands for something else. Permissions of the caller were looked at.
pub(crate) trait Attributes {
    /// The value of `name`.
    ///
    /// # Errors
    /// `ENODATA`, `EOPNOTSUPP`.
    fn get(&self, dentry: &Arc<TmpDentry>, name: &[u8]) -> Result<Value, Errno>;

    /// Sets `name`.
    ///
    /// # Errors
    /// `EEXIST`, `ENODATA`, `EOPNOTSUPP`, `ENOSPC`, `ENOMEM`.
    fn set(&self, dentry: &Arc<TmpDentry>, name: &[u8], value: &[u8], set: Set) -> Result<(), Errno>;

    /// Takes `name` away.
    ///
    /// # Errors
    /// As [`Attributes::set`].
    fn remove(&self, dentry: &Arc<TmpDentry>, name: &[u8]) -> Result<(), Errno>;

    /// The names that `who` sees, each with a NUL behind it.
    ///
    /// # Errors
    /// `ENOMEM`.
    fn names(&self, dentry: &Arc<TmpDentry>, who: &Credentials) -> Result<Vec<u8>, Errno>;
}

/// Whether a file system of memory keeps the attribute `name` with `dentry`.
///
/// # Errors
/// `EOPNOTSUPP`; `EINVAL`: a prefix and no more.
fn kept(dentry: &TmpDentry, name: &[u8]) -> Result<(), Errno> {
    if !has_any(dentry) {
        return Err(Errno::EOPNOTSUPP);
    }
    let rest = [USER, TRUSTED, SECURITY].iter().find_map(|prefix| name.strip_prefix(*prefix));
    match rest {
        None => Err(Errno::EOPNOTSUPP),
        Some(b"") => Err(Errno::EINVAL),
        Some(_) => Ok(()),
    }
}

/// Whether files of this file system have attributes.
pub(crate) fn has_any(dentry: &TmpDentry) -> bool {
    dentry.handle().is_none() && matches!(dentry.super_block().fs_type(), b"tmpfs" | b"rootfs" | b"devtmpfs")
}

/// Whether `who` may see (`wanted` is [`READ`]) or change ([`WRITE`]) the attribute `name`.
///
/// # Errors
/// `EPERM`, `EACCES`; `ENODATA`: it may not even know.
fn may(
    mount: &Mount<TmpDentry>,
    dentry: &TmpDentry,
    who: &Credentials,
    name: &[u8],
    wanted: u32,
) -> Result<(), Errno> {
    let subject = Subject::new(mount, dentry);
    let refused = if wanted == WRITE { Errno::EPERM } else { Errno::ENODATA };
    if wanted == WRITE && subject.is_nobodys() {
        return Err(Errno::EPERM);
    }
    if name.starts_with(SECURITY) || name.starts_with(b"system.") {
        return Ok(());
    }
    if name.starts_with(TRUSTED) {
        return if who.is_admin(&UserNs::INITIAL) { Ok(()) } else { Err(refused) };
    }
    if name.starts_with(USER) {
        let bits = dentry.inode().mode();
        if !matches!(bits & mode::TYPE, mode::FILE | mode::DIRECTORY) {
            return Err(refused);
        }
        let sticky = bits & mode::TYPE == mode::DIRECTORY && bits & mode::STICKY != 0;
        if sticky && wanted == WRITE && !subject.is_owner(who) {
            return Err(Errno::EPERM);
        }
    }
    subject.may_access(who, wanted)
}

/// Whether `who` may change an attribute of `security.*`; `value` is what it is to be.
///
/// # Errors
/// `EPERM`; `EINVAL`: no capabilities of a file.
fn may_secure(
    mount: &Mount<TmpDentry>,
    dentry: &TmpDentry,
    who: &Credentials,
    name: &[u8],
    value: Option<&[u8]>,
) -> Result<(), Errno> {
    if name == CAPABILITY {
        if value.is_some_and(|value| !is_capability(value)) {
            return Err(Errno::EINVAL);
        }
        let may = Subject::new(mount, dentry).capable(who, Capabilities::SETFCAP);
        return if may { Ok(()) } else { Err(Errno::EPERM) };
    }
    if name.starts_with(SECURITY) && !who.is_admin(&dentry.super_block().user_ns()) {
        return Err(Errno::EPERM);
    }
    Ok(())
}

/// Whether these are capabilities of a file, of the second version or the third.
fn is_capability(value: &[u8]) -> bool {
    const REVISIONS: [(u8, usize); 2] = [(2, 20), (3, 24)];
    REVISIONS.iter().any(|(revision, size)| value.len() == *size && value[3] == *revision)
}

/// The value of the attribute `name`, as `who` sees it.
///
/// # Errors
/// `EACCES`, `ENODATA`, `EOPNOTSUPP`, `EINVAL`.
pub(crate) fn get(
    mount: &Mount<TmpDentry>,
    dentry: &Arc<TmpDentry>,
    who: &Credentials,
    name: &[u8],
) -> Result<Value, Errno> {
    may(mount, dentry, who, name, READ)?;
    if let Some(attributes) = node::of(dentry).and_then(|node| node.attributes()) {
        return attributes.get(dentry, name);
    }
    kept(dentry, name)?;
    dentry.inode().attribute(name).map_err(error)
}

/// Sets the attribute `name` for `who`, who writes through `mount`.
///
/// # Errors
/// `EPERM`, `EACCES`, `EEXIST`, `ENODATA`, `EOPNOTSUPP`, `EINVAL`, `ENOSPC`, `ENOMEM`.
pub(crate) fn set(
    mount: &Mount<TmpDentry>,
    dentry: &Arc<TmpDentry>,
    who: &Credentials,
    name: &[u8],
    value: &[u8],
    set: Set,
) -> Result<(), Errno> {
    if name == CAPABILITY {
        may_secure(mount, dentry, who, name, Some(value))?;
    }
    may(mount, dentry, who, name, WRITE)?;
    may_secure(mount, dentry, who, name, Some(value))?;
    if let Some(attributes) = node::of(dentry).and_then(|node| node.attributes()) {
        return attributes.set(dentry, name, value, set);
    }
    kept(dentry, name)?;
    dentry.inode().set_attribute(name, value, set).map_err(error)
}

/// Takes the attribute `name` away, as [`set`].
///
/// # Errors
/// As [`set`].
pub(crate) fn remove(
    mount: &Mount<TmpDentry>,
    dentry: &Arc<TmpDentry>,
    who: &Credentials,
    name: &[u8],
) -> Result<(), Errno> {
    may(mount, dentry, who, name, WRITE)?;
    may_secure(mount, dentry, who, name, None)?;
    if let Some(attributes) = node::of(dentry).and_then(|node| node.attributes()) {
        return attributes.remove(dentry, name);
    }
    kept(dentry, name)?;
    dentry.inode().remove_attribute(name).map_err(error)
}

/// The names that `who` sees, each with a NUL behind it.
///
/// # Errors
/// `ENOMEM`.
pub(crate) fn names(dentry: &Arc<TmpDentry>, who: &Credentials) -> Result<Vec<u8>, Errno> {
    if let Some(attributes) = node::of(dentry).and_then(|node| node.attributes()) {
        return attributes.names(dentry, who);
    }
    let all = who.is_admin(&UserNs::INITIAL);
    dentry.inode().attribute_names(|name| all || !name.starts_with(TRUSTED)).map_err(error)
}

/// A buffer of zeroes.
fn zeroed(size: usize) -> Result<Vec<u8>, Errno> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(size).map_err(|_| Errno::ENOMEM)?;
    bytes.resize(size, 0);
    Ok(bytes)
}

/// The name at `addr`.
fn name_at(call: &Call<'_>, addr: usize) -> Result<Vec<u8>, Errno> {
    match syscalls::user_memory::name(call, addr, NAME_MAX + 1) {
        Err(Errno::EINVAL) => Err(Errno::ERANGE),
        Ok(name) if name.is_empty() => Err(Errno::ERANGE),
        name => name,
    }
}

/// What a call is about.
#[derive(Clone, Copy)]
pub(crate) enum At {
    /// A path.
    Path(usize),
    /// A path, whose last component is not followed.
    Link(usize),
    /// An open file.
    File(i32),
    /// A path from a directory, and `AT_*` flags.
    From(i32, usize, u32),
}

impl At {
    fn find(self, call: &Call<'_>) -> Result<PathRef<TmpDentry>, Errno> {
        match self {
            At::Path(addr) => call.find(abi::AT_FDCWD, &call.text(addr)?, Last::Follow),
            At::Link(addr) => call.find(abi::AT_FDCWD, &call.text(addr)?, Last::NoFollow),
            At::File(fd) => super::attributes::place(call, fd),
            At::From(dfd, addr, flags) => call.find_at(dfd, addr, flags),
        }
    }

    /// # Errors
    /// `EINVAL`: unknown flags.
    fn check(self) -> Result<(), Errno> {
        match self {
            At::From(_, _, flags) if flags & !(abi::AT_SYMLINK_NOFOLLOW | abi::AT_EMPTY_PATH) != 0 => {
                Err(Errno::EINVAL)
            }
            _ => Ok(()),
        }
    }
}

/// Gives `bytes` to a caller that has room for `size`; 0 asks how many there are.
fn give(to: usize, size: usize, bytes: &[u8]) -> Result<usize, Errno> {
    if size != 0 {
        if bytes.len() > size {
            return Err(Errno::ERANGE);
        }
        user::write(to, bytes)?;
    }
    Ok(bytes.len())
}

/// getxattr(2) and its like.
pub(crate) fn getxattr(call: &Call<'_>, at: At, name: usize, to: usize, size: usize) -> Result<usize, Errno> {
    at.check()?;
    let name = name_at(call, name)?;
    let at = at.find(call)?;
    let value = get(&at.mount, &at.dentry, &call.credentials(), &name)?;
    give(to, size.min(VALUE_MAX), &value)
}

/// setxattr(2) and its like.
pub(crate) fn setxattr(
    call: &Call<'_>,
    at: At,
    name: usize,
    (value, size): (usize, usize),
    flags: u32,
) -> Result<usize, Errno> {
    at.check()?;
    const BOTH: u32 = abi::XATTR_CREATE | abi::XATTR_REPLACE;
    let how = match flags {
        0 => Set::Any,
        abi::XATTR_REPLACE => Set::Replace,
        abi::XATTR_CREATE | BOTH => Set::Create,
        _ => return Err(Errno::EINVAL),
    };
    let name = name_at(call, name)?;
    if size > VALUE_MAX {
        return Err(Errno::E2BIG);
    }
    let mut bytes = zeroed(size)?;
    user::read(value, &mut bytes)?;
    let at = at.find(call)?;
    let _writing = writing(&at.mount)?;
    let who = call.credentials();
    // What is there is in the way, and what is not there is missing.
    if flags == BOTH && get(&at.mount, &at.dentry, &who, &name) == Err(Errno::ENODATA) {
        return Err(Errno::ENODATA);
    }
    set(&at.mount, &at.dentry, &who, &name, &bytes, how)?;
    Ok(0)
}

/// listxattr(2) and its like.
pub(crate) fn listxattr(call: &Call<'_>, at: At, to: usize, size: usize) -> Result<usize, Errno> {
    at.check()?;
    let at = at.find(call)?;
    let names = names(&at.dentry, &call.credentials())?;
    match give(to, size.min(LIST_MAX), &names) {
        Err(Errno::ERANGE) if size >= LIST_MAX => Err(Errno::E2BIG),
        given => given,
    }
}

/// removexattr(2) and its like.
pub(crate) fn removexattr(call: &Call<'_>, at: At, name: usize) -> Result<usize, Errno> {
    at.check()?;
    let name = name_at(call, name)?;
    let at = at.find(call)?;
    let _writing = writing(&at.mount)?;
    remove(&at.mount, &at.dentry, &call.credentials(), &name)?;
    Ok(0)
}

/// The value's address and size, and flags, of a `struct xattr_args` of `size` bytes at `addr`.
///
/// # Errors
/// `EINVAL`, `E2BIG`, `EFAULT`.
fn arguments(call: &Call<'_>, addr: usize, size: usize) -> Result<(usize, usize, u32), Errno> {
    const SIZE: usize = 16;
    const PAGE: usize = 4096;
    if size < SIZE {
        return Err(Errno::EINVAL);
    }
    if size > PAGE {
        return Err(Errno::E2BIG);
    }
    let mut bytes = [0; SIZE];
    structure(call, addr, size, &mut bytes)?;
    let word = |at: usize| u32::from_le_bytes(core::array::from_fn(|byte| bytes[at + byte]));
    let value = u64::from(word(0)) | u64::from(word(4)) << 32;
    Ok((value as usize, word(8) as usize, word(12)))
}

/// getxattrat(2).
pub(crate) fn getxattrat(
    call: &Call<'_>,
    at: At,
    name: usize,
    args: usize,
    size: usize,
) -> Result<usize, Errno> {
    let (value, room, flags) = arguments(call, args, size)?;
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    getxattr(call, at, name, value, room)
}

/// setxattrat(2).
pub(crate) fn setxattrat(
    call: &Call<'_>,
    at: At,
    name: usize,
    args: usize,
    size: usize,
) -> Result<usize, Errno> {
    let (value, len, flags) = arguments(call, args, size)?;
    setxattr(call, at, name, (value, len), flags)
}
