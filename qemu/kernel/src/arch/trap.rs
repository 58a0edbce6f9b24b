//! What an interrupt or exception does.
//!
//! `trap.s` calls [`trap`] and [`syscall`] with interrupts off. Interrupts from this machine's timers and CPUs are handled
//! and may end in a thread switch. An exception in the kernel is a bug and ends in a panic, but for a page fault of the routines
//! that touch user memory ([`mm::user`]).

use core::arch::asm;
use core::fmt;
use core::mem::MaybeUninit;

use x86_64::instructions::interrupts;
use x86_64::registers::control::{Cr2, Cr3};
use x86_64::registers::segmentation::{CS, Segment};

use super::descriptors::{DOUBLE_FAULT, MACHINE_CHECK, NMI, USER_CODE, USER_DATA};
use super::{ioapic, lapic, percpu, user};
use crate::mm::fault::{self, Access, Fault};
use crate::mm::{self, oom, shootdown, stack};
use crate::panic::{self, Cause};
use crate::{sched, task, tty};

/// The registers at an interrupt or exception, as `trap.s` pushes them.
#[repr(C)]
#[derive(Clone, Debug)]
pub(crate) struct TrapFrame {
    pub(crate) r15: u64,
    pub(crate) r14: u64,
    pub(crate) r13: u64,
    pub(crate) r12: u64,
    pub(crate) r11: u64,
    pub(crate) r10: u64,
    pub(crate) r9: u64,
    pub(crate) r8: u64,
    pub(crate) rdi: u64,
    pub(crate) rsi: u64,
    pub(crate) rbp: u64,
    pub(crate) rbx: u64,
    pub(crate) rdx: u64,
    pub(crate) rcx: u64,
    pub(crate) rax: u64,
    pub(crate) vector: u64,
    pub(crate) error: u64,
    pub(crate) rip: u64,
    pub(crate) cs: u64,
    pub(crate) rflags: u64,
    pub(crate) rsp: u64,
    pub(crate) ss: u64,
}

/// What user mode may set in the flags register.
const USER_FLAGS: u64 = 0x0024_4dd5; // ID, AC, NT, DF, TF, OF, SF, ZF, AF, PF, CF
/// Interrupts on, and the bit that is always set.
const FLAGS_ALWAYS: u64 = 0x202;

impl TrapFrame {
    /// A fresh program's registers: user mode begins at `rip` on the stack at `rsp`, with zeroes elsewhere.
    pub(crate) fn user(rip: usize, rsp: usize) -> Self {
        // SAFETY: a frame of zeros is valid.
        let mut frame = unsafe { MaybeUninit::<Self>::zeroed().assume_init() };
        frame.rip = rip as u64;
        frame.rsp = rsp as u64;
        frame.sanitise();
        frame
    }

    /// Makes registers that user space gave (sigreturn, a fresh program) such that returning to user mode with them can do no
    /// harm: segments, flags.
    pub(crate) fn sanitise(&mut self) {
        self.cs = USER_CODE;
        self.ss = USER_DATA;
        self.rflags = self.rflags & USER_FLAGS | FLAGS_ALWAYS;
        // An address that is not canonical would fault in the instruction that returns, in kernel mode; its canonical part faults
        // in user mode.
        self.rip = (self.rip << 16).cast_signed().wrapping_shr(16).cast_unsigned();
    }

    /// True if user mode was interrupted.
    pub(crate) fn is_user(&self) -> bool {
        self.cs & 3 == 3
    }

    /// The registers as they are here, for a panic that no exception brought about.
    #[inline(always)]
    pub(crate) fn here() -> Self {
        let mut frame = MaybeUninit::<Self>::zeroed();
        // SAFETY: writes the saved registers' places of `frame`, by the layout above, and nothing else; `rax`
        // holds its address, so that one is not told. A frame of zeros is valid.
        unsafe {
            asm!(
                "mov [rax], r15", "mov [rax + 8], r14", "mov [rax + 16], r13", "mov [rax + 24], r12",
                "mov [rax + 32], r11", "mov [rax + 40], r10", "mov [rax + 48], r9", "mov [rax + 56], r8",
                "mov [rax + 64], rdi", "mov [rax + 72], rsi", "mov [rax + 80], rbp", "mov [rax + 88], rbx",
                "mov [rax + 96], rdx", "mov [rax + 104], rcx", "mov [rax + 160], rsp",
                "lea rcx, [rip]", "mov [rax + 136], rcx",
                "pushfq", "pop [rax + 152]",
                in("rax") frame.as_mut_ptr(), out("rcx") _,
            );
            let mut frame = frame.assume_init();
            frame.cs = CS::get_reg().0.into();
            frame
        }
    }
}

const PAGE_FAULT: u64 = 14;
// Bits of a page fault's error code.
const WROTE: u64 = 1 << 1;
const RESERVED_BIT: u64 = 1 << 3;
const FETCHED: u64 = 1 << 4;
/// How often the kernel tries to touch user memory when memory is out.
const OOM_TRIES: usize = 64;
/// In the flags register.
const INTERRUPTS_ON: u64 = 1 << 9;
/// What a frame of the SYSCALL instruction has as its vector.
pub(crate) const SYSCALL: u64 = 256;
/// Vectors from here on are ours to give.
const FIRST_INTERRUPT: u64 = 32;

/// Called by `trap.s` for every vector, with interrupts off; returns so.
pub(super) extern "C" fn trap(frame: &mut TrapFrame) {
    user::forbid_access();
    if frame.vector == NMI {
        panic::nmi(frame);
        return;
    }
    if frame.is_user() {
        task::enter_kernel();
    }
    if frame.vector < FIRST_INTERRUPT {
        exception(frame);
    } else {
        interrupt(frame);
    }
    if frame.is_user() {
        task::leave_kernel(frame);
    }
    interrupts::disable();
}

