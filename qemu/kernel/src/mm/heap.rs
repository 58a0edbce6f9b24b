//! The heap: `talc` under one lock, with a depot per size class and per-CPU magazines in front of it.
//!
//! 1. A size up to 4 KiB falls into one of [`SIZES`]. Each CPU keeps a magazine per class: two lists of free
//!    objects, each at most one batch long. Allocating and freeing there touch this CPU's memory only.
//! 2. A CPU whose lists are both empty takes a whole batch from the class's depot, and one whose lists are
//!    both full gives a whole batch to it, in a few instructions under the depot's lock. What one CPU
//!    allocates and another one frees, as a reclaimer does all the time, travels back that way.
//! 3. Only an empty depot sends a CPU to `talc` ([`super::central`]), for a batch at once; only a full one gives memory back. Whole
//!    pages, aligned to their size, are a class too, whose batches come from [`super::frames`] and go back there.
//! 4. Larger sizes, and everything before the CPU's block stands, go to `talc` directly.
//! 5. When memory is out, what lies idle goes back first ([`trim`]): depots, this CPU's magazines, and those of the others when
//!    they come to it ([`ask_others`], [`settle`]). Then an allocation that was claimed takes a block that was set aside for it
//!    ([`super::claims`]).
//!
//! # Invariants
//! - `[Own]` A magazine is touched by its own CPU only, with preemption off, and never by an interrupt
//!   handler.
//! - `[Class]` An object of a class is allocated from `talc` with that class's layout and nothing else; a
//!   size maps to the same class when it is freed.
//! - `[Free]` A free object lies in exactly one list; its first word links to the next one of the list, and
//!   the second word of a batch's first object to the next batch of the depot.
//!
//! # Lock order
//! A class's depot is a leaf; so is `talc` but for the frames. No CPU holds two of the former. Interrupt handlers neither
//! allocate nor free.

use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicI64, AtomicU32, Ordering::Relaxed};

use super::frames::{self, FRAME};
use super::{central, claims};
use crate::arch::percpu::{self, PerCpu, PreemptOff};
use crate::arch::spin::SpinLock;

/// The classes: every object of a class has this size, and its alignment is 16. 2176 is for the reclaimer's
/// bags; the last one is for whole pages.
const SIZES: [usize; CLASSES] =
    [16, 32, 48, 64, 96, 128, 192, 256, 320, 384, 512, 768, 1024, 1536, 2176, 3072, 4096, PAGE];
const CLASSES: usize = 18;
/// The class of pages.
const PAGES: usize = CLASSES - 1;
const PAGE: usize = FRAME as usize;
const ALIGN: usize = 16;
/// A depot that holds so many batches gives the next one back.
const DEPOT_BATCHES_MAX: usize = 1024;
/// The same for pages, which others wait for.
const PAGE_BATCHES_MAX: usize = 8;

#[global_allocator]
static HEAP: Heap = Heap;

/// How often all CPUs were asked to give back what lies idle.
static ASKED: AtomicU32 = AtomicU32::new(0);

static DEPOTS: [SpinLock<Depot>; CLASSES] =
    [const { SpinLock::new(Depot { first: ptr::null_mut(), batches: 0 }) }; CLASSES];

