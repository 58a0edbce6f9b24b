//! Memory that lock-free readers may still look at: pins, retirement, and the bound on what waits to be freed.
//!
//! 1. A reader [`pin`]s; everything it then reaches through this crate's links stays allocated until it unpins.
//! 2. A writer unlinks a box and *retires* it; it is freed when every pin that could have seen it has ended, by the CPU
//!    that retired it ([`crate::limbo`]).
//! 3. Retired and freed bytes are counted per CPU. A mutator that retired [`FLUSH_EVERY`] boxes flushes after it
//!    dropped all its locks. [`reserve`] is the back-pressure: it is called before an operation allocates, and
//!    over [`limit`] it flushes, waits a little, and at last refuses. So umount, which allocates next to nothing,
//!    never waits for a reader, and memory is bounded all the same: what is retired was allocated once.
//!
//! # Invariants
//! - `[Reach]` A box seen while pinned is freed only after that pin ended. The epochs of `crossbeam-epoch` give it
//!   to everything that was unlinked before it was retired.
//!
//! In models of *structure* (`cfg(loom)` without `cfg(crossbeam_loom)`) a pin is nothing and a retired box waits
//! for `drain`, so loom explores this crate's own orderings without the fences of the real pin; models of
//! *lifetime* run over the real crate, with bags of their own.

use alloc::boxed::Box;
use alloc::sync::Arc;

#[cfg(any(not(loom), crossbeam_loom))]
use crate::limbo::{Bag, Limbo};
use crate::list::NoMemory;
#[cfg(any(not(loom), crossbeam_loom))]
use crate::memory::Pressing;
use crate::memory::{Claims, covered};
use crate::platform::{self, CPUS_MAX};
#[cfg(any(not(loom), crossbeam_loom))]
use crate::sync::planted;
use crate::sync::{Ordering, plain};

/// Retirements of one CPU after which its next mutator flushes. Never in models, which flush themselves: the counts go on
/// from one execution to the next, and executions must not differ.
pub const FLUSH_EVERY: u64 = if cfg!(loom) { u64::MAX } else { 64 };

/// Allocations that closing a bag makes, at most: the bag, the memory of the next one, and the collector's own bag.
const RETIRE_CLAIM: usize = 3;

/// How many allocations to claim for `retirements`, and for the flush that follows an operation.
pub(crate) fn claims_for(retirements: usize) -> usize {
    // A bag may be open already, so that a few fill it; and what a flush frees retires more.
    RETIRE_CLAIM * (retirements / FLUSH_EVERY.min(64) as usize + 2)
}

/// Makes sure that `retirements` find memory while `claims` live.
///
/// # Errors
/// `ENOMEM`.
pub fn claim(claims: &mut Claims, retirements: usize) -> Result<(), NoMemory> {
    claims.claim(claims_for(retirements))
}

/// How often [`reserve`] tries to get below the limit before it refuses.
const RESERVE_TRIES: u32 = if cfg!(miri) { 4 } else { 64 };

/// Flushes of [`quiesce`]: three move what was retired through the epochs, the others what that retires in turn.
const QUIESCE_ROUNDS: u32 = if cfg!(loom) { 3 } else { 8 };

/// Proof that this thread is pinned. While it lives the thread must not block; in a kernel preemption is off.
pub struct Guard {
    #[cfg(any(not(loom), crossbeam_loom))]
    epoch: core::mem::ManuallyDrop<platform::EpochGuard>,
    /// Not `Send`: the pin belongs to this thread or CPU.
    _here: core::marker::PhantomData<*mut ()>,
}

/// Pins this thread. Context: any that may not be interrupted by another user of this crate; never blocks; nests.
#[inline]
pub fn pin() -> Guard {
    #[cfg(any(not(loom), crossbeam_loom))]
    platform::preempt_off();
    Guard {
        #[cfg(any(not(loom), crossbeam_loom))]
        epoch: core::mem::ManuallyDrop::new(platform::pin()),
        _here: core::marker::PhantomData,
    }
}

#[cfg(any(not(loom), crossbeam_loom))]
impl Drop for Guard {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: dropped once, here; the field is private and nothing else takes it.
        unsafe { core::mem::ManuallyDrop::drop(&mut self.epoch) };
        platform::preempt_on();
    }
}

