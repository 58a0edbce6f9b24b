//! The end of threads and processes; see [`super`] on what is freed when.
//!
//! A thread decides to end by a call, or is told to; it ends in [`exit_current`], which [`super::leave_kernel`] calls with
//! nothing held.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::Ordering::*;

use linux_raw_sys::general as abi;
use mnt_table::memory;
use x86_64::instructions::interrupts;

use super::process::{PROCESSES, State, is_orphaned_without};
use super::signal::{self, IGNORE, Info, send};
use super::{Process, Thread, clone, futex, tree};
use crate::fs;
use crate::mm::space::AddressSpace;
use crate::mm::user;
use crate::sched;

/// exit_group(2): all threads of the process end. Takes effect when the thread leaves the kernel.
pub(super) fn exit_group(thread: &Thread, code: u32) {
    send::kill(&thread.process, (code & 0xff) << 8);
}

/// exit(2): the thread ends. Takes effect when it leaves the kernel.
pub(super) fn exit(thread: &Thread, code: u32) {
    thread.exit_status.store((code & 0xff) << 8, Relaxed); // Relaxed: own thread.
    thread.request_exit();
}

/// Ends the running thread; `status` as wait4(2) tells it.
///
/// Context: nothing held: what the thread's stack has is never dropped.
pub(super) fn exit_current(status: u32) -> ! {
    let thread = super::current();
    thread.exit_status.store(status, Relaxed); // Relaxed: read under `tree`.
    release_memory(&thread);
    let hung_up = {
        // Signals go to other threads from here on.
        let mut process = thread.process.signals.lock();
        thread.exiting.store(true, Release); // Release: pairs with the Acquire in `is_exiting`.
        send::retarget(&thread, &process, signal::SigSet(u64::MAX));
        signal::deliver::settle_stop(&thread, &mut process)
    };
    if let Some(signal) = hung_up {
        send::notify_parent(&thread.process, abi::CLD_STOPPED, signal as i32);
    }
    let files = thread.files.lock().take();
    drop(files);
    // AcqRel: the last one sees all that the others did.
    let is_last = thread.process.living.fetch_sub(1, AcqRel) == 1;
    if is_last {
        end_process(&thread);
    }
    if let Some(nowhere) = super::init::nowhere() {
        thread.mounts.exit(&nowhere);
    }
    leave_process(&thread, is_last);
    thread.process.wake_exec();
    drop(thread);
    sched::exit()
}

/// What the thread has in user memory, and the memory itself.
pub(super) fn release_memory(thread: &Arc<Thread>) {
    futex::exit_robust_list(thread);
    let address = thread.clear_child_tid.swap(0, Relaxed); // Relaxed: own thread.
    if address != 0 && user::put(address, 0_u32).is_ok() {
        futex::wake_address(thread, address);
    }
    let space = thread.space.lock().take();
    interrupts::without_interrupts(AddressSpace::deactivate);
    if let Some(space) = &space {
        thread.process.leaves(space);
    }
    drop(space);
    clone::end_vfork(thread);
}

/// The last thread of a process ends: what belongs to all of them, and may block.
fn end_process(thread: &Thread) {
    let process = &thread.process;
    let exe = process.exe.lock().take();
    drop(exe);
    super::timers::clear(process);
    super::posix_timers::clear(process);
    if process.is_init {
        assert!(
            process.pid.namespace().level() != 0,
            "the first process has ended: status {:#x}",
            process.signals.lock().group_exit.unwrap_or(thread.exit_status.load(Relaxed))
        );
        end_namespace(process);
    }
    if process.is_session_leader() {
        // The terminal tells its foreground processes.
        let terminal = process.session().terminal();
        if let Some(terminal) = terminal {
            terminal.hang_up();
        }
    }
}

/// The first process of a PID namespace ends: all others there are killed, and waited for.
fn end_namespace(process: &Arc<Process>) {
    let ns = process.pid.namespace();
    ns.close();
    // Children that end tell nobody.
    process
        .signals
        .lock()
        .actions
        .set(abi::SIGCHLD, signal::Action { handler: IGNORE, ..Default::default() });
    let mut from = 1;
    while let Some((nr, other)) = ns.next_process(from) {
        from = nr + 1;
        if !Arc::ptr_eq(&other, process) {
            send::kill(&other, abi::SIGKILL);
        }
    }
    let waker = sched::waker();
    loop {
        // Without memory for the waiting list it looks again now and then.
        let watched = ns.gone.watch(&waker).is_ok();
        // Acquire: pairs with the Release in `leave_process`.
        if ns.living.load(Acquire) <= 1 {
            ns.gone.unwatch(&waker);
            return;
        }
        if watched {
            sched::park();
        } else {
            sched::sleep_ns(1_000_000);
        }
        ns.gone.unwatch(&waker);
    }
}

