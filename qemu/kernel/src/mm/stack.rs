//! Kernel stacks with a guard below.
//!
//! A slot of the stack area holds one stack at its upper end; the pages below are never mapped, so running over the end
//! faults instead of writing into a neighbour. The stacks of finished threads wait for the next ones, since unmapping takes a
//! TLB shootdown; when memory is short they are unmapped all the same ([`trim`]), and their slots wait.
//!
//! Lock order: `SLOTS` is a leaf.

use super::{STACKS, heap, paging};
use crate::arch::percpu::PreemptOff;
use crate::arch::spin::SpinLock;

/// Bytes of a thread's stack.
pub(crate) const THREAD: u64 = 64 << 10;
const THREAD_PAGES: usize = (THREAD >> 12) as usize;
/// Bytes of a stack for exceptions that must not use the interrupted one.
pub(crate) const EXCEPTION: u64 = 16 << 10;
const EXCEPTION_PAGES: usize = (EXCEPTION >> 12) as usize;
/// Bytes of a slot: the largest stack and as much guard.
const SLOT: u64 = 2 * THREAD;
/// Far more than there may be threads.
const SLOTS_MAX: usize = 1 << 15;
/// No slot.
const END: u16 = u16::MAX;

/// Slots that nobody uses, in two lists; each is in one list at most.
struct Slots {
    used: usize,
    /// Of slots with a mapped stack.
    mapped: u16,
    /// Of slots without.
    bare: u16,
    next: [u16; SLOTS_MAX],
}

static SLOTS: SpinLock<Slots> =
    SpinLock::new(Slots { used: 0, mapped: END, bare: END, next: [END; SLOTS_MAX] });

impl Slots {
    fn pop(&mut self, list: fn(&mut Self) -> &mut u16) -> Option<u16> {
        let slot = *list(self);
        if slot == END {
            return None;
        }
        *list(self) = self.next[usize::from(slot)];
        Some(slot)
    }

    fn push(&mut self, list: fn(&mut Self) -> &mut u16, slot: u16) {
        self.next[usize::from(slot)] = *list(self);
        *list(self) = slot;
    }

    fn mapped(&mut self) -> &mut u16 {
        &mut self.mapped
    }

    fn bare(&mut self) -> &mut u16 {
        &mut self.bare
    }
}

/// A mapped stack; dropping it makes it free for the next thread.
#[derive(Debug)]
pub(crate) struct Stack {
    slot: u16,
}

impl Stack {
    /// Returns a thread's stack, or `None` when memory is out.
    ///
    /// Context: allocates; not in an interrupt handler.
    pub(crate) fn new() -> Option<Self> {
        if let Some(slot) = SLOTS.lock().pop(Slots::mapped) {
            return Some(Self { slot });
        }
        let map = || map_slot::<THREAD_PAGES>().map(|slot| Self { slot });
        map().or_else(|| if heap::trim() { map() } else { None })
    }

    /// The address just above the stack.
    pub(crate) fn top(&self) -> u64 {
        slot_end(self.slot)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        SLOTS.lock().push(Slots::mapped, self.slot);
    }
}

/// Frees the memory of up to `count` stacks that nobody uses.
///
/// Context: threads, preemption on, no spin lock held.
pub(super) fn trim(count: usize) {
    for _ in 0..count {
        let _off = PreemptOff::new();
        let Some(slot) = SLOTS.lock().pop(Slots::mapped) else { return };
        paging::unmap_fresh::<THREAD_PAGES>(slot_end(slot) - THREAD);
        SLOTS.lock().push(Slots::bare, slot);
    }
}

/// Maps a stack for exceptions, for good, and returns the address just above it.
///
/// Context: allocates; not in an interrupt handler.
pub(crate) fn for_exceptions() -> Option<u64> {
    map_slot::<EXCEPTION_PAGES>().map(slot_end)
}

/// True if `address` lies in the guard below some stack.
///
/// Context: any; takes no lock.
pub(crate) fn in_guard(address: u64) -> bool {
    let stacks = (STACKS..super::IMAGE).contains(&address) && !paging::is_readable(address & !7);
    stacks || paging::boot_stack_guard().contains(&address)
}

fn map_slot<const PAGES: usize>() -> Option<u16> {
    let slot = {
        let mut slots = SLOTS.lock();
        match slots.pop(Slots::bare) {
            Some(slot) => slot,
            None if slots.used == SLOTS_MAX => return None,
            None => {
                slots.used += 1;
                (slots.used - 1) as u16
            }
        }
    };
    if paging::map_fresh::<PAGES>(slot_end(slot) - ((PAGES as u64) << 12)) {
        return Some(slot);
    }
    SLOTS.lock().push(Slots::bare, slot);
    None
}

fn slot_end(slot: u16) -> u64 {
    STACKS + (u64::from(slot) + 1) * SLOT
}
