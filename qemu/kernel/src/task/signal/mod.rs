//! Signals: what is known of them, and what is pending.
//!
//! | Module | What |
//! |---|---|
//! | [`send`] | to threads, processes and groups |
//! | [`deliver`] | on the way to user mode: default actions, stops, handlers, restarts of calls |
//! | [`frame`] | what a handler finds on its stack, and the way back |
//! | [`fault`] | exceptions of user mode |
//! | [`calls`] | the system calls |
//!
//! # Lock order
//! As [`super`]: `tree` → `Process::signals` → `Thread::signals`. Actions lie under a lock of their own, a leaf, because
//! processes can share them (`CLONE_SIGHAND`).

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering::*};

use linux_raw_sys::general as abi;
use mnt_table::memory::Grow;
use syscalls::{Errno, ids};

use super::thread::{self, Thread};
use super::{Process, posix_timers};
use crate::arch::spin::SpinLock;

pub(crate) mod calls;
pub(crate) mod deliver;
pub(crate) mod fault;
mod frame;
pub(crate) mod send;

pub(crate) use send::{send_to_group, send_to_process, send_to_thread};

/// A call that a signal interrupted is made again, unless a handler without `SA_RESTART` runs.
pub(crate) const ERESTARTSYS: Errno = Errno::from_raw(512);
/// It is made again in any case.
pub(crate) const ERESTARTNOINTR: Errno = Errno::from_raw(513);
/// It is made again unless a handler runs.
pub(crate) const ERESTARTNOHAND: Errno = Errno::from_raw(514);
/// It goes on by restart_syscall(2), unless a handler runs.
pub(crate) const ERESTART_RESTARTBLOCK: Errno = Errno::from_raw(516);

/// The highest signal.
pub(crate) const SIGNALS: u32 = 64;
/// The first of the real-time signals, which queue.
pub(crate) const SIGRTMIN: u32 = 32;
/// More pending real-time signals than this are refused, whatever the limit says.
const QUEUE_MAX: usize = 4096;

/// A set of signals; bit 0 is signal 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SigSet(pub(crate) u64);

impl SigSet {
    pub(crate) const EMPTY: SigSet = SigSet(0);
    /// Those that cannot be blocked.
    pub(crate) const UNBLOCKABLE: SigSet = SigSet::of(&[abi::SIGKILL, abi::SIGSTOP]);
    pub(crate) const STOPS: SigSet = SigSet::of(&[abi::SIGSTOP, abi::SIGTSTP, abi::SIGTTIN, abi::SIGTTOU]);
    /// Those that a thread brings upon itself.
    const SYNCHRONOUS: SigSet =
        SigSet::of(&[abi::SIGSEGV, abi::SIGBUS, abi::SIGILL, abi::SIGTRAP, abi::SIGFPE, abi::SIGSYS]);
    const IGNORED: SigSet = SigSet::of(&[abi::SIGCONT, abi::SIGCHLD, abi::SIGWINCH, abi::SIGURG]);

    /// These.
    pub(crate) const fn of(signals: &[u32]) -> SigSet {
        let (mut bits, mut index) = (0, 0);
        while index < signals.len() {
            bits |= 1 << (signals[index] - 1);
            index += 1;
        }
        SigSet(bits)
    }

    pub(crate) const fn has(self, signal: u32) -> bool {
        self.0 >> (signal - 1) & 1 != 0
    }

    #[must_use]
    pub(crate) const fn with(self, other: SigSet) -> SigSet {
        SigSet(self.0 | other.0)
    }

    #[must_use]
    pub(crate) const fn without(self, other: SigSet) -> SigSet {
        SigSet(self.0 & !other.0)
    }

    #[must_use]
    pub(crate) const fn and(self, other: SigSet) -> SigSet {
        SigSet(self.0 & other.0)
    }

    pub(crate) const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The lowest, those that a thread brings upon itself first.
    fn first(self) -> Option<u32> {
        let own = self.and(Self::SYNCHRONOUS);
        let bits = if own.is_empty() { self.0 } else { own.0 };
        (bits != 0).then(|| bits.trailing_zeros() + 1)
    }
}

