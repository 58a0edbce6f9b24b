//! Loom models of the mount table: every order of a few operations on the shipping code, and what came out.
//!
//! `cargo xtask loom` builds the program of this crate twice and runs each model, and each bug planted in it, as a process of its
//! own. The structure layer (`--cfg loom`) has a model reclaimer without fences, so that it can be exhaustive; the
//! lifetime layer (`--cfg crossbeam_loom` too) runs over the real crossbeam-epoch, with a bound on preemptions.
//!
//! # What a pass means
//! Each model states the set of its outcomes, and the set that was reached must be equal: an order that was never tried
//! shows as a missing outcome, where an assertion would have stayed silent. That alone leaves soundness to the author of
//! each set, so three things stand below it:
//! - The explorer is corrected. Loom 0.7.2 skips orders: by a wrong rule of dependence between loads and stores, by
//!   running a `SeqCst` fence in one piece with the operation before it, and around `try_lock`. The runner's `loom_fix`
//!   applies our rules to a copy at build time. The alternative, conventions for each model (both spawn orders, a yield
//!   first, a read-modify-write in place of the first load), comes close for the first gap but is not complete, and
//!   would have to be followed in shipping code too.
//! - Canaries ([`selftest`]) are the smallest programs that lose outcomes when the correction is missing. They run first.
//! - Random small programs ([`litmus`]) are explored twice, with the corrected reduction and with none at all; both
//!   must give the same outcomes.
//!
//! A second explorer, such as `shuttle`, was left out: its exhaustive scheduler knows sequential consistency only, so
//! it could confirm interleavings, which the unreduced run of loom does as well, and say nothing about orderings.
//!
//! # Limits that stay
//! - `SeqCst` loads and stores count as AcqRel. Such a model may show an outcome that no machine has, and misses none;
//!   what needs a store-load order uses fences, as the shipping code does.
//! - A load never sees a store that comes later in every order: load buffering is not explored.
//! - A load sees at most the last seven stores of an atomic, a model has at most five threads, main included, and a
//!   thread that yielded does not run again before another one did.
//! - Every crossbeam pin carries a `SeqCst` fence here, which releases what was written before it. A node made before the
//!   pin, or right after it, looks published whatever the store's ordering says. Orderings belong in the structure layer.
//! - `RwLock::try_read` and `try_write` never fail because of a lock taken since the thread got there; a mutex's `try_lock`
//!   had the same gap, which the correction closes.
//! - `Arc::strong_count` and `Arc::get_mut` have a rule of dependence of their own that was not checked: no model uses them.

#![cfg(loom)]

#[cfg(not(crossbeam_loom))]
pub mod anchors;
#[cfg(crossbeam_loom)]
pub mod epoch;
pub mod harness;
#[cfg(crossbeam_loom)]
pub mod lifetime;
#[cfg(not(crossbeam_loom))]
pub mod limbo;
pub mod litmus;
#[cfg(not(crossbeam_loom))]
pub mod locks;
pub mod quarantine;
#[cfg(not(crossbeam_loom))]
pub mod refs;
#[cfg(not(crossbeam_loom))]
pub mod removal;
pub mod selftest;
#[cfg(not(crossbeam_loom))]
pub mod shootdown;
#[cfg(not(crossbeam_loom))]
pub mod table;
#[cfg(not(crossbeam_loom))]
pub mod trees;
#[cfg(not(crossbeam_loom))]
pub mod umount;
#[cfg(not(crossbeam_loom))]
pub mod walk;
pub mod world;
#[cfg(not(crossbeam_loom))]
pub mod writers;

/// Every model of this build.
pub fn models() -> Vec<harness::Model> {
    let models = [
        selftest::models(),
        #[cfg(not(crossbeam_loom))]
        table::models(),
        #[cfg(not(crossbeam_loom))]
        limbo::models(),
        #[cfg(not(crossbeam_loom))]
        walk::models(),
        #[cfg(not(crossbeam_loom))]
        refs::models(),
        #[cfg(not(crossbeam_loom))]
        writers::models(),
        #[cfg(not(crossbeam_loom))]
        umount::models(),
        #[cfg(not(crossbeam_loom))]
        trees::models(),
        #[cfg(not(crossbeam_loom))]
        anchors::models(),
        #[cfg(not(crossbeam_loom))]
        removal::models(),
        #[cfg(not(crossbeam_loom))]
        locks::models(),
        #[cfg(not(crossbeam_loom))]
        shootdown::models(),
        #[cfg(crossbeam_loom)]
        epoch::models(),
        #[cfg(crossbeam_loom)]
        lifetime::models(),
    ];
    models.into_iter().flatten().collect()
}

/// Plants `bug` wherever it is known, and takes all others away.
pub fn plant(bug: Option<&'static str>) {
    selftest::plant(bug);
    mnt_table::sync::plant(bug);
    #[cfg(crossbeam_loom)]
    epoch::plant(bug);
}
