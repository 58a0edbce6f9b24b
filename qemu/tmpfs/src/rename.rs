//! Rename.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::ptr::NonNull;

use mnt_table::WriteSet;
use mnt_table::dentry::Dentry;
use mnt_table::memory::{self, Claims};
use mnt_table::namespace::MntNamespace;
use mnt_table::reclaim::{self, pin};
use mnt_table::removal::Removal;
use mnt_table::table::Unlinked;
use smallvec::SmallVec;

use crate::FsError;
use crate::dentry::{DirEntry, TmpDentry};
use crate::directory::{DirLocks, Removed};
use crate::name;
use crate::place::Place;

/// One end of a rename.
struct End<'a> {
    directory: &'a Arc<TmpDentry>,
    name: &'a [u8],
    hash: u64,
}

impl<'a> End<'a> {
    fn new((directory, name): (&'a Arc<TmpDentry>, &'a [u8])) -> Result<Self, FsError> {
        name::check(name)?;
        Ok(End { directory, name, hash: name::hash(name) })
    }

    fn get(&self) -> Result<Option<Arc<TmpDentry>>, FsError> {
        self.directory.get(self.hash, self.name)
    }

    /// A place and an entry that make `dentry` this entry.
    fn fresh(&self, dentry: &Arc<TmpDentry>) -> Result<(Box<Place>, Box<DirEntry>), FsError> {
        let place = Place { name: name::copy(self.name)?, parent: Arc::clone(self.directory) };
        let place = memory::boxed(place)?;
        Ok((place, DirEntry::new(self.hash, name::copy(self.name)?, dentry)?))
    }

    /// The entry as it is under the lock.
    fn find(&self, locks: &mut DirLocks<'_>) -> Option<NonNull<DirEntry>> {
        locks.of(self.directory).entries.find(self.hash, |entry| entry.is(self.hash, self.name))
    }
}

/// Makes `from` the entry `to`, which is replaced if it exists. `own` is the caller's mount namespace.
///
/// Beside it, a lookup of `to` finds the old or the new dentry and never neither; `from` and `to` can both be found for a
/// moment. The dentry's place changes right before the new name can be found, because a walk that comes by the new name
/// may go up at once.
///
/// Returns what lost its name.
///
/// Context: not pinned; no lock held; may block.
///
/// # Errors
/// `ENOTDIR`: one of the two is in no directory; `EXDEV`; the names' errors; `EROFS`; `ENOENT`: no `from`; `EINVAL`: into
/// itself; `ENOTEMPTY`: onto an ancestor; `ENOENT`: the target's directory was removed; `ENOTDIR`, `EISDIR`: one is a
/// directory and the other is not; `EBUSY`: something is mounted on one of them in `own`; `ENOTEMPTY`; `ENOMEM`.
pub fn rename(
    from: (&Arc<TmpDentry>, &[u8]),
    to: (&Arc<TmpDentry>, &[u8]),
    own: &Arc<MntNamespace<TmpDentry>>,
) -> Result<Option<Removed>, FsError> {
    rename_if(from, to, own, |_, _| Ok(()))
}

/// As [`rename`], if `may` says so of what is moved and what is replaced, which is asked again when somebody changes them
/// in between.
///
/// Context and errors: as [`rename`], and those of `may`.
pub fn rename_if<E: From<FsError>>(
    from: (&Arc<TmpDentry>, &[u8]),
    to: (&Arc<TmpDentry>, &[u8]),
    own: &Arc<MntNamespace<TmpDentry>>,
    may: impl Fn(&Arc<TmpDentry>, Option<&Arc<TmpDentry>>) -> Result<(), E>,
) -> Result<Option<Removed>, E> {
    rename_with(from, to, own, may, |_, _| Ok(()))
}

