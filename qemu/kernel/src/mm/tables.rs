//! The lower half of one set of page tables: which page is where in a space, and who may do what with it.
//!
//! A present or held entry of the last level owns a share of its page ([`tmpfs::Page`]); entries above own their table. CPUs read
//! the tables at any moment, so entries are atomics; only the holder of the space's lock writes them, for all entries are made with
//! the bits that the CPU would set (accessed, dirty).
//!
//! # Invariants
//! - `[Share]` An entry of the last level that is not 0 holds one share of the page at its address.
//! - `[Stale]` A page that was taken out, or a table, is freed only when no CPU knows it any more: the caller's duty.

use alloc::alloc::{alloc_zeroed, dealloc};
use core::alloc::Layout;
use core::ops::Range;
use core::sync::atomic::{AtomicI64, AtomicU64, Ordering::*};

use tmpfs::Page;

use super::space::Prot;
use super::{paging, phys_to_virt, virt_to_phys};

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
/// Ours: there is a page, but nobody may touch it (`PROT_NONE`).
const HELD: u64 = 1 << 9;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Bytes that a table of the last level maps.
pub(super) const LEAF: usize = 2 << 20;
const PAGE: usize = 4096;
const TABLE: Layout = match Layout::from_size_align(PAGE, PAGE) {
    Ok(layout) => layout,
    Err(_) => panic!("a power of two"),
};

/// Tables of all spaces.
static LIVE: AtomicI64 = AtomicI64::new(0);

/// How many frames the tables of all spaces have.
pub(crate) fn live() -> i64 {
    LIVE.load(Relaxed) // Relaxed here and where it changes: statistics.
}

/// No memory for a table.
#[derive(Debug)]
pub(super) struct NoMemory;

/// A value of an entry of the last level that is not 0.
#[derive(Clone, Copy)]
pub(super) struct Entry(u64);

impl Entry {
    fn new(page: Page, prot: Prot) -> Self {
        Entry(virt_to_phys(page.into_raw() as u64) | Self::rights(prot))
    }

    fn rights(prot: Prot) -> u64 {
        if prot.is_empty() {
            return HELD;
        }
        let mut bits = PRESENT | USER | ACCESSED | DIRTY;
        if prot.contains(Prot::WRITE) {
            bits |= WRITABLE;
        }
        if !prot.contains(Prot::EXEC) {
            bits |= NO_EXECUTE;
        }
        bits
    }

    /// Whether user mode may write.
    pub(super) fn is_writable(self) -> bool {
        self.0 & (PRESENT | WRITABLE) == PRESENT | WRITABLE
    }

    /// Whether CPUs may know it.
    pub(super) fn is_present(self) -> bool {
        self.0 & PRESENT != 0
    }

    fn raw(self) -> *const () {
        phys_to_virt(self.0 & ADDRESS) as *const ()
    }

    /// A share of the page besides that of the entry.
    pub(super) fn page(self) -> Page {
        self.with_page(Page::clone)
    }

    /// Runs `look` on the entry's page.
    pub(super) fn with_page<R>(self, look: impl FnOnce(&Page) -> R) -> R {
        look(&core::mem::ManuallyDrop::new(self.shared()))
    }

    /// The entry's own share: to be forgotten, or the entry is gone.
    fn shared(self) -> Page {
        // SAFETY: [Share]: from `into_raw` in `new`. The callers take the share only with the entry, else they forget it.
        unsafe { Page::from_raw(self.raw()) }
    }
}

/// One entry of the last level, in its place. Belongs to the holder of the space's lock.
#[derive(Clone, Copy)]
pub(super) struct Slot<'a>(&'a AtomicU64);

