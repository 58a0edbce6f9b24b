//! Threads of the kernel: a run queue per CPU, preemptive, and moving between CPUs on the border to user mode.
//!
//! 1. A thread is running, ready (in its CPU's queue), asleep until a time, parked until somebody wakes it or a time comes,
//!    or done. [`queue`] says who goes first.
//! 2. The timer is one-shot and set only for what is known to come: the end of the running thread's slice
//!    while others are ready, or the earliest sleeper. A CPU that runs one thread, or none, gets no ticks.
//! 3. Waking a thread of another CPU puts it into that CPU's queue and sends an interrupt if it matters there.
//! 4. A switch happens when a thread yields, sleeps, parks or ends; on the way out of an interrupt; and when
//!    the preempt count falls to 0 with a request pending.
//! 5. A thread moves to another CPU only while it is *at the border*: new, or in the last steps before user mode. So all
//!    code of the kernel stays on the CPU that it began on, and what it knows of that CPU stays right. A CPU that has
//!    nothing to do takes ready threads at the border from others; a thread that gets there and finds others waiting for
//!    its CPU goes to one that has nothing to do; new threads start where the fewest are.
//!
//! # Invariants
//! - `[Once]` A ready thread is in one list of the queue of its `cpu`; its state, its links and its `cpu` change under the
//!   lock of that queue.
//! - `[Left]` A thread that is switched away from is kept in its CPU's `left` until the next one is on its own stack and
//!   settles it. Only then, by `on_cpu`, may another CPU run it.
//! - `[Kept]` `keep` holds a reference from a thread's start to its end, and `current`, `left` or `idle` one while it is in
//!   a CPU, so its stack and context outlive the time that it is switched out. No last reference is dropped under a
//!   queue's lock.
//!
//! # Edges
//! - `[Off]` Release in `settle` to Acquire in `may_move_to`: another CPU that takes the thread finds its context whole.
//!
//! # Lock order
//! A thread's `end` → the run queue of one CPU. Never two run queues, never the heap under a run queue:
//! interrupt handlers take the queue's lock, and the heap's holder may be interrupted.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering::*};
use core::task::Waker;

use x86_64::instructions::interrupts;

use crate::arch::context::{self, Context};
use crate::arch::cpu::IrqOff;
use crate::arch::percpu::{self, PerCpu};
use crate::arch::spin::IrqSpinLock;
use crate::arch::{clock, lapic};
use crate::mm::heap;
use crate::mm::stack::Stack;
use crate::task;

mod entity;
mod queue;
mod spawn;
pub(crate) mod wait;

use entity::{ASLEEP, BATCH, PARKED};
pub(crate) use entity::{Entity, Name};
pub(crate) use queue::SLICE_NS;
use queue::{Afterwards, Queue};
pub(crate) use spawn::{JoinHandle, NewThread, SpawnError, exit, run_all, run_on_others, spawn};

/// Waiting loops give the CPU away each so many spins,
const SPINS_PER_YIELD: u32 = 64;
/// and from so many on they sleep,
const SPINS_BEFORE_SLEEP: u32 = 4096;
/// this long each time.
const RELAX_SLEEP_NS: u64 = 100_000;
/// Less than this of a slice is none.
const SLICE_REST_NS: u64 = 50_000;

/// CPUs that have nothing to do, a bit for each; who sends a thread to one takes its bit.
static IDLE: AtomicU64 = AtomicU64::new(0);

/// One CPU's threads.
pub(crate) struct RunQueue {
    cpu: usize,
    /// The running thread. Written by its own CPU, in a switch; read by its own CPU.
    running: AtomicPtr<Entity>,
    /// How many threads want this CPU; written under the lock.
    load: AtomicUsize,
    queue: IrqSpinLock<Queue>,
}

/// How the running thread gives the CPU away.
enum Leave {
    /// Of its own accord.
    Yield,
    /// Because it must; at the border to user mode or not.
    Preempted {
        at_border: bool,
    },
    Sleep(u64),
    Park(Option<u64>),
    /// At the border: to another CPU.
    Move(usize),
    Exit,
}

impl RunQueue {
    pub(crate) fn new(cpu: usize) -> Self {
        Self {
            cpu,
            running: AtomicPtr::new(core::ptr::null_mut()),
            load: AtomicUsize::new(0),
            queue: IrqSpinLock::new(Queue::new()),
        }
    }

