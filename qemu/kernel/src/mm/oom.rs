//! Who has to go when memory is out.
//!
//! A program that touches memory that cannot be had does not necessarily die itself. First what lies idle is collected: in the
//! reclaimer, in all CPUs' magazines, in stacks of threads that have ended. If that is not enough, the process that has most
//! dies, as in Linux, weighed by its `oom_score_adj`. Who touched it tries again when that one is gone.
//!
//! Lock order: `LAST` is a leaf; of spaces only counters are read.

use alloc::sync::{Arc, Weak};

use linux_raw_sys::general::SIGKILL;

use super::{frames, heap, stack};
use crate::arch::clock;
use crate::arch::spin::SpinLock;
use crate::console::println;
use crate::sched;
use crate::task::{self, Process, Thread, signal};

/// A victim gets so long to go before there is another one.
const PATIENCE_NS: u64 = 2_000_000_000;
/// How long somebody waits before he tries again.
const PAUSE_NS: u64 = 1_000_000;
/// How often it is looked whether that is enough before somebody is killed: the other CPUs take a moment.
const TRIES: u32 = 4;
/// Stacks whose memory is freed before it is looked whether that is enough.
const STACKS_AT_ONCE: usize = 256;
/// `oom_score_adj` of a process that is never taken.
const NEVER: i32 = -1000;

/// The last victim, and when that was.
static LAST: SpinLock<Option<(u64, Weak<Process>)>> = SpinLock::new(None);

/// Sees to it that memory comes free, and waits a little. False if it is the caller's process that has to go, and has been told so.
///
/// Context: threads of a user program, no spin lock held, interrupts on; blocks.
pub(crate) fn relieve() -> bool {
    let me = task::current();
    if me.fatal_signal() {
        return false;
    }
    for _ in 0..TRIES {
        collect();
        if frames::is_plenty() {
            return true;
        }
    }
    if is_due()
        && let Some(victim) = largest(&me)
    {
        println!("kernel: out of memory: process {} is killed", victim.pid());
        *LAST.lock() = Some((clock::now_ns(), Arc::downgrade(&victim)));
        signal::send::kill(&victim, SIGKILL);
        if Arc::ptr_eq(&victim, me.process()) {
            return false;
        }
    }
    sched::sleep_ns(PAUSE_NS);
    !me.fatal_signal()
}

/// Whether something that failed for want of memory is worth another try.
///
/// Context: as [`relieve`].
pub(crate) fn has_helped() -> bool {
    !frames::is_plenty() && {
        collect();
        frames::is_plenty()
    }
}

/// Has everybody give back what he has and does not use, as far as that takes no longer than a moment.
///
/// Context: as [`relieve`].
pub(crate) fn collect() {
    mnt_table::reclaim::quiesce();
    stack::trim(STACKS_AT_ONCE);
    heap::ask_others();
    sched::sleep_ns(PAUSE_NS);
    heap::trim();
}

/// Whether it is time for a victim: the last one is gone, or does not go.
fn is_due() -> bool {
    let last = {
        let last = LAST.lock();
        last.as_ref().map(|(since_ns, victim)| (*since_ns, victim.upgrade()))
    };
    match last {
        Some((since_ns, Some(victim))) => {
            !victim.is_alive() || clock::now_ns().saturating_sub(since_ns) > PATIENCE_NS
        }
        _ => true,
    }
}

/// The process that has most, of those that do not die already; the youngest of several.
fn largest(me: &Thread) -> Option<Arc<Process>> {
    let namespace = me.pid_ns().outermost();
    let mut best: Option<(i64, Arc<Process>)> = None;
    let mut from = 2; // Never the first process.
    while let Some((nr, process)) = namespace.next_process(from) {
        from = nr + 1;
        let adjust = process.oom_score_adj();
        let Some(space) = process.leader().and_then(|thread| thread.space()) else { continue };
        let dies = process.leader().is_some_and(|thread| thread.fatal_signal());
        if adjust == NEVER || dies {
            continue;
        }
        let score = space.weight() as i64 + i64::from(adjust) * (frames::total() / 1000) as i64;
        if best.as_ref().is_none_or(|(most, _)| score >= *most) {
            best = Some((score, process));
        }
    }
    best.map(|(_, process)| process)
}
