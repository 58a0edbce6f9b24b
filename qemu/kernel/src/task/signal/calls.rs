//! The system calls about signals.

use alloc::sync::Arc;

use linux_raw_sys::general as abi;
use syscalls::Errno;
use syscalls::credentials::Capabilities;

use super::super::{Pid, Process, Thread, time};
use super::{
    Action, AltStack, DEFAULT, ERESTARTNOHAND, IGNORE, INFO_SIZE, Info, SIGNALS, SigSet, change_mask, frame,
    recalculate, send,
};
use crate::arch::trap::TrapFrame;
use crate::mm::user;
use crate::sched;

/// Bytes of a signal set.
const SET_SIZE: usize = 8;
/// A smaller alternative stack than this is none.
const ALT_STACK_MIN: usize = 2048;

fn check_size(size: usize) -> Result<(), Errno> {
    if size == SET_SIZE { Ok(()) } else { Err(Errno::EINVAL) }
}

fn get_set(addr: usize, size: usize) -> Result<SigSet, Errno> {
    check_size(size)?;
    user::get(addr).map(SigSet)
}

/// rt_sigaction(2).
pub(crate) fn rt_sigaction(
    thread: &Thread,
    signal: u32,
    new: usize,
    old: usize,
    size: usize,
) -> Result<usize, Errno> {
    check_size(size)?;
    let new = if new == 0 {
        None
    } else {
        let [handler, flags, restorer, mask]: [u64; 4] = user::get(new)?;
        Some(Action {
            handler: handler as usize,
            flags,
            restorer: restorer as usize,
            mask: SigSet(mask).without(SigSet::UNBLOCKABLE),
        })
    };
    if !(1..=SIGNALS).contains(&signal) || new.is_some() && SigSet::UNBLOCKABLE.has(signal) {
        return Err(Errno::EINVAL);
    }
    let before = {
        let mut process = thread.process.signals.lock();
        let before = process.actions.get(signal);
        if let Some(action) = new {
            process.actions.set(signal, action);
            let ignores =
                action.handler == IGNORE || action.handler == DEFAULT && SigSet::IGNORED.has(signal);
            if ignores {
                let set = SigSet::of(&[signal]);
                process.pending.remove(set);
                for thread in &thread.process.family.lock().threads {
                    let mut signals = thread.signals.lock();
                    signals.pending.remove(set);
                    recalculate(thread, &process, &signals);
                }
            }
        }
        before
    };
    if old != 0 {
        user::put(old, [before.handler as u64, before.flags, before.restorer as u64, before.mask.0])?;
    }
    Ok(0)
}

/// rt_sigprocmask(2).
pub(crate) fn rt_sigprocmask(
    thread: &Thread,
    how: u32,
    new: usize,
    old: usize,
    size: usize,
) -> Result<usize, Errno> {
    check_size(size)?;
    let before = if new == 0 {
        thread.signals.lock().mask
    } else {
        let set = get_set(new, size)?;
        match how {
            abi::SIG_BLOCK => change_mask(thread, |mask| mask.with(set)),
            abi::SIG_UNBLOCK => change_mask(thread, |mask| mask.without(set)),
            abi::SIG_SETMASK => change_mask(thread, |_| set),
            _ => return Err(Errno::EINVAL),
        }
    };
    if old != 0 {
        user::put(old, before.0)?;
    }
    Ok(0)
}

/// rt_sigpending(2).
pub(crate) fn rt_sigpending(thread: &Thread, addr: usize, size: usize) -> Result<usize, Errno> {
    if size > SET_SIZE {
        return Err(Errno::EINVAL);
    }
    let set = thread.pending().and(thread.signals.lock().mask);
    user::write(addr, &set.0.to_le_bytes()[..size])?;
    Ok(0)
}

/// rt_sigsuspend(2).
pub(crate) fn rt_sigsuspend(thread: &Thread, addr: usize, size: usize) -> Result<usize, Errno> {
    let mask = get_set(addr, size)?;
    super::set_temporary_mask(thread, mask);
    pause(thread)
}