    /// Name of the running thread, for a panic: takes no lock that is held.
    pub(crate) fn current_name(&self) -> Option<Name> {
        self.queue.try_lock()?.current.as_ref().map(|thread| thread.name.clone())
    }

    /// How many threads want this CPU, the running one included.
    pub(crate) fn load(&self) -> usize {
        self.load.load(Relaxed) // Relaxed: a hint.
    }

    /// How long the CPU had nothing to do.
    pub(crate) fn idle_ns(&self) -> u64 {
        let queue = self.queue.lock();
        let now = if queue.is_idle() { clock::now_ns().saturating_sub(queue.began_ns) } else { 0 };
        queue.idle_ns + now
    }

    fn note_load(&self, queue: &Queue) {
        self.load.store(queue.load(), Relaxed); // Relaxed: a hint.
    }

    /// Puts `entity` into the queue, under its lock, and sees to it that its CPU notices.
    fn enqueue(&self, queue: &mut Queue, entity: Arc<Entity>) {
        let now_ns = clock::now_ns();
        let (first, preempts) = (queue.ready_len == 0, queue.preempts(&entity));
        queue.push(entity, false, now_ns);
        self.note_load(queue);
        if self.cpu == percpu::this().index {
            if preempts {
                percpu::this().set_need_resched();
            } else {
                queue.arm(now_ns);
            }
        } else if first || preempts {
            // Otherwise its CPU is about to look, or has its timer set.
            lapic::send_reschedule(percpu::get(self.cpu).apic_id);
        }
    }

    /// Files the running thread as `how` says and picks the next. `None` if the running one stays.
    fn pick(&self, how: &Leave) -> Option<(*const Entity, *const Entity)> {
        let mut queue = self.queue.lock();
        let queue = &mut *queue;
        let now_ns = clock::now_ns();
        queue.wake_sleepers(now_ns);
        let current = queue.current.clone().expect("a running thread");
        let is_idle = queue.is_idle();
        let mut afterwards = Afterwards::Stay;
        // Relaxed, all: under the run queue.
        match *how {
            Leave::Yield | Leave::Preempted { .. } if queue.ready_len == 0 => return None,
            Leave::Yield | Leave::Preempted { .. } if is_idle => {}
            Leave::Yield | Leave::Preempted { .. } => {
                let ran_ns = now_ns.saturating_sub(queue.began_ns);
                let slice_ns = current.slice_ns.load(Relaxed).saturating_sub(ran_ns);
                let used_up = slice_ns < SLICE_REST_NS;
                if used_up {
                    current.class.store(BATCH, Relaxed);
                }
                current.slice_ns.store(if used_up { SLICE_NS } else { slice_ns }, Relaxed);
                current.at_border.store(matches!(how, Leave::Preempted { at_border: true }), Relaxed);
                current.preemptions.fetch_add(1, Relaxed);
                let in_front = !used_up && matches!(how, Leave::Preempted { .. });
                queue.push(current.clone(), in_front, now_ns);
            }
            Leave::Sleep(deadline_ns) | Leave::Park(Some(deadline_ns)) if deadline_ns <= now_ns => {
                return None;
            }
            Leave::Sleep(deadline_ns) => {
                current.state.store(ASLEEP, Relaxed);
                current.switches.fetch_add(1, Relaxed);
                queue.sleep(current.clone(), deadline_ns);
            }
            Leave::Park(_) if current.notified.swap(false, Relaxed) => return None,
            Leave::Park(deadline_ns) => {
                current.state.store(PARKED, Relaxed);
                current.switches.fetch_add(1, Relaxed);
                if let Some(deadline_ns) = deadline_ns {
                    queue.sleep(current.clone(), deadline_ns);
                }
            }
            Leave::Move(to) => {
                current.at_border.store(true, Relaxed);
                afterwards = Afterwards::Move(to);
            }
            Leave::Exit => afterwards = Afterwards::Drop,
        }
        let next = queue.pop(now_ns).or_else(|| queue.idle.clone()).expect("an idle thread");
        next.at_border.store(false, Relaxed);
        let switched = (&raw const *current, &raw const *next);
        queue.slice_end_ns = now_ns + next.slice_ns.load(Relaxed);
        if is_idle {
            queue.idle_ns += now_ns.saturating_sub(queue.began_ns);
        }
        queue.began_ns = now_ns;
        if switched.0 == switched.1 {
            // Its references in `current` and in the queue were two, and `current` below is a third.
            queue.arm(now_ns);
            self.note_load(queue);
            return None;
        }
        next.on_cpu.store(true, Relaxed);
        self.running.store(switched.1.cast_mut(), Relaxed); // Relaxed: own CPU.
        queue.current = Some(next);
        queue.left = Some((current, afterwards));
        queue.arm(now_ns);
        self.note_load(queue);
        Some(switched)
    }