impl Guard {
    /// Frees `value` once no pin that exists now is left.
    ///
    /// The caller unlinked it: no reader that pins from here on can reach it. That is a rule of this crate's
    /// structures and not of memory safety at this call, which owns the box; the places that turned a shared
    /// pointer back into this box argue it.
    pub fn retire<T: Send + 'static>(&self, value: Box<T>) {
        count_retired(size_of::<T>());
        #[cfg(any(not(loom), crossbeam_loom))]
        covered(|| self.pass_on(limbo().put_box(platform::cpu(), value)));
        #[cfg(all(loom, not(crossbeam_loom)))]
        self.defer_value(value, size_of::<T>());
    }

    /// As [`Guard::retire`], for one reference to a shared object; `T`'s bytes count until it is dropped.
    pub fn retire_arc<T: Send + Sync + 'static>(&self, value: Arc<T>) {
        count_retired(size_of::<T>());
        #[cfg(any(not(loom), crossbeam_loom))]
        covered(|| self.pass_on(limbo().put_arc(platform::cpu(), value)));
        #[cfg(all(loom, not(crossbeam_loom)))]
        self.defer_value(value, size_of::<T>());
    }

    /// As [`Guard::retire`], for a handle of what somebody waits for: dropped by whichever CPU finds that the time has
    /// come. A handle of two words needs no memory to wait in.
    pub fn retire_awaited<T: Send + 'static>(&self, value: T) {
        count_retired(size_of::<T>());
        covered(|| self.defer_value(value, size_of::<T>()));
    }

    fn defer_value<V: Send + 'static>(&self, value: V, bytes: usize) {
        self.defer(move || {
            drop(value);
            count_freed(1, bytes as u64);
        });
    }

    /// Pushes this CPU's waiting retirements out and frees what can be freed. Runs destructors on the caller. Without memory
    /// for that it does nothing: the next flush does more.
    pub fn flush(&self) {
        let here = platform::cpu();
        self.flush_cpus(here..here + 1);
    }
}

#[cfg(any(not(loom), crossbeam_loom))]
impl Guard {
    /// Gives a bag that was closed to the collector.
    fn pass_on(&self, bag: Option<Box<Bag>>) {
        if let Some(bag) = bag {
            self.defer(move || limbo().hand_back(bag));
        }
    }

    /// Runs `then` once no pin that exists now is left.
    fn defer(&self, then: impl FnOnce() + Send + 'static) {
        if planted("freed_at_once") {
            return then();
        }
        // `then` is Send and 'static, so it may run on any thread at any later time.
        self.epoch.defer(then);
    }

    fn flush_cpus(&self, cpus: core::ops::Range<usize>) {
        let _pressing = Pressing::new();
        let mut claims = Claims::none();
        if claims.claim(RETIRE_CLAIM).is_err() {
            return;
        }
        for cpu in cpus.clone() {
            // As many once more: what one bag drew is not there for the next.
            let mut claims = Claims::none();
            if claims.claim(RETIRE_CLAIM).is_ok() {
                covered(|| self.pass_on(limbo().close(cpu)));
            }
        }
        covered(|| self.epoch.flush());
        for freed in cpus.map(|cpu| limbo().empty(cpu)).filter(|freed| freed.objects != 0) {
            count_freed(freed.objects, freed.bytes);
        }
    }
}

#[cfg(all(loom, not(crossbeam_loom)))]
impl Guard {
    /// `then` waits for `drain`.
    fn defer(&self, then: impl FnOnce() + Send + 'static) {
        model::later(Box::new(then));
    }

    fn flush_cpus(&self, _cpus: core::ops::Range<usize>) {}
}

/// The machine's.
#[cfg(not(loom))]
#[inline]
fn limbo() -> &'static Limbo {
    static LIMBO: Limbo = Limbo::new();
    &LIMBO
}

/// The execution's.
#[cfg(crossbeam_loom)]
fn limbo() -> &'static Limbo {
    loom::lazy_static! {
        static ref LIMBO: Limbo = Limbo::new();
    }
    &LIMBO
}

fn count_retired(bytes: usize) {
    let here = &COUNTERS[platform::cpu()];
    // Relaxed: statistics.
    here.retired_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    here.retired.fetch_add(1, Ordering::Relaxed);
}

