//! The heap: `talc` under one lock, and per-CPU magazines in front of it.
//!
//! 1. A size up to 512 bytes falls into one of [`SIZES`]. Each CPU keeps a magazine, a list of free objects, per
//!    class; allocating and freeing there touch this CPU's memory only.
//! 2. An empty magazine is refilled with [`BATCH`] objects, a full one gives [`BATCH`] back, each time under one
//!    hold of the central lock. Objects move between CPUs that way: what the reclaimer frees on one CPU was often
//!    allocated on another.
//! 3. Larger sizes, and everything before the CPU's block stands, go to `talc` directly.
//!
//! # Invariants
//! - `[Own]` A magazine is touched by its own CPU only, with preemption off, and never by an interrupt handler.
//! - `[Class]` An object of a class is allocated from `talc` with that class's layout and nothing else; a size maps to
//!   the same class when it is freed.
//!
//! # Lock order
//! `CENTRAL` is a leaf; interrupt handlers neither allocate nor free.
//!
//! # Left out
//! Shrinking magazines on memory pressure: at most 2 * [`BATCH`] objects per class and CPU lie idle, about 160 KiB.

use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::ops::Range;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicI64, Ordering::Relaxed};

use talc::base::Talc;
use talc::base::binning::DefaultBinning;
use talc::source::Manual;

use super::frames::FRAME;
use super::phys_to_virt;
use crate::arch::percpu::{self, PreemptOff};
use crate::arch::spin::SpinLock;

/// The classes: every object of a class has this size, and its alignment is 16.
const SIZES: [usize; 11] = [16, 32, 48, 64, 96, 128, 192, 256, 320, 384, 512];
const ALIGN: usize = 16;
/// Objects that move between a magazine and the centre at once.
const BATCH: usize = 32;

#[global_allocator]
static HEAP: Heap = Heap;

static CENTRAL: SpinLock<Talc<Manual, DefaultBinning>> = SpinLock::new(Talc::new(Manual));

/// Class of each size, by `size.div_ceil(16)`.
static CLASS: [u8; 33] = {
    let mut table = [0; 33];
    let (mut unit, mut class) = (1, 0);
    while unit < table.len() {
        if unit * 16 > SIZES[class] {
            class += 1;
        }
        table[unit] = class as u8;
        unit += 1;
    }
    table
};

/// A free object: its first word links to the next.
struct Free(*mut Free);

struct Magazine {
    head: *mut Free,
    count: usize,
}

/// One CPU's magazines and counters.
pub(crate) struct Magazines {
    classes: UnsafeCell<[Magazine; SIZES.len()]>,
    /// Bytes allocated here minus bytes freed here; only the sum over all CPUs means something.
    live_bytes: AtomicI64,
    live_objects: AtomicI64,
}

// SAFETY: `classes` is touched by its own CPU only ([Own]); the counters are atomic.
unsafe impl Sync for Magazines {}

impl Magazines {
    pub(crate) const fn new() -> Self {
        Self {
            classes: UnsafeCell::new([const { Magazine { head: ptr::null_mut(), count: 0 } }; SIZES.len()]),
            live_bytes: AtomicI64::new(0),
            live_objects: AtomicI64::new(0),
        }
    }

    fn count(&self, objects: i64, bytes: usize) {
        // Relaxed, plain load and store: statistics, written by this CPU alone.
        self.live_bytes.store(self.live_bytes.load(Relaxed) + objects * bytes as i64, Relaxed);
        self.live_objects.store(self.live_objects.load(Relaxed) + objects, Relaxed);
    }
}

/// What is allocated and not freed, in all. Exact when no CPU allocates meanwhile; what was allocated before the CPUs'
/// blocks stood is not counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Live {
    /// Bytes, rounded up to the sizes of the classes.
    pub(crate) bytes: i64,
    /// Number of allocations.
    pub(crate) objects: i64,
}

/// Sums the CPUs' counters.
pub(crate) fn live() -> Live {
    percpu::all().fold(Live { bytes: 0, objects: 0 }, |sum, cpu| Live {
        // Relaxed: statistics.
        bytes: sum.bytes + cpu.magazines.live_bytes.load(Relaxed),
        objects: sum.objects + cpu.magazines.live_objects.load(Relaxed),
    })
}

/// Gives a range of free RAM to the heap.
pub(super) fn add(range: Range<u64>) {
    let bytes = (range.end - range.start) as usize;
    if bytes >= 4 * FRAME as usize {
        // SAFETY: the range is free RAM ([Reserved] in `frames`), mapped by the direct map, and nobody else has it.
        unsafe { CENTRAL.lock().claim(phys_to_virt(range.start) as *mut u8, bytes) };
    }
}

/// Returns the direct map's address of a zeroed page, never to be freed.
pub(super) fn alloc_frame() -> Option<usize> {
    let layout = Layout::from_size_align(FRAME as usize, FRAME as usize).ok()?;
    // SAFETY: the size is not zero.
    let frame = unsafe { CENTRAL.lock().allocate(layout) }?;
    // SAFETY: so many bytes at `frame` are ours.
    unsafe { frame.as_ptr().write_bytes(0, layout.size()) };
    Some(frame.as_ptr() as usize)
}

/// The class that serves `layout`, if one does.
fn class_of(layout: Layout) -> Option<usize> {
    let fits = layout.size() <= SIZES[SIZES.len() - 1] && layout.align() <= ALIGN;
    fits.then(|| usize::from(CLASS[layout.size().div_ceil(16)]))
}

