//! Numbers of threads, processes, groups and sessions, and the namespaces that they are numbers of.
//!
//! 1. A [`Pid`] is one identity with a number in every PID namespace from its own up to the initial one. A thread has one;
//!    that of its first thread is its process's; groups and sessions are named by that of the process that began them.
//! 2. A number is taken as long as a thread, process, group or session goes by it (`users`). A pidfd does not count: it
//!    keeps the `Pid`, but the number may be given to another.
//! 3. A PID namespace lives from its first process, number 1, on. When that one dies all others are killed, and no number
//!    is given out any more.
//!
//! # Lock order
//! `TREE` (see [`super::tree`]) → `numbers` of one namespace → heap. The fields of a `Pid` are leaves.

use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering::*};

use mnt_table::UserNs;
use mnt_table::memory::{self, Claims, Grow};
use syscalls::Errno;
use syscalls::file::OtherNamespace;

use super::stats::Counted;
use super::users::Charge;
use super::{Process, Thread};
use crate::arch::spin::SpinLock;
use crate::sched::wait::WaitList;

/// Numbers are below this (`/proc/sys/kernel/pid_max`).
pub(crate) const PID_MAX: u32 = 32768;
/// From the second round on, numbers below this are left to those who were there first.
const RESERVED: u32 = 300;
/// PID namespaces may be this deep.
pub(super) const LEVELS_MAX: usize = 32;
/// The most allocations that one insertion into a map takes: a node for each level of the tree, and a root.
const INSERT_ALLOCATIONS: usize = 10;

/// An identity; see the module's header.
pub(crate) struct Pid {
    // Immutable; outermost first, never empty.
    numbers: Vec<Number>,
    // Under `TREE`.
    users: AtomicUsize,
    // Leaves.
    thread: SpinLock<Weak<Thread>>,
    process: SpinLock<Weak<Process>>,
    /// The processes of the group that goes by it.
    group: SpinLock<Vec<Weak<Process>>>,
    /// Woken when the process that goes by it ends.
    pub(crate) exit: WaitList,
    /// How its process ended, once somebody has waited for it: the status as wait4(2) tells it.
    ended: SpinLock<Option<u32>>,
    /// Counted as long as its numbers are taken.
    held: SpinLock<Option<(Counted, Charge)>>,
}

#[derive(Clone)]
struct Number {
    ns: Arc<PidNamespace>,
    nr: u32,
}

/// A PID namespace.
pub(crate) struct PidNamespace {
    parent: Option<Arc<PidNamespace>>,
    level: usize,
    id: u64,
    owner: UserNs,
    numbers: SpinLock<Numbers>,
    /// Process number 1.
    init: SpinLock<Weak<Process>>,
    /// Processes that have threads, those of namespaces below included. Under `TREE`.
    pub(super) living: AtomicUsize,
    /// Woken when there is only the first one left.
    pub(super) gone: WaitList,
}

struct Numbers {
    pids: BTreeMap<u32, Weak<Pid>>,
    last: u32,
    /// Its first process is dead, or dying.
    closed: bool,
}

impl Pid {
    /// A new identity in `ns` and all namespaces above, that nobody goes by yet; `wanted` says which numbers it is to have,
    /// innermost first (clone3(2) `set_tid`).
    ///
    /// # Errors
    /// `EAGAIN`: no number is free. `EEXIST`: a wanted one is not. `EINVAL`: it cannot be had, or there are more of them than
    /// namespaces. `ENOMEM`: also if the namespace has no first process any more.
    pub(crate) fn new(ns: &Arc<PidNamespace>, wanted: &[u32]) -> Result<Arc<Pid>, Errno> {
        if wanted.len() > ns.level + 1 {
            return Err(Errno::EINVAL);
        }
        let levels: Vec<&Arc<PidNamespace>> = {
            let mut levels = Vec::new();
            levels.make_room(ns.level + 1).map_err(|_| Errno::ENOMEM)?;
            levels.extend(core::iter::successors(Some(ns), |ns| ns.parent.as_ref()));
            levels
        };
        let mut numbers: Vec<Number> = Vec::new();
        numbers.make_room(levels.len()).map_err(|_| Errno::ENOMEM)?;
        let mut failed = Ok(());
        for (index, ns) in levels.iter().enumerate() {
            match ns.reserve(wanted.get(index).copied()) {
                Ok(nr) => numbers.push(Number { ns: Arc::clone(ns), nr }),
                Err(error) => {
                    failed = Err(error);
                    break;
                }
            }
        }
        let release = |numbers: &[Number]| numbers.iter().for_each(|number| number.ns.release(number.nr));
        if let Err(error) = failed {
            release(&numbers);
            return Err(error);
        }
        numbers.reverse();
        let copy = memory::collect::<_, Vec<Number>>(numbers.iter().cloned()).map_err(|_| Errno::ENOMEM);
        let pid = copy.and_then(|numbers| {
            memory::arc(Pid {
                numbers,
                users: AtomicUsize::new(0),
                thread: SpinLock::new(Weak::new()),
                process: SpinLock::new(Weak::new()),
                group: SpinLock::new(Vec::new()),
                exit: WaitList::new(),
                ended: SpinLock::new(None),
                held: SpinLock::new(None),
            })
            .map_err(|_| Errno::ENOMEM)
        });
        match pid {
            Ok(pid) => {
                numbers.iter().for_each(|number| number.ns.publish(number.nr, &pid));
                Ok(pid)
            }
            Err(error) => {
                release(&numbers);
                Err(error)
            }
        }
    }

