//! Kernel threads: a run queue per CPU, round robin, preemptive.
//!
//! 1. A thread is bound to the CPU that it was spawned on. It is running, ready (in the queue), asleep until
//!    a time, parked, or done.
//! 2. The timer is one-shot and set only for what is known to come: the end of the running thread's slice
//!    while others are ready, or the earliest sleeper. A CPU that runs one thread, or none, gets no ticks.
//! 3. Waking a thread of another CPU puts it into that CPU's queue and sends an interrupt.
//! 4. A switch happens when a thread yields, sleeps, parks or ends; on the way out of an interrupt; and when
//!    the preempt count falls to 0 with a request pending.
//!
//! # Invariants
//! - `[Once]` A thread is in at most one place of its CPU's queue, by its state; both change under the
//!   queue's lock.
//! - `[Room]` A queue has room for every thread in `all`, so waking never fails.
//! - `[Kept]` `all` (or `dead`, or `idle`) holds a reference to every thread that was started, so a thread's
//!   stack and context outlive the time that it is switched out. No last reference is dropped under the
//!   queue's lock.
//!
//! # Lock order
//! A thread's `end` → the run queue of one CPU. Never two run queues, never the heap under a run queue:
//! interrupt handlers take the queue's lock, and the heap's holder may be interrupted.
//!
//! # Left out
//! Moving threads between CPUs, priorities.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::fmt;
use core::sync::atomic::{AtomicU8, Ordering::*};

use heapless::{Deque, String, Vec};
use x86_64::instructions::interrupts;

use crate::arch::context::{self, Context};
use crate::arch::cpu::IrqOff;
use crate::arch::percpu::{self, PerCpu};
use crate::arch::spin::{IrqSpinLock, SpinLock};
use crate::arch::{clock, lapic};
use crate::mm::stack::Stack;

/// The most threads of one CPU.
pub(crate) const THREADS_MAX: usize = 64;
/// How long a thread runs while others are ready.
pub(crate) const SLICE_NS: u64 = 4_000_000;
/// The timer is not set for less.
const TIMER_MIN_NS: u64 = 2_000;
/// Waiting loops give the CPU away each so many spins,
const SPINS_PER_YIELD: u32 = 64;
/// and from so many on they sleep,
const SPINS_BEFORE_SLEEP: u32 = 4096;
/// this long each time.
const RELAX_SLEEP_NS: u64 = 100_000;

/// Running, or in the queue.
const READY: u8 = 0;
const PARKED: u8 = 1;
/// Ready, and the next `park` returns at once.
const NOTIFIED: u8 = 2;
const ASLEEP: u8 = 3;

type Name = String<24>;

/// A kernel thread.
struct Thread {
    // Immutable.
    name: Name,
    cpu: usize,
    /// `None` for an idle thread, which keeps the stack that its CPU started on. Held for its drop.
    _stack: Option<Stack>,
    // Own CPU, in a switch.
    context: Context,
    // Under its CPU's run queue.
    state: AtomicU8,
    // Taken when it starts.
    body: SpinLock<Option<Box<dyn FnOnce() + Send>>>,
    // Any CPU.
    end: SpinLock<End>,
}

#[derive(Default)]
struct End {
    done: bool,
    joiner: Option<Arc<Thread>>,
}

/// One CPU's threads.
pub(crate) struct RunQueue {
    cpu: usize,
    threads: IrqSpinLock<Threads>,
}

#[derive(Default)]
struct Threads {
    current: Option<Arc<Thread>>,
    idle: Option<Arc<Thread>>,
    ready: Deque<Arc<Thread>, THREADS_MAX>,
    sleepers: Vec<(u64, Arc<Thread>), THREADS_MAX>,
    all: Vec<Arc<Thread>, THREADS_MAX>,
    /// Ended, and not yet dropped by the thread that came after it.
    dead: Option<Arc<Thread>>,
    slice_end_ns: u64,
    /// When the timer will interrupt, if it is set.
    timer_ns: Option<u64>,
}

/// Why a thread could not be spawned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SpawnError {
    /// The CPU has [`THREADS_MAX`] threads.
    TooMany,
    /// No memory for the stack.
    NoMemory,
}

impl fmt::Display for SpawnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooMany => write!(f, "a CPU runs at most {THREADS_MAX} threads"),
            Self::NoMemory => f.write_str("no memory for a thread's stack"),
        }
    }
}

/// A thread that can be waited for; dropping it lets the thread run on alone.
pub(crate) struct JoinHandle(Arc<Thread>);

/// How the running thread gives the CPU away.
enum Leave {
    Yield,
    Sleep(u64),
    Park,
    Exit,
}

