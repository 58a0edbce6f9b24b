//! The timers of a process: alarm(2), setitimer(2).
//!
//! One thread of the kernel keeps `ITIMER_REAL` for all processes, and the timers of [`super::posix_timers`]: it sleeps until
//! the earliest is due. The others count time of the process; its threads look at them when they go back to user mode, at
//! least once a slice.
//!
//! Lock order: `ALARMS` → nothing; a process's timers → nothing.

use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::*};

use linux_raw_sys::general as abi;
use mnt_table::memory::{self, Claims};
use syscalls::Errno;

use super::limits::Limit;
use super::signal::{Info, send_to_process};
use super::{Process, Thread, posix_timers};
use crate::arch::clock;
use crate::arch::percpu;
use crate::arch::spin::SpinLock;
use crate::mm::user;
use crate::sched::{self, wait::WaitList};

const NS_PER_US: u64 = 1000;
const US: u64 = 1_000_000;
/// As many allocations as an insertion takes at most.
pub(super) const INSERT_ALLOCATIONS: usize = 10;

/// One timer: when it is due, and how often after that. 0: not at all.
#[derive(Clone, Copy, Debug, Default)]
struct Timer {
    due_ns: u64,
    interval_ns: u64,
}

/// A process's timers.
pub(crate) struct Timers {
    /// By the kernel's clock; by user time; by user and system time.
    all: SpinLock<[Timer; 3]>,
    /// One of the latter two is set.
    counts: AtomicBool,
    /// There is an `RLIMIT_CPU`. Relaxed, everywhere: a hint, looked at again and again.
    limited: AtomicBool,
    /// The seconds of `RLIMIT_CPU` of which it was told that they are over. Relaxed, everywhere: a number; two threads may
    /// both tell.
    cpu_told: AtomicU64,
    /// Its place among the alarms.
    order: AtomicU64,
}

/// What can be due.
pub(super) enum Alarm {
    /// `ITIMER_REAL`
    Process(Weak<Process>),
    Timer(Weak<posix_timers::Timer>),
}

/// Alarms of all processes, by time and in the order of setting.
static ALARMS: SpinLock<BTreeMap<(u64, u64), Alarm>> = SpinLock::new(BTreeMap::new());
static ORDER: AtomicU64 = AtomicU64::new(1);
/// Wakes the thread that keeps them.
static CHANGED: WaitList = WaitList::new();
static STARTED: AtomicBool = AtomicBool::new(false);

impl Timers {
    /// None is set; `cpu` is the limit of a process's time.
    pub(super) fn new(cpu: Limit) -> Self {
        Timers {
            all: SpinLock::default(),
            counts: AtomicBool::new(false),
            limited: AtomicBool::new(cpu.is_one()),
            cpu_told: AtomicU64::new(0),
            order: AtomicU64::new(0),
        }
    }
}

/// The clock of a timer.
fn now_ns(process: &Process, which: usize) -> u64 {
    match which {
        0 => clock::now_ns(),
        1 => process.times().0.0,
        _ => {
            let (user, system) = process.times().0;
            user + system
        }
    }
}

/// Starts the thread that keeps alarms, once.
pub(super) fn start() -> Result<(), Errno> {
    // Relaxed: who sees it set finds alarms kept, soon.
    if STARTED.load(Relaxed) || STARTED.swap(true, Relaxed) {
        return Ok(());
    }
    let started = sched::spawn(percpu::this(), format_args!("alarms"), keep);
    if started.is_err() {
        STARTED.store(false, Relaxed);
    }
    started.map(drop).map_err(|_| Errno::ENOMEM)
}

fn keep() {
    let waker = sched::waker();
    loop {
        let watched = CHANGED.watch(&waker).is_ok();
        let (due, next_ns) = {
            let mut alarms = ALARMS.lock();
            let now_ns = clock::now_ns();
            match alarms.first_entry() {
                Some(first) if first.key().0 <= now_ns => (Some(first.remove()), None),
                Some(first) => (None, Some(first.key().0)),
                None => (None, None),
            }
        };
        match due {
            None => {}
            Some(Alarm::Process(process)) => {
                process.upgrade().iter().for_each(ring);
                continue;
            }
            Some(Alarm::Timer(timer)) => {
                timer.upgrade().iter().for_each(posix_timers::Timer::ring);
                continue;
            }
        }
        // Without memory for the list it looks again soon.
        let next_ns = if watched { next_ns } else { Some(clock::now_ns() + 1_000_000) };
        sched::park_until(next_ns);
        CHANGED.unwatch(&waker);
    }
}

