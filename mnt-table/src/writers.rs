//! Who is writing, and how a mount or a superblock becomes read-only beside them.
//!
//! 1. A writer counts itself on its own CPU ([`crate::count`]); SeqCst fence; then it looks at the state. `HOLD`: a
//!    transition is deciding, which never takes long, so it spins. Then, `READONLY`: it takes its count back and fails.
//! 2. A transition to read-only, one at a time under its owner's lock, sets `HOLD`; SeqCst fence; sums the writers. None:
//!    `READONLY` comes in the place of `HOLD`, by one store. Some: `HOLD` goes, and the caller says `EBUSY`.
//! 3. A write through a mount counts in two places, on the mount and on its superblock. So each of them can become
//!    read-only by its own count alone: the superblock looks at none of its mounts, and one that is added meanwhile makes
//!    no difference.
//! 4. A change of many mounts holds all of them, sums all, and only then commits or lets go of all.
//!
//! *Winner of the race*: the writer, if it was counted. If its fence is first, the sum has it; if the transition's is
//! first, the writer sees `HOLD` or what came after it. Both can happen: then the transition fails for a writer that only
//! waited. A sum of zero is final: no writer was inside at one moment of it (step 3 of [`crate::count`]), and whoever
//! counts after that moment waits for the decision.
//!
//! # Edges
//! - `[Hold]` count; SeqCst fence; load of the state, against: `HOLD`; SeqCst fence; sum. Models `write_vs_read_only`,
//!   `write_vs_read_only_spill`, `mounts_vs_super_block`.
//! - `[Put]` Release when a write ends, Acquire in the sum: what was written comes before the decision that nobody writes.
//! - `[Decided]` Release in [`Hold`]'s end and [`Writers::set_writable`], Acquire in a writer's look: what was changed while
//!   nobody could write comes before the writes that follow. Models `write_vs_read_only`, `write_vs_writable`.
//!
//! Sources: mount(2), mount_setattr(2).

use crate::count::Counter;
use crate::platform::relax;
use crate::sync::{AtomicU32, Ordering, fence, order, planted};

/// Writes fail.
const READONLY: u32 = 1;
/// A transition is deciding.
const HOLD: u32 = 2;

/// `EROFS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadOnly;

/// The writers of a mount or of a superblock, and whether there may be any.
pub struct Writers {
    /// Changed under the owner's lock.
    state: AtomicU32,
    count: Counter,
}

impl Writers {
    /// Nobody writes yet.
    #[expect(clippy::new_without_default, reason = "a count is made where its owner is, never by default")]
    pub fn new() -> Self {
        Writers { state: AtomicU32::new(0), count: Counter::new() }
    }

    /// Nobody may write.
    pub fn new_read_only() -> Self {
        Writers { state: AtomicU32::new(READONLY), count: Counter::new() }
    }

    /// Whether writes fail; a moment's answer unless the owner's lock is held.
    #[inline]
    pub fn is_read_only(&self) -> bool {
        // Relaxed: one bit that stands for itself.
        self.state.load(Ordering::Relaxed) & READONLY != 0
    }

    /// Keeps new writers waiting until the [`Hold`] ends.
    ///
    /// Context: holds the owner's lock, so there is one hold at a time; does not block while it holds.
    pub fn hold(&self) -> Hold<'_> {
        // Relaxed: written under the owner's lock.
        let before = self.state.load(Ordering::Relaxed);
        debug_assert_eq!(before & HOLD, 0, "held twice");
        // Relaxed: ordered by the fence.
        self.state.store(before | HOLD, Ordering::Relaxed);
        if !planted("hold_without_fence") {
            // [Hold]: pairs with the fence in `begin`: that one is first, and the sum has the writer; or this one is, and
            // the writer sees HOLD.
            fence(Ordering::SeqCst);
        }
        Hold { writers: self, after: before }
    }

    /// Writers may come again, with no need to wait for anybody.
    ///
    /// Context: as [`Writers::hold`].
    pub fn set_writable(&self) {
        // Release [Decided]: pairs with the Acquire in `may_write`.
        self.state.store(0, order(Ordering::Release, "writable_relaxed"));
    }

    /// Whether a writer that has counted itself may go on; waits for a decision that is on its way.
    #[inline]
    fn may_write(&self) -> bool {
        // Acquire [Decided]: pairs with the Release in `Hold::drop` and `set_writable`.
        let look = || self.state.load(order(Ordering::Acquire, "may_write_relaxed"));
        let first = look();
        let (mut now, mut spins) = (first, 0);
        while now & HOLD != 0 {
            relax(spins);
            spins += 1;
            now = look();
        }
        if planted("no_look_after_hold") {
            now = first;
        }
        now & READONLY == 0
    }
}

/// New writers wait, from [`Writers::hold`] until this is dropped.
#[must_use = "dropped, it holds nobody"]
pub struct Hold<'a> {
    writers: &'a Writers,
    /// The state that its end leaves.
    after: u32,
}

impl Hold<'_> {
    /// Whether nobody writes. Once true it stays true until the hold ends; false may be about a writer that is waiting.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.writers.count.sum() == 0
    }

    /// Ends the hold, and writes fail from here on. The caller knows that nobody writes, or does not care (an emergency).
    pub fn set_read_only(mut self) {
        self.after = READONLY;
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        // Release [Decided]: pairs with the Acquire in `may_write`.
        self.writers.state.store(self.after, order(Ordering::Release, "hold_end_relaxed"));
    }
}

/// What a write goes through.
pub trait Through {
    /// The writers of the mount and those of its superblock.
    fn writers(&self) -> [&Writers; 2];
}

impl Through for [&Writers; 2] {
    fn writers(&self) -> [&Writers; 2] {
        *self
    }
}

/// Counts a writer in all of `levels`, unless one of them is read-only; [`end`] ends it.
///
/// Context: not pinned, and no lock held that a transition takes; spins while one decides; never blocks.
///
/// # Errors
/// `EROFS` ([`ReadOnly`]).
#[inline]
pub fn begin<const N: usize>(levels: [&Writers; N]) -> Result<(), ReadOnly> {
    levels.iter().for_each(|writers| writers.count.get());
    if !planted("write_without_fence") {
        // [Hold]: pairs with the fence in `hold`. One for all levels: each count comes before it and each look after it.
        fence(Ordering::SeqCst);
    }
    if levels.iter().all(|writers| writers.may_write()) {
        return Ok(());
    }
    end(levels);
    Err(ReadOnly)
}

/// Ends what [`begin`] began, on any CPU.
#[inline]
pub fn end<const N: usize>(levels: [&Writers; N]) {
    levels.iter().for_each(|writers| writers.count.put());
}

/// The right to write through `T`, which neither becomes read-only itself nor has its superblock become so before this is
/// dropped.
///
/// `T` is what is held meanwhile: a borrowed mount for the time of a system call, or an open file's reference.
pub struct WriteRef<T: Through>(T);

impl<T: Through> WriteRef<T> {
    /// Begins to write. Context: as [`begin`].
    ///
    /// # Errors
    /// `EROFS` ([`ReadOnly`]).
    pub fn new(through: T) -> Result<Self, ReadOnly> {
        begin(through.writers())?;
        Ok(WriteRef(through))
    }

    /// What is written through.
    pub fn through(&self) -> &T {
        &self.0
    }
}

impl<T: Through> Drop for WriteRef<T> {
    fn drop(&mut self) {
        end(self.0.writers());
    }
}
