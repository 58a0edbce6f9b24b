//! Physical frames: a buddy allocator over all free RAM.
//!
//! Before the kernel's page tables stand, frames come from a list of free ranges, lowest first. [`open`] then makes the table of
//! frames and the free blocks of what is left. Single pages go through the heap's magazines, which take and give them by the
//! batch ([`super::heap`]); page tables, stacks and the heap's own growth come here directly.
//!
//! Free blocks of 2^order frames lie in a list per order, linked through their own memory. The table has a word per frame: that
//! of a free block's first frame says [`FREE`] and the order; a page's word counts its owners ([`tmpfs::Page`]); all other words
//! are without [`FREE`].
//!
//! The last frames ([`Buddy::reserve`]) are the heap's alone: user memory, page tables and stacks are refused before the kernel's
//! own objects are. Of these, large ones leave half of it, and so does what can be refused without harm ([`is_low`],
//! [`super::claims`]): the rest is for what cannot, and for those who give memory back ([`crate::sched::is_pressing`]).
//!
//! # Invariants
//! - `[Reserved]` No range of the list, and so no block, overlaps the image, the module, the loader's kept structures or the
//!   first MiB (firmware data, the start-up page of the other CPUs).
//! - `[Block]` A frame is in one free block, or belongs to whoever allocated it.

use core::ops::Range;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::Relaxed};

use heapless::Vec;
use x86_64::PhysAddr;
use x86_64::structures::paging::{FrameAllocator, PhysFrame, Size4KiB};

use super::{DIRECT, phys_to_virt, virt_to_phys};
use crate::arch::spin::SpinLock;
use crate::boot::BootInfo;

/// Bytes of a frame.
pub(crate) const FRAME: u64 = 4096;
const RANGES_MAX: usize = 160;
type Ranges = Vec<Range<u64>, RANGES_MAX>;
/// Orders of blocks: up to 1 GiB.
const ORDERS: usize = 19;
/// In the word of a free block's first frame, with the order.
const FREE: u32 = 1 << 31;
/// The part of all frames that only the heap may use, and its bounds in frames.
const RESERVE_PART: usize = 32;
const RESERVE: Range<usize> = 256..8192;
/// The order of a piece for an object of the heap's classes.
const SMALL: usize = 2;

/// Free ranges until the blocks stand.
static EARLY: SpinLock<Option<Ranges>> = SpinLock::new(None);
static BLOCKS: SpinLock<Buddy> = SpinLock::new(Buddy::new());
/// Frames of RAM that were free at boot.
static TOTAL: AtomicUsize = AtomicUsize::new(0);
/// See [`is_low`].
static LOW: AtomicBool = AtomicBool::new(false);

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

/// Makes the table and the blocks of what is left of the early ranges; from now on frames come from there.
///
/// Context: once, on the boot CPU, when all RAM is mapped.
///
/// # Panics
/// If there is no room for the table.
pub(super) fn open() {
    let mut ranges = EARLY.lock().take().unwrap_or_default();
    let frames = ranges.iter().map(|range| range.end / FRAME).max().unwrap_or(0) as usize;
    let bytes = (frames * size_of::<AtomicU32>()) as u64;
    let room = ranges
        .iter_mut()
        .find(|range| range.end - range.start >= bytes)
        .expect("room for the table of frames");
    let start = phys_to_virt(room.start) as *mut AtomicU32;
    room.start = (room.start + bytes).next_multiple_of(FRAME).min(room.end);
    // SAFETY: free RAM ([Reserved]), mapped, and ours from here on; a word of zero is one.
    let table = unsafe {
        start.cast::<u64>().write_bytes(0, (bytes as usize).div_ceil(8));
        core::slice::from_raw_parts(start, frames)
    };
    let mut blocks = BLOCKS.lock();
    blocks.table = table;
    for range in ranges {
        let (mut at, end) = (range.start, range.end);
        while at < end {
            let fit = (end - at).ilog2().min(at.trailing_zeros()) - FRAME.ilog2();
            let order = (fit as usize).min(ORDERS - 1);
            blocks.give(at, order);
            at += FRAME << order;
        }
    }
    TOTAL.store(blocks.free, Relaxed); // Relaxed: a number for statistics and limits.
    blocks.reserve = (blocks.free / RESERVE_PART).clamp(RESERVE.start, RESERVE.end);
    // SAFETY: no page exists yet and nobody else runs; the table has a word for every frame, and words of allocated frames are not
    // touched here.
    unsafe { tmpfs::set_owners(DIRECT as usize, table) };
}

