//! Per-CPU blocks, reached through GS, and the preempt count.
//!
//! The boot CPU makes one [`PerCpu`] for every CPU before it starts the others; each CPU points its GS base
//! at its own. Threads move to another CPU only on the border to user mode (see `sched`), so in all of the kernel what
//! [`this`] returns stays right for the thread that asked.
//!
//! # Invariants
//! - `[Mine]` GS base holds the address of this CPU's block, whose first word is that address, from
//!   [`install`] on.
//! - `[Count]` The preempt count is written by its own CPU only, balanced by every interrupt handler, and a
//!   thread is switched out only while it is 0. So a plain load and store count right, whatever interrupts.
//! - `[Handle]` The epoch handle and its guards are used by their own CPU only, with preemption off from
//!   before the pin until after the guard dropped, and never by an interrupt handler.

use alloc::boxed::Box;
use core::arch::asm;
use core::cell::UnsafeCell;
use core::marker::PhantomData;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicUsize, Ordering::*, compiler_fence};

use crossbeam_epoch::{Collector, Guard, LocalHandle};
use mnt_table::platform::Platform;
use x86_64::VirtAddr;
use x86_64::registers::model_specific::GsBase;

use super::descriptors::Descriptors;
use crate::mm::claims::{self, Claims};
use crate::mm::heap::Magazines;
use crate::mm::mailbox::Mailbox;
use crate::mm::space::SpaceSlot;
use crate::panic::StopRecord;
use crate::sched::RunQueue;

/// The most CPUs that the kernel uses.
pub(crate) const MAX_CPUS: usize = 64;
/// In the preempt count: one level of interrupt handler.
const INTERRUPT: u32 = 1 << 16;

/// What belongs to one CPU.
#[repr(C)]
pub(crate) struct PerCpu {
    // Immutable once made.
    this: *const PerCpu,
    // `trap.s`, on the way from user mode; own CPU only.
    /// Holds user mode's stack pointer for a few instructions.
    pub(super) user_rsp: UnsafeCell<u64>,
    /// The stack on which SYSCALL begins: that of the thread that runs.
    pub(super) stack_top: UnsafeCell<u64>,
    /// 0 for the boot CPU, then in the order of the firmware's table.
    pub(crate) index: usize,
    /// The interrupt controller's number for it.
    pub(crate) apic_id: u32,
    /// GDT and TSS.
    pub(crate) descriptors: Descriptors,
    // Own CPU only.
    preempt: AtomicU32,
    need_resched: AtomicBool,
    epoch: LocalHandle,
    epoch_used: AtomicBool,
    /// Small free objects.
    pub(crate) magazines: Magazines,
    /// Memory that is set aside.
    pub(crate) claims: Claims,
    /// The space in the CPU's tables.
    pub(crate) space: SpaceSlot,
    // Any CPU, by their own rules.
    /// Requests of other CPUs to forget translations, and its own.
    pub(crate) shootdown: Mailbox,
    /// Its threads.
    pub(crate) run_queue: RunQueue,
    /// Set when it runs its idle loop.
    pub(crate) online: AtomicBool,
    /// Where a panic stopped it.
    pub(crate) stopped: StopRecord,
}

// SAFETY: `this` is immutable, `user_rsp` and `stack_top` are used by their own CPU with interrupts off, and `epoch` by [Handle].
unsafe impl Sync for PerCpu {}

static BLOCKS: [AtomicPtr<PerCpu>; MAX_CPUS] = [const { AtomicPtr::new(core::ptr::null_mut()) }; MAX_CPUS];
static COUNT: AtomicUsize = AtomicUsize::new(0);
/// Set once the boot CPU has its block; no other CPU runs before.
static READY: AtomicBool = AtomicBool::new(false);

