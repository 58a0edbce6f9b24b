//! timerfd_create(2): times as something to read.
//!
//! Readers and whoever waits are woken by one kernel thread, which sleeps until the next time that is set.
//!
//! # Lock order
//! `ALARMS` → `Timer::set`, leaves both; lists of waiters are woken under neither.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::task::Waker;

use linux_raw_sys::general as abi;
use mnt_table::memory::Grow;
use syscalls::Errno;

use crate::arch::spin::SpinLock;
use crate::arch::{clock, percpu};
use crate::fs::anon;
use crate::fs::copy::Sink;
use crate::fs::file::{FileOps, OpenFile};
use crate::mm::user;
use crate::sched::wait::{Wait, WaitList};
use crate::sched::{self, JoinHandle};
use crate::task;
use crate::task::time_ns::Clock;

const SECOND_NS: u64 = 1_000_000_000;

struct Timer {
    /// By the time of day (`None`), or since boot.
    by: Option<Clock>,
    set: SpinLock<Setting>,
    changed: WaitList,
}

/// By the kernel's clock.
#[derive(Clone, Copy, Default)]
struct Setting {
    /// When it is next due; 0: never.
    due_ns: u64,
    interval_ns: u64,
    /// Times that it was due, and nobody has read.
    ticks: u64,
    /// Whoever waits was told of the last one.
    told: bool,
}

impl Setting {
    /// Counts what is due at `now_ns`.
    fn advance(&mut self, now_ns: u64) {
        if self.due_ns == 0 || now_ns < self.due_ns {
            return;
        }
        self.told = false;
        match (now_ns - self.due_ns).checked_div(self.interval_ns) {
            None => {
                self.ticks += 1;
                self.due_ns = 0;
            }
            Some(more) => {
                self.ticks = self.ticks.saturating_add(more + 1);
                self.due_ns = self.due_ns.saturating_add((more + 1).saturating_mul(self.interval_ns));
            }
        }
    }
}

/// Timers that are set, and the thread that looks after them.
struct Alarms {
    timers: Vec<Weak<Timer>>,
    thread: Option<JoinHandle>,
}

static ALARMS: SpinLock<Alarms> = SpinLock::new(Alarms { timers: Vec::new(), thread: None });

/// timerfd_create(2)
///
/// # Errors
/// `EINVAL`: no such clock, unknown flags; `EMFILE`, `ENOMEM`.
pub(super) fn create(which: u32, flags: u32) -> Result<usize, Errno> {
    let by = match which {
        abi::CLOCK_REALTIME | abi::CLOCK_REALTIME_ALARM => None,
        abi::CLOCK_MONOTONIC => Some(Clock::Monotonic),
        abi::CLOCK_BOOTTIME | abi::CLOCK_BOOTTIME_ALARM => Some(Clock::Boottime),
        _ => return Err(Errno::EINVAL),
    };
    if flags & !(abi::TFD_CLOEXEC | abi::TFD_NONBLOCK) != 0 {
        return Err(Errno::EINVAL);
    }
    let timer = Timer { by, set: SpinLock::new(Setting::default()), changed: WaitList::new() };
    let timer = mnt_table::memory::arc(timer).map_err(|_| Errno::ENOMEM)?;
    {
        let mut alarms = ALARMS.lock();
        alarms.timers.retain(|timer| timer.strong_count() != 0);
        alarms.timers.make_room(1).map_err(|_| Errno::ENOMEM)?;
        alarms.timers.push(Arc::downgrade(&timer));
    }
    start()?;
    let status = abi::O_RDWR | flags & abi::TFD_NONBLOCK;
    anon::install(timer, anon::Kind::Anon("[timerfd]"), status, flags & abi::TFD_CLOEXEC != 0)
}

/// Makes sure that the thread runs.
fn start() -> Result<(), Errno> {
    if ALARMS.lock().thread.is_some() {
        return Ok(());
    }
    let thread = sched::spawn(percpu::this(), format_args!("timerfd"), run).map_err(|_| Errno::ENOMEM)?;
    // If two come here at once there are two threads, which does no harm.
    ALARMS.lock().thread.get_or_insert(thread);
    Ok(())
}

fn run() {
    loop {
        let now_ns = clock::now_ns();
        let mut next = None;
        let mut due = None;
        for timer in &ALARMS.lock().timers {
            let Some(timer) = timer.upgrade() else { continue };
            let mut set = timer.set.lock();
            set.advance(now_ns);
            if set.ticks != 0 && !set.told {
                set.told = true;
                drop(set);
                due = Some(timer);
                break;
            }
            if set.due_ns != 0 {
                next = Some(next.map_or(set.due_ns, |next: u64| next.min(set.due_ns)));
            }
        }
        match due {
            Some(timer) => timer.changed.wake(),
            None => sched::park_until(next),
        }
    }
}

