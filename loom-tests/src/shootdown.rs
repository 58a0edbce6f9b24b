//! The kernel's requests to forget translations: a page is freed only after nobody can use it any more.

use std::sync::Arc;

use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicBool, Ordering::Relaxed};
use loom::thread;

use crate::harness::{Layer, Model, model};
use mailbox::{Mailbox, Request};

#[path = "../../qemu/kernel/src/mm/mailbox.rs"]
mod mailbox;

/// What the mailboxes are made of here.
mod atomic {
    pub(super) use std::sync::atomic::Ordering;

    pub(super) use loom::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};

    /// `order`, or `Relaxed` where the bug `name` is planted.
    pub(super) fn order(order: Ordering, name: &'static str) -> Ordering {
        if mnt_table::sync::planted(name) { Ordering::Relaxed } else { order }
    }
}

/// All of them.
pub fn models() -> Vec<Model> {
    vec![shootdown()]
}

/// A page that both CPUs know, in tables that the first one changes.
struct Machine {
    mailboxes: [Mailbox; 2],
    mapped: AtomicBool,
    page: UnsafeCell<u32>,
    /// Whether the second CPU has forgotten it.
    forgotten: AtomicBool,
    /// Whether it has nothing more to do.
    over: AtomicBool,
}

// SAFETY: the page is used under the rules of translations; loom checks them.
unsafe impl Sync for Machine {}

impl Machine {
    fn serve(&self, me: usize) {
        mailbox::serve(
            |cpu| &self.mailboxes[cpu],
            me,
            |request| {
                assert_eq!(*request, Self::request(1 - me), "something else was asked for");
                if me == 1 {
                    // Relaxed: after [Post], like a walk of the tables by the processor.
                    assert!(!self.mapped.load(Relaxed), "the page would be found again");
                    self.forgotten.store(true, Relaxed); // Relaxed: read by this CPU alone.
                }
            },
        );
        thread::yield_now();
    }

    fn request(from: usize) -> Request {
        Request { root: from as u64 + 1, range: 0x1000 * from..0x2000 * (from + 1), evict: from == 1 }
    }

    fn post(&self, me: usize) {
        let meanwhile = || self.serve(me);
        mailbox::post(|cpu| &self.mailboxes[cpu], me, 1 << (1 - me), &Self::request(me), |_| {}, meanwhile);
    }
}

/// Two CPUs ask each other. The first one takes a page out of the tables and frees it; the second one used it by a
/// translation that it knew.
fn shootdown() -> Model {
    model(Layer::Structure, "shootdown")
        .bound(3)
        .expect_outcomes(["freed"])
        .planted(["post_relaxed", "take_relaxed", "done_relaxed", "wait_relaxed"])
        .run(|| {
            let machine = Arc::new(Machine {
                mailboxes: [Mailbox::new(), Mailbox::new()],
                mapped: AtomicBool::new(true),
                page: UnsafeCell::new(7),
                forgotten: AtomicBool::new(false),
                over: AtomicBool::new(false),
            });
            let second = thread::spawn({
                let machine = Arc::clone(&machine);
                move || {
                    // SAFETY: a translation of the page is known, so it is not freed; loom checks that.
                    machine.page.with(|page| assert_eq!(unsafe { *page }, 7));
                    machine.post(1);
                    while !machine.forgotten.load(Relaxed) {
                        machine.serve(1);
                    }
                    machine.over.store(true, Relaxed); // Relaxed: says nothing of anything else.
                }
            });
            machine.mapped.store(false, Relaxed); // Relaxed: published by [Post].
            machine.post(0);
            // SAFETY: nobody knows a translation of the page any more; loom checks that.
            machine.page.with_mut(|page| unsafe { *page = 0 });
            // The second one's request may come after all that.
            while !machine.over.load(Relaxed) {
                machine.serve(0);
            }
            second.join().unwrap();
            "freed".to_owned()
        })
}