fn count_freed(objects: u64, bytes: u64) {
    let here = &COUNTERS[platform::cpu()];
    // Relaxed: statistics.
    here.freed_bytes.fetch_add(bytes, Ordering::Relaxed);
    here.freed.fetch_add(objects, Ordering::Relaxed);
}

#[cfg(all(loom, not(crossbeam_loom)))]
mod model {
    use alloc::boxed::Box;
    use std::vec::Vec;

    type Later = Box<dyn FnOnce() + Send>;
    static WAITING: std::sync::Mutex<Vec<Later>> = std::sync::Mutex::new(Vec::new());

    pub(super) fn later(then: Later) {
        WAITING.lock().expect("a model that panics ends").push(then);
    }

    pub(super) fn drain() {
        // What runs here may retire more.
        loop {
            let waiting = core::mem::take(&mut *WAITING.lock().expect("a model that panics ends"));
            if waiting.is_empty() {
                return;
            }
            waiting.into_iter().for_each(|then| then());
        }
    }

    pub(super) fn forget() {
        core::mem::forget(core::mem::take(
            &mut *WAITING.lock().unwrap_or_else(std::sync::PoisonError::into_inner),
        ));
    }
}

/// Frees everything that was retired. Models of structure call it at the end of each execution, with no reader.
#[cfg(all(loom, not(crossbeam_loom)))]
pub fn drain() {
    model::drain();
}

/// Forgets what an execution that panicked left behind; its objects belong to an execution that is gone.
#[cfg(all(loom, not(crossbeam_loom)))]
pub fn forget_execution() {
    model::forget();
}

/// Counters of one CPU, on a line of its own.
#[repr(align(128))]
struct Counters {
    retired: plain::AtomicU64,
    freed: plain::AtomicU64,
    retired_bytes: plain::AtomicU64,
    freed_bytes: plain::AtomicU64,
    flushed_at: plain::AtomicU64,
    looked_at: plain::AtomicU64,
    refused: plain::AtomicU64,
}

static COUNTERS: [Counters; CPUS_MAX] = [const {
    Counters {
        retired: plain::AtomicU64::new(0),
        freed: plain::AtomicU64::new(0),
        retired_bytes: plain::AtomicU64::new(0),
        freed_bytes: plain::AtomicU64::new(0),
        flushed_at: plain::AtomicU64::new(0),
        looked_at: plain::AtomicU64::new(0),
        refused: plain::AtomicU64::new(0),
    }
}; CPUS_MAX];

static LIMIT: plain::AtomicU64 = plain::AtomicU64::new(64 << 20);

/// What was retired and what was freed since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Boxes handed to the reclaimer.
    pub retired: u64,
    /// Boxes whose memory is free again.
    pub freed: u64,
    /// Bytes retired and not yet freed: what a long pin makes grow.
    pub deferred_bytes: u64,
    /// Operations that [`reserve`] refused.
    pub refused: u64,
}

/// How many boxes this CPU has freed: whether a flush did something.
pub fn freed_here() -> u64 {
    COUNTERS[platform::cpu()].freed.load(Ordering::Relaxed) // Relaxed: statistics.
}

/// Sums the counters of all CPUs. Exact at rest; while others work, a moment's estimate.
pub fn stats() -> Stats {
    // Freed first: a box is freed after it was retired, so the difference cannot come out negative at rest.
    let sum = |field: fn(&Counters) -> &plain::AtomicU64| {
        COUNTERS.iter().fold(0u64, |sum, cpu| sum.wrapping_add(field(cpu).load(Ordering::Acquire)))
    };
    let freed = sum(|cpu| &cpu.freed);
    let freed_bytes = sum(|cpu| &cpu.freed_bytes);
    let retired = sum(|cpu| &cpu.retired);
    let retired_bytes = sum(|cpu| &cpu.retired_bytes);
    Stats {
        retired,
        freed,
        deferred_bytes: retired_bytes.saturating_sub(freed_bytes),
        refused: sum(|cpu| &cpu.refused),
    }
}

/// The most bytes that may wait to be freed before operations that allocate are held up; 64 MiB at first.
pub fn limit() -> u64 {
    LIMIT.load(Ordering::Relaxed)
}

