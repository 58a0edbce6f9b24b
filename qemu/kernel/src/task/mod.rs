//! Processes and threads.
//!
//! # Who owns what
//! - A [`Thread`] is what Linux calls a task: a tid, registers of user mode, a signal mask, credentials and mount namespace
//!   (`mounts`), descriptors, a space. Several make a [`Process`]: a pid, signal actions, limits, a place in the family.
//! - The scheduler's entity of a thread holds the `Thread` until it has ended and its stack is left. The `Thread` knows the
//!   entity weakly, to wake it.
//! - A process holds its living threads; a parent holds its children until it has waited for them; the last thread that
//!   ends leaves the process behind as a zombie, a number and an exit status. Parents, groups and namespaces are known to
//!   children, `Pid`s to all.
//!
//! # What exit frees when
//! 1. The thread itself, on its way out: robust futexes, `clear_child_tid`, its space (the CPU lets go of it at once), its
//!    descriptors, its place in the file system and its mount namespace. All of that may block, so it comes first.
//! 2. Under [`tree`]: it leaves its process. The last one gives its children away, sends its parent a signal and wakes who
//!    waits, or is released at once if nobody wants to know.
//! 3. Whoever waits for the zombie releases it: numbers, group, session, what it used.
//!
//! # How signals reach a thread in the kernel
//! Sending puts a signal into a queue, sets `work` of a thread that may take it, and wakes that thread: if it parks it
//! looks, and an interruptible wait returns a restart code (see [`signal`]); a killable one ends for SIGKILL only. If it
//! runs in user mode on another CPU an interrupt makes it enter the kernel. On every way to user mode [`leave_kernel`]
//! delivers what is pending; a thread that is to die ends there, and nowhere else.
//!
//! # Lock order
//! `tree` → `Process::signals` → `Thread::signals`; `tree` → `Process::family`, numbers of a PID namespace, groups of a
//! `Pid`. All others are leaves. All are spin locks; under none of them is user memory touched, or anything dropped that
//! may block.

use alloc::sync::Arc;
use core::sync::atomic::Ordering::Relaxed;

use x86_64::instructions::interrupts;

use crate::arch::clock;
use crate::arch::spin::SpinLock;
use crate::arch::trap::TrapFrame;
use crate::arch::user::UserState;
use crate::mm::fault::Fault;
use crate::mm::space::AddressSpace;
use crate::mm::user;
use crate::sched;

pub(crate) mod calls;
pub(crate) mod caps;
pub(crate) mod clone;
pub(crate) mod creds;
pub(crate) mod exec;
pub(crate) mod exit;
mod futex;
mod groups;
pub(crate) mod init;
mod kcmp;
pub(crate) mod limits;
pub(crate) mod ns;
pub(crate) mod ns_calls;
pub(crate) mod pid;
pub(crate) mod pidfd;
mod posix_timers;
mod prctl;
pub(crate) mod process;
mod reboot;
mod sched_calls;
pub(crate) mod signal;
pub(crate) mod stats;
mod sysinfo;
pub(crate) mod thread;
pub(crate) mod time;
pub(crate) mod time_ns;
pub(crate) mod timers;
pub(crate) mod user_ns;
mod users;
mod wait;

pub(crate) use init::Init;
pub(crate) use ns::Namespaces;
pub(crate) use pid::{Pid, PidNamespace};
pub(crate) use process::{Process, Session};
pub(crate) use stats::stats;
pub(crate) use thread::{Mounts, Thread};

static TREE: SpinLock<()> = SpinLock::new(());

/// The lock of all relations between processes.
pub(crate) fn tree() -> lock_api::MutexGuard<'static, crate::arch::spin::RawSpin, ()> {
    TREE.lock()
}

/// The running thread.
///
/// # Panics
/// If it is none of a user program.
pub(crate) fn current() -> Arc<Thread> {
    sched::with_current(|entity| sched::user_of(entity).cloned()).expect("a thread of a user program")
}

/// Runs `look` on the running thread, if it is one of a user program.
pub(crate) fn with_current<R>(look: impl FnOnce(&Thread) -> R) -> Option<R> {
    sched::with_current(|entity| sched::user_of(entity).map(|thread| look(thread)))
}

/// The running thread came from user mode. Context: before all else; interrupts on or off.
pub(crate) fn enter_kernel() {
    with_current(|thread| thread.clock_user(clock::now_ns()));
}

/// The last steps before user mode: signals, other threads whose turn it is, other CPUs. Returns with interrupts off.
///
/// Context: the whole state of user mode is in `frame` and in the registers that the kernel does not use; nothing is known
/// of this CPU afterwards.
pub(crate) fn leave_kernel(frame: &mut TrapFrame) {
    with_current(|thread| {
        timers::count(thread);
        timers::count_limit(thread);
        posix_timers::count(thread);
    });
    loop {
        if with_current(Thread::has_work) == Some(true) {
            interrupts::enable();
            // Nothing is held when the thread ends.
            let end = signal::deliver::deliver(&current(), frame);
            if let Some(status) = end {
                exit::exit_current(status);
            }
        }
        interrupts::disable();
        if with_current(Thread::has_work) != Some(true) && !sched::at_border() {
            break;
        }
    }
    with_current(|thread| thread.clock_kernel(clock::now_ns()));
}

/// Puts the registers of user mode that the kernel does not use, which were changed, into the CPU. Context: `thread` runs, and is not
/// preempted.
#[expect(unsafe_code, reason = "loads the registers of user mode")]
fn reload(thread: &Thread, state: &UserState) {
    let Some(top) = thread.stack_top() else { return };
    // SAFETY: the top of the stack of the running thread.
    unsafe { state.load(top) };
}

/// Where a new thread of a user program begins: the way to user mode.
#[expect(unsafe_code, reason = "enters user mode for the first time")]
pub(crate) fn first_steps() -> ! {
    let frame = with_current(|thread| {
        let address = thread.set_child_tid.load(Relaxed); // Relaxed: written before it started.
        if address != 0 {
            // As Linux, which tells nobody if that fails.
            let _ = user::put(address, thread.own_tid());
        }
        thread.start.lock().take()
    });
    let mut frame = frame.flatten().expect("a thread that starts knows where");
    leave_kernel(&mut frame);
    // SAFETY: the space and the state of the running thread were put in by the switch to it; `leave_kernel` returned with
    // interrupts off and nothing held. The frame is a copy of one of user mode, or of `TrapFrame::user`.
    unsafe { crate::arch::user::enter(&frame) }
}

/// In a switch: what the CPU has of user mode goes from one thread to another. Context: interrupts off.
#[expect(unsafe_code, reason = "loads the registers of user mode")]
pub(crate) fn switch(from: Option<&Thread>, to: Option<&Arc<Thread>>) {
    let now_ns = clock::now_ns();
    if let Some(from) = from {
        from.clock_kernel(now_ns);
        from.user_state().lock().save();
    }
    let Some(to) = to else { return AddressSpace::deactivate() };
    to.clock_resume(now_ns);
    match to.space() {
        Some(space) => space.activate(),
        None => AddressSpace::deactivate(),
    }
    let Some(top) = to.stack_top() else { return };
    // SAFETY: the top of the stack of `to`, which runs on this CPU from this switch on.
    unsafe { to.user_state().lock().load(top) };
}

/// An exception of user mode that memory management did not resolve.
///
/// Context: interrupts on; `fault` says what a page fault was about.
pub(crate) fn exception(frame: &mut TrapFrame, fault: Option<(Fault, usize)>) {
    signal::fault::exception(&current(), frame, fault);
}