impl Threads {
    fn is_idle(&self) -> bool {
        match (&self.current, &self.idle) {
            (Some(current), Some(idle)) => Arc::ptr_eq(current, idle),
            _ => true,
        }
    }

    fn make_ready(&mut self, thread: Arc<Thread>) {
        thread.state.store(READY, Relaxed); // Relaxed: under the run queue.
        let full = self.ready.push_back(thread).is_err();
        assert!(!full, "[Room] broken: a run queue is full");
    }

    fn wake_sleepers(&mut self, now_ns: u64) {
        let mut index = 0;
        while index < self.sleepers.len() {
            if self.sleepers[index].0 <= now_ns {
                let (_, thread) = self.sleepers.swap_remove(index);
                self.make_ready(thread);
            } else {
                index += 1;
            }
        }
    }

    /// Sets the timer for what comes next, unless it will ring before that anyway.
    fn arm(&mut self, now_ns: u64) {
        let slice = (!self.ready.is_empty() && !self.is_idle()).then_some(self.slice_end_ns);
        let next = self.sleepers.iter().map(|(deadline_ns, _)| *deadline_ns).chain(slice).min();
        if let Some(next_ns) = next
            && self.timer_ns.is_none_or(|timer_ns| timer_ns > next_ns)
        {
            self.timer_ns = Some(next_ns);
            lapic::set_timer(Some(next_ns.saturating_sub(now_ns).max(TIMER_MIN_NS)));
        }
    }
}

impl RunQueue {
    pub(crate) fn new(cpu: usize) -> Self {
        Self { cpu, threads: IrqSpinLock::new(Threads::default()) }
    }

    /// Name of the running thread, for a panic: takes no lock that is held.
    pub(crate) fn current_name(&self) -> Option<Name> {
        self.threads.try_lock()?.current.as_ref().map(|thread| thread.name.clone())
    }

    /// Puts `thread` into the queue, under its lock, and sees to it that its CPU notices.
    fn enqueue(&self, threads: &mut Threads, thread: Arc<Thread>) {
        let first = threads.ready.is_empty();
        threads.make_ready(thread);
        if self.cpu == percpu::this().index {
            if threads.is_idle() {
                percpu::this().set_need_resched();
            } else {
                threads.arm(clock::now_ns());
            }
        } else if first {
            // Not the first: then its CPU is about to look, or has its timer set.
            lapic::send_reschedule(percpu::get(self.cpu).apic_id);
        }
    }

    /// Files the running thread as `how` says and picks the next. `None` if the running one stays.
    fn pick(&self, how: &Leave) -> Option<(*const Context, *const Context)> {
        let mut threads = self.threads.lock();
        let threads = &mut *threads;
        let now_ns = clock::now_ns();
        threads.wake_sleepers(now_ns);
        let current = threads.current.clone().expect("a running thread");
        match *how {
            Leave::Yield if threads.ready.is_empty() => return None,
            Leave::Yield if threads.is_idle() => {}
            Leave::Yield => threads.make_ready(current.clone()),
            Leave::Sleep(deadline_ns) if deadline_ns <= now_ns => return None,
            Leave::Sleep(deadline_ns) => {
                current.state.store(ASLEEP, Relaxed); // Relaxed: under the run queue.
                let full = threads.sleepers.push((deadline_ns, current.clone())).is_err();
                assert!(!full, "[Room] broken: too many sleepers");
            }
            // Relaxed, all three: under the run queue.
            Leave::Park if current.state.load(Relaxed) == NOTIFIED => {
                current.state.store(READY, Relaxed);
                return None;
            }
            Leave::Park => current.state.store(PARKED, Relaxed),
            Leave::Exit => {
                threads.all.retain(|thread| !Arc::ptr_eq(thread, &current));
                threads.dead = Some(current.clone());
            }
        }
        let next = threads.ready.pop_front().or_else(|| threads.idle.clone()).expect("an idle thread");
        let contexts = (&raw const current.context, &raw const next.context);
        threads.current = Some(next);
        threads.slice_end_ns = now_ns + SLICE_NS;
        threads.arm(now_ns);
        (contexts.0 != contexts.1).then_some(contexts)
    }

    /// Looks at the clock: wakes sleepers, ends a slice.
    fn look(&self, timer_rang: bool) {
        let mut threads = self.threads.lock();
        let now_ns = clock::now_ns();
        if timer_rang {
            threads.timer_ns = None;
        }
        threads.wake_sleepers(now_ns);
        if !threads.ready.is_empty() && (threads.is_idle() || now_ns >= threads.slice_end_ns) {
            percpu::this().set_need_resched();
        } else {
            threads.arm(now_ns);
        }
    }
}

