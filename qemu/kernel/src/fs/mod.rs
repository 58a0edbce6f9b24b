//! Files: descriptors, open files, the calls about them, and file systems.
//!
//! | Module | What |
//! |---|---|
//! | [`file`] | open files, and what kinds of them do |
//! | [`copy`] | where reads put bytes and writes take them from |
//! | [`fd`], [`descriptors`], [`locks`] | descriptor tables; the calls about them; flock(2) and record locks |
//! | [`calls`], [`kernel`] | the system calls; one call, and what `syscalls` asks of the kernel for it |
//! | [`open`], [`exec`], [`io`], [`names`], [`stat`], [`attributes`] | what the calls do |
//! | [`permission`], [`xattr`] | who may do what; extended attributes |
//! | [`regular`], [`pipe`], [`memfd`], [`anon`], [`node`] | kinds of files |
//! | [`types`], [`memory_types`], [`overlay`] | file system types; tmpfs and ramfs; overlayfs |
//! | [`pseudo`] | those in which the kernel shows itself: [`proc`], [`sysfs`], [`devtmpfs`], [`devpts`], [`nsfs`], [`mqueue`] |
//! | [`initramfs`], [`boot`] | the first files, and the first mounts |
//!
//! No rule of mounts is here: paths are walked by `mnt-table`, and what a mount allows is for `syscalls` to say.
//!
//! # Lock order
//! An open file's `offset` → a file's `writing` → a pipe's `data` (all of them block) → locks of the mount table → spin
//! locks, all of which are leaves here. User memory is touched under the blocking ones only, and none of those is taken
//! by a page fault.

use alloc::sync::Arc;

use linux_raw_sys::general as abi;
use syscalls::Errno;
use syscalls::credentials::Capabilities;
use tmpfs::{FsError, TmpDentry, mode};

use crate::mm::user;
use crate::task::{self, Thread};
use file::OpenFile;
use permission::is_member;

pub(crate) mod anon;
pub(crate) mod attributes;
pub(crate) mod boot;
pub(crate) mod calls;
pub(crate) mod copy;
pub(crate) mod descriptors;
pub(crate) mod devpts;
mod devtmpfs;
pub(crate) mod exec;
pub(crate) mod fd;
pub(crate) mod file;
pub(crate) mod initramfs;
pub(crate) mod io;
pub(crate) mod kernel;
pub(crate) mod locks;
pub(crate) mod memfd;
pub(crate) mod memory_types;
pub(crate) mod mounts_file;
mod mqueue;
pub(crate) mod names;
pub(crate) mod node;
pub(crate) mod nsfs;
pub(crate) mod open;
mod overlay;
pub(crate) mod permission;
pub(crate) mod pipe;
pub(crate) mod proc;
pub(crate) mod pseudo;
pub(crate) mod regular;
mod singles;
pub(crate) mod stand_in;
pub(crate) mod stat;
mod sysfs;
pub(crate) mod types;
pub(crate) mod xattr;

pub(crate) use names::{find_socket, make_socket};

/// What an error of a file system is to user space.
pub(crate) fn error(failure: FsError) -> Errno {
    match failure {
        FsError::NotFound => Errno::ENOENT,
        FsError::NotDirectory => Errno::ENOTDIR,
        FsError::IsDirectory => Errno::EISDIR,
        FsError::Exists => Errno::EEXIST,
        FsError::NotEmpty => Errno::ENOTEMPTY,
        FsError::Busy => Errno::EBUSY,
        FsError::BadName | FsError::IntoItself | FsError::NotFile | FsError::BadLimit => Errno::EINVAL,
        FsError::NotPermitted | FsError::Sealed => Errno::EPERM,
        FsError::TooManyLinks => Errno::EMLINK,
        FsError::NoAttribute => Errno::ENODATA,
        FsError::NoSpace => Errno::ENOSPC,
        FsError::BeyondEnd => Errno::EFAULT,
        FsError::NoSuchByte => Errno::ENXIO,
        FsError::Run => Errno::ETXTBSY,
        FsError::NameTooLong => Errno::ENAMETOOLONG,
        FsError::CrossDevice => Errno::EXDEV,
        FsError::ReadOnly => Errno::EROFS,
        FsError::TooBig => Errno::EFBIG,
        FsError::NoMemory => Errno::ENOMEM,
    }
}

