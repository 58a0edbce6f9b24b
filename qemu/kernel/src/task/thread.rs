//! A thread of a user program.

use alloc::sync::{Arc, Weak};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::*};

use linux_raw_sys::general as abi;
use syscalls::{Credentials, Errno};
use tmpfs::TmpDentry;

use super::signal::{self, SigSet, ThreadSignals};
use super::{Namespaces, Pid, PidNamespace, Process};
use crate::arch::spin::SpinLock;
use crate::arch::trap::TrapFrame;
use crate::arch::user::UserState;
use crate::fs::fd::FdTable;
use crate::mm::space::AddressSpace;
use crate::sched::{self, Entity};

/// What mounts and files know of a thread.
pub(crate) type Mounts = syscalls::Task<TmpDentry>;

/// Bytes of a thread's name, the end mark included.
pub(crate) const COMM_LEN: usize = 16;

/// There may be a signal to take, or something like one.
pub(super) const SIGNAL: u32 = 1;
/// It is to die.
pub(super) const KILLED: u32 = 2;
/// A mask waits to be restored.
pub(super) const RESTORE_MASK: u32 = 4;
/// It ends by its own will.
pub(super) const EXIT: u32 = 8;
/// A call returned a code that user mode must not see.
pub(super) const RESTART: u32 = 16;
/// Those that only the thread itself sets and clears.
pub(super) const OWN: u32 = EXIT | RESTART;

/// A thread; see the module's header.
pub(crate) struct Thread {
    // Immutable.
    pub(super) process: Arc<Process>,
    pub(super) mounts: Arc<Mounts>,
    // Leaves.
    /// Changes when another thread than the first calls execve(2), and becomes the first.
    pub(super) pid: SpinLock<Arc<Pid>>,
    pub(super) files: SpinLock<Option<Arc<FdTable>>>,
    pub(super) space: SpinLock<Option<Arc<AddressSpace>>>,
    pub(super) namespaces: SpinLock<Arc<Namespaces>>,
    pub(super) user: SpinLock<UserState>,
    pub(super) entity: SpinLock<Weak<Entity>>,
    stack_top: AtomicU64,
    pub(super) comm: SpinLock<[u8; COMM_LEN]>,
    // Under `Process::signals`, then its own lock.
    pub(super) signals: SpinLock<ThreadSignals>,
    /// `SIGNAL`, `KILLED` and the others above.
    pub(super) work: AtomicU32,
    /// It is on its way out.
    pub(super) exiting: AtomicBool,
    pub(super) exit_status: AtomicU32,
    pub(super) clear_child_tid: AtomicUsize,
    /// Written when it starts, if it is not 0: its number goes there.
    pub(super) set_child_tid: AtomicUsize,
    pub(super) robust_list: AtomicUsize,
    /// The signal that it gets when its parent dies.
    pub(super) death_signal: AtomicU32,
    /// Woken when it needs its parent's space no longer (vfork).
    pub(super) vfork: SpinLock<Option<Arc<super::clone::VforkDone>>>,
    pub(super) settings: SpinLock<Settings>,
    /// The registers of user mode with which it starts.
    pub(super) start: SpinLock<Option<TrapFrame>>,
    /// Its user had too many processes when it became that user.
    nproc_exceeded: AtomicBool,
    /// Who it is to files meanwhile, if not who it is (access(2)).
    acting: SpinLock<Option<Arc<Credentials>>>,
    /// Whether there is such a one.
    is_acting: AtomicBool,
    // Own CPU; read by others.
    pub(super) times: Times,
}

/// What a thread was told and what children inherit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    pub(super) nice: i8,
    pub(super) policy: u32,
    pub(super) priority: i32,
    pub(super) reset_on_fork: bool,
    pub(super) timer_slack_ns: u64,
    /// What it is if nobody says otherwise: that of the thread that made this one, at that time.
    pub(super) default_slack_ns: u64,
    pub(super) keep_caps: bool,
    pub(super) personality: u32,
    pub(super) io_priority: u32,
}

