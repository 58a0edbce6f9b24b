//! The kernel's page tables: who may do what with which page.
//!
//! [`init`] builds them from scratch, with the rights of the table in [`super`]: no page is writable and
//! executable, and the image's read-only parts are read-only in the direct map too. `entry.s`'s tables, which
//! are neither, stay in use for a few instructions of each further CPU only.
//!
//! The kernel has the upper half of every set of tables: a space's root has the same upper entries as the kernel's own, so what is
//! mapped later below one of them is there in all spaces.
//!
//! # Invariants
//! - `[Grow]` A present entry of the upper half never changes its frame or its rights; only those of stacks that nobody uses go,
//!   and every CPU has forgotten one before there is another. Tables stay.
//! - `[Half]` The root's upper entries are all there before the first space is made, and the lower half of the kernel's own tables
//!   is empty.

use core::ops::Range;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use x86_64::registers::control::{Cr3, Cr3Flags};
use x86_64::structures::paging::mapper::MapToError;
use x86_64::structures::paging::{
    Mapper, OffsetPageTable, Page, PageTable, PageTableFlags as F, PhysFrame, Size2MiB, Size4KiB,
};
use x86_64::{PhysAddr, VirtAddr};

use super::frames::{self, FRAME, Frames};
use super::{DIRECT, IMAGE, phys_to_virt};
use crate::arch::spin::SpinLock;
use crate::boot::BootInfo;

const HUGE: u64 = 2 << 20;
/// The part of an entry that is an address.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// First entry of the upper half in a root.
pub(super) const UPPER: usize = 256;

/// Physical address of the kernel's own root.
static ROOT: AtomicU64 = AtomicU64::new(0);
/// A space was made: [Half] has to hold.
static SHARED: AtomicBool = AtomicBool::new(false);
/// The tables, from [`init`] on.
static TABLES: SpinLock<Option<OffsetPageTable<'static>>> = SpinLock::new(None);

unsafe extern "C" {
    static __text_start: u8;
    static __text_end: u8;
    static __rodata_start: u8;
    static __rodata_end: u8;
    static __data_start: u8;
    static __data_end: u8;
    static __boot_stack_start: u8;
    static __boot_stack_end: u8;
    static __symbols_start: u8;
    static __symbols_end: u8;
}

/// What a mapping is for; decides its rights.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Use {
    /// Code: read and execute.
    Text,
    /// Constants and firmware tables: read.
    ReadOnly,
    /// Everything that is written: read and write.
    Data,
    /// Device registers: read and write, uncached.
    Device,
}

impl Use {
    fn flags(self) -> F {
        F::PRESENT
            | F::GLOBAL
            | match self {
                Self::Text => F::empty(),
                Self::ReadOnly => F::NO_EXECUTE,
                Self::Data => F::WRITABLE | F::NO_EXECUTE,
                Self::Device => F::WRITABLE | F::NO_EXECUTE | F::NO_CACHE | F::WRITE_THROUGH,
            }
    }
}

/// Builds the tables and switches to them.
pub(super) fn init(info: &BootInfo) {
    let root = frames::alloc().expect("no memory for the page tables");
    // SAFETY: a fresh, zeroed frame, reached by the direct map of the boot tables now and of its own later;
    // ours alone.
    let root_table = unsafe { &mut *(phys_to_virt(root) as *mut PageTable) };
    // SAFETY: every frame that the tables will use lies in the direct map at this offset: now (frames come
    // lowest first) and after the switch.
    let mut tables = unsafe { OffsetPageTable::new(root_table, VirtAddr::new(DIRECT)) };

    let text = &raw const __text_start as u64..&raw const __text_end as u64;
    let rodata = &raw const __rodata_start as u64..&raw const __rodata_end as u64;
    let data = &raw const __data_start as u64..&raw const __data_end as u64;
    let stack = &raw const __boot_stack_start as u64..&raw const __boot_stack_end as u64;
    let symbols = symbols().start..symbols().end.next_multiple_of(FRAME);
    let read_only = text.start - IMAGE..rodata.end - IMAGE;
    for (range, usage) in [
        (text, Use::Text),
        (rodata, Use::ReadOnly),
        (data, Use::Data),
        (stack, Use::Data),
        (symbols, Use::ReadOnly),
    ] {
        must_map(&mut tables, range.start, range.start - IMAGE, range.end - range.start, usage);
    }
    for ram in &info.ram {
        // Whole pages that touch RAM; two neighbours may share one, hence `Exists` is fine in `map`.
        let ram = ram.start & !(FRAME - 1)..ram.end.next_multiple_of(FRAME);
        let split = |a: u64| a.clamp(ram.start, ram.end);
        direct(&mut tables, ram.start..split(read_only.start), Use::Data);
        direct(&mut tables, split(read_only.start)..split(read_only.end), Use::ReadOnly);
        direct(&mut tables, split(read_only.end)..ram.end, Use::Data);
    }
    // [Half]: also where stacks and devices will be.
    for virt in [DIRECT, super::STACKS, IMAGE] {
        let entry = &mut tables.level_4_table_mut()[VirtAddr::new(virt).p4_index()];
        if entry.is_unused() {
            let frame = frames::alloc().expect("no memory for the page tables");
            entry.set_addr(PhysAddr::new(frame), F::PRESENT | F::WRITABLE);
        }
    }
    *TABLES.lock() = Some(tables);
    ROOT.store(root, Relaxed); // Relaxed: written once, before other CPUs run.

    let root = PhysFrame::containing_address(PhysAddr::new(root));
    // SAFETY: the new tables map the code that runs, the boot stack (image data), and all that the heap will
    // hold.
    unsafe { Cr3::write(root, Cr3Flags::empty()) };
}

