//! Signals to threads, processes and groups.
//!
//! Nobody asks here whether the sender may; see [`super::calls`].

use alloc::sync::Arc;
use core::sync::atomic::Ordering::Relaxed;

use linux_raw_sys::general as abi;
use syscalls::Errno;

use super::super::limits::INFINITY;
use super::super::process::State;
use super::super::{Pid, Process, Thread};
use super::{DEFAULT, Detail, IGNORE, Info, ProcessSignals, SIGNALS, SigSet, recalculate, uid_for};

/// Sends a signal to one thread.
pub(crate) fn send_to_thread(thread: &Arc<Thread>, info: Info) {
    let _ = send(&thread.process, Some(thread), info);
}

/// Sends a signal to a process: to whichever of its threads takes it.
pub(crate) fn send_to_process(process: &Arc<Process>, info: Info) {
    let _ = send(process, None, info);
}

/// Sends a signal to all processes of the group `group`.
pub(crate) fn send_to_group(group: &Pid, info: Info) {
    group.group_members().iter().for_each(|process| send_to_process(process, info));
}

/// Whether it comes from the kernel, or from a process that the receiver cannot see: then it can kill the first process of a
/// namespace.
pub(super) fn is_forced(info: &Info) -> bool {
    match info.detail {
        Detail::Sender { pid, .. } => pid == 0,
        _ => info.code > 0,
    }
}

/// Sends a signal.
///
/// # Errors
/// `EAGAIN`: it queues, and too many do.
pub(crate) fn send(process: &Arc<Process>, thread: Option<&Arc<Thread>>, info: Info) -> Result<(), Errno> {
    post(process, thread, info).map(drop)
}

/// Sends a signal. Returns whether it waits now to be taken, and has not come to nothing.
///
/// # Errors
/// As [`send`].
pub(in super::super) fn post(
    process: &Arc<Process>,
    thread: Option<&Arc<Thread>>,
    info: Info,
) -> Result<bool, Errno> {
    debug_assert!((1..=SIGNALS).contains(&info.signal));
    let limit = process.limit(abi::RLIMIT_SIGPENDING).soft;
    let limit = if limit == INFINITY { usize::MAX } else { limit as usize };
    let mut continued = false;
    let waits;
    {
        let mut signals = process.signals.lock();
        if process.state() != State::Alive {
            return Ok(false);
        }
        if SigSet::STOPS.has(info.signal) {
            forget(process, &mut signals, SigSet::of(&[abi::SIGCONT]));
        } else if info.signal == abi::SIGCONT {
            forget(process, &mut signals, SigSet::STOPS);
            continued = resume(process, &mut signals);
        }
        waits = !is_dropped(process, &signals, thread, &info);
        if waits {
            let queued = match thread {
                Some(thread) => thread.signals.lock().pending.push(info, limit),
                None => signals.pending.push(info, limit),
            };
            if !queued {
                return Err(Errno::EAGAIN);
            }
            complete(process, &mut signals, thread, &info);
        }
    }
    process.signal_waiters.wake();
    if continued {
        notify_parent(process, abi::CLD_CONTINUED, abi::SIGCONT as i32);
    }
    Ok(waits)
}

/// Takes signals out of all queues.
fn forget(process: &Process, signals: &mut ProcessSignals, set: SigSet) {
    signals.pending.remove(set);
    for thread in &process.family.lock().threads {
        thread.signals.lock().pending.remove(set);
    }
}

/// Ends a stop. Returns whether it was complete.
fn resume(process: &Process, signals: &mut ProcessSignals) -> bool {
    if !signals.end_stop() {
        return false;
    }
    signals.report_stop = None;
    let complete = core::mem::take(&mut signals.stopped);
    signals.report_continue |= complete;
    process.reportable.store(true, Relaxed); // Relaxed: the parent is woken after this.
    look_all(process, signals);
    complete
}

/// Has all threads look for work, and wakes those that have some.
pub(in super::super) fn look_all(process: &Process, signals: &ProcessSignals) {
    for thread in &process.family.lock().threads {
        let was_stopped = {
            let own = thread.signals.lock();
            recalculate(thread, signals, &own);
            own.stopped
        };
        if was_stopped || thread.has_work() {
            thread.wake();
        }
    }
}