/// pause(2).
pub(crate) fn pause(thread: &Thread) -> Result<usize, Errno> {
    while !thread.signal_pending() {
        sched::park();
    }
    Err(ERESTARTNOHAND)
}

/// rt_sigtimedwait(2).
pub(crate) fn rt_sigtimedwait(
    thread: &Thread,
    set: usize,
    info: usize,
    timeout: usize,
    size: usize,
) -> Result<usize, Errno> {
    let wanted = get_set(set, size)?.without(SigSet::UNBLOCKABLE);
    let deadline_ns = if timeout == 0 { None } else { Some(time::deadline_after(timeout)?) };
    let taken = {
        // While it waits, what it wants does not count as blocked, so that it is woken.
        let old = thread.signals.lock().mask;
        loop {
            if let Some(info) = thread.dequeue(wanted) {
                break Ok(info);
            }
            {
                let process = thread.process.signals.lock();
                let mut signals = thread.signals.lock();
                signals.waits_for = wanted;
                signals.mask = old.without(wanted);
                recalculate(thread, &process, &signals);
            }
            let over = deadline_ns.is_some_and(|deadline_ns| crate::arch::clock::now_ns() >= deadline_ns);
            if !thread.signal_pending() && !over {
                sched::park_until(deadline_ns);
            }
            {
                let process = thread.process.signals.lock();
                let mut signals = thread.signals.lock();
                signals.waits_for = SigSet::EMPTY;
                signals.mask = old;
                recalculate(thread, &process, &signals);
            }
            if let Some(info) = thread.dequeue(wanted) {
                break Ok(info);
            }
            if thread.signal_pending() {
                break Err(Errno::EINTR);
            }
            if over {
                break Err(Errno::EAGAIN);
            }
        }
    }?;
    if info != 0 {
        user::write(info, &taken.to_bytes())?;
    }
    Ok(taken.signal as usize)
}

/// sigaltstack(2).
pub(crate) fn sigaltstack(thread: &Thread, frame: &TrapFrame) -> Result<usize, Errno> {
    let (new, old) = (frame.rdi as usize, frame.rsi as usize);
    let now = thread.signals.lock().alt_stack;
    let stack_pointer = frame.rsp as usize;
    if new != 0 {
        let [base, flags, size]: [u64; 3] = user::get(new)?;
        let stack = AltStack { base: base as usize, size: size as usize, flags: flags as u32 };
        set_alt_stack(thread, stack, stack_pointer)?;
    }
    if old != 0 {
        let on = if now.contains(stack_pointer) { abi::SS_ONSTACK } else { 0 };
        user::put(old, [now.base as u64, (now.flags | on).into(), now.size as u64])?;
    }
    Ok(0)
}

/// Sets the alternative stack of `thread`, whose stack pointer is `stack_pointer`.
///
/// # Errors
/// `EPERM`: it is on it. `EINVAL`: flags. `ENOMEM`: too small.
pub(super) fn set_alt_stack(thread: &Thread, new: AltStack, stack_pointer: usize) -> Result<(), Errno> {
    let mut signals = thread.signals.lock();
    if signals.alt_stack.contains(stack_pointer) {
        return Err(Errno::EPERM);
    }
    let mode = new.flags & !abi::SS_FLAG_BITS;
    signals.alt_stack = match mode {
        abi::SS_DISABLE => AltStack::NONE,
        0 | abi::SS_ONSTACK if new.size < ALT_STACK_MIN => return Err(Errno::ENOMEM),
        0 | abi::SS_ONSTACK => AltStack { flags: new.flags & abi::SS_FLAG_BITS, ..new },
        _ => return Err(Errno::EINVAL),
    };
    Ok(())
}

/// rt_sigreturn(2).
pub(crate) fn rt_sigreturn(thread: &Arc<Thread>, frame: &mut TrapFrame) -> Result<usize, Errno> {
    if frame::pop(thread, frame).is_err() {
        super::fault::force(thread, Info::kernel(abi::SIGSEGV));
    }
    Ok(frame.rax as usize)
}