    /// Its number in the initial namespace.
    pub(crate) fn nr(&self) -> u32 {
        self.numbers[0].nr
    }

    /// Its number in `ns`; `None` if it is not there.
    pub(crate) fn number_in(&self, ns: &PidNamespace) -> Option<u32> {
        let number = self.numbers.get(ns.level)?;
        core::ptr::eq(&*number.ns, ns).then_some(number.nr)
    }

    /// Its numbers from `ns` inwards (the `NSpid` line); none if it is not there.
    pub(crate) fn numbers_from(&self, ns: &PidNamespace) -> impl Iterator<Item = u32> {
        let seen = self.number_in(ns).is_some();
        self.numbers.iter().skip(if seen { ns.level } else { usize::MAX }).map(|number| number.nr)
    }

    /// The namespace that it is of.
    pub(crate) fn namespace(&self) -> &Arc<PidNamespace> {
        &self.numbers[self.numbers.len() - 1].ns
    }

    /// The thread that goes by it.
    pub(crate) fn thread(&self) -> Option<Arc<Thread>> {
        self.thread.lock().upgrade()
    }

    /// The process that goes by it, dead or alive, but not yet waited for.
    pub(crate) fn process(&self) -> Option<Arc<Process>> {
        self.process.lock().upgrade()
    }

    /// How its process ended, if that has been waited for.
    pub(super) fn ended(&self) -> Option<u32> {
        *self.ended.lock()
    }

    /// Its process has been waited for.
    pub(super) fn set_ended(&self, status: u32) {
        *self.ended.lock() = Some(status);
    }

    /// Whether a thread goes by it, or a process too unless only threads count. Context: any; drops nothing.
    pub(crate) fn is_somebody(&self, threads_only: bool) -> bool {
        self.thread.lock().strong_count() != 0 || !threads_only && self.process.lock().strong_count() != 0
    }

    /// Effective user and group of who goes by it: the owners of its files in proc. `None`: nobody's but the
    /// administrator's, because the process is not to be looked into (which does not matter for its directory), or has
    /// ended.
    ///
    /// Context: may be pinned; never blocks.
    pub(crate) fn owner_of_files(&self, of_directory: bool) -> Option<(u32, u32)> {
        // Under `tree` a thread that goes by a number is in its process, so the handle here is not the last.
        let _tree = super::tree();
        let thread = self.thread()?;
        let credentials = thread.credentials();
        let shown = of_directory || thread.process().dumpable() == 1;
        shown.then_some((credentials.euid, credentials.egid))
    }

    /// The processes of the group that goes by it.
    pub(crate) fn group_members(&self) -> Vec<Arc<Process>> {
        self.group.lock().iter().filter_map(Weak::upgrade).collect()
    }

    /// Whether it names a group.
    pub(crate) fn is_group(&self) -> bool {
        !self.group.lock().is_empty()
    }

    // All below: under `TREE`.

    pub(super) fn set_thread(&self, thread: Option<&Arc<Thread>>) {
        *self.thread.lock() = thread.map_or_else(Weak::new, Arc::downgrade);
    }

    pub(super) fn set_process(&self, process: Option<&Arc<Process>>) {
        *self.process.lock() = process.map_or_else(Weak::new, Arc::downgrade);
    }