/// Where the symbol table is.
pub(super) fn symbols() -> Range<u64> {
    &raw const __symbols_start as u64..&raw const __symbols_end as u64
}

/// The page below the boot CPU's stack.
pub(super) fn boot_stack_guard() -> Range<u64> {
    let start = &raw const __boot_stack_start as u64;
    start - FRAME..start
}

/// Physical address of the kernel's own root.
pub(crate) fn root() -> u64 {
    ROOT.load(Relaxed) // Relaxed: written once, before other CPUs run.
}

/// Makes the tables with this root those of this CPU, and forgets all translations of the lower half.
///
/// # Safety
/// The root is the kernel's own or a space's, and lives as long as it is in use.
pub(super) unsafe fn switch(root: u64) {
    // SAFETY: the upper half is the same in all roots ([Half]); the rest is the caller's promise.
    unsafe { Cr3::write(PhysFrame::containing_address(PhysAddr::new(root)), Cr3Flags::empty()) };
}

/// The upper entries for a space's root.
pub(super) fn upper_half() -> [u64; 512 - UPPER] {
    // Under the lock, so that no entry is being added ([Half]).
    let _tables = TABLES.lock();
    SHARED.store(true, Relaxed); // Relaxed: under the lock.
    // SAFETY: the root's upper half, in the direct map.
    unsafe { ((phys_to_virt(root()) as *const u64).add(UPPER).cast::<[u64; 512 - UPPER]>()).read() }
}

/// Makes `phys` reachable in the direct map and returns its address there.
///
/// Context: allocates; not in an interrupt handler.
pub(crate) fn map_direct(phys: u64, bytes: u64, usage: Use) -> u64 {
    let mut tables = TABLES.lock();
    let tables = tables.as_mut().expect("page tables before mm::init");
    direct(tables, phys & !(FRAME - 1)..(phys + bytes).next_multiple_of(FRAME), usage);
    phys_to_virt(phys)
}

/// Maps fresh, zeroed memory of `PAGES` pages, which lie below one table of the last level, at `start`. False without memory for
/// that; then nothing is mapped.
///
/// Context: allocates; not in an interrupt handler.
pub(super) fn map_fresh<const PAGES: usize>(start: u64) -> bool {
    let mut fresh = heapless::Vec::<u64, PAGES>::new();
    while fresh.len() < PAGES {
        let Some(frame) = frames::alloc() else { break };
        let _ = fresh.push(frame);
    }
    if fresh.is_full() {
        let mut tables = TABLES.lock();
        let tables = tables.as_mut().expect("page tables before mm::init");
        // If there is no memory for the table, the first page says so.
        if map(tables, start, fresh[0], FRAME, Use::Data).is_ok() {
            for (virt, frame) in (start..).step_by(FRAME as usize).zip(fresh).skip(1) {
                map(tables, virt, frame, FRAME, Use::Data).expect("the table is there");
            }
            return true;
        }
    }
    give(&fresh);
    false
}

/// Unmaps the memory of [`map_fresh`] at `start` on all CPUs, and frees it.
///
/// Context: nobody uses it any more; preemption off; see [`super::shootdown::post`].
pub(super) fn unmap_fresh<const PAGES: usize>(start: u64) {
    let pages = (start..).step_by(FRAME as usize).take(PAGES);
    let mut unmapped = heapless::Vec::<u64, PAGES>::new();
    {
        let mut tables = TABLES.lock();
        let tables = tables.as_mut().expect("page tables before mm::init");
        for virt in pages {
            let page = Page::<Size4KiB>::containing_address(VirtAddr::new(virt));
            let (frame, unflushed) = tables.unmap(page).expect("it was mapped");
            unflushed.ignore();
            let _ = unmapped.push(frame.start_address().as_u64());
        }
    }
    super::shootdown::post_to_all(start as usize..(start + PAGES as u64 * FRAME) as usize);
    give(&unmapped);
}

fn give(frames: &[u64]) {
    let mut addresses = frames.iter().filter_map(|frame| NonNull::new(phys_to_virt(*frame) as *mut u8));
    // SAFETY: from `frames::alloc`, mapped nowhere but in the direct map, and nobody's.
    unsafe { frames::give_pages(|| addresses.next()) };
}

