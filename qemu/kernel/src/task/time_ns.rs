//! Time namespaces: what the clocks of their tasks are ahead of the machine's.
//!
//! The offsets of a namespace can be set until a task enters it; from then on they never change.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use linux_raw_sys::general as abi;
use mnt_table::{UserNs, memory};
use syscalls::Errno;
use syscalls::file::OtherNamespace;

use super::with_current;
use crate::arch::clock;
use crate::arch::spin::SpinLock;

/// No clock gets farther than half of what there is.
const NS_MAX: i64 = i64::MAX / 2;

/// How far clocks are ahead.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Offsets {
    pub(crate) monotonic_ns: i64,
    pub(crate) boottime_ns: i64,
}

/// A time namespace.
pub(crate) struct TimeNamespace {
    id: u64,
    owner: UserNs,
    state: SpinLock<State>,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    offsets: Offsets,
    /// A task has been there.
    entered: bool,
}

/// Some namespace has offsets: without any, nobody looks for them.
static ANY: AtomicBool = AtomicBool::new(false);

/// The clocks that can be ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Clock {
    Monotonic,
    Boottime,
}

impl TimeNamespace {
    pub(super) fn new(id: u64, owner: UserNs, offsets: Offsets) -> Result<Arc<Self>, Errno> {
        let state = SpinLock::new(State { offsets, entered: false });
        memory::arc(TimeNamespace { id, owner, state }).map_err(|_| Errno::ENOMEM)
    }

    /// Its offsets.
    pub(crate) fn offsets(&self) -> Offsets {
        self.state.lock().offsets
    }

    /// A task enters it.
    pub(super) fn enter(&self) {
        self.state.lock().entered = true;
    }

    /// Sets some of its offsets; the caller has looked at permissions.
    ///
    /// # Errors
    /// `ERANGE`: a clock would be before its beginning, or too far. `EACCES`: a task has been there.
    pub(crate) fn set(&self, new: &[(Clock, i64)]) -> Result<(), Errno> {
        let now_ns = clock::now_ns() as i64;
        let fits = |offset: i64| now_ns.checked_add(offset).is_some_and(|sum| (0..=NS_MAX).contains(&sum));
        if !new.iter().all(|(_, offset)| fits(*offset)) {
            return Err(Errno::ERANGE);
        }
        let mut state = self.state.lock();
        if state.entered {
            return Err(Errno::EACCES);
        }
        for (clock, offset) in new {
            match clock {
                Clock::Monotonic => state.offsets.monotonic_ns = *offset,
                Clock::Boottime => state.offsets.boottime_ns = *offset,
            }
        }
        ANY.store(true, Relaxed); // Relaxed: whoever enters it does so after this.
        Ok(())
    }
}

impl OtherNamespace for TimeNamespace {
    fn kind(&self) -> u32 {
        abi::CLONE_NEWTIME
    }

    fn id(&self) -> u64 {
        self.id
    }

    fn owner(&self) -> &UserNs {
        &self.owner
    }
}

/// How far a clock of the running thread is ahead.
pub(crate) fn offset_ns(clock: Clock) -> i64 {
    if !ANY.load(Relaxed) {
        return 0; // Relaxed: as above.
    }
    let offsets = with_current(|thread| thread.namespaces().time.offsets()).unwrap_or_default();
    match clock {
        Clock::Monotonic => offsets.monotonic_ns,
        Clock::Boottime => offsets.boottime_ns,
    }
}

/// What a clock of the running thread says when the machine's says `ns`.
pub(crate) fn seen_ns(clock: Clock, ns: u64) -> u64 {
    ns.saturating_add_signed(offset_ns(clock))
}

/// What the machine's clock says when the running thread's says `ns`.
pub(crate) fn machine_ns(clock: Clock, ns: u64) -> u64 {
    ns.saturating_add_signed(-offset_ns(clock))
}
