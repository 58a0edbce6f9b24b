//! The system calls about processes and threads: which function makes which.

use alloc::sync::Arc;
use core::sync::atomic::Ordering::Relaxed;

use linux_raw_sys::general as abi;
use syscalls::Errno;
use syscalls::ids::Kind;
use syscalls::user_memory::UserMemory;

use super::signal::calls as signals;
use super::{
    Thread, caps, clone, creds, exec, exit, futex, groups, kcmp, limits, ns_calls, pidfd, posix_timers,
    prctl, reboot, sched_calls, sysinfo, time, timers, wait,
};
use crate::arch::trap::TrapFrame;
use crate::mm::user;
use crate::sched;

/// The running thread's memory, for what `syscalls` reads.
pub(super) struct Memory;

impl UserMemory for Memory {
    fn read(&self, addr: usize, to: &mut [u8]) -> usize {
        user::copy_in(addr, to)
    }

    fn write(&self, addr: usize, from: &[u8]) -> usize {
        user::copy_out(addr, from)
    }
}

/// The call `nr` of `thread`, if it is one of these.
pub(crate) fn call(thread: &Arc<Thread>, nr: u32, args: [usize; 6]) -> Option<Result<usize, Errno>> {
    let [a, b, c, d, e, _] = args;
    Some(match nr {
        // Ends.
        abi::__NR_exit => {
            exit::exit(thread, a as u32);
            Ok(0)
        }
        abi::__NR_exit_group => {
            exit::exit_group(thread, a as u32);
            Ok(0)
        }
        abi::__NR_wait4 => wait::wait4(thread, a as i32, b, c as u32, d),
        abi::__NR_waitid => wait::waitid(thread, a as u32, b as i32, c, d as u32, e),
        // Who and what a thread is.
        abi::__NR_getpid => Ok(thread.process.pid_in(thread.pid_ns()).unwrap_or(0) as usize),
        abi::__NR_gettid => Ok(thread.own_tid() as usize),
        abi::__NR_getppid => {
            let parent = thread.process.parent().and_then(|parent| parent.pid_in(thread.pid_ns()));
            Ok(parent.unwrap_or(0) as usize)
        }
        abi::__NR_getpgrp => groups::getpgid(thread, 0),
        abi::__NR_getpgid => groups::getpgid(thread, a as i32),
        abi::__NR_setpgid => groups::setpgid(thread, a as i32, b as i32),
        abi::__NR_getsid => groups::getsid(thread, a as i32),
        abi::__NR_setsid => groups::setsid(thread),
        abi::__NR_set_tid_address => {
            thread.clear_child_tid.store(a, Relaxed); // Relaxed: own thread.
            Ok(thread.own_tid() as usize)
        }
        abi::__NR_set_robust_list if b != ROBUST_LIST_SIZE => Err(Errno::EINVAL),
        abi::__NR_set_robust_list => {
            thread.robust_list.store(a, Relaxed); // Relaxed: own thread.
            Ok(0)
        }
        abi::__NR_get_robust_list => get_robust_list(thread, a as i32, b, c),
        abi::__NR_futex => futex::futex(thread, args),
        abi::__NR_prctl => prctl::prctl(thread, args),
        abi::__NR_arch_prctl => prctl::arch_prctl(thread, a as u32, b),
        abi::__NR_kcmp => kcmp::kcmp(thread, [a as i32, b as i32], c as u32, [d, e]),
        abi::__NR_personality => {
            let mut settings = thread.settings.lock();
            let old = settings.personality;
            if a as u32 != u32::MAX {
                settings.personality = a as u32;
            }
            Ok(old as usize)
        }
        // Signals.
        abi::__NR_rt_sigaction => signals::rt_sigaction(thread, a as u32, b, c, d),
        abi::__NR_rt_sigprocmask => signals::rt_sigprocmask(thread, a as u32, b, c, d),
        abi::__NR_rt_sigpending => signals::rt_sigpending(thread, a, b),
        abi::__NR_rt_sigsuspend => signals::rt_sigsuspend(thread, a, b),
        abi::__NR_rt_sigtimedwait => signals::rt_sigtimedwait(thread, a, b, c, d),
        abi::__NR_rt_sigqueueinfo => signals::rt_sigqueueinfo(thread, a as i32, b as u32, c),
        abi::__NR_rt_tgsigqueueinfo => signals::rt_tgsigqueueinfo(thread, a as i32, b as i32, c as u32, d),
        abi::__NR_kill => signals::kill(thread, a as i32, b as u32),
        abi::__NR_tkill => signals::tgkill(thread, None, a as i32, b as u32),
        abi::__NR_tgkill => signals::tgkill(thread, Some(a as i32), b as i32, c as u32),
        abi::__NR_pause => signals::pause(thread),
        abi::__NR_restart_syscall => time::restart_syscall(thread),
        abi::__NR_pidfd_open => pidfd::pidfd_open(thread, a as i32, b as u32),
        abi::__NR_pidfd_send_signal => pidfd::pidfd_send_signal(thread, a as i32, b as u32, c, d as u32),
        abi::__NR_pidfd_getfd => pidfd::pidfd_getfd(thread, a as i32, b as i32, c as u32),
        // Users and capabilities.
        abi::__NR_getuid | abi::__NR_geteuid | abi::__NR_getgid | abi::__NR_getegid => {
            Ok(creds::get(thread, nr))
        }
        abi::__NR_getresuid => creds::get_all(thread, Kind::Users, [a, b, c]),
        abi::__NR_getresgid => creds::get_all(thread, Kind::Groups, [a, b, c]),
        abi::__NR_setuid => creds::set_one(thread, Kind::Users, a as u32),
        abi::__NR_setgid => creds::set_one(thread, Kind::Groups, a as u32),
        abi::__NR_setreuid => creds::set_two(thread, Kind::Users, [a as u32, b as u32]),
        abi::__NR_setregid => creds::set_two(thread, Kind::Groups, [a as u32, b as u32]),
        abi::__NR_setresuid => creds::set_three(thread, Kind::Users, [a as u32, b as u32, c as u32]),
        abi::__NR_setresgid => creds::set_three(thread, Kind::Groups, [a as u32, b as u32, c as u32]),
        abi::__NR_setfsuid => Ok(creds::set_fs(thread, Kind::Users, a as u32)),
        abi::__NR_setfsgid => Ok(creds::set_fs(thread, Kind::Groups, a as u32)),
        abi::__NR_getgroups => creds::getgroups(thread, a as i32, b),
        abi::__NR_setgroups => creds::setgroups(thread, a, b),
        abi::__NR_capget => caps::capget(thread, a, b),
        abi::__NR_capset => caps::capset(thread, a, b),
        // Limits, use, scheduling.
        abi::__NR_getrlimit => limits::getrlimit(thread, a as u32, b),
        abi::__NR_setrlimit => limits::setrlimit(thread, a as u32, b),
        abi::__NR_prlimit64 => limits::prlimit(thread, a as u32, b as u32, c, d),
        abi::__NR_getrusage => time::getrusage(thread, a as i32, b),
        abi::__NR_times => time::times(thread, a),
        abi::__NR_sysinfo => sysinfo::sysinfo(a),
        abi::__NR_sched_yield => {
            sched::yield_now();
            Ok(0)
        }
        abi::__NR_sched_setaffinity => sched_calls::setaffinity(thread, a as i32, b, c),
        abi::__NR_sched_getaffinity => sched_calls::getaffinity(thread, a as i32, b, c),
        abi::__NR_sched_setscheduler => sched_calls::setscheduler(thread, a as i32, Some(b as u32), c),
        abi::__NR_sched_setparam => sched_calls::setscheduler(thread, a as i32, None, b),
        abi::__NR_sched_getscheduler => sched_calls::getscheduler(thread, a as i32),
        abi::__NR_sched_getparam => sched_calls::getparam(thread, a as i32, b),
        abi::__NR_sched_setattr => sched_calls::setattr(thread, a as i32, b, c as u32),
        abi::__NR_sched_getattr => sched_calls::getattr(thread, a as i32, b, c as u32 as usize, d as u32),
        abi::__NR_sched_get_priority_min => sched_calls::priority_limit(a as u32, false),
        abi::__NR_sched_get_priority_max => sched_calls::priority_limit(a as u32, true),
        abi::__NR_sched_rr_get_interval => sched_calls::rr_get_interval(thread, a as i32, b),
        abi::__NR_getpriority => sched_calls::getpriority(thread, a as u32, b as i32),
        abi::__NR_setpriority => sched_calls::setpriority(thread, a as u32, b as i32, c as i32),
        abi::__NR_getcpu => sched_calls::getcpu(a, b),
        abi::__NR_membarrier => sched_calls::membarrier(thread, a as u32, b as u32),
        abi::__NR_ioprio_get => sched_calls::ioprio_get(thread, a as u32, b as i32),
        abi::__NR_ioprio_set => sched_calls::ioprio_set(thread, a as u32, b as i32, c as u32),
        // Time.
        abi::__NR_clock_gettime => time::clock_gettime(thread, a as i32, b),
        abi::__NR_clock_settime => time::clock_settime(thread, a as i32, b),
        abi::__NR_clock_getres => time::clock_getres(thread, a as i32, b),
        abi::__NR_gettimeofday => time::gettimeofday(a, b),
        abi::__NR_settimeofday => time::settimeofday(thread, a),
        abi::__NR_time => time::time(a),
        abi::__NR_nanosleep => time::nanosleep(thread, a, b),
        abi::__NR_clock_nanosleep => time::clock_nanosleep(thread, a as i32, b as u32, c, d),
        abi::__NR_alarm => timers::alarm(thread, a as u32),
        abi::__NR_getitimer => timers::getitimer(thread, a, b),
        abi::__NR_setitimer => timers::setitimer(thread, a, b, c),
        abi::__NR_timer_create => posix_timers::timer_create(thread, a as i32, b, c),
        abi::__NR_timer_settime => posix_timers::timer_settime(thread, a as i32, b as u32, c, d),
        abi::__NR_timer_gettime => posix_timers::timer_gettime(thread, a as i32, b),
        abi::__NR_timer_getoverrun => posix_timers::timer_getoverrun(thread, a as i32),
        abi::__NR_timer_delete => posix_timers::timer_delete(thread, a as i32),
        // The machine and its names.
        abi::__NR_uname => ns_calls::uname(thread, a),
        abi::__NR_sethostname => ns_calls::set_name(thread, a, b as i32, true),
        abi::__NR_setdomainname => ns_calls::set_name(thread, a, b as i32, false),
        abi::__NR_getrandom => sysinfo::getrandom(a, b, c as u32),
        abi::__NR_reboot => reboot::reboot(thread, a as u32, b as u32, c as u32),
        _ => return None,
    })
}

