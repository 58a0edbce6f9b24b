//! What a CPU asks of others, and how it knows that they did it.
//!
//! 1. The poster writes what it wants into its own mailbox, sets its bit in the mailbox of every CPU that it asks, and
//!    interrupts them.
//! 2. Each of them takes the bits that it finds, does what those mailboxes say, and takes itself off their lists.
//! 3. The poster waits until its list is empty, and serves its own mailbox meanwhile: two CPUs that ask each other make
//!    progress whatever their interrupt flags say.
//!
//! A mailbox says one thing at a time: its CPU writes the next one after the last list was empty.
//!
//! # Edges
//! - `[Post]` Release in [`post`]'s `fetch_or` to Acquire in [`serve`]'s `swap`: what is wanted is there, and so is all that
//!   the poster did before. Model `shootdown`.
//! - `[Done]` Release in [`serve`]'s `fetch_and` to Acquire in [`post`]'s wait: what was asked for is done. Model `shootdown`.
//!
//! This file is one source for the kernel and for loom: whoever includes it has a module `atomic` beside it.

use core::ops::Range;

use super::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::*, order};

/// What a CPU wants: that translations are forgotten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    /// The physical address of the tables' root.
    pub(crate) root: u64,
    /// The addresses whose translations go.
    pub(crate) range: Range<usize>,
    /// Whether who does not run in these tables lets go of them.
    pub(crate) evict: bool,
}

/// One CPU's side.
pub(crate) struct Mailbox {
    /// Bits of the CPUs that want something of this one.
    requests: AtomicU64,
    // What this CPU wants: written by it, before it sets its bit elsewhere.
    root: AtomicU64,
    start: AtomicUsize,
    end: AtomicUsize,
    evict: AtomicBool,
    /// The CPUs that have not done it yet.
    waiting: AtomicU64,
}

impl Mailbox {
    pub(crate) fn new() -> Self {
        Self {
            requests: AtomicU64::new(0),
            root: AtomicU64::new(0),
            start: AtomicUsize::new(0),
            end: AtomicUsize::new(0),
            evict: AtomicBool::new(false),
            waiting: AtomicU64::new(0),
        }
    }

    fn write(&self, request: &Request) {
        // Relaxed, all: published by the Release of [Post]; nobody reads them between two requests of this CPU.
        self.root.store(request.root, Relaxed);
        self.start.store(request.range.start, Relaxed);
        self.end.store(request.range.end, Relaxed);
        self.evict.store(request.evict, Relaxed);
    }

    fn read(&self) -> Request {
        // Relaxed, all: after the Acquire of [Post].
        let range = self.start.load(Relaxed)..self.end.load(Relaxed);
        Request { root: self.root.load(Relaxed), range, evict: self.evict.load(Relaxed) }
    }
}

/// The CPUs of `bits`.
fn cpus(mut bits: u64) -> impl Iterator<Item = usize> {
    core::iter::from_fn(move || {
        let cpu = (bits != 0).then(|| bits.trailing_zeros() as usize)?;
        bits &= bits - 1;
        Some(cpu)
    })
}

/// Asks the CPUs of `targets`, which `me` is none of, for `request`, and returns when all did it. Calls `interrupt` for each of
/// them, and `meanwhile`, which has to [`serve`] this CPU's own mailbox, again and again.
pub(crate) fn post<'a>(
    mailbox: impl Fn(usize) -> &'a Mailbox,
    me: usize,
    targets: u64,
    request: &Request,
    interrupt: impl Fn(usize),
    meanwhile: impl Fn(),
) {
    let own = mailbox(me);
    own.write(request);
    own.waiting.store(targets, Relaxed); // Relaxed: as what is wanted.
    for cpu in cpus(targets) {
        mailbox(cpu).requests.fetch_or(1 << me, order(Release, "post_relaxed")); // Release [Post].
        interrupt(cpu);
    }
    // Acquire [Done].
    while own.waiting.load(order(Acquire, "wait_relaxed")) != 0 {
        meanwhile();
    }
}

/// Does what other CPUs asked of `me` by calling `forget`, which is over when it returns.
pub(crate) fn serve<'a>(mailbox: impl Fn(usize) -> &'a Mailbox, me: usize, forget: impl Fn(&Request)) {
    let own = mailbox(me);
    // Relaxed: only a hint that saves the exchange.
    if own.requests.load(Relaxed) == 0 {
        return;
    }
    for from in cpus(own.requests.swap(0, order(Acquire, "take_relaxed"))) {
        // Acquire above [Post].
        let poster = mailbox(from);
        forget(&poster.read());
        poster.waiting.fetch_and(!(1 << me), order(Release, "done_relaxed")); // Release [Done].
    }
}
