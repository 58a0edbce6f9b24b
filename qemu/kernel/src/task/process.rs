//! Processes, sessions, and how they belong together.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::*};

use mnt_table::memory;
use syscalls::{Credentials, Errno};

use super::limits::Limits;
use super::signal::ProcessSignals;
use super::thread::COMM_LEN;
use super::{Pid, PidNamespace, Thread};
use crate::arch::spin::SpinLock;
use crate::fs::file::OpenFile;
use crate::mm::space::AddressSpace;
use crate::sched::wait::WaitList;

/// A process; see [`super`].
pub(crate) struct Process {
    // Immutable.
    pub(super) pid: Arc<Pid>,
    // Under `tree`.
    pub(super) family: SpinLock<Family>,
    // `tree` → this.
    pub(super) signals: SpinLock<ProcessSignals>,
    // Leaves.
    pub(super) limits: SpinLock<Limits>,
    pub(super) exe: SpinLock<Option<Arc<OpenFile>>>,
    pub(super) used: SpinLock<Used>,
    pub(super) timers: super::timers::Timers,
    /// Those of timer_create(2).
    pub(super) made: super::posix_timers::Timers,
    /// Who waits for children.
    pub(super) child_wait: WaitList,
    /// Woken when a signal comes: who waits for signals without taking them (signalfd).
    pub(crate) signal_waiters: WaitList,
    /// Sent to the parent at the end; 0 for none.
    pub(super) exit_signal: AtomicU32,
    /// Threads that have not ended.
    pub(super) living: AtomicUsize,
    pub(super) subreaper: AtomicBool,
    /// Number 1 of its namespace: signals that it does not handle do not kill it.
    pub(super) is_init: bool,
    pub(super) has_executed: AtomicBool,
    /// There may be something for wait4(2) to tell: it has ended, stopped or continued. Set under `tree` or `signals`.
    pub(super) reportable: AtomicBool,
    pub(super) dumpable: AtomicU32,
    pub(super) oom_score_adj: AtomicU32,
    /// What it has registered for membarrier(2).
    pub(super) membarrier: AtomicU32,
    pub(super) start_ns: u64,
    /// The user of a zombie.
    pub(super) uid: AtomicU32,
    pub(super) last_credentials: SpinLock<Option<Arc<Credentials>>>,
    /// The name of its first thread, when that has ended.
    pub(super) last_comm: SpinLock<[u8; COMM_LEN]>,
    /// Woken when a thread has ended, for execve(2).
    pub(super) exec_wait: WaitList,
}

/// Relations; under `tree`.
pub(super) struct Family {
    pub(super) parent: Weak<Process>,
    pub(super) children: Vec<Arc<Process>>,
    pub(super) threads: Vec<Arc<Thread>>,
    /// The first thread; stays when it has ended.
    pub(super) leader: Weak<Thread>,
    pub(super) group: Arc<Pid>,
    pub(super) session: Arc<Session>,
    pub(super) state: State,
}

/// Where a process stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// It has threads.
    Alive,
    /// It has ended, and nobody has waited for it. The status as wait4(2) tells it.
    Zombie(u32),
    /// It is waited for.
    Released,
}

/// What threads that are gone, and children that were waited for, used.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Used {
    /// User and system time of ended threads, in ns.
    pub(crate) own: (u64, u64),
    /// The same of children.
    pub(crate) children: (u64, u64),
    /// The most memory that it had in a space that it has left, in pages; and that any of the children had.
    pub(crate) own_peak: usize,
    pub(crate) children_peak: usize,
    /// Context switches of ended threads.
    pub(crate) switches: (u64, u64),
    /// How the first thread ended.
    pub(super) leader_status: u32,
}

impl Used {
    /// The most memory of all.
    pub(super) fn peak(&self) -> usize {
        self.own_peak.max(self.children_peak)
    }

    /// User and system time of all.
    pub(super) fn total(&self) -> (u64, u64) {
        (self.own.0 + self.children.0, self.own.1 + self.children.1)
    }
}

/// A session. Its terminal is that of all its processes.
pub(crate) struct Session {
    pub(crate) id: Arc<Pid>,
    terminal: SpinLock<Option<Arc<dyn Terminal>>>,
}

/// A controlling terminal, as processes see it.
pub(crate) trait Terminal: Any + Send + Sync {
    /// Its device number, as `st_rdev` has it.
    fn device(&self) -> u64;

    /// Its foreground process group.
    fn foreground(&self) -> Option<Arc<Pid>>;

    /// The leader of its session has ended.
    fn hang_up(&self);
}

