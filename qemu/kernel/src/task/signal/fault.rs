//! Exceptions of user mode.

use alloc::sync::Arc;

use linux_raw_sys::general as abi;

use super::super::Thread;
use super::{Action, DEFAULT, Detail, IGNORE, Info, SigSet, recalculate, send};
use crate::arch::trap::TrapFrame;
use crate::mm::fault::Fault;

/// Sends `thread`, the running one, the signal of its exception.
pub(crate) fn exception(thread: &Arc<Thread>, frame: &mut TrapFrame, fault: Option<(Fault, usize)>) {
    let at = |signal: u32, code: u32, address: u64| Info {
        signal,
        errno: 0,
        code: code as i32,
        detail: Detail::Fault { address },
    };
    let info = match (fault, frame.vector) {
        (Some((Fault::Segv(code), address)), _) => at(abi::SIGSEGV, code, address as u64),
        (Some((Fault::Bus(code), address)), _) => at(abi::SIGBUS, code, address as u64),
        (Some((Fault::NoMemory, _)), _) => {
            // If it is not this process that has to go, the program touches it again.
            crate::mm::oom::relieve();
            return;
        }
        (None, 0) => at(abi::SIGFPE, abi::FPE_INTDIV, frame.rip),
        (None, 1) => at(abi::SIGTRAP, abi::TRAP_TRACE, frame.rip),
        (None, 3) => Info::kernel(abi::SIGTRAP),
        (None, 6) => at(abi::SIGILL, abi::ILL_ILLOPN, frame.rip),
        (None, 11 | 12) => Info::kernel(abi::SIGBUS),
        (None, 16 | 19) => at(abi::SIGFPE, abi::FPE_FLTINV, frame.rip),
        (None, 17) => at(abi::SIGBUS, abi::BUS_ADRALN, 0),
        (None, _) => Info::kernel(abi::SIGSEGV),
    };
    force(thread, info);
}

/// Sends `thread`, the running one, a signal that it cannot block or ignore: then it dies.
pub(crate) fn force(thread: &Arc<Thread>, info: Info) {
    let mut process = thread.process.signals.lock();
    let action = process.actions.get(info.signal);
    let mut signals = thread.signals.lock();
    if signals.mask.has(info.signal) || action.handler == IGNORE {
        process.actions.set(info.signal, Action { handler: DEFAULT, ..action });
        signals.mask = signals.mask.without(SigSet::of(&[info.signal]));
    }
    if process.actions.get(info.signal).handler == DEFAULT {
        process.group_exit.get_or_insert(info.signal);
        drop(signals);
        send::look_all(&thread.process, &process);
        return;
    }
    signals.pending.push(info, usize::MAX);
    recalculate(thread, &process, &signals);
}
