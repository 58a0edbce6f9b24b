//! Places in the tree that outlive a pin: a path that was kept, and a task's root and working directory.
//!
//! A [`PathRef`] holds a mount by its count. A task's root and working directory ([`FsStruct`]) are [`Place`]s: read by
//! lock-free walks, replaced by chdir and chroot. A place on a mount's own root goes through the mount's
//! [`Anchor`], so that pivot_root moves it; any other holds its mount.
//!
//! A place's *count* ends when it is replaced, at once, so that an umount right after a chdir succeeds; its *memory*
//! goes through the cell, since walks that began before may still read it.

use alloc::sync::Arc;
use core::ptr::{self, NonNull};

use crate::arc_cell::ArcCell;
use crate::dentry::Dentry;
use crate::list::NoMemory;
use crate::memory::{self, Claims};
use crate::mount::{Anchor, Mount, MountRef, NotKept};
use crate::platform;
use crate::reclaim::{self, Guard, pin};
use crate::sync::{Memory, planted};

/// A mount and a dentry in it, kept.
pub struct PathRef<D: Dentry> {
    /// The mount, which the reference makes busy.
    pub mount: MountRef<D>,
    /// The dentry.
    pub dentry: Arc<D>,
}

impl<D: Dentry> Clone for PathRef<D> {
    fn clone(&self) -> Self {
        PathRef { mount: self.mount.clone(), dentry: Arc::clone(&self.dentry) }
    }
}

/// A root or working directory; see the module's header. Counted by whoever holds it in a cell.
pub struct Place<D: Dentry> {
    memory: Memory,
    at: At<D>,
    dentry: Arc<D>,
}

enum At<D: Dentry> {
    Mount(NonNull<Mount<D>>),
    Root(Arc<Anchor<D>>),
}

// SAFETY: gives `&Mount`, which is Sync, under the rules of `resolve`.
unsafe impl<D: Dentry> Send for Place<D> {}
// SAFETY: as above.
unsafe impl<D: Dentry> Sync for Place<D> {}

impl<D: Dentry> Place<D> {
    /// Counts a place at `dentry` in `mount`. Context: pinned; may take a leaf lock.
    fn take(mount: &Mount<D>, dentry: &Arc<D>, guard: &Guard) -> Result<Self, NotKept<D>> {
        let at = if Arc::ptr_eq(mount.root(), dentry) {
            At::Root(Anchor::keep(mount, guard)?)
        } else {
            let kept = mount.keep(guard)?;
            let at = NonNull::from(&*kept);
            core::mem::forget(kept); // `release` ends it
            At::Mount(at)
        };
        Ok(Place { memory: Memory::new(), at, dentry: Arc::clone(dentry) })
    }

    /// Where it is now. Context: pinned, and the place was in its cell at some moment of the pin.
    #[inline]
    pub(crate) fn resolve<'g>(&'g self, guard: &'g Guard) -> (&'g Mount<D>, &'g Arc<D>) {
        self.memory.check();
        match &self.at {
            // SAFETY: counted while it is in a cell, and it was during this pin; retired after that [Reach].
            At::Mount(mount) => (unsafe { mount.as_ref() }, &self.dentry),
            At::Root(anchor) => {
                let mount = anchor.target(guard);
                (mount, mount.root())
            }
        }
    }

    /// Ends its count. Once, after it left its cell.
    fn release(&self) {
        let unkept = match &self.at {
            At::Mount(mount) => {
                // SAFETY: counted until here.
                drop(unsafe { MountRef::from_counted(*mount) });
                return;
            }
            At::Root(anchor) => anchor.put(&pin()),
        };
        unkept.settle();
    }
}

/// A task's root and working directory. Tasks may share one; readers are lock-free.
pub struct FsStruct<D: Dentry> {
    root: ArcCell<Place<D>>,
    cwd: ArcCell<Place<D>>,
}

/// Why nobody could be made to stand at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlaceError {
    /// Its mount was on its way out: the caller walks again.
    Stale,
    /// `ENOMEM`.
    NoMemory,
}

impl From<NoMemory> for PlaceError {
    fn from(NoMemory: NoMemory) -> Self {
        PlaceError::NoMemory
    }
}

impl<D: Dentry> FsStruct<D> {
    /// Root and working directory at `path`.
    ///
    /// # Errors
    /// [`PlaceError::Stale`]: only if an umount fails at this moment. `ENOMEM`.
    pub fn new(path: &PathRef<D>) -> Result<Self, PlaceError> {
        let root = Self::take(&path.mount, &path.dentry)?;
        match Self::take(&path.mount, &path.dentry) {
            Ok(cwd) => Ok(FsStruct { root: ArcCell::new(root), cwd: ArcCell::new(cwd) }),
            Err(error) => {
                root.release();
                Err(error)
            }
        }
    }