/// What is to be done once `tree` is let go of.
#[derive(Default)]
struct Afterwards {
    signals: Vec<(Arc<Process>, Info)>,
    wake: Vec<Arc<Process>>,
    released: Vec<Arc<Process>>,
}

impl Afterwards {
    fn run(self) {
        self.signals.into_iter().for_each(|(process, info)| signal::send_to_process(&process, info));
        self.wake.iter().for_each(|process| process.child_wait.wake());
        self.released.iter().for_each(|process| fs::proc::process_gone(&process.pid));
    }
}

fn leave_process(thread: &Arc<Thread>, is_last: bool) {
    let process = &thread.process;
    let mut afterwards = Afterwards::default();
    let credentials = thread.credentials();
    {
        let _tree = tree();
        let pid = thread.pid();
        let removed = {
            let mut family = process.family.lock();
            let index = family.threads.iter().position(|other| Arc::ptr_eq(other, thread));
            index.map(|index| family.threads.swap_remove(index))
        };
        pid.set_thread(None);
        if !Arc::ptr_eq(&pid, &process.pid) {
            pid.detach();
        }
        {
            let mut used = process.used.lock();
            let (user, system) = thread.cpu_times();
            used.own = (used.own.0 + user, used.own.1 + system);
            let (asked, not) = thread.entity().map_or((0, 0), |entity| entity.switches());
            used.switches = (used.switches.0 + asked, used.switches.1 + not);
            if Arc::ptr_eq(&pid, &process.pid) {
                *process.last_comm.lock() = thread.comm();
                used.leader_status = thread.exit_status.load(Relaxed); // Relaxed: own thread.
            }
        }
        // Not the last reference: the entity has one.
        drop(removed);
        if is_last {
            process.uid.store(credentials.uid, Relaxed); // Relaxed: under `tree`.
            *process.last_credentials.lock() = Some(credentials);
            become_zombie(process, &mut afterwards);
        }
    }
    // Non-leaders are gone for good.
    let pid = thread.pid();
    if !Arc::ptr_eq(&pid, &process.pid) {
        fs::proc::process_gone(&pid);
    }
    if is_last {
        process.pid.exit.wake();
        process.signal_waiters.wake();
        for ns in process.pid.namespaces() {
            // Release: pairs with the Acquire in `end_namespace`.
            if ns.living.fetch_sub(1, Release) <= 2 {
                ns.gone.wake();
            }
        }
    }
    afterwards.run();
}

fn become_zombie(process: &Arc<Process>, afterwards: &mut Afterwards) {
    let status = {
        let group_exit = process.signals.lock().group_exit;
        group_exit.unwrap_or(process.used.lock().leader_status)
    };
    give_children_away(process, afterwards);
    hang_up_orphans(&process.group(), Some(process), afterwards);
    process.family.lock().state = State::Zombie(status);
    process.reportable.store(true, Relaxed); // Relaxed: under `tree`.
    tell_end(process, afterwards);
}

/// Tells the parent of a zombie, which is released at once if that does not want to know.
fn tell_end(process: &Arc<Process>, afterwards: &mut Afterwards) {
    let State::Zombie(status) = process.state() else { return };
    let Some(parent) = process.parent() else { return };
    let signal = process.exit_signal.load(Relaxed); // Relaxed: under `tree`.
    let action = parent.signals.lock().actions.get(abi::SIGCHLD);
    let ignores = action.handler == IGNORE;
    let not_wanted = ignores || action.flags & u64::from(abi::SA_NOCLDWAIT) != 0;
    let (code, value) = if status & 0x7f == 0 {
        (abi::CLD_EXITED, status >> 8 & 0xff)
    } else {
        (abi::CLD_KILLED, status & 0x7f)
    };
    // clone(2) takes any number.
    if (1..=signal::SIGNALS).contains(&signal) && !(signal == abi::SIGCHLD && ignores) {
        let info = send::child_info(process, &parent, signal, code, value as i32);
        afterwards.signals.push((parent.clone(), info));
    }
    if signal == abi::SIGCHLD && not_wanted {
        release(process, &parent, afterwards);
    }
    afterwards.wake.push(parent);
}

