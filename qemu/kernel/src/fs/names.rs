//! Names: making and removing entries, links, and the paths of places.
//!
//! Sources: mkdir(2), mknod(2), unlink(2), rename(2), link(2), symlink(2), readlink(2), getcwd(2).

use alloc::sync::Arc;
use alloc::vec::Vec;

use linux_raw_sys::general as abi;
use mnt_table::PathRef;
use mnt_table::dentry::Dentry;
use mnt_table::memory::Grow;
use mnt_table::walk::{Last, Resolve};
use syscalls::Errno;
use syscalls::credentials::Capabilities;
use syscalls::entry::detach_elsewhere;
use syscalls::paths::place_path;
use syscalls::user_memory::write_all;
use tmpfs::{FsError, Kind, New, Removed, TARGET_MAX, TmpDentry, What, exchange, mode, rename_if};

use super::kernel::{Call, Entry, writing};
use super::permission::{self, Subject, may_create, may_delete};
use super::{anon, creation_mode, error, node};
use crate::task;

/// The path of `at` as links in proc show it: from the running thread's root, or a name of another kind.
///
/// # Errors
/// `ENOMEM`.
pub(crate) fn path_for_proc(at: &PathRef<TmpDentry>) -> Result<Vec<u8>, Errno> {
    if let Some(name) = anon::name(&at.dentry) {
        return Ok(name);
    }
    if let Some(name) = node::of(&at.dentry).and_then(|node| node.root_name()) {
        return Ok(name);
    }
    let root = crate::task::with_current(|thread| thread.mounts().fs().root());
    let position = (at.mount.to_arc(), Arc::clone(&at.dentry));
    let root = root.unwrap_or_else(|| (at.mount.to_arc(), Arc::clone(at.mount.root())));
    let mut text = place_path(&position, &root)?.0;
    if at.dentry.is_removed() {
        text.try_extend(b" (deleted)".iter().copied())?;
    }
    Ok(text)
}

/// getcwd(2).
pub(crate) fn getcwd(call: &Call<'_>, addr: usize, size: usize) -> Result<usize, Errno> {
    let fs = call.thread.mounts().fs();
    let (at, root) = (fs.cwd(), fs.root());
    if at.1.is_removed() {
        return Err(Errno::ENOENT);
    }
    let (text, reached) = place_path(&at, &root)?;
    let mut all = if reached { Vec::new() } else { b"(unreachable)".to_vec() };
    all.extend_from_slice(&text);
    all.push(0);
    if all.len() > abi::PATH_MAX as usize {
        return Err(Errno::ENAMETOOLONG);
    }
    if all.len() > size {
        return Err(Errno::ERANGE);
    }
    write_all(call, addr, &all)?;
    Ok(all.len())
}

/// The last component of a path that ends in `.`, `..` or `/`.
fn last_name(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').find(|name| !name.is_empty()).unwrap_or_default()
}

/// Whether a directory is one of proc, where what is not there cannot even be thought of.
pub(crate) fn is_proc(directory: &TmpDentry) -> bool {
    directory.super_block().fs_type() == b"proc"
}

/// A new entry: `make` is what it is to be, for the owner that it is to have.
fn make<'a>(
    call: &Call<'_>,
    dfd: i32,
    path: &[u8],
    directory: bool,
    make: impl Fn(&Entry, u32, u32) -> Result<New<'a>, Errno>,
) -> Result<Arc<TmpDentry>, Errno> {
    if path.is_empty() {
        return Err(Errno::ENOENT);
    }
    let entry = match call.entry(dfd, path) {
        // `.`, `..` and `/` are there.
        Err(Errno::EBUSY) => return Err(Errno::EEXIST),
        entry => entry?,
    };
    match entry.look() {
        Ok(_) => return Err(Errno::EEXIST),
        Err(Errno::ENOENT) if is_proc(&entry.at.dentry) => return Err(Errno::ENOENT),
        Err(Errno::ENOENT) => {}
        Err(error) => return Err(error),
    }
    if entry.slash && !directory {
        return Err(Errno::ENOENT);
    }
    let _writing = writing(&entry.at.mount)?;
    let who = call.credentials();
    let (uid, gid) = may_create(&entry.at.mount, &entry.at.dentry, &who)?;
    let names = node::names(&entry.at.dentry)?;
    let new = make(&entry, uid, gid)?;
    match names {
        Some(names) => names.make(entry.end(), new),
        None => entry.at.dentry.make(&entry.name, new).map_err(error),
    }
}