fn open(fd: i32) -> Result<(Arc<OpenFile>, Arc<Timer>), Errno> {
    let file = task::current().files().get_open(fd)?;
    let ops: Arc<dyn core::any::Any + Send + Sync> = file.ops().clone();
    let timer = ops.downcast().map_err(|_| Errno::EINVAL)?;
    Ok((file, timer))
}

/// Seconds and nanoseconds, in nanoseconds.
fn ns([seconds, fraction]: [i64; 2]) -> Result<u64, Errno> {
    let seconds = u64::try_from(seconds).map_err(|_| Errno::EINVAL)?;
    let fraction = u64::try_from(fraction).ok().filter(|ns| *ns < SECOND_NS).ok_or(Errno::EINVAL)?;
    Ok(seconds.saturating_mul(SECOND_NS).saturating_add(fraction))
}

/// timerfd_settime(2)
///
/// # Errors
/// `EFAULT`, `EBADF`; `EINVAL`: unknown flags, no time, another kind of file.
pub(super) fn set(fd: i32, flags: u32, new: usize, old: usize) -> Result<usize, Errno> {
    let [interval, fraction, due, due_fraction] = user::get::<[i64; 4]>(new)?;
    let (interval_ns, due_ns) = (ns([interval, fraction])?, ns([due, due_fraction])?);
    if flags & !(abi::TFD_TIMER_ABSTIME | abi::TFD_TIMER_CANCEL_ON_SET) != 0 {
        return Err(Errno::EINVAL);
    }
    let (_file, timer) = open(fd)?;
    let now_ns = clock::now_ns();
    let absolute = flags & abi::TFD_TIMER_ABSTIME != 0;
    let due_ns = match due_ns {
        0 => 0,
        due if absolute => match timer.by {
            None => due.saturating_sub(task::time::wall_offset_ns()).max(1),
            Some(clock) => task::time_ns::machine_ns(clock, due).max(1),
        },
        due => now_ns.saturating_add(due),
    };
    let before = {
        let mut set = timer.set.lock();
        set.advance(now_ns);
        core::mem::replace(&mut *set, Setting { due_ns, interval_ns, ticks: 0, told: false })
    };
    timer.changed.wake();
    if let Some(thread) = &ALARMS.lock().thread {
        thread.unpark();
    }
    if old != 0 {
        put(old, before, now_ns)?;
    }
    Ok(0)
}

/// timerfd_gettime(2)
///
/// # Errors
/// `EFAULT`, `EBADF`; `EINVAL`: another kind of file.
pub(super) fn get(fd: i32, to: usize) -> Result<usize, Errno> {
    let (_file, timer) = open(fd)?;
    let now_ns = clock::now_ns();
    let set = {
        let mut set = timer.set.lock();
        set.advance(now_ns);
        *set
    };
    put(to, set, now_ns).map(|()| 0)
}

fn put(to: usize, set: Setting, now_ns: u64) -> Result<(), Errno> {
    let left = set.due_ns.saturating_sub(now_ns);
    let interval = set.interval_ns;
    user::put(to, [interval / SECOND_NS, interval % SECOND_NS, left / SECOND_NS, left % SECOND_NS])
}

impl FileOps for Timer {
    fn read(&self, file: &OpenFile, to: &mut Sink<'_>, _at: u64) -> Result<usize, Errno> {
        if to.left() < 8 {
            return Err(Errno::EINVAL);
        }
        let take = || {
            let mut set = self.set.lock();
            set.advance(clock::now_ns());
            match core::mem::take(&mut set.ticks) {
                0 => None,
                ticks => Some(ticks),
            }
        };
        let ticks = match take() {
            Some(ticks) => ticks,
            None if file.is_nonblocking() => return Err(Errno::EAGAIN),
            None => self.changed.wait(Wait::INTERRUPTIBLE, take)?,
        };
        to.put(&ticks.to_ne_bytes())
    }

    fn poll(&self, _file: &OpenFile, waker: Option<&Waker>) -> Result<u32, Errno> {
        if let Some(waker) = waker {
            self.changed.watch(waker)?;
        }
        let mut set = self.set.lock();
        set.advance(clock::now_ns());
        Ok(if set.ticks == 0 { 0 } else { abi::POLLIN })
    }

    fn unwatch(&self, _file: &OpenFile, waker: &Waker) {
        self.changed.unwatch(waker);
    }
}