/// Takes a zombie out of the world. Context: under `tree`.
fn release(process: &Arc<Process>, parent: &Process, afterwards: &mut Afterwards) {
    afterwards.released.extend(unlink(process, parent));
}

/// As [`release`]; returns the parent's reference. Context: under `tree`; the zombie is not released yet.
pub(super) fn unlink(process: &Arc<Process>, parent: &Process) -> Option<Arc<Process>> {
    let child = {
        let mut family = parent.family.lock();
        let index = family.children.iter().position(|child| Arc::ptr_eq(child, process));
        index.map(|index| family.children.swap_remove(index))
    };
    let (group, session) = {
        let mut family = process.family.lock();
        if let State::Zombie(status) = core::mem::replace(&mut family.state, State::Released) {
            process.pid.set_ended(status);
        }
        family.parent = Weak::new();
        (family.group.clone(), family.session.clone())
    };
    group.leave_group(process);
    session.id.detach();
    process.pid.set_process(None);
    process.pid.detach();
    PROCESSES.fetch_sub(1, Relaxed); // Relaxed: statistics.
    child
}

/// The process that takes over the children of `process`: the nearest above that asked for it, or the first of the
/// namespace.
fn reaper_of(process: &Arc<Process>) -> Option<Arc<Process>> {
    let ns = process.pid.namespace();
    let init = ns.init().filter(|init| !Arc::ptr_eq(init, process));
    let mut at = process.parent();
    while let Some(parent) = at {
        if !Arc::ptr_eq(parent.pid.namespace(), ns) || parent.is_init {
            break;
        }
        // Relaxed: under `tree`.
        if parent.subreaper.load(Relaxed) && parent.is_alive() {
            return Some(parent);
        }
        at = parent.parent();
    }
    init.or_else(|| ns.parent_init())
}

fn give_children_away(process: &Arc<Process>, afterwards: &mut Afterwards) {
    let children = core::mem::take(&mut process.family.lock().children);
    if children.is_empty() {
        return;
    }
    let Some(reaper) = reaper_of(process) else { return };
    // Without memory it waits for some: these children must be somebody's.
    memory::until(|| memory::Grow::make_room(&mut reaper.family.lock().children, children.len()));
    for child in children {
        child.family.lock().parent = Arc::downgrade(&reaper);
        child.exit_signal.store(abi::SIGCHLD, Relaxed); // Relaxed: under `tree`.
        for thread in child.threads() {
            let signal = thread.death_signal.load(Relaxed); // Relaxed: a number.
            if signal != 0 {
                let info = Info {
                    signal,
                    errno: 0,
                    code: abi::SI_USER as i32,
                    detail: signal::Detail::Sender { pid: 0, uid: 0, value: 0 },
                };
                afterwards.signals.push((child.clone(), info));
            }
        }
        reaper.family.lock().children.push(child.clone());
        let group = child.group();
        if !Arc::ptr_eq(&group, &process.group()) {
            hang_up_orphans(&group, Some(process), afterwards);
        }
        tell_end(&child, afterwards);
    }
}

/// If `group` has become orphaned because `ended` did, and one of it is stopped, nobody would continue it: it hears of it.
fn hang_up_orphans(group: &Arc<super::Pid>, ended: Option<&Arc<Process>>, afterwards: &mut Afterwards) {
    // Relaxed: a process that stops meanwhile looks for itself whether its group is orphaned.
    if signal::STOPPED.load(Relaxed) == 0 {
        return;
    }
    let members = group.group_members();
    let stopped = |process: &Arc<Process>| process.is_alive() && process.signals.lock().stopped;
    if members.iter().any(stopped) && is_orphaned_without(group, ended.map(|ended| &**ended)) {
        for member in members {
            afterwards.signals.push((member.clone(), Info::kernel(abi::SIGHUP)));
            afterwards.signals.push((member, Info::kernel(abi::SIGCONT)));
        }
    }
}