/// Whether the signal comes to nothing.
fn is_dropped(
    process: &Process,
    signals: &ProcessSignals,
    thread: Option<&Arc<Thread>>,
    info: &Info,
) -> bool {
    let leader = || process.leader();
    let blocks = |thread: &Thread| {
        let own = thread.signals.lock();
        own.mask.has(info.signal) || own.waits_for.has(info.signal)
    };
    let blocked = match thread {
        Some(thread) => blocks(thread),
        None => leader().is_some_and(|leader| blocks(&leader)),
    };
    if blocked {
        return false;
    }
    let action = signals.actions.get(info.signal);
    let kills_init = is_forced(info) && SigSet::UNBLOCKABLE.has(info.signal);
    match action.handler {
        IGNORE => true,
        DEFAULT if process.is_init && !kills_init => true,
        DEFAULT => SigSet::IGNORED.has(info.signal),
        _ => false,
    }
}

/// Finds a thread that takes the signal, which is in its queue; one that kills does it now.
fn complete(process: &Process, signals: &mut ProcessSignals, thread: Option<&Arc<Thread>>, info: &Info) {
    let wants = |thread: &Arc<Thread>| {
        let own = thread.signals.lock();
        let blocked = own.mask.has(info.signal) && !own.waits_for.has(info.signal);
        !blocked && !thread.is_exiting() && (info.signal == abi::SIGKILL || !own.stopped)
    };
    let taker = match thread {
        Some(thread) => wants(thread).then(|| Arc::clone(thread)),
        None => {
            let family = process.family.lock();
            let leader = family.leader.upgrade();
            leader.as_ref().into_iter().chain(&family.threads).find(|thread| wants(thread)).cloned()
        }
    };
    let Some(taker) = taker else { return };
    let action = signals.actions.get(info.signal);
    let waits = taker.signals.lock().waits_for.has(info.signal);
    let kills = action.handler == DEFAULT
        && !waits
        && !SigSet::STOPS.has(info.signal)
        && !SigSet::IGNORED.has(info.signal);
    if kills && signals.group_exit.is_none() && signals.exec.is_none() {
        signals.group_exit = Some(info.signal);
        // What was stopped wakes up to die.
        signals.end_stop();
        look_all(process, signals);
        return;
    }
    recalculate(&taker, signals, &taker.signals.lock());
    taker.wake();
}

/// Signals of the process that `thread` no longer takes may be for others.
pub(in super::super) fn retarget(thread: &Thread, process: &ProcessSignals, no_longer: SigSet) {
    if process.pending.set().and(no_longer).is_empty() {
        return;
    }
    let family = thread.process.family.lock();
    for other in family.threads.iter().filter(|other| !core::ptr::eq(&***other, thread)) {
        recalculate(other, process, &other.signals.lock());
        if other.has_work() {
            other.wake();
        }
    }
}

/// Ends all threads of a process, as by a signal that kills; `status` is told to its parent. Context: none of the locks.
pub(crate) fn kill(process: &Process, status: u32) {
    let mut signals = process.signals.lock();
    signals.group_exit.get_or_insert(status);
    signals.end_stop();
    look_all(process, &signals);
}

/// Tells the parent of `process` what became of it (`CLD_*`), by SIGCHLD if it wants to know, and wakes it if it waits.
///
/// Context: no lock of signals.
pub(in super::super) fn notify_parent(process: &Arc<Process>, code: u32, status: i32) {
    let Some(parent) = process.parent() else { return };
    let action = parent.signals.lock().actions.get(abi::SIGCHLD);
    if action.handler != IGNORE && action.flags & u64::from(abi::SA_NOCLDSTOP) == 0 {
        send_to_process(&parent, child_info(process, &parent, abi::SIGCHLD, code, status));
    }
    parent.child_wait.wake();
}

/// What comes with SIGCHLD.
pub(in super::super) fn child_info(
    process: &Arc<Process>,
    parent: &Arc<Process>,
    signal: u32,
    code: u32,
    status: i32,
) -> Info {
    let pid = process.pid.number_in(parent.pid.namespace()).unwrap_or(0);
    let uid = process.uid.load(Relaxed); // Relaxed: a number.
    let ((user, system), _) = process.times();
    let detail = Detail::Child {
        pid,
        uid: uid_for(uid, parent),
        status,
        user_ticks: user / super::super::time::NS_PER_TICK,
        system_ticks: system / super::super::time::NS_PER_TICK,
    };
    Info { signal, errno: 0, code: code as i32, detail }
}