/// Whether `thread` may send `signal` to `target`.
pub(crate) fn may_signal(thread: &Thread, target: &Thread, signal: u32) -> bool {
    if Arc::ptr_eq(&thread.process, &target.process) {
        return true;
    }
    let (own, other) = (thread.credentials(), target.credentials());
    let same = [own.uid, own.euid].iter().any(|uid| *uid == other.uid || *uid == other.suid);
    let continues =
        signal == abi::SIGCONT && Arc::ptr_eq(&thread.process.session(), &target.process.session());
    same || continues || own.capable(&other.user_ns, Capabilities::KILL)
}

/// Sends a signal to a process, if the thread may; 0 only asks that.
fn signal_process(
    thread: &Thread,
    target: &Arc<Process>,
    signal: u32,
    info: Option<Info>,
) -> Result<(), Errno> {
    // A process that has ended can be signalled, to no effect.
    if let Some(leader) = target.leader()
        && !may_signal(thread, &leader, signal)
    {
        return Err(Errno::EPERM);
    }
    if signal == 0 {
        return Ok(());
    }
    let info = info.unwrap_or_else(|| Info::from_thread(signal, abi::SI_USER as i32, thread, target));
    send::send(target, None, info)
}

fn check_signal(signal: u32) -> Result<u32, Errno> {
    if signal <= SIGNALS { Ok(signal) } else { Err(Errno::EINVAL) }
}

/// kill(2).
pub(crate) fn kill(thread: &Thread, pid: i32, signal: u32) -> Result<usize, Errno> {
    check_signal(signal)?;
    match pid {
        1.. => {
            // A thread's number will do for its process.
            let found = thread.pid_ns().pid(pid as u32).ok_or(Errno::ESRCH)?;
            let process =
                found.process().or_else(|| found.thread().map(|thread| Arc::clone(&thread.process)));
            signal_process(thread, &process.ok_or(Errno::ESRCH)?, signal, None)?;
        }
        -1 => {
            let (mut any, mut result, mut from) = (false, Ok(()), 2);
            while let Some((nr, process)) = thread.pid_ns().next_process(from) {
                from = nr + 1;
                if !Arc::ptr_eq(&process, &thread.process) {
                    any = true;
                    let sent = signal_process(thread, &process, signal, None);
                    result = if sent == Err(Errno::EPERM) { result } else { sent };
                }
            }
            if !any {
                return Err(Errno::ESRCH);
            }
            result?;
        }
        0 => signal_group(thread, &thread.process.group(), signal, None)?,
        i32::MIN => return Err(Errno::ESRCH),
        _ => {
            let group = thread.pid_ns().pid(pid.unsigned_abs()).ok_or(Errno::ESRCH)?;
            signal_group(thread, &group, signal, None)?;
        }
    }
    Ok(0)
}

/// Sends to a group; it is enough to reach one.
fn signal_group(thread: &Thread, group: &Pid, signal: u32, info: Option<Info>) -> Result<(), Errno> {
    let mut result = Err(Errno::ESRCH);
    for process in group.group_members() {
        let sent = signal_process(thread, &process, signal, info);
        result = if result.is_ok() { result } else { sent };
    }
    result
}

/// tkill(2), tgkill(2): to the thread `tid` of the process `tgid`, any if that is `None`.
pub(crate) fn tgkill(thread: &Thread, tgid: Option<i32>, tid: i32, signal: u32) -> Result<usize, Errno> {
    if tid <= 0 || tgid.is_some_and(|tgid| tgid <= 0) {
        return Err(Errno::EINVAL);
    }
    check_signal(signal)?;
    let target = find_thread(thread, tgid, tid)?;
    if !may_signal(thread, &target, signal) {
        return Err(Errno::EPERM);
    }
    if signal != 0 {
        let info = Info::from_thread(signal, abi::SI_TKILL, thread, &target.process);
        send::send(&target.process, Some(&target), info)?;
    }
    Ok(0)
}