    /// Makes room for one more member of the group. Context: also without `TREE`.
    pub(super) fn reserve_group(&self) -> Result<(), Errno> {
        self.group.lock().make_room(1).map_err(|_| Errno::ENOMEM)
    }

    pub(super) fn join_group(&self, process: &Arc<Process>) {
        self.attach();
        self.group.lock().push(Arc::downgrade(process));
    }

    pub(super) fn leave_group(&self, process: &Process) {
        {
            let mut group = self.group.lock();
            if let Some(index) = group.iter().position(|member| core::ptr::eq(member.as_ptr(), process)) {
                group.swap_remove(index);
            }
        }
        self.detach();
    }

    /// Somebody more goes by it.
    pub(super) fn attach(&self) {
        self.users.fetch_add(1, Relaxed); // Relaxed: under `TREE`.
    }

    /// Somebody less does; with the last one its numbers are free.
    pub(super) fn detach(&self) {
        // Relaxed: under `TREE`.
        if self.users.fetch_sub(1, Relaxed) == 1 {
            self.discard();
        }
    }

    /// Its numbers are free. Context: nobody goes by it.
    pub(super) fn discard(&self) {
        self.numbers.iter().for_each(|number| number.ns.release(number.nr));
        let held = self.held.lock().take();
        drop(held);
    }

    /// Keeps what counts its thread. Context: it is new.
    pub(super) fn hold(&self, counted: Counted, charge: Charge) {
        *self.held.lock() = Some((counted, charge));
    }

    /// Its thread is another user's now.
    pub(super) fn charge_to(&self, uid: u32) {
        let is_other =
            |held: &Option<(Counted, Charge)>| held.as_ref().is_some_and(|held| held.1.uid() != uid);
        if !is_other(&self.held.lock()) {
            return;
        }
        let Ok(charge) = Charge::new(uid) else { return };
        if let Some((_, held)) = &mut *self.held.lock() {
            *held = charge;
        }
    }

    /// The namespaces in which it has a number.
    pub(super) fn namespaces(&self) -> impl Iterator<Item = &Arc<PidNamespace>> {
        self.numbers.iter().map(|number| &number.ns)
    }
}