impl Slot<'_> {
    /// What is there.
    pub(super) fn get(self) -> Option<Entry> {
        let value = self.0.load(Relaxed); // Relaxed: written under the space's lock, which is held.
        (value != 0).then_some(Entry(value))
    }

    /// Puts a page there; returns the old one.
    pub(super) fn set(self, page: Page, prot: Prot) -> Option<Page> {
        // Release: a CPU that walks the tables finds the page's bytes as they are now.
        let old = self.0.swap(Entry::new(page, prot).0, AcqRel);
        (old != 0).then(|| Entry(old).shared())
    }

    /// Takes the page out.
    pub(super) fn take(self) -> Option<Page> {
        let old = self.0.swap(0, AcqRel); // As in `set`.
        (old != 0).then(|| Entry(old).shared())
    }

    /// Gives the entry other rights; returns true if it had some that it lost.
    pub(super) fn protect(self, prot: Prot) -> bool {
        let Some(Entry(old)) = self.get() else { return false };
        let new = old & ADDRESS | Entry::rights(prot);
        self.0.store(new, Release); // Release: as in `set`.
        let gone = old & !new & (PRESENT | WRITABLE) | new & !old & NO_EXECUTE;
        old & PRESENT != 0 && gone != 0
    }
}

/// A set of tables; its root has the kernel's upper half.
#[derive(Debug)]
pub(super) struct Tables {
    root: u64,
    /// Frames, the root among them.
    frames: usize,
}

fn table(phys: u64) -> *mut AtomicU64 {
    phys_to_virt(phys) as *mut AtomicU64
}

fn new_table() -> Option<u64> {
    // SAFETY: the size is not zero.
    let table = unsafe { alloc_zeroed(TABLE) };
    if table.is_null() {
        return None;
    }
    // Relaxed: a count.
    LIVE.fetch_add(1, Relaxed);
    Some(virt_to_phys(table as u64))
}

/// # Safety
/// From [`new_table`], and no CPU and no entry knows it any more.
unsafe fn free_table(phys: u64) {
    // SAFETY: allocated with this layout, and not used any more (caller).
    unsafe { dealloc(phys_to_virt(phys) as *mut u8, TABLE) };
    // Relaxed: a count.
    LIVE.fetch_sub(1, Relaxed);
}

const fn index(address: usize, level: u32) -> usize {
    address >> (12 + 9 * level) & 511
}

/// Bytes that an entry of a table of this level maps.
const fn span(level: u32) -> usize {
    PAGE << (9 * level)
}

impl Tables {
    /// Tables with an empty lower half.
    pub(super) fn new() -> Result<Self, NoMemory> {
        let root = new_table().ok_or(NoMemory)?;
        // SAFETY: the fresh table's upper half, ours.
        unsafe {
            table(root).add(paging::UPPER).cast::<[u64; 512 - paging::UPPER]>().write(paging::upper_half());
        }
        Ok(Tables { root, frames: 1 })
    }

    /// Physical address of the root.
    pub(super) fn root(&self) -> u64 {
        self.root
    }

    /// Frames of the tables.
    pub(super) fn frames(&self) -> usize {
        self.frames
    }

    fn entry(&self, phys: u64, index: usize) -> &AtomicU64 {
        // SAFETY: a table of this set (the callers follow entries from the root), alive as long as `self` is borrowed, since only
        // `&mut self` frees tables; `index` is below 512.
        unsafe { &*table(phys).add(index) }
    }