pub(crate) fn mkdir(call: &Call<'_>, dfd: i32, addr: usize, bits: u32) -> Result<usize, Errno> {
    let path = call.text(addr)?;
    make(call, dfd, &path, true, |entry, uid, gid| {
        let mode = creation_mode(call.thread, &entry.at.dentry, bits & 0o1777);
        Ok(New { what: What::Directory, mode, uid, gid })
    })?;
    Ok(0)
}

pub(crate) fn mknod(call: &Call<'_>, dfd: i32, addr: usize, bits: u32, dev: u32) -> Result<usize, Errno> {
    let path = call.text(addr)?;
    let kind = bits & mode::TYPE;
    match kind {
        0 | mode::FILE | mode::CHARACTER | mode::BLOCK | mode::FIFO | mode::SOCKET => {}
        mode::DIRECTORY => return Err(Errno::EPERM),
        _ => return Err(Errno::EINVAL),
    }
    let device = matches!(kind, mode::CHARACTER | mode::BLOCK);
    make(call, dfd, &path, false, |entry, uid, gid| {
        // Device 0:0 is overlayfs' whiteout, which needs no privilege.
        let whiteout = kind == mode::CHARACTER && dev == 0;
        let who = call.credentials();
        if device && !whiteout && !who.capable(&mnt_table::UserNs::INITIAL, Capabilities::MKNOD) {
            return Err(Errno::EPERM);
        }
        let mode = creation_mode(call.thread, &entry.at.dentry, bits & 0o7777);
        let what = match kind {
            0 | mode::FILE => What::File,
            _ => What::Special(kind, if device { u64::from(dev) } else { 0 }),
        };
        Ok(New { what, mode, uid, gid })
    })?;
    Ok(0)
}

/// A socket's file, for the running thread (bind(2)).
///
/// # Errors
/// `EEXIST`, and those of mknod(2).
pub(crate) fn make_socket(path: &[u8]) -> Result<Arc<TmpDentry>, Errno> {
    let thread = task::current();
    let call = Call::new(&thread);
    make(&call, abi::AT_FDCWD, path, false, |entry, uid, gid| {
        let mode = creation_mode(&thread, &entry.at.dentry, 0o777);
        Ok(New { what: What::Special(mode::SOCKET, 0), mode, uid, gid })
    })
}

/// The socket at `path`, to be written to by the running thread.
///
/// # Errors
/// Those of the walk; `EACCES`; `ECONNREFUSED`: it is none.
pub(crate) fn find_socket(path: &[u8]) -> Result<Arc<TmpDentry>, Errno> {
    let thread = task::current();
    let call = Call::new(&thread);
    let at = call.find(abi::AT_FDCWD, path, Last::Follow)?;
    Subject::new(&at.mount, &at.dentry).may_access(&call.credentials(), permission::WRITE)?;
    if node::kind(&at.dentry) != Kind::Socket {
        return Err(Errno::ECONNREFUSED);
    }
    Ok(at.dentry)
}

pub(crate) fn symlink(call: &Call<'_>, target: usize, dfd: i32, addr: usize) -> Result<usize, Errno> {
    let target = call.text(target)?;
    if target.is_empty() {
        return Err(Errno::ENOENT);
    }
    let path = call.text(addr)?;
    make(call, dfd, &path, false, |_, uid, gid| {
        if target.len() > TARGET_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        Ok(New { what: What::Symlink(&target), mode: 0o777, uid, gid })
    })?;
    Ok(0)
}

/// What an entry that is gone means for mounts elsewhere.
pub(super) fn removed(removed: &Removed) -> Result<(), Errno> {
    detach_elsewhere(&removed.dentry, &removed.elsewhere)?;
    Ok(())
}

pub(crate) fn unlink(call: &Call<'_>, dfd: i32, addr: usize, flags: u32) -> Result<usize, Errno> {
    if flags & !abi::AT_REMOVEDIR != 0 {
        return Err(Errno::EINVAL);
    }
    let directory = flags & abi::AT_REMOVEDIR != 0;
    let path = call.text(addr)?;
    if path.is_empty() {
        return Err(Errno::ENOENT);
    }
    let entry = match call.entry(dfd, &path) {
        Err(Errno::EBUSY) => {
            return Err(match last_name(&path) {
                _ if !directory => Errno::EISDIR,
                b"." => Errno::EINVAL,
                b".." => Errno::ENOTEMPTY,
                _ => Errno::EBUSY,
            });
        }
        entry => entry?,
    };
    let _writing = writing(&entry.at.mount)?;
    let child = entry.look()?;
    if entry.slash && !directory {
        return Err(if child.is_dir() { Errno::EISDIR } else { Errno::ENOTDIR });
    }
    let who = call.credentials();
    may_delete(&entry.at.mount, &entry.at.dentry, &child, &who, Some(directory))?;
    let own = call.thread.mounts().namespace();
    let gone = match node::names(&entry.at.dentry).map_err(|_| Errno::EPERM)? {
        Some(names) => names.remove(entry.end(), directory, &own)?,
        None if directory => entry.at.dentry.rmdir(&entry.name, &own).map_err(error)?,
        None => entry.at.dentry.unlink(&entry.name, &own).map_err(error)?,
    };
    removed(&gone)?;
    Ok(0)
}

