//! Translations that other CPUs have to forget.
//!
//! Whoever takes rights or pages away changes the tables first, then asks every CPU that may know the old translations to
//! forget them ([`super::mailbox`]). Only then may pages be freed. Many pages make one request: their space collects them
//! ([`super::space`]).
//!
//! # Lock order
//! Takes no lock. The poster must not hold one that others wait for with interrupts off ([`crate::arch::spin::IrqSpinLock`]).

use core::ops::Range;

use x86_64::VirtAddr;
use x86_64::instructions::tlb;

use super::mailbox::{self, Mailbox, Request};
use super::space;
use crate::arch::percpu;
use crate::arch::{cpu, lapic};

/// More pages than these are forgotten by forgetting all.
const PAGES_MAX: usize = 32;

/// Forgets the translations of `range` on this CPU. Context: any.
pub(super) fn forget(range: &Range<usize>) {
    if range.len() > PAGES_MAX * 4096 {
        tlb::flush_all();
    } else {
        for page in range.clone().step_by(4096) {
            tlb::flush(VirtAddr::new(page as u64));
        }
    }
}

fn mailbox_of(cpu: usize) -> &'static Mailbox {
    &percpu::get(cpu).shootdown
}

/// Makes the other CPUs of `targets` forget the translations of `range` in the tables with this root; with `evict` those that do not
/// run in it let go of the tables themselves. This CPU is left out.
///
/// Context: preemption is off.
pub(super) fn post(targets: u64, root: u64, range: Range<usize>, evict: bool) {
    let me = percpu::this();
    let targets = targets & !(1 << me.index);
    if targets == 0 {
        return;
    }
    debug_assert!(
        !me.is_preemptible() || !x86_64::instructions::interrupts::are_enabled(),
        "a poster may be preempted"
    );
    let interrupt = |cpu| lapic::send_shootdown(percpu::get(cpu).apic_id);
    let meanwhile = || {
        serve();
        core::hint::spin_loop();
    };
    mailbox::post(mailbox_of, me.index, targets, &Request { root, range, evict }, interrupt, meanwhile);
}

/// Makes all CPUs, this one too, forget the translations of `range` in the kernel's half.
///
/// Context: preemption is off.
pub(super) fn post_to_all(range: Range<usize>) {
    let all = percpu::all().fold(0, |all, cpu| all | 1 << cpu.index);
    forget(&range);
    post(all, super::paging::root(), range, false);
}

/// Does what other CPUs asked of this one. Context: the interrupt, or preemption off.
pub(crate) fn serve() {
    let _off = cpu::IrqOff::new();
    let forget = |request: &Request| space::forget_here(request.root, &request.range, request.evict);
    mailbox::serve(mailbox_of, percpu::this().index, forget);
}
