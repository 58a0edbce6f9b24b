//! One CPU's threads: those that are ready, those that sleep, and the choice among them.
//!
//! 1. Ready threads wait in two lists. Whoever comes back from waiting is *prompt*; whoever used up its slice is *batch*
//!    from then on. Prompt threads go first and interrupt batch ones, so that what somebody waits for comes at once; but
//!    once in [`BATCH_WAIT_NS`] a batch thread that waits gets its turn.
//! 2. Sleepers lie in a tree by the time that they wait for.
//! 3. Both are made of links inside the threads, so that nothing here allocates.
//!
//! Lock order: the lock of the queue is a leaf, taken by interrupt handlers. Never two of them.

use alloc::sync::Arc;
use core::sync::atomic::Ordering::*;

use intrusive_collections::{Bound, KeyAdapter, LinkedList, RBTree, intrusive_adapter};
use intrusive_collections::{LinkedListAtomicLink, RBTreeAtomicLink};

use super::entity::{BATCH, Entity, PROMPT, READY};
use crate::arch::lapic;

/// How long a thread runs while others are ready.
pub(crate) const SLICE_NS: u64 = 4_000_000;
/// A batch thread waits at most about this long for prompt ones.
const BATCH_WAIT_NS: u64 = 20_000_000;
/// The timer is not set for less.
const TIMER_MIN_NS: u64 = 2_000;

intrusive_adapter!(pub(super) ReadyList = Arc<Entity>: Entity { ready_link => LinkedListAtomicLink });
intrusive_adapter!(pub(super) SleepTree = Arc<Entity>: Entity { sleep_link => RBTreeAtomicLink });

impl<'a> KeyAdapter<'a> for SleepTree {
    type Key = u64;

    fn get_key(&self, entity: &'a Entity) -> u64 {
        entity.deadline_ns.load(Relaxed) // Relaxed: under the run queue.
    }
}

/// What the thread that was switched away from is to become, once its stack is not in use any more.
pub(super) enum Afterwards {
    Stay,
    Move(usize),
    Drop,
}

/// Under a CPU's lock.
pub(super) struct Queue {
    pub(super) current: Option<Arc<Entity>>,
    pub(super) idle: Option<Arc<Entity>>,
    prompt: LinkedList<ReadyList>,
    batch: LinkedList<ReadyList>,
    pub(super) ready_len: usize,
    sleepers: RBTree<SleepTree>,
    /// Switched away from, and not yet settled by the thread that came after it.
    pub(super) left: Option<(Arc<Entity>, Afterwards)>,
    pub(super) slice_end_ns: u64,
    /// When the running thread began to.
    pub(super) began_ns: u64,
    /// When a batch thread last had its turn, or the first one came to wait.
    batch_served_ns: u64,
    /// When the timer will interrupt, if it is set.
    pub(super) timer_ns: Option<u64>,
    /// Time with nothing to do.
    pub(super) idle_ns: u64,
}

