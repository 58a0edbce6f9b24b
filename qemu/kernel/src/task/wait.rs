//! wait4(2), waitid(2).

use alloc::sync::Arc;
use core::sync::atomic::Ordering::Relaxed;

use linux_raw_sys::general as abi;
use syscalls::Errno;

use super::process::{State, Used};
use super::signal::{INFO_SIZE, Info, uid_for};
use super::{Pid, Process, Thread, exit, time, tree};
use crate::fs;
use crate::mm::user;
use crate::sched::wait::Wait;

const WNOHANG: u32 = 1;
const WUNTRACED: u32 = 2;
const WSTOPPED: u32 = WUNTRACED;
const WEXITED: u32 = 4;
const WCONTINUED: u32 = 8;
const WNOWAIT: u32 = 0x0100_0000;
const WNOTHREAD: u32 = 0x2000_0000;
const WALL: u32 = 0x4000_0000;
const WCLONE: u32 = 0x8000_0000;

/// Which children.
enum Which {
    Any,
    /// `None`: a number that nobody has.
    Child(Option<Arc<Pid>>),
    Group(Option<Arc<Pid>>),
}

/// What was found.
struct Found {
    pid: u32,
    uid: u32,
    /// `CLD_*`, and what `si_status` has then.
    code: u32,
    value: i32,
    /// As wait4(2) has it.
    status: u32,
    used: Used,
}

/// How a look at the children ended.
enum Look {
    Found(Found),
    NotYet,
    NoChild,
}

fn look(thread: &Thread, which: &Which, options: u32) -> Look {
    let process = &thread.process;
    let mut gone = None;
    let result = {
        let _tree = tree();
        let mut result = Look::NoChild;
        let mut from = 0;
        while let Some((index, child)) = next_child(process, which, options, from) {
            from = index + 1;
            result = Look::NotYet;
            // Relaxed, both: under `tree`, or set before this process is woken.
            if !child.reportable.load(Relaxed) {
                continue;
            }
            if let Some(found) = look_at(thread, &child, options) {
                if options & WNOWAIT == 0 && matches!(child.state(), State::Zombie(_)) {
                    account(process, &found.used);
                    gone = exit::unlink(&child, process);
                }
                result = Look::Found(found);
                break;
            }
        }
        result
    };
    if let Some(process) = gone {
        fs::proc::process_gone(&process.pid);
    }
    result
}

/// The next child that is meant: one that has something to tell, or else any.
fn next_child(process: &Process, which: &Which, options: u32, from: usize) -> Option<(usize, Arc<Process>)> {
    let is_meant = |child: &Arc<Process>| {
        // Relaxed: under `tree`.
        let is_clone = child.exit_signal.load(Relaxed) != abi::SIGCHLD;
        let right_kind = options & WALL != 0 || is_clone == (options & WCLONE != 0);
        right_kind
            && match which {
                Which::Any => true,
                Which::Child(pid) => pid.as_ref().is_some_and(|pid| Arc::ptr_eq(pid, &child.pid)),
                Which::Group(group) => group.as_ref().is_some_and(|group| Arc::ptr_eq(group, &child.group())),
            }
    };
    let family = process.family.lock();
    let mut silent = None;
    for (index, child) in family.children.iter().enumerate().skip(from).filter(|(_, child)| is_meant(child)) {
        // Relaxed: under `tree`, or set before this process is woken.
        if child.reportable.load(Relaxed) {
            return Some((index, Arc::clone(child)));
        }
        silent.get_or_insert(index);
    }
    // All the same then: there is one, and no more to look at.
    silent.map(|index| (family.children.len(), Arc::clone(&family.children[index])))
}

fn look_at(thread: &Thread, child: &Arc<Process>, options: u32) -> Option<Found> {
    let found = |code: u32, value: u32, status: u32| {
        let leader_uid = child.leader().map(|leader| leader.credentials().uid);
        let uid = leader_uid.unwrap_or_else(|| child.uid.load(Relaxed)); // Relaxed: under `tree`.
        let (own, children) = child.times();
        let used = Used { own, children, switches: child.switches(), ..*child.used.lock() };
        Some(Found {
            pid: child.pid_in(thread.pid_ns()).unwrap_or(0),
            uid: uid_for(uid, &thread.process),
            code,
            value: value as i32,
            status,
            used,
        })
    };
    if let State::Zombie(status) = child.state() {
        if options & WEXITED == 0 {
            return None;
        }
        return match status & 0x7f {
            0 => found(abi::CLD_EXITED, status >> 8 & 0xff, status),
            signal => found(abi::CLD_KILLED, signal, status),
        };
    }
    let keep = options & WNOWAIT != 0;
    let mut signals = child.signals.lock();
    if options & WSTOPPED != 0
        && let Some(signal) = signals.report_stop
    {
        if !keep {
            signals.report_stop = None;
        }
        drop(signals);
        return found(abi::CLD_STOPPED, signal, signal << 8 | 0x7f);
    }
    if options & WCONTINUED != 0 && signals.report_continue {
        signals.report_continue = keep;
        drop(signals);
        return found(abi::CLD_CONTINUED, abi::SIGCONT, 0xffff);
    }
    None
}