/// Bytes of `struct robust_list_head`.
const ROBUST_LIST_SIZE: usize = 24;

fn get_robust_list(thread: &Arc<Thread>, pid: i32, head: usize, size: usize) -> Result<usize, Errno> {
    let target = match pid {
        0 => Arc::clone(thread),
        _ => thread.pid_ns().thread(pid as u32).ok_or(Errno::ESRCH)?,
    };
    if !thread.may_inspect(&target, creds::As::Itself) {
        return Err(Errno::EPERM);
    }
    user::put(size, ROBUST_LIST_SIZE)?;
    user::put(head, target.robust_list.load(Relaxed))?; // Relaxed: a number.
    Ok(0)
}

/// As [`call`], for calls that look at or change the registers of user mode.
pub(crate) fn call_with_frame(
    thread: &Arc<Thread>,
    nr: u32,
    frame: &mut TrapFrame,
) -> Option<Result<usize, Errno>> {
    let [a, b, c, d, e] = [frame.rdi, frame.rsi, frame.rdx, frame.r10, frame.r8].map(|arg| arg as usize);
    Some(match nr {
        abi::__NR_clone => clone::clone(thread, frame),
        abi::__NR_clone3 => clone::clone3(thread, frame),
        abi::__NR_fork => clone::fork(thread, frame),
        abi::__NR_vfork => clone::vfork(thread, frame),
        abi::__NR_execve => exec::execveat(thread, frame, abi::AT_FDCWD, [a, b, c], 0),
        abi::__NR_execveat => exec::execveat(thread, frame, a as i32, [b, c, d], e as u32),
        abi::__NR_rt_sigreturn => signals::rt_sigreturn(thread, frame),
        abi::__NR_sigaltstack => signals::sigaltstack(thread, frame),
        _ => return None,
    })
}
