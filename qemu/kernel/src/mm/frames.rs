//! Physical frames for page tables and stacks.
//!
//! Before the heap stands, frames come from a list of free ranges, lowest first. [`retire`] then moves the
//! rest to the heap, and a frame is a page-aligned allocation from it. Frames are never given back: tables
//! only grow, and free stacks are kept for the next thread.
//!
//! # Invariants
//! - `[Reserved]` No range of the list, and so nothing in the heap, overlaps the image, the module, the
//!   loader's kept structures or the first MiB (firmware data, the start-up page of the other CPUs).

use core::ops::Range;

use heapless::Vec;
use x86_64::PhysAddr;
use x86_64::structures::paging::{FrameAllocator, PhysFrame, Size4KiB};

use super::{heap, phys_to_virt, virt_to_phys};
use crate::arch::spin::SpinLock;
use crate::boot::BootInfo;

/// Bytes of a frame.
pub(crate) const FRAME: u64 = 4096;
const RANGES_MAX: usize = 160;
type Ranges = Vec<Range<u64>, RANGES_MAX>;

/// Free ranges until the heap has them.
static EARLY: SpinLock<Option<Ranges>> = SpinLock::new(None);

/// Collects the free ranges of RAM.
///
/// # Panics
/// If the memory map is so fragmented that the list overflows.
pub(super) fn init(info: &BootInfo) {
    let mut free = Ranges::new();
    for range in &info.ram {
        let mut start = range.start.max(0x10_0000).next_multiple_of(FRAME);
        let end = range.end & !(FRAME - 1);
        // Cut the reserved parts out, from the left: each step emits what lies before the next one.
        while start < end {
            let next = info.reserved.iter().filter(|r| r.end > start).min_by_key(|r| r.start);
            let (stop, resume) = match next {
                Some(r) if r.start < end => {
                    (r.start.max(start) & !(FRAME - 1), r.end.next_multiple_of(FRAME))
                }
                _ => (end, end),
            };
            if start < stop {
                free.push(start..stop).expect("the memory map has too many pieces");
            }
            start = resume;
        }
    }
    *EARLY.lock() = Some(free);
}

/// Takes what is left of the early ranges; from now on frames come from the heap.
pub(super) fn retire() -> Ranges {
    EARLY.lock().take().unwrap_or_default()
}

/// Returns the physical address of a zeroed frame, or `None` when memory is out.
///
/// Context: allocates; not in an interrupt handler.
pub(crate) fn alloc() -> Option<u64> {
    if let Some(ranges) = EARLY.lock().as_mut() {
        let range = ranges.iter_mut().find(|range| !range.is_empty())?;
        let frame = range.start;
        range.start += FRAME;
        // SAFETY: [Reserved]: the frame was free RAM and is ours now; below 4 GiB the boot tables map it, and
        // lowest first keeps us there: the tables for all RAM need a few MiB.
        unsafe { core::ptr::write_bytes(phys_to_virt(frame) as *mut u8, 0, FRAME as usize) };
        return Some(frame);
    }
    heap::alloc_frame().map(|frame| virt_to_phys(frame as u64))
}

/// Feeds the `x86_64` crate's mapper.
pub(super) struct Frames;

// SAFETY: `alloc` returns each frame once: it leaves the list, or the heap, for good.
unsafe impl FrameAllocator<Size4KiB> for Frames {
    fn allocate_frame(&mut self) -> Option<PhysFrame> {
        alloc().map(|frame| PhysFrame::containing_address(PhysAddr::new(frame)))
    }
}
