//! Commits take no memory: all of it is there when the plan is made.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::HashSet;
use std::sync::Arc;

use common::{Mnt, World, alone, drain, held, mkdirs, sized, spec};
use mnt_table::tree::{Joint, Leave};
use mnt_table::{WriteSet, pin};
use tmpfs::TmpDentry;

/// The system's allocator, which counts what a thread takes during a commit.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

thread_local! {
    static COMMITTING: Cell<bool> = const { Cell::new(false) };
    static TAKEN: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: forwarded; the counters are plain cells of the thread, which take no memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if COMMITTING.try_with(Cell::get).unwrap_or(false) {
            TAKEN.set(TAKEN.get() + 1);
        }
        // SAFETY: forwarded.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: forwarded.
        unsafe { System.dealloc(block, layout) };
    }
}

/// How often `then` took memory.
fn taken(then: impl FnOnce()) -> usize {
    TAKEN.set(0);
    COMMITTING.set(true);
    then();
    COMMITTING.set(false);
    TAKEN.get()
}

/// Random numbers of a fixed seed, which each failure prints.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        // Knuth's generator; the high bits are the good ones.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }
}

const DIRS: usize = 3;
/// Mounts that one plan makes and moves, and half of those that it removes: fewer than what a CPU retires before it asks
/// for memory to note it.
const PLAN: usize = 12;

/// Mounts of one file system on each other, many on the same few directories.
struct Many {
    world: World,
    dirs: Vec<Arc<TmpDentry>>,
    mounts: Vec<Mnt>,
}

impl Many {
    fn new(root: &Arc<TmpDentry>) -> Self {
        let world = World::over(root);
        let dirs: Vec<_> = (0..DIRS).map(|number| mkdirs(root, &number.to_string())).collect();
        let mounts = vec![Arc::clone(&world.root)];
        // The hash grows to its size beforehand.
        let mut chain = vec![Arc::clone(&world.root)];
        for _ in 0..sized(1000, 48) {
            let top = world.mount(chain.last().unwrap(), &dirs[0], root);
            chain.push(top);
        }
        chain.drain(1..).rev().for_each(|mount| world.detach(&mount));
        drain();
        Many { world, dirs, mounts }
    }

    /// A place where nothing is and that this plan has not given away, outside of what is below `not_below`.
    fn place(
        &self,
        random: &mut Random,
        set: &WriteSet<TmpDentry>,
        given: &mut HashSet<(u32, usize)>,
        parents: &[Mnt],
        not_below: Option<&Mnt>,
    ) -> Option<(Mnt, Arc<TmpDentry>)> {
        let (parent, dir) = (&parents[random.below(parents.len())], random.below(DIRS));
        let inside = not_below.is_some_and(|moved| set.is_below(parent, moved));
        let free = !inside && set.child_at(parent, &self.dirs[dir]).is_none();
        (free && given.insert((parent.id(), dir))).then(|| (Arc::clone(parent), Arc::clone(&self.dirs[dir])))
    }

    /// Plans at random, and commits unless the plan fails; returns how often the commit took memory.
    fn change(&mut self, random: &mut Random) -> usize {
        let mut set = WriteSet::one(&self.world.ns);
        let root = Arc::clone(self.world.dir());
        let mut given = HashSet::new();
        let mut comes: Vec<(Mnt, Joint<TmpDentry>)> = Vec::new();
        let mut moves: Vec<(Mnt, Joint<TmpDentry>)> = Vec::new();
        let mut parents = self.mounts.clone();
        for _ in 0..random.below(PLAN) {
            // Nothing moves below a mount that is yet to come, or is about to move: the order of the commit is enough.
            if let Some((parent, dir)) = self.place(random, &set, &mut given, &parents, None) {
                let mount = set.new_mount(&self.world.ns, spec(&root)).unwrap();
                let joint = set.prepare(&mount, &parent, &dir).unwrap();
                parents.push(Arc::clone(&mount));
                comes.push((mount, joint));
            }
        }
        if self.mounts.len() > 1 {
            let moved = Arc::clone(&self.mounts[1 + random.below(self.mounts.len() - 1)]);
            for _ in 0..3 {
                if let Some((parent, dir)) = self.place(random, &set, &mut given, &self.mounts, Some(&moved))
                {
                    let joint = set.prepare(&moved, &parent, &dir).unwrap();
                    moves.push((Arc::clone(&moved), joint));
                }
            }
        }
        if random.below(4) == 0 {
            return 0;
        }
        let busy: HashSet<u32> = comes.iter().chain(&moves).map(|(_, joint)| joint.parent().id()).collect();
        let is_moved = |mount: &Mnt| moves.iter().any(|(moved, _)| Arc::ptr_eq(moved, mount));
        let goes: Vec<Mnt> = self.mounts[1..]
            .iter()
            .filter(|mount| set.is_leaf(mount) && !busy.contains(&mount.id()) && !is_moved(mount))
            .take(random.below(2 * PLAN))
            .cloned()
            .collect();
        set.reserve_ended(goes.len()).unwrap();
        self.mounts.retain(|mount| !goes.iter().any(|gone| Arc::ptr_eq(gone, mount)));
        self.mounts.extend(comes.iter().map(|(mount, _)| Arc::clone(mount)));
        let ns = &self.world.ns;
        let guard = pin();
        let taken = taken(|| {
            set.begin(ns, &guard);
            goes.iter().for_each(|mount| set.leave(mount, Leave::Detached, &guard));
            comes.drain(..).for_each(|(mount, joint)| set.attach(&mount, joint, &guard));
            moves.drain(..).for_each(|(mount, joint)| set.rehang(&mount, joint, &guard));
            set.end();
        });
        drop(guard);
        drop(set);
        drain();
        taken
    }
}

#[test]
fn what_was_planned_at_once_is_committed_without_memory() {
    let _alone = alone();
    for seed in 0..sized(20, 1) as u64 {
        let held = held();
        let mut many = Many::new(held.root());
        let mut random = Random(seed);
        for step in 0..sized(100, 4) {
            assert_eq!(many.change(&mut random), 0, "seed {seed}, step {step}: the commit took memory");
            many.world.check();
        }
        let Many { world, mounts, .. } = many;
        drop(mounts);
        world.end();
    }
}