/// Called by `trap.s` for the SYSCALL instruction, with interrupts off; returns so.
pub(super) extern "C" fn syscall(frame: &mut TrapFrame) {
    task::enter_kernel();
    interrupts::enable();
    crate::syscall::enter(frame);
    task::leave_kernel(frame);
    interrupts::disable();
}

fn interrupt(frame: &TrapFrame) {
    let cpu = percpu::this();
    cpu.enter_interrupt();
    match frame.vector as u8 {
        lapic::TIMER => {
            lapic::end_of_interrupt();
            sched::timer_interrupt();
        }
        lapic::RESCHEDULE => {
            lapic::end_of_interrupt();
            sched::reschedule_interrupt();
        }
        lapic::SHOOTDOWN => {
            lapic::end_of_interrupt();
            shootdown::serve();
        }
        ioapic::SERIAL => {
            tty::receive::interrupt();
            lapic::end_of_interrupt();
        }
        lapic::SPURIOUS => {}
        _ => panic::die(&Cause::Exception(frame)),
    }
    cpu.leave_interrupt();
    // On the way to user mode `leave_kernel` looks.
    if !frame.is_user() && cpu.needs_resched() && cpu.is_preemptible() {
        sched::preempt_from_interrupt();
    }
}

/// User mode's exceptions become signals unless `mm` resolves them. The kernel's own are bugs, but for those of the routines that
/// touch user memory.
fn exception(frame: &mut TrapFrame) {
    let page_fault = frame.vector == PAGE_FAULT && frame.error & RESERVED_BIT == 0;
    let touched = Cr2::read_raw() as usize;
    let access = match frame.error & (WROTE | FETCHED) {
        WROTE => Access::Write,
        FETCHED => Access::Execute,
        _ => Access::Read,
    };
    if frame.is_user() {
        if matches!(frame.vector, DOUBLE_FAULT | MACHINE_CHECK) {
            panic::die(&Cause::Exception(frame));
        }
        interrupts::enable();
        let fault = if page_fault {
            match fault::resolve(touched, access) {
                Ok(()) => return,
                Err(fault) => Some((fault, touched)),
            }
        } else {
            None
        };
        task::exception(frame, fault);
        return;
    }
    let Some(fixup) = mm::user::fixup(frame.rip).filter(|_| page_fault) else {
        panic::die(&Cause::Exception(frame));
    };
    // Somebody who holds a lock only wants what is there.
    if frame.rflags & INTERRUPTS_ON != 0 && percpu::this().is_preemptible() {
        interrupts::enable();
        let mut resolved = fault::resolve(touched, access);
        // Not for ever: this thread may hold what a victim needs to go.
        for _ in 0..OOM_TRIES {
            if resolved != Err(Fault::NoMemory) || !oom::relieve() {
                break;
            }
            resolved = fault::resolve(touched, access);
        }
        interrupts::disable();
        if resolved.is_ok() {
            return;
        }
    }
    frame.rip = fixup;
}

/// The vector in words, for a panic.
pub(crate) struct Name<'a>(pub(crate) &'a TrapFrame);

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.0.vector {
            0 => "divide error",
            1 => "debug exception",
            2 => "NMI",
            3 => "breakpoint",
            6 => "invalid opcode",
            8 => "double fault",
            10 => "invalid TSS",
            11 => "segment not present",
            12 => "stack-segment fault",
            13 => "general protection fault",
            14 => "page fault",
            17 => "alignment check",
            18 => "machine check",
            FIRST_INTERRUPT.. => "unexpected interrupt",
            _ => "exception",
        };
        write!(f, "{name} (vector {}, error code {:#x})", self.0.vector, self.0.error)?;
        let touched = Cr2::read_raw();
        match self.0.vector {
            // The page fault of an overrun stack finds no stack to run on, so it arrives as a double fault.
            PAGE_FAULT | DOUBLE_FAULT if stack::in_guard(touched) => {
                write!(f, ", kernel stack overflow: {touched:#x} is in a guard page")
            }
            PAGE_FAULT => {
                let verb = match self.0.error & 0x12 {
                    0x10 => "executing",
                    0x02 => "writing",
                    _ => "reading",
                };
                let why = if self.0.error & 1 == 0 { "not mapped" } else { "not allowed" };
                write!(f, ", {verb} {touched:#x}: {why}")
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for TrapFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let r = self;
        writeln!(f, "  rip {:016x}  rsp {:016x}  rflags {:08x}  cs {:04x}", r.rip, r.rsp, r.rflags, r.cs)?;
        writeln!(f, "  rax {:016x}  rbx {:016x}  rcx {:016x}  rdx {:016x}", r.rax, r.rbx, r.rcx, r.rdx)?;
        writeln!(f, "  rsi {:016x}  rdi {:016x}  rbp {:016x}  r8  {:016x}", r.rsi, r.rdi, r.rbp, r.r8)?;
        writeln!(f, "  r9  {:016x}  r10 {:016x}  r11 {:016x}  r12 {:016x}", r.r9, r.r10, r.r11, r.r12)?;
        writeln!(f, "  r13 {:016x}  r14 {:016x}  r15 {:016x}", r.r13, r.r14, r.r15)?;
        let cr3 = Cr3::read().0.start_address().as_u64();
        write!(f, "  cr2 {:016x}  cr3 {cr3:016x}", Cr2::read_raw())
    }
}
