//! Counts of what there is and of what happened, and the machine's limit on threads.

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use syscalls::Errno;

// Relaxed, all here: numbers that stand for themselves.
static FORKS: AtomicU64 = AtomicU64::new(0);
static EXECS: AtomicU64 = AtomicU64::new(0);
static SYSCALLS: [Counter; crate::arch::percpu::MAX_CPUS] =
    [const { Counter(AtomicU64::new(0)) }; crate::arch::percpu::MAX_CPUS];
static FAULTS: [Counter; crate::arch::percpu::MAX_CPUS] =
    [const { Counter(AtomicU64::new(0)) }; crate::arch::percpu::MAX_CPUS];
static PROPAGATED: AtomicU64 = AtomicU64::new(0);
static THREADS: AtomicUsize = AtomicUsize::new(0);
/// Objects of either kind in memory.
pub(super) static THREAD_OBJECTS: AtomicUsize = AtomicUsize::new(0);
pub(super) static PROCESS_OBJECTS: AtomicUsize = AtomicUsize::new(0);

/// Bytes of memory for each thread that there may be: its stack, and as much again for all else.
const BYTES_PER_THREAD: usize = 128 << 10;
const THREADS_MIN: usize = 64;
const THREADS_MAX: usize = 16384;

/// On a line of its own.
#[repr(align(64))]
struct Counter(AtomicU64);

/// What happened since the kernel started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stats {
    pub(crate) forks: u64,
    pub(crate) execs: u64,
    pub(crate) syscalls: u64,
    /// Page faults that memory management was asked about.
    pub(crate) faults: u64,
    /// Mounts that were made as copies of what mount(2) mounted.
    pub(crate) propagated: u64,
    /// Threads that are there, those that have ended but for their number not included.
    pub(crate) threads: usize,
    /// Processes that are there, zombies included.
    pub(crate) processes: u64,
    /// Objects in memory that stand for threads and processes: more than there are is a leak, if it lasts.
    pub(crate) objects: usize,
}

/// All counts.
pub(crate) fn stats() -> Stats {
    Stats {
        forks: FORKS.load(Relaxed),
        execs: EXECS.load(Relaxed),
        syscalls: SYSCALLS.iter().map(|counter| counter.0.load(Relaxed)).sum(),
        faults: FAULTS.iter().map(|counter| counter.0.load(Relaxed)).sum(),
        propagated: PROPAGATED.load(Relaxed),
        threads: THREADS.load(Relaxed),
        processes: super::process::PROCESSES.load(Relaxed),
        objects: THREAD_OBJECTS.load(Relaxed) + PROCESS_OBJECTS.load(Relaxed),
    }
}

pub(super) fn count_fork() {
    FORKS.fetch_add(1, Relaxed);
}

pub(super) fn count_exec() {
    EXECS.fetch_add(1, Relaxed);
}

pub(crate) fn count_syscall() {
    SYSCALLS[crate::arch::percpu::this().index].0.fetch_add(1, Relaxed);
}

pub(crate) fn count_fault() {
    FAULTS[crate::arch::percpu::this().index].0.fetch_add(1, Relaxed);
}

pub(crate) fn count_propagated(count: usize) {
    if count > 0 {
        PROPAGATED.fetch_add(count as u64, Relaxed);
    }
}

/// The most threads that the machine's memory is enough for (`/proc/sys/kernel/threads-max`).
pub(crate) fn threads_max() -> usize {
    (crate::mm::total_bytes() / BYTES_PER_THREAD).clamp(THREADS_MIN, THREADS_MAX)
}

/// A thread that is counted, until this is dropped.
pub(super) struct Counted(());

impl Counted {
    /// Counts one more.
    ///
    /// # Errors
    /// `EAGAIN`: there are as many as there may be.
    pub(super) fn new() -> Result<Counted, Errno> {
        let max = threads_max();
        let below = |count: usize| (count < max).then_some(count + 1);
        THREADS.fetch_update(Relaxed, Relaxed, below).map(|_| Counted(())).map_err(|_| Errno::EAGAIN)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        THREADS.fetch_sub(1, Relaxed);
    }
}