impl Settings {
    pub(super) const INITIAL: Settings = Settings {
        nice: 0,
        policy: abi::SCHED_NORMAL,
        priority: 0,
        reset_on_fork: false,
        timer_slack_ns: 50_000,
        default_slack_ns: 50_000,
        keep_caps: false,
        personality: 0,
        io_priority: 0,
    };
}

#[derive(Debug, Default)]
pub(super) struct Times {
    pub(super) start_ns: u64,
    mark_ns: AtomicU64,
    user_ns: AtomicU64,
    system_ns: AtomicU64,
}

/// What a new thread is made of.
pub(super) struct Parts {
    pub(super) process: Arc<Process>,
    pub(super) pid: Arc<Pid>,
    pub(super) mounts: Mounts,
    pub(super) files: Arc<FdTable>,
    pub(super) space: Option<Arc<AddressSpace>>,
    pub(super) namespaces: Arc<Namespaces>,
    pub(super) user: UserState,
    pub(super) comm: [u8; COMM_LEN],
    pub(super) signals: ThreadSignals,
    pub(super) settings: Settings,
    pub(super) now_ns: u64,
}

impl Drop for Thread {
    fn drop(&mut self) {
        super::stats::THREAD_OBJECTS.fetch_sub(1, Relaxed); // Relaxed: statistics.
    }
}

impl Thread {
    pub(super) fn new(parts: Parts) -> Result<Arc<Thread>, Errno> {
        let no_memory = |_| Errno::ENOMEM;
        let thread = Thread {
            process: parts.process,
            mounts: mnt_table::memory::arc(parts.mounts).map_err(no_memory)?,
            pid: SpinLock::new(parts.pid),
            files: SpinLock::new(Some(parts.files)),
            space: SpinLock::new(parts.space),
            namespaces: SpinLock::new(parts.namespaces),
            user: SpinLock::new(parts.user),
            entity: SpinLock::new(Weak::new()),
            stack_top: AtomicU64::new(0),
            comm: SpinLock::new(parts.comm),
            signals: SpinLock::new(parts.signals),
            work: AtomicU32::new(0),
            exiting: AtomicBool::new(false),
            exit_status: AtomicU32::new(0),
            clear_child_tid: AtomicUsize::new(0),
            set_child_tid: AtomicUsize::new(0),
            robust_list: AtomicUsize::new(0),
            death_signal: AtomicU32::new(0),
            vfork: SpinLock::new(None),
            settings: SpinLock::new(parts.settings),
            start: SpinLock::new(None),
            nproc_exceeded: AtomicBool::new(false),
            acting: SpinLock::new(None),
            is_acting: AtomicBool::new(false),
            times: Times { start_ns: parts.now_ns, ..Times::default() },
        };
        super::stats::THREAD_OBJECTS.fetch_add(1, Relaxed); // Relaxed: statistics.
        mnt_table::memory::arc(thread).map_err(no_memory)
    }

    /// Its number in the initial namespace.
    pub(crate) fn tid(&self) -> u32 {
        self.pid.lock().nr()
    }

    /// Its number in `ns`; `None` if it is not there.
    pub(crate) fn tid_in(&self, ns: &PidNamespace) -> Option<u32> {
        self.pid.lock().number_in(ns)
    }

    /// Its number in its own namespace.
    pub(crate) fn own_tid(&self) -> u32 {
        self.tid_in(self.pid_ns()).unwrap_or(0)
    }

    /// Its identity.
    pub(crate) fn pid(&self) -> Arc<Pid> {
        self.pid.lock().clone()
    }

    /// The PID namespace that it is in.
    pub(crate) fn pid_ns(&self) -> &Arc<PidNamespace> {
        self.process.pid.namespace()
    }

    /// Its process.
    pub(crate) fn process(&self) -> &Arc<Process> {
        &self.process
    }

