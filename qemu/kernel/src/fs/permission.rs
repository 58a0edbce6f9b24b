//! Who may do what with a file: permission bits, owners through id-mapped mounts, capabilities.
//!
//! Owners are compared as the mount shows them: an inode's owner, as the user namespace of its file system numbers it, is
//! looked up in the mount's id map if there is one. A capability counts only if the owners have a meaning in the caller's
//! user namespace.
//!
//! Sources: capabilities(7), path_resolution(7), mount_setattr(2).

use alloc::sync::Arc;

use mnt_table::dentry::{Dentry, SuperBlock};
use mnt_table::{Mount, UserNs};
use syscalls::credentials::Capabilities;
use syscalls::ids::Kind;
use syscalls::{Credentials, Errno};
use tmpfs::{Inode, TmpDentry, mode};

use super::node;
use crate::task;

/// To execute a file, or to search a directory.
pub(crate) const EXEC: u32 = 1;
/// To write.
pub(crate) const WRITE: u32 = 2;
/// To read.
pub(crate) const READ: u32 = 4;

/// The id of nobody.
const NOBODY: u32 = u32::MAX;

/// An id that belongs to an inode, as `mount` shows it; in the numbers of the initial user namespace.
fn shown(mount: &Mount<TmpDentry>, inode: &Inode, kind: Kind, id: u32) -> u32 {
    let Some(map) = mount.idmap() else { return id };
    let stored = kind.seen_by(&inode.super_block().user_ns(), id);
    stored.and_then(|id| kind.absolute(&map, id)).unwrap_or(NOBODY)
}

/// Owner and group as `mount` shows them.
pub(crate) fn owner(mount: &Mount<TmpDentry>, inode: &Inode) -> (u32, u32) {
    let (uid, gid) = inode.owner();
    if !mount.is_idmapped() {
        return (uid, gid);
    }
    (shown(mount, inode, Kind::Users, uid), shown(mount, inode, Kind::Groups, gid))
}

/// What an inode's owner is to be that somebody with the id `id` makes through `mount`.
///
/// # Errors
/// `EOVERFLOW`: the file system has no number for it.
pub(crate) fn stored(mount: &Mount<TmpDentry>, kind: Kind, id: u32) -> Result<u32, Errno> {
    let file_system = mount.super_block().user_ns();
    match mount.idmap() {
        None => kind.seen_by(&file_system, id).map(|_| id),
        Some(map) => kind.seen_by(&map, id).and_then(|id| kind.absolute(&file_system, id)),
    }
    .ok_or(Errno::EOVERFLOW)
}

/// The credentials that count for files: of the running thread, or the machine's administrator's if it is the kernel's.
pub(crate) fn current() -> Arc<Credentials> {
    task::with_current(|thread| thread.acting()).unwrap_or_else(|| Arc::new(Credentials::ROOT))
}

/// A file, and the mount that it is reached through, to ask about.
pub(crate) struct Subject<'a> {
    inode: &'a Inode,
    uid: u32,
    gid: u32,
}

impl<'a> Subject<'a> {
    /// `dentry`'s inode, reached through `mount`.
    pub(crate) fn new(mount: &Mount<TmpDentry>, dentry: &'a TmpDentry) -> Self {
        let (uid, gid) = owner(mount, dentry.inode());
        Subject { inode: dentry.inode(), uid, gid }
    }

    /// Owner and group as the mount shows them.
    pub(crate) fn owner(&self) -> (u32, u32) {
        (self.uid, self.gid)
    }

    /// Whether its owner or its group has no number where it is shown.
    pub(crate) fn is_nobodys(&self) -> bool {
        self.uid == NOBODY || self.gid == NOBODY
    }

    /// Whether those of its ids may be kept that a change of its attributes keeps.
    ///
    /// # Errors
    /// `EOVERFLOW`: the mount has no number for one of them.
    pub(crate) fn may_keep(&self, uid: bool, gid: bool) -> Result<(), Errno> {
        let lost = |keeps: bool, id: u32| keeps && id == NOBODY;
        if lost(uid, self.uid) || lost(gid, self.gid) { Err(Errno::EOVERFLOW) } else { Ok(()) }
    }

    /// Whether `who` has `capability` over it.
    pub(crate) fn capable(&self, who: &Credentials, capability: Capabilities) -> bool {
        who.effective.contains(capability)
            && Kind::Users.seen_by(&who.user_ns, self.uid).is_some()
            && Kind::Groups.seen_by(&who.user_ns, self.gid).is_some()
    }

    /// Whether `who` is its owner or may act as that.
    pub(crate) fn is_owner(&self, who: &Credentials) -> bool {
        who.fsuid == self.uid
            || who.effective.contains(Capabilities::FOWNER)
                && Kind::Users.seen_by(&who.user_ns, self.uid).is_some()
    }

