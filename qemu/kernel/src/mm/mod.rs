//! Memory: the address space, frames, stacks and the heap.
//!
//! ```text
//! ffff_8000_0000_0000  direct map: physical address + DIRECT; RAM rw-nx, but the image's text and
//!                      rodata r-nx; firmware tables r-nx and device registers rw-nx uncached, mapped when asked for
//! ffff_c000_0000_0000  stacks: one slot each, the lower part never mapped (guard)
//! ffff_ffff_8000_0000  the image: text r-x, rodata r--, data rw-nx, symbols r--
//! ```
//! Nothing else is mapped in the upper half. Mappings there are only added, but for stacks of ended threads, which go when memory is
//! short, by a TLB shootdown on all CPUs ([`stack`]). The lower half belongs to programs: each [`space`] has tables of its own,
//! with the kernel's upper half.
//!
//! | Module | What |
//! |---|---|
//! | `frames`, `heap`, `central`, `claims` | RAM by the block, by the object, what is behind that, and set aside |
//! | `paging`, `stack` | the kernel's own tables and stacks |
//! | `space`, `area`, `map`, `advise`, `tables` | a process's memory: faults and copies, mappings, their changes, pages |
//! | `backing`, `shared`, `registry` | what mappings are of; all spaces, for files that are cut |
//! | `shootdown` | translations that other CPUs forget |
//! | `user` | the kernel's reads and writes of user memory |
//! | `image`, `calls`, `oom` | programs, system calls, and who goes when memory is out |
//!
//! # Lock order
//! a space → what a backing takes (files) → page tables (`paging`) → heap (its depots; `central`) → frames. Free stacks, early frames, shards of the
//! registry: leaves. None may be taken in an interrupt handler. Nobody touches user memory under a spin lock, or under a space's lock.

use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::boot::BootInfo;

mod advise;
mod area;
pub(crate) mod backing;
pub(crate) mod calls;
mod central;
pub(crate) mod claims;
pub(crate) mod fault;
pub(crate) mod frames;
mod gone;
pub(crate) mod heap;
pub(crate) mod image;
pub(crate) mod mailbox;
pub(crate) mod map;
pub(crate) mod oom;
pub(crate) mod paging;
pub(crate) mod registry;
pub(crate) mod shared;
pub(crate) mod shootdown;
pub(crate) mod space;
pub(crate) mod stack;
pub(crate) mod tables;
pub(crate) mod user;

/// What [`mailbox`] is made of; loom has its own.
mod atomic {
    pub(super) use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

    /// `order`: the name is that of a bug that loom's models plant.
    pub(super) const fn order(order: Ordering, _bug: &'static str) -> Ordering {
        order
    }
}

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

static TOTAL_BYTES: AtomicUsize = AtomicUsize::new(0);

/// Bytes of ordinary RAM.
pub(crate) fn total_bytes() -> usize {
    TOTAL_BYTES.load(Relaxed) // Relaxed: written once, before the other CPUs start.
}

/// Builds the real tables, switches to them, and gives all free RAM to the heap.
///
/// Context: once, on the boot CPU, before any allocation.
pub(crate) fn init(info: &BootInfo) {
    let bytes = info.ram.iter().map(|range| (range.end - range.start) as usize).sum();
    TOTAL_BYTES.store(bytes, Relaxed); // Relaxed: as in `total_bytes`.
    frames::init(info);
    paging::init(info);
    let module = &info.initrd;
    // Usually in RAM, hence mapped already; but nobody promised.
    paging::map_direct(module.start, module.end - module.start, paging::Use::ReadOnly);
    frames::open();
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
