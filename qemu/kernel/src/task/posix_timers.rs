//! Timers that programs make: timer_create(2) and its like.
//!
//! 1. A timer that is due sends its signal once. Until that is taken the timer rests, whatever its interval; a process that
//!    blocks the signal costs nothing.
//! 2. Who takes the signal counts what would have come meanwhile (timer_getoverrun(2)), and sets the next time.
//! 3. Setting or deleting a timer gives it a new number of settings; the signal of an older setting is dropped when its
//!    turn comes.
//!
//! Timers by a clock of the machine lie among the alarms of [`super::timers`]; those by the time that a process or a thread
//! uses are looked at by its threads on their way to user mode.
//!
//! # Lock order
//! `Process::signals` → `Timer::state` → the alarms; `Made` → `Timer::state`. Signals are sent under none of them.

use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use linux_raw_sys::general as abi;
use mnt_table::memory::{self, Claims, Grow};
use syscalls::Errno;

use super::signal::{Detail, Info, SIGNALS, send};
use super::timers::{self, Alarm, INSERT_ALLOCATIONS};
use super::{Process, Thread, time, time_ns};
use crate::arch::clock;
use crate::arch::spin::SpinLock;
use crate::mm::user;

/// `SI_TIMER`
const SI_TIMER: i32 = -2;
/// `SIGEV_*`
const SIGEV_SIGNAL: u32 = 0;
const SIGEV_NONE: u32 = 1;
const SIGEV_THREAD: u32 = 2;
const SIGEV_THREAD_ID: u32 = 4;
/// A timer whose signal nobody wants is not due more often than that.
const IGNORED_NS: u64 = 1_000_000;

/// The timers that a process has made.
pub(crate) struct Timers {
    made: SpinLock<Made>,
    /// Some count time that is used, and have been set.
    count: AtomicBool,
}

#[derive(Default)]
struct Made {
    timers: BTreeMap<i32, Arc<Timer>>,
    next: i32,
}

/// One timer.
pub(crate) struct Timer {
    id: i32,
    clock: Clock,
    notify: Notify,
    process: Weak<Process>,
    state: SpinLock<State>,
}

/// What a timer goes by.
enum Clock {
    /// The time of day (`None`), or since boot.
    Machine(Option<time_ns::Clock>),
    Process(Weak<Process>),
    Thread(Weak<Thread>),
}

/// What happens when it is due.
enum Notify {
    Nothing,
    Signal {
        number: u32,
        value: u64,
        /// To this thread, or to the process.
        thread: Option<Weak<Thread>>,
    },
}

#[derive(Clone, Copy, Default)]
struct State {
    /// By its clock; 0: it is not set.
    due_ns: u64,
    interval_ns: u64,
    /// Its place among the alarms.
    order: u64,
    /// How often it was set.
    settings: u32,
    /// It was due, and its signal has not been taken.
    rests: bool,
    /// What the last signal that was taken stood for, beside the one time.
    overrun: i32,
}

impl State {
    /// Sets the next time after `now_ns`. Returns how many were missed.
    fn go_on(&mut self, now_ns: u64) -> u64 {
        let late_ns = now_ns.saturating_sub(self.due_ns);
        let Some(missed) = late_ns.checked_div(self.interval_ns) else {
            self.due_ns = 0;
            return 0;
        };
        self.due_ns = self.due_ns.saturating_add((missed + 1).saturating_mul(self.interval_ns));
        missed
    }
}

impl Timers {
    pub(super) fn new() -> Self {
        Timers { made: SpinLock::default(), count: AtomicBool::new(false) }
    }
}

impl Timer {
    fn now_ns(&self) -> u64 {
        let sum = |(user, system): (u64, u64)| user + system;
        match &self.clock {
            Clock::Machine(_) => clock::now_ns(),
            Clock::Process(process) => process.upgrade().map_or(0, |process| sum(process.times().0)),
            Clock::Thread(thread) => thread.upgrade().map_or(0, |thread| sum(thread.cpu_times())),
        }
    }