/// What comes with a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Info {
    pub(crate) signal: u32,
    /// `si_errno`
    pub(crate) errno: i32,
    /// `si_code`
    pub(crate) code: i32,
    pub(crate) detail: Detail,
}

/// The part of a signal's information that depends on its cause. Numbers are as the receiver's namespaces have them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Detail {
    None,
    /// kill(2), tgkill(2), sigqueue(3).
    Sender {
        pid: u32,
        uid: u32,
        value: u64,
    },
    Child {
        pid: u32,
        uid: u32,
        status: i32,
        user_ticks: u64,
        system_ticks: u64,
    },
    Fault {
        address: u64,
    },
    /// timer_create(2). It is of one of the timer's settings; see [`super::posix_timers`].
    Timer {
        id: i32,
        settings: u32,
        overrun: i32,
        value: u64,
    },
    /// As rt_sigqueueinfo(2) gave it, from offset 16 on.
    Raw([u8; 32]),
}

/// Bytes of `siginfo_t`.
pub(crate) const INFO_SIZE: usize = 128;

impl Info {
    /// From the kernel itself.
    pub(crate) const fn kernel(signal: u32) -> Info {
        Info { signal, errno: 0, code: abi::SI_KERNEL as i32, detail: Detail::None }
    }

    /// From `sender` to `target`, with one of the codes that are 0 or negative.
    pub(crate) fn from_thread(signal: u32, code: i32, sender: &Thread, target: &Process) -> Info {
        let pid = sender.process.pid.number_in(target.pid.namespace()).unwrap_or(0);
        let uid = uid_for(sender.credentials().uid, target);
        Info { signal, errno: 0, code, detail: Detail::Sender { pid, uid, value: 0 } }
    }

    /// `siginfo_t`.
    pub(crate) fn to_bytes(self) -> [u8; INFO_SIZE] {
        let mut bytes = [0; INFO_SIZE];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, &self.signal.to_le_bytes());
        put(4, &self.errno.to_le_bytes());
        put(8, &self.code.to_le_bytes());
        match self.detail {
            Detail::None => {}
            Detail::Sender { pid, uid, value } => {
                put(16, &pid.to_le_bytes());
                put(20, &uid.to_le_bytes());
                put(24, &value.to_le_bytes());
            }
            Detail::Child { pid, uid, status, user_ticks, system_ticks } => {
                put(16, &pid.to_le_bytes());
                put(20, &uid.to_le_bytes());
                put(24, &status.to_le_bytes());
                put(32, &user_ticks.to_le_bytes());
                put(40, &system_ticks.to_le_bytes());
            }
            Detail::Fault { address } => put(16, &address.to_le_bytes()),
            Detail::Timer { id, overrun, value, .. } => {
                put(16, &id.to_le_bytes());
                put(20, &overrun.to_le_bytes());
                put(24, &value.to_le_bytes());
            }
            Detail::Raw(raw) => put(16, &raw),
        }
        bytes
    }

    /// From a `siginfo_t` of user space.
    pub(crate) fn from_bytes(signal: u32, bytes: &[u8; INFO_SIZE]) -> Info {
        let int = |at: usize| i32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let mut raw = [0; 32];
        raw.copy_from_slice(&bytes[16..48]);
        Info { signal, errno: int(4), code: int(8), detail: Detail::Raw(raw) }
    }
}

/// The user `uid` as processes of `target`'s user namespace see it.
pub(super) fn uid_for(uid: u32, target: &Process) -> u32 {
    const NOBODY: u32 = 65534;
    let Some(leader) = target.leader() else { return uid };
    ids::Kind::Users.seen_by(&leader.credentials().user_ns, uid).unwrap_or(NOBODY)
}

/// Signals that wait.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    set: SigSet,
    infos: Vec<Info>,
}

