//! From registers to the subsystem that a system call is of, and back.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use syscalls::Errno;

use crate::arch::trap::TrapFrame;
use crate::console::println;
use crate::task::{self, Thread};

/// The highest number that an error can have.
const ERRNO_MAX: usize = 4095;

/// Whether calls that nobody knows are told on the console (`debug` on the command line).
pub(crate) static TELL_UNKNOWN: AtomicBool = AtomicBool::new(false);

/// A system call of the running thread: its number and arguments are in `frame`, where the result goes.
///
/// Context: interrupts on.
pub(crate) fn enter(frame: &mut TrapFrame) {
    task::stats::count_syscall();
    let thread = task::current();
    let nr = frame.rax as u32;
    if let Some(mut done) = task::calls::call_with_frame(&thread, nr, frame) {
        // A new process takes much at once. What failed so has done nothing.
        if done == Err(Errno::ENOMEM) && crate::mm::oom::has_helped() {
            done = task::calls::call_with_frame(&thread, nr, frame).unwrap_or(done);
        }
        put(&thread, frame, done);
        return;
    }
    let args = [frame.rdi, frame.rsi, frame.rdx, frame.r10, frame.r8, frame.r9].map(|arg| arg as usize);
    let result = dispatch(&thread, nr, args);
    put(&thread, frame, result);
}

fn put(thread: &Thread, frame: &mut TrapFrame, result: Result<usize, Errno>) {
    frame.rax = match result {
        Ok(value) => value as u64,
        Err(errno) => {
            // Codes of the kernel's own are seen to on the way out.
            if errno.raw() >= task::signal::ERESTARTSYS.raw() {
                thread.note_restart();
            }
            u64::from(errno.raw()).wrapping_neg()
        }
    };
}

/// Makes the call `nr`.
fn dispatch(thread: &Arc<Thread>, nr: u32, args: [usize; 6]) -> Result<usize, Errno> {
    let subsystems = [
        task::calls::call,
        crate::mm::calls::call,
        crate::fs::calls::call,
        crate::ipc::call,
        crate::debug_call::call,
    ];
    if let Some(result) = subsystems.iter().find_map(|call| call(thread, nr, args)) {
        debug_assert!(result.is_ok_and(|value| value < ERRNO_MAX.wrapping_neg()) || result.is_err());
        return result;
    }
    // Relaxed: set once, before user mode. Every program of a recent libc tries rseq(2) and does without.
    if TELL_UNKNOWN.load(Relaxed) && nr != linux_raw_sys::general::__NR_rseq {
        let comm = thread.comm();
        let name = comm.split(|byte| *byte == 0).next().unwrap_or_default();
        println!("kernel: no system call {nr} (thread {}, {})", thread.tid(), name.escape_ascii());
    }
    Err(Errno::ENOSYS)
}