/// What a child and its children used is now used by children of `process`.
fn account(process: &Process, used: &Used) {
    let mut sum = process.used.lock();
    sum.children.0 += used.own.0 + used.children.0;
    sum.children.1 += used.own.1 + used.children.1;
    sum.children_peak = sum.children_peak.max(used.peak());
}

fn wait(thread: &Thread, which: &Which, options: u32) -> Result<Option<Found>, Errno> {
    let process = &thread.process;
    process.child_wait.wait(Wait::INTERRUPTIBLE, || match look(thread, which, options) {
        Look::Found(found) => Some(Ok(Some(found))),
        Look::NoChild => Some(Err(Errno::ECHILD)),
        Look::NotYet if options & WNOHANG != 0 => Some(Ok(None)),
        Look::NotYet => None,
    })?
}

/// wait4(2).
pub(super) fn wait4(
    thread: &Thread,
    pid: i32,
    status: usize,
    options: u32,
    usage: usize,
) -> Result<usize, Errno> {
    if options & !(WNOHANG | WUNTRACED | WCONTINUED | WNOTHREAD | WCLONE | WALL) != 0 {
        return Err(Errno::EINVAL);
    }
    let which = match pid {
        i32::MIN => return Err(Errno::ESRCH),
        -1 => Which::Any,
        0 => Which::Group(Some(thread.process.group())),
        1.. => Which::Child(thread.pid_ns().pid(pid as u32)),
        _ => Which::Group(thread.pid_ns().pid(pid.unsigned_abs())),
    };
    let Some(found) = wait(thread, &which, options | WEXITED)? else { return Ok(0) };
    if status != 0 {
        user::put(status, found.status)?;
    }
    if usage != 0 {
        user::write(usage, &time::rusage(found.used.total(), found.used.switches, found.used.peak()))?;
    }
    Ok(found.pid as usize)
}

/// waitid(2).
pub(super) fn waitid(
    thread: &Thread,
    kind: u32,
    id: i32,
    info: usize,
    options: u32,
    usage: usize,
) -> Result<usize, Errno> {
    let known = WNOHANG | WNOWAIT | WEXITED | WSTOPPED | WCONTINUED | WNOTHREAD | WCLONE | WALL;
    if options & !known != 0 || options & (WEXITED | WSTOPPED | WCONTINUED) == 0 {
        return Err(Errno::EINVAL);
    }
    let mut nonblocking = false;
    let which = match kind {
        abi::P_ALL => Which::Any,
        abi::P_PID if id <= 0 => return Err(Errno::EINVAL),
        abi::P_PID => Which::Child(thread.pid_ns().pid(id as u32)),
        abi::P_PGID if id < 0 => return Err(Errno::EINVAL),
        abi::P_PGID if id == 0 => Which::Group(Some(thread.process.group())),
        abi::P_PGID => Which::Group(thread.pid_ns().pid(id as u32)),
        abi::P_PIDFD if id < 0 => return Err(Errno::EINVAL),
        abi::P_PIDFD => {
            let (pid, nonblock) = super::pidfd::of_descriptor(thread, id)?;
            nonblocking = nonblock;
            Which::Child(Some(pid))
        }
        _ => return Err(Errno::EINVAL),
    };
    let hang = if nonblocking { WNOHANG } else { 0 };
    let found = wait(thread, &which, options | hang)?;
    if found.is_none() && nonblocking && options & WNOHANG == 0 {
        return Err(Errno::EAGAIN);
    }
    if let Some(found) = &found
        && usage != 0
    {
        user::write(usage, &time::rusage(found.used.total(), found.used.switches, found.used.peak()))?;
    }
    if info != 0 {
        let bytes = found.map_or([0; INFO_SIZE], |found| {
            let detail = super::signal::Detail::Child {
                pid: found.pid,
                uid: found.uid,
                status: found.value,
                user_ticks: 0,
                system_ticks: 0,
            };
            Info { signal: abi::SIGCHLD, errno: 0, code: found.code as i32, detail }.to_bytes()
        });
        // What comes after `si_status` is left alone.
        user::write(info, &bytes[..12])?;
        user::write(info + 16, &bytes[16..28])?;
    }
    Ok(0)
}