/// A free block's own memory.
struct Links {
    next: *mut Links,
    previous: *mut Links,
}

/// The free blocks.
struct Buddy {
    table: &'static [AtomicU32],
    /// First block of each order, in the direct map.
    first: [*mut Links; ORDERS],
    /// Frames in all blocks.
    free: usize,
    /// Frames that only the heap may use.
    reserve: usize,
}

// SAFETY: it owns the blocks behind its pointers ([Block]).
unsafe impl Send for Buddy {}

impl Buddy {
    const fn new() -> Self {
        Self { table: &[], first: [ptr::null_mut(); ORDERS], free: 0, reserve: 0 }
    }

    fn word(&self, phys: u64) -> Option<&AtomicU32> {
        self.table.get((phys / FRAME) as usize)
    }

    fn set_word(&self, phys: u64, value: u32) {
        if let Some(word) = self.word(phys) {
            word.store(value, Relaxed); // Relaxed: under the lock; owners of a page are counted after it was taken.
        }
    }

    fn link(&mut self, phys: u64, order: usize) {
        let block = phys_to_virt(phys) as *mut Links;
        let next = self.first[order];
        // SAFETY: a free block's first bytes, ours; `next` is in the list, hence a free block too ([Block]).
        unsafe {
            block.write(Links { next, previous: ptr::null_mut() });
            if !next.is_null() {
                (*next).previous = block;
            }
        }
        self.first[order] = block;
        self.set_word(phys, FREE | order as u32);
    }

    fn unlink(&mut self, phys: u64, order: usize) {
        let block = phys_to_virt(phys) as *mut Links;
        // SAFETY: the block is in the list of this order (its word says so), and its neighbours are.
        unsafe {
            let Links { next, previous } = block.read();
            if previous.is_null() {
                self.first[order] = next;
            } else {
                (*previous).next = next;
            }
            if !next.is_null() {
                (*next).previous = previous;
            }
        }
        self.set_word(phys, 0);
    }

    /// Takes a block and leaves `keep` frames.
    fn take(&mut self, order: usize, keep: usize) -> Option<u64> {
        if self.free < keep + (1 << order) {
            return None;
        }
        let mut found = (order..ORDERS).find(|&found| !self.first[found].is_null())?;
        let phys = virt_to_phys(self.first[found] as u64);
        self.unlink(phys, found);
        while found > order {
            found -= 1;
            self.link(phys + (FRAME << found), found);
        }
        self.free -= 1 << order;
        self.note();
        Some(phys)
    }

    fn note(&self) {
        let low = self.free < self.reserve / 2;
        // Relaxed, both: a hint; written under the lock.
        if LOW.load(Relaxed) != low {
            LOW.store(low, Relaxed);
        }
    }

    /// Takes a block back.
    fn give(&mut self, mut phys: u64, mut order: usize) {
        self.free += 1 << order;
        while order < ORDERS - 1 {
            let other = phys ^ (FRAME << order);
            // Relaxed: under the lock; a page that is in use never looks like a free block.
            let free = self.word(other).is_some_and(|word| word.load(Relaxed) == FREE | order as u32);
            if !free {
                break;
            }
            self.unlink(other, order);
            phys = phys.min(other);
            order += 1;
        }
        self.link(phys, order);
        self.note();
    }
}

/// Frames of RAM that programs and the kernel share.
pub(crate) fn total() -> usize {
    TOTAL.load(Relaxed) // Relaxed: written once, before other CPUs run.
}