/// Class of each size, by `size.div_ceil(16)`.
static CLASS: [u8; SIZES[PAGES - 1] / 16 + 1] = {
    let mut table = [0; _];
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

/// Objects of a batch: about 16 KiB, between 4 and 32; 32 pages.
const fn batch_of(class: usize) -> usize {
    if class == PAGES {
        return 32;
    }
    let fit = (16 << 10) / SIZES[class];
    if fit > 32 {
        32
    } else if fit < 4 {
        4
    } else {
        fit
    }
}

/// A free object, see [Free].
struct Free {
    next: *mut Free,
    next_batch: *mut Free,
}

/// A list of free objects.
struct List {
    head: *mut Free,
    count: usize,
}

impl List {
    const EMPTY: Self = Self { head: ptr::null_mut(), count: 0 };

    /// # Safety
    /// `object` is free memory of the list's class, in no list.
    unsafe fn push(&mut self, object: *mut u8) {
        let object = object.cast::<Free>();
        // SAFETY: at least 16 bytes, 16-aligned, and nobody else's (caller).
        unsafe { object.write(Free { next: self.head, next_batch: ptr::null_mut() }) };
        self.head = object;
        self.count += 1;
    }

    fn pop(&mut self) -> Option<NonNull<u8>> {
        let object = NonNull::new(self.head)?;
        // SAFETY: [Free]: it is in this list, so its first word is the link.
        self.head = unsafe { object.as_ref().next };
        self.count -= 1;
        Some(object.cast())
    }
}

/// One class's full batches, for all CPUs.
struct Depot {
    first: *mut Free,
    batches: usize,
}

// SAFETY: it owns the free objects behind its pointer ([Free]); no CPU's data is among them.
unsafe impl Send for Depot {}

/// One CPU's free objects of one class. `loaded` serves; `spare` is empty or full, and swaps with it.
struct Magazine {
    loaded: List,
    spare: List,
}

impl Magazine {
    /// Finds an object when `loaded` is empty. `None` when memory is out.
    #[cold]
    fn reload(&mut self, class: usize) -> Option<NonNull<u8>> {
        if self.spare.count > 0 {
            core::mem::swap(&mut self.loaded, &mut self.spare);
            return self.loaded.pop();
        }
        {
            let mut depot = DEPOTS[class].lock();
            if let Some(batch) = NonNull::new(depot.first) {
                // SAFETY: [Free]: the first object of a batch in the depot; its second word is the link.
                depot.first = unsafe { batch.as_ref().next_batch };
                depot.batches -= 1;
                self.loaded = List { head: batch.as_ptr(), count: batch_of(class) };
            }
        }
        if self.loaded.count == 0 && class == PAGES {
            // SAFETY: a page of free memory, ours.
            frames::take_pages(batch_of(class), |page| unsafe { self.loaded.push(page.as_ptr()) });
        } else if self.loaded.count == 0 {
            let mut central = central::lock();
            for _ in 0..batch_of(class) {
                // SAFETY: the size is not zero.
                let Some(object) = (unsafe { central.allocate(class_layout(class)) }) else { break };
                // SAFETY: fresh memory of the class's layout.
                unsafe { self.loaded.push(object.as_ptr()) };
            }
        }
        self.loaded.pop()
    }

    /// Makes room in `loaded` when it is full.
    #[cold]
    fn unload(&mut self, class: usize) {
        core::mem::swap(&mut self.loaded, &mut self.spare);
        if self.loaded.count == 0 {
            return;
        }
        let batch = core::mem::replace(&mut self.loaded, List::EMPTY);
        {
            let mut depot = DEPOTS[class].lock();
            if depot.batches < if class == PAGES { PAGE_BATCHES_MAX } else { DEPOT_BATCHES_MAX } {
                // SAFETY: [Free]: a full batch, ours until this very store puts it into the depot.
                unsafe { (*batch.head).next_batch = depot.first };
                depot.first = batch.head;
                depot.batches += 1;
                return;
            }
        }
        give_back(class, batch);
    }
}

/// Gives free objects to where they are from.
fn give_back(class: usize, mut objects: List) {
    if class == PAGES {
        // SAFETY: [Class]: pages, which nobody uses.
        unsafe { frames::give_pages(|| objects.pop()) };
        return;
    }
    let mut central = central::lock();
    while let Some(object) = objects.pop() {
        // SAFETY: [Class]: it came from `talc` with this layout, and left its list.
        unsafe { central.deallocate(object.as_ptr(), class_layout(class)) };
    }
}

/// Gives back what lies idle in the depots and in this CPU's magazines, and whole pieces of RAM. Whether there was anything.
///
/// Context: not in an interrupt handler; takes the heap's locks.
#[cold]
pub(super) fn trim() -> bool {
    let _off = PreemptOff::new();
    let Some(cpu) = percpu::current() else { return false };
    let mut any = empty_magazines(cpu);
    for (class, depot) in DEPOTS.iter().enumerate() {
        loop {
            let batch = {
                let mut depot = depot.lock();
                let Some(batch) = NonNull::new(depot.first) else { break };
                // SAFETY: [Free]: the first object of a batch in the depot; its second word is the link.
                depot.first = unsafe { batch.as_ref().next_batch };
                depot.batches -= 1;
                List { head: batch.as_ptr(), count: batch_of(class) }
            };
            give_back(class, batch);
            any = true;
        }
    }
    central::release() != 0 || any
}

/// Asks all CPUs to give back what lies idle in their magazines, as soon as they come to [`settle`].
pub(super) fn ask_others() {
    ASKED.fetch_add(1, Relaxed); // Relaxed: a number that stands for itself.
    crate::sched::prod_all();
}

/// Whether this CPU was asked and did not come to [`settle`] yet. Context: any.
pub(crate) fn is_asked(cpu: &PerCpu) -> bool {
    // Relaxed, both: numbers that stand for themselves; the second is this CPU's.
    cpu.magazines.answered.load(Relaxed) != ASKED.load(Relaxed)
}

/// Empties this CPU's magazines, if that was asked for.
///
/// Context: threads, at moments when no allocation is under way.
pub(crate) fn settle(cpu: &PerCpu) {
    if is_asked(cpu) {
        cpu.magazines.answered.store(ASKED.load(Relaxed), Relaxed); // Relaxed, both: as above.
        let _off = PreemptOff::new();
        empty_magazines(cpu);
    }
}

/// Context: preemption off, `cpu` is this one, not in an interrupt handler, and no magazine is in use.
#[cold]
fn empty_magazines(cpu: &PerCpu) -> bool {
    let mut any = false;
    for class in 0..CLASSES {
        // SAFETY: [Own], by contract.
        let magazine = unsafe { &mut (*cpu.magazines.classes.get())[class] };
        for list in [&mut magazine.loaded, &mut magazine.spare] {
            any |= list.count != 0;
            give_back(class, core::mem::replace(list, List::EMPTY));
        }
    }
    any
}

/// One CPU's magazines and counters.
pub(crate) struct Magazines {
    classes: UnsafeCell<[Magazine; CLASSES]>,
    /// Bytes allocated here minus bytes freed here; only the sum over all CPUs means something.
    live_bytes: AtomicI64,
    live_objects: AtomicI64,
    /// The number of the last request of [`ask_others`] that was met.
    answered: AtomicU32,
}

// SAFETY: `classes` is touched by its own CPU only ([Own]); the counters are atomic.
unsafe impl Sync for Magazines {}

impl Magazines {
    pub(crate) const fn new() -> Self {
        Self {
            classes: UnsafeCell::new(
                [const { Magazine { loaded: List::EMPTY, spare: List::EMPTY } }; CLASSES],
            ),
            live_bytes: AtomicI64::new(0),
            live_objects: AtomicI64::new(0),
            answered: AtomicU32::new(0),
        }
    }

    fn count(&self, objects: i64, bytes: usize) {
        // Relaxed, plain load and store: statistics, written by this CPU alone.
        self.live_bytes.store(self.live_bytes.load(Relaxed) + objects * bytes as i64, Relaxed);
        self.live_objects.store(self.live_objects.load(Relaxed) + objects, Relaxed);
    }
}

/// What is allocated and not freed, in all. Exact when no CPU allocates meanwhile; what was allocated before
/// the CPUs' blocks stood is not counted.
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

/// A block to be set aside.
pub(super) fn take_block() -> Option<NonNull<u8>> {
    // SAFETY: the size is not zero.
    let take = || unsafe { central::lock().allocate(claims::BLOCK) };
    take().or_else(|| if trim() { take() } else { None })
}

/// Takes a block back.
pub(super) fn give_block(block: NonNull<u8>) {
    // SAFETY: from `take_block`; whoever calls this has it no more.
    unsafe { central::lock().deallocate(block.as_ptr(), claims::BLOCK) };
}

/// Memory for `layout` out of a block that was set aside, if the allocation is covered.
#[cold]
fn draw(layout: Layout) -> Option<NonNull<u8>> {
    let block = claims::draw(layout)?;
    let mut central = central::lock();
    // SAFETY: as in `give_block`. The block is free memory of at least this size and alignment, and nobody comes between
    // the two calls; the layout's size is not zero.
    unsafe {
        central.deallocate(block.as_ptr(), claims::BLOCK);
        central.allocate(layout)
    }
}

/// An object of a class though there is no memory: what lies idle elsewhere, or a block.
#[cold]
fn without_memory(class: usize, again: impl FnOnce() -> Option<NonNull<u8>>) -> Option<NonNull<u8>> {
    let object = if trim() { again() } else { None };
    object.or_else(|| draw(class_layout(class)))
}

/// The class that serves `layout`, if one does.
fn class_of(layout: Layout) -> Option<usize> {
    if layout.size() == PAGE && layout.align() == PAGE {
        return Some(PAGES);
    }
    let fits = layout.size() <= SIZES[PAGES - 1] && layout.align() <= ALIGN;
    fits.then(|| usize::from(CLASS[layout.size().div_ceil(16)]))
}

fn class_layout(class: usize) -> Layout {
    // SAFETY: a power of two, and far from overflow.
    unsafe { Layout::from_size_align_unchecked(SIZES[class], if class == PAGES { PAGE } else { ALIGN }) }
}

struct Heap;

// SAFETY: memory comes from `talc`, each object to one owner at a time: an object is either allocated or in
// exactly one magazine. A class's objects satisfy every layout that maps to it ([Class]).
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let off = PreemptOff::new();
        let Some(cpu) = percpu::current() else {
            // SAFETY: the caller's layout has a size that is not zero.
            return unsafe { central::lock().allocate(whole(layout)) }
                .map_or(ptr::null_mut(), NonNull::as_ptr);
        };
        debug_assert!(!cpu.in_interrupt(), "an interrupt handler allocates");
        let Some(class) = class_of(layout) else {
            // SAFETY: as above.
            let take = || unsafe { central::lock().allocate(layout) };
            let got = take().or_else(|| if trim() { take() } else { None }).or_else(|| draw(layout));
            if got.is_some() {
                cpu.magazines.count(1, layout.size());
            }
            return got.map_or(ptr::null_mut(), NonNull::as_ptr);
        };
        // SAFETY: [Own]: this CPU, preemption off until `off` drops, not in an interrupt (asserted above).
        let magazine = || unsafe { &mut (*cpu.magazines.classes.get())[class] };
        let object = match magazine().loaded.pop() {
            Some(object) => Some(object),
            None => magazine().reload(class).or_else(|| without_memory(class, || magazine().reload(class))),
        };
        if object.is_some() {
            cpu.magazines.count(1, SIZES[class]);
        }
        drop(off);
        object.map_or(ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, object: *mut u8, layout: Layout) {
        let off = PreemptOff::new();
        let Some(cpu) = percpu::current() else {
            // SAFETY: allocated below with the same rounding, if before the CPUs' blocks stood; ours to free.
            unsafe { central::lock().deallocate(object, whole(layout)) };
            return;
        };
        debug_assert!(!cpu.in_interrupt(), "an interrupt handler frees");
        let Some(class) = class_of(layout) else {
            // SAFETY: the caller's object, allocated with this layout.
            unsafe { central::lock().deallocate(object, layout) };
            cpu.magazines.count(-1, layout.size());
            return;
        };
        // SAFETY: [Own], as in `alloc`.
        let magazine = unsafe { &mut (*cpu.magazines.classes.get())[class] };
        if magazine.loaded.count == batch_of(class) {
            magazine.unload(class);
        }
        // SAFETY: the caller's object, of this class ([Class]), is free now.
        unsafe { magazine.loaded.push(object) };
        cpu.magazines.count(-1, SIZES[class]);
        drop(off);
    }

    unsafe fn realloc(&self, object: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller checked that `new_size`, rounded up to the alignment, does not overflow.
        let new = unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) };
        match (class_of(layout), class_of(new)) {
            (Some(old), Some(new)) if old == new => return object,
            // SAFETY: neither size belongs to a class, so the object came from `talc` with `layout`.
            (None, None) if unsafe { central::lock().resize(object, layout, new_size) } => {
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

/// What an early allocation really asks for: its class's layout, so that it may be freed into a magazine
/// later.
fn whole(layout: Layout) -> Layout {
    assert!(layout.align() < PAGE, "a page is allocated before the CPUs' blocks stand");
    class_of(layout).map_or(layout, class_layout)
}
