//! Epoch pins in the kernel: one handle per CPU, and a pin turns preemption off.
//!
//! These are the services that `mnt-table` asks of its platform. A pinned section never sleeps, like a
//! classic RCU read section; the handle lives in the per-CPU block (`arch::percpu`, invariant `[Handle]`),
//! and all handles belong to one collector. Interrupt handlers never pin.
//!
//! A CPU's private bag of garbage is passed on when it goes idle, and by [`flush_epochs`] on all CPUs at
//! once.
//!
//! Lock order: destructors of garbage run inside [`pin`] and [`flush`]: they must not take a lock that a
//! caller of either may hold.

use alloc::vec::Vec;

use crossbeam_epoch::Guard;
use x86_64::instructions::interrupts;

use crate::arch::percpu;
use crate::sched::{self, JoinHandle, SpawnError};

/// Flushes per CPU and call of [`flush_epochs`]. Three free what was retired last; the rest is for a backlog,
/// of which one flush frees at most 8 bags of 64.
const ROUNDS: usize = 32;
/// Waiting loops give the CPU away each so many spins.
const SPINS_PER_YIELD: u32 = 64;
/// From so many spins on they sleep: the holder is probably on a virtual CPU that does not run.
const SPINS_BEFORE_SLEEP: u32 = 4096;
const SLEEP_NS: u64 = 100_000;

/// Index of this CPU, below the number of CPUs. Stays true for the thread that asks: threads do not move.
#[inline]
pub(crate) fn cpu() -> usize {
    percpu::this().index
}

/// Turns preemption off on this CPU and pins its epoch handle. Follow the guard's drop by one [`unpin`].
///
/// Context: threads; not in an interrupt handler.
#[inline]
pub(crate) fn pin() -> Guard {
    percpu::pin()
}

/// Turns preemption on again, after the guard of one [`pin`] dropped; switches threads if that is due.
#[inline]
pub(crate) fn unpin() {
    percpu::unpin();
}

/// For loops that wait for a lock, with the number of spins so far: pauses, and now and then lets other
/// threads run if preemption is on.
#[inline]
pub(crate) fn relax(spins: u32) {
    core::hint::spin_loop();
    if spins % SPINS_PER_YIELD == SPINS_PER_YIELD - 1 {
        give_way(spins);
    }
}

#[cold]
fn give_way(spins: u32) {
    if !percpu::this().is_preemptible() || !interrupts::are_enabled() {
        return;
    }
    if spins < SPINS_BEFORE_SLEEP {
        sched::yield_now();
    } else {
        sched::sleep_ns(SLEEP_NS);
    }
}

/// Passes this CPU's garbage on and tries to free some.
///
/// Context: threads, not pinned.
pub(crate) fn flush() {
    let guard = pin();
    guard.flush();
    drop(guard);
    unpin();
}

/// Flushes on every CPU; afterwards what was retired before the call is free, unless a CPU stayed pinned or
/// the backlog was longer than the call could eat. A leak check looks at its own counter and calls again
/// while that still falls.
///
/// Context: threads, preemption on, not pinned; blocks.
///
/// # Errors
/// [`SpawnError`]: the flushing threads could not be started on all CPUs.
pub(crate) fn flush_epochs() -> Result<(), SpawnError> {
    let mut flushing: Vec<JoinHandle> = Vec::new();
    let mut result = Ok(());
    for cpu in percpu::all() {
        let work = || (0..ROUNDS).for_each(|_| flush());
        match sched::spawn(cpu, format_args!("flush/{}", cpu.index), work) {
            Ok(handle) => flushing.push(handle),
            Err(error) => result = Err(error),
        }
    }
    flushing.into_iter().for_each(JoinHandle::join);
    result
}
