//! Waiting for something that another thread brings about.
//!
//! 1. Who waits puts its waker into the list, looks once more whether what it waits for has come, and parks.
//! 2. Who brings it about makes it visible first and then wakes the list; each waker is woken once and is out then.
//!
//! So a wake-up is never missed; but some come for nothing, and who waits looks again.
//!
//! # Lock order
//! The list's lock is taken under no other lock but spin locks of its users; under it wakers are cloned and dropped, and
//! woken never. Interrupt handlers do not come here.

use alloc::vec::Vec;
use core::task::Waker;

use mnt_table::memory::Grow;
use syscalls::Errno;

use crate::arch::clock;
use crate::arch::spin::SpinLock;
use crate::task;

/// So many wakers are taken out at a time.
const BATCH: usize = 16;

/// Who waits for one thing.
pub(crate) struct WaitList(SpinLock<Vec<Waker>>);

/// How to wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wait {
    signals: Signals,
    deadline_ns: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Signals {
    All,
    Fatal,
    None,
}

impl Wait {
    /// Until a signal comes that is to be delivered.
    pub(crate) const INTERRUPTIBLE: Wait = Wait { signals: Signals::All, deadline_ns: None };
    /// Until a signal comes that kills.
    pub(crate) const KILLABLE: Wait = Wait { signals: Signals::Fatal, deadline_ns: None };
    /// However long it takes.
    pub(crate) const UNINTERRUPTIBLE: Wait = Wait { signals: Signals::None, deadline_ns: None };

    /// Until `deadline_ns` of the kernel's clock, if there is one.
    pub(crate) const fn until(self, deadline_ns: Option<u64>) -> Wait {
        Wait { deadline_ns, ..self }
    }

    /// Whether the wait is over for another reason than that it succeeded.
    ///
    /// # Errors
    /// `ERESTARTSYS`: a signal. `ETIMEDOUT`.
    pub(crate) fn check(&self) -> Result<(), Errno> {
        let interrupted = match self.signals {
            Signals::All => task::with_current(task::Thread::signal_pending),
            Signals::Fatal => task::with_current(task::Thread::fatal_signal),
            Signals::None => None,
        };
        if interrupted == Some(true) {
            return Err(task::signal::ERESTARTSYS);
        }
        match self.deadline_ns {
            Some(deadline_ns) if clock::now_ns() >= deadline_ns => Err(Errno::ETIMEDOUT),
            _ => Ok(()),
        }
    }
}

impl Default for WaitList {
    fn default() -> Self {
        Self::new()
    }
}

impl WaitList {
    pub(crate) const fn new() -> Self {
        WaitList(SpinLock::new(Vec::new()))
    }

    /// Has `waker` woken once, at the next [`Self::wake`].
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn watch(&self, waker: &Waker) -> Result<(), Errno> {
        let waker = waker.clone();
        let mut list = self.0.lock();
        if list.iter().any(|other| other.will_wake(&waker)) {
            return Ok(());
        }
        list.try_push(waker).map_err(|_| Errno::ENOMEM)
    }

    /// Takes `waker` out again, if it is in.
    pub(crate) fn unwatch(&self, waker: &Waker) {
        let mut list = self.0.lock();
        let found = list.iter().position(|other| other.will_wake(waker)).map(|index| list.swap_remove(index));
        drop(list);
        drop(found);
    }

    /// Wakes all that wait.
    pub(crate) fn wake(&self) {
        let mut left = self.0.lock().len();
        while left != 0 {
            let mut batch = heapless::Vec::<Waker, BATCH>::new();
            {
                let mut list = self.0.lock();
                let count = left.min(BATCH).min(list.len());
                batch.extend(list.drain(..count));
                left = if count == 0 { 0 } else { left - count };
            }
            batch.into_iter().for_each(Waker::wake);
        }
    }

    /// Waits until `ready` returns something.
    ///
    /// Context: threads, preemption on.
    ///
    /// # Errors
    /// `ERESTARTSYS`, `ETIMEDOUT`, as `how` says; `ENOMEM`.
    pub(crate) fn wait<T>(&self, how: Wait, mut ready: impl FnMut() -> Option<T>) -> Result<T, Errno> {
        if let Some(value) = ready() {
            return Ok(value);
        }
        let waker = super::waker();
        loop {
            self.watch(&waker)?;
            if let Some(value) = ready() {
                self.unwatch(&waker);
                return Ok(value);
            }
            if let Err(error) = how.check() {
                self.unwatch(&waker);
                return Err(error);
            }
            super::park_until(how.deadline_ns);
            self.unwatch(&waker);
        }
    }
}