/// Frames in free blocks; what lies in the heap's magazines is not among them.
pub(crate) fn free() -> usize {
    BLOCKS.lock().free
}

/// Whether less than half of the heap's reserve is left.
pub(super) fn is_low() -> bool {
    LOW.load(Relaxed) // Relaxed: a hint.
}

/// Takes single frames, as many as there are up to `count`, and hands each one's address in the direct map to `put`. Leaves the
/// heap's reserve.
pub(super) fn take_pages(count: usize, mut put: impl FnMut(NonNull<u8>)) {
    let mut blocks = BLOCKS.lock();
    let keep = blocks.reserve;
    for _ in 0..count {
        let Some(phys) = blocks.take(0, keep) else { break };
        if let Some(page) = NonNull::new(phys_to_virt(phys) as *mut u8) {
            put(page);
        }
    }
}

/// Takes back single frames by their addresses in the direct map, until `next` has no more.
///
/// # Safety
/// They are from [`take_pages`], and nobody uses them any more.
pub(super) unsafe fn give_pages(mut next: impl FnMut() -> Option<NonNull<u8>>) {
    let mut blocks = BLOCKS.lock();
    while let Some(page) = next() {
        blocks.give(virt_to_phys(page.as_ptr() as u64), 0);
    }
}

/// Takes a piece of RAM of at least `least` bytes for the heap; more if there is plenty. Leaves half of the reserve if it is a
/// large one, and the running thread does nothing that gives memory back.
pub(super) fn take_piece(least: usize, wanted: usize) -> Option<Range<u64>> {
    let order = |bytes: usize| bytes.div_ceil(FRAME as usize).next_power_of_two().ilog2() as usize;
    let (least, wanted) = (order(least), order(wanted.max(least)));
    let spares = least > SMALL && !crate::sched::is_pressing();
    let mut blocks = BLOCKS.lock();
    let keep = if spares { blocks.reserve / 2 } else { 0 };
    let taken = |blocks: &mut Buddy, order| {
        let phys = blocks.take(order, keep)?;
        Some(phys..phys + (FRAME << order))
    };
    // Something is left for others as long as there is another way.
    if wanted < ORDERS && blocks.free > 16 << wanted {
        return taken(&mut blocks, wanted);
    }
    if least < ORDERS { taken(&mut blocks, least) } else { None }
}

/// Takes a piece back.
pub(super) fn give_piece(piece: Range<u64>) {
    let order = ((piece.end - piece.start) / FRAME).ilog2() as usize;
    BLOCKS.lock().give(piece.start, order);
}

/// Whether programs can have pages: more is free than the heap's reserve.
pub(crate) fn is_plenty() -> bool {
    let blocks = BLOCKS.lock();
    blocks.free > blocks.reserve
}

/// Returns the physical address of a zeroed frame, or `None` when memory is out.
///
/// Context: not in an interrupt handler.
pub(crate) fn alloc() -> Option<u64> {
    let phys = {
        if let Some(ranges) = EARLY.lock().as_mut() {
            let range = ranges.iter_mut().find(|range| !range.is_empty())?;
            range.start += FRAME;
            range.start - FRAME
        } else {
            let mut blocks = BLOCKS.lock();
            let keep = blocks.reserve;
            blocks.take(0, keep)?
        }
    };
    // SAFETY: the frame was free RAM and is ours now ([Reserved], [Block]). Early ones lie below 4 GiB, where the boot tables map
    // them: the tables for all RAM need a few MiB, lowest first.
    unsafe { ptr::write_bytes(phys_to_virt(phys) as *mut u64, 0, FRAME as usize / 8) };
    Some(phys)
}

/// Feeds the `x86_64` crate's mapper.
pub(super) struct Frames;

// SAFETY: `alloc` returns each frame once: it leaves the list or its block, for good.
unsafe impl FrameAllocator<Size4KiB> for Frames {
    fn allocate_frame(&mut self) -> Option<PhysFrame> {
        alloc().map(|frame| PhysFrame::containing_address(PhysAddr::new(frame)))
    }
}