    /// What mounts know of it.
    pub(crate) fn mounts(&self) -> &Arc<Mounts> {
        &self.mounts
    }

    /// Who it is.
    pub(crate) fn credentials(&self) -> Arc<Credentials> {
        self.mounts.credentials()
    }

    /// Who it is to files.
    pub(crate) fn acting(&self) -> Arc<Credentials> {
        // Relaxed: the thread's own word.
        let acting = if self.is_acting.load(Relaxed) { self.acting.lock().clone() } else { None };
        acting.unwrap_or_else(|| self.credentials())
    }

    /// Makes it somebody else to files, for a part of a call. Context: the thread itself.
    pub(crate) fn act_as(&self, who: Option<Arc<Credentials>>) {
        self.is_acting.store(who.is_some(), Relaxed); // Relaxed: as in `acting`.
        let old = core::mem::replace(&mut *self.acting.lock(), who);
        drop(old);
    }

    /// Its descriptors.
    ///
    /// # Panics
    /// On its way out, when it has none any more.
    pub(crate) fn files(&self) -> Arc<FdTable> {
        self.try_files().expect("descriptors of a thread that lives")
    }

    /// Its descriptors, if it still has them.
    pub(crate) fn try_files(&self) -> Option<Arc<FdTable>> {
        self.files.lock().clone()
    }

    /// Gives it other descriptors.
    pub(crate) fn set_files(&self, files: Arc<FdTable>) {
        let old = self.files.lock().replace(files);
        drop(old);
    }

    /// Its memory; `None` if it has none any more.
    pub(crate) fn space(&self) -> Option<Arc<AddressSpace>> {
        self.space.lock().clone()
    }

    /// Its name, filled up with zeroes.
    pub(crate) fn comm(&self) -> [u8; COMM_LEN] {
        *self.comm.lock()
    }

    /// Names it; what is too long is cut.
    pub(crate) fn set_comm(&self, name: &[u8]) {
        let mut comm = [0; COMM_LEN];
        let len = name.iter().position(|byte| *byte == 0).unwrap_or(name.len()).min(COMM_LEN - 1);
        comm[..len].copy_from_slice(&name[..len]);
        *self.comm.lock() = comm;
    }

    /// The namespaces that mounts do not know of.
    pub(crate) fn namespaces(&self) -> Arc<Namespaces> {
        self.namespaces.lock().clone()
    }

    pub(super) fn set_namespaces(&self, namespaces: Arc<Namespaces>) {
        let old = core::mem::replace(&mut *self.namespaces.lock(), namespaces);
        drop(old);
    }

    /// Its registers of user mode that the kernel does not use.
    pub(crate) fn user_state(&self) -> &SpinLock<UserState> {
        &self.user
    }

    pub(super) fn set_entity(&self, entity: &Arc<Entity>) {
        *self.entity.lock() = Arc::downgrade(entity);
        self.stack_top.store(sched::stack_top(entity).unwrap_or(0), Relaxed); // Relaxed: before it starts.
    }

    pub(super) fn stack_top(&self) -> Option<u64> {
        Some(self.stack_top.load(Relaxed)).filter(|top| *top != 0) // Relaxed: written before it started.
    }

    /// What the scheduler knows of it, unless it has ended.
    pub(crate) fn entity(&self) -> Option<Arc<Entity>> {
        self.entity.lock().upgrade()
    }

    /// Whether there is a signal that an interruptible wait ends for. Context: the thread itself.
    pub(crate) fn signal_pending(&self) -> bool {
        self.work.load(Acquire) & (SIGNAL | KILLED) != 0 // Acquire: pairs with the Release in `signal::send::notify`.
    }

    /// Whether it is to die. Context: the thread itself.
    pub(crate) fn fatal_signal(&self) -> bool {
        self.work.load(Acquire) & KILLED != 0 // Acquire: as above.
    }

    pub(super) fn has_work(&self) -> bool {
        self.work.load(Acquire) != 0 // Acquire: as above.
    }

