//! Models of loom and of the harness, not of the mount table.
//!
//! The canaries lose outcomes under stock loom 0.7.2 (`cargo xtask loom --stock` shows it) and under a copy whose
//! correction was dropped. The harness models show both ways a planted bug can end: caught, and missed.

use std::sync::atomic::{AtomicBool, Ordering as StdOrdering};

use loom::cell::UnsafeCell;
use loom::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use loom::sync::atomic::{AtomicUsize, fence};
use loom::sync::{Arc, Mutex};
use loom::thread;

use crate::harness::{Layer, Model, model};

static RELAXED_PUBLISH: AtomicBool = AtomicBool::new(false);

/// Plants a bug of this module.
pub fn plant(bug: Option<&'static str>) {
    RELAXED_PUBLISH.store(bug == Some("relaxed-publish"), StdOrdering::Relaxed); // Relaxed: before any thread starts.
}

/// All of them, cheapest first.
pub fn models() -> Vec<Model> {
    vec![
        load_beside_load_and_store(),
        two_children(),
        lost_update(),
        fence_after_store(),
        try_lock(),
        publish(),
    ]
}

/// The smallest program with the hole: the child's load hides the main thread's.
fn load_beside_load_and_store() -> Model {
    model(Layer::Canary, "load-store").expect_outcomes(["0", "1"]).run(|| {
        let x = Arc::new(AtomicUsize::new(0));
        let child = thread::spawn({
            let x = Arc::clone(&x);
            move || {
                x.load(Relaxed);
                x.store(1, Relaxed);
            }
        });
        let seen = x.load(Relaxed);
        child.join().unwrap();
        seen.to_string()
    })
}

/// The same with both in children, the reader first.
fn two_children() -> Model {
    model(Layer::Canary, "load-store-children").expect_outcomes(["0", "1"]).run(|| {
        let x = Arc::new(AtomicUsize::new(0));
        let reader = thread::spawn({
            let x = Arc::clone(&x);
            move || x.load(Relaxed)
        });
        let writer = thread::spawn({
            let x = Arc::clone(&x);
            move || {
                x.load(Relaxed);
                x.store(1, Relaxed);
            }
        });
        writer.join().unwrap();
        reader.join().unwrap().to_string()
    })
}

/// Two increments by load and store; one can be lost.
fn lost_update() -> Model {
    model(Layer::Canary, "lost-update").expect_outcomes(["1", "2"]).run(|| {
        let x = Arc::new(AtomicUsize::new(0));
        let increment = |x: &AtomicUsize| x.store(x.load(Relaxed) + 1, Relaxed);
        let child = thread::spawn({
            let x = Arc::clone(&x);
            move || increment(&x)
        });
        increment(&x);
        child.join().unwrap();
        x.load(Relaxed).to_string()
    })
}

/// A fence right after a store: another thread may see the store, pass its own fence, and only then comes the first.
fn fence_after_store() -> Model {
    model(Layer::Canary, "fence-after-store").expect_outcomes(["00", "01", "10", "11"]).run(|| {
        let [w, x] = [(); 2].map(|()| Arc::new(AtomicUsize::new(0)));
        let child = thread::spawn({
            let [w, x] = [&w, &x].map(Arc::clone);
            move || {
                w.store(1, Relaxed);
                x.store(1, Relaxed);
                fence(SeqCst);
            }
        });
        let x = x.load(Relaxed);
        fence(SeqCst);
        let w = w.load(Relaxed);
        child.join().unwrap();
        format!("{x}{w}")
    })
}

/// A lock tried before, while and after another thread holds it.
fn try_lock() -> Model {
    model(Layer::Canary, "try-lock").expect_outcomes(["got 0", "got 2", "held"]).run(|| {
        let lock = Arc::new(Mutex::new(0));
        let other = Arc::new(AtomicUsize::new(0));
        let child = thread::spawn({
            let (lock, other) = (Arc::clone(&lock), Arc::clone(&other));
            move || {
                let mut value = lock.lock().unwrap();
                *value += 1;
                other.store(1, Relaxed);
                *value += 1;
            }
        });
        let seen = lock.try_lock().map_or("held".to_owned(), |value| format!("got {}", *value));
        child.join().unwrap();
        seen
    })
}

/// A value published with Release, and with Relaxed when the bug is planted.
fn publish() -> Model {
    model(Layer::Harness, "publish")
        .expect_outcomes(["none", "42"])
        .planted(["relaxed-publish"])
        .harmless(["nothing"])
        .run(|| {
            let slot = Arc::new((UnsafeCell::new(0), AtomicUsize::new(0)));
            let writer = thread::spawn({
                let slot = Arc::clone(&slot);
                move || {
                    // SAFETY: readers touch the cell only after they saw the flag; loom checks that.
                    slot.0.with_mut(|value| unsafe { *value = 42 });
                    // Relaxed: the planted bug. Release: pairs with the Acquire below.
                    let relaxed = RELAXED_PUBLISH.load(StdOrdering::Relaxed);
                    slot.1.store(1, if relaxed { Relaxed } else { Release });
                }
            });
            // Acquire: pairs with the Release above.
            let seen = match slot.1.load(Acquire) {
                0 => "none".to_owned(),
                // SAFETY: the flag was set after the only write; loom checks that too.
                _ => slot.0.with(|value| unsafe { (*value).to_string() }),
            };
            writer.join().unwrap();
            seen
        })
}