/// True if the eight bytes at `virt` can be read. Takes no lock: for a panic, when all other CPUs stand
/// still.
pub(crate) fn is_readable(virt: u64) -> bool {
    // User memory is none of its business.
    if !virt.is_multiple_of(8) || virt < DIRECT {
        return false;
    }
    let mut table = Cr3::read().0.start_address().as_u64(); // Before `init` these are the boot tables.
    for shift in [39, 30, 21, 12] {
        let entry = phys_to_virt(table) + ((virt >> shift) & 511) * 8;
        // SAFETY: the tables in use, the boot ones included, lie in the direct map, and [Grow] keeps what a
        // present entry led to. Volatile, because another CPU may be adding entries.
        let entry = unsafe { (entry as *const u64).read_volatile() };
        let flags = F::from_bits_truncate(entry);
        if !flags.contains(F::PRESENT) {
            return false;
        }
        if flags.contains(F::HUGE_PAGE) {
            break;
        }
        table = entry & ADDRESS;
    }
    true
}

/// Counts the pages that are mapped, and those of them that are both writable and executable.
///
/// Context: threads; for the self-test.
pub(crate) fn audit() -> Audit {
    let _tables = TABLES.lock();
    let mut audit = Audit::default();
    visit(root(), 4, true, true, &mut audit);
    audit
}

/// What [`audit`] found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Audit {
    /// Pages of any size.
    pub(crate) pages: usize,
    /// Pages that may be executed.
    pub(crate) executable: usize,
    /// Pages that may be written and executed: there should be none.
    pub(crate) writable_and_executable: usize,
}

fn visit(table: u64, level: u32, writable: bool, executable: bool, audit: &mut Audit) {
    for index in 0..512 {
        // SAFETY: a table in use (the caller follows present entries from the root), in the direct map; the
        // lock is held.
        let entry = unsafe { ((phys_to_virt(table) + index * 8) as *const u64).read_volatile() };
        let flags = F::from_bits_truncate(entry);
        if !flags.contains(F::PRESENT) {
            continue;
        }
        let writable = writable && flags.contains(F::WRITABLE);
        let executable = executable && !flags.contains(F::NO_EXECUTE);
        if level > 1 && !flags.contains(F::HUGE_PAGE) {
            visit(entry & ADDRESS, level - 1, writable, executable, audit);
            continue;
        }
        audit.pages += 1;
        audit.executable += usize::from(executable);
        audit.writable_and_executable += usize::from(writable && executable);
    }
}

fn direct(tables: &mut OffsetPageTable<'_>, range: Range<u64>, usage: Use) {
    if !range.is_empty() {
        must_map(tables, phys_to_virt(range.start), range.start, range.end - range.start, usage);
    }
}

/// [`map`] at boot.
fn must_map(tables: &mut OffsetPageTable<'_>, virt: u64, phys: u64, bytes: u64, usage: Use) {
    if let Err(why) = map(tables, virt, phys, bytes, usage) {
        panic!("cannot map {virt:#x}: {why}");
    }
}

/// Maps whole pages, huge ones where both addresses allow. What is mapped already stays as it is.
///
/// # Errors
/// The reason in words; some of it may be mapped then.
fn map(
    tables: &mut OffsetPageTable<'_>,
    virt: u64,
    phys: u64,
    bytes: u64,
    usage: Use,
) -> Result<(), &'static str> {
    let flags = usage.flags();
    // The same for every upper entry, so that none of them ever changes either ([Grow]).
    let parents = F::PRESENT | F::WRITABLE;
    let mut done = 0;
    while done < bytes {
        let (virt, phys) = (VirtAddr::new(virt + done), PhysAddr::new(phys + done));
        let huge = virt.is_aligned(HUGE) && phys.is_aligned(HUGE) && bytes - done >= HUGE;
        done += if huge { HUGE } else { FRAME };
        assert!(
            !SHARED.load(Relaxed) || !tables.level_4_table()[virt.p4_index()].is_unused(), // Relaxed: under the lock.
            "[Half] broken: {virt:?} is mapped too late"
        );
        // SAFETY: these ranges belong to the kernel alone: the image under its own addresses, RAM and devices
        // in the direct map, fresh frames in the stacks. New mappings change no existing one ([Grow]), and a
        // fresh page needs no flush.
        let result = unsafe {
            if huge {
                let page = Page::<Size2MiB>::containing_address(virt);
                let frame = PhysFrame::containing_address(phys);
                tables
                    .map_to_with_table_flags(page, frame, flags, parents, &mut Frames)
                    .map(|f| f.ignore())
                    .map_err(describe)
            } else {
                let page = Page::<Size4KiB>::containing_address(virt);
                let frame = PhysFrame::containing_address(phys);
                tables
                    .map_to_with_table_flags(page, frame, flags, parents, &mut Frames)
                    .map(|f| f.ignore())
                    .map_err(describe)
            }
        };
        if let Err(Some(why)) = result {
            return Err(why);
        }
    }
    Ok(())
}

/// `None` if the page is there already, else the reason in words.
fn describe<S: x86_64::structures::paging::PageSize>(error: MapToError<S>) -> Option<&'static str> {
    match error {
        MapToError::PageAlreadyMapped(_) | MapToError::ParentEntryHugePage => None,
        MapToError::FrameAllocationFailed => Some("no memory for the page tables"),
    }
}
