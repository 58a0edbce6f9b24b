//! The sequence of a namespace: even at rest, odd while a change with several steps is being made.
//!
//! 1. A walk samples the sequence, reads edges, and reads the sequence again before it believes what it found.
//! 2. A change that a reader could see half done opens a *window*: the sequence goes odd, the edges change, it
//!    goes even. Only the holder of the namespace's lock does this, so plain stores do.
//! 3. A change of one edge is one pointer store: it opens no window and disturbs no walk, also in its own
//!    namespace.
//!
//! A window never spans an allocation, a wait for a lock or a call out of this crate.
//!
//! # Edges
//! - `[Window]` odd: Relaxed store; edges: Release stores; even: Release store. Reader: Acquire sample, Acquire
//!   loads of edges, Relaxed re-read. A reader that saw one edge of the window acquired the odd value that was
//!   stored before it, so its re-read cannot return the sample. A reader that sampled the even value at the end
//!   sees every edge of the window. Models: `walk_vs_two_edges`, `dotdot_vs_move`.

use crate::platform;
use crate::sync::{AtomicU64, Ordering, order};

/// A namespace's sequence.
pub(crate) struct Sequence(AtomicU64);

impl Sequence {
    pub(crate) fn new() -> Self {
        Sequence(AtomicU64::new(0))
    }

    /// The value that a walk compares with later; waits while a window is open.
    ///
    /// Context: pinned. Waits for a few stores of another CPU at most: no window spans anything that blocks.
    #[inline]
    pub(crate) fn sample(&self) -> u64 {
        let mut spins = 0;
        loop {
            // Acquire [Window]: pairs with the Release in `close`.
            let seen = self.0.load(order(Ordering::Acquire, "sample_relaxed"));
            if seen & 1 == 0 {
                return seen;
            }
            platform::relax(spins);
            spins += 1;
        }
    }

    /// Whether nothing that a reader could confuse changed since `sample`.
    ///
    /// Ordering: the caller's loads of edges are Acquire, which keeps them before this Relaxed load.
    #[inline]
    pub(crate) fn unchanged(&self, sample: u64) -> bool {
        self.0.load(Ordering::Relaxed) == sample
    }

    /// Opens a window. Context: holds the namespace's lock.
    pub(crate) fn open(&self) {
        // Relaxed: only the lock's holder writes; [Window] orders it by the edges' Release stores.
        let now = self.0.load(Ordering::Relaxed);
        debug_assert!(now & 1 == 0, "windows do not nest");
        self.0.store(now + 1, Ordering::Relaxed);
    }

    /// Closes the window. Context: holds the namespace's lock.
    pub(crate) fn close(&self) {
        let now = self.0.load(Ordering::Relaxed);
        debug_assert!(now & 1 == 1, "no window is open");
        // Release [Window]: pairs with the Acquire in `sample`.
        self.0.store(now + 1, order(Ordering::Release, "window_close_relaxed"));
    }
}