impl Queue {
    pub(crate) fn set(&self) -> SigSet {
        self.set
    }

    /// Adds a signal; one that is not a real-time signal is there once only. `false`: it queues, and there are `limit`.
    pub(super) fn push(&mut self, info: Info, limit: usize) -> bool {
        if let Detail::Timer { id, .. } = info.detail {
            return self.push_of_timer(info, id);
        }
        if info.signal < SIGRTMIN && self.set.has(info.signal) {
            return true;
        }
        let fits = self.infos.len() < limit.min(QUEUE_MAX) || info.signal < SIGRTMIN;
        let kept = fits && self.infos.try_push(info).is_ok();
        // Without memory for what comes with it, an ordinary signal comes alone.
        if kept || info.signal < SIGRTMIN || info.code >= 0 {
            self.set = self.set.with(SigSet::of(&[info.signal]));
        }
        kept || info.signal < SIGRTMIN || info.code >= 0
    }

    /// As [`Self::push`]: each timer has its own place, whatever else is there.
    fn push_of_timer(&mut self, info: Info, timer: i32) -> bool {
        let same = |old: &Info| matches!(old.detail, Detail::Timer { id, .. } if id == timer);
        match self.infos.iter().position(same) {
            Some(index) => self.infos[index] = info,
            None if self.infos.try_push(info).is_err() => return false,
            None => {}
        }
        self.set = self.set.with(SigSet::of(&[info.signal]));
        true
    }

    /// Takes the first signal that is not in `mask`.
    pub(super) fn pop(&mut self, mask: SigSet) -> Option<Info> {
        let signal = self.set.without(mask).first()?;
        let index = self.infos.iter().position(|info| info.signal == signal);
        let bare = Info {
            signal,
            errno: 0,
            code: abi::SI_USER as i32,
            detail: Detail::Sender { pid: 0, uid: 0, value: 0 },
        };
        let info = index.map_or(bare, |index| self.infos.remove(index));
        if !self.infos.iter().any(|info| info.signal == signal) {
            self.set = self.set.without(SigSet::of(&[signal]));
        }
        Some(info)
    }

    /// Forgets those in `set`.
    pub(super) fn remove(&mut self, set: SigSet) {
        self.set = self.set.without(set);
        self.infos.retain(|info| !set.has(info.signal));
    }
}

/// What a process does with a signal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Action {
    /// 0: the default; 1: nothing; otherwise the handler's address.
    pub(crate) handler: usize,
    pub(crate) flags: u64,
    pub(crate) restorer: usize,
    pub(crate) mask: SigSet,
}

/// `SIG_DFL`
pub(crate) const DEFAULT: usize = 0;
/// `SIG_IGN`
pub(crate) const IGNORE: usize = 1;

/// What a process does with all signals.
pub(crate) struct Actions(SpinLock<[Action; SIGNALS as usize]>);

impl Actions {
    pub(super) fn new() -> Result<Arc<Actions>, Errno> {
        let actions = Actions(SpinLock::new([Action::default(); SIGNALS as usize]));
        mnt_table::memory::arc(actions).map_err(|_| Errno::ENOMEM)
    }

    pub(super) fn fork(&self) -> Result<Arc<Actions>, Errno> {
        let actions = Actions(SpinLock::new(*self.0.lock()));
        mnt_table::memory::arc(actions).map_err(|_| Errno::ENOMEM)
    }

    pub(crate) fn get(&self, signal: u32) -> Action {
        self.0.lock()[signal as usize - 1]
    }

    pub(super) fn set(&self, signal: u32, action: Action) {
        self.0.lock()[signal as usize - 1] = action;
    }

    /// Back to the defaults: all, or those that have a handler (execve(2)).
    pub(super) fn reset(&self, all: bool) {
        for action in self.0.lock().iter_mut() {
            let keep = action.handler == IGNORE && !all;
            *action = Action { handler: if keep { IGNORE } else { DEFAULT }, ..Action::default() };
        }
    }

