//! Signals on the way to user mode.
//!
//! [`deliver`] goes on until a handler is set up or nothing is pending: the thread ends, stops, drops signals that come to
//! nothing. Then a call that was interrupted is made again, or fails with `EINTR`, and a mask that a call set for its own time
//! is put back.

use alloc::sync::Arc;
use core::sync::atomic::Ordering::Relaxed;

use linux_raw_sys::general as abi;
use syscalls::Errno;

use super::super::{Thread, process};
use super::{
    Action, DEFAULT, ERESTART_RESTARTBLOCK, ERESTARTNOHAND, ERESTARTNOINTR, ERESTARTSYS, IGNORE, Info,
    SigSet, frame, recalculate, send,
};
use crate::arch::trap::{SYSCALL, TrapFrame};
use crate::sched;

/// Length of the instruction that calls the kernel.
const CALL_LEN: u64 = 2;

/// What is to be done next.
enum Next {
    Nothing,
    Die(u32),
    Stop,
    Handle(Info, Action),
    /// By default the signal stops the process, which only helps if somebody is there to continue it.
    StopUnlessOrphaned(u32),
}

/// Does what is pending for `thread`, the running one, whose user mode is in `frame`. Returns the status with which it is to
/// end, if it is.
pub(crate) fn deliver(thread: &Arc<Thread>, frame: &mut TrapFrame) -> Option<u32> {
    if thread.wants_exit() {
        return Some(thread.exit_status.load(Relaxed)); // Relaxed: own thread.
    }
    loop {
        match next(thread) {
            Next::Die(status) => return Some(status),
            Next::Stop => stop(thread),
            Next::StopUnlessOrphaned(signal) => {
                if signal == abi::SIGSTOP || !process::is_orphaned(&thread.process.group()) {
                    begin_stop(thread, signal);
                }
            }
            Next::Handle(info, action) => {
                restart(frame, Some(&action));
                let old = saved_mask(thread);
                if frame::push(thread, frame, &info, &action, old).is_err() {
                    super::fault::force(thread, Info::kernel(abi::SIGSEGV));
                    continue;
                }
                super::change_mask(thread, |mask| {
                    let own = if action.flags & u64::from(abi::SA_NODEFER) == 0 {
                        SigSet::of(&[info.signal])
                    } else {
                        SigSet::EMPTY
                    };
                    mask.with(action.mask).with(own)
                });
                thread.clear_restart();
                return None;
            }
            Next::Nothing => {
                restart(frame, None);
                restore_mask(thread);
                // The mask of before may let others through.
                if !thread.signal_pending() {
                    return None;
                }
            }
        }
    }
}

/// The mask that is to be put back when the handler returns.
fn saved_mask(thread: &Thread) -> SigSet {
    let process = thread.process.signals.lock();
    let mut signals = thread.signals.lock();
    let mask = signals.saved_mask.take().unwrap_or(signals.mask);
    recalculate(thread, &process, &signals);
    mask
}

fn restore_mask(thread: &Thread) {
    let process = thread.process.signals.lock();
    let mut signals = thread.signals.lock();
    if let Some(mask) = signals.saved_mask.take() {
        signals.mask = mask;
    }
    thread.clear_restart();
    recalculate(thread, &process, &signals);
}

fn next(thread: &Arc<Thread>) -> Next {
    let mut process = thread.process.signals.lock();
    let mut signals = thread.signals.lock();
    loop {
        if let Some(status) = process.group_exit {
            return Next::Die(status);
        }
        if process.exec.as_ref().is_some_and(|exec| !Arc::ptr_eq(exec, thread)) {
            return Next::Die(0);
        }
        if process.stop.is_some() {
            return Next::Stop;
        }
        let mask = signals.mask;
        let info = super::take(thread, &mut process, &mut signals, mask);
        recalculate(thread, &process, &signals);
        let Some(info) = info else { return Next::Nothing };
        let action = process.actions.get(info.signal);
        match action.handler {
            IGNORE => {}
            DEFAULT if SigSet::IGNORED.has(info.signal) => {}
            DEFAULT if thread.process.is_unkillable() && !super::send::is_forced(&info) => {}
            DEFAULT if SigSet::STOPS.has(info.signal) => return Next::StopUnlessOrphaned(info.signal),
            DEFAULT => {
                process.group_exit = Some(info.signal);
                drop(signals);
                send::look_all(&thread.process, &process);
                return Next::Die(info.signal);
            }
            _ => {
                if action.flags & u64::from(abi::SA_RESETHAND) != 0 {
                    process.actions.set(info.signal, Action { handler: DEFAULT, ..action });
                }
                return Next::Handle(info, action);
            }
        }
    }
}

/// Stops all threads.
fn begin_stop(thread: &Thread, signal: u32) {
    let mut process = thread.process.signals.lock();
    // Something that ends the stop may have come meanwhile.
    if process.group_exit.is_none() && process.stop.is_none() && !process.pending.set().has(abi::SIGCONT) {
        process.set_stop(signal);
        send::look_all(&thread.process, &process);
    }
}

/// Waits, stopped, until the process continues or is to die.
fn stop(thread: &Arc<Thread>) {
    let told = {
        let mut process = thread.process.signals.lock();
        thread.signals.lock().stopped = process.stop.is_some();
        settle_stop(thread, &mut process)
    };
    if let Some(signal) = told {
        send::notify_parent(&thread.process, abi::CLD_STOPPED, signal as i32);
    }
    loop {
        {
            let process = thread.process.signals.lock();
            if process.stop.is_none() || process.group_exit.is_some() || process.exec.is_some() {
                let mut signals = thread.signals.lock();
                signals.stopped = false;
                recalculate(thread, &process, &signals);
                return;
            }
        }
        sched::park();
    }
}

/// If all threads have stopped now, the process has; returns the signal that stopped it.
pub(in super::super) fn settle_stop(thread: &Thread, process: &mut super::ProcessSignals) -> Option<u32> {
    let signal = process.stop?;
    let all = thread
        .process
        .family
        .lock()
        .threads
        .iter()
        .all(|thread| thread.is_exiting() || thread.signals.lock().stopped);
    if !all || process.stopped {
        return None;
    }
    process.stopped = true;
    process.report_continue = false;
    process.report_stop = Some(signal);
    thread.process.reportable.store(true, Relaxed); // Relaxed: the parent is woken after this.
    Some(signal)
}

/// Decides how a call that a signal interrupted goes on.
fn restart(frame: &mut TrapFrame, action: Option<&Action>) {
    let original = frame.error;
    if frame.vector != SYSCALL || original as i64 == -1 {
        return;
    }
    let result = (frame.rax as i64).wrapping_neg();
    let is = |errno: Errno| result == i64::from(errno.raw());
    let again = match action {
        _ if is(ERESTARTNOINTR) => true,
        None if is(ERESTARTSYS) || is(ERESTARTNOHAND) => true,
        Some(action) if is(ERESTARTSYS) => action.flags & u64::from(abi::SA_RESTART) != 0,
        None if is(ERESTART_RESTARTBLOCK) => {
            frame.rax = abi::__NR_restart_syscall.into();
            frame.rip -= CALL_LEN;
            frame.error = u64::MAX;
            return;
        }
        Some(_) if is(ERESTARTNOHAND) || is(ERESTART_RESTARTBLOCK) => false,
        _ => return,
    };
    if again {
        frame.rax = original;
        frame.rip -= CALL_LEN;
    } else {
        frame.rax = u64::from(Errno::EINTR.raw()).wrapping_neg();
    }
    frame.error = u64::MAX;
}
