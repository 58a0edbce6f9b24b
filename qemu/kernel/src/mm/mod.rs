//! Memory: the address space, frames, stacks and the heap.
//!
//! ```text
//! ffff_8000_0000_0000  direct map: physical address + DIRECT; RAM rw-nx, but the image's text and
//!                      rodata r-nx; firmware tables r-nx and device registers rw-nx uncached, mapped when asked for
//! ffff_c000_0000_0000  stacks: one slot each, the lower part never mapped (guard)
//! ffff_ffff_8000_0000  the image: text r-x, rodata r--, data rw-nx, symbols r--
//! ```
//! Nothing else is mapped, the low half not at all. All CPUs share one set of tables; mappings are only ever
//! added, so no TLB shootdown exists.
//!
//! # Lock order
//! page tables (`paging`) → early frames or heap. Free stacks, heap, early frames: leaves. None may be taken
//! in an interrupt handler.

use crate::boot::BootInfo;

pub(crate) mod claims;
pub(crate) mod frames;
pub(crate) mod heap;
pub(crate) mod paging;
pub(crate) mod stack;

/// Start of the direct map.
const DIRECT: u64 = 0xffff_8000_0000_0000;
/// Start of the stacks' slots.
const STACKS: u64 = 0xffff_c000_0000_0000;
/// What is added to an image address to link it (`kernel.ld`).
const IMAGE: u64 = 0xffff_ffff_8000_0000;

/// The address in the direct map of physical address `phys`, mapped or not.
pub(crate) fn phys_to_virt(phys: u64) -> u64 {
    debug_assert!(phys < STACKS - DIRECT, "physical address {phys:#x} is out of reach");
    phys + DIRECT
}

/// The physical address behind `virt`, an address in the direct map.
pub(crate) fn virt_to_phys(virt: u64) -> u64 {
    debug_assert!((DIRECT..STACKS).contains(&virt), "{virt:#x} is not in the direct map");
    virt - DIRECT
}

/// Builds the real tables, switches to them, and gives all free RAM to the heap.
///
/// Context: once, on the boot CPU, before any allocation.
pub(crate) fn init(info: &BootInfo) {
    frames::init(info);
    paging::init(info);
    let module = &info.initrd;
    // Usually in RAM, hence mapped already; but nobody promised.
    paging::map_direct(module.start, module.end - module.start, paging::Use::ReadOnly);
    for range in frames::retire() {
        heap::add(range);
    }
}

/// The loader's module, for as long as the kernel runs.
pub(crate) fn initrd(info: &BootInfo) -> &'static [u8] {
    let range = &info.initrd;
    if range.is_empty() {
        return &[];
    }
    // SAFETY: `init` mapped the module; `frames::init` kept it from the heap ([Reserved]),
    // so nobody ever writes it.
    unsafe {
        core::slice::from_raw_parts(
            phys_to_virt(range.start) as *const u8,
            (range.end - range.start) as usize,
        )
    }
}

/// The table of the image's symbols, as `link.sh` wrote it; empty if it is not text.
pub(crate) fn symbol_table() -> &'static str {
    let range = paging::symbols();
    // SAFETY: the link script's section, mapped read-only and never changed.
    let bytes =
        unsafe { core::slice::from_raw_parts(range.start as *const u8, (range.end - range.start) as usize) };
    core::str::from_utf8(bytes).unwrap_or_default()
}
