//! The first process.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;

use linux_raw_sys::general as abi;
use syscalls::Errno;
use syscalls::task::SharedFs;
use tmpfs::TmpDentry;

use super::exec::{self, Strings};
use super::limits::Limits;
use super::process::PROCESSES;
use super::signal::{Actions, AltStack, ProcessSignals, SigSet, ThreadSignals};
use super::thread::{self, Settings};
use super::{
    Mounts, Namespaces, Pid, PidNamespace, Process, Session, Thread, process, stats, time, tree, users,
};
use crate::arch::clock;
use crate::arch::spin::SpinLock;
use crate::arch::user::UserState;
use crate::fs;
use crate::fs::fd::FdTable;
use crate::sched::NewThread;

/// Where threads stand that have ended: at the root of boot, which is never unmounted.
static NOWHERE: SpinLock<Option<Arc<SharedFs<TmpDentry>>>> = SpinLock::new(None);

/// Where threads stand that have ended.
pub(super) fn nowhere() -> Option<Arc<SharedFs<TmpDentry>>> {
    NOWHERE.lock().clone()
}

/// The first process before it runs: a thread in no program.
pub(crate) struct Init {
    thread: Arc<Thread>,
}

impl Init {
    /// Makes it, with these places and mounts, and these descriptors.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn new(mounts: Mounts, files: Arc<FdTable>) -> Result<Init, Errno> {
        time::init();
        *NOWHERE.lock() = Some(mounts.fs().copy()?);
        let pids = PidNamespace::initial()?;
        let pid = Pid::new(&pids, &[])?;
        pid.hold(stats::Counted::new()?, users::Charge::new(0)?);
        let session = Session::new(&pid)?;
        let now_ns = clock::now_ns();
        let process = Process::new(process::Parts {
            pid: Arc::clone(&pid),
            parent: Weak::new(),
            group: Arc::clone(&pid),
            session: Arc::clone(&session),
            signals: ProcessSignals::new(Actions::new()?),
            limits: Limits::initial(),
            exe: None,
            exit_signal: abi::SIGCHLD,
            dumpable: 1,
            oom_score_adj: 0,
            now_ns,
        })?;
        let namespaces = Namespaces::initial(Arc::clone(&pids))?;
        let thread = Thread::new(thread::Parts {
            process: Arc::clone(&process),
            pid: Arc::clone(&pid),
            mounts,
            files,
            space: None,
            namespaces,
            user: UserState::new()?,
            comm: [0; thread::COMM_LEN],
            signals: ThreadSignals::new(SigSet::EMPTY, AltStack::NONE),
            settings: Settings::INITIAL,
            now_ns,
        })?;
        {
            let _tree = tree();
            pid.reserve_group()?;
            pid.attach();
            session.id.attach();
            pid.join_group(&process);
            pid.set_process(Some(&process));
            pid.set_thread(Some(&thread));
            pids.set_init(&process);
            let mut family = process.family.lock();
            family.leader = Arc::downgrade(&thread);
            family.threads.push(Arc::clone(&thread));
            process.living.fetch_add(1, Relaxed); // Relaxed: nobody else knows it yet.
            PROCESSES.fetch_add(1, Relaxed); // Relaxed: statistics.
            pids.living.fetch_add(1, Relaxed); // Relaxed: nobody else knows it yet.
        }
        Ok(Init { thread })
    }

    /// Runs a program in it.
    ///
    /// # Errors
    /// As execve(2); the process can be tried with another program then.
    pub(crate) fn run(&self, path: &[u8], arguments: Strings, environment: &[Vec<u8>]) -> Result<(), Errno> {
        let thread = &self.thread;
        let file = fs::exec::open(thread, abi::AT_FDCWD, path, 0)?;
        let mut arguments = arguments;
        if arguments.is_empty() {
            arguments.push(path.to_vec());
        }
        let program = exec::prepare(thread, file, path.to_vec(), false, arguments, environment)?;
        let entity =
            NewThread::new_user(format_args!("init"), thread, u64::MAX).map_err(|_| Errno::ENOMEM)?;
        let frame = exec::commit(thread, program);
        *thread.start.lock() = Some(frame);
        thread.set_entity(entity.entity());
        entity.start();
        Ok(())
    }
}
