//! The border to user mode: what a CPU is set up with, and what of a thread's user-mode state stays in registers while the
//! kernel runs.
//!
//! FS base and the other GS base are user mode's, here and there: FSGSBASE stays off, so they change by arch_prctl(2) alone and are
//! known without being read.

use core::arch::x86_64::{__cpuid, __cpuid_count};
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use syscalls::Errno;
use x86_64::VirtAddr;
use x86_64::registers::control::{Cr0, Cr0Flags, Cr4, Cr4Flags};
use x86_64::registers::model_specific::{FsBase, KernelGsBase, LStar, SFMask, Star};
use x86_64::registers::rflags::RFlags;

use super::fpu::{self, FpuState};
use super::percpu;
use super::trap::TrapFrame;
use crate::mm::space::USER_END;

/// The CPUs have SMAP, and it is on: the kernel reaches user memory only between `stac` and `clac`. Read by the copy routines in
/// `mm::user` too.
pub(crate) static SMAP: AtomicBool = AtomicBool::new(false);

unsafe extern "C" {
    fn syscall_entry();
    fn enter_user(frame: *const TrapFrame) -> !;
}

/// Sets this CPU up for user mode. Context: once per CPU, after its per-CPU block is installed.
pub(crate) fn init() {
    fpu::init();
    let most = __cpuid(0).eax;
    let (mut ebx, mut ecx) = (0, 0);
    if most >= 7 {
        let features = __cpuid_count(7, 0);
        (ebx, ecx) = (features.ebx, features.ecx);
    }
    let mut wanted = Cr4Flags::empty();
    for (has, flag) in [
        (ebx & 1 << 7 != 0, Cr4Flags::SUPERVISOR_MODE_EXECUTION_PROTECTION),
        (ebx & 1 << 20 != 0, Cr4Flags::SUPERVISOR_MODE_ACCESS_PREVENTION),
        (ecx & 1 << 2 != 0, Cr4Flags::USER_MODE_INSTRUCTION_PREVENTION),
    ] {
        if has {
            wanted |= flag;
        }
    }
    // Relaxed: every CPU writes the same, the first one before any thread of user mode.
    SMAP.store(wanted.contains(Cr4Flags::SUPERVISOR_MODE_ACCESS_PREVENTION), Relaxed);
    let (sysret, syscall) = percpu::this().descriptors.syscall_segments();
    // SAFETY: the CPU has what is turned on, and the kernel keeps to it: it touches user memory in `mm::user` only, and runs none of
    // it. The segments are those of this CPU's GDT. The entry is trap.s's, with all flags cleared that could harm there. User mode
    // starts with no thread-local storage. ALIGNMENT_MASK only concerns user mode.
    unsafe {
        Cr4::update(|cr4| *cr4 |= wanted);
        Cr0::update(|cr0| *cr0 |= Cr0Flags::ALIGNMENT_MASK);
        Star::write_raw(sysret, syscall);
    }
    LStar::write(VirtAddr::new(syscall_entry as *const () as u64));
    SFMask::write(
        RFlags::all()
            & !(RFlags::VIRTUAL_INTERRUPT | RFlags::VIRTUAL_INTERRUPT_PENDING | RFlags::VIRTUAL_8086_MODE),
    );
    KernelGsBase::write(VirtAddr::zero());
    FsBase::write(VirtAddr::zero());
}

/// Clears the flag that lets the kernel touch user memory: an interrupt of a copy routine must not inherit it.
#[inline]
pub(super) fn forbid_access() {
    // Relaxed: written before the first thread of user mode.
    if SMAP.load(Relaxed) {
        // SAFETY: the CPU has SMAP, hence the instruction.
        unsafe { core::arch::asm!("clac", options(nomem, nostack)) };
    }
}

/// What of a thread's user mode stays in the CPU's registers while the kernel runs: it changes hands when threads are switched.
#[derive(Debug)]
pub(crate) struct UserState {
    /// Vector and floating-point registers, as of the last time that the thread was switched out.
    pub(crate) fpu: FpuState,
    fs_base: usize,
    gs_base: usize,
}

impl UserState {
    /// As of a fresh program.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn new() -> Result<Self, Errno> {
        Ok(Self { fpu: FpuState::new()?, fs_base: 0, gs_base: 0 })
    }

    /// A copy, for a child. Call [`Self::save`] first.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn try_clone(&self) -> Result<Self, Errno> {
        Ok(Self { fpu: self.fpu.try_clone()?, ..*self })
    }

    /// Back to a fresh program's.
    pub(crate) fn reset(&mut self) {
        self.fpu.reset();
        (self.fs_base, self.gs_base) = (0, 0);
    }

    /// FS base: thread-local storage.
    pub(crate) fn fs_base(&self) -> usize {
        self.fs_base
    }

    /// GS base.
    pub(crate) fn gs_base(&self) -> usize {
        self.gs_base
    }

    /// Sets FS base; in force from the next [`Self::load`] on.
    ///
    /// # Errors
    /// `EPERM`: not an address of user memory.
    pub(crate) fn set_fs_base(&mut self, address: usize) -> Result<(), Errno> {
        if address >= USER_END {
            return Err(Errno::EPERM);
        }
        self.fs_base = address;
        Ok(())
    }

    /// Sets GS base; in force from the next [`Self::load`] on.
    ///
    /// # Errors
    /// `EPERM`: not an address of user memory. (`trap.s` relies on it.)
    pub(crate) fn set_gs_base(&mut self, address: usize) -> Result<(), Errno> {
        if address >= USER_END {
            return Err(Errno::EPERM);
        }
        self.gs_base = address;
        Ok(())
    }

    /// Saves the vector registers of the running thread. Context: the thread whose state it is runs, and is not preempted; in a
    /// switch away from it, or to look at them or copy them.
    pub(crate) fn save(&mut self) {
        self.fpu.save();
    }

    /// Puts the state into the registers, and makes `stack_top` the stack on which this CPU enters the kernel. Context: as
    /// [`Self::save`], or in a switch to the thread.
    ///
    /// # Safety
    /// `stack_top` is 16-aligned and ends the kernel stack of the thread, which runs on this CPU from now on. Interrupts are off, or it
    /// is the running thread's.
    pub(crate) unsafe fn load(&self, stack_top: u64) {
        self.fpu.load();
        self.load_bases();
        let cpu = percpu::this();
        // SAFETY: this CPU's, and not in use while the kernel runs on it; the rest is the caller's promise.
        unsafe {
            *cpu.stack_top.get() = stack_top;
            cpu.descriptors.set_stack(stack_top);
        }
    }

    /// Puts only FS base and GS base into the registers. Context: as [`Self::load`].
    pub(crate) fn load_bases(&self) {
        FsBase::write(VirtAddr::new(self.fs_base as u64));
        KernelGsBase::write(VirtAddr::new(self.gs_base as u64));
    }
}

/// Enters user mode with the registers of `frame`; what is on this thread's stack is forgotten.
///
/// # Safety
/// The thread's space is active, its state is loaded, its stack is set, and preemption is on with nothing held. `frame` lies on the
/// stack of the running thread and is [sanitised](TrapFrame::sanitise).
pub(crate) unsafe fn enter(frame: &TrapFrame) -> ! {
    // SAFETY: trap.s pops all registers from the frame, which the caller vouches for, with interrupts off.
    unsafe { enter_user(frame) }
}