    /// Those that are ignored and those that have a handler (`/proc/PID/status`).
    pub(crate) fn sets(&self) -> (SigSet, SigSet) {
        let actions = self.0.lock();
        let set = |wanted: fn(&Action) -> bool| {
            let bit = |(index, action): (usize, &Action)| u64::from(wanted(action)) << index;
            SigSet(actions.iter().enumerate().map(bit).fold(0, |bits, bit| bits | bit))
        };
        (set(|action| action.handler == IGNORE), set(|action| action.handler > IGNORE))
    }
}

/// A process's signals.
pub(crate) struct ProcessSignals {
    pub(super) pending: Queue,
    pub(super) actions: Arc<Actions>,
    /// All its threads are to end, with this status.
    pub(super) group_exit: Option<u32>,
    /// All its threads but this one are to end (execve(2)).
    pub(super) exec: Option<Arc<Thread>>,
    /// All its threads are to stop, by this signal.
    pub(super) stop: Option<u32>,
    /// They have, and the parent has been told.
    pub(super) stopped: bool,
    /// What wait4(2) may tell of it: stopped by a signal; continued.
    pub(super) report_stop: Option<u32>,
    pub(super) report_continue: bool,
}

/// Processes that are stopped or about to be.
pub(super) static STOPPED: AtomicUsize = AtomicUsize::new(0);

impl ProcessSignals {
    /// All threads are to stop.
    pub(super) fn set_stop(&mut self, signal: u32) {
        if self.stop.replace(signal).is_none() {
            STOPPED.fetch_add(1, Relaxed); // Relaxed: a hint.
        }
        self.stopped = false;
    }

    /// They are not to any more. Returns whether they were.
    pub(super) fn end_stop(&mut self) -> bool {
        let was = self.stop.take().is_some();
        if was {
            STOPPED.fetch_sub(1, Relaxed); // Relaxed: a hint.
        }
        was
    }

    pub(super) fn new(actions: Arc<Actions>) -> Self {
        ProcessSignals {
            pending: Queue::default(),
            actions,
            group_exit: None,
            exec: None,
            stop: None,
            stopped: false,
            report_stop: None,
            report_continue: false,
        }
    }
}

/// The alternative stack of a thread (sigaltstack(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AltStack {
    pub(crate) base: usize,
    pub(crate) size: usize,
    pub(crate) flags: u32,
}

impl AltStack {
    pub(crate) const NONE: AltStack = AltStack { base: 0, size: 0, flags: abi::SS_DISABLE };

    /// Whether a stack pointer is on it.
    pub(crate) fn contains(&self, stack_pointer: usize) -> bool {
        self.flags & abi::SS_AUTODISARM == 0
            && stack_pointer > self.base
            && stack_pointer - self.base <= self.size
    }
}

/// How a call that a signal interrupted goes on (restart_syscall(2)).
#[derive(Clone, Copy, Debug)]
pub(crate) enum Restart {
    /// A sleep until `deadline_ns` on the kernel's clock; what is left goes to `rest` if that is not 0.
    Sleep { deadline_ns: u64, rest: usize },
    /// FUTEX_WAIT.
    Futex { address: usize, value: u32, bits: u32, private: bool, deadline_ns: u64 },
}

/// A thread's signals.
pub(crate) struct ThreadSignals {
    pub(super) pending: Queue,
    pub(super) mask: SigSet,
    /// The mask to be restored on the way to user mode.
    pub(super) saved_mask: Option<SigSet>,
    /// What it waits for in rt_sigtimedwait(2), though it is blocked.
    pub(super) waits_for: SigSet,
    pub(super) alt_stack: AltStack,
    pub(super) restart: Option<Restart>,
    pub(super) stopped: bool,
}

impl ThreadSignals {
    pub(super) fn new(mask: SigSet, alt_stack: AltStack) -> Self {
        ThreadSignals {
            pending: Queue::default(),
            mask,
            saved_mask: None,
            waits_for: SigSet::EMPTY,
            alt_stack,
            restart: None,
            stopped: false,
        }
    }
}

