//! Models of crossbeam-epoch, which the lifetime layer stands on, and the two tools that its models need.
//!
//! - [`Warm`]: registration and a handle's first pin cost more executions than all the rest, so models register and pin
//!   once on the main thread, before any other thread starts.
//! - Loom does not see freed memory. A model retires a node by a deferred *write* to its cell and keeps the memory, so a
//!   reader without protection shows as a race.

use std::sync::atomic::{AtomicBool, Ordering as StdOrdering};

use crossbeam_epoch::{Atomic, Collector, LocalHandle, Shared, unprotected};
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::AtomicPtr;
use loom::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use loom::thread;
use mnt_table::platform::set_epoch;

use crate::harness::{Layer, Model, model};

static UNPINNED_READER: AtomicBool = AtomicBool::new(false);

/// Plants a bug of this module.
pub fn plant(bug: Option<&'static str>) {
    UNPINNED_READER.store(bug == Some("unpinned-reader"), StdOrdering::Relaxed); // Relaxed: before any thread starts.
}

/// All of them, cheapest first.
pub fn models() -> Vec<Model> {
    vec![through_crossbeam(), retire_beside_reader()]
}

/// A registered handle that was pinned once.
pub struct Warm(LocalHandle);

// SAFETY: a model moves the handle into one thread and takes it back by joining that thread, so one thread at a time
// uses it, and the spawn and the join order the uses.
unsafe impl Send for Warm {}

impl Warm {
    /// Registers a handle with `collector` and pins it once.
    pub fn new(collector: &Collector) -> Self {
        let handle = collector.register();
        drop(handle.pin());
        Warm(handle)
    }

    /// Makes it the one by which this thread pins in the mount table.
    pub fn enter(self) {
        assert!(set_epoch(Some(self.0)).is_none(), "this thread has one already");
    }

    /// Takes this thread's handle away.
    pub fn leave() -> Self {
        Warm(set_epoch(None).expect("this thread has one"))
    }

    /// The handle, for the thread that holds it now.
    pub fn handle(&self) -> &LocalHandle {
        &self.0
    }
}

/// The first canary through crossbeam's own atomic: its copy of loom must be the corrected one too.
fn through_crossbeam() -> Model {
    model(Layer::Lifetime, "load-store-crossbeam").expect_outcomes(["null", "set"]).run(|| {
        let x = Arc::new(Atomic::<u64>::null());
        let child = thread::spawn({
            let x = Arc::clone(&x);
            move || {
                // SAFETY: the pointers are null with a tag; nothing is read through them and nothing is freed.
                let guard = unsafe { unprotected() };
                let old = x.load(Relaxed, guard);
                x.store(old.with_tag(1), Relaxed);
            }
        });
        // SAFETY: as above.
        let guard = unsafe { unprotected() };
        let seen = x.load(Relaxed, guard) != Shared::null();
        child.join().unwrap();
        if seen { "set".to_owned() } else { "null".to_owned() }
    })
}

/// A node is unlinked, retired and flushed while a reader may stand on it: not freed before the reader's pin ends, and
/// freed when everything is quiet.
fn retire_beside_reader() -> Model {
    model(Layer::Lifetime, "retire").bound(2).expect_outcomes(["gone", "7"]).planted(["unpinned-reader"]).run(
        || {
            let collector = Collector::new();
            let node = Box::into_raw(Box::new(UnsafeCell::new(7)));
            let slot = Arc::new(AtomicPtr::new(node));
            let (writer, reader) = (Warm::new(&collector), Warm::new(&collector));
            let child = thread::spawn({
                let slot = Arc::clone(&slot);
                move || {
                    let guard = writer.handle().pin();
                    let old = slot.swap(std::ptr::null_mut(), AcqRel);
                    // SAFETY: the closure owns all it uses; the memory outlives the collector, and that nobody else is in
                    // the cell any more is what loom checks.
                    unsafe { guard.defer_unchecked(move || (*old).with_mut(|value| *value = 0)) };
                    drop(guard);
                    for _ in 0..3 {
                        writer.handle().pin().flush();
                    }
                    writer
                }
            });
            // Relaxed: the planted bug is chosen before the model runs.
            let guard = (!UNPINNED_READER.load(StdOrdering::Relaxed)).then(|| reader.handle().pin());
            // SAFETY: `node` is freed below, after the last use; loom checks that its cell is not written meanwhile.
            let seen = match unsafe { slot.load(Acquire).as_ref() } {
                None => "gone".to_owned(),
                // SAFETY: as above.
                Some(node) => node.with(|value| unsafe { (*value).to_string() }),
            };
            drop(guard);
            drop((child.join().unwrap(), reader, collector));
            // SAFETY: from `into_raw` above; the threads and the collector are gone.
            let node = unsafe { Box::from_raw(node) };
            // SAFETY: nobody else has the cell.
            assert_eq!(node.with(|value| unsafe { *value }), 0, "retired and never freed");
            seen
        },
    )
}
