//! From the boot loader's information to one [`BootInfo`].
//!
//! The kernel starts by its PVH note (QEMU's `-kernel`) or its Multiboot2 header (GRUB). Both enter through
//! `entry.s`, which turns on long mode and calls [`boot_main`] with the protocol's magic number and the
//! physical address of its information. [`pvh`] and [`multiboot2`] copy all that is needed out of the
//! loader's memory, so that nothing else in the kernel knows who started it.
//!
//! # Invariants
//! - `[Low]` Until `mm::init`, the loader's structures are read through the boot tables' direct map, which
//!   reaches the low 4 GiB; both loaders place everything there.
//! - `[Copied]` A `BootInfo` owns its text and its map. The module and the firmware's tables stay where they
//!   are: `reserved` keeps the heap away from what lies in ordinary RAM.

use core::arch::global_asm;
use core::ops::Range;

use heapless::{String, Vec};

use crate::arch::percpu::PerCpu;

mod multiboot2;
mod pvh;

global_asm!(
    include_str!("entry.s"),
    boot_main = sym boot_main,
    ap_main = sym crate::smp::ap_main,
    mailbox = sym AP_MAILBOX,
);

/// The longest command line that is taken.
pub(crate) const COMMAND_LINE_MAX: usize = 2048;

/// Where `ap_start` is copied: a page below 1 MiB, its number is the start-up IPI's vector.
pub(crate) const AP_START: u64 = 0x8000;

/// What the loader told us.
#[derive(Debug, Default)]
pub(crate) struct BootInfo {
    /// Name of the protocol, for the log.
    pub(crate) protocol: &'static str,
    /// The kernel's command line.
    pub(crate) command_line: String<COMMAND_LINE_MAX>,
    /// Ordinary RAM, physical, in the loader's order.
    pub(crate) ram: Vec<Range<u64>, 128>,
    /// Parts of `ram` that are in use already: the image, the module, the loader's structures.
    pub(crate) reserved: Vec<Range<u64>, 8>,
    /// Physical address of ACPI's root pointer.
    pub(crate) rsdp: u64,
    /// The first module (QEMU's `-initrd`, GRUB's `module2`), empty if there is none.
    pub(crate) initrd: Range<u64>,
}

/// Why the loader's information cannot be used.
#[derive(Debug)]
pub(crate) enum BootError {
    /// The magic number is neither protocol's.
    Magic(u32),
    /// The structure itself is broken or lacks something that the kernel needs.
    Malformed(&'static str),
}

/// What an application processor needs for its first steps; `smp` fills it for one CPU at a time.
#[repr(C)]
pub(crate) struct ApMailbox {
    tables: u64,
    stack_top: u64,
    cpu: *const PerCpu,
}

/// `entry.s` reads it as three words.
static mut AP_MAILBOX: ApMailbox = ApMailbox { tables: 0, stack_top: 0, cpu: core::ptr::null() };

unsafe extern "C" {
    static ap_start: u8;
    static ap_end: u8;
    static __image_end: u8;
}

/// Physical range of the kernel's image, the part below `.text` included.
pub(crate) fn image() -> Range<u64> {
    // A symbol of the link script: only its address means something.
    let end = &raw const __image_end as u64;
    0x10_0000..end.next_multiple_of(4096)
}

/// Writes the mailbox and copies the real-mode stub to [`AP_START`].
///
/// # Safety
/// No application processor is on its way through `entry.s`, and nobody else calls this meanwhile. `cpu`
/// describes the CPU that is started next, and `stack_top` the free stack that it will run on.
pub(crate) unsafe fn prepare_ap(tables: u64, stack_top: u64, cpu: &'static PerCpu) {
    let (start, end) = (&raw const ap_start, &raw const ap_end);
    let target = crate::mm::phys_to_virt(AP_START) as *mut u8;
    // SAFETY: the two symbols bound the stub in `.boot`, loaded where it is linked, hence readable through
    // the direct map; the target page is RAM below 1 MiB, which `mm` never hands out. Nobody reads the
    // mailbox now (caller).
    unsafe {
        let stub = crate::mm::phys_to_virt(start as u64) as *const u8;
        core::ptr::copy_nonoverlapping(stub, target, end as usize - start as usize);
        (&raw mut AP_MAILBOX).write_volatile(ApMailbox { tables, stack_top, cpu });
    }
}

/// First Rust code of the boot CPU: boot stack, boot tables, interrupts off.
extern "C" fn boot_main(magic: u32, info: u32) -> ! {
    // Relaxed: nobody else is there yet.
    crate::debug_call::ENTRY_TSC.store(crate::arch::cpu::tsc(), core::sync::atomic::Ordering::Relaxed);
    crate::console::init();
    let info = match magic {
        pvh::MAGIC => pvh::read(info.into()),
        ::multiboot2::MAGIC => multiboot2::read(info.into()),
        other => Err(BootError::Magic(other)),
    };
    match info {
        Ok(info) => crate::start(info),
        Err(BootError::Magic(magic)) => panic!("started by no protocol that the kernel knows: {magic:#x}"),
        Err(BootError::Malformed(what)) => panic!("the boot loader's information is unusable: {what}"),
    }
}

impl BootInfo {
    /// A `BootInfo` that knows of the image only.
    fn new(protocol: &'static str) -> Self {
        let mut info = Self { protocol, ..Self::default() };
        info.reserved.extend([image()]);
        info
    }

    fn set_command_line(&mut self, text: &str) -> Result<(), BootError> {
        self.command_line.push_str(text).map_err(|_| BootError::Malformed("command line too long"))
    }

    fn add_ram(&mut self, start: u64, length: u64) -> Result<(), BootError> {
        let end = start.checked_add(length).ok_or(BootError::Malformed("memory map wraps"))?;
        self.ram.push(start..end).map_err(|_| BootError::Malformed("memory map too long"))
    }

    fn reserve(&mut self, range: Range<u64>) -> Result<(), BootError> {
        self.reserved.push(range).map_err(|_| BootError::Malformed("too many reserved ranges"))
    }

    /// Last check, common to both protocols.
    fn finish(self) -> Result<Self, BootError> {
        if self.ram.is_empty() {
            return Err(BootError::Malformed("no memory map"));
        }
        if self.rsdp == 0 {
            return Err(BootError::Malformed("no ACPI root pointer"));
        }
        Ok(self)
    }
}