/// The timer's interrupt.
pub(crate) fn timer_interrupt() {
    percpu::this().run_queue.look(true);
}

/// Another CPU put a thread into this one's queue.
pub(crate) fn reschedule_interrupt() {
    percpu::this().run_queue.look(false);
}

/// Switches threads on the way out of an interrupt, which found the preempt count at 0.
pub(crate) fn preempt_from_interrupt() {
    leave(Leave::Yield);
}

/// Switches threads if interrupts are on; else the request waits for them.
#[cold]
pub(crate) fn preempt() {
    if interrupts::are_enabled() {
        leave(Leave::Yield);
    }
}

#[expect(unsafe_code, reason = "the switch itself; all conditions are visible here")]
fn leave(how: Leave) {
    let _off = IrqOff::new();
    let cpu = percpu::this();
    assert!(cpu.is_preemptible(), "a thread that turned preemption off gives its CPU away");
    cpu.take_need_resched();
    if let Some((from, to)) = cpu.run_queue.pick(&how) {
        // SAFETY: interrupts are off. `from` is the running thread's; `to` was filed as ready by a thread of
        // this CPU that is switched out, or is new ([Once]). [Kept] keeps both.
        unsafe { context::switch(&*from, &*to) };
        bury();
    }
}

/// Drops the thread that ended here just before, if one did: its stack is not in use any more.
fn bury() {
    let dead = percpu::this().run_queue.threads.lock().dead.take();
    drop(dead);
}