    /// Puts it among the alarms, if that is where it is looked at. Without memory it is not due any more.
    fn file(self: &Arc<Self>, state: &mut State) {
        if state.due_ns == 0 || matches!(self.notify, Notify::Nothing) {
            return;
        }
        if let Clock::Machine(_) = self.clock {
            match timers::file(Alarm::Timer(Arc::downgrade(self)), state.due_ns) {
                Ok(order) => state.order = order,
                Err(_) => state.due_ns = 0,
            }
        }
    }

    /// It may be due: sends its signal if it is. Context: no lock.
    pub(super) fn ring(self: &Arc<Self>) {
        let Notify::Signal { number, value, thread } = &self.notify else { return };
        let Some(process) = self.process.upgrade() else { return };
        let now_ns = self.now_ns();
        let settings = {
            let mut state = self.state.lock();
            if state.rests || state.due_ns == 0 || state.due_ns > now_ns {
                // It was changed meanwhile.
                return;
            }
            state.rests = true;
            state.settings
        };
        let detail = Detail::Timer { id: self.id, settings, overrun: 0, value: *value };
        let info = Info { signal: *number, errno: 0, code: SI_TIMER, detail };
        let sent = match thread {
            None => send::post(&process, None, info),
            // The signal of a thread that has ended is nobody's.
            Some(thread) => {
                thread.upgrade().map_or(Ok(false), |thread| send::post(&process, Some(&thread), info))
            }
        };
        if sent != Ok(true) {
            let mut state = self.state.lock();
            if state.settings == settings {
                state.rests = false;
                state.go_on(now_ns);
                if state.due_ns != 0 {
                    state.due_ns = state.due_ns.max(now_ns + IGNORED_NS);
                }
                self.file(&mut state);
            }
        }
    }
}

/// What comes with a signal, on its way to who takes it. `None`: it is of a timer that was set again or deleted since.
///
/// Context: under locks of signals.
pub(super) fn taken(process: &Process, info: Info) -> Option<Info> {
    let Detail::Timer { id, settings, value, .. } = info.detail else { return Some(info) };
    let timer = process.made.made.lock().timers.get(&id).cloned()?;
    let now_ns = timer.now_ns();
    let mut state = timer.state.lock();
    if state.settings != settings || !state.rests {
        return None;
    }
    state.rests = false;
    let missed = state.go_on(now_ns);
    state.overrun = i32::try_from(missed).unwrap_or(i32::MAX);
    timer.file(&mut state);
    Some(Info { detail: Detail::Timer { id, settings, overrun: state.overrun, value }, ..info })
}

/// Looks at the timers that count time which is used. Context: a thread of the process, on its way to user mode.
pub(super) fn count(thread: &Thread) {
    let process = &thread.process;
    // Relaxed: a hint, looked at again and again.
    if !process.made.count.load(Relaxed) {
        return;
    }
    let mut counting: Vec<Arc<Timer>> = Vec::new();
    for timer in process.made.made.lock().timers.values() {
        if !matches!(timer.clock, Clock::Machine(_)) && timer.state.lock().due_ns != 0 {
            // Without memory it is due a little later.
            let _ = counting.try_push(Arc::clone(timer));
        }
    }
    process.made.count.store(!counting.is_empty(), Relaxed); // Relaxed: as above.
    counting.iter().for_each(Timer::ring);
    if !counting.is_empty() {
        // A thread that runs alone would not come here again.
        crate::sched::ring_within(crate::sched::SLICE_NS);
    }
}

/// Deletes all timers (execve(2), and the end of a process).
pub(super) fn clear(process: &Process) {
    let made = core::mem::take(&mut process.made.made.lock().timers);
    for timer in made.values() {
        stop(timer);
    }
}

