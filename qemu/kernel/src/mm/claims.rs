//! Memory that is set aside for operations of the mount table, so that they can be finished once they began.
//!
//! Each CPU keeps blocks, each of which is enough for one allocation that a claim covers. A claim is granted when there is
//! a block for it besides those of all claims before it; an allocation that the heap cannot serve otherwise takes one, if
//! it is covered. A thread moves to another CPU only on the border to user mode, where it has no claims, so the claims of a
//! thread are its CPU's; and the few blocks that each CPU keeps for good spare nearly every operation the way to the heap's
//! lock.
//!
//! # Invariants
//! - `[Own]` A CPU's blocks are touched by that CPU only, with preemption off, and never by an interrupt handler.
//! - `[Claimed]` When a claim is granted there are as many blocks as allocations are claimed. So a thread that is covered
//!   and makes no more allocations than it claimed finds a block, whatever others allocate or draw meanwhile.
//!
//! # Lock order
//! As [`super::heap`].

use core::alloc::Layout;
use core::cell::UnsafeCell;
use core::ptr::NonNull;

use mnt_table::memory::ALLOCATION_MAX;

use super::{frames, heap};
use crate::arch::percpu::{self, PreemptOff};
use crate::sched;

/// Blocks that a CPU keeps without claims.
const KEPT: usize = 16;
/// The largest alignment that a claim covers.
const ALIGN: usize = 128;

/// What a block is allocated with.
pub(super) const BLOCK: Layout = match Layout::from_size_align(ALLOCATION_MAX, ALIGN) {
    Ok(layout) => layout,
    Err(_) => panic!("a power of two"),
};

/// A block that nobody uses.
struct Block {
    next: Option<NonNull<Block>>,
}

struct Blocks {
    first: Option<NonNull<Block>>,
    count: usize,
    claimed: usize,
    /// How often `cover` was called without `uncover`.
    covered: usize,
}

/// One CPU's blocks.
pub(crate) struct Claims(UnsafeCell<Blocks>);

// SAFETY: touched by its own CPU only ([Own]).
unsafe impl Sync for Claims {}

impl Claims {
    pub(crate) const fn new() -> Self {
        Claims(UnsafeCell::new(Blocks { first: None, count: 0, claimed: 0, covered: 0 }))
    }
}

impl Blocks {
    fn push(&mut self, block: NonNull<u8>) {
        let block = block.cast::<Block>();
        // SAFETY: free memory of a block's layout, which is ours.
        unsafe { block.write(Block { next: self.first }) };
        self.first = Some(block);
        self.count += 1;
    }

    fn pop(&mut self) -> Option<NonNull<u8>> {
        let block = self.first?;
        // SAFETY: written in `push`, and ours since.
        self.first = unsafe { block.as_ref() }.next;
        self.count -= 1;
        Some(block.cast())
    }
}

/// Runs `change` on this CPU's blocks; `None` before the CPU's block stands.
fn with_blocks<R>(change: impl FnOnce(&mut Blocks) -> R) -> Option<R> {
    let _off = PreemptOff::new();
    let cpu = percpu::current()?;
    debug_assert!(!cpu.in_interrupt(), "an interrupt handler allocates");
    // SAFETY: [Own]: this CPU, preemption off; `change` is of this file and does not come back here.
    Some(change(unsafe { &mut *cpu.claims.0.get() }))
}

/// As [`mnt_table::platform::Platform::claim`].
pub(crate) fn claim(more: usize) -> bool {
    // Whoever is told of it does without, as long as something is left for those who cannot be told.
    if frames::is_low() && !sched::is_pressing() {
        heap::trim();
        if frames::is_low() {
            return false;
        }
    }
    let granted = with_blocks(|blocks| {
        let Some(needed) = blocks.claimed.checked_add(more) else { return false };
        while blocks.count < needed {
            let Some(block) = heap::take_block() else { return false };
            blocks.push(block);
        }
        blocks.claimed = needed;
        true
    });
    granted.unwrap_or(true)
}

/// As [`mnt_table::platform::Platform::release`].
pub(crate) fn release(less: usize) {
    with_blocks(|blocks| {
        blocks.claimed -= less;
        while blocks.count > blocks.claimed.max(KEPT)
            && let Some(block) = blocks.pop()
        {
            heap::give_block(block);
        }
    });
}

/// As [`mnt_table::platform::Platform::cover`].
pub(crate) fn cover() {
    with_blocks(|blocks| blocks.covered += 1);
}

/// As [`mnt_table::platform::Platform::uncover`].
pub(crate) fn uncover() {
    with_blocks(|blocks| blocks.covered -= 1);
}

/// The block for an allocation with `layout` for which the heap has no memory, if it is covered.
///
/// Context: preemption off.
pub(super) fn draw(layout: Layout) -> Option<NonNull<u8>> {
    if layout.size() > BLOCK.size() || layout.align() > BLOCK.align() {
        return None;
    }
    with_blocks(|blocks| if blocks.covered != 0 { blocks.pop() } else { None })?
}