    /// Looks at the clock: wakes sleepers, ends a slice.
    fn look(&self, timer_rang: bool) {
        let mut queue = self.queue.lock();
        let now_ns = clock::now_ns();
        if timer_rang {
            queue.timer_ns = None;
        }
        queue.wake_sleepers(now_ns);
        self.note_load(&queue);
        let due = queue.ready_len != 0
            && (queue.is_idle() || now_ns >= queue.slice_end_ns || queue.prompt_preempts());
        if due {
            percpu::this().set_need_resched();
        } else {
            queue.arm(now_ns);
        }
    }
}

/// The timer's interrupt.
pub(crate) fn timer_interrupt() {
    percpu::this().run_queue.look(true);
}

/// Another CPU put a thread into this one's queue, or wants this one to look at its thread, or at its idle memory.
pub(crate) fn reschedule_interrupt() {
    let cpu = percpu::this();
    if heap::is_asked(cpu) {
        cpu.set_need_resched();
    }
    cpu.run_queue.look(false);
}

/// Switches threads on the way out of an interrupt of the kernel, which found the preempt count at 0.
pub(crate) fn preempt_from_interrupt() {
    leave(Leave::Preempted { at_border: false });
}

/// Switches threads if interrupts are on; else the request waits for them.
#[cold]
pub(crate) fn preempt() {
    if interrupts::are_enabled() {
        leave(Leave::Preempted { at_border: false });
    }
}

/// The last steps before user mode: lets others run whose turn it is, and goes to another CPU if that is better. True if
/// something was done, and time passed.
///
/// Context: interrupts off, preempt count 0, nothing known of this CPU.
pub(crate) fn at_border() -> bool {
    let cpu = percpu::this();
    let allowed = with_current(|entity| entity.allowed());
    if allowed >> cpu.index & 1 == 0 {
        leave(Leave::Move(least_loaded(allowed)));
        return true;
    }
    if cpu.run_queue.load() > 1
        && let Some(to) = take_idle(allowed)
    {
        leave(Leave::Move(to));
        return true;
    }
    if cpu.needs_resched() {
        heap::settle(cpu);
        // Two more than elsewhere: one of them is better off there.
        let load = cpu.run_queue.load();
        let elsewhere = if load > 2 { least_loaded(allowed) } else { cpu.index };
        if percpu::get(elsewhere).run_queue.load() + 1 < load {
            leave(Leave::Move(elsewhere));
        } else {
            leave(Leave::Preempted { at_border: true });
        }
        return true;
    }
    false
}

/// Has the timer interrupt this CPU within `ns`.
pub(crate) fn ring_within(ns: u64) {
    let mut queue = percpu::this().run_queue.queue.lock();
    queue.ring_at(clock::now_ns(), clock::now_ns() + ns);
}

/// A CPU of `allowed` that has nothing to do, which nobody else is told then.
fn take_idle(allowed: u64) -> Option<usize> {
    loop {
        let idle = IDLE.load(Relaxed) & allowed; // Relaxed, both: a hint; threads are handed over under locks.
        if idle == 0 {
            return None;
        }
        let bit = 1 << idle.trailing_zeros();
        if IDLE.fetch_and(!bit, Relaxed) & bit != 0 {
            return Some(idle.trailing_zeros() as usize);
        }
    }
}

/// The CPU of `allowed` where the fewest threads are, this one if it is as good as another.
fn least_loaded(allowed: u64) -> usize {
    if let Some(idle) = take_idle(allowed) {
        return idle;
    }
    let here = percpu::this().index;
    let usable = percpu::all().filter(|cpu| allowed >> cpu.index & 1 != 0);
    usable.min_by_key(|cpu| (cpu.run_queue.load(), cpu.index != here)).map_or(here, |cpu| cpu.index)
}

