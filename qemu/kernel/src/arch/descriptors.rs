//! Segments, the task state with its exception stacks, and the interrupt table.
//!
//! Each CPU has its own GDT and TSS; the interrupt table is the same for all, so they share one. Double
//! faults, NMIs and machine checks run on stacks of their own: the first because the ordinary stack may be
//! what broke, the other two because they come at any instruction.

use alloc::boxed::Box;
use core::arch::global_asm;
use core::cell::UnsafeCell;
use core::ptr::NonNull;

use x86_64::VirtAddr;
use x86_64::instructions::tables::{lidt, load_tss};
use x86_64::registers::segmentation::{CS, DS, ES, SS, Segment};
use x86_64::structures::DescriptorTablePointer;
use x86_64::structures::gdt::{Descriptor, GlobalDescriptorTable, SegmentSelector};
use x86_64::structures::tss::TaskStateSegment;

use super::percpu::PerCpu;
use crate::mm::stack;

/// Vector of the double fault.
pub(crate) const DOUBLE_FAULT: u64 = 8;
/// Vector of the non-maskable interrupt.
pub(crate) const NMI: u64 = 2;
/// Selectors of user mode, as Linux has them: programs look at them.
pub(crate) const USER_CODE: u64 = 0x33;
/// See [`USER_CODE`].
pub(crate) const USER_DATA: u64 = 0x2b;
const BREAKPOINT: u64 = 3;
/// Vector of the machine check.
pub(crate) const MACHINE_CHECK: u64 = 18;
/// Exceptions with a stack of their own, in the order of their IST slots.
const OWN_STACK: [u64; 3] = [DOUBLE_FAULT, NMI, MACHINE_CHECK];
const VECTORS: usize = 256;
/// Segments, with two entries for the TSS.
const GDT_ENTRIES: usize = 9;

global_asm!(
    include_str!("trap.s"),
    trap = sym super::trap::trap,
    syscall = sym super::trap::syscall,
    user_rsp = const core::mem::offset_of!(PerCpu, user_rsp),
    stack_top = const core::mem::offset_of!(PerCpu, stack_top),
    user_code = const USER_CODE,
    user_data = const USER_DATA,
    syscall_vector = const super::trap::SYSCALL,
    options(att_syntax)
);

unsafe extern "C" {
    /// `VECTORS` stubs of 16 bytes each (trap.s).
    static trap_stubs: [[u8; 16]; VECTORS];
}

/// One CPU's GDT and TSS.
pub(crate) struct Descriptors {
    gdt: &'static GlobalDescriptorTable<GDT_ENTRIES>,
    code: SegmentSelector,
    data: SegmentSelector,
    tss: SegmentSelector,
    state: NonNull<TaskStateSegment>,
}

// SAFETY: `state` points at the CPU's own TSS, which lives for good; see `set_stack`.
unsafe impl Send for Descriptors {}
// SAFETY: as above.
unsafe impl Sync for Descriptors {}

impl Descriptors {
    /// Makes the tables and the exception stacks.
    ///
    /// # Panics
    /// If memory is out: the machine cannot start then.
    pub(crate) fn new() -> Self {
        let mut tss = TaskStateSegment::new();
        for slot in 0..OWN_STACK.len() {
            let top = stack::for_exceptions().expect("no memory for exception stacks");
            tss.interrupt_stack_table[slot] = VirtAddr::new(top);
        }
        let state = NonNull::from(Box::leak(Box::new(tss)));
        let mut gdt = GlobalDescriptorTable::<GDT_ENTRIES>::empty();
        let code = gdt.append(Descriptor::kernel_code_segment());
        let data = gdt.append(Descriptor::kernel_data_segment());
        // Fillers, so that the next two get Linux's numbers. The second one lies where SYSRET expects 32-bit code, to which this
        // kernel never returns.
        gdt.append(Descriptor::kernel_data_segment());
        gdt.append(Descriptor::user_data_segment());
        let user_data = gdt.append(Descriptor::user_data_segment());
        let user_code = gdt.append(Descriptor::user_code_segment());
        assert!(
            u64::from(user_code.0) == USER_CODE && u64::from(user_data.0) == USER_DATA,
            "segments in the wrong order"
        );
        // SAFETY: the TSS was leaked, so it lives as long as the descriptor.
        let tss = gdt.append(unsafe { Descriptor::tss_segment_unchecked(state.as_ptr()) });
        Self { gdt: Box::leak(Box::new(gdt)), code, data, tss, state }
    }

    /// Makes `top` the stack on which interrupts and exceptions from user mode begin.
    ///
    /// # Safety
    /// Called on the CPU that these belong to, with interrupts off or from a thread that runs on that stack; `top` ends the kernel
    /// stack of the thread that runs there.
    pub(crate) unsafe fn set_stack(&self, top: u64) {
        // SAFETY: only this CPU reads and writes its TSS, and not while user mode runs (caller). The structure is packed, so the
        // place may be unaligned.
        unsafe {
            (&raw mut (*self.state.as_ptr()).privilege_stack_table)
                .cast::<VirtAddr>()
                .write_unaligned(VirtAddr::new(top));
        }
    }

    /// What SYSRET and SYSCALL derive their segments from: the one adds 8 for SS and 16 for CS, the other 8 for SS.
    pub(crate) fn syscall_segments(&self) -> (u16, u16) {
        (USER_CODE as u16 - 16, self.code.0)
    }

    /// Makes this CPU use these tables and the interrupt table.
    ///
    /// # Safety
    /// They belong to this CPU, which loads them once (a TSS may be loaded only once). GS base is written
    /// later.
    pub(crate) unsafe fn load(&'static self) {
        self.gdt.load();
        // SAFETY: the selectors are this GDT's own: code, data and the TSS, which lives for good. The
        // interrupt table is filled by `init_interrupts` before any CPU comes here.
        unsafe {
            CS::set_reg(self.code);
            SS::set_reg(self.data);
            DS::set_reg(self.data);
            ES::set_reg(self.data);
            load_tss(self.tss);
            lidt(&DescriptorTablePointer {
                limit: (size_of::<InterruptTable>() - 1) as u16,
                base: VirtAddr::from_ptr(&raw const INTERRUPTS),
            });
        }
    }
}

#[repr(align(16))]
struct InterruptTable(UnsafeCell<[u128; VECTORS]>);

// SAFETY: written by `init_interrupts` alone, before any CPU loads it; then only the CPUs read it.
unsafe impl Sync for InterruptTable {}

static INTERRUPTS: InterruptTable = InterruptTable(UnsafeCell::new([0; VECTORS]));

/// Fills the interrupt table.
///
/// # Safety
/// Called once, on the boot CPU, before [`Descriptors::load`] anywhere.
pub(crate) unsafe fn init_interrupts(code: &Descriptors) {
    // SAFETY: nobody else touches the table yet (caller).
    let table = unsafe { &mut *INTERRUPTS.0.get() };
    for (vector, gate) in table.iter_mut().enumerate() {
        let stub = &raw const trap_stubs as u128 + 16 * vector as u128;
        let stack = OWN_STACK.iter().position(|&v| v == vector as u64).map_or(0, |slot| slot as u128 + 1);
        // An interrupt gate: present, for ring 0 alone (but for the breakpoint instruction), interrupts off on entry.
        let ring = if vector as u64 == BREAKPOINT { 3 << 45 } else { 0 };
        *gate = (stub & 0xffff)
            | u128::from(code.code.0) << 16
            | stack << 32
            | 0x8e00 << 32
            | ring
            | (stub >> 16 & 0xffff) << 48
            | (stub >> 32 & 0xffff_ffff) << 64;
    }
}
