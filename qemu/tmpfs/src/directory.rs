//! Adding and removing entries.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::ptr::NonNull;

use mnt_table::dentry::Dentry;
use mnt_table::list::NoMemory;
use mnt_table::memory::{self, Claims, Grow};
use mnt_table::namespace::MntNamespace;
use mnt_table::reclaim::{self, pin};
use mnt_table::removal::Removal;
use mnt_table::sync::MutexGuard;
use mnt_table::table::Unlinked;
use smallvec::SmallVec;

use crate::FsError;
use crate::dentry::{DirEntry, DirWriter, TmpDentry};
use crate::handle::Handle;
use crate::inode::{Inode, New, What, mode};
use crate::name::{self, Name, TARGET_MAX};
use crate::place::Place;

/// Names and what they name.
pub type Entries = Vec<(Box<[u8]>, Arc<TmpDentry>)>;

/// What a removal took away, and who still has to let go of it.
#[must_use = "mounts on it in other namespaces have to be detached"]
pub struct Removed {
    /// The dentry that lost its name.
    pub dentry: Arc<TmpDentry>,
    /// Namespaces that may have mounts on it; the caller detaches them lazily, one namespace after the other.
    pub elsewhere: Vec<Arc<MntNamespace<TmpDentry>>>,
}

impl fmt::Debug for Removed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:?}, mounted on in {} other namespaces", self.dentry, self.elsewhere.len())
    }
}

/// An entry of a directory; see [`TmpDentry::list`].
pub struct Listed {
    /// Its offset.
    pub offset: u64,
    name: Name,
    /// What it names.
    pub dentry: Arc<TmpDentry>,
}

impl Listed {
    /// The name.
    pub fn name(&self) -> &[u8] {
        &self.name
    }
}

/// Where the inode of a new entry comes from.
enum Source<'a> {
    New(New<'a>),
    Link(Arc<Inode>),
}

/// What an entry has to be for its removal.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Want {
    Directory,
    Other,
}

impl TmpDentry {
    /// Makes an empty regular file.
    ///
    /// # Errors
    /// `ENOTDIR`; the name's errors: `ENOENT`, `EINVAL`, `ENAMETOOLONG`; `EEXIST`; `ENOENT`: this directory was removed;
    /// `EROFS`; `ENOMEM`.
    pub fn create(self: &Arc<Self>, name: &[u8]) -> Result<Arc<TmpDentry>, FsError> {
        self.make(name, New::of(What::File))
    }

    /// Makes an empty directory.
    ///
    /// # Errors
    /// As [`TmpDentry::create`].
    pub fn mkdir(self: &Arc<Self>, name: &[u8]) -> Result<Arc<TmpDentry>, FsError> {
        self.make(name, New::of(What::Directory))
    }

    /// Makes a symbolic link to `target`.
    ///
    /// # Errors
    /// `ENOENT`: an empty target; `ENAMETOOLONG`: a target above [`TARGET_MAX`]; then as [`TmpDentry::create`].
    pub fn make_symlink(self: &Arc<Self>, name: &[u8], target: &[u8]) -> Result<Arc<TmpDentry>, FsError> {
        match target.len() {
            0 => Err(FsError::NotFound),
            len if len > TARGET_MAX => Err(FsError::NameTooLong),
            _ => self.make(name, New::of(What::Symlink(target))),
        }
    }

    /// Makes an entry for a thing of the kernel's.
    ///
    /// # Errors
    /// As [`TmpDentry::create`].
    pub fn make_handle(
        self: &Arc<Self>,
        name: &[u8],
        handle: Arc<dyn Handle>,
    ) -> Result<Arc<TmpDentry>, FsError> {
        self.make(name, New::of(What::Handle(handle)))
    }

    /// Removes the empty directory `name`. `own` is the caller's mount namespace.
    ///
    /// Context: not pinned; no lock held; may block.
    ///
    /// # Errors
    /// `ENOTDIR`: this is no directory; the name's errors; `EROFS`; `ENOENT`; `ENOTDIR`; `EBUSY`; `ENOTEMPTY`; `ENOMEM`.
    pub fn rmdir(&self, name: &[u8], own: &Arc<MntNamespace<TmpDentry>>) -> Result<Removed, FsError> {
        self.remove(name, Want::Directory, own, |_| Ok(()))
    }

