//! fork(2), vfork(2), clone(2), clone3(2).
//!
//! A child is made whole before anybody sees it: identity, memory, descriptors, namespaces. Then, under
//! [`tree`](super::tree), it joins its process or its parent's children, unless the parent is to die; and then it runs.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering::*};

use linux_raw_sys::general as abi;
use mnt_table::memory::{self, Grow};
use syscalls::credentials::Capabilities;
use syscalls::{Credentials, Errno};

use super::process::PROCESSES;
use super::signal::{AltStack, ERESTARTNOINTR, ProcessSignals, ThreadSignals};
use super::thread::Settings;
use super::{Pid, Process, Thread, pidfd, process, stats, thread, tree, users};
use crate::arch::clock;
use crate::arch::trap::TrapFrame;
use crate::fs;
use crate::mm::user;
use crate::sched::NewThread;
use crate::sched::wait::{Wait, WaitList};

/// What a parent waits for that lent its memory to a child (vfork).
pub(crate) struct VforkDone {
    done: AtomicBool,
    wait: WaitList,
}

/// What clone3(2) is told.
#[derive(Clone, Debug, Default)]
pub(super) struct Request {
    pub(super) flags: u64,
    pub(super) pidfd: usize,
    pub(super) child_tid: usize,
    pub(super) parent_tid: usize,
    pub(super) exit_signal: u32,
    /// The child's stack pointer; 0: the parent's.
    pub(super) stack: usize,
    pub(super) tls: usize,
    /// Wanted numbers, innermost namespace first.
    pub(super) set_tid: Vec<u32>,
}

/// Flags of clone3(2) that clone(2) has no room for.
const CLEAR_SIGHAND: u64 = 1 << 32;
const INTO_CGROUP: u64 = 1 << 33;
/// In the low byte of clone(2)'s flags.
const EXIT_SIGNAL: u64 = 0xff;

const VM: u64 = abi::CLONE_VM as u64;
const FILES: u64 = abi::CLONE_FILES as u64;
const FS: u64 = abi::CLONE_FS as u64;
const SIGHAND: u64 = abi::CLONE_SIGHAND as u64;
const PIDFD: u64 = abi::CLONE_PIDFD as u64;
const VFORK: u64 = abi::CLONE_VFORK as u64;
const PARENT: u64 = abi::CLONE_PARENT as u64;
const THREAD: u64 = abi::CLONE_THREAD as u64;
const NEWNS: u64 = abi::CLONE_NEWNS as u64;
const SYSVSEM: u64 = abi::CLONE_SYSVSEM as u64;
const SETTLS: u64 = abi::CLONE_SETTLS as u64;
const PARENT_SETTID: u64 = abi::CLONE_PARENT_SETTID as u64;
const CHILD_CLEARTID: u64 = abi::CLONE_CHILD_CLEARTID as u64;
const DETACHED: u64 = abi::CLONE_DETACHED as u64;
const CHILD_SETTID: u64 = abi::CLONE_CHILD_SETTID as u64;
const NEWUSER: u64 = abi::CLONE_NEWUSER as u64;
const NEWPID: u64 = abi::CLONE_NEWPID as u64;
const NEWIPC: u64 = abi::CLONE_NEWIPC as u64;
const NEWTIME: u64 = abi::CLONE_NEWTIME as u64;

/// Namespaces that mounts do not know of.
pub(super) const OTHER_NAMESPACES: u32 = abi::CLONE_NEWUTS
    | abi::CLONE_NEWIPC
    | abi::CLONE_NEWNET
    | abi::CLONE_NEWPID
    | abi::CLONE_NEWCGROUP
    | abi::CLONE_NEWTIME;

/// clone(2): flags, stack, tid addresses and thread-local storage.
pub(super) fn clone(thread: &Arc<Thread>, frame: &TrapFrame) -> Result<usize, Errno> {
    let flags = frame.rdi & 0xffff_ffff;
    if flags & PIDFD != 0 && flags & PARENT_SETTID != 0 {
        return Err(Errno::EINVAL);
    }
    let request = Request {
        flags: flags & !EXIT_SIGNAL,
        pidfd: frame.rdx as usize,
        child_tid: frame.r10 as usize,
        parent_tid: frame.rdx as usize,
        exit_signal: (flags & EXIT_SIGNAL) as u32,
        stack: frame.rsi as usize,
        tls: frame.r8 as usize,
        set_tid: Vec::new(),
    };
    start(thread, frame, request)
}