    /// The slot of `address`, if its table is there.
    pub(super) fn slot(&self, address: usize) -> Option<Slot<'_>> {
        let mut phys = self.root;
        for level in [3, 2, 1] {
            let entry = self.entry(phys, index(address, level)).load(Relaxed); // Relaxed: as in `Slot::get`.
            if entry == 0 {
                return None;
            }
            phys = entry & ADDRESS;
        }
        Some(Slot(self.entry(phys, index(address, 0))))
    }

    /// The slot of `address`, with its table.
    pub(super) fn make_slot(&mut self, address: usize) -> Result<Slot<'_>, NoMemory> {
        let mut phys = self.root;
        for level in [3, 2, 1] {
            let entry = self.entry(phys, index(address, level));
            let mut value = entry.load(Relaxed); // Relaxed: as in `Slot::get`.
            if value == 0 {
                value = new_table().ok_or(NoMemory)? | PRESENT | WRITABLE | USER | ACCESSED;
                entry.store(value, Release); // Release: a CPU that walks the tables finds the new one empty.
                self.frames += 1;
            }
            phys = value & ADDRESS;
        }
        Ok(Slot(self.entry(phys, index(address, 0))))
    }

    /// Visits the slots of `range` that are not empty, in order, with their addresses, until `visit` says false.
    pub(super) fn visit(&self, range: Range<usize>, mut visit: impl FnMut(usize, Slot<'_>) -> bool) {
        let mut at = range.start;
        while at < range.end {
            let mut phys = self.root;
            let mut missing = None;
            for level in [3, 2, 1] {
                let entry = self.entry(phys, index(at, level)).load(Relaxed); // Relaxed: as in `Slot::get`.
                if entry == 0 {
                    missing = Some(level);
                    break;
                }
                phys = entry & ADDRESS;
            }
            if let Some(level) = missing {
                at = (at | (span(level) - 1)) + 1;
                continue;
            }
            let end = ((at | (LEAF - 1)) + 1).min(range.end);
            let mut entry = index(at, 0);
            while at < end {
                let slot = Slot(self.entry(phys, entry));
                if slot.get().is_some() && !visit(at, slot) {
                    return;
                }
                entry += 1;
                at += PAGE;
            }
        }
    }

    /// Takes the tables out that map a part of `range` and nothing outside of `gap`, which contains it and has no pages any more, and
    /// hands them to `bury`.
    pub(super) fn prune(&mut self, range: &Range<usize>, gap: &Range<usize>, bury: &mut impl FnMut(Buried)) {
        self.prune_level(self.root, 3, 0, range, gap, bury);
    }

    fn prune_level(
        &mut self,
        phys: u64,
        level: u32,
        base: usize,
        range: &Range<usize>,
        gap: &Range<usize>,
        bury: &mut impl FnMut(Buried),
    ) {
        let span = span(level);
        let mut start = range.start.max(base) / span * span;
        while start < range.end && start - base < 512 * span {
            let value = self.entry(phys, index(start, level)).load(Relaxed); // Relaxed: as in `Slot::get`.
            if value != 0 {
                let child = value & ADDRESS;
                if level > 1 {
                    self.prune_level(child, level - 1, start, range, gap, bury);
                }
                if gap.start <= start && start + span <= gap.end {
                    // Release: it is out before anybody counts on that.
                    self.entry(phys, index(start, level)).store(0, Release);
                    self.frames -= 1;
                    bury(Buried(child));
                }
            }
            start += span;
        }
    }

    /// Frees the pages of `range`. Context: no CPU knows the tables ([Stale]).
    pub(super) fn clear(&mut self, range: &Range<usize>) {
        self.visit(range.clone(), |_, slot| {
            drop(slot.take());
            true
        });
    }

    /// Frees the tables that map a part of `range` and nothing behind `end`. Context: there are no pages any more, nor other tables
    /// below `range`, and no CPU knows the tables ([Stale]).
    pub(super) fn clear_tables(&mut self, range: &Range<usize>, end: usize) {
        self.prune(range, &(0..end), &mut drop);
    }
}

/// A table that was taken out of its set; it is freed when this is dropped, see [Stale].
pub(super) struct Buried(u64);

impl Drop for Buried {
    fn drop(&mut self) {
        // SAFETY: taken out in `prune`; its entries are 0 or led to tables that were taken out too. No CPU knows it ([Stale]).
        unsafe { free_table(self.0) };
    }
}

impl Drop for Tables {
    fn drop(&mut self) {
        debug_assert!(self.frames == 1, "tables are left");
        // SAFETY: the root, which nobody uses any more.
        unsafe { free_table(self.root) };
    }
}