/// Takes a timer's time away; returns the state before.
fn stop(timer: &Timer) -> State {
    let mut state = timer.state.lock();
    let before = *state;
    state.settings = state.settings.wrapping_add(1);
    (state.due_ns, state.interval_ns, state.rests) = (0, 0, false);
    drop(state);
    if before.due_ns != 0 && matches!(timer.clock, Clock::Machine(_)) {
        timers::take_out(before.due_ns, before.order);
    }
    before
}

fn find(thread: &Thread, id: i32) -> Result<Arc<Timer>, Errno> {
    thread.process.made.made.lock().timers.get(&id).cloned().ok_or(Errno::EINVAL)
}

/// The clock with this number.
///
/// # Errors
/// `EINVAL`: there is none. `EOPNOTSUPP`: nothing can be timed by it.
fn clock_of(thread: &Arc<Thread>, id: i32) -> Result<Clock, Errno> {
    let own_process = || Clock::Process(Arc::downgrade(&thread.process));
    Ok(match u32::try_from(id) {
        Ok(abi::CLOCK_REALTIME | abi::CLOCK_TAI) => Clock::Machine(None),
        Ok(abi::CLOCK_MONOTONIC) => Clock::Machine(Some(time_ns::Clock::Monotonic)),
        Ok(abi::CLOCK_BOOTTIME) => Clock::Machine(Some(time_ns::Clock::Boottime)),
        Ok(abi::CLOCK_PROCESS_CPUTIME_ID) => own_process(),
        Ok(abi::CLOCK_THREAD_CPUTIME_ID) => Clock::Thread(Arc::downgrade(thread)),
        Ok(
            abi::CLOCK_MONOTONIC_RAW
            | abi::CLOCK_REALTIME_COARSE
            | abi::CLOCK_MONOTONIC_COARSE
            | abi::CLOCK_REALTIME_ALARM
            | abi::CLOCK_BOOTTIME_ALARM,
        ) => return Err(Errno::EOPNOTSUPP),
        Ok(_) => return Err(Errno::EINVAL),
        Err(_) => match time::cpu_clock(thread, id)? {
            time::CpuClock::Thread(other) if Arc::ptr_eq(&other.process, &thread.process) => {
                Clock::Thread(Arc::downgrade(&other))
            }
            time::CpuClock::Process(other) if Arc::ptr_eq(&other, &thread.process) => own_process(),
            // Nobody looks at it on behalf of another process.
            _ => return Err(Errno::EOPNOTSUPP),
        },
    })
}

/// timer_create(2).
pub(super) fn timer_create(thread: &Arc<Thread>, id: i32, event: usize, to: usize) -> Result<usize, Errno> {
    /// Bytes of `struct sigevent`.
    const SIGEVENT: usize = 64;
    let event = if event == 0 { None } else { Some(user::get::<[u32; SIGEVENT / 4]>(event)?) };
    let clock = clock_of(thread, id)?;
    let process = &thread.process;
    let limit = process.limit(abi::RLIMIT_SIGPENDING).soft;
    let mut claims = Claims::none();
    claims.claim(INSERT_ALLOCATIONS).map_err(|_| Errno::EAGAIN)?;
    let id = {
        let mut made = process.made.made.lock();
        if made.timers.len() as u64 >= limit {
            return Err(Errno::EAGAIN);
        }
        loop {
            let id = made.next;
            made.next = id.checked_add(1).unwrap_or(0);
            if !made.timers.contains_key(&id) {
                break id;
            }
        }
    };
    let notify = match event {
        None => Notify::Signal { number: abi::SIGALRM, value: id as u64, thread: None },
        Some(event) => {
            let value = u64::from(event[0]) | u64::from(event[1]) << 32;
            let (number, kind, tid) = (event[2], event[3], event[4]);
            let thread = match kind {
                SIGEV_NONE | SIGEV_SIGNAL | SIGEV_THREAD => None,
                SIGEV_THREAD_ID => {
                    let other = thread.pid_ns().thread(tid);
                    let other = other.filter(|other| Arc::ptr_eq(&other.process, process));
                    Some(Arc::downgrade(&other.ok_or(Errno::EINVAL)?))
                }
                _ => return Err(Errno::EINVAL),
            };
            match kind {
                SIGEV_NONE => Notify::Nothing,
                _ if !(1..=SIGNALS).contains(&number) => return Err(Errno::EINVAL),
                _ => Notify::Signal { number, value, thread },
            }
        }
    };
    let timer = Timer { id, clock, notify, process: Arc::downgrade(process), state: SpinLock::default() };
    let timer = memory::arc(timer).map_err(|_| Errno::EAGAIN)?;
    user::put(to, id)?;
    let before = memory::covered(|| process.made.made.lock().timers.insert(id, timer));
    debug_assert!(before.is_none(), "numbers do not come round while a call lasts");
    Ok(0)
}