pub(crate) fn link(
    call: &Call<'_>,
    from_dfd: i32,
    from: usize,
    to_dfd: i32,
    to: usize,
    flags: u32,
) -> Result<usize, Errno> {
    if flags & !(abi::AT_SYMLINK_FOLLOW | abi::AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    let who = call.credentials();
    let empty = flags & abi::AT_EMPTY_PATH != 0;
    let source = call.text(from)?;
    let at = if source.is_empty() && empty {
        if from_dfd == abi::AT_FDCWD {
            return Err(Errno::EPERM);
        }
        let file = call.any(from_dfd)?;
        let opener = Arc::ptr_eq(file.credentials(), &who) || **file.credentials() == *who;
        if !opener && !who.effective.contains(Capabilities::DAC_READ_SEARCH) {
            return Err(Errno::ENOENT);
        }
        file.file().path().cloned().ok_or(Errno::ENOENT)?
    } else if source.is_empty() {
        return Err(Errno::ENOENT);
    } else {
        let follow = flags & abi::AT_SYMLINK_FOLLOW != 0;
        call.find(from_dfd, &source, if follow { Last::Follow } else { Last::NoFollow })?
    };
    let path = call.text(to)?;
    if path.is_empty() {
        return Err(Errno::ENOENT);
    }
    let entry = match call.entry(to_dfd, &path) {
        Err(Errno::EBUSY) => return Err(Errno::EEXIST),
        entry => entry?,
    };
    match entry.look() {
        Ok(_) => return Err(Errno::EEXIST),
        Err(Errno::ENOENT) => {}
        Err(error) => return Err(error),
    }
    if entry.slash {
        return Err(Errno::ENOENT);
    }
    if !Arc::ptr_eq(&at.mount.to_arc(), &entry.at.mount.to_arc()) {
        return Err(Errno::EXDEV);
    }
    let _writing = writing(&entry.at.mount)?;
    may_create(&entry.at.mount, &entry.at.dentry, &who)?;
    let names = node::names(&entry.at.dentry).map_err(|_| Errno::EPERM)?;
    if at.dentry.is_dir() || at.dentry.handle().is_some() && names.is_none() {
        return Err(Errno::EPERM);
    }
    match names {
        Some(names) => names.link(entry.end(), &at.dentry)?,
        None => drop(entry.at.dentry.link(&entry.name, &at.dentry).map_err(error)?),
    }
    Ok(0)
}

/// An end of a rename: `EBUSY` for what is no entry comes after the mounts were compared.
fn end(call: &Call<'_>, dfd: i32, path: &[u8]) -> Result<(PathRef<TmpDentry>, Option<Entry>), Errno> {
    if path.is_empty() {
        return Err(Errno::ENOENT);
    }
    match call.entry(dfd, path) {
        Ok(entry) => Ok((entry.at.clone(), Some(entry))),
        Err(Errno::EBUSY) => {
            let end = path.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last + 1);
            let above = match path[..end].iter().rposition(|byte| *byte == b'/') {
                Some(slash) => &path[..=slash],
                None if path.starts_with(b"/") => b"/",
                None => b".",
            };
            Ok((call.find(dfd, above, Last::Follow)?, None))
        }
        Err(error) => Err(error),
    }
}

/// An error of a rename: of the file system, or of permissions.
pub(super) struct Refused(pub(super) Errno);

impl From<FsError> for Refused {
    fn from(failure: FsError) -> Self {
        Refused(error(failure))
    }
}

