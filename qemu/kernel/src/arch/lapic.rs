//! The local interrupt controller: its timer, and interrupts between CPUs.
//!
//! Registers are used through memory (xAPIC): QEMU's TCG has no x2APIC, and 8-bit APIC ids reach 64 CPUs.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use x86_64::instructions::port::PortWriteOnly;
use x86_64::registers::model_specific::Msr;

use super::clock;
use super::cpu::IrqOff;
use crate::mm::paging::{Use, map_direct};

/// Vector of the timer.
pub(crate) const TIMER: u8 = 0xf0;
/// Vector by which one CPU asks another to look at its run queue.
pub(crate) const RESCHEDULE: u8 = 0xf1;
/// Vector by which one CPU asks another to forget translations.
pub(crate) const SHOOTDOWN: u8 = 0xf2;
/// Vector of an interrupt that went away before it was delivered.
pub(crate) const SPURIOUS: u8 = 0xff;

const ID: u64 = 0x20;
const TASK_PRIORITY: u64 = 0x80;
const EOI: u64 = 0xb0;
const SPURIOUS_VECTOR: u64 = 0xf0;
const COMMAND_LOW: u64 = 0x300;
const COMMAND_HIGH: u64 = 0x310;
const LVT_TIMER: u64 = 0x320;
const LVT_LINT0: u64 = 0x350;
const INITIAL_COUNT: u64 = 0x380;
const CURRENT_COUNT: u64 = 0x390;
const DIVIDE: u64 = 0x3e0;

const ENABLE: u32 = 1 << 8;
const MASKED: u32 = 1 << 16;
const DIVIDE_BY_1: u32 = 0b1011;
const DELIVERY_NMI: u32 = 4 << 8;
const DELIVERY_INIT: u32 = 5 << 8;
const DELIVERY_STARTUP: u32 = 6 << 8;
const ASSERT: u32 = 1 << 14;
const PENDING: u32 = 1 << 12;
const ALL_BUT_SELF: u32 = 3 << 18;

/// Mask registers of the two 8259s.
const LEGACY_MASKS: [u16; 2] = [0x21, 0xa1];
const APIC_BASE: u32 = 0x1b;

/// Address of the registers in the direct map; the same on every CPU. 0: not mapped yet.
static REGISTERS: AtomicU64 = AtomicU64::new(0);
/// Timer ticks per second.
static TIMER_HZ: AtomicU64 = AtomicU64::new(0);

fn read(register: u64) -> u32 {
    // SAFETY: `init` mapped the page (its callers come first), and reading these registers has no side
    // effect. Relaxed: written once, before the other CPUs start.
    unsafe { ((REGISTERS.load(Relaxed) + register) as *const u32).read_volatile() }
}

fn write(register: u64, value: u32) {
    // SAFETY: as in `read`; the functions below write only what the manual allows.
    unsafe { ((REGISTERS.load(Relaxed) + register) as *mut u32).write_volatile(value) };
}

/// Silences the old interrupt controllers and maps the registers. Context: once, on the boot CPU, before
/// [`enable`].
pub(crate) fn init() {
    // Before `enable` masks their line: the firmware left its timer running through them, and an interrupt
    // that was raised but can no longer be fetched makes QEMU deliver vector -1.
    for port in LEGACY_MASKS {
        // SAFETY: the mask registers of a PC's two 8259s; nobody else uses them, and the kernel takes no
        // interrupt from them.
        unsafe { PortWriteOnly::<u8>::new(port).write(0xff) };
    }
    // SAFETY: the register exists on every CPU with a local APIC, that is all x86-64 ones.
    let base = unsafe { Msr::new(APIC_BASE).read() } & 0x000f_ffff_ffff_f000;
    // Relaxed: before the other CPUs start.
    REGISTERS.store(map_direct(base, 4096, Use::Device), Relaxed);
}

/// Turns this CPU's controller on, with the timer idle.
pub(crate) fn enable() {
    write(SPURIOUS_VECTOR, ENABLE | u32::from(SPURIOUS));
    write(TASK_PRIORITY, 0);
    write(LVT_LINT0, MASKED); // The old interrupt controller's line.
    write(DIVIDE, DIVIDE_BY_1);
    write(LVT_TIMER, u32::from(TIMER)); // One-shot.
    write(INITIAL_COUNT, 0);
}

/// This CPU's id.
pub(crate) fn id() -> u32 {
    read(ID) >> 24
}

/// Measures the timer against the clock. Context: once, on the boot CPU, after `clock::init`.
pub(crate) fn calibrate() {
    write(LVT_TIMER, MASKED | u32::from(TIMER));
    write(INITIAL_COUNT, u32::MAX);
    let mut rates = [0; 3];
    for rate in &mut rates {
        let (start, from) = (clock::now_ns(), read(CURRENT_COUNT));
        clock::spin_ns(2_000_000);
        let (end, to) = (clock::now_ns(), read(CURRENT_COUNT));
        *rate = u64::from(from - to) * 1_000_000_000 / (end - start).max(1);
    }
    write(INITIAL_COUNT, 0);
    write(LVT_TIMER, u32::from(TIMER));
    rates.sort_unstable();
    TIMER_HZ.store(rates[1], Relaxed); // The median. Relaxed: as REGISTERS.
}

/// Lets the timer interrupt this CPU once, in about `ns`; replaces what was set before. `None` stops it.
pub(crate) fn set_timer(ns: Option<u64>) {
    let count = ns.map_or(0, |ns| {
        // Relaxed: written once, before the other CPUs start.
        let ticks = u128::from(ns) * u128::from(TIMER_HZ.load(Relaxed)) / 1_000_000_000;
        ticks.clamp(1, u32::MAX.into()) as u32
    });
    write(INITIAL_COUNT, count);
}

/// Tells the controller that the interrupt is handled.
pub(crate) fn end_of_interrupt() {
    write(EOI, 0);
}

fn command(apic_id: u32, low: u32) {
    let _off = IrqOff::new(); // The two halves belong together.
    while read(COMMAND_LOW) & PENDING != 0 {
        core::hint::spin_loop();
    }
    write(COMMAND_HIGH, apic_id << 24);
    write(COMMAND_LOW, low);
}

/// Sends [`RESCHEDULE`] to a CPU.
pub(crate) fn send_reschedule(apic_id: u32) {
    command(apic_id, ASSERT | u32::from(RESCHEDULE));
}

/// Sends [`SHOOTDOWN`] to a CPU.
pub(crate) fn send_shootdown(apic_id: u32) {
    command(apic_id, ASSERT | u32::from(SHOOTDOWN));
}

/// Sends an NMI to all other CPUs, for a panic. A no-op before [`init`].
pub(crate) fn stop_others() {
    // Relaxed: written once, before the other CPUs start.
    if REGISTERS.load(Relaxed) != 0 {
        command(0, ALL_BUT_SELF | ASSERT | DELIVERY_NMI);
    }
}

/// Resets a CPU that was not started yet.
pub(crate) fn send_init(apic_id: u32) {
    command(apic_id, ASSERT | DELIVERY_INIT);
}

/// Starts a reset CPU in real mode at the page-aligned address `start` below 1 MiB.
pub(crate) fn send_startup(apic_id: u32, start: u64) {
    command(apic_id, ASSERT | DELIVERY_STARTUP | (start >> 12) as u32);
}