#[expect(unsafe_code, reason = "the switch itself; all conditions are visible here")]
fn leave(how: Leave) {
    let _off = IrqOff::new();
    let cpu = percpu::this();
    assert!(cpu.is_preemptible(), "a thread that turned preemption off gives its CPU away");
    cpu.take_need_resched();
    if let Some((from, to)) = cpu.run_queue.pick(&how) {
        // SAFETY: interrupts are off. `from` is the running thread's; `to` is switched out or new, and no other CPU runs
        // it ([Once], [Left]). [Kept] keeps both.
        unsafe {
            task::switch((*from).user.as_deref(), (*to).user.as_ref());
            context::switch(&(*from).context, &(*to).context);
        }
        settle();
    }
}

/// Makes of the thread that ran here just before what it is to become: its stack is not in use any more. This may be
/// another CPU than the one that the caller knew.
#[inline(never)]
fn settle() {
    let run_queue = &percpu::this().run_queue;
    let left = {
        let mut queue = run_queue.queue.lock();
        let left = queue.left.take();
        if let Some((entity, afterwards)) = &left {
            if let Afterwards::Move(to) = afterwards {
                entity.cpu.store(*to, Relaxed); // Relaxed: under the run queue.
            }
            entity.on_cpu.store(false, Release); // Release [Off]: pairs with the Acquire in `may_move_to`.
        }
        left
    };
    if let Some((entity, Afterwards::Move(to))) = left {
        let target = &percpu::get(to).run_queue;
        let mut queue = target.queue.lock();
        target.enqueue(&mut queue, entity);
    }
}

/// Makes the code that runs now this CPU's idle thread. Context: once per CPU, interrupts off.
pub(crate) fn adopt_idle() {
    let cpu = percpu::this();
    let entity = Arc::new(Entity::new(format_args!("idle"), Context::running()));
    // Relaxed, all: nobody else knows it yet.
    entity.cpu.store(cpu.index, Relaxed);
    entity.at_border.store(false, Relaxed);
    entity.on_cpu.store(true, Relaxed);
    cpu.run_queue.running.store(Arc::as_ptr(&entity).cast_mut(), Relaxed);
    let mut queue = cpu.run_queue.queue.lock();
    queue.began_ns = clock::now_ns();
    queue.idle = Some(entity.clone());
    queue.current = Some(entity);
}

/// What a CPU does when it has nothing to do: passes its garbage on, looks for work of others, then halts until an
/// interrupt.
pub(crate) fn idle() -> ! {
    let cpu = percpu::this();
    // Release: pairs with the Acquire in `smp::comes_online`: all of this CPU's set-up is done.
    cpu.online.store(true, Release);
    loop {
        if percpu::take_epoch_used() {
            crate::epoch::flush_idle(|| cpu.needs_resched() || cpu.run_queue.load() != 0);
            // What flushes pinned is flushed.
            percpu::take_epoch_used();
        }
        heap::settle(cpu);
        // Relaxed, both: a hint, see `take_idle`.
        IDLE.fetch_or(1 << cpu.index, Relaxed);
        steal(cpu);
        interrupts::disable();
        if cpu.needs_resched() || cpu.run_queue.load() != 0 {
            IDLE.fetch_and(!(1 << cpu.index), Relaxed);
            interrupts::enable();
            yield_now();
        } else {
            interrupts::enable_and_hlt();
        }
    }
}

/// Takes a ready thread from a CPU that has more than it can run.
fn steal(cpu: &PerCpu) {
    for other in percpu::all().filter(|other| other.index != cpu.index && other.run_queue.load() > 1) {
        let taken = {
            let mut queue = other.run_queue.queue.lock();
            let taken = queue.take_movable(cpu.index);
            other.run_queue.note_load(&queue);
            taken
        };
        if let Some(entity) = taken {
            let mut queue = cpu.run_queue.queue.lock();
            cpu.run_queue.enqueue(&mut queue, entity);
            return;
        }
    }
}

/// As [`mnt_table::platform::Platform::press`].
pub(crate) fn press(on: bool) {
    let change = |entity: &Entity| {
        // Relaxed, both: written by the thread itself.
        let now = entity.pressing.load(Relaxed);
        entity.pressing.store(if on { now + 1 } else { now - 1 }, Relaxed);
    };
    if is_running() {
        with_current(change);
    }
}