pub(crate) fn rename(
    call: &Call<'_>,
    from: (i32, usize),
    to: (i32, usize),
    flags: u32,
) -> Result<usize, Errno> {
    let has = |flag: u32| flags & flag != 0;
    if flags & !(abi::RENAME_NOREPLACE | abi::RENAME_EXCHANGE | abi::RENAME_WHITEOUT) != 0
        || has(abi::RENAME_EXCHANGE) && has(abi::RENAME_NOREPLACE | abi::RENAME_WHITEOUT)
    {
        return Err(Errno::EINVAL);
    }
    let (from_path, to_path) = (call.text(from.1)?, call.text(to.1)?);
    let ((from_at, from), (to_at, to)) = (end(call, from.0, &from_path)?, end(call, to.0, &to_path)?);
    if !Arc::ptr_eq(&from_at.mount.to_arc(), &to_at.mount.to_arc()) {
        return Err(Errno::EXDEV);
    }
    let Some(from) = from else { return Err(Errno::EBUSY) };
    let Some(to) = to else {
        return Err(if has(abi::RENAME_NOREPLACE) { Errno::EEXIST } else { Errno::EBUSY });
    };
    if has(abi::RENAME_WHITEOUT) {
        return Err(Errno::EINVAL);
    }
    let _writing = writing(&from.at.mount)?;
    // Both ends are in one file system.
    let names = node::names(&from.at.dentry).map_err(|_| Errno::EPERM)?;
    let who = call.credentials();
    let mount = &from.at.mount;
    let own = call.thread.mounts().namespace();
    let (exchanges, no_replace) = (has(abi::RENAME_EXCHANGE), has(abi::RENAME_NOREPLACE));
    // Even where it is what is to be renamed.
    if no_replace && to.look().is_ok() {
        return Err(Errno::EEXIST);
    }
    let may = |moved: &Arc<TmpDentry>, target: Option<&Arc<TmpDentry>>| -> Result<(), Errno> {
        if no_replace && target.is_some() {
            return Err(Errno::EEXIST);
        }
        if !moved.is_dir() && (from.slash || !exchanges && to.slash) {
            return Err(Errno::ENOTDIR);
        }
        if exchanges && to.slash && target.is_some_and(|target| !target.is_dir()) {
            return Err(Errno::ENOTDIR);
        }
        may_delete(mount, &from.at.dentry, moved, &who, None)?;
        match target {
            Some(target) => may_delete(mount, &to.at.dentry, target, &who, None)?,
            None => drop(may_create(mount, &to.at.dentry, &who)?),
        }
        // A directory that gets another parent has its `..` changed.
        let moves = !Arc::ptr_eq(&from.at.dentry, &to.at.dentry);
        let write = |dentry: &Arc<TmpDentry>| Subject::new(mount, dentry).may_access(&who, permission::WRITE);
        if moves && moved.is_dir() {
            write(moved)?;
        }
        match target {
            Some(target) if moves && exchanges && target.is_dir() => write(target),
            _ => Ok(()),
        }
    };
    let or_refused =
        |moved: &Arc<TmpDentry>, target: Option<&Arc<TmpDentry>>| may(moved, target).map_err(Refused);
    let gone = match names {
        Some(names) if exchanges => names.exchange(from.end(), to.end(), &own, &may).map(|()| None),
        Some(names) => names.rename(from.end(), to.end(), &own, &may),
        None if exchanges => {
            exchange(from.end(), to.end(), &own, or_refused).map(|()| None).map_err(|refused| refused.0)
        }
        None => rename_if(from.end(), to.end(), &own, or_refused).map_err(|refused| refused.0),
    };
    if let Some(gone) = gone? {
        removed(&gone)?;
    }
    Ok(0)
}

/// What a symbolic link reads.
///
/// # Errors
/// `EINVAL`: it is none.
pub(crate) fn link_text(at: &PathRef<TmpDentry>) -> Result<Vec<u8>, Errno> {
    if let Some(text) = node::of(&at.dentry).and_then(|node| node.readlink()) {
        return text;
    }
    if let Some(target) = at.dentry.symlink() {
        return Ok(target.to_vec());
    }
    if !at.dentry.is_magic_link() {
        return Err(Errno::EINVAL);
    }
    path_for_proc(&at.dentry.follow_magic_link()?)
}

pub(crate) fn readlink(
    call: &Call<'_>,
    dfd: i32,
    addr: usize,
    to: usize,
    size: usize,
) -> Result<usize, Errno> {
    if size as i32 <= 0 {
        return Err(Errno::EINVAL);
    }
    let path = call.text(addr)?;
    let at = if path.is_empty() {
        if dfd == abi::AT_FDCWD {
            return Err(Errno::ENOENT);
        }
        let at = call.any(dfd)?.file().path().cloned().ok_or(Errno::ENOENT)?;
        // Only a descriptor of a link is meant.
        if at.dentry.symlink().is_none() && !at.dentry.is_magic_link() {
            return Err(Errno::ENOENT);
        }
        at
    } else {
        let start = call.start(dfd, &path)?;
        call.walk(start.as_ref(), &path, Last::NoFollow, Resolve::empty())?
    };
    let mut text = link_text(&at)?;
    text.truncate(size);
    write_all(call, to, &text)?;
    Ok(text.len())
}
