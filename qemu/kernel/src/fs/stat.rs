//! What stat(2), statx(2) and statfs(2) tell.

use alloc::sync::Arc;

use linux_raw_sys::general as abi;
use mnt_table::Mount;
use mnt_table::dentry::Dentry;
use mnt_table::walk::{How, Last, walk_how};
use syscalls::attributes::to_statfs;
use syscalls::ids::Kind;
use syscalls::{Credentials, Errno};
use tmpfs::{PAGE_SIZE, Times, TmpDentry, mode};

use super::kernel::Call;
use super::node::Identity;
use super::permission::{owner, told};
use super::{device_number, device_parts, node, types};
use crate::mm::user;

/// The attributes of a file as somebody sees them.
#[derive(Clone, Copy)]
struct Stat {
    dev: u32,
    ino: u64,
    mode: u32,
    names: u32,
    uid: u32,
    gid: u32,
    rdev: u64,
    size: u64,
    blocks: u64,
    times: Times,
    mount: u64,
    unique_mount: u64,
    is_root: bool,
}

/// What tells a file from others, and how many names it has, as stat(2) tells it.
///
/// Context: may be pinned; never blocks.
pub(crate) fn identity(dentry: &TmpDentry) -> Identity {
    let node = node::of(dentry);
    node.and_then(|node| node.identity(dentry)).unwrap_or_else(|| Identity {
        dev: dentry.super_block().dev(),
        ino: node.and_then(|node| node.ino()).unwrap_or_else(|| dentry.inode().ino()),
        names: dentry.inode().names(),
    })
}

/// The inode's number of a dentry.
pub(crate) fn ino(dentry: &TmpDentry) -> u64 {
    identity(dentry).ino
}

/// Context: may be pinned; never blocks.
fn look(mount: &Mount<TmpDentry>, dentry: &Arc<TmpDentry>, who: &Credentials) -> Stat {
    /// What a directory's entry counts, `.` and `..` included.
    const ENTRY: u64 = 20;
    const SECTOR: u64 = 512;
    let real = node::real(dentry);
    let inode = real.inode();
    let (uid, gid) = owner(mount, dentry.inode());
    let (mut size, mut blocks) = (0, 0);
    match inode.contents() {
        Some(contents) => {
            let (bytes, pages) = contents.size_and_pages();
            (size, blocks) = (bytes, pages * (PAGE_SIZE as u64 / SECTOR));
        }
        None if inode.file_type() == mode::DIRECTORY => {
            if matches!(real.super_block().fs_type(), b"tmpfs" | b"rootfs" | b"devtmpfs") {
                size = ENTRY * (2 + real.entry_count().unwrap_or(0) as u64);
            }
        }
        None => match dentry.symlink() {
            Some(target) => {
                size = target.len() as u64;
                blocks = inode.pages() * (PAGE_SIZE as u64 / SECTOR);
            }
            None => size = node::of(dentry).map_or(0, |node| node.size()),
        },
    }
    let told = |kind, id| {
        if who.user_ns.is_initial() && id != u32::MAX { id } else { told(kind, &who.user_ns, id) }
    };
    let (mut names, times) = inode.names_and_times();
    let (mut dev, mut ino) = (dentry.super_block().dev(), inode.ino());
    if dentry.handle().is_some() {
        let identity = identity(dentry);
        (dev, ino) = (identity.dev, identity.ino);
        if !Arc::ptr_eq(real, dentry) {
            names = identity.names;
        }
    }
    Stat {
        dev,
        ino,
        mode: inode.mode(),
        names,
        uid: told(Kind::Users, uid),
        gid: told(Kind::Groups, gid),
        rdev: inode.rdev(),
        size,
        blocks,
        times,
        mount: mount.id().into(),
        unique_mount: mount.unique_id(),
        is_root: Arc::ptr_eq(dentry, mount.root()),
    }
}

/// Nanoseconds since 1970 in seconds and the rest.
fn split(ns: i64) -> [u64; 2] {
    const NS: i64 = 1_000_000_000;
    [ns.div_euclid(NS) as u64, ns.rem_euclid(NS) as u64]
}

impl Stat {
    /// As `struct stat`.
    fn words(&self) -> [u64; 18] {
        let mut words = [0; 18];
        words[0] = device_number(0, self.dev);
        words[1] = self.ino;
        words[2] = self.names.into();
        words[3] = u64::from(self.mode) | u64::from(self.uid) << 32;
        words[4] = self.gid.into();
        words[5] = self.rdev;
        words[6] = self.size;
        words[7] = PAGE_SIZE as u64;
        words[8] = self.blocks;
        words[9..11].copy_from_slice(&split(self.times.accessed));
        words[11..13].copy_from_slice(&split(self.times.modified));
        words[13..15].copy_from_slice(&split(self.times.changed));
        words
    }

    /// As `struct statx`.
    fn extended(&self, wanted: u32) -> [u64; 32] {
        let unique = wanted & abi::STATX_MNT_ID_UNIQUE != 0;
        let told = abi::STATX_BASIC_STATS
            | abi::STATX_BTIME
            | if unique { abi::STATX_MNT_ID_UNIQUE } else { abi::STATX_MNT_ID };
        let mut words = [0; 32];
        words[0] = u64::from(told) | (PAGE_SIZE as u64) << 32;
        words[1] = if self.is_root { abi::STATX_ATTR_MOUNT_ROOT.into() } else { 0 };
        words[2] = u64::from(self.names) | u64::from(self.uid) << 32;
        words[3] = u64::from(self.gid) | u64::from(self.mode) << 32;
        words[4] = self.ino;
        words[5] = self.size;
        words[6] = self.blocks;
        words[7] = abi::STATX_ATTR_MOUNT_ROOT.into();
        words[8..10].copy_from_slice(&split(self.times.accessed));
        words[10..12].copy_from_slice(&split(self.times.born));
        words[12..14].copy_from_slice(&split(self.times.changed));
        words[14..16].copy_from_slice(&split(self.times.modified));
        let (major, minor) = device_parts(self.rdev);
        words[16] = u64::from(major) | u64::from(minor) << 32;
        words[17] = u64::from(self.dev) << 32;
        words[18] = if unique { self.unique_mount } else { self.mount };
        words
    }
}

