//! Entries of directories: what makes them, takes them away and moves them.

use std::sync::Arc;

use linux_raw_sys::{errno, general as abi};
use mnt_table::walk::{How, Last, Resolve, walk_how};
use mnt_table::{Dentry, PathRef, SuperBlock, pin};
use syscalls::Errno;
use syscalls::entry::detach_elsewhere;
use syscalls::ids::Kind;
use tmpfs::{FsError, Removed, TmpDentry, exchange, rename};

use super::files::{Answer, Failure, write};
use super::kernel::Call;

/// A directory and a name in it that may not be there.
pub(super) struct Entry {
    pub(super) at: PathRef<TmpDentry>,
    pub(super) name: Vec<u8>,
    slash: bool,
}

/// What a device node of programs contains: nothing else writes that.
const DEVICE_MARK: &[u8] = b"\0device";

impl Call<'_> {
    pub(super) fn entry(&self, dfd: i32, addr: usize) -> Result<Entry, Failure> {
        let path = self.text(addr)?;
        if path.is_empty() {
            return Err(Errno::ENOENT.into());
        }
        let start = self.start(dfd, &path)?;
        let how = How { last: Last::Parent, resolve: Resolve::empty(), dir: start.as_ref() };
        Ok(walk_how(&self.process.task.fs(), &path, &how, |found| {
            let mount = found.mount.keep(found.guard())?;
            let at = PathRef { mount, dentry: Arc::clone(found.dentry) };
            Ok(Entry { at, name: found.name.to_vec(), slash: found.slash })
        })?)
    }

    /// The directory of a path's last component, and the entry unless that is `.`, `..` or nothing.
    fn parent(&self, dfd: i32, addr: usize) -> Result<(PathRef<TmpDentry>, Option<Entry>), Failure> {
        match self.entry(dfd, addr) {
            Ok(entry) => Ok((entry.at.clone(), Some(entry))),
            Err(Failure(errno::EBUSY)) => {
                let path = self.text(addr)?;
                let end = path.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last + 1);
                let above = path[..end].iter().rposition(|byte| *byte == b'/');
                let above: &[u8] = match above {
                    Some(slash) => &path[..=slash],
                    None if path.starts_with(b"/") => b"/",
                    None => b".",
                };
                Ok((self.find(dfd, above, Last::Follow, Resolve::empty())?, None))
            }
            Err(failure) => Err(failure),
        }
    }

    pub(super) fn is_device(&self, dentry: &TmpDentry) -> bool {
        let mut contents = [0; DEVICE_MARK.len()];
        dentry.read_at(0, &mut contents).is_ok_and(|len| &contents[..len] == DEVICE_MARK)
    }

    /// A new entry.
    pub(super) fn make(
        &self,
        dfd: i32,
        addr: usize,
        make: impl Fn(&Arc<TmpDentry>, &[u8]) -> Result<(), FsError>,
        directory: bool,
    ) -> Answer {
        let entry = match self.entry(dfd, addr) {
            // `.`, `..` and `/` are there.
            Err(Failure(errno::EBUSY)) => return Err(Errno::EEXIST.into()),
            entry => entry?,
        };
        let there = entry.at.dentry.lookup(&entry.name, &pin()).is_ok();
        if there {
            return Err(Errno::EEXIST.into());
        }
        if entry.slash && !directory {
            return Err(Errno::ENOENT.into());
        }
        self.may_change(&entry)?;
        if entry.at.dentry.is_removed() {
            return Err(Errno::ENOENT.into());
        }
        let _writing = write(&entry.at.mount)?;
        self.may_own(&entry)?;
        make(&entry.at.dentry, &entry.name)?;
        Ok(0)
    }

    /// Whether the file system has numbers for the caller's ids: what the caller makes belongs to them.
    pub(super) fn may_own(&self, entry: &Entry) -> Result<(), Failure> {
        let who = self.process.task.credentials();
        let owner = entry.at.dentry.super_block().user_ns();
        let stored = |kind: Kind, id: u32| match entry.at.mount.idmap() {
            None => kind.seen_by(&owner, id),
            Some(map) => kind.seen_by(&map, id).and_then(|id| kind.absolute(&owner, id)),
        };
        let has_numbers = stored(Kind::Users, who.fsuid).and(stored(Kind::Groups, who.fsgid)).is_some();
        if has_numbers { Ok(()) } else { Err(Failure(errno::EOVERFLOW)) }
    }

    /// What the kernel shows in proc and sysfs is for nobody to change; there a name that is missing cannot even be looked
    /// up to be made.
    pub(super) fn may_change(&self, entry: &Entry) -> Result<(), Failure> {
        let own = matches!(entry.at.dentry.super_block().fs_type(), b"proc" | b"sysfs" | b"nsfs");
        match own {
            true if entry.at.dentry.lookup(&entry.name, &pin()).is_ok() => Err(Errno::EPERM.into()),
            true => Err(Errno::ENOENT.into()),
            false => Ok(()),
        }
    }

    pub(super) fn mknod(&self, dfd: i32, addr: usize, mode: u32) -> Answer {
        const TYPE: u32 = 0o170_000;
        const CHARACTERS: u32 = 0o020_000;
        let make = |at: &Arc<TmpDentry>, name: &[u8]| {
            let made = at.create(name)?;
            if mode & TYPE == CHARACTERS {
                made.write_at(0, DEVICE_MARK)?;
            }
            Ok(())
        };
        self.make(dfd, addr, make, false)
    }

    pub(super) fn symlink(&self, target: usize, dfd: i32, addr: usize) -> Answer {
        let target = self.text(target)?;
        self.make(dfd, addr, |at, name| at.make_symlink(name, &target).map(drop), false)
    }

    pub(super) fn unlink(&self, dfd: i32, addr: usize, flags: u32) -> Answer {
        let directory = flags & abi::AT_REMOVEDIR != 0;
        let entry = match self.entry(dfd, addr) {
            Err(Failure(errno::EBUSY)) => {
                let path = self.text(addr)?;
                let name =
                    path.rsplit(|byte| *byte == b'/').find(|name| !name.is_empty()).unwrap_or_default();
                return Err(Failure(match name {
                    _ if !directory => errno::EISDIR,
                    b"." => errno::EINVAL,
                    b".." => errno::ENOTEMPTY,
                    _ => errno::EBUSY,
                }));
            }
            entry => entry?,
        };
        let _writing = write(&entry.at.mount)?;
        self.may_change(&entry)?;
        let own = self.process.task.namespace();
        let removed = if directory {
            entry.at.dentry.rmdir(&entry.name, &own)?
        } else {
            entry.at.dentry.unlink(&entry.name, &own)?
        };
        self.removed(&removed)?;
        Ok(0)
    }

    /// What an entry that is gone means for mounts elsewhere.
    fn removed(&self, removed: &Removed) -> Result<(), Failure> {
        detach_elsewhere(&removed.dentry, &removed.elsewhere)?;
        Ok(())
    }

    pub(super) fn rename(&self, dfd: i32, from: usize, to: (i32, usize), flags: u32) -> Answer {
        let ((from_at, from), (to_at, to)) = (self.parent(dfd, from)?, self.parent(to.0, to.1)?);
        if !Arc::ptr_eq(&from_at.mount.to_arc(), &to_at.mount.to_arc()) {
            return Err(Errno::EXDEV.into());
        }
        let (from, to) = from.zip(to).ok_or(Errno::EBUSY)?;
        let _writing = write(&from.at.mount)?;
        self.may_change(&from)?;
        let own = self.process.task.namespace();
        let is_there = to.at.dentry.lookup(&to.name, &pin()).is_ok();
        if flags & abi::RENAME_NOREPLACE != 0 && is_there {
            return Err(Errno::EEXIST.into());
        }
        if flags & abi::RENAME_EXCHANGE != 0 {
            exchange((&from.at.dentry, &from.name), (&to.at.dentry, &to.name), &own, |_, _| {
                Ok::<(), FsError>(())
            })?;
            return Ok(0);
        }
        if let Some(removed) = rename((&from.at.dentry, &from.name), (&to.at.dentry, &to.name), &own)? {
            self.removed(&removed)?;
        }
        Ok(0)
    }

    /// linkat(2), which does not follow a link here.
    pub(super) fn link(&self, dfd: i32, from: usize, to_dfd: i32, to: usize) -> Answer {
        let path = self.text(from)?;
        let from = self.find(dfd, &path, Last::NoFollow, Resolve::empty())?;
        let to = match self.entry(to_dfd, to) {
            // `.`, `..` and `/` are there.
            Err(Failure(errno::EBUSY)) => return Err(Errno::EEXIST.into()),
            to => to?,
        };
        if to.at.dentry.lookup(&to.name, &pin()).is_ok() {
            return Err(Errno::EEXIST.into());
        }
        if to.slash {
            return Err(Errno::ENOENT.into());
        }
        self.may_change(&to)?;
        if to.at.dentry.is_removed() {
            return Err(Errno::ENOENT.into());
        }
        let _writing = write(&to.at.mount)?;
        if !Arc::ptr_eq(&from.mount.to_arc(), &to.at.mount.to_arc()) {
            return Err(Errno::EXDEV.into());
        }
        self.may_own(&to)?;
        to.at.dentry.link(&to.name, &from.dentry)?;
        Ok(0)
    }
}