    /// Until the call in which it is returns, or a signal's handler does, it has the mask `mask` (ppoll(2) and others).
    /// Context: the thread itself.
    pub(crate) fn set_temporary_mask(&self, mask: SigSet) {
        signal::set_temporary_mask(self, mask);
    }

    /// Wakes it if it parks, or interrupts it in user mode.
    pub(crate) fn wake(&self) {
        if let Some(entity) = self.entity() {
            sched::unpark(&entity);
            sched::kick(&entity);
        }
    }

    /// It ends as soon as it leaves the kernel. Context: the thread itself.
    pub(super) fn request_exit(&self) {
        self.work.fetch_or(EXIT, Relaxed); // Relaxed: own thread.
    }

    /// Whether it asked to end. Context: the thread itself.
    pub(super) fn wants_exit(&self) -> bool {
        self.work.load(Relaxed) & EXIT != 0 // Relaxed: own thread.
    }

    /// A call returned a restart code, which is to be seen to. Context: the thread itself.
    pub(crate) fn note_restart(&self) {
        self.work.fetch_or(RESTART, Relaxed); // Relaxed: own thread.
    }

    /// See [`Self::note_restart`].
    pub(super) fn clear_restart(&self) {
        self.work.fetch_and(!RESTART, Relaxed); // Relaxed: own thread.
    }

    /// Notes whether its user had too many processes when it became that user.
    pub(super) fn check_nproc(&self, exceeded: bool) {
        self.nproc_exceeded.store(exceeded, Relaxed); // Relaxed: own thread.
    }

    pub(super) fn checks_nproc(&self) -> bool {
        self.nproc_exceeded.load(Relaxed) // Relaxed: own thread.
    }

    /// Whether it has begun to end.
    pub(crate) fn is_exiting(&self) -> bool {
        self.exiting.load(Acquire) // Acquire: pairs with the Release in `exit`.
    }

    pub(super) fn clock_user(&self, now_ns: u64) {
        // Relaxed, all here: written by the thread's own CPU only; others read statistics.
        let mark_ns = self.times.mark_ns.load(Relaxed);
        let ran_ns = now_ns.saturating_sub(mark_ns);
        self.times.user_ns.store(self.times.user_ns.load(Relaxed) + ran_ns, Relaxed);
        self.times.mark_ns.store(now_ns, Relaxed);
    }

    pub(super) fn clock_kernel(&self, now_ns: u64) {
        // Relaxed, all: as in `clock_user`.
        let ran_ns = now_ns.saturating_sub(self.times.mark_ns.load(Relaxed));
        self.times.system_ns.store(self.times.system_ns.load(Relaxed) + ran_ns, Relaxed);
        self.times.mark_ns.store(now_ns, Relaxed);
    }

    pub(super) fn clock_resume(&self, now_ns: u64) {
        // Relaxed: as in `clock_user`.
        self.times.mark_ns.store(now_ns, Relaxed);
    }

    /// How long it ran in user mode and in the kernel, in ns.
    pub(crate) fn cpu_times(&self) -> (u64, u64) {
        (self.times.user_ns.load(Relaxed), self.times.system_ns.load(Relaxed)) // Relaxed: statistics.
    }

    /// When it began, by the kernel's clock.
    pub(crate) fn start_ns(&self) -> u64 {
        self.times.start_ns
    }

    /// Its nice value.
    pub(crate) fn nice(&self) -> i32 {
        self.settings.lock().nice.into()
    }

    /// `R`, `S` or `T`, as `/proc` shows it; `Z` for what has ended.
    pub(crate) fn state(&self) -> u8 {
        if self.is_exiting() {
            return b'Z';
        }
        if self.signals.lock().stopped {
            return b'T';
        }
        match self.entity() {
            Some(entity) if entity.is_ready() => b'R',
            Some(_) => b'S',
            None => b'Z',
        }
    }
}