/// Makes the next CPU's block. `None` if all [`MAX_CPUS`] exist.
///
/// Context: boot CPU, before the other CPUs run.
pub(crate) fn add(apic_id: u32, collector: &Collector) -> Option<&'static PerCpu> {
    let index = count();
    let slot = BLOCKS.get(index)?;
    let block = Box::leak(Box::new(UnsafeCell::new(PerCpu {
        this: core::ptr::null(),
        user_rsp: UnsafeCell::new(0),
        stack_top: UnsafeCell::new(0),
        index,
        apic_id,
        descriptors: Descriptors::new(),
        preempt: AtomicU32::new(0),
        need_resched: AtomicBool::new(false),
        epoch: collector.register(),
        epoch_used: AtomicBool::new(false),
        magazines: Magazines::new(),
        claims: Claims::new(),
        space: SpaceSlot::new(),
        shootdown: Mailbox::new(),
        run_queue: RunQueue::new(index),
        online: AtomicBool::new(false),
        stopped: StopRecord::new(),
    })));
    let block = block.get();
    // SAFETY: just allocated, and nobody else knows it yet.
    unsafe { (*block).this = block };
    // Release: pairs with the Acquire in `all`.
    slot.store(block, Release);
    COUNT.store(index + 1, Release);
    // SAFETY: leaked, hence valid for good; from here on shared and never written but through its cells.
    Some(unsafe { &*block })
}

/// Points this CPU's GS base at its block.
///
/// # Safety
/// Called once per CPU, on that CPU, with a block that no other CPU installs.
pub(crate) unsafe fn install(block: &'static PerCpu) {
    GsBase::write(VirtAddr::from_ptr(block));
    READY.store(true, Release); // Release: pairs with the Acquire in `current`.
}

/// Number of CPUs.
pub(crate) fn count() -> usize {
    COUNT.load(Acquire) // Acquire: pairs with the Release in `add`; the blocks below the count are there.
}

/// All CPUs' blocks, in order.
pub(crate) fn all() -> impl Iterator<Item = &'static PerCpu> {
    (0..count()).map(get)
}

/// The block of CPU `index`.
///
/// # Panics
/// If there is no such CPU.
pub(crate) fn get(index: usize) -> &'static PerCpu {
    assert!(index < count(), "no CPU {index}");
    // SAFETY: below the count, hence written by `add` (Acquire in `count`), and leaked. Relaxed: ordered by
    // that Acquire.
    unsafe { &*BLOCKS[index].load(Relaxed) }
}

/// This CPU's block, or `None` before the boot CPU has one.
#[inline]
pub(crate) fn current() -> Option<&'static PerCpu> {
    // Acquire: pairs with the Release in `install`. A CPU started later installs its block before anything
    // else.
    READY.load(Acquire).then(this)
}

/// This CPU's block.
#[inline]
pub(crate) fn this() -> &'static PerCpu {
    let block: *const PerCpu;
    // SAFETY: [Mine]. Not `pure`: a thread at the border to user mode may be on another CPU the next time.
    unsafe {
        asm!("mov {}, gs:[0]", out(reg) block, options(nomem, nostack, preserves_flags));
        &*block
    }
}

impl PerCpu {
    #[inline]
    fn add_preempt(&self, levels: u32) {
        // Relaxed: only this CPU writes it ([Count]).
        self.preempt.store(self.preempt.load(Relaxed) + levels, Relaxed);
        // What is protected must not move above. One CPU, so the compiler is all there is to hold.
        compiler_fence(SeqCst);
    }

    #[inline]
    fn sub_preempt(&self, levels: u32) {
        compiler_fence(SeqCst); // Nor below.
        self.preempt.store(self.preempt.load(Relaxed) - levels, Relaxed); // Relaxed: as in `add_preempt`.
    }

    /// True if the running thread may be switched out here: preemption is on, and no interrupt is being
    /// handled.
    #[inline]
    pub(crate) fn is_preemptible(&self) -> bool {
        self.preempt.load(Relaxed) == 0 // Relaxed: own CPU.
    }

    /// True in an interrupt handler.
    #[inline]
    pub(crate) fn in_interrupt(&self) -> bool {
        self.preempt.load(Relaxed) >= INTERRUPT // Relaxed: own CPU.
    }

