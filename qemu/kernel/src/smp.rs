//! Starts the other CPUs.
//!
//! One at a time: the boot CPU writes a mailbox (page tables, stack, per-CPU block), sends INIT and start-up
//! interrupts, and waits until the CPU idles. The real-mode stub and the way up are in `boot/entry.s`.
//!
//! Lock order: takes none itself; see `mm` and `sched` for what it calls.

use core::sync::atomic::Ordering::Acquire;

use crossbeam_epoch::Collector;

use crate::arch::acpi::Platform;
use crate::arch::percpu::{self, PerCpu};
use crate::arch::{clock, descriptors, lapic, user};
use crate::mm::paging;
use crate::mm::stack::Stack;
use crate::{boot, sched};

/// After INIT, before the first start-up interrupt.
const INIT_NS: u64 = 10_000_000;
/// After the first start-up interrupt, before the second.
const RETRY_NS: u64 = 200_000_000;
/// Then the CPU is given up. Generous: it may be a virtual one on a busy host.
const GIVE_UP_NS: u64 = 10_000_000_000;

/// Makes all per-CPU blocks, and this CPU, the boot CPU, number 0.
///
/// Context: once, after `mm::init` and `lapic::init`.
#[expect(unsafe_code, reason = "the boot CPU takes its own tables")]
pub(crate) fn init(platform: &Platform) {
    // The handles keep the collector alive.
    let collector = Collector::new();
    let me = percpu::add(lapic::id(), &collector).expect("room for the boot CPU");
    for &apic_id in platform.apic_ids.iter().filter(|&&id| id != me.apic_id) {
        percpu::add(apic_id, &collector).expect("the table of CPUs is as long as that of the blocks");
    }
    // SAFETY: once, on this CPU, with its own block; no CPU has loaded the interrupt table yet.
    unsafe {
        descriptors::init_interrupts(&me.descriptors);
        me.descriptors.load();
        percpu::install(me);
    }
    user::init();
}

/// Starts all CPUs but this one.
///
/// Context: boot CPU, once, after `init`, the clock and this CPU's own interrupt controller.
///
/// # Panics
/// If a CPU that the firmware listed does not come up.
#[expect(unsafe_code, reason = "hands the next CPU its stack and block")]
pub(crate) fn start_others() {
    for cpu in percpu::all().skip(1) {
        let stack = Stack::new().expect("no memory for a CPU's stack");
        // SAFETY: the CPU before this one is past `entry.s` (it is online), this loop is the only caller, and
        // the stack is given away for good below.
        unsafe { boot::prepare_ap(paging::root(), stack.top(), cpu) };
        core::mem::forget(stack);
        lapic::send_init(cpu.apic_id);
        clock::spin_ns(INIT_NS);
        lapic::send_startup(cpu.apic_id, boot::AP_START);
        if !comes_online(cpu, RETRY_NS) {
            lapic::send_startup(cpu.apic_id, boot::AP_START);
            assert!(
                comes_online(cpu, GIVE_UP_NS),
                "CPU {} (APIC id {}) does not start",
                cpu.index,
                cpu.apic_id
            );
        }
    }
}

fn comes_online(cpu: &PerCpu, within_ns: u64) -> bool {
    let end = clock::now_ns() + within_ns;
    loop {
        // Acquire: pairs with the Release in `sched::idle`.
        if cpu.online.load(Acquire) {
            return true;
        }
        if clock::now_ns() > end {
            return false;
        }
        core::hint::spin_loop();
    }
}

/// First Rust code of every other CPU: its own stack, the real page tables, interrupts off.
#[expect(unsafe_code, reason = "this CPU takes its own tables")]
pub(crate) extern "C" fn ap_main(cpu: &'static PerCpu) -> ! {
    // SAFETY: once, on this CPU, with the block that was made for it.
    unsafe {
        cpu.descriptors.load();
        percpu::install(cpu);
    }
    user::init();
    lapic::enable();
    sched::adopt_idle();
    sched::idle();
}
