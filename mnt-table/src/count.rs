//! Split reference counts: gets and puts counted apart, each CPU on its own line once a mount is shared.
//!
//! 1. A [`Counter`] starts with one inline pair of `gets` and `puts`. When it has seen its CPU change
//!    [`SPILL_AFTER`] times it gets an array with a pair per CPU, published once and never taken back; the inline
//!    pair goes on to count in every sum, so there is no switch-over.
//! 2. A get adds to `gets` of the CPU that it runs on, a put to `puts` of the CPU that *it* runs on. The number of
//!    references is the sum of gets minus the sum of puts, modulo 2^32.
//! 3. A sum reads **all puts before all gets**. Let T be the moment between. Each put that was read has its get
//!    before it, so the puts read are at most puts(T) and the gets read at least gets(T): the estimate is never
//!    below the true number at T, wherever tasks migrated. One net counter per CPU would not give this: a task
//!    that got here and puts there could be read as put and not as got.
//!
//! # Edges
//! - `[Busy]` get; SeqCst fence; load of the mount's state, against: state CHECK; SeqCst fence; sums. Whichever
//!   fence comes first, the umounter counts the get or the reader sees CHECK; see [`crate::mount`]. `[Hold]` is the same
//!   for writers; see [`crate::writers`].
//! - `[Put]` Release on `puts`, Acquire in the sum: what was done under a reference comes before its end is seen.
//! - `[Slots]` Release of the array's pointer; Acquire in `add`, and in a sum *after* its fence: a reader that
//!   counted in the array had the pointer before its own fence. Models: `ref_vs_busy`, `ref_vs_busy_spill`.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ptr;

use crate::memory;
use crate::platform::{CPUS_MAX, cpu};
use crate::sync::{AtomicPtr, AtomicU32, Ordering, order, planted};

/// Changes of CPU after which a counter is split.
#[cfg(not(loom))]
const SPILL_AFTER: u32 = 8;
#[cfg(loom)]
const SPILL_AFTER: u32 = 1;

struct Pair {
    gets: AtomicU32,
    puts: AtomicU32,
}

impl Pair {
    fn new() -> Self {
        Pair { gets: AtomicU32::new(0), puts: AtomicU32::new(0) }
    }
}

#[repr(align(64))]
struct Line(Pair);

/// A number of references; see the module's header.
pub(crate) struct Counter {
    inline: Pair,
    lines: AtomicPtr<Box<[Line]>>,
    /// Bits 0..8: the CPU that counted last; the rest: how often that changed.
    sharing: AtomicU32,
}

impl Counter {
    pub(crate) fn new() -> Self {
        Counter {
            inline: Pair::new(),
            lines: AtomicPtr::new(ptr::null_mut()),
            sharing: AtomicU32::new(cpu() as u32),
        }
    }

    /// One more reference. The caller holds one already, or goes on with the fence and the test of `[Busy]`.
    #[inline]
    pub(crate) fn get(&self) {
        // Relaxed: `[Busy]` or `[Hold]` orders it by the fence that follows, or a reference that is held makes it count.
        self.pair().gets.fetch_add(1, Ordering::Relaxed);
    }

    /// One reference less.
    #[inline]
    pub(crate) fn put(&self) {
        // Release [Put]: pairs with the Acquire in `sum`.
        self.pair().puts.fetch_add(1, order(Ordering::Release, "put_relaxed"));
    }

    /// An estimate that is never below the number of references at one moment of the call.
    ///
    /// Context: for a decision, after the SeqCst fence of `[Busy]` or `[Hold]`.
    pub(crate) fn sum(&self) -> u32 {
        if planted("gets_before_puts") {
            let gets = self.total(|pair| &pair.gets);
            return gets.wrapping_sub(self.total(|pair| &pair.puts));
        }
        let puts = self.total(|pair| &pair.puts);
        let gets = self.total(|pair| &pair.gets);
        gets.wrapping_sub(puts)
    }

    fn total(&self, field: fn(&Pair) -> &AtomicU32) -> u32 {
        // Acquire [Put]: keeps the later loads of gets behind the loads of puts.
        let mut sum = field(&self.inline).load(Ordering::Acquire);
        // Acquire [Slots]: pairs with the Release in `split`.
        // SAFETY: once set, the array stays until the counter is dropped.
        if let Some(lines) = unsafe { self.lines.load(Ordering::Acquire).as_ref() }
            && !planted("sum_without_slots")
        {
            for line in lines {
                sum = sum.wrapping_add(field(&line.0).load(Ordering::Acquire));
            }
        }
        sum
    }

    /// The pair of this CPU.
    #[inline]
    fn pair(&self) -> &Pair {
        let cpu = cpu();
        // Acquire [Slots]: pairs with the Release in `split`.
        // SAFETY: as in `total`.
        match unsafe { self.lines.load(Ordering::Acquire).as_ref() } {
            Some(lines) => &lines[cpu % CPUS_MAX].0,
            None => {
                // Relaxed: a hint of when to split. Races lose a step.
                let seen = self.sharing.load(Ordering::Relaxed);
                if seen & 0xff != cpu as u32 {
                    self.moved(seen, cpu);
                }
                &self.inline
            }
        }
    }

    #[cold]
    fn moved(&self, seen: u32, cpu: usize) {
        // Relaxed: a hint; a lost count of moves makes the counter spill later.
        self.sharing.store((seen & !0xff).wrapping_add(0x100) | cpu as u32, Ordering::Relaxed);
        if seen >> 8 < SPILL_AFTER {
            return;
        }
        let mut lines = Vec::new();
        if lines.try_reserve_exact(CPUS_MAX).is_err() {
            return; // It stays inline, which is slower and as right.
        }
        lines.extend((0..CPUS_MAX).map(|_| Line(Pair::new())));
        let Ok(lines) = memory::boxed(lines.into_boxed_slice()) else { return };
        let lines = Box::into_raw(lines);
        // Release [Slots]: pairs with the Acquire in `pair` and `total`. Relaxed on failure: another CPU was first.
        let publish = order(Ordering::Release, "slots_relaxed");
        if self.lines.compare_exchange(ptr::null_mut(), lines, publish, Ordering::Relaxed).is_err() {
            // SAFETY: just made, published nowhere.
            drop(unsafe { Box::from_raw(lines) });
        }
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        let lines = self.lines.load(Ordering::Acquire);
        if !lines.is_null() {
            // SAFETY: made by `moved`; nobody else can reach it through `&mut self`.
            drop(unsafe { Box::from_raw(lines) });
        }
    }
}