/// A device's number as stat(2) has it.
pub(crate) fn device_number(major: u32, minor: u32) -> u64 {
    u64::from(minor & 0xff) | u64::from(major) << 8 | u64::from(minor & !0xff) << 12
}

/// Major and minor of a device's number.
pub(crate) fn device_parts(number: u64) -> (u32, u32) {
    let number = number as u32;
    (number >> 8 & 0xfff, number & 0xff | number >> 12 & 0xf_ff00)
}

/// What tells a file from all others, for mappings.
pub(crate) fn identity((dev, ino): (u32, u64)) -> u64 {
    const INO_BITS: u32 = 40;
    u64::from(dev) << INO_BITS ^ ino
}

/// How many descriptors `thread` may have.
pub(crate) fn nofile(thread: &Thread) -> usize {
    usize::try_from(thread.process().limit(abi::RLIMIT_NOFILE).soft).unwrap_or(usize::MAX)
}

/// Gives `file` the lowest free descriptor of the running thread.
///
/// # Errors
/// `EMFILE`, `ENOMEM`; `file` is dropped then.
pub(crate) fn install(file: Arc<OpenFile>, cloexec: bool) -> Result<usize, Errno> {
    install_for(&task::current(), file, cloexec)
}

fn install_for(thread: &Thread, file: Arc<OpenFile>, cloexec: bool) -> Result<usize, Errno> {
    thread.files().install(file, 0, nofile(thread), cloexec).map(|fd| fd as usize)
}

/// Gives two files descriptors of the running thread and stores those at `to`, an `int[2]`; or does nothing.
///
/// # Errors
/// `EMFILE`, `ENOMEM`, `EFAULT`.
pub(crate) fn install_pair(
    [first, second]: [Arc<OpenFile>; 2],
    cloexec: bool,
    to: usize,
) -> Result<usize, Errno> {
    let thread = task::current();
    let files = thread.files();
    let first = install_for(&thread, first, cloexec)? as i32;
    let stored = install_for(&thread, second, cloexec).and_then(|second| {
        let stored = user::put(to, [first, second as i32]);
        if stored.is_err() {
            let _ = files.close(second as i32);
        }
        stored
    });
    if stored.is_err() {
        let _ = files.close(first);
    }
    stored.map(|()| 0)
}

/// The permissions of a new entry of `directory`, of which `bits` were asked for: without those of the umask, and without a
/// set-group-id bit for a group that comes from the directory and that the caller is not in.
pub(crate) fn creation_mode(thread: &Thread, directory: &TmpDentry, bits: u32) -> u32 {
    const GROUP_EXEC: u32 = 0o010;
    let mut bits = bits;
    let inherits = directory.inode().mode() & mode::SET_GID != 0;
    if inherits && bits & (mode::SET_GID | GROUP_EXEC) == mode::SET_GID | GROUP_EXEC {
        let who = thread.acting();
        if !is_member(&who, directory.inode().owner().1) && !who.effective.contains(Capabilities::FSETID) {
            bits &= !mode::SET_GID;
        }
    }
    bits & !umask(thread)
}

/// How many bytes a file may grow from `at` on (`RLIMIT_FSIZE`).
///
/// # Errors
/// `EFBIG`, and a signal: none.
pub(crate) fn room_below_limit(at: u64) -> Result<usize, Errno> {
    let limit = task::with_current(|thread| thread.process().limit(abi::RLIMIT_FSIZE).soft);
    let limit = limit.unwrap_or(u64::MAX);
    if at < limit {
        return Ok(usize::try_from(limit - at).unwrap_or(usize::MAX));
    }
    task::signal::send_to_thread(&task::current(), task::signal::Info::kernel(abi::SIGXFSZ));
    Err(Errno::EFBIG)
}

/// Permission bits that new files do not get.
pub(crate) fn umask(thread: &Thread) -> u32 {
    thread.mounts().fs().umask()
}

/// Sets [`umask`]; returns the old one.
pub(crate) fn set_umask(thread: &Thread, umask: u32) -> u32 {
    thread.mounts().fs().set_umask(umask & 0o777)
}
