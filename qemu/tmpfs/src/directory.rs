//! Adding and removing entries.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use mnt_table::dentry::Dentry;
use mnt_table::memory::{Claims, Grow};
use mnt_table::namespace::MntNamespace;
use mnt_table::reclaim::{self, pin};
use mnt_table::removal::Removal;
use mnt_table::sync::MutexGuard;
use mnt_table::table::Unlinked;
use mnt_table::table::Writer;
use smallvec::SmallVec;

use crate::FsError;
use crate::dentry::{self, DirEntry, Handle, TmpDentry, What};
use crate::name::{self, TARGET_MAX};
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
        self.add(name, What::File)
    }

    /// Makes an empty directory.
    ///
    /// # Errors
    /// As [`TmpDentry::create`].
    pub fn mkdir(self: &Arc<Self>, name: &[u8]) -> Result<Arc<TmpDentry>, FsError> {
        self.add(name, What::Directory)
    }

    /// Makes a symbolic link to `target`.
    ///
    /// # Errors
    /// `ENOENT`: an empty target; `ENAMETOOLONG`: a target above [`TARGET_MAX`]; then as [`TmpDentry::create`].
    pub fn make_symlink(self: &Arc<Self>, name: &[u8], target: &[u8]) -> Result<Arc<TmpDentry>, FsError> {
        match target.len() {
            0 => Err(FsError::NotFound),
            len if len > TARGET_MAX => Err(FsError::NameTooLong),
            _ => self.add(name, What::Symlink(target)),
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
        self.add(name, What::Handle(handle))
    }

    /// Removes the empty directory `name`. `own` is the caller's mount namespace.
    ///
    /// Context: not pinned; no lock held; may block.
    ///
    /// # Errors
    /// `ENOTDIR`: this is no directory; the name's errors; `EROFS`; `ENOENT`; `ENOTDIR`; `EBUSY`; `ENOTEMPTY`; `ENOMEM`.
    pub fn rmdir(&self, name: &[u8], own: &Arc<MntNamespace<TmpDentry>>) -> Result<Removed, FsError> {
        self.remove(name, Want::Directory, own)
    }

    /// Removes the entry `name`, which is no directory. `own` is the caller's mount namespace.
    ///
    /// Context: not pinned; no lock held; may block.
    ///
    /// # Errors
    /// `ENOTDIR`: this is no directory; the name's errors; `EROFS`; `ENOENT`; `EISDIR`; `EBUSY`; `ENOMEM`.
    pub fn unlink(&self, name: &[u8], own: &Arc<MntNamespace<TmpDentry>>) -> Result<Removed, FsError> {
        self.remove(name, Want::Other, own)
    }

    /// The names in this directory and what they are, in no order.
    ///
    /// # Errors
    /// `ENOTDIR`; `ENOMEM`.
    pub fn entries(&self) -> Result<Entries, FsError> {
        let (_, writer) = self.directory()?;
        let writer = writer.lock();
        // SAFETY: linked entries are alive, and the lock keeps them linked.
        let entries = writer.entries().map(|entry| unsafe { entry.as_ref() });
        let mut found = Entries::new();
        for entry in entries {
            found.try_push((dentry::copy(entry.name())?, Arc::clone(entry.child())))?;
        }
        Ok(found)
    }

    fn add(self: &Arc<Self>, name: &[u8], what: What<'_>) -> Result<Arc<TmpDentry>, FsError> {
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
        let child = TmpDentry::new(self.super_block(), Some(place), what)?;
        let entry = DirEntry::new(hash, name::copy(name)?, &child)?;
        let (added, waits) = {
            let guard = pin();
            let mut writer = writer.lock();
            let added = if self.is_removed() {
                Err(FsError::NotFound)
            } else if writer.find(hash, |entry| entry.is(hash, name)).is_some() {
                Err(FsError::Exists)
            } else {
                self.super_block().may_write().map(|()| {
                    writer.insert(entries, Unlinked::new(entry), &guard);
                })
            };
            (added, writer.waits())
        };
        if waits {
            // The directory's hash waits for a grace period to grow.
            pin().flush();
        }
        added.map(|()| child)
    }

    fn remove(
        &self,
        name: &[u8],
        want: Want,
        own: &Arc<MntNamespace<TmpDentry>>,
    ) -> Result<Removed, FsError> {
        let (entries, _) = self.directory()?;
        name::check(name)?;
        self.super_block().may_write()?;
        let hash = name::hash(name);
        // The entry.
        let mut claims = Claims::none();
        reclaim::claim(&mut claims, 1)?;
        loop {
            let child = self.get(hash, name)?.ok_or(FsError::NotFound)?;
            match (want, child.is_dir()) {
                (Want::Directory, false) => return Err(FsError::NotDirectory),
                (Want::Other, true) => return Err(FsError::IsDirectory),
                _ => {}
            }
            let removal = Removal::begin(&child, own)?;
            {
                let mut locks = DirLocks::take(&[self, &child]);
                let guard = pin();
                let entry = locks.of(self).find(hash, |entry| entry.is(hash, name));
                // SAFETY: linked, and the lock keeps it so.
                let Some(entry) =
                    entry.filter(|entry| Arc::ptr_eq(unsafe { entry.as_ref() }.child(), &child))
                else {
                    continue; // Somebody was faster; look again.
                };
                if want == Want::Directory && !locks.of(&child).is_empty() {
                    return Err(FsError::NotEmpty);
                }
                child.set_removed();
                // SAFETY: found linked under this lock.
                unsafe { locks.of(self).remove(entries, entry, &guard) };
            }
            let elsewhere = removal.done();
            reclaim::relieve();
            return Ok(Removed { dentry: child, elsewhere });
        }
    }
}

/// The locks of up to three directories, taken in the order of their addresses.
pub(crate) struct DirLocks<'a>(SmallVec<[Locked<'a>; 3]>);

type Locked<'a> = (&'a TmpDentry, MutexGuard<'a, Writer<DirEntry>>);

impl<'a> DirLocks<'a> {
    /// Locks those of `dentries` that are directories, each once. Context: not pinned.
    pub(crate) fn take(dentries: &[&'a TmpDentry]) -> Self {
        let mut sorted: SmallVec<[&'a TmpDentry; 3]> = dentries.iter().copied().collect();
        sorted.sort_unstable_by_key(|dentry| core::ptr::from_ref(*dentry).addr());
        sorted.dedup_by_key(|dentry| core::ptr::from_ref(*dentry).addr());
        let locked = sorted.into_iter().filter_map(|dentry| {
            let (entries, writer) = dentry.directory().ok()?;
            let mut writer = writer.lock();
            if writer.starved() {
                writer.catch_up(entries);
            }
            Some((dentry, writer))
        });
        DirLocks(locked.collect())
    }

    /// The writer of `dentry`, a directory that was locked.
    pub(crate) fn of(&mut self, dentry: &TmpDentry) -> &mut Writer<DirEntry> {
        let held = self.0.iter_mut().find(|(held, _)| core::ptr::eq(*held, dentry));
        &mut held.expect("the directory is locked").1
    }
}