/// As [`rename_if`], by the kernel itself, which changes something else in the same breath: `change` is called when nothing
/// but somebody who changes the same directories at the same time can keep the rename from being done, and such people the
/// caller keeps out.
///
/// Context and errors: as [`rename`], and those of `may` and `change`.
pub fn rename_with<E: From<FsError>>(
    from: (&Arc<TmpDentry>, &[u8]),
    to: (&Arc<TmpDentry>, &[u8]),
    own: &Arc<MntNamespace<TmpDentry>>,
    may: impl Fn(&Arc<TmpDentry>, Option<&Arc<TmpDentry>>) -> Result<(), E>,
    mut change: impl FnMut(&Arc<TmpDentry>, Option<&Arc<TmpDentry>>) -> Result<(), E>,
) -> Result<Option<Removed>, E> {
    let (old_entries, _) = from.0.directory()?;
    let (new_entries, _) = to.0.directory()?;
    let super_block = from.0.super_block();
    if !Arc::ptr_eq(super_block, to.0.super_block()) {
        return Err(FsError::CrossDevice.into());
    }
    let (from, to) = (End::new(from)?, End::new(to)?);
    super_block.may_write()?;
    reclaim::reserve().map_err(FsError::from)?;
    // Two entries and a place.
    let mut claims = Claims::none();
    reclaim::claim(&mut claims, 3).map_err(FsError::from)?;
    let between = !Arc::ptr_eq(from.directory, to.directory);
    loop {
        let moved = from.get()?.ok_or(FsError::NotFound)?;
        let target = to.get()?;
        if between {
            let guard = pin();
            let _nobody_moves = super_block.rename.lock();
            if moved.is_ancestor_of(to.directory, &guard) {
                return Err(FsError::IntoItself.into());
            }
            if target.as_ref().is_some_and(|target| target.is_ancestor_of(from.directory, &guard)) {
                return Err(FsError::NotEmpty.into());
            }
        }
        match &target {
            None if to.directory.is_removed() => return Err(FsError::NotFound.into()),
            None => {}
            // Two names of one file: nothing is to be done.
            Some(target) if Arc::ptr_eq(target.inode(), moved.inode()) => return Ok(None),
            Some(target) => match (moved.is_dir(), target.is_dir()) {
                (true, false) => return Err(FsError::NotDirectory.into()),
                (false, true) => return Err(FsError::IsDirectory.into()),
                _ => {}
            },
        }
        may(&moved, target.as_ref())?;
        if is_mounted_in(own, &moved) {
            return Err(FsError::Busy.into());
        }
        let removal =
            target.as_ref().map(|target| Removal::begin(target, own)).transpose().map_err(FsError::from)?;
        let (place, fresh) = to.fresh(&moved)?;
        change(&moved, target.as_ref())?;
        {
            let mut involved: SmallVec<[&TmpDentry; 4]> = SmallVec::new();
            involved.extend([&**from.directory, &**to.directory]);
            involved.extend(target.as_deref());
            let _nobody_moves = between.then(|| super_block.rename.lock());
            let mut locks = DirLocks::take(&involved);
            let guard = pin();
            let (old, new) = (from.find(&mut locks), to.find(&mut locks));
            // SAFETY: linked, and the locks keep them so.
            let child = |entry: NonNull<DirEntry>| unsafe { entry.as_ref() }.child();
            let same = old.is_some_and(|old| Arc::ptr_eq(child(old), &moved))
                && new.map(|new| Arc::as_ptr(child(new))) == target.as_ref().map(Arc::as_ptr);
            let Some(old) = old.filter(|_| same) else { continue }; // Somebody was faster; look again.
            if to.directory.is_removed() {
                return Err(FsError::NotFound.into());
            }
            if between && moved.is_ancestor_of(to.directory, &guard) {
                return Err(FsError::IntoItself.into());
            }
            if let Some(target) = &target {
                if target.is_dir() && !locks.of(target).entries.is_empty() {
                    return Err(FsError::NotEmpty.into());
                }
                target.set_removed();
            }
            moved.place().set(Some(place), &guard);
            let fresh = Unlinked::new(fresh);
            let writer = locks.of(to.directory);
            moved.take_offset(writer);
            match new {
                // SAFETY: found linked under this lock; both have the hash of the new name.
                Some(new) => unsafe { writer.entries.replace(new_entries, new, fresh, &guard) },
                None => writer.entries.insert(new_entries, fresh, &guard),
            };
            // SAFETY: found linked under this lock, under another name than what was replaced.
            unsafe { locks.of(from.directory).entries.remove(old_entries, old, &guard) };
        }
        if let Some(target) = &target {
            to.directory.lost(target);
        }
        moved_between(&moved, from.directory, to.directory);
        let elsewhere = removal.map(Removal::done);
        reclaim::relieve();
        return Ok(target.zip(elsewhere).map(|(dentry, elsewhere)| Removed { dentry, elsewhere }));
    }
}

/// `moved` went from one directory to another, or to another name in the same one.
fn moved_between(moved: &TmpDentry, from: &TmpDentry, to: &TmpDentry) {
    if moved.is_dir() && !core::ptr::eq(from, to) {
        from.inode().change_subdirectories(false);
        to.inode().change_subdirectories(true);
    }
    moved.inode().touch_changed();
    from.inode().touch();
    to.inode().touch();
}

