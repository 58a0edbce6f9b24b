//! `talc`, which serves what the heap's magazines and depots do not have, under one lock; and the pieces of RAM that it works in.
//!
//! When it has nothing left it gets another piece from [`super::frames`]. A piece begins with where it ends and which piece came
//! before it; one in which nothing is allocated goes back when memory is short ([`release`]).
//!
//! # Invariants
//! - `[Piece]` The list has every piece of `talc`'s, and each one's `end` is where `talc` says that its part of it ends.
//!
//! # Lock order
//! The lock here → the frames.

use core::alloc::Layout;
use core::ops::Range;
use core::ptr::{self, NonNull};

use talc::base::Talc;
use talc::base::binning::DefaultBinning;
use talc::source::Manual;

use super::frames::{self, FRAME};
use super::phys_to_virt;
use crate::arch::spin::SpinLock;

/// What `talc` gets at a time.
const PIECE: usize = 1 << 20;
/// What a piece has to have besides the allocation that it is for.
const PIECE_SPARE: usize = 4096;

/// The beginning of a piece.
#[repr(align(16))]
struct Piece {
    before: *mut Piece,
    /// Physical addresses, of the beginning too.
    range: Range<u64>,
    end: NonNull<u8>,
}

/// The allocator, for whoever has the lock.
pub(super) struct Central {
    talc: Talc<Manual, DefaultBinning>,
    last: *mut Piece,
    /// Whether something was freed since [`release`] last looked.
    freed: bool,
}

// SAFETY: it owns the pieces behind its pointer ([Piece]).
unsafe impl Send for Central {}

static CENTRAL: SpinLock<Central> =
    SpinLock::new(Central { talc: Talc::new(Manual), last: ptr::null_mut(), freed: false });

/// The allocator. Context: not in an interrupt handler, preemption off.
pub(super) fn lock() -> impl core::ops::DerefMut<Target = Central> {
    CENTRAL.lock()
}

impl Central {
    /// Allocates, with more RAM if there is too little.
    ///
    /// # Safety
    /// The size is not zero.
    pub(super) unsafe fn allocate(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        // SAFETY: as here.
        if let Some(found) = unsafe { self.talc.allocate(layout) } {
            return Some(found);
        }
        self.grow(layout)?;
        // SAFETY: as here.
        unsafe { self.talc.allocate(layout) }
    }

    /// Frees.
    ///
    /// # Safety
    /// It was allocated here with this layout, and nobody uses it any more.
    pub(super) unsafe fn deallocate(&mut self, object: *mut u8, layout: Layout) {
        self.freed = true;
        // SAFETY: by contract.
        unsafe { self.talc.deallocate(object, layout) };
    }

    /// Makes an allocation larger or smaller where it is; false if that is not possible.
    ///
    /// # Safety
    /// It was allocated here with this layout; the new size is not zero.
    pub(super) unsafe fn resize(&mut self, object: *mut u8, layout: Layout, size: usize) -> bool {
        self.freed |= size < layout.size();
        // SAFETY: by contract.
        unsafe { self.talc.try_realloc_in_place(object, layout, size) }
    }

    /// Gets another piece, in which there is room for `layout`.
    fn grow(&mut self, layout: Layout) -> Option<()> {
        let least = layout.size().checked_add(layout.align())?.checked_add(PIECE_SPARE)?;
        let range = frames::take_piece(least, PIECE)?;
        let piece = phys_to_virt(range.start) as *mut Piece;
        let len = (range.end - range.start) as usize - size_of::<Piece>();
        // SAFETY: free RAM, mapped by the direct map, and ours from here on: its beginning is the piece's, the rest `talc`'s.
        unsafe {
            let end = self.talc.claim(piece.add(1).cast(), len)?;
            piece.write(Piece { before: self.last, range, end });
        }
        self.last = piece;
        Some(())
    }
}

/// Gives back the pieces in which nothing is allocated. Returns how many frames that were.
///
/// Context: not in an interrupt handler, preemption off.
pub(super) fn release() -> usize {
    let mut central = CENTRAL.lock();
    if !core::mem::take(&mut central.freed) {
        return 0;
    }
    let mut released = 0;
    let mut last = central.last;
    let mut link: *mut *mut Piece = &raw mut last;
    // SAFETY: [Piece], and the lock is held: every piece of the list is there and its `end` is right; one that `talc` has no
    // more is nobody's but ours, and is left before it is given back.
    unsafe {
        while let Some(piece) = NonNull::new(*link) {
            let end = piece.as_ref().end;
            if central.talc.reserved(end).any {
                link = &raw mut (*piece.as_ptr()).before;
                continue;
            }
            let left = central.talc.truncate(end, ptr::null_mut());
            assert!(left.is_none(), "a piece without allocations is not empty");
            *link = piece.as_ref().before;
            let range = piece.as_ref().range.clone();
            released += ((range.end - range.start) / FRAME) as usize;
            frames::give_piece(range);
        }
    }
    central.last = last;
    released
}