/// Starts `body` on CPU `cpu`.
///
/// Context: threads; allocates. The new thread may run before this returns.
///
/// # Errors
/// [`SpawnError`]; nothing was started then.
#[expect(unsafe_code, reason = "the new thread's first stack frame")]
pub(crate) fn spawn(
    cpu: &'static PerCpu,
    name: fmt::Arguments<'_>,
    body: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle, SpawnError> {
    let stack = Stack::new().ok_or(SpawnError::NoMemory)?;
    // SAFETY: the stack is fresh or was given back, so only this thread uses it, and its top is page-aligned.
    let context = unsafe { Context::starting(stack.top(), start) };
    let thread = Arc::new(Thread {
        name: name_of(name),
        cpu: cpu.index,
        _stack: Some(stack),
        context,
        state: AtomicU8::new(READY),
        body: SpinLock::new(Some(Box::new(body))),
        end: SpinLock::new(End::default()),
    });
    let (handle, keep) = (JoinHandle(thread.clone()), thread.clone());
    let mut threads = cpu.run_queue.threads.lock();
    match threads.all.push(keep) {
        Ok(()) => {
            cpu.run_queue.enqueue(&mut threads, thread);
            Ok(handle)
        }
        Err(keep) => {
            drop(threads); // First: dropping a thread frees memory ([Kept]).
            drop((keep, thread));
            Err(SpawnError::TooMany)
        }
    }
}

/// Runs `work(index)` for every index below `count` at once, each on a thread of its own, and returns when all are done. The
/// threads are dealt to the CPUs in turn, `per_cpu` neighbours to each.
///
/// Context: threads, preemption on; allocates, blocks.
///
/// # Errors
/// [`SpawnError`]: not all could be started; those that were have been waited for.
#[expect(unsafe_code, reason = "threads that borrow from their starter, which waits for them")]
pub(crate) fn run_all(count: usize, per_cpu: usize, work: &(dyn Fn(usize) + Sync)) -> Result<(), SpawnError> {
    // SAFETY: the borrow is longer only in name: every thread that gets it is joined below, on every way out, and a
    // panic of any thread ends the machine. `join` returns when nothing of the thread is left.
    let work: &'static (dyn Fn(usize) + Sync) = unsafe { core::mem::transmute(work) };
    let mut running: alloc::vec::Vec<JoinHandle> = alloc::vec::Vec::new();
    let mut result = Ok(());
    for index in 0..count {
        let cpu = percpu::get(index / per_cpu % percpu::count());
        match spawn(cpu, format_args!("worker/{index}"), move || work(index)) {
            Ok(handle) => running.push(handle),
            Err(error) => {
                result = Err(error);
                break;
            }
        }
    }
    running.into_iter().for_each(JoinHandle::join);
    result
}

/// Where a new thread begins: in `leave` of the one before it, so to speak, with interrupts off.
extern "C" fn start() -> ! {
    bury();
    interrupts::enable();
    let thread = current();
    let body = thread.body.lock().take();
    if let Some(body) = body {
        body();
    }
    let joiner = {
        let mut end = thread.end.lock();
        end.done = true;
        end.joiner.take()
    };
    if let Some(joiner) = joiner {
        unpark(&joiner);
    }
    drop(thread);
    leave(Leave::Exit);
    unreachable!("an ended thread runs again");
}

/// Makes the code that runs now this CPU's idle thread. Context: once per CPU, interrupts off.
pub(crate) fn adopt_idle() {
    let cpu = percpu::this();
    let thread = Arc::new(Thread {
        name: name_of(format_args!("idle")),
        cpu: cpu.index,
        _stack: None,
        context: Context::running(),
        state: AtomicU8::new(READY),
        body: SpinLock::new(None),
        end: SpinLock::new(End::default()),
    });
    let mut threads = cpu.run_queue.threads.lock();
    threads.idle = Some(thread.clone());
    threads.current = Some(thread);
}

/// What a CPU does when it has nothing to do: passes its garbage on, then halts until an interrupt.
pub(crate) fn idle() -> ! {
    let cpu = percpu::this();
    // Release: pairs with the Acquire in `smp::comes_online`: all of this CPU's set-up is done.
    cpu.online.store(true, Release);
    loop {
        if percpu::take_epoch_used() {
            crate::epoch::flush();
        }
        interrupts::disable();
        if cpu.needs_resched() {
            interrupts::enable();
            yield_now();
        } else {
            interrupts::enable_and_hlt();
        }
    }
}

/// The running thread.
fn current() -> Arc<Thread> {
    percpu::this().run_queue.threads.lock().current.clone().expect("a running thread")
}

/// Lets the other ready threads of this CPU run first. Context: threads, preemption on.
pub(crate) fn yield_now() {
    leave(Leave::Yield);
}

/// Sleeps for `ns` at least. Context: threads, preemption on.
pub(crate) fn sleep_ns(ns: u64) {
    leave(Leave::Sleep(clock::now_ns().saturating_add(ns)));
}

/// For loops that wait for a lock, with the number of spins so far: pauses, now and then lets the other
/// threads of this CPU run, and after many spins sleeps a little, for the holder is probably on a virtual CPU
/// that does not run. With preemption off it only pauses.
#[inline]
pub(crate) fn relax(spins: u32) {
    core::hint::spin_loop();
    if spins % SPINS_PER_YIELD == SPINS_PER_YIELD - 1 || spins >= SPINS_BEFORE_SLEEP {
        give_way(spins);
    }
}

#[cold]
fn give_way(spins: u32) {
    if !percpu::this().is_preemptible() || !interrupts::are_enabled() {
        return;
    }
    if spins < SPINS_BEFORE_SLEEP {
        yield_now();
    } else {
        sleep_ns(RELAX_SLEEP_NS);
    }
}

/// Sleeps until somebody calls [`JoinHandle::unpark`]; returns at once if that happened since the last time.
/// May return early: check what you wait for. Context: threads, preemption on.
pub(crate) fn park() {
    leave(Leave::Park);
}

/// See [`JoinHandle::unpark`].
fn unpark(thread: &Arc<Thread>) {
    let thread = thread.clone();
    let queue = &percpu::get(thread.cpu).run_queue;
    let mut threads = queue.threads.lock();
    // Relaxed, all: under the run queue.
    match thread.state.load(Relaxed) {
        PARKED => queue.enqueue(&mut threads, thread),
        READY => thread.state.store(NOTIFIED, Relaxed),
        _ => {}
    }
}

impl JoinHandle {
    /// Waits until the thread is done and gone; what it wrote is visible then, and nothing of it is left.
    ///
    /// Context: threads, preemption on.
    pub(crate) fn join(self) {
        loop {
            {
                let mut end = self.0.end.lock();
                if end.done {
                    break;
                }
                end.joiner = Some(current());
            }
            park();
        }
        // Its CPU has yet to switch away from it and to drop `all`'s reference.
        let mut spins = 0;
        while Arc::strong_count(&self.0) > 1 {
            relax(spins);
            spins += 1;
        }
    }

    /// Wakes the thread if it is parked, or makes its next [`park`] return at once. Context: threads.
    pub(crate) fn unpark(&self) {
        unpark(&self.0);
    }
}

/// Cuts a name that is too long.
fn name_of(text: fmt::Arguments<'_>) -> Name {
    struct Cut(Name);
    impl fmt::Write for Cut {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            text.chars().try_for_each(|c| self.0.push(c)).map_err(|_| fmt::Error)
        }
    }
    let mut name = Cut(Name::new());
    let _ = fmt::write(&mut name, text); // An error says that it was cut.
    name.0
}