/// Looks anew whether `thread` has a signal to take. Context: under the process's lock.
pub(super) fn recalculate(thread: &Thread, process: &ProcessSignals, signals: &ThreadSignals) {
    let pending = signals.pending.set().with(process.pending.set()).without(signals.mask);
    let dies = process.group_exit.is_some()
        || process.exec.as_ref().is_some_and(|exec| !core::ptr::eq(&**exec, thread))
        || signals.pending.set().has(abi::SIGKILL);
    let has_signal = !pending.is_empty() || process.stop.is_some();
    let mut work = 0;
    work |= if has_signal { thread::SIGNAL } else { 0 };
    work |= if dies { thread::KILLED } else { 0 };
    work |= if signals.saved_mask.is_some() { thread::RESTORE_MASK } else { 0 };
    // Release: pairs with the Acquire in `Thread::signal_pending`. Others than the thread leave its own bits alone.
    let _ = thread.work.fetch_update(Release, Relaxed, |old| Some(old & thread::OWN | work));
}

/// Takes the first signal that waits for `thread` or its process and is not in `mask`.
fn take(
    thread: &Thread,
    process: &mut ProcessSignals,
    signals: &mut ThreadSignals,
    mask: SigSet,
) -> Option<Info> {
    loop {
        let info = signals.pending.pop(mask).or_else(|| process.pending.pop(mask))?;
        if let Some(info) = posix_timers::taken(&thread.process, info) {
            return Some(info);
        }
    }
}

/// Changes what `thread` blocks, and looks anew what it has to take.
pub(super) fn change_mask(thread: &Thread, change: impl FnOnce(SigSet) -> SigSet) -> SigSet {
    let process = thread.process.signals.lock();
    let mut signals = thread.signals.lock();
    let old = signals.mask;
    signals.mask = change(old).without(SigSet::UNBLOCKABLE);
    recalculate(thread, &process, &signals);
    old
}

pub(super) fn set_temporary_mask(thread: &Thread, mask: SigSet) {
    let process = thread.process.signals.lock();
    let mut signals = thread.signals.lock();
    if signals.saved_mask.is_none() {
        signals.saved_mask = Some(signals.mask);
    }
    signals.mask = mask.without(SigSet::UNBLOCKABLE);
    recalculate(thread, &process, &signals);
}

/// Whether a signal to `thread` would come to nothing: it blocks it, or its process ignores it.
pub(crate) fn is_ignored(thread: &Thread, signal: u32) -> bool {
    let actions = thread.process.signals.lock().actions.clone();
    thread.signals.lock().mask.has(signal) || actions.get(signal).handler == IGNORE
}

impl Thread {
    /// The signals that wait for it and its process.
    pub(crate) fn pending(&self) -> SigSet {
        let process = self.process.signals.lock();
        process.pending.set().with(self.signals.lock().pending.set())
    }

    /// Its own pending signals, those of its process, and those that it blocks (`/proc/PID/status`).
    pub(crate) fn signal_sets(&self) -> (SigSet, SigSet, SigSet) {
        let process = self.process.signals.lock();
        let signals = self.signals.lock();
        (signals.pending.set(), process.pending.set(), signals.mask)
    }

    /// Takes one of the signals `wanted`, blocked or not.
    pub(crate) fn dequeue(&self, wanted: SigSet) -> Option<Info> {
        let mut process = self.process.signals.lock();
        let mut signals = self.signals.lock();
        let info = take(self, &mut process, &mut signals, SigSet(!wanted.0));
        recalculate(self, &process, &signals);
        info
    }

    /// Notes how the call that returns [`ERESTART_RESTARTBLOCK`] goes on.
    pub(crate) fn set_restart(&self, restart: Restart) {
        self.signals.lock().restart = Some(restart);
    }
}

impl Process {
    /// What it does with signals.
    pub(crate) fn actions(&self) -> Arc<Actions> {
        self.signals.lock().actions.clone()
    }
}