/// fork(2).
pub(super) fn fork(thread: &Arc<Thread>, frame: &TrapFrame) -> Result<usize, Errno> {
    start(thread, frame, Request { exit_signal: abi::SIGCHLD, ..Request::default() })
}

/// vfork(2).
pub(super) fn vfork(thread: &Arc<Thread>, frame: &TrapFrame) -> Result<usize, Errno> {
    start(thread, frame, Request { flags: VFORK | VM, exit_signal: abi::SIGCHLD, ..Request::default() })
}

/// Words of `struct clone_args`: all versions, and the oldest.
const ARGS_WORDS: usize = 11;
const ARGS_SIZE_FIRST: usize = 64;

/// clone3(2).
pub(super) fn clone3(thread: &Arc<Thread>, frame: &TrapFrame) -> Result<usize, Errno> {
    let (addr, size) = (frame.rdi as usize, frame.rsi as usize);
    if size > syscalls::user_memory::PAGE_SIZE {
        return Err(Errno::E2BIG);
    }
    if size < ARGS_SIZE_FIRST {
        return Err(Errno::EINVAL);
    }
    let mut bytes = [0; 8 * ARGS_WORDS];
    syscalls::user_memory::structure(&super::calls::Memory, addr, size, &mut bytes)?;
    let mut words = [0_u64; ARGS_WORDS];
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    let [flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_len, _] =
        words;
    let too_many = set_len as usize > super::pid::LEVELS_MAX || (set_tid == 0) != (set_len == 0);
    if too_many || exit_signal & !EXIT_SIGNAL != 0 || exit_signal > u64::from(super::signal::SIGNALS) {
        return Err(Errno::EINVAL);
    }
    if flags & (DETACHED | EXIT_SIGNAL & !u64::from(abi::CLONE_NEWTIME)) != 0
        || flags >> 34 != 0
        || flags & (SIGHAND | CLEAR_SIGHAND) == SIGHAND | CLEAR_SIGHAND
        || flags & (THREAD | PARENT) != 0 && exit_signal != 0
        || (stack == 0) != (stack_size == 0)
    {
        return Err(Errno::EINVAL);
    }
    if flags & INTO_CGROUP != 0 {
        return Err(Errno::EBADF);
    }
    let mut wanted = Vec::new();
    for index in 0..set_len as usize {
        wanted.try_push(user::get(set_tid as usize + 4 * index)?).map_err(|_| Errno::ENOMEM)?;
    }
    let request = Request {
        flags,
        pidfd: pidfd as usize,
        child_tid: child_tid as usize,
        parent_tid: parent_tid as usize,
        exit_signal: exit_signal as u32,
        stack: (stack + stack_size) as usize,
        tls: tls as usize,
        set_tid: wanted,
    };
    start(thread, frame, request)
}

/// Combinations that make no sense.
fn check(thread: &Thread, flags: u64) -> Result<(), Errno> {
    let has = |flag: u64| flags & flag != 0;
    let other_pids = !Arc::ptr_eq(&thread.namespaces().pid_for_children, thread.pid_ns());
    let senseless = has(NEWNS) && has(FS)
        || has(NEWUSER) && has(FS)
        || has(THREAD) && !has(SIGHAND)
        || has(SIGHAND) && !has(VM)
        || has(PARENT) && thread.process.is_init
        || has(THREAD) && (has(NEWUSER | NEWPID) || other_pids)
        || has(PIDFD) && has(DETACHED)
        || has(NEWIPC) && has(SYSVSEM)
        || has(NEWTIME) && has(THREAD | VM) && !has(VFORK);
    if senseless { Err(Errno::EINVAL) } else { Ok(()) }
}