    /// Brackets an interrupt handler.
    pub(crate) fn enter_interrupt(&self) {
        self.add_preempt(INTERRUPT);
    }

    /// See [`Self::enter_interrupt`].
    pub(crate) fn leave_interrupt(&self) {
        self.sub_preempt(INTERRUPT);
    }

    /// Asks this CPU to pick a thread anew as soon as preemption is on.
    pub(crate) fn set_need_resched(&self) {
        self.need_resched.store(true, Relaxed); // Relaxed: own CPU.
    }

    /// Takes the request.
    pub(crate) fn take_need_resched(&self) -> bool {
        // Relaxed: own CPU; callers have interrupts off, so load and store are one.
        let due = self.need_resched.load(Relaxed);
        self.need_resched.store(false, Relaxed);
        due
    }

    /// True if a request waits.
    #[inline]
    pub(crate) fn needs_resched(&self) -> bool {
        self.need_resched.load(Relaxed) // Relaxed: own CPU.
    }
}

/// Preemption is off on this CPU until this drops; nests. Dropping the last one switches threads if that is
/// due.
#[derive(Debug)]
pub(crate) struct PreemptOff {
    /// Belongs to the CPU that made it.
    not_send: PhantomData<*mut ()>,
}

impl PreemptOff {
    /// Context: any; a no-op before the boot CPU has its block, when nothing could preempt.
    #[inline]
    pub(crate) fn new() -> Self {
        preempt_off();
        Self { not_send: PhantomData }
    }
}

impl Drop for PreemptOff {
    #[inline]
    fn drop(&mut self) {
        preempt_on();
    }
}

#[inline]
fn preempt_off() {
    if let Some(cpu) = current() {
        cpu.add_preempt(1);
    }
}

#[inline]
fn preempt_on() {
    if let Some(cpu) = current() {
        cpu.sub_preempt(1);
        if cpu.needs_resched() && cpu.is_preemptible() {
            crate::sched::preempt();
        }
    }
}

/// What `mnt-table` asks of this kernel.
struct Kernel;

// SAFETY: the count nests, and a thread whose CPU's count is not 0 is not switched out ([Count]), nor does
// any thread ever move. `pin` uses this CPU's own handle ([Handle]); all handles are of the one collector
// that `smp::init` makes. Interrupt handlers touch run queues and the interrupt controller only.
unsafe impl Platform for Kernel {
    #[inline]
    fn cpu() -> usize {
        this().index
    }

    #[inline]
    fn preempt_off() {
        preempt_off();
    }

    #[inline]
    fn preempt_on() {
        preempt_on();
    }

    #[inline]
    fn pin() -> Guard {
        let cpu = this();
        debug_assert!(!cpu.in_interrupt(), "an interrupt handler pins an epoch");
        debug_assert!(!cpu.is_preemptible(), "a pin with preemption on");
        cpu.epoch_used.store(true, Relaxed); // Relaxed: own CPU.
        cpu.epoch.pin()
    }

    #[inline]
    fn relax(spins: u32) {
        crate::sched::relax(spins);
    }

    #[inline]
    fn claim(more: usize) -> bool {
        claims::claim(more)
    }

    #[inline]
    fn release(less: usize) {
        claims::release(less);
    }

    #[inline]
    fn cover() {
        claims::cover();
    }

    #[inline]
    fn uncover() {
        claims::uncover();
    }

    #[inline]
    fn press(on: bool) {
        crate::sched::press(on);
    }
}

mnt_table::platform!(Kernel);

/// True once after this CPU pinned: garbage may lie in its private bag.
pub(crate) fn take_epoch_used() -> bool {
    let cpu = this();
    // Relaxed: own CPU; a pin by a thread in between would only cost one flush more.
    let used = cpu.epoch_used.load(Relaxed);
    cpu.epoch_used.store(false, Relaxed);
    used
}
