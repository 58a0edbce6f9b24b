//! Translations that other CPUs have to forget.
//!
//! 1. Whoever takes rights or pages away changes the tables first, then posts the range in its own CPU's [`Mailbox`], sets its bit
//!    in the mailbox of every CPU that may know the old translations, and interrupts them.
//! 2. Each of them takes the bits, forgets the ranges, and takes itself off the poster's list.
//! 3. The poster waits until the list is empty. Only then may pages be freed. While it waits it serves requests to itself, so two
//!    CPUs that ask each other make progress whatever their interrupt flags say.
//!
//! Many pages make one request: their space collects them ([`super::space`]).
//!
//! # Edges
//! - `[Post]` Release in `post`'s `fetch_or` to Acquire in `serve`'s `swap`: the range is there, and so are the changed tables.
//! - `[Done]` Release in `serve`'s `fetch_and` to Acquire in `post`'s wait: the translations are gone.
//!
//! # Lock order
//! Takes no lock. The poster must not hold one that others wait for with interrupts off ([`crate::arch::spin::IrqSpinLock`]).

use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::*};

use x86_64::VirtAddr;
use x86_64::instructions::tlb;

use super::space;
use crate::arch::percpu;
use crate::arch::{cpu, lapic};

/// More pages than these are forgotten by forgetting all.
const PAGES_MAX: usize = 32;

/// One CPU's side.
pub(crate) struct Mailbox {
    /// Bits of the CPUs that want something of this one.
    requests: AtomicU64,
    // What this CPU wants: written by it, before it sets its bit elsewhere.
    root: AtomicU64,
    start: AtomicUsize,
    end: AtomicUsize,
    evict: AtomicBool,
    /// The CPUs that have not done it yet.
    waiting: AtomicU64,
}

impl Mailbox {
    pub(crate) const fn new() -> Self {
        Self {
            requests: AtomicU64::new(0),
            root: AtomicU64::new(0),
            start: AtomicUsize::new(0),
            end: AtomicUsize::new(0),
            evict: AtomicBool::new(false),
            waiting: AtomicU64::new(0),
        }
    }
}

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
    let mail = &me.shootdown;
    // Relaxed, all: published by the Release below; nobody reads them between two requests of this CPU.
    mail.root.store(root, Relaxed);
    mail.start.store(range.start, Relaxed);
    mail.end.store(range.end, Relaxed);
    mail.evict.store(evict, Relaxed);
    mail.waiting.store(targets, Relaxed);
    for cpu in percpu::all().filter(|cpu| targets & 1 << cpu.index != 0) {
        cpu.shootdown.requests.fetch_or(1 << me.index, Release); // Release [Post].
        lapic::send_shootdown(cpu.apic_id);
    }
    // Acquire [Done].
    while mail.waiting.load(Acquire) != 0 {
        serve();
        core::hint::spin_loop();
    }
}

/// Does what other CPUs asked of this one. Context: the interrupt, or preemption off.
pub(crate) fn serve() {
    let _off = cpu::IrqOff::new();
    let me = percpu::this();
    // Relaxed: only a hint that saves the exchange.
    if me.shootdown.requests.load(Relaxed) == 0 {
        return;
    }
    let mut requests = me.shootdown.requests.swap(0, Acquire); // Acquire [Post].
    while requests != 0 {
        let from = requests.trailing_zeros() as usize;
        requests &= requests - 1;
        let mail = &percpu::get(from).shootdown;
        // Relaxed, all: ordered by the Acquire above.
        let range = mail.start.load(Relaxed)..mail.end.load(Relaxed);
        space::forget_here(mail.root.load(Relaxed), &range, mail.evict.load(Relaxed));
        mail.waiting.fetch_and(!(1 << me.index), Release); // Release [Done].
    }
}
