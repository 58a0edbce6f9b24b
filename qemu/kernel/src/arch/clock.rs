//! The clock: the time stamp counter, measured once against ACPI's timer.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use x86_64::instructions::port::PortReadOnly;

use super::cpu::tsc;

const PM_TIMER_HZ: u64 = 3_579_545;
/// The timer's width; a few of its bits more may exist, but not everywhere.
const PM_TIMER_MASK: u32 = 0xff_ffff;
/// Length of one measurement in timer ticks, about 5 ms.
const WINDOW: u32 = 17_898;

/// Nanoseconds per tick, as a fraction of 2^32. 0 until [`init`].
static SCALE: AtomicU64 = AtomicU64::new(0);
/// The counter at [`init`].
static START: AtomicU64 = AtomicU64::new(0);

/// Measures the counter. Context: once, on the boot CPU; takes about 15 ms.
pub(crate) fn init(pm_timer: u16) {
    let mut rates = [0; 3];
    for rate in &mut rates {
        *rate = measure(pm_timer);
    }
    rates.sort_unstable();
    let hz = rates[1]; // The median: one disturbed window does no harm.
    // Relaxed, both: written once, before the other CPUs start.
    START.store(tsc(), Relaxed);
    SCALE.store(((1_000_000_000_u128 << 32) / u128::from(hz.max(1))) as u64, Relaxed);
}

fn measure(pm_timer: u16) -> u64 {
    let (from, start) = sample(pm_timer);
    loop {
        let (to, end) = sample(pm_timer);
        let ticks = to.wrapping_sub(from) & PM_TIMER_MASK;
        if ticks >= WINDOW {
            return (end - start) * PM_TIMER_HZ / u64::from(ticks);
        }
    }
}

/// The timer, and the counter at that moment: the tightest of a few tries.
fn sample(pm_timer: u16) -> (u32, u64) {
    let mut port = PortReadOnly::<u32>::new(pm_timer);
    let mut best = (u64::MAX, 0, 0);
    for _ in 0..4 {
        let before = tsc();
        // SAFETY: the port is the one that the firmware's table names for its timer; reading it has no side
        // effect.
        let ticks = unsafe { port.read() } & PM_TIMER_MASK;
        let took = tsc() - before;
        if took < best.0 {
            best = (took, ticks, before + took / 2);
        }
    }
    (best.1, best.2)
}

/// Nanoseconds since the kernel started; the same clock on every CPU. 0 before [`init`].
pub(crate) fn now_ns() -> u64 {
    // Relaxed: written once, before the other CPUs start. Saturating: the counters of two CPUs may be a hair
    // apart.
    let ticks = tsc().saturating_sub(START.load(Relaxed));
    ((u128::from(ticks) * u128::from(SCALE.load(Relaxed))) >> 32) as u64
}

/// Waits without giving the CPU away.
pub(crate) fn spin_ns(ns: u64) {
    let end = now_ns() + ns;
    while now_ns() < end {
        core::hint::spin_loop();
    }
}
