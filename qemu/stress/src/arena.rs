//! Where the job makes its changes: cells in a directory of every namespace's root, and pairs of roots to pivot.
//!
//! The namespaces of a forest share file systems, so an arena belongs to a *directory*, not to a namespace: a mount made in
//! one namespace's cell can be propagated to the same cell of another. Some kinds of change check what they find
//! afterwards, or leave traces that readers know to be impossible; those take a cell for themselves, in all namespaces
//! ([`Arena::claim`]).

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use mnt_table::dentry::SuperBlockRef;
use mnt_table::{Kind, MntNamespace, MountFlags, MountSpec, PathRef, WriteSet, pin};
use propagate::Error;
use syscalls::Task;
use tmpfs::{Options, TmpDentry, TmpSuperBlock};

use crate::world::{BuildError, FOREIGN_DEV, World, directory};

/// Cells that any number of writers use at once.
pub const OPEN_CELLS: usize = 3;
/// Cells that one writer uses at a time.
pub const CLAIMED_CELLS: usize = 3;

/// The cells below one directory.
pub struct Arena {
    /// Identity of each cell's directory.
    pub cells: Vec<(u32, u64)>,
    directories: Vec<Arc<TmpDentry>>,
    claims: [AtomicBool; CLAIMED_CELLS],
}

/// A cell for one writer, until dropped.
pub struct Claim<'a> {
    taken: &'a AtomicBool,
    /// The cell's path from the root.
    pub path: String,
    /// The cell's directory.
    pub directory: &'a Arc<TmpDentry>,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        // Release: pairs with the Acquire in `claim`.
        self.taken.store(false, Ordering::Release);
    }
}

/// The path of a cell from the root of its namespace.
pub fn cell_path(cell: usize) -> String {
    format!("/.stress/c{cell}")
}

impl Arena {
    fn new(root: &Arc<TmpDentry>) -> Result<Self, BuildError> {
        let (mut cells, mut directories) = (Vec::new(), Vec::new());
        for cell in 0..OPEN_CELLS + CLAIMED_CELLS {
            let dir = directory(root, cell_path(cell).as_bytes())?;
            for name in ["p/under", "x", "y", "b", "t", "u"] {
                directory(&dir, name.as_bytes())?;
            }
            cells.push(dir.id());
            directories.push(dir);
        }
        Ok(Arena { cells, directories, claims: [const { AtomicBool::new(false) }; CLAIMED_CELLS] })
    }

    /// The claimed cell `which`, unless another writer has it.
    pub fn claim(&self, which: usize) -> Option<Claim<'_>> {
        let which = which % CLAIMED_CELLS;
        let taken = &self.claims[which];
        // Acquire: pairs with the Release in `Claim::drop`.
        taken.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok().then(|| {
            let cell = OPEN_CELLS + which;
            Claim { taken, path: cell_path(cell), directory: &self.directories[cell] }
        })
    }
}

/// A namespace whose root two mounts take turns at. `R` begins as the root, with `N` on its directory `new`; a pivot
/// makes `N` the root with `R` on its `old`; the next one takes that back.
pub struct Pivot {
    /// Stands at the root.
    pub task: Task<TmpDentry>,
    turn: AtomicBool,
    claim: AtomicBool,
}

impl Pivot {
    fn new(index: u32) -> Result<Self, BuildError> {
        let ns = MntNamespace::new(Kind::Ordinary).map_err(Error::from)?;
        let mut roots = Vec::new();
        for (which, mark) in ["none", "mark-r", "mark-n"].into_iter().enumerate() {
            let dev = FOREIGN_DEV / 2 + index * 4 + which as u32;
            let options = Options::new(dev, b"tmpfs");
            let root = SuperBlockRef::new(TmpSuperBlock::new(options)?);
            for name in ["new", "old", mark] {
                directory(root.root(), name.as_bytes())?;
            }
            roots.push(root);
        }
        let mut locks = WriteSet::one(&ns);
        let mut mounts = Vec::new();
        for root in &roots {
            let spec = MountSpec::new(
                Arc::clone(root.root()),
                MountFlags::RELATIME,
                mnt_table::Source::new(b"none").expect("memory"),
            );
            mounts.push(locks.new_mount(&ns, spec).map_err(Error::from)?);
        }
        locks.attach_root(&ns, &mounts[0]);
        for (child, parent, on) in [(1, 0, "/"), (2, 1, "new")] {
            let on = directory(roots[parent].root(), on.as_bytes())?;
            let joint = locks.prepare(&mounts[child], &mounts[parent], &on).map_err(Error::from)?;
            locks.attach(&mounts[child], joint, &pin());
        }
        drop(locks);
        let kept = mounts[1].keep(&pin());
        let Ok(mount) = kept else { return Err(Error::Busy.into()) };
        let task = Task::new(&ns, &PathRef { mount, dentry: Arc::clone(roots[1].root()) })?;
        Ok(Pivot { task, turn: AtomicBool::new(false), claim: AtomicBool::new(false) })
    }

    /// Lets `change` make the next pivot; it gets the paths of the new root and of the place for the old one. `None` if
    /// another writer is at it.
    pub fn turn<R>(&self, change: impl FnOnce(&str, &str) -> (R, bool)) -> Option<R> {
        // Acquire: pairs with the Release below.
        self.claim.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).ok()?;
        // Relaxed: under the claim.
        let back = self.turn.load(Ordering::Relaxed);
        let (result, done) = if back { change("/old", "/old/new") } else { change("/new", "/new/old") };
        self.turn.store(back != done, Ordering::Relaxed);
        self.claim.store(false, Ordering::Release);
        Some(result)
    }
}

/// All places for changes.
pub struct Arenas {
    arenas: Vec<Arena>,
    /// By place of the world: its arena.
    of: Vec<usize>,
    /// Namespaces to pivot in.
    pub pivots: Vec<Pivot>,
}

impl Arenas {
    /// Makes the directories and namespaces.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new(world: &World, pivots: u32) -> Result<Self, BuildError> {
        let (mut arenas, mut roots, mut of) = (Vec::new(), Vec::new(), Vec::new());
        for place in &world.places {
            let (_, root) = place.walker.fs().root();
            let known = roots.iter().position(|known| *known == root.id());
            of.push(match known {
                Some(known) => known,
                None => {
                    arenas.push(Arena::new(&root)?);
                    roots.push(root.id());
                    arenas.len() - 1
                }
            });
        }
        let pivots = (0..pivots).map(Pivot::new).collect::<Result<_, _>>()?;
        Ok(Arenas { arenas, of, pivots })
    }

    /// The arena of place `place`.
    pub fn of(&self, place: usize) -> &Arena {
        &self.arenas[self.of[place]]
    }
}