/// The alarm of `process` is due.
fn ring(process: &Arc<Process>) {
    let again = {
        let mut timers = process.timers.all.lock();
        let timer = &mut timers[0];
        if timer.due_ns == 0 || timer.due_ns > clock::now_ns() {
            // It was changed meanwhile.
            None
        } else if timer.interval_ns == 0 {
            timer.due_ns = 0;
            Some(None)
        } else {
            let late_ns = clock::now_ns() - timer.due_ns;
            timer.due_ns += timer.interval_ns * (late_ns / timer.interval_ns + 1);
            Some(Some(timer.due_ns))
        }
    };
    let Some(next) = again else { return };
    if let Some(due_ns) = next {
        // Without memory the alarm does not come again.
        let _ = file_process(process, due_ns);
    }
    send_to_process(process, Info::kernel(abi::SIGALRM));
}

/// Puts `alarm` among the others; returns its place among those of that time.
///
/// # Errors
/// `ENOMEM`
pub(super) fn file(alarm: Alarm, due_ns: u64) -> Result<u64, Errno> {
    let mut claims = Claims::none();
    claims.claim(INSERT_ALLOCATIONS).map_err(|_| Errno::ENOMEM)?;
    let order = ORDER.fetch_add(1, Relaxed); // Relaxed: a number.
    memory::covered(|| ALARMS.lock().insert((due_ns, order), alarm));
    CHANGED.wake();
    Ok(order)
}

/// Takes an alarm away, if it is still there.
pub(super) fn take_out(due_ns: u64, order: u64) {
    let removed = ALARMS.lock().remove(&(due_ns, order));
    drop(removed);
}

fn file_process(process: &Arc<Process>, due_ns: u64) -> Result<(), Errno> {
    let order = file(Alarm::Process(Arc::downgrade(process)), due_ns)?;
    process.timers.order.store(order, Relaxed); // Relaxed: a number; who sets a timer takes what it replaces out.
    Ok(())
}

fn take_process_out(process: &Process, due_ns: u64) {
    take_out(due_ns, process.timers.order.load(Relaxed)); // Relaxed: as above.
}

/// Sets a timer; returns what was left of it and its interval.
fn set(process: &Arc<Process>, which: usize, in_ns: u64, interval_ns: u64) -> Result<(u64, u64), Errno> {
    let now_ns = now_ns(process, which);
    if which == 0 {
        start()?;
    }
    let due_ns = if in_ns == 0 { 0 } else { now_ns.saturating_add(in_ns) };
    let old = {
        let mut timers = process.timers.all.lock();
        let old = core::mem::replace(&mut timers[which], Timer { due_ns, interval_ns });
        let counts = timers[1].due_ns != 0 || timers[2].due_ns != 0;
        process.timers.counts.store(counts, Relaxed); // Relaxed: a hint, looked at again and again.
        old
    };
    if which == 0 {
        if old.due_ns != 0 {
            take_process_out(process, old.due_ns);
        }
        if due_ns != 0 {
            file_process(process, due_ns)?;
        }
    }
    let left_ns = if old.due_ns == 0 { 0 } else { old.due_ns.saturating_sub(now_ns).max(1) };
    Ok((left_ns, old.interval_ns))
}

/// Looks at the timers that count time of the process. Context: a thread of it, on its way to user mode.
pub(super) fn count(thread: &Thread) {
    let process = &thread.process;
    // Relaxed: a hint.
    if !process.timers.counts.load(Relaxed) {
        return;
    }
    for (which, signal) in [(1, abi::SIGVTALRM), (2, abi::SIGPROF)] {
        let now_ns = now_ns(process, which);
        let due = {
            let timer = &mut process.timers.all.lock()[which];
            let due = timer.due_ns != 0 && timer.due_ns <= now_ns;
            if due {
                timer.due_ns = if timer.interval_ns == 0 { 0 } else { now_ns + timer.interval_ns };
            }
            due
        };
        if due {
            send_to_process(process, Info::kernel(signal));
        }
    }
    // A thread that runs alone would not come here again.
    sched::ring_within(sched::SLICE_NS);
}