/// Exchanges the entries `one` and `two`, if `may` says so. `own` is the caller's mount namespace.
///
/// Beside it a lookup of either name finds one of the two dentries; for a moment both names can lead to the same.
///
/// Context: as [`rename`].
///
/// # Errors
/// `ENOTDIR`: one of the two is in no directory; `EXDEV`; the names' errors; `EROFS`; `ENOENT`; `EINVAL`: one is above the
/// other's directory; `EBUSY`: something is mounted on one of them in `own`; `ENOMEM`; those of `may`.
pub fn exchange<E: From<FsError>>(
    one: (&Arc<TmpDentry>, &[u8]),
    two: (&Arc<TmpDentry>, &[u8]),
    own: &Arc<MntNamespace<TmpDentry>>,
    may: impl Fn(&Arc<TmpDentry>, Option<&Arc<TmpDentry>>) -> Result<(), E>,
) -> Result<(), E> {
    exchange_with(one, two, own, may, |_, _| Ok(()))
}

/// As [`exchange`], and with it `change`, as in [`rename_with`].
///
/// Context and errors: as [`exchange`], and those of `change`.
pub fn exchange_with<E: From<FsError>>(
    one: (&Arc<TmpDentry>, &[u8]),
    two: (&Arc<TmpDentry>, &[u8]),
    own: &Arc<MntNamespace<TmpDentry>>,
    may: impl Fn(&Arc<TmpDentry>, Option<&Arc<TmpDentry>>) -> Result<(), E>,
    mut change: impl FnMut(&Arc<TmpDentry>, &Arc<TmpDentry>) -> Result<(), E>,
) -> Result<(), E> {
    let (one_entries, _) = one.0.directory()?;
    let (two_entries, _) = two.0.directory()?;
    let super_block = one.0.super_block();
    if !Arc::ptr_eq(super_block, two.0.super_block()) {
        return Err(FsError::CrossDevice.into());
    }
    let (one, two) = (End::new(one)?, End::new(two)?);
    super_block.may_write()?;
    reclaim::reserve().map_err(FsError::from)?;
    let between = !Arc::ptr_eq(one.directory, two.directory);
    loop {
        let first = one.get()?.ok_or(FsError::NotFound)?;
        let second = two.get()?.ok_or(FsError::NotFound)?;
        if between {
            let guard = pin();
            let _nobody_moves = super_block.rename.lock();
            if first.is_ancestor_of(two.directory, &guard) || second.is_ancestor_of(one.directory, &guard) {
                return Err(FsError::IntoItself.into());
            }
        }
        if Arc::ptr_eq(first.inode(), second.inode()) {
            return Ok(());
        }
        may(&first, Some(&second))?;
        if is_mounted_in(own, &first) || is_mounted_in(own, &second) {
            return Err(FsError::Busy.into());
        }
        let (place_two, entry_two) = two.fresh(&first)?;
        let (place_one, entry_one) = one.fresh(&second)?;
        change(&first, &second)?;
        {
            let _nobody_moves = between.then(|| super_block.rename.lock());
            let mut locks = DirLocks::take(&[one.directory, two.directory]);
            let guard = pin();
            let (Some(old_one), Some(old_two)) = (one.find(&mut locks), two.find(&mut locks)) else {
                continue;
            };
            // SAFETY: linked, and the locks keep them so.
            let child = |entry: NonNull<DirEntry>| unsafe { entry.as_ref() }.child();
            if !Arc::ptr_eq(child(old_one), &first) || !Arc::ptr_eq(child(old_two), &second) {
                continue; // Somebody was faster; look again.
            }
            if between
                && (first.is_ancestor_of(two.directory, &guard)
                    || second.is_ancestor_of(one.directory, &guard))
            {
                return Err(FsError::IntoItself.into());
            }
            first.place().set(Some(place_two), &guard);
            second.place().set(Some(place_one), &guard);
            first.take_offset(locks.of(two.directory));
            second.take_offset(locks.of(one.directory));
            let writer = locks.of(two.directory);
            // SAFETY: found linked under this lock; both have the hash of the name.
            unsafe { writer.entries.replace(two_entries, old_two, Unlinked::new(entry_two), &guard) };
            let writer = locks.of(one.directory);
            // SAFETY: as above; under another name than what was replaced.
            unsafe { writer.entries.replace(one_entries, old_one, Unlinked::new(entry_one), &guard) };
        }
        moved_between(&first, one.directory, two.directory);
        moved_between(&second, two.directory, one.directory);
        reclaim::relieve();
        return Ok(());
    }
}

/// Whether something is mounted on `dentry` in `ns`. Locks `ns` if anybody mounts there.
fn is_mounted_in(ns: &Arc<MntNamespace<TmpDentry>>, dentry: &Arc<TmpDentry>) -> bool {
    dentry.mounted_here().is_mountpoint() && WriteSet::one(ns).mounts_on(ns, dentry).next().is_some()
}