fn find_thread(thread: &Thread, tgid: Option<i32>, tid: i32) -> Result<Arc<Thread>, Errno> {
    let target = thread.pid_ns().thread(tid as u32).ok_or(Errno::ESRCH)?;
    match tgid {
        Some(tgid) if target.process.pid_in(thread.pid_ns()) != Some(tgid as u32) => Err(Errno::ESRCH),
        _ => Ok(target),
    }
}

fn read_info(signal: u32, addr: usize, to_self: bool) -> Result<Info, Errno> {
    let bytes: [u8; INFO_SIZE] = user::get(addr)?;
    let info = Info::from_bytes(signal, &bytes);
    // Nobody says that it is the kernel.
    if (info.code >= 0 || info.code == abi::SI_TKILL) && !to_self {
        return Err(Errno::EPERM);
    }
    Ok(info)
}

/// rt_sigqueueinfo(2).
pub(crate) fn rt_sigqueueinfo(thread: &Thread, pid: i32, signal: u32, info: usize) -> Result<usize, Errno> {
    // A thread's number will do for its process.
    let found = u32::try_from(pid).ok().and_then(|pid| thread.pid_ns().pid(pid));
    let target = found
        .and_then(|pid| pid.process().or_else(|| pid.thread().map(|thread| Arc::clone(&thread.process))));
    let to_self = target.as_ref().is_some_and(|target| Arc::ptr_eq(target, &thread.process));
    let info = read_info(signal, info, to_self)?;
    check_signal(signal)?;
    signal_process(thread, &target.ok_or(Errno::ESRCH)?, signal, Some(info)).map(|()| 0)
}

/// rt_tgsigqueueinfo(2).
pub(crate) fn rt_tgsigqueueinfo(
    thread: &Thread,
    tgid: i32,
    tid: i32,
    signal: u32,
    info: usize,
) -> Result<usize, Errno> {
    if tid <= 0 || tgid <= 0 {
        return Err(Errno::EINVAL);
    }
    check_signal(signal)?;
    let target = find_thread(thread, Some(tgid), tid);
    let to_self = target.as_ref().is_ok_and(|target| Arc::ptr_eq(&target.process, &thread.process));
    let info = read_info(signal, info, to_self)?;
    let target = target?;
    if !may_signal(thread, &target, signal) {
        return Err(Errno::EPERM);
    }
    if signal != 0 {
        send::send(&target.process, Some(&target), info)?;
    }
    Ok(0)
}

/// To whom pidfd_send_signal(2) sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum To {
    Thread,
    Process,
    Group,
}

/// pidfd_send_signal(2), once the descriptor is known to be `target`'s.
pub(crate) fn signal_pidfd(
    thread: &Thread,
    target: &Pid,
    to: To,
    signal: u32,
    info: usize,
) -> Result<usize, Errno> {
    if !target.namespace().is_within(thread.pid_ns()) {
        return Err(Errno::EINVAL);
    }
    let process = target.process();
    let info = if info == 0 {
        None
    } else {
        let to_self =
            to != To::Group && process.as_ref().is_some_and(|target| Arc::ptr_eq(target, &thread.process));
        if user::get::<u32>(info)? != signal {
            return Err(Errno::EINVAL);
        }
        Some(read_info(signal, info, to_self)?)
    };
    check_signal(signal)?;
    match to {
        To::Process => signal_process(thread, &process.ok_or(Errno::ESRCH)?, signal, info)?,
        To::Group => signal_group(thread, target, signal, info)?,
        To::Thread => {
            let target = target.thread().ok_or(Errno::ESRCH)?;
            if !may_signal(thread, &target, signal) {
                return Err(Errno::EPERM);
            }
            if signal != 0 {
                let own = || Info::from_thread(signal, abi::SI_TKILL, thread, &target.process);
                send::send(&target.process, Some(&target), info.unwrap_or_else(own))?;
            }
        }
    }
    Ok(0)
}
