//! How much a thread did, counted and not timed: for tests that say how a cost grows.
//!
//! A visit is a look at what a lock guards: at a mount's place in its tree or in the propagation graph, at an element of a
//! list, at an entry of a hash. Only the feature `visits` counts them; without it nothing is left of this.

#[cfg(feature = "visits")]
std::thread_local! {
    static VISITS: core::cell::Cell<u64> = const { core::cell::Cell::new(0) };
}

/// One more.
#[inline(always)]
pub(crate) fn count() {
    #[cfg(feature = "visits")]
    VISITS.with(|visits| visits.set(visits.get() + 1));
}

/// How many this thread makes in `work`.
#[cfg(feature = "visits")]
pub fn of(work: impl FnOnce()) -> u64 {
    let before = VISITS.get();
    work();
    VISITS.get() - before
}
