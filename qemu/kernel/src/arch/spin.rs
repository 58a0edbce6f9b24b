//! The kernel's locks: `lock_api`'s mutex over one spinning bit.
//!
//! [`SpinLock`] turns preemption off while it is held, [`IrqSpinLock`] interrupts too. A lock that an
//! interrupt handler takes is an `IrqSpinLock`; everything else is a `SpinLock`. Holders never sleep.
//!
//! # Edges
//! - `[Lock]` Release in `unlock` to Acquire in `try_lock`: a holder sees all that the previous one wrote.
//!
//! # Left out
//! Fairness: where there are more virtual CPUs than real ones, a queue of waiters would wait for one that is
//! not running.

use core::hint::spin_loop;
use core::sync::atomic::{AtomicBool, Ordering::*};

use lock_api::RawMutex;

use super::cpu::IrqOff;
use super::percpu::PreemptOff;

/// A lock for threads: preemption is off while it is held.
pub(crate) type SpinLock<T> = lock_api::Mutex<RawSpin, T>;
/// A lock that interrupt handlers take too: interrupts are off while it is held.
pub(crate) type IrqSpinLock<T> = lock_api::Mutex<RawIrqSpin, T>;

#[derive(Debug)]
struct Bit(AtomicBool);

impl Bit {
    fn try_set(&self) -> bool {
        // Relaxed: only a hint to keep the line shared; the swap decides. Acquire [Lock]: pairs with `clear`.
        !self.0.load(Relaxed) && !self.0.swap(true, Acquire)
    }

    fn set(&self) {
        while !self.try_set() {
            spin_loop();
        }
    }

    fn clear(&self) {
        self.0.store(false, Release); // Release [Lock]: pairs with the Acquire in `try_set`.
    }
}

/// Under [`SpinLock`].
#[derive(Debug)]
pub(crate) struct RawSpin(Bit);

// SAFETY: the bit is set by one holder at a time (swap) and only cleared by `unlock`, which gets the state
// that this holder was given; [Lock] orders holders. The state keeps preemption off and is not `Send`;
// forgetting it is harmless here.
unsafe impl RawMutex for RawSpin {
    const INIT: Self = Self(Bit(AtomicBool::new(false)));
    type Guard = PreemptOff;

    fn lock(&self) -> PreemptOff {
        let off = PreemptOff::new();
        self.0.set();
        off
    }

    fn try_lock(&self) -> Option<PreemptOff> {
        let off = PreemptOff::new();
        self.0.try_set().then_some(off)
    }

    unsafe fn unlock(&self, off: PreemptOff) {
        self.0.clear();
        drop(off); // After the bit: it may switch to another thread.
    }

    fn is_locked(&self) -> bool {
        self.0.0.load(Relaxed) // Relaxed: a snapshot, stale by the time it is returned.
    }
}

/// Under [`IrqSpinLock`].
#[derive(Debug)]
pub(crate) struct RawIrqSpin(Bit);

// SAFETY: as for `RawSpin`; here the state keeps interrupts off, hence preemption too.
unsafe impl RawMutex for RawIrqSpin {
    const INIT: Self = Self(Bit(AtomicBool::new(false)));
    type Guard = IrqOff;

    fn lock(&self) -> IrqOff {
        let off = IrqOff::new();
        self.0.set();
        off
    }

    fn try_lock(&self) -> Option<IrqOff> {
        let off = IrqOff::new();
        self.0.try_set().then_some(off)
    }

    unsafe fn unlock(&self, off: IrqOff) {
        self.0.clear();
        drop(off); // After the bit: a handler may take the lock at once.
    }

    fn is_locked(&self) -> bool {
        self.0.0.load(Relaxed) // Relaxed: a snapshot, stale by the time it is returned.
    }
}
