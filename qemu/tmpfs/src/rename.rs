//! Rename.

use alloc::sync::Arc;
use core::ptr::NonNull;

use mnt_table::WriteSet;
use mnt_table::dentry::Dentry;
use mnt_table::memory::{self, Claims};
use mnt_table::namespace::MntNamespace;
use mnt_table::reclaim::{self, pin};
use mnt_table::removal::Removal;
use mnt_table::table::Unlinked;
use smallvec::{SmallVec, smallvec};

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

    /// The entry as it is under the lock.
    fn find(&self, locks: &mut DirLocks<'_>) -> Option<NonNull<DirEntry>> {
        locks.of(self.directory).find(self.hash, |entry| entry.is(self.hash, self.name))
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
    let (old_entries, _) = from.0.directory()?;
    let (new_entries, _) = to.0.directory()?;
    let super_block = from.0.super_block();
    if !Arc::ptr_eq(super_block, to.0.super_block()) {
        return Err(FsError::CrossDevice);
    }
    let (from, to) = (End::new(from)?, End::new(to)?);
    super_block.may_write()?;
    reclaim::reserve()?;
    // Two entries and a place.
    let mut claims = Claims::none();
    reclaim::claim(&mut claims, 3)?;
    let between = !Arc::ptr_eq(from.directory, to.directory);
    loop {
        let moved = from.get()?.ok_or(FsError::NotFound)?;
        let target = to.get()?;
        if between {
            let guard = pin();
            let _nobody_moves = super_block.rename.lock();
            if moved.is_ancestor_of(to.directory, &guard) {
                return Err(FsError::IntoItself);
            }
            if target.as_ref().is_some_and(|target| target.is_ancestor_of(from.directory, &guard)) {
                return Err(FsError::NotEmpty);
            }
        }
        match &target {
            None if to.directory.is_removed() => return Err(FsError::NotFound),
            None => {}
            Some(target) if Arc::ptr_eq(target, &moved) => return Ok(None),
            Some(target) => match (moved.is_dir(), target.is_dir()) {
                (true, false) => return Err(FsError::NotDirectory),
                (false, true) => return Err(FsError::IsDirectory),
                _ => {}
            },
        }
        if is_mounted_in(own, &moved) {
            return Err(FsError::Busy);
        }
        let removal = target.as_ref().map(|target| Removal::begin(target, own)).transpose()?;
        let place = memory::boxed(Place { name: name::copy(to.name)?, parent: Arc::clone(to.directory) })?;
        let fresh = DirEntry::new(to.hash, name::copy(to.name)?, &moved)?;
        {
            let mut involved: SmallVec<[&TmpDentry; 3]> = smallvec![&**from.directory, &**to.directory];
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
                return Err(FsError::NotFound);
            }
            if between && moved.is_ancestor_of(to.directory, &guard) {
                return Err(FsError::IntoItself);
            }
            if let Some(target) = &target {
                if target.is_dir() && !locks.of(target).is_empty() {
                    return Err(FsError::NotEmpty);
                }
                target.set_removed();
            }
            moved.place().set(Some(place), &guard);
            let fresh = Unlinked::new(fresh);
            let writer = locks.of(to.directory);
            match new {
                // SAFETY: found linked under this lock; both have the hash of the new name.
                Some(new) => unsafe { writer.replace(new_entries, new, fresh, &guard) },
                None => writer.insert(new_entries, fresh, &guard),
            };
            // SAFETY: found linked under this lock, under another name than what was replaced.
            unsafe { locks.of(from.directory).remove(old_entries, old, &guard) };
        }
        let elsewhere = removal.map(Removal::done);
        reclaim::relieve();
        return Ok(target.zip(elsewhere).map(|(dentry, elsewhere)| Removed { dentry, elsewhere }));
    }
}

/// Whether something is mounted on `dentry` in `ns`. Locks `ns` if anybody mounts there.
fn is_mounted_in(ns: &Arc<MntNamespace<TmpDentry>>, dentry: &Arc<TmpDentry>) -> bool {
    dentry.mounted_here().is_mountpoint() && WriteSet::one(ns).mounts_on(ns, dentry).next().is_some()
}