    /// Removes the entry `name`, which is no directory. `own` is the caller's mount namespace.
    ///
    /// Context: not pinned; no lock held; may block.
    ///
    /// # Errors
    /// `ENOTDIR`: this is no directory; the name's errors; `EROFS`; `ENOENT`; `EISDIR`; `EBUSY`; `ENOMEM`.
    pub fn unlink(&self, name: &[u8], own: &Arc<MntNamespace<TmpDentry>>) -> Result<Removed, FsError> {
        self.remove(name, Want::Other, own, |_| Ok(()))
    }

    /// Removes the entry `name`, a directory or not, as [`TmpDentry::rmdir`] or [`TmpDentry::unlink`], by the kernel itself,
    /// which changes something else in the same breath: `change` is called when nothing but somebody who changes this
    /// directory at the same time can keep the entry from going, and such people the caller keeps out.
    ///
    /// Context: not pinned; no lock of this crate held; may block.
    ///
    /// # Errors
    /// Those of [`TmpDentry::rmdir`] and [`TmpDentry::unlink`]; those of `change`.
    pub fn remove_with<E: From<FsError>>(
        &self,
        name: &[u8],
        directory: bool,
        own: &Arc<MntNamespace<TmpDentry>>,
        change: impl FnMut(&Arc<TmpDentry>) -> Result<(), E>,
    ) -> Result<Removed, E> {
        self.remove(name, if directory { Want::Directory } else { Want::Other }, own, change)
    }

    /// Makes an entry. A directory's set-group-id bit gives the new one its group, and a directory the bit too.
    ///
    /// # Errors
    /// As [`TmpDentry::create`]; `ENOSPC`.
    pub fn make(self: &Arc<Self>, name: &[u8], new: New<'_>) -> Result<Arc<TmpDentry>, FsError> {
        self.add(name, Source::New(new), true)
    }

    /// As [`TmpDentry::make`], by the kernel itself: whether the instance is read-only makes no difference.
    ///
    /// # Errors
    /// As [`TmpDentry::make`].
    pub fn adopt(self: &Arc<Self>, name: &[u8], new: New<'_>) -> Result<Arc<TmpDentry>, FsError> {
        self.add(name, Source::New(new), false)
    }

    /// Makes another name of `of`, which is no directory (link(2)).
    ///
    /// # Errors
    /// `EPERM`: a directory. `EXDEV`. `EMLINK`. `ENOENT`: it has lost its last name. Then as [`TmpDentry::create`].
    pub fn link(self: &Arc<Self>, name: &[u8], of: &TmpDentry) -> Result<Arc<TmpDentry>, FsError> {
        if of.is_dir() {
            return Err(FsError::NotPermitted);
        }
        if !Arc::ptr_eq(self.super_block(), of.super_block()) {
            return Err(FsError::CrossDevice);
        }
        self.add(name, Source::Link(Arc::clone(of.inode())), true)
    }

    /// A file in this directory's instance that has no name (`O_TMPFILE`); [`TmpDentry::link`] gives it one.
    ///
    /// # Errors
    /// `ENOTDIR`, `EROFS`, `ENOSPC`, `ENOMEM`.
    pub fn nameless(self: &Arc<Self>, new: New<'_>) -> Result<Arc<TmpDentry>, FsError> {
        self.super_block().may_write()?;
        self.nameless_in(name::numbered(self.super_block().next_ino())?, new)
    }

    /// As [`TmpDentry::nameless`], by the kernel itself, to be shown as `name`.
    ///
    /// # Errors
    /// `ENOTDIR`, `ENOSPC`, `ENOMEM`, `ENAMETOOLONG`.
    pub fn nameless_as(self: &Arc<Self>, name: &[u8], new: New<'_>) -> Result<Arc<TmpDentry>, FsError> {
        if name.len() > name::NAME_MAX {
            return Err(FsError::NameTooLong);
        }
        self.nameless_in(name::copy(name)?, new)
    }

