//! Models of writers beside a mount or a superblock that becomes read-only or writable.

use std::sync::Arc;

use loom::cell::UnsafeCell;
use loom::thread;
use mnt_table::platform::set_cpu;
use mnt_table::writers::{Hold, Through, WriteRef, Writers};

use crate::harness::{Layer, Model, model};

/// All of them, cheapest first.
pub fn models() -> Vec<Model> {
    vec![
        write_vs_writable(),
        write_vs_refused_remount(),
        write_vs_read_only(),
        write_vs_read_only_spill(),
        mounts_vs_super_block(),
    ]
}

/// A superblock with two mounts, and what is written.
struct World {
    super_block: Writers,
    mounts: [Writers; 2],
    /// Whether nobody may write. Read by whoever writes, written by who knows that nobody does: loom reports the two at
    /// once.
    frozen: UnsafeCell<bool>,
}

// SAFETY: the cell is accessed under the rules of writers; loom checks them.
unsafe impl Sync for World {}

/// One of the mounts.
struct Mount(Arc<World>, usize);

impl Through for Mount {
    fn writers(&self) -> [&Writers; 2] {
        [&self.0.mounts[self.1], &self.0.super_block]
    }
}

impl World {
    fn new(super_block: Writers) -> Arc<Self> {
        let mounts = [(); 2].map(|()| Writers::new());
        Arc::new(World { super_block, mounts, frozen: UnsafeCell::new(false) })
    }

    /// Begins to write through a mount.
    fn begin(self: &Arc<Self>, mount: usize) -> Option<WriteRef<Mount>> {
        WriteRef::new(Mount(Arc::clone(self), mount)).ok()
    }

    /// Writes, for who has begun.
    fn touch(&self) {
        // SAFETY: loom reports an access beside a write in `set_frozen`.
        assert!(!self.frozen.with(|frozen| unsafe { *frozen }), "wrote to what is read-only");
    }

    /// Begins, writes and ends.
    fn write(self: &Arc<Self>, mount: usize) -> &'static str {
        match self.begin(mount) {
            Some(_writing) => {
                self.touch();
                "wrote"
            }
            None => "EROFS",
        }
    }

    /// A thread on `cpu` that writes through a mount.
    fn writer(self: &Arc<Self>, mount: usize, cpu: usize) -> thread::JoinHandle<&'static str> {
        let world = Arc::clone(self);
        thread::spawn(move || {
            set_cpu(cpu);
            world.write(mount)
        })
    }

    /// What a file system does while nobody writes.
    fn set_frozen(&self, to: bool) {
        // SAFETY: as in `touch`.
        self.frozen.with_mut(|frozen| unsafe { *frozen = to });
    }

    /// Makes what is held read-only, unless somebody writes.
    fn read_only(&self, hold: Hold<'_>) -> &'static str {
        if !hold.is_idle() {
            return "busy";
        }
        self.set_frozen(true);
        hold.set_read_only();
        "read-only"
    }
}

/// A writer through a mount that becomes read-only.
fn write_vs_read_only() -> Model {
    model(Layer::Structure, "write_vs_read_only")
        .expect_outcomes(["wrote, busy", "wrote, read-only", "EROFS, read-only"])
        .planted(["write_without_fence", "hold_without_fence", "no_look_after_hold", "put_relaxed"])
        .run(|| {
            let world = World::new(Writers::new());
            let writer = world.writer(0, 1);
            let changed = world.read_only(world.mounts[0].hold());
            let wrote = writer.join().unwrap();
            format!("{wrote}, {changed}")
        })
}

/// A writer that goes from one CPU to another, while the array with a pair per CPU appears.
fn write_vs_read_only_spill() -> Model {
    model(Layer::Structure, "write_vs_read_only_spill")
        .expect_outcomes(["wrote, busy", "wrote, read-only", "EROFS, read-only"])
        .planted(["write_without_fence", "hold_without_fence", "slots_relaxed", "sum_without_slots"])
        .run(|| {
            let world = World::new(Writers::new());
            let writer = thread::spawn({
                let world = Arc::clone(&world);
                move || {
                    set_cpu(1);
                    let first = world.begin(0);
                    set_cpu(2);
                    drop(first); // The second change of CPU: this splits the counts.
                    world.write(0)
                }
            });
            let changed = world.read_only(world.mounts[0].hold());
            let wrote = writer.join().unwrap();
            format!("{wrote}, {changed}")
        })
}

/// A write through one mount ends and one through another begins, beside their superblock, which becomes read-only without
/// a look at its mounts.
fn mounts_vs_super_block() -> Model {
    model(Layer::Structure, "mounts_vs_super_block")
        .bound(3)
        .expect_outcomes(["wrote, busy", "wrote, read-only", "EROFS, read-only"])
        .planted(["write_without_fence", "hold_without_fence", "no_look_after_hold", "put_relaxed"])
        .run(|| {
            let world = World::new(Writers::new());
            let writing = world.begin(1);
            let ends = thread::spawn({
                let world = Arc::clone(&world);
                move || {
                    set_cpu(2);
                    world.touch();
                    drop(writing);
                }
            });
            let begins = world.writer(0, 1);
            let changed = world.read_only(world.super_block.hold());
            let wrote = begins.join().unwrap();
            ends.join().unwrap();
            format!("{wrote}, {changed}")
        })
}

/// A superblock is held and idle, so the file system changes itself, and then refuses to become read-only.
fn write_vs_refused_remount() -> Model {
    model(Layer::Structure, "write_vs_refused_remount")
        .expect_outcomes(["wrote, busy", "wrote, refused"])
        .planted(["hold_end_relaxed", "may_write_relaxed"])
        .run(|| {
            let world = World::new(Writers::new());
            let writer = world.writer(0, 1);
            let hold = world.super_block.hold();
            let changed = if hold.is_idle() {
                world.set_frozen(false);
                "refused"
            } else {
                "busy"
            };
            drop(hold);
            let wrote = writer.join().unwrap();
            format!("{wrote}, {changed}")
        })
}

/// A superblock becomes writable, after the file system made itself ready for it.
fn write_vs_writable() -> Model {
    model(Layer::Structure, "write_vs_writable")
        .expect_outcomes(["EROFS", "wrote"])
        .planted(["writable_relaxed", "may_write_relaxed"])
        .run(|| {
            let world = World::new(Writers::new_read_only());
            let writer = world.writer(0, 1);
            world.set_frozen(false);
            world.super_block.set_writable();
            writer.join().unwrap().to_owned()
        })
}
