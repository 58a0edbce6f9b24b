//! Lookups that know what they may find.
//!
//! Whatever the writers do meanwhile, every answer has to be one that some order of the operations explains:
//!
//! - a path of the input leads to the root that its line showed, unless somebody covered a path of the input during the
//!   lookup ([`Covers`]); then it may lead into what covers it, or nowhere;
//! - in a cell, `p` is the cell's own directory or the root of a job's file system; only the first has `under`, only the
//!   second `over`; and `p/..` is the cell, at any moment;
//! - `b` is the cell's own directory, or one of a cell that is bound there; and `b/..` is the cell;
//! - in a claimed cell one mount is moved between `x` and `y`: no walk sees it at both;
//! - where two mounts take turns at being the root, no walk combines the moments before and after a pivot.

use alloc::format;
use alloc::string::String;
use core::sync::atomic::{AtomicU64, Ordering};

use mnt_table::PathRef;
use mnt_table::walk::{Last, WalkError, walk, walk_with};
use rand::Rng;
use rand::rngs::SmallRng;
use syscalls::Task;
use tmpfs::TmpDentry;

use crate::arena::{Arenas, CLAIMED_CELLS, OPEN_CELLS, cell_path};
use crate::world::{FOREIGN_DEV, World};

/// When paths of the input were covered by a mount of the job.
#[derive(Default)]
pub struct Covers {
    begun: AtomicU64,
    ended: AtomicU64,
}

impl Covers {
    /// A path is going to be covered.
    pub fn begin(&self) {
        self.begun.fetch_add(1, Ordering::SeqCst);
    }

    /// It is not any more.
    pub fn end(&self) {
        self.ended.fetch_add(1, Ordering::SeqCst);
    }

    fn ended_before(&self) -> u64 {
        self.ended.load(Ordering::SeqCst)
    }

    /// Whether one was there at some moment since `ended_before`.
    fn overlapped(&self, ended_before: u64) -> bool {
        self.begun.load(Ordering::SeqCst) > ended_before
    }
}

type Id = (u32, u64);
type Found = Result<Id, WalkError>;

fn look(task: &Task<TmpDentry>, path: &[u8]) -> Found {
    walk_with(&task.fs(), path, Last::Follow, |found| Ok(found.dentry.id()))
}

fn is_foreign(id: Id) -> bool {
    id.0 >= FOREIGN_DEV
}

/// A reader's looks at one namespace.
pub struct Reader<'a> {
    /// All namespaces.
    pub world: &'a World,
    /// Where changes are made.
    pub arenas: &'a Arenas,
    /// When paths of the input are covered.
    pub covers: &'a Covers,
}

impl Reader<'_> {
    /// One lookup in namespace `place`, by a task that stands at its root. An answer that nothing explains is returned as
    /// a line.
    pub fn look(&self, task: &Task<TmpDentry>, place: usize, rng: &mut SmallRng) -> Result<(), String> {
        match rng.random_range(0..16) {
            0..10 => self.input(task, place, rng),
            10 | 11 => self.open_cell(task, place, rng),
            12 | 13 => self.claimed_cell(task, place, rng),
            _ => self.pivot(rng),
        }
    }

    /// Keeps a place for a while: an open file, or a working directory.
    pub fn hold(&self, task: &Task<TmpDentry>, rng: &mut SmallRng) -> Option<PathRef<TmpDentry>> {
        let cell = cell_path(rng.random_range(0..OPEN_CELLS));
        let path = format!("{cell}/p");
        if rng.random_bool(0.3) {
            // Whether it is still there is the walk's business.
            let _moved = task.chdir(path.as_bytes());
        }
        walk(&task.fs(), path.as_bytes(), Last::Follow).ok()
    }

    fn input(&self, task: &Task<TmpDentry>, place: usize, rng: &mut SmallRng) -> Result<(), String> {
        let mountpoints = &self.world.places[place].visible;
        if mountpoints.is_empty() {
            return Ok(());
        }
        let (path, wanted) = &mountpoints[rng.random_range(0..mountpoints.len())];
        let before = self.covers.ended_before();
        let found = look(task, path);
        let explained = match found {
            Ok(id) if id == *wanted => true,
            Ok(id) => is_foreign(id) && self.covers.overlapped(before),
            Err(WalkError::NotFound) => self.covers.overlapped(before),
            Err(_) => false,
        };
        claim(explained, || {
            let name = &self.world.places[place].name;
            format!("{name}: {} leads to {found:?}, not to {wanted:?}", path.escape_ascii())
        })
    }

    fn open_cell(&self, task: &Task<TmpDentry>, place: usize, rng: &mut SmallRng) -> Result<(), String> {
        let cell = rng.random_range(0..OPEN_CELLS);
        let path = cell_path(cell);
        let own = self.arenas.of(place).cells[cell];
        match rng.random_range(0..6) {
            0 => expect(task, &format!("{path}/p"), |found| {
                found.is_ok_and(|id| id.0 == own.0 || is_foreign(id))
            }),
            1 => expect(task, &format!("{path}/p/under"), |found| match found {
                Ok(id) => id.0 == own.0,
                Err(error) => error == WalkError::NotFound,
            }),
            2 => expect(task, &format!("{path}/p/over"), |found| match found {
                Ok(id) => is_foreign(id),
                Err(error) => error == WalkError::NotFound,
            }),
            3 => expect(task, &format!("{path}/p/.."), |found| found == Ok(own)),
            4 => expect(task, &format!("{path}/b"), |found| found.is_ok_and(|id| id.0 == own.0 && id != own)),
            _ => expect(task, &format!("{path}/b/.."), |found| found == Ok(own)),
        }
    }

    fn claimed_cell(&self, task: &Task<TmpDentry>, place: usize, rng: &mut SmallRng) -> Result<(), String> {
        let cell = OPEN_CELLS + rng.random_range(0..CLAIMED_CELLS);
        let path = cell_path(cell);
        let own = self.arenas.of(place).cells[cell];
        let (one, other) = if rng.random_bool(0.5) { ("x", "y") } else { ("y", "x") };
        match rng.random_range(0..3) {
            0 => expect(task, &format!("{path}/{one}/over/../../{other}/over"), |found| {
                found == Err(WalkError::NotFound)
            }),
            1 => expect(task, &format!("{path}/{one}/.."), |found| found == Ok(own)),
            _ => expect(task, &format!("{path}/{one}"), |found| {
                found.is_ok_and(|id| id.0 == own.0 || is_foreign(id))
            }),
        }
    }

    fn pivot(&self, rng: &mut SmallRng) -> Result<(), String> {
        let Some(pivot) = self.arenas.pivots.get(rng.random_range(0..self.arenas.pivots.len().max(1))) else {
            return Ok(());
        };
        let never = |found: Found| found == Err(WalkError::NotFound);
        match rng.random_range(0..4) {
            0 => expect(&pivot.task, "/mark-r/../old/mark-r", never),
            1 => expect(&pivot.task, "/mark-n/../new/mark-n", never),
            2 => expect(&pivot.task, "/old/../new/../mark-r/../old/mark-n", never),
            _ => expect(&pivot.task, "/..", |found| found.is_ok()),
        }
    }
}

fn expect(task: &Task<TmpDentry>, path: &str, explained: impl Fn(Found) -> bool) -> Result<(), String> {
    let found = look(task, path.as_bytes());
    claim(explained(found), || format!("{path} leads to {found:?}"))
}

fn claim(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise()) }
}