/// The process has another `RLIMIT_CPU`.
pub(super) fn limit(process: &Process, cpu: Limit) {
    process.timers.limited.store(cpu.is_one(), Relaxed);
}

/// Looks at the time that the process may use (`RLIMIT_CPU`). Context: as [`count`].
pub(super) fn count_limit(thread: &Thread) {
    let process = &thread.process;
    if !process.timers.limited.load(Relaxed) {
        return;
    }
    let limit = process.limit(abi::RLIMIT_CPU);
    let seconds = now_ns(process, 2) / (US * NS_PER_US);
    let told = process.timers.cpu_told.load(Relaxed);
    // Whoever is to be told first is, also if both times have come at once.
    if seconds >= limit.hard.max(1) && (told != 0 || limit.soft >= limit.hard) {
        send_to_process(process, Info::kernel(abi::SIGKILL));
    } else if seconds >= limit.soft.max(1) && told <= seconds {
        // Each second, from the first on.
        process.timers.cpu_told.store(seconds + 1, Relaxed);
        send_to_process(process, Info::kernel(abi::SIGXCPU));
    }
    // A thread that runs alone would not come here again.
    sched::ring_within(sched::SLICE_NS);
}

/// Takes all timers away.
pub(super) fn clear(process: &Arc<Process>) {
    let old = core::mem::take(&mut *process.timers.all.lock());
    process.timers.counts.store(false, Relaxed); // Relaxed: a hint.
    if old[0].due_ns != 0 {
        take_process_out(process, old[0].due_ns);
    }
}

/// alarm(2).
pub(super) fn alarm(thread: &Thread, seconds: u32) -> Result<usize, Errno> {
    const NS: u64 = 1_000_000_000;
    let (left_ns, _) = set(&thread.process, 0, u64::from(seconds) * NS, 0)?;
    // Rounded, but never to "none".
    Ok(if left_ns == 0 { 0 } else { ((left_ns + NS / 2) / NS).max(1) as usize })
}

fn to_values(left_ns: u64, interval_ns: u64) -> [u64; 4] {
    let split = |ns: u64| (ns / (US * NS_PER_US), ns % (US * NS_PER_US) / NS_PER_US);
    let ((a, b), (c, d)) = (split(interval_ns), split(left_ns));
    [a, b, c, d]
}

/// getitimer(2).
pub(super) fn getitimer(thread: &Thread, which: usize, addr: usize) -> Result<usize, Errno> {
    if which > 2 {
        return Err(Errno::EINVAL);
    }
    let timer = thread.process.timers.all.lock()[which];
    let left_ns = if timer.due_ns == 0 {
        0
    } else {
        timer.due_ns.saturating_sub(now_ns(&thread.process, which)).max(NS_PER_US)
    };
    user::put(addr, to_values(left_ns, timer.interval_ns)).map(|()| 0)
}

/// setitimer(2).
pub(super) fn setitimer(thread: &Thread, which: usize, new: usize, old: usize) -> Result<usize, Errno> {
    if which > 2 {
        return Err(Errno::EINVAL);
    }
    let values: [i64; 4] = if new == 0 { [0; 4] } else { user::get(new)? };
    let ns = |seconds: i64, us: i64| {
        if seconds < 0 || !(0..US as i64).contains(&us) {
            return Err(Errno::EINVAL);
        }
        let us = (seconds as u64).saturating_mul(US).saturating_add(us as u64);
        Ok(us.saturating_mul(NS_PER_US).min(i64::MAX as u64))
    };
    let (interval_ns, in_ns) = (ns(values[0], values[1])?, ns(values[2], values[3])?);
    let (left_ns, before_ns) = set(&thread.process, which, in_ns, interval_ns)?;
    if old != 0 {
        user::put(old, to_values(left_ns, before_ns))?;
    }
    Ok(0)
}