fn class_layout(class: usize) -> Layout {
    // SAFETY: a power of two, and far from overflow.
    unsafe { Layout::from_size_align_unchecked(SIZES[class], ALIGN) }
}

struct Heap;

// SAFETY: memory comes from `talc`, each object to one owner at a time: an object is either allocated or in exactly one
// magazine. A class's objects satisfy every layout that maps to it ([Class]).
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let off = PreemptOff::new();
        let Some(cpu) = percpu::current() else {
            // SAFETY: the caller's layout has a size that is not zero.
            return unsafe { CENTRAL.lock().allocate(whole(layout)) }.map_or(ptr::null_mut(), NonNull::as_ptr);
        };
        debug_assert!(!cpu.in_interrupt(), "an interrupt handler allocates");
        let Some(class) = class_of(layout) else {
            // SAFETY: as above.
            let got = unsafe { CENTRAL.lock().allocate(layout) };
            if got.is_some() {
                cpu.magazines.count(1, layout.size());
            }
            return got.map_or(ptr::null_mut(), NonNull::as_ptr);
        };
        // SAFETY: [Own]: this CPU, preemption off until `off` drops, not in an interrupt (asserted above).
        let magazine = unsafe { &mut (*cpu.magazines.classes.get())[class] };
        if magazine.head.is_null() {
            refill(magazine, class);
        }
        let object = magazine.head;
        if !object.is_null() {
            // SAFETY: a free object of this magazine; its first word is the link.
            magazine.head = unsafe { (*object).0 };
            magazine.count -= 1;
            cpu.magazines.count(1, SIZES[class]);
        }
        drop(off);
        object.cast()
    }

    unsafe fn dealloc(&self, object: *mut u8, layout: Layout) {
        let off = PreemptOff::new();
        let Some(cpu) = percpu::current() else {
            // SAFETY: allocated below with the same rounding, if before the CPUs' blocks stood; ours to free.
            unsafe { CENTRAL.lock().deallocate(object, whole(layout)) };
            return;
        };
        debug_assert!(!cpu.in_interrupt(), "an interrupt handler frees");
        let Some(class) = class_of(layout) else {
            // SAFETY: the caller's object, allocated with this layout.
            unsafe { CENTRAL.lock().deallocate(object, layout) };
            cpu.magazines.count(-1, layout.size());
            return;
        };
        // SAFETY: [Own], as in `alloc`.
        let magazine = unsafe { &mut (*cpu.magazines.classes.get())[class] };
        if magazine.count >= 2 * BATCH {
            drain(magazine, class);
        }
        let object = object.cast::<Free>();
        // SAFETY: the object is free now, at least 16 bytes large and 16-aligned, so it can hold the link.
        unsafe { object.write(Free(magazine.head)) };
        magazine.head = object;
        magazine.count += 1;
        cpu.magazines.count(-1, SIZES[class]);
        drop(off);
    }

    unsafe fn realloc(&self, object: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller checked that `new_size`, rounded up to the alignment, does not overflow.
        let new = unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) };
        match (class_of(layout), class_of(new)) {
            (Some(old), Some(new)) if old == new => return object,
            // SAFETY: neither size belongs to a class, so the object came from `talc` with `layout`.
            (None, None) if unsafe { CENTRAL.lock().try_realloc_in_place(object, layout, new_size) } => {
                if let Some(cpu) = percpu::current() {
                    cpu.magazines.count(-1, layout.size());
                    cpu.magazines.count(1, new_size);
                }
                return object;
            }
            _ => {}
        }
        // SAFETY: `new` has a size that is not zero (caller).
        let moved = unsafe { self.alloc(new) };
        if !moved.is_null() {
            // SAFETY: two different objects, both at least this long; the old one is the caller's to free.
            unsafe {
                ptr::copy_nonoverlapping(object, moved, layout.size().min(new_size));
                self.dealloc(object, layout);
            }
        }
        moved
    }
}

/// What an early allocation really asks for: its class's layout, so that it may be freed into a magazine later.
fn whole(layout: Layout) -> Layout {
    class_of(layout).map_or(layout, class_layout)
}

/// Moves up to [`BATCH`] objects from the centre into an empty magazine.
#[cold]
fn refill(magazine: &mut Magazine, class: usize) {
    let mut central = CENTRAL.lock();
    for _ in 0..BATCH {
        // SAFETY: the size is not zero.
        let Some(object) = (unsafe { central.allocate(class_layout(class)) }) else { break };
        let object = object.cast::<Free>().as_ptr();
        // SAFETY: fresh memory of a class's size and alignment.
        unsafe { object.write(Free(magazine.head)) };
        magazine.head = object;
        magazine.count += 1;
    }
}

/// Moves [`BATCH`] objects from a full magazine back to the centre.
#[cold]
fn drain(magazine: &mut Magazine, class: usize) {
    let mut central = CENTRAL.lock();
    for _ in 0..BATCH {
        let object = magazine.head;
        // SAFETY: a free object of this magazine, and there are 2 * BATCH; it came from `talc` with this layout ([Class]).
        unsafe {
            magazine.head = (*object).0;
            central.deallocate(object.cast(), class_layout(class));
        }
        magazine.count -= 1;
    }
}

