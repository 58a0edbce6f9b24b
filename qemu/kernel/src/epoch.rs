//! Epochs in the kernel: one handle per CPU, and a pin turns preemption off.
//!
//! `mnt-table` pins through the services that `arch::percpu` gives it (invariant `[Handle]` there). A pinned
//! section never sleeps, like a classic RCU read section, and interrupt handlers never pin. What is left for
//! the kernel is to see that garbage does not lie forgotten: a CPU that goes idle passes its private bag on,
//! and [`flush_epochs`] makes all of them do so.
//!
//! Lock order: destructors of garbage run inside any pin or flush, so they must not take a lock that somebody
//! pins under.

use alloc::vec::Vec;

use mnt_table::reclaim;

use crate::arch::percpu;
use crate::sched::{self, JoinHandle, SpawnError};

/// Flushes per CPU and round of [`flush_epochs`]; one flush frees at most 8 bags of 64.
const FLUSHES: usize = 32;

/// Flushes of one CPU after which what it passed on is free, if nobody is in the way.
const GRACE: u32 = 3;

/// Passes this CPU's garbage on and frees what can be freed.
///
/// Context: threads, not pinned; runs destructors.
pub(crate) fn flush() {
    mnt_table::pin().flush();
}

/// Flushes until nothing of this CPU's comes free any more, or it has something to do: garbage of a CPU that stays idle may hold
/// any amount of memory.
///
/// Context: the idle thread.
pub(crate) fn flush_idle(has_work: impl Fn() -> bool) {
    let mut in_vain = 0;
    while in_vain < GRACE && !has_work() {
        let before = reclaim::freed_here();
        flush();
        in_vain = if reclaim::freed_here() == before { in_vain + 1 } else { 0 };
    }
}

/// Flushes on every CPU until nothing retired is left, or a round frees nothing. Returns the bytes that are
/// left: 0 unless somebody stays pinned or retires meanwhile.
///
/// Context: threads, preemption on, not pinned; blocks.
///
/// # Errors
/// [`SpawnError`]: the flushing threads could not be started on all CPUs.
pub(crate) fn flush_epochs() -> Result<u64, SpawnError> {
    loop {
        let before = reclaim::stats();
        let mut flushing: Vec<JoinHandle> = Vec::new();
        let mut result = Ok(());
        for cpu in percpu::all() {
            let work = || (0..FLUSHES).for_each(|_| flush());
            match sched::spawn(cpu, format_args!("flush/{}", cpu.index), work) {
                Ok(handle) => flushing.push(handle),
                Err(error) => result = Err(error),
            }
        }
        flushing.into_iter().for_each(JoinHandle::join);
        result?;
        let after = reclaim::stats();
        if after.freed == after.retired || after.freed == before.freed {
            return Ok(after.deferred_bytes);
        }
    }
}