impl Queue {
    pub(super) fn new() -> Self {
        Self {
            current: None,
            idle: None,
            prompt: LinkedList::new(ReadyList::new()),
            batch: LinkedList::new(ReadyList::new()),
            ready_len: 0,
            sleepers: RBTree::new(SleepTree::new()),
            left: None,
            slice_end_ns: 0,
            began_ns: 0,
            batch_served_ns: 0,
            timer_ns: None,
            idle_ns: 0,
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        match (&self.current, &self.idle) {
            (Some(current), Some(idle)) => Arc::ptr_eq(current, idle),
            _ => true,
        }
    }

    /// How many threads want this CPU.
    pub(super) fn load(&self) -> usize {
        self.ready_len + usize::from(!self.is_idle())
    }

    /// Files a thread as ready, at the end of its list, or in front.
    pub(super) fn push(&mut self, entity: Arc<Entity>, in_front: bool, now_ns: u64) {
        entity.state.store(READY, Relaxed); // Relaxed: under the run queue; so are all others here.
        let list = if entity.class.load(Relaxed) == PROMPT {
            &mut self.prompt
        } else {
            if self.batch.is_empty() {
                self.batch_served_ns = now_ns;
            }
            &mut self.batch
        };
        if in_front {
            list.push_front(entity);
        } else {
            list.push_back(entity);
        }
        self.ready_len += 1;
    }

    /// The thread whose turn it is.
    pub(super) fn pop(&mut self, now_ns: u64) -> Option<Arc<Entity>> {
        let batch_is_due =
            self.prompt.is_empty() || now_ns.saturating_sub(self.batch_served_ns) >= BATCH_WAIT_NS;
        let from_batch = if batch_is_due { self.batch.pop_front() } else { None };
        if from_batch.is_some() {
            self.batch_served_ns = now_ns;
        }
        let next = from_batch.or_else(|| self.prompt.pop_front())?;
        self.ready_len -= 1;
        Some(next)
    }

    /// Whether `woken` should run instead of the running thread.
    pub(super) fn preempts(&self, woken: &Entity) -> bool {
        self.is_idle()
            // Relaxed, both: under the run queue.
            || woken.class.load(Relaxed) == PROMPT
                && self.current.as_ref().is_some_and(|current| current.class.load(Relaxed) == BATCH)
    }

    /// Whether a prompt thread waits behind a batch one.
    pub(super) fn prompt_preempts(&self) -> bool {
        self.prompt.front().get().is_some_and(|first| self.preempts(first))
    }

    /// A ready thread that may move to CPU `to`, taken out.
    pub(super) fn take_movable(&mut self, to: usize) -> Option<Arc<Entity>> {
        for list in [&mut self.batch, &mut self.prompt] {
            let mut cursor = list.front_mut();
            while let Some(entity) = cursor.get() {
                if entity.may_move_to(to) {
                    let entity = cursor.remove()?;
                    self.ready_len -= 1;
                    // Relaxed: under the run queue.
                    entity.cpu.store(to, Relaxed);
                    return Some(entity);
                }
                cursor.move_next();
            }
        }
        None
    }

    pub(super) fn sleep(&mut self, entity: Arc<Entity>, deadline_ns: u64) {
        // Relaxed, here and where it is read: under the run queue.
        entity.deadline_ns.store(deadline_ns, Relaxed);
        self.sleepers.insert(entity);
    }

    /// Takes a thread out of the sleepers, if it is there.
    #[expect(unsafe_code, reason = "a cursor from a reference to an element")]
    pub(super) fn stop_sleeping(&mut self, entity: &Arc<Entity>) {
        if entity.sleep_link.is_linked() {
            // SAFETY: a linked entity is in the tree of its own CPU, which is this one: it is linked and unlinked under
            // that queue's lock only, and its `cpu` does not change while it is linked.
            drop(unsafe { self.sleepers.cursor_mut_from_ptr(Arc::as_ptr(entity)) }.remove());
        }
    }

    pub(super) fn wake_sleepers(&mut self, now_ns: u64) {
        loop {
            let mut first = self.sleepers.lower_bound_mut(Bound::Unbounded);
            if first.get().is_none_or(|entity| entity.deadline_ns.load(Relaxed) > now_ns) {
                return;
            }
            if let Some(entity) = first.remove() {
                entity.refresh();
                self.push(entity, false, now_ns);
            }
        }
    }

    /// Sets the timer for what comes next, unless it will ring before that anyway.
    pub(super) fn arm(&mut self, now_ns: u64) {
        let slice = (self.ready_len != 0 && !self.is_idle()).then_some(self.slice_end_ns);
        let sleeper =
            self.sleepers.lower_bound(Bound::Unbounded).get().map(|entity| entity.deadline_ns.load(Relaxed));
        let next = sleeper.into_iter().chain(slice).min();
        if let Some(next_ns) = next {
            self.ring_at(now_ns, next_ns);
        }
    }

    /// Sets the timer for `next_ns`, unless it will ring before that anyway.
    pub(super) fn ring_at(&mut self, now_ns: u64, next_ns: u64) {
        if self.timer_ns.is_none_or(|timer_ns| timer_ns > next_ns) {
            self.timer_ns = Some(next_ns);
            lapic::set_timer(Some(next_ns.saturating_sub(now_ns).max(TIMER_MIN_NS)));
        }
    }
}