/// What is left at `now_ns`, and the interval, as `struct itimerspec` has them.
fn left(timer: &Timer, mut state: State, now_ns: u64) -> [u64; 4] {
    const NS: u64 = 1_000_000_000;
    let silent = matches!(timer.notify, Notify::Nothing);
    if state.due_ns != 0 && state.due_ns <= now_ns && (silent || state.rests) {
        state.go_on(now_ns);
    }
    let left_ns = if state.due_ns == 0 { 0 } else { state.due_ns.saturating_sub(now_ns).max(1) };
    [state.interval_ns / NS, state.interval_ns % NS, left_ns / NS, left_ns % NS]
}

/// timer_gettime(2).
pub(super) fn timer_gettime(thread: &Thread, id: i32, to: usize) -> Result<usize, Errno> {
    let timer = find(thread, id)?;
    let now_ns = timer.now_ns();
    let state = *timer.state.lock();
    user::put(to, left(&timer, state, now_ns)).map(|()| 0)
}

/// timer_settime(2).
pub(super) fn timer_settime(
    thread: &Thread,
    id: i32,
    flags: u32,
    new: usize,
    old: usize,
) -> Result<usize, Errno> {
    /// Where `it_value` stands.
    const VALUE: usize = 16;
    if new == 0 {
        return Err(Errno::EINVAL);
    }
    let (interval_ns, value_ns) = (time::get_timespec(new)?, time::get_timespec(new.wrapping_add(VALUE))?);
    let timer = find(thread, id)?;
    if let Clock::Machine(_) = timer.clock {
        timers::start()?;
    }
    let now_ns = timer.now_ns();
    let before = stop(&timer);
    if value_ns != 0 {
        let mut state = timer.state.lock();
        state.due_ns = match &timer.clock {
            _ if flags & abi::TIMER_ABSTIME == 0 => now_ns.saturating_add(value_ns),
            Clock::Machine(None) => value_ns.saturating_sub(time::wall_offset_ns()).max(1),
            Clock::Machine(Some(clock)) => time_ns::machine_ns(*clock, value_ns).max(1),
            _ => value_ns,
        };
        state.interval_ns = interval_ns;
        state.overrun = 0;
        timer.file(&mut state);
        if !matches!(timer.clock, Clock::Machine(_)) {
            thread.process.made.count.store(true, Relaxed); // Relaxed: a hint.
        }
    }
    if old != 0 {
        user::put(old, left(&timer, before, now_ns))?;
    }
    Ok(0)
}

/// timer_getoverrun(2).
pub(super) fn timer_getoverrun(thread: &Thread, id: i32) -> Result<usize, Errno> {
    let timer = find(thread, id)?;
    let overrun = timer.state.lock().overrun;
    Ok(overrun as usize)
}

/// timer_delete(2).
pub(super) fn timer_delete(thread: &Thread, id: i32) -> Result<usize, Errno> {
    let timer = thread.process.made.made.lock().timers.remove(&id).ok_or(Errno::EINVAL)?;
    stop(&timer);
    Ok(0)
}