/// Sets [`limit`], in bytes.
pub fn set_limit(bytes: u64) {
    LIMIT.store(bytes, Ordering::Relaxed);
}

/// The memory that waits for readers is at its limit and the readers did not leave: `ENOMEM`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverLimit;

/// Called before an operation allocates: makes room, or refuses.
///
/// Looks at the sum of all CPUs only when this CPU retired [`FLUSH_EVERY`] boxes since it last looked, so a
/// machine can exceed [`limit`] by what its CPUs retire in between.
///
/// Context: not pinned; no lock held; may wait.
///
/// # Errors
/// `ENOMEM` ([`OverLimit`]): still over the limit after a bounded number of tries.
pub fn reserve() -> Result<(), OverLimit> {
    let here = &COUNTERS[platform::cpu()];
    // Relaxed, all: hints of when to look; losing a race looks once more or once less.
    let retired = here.retired.load(Ordering::Relaxed);
    if retired.wrapping_sub(here.looked_at.load(Ordering::Relaxed)) < FLUSH_EVERY {
        return Ok(());
    }
    for spins in 0..RESERVE_TRIES {
        if stats().deferred_bytes <= limit() {
            here.looked_at.store(retired, Ordering::Relaxed);
            return Ok(());
        }
        pin().flush_cpus(0..CPUS_MAX);
        platform::relax(u32::MAX - RESERVE_TRIES + spins);
    }
    // The next operation looks again.
    here.refused.fetch_add(1, Ordering::Relaxed);
    Err(OverLimit)
}

/// Flushes if this CPU retired [`FLUSH_EVERY`] boxes since it last did.
///
/// Context: not pinned; no lock held; runs destructors; never waits.
pub fn relieve() {
    let here = &COUNTERS[platform::cpu()];
    let retired = here.retired.load(Ordering::Relaxed);
    if retired.wrapping_sub(here.flushed_at.load(Ordering::Relaxed)) < FLUSH_EVERY {
        return;
    }
    // Relaxed: a hint of when to flush; losing a race flushes once more or once less.
    here.flushed_at.store(retired, Ordering::Relaxed);
    pin().flush();
}

/// Frees everything that was retired by any CPU, as far as nobody is pinned and the other threads flush what they have
/// given to the collector.
///
/// For the end of a test or a run.
pub fn quiesce() {
    for _ in 0..QUIESCE_ROUNDS {
        pin().flush_cpus(0..CPUS_MAX);
    }
}

/// A value that is replaced seldom and read by pinned readers: one pointer, fresh box on every change.
///
/// Ordering: `[Publish]` Release in [`RcuCell::replace`] pairs with the Acquire in [`RcuCell::get`].
pub struct RcuCell<T: Send + Sync + 'static>(crate::sync::AtomicPtr<T>);

impl<T: Send + Sync + 'static> RcuCell<T> {
    /// A cell that holds `value`.
    pub fn new(value: Box<T>) -> Self {
        RcuCell(crate::sync::AtomicPtr::new(Box::into_raw(value)))
    }

    /// The value of this moment. Context: pinned.
    #[inline]
    pub fn get<'g>(&'g self, _guard: &'g Guard) -> &'g T {
        // SAFETY: the cell always points at a live box; a replaced box is retired, so [Reach] keeps it for `'g`.
        // Acquire: pairs with the Release in `replace`.
        unsafe { &*self.0.load(Ordering::Acquire) }
    }

    /// Puts `value` in and retires what was there. Two calls at once both take effect, in some order.
    pub fn replace(&self, value: Box<T>, guard: &Guard) {
        // AcqRel: Release publishes the new box to `get`; Acquire makes the old one ours to free.
        let old = self.0.swap(Box::into_raw(value), Ordering::AcqRel);
        // SAFETY: the swap took the only pointer that the cell had to this box.
        guard.retire(unsafe { Box::from_raw(old) });
    }
}

impl<T: Send + Sync + 'static> Drop for RcuCell<T> {
    fn drop(&mut self) {
        // A reader may still use what it got before: through the reclaimer, like any replaced value.
        // SAFETY: `&mut self`: the cell's only pointer to its box.
        // Acquire: pairs with the Release of the last `replace`.
        let last = unsafe { Box::from_raw(self.0.load(Ordering::Acquire)) };
        pin().retire(last);
    }
}