impl Session {
    pub(super) fn new(id: &Arc<Pid>) -> Result<Arc<Session>, Errno> {
        let session = Session { id: Arc::clone(id), terminal: SpinLock::new(None) };
        memory::arc(session).map_err(|_| Errno::ENOMEM)
    }

    /// Its controlling terminal.
    pub(crate) fn terminal(&self) -> Option<Arc<dyn Terminal>> {
        self.terminal.lock().clone()
    }

    /// Gives it a controlling terminal, or takes it away; returns the one before.
    pub(crate) fn set_terminal(&self, terminal: Option<Arc<dyn Terminal>>) -> Option<Arc<dyn Terminal>> {
        core::mem::replace(&mut *self.terminal.lock(), terminal)
    }

    /// The process that began it, if it is there.
    pub(crate) fn leader(&self) -> Option<Arc<Process>> {
        self.id.process()
    }

    /// Whether `group` is a group of this session.
    pub(crate) fn has_group(&self, group: &Pid) -> bool {
        group.group_members().first().is_some_and(|member| core::ptr::eq(&*member.session(), self))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        super::stats::PROCESS_OBJECTS.fetch_sub(1, Relaxed); // Relaxed: statistics.
    }
}

impl Process {
    pub(super) fn new(parts: Parts) -> Result<Arc<Process>, Errno> {
        let process = Process {
            family: SpinLock::new(Family {
                parent: parts.parent,
                children: Vec::new(),
                threads: Vec::new(),
                leader: Weak::new(),
                group: parts.group,
                session: parts.session,
                state: State::Alive,
            }),
            signals: SpinLock::new(parts.signals),
            limits: SpinLock::new(parts.limits),
            exe: SpinLock::new(parts.exe),
            used: SpinLock::new(Used::default()),
            timers: super::timers::Timers::new(parts.limits.get(linux_raw_sys::general::RLIMIT_CPU)),
            made: super::posix_timers::Timers::new(),
            child_wait: WaitList::new(),
            signal_waiters: WaitList::new(),
            exit_signal: AtomicU32::new(parts.exit_signal),
            living: AtomicUsize::new(0),
            subreaper: AtomicBool::new(false),
            is_init: parts.pid.number_in(parts.pid.namespace()) == Some(1),
            has_executed: AtomicBool::new(false),
            reportable: AtomicBool::new(false),
            dumpable: AtomicU32::new(parts.dumpable),
            oom_score_adj: AtomicU32::new(parts.oom_score_adj),
            membarrier: AtomicU32::new(0),
            start_ns: parts.now_ns,
            uid: AtomicU32::new(0),
            last_credentials: SpinLock::new(None),
            last_comm: SpinLock::new([0; COMM_LEN]),
            exec_wait: WaitList::new(),
            pid: parts.pid,
        };
        super::stats::PROCESS_OBJECTS.fetch_add(1, Relaxed); // Relaxed: statistics.
        memory::arc(process).map_err(|_| Errno::ENOMEM)
    }

    /// Its number in the initial namespace.
    pub(crate) fn pid(&self) -> u32 {
        self.pid.nr()
    }

    /// Its number in `ns`; `None` if it is not there.
    pub(crate) fn pid_in(&self, ns: &PidNamespace) -> Option<u32> {
        self.pid.number_in(ns)
    }

    /// Who it was when its last thread ended.
    pub(crate) fn last_credentials(&self) -> Option<Arc<Credentials>> {
        self.last_credentials.lock().clone()
    }

    /// Its identity.
    pub(crate) fn identity(&self) -> &Arc<Pid> {
        &self.pid
    }

    /// Its parent; `None` for the first process.
    pub(crate) fn parent(&self) -> Option<Arc<Process>> {
        self.family.lock().parent.upgrade()
    }

    /// Its process group.
    pub(crate) fn group(&self) -> Arc<Pid> {
        self.family.lock().group.clone()
    }

    /// Its session.
    pub(crate) fn session(&self) -> Arc<Session> {
        self.family.lock().session.clone()
    }

    /// Whether it began its session.
    pub(crate) fn is_session_leader(&self) -> bool {
        Arc::ptr_eq(&self.family.lock().session.id, &self.pid)
    }

    /// Its threads that have not ended.
    pub(crate) fn threads(&self) -> Vec<Arc<Thread>> {
        self.family.lock().threads.clone()
    }

    /// How many threads it has.
    pub(crate) fn threads_len(&self) -> usize {
        self.family.lock().threads.len()
    }

    /// Its first thread, or another if that has ended.
    pub(crate) fn leader(&self) -> Option<Arc<Thread>> {
        let family = self.family.lock();
        family
            .leader
            .upgrade()
            .filter(|leader| !leader.is_exiting())
            .or_else(|| family.threads.first().cloned())
    }