fn start(thread: &Arc<Thread>, frame: &TrapFrame, request: Request) -> Result<usize, Errno> {
    let flags = request.flags;
    check(thread, flags)?;
    let has = |flag: u64| flags & flag != 0;
    if !request.set_tid.is_empty()
        && !may_choose(&thread.credentials(), &OwnerOf(&thread.namespaces().pid_for_children).user_ns())
    {
        return Err(Errno::EPERM);
    }
    let vfork = if has(VFORK) {
        let done = VforkDone { done: AtomicBool::new(false), wait: WaitList::new() };
        Some(memory::arc(done).map_err(|_| Errno::ENOMEM)?)
    } else {
        None
    };
    let mut child_frame = frame.clone();
    child_frame.rax = 0;
    // It is no call that could be made again.
    child_frame.error = u64::MAX;
    if request.stack != 0 {
        child_frame.rsp = request.stack as u64;
    }
    let child = make(thread, &request)?;
    if has(CHILD_SETTID) {
        child.set_child_tid.store(request.child_tid, Relaxed); // Relaxed: before it starts.
    }
    if has(CHILD_CLEARTID) {
        child.clear_child_tid.store(request.child_tid, Relaxed); // Relaxed: before it starts.
    }
    if has(SETTLS) {
        child.user.lock().set_fs_base(request.tls)?;
    }
    *child.start.lock() = Some(child_frame);
    *child.vfork.lock() = vfork.clone();
    let allowed = crate::sched::with_current(|entity| entity.allowed());
    let name = child.comm();
    let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
    let entity = NewThread::new_user(format_args!("{}", name[..end].escape_ascii()), &child, allowed)
        .map_err(|_| Errno::ENOMEM)?;
    child.set_entity(entity.entity());
    let pidfd = if has(PIDFD) { Some(pidfd::reserve(thread, &child, has(THREAD))?) } else { None };
    if let Some(pidfd) = &pidfd {
        user::put(request.pidfd, pidfd.number())?;
    }
    let pid = child.pid();
    let number = pid.number_in(thread.pid_ns()).unwrap_or(0);
    publish(thread, &child, flags)?;
    if let Some(pidfd) = pidfd {
        pidfd.keep();
    }
    if has(PARENT_SETTID) {
        // As Linux, which tells nobody if that fails.
        let _ = user::put(request.parent_tid, number);
    }
    stats::count_fork();
    drop(child);
    entity.start();
    if let Some(vfork) = vfork {
        // Killed, it goes on without the child's leave; the memory is counted.
        // Acquire: pairs with the Release of whoever lets go of the memory.
        let _ = vfork.wait.wait(Wait::KILLABLE, || vfork.done.load(Acquire).then_some(()));
    }
    Ok(number as usize)
}

/// Whether somebody may choose numbers in PID namespaces that `owner` owns.
fn may_choose(credentials: &Credentials, owner: &mnt_table::UserNs) -> bool {
    credentials.is_admin(owner) || credentials.capable(owner, Capabilities::CHECKPOINT_RESTORE)
}

/// The user namespace that owns a namespace.
struct OwnerOf<'a>(&'a super::PidNamespace);

impl OwnerOf<'_> {
    fn user_ns(&self) -> mnt_table::UserNs {
        syscalls::file::OtherNamespace::owner(self.0).clone()
    }
}

/// Makes a child that nobody sees yet.
fn make(parent: &Arc<Thread>, request: &Request) -> Result<Arc<Thread>, Errno> {
    let flags = request.flags;
    let has = |flag: u64| flags & flag != 0;
    let charge = users::charge(parent)?;
    let counted = stats::Counted::new()?;
    // Permissions are asked here.
    let mounts = syscalls::namespaces::clone(&fs::kernel::Call { thread: parent }, flags & 0xffff_ffff)?;
    let others = flags as u32 & OTHER_NAMESPACES;
    let mut namespaces = parent.namespaces();
    if others != 0 {
        namespaces = namespaces.unshare(others, &mounts.credentials().user_ns)?;
    }
    // Who shares its parent's memory stays in its time until it calls execve(2).
    if !has(VM) {
        namespaces = namespaces.for_child()?;
    }
    let files = if has(FILES) { parent.files() } else { parent.files().fork()? };
    let space = match parent.space() {
        Some(space) if !has(VM) => Some(space.fork()?),
        space => space,
    };
    let user = {
        let mut own = parent.user.lock();
        own.save();
        own.try_clone()?
    };
    let (mask, alt_stack) = {
        let signals = parent.signals.lock();
        let alt_stack = if has(VM) && !has(VFORK) { AltStack::NONE } else { signals.alt_stack };
        (signals.saved_mask.unwrap_or(signals.mask), alt_stack)
    };
    let settings = *parent.settings.lock();
    let settings = if settings.reset_on_fork { Settings::INITIAL } else { settings };
    let settings = Settings { default_slack_ns: settings.timer_slack_ns, ..settings };
    let pid = Pid::new(&namespaces.pid_for_children, &request.set_tid)?;
    pid.hold(counted, charge);
    let now_ns = clock::now_ns();
    let process = if has(THREAD) {
        Ok(Arc::clone(&parent.process))
    } else {
        make_process(parent, request, &pid, now_ns)
    };
    let parts = |process| thread::Parts {
        process,
        pid: Arc::clone(&pid),
        mounts,
        files,
        space,
        namespaces,
        user,
        comm: parent.comm(),
        signals: ThreadSignals::new(mask, alt_stack),
        settings,
        now_ns,
    };
    let made = process.and_then(|process| Thread::new(parts(process)));
    if made.is_err() {
        pid.discard();
    }
    made
}