/// The attributes of what a path or a descriptor means, put into `to`. Lock-free for a path: nothing is kept on the way.
fn stat(call: &Call<'_>, dfd: i32, addr: usize, flags: u32, to: &mut Stat) -> Result<(), Errno> {
    let who = call.credentials();
    let empty = flags & abi::AT_EMPTY_PATH != 0;
    if addr == 0 && empty {
        *to = stat_file(call, dfd, &who)?;
        return Ok(());
    }
    let path = call.path(addr)?;
    if path.is_empty() && empty {
        *to = stat_file(call, dfd, &who)?;
        return Ok(());
    }
    let last = if flags & abi::AT_SYMLINK_NOFOLLOW != 0 { Last::NoFollow } else { Last::Follow };
    let start = call.start(dfd, &path)?;
    let how = How { last, resolve: mnt_table::walk::Resolve::empty(), dir: start.as_ref() };
    walk_how(&call.thread.mounts().fs(), &path, &how, |found| {
        *to = look(found.mount, found.dentry, &who);
        Ok(())
    })?;
    Ok(())
}

fn stat_file(call: &Call<'_>, fd: i32, who: &Credentials) -> Result<Stat, Errno> {
    if fd == abi::AT_FDCWD {
        let (mount, dentry) = call.thread.mounts().fs().cwd();
        return Ok(look(&mount, &dentry, who));
    }
    let file = call.any(fd)?;
    match file.file().path() {
        Some(at) => Ok(look(&at.mount, &at.dentry, who)),
        None => Ok(nowhere()),
    }
}

/// Of a file that is in no file system, such as a file system context.
fn nowhere() -> Stat {
    Stat {
        dev: 0,
        ino: 1,
        mode: 0o600,
        names: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        size: 0,
        blocks: 0,
        times: Times::default(),
        mount: 0,
        unique_mount: 0,
        is_root: false,
    }
}

/// newfstatat(2), stat(2), lstat(2).
pub(crate) fn fstatat(call: &Call<'_>, dfd: i32, addr: usize, to: usize, flags: u32) -> Result<usize, Errno> {
    if flags & !(abi::AT_SYMLINK_NOFOLLOW | abi::AT_NO_AUTOMOUNT | abi::AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    let mut found = nowhere();
    stat(call, dfd, addr, flags, &mut found)?;
    user::put(to, found.words())?;
    Ok(0)
}

/// fstat(2).
pub(crate) fn fstat(call: &Call<'_>, fd: i32, to: usize) -> Result<usize, Errno> {
    if fd < 0 {
        return Err(Errno::EBADF);
    }
    user::put(to, stat_file(call, fd, &call.credentials())?.words())?;
    Ok(0)
}

/// statx(2).
pub(crate) fn statx(
    call: &Call<'_>,
    dfd: i32,
    addr: usize,
    flags: u32,
    mask: u32,
    to: usize,
) -> Result<usize, Errno> {
    const SYNC: u32 = 0x6000;
    const RESERVED: u32 = 0x8000_0000;
    let known = abi::AT_SYMLINK_NOFOLLOW | abi::AT_NO_AUTOMOUNT | abi::AT_EMPTY_PATH | SYNC;
    if flags & !known != 0 || flags & SYNC == SYNC || mask & RESERVED != 0 {
        return Err(Errno::EINVAL);
    }
    let mut found = nowhere();
    stat(call, dfd, addr, flags, &mut found)?;
    user::put(to, found.extended(mask))?;
    Ok(0)
}

/// As `struct statfs`.
fn file_system(mount: &Mount<TmpDentry>) -> [u64; 15] {
    let super_block = mount.super_block();
    // Of an overlay, those of the topmost layer.
    let root = super_block.root();
    let usage = root.as_ref().map_or(super_block, |root| node::real(root).super_block()).usage();
    let mut words = [0; 15];
    words[0] = types::magic(super_block);
    words[1] = PAGE_SIZE as u64;
    if let Some(max) = usage.pages_max {
        let free = max.saturating_sub(usage.pages);
        words[2..5].copy_from_slice(&[max, free, free]);
    }
    if let Some(max) = usage.inodes_max {
        words[5..7].copy_from_slice(&[max, max.saturating_sub(usage.inodes)]);
    }
    words[7] = device_number(0, super_block.dev());
    words[8] = tmpfs::NAME_MAX as u64;
    words[9] = PAGE_SIZE as u64;
    words[10] = to_statfs(mount.flags(), types::flags(super_block));
    words
}

/// statfs(2).
pub(crate) fn statfs(call: &Call<'_>, addr: usize, to: usize) -> Result<usize, Errno> {
    let path = call.path(addr)?;
    let words = walk_how(&call.thread.mounts().fs(), &path, &How::new(Last::Follow), |found| {
        Ok(file_system(found.mount))
    })?;
    user::put(to, words)?;
    Ok(0)
}

/// fstatfs(2).
pub(crate) fn fstatfs(call: &Call<'_>, fd: i32, to: usize) -> Result<usize, Errno> {
    let file = call.any(fd)?;
    let at = file.file().path().ok_or(Errno::ENOSYS)?;
    user::put(to, file_system(&at.mount))?;
    Ok(0)
}