impl PidNamespace {
    /// The initial namespace.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn initial() -> Result<Arc<PidNamespace>, Errno> {
        Self::make(None, UserNs::INITIAL, super::ns::PID_INITIAL)
    }

    /// A namespace below `self`.
    ///
    /// # Errors
    /// `ENOSPC`: too deep. `ENOMEM`.
    pub(crate) fn child(self: &Arc<Self>, owner: UserNs) -> Result<Arc<PidNamespace>, Errno> {
        if self.level + 1 > LEVELS_MAX {
            return Err(Errno::ENOSPC);
        }
        Self::make(Some(Arc::clone(self)), owner, super::ns::next_id())
    }

    /// The namespace that all others are below, itself if it is that.
    pub(crate) fn outermost(self: &Arc<Self>) -> &Arc<PidNamespace> {
        let mut outermost = self;
        while let Some(parent) = &outermost.parent {
            outermost = parent;
        }
        outermost
    }

    fn make(parent: Option<Arc<Self>>, owner: UserNs, id: u64) -> Result<Arc<Self>, Errno> {
        let level = parent.as_ref().map_or(0, |parent| parent.level + 1);
        let numbers = Numbers { pids: BTreeMap::new(), last: 0, closed: false };
        let ns = PidNamespace {
            parent,
            level,
            id,
            owner,
            numbers: SpinLock::new(numbers),
            init: SpinLock::new(Weak::new()),
            living: AtomicUsize::new(0),
            gone: WaitList::new(),
        };
        memory::arc(ns).map_err(|_| Errno::ENOMEM)
    }

    /// How deep it is; 0 for the initial one.
    pub(crate) fn level(&self) -> usize {
        self.level
    }

    /// Whether it is `above` or below that.
    pub(crate) fn is_within(&self, above: &PidNamespace) -> bool {
        core::iter::successors(Some(self), |ns| ns.parent.as_deref()).any(|ns| core::ptr::eq(ns, above))
    }

    /// Its process number 1.
    pub(crate) fn init(&self) -> Option<Arc<Process>> {
        self.init.lock().upgrade()
    }

    pub(super) fn set_init(&self, process: &Arc<Process>) {
        *self.init.lock() = Arc::downgrade(process);
    }

    /// Gives out no number any more.
    pub(super) fn close(&self) {
        self.numbers.lock().closed = true;
    }

    /// Whether its first process is dead, or dying.
    pub(super) fn is_closed(&self) -> bool {
        self.numbers.lock().closed
    }

    /// Process number 1 of the namespace above.
    pub(super) fn parent_init(&self) -> Option<Arc<Process>> {
        self.parent.as_ref()?.init()
    }

    /// The identity with this number.
    pub(crate) fn pid(&self, nr: u32) -> Option<Arc<Pid>> {
        self.numbers.lock().pids.get(&nr)?.upgrade()
    }

    /// The thread with this number.
    pub(crate) fn thread(&self, nr: u32) -> Option<Arc<Thread>> {
        self.pid(nr)?.thread()
    }

    /// The process with this number.
    pub(crate) fn process(&self, nr: u32) -> Option<Arc<Process>> {
        self.pid(nr)?.process()
    }

    /// The process with the lowest number from `from` on.
    pub(crate) fn next_process(&self, from: u32) -> Option<(u32, Arc<Process>)> {
        let mut from = from;
        loop {
            let (nr, pid) = {
                let numbers = self.numbers.lock();
                numbers.pids.range(from..).find_map(|(nr, pid)| Some((*nr, pid.upgrade()?)))?
            };
            if let Some(process) = pid.process() {
                return Some((nr, process));
            }
            from = nr + 1;
        }
    }

    /// The last number that was given out.
    pub(crate) fn last(&self) -> u32 {
        self.numbers.lock().last
    }

    /// The next number is looked for above `last` (`/proc/sys/kernel/ns_last_pid`).
    pub(crate) fn set_last(&self, last: u32) {
        // 0: there is no first process yet.
        self.numbers.lock().last = last.max(1);
    }

    /// Takes a number.
    fn reserve(&self, wanted: Option<u32>) -> Result<u32, Errno> {
        let mut claims = Claims::none();
        claims.claim(INSERT_ALLOCATIONS).map_err(|_| Errno::ENOMEM)?;
        let mut numbers = self.numbers.lock();
        if numbers.closed {
            return Err(Errno::ENOMEM);
        }
        let nr = match wanted {
            Some(nr) if nr == 0 || nr >= PID_MAX => return Err(Errno::EINVAL),
            // The first process of a namespace has number 1.
            Some(nr) if nr != 1 && numbers.last == 0 => return Err(Errno::EINVAL),
            Some(nr) if numbers.pids.contains_key(&nr) => return Err(Errno::EEXIST),
            Some(nr) => nr,
            None => numbers.free().ok_or(Errno::EAGAIN)?,
        };
        numbers.last = if wanted.is_some() { numbers.last.max(1) } else { nr };
        memory::covered(|| numbers.pids.insert(nr, Weak::new()));
        Ok(nr)
    }

    fn publish(&self, nr: u32, pid: &Arc<Pid>) {
        if let Some(slot) = self.numbers.lock().pids.get_mut(&nr) {
            *slot = Arc::downgrade(pid);
        }
    }

    fn release(&self, nr: u32) {
        let pid = self.numbers.lock().pids.remove(&nr);
        drop(pid);
    }
}

impl Numbers {
    /// The next free number after the last, around the end.
    fn free(&self) -> Option<u32> {
        let from = if self.last + 1 >= PID_MAX { RESERVED } else { self.last + 1 };
        let in_range = |range: core::ops::Range<u32>| {
            let mut nr = range.start;
            for used in self.pids.range(range.clone()).map(|(used, _)| *used) {
                if used != nr {
                    break;
                }
                nr += 1;
            }
            (nr < range.end).then_some(nr)
        };
        in_range(from..PID_MAX).or_else(|| in_range(RESERVED.min(from)..from))
    }
}

impl OtherNamespace for PidNamespace {
    fn kind(&self) -> u32 {
        linux_raw_sys::general::CLONE_NEWPID
    }

    fn id(&self) -> u64 {
        self.id
    }

    fn owner(&self) -> &UserNs {
        &self.owner
    }

    fn parent(&self) -> Result<Arc<dyn OtherNamespace>, Errno> {
        let parent = self.parent.as_ref().ok_or(Errno::EPERM)?;
        let seen = super::with_current(|thread| parent.is_within(thread.pid_ns())).unwrap_or(false);
        if seen { Ok(Arc::clone(parent) as _) } else { Err(Errno::EPERM) }
    }
}