fn make_process(
    parent: &Arc<Thread>,
    request: &Request,
    pid: &Arc<Pid>,
    now_ns: u64,
) -> Result<Arc<Process>, Errno> {
    let has = |flag: u64| request.flags & flag != 0;
    let own = &parent.process;
    let actions = own.actions();
    let actions = if has(SIGHAND) { actions } else { actions.fork()? };
    if has(CLEAR_SIGHAND) {
        actions.reset(false);
    }
    // Relaxed: a number that stands for itself.
    let exit_signal = if has(PARENT) { own.exit_signal.load(Relaxed) } else { request.exit_signal };
    Process::new(process::Parts {
        pid: Arc::clone(pid),
        parent: Weak::new(),
        group: own.group(),
        session: own.session(),
        signals: ProcessSignals::new(actions),
        limits: own.limits(),
        exe: own.exe(),
        exit_signal,
        dumpable: own.dumpable(),
        oom_score_adj: own.oom_score_adj() as u32,
        now_ns,
    })
}

/// Makes the child one of its process's threads, or of its parent's children.
///
/// # Errors
/// `ERESTARTNOINTR`: the parent has a signal to take first. `ENOMEM`. The child's number is free again then.
fn publish(thread: &Arc<Thread>, child: &Arc<Thread>, flags: u64) -> Result<(), Errno> {
    let pid = child.pid();
    let joined = join(thread, child, flags, &pid);
    if joined.is_err() {
        pid.discard();
    }
    joined
}

fn join(thread: &Arc<Thread>, child: &Arc<Thread>, flags: u64, pid: &Arc<Pid>) -> Result<(), Errno> {
    let is_thread = flags & THREAD != 0;
    let no_memory = |_| Errno::ENOMEM;
    let process = &child.process;
    let _tree = tree();
    if thread.fatal_signal() || !is_thread && thread.signal_pending() {
        return Err(ERESTARTNOINTR);
    }
    process.family.lock().threads.make_room(1).map_err(no_memory)?;
    if is_thread {
        let signals = process.signals.lock();
        if signals.group_exit.is_some() || signals.exec.is_some() {
            return Err(ERESTARTNOINTR);
        }
    } else {
        let parent = if flags & PARENT != 0 { thread.process.parent() } else { None };
        let parent = parent.unwrap_or_else(|| Arc::clone(&thread.process));
        let ns = pid.namespace();
        if ns.is_closed() {
            return Err(Errno::ENOMEM);
        }
        parent.family.lock().children.make_room(1).map_err(no_memory)?;
        let (group, session) = (thread.process.group(), thread.process.session());
        group.reserve_group()?;
        {
            let mut family = process.family.lock();
            family.parent = Arc::downgrade(&parent);
            family.leader = Arc::downgrade(child);
            family.group = group.clone();
            family.session = session.clone();
        }
        parent.family.lock().children.push(Arc::clone(process));
        pid.set_process(Some(process));
        if process.is_init {
            ns.set_init(process);
        }
        group.join_group(process);
        session.id.attach();
        PROCESSES.fetch_add(1, Relaxed); // Relaxed: statistics.
        pid.namespaces().for_each(|ns| {
            ns.living.fetch_add(1, Relaxed); // Relaxed: under `tree`.
        });
    }
    pid.set_thread(Some(child));
    pid.attach();
    process.family.lock().threads.push(Arc::clone(child));
    process.living.fetch_add(1, Relaxed); // Relaxed: under `tree`.
    Ok(())
}

/// The thread needs its parent's memory no longer.
pub(super) fn end_vfork(thread: &Thread) {
    if let Some(vfork) = thread.vfork.lock().take() {
        vfork.done.store(true, Release); // Release: pairs with the Acquire in `start`.
        vfork.wait.wake();
    }
}