    /// Whether `who` may do all of `wanted` ([`READ`], [`WRITE`], [`EXEC`]) by permission bits and capabilities.
    ///
    /// # Errors
    /// `EACCES`; what the file system says that it belongs to.
    pub(crate) fn may(&self, who: &Credentials, wanted: u32) -> Result<(), Errno> {
        self.may_itself(who, wanted)?;
        node::of_inode(self.inode).map_or(Ok(()), |node| node.may(wanted))
    }

    fn may_itself(&self, who: &Credentials, wanted: u32) -> Result<(), Errno> {
        let bits = self.inode.mode();
        if wanted & WRITE != 0 && self.is_nobodys() {
            return Err(Errno::EACCES);
        }
        let class = if who.fsuid == self.uid {
            bits >> 6
        } else if is_member(who, self.gid) {
            bits >> 3
        } else {
            bits
        };
        if class & 7 & wanted == wanted {
            return Ok(());
        }
        let directory = self.inode.file_type() == mode::DIRECTORY;
        let reads = if directory { wanted & WRITE == 0 } else { wanted & !READ == 0 };
        let overridden = directory || wanted & EXEC == 0 || bits & 0o111 != 0;
        let may = reads && self.capable(who, Capabilities::DAC_READ_SEARCH)
            || overridden && self.capable(who, Capabilities::DAC_OVERRIDE);
        if may { Ok(()) } else { Err(Errno::EACCES) }
    }

    /// As [`Subject::may`], and `EROFS` for a file of a read-only file system that is to be written.
    pub(crate) fn may_access(&self, who: &Credentials, wanted: u32) -> Result<(), Errno> {
        let stored = matches!(self.inode.file_type(), mode::FILE | mode::DIRECTORY | mode::SYMLINK);
        if wanted & WRITE != 0 && stored && self.inode.super_block().is_read_only() {
            return Err(Errno::EROFS);
        }
        self.may(who, wanted)
    }
}

/// Whether `who` is in `group`.
pub(crate) fn is_member(who: &Credentials, group: u32) -> bool {
    who.fsgid == group || who.groups.contains(group)
}

/// Whether `who` may add entries to the directory `at`.
///
/// # Errors
/// `ENOENT`: it was removed. `EACCES`, `EROFS`; `EOVERFLOW`: `who` has no number there.
pub(crate) fn may_create(
    mount: &Mount<TmpDentry>,
    at: &TmpDentry,
    who: &Credentials,
) -> Result<(u32, u32), Errno> {
    if at.is_removed() {
        return Err(Errno::ENOENT);
    }
    let uid = stored(mount, Kind::Users, who.fsuid)?;
    let gid = stored(mount, Kind::Groups, who.fsgid)?;
    Subject::new(mount, at).may_access(who, WRITE | EXEC)?;
    Ok((uid, gid))
}

/// Whether `who` may take the entry `child` of the directory `at` away; `directory`: it has to be one, or has not to be
/// one, or either.
///
/// # Errors
/// `EACCES`, `EROFS`; `EPERM`: the directory is sticky. `ENOTDIR`, `EISDIR`.
pub(crate) fn may_delete(
    mount: &Mount<TmpDentry>,
    at: &TmpDentry,
    child: &TmpDentry,
    who: &Credentials,
    directory: Option<bool>,
) -> Result<(), Errno> {
    let above = Subject::new(mount, at);
    above.may_access(who, WRITE | EXEC)?;
    if above.inode.mode() & mode::STICKY != 0 {
        let entry = Subject::new(mount, child);
        let own = entry.owner().0 == who.fsuid || above.owner().0 == who.fsuid;
        if !own && !entry.capable(who, Capabilities::FOWNER) {
            return Err(Errno::EPERM);
        }
    }
    match (directory, child.is_dir()) {
        (Some(true), false) => Err(Errno::ENOTDIR),
        (Some(false), true) => Err(Errno::EISDIR),
        _ => Ok(()),
    }
}

/// Permission bits that stay when somebody without privilege over the file changes its contents (`file_remove_privs`).
pub(crate) fn without_set_id(bits: u32) -> u32 {
    let group = if bits & 0o010 != 0 { mode::SET_GID } else { 0 };
    bits & !(mode::SET_UID | group)
}

/// An id as `ns` numbers it, or the overflow id.
pub(crate) fn told(kind: Kind, ns: &UserNs, id: u32) -> u32 {
    const OVERFLOW: u32 = 65534;
    kind.seen_by(ns, id).unwrap_or(OVERFLOW)
}