    /// Where it stands.
    pub(crate) fn state(&self) -> State {
        self.family.lock().state
    }

    /// Whether it has threads.
    pub(crate) fn is_alive(&self) -> bool {
        self.state() == State::Alive
    }

    /// Its children that it has not waited for.
    pub(crate) fn children(&self) -> Vec<Arc<Process>> {
        self.family.lock().children.clone()
    }

    /// The program that it runs.
    pub(crate) fn exe(&self) -> Option<Arc<OpenFile>> {
        self.exe.lock().clone()
    }

    /// User and system time of it, and of children that it waited for, in ns.
    pub(crate) fn times(&self) -> ((u64, u64), (u64, u64)) {
        let used = *self.used.lock();
        let mut own = used.own;
        for thread in self.threads() {
            let (user, system) = thread.cpu_times();
            own = (own.0 + user, own.1 + system);
        }
        (own, used.children)
    }

    /// The most memory that it had, and that children had that it waited for, in pages.
    pub(super) fn peaks(&self) -> (usize, usize) {
        let used = *self.used.lock();
        let now = self.leader().and_then(|leader| leader.space()).map_or(0, |space| space.peak());
        (used.own_peak.max(now), used.children_peak)
    }

    /// It leaves a space.
    pub(super) fn leaves(&self, space: &AddressSpace) {
        let peak = space.peak();
        let mut used = self.used.lock();
        used.own_peak = used.own_peak.max(peak);
    }

    /// Context switches: those that it asked for, and those that it did not.
    pub(crate) fn switches(&self) -> (u64, u64) {
        let mut sum = self.used.lock().switches;
        for entity in self.threads().iter().filter_map(|thread| thread.entity()) {
            let (asked, not) = entity.switches();
            sum = (sum.0 + asked, sum.1 + not);
        }
        sum
    }

    /// When it began, by the kernel's clock.
    pub(crate) fn start_ns(&self) -> u64 {
        self.start_ns
    }

    /// The name of its first thread, when that has ended.
    pub(crate) fn last_comm(&self) -> [u8; COMM_LEN] {
        *self.last_comm.lock()
    }

    /// Whether signals that it does not handle do not kill it.
    pub(super) fn is_unkillable(&self) -> bool {
        self.is_init
    }

    /// A thread has ended: execve(2) may go on.
    pub(super) fn wake_exec(&self) {
        self.exec_wait.wake();
    }

    /// `PR_GET_DUMPABLE`
    pub(crate) fn dumpable(&self) -> u32 {
        self.dumpable.load(Relaxed) // Relaxed: a number.
    }

    /// `/proc/PID/oom_score_adj`
    pub(crate) fn oom_score_adj(&self) -> i32 {
        self.oom_score_adj.load(Relaxed) as i32 // Relaxed: a number.
    }

    /// Writes `/proc/PID/oom_score_adj`.
    pub(crate) fn set_oom_score_adj(&self, value: i32) {
        self.oom_score_adj.store(value as u32, Relaxed); // Relaxed: a number.
    }
}

/// What a new process is made of.
pub(super) struct Parts {
    pub(super) pid: Arc<Pid>,
    pub(super) parent: Weak<Process>,
    pub(super) group: Arc<Pid>,
    pub(super) session: Arc<Session>,
    pub(super) signals: ProcessSignals,
    pub(super) limits: Limits,
    pub(super) exe: Option<Arc<OpenFile>>,
    pub(super) exit_signal: u32,
    pub(super) dumpable: u32,
    pub(super) oom_score_adj: u32,
    pub(super) now_ns: u64,
}

/// Whether no process of `group` has a parent in another group of the same session: nobody is there to continue what the
/// terminal stops.
pub(crate) fn is_orphaned(group: &Pid) -> bool {
    let _tree = super::tree();
    is_orphaned_without(group, None)
}

/// As [`is_orphaned`], leaving out one process. Context: under `tree`.
pub(super) fn is_orphaned_without(group: &Pid, without: Option<&Process>) -> bool {
    !group.group_members().iter().any(|member| {
        let left_out = without.is_some_and(|without| core::ptr::eq(without, &**member));
        !left_out
            && member.is_alive()
            && member.parent().is_some_and(|parent| {
                !parent.is_init
                    && !core::ptr::eq(&*parent.group(), group)
                    && Arc::ptr_eq(&parent.session(), &member.session())
            })
    })
}

/// A counter of what is there.
pub(crate) static PROCESSES: AtomicU64 = AtomicU64::new(0);
