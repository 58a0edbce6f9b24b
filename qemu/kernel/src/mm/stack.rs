//! Kernel stacks with a guard below.
//!
//! A slot of the stack area holds one stack at its upper end; the pages below are never mapped, so running
//! over the end faults instead of writing into a neighbour. The stacks of finished threads wait in a list for
//! the next one: unmapping them would need a TLB shootdown.

use heapless::Vec;

use super::{STACKS, paging};
use crate::arch::spin::SpinLock;

/// Bytes of a thread's stack.
pub(crate) const THREAD: u64 = 64 << 10;
/// Bytes of a stack for exceptions that must not use the interrupted one.
pub(crate) const EXCEPTION: u64 = 16 << 10;
/// Bytes of a slot: the largest stack and as much guard.
const SLOT: u64 = 2 * THREAD;
/// More free stacks than this are forgotten, with their memory; it is far above what the jobs start.
const FREE_MAX: usize = 4096;

struct Slots {
    used: u64,
    free: Vec<u32, FREE_MAX>,
}

static SLOTS: SpinLock<Slots> = SpinLock::new(Slots { used: 0, free: Vec::new() });

/// A mapped stack; dropping it makes it free for the next thread.
#[derive(Debug)]
pub(crate) struct Stack {
    slot: u32,
}

impl Stack {
    /// Returns a thread's stack, or `None` when memory is out.
    ///
    /// Context: allocates; not in an interrupt handler.
    pub(crate) fn new() -> Option<Self> {
        if let Some(slot) = SLOTS.lock().free.pop() {
            return Some(Self { slot });
        }
        map_slot(THREAD).map(|slot| Self { slot })
    }

    /// The address just above the stack.
    pub(crate) fn top(&self) -> u64 {
        slot_end(self.slot)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // A full list forgets the slot, see FREE_MAX.
        let _ = SLOTS.lock().free.push(self.slot);
    }
}

/// Maps a stack for exceptions, for good, and returns the address just above it.
///
/// Context: allocates; not in an interrupt handler.
pub(crate) fn for_exceptions() -> Option<u64> {
    map_slot(EXCEPTION).map(slot_end)
}

/// True if `address` lies in the guard below some stack.
///
/// Context: any; takes no lock.
pub(crate) fn in_guard(address: u64) -> bool {
    let stacks = (STACKS..super::IMAGE).contains(&address) && !paging::is_readable(address & !7);
    stacks || paging::boot_stack_guard().contains(&address)
}

fn map_slot(bytes: u64) -> Option<u32> {
    let slot = {
        let mut slots = SLOTS.lock();
        slots.used += 1;
        slots.used - 1
    };
    let slot = u32::try_from(slot).ok()?;
    paging::map_fresh(slot_end(slot) - bytes, bytes).then_some(slot)
}

fn slot_end(slot: u32) -> u64 {
    STACKS + (u64::from(slot) + 1) * SLOT
}