    /// A file of the kernel's own that is in no directory, but is not removed from one either: it can be mounted.
    ///
    /// # Errors
    /// As [`TmpDentry::nameless`].
    pub fn unlisted(self: &Arc<Self>, new: New<'_>) -> Result<Arc<TmpDentry>, FsError> {
        self.unlisted_in(name::numbered(self.super_block().next_ino())?, new)
    }

    fn nameless_in(self: &Arc<Self>, name: Name, new: New<'_>) -> Result<Arc<TmpDentry>, FsError> {
        let dentry = self.unlisted_in(name, new)?;
        dentry.set_removed();
        Ok(dentry)
    }

    fn unlisted_in(self: &Arc<Self>, name: Name, new: New<'_>) -> Result<Arc<TmpDentry>, FsError> {
        self.directory()?;
        let place = Place { name, parent: Arc::clone(self) };
        TmpDentry::new(self.super_block(), Some(place), self.inherit(new), false)
    }

    fn inherit<'a>(&self, mut new: New<'a>) -> New<'a> {
        if self.inode().mode() & mode::SET_GID != 0 {
            new.gid = self.inode().owner().1;
            if matches!(new.what, What::Directory) {
                new.mode |= mode::SET_GID;
            }
        }
        new
    }

    /// The names in this directory and what they are, in no order.
    ///
    /// # Errors
    /// `ENOTDIR`; `ENOMEM`.
    pub fn entries(&self) -> Result<Entries, FsError> {
        let (_, writer) = self.directory()?;
        let writer = writer.lock();
        // SAFETY: linked entries are alive, and the lock keeps them linked.
        let entries = writer.entries.entries().map(|entry| unsafe { entry.as_ref() });
        let mut found = Entries::new();
        for entry in entries {
            found.try_push((name::boxed(entry.name())?, Arc::clone(entry.child())))?;
        }
        Ok(found)
    }

    /// The entry `name` as it is, whatever a walk would make of it; `None` if this is no directory.
    pub fn entry(&self, name: &[u8]) -> Option<Arc<TmpDentry>> {
        self.get(name::hash(name), name).ok().flatten()
    }

    /// The number of entries.
    ///
    /// # Errors
    /// `ENOTDIR`.
    pub fn entry_count(&self) -> Result<usize, FsError> {
        Ok(self.directory()?.1.lock().entries.len())
    }

    /// The entries with offsets above `after`, in the order of their offsets, up to `max` of them. An entry keeps its
    /// offset while it has its name; new ones have larger offsets.
    ///
    /// # Errors
    /// `ENOTDIR`, `ENOMEM`.
    pub fn list(&self, after: u64, max: usize) -> Result<Vec<Listed>, FsError> {
        let (_, writer) = self.directory()?;
        let mut found: Vec<(u64, NonNull<DirEntry>)> = Vec::new();
        let writer = writer.lock();
        found.try_reserve_exact(writer.entries.len()).map_err(|_| FsError::NoMemory)?;
        // SAFETY: linked entries are alive, and the lock keeps them linked.
        let offset = |entry: NonNull<DirEntry>| unsafe { entry.as_ref() }.child().offset();
        found.extend(
            writer.entries.entries().map(|entry| (offset(entry), entry)).filter(|(at, _)| *at > after),
        );
        if found.len() > max {
            found.select_nth_unstable_by_key(max, |(at, _)| *at);
            found.truncate(max);
        }
        found.sort_unstable_by_key(|(at, _)| *at);
        let mut listed = Vec::new();
        listed.try_reserve_exact(found.len()).map_err(|_| FsError::NoMemory)?;
        for (offset, entry) in found {
            // SAFETY: as above.
            let entry = unsafe { entry.as_ref() };
            listed.push(Listed {
                offset,
                name: name::copy(entry.name())?,
                dentry: Arc::clone(entry.child()),
            });
        }
        Ok(listed)
    }

    fn add(
        self: &Arc<Self>,
        name: &[u8],
        what: Source<'_>,
        checked: bool,
    ) -> Result<Arc<TmpDentry>, FsError> {
        let (entries, writer) = self.directory()?;
        name::check(name)?;
        let hash = name::hash(name);
        if self.get(hash, name)?.is_some() {
            return Err(FsError::Exists);
        }
        reclaim::reserve()?;
        // The place of what is not added after all.
        let mut claims = Claims::none();
        reclaim::claim(&mut claims, 1)?;
        let place = Place { name: name::copy(name)?, parent: Arc::clone(self) };
        let (child, link) = match what {
            Source::New(new) => {
                (TmpDentry::new(self.super_block(), Some(place), self.inherit(new), true)?, false)
            }
            Source::Link(inode) => (TmpDentry::with_inode(Some(place), inode)?, true),
        };
        let entry = DirEntry::new(hash, name::copy(name)?, &child)?;
        let (added, waits) = {
            let guard = pin();
            let mut writer = writer.lock();
            let added = if self.is_removed() {
                Err(FsError::NotFound)
            } else if writer.entries.find(hash, |entry| entry.is(hash, name)).is_some() {
                Err(FsError::Exists)
            } else {
                let may = if checked { self.super_block().may_write() } else { Ok(()) };
                may.and_then(|()| if link { child.inode().add_name() } else { Ok(()) }).map(|()| {
                    child.take_offset(&mut writer);
                    writer.entries.insert(entries, Unlinked::new(entry), &guard);
                })
            };
            (added, writer.entries.waits())
        };
        if waits {
            // The directory's hash waits for a grace period to grow.
            pin().flush();
        }
        added?;
        self.inode().touch();
        if link {
            child.inode().touch_changed();
        } else if child.is_dir() {
            self.inode().change_subdirectories(true);
        }
        Ok(child)
    }

    /// Takes the entry `name` away though it is in use, by the kernel itself: what it stood for is gone. A directory's
    /// entries go with it. Nothing if there is no such entry.
    ///
    /// Context: not pinned; no lock held; may block.
    pub fn forget(&self, name: &[u8]) -> Option<Removed> {
        loop {
            let child = self.entry(name)?;
            child.forget_entries();
            if let Some(removed) = self.forget_empty(name, &child) {
                return Some(removed);
            }
        }
    }

    /// Takes all entries of a directory away, and theirs, from the bottom up. It may be deep: this is no recursion.
    fn forget_entries(self: &Arc<Self>) {
        let mut above: SmallVec<[Arc<TmpDentry>; 4]> = SmallVec::new();
        let mut at = Arc::clone(self);
        while at.is_dir() {
            let entries = memory::until(|| at.entries().map_err(|_| NoMemory));
            let inner = entries.iter().find(|(_, entry)| entry.entry_count().is_ok_and(|count| count != 0));
            if let Some((_, inner)) = inner {
                memory::until(|| above.make_room(1));
                above.push(core::mem::replace(&mut at, Arc::clone(inner)));
                continue;
            }
            for (name, entry) in &entries {
                // Nothing is mounted on what is in a process's directory but by the process itself.
                drop(at.forget_empty(name, entry));
            }
            match above.pop() {
                Some(outer) => at = outer,
                None => return,
            }
        }
    }

    /// Takes the entry `name` away, if it still is `child` and that has no entries.
    fn forget_empty(&self, name: &[u8], child: &Arc<TmpDentry>) -> Option<Removed> {
        let (entries, _) = self.directory().ok()?;
        let hash = name::hash(name);
        let removal = memory::until(|| Removal::begin_everywhere(child));
        {
            let mut locks = DirLocks::take(&[self, child]);
            let guard = pin();
            let entry = locks.of(self).entries.find(hash, |entry| entry.is(hash, name));
            // SAFETY: linked, and the lock keeps it so.
            let entry = entry.filter(|entry| Arc::ptr_eq(unsafe { entry.as_ref() }.child(), child))?;
            if child.is_dir() && !locks.of(child).entries.is_empty() {
                return None;
            }
            child.set_removed();
            // SAFETY: found linked under this lock.
            unsafe { locks.of(self).entries.remove(entries, entry, &guard) };
        }
        child.inode().remove_name();
        if child.is_dir() {
            self.inode().change_subdirectories(false);
        }
        let elsewhere = removal.done();
        reclaim::relieve();
        Some(Removed { dentry: Arc::clone(child), elsewhere })
    }

    fn remove<E: From<FsError>>(
        &self,
        name: &[u8],
        want: Want,
        own: &Arc<MntNamespace<TmpDentry>>,
        mut change: impl FnMut(&Arc<TmpDentry>) -> Result<(), E>,
    ) -> Result<Removed, E> {
        let (entries, _) = self.directory()?;
        name::check(name)?;
        self.super_block().may_write()?;
        let hash = name::hash(name);
        // The entry.
        let mut claims = Claims::none();
        reclaim::claim(&mut claims, 1).map_err(FsError::from)?;
        loop {
            let child = self.get(hash, name)?.ok_or(FsError::NotFound)?;
            match (want, child.is_dir()) {
                (Want::Directory, false) => return Err(FsError::NotDirectory.into()),
                (Want::Other, true) => return Err(FsError::IsDirectory.into()),
                _ => {}
            }
            let removal = Removal::begin(&child, own).map_err(FsError::from)?;
            change(&child)?;
            {
                let mut locks = DirLocks::take(&[self, &child]);
                let guard = pin();
                let entry = locks.of(self).entries.find(hash, |entry| entry.is(hash, name));
                // SAFETY: linked, and the lock keeps it so.
                let Some(entry) =
                    entry.filter(|entry| Arc::ptr_eq(unsafe { entry.as_ref() }.child(), &child))
                else {
                    continue; // Somebody was faster; look again.
                };
                if want == Want::Directory && !locks.of(&child).entries.is_empty() {
                    return Err(FsError::NotEmpty.into());
                }
                child.set_removed();
                // SAFETY: found linked under this lock.
                unsafe { locks.of(self).entries.remove(entries, entry, &guard) };
            }
            self.lost(&child);
            let elsewhere = removal.done();
            reclaim::relieve();
            return Ok(Removed { dentry: child, elsewhere });
        }
    }
}

