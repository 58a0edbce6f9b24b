//! An allocator that keeps freed memory for a while as it was, so that a model that reads it meets the mark of its last
//! owner and not what the next owner wrote.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::{Mutex, PoisonError};

/// Blocks that wait. Far more than one execution frees.
const BLOCKS: usize = 1 << 14;

/// The allocator; see the module's header.
pub struct Quarantine(Mutex<Ring>);

struct Ring {
    blocks: [(usize, Layout); BLOCKS],
    next: usize,
}

impl Quarantine {
    /// With nothing in it.
    #[expect(clippy::new_without_default, reason = "a global allocator is made by a constant")]
    pub const fn new() -> Self {
        let none = (0, Layout::new::<()>());
        Quarantine(Mutex::new(Ring { blocks: [none; BLOCKS], next: 0 }))
    }
}

// SAFETY: blocks are the system allocator's; each goes back to it once, later, with its own layout. A block in the ring
// belongs to nobody else.
unsafe impl GlobalAlloc for Quarantine {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: forwarded.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let (oldest, its_layout) = {
            let mut ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let next = ring.next;
            ring.next = (next + 1) % BLOCKS;
            std::mem::replace(&mut ring.blocks[next], (block.expose_provenance(), layout))
        };
        if oldest != 0 {
            // SAFETY: it came in by an earlier call and was taken out of the ring just now.
            unsafe { System.dealloc(std::ptr::with_exposed_provenance_mut(oldest), its_layout) };
        }
    }
}