    /// A copy for a new task.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn fork(&self) -> Result<Self, NoMemory> {
        let root = Self::copy(&self.root)?;
        match Self::copy(&self.cwd) {
            Ok(cwd) => Ok(FsStruct { root: ArcCell::new(root), cwd: ArcCell::new(cwd) }),
            Err(error) => {
                root.release();
                Err(error)
            }
        }
    }

    fn copy(cell: &ArcCell<Place<D>>) -> Result<Arc<Place<D>>, NoMemory> {
        let mut spins = 0;
        loop {
            let (taken, moved) = {
                let guard = pin();
                let place = cell.load(&guard);
                let (mount, dentry) = place.resolve(&guard);
                let taken = Place::take(mount, dentry, &guard);
                // A pivot before the copy had its anchor did not move the copy.
                (taken, !ptr::eq(place.resolve(&guard).0, mount) && !planted("fork_without_second_look"))
            };
            match taken {
                Ok(copy) if !moved => return Self::share(copy),
                Ok(copy) => copy.release(),
                Err(NotKept::Unkept(unkept)) => unkept.settle(),
                Err(NotKept::NoMemory) => return Err(NoMemory),
            }
            platform::relax(spins);
            spins += 1;
        }
    }

    /// Makes `path` the root (chroot).
    ///
    /// # Errors
    /// As [`FsStruct::new`].
    pub fn set_root(&self, path: &PathRef<D>) -> Result<(), PlaceError> {
        Self::set(&self.root, path, || true)
    }

    /// As [`FsStruct::set_root`], if `path` is `still` good when it is taken, and else [`PlaceError::Stale`].
    ///
    /// # Errors
    /// As [`FsStruct::new`].
    pub fn set_root_while(&self, path: &PathRef<D>, still: impl FnOnce() -> bool) -> Result<(), PlaceError> {
        Self::set(&self.root, path, still)
    }

    /// Makes `path` the working directory (chdir).
    ///
    /// # Errors
    /// As [`FsStruct::new`].
    pub fn set_cwd(&self, path: &PathRef<D>) -> Result<(), PlaceError> {
        Self::set(&self.cwd, path, || true)
    }

    /// As [`FsStruct::set_root_while`], for the working directory.
    ///
    /// # Errors
    /// As [`FsStruct::new`].
    pub fn set_cwd_while(&self, path: &PathRef<D>, still: impl FnOnce() -> bool) -> Result<(), PlaceError> {
        Self::set(&self.cwd, path, still)
    }

    /// The root and its holder's handle of the mount. Stale as soon as it is returned.
    pub fn root(&self) -> (Arc<Mount<D>>, Arc<D>) {
        Self::get(&self.root)
    }

    /// The working directory; see [`FsStruct::root`].
    pub fn cwd(&self) -> (Arc<Mount<D>>, Arc<D>) {
        Self::get(&self.cwd)
    }

    pub(crate) fn root_cell(&self) -> &ArcCell<Place<D>> {
        &self.root
    }

    pub(crate) fn cwd_cell(&self) -> &ArcCell<Place<D>> {
        &self.cwd
    }

    fn take(mount: &Mount<D>, dentry: &Arc<D>) -> Result<Arc<Place<D>>, PlaceError> {
        let taken = Place::take(mount, dentry, &pin());
        match taken {
            Ok(place) => Ok(Self::share(place)?),
            Err(NotKept::Unkept(unkept)) => {
                unkept.settle();
                Err(PlaceError::Stale)
            }
            Err(NotKept::NoMemory) => Err(PlaceError::NoMemory),
        }
    }

    /// Context: not pinned.
    fn share(place: Place<D>) -> Result<Arc<Place<D>>, NoMemory> {
        let mut claims = Claims::none();
        if let Err(error) = claims.claim(1) {
            place.release();
            return Err(error);
        }
        Ok(memory::covered(|| Arc::new(place)))
    }

    fn set(
        cell: &ArcCell<Place<D>>,
        path: &PathRef<D>,
        still: impl FnOnce() -> bool,
    ) -> Result<(), PlaceError> {
        // The cell retires what it held.
        let mut claims = Claims::none();
        reclaim::claim(&mut claims, 1)?;
        let place = Self::take(&path.mount, &path.dentry)?;
        if !still() && !planted("pivots_not_compared") {
            place.release();
            return Err(PlaceError::Stale);
        }
        let old = cell.swap(place, &pin());
        old.release();
        Ok(())
    }

    fn get(cell: &ArcCell<Place<D>>) -> (Arc<Mount<D>>, Arc<D>) {
        let guard = pin();
        let place = cell.load(&guard);
        let (mount, dentry) = place.resolve(&guard);
        (mount.to_arc(&guard), Arc::clone(dentry))
    }
}

impl<D: Dentry> Drop for FsStruct<D> {
    fn drop(&mut self) {
        for cell in [&self.root, &self.cwd] {
            // The cell is going, and with it the place's memory; its count ends here.
            let end = {
                let guard = pin();
                let place = cell.load(&guard);
                match &place.at {
                    At::Mount(mount) => Err(*mount),
                    At::Root(anchor) => Ok(anchor.put(&guard)),
                }
            };
            match end {
                Ok(unkept) => unkept.settle(),
                // SAFETY: counted until here.
                Err(mount) => drop(unsafe { MountRef::from_counted(mount) }),
            }
        }
    }
}