/// Whether what the running thread does gives memory back.
pub(crate) fn is_pressing() -> bool {
    is_running() && with_current(|entity| entity.pressing.load(Relaxed) != 0) // Relaxed: as above.
}

/// Whether this CPU has threads yet.
fn is_running() -> bool {
    percpu::current().is_some_and(|cpu| !cpu.run_queue.running.load(Relaxed).is_null()) // Relaxed: own CPU.
}

/// Runs `look` on the running thread.
#[expect(unsafe_code, reason = "a pointer that this CPU keeps")]
pub(crate) fn with_current<R>(look: impl FnOnce(&Entity) -> R) -> R {
    // Relaxed: written by this CPU only. If the thread is moved after reading which CPU it is on, that CPU's word says
    // another thread; but it is never moved here, in the midst of the kernel.
    let running = percpu::this().run_queue.running.load(Relaxed);
    // SAFETY: the running thread is this one, and [Kept] keeps it while it runs.
    look(unsafe { &*running })
}

/// The running thread.
#[expect(unsafe_code, reason = "from a reference to what an Arc holds back to the Arc")]
pub(crate) fn current() -> Arc<Entity> {
    with_current(|entity| {
        // SAFETY: every entity is in an Arc, from `NewThread::new` or `adopt_idle`, and [Kept] keeps it meanwhile.
        unsafe {
            Arc::increment_strong_count(entity);
            Arc::from_raw(entity)
        }
    })
}

/// What wakes the running thread from [`park`] and [`park_until`].
pub(crate) fn waker() -> Waker {
    current().into()
}

/// The thread of a user program that `entity` is.
pub(crate) fn user_of(entity: &Entity) -> Option<&Arc<task::Thread>> {
    entity.user.as_ref()
}

/// The address just above the running thread's stack, for its entries from user mode.
pub(crate) fn stack_top(entity: &Entity) -> Option<u64> {
    entity.stack.as_ref().map(Stack::top)
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

/// Sleeps until somebody wakes the thread; returns at once if that happened since the last time.
/// May return early: check what you wait for. Context: threads, preemption on.
pub(crate) fn park() {
    leave(Leave::Park(None));
}

/// As [`park`], but not beyond `deadline_ns` of the kernel's clock.
pub(crate) fn park_until(deadline_ns: Option<u64>) {
    leave(Leave::Park(deadline_ns));
}

/// Runs `change` on the queue of `entity`'s CPU, under its lock.
fn on_queue<R>(entity: &Entity, change: impl FnOnce(&RunQueue, &mut Queue) -> R) -> R {
    loop {
        // Relaxed: looked at again under the lock that it changes under.
        let run_queue = &percpu::get(entity.cpu.load(Relaxed)).run_queue;
        let mut queue = run_queue.queue.lock();
        if entity.cpu.load(Relaxed) == run_queue.cpu {
            return change(run_queue, &mut queue);
        }
    }
}

/// Wakes `entity` if it is parked, or makes its next park return at once. Context: any thread or interrupt handler.
pub(crate) fn unpark(entity: &Arc<Entity>) {
    on_queue(entity, |run_queue, queue| {
        // Relaxed, all: under the run queue.
        if entity.state.load(Relaxed) == PARKED {
            queue.stop_sleeping(entity);
            entity.refresh();
            run_queue.enqueue(queue, entity.clone());
        } else {
            entity.notified.store(true, Relaxed);
        }
    });
}

/// Makes a thread that is in user mode enter the kernel soon. Context: threads.
pub(crate) fn kick(entity: &Entity) {
    on_queue(entity, |run_queue, _| {
        // Relaxed: under the run queue.
        if entity.on_cpu.load(Relaxed) && run_queue.cpu != percpu::this().index {
            lapic::send_reschedule(percpu::get(run_queue.cpu).apic_id);
        }
    });
}

/// Makes all other CPUs pass by the border to user mode, or through their idle loop, soon. Context: threads.
pub(crate) fn prod_all() {
    let here = percpu::this().index;
    percpu::all().filter(|cpu| cpu.index != here).for_each(|cpu| lapic::send_reschedule(cpu.apic_id));
}

/// Lets `entity` run on the CPUs `allowed` only, from its next way to user mode on.
pub(crate) fn set_allowed(entity: &Entity, allowed: u64) {
    entity.allowed.store(allowed, Relaxed); // Relaxed: see `is_allowed`; the interrupt makes it look.
    kick(entity);
}