impl TmpDentry {
    /// The entry of `child` in this directory is gone.
    pub(crate) fn lost(&self, child: &TmpDentry) {
        self.inode().touch();
        child.inode().touch_changed();
        child.inode().remove_name();
        if child.is_dir() {
            self.inode().change_subdirectories(false);
        }
    }
}

/// The locks of up to four directories, taken in the order of their addresses.
pub(crate) struct DirLocks<'a>(SmallVec<[Locked<'a>; 4]>);

type Locked<'a> = (&'a TmpDentry, MutexGuard<'a, DirWriter>);

impl<'a> DirLocks<'a> {
    /// Locks those of `dentries` that are directories, each once. Context: not pinned.
    pub(crate) fn take(dentries: &[&'a TmpDentry]) -> Self {
        let mut sorted: SmallVec<[&'a TmpDentry; 4]> = dentries.iter().copied().collect();
        sorted.sort_unstable_by_key(|dentry| core::ptr::from_ref(*dentry).addr());
        sorted.dedup_by_key(|dentry| core::ptr::from_ref(*dentry).addr());
        let locked = sorted.into_iter().filter_map(|dentry| {
            let (entries, writer) = dentry.directory().ok()?;
            let mut writer = writer.lock();
            if writer.entries.starved() {
                writer.entries.catch_up(entries);
            }
            Some((dentry, writer))
        });
        DirLocks(locked.collect())
    }

    /// The writer of `dentry`, a directory that was locked.
    pub(crate) fn of(&mut self, dentry: &TmpDentry) -> &mut DirWriter {
        let held = self.0.iter_mut().find(|(held, _)| core::ptr::eq(*held, dentry));
        &mut held.expect("the directory is locked").1
    }
}
