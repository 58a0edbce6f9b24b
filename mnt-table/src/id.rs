//! Identifiers without a machine-wide line on the path of a mount.
//!
//! - **Unique ids** ([`unique_after`]) and stamps of peer groups are Lamport clocks: one per CPU, its number in the low
//!   bits. An id is above the last one of its CPU and above the last one of its space; so ids are unique, and ascend in
//!   creation order within a namespace with its detached trees, which share its space. The space of a namespace's copy goes
//!   on behind that of the original, and what comes to a namespace from another space moves the clock on.
//! - **Reused ids** ([`IdSpace`]: mount ids, peer group ids): a namespace owns blocks of 64 and hands out the lowest
//!   free number of its lowest block. Only whole blocks come from the machine's pool, and go back with the namespace.
//!   With one namespace the numbers are Linux's exactly; with several they are unique but differ.
//! - **Namespace ids** come from one counter, once per namespace, since larger must mean younger (nsfs's loop rule).
//!
//! Lock order: an [`IdSpace`]'s lock, then the pool's. Both are leaves.

use alloc::collections::BinaryHeap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cmp::Reverse;

use crate::platform::{CPUS_MAX, cpu};
use crate::sync::Ordering;
use crate::sync::plain::{AtomicU64, Mutex};

const CPU_BITS: u32 = CPUS_MAX.trailing_zeros();

/// Linux's unique ids start above 2^31, so that they are never mistaken for the reused ones.
const FIRST_UNIQUE: u64 = 1 << 31;

#[repr(align(128))]
struct Clock(AtomicU64);

static CLOCKS: [Clock; CPUS_MAX] = [const { Clock(AtomicU64::new(FIRST_UNIQUE >> CPU_BITS)) }; CPUS_MAX];

/// A number that nobody else gets, above `after` and above 2^31.
pub fn unique_after(after: u64) -> u64 {
    let cpu = cpu();
    let clock = &CLOCKS[cpu].0;
    // Relaxed: uniqueness needs only the read-modify-write; order within a namespace comes from `after`.
    let mut seen = clock.load(Ordering::Relaxed);
    loop {
        let next = seen.max(after >> CPU_BITS) + 1;
        match clock.compare_exchange_weak(seen, next, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => return next << CPU_BITS | cpu as u64,
            Err(now) => seen = now,
        }
    }
}

/// Blocks of 64 numbers that belong to no space, lowest first; and the first block that was never handed out.
struct Pool {
    free: BinaryHeap<Reverse<u32>>,
    fresh: u32,
}

/// A machine-wide kind of reused ids.
pub struct IdPool(Mutex<Option<Pool>>);

/// The largest number of blocks: ids are non-negative ints.
const BLOCKS_MAX: u32 = (1 << 31) / 64;

impl IdPool {
    pub(crate) const fn new() -> Self {
        IdPool(Mutex::new(None))
    }

    fn take(&self) -> Option<u32> {
        let mut pool = self.0.lock();
        let pool = pool.get_or_insert_with(|| Pool { free: BinaryHeap::new(), fresh: 0 });
        if let Some(Reverse(lowest)) = pool.free.pop() {
            return Some(lowest);
        }
        let block = pool.fresh;
        (block < BLOCKS_MAX).then(|| {
            pool.fresh += 1;
            block
        })
    }

    fn give(&self, block: u32) {
        if let Some(pool) = &mut *self.0.lock() {
            // Without memory the block is lost, not the operation: there are 2^25 of them.
            if pool.free.try_reserve(1).is_ok() {
                pool.free.push(Reverse(block));
            }
        }
    }
}

struct Block {
    number: u32,
    /// A bit per free id.
    free: u64,
}

/// The reused ids of one namespace.
pub struct IdSpace {
    pool: &'static IdPool,
    /// Ids below this one are never handed out.
    first: u32,
    blocks: Mutex<Blocks>,
}

#[derive(Default)]
struct Blocks {
    /// Ascending by number.
    list: Vec<Block>,
    /// All blocks before this one are in use up to the last number.
    full: usize,
    /// The last unique id.
    last: u64,
}

impl IdSpace {
    /// A space over `pool` without blocks yet.
    pub fn new(pool: &'static IdPool, first: u32) -> Self {
        IdSpace { pool, first, blocks: Mutex::new(Blocks::default()) }
    }

    /// The lowest free id of this space; `None` without memory or numbers.
    pub fn take(self: &Arc<Self>) -> Option<Id> {
        self.take_from(&mut self.blocks.lock())
    }

    /// The lowest free id of this space, and a unique one above all that the space gave out before; `None` as
    /// [`IdSpace::take`].
    pub(crate) fn take_both(self: &Arc<Self>) -> Option<(Id, u64)> {
        let mut blocks = self.blocks.lock();
        let id = self.take_from(&mut blocks)?;
        blocks.last = unique_after(blocks.last);
        Some((id, blocks.last))
    }

    /// The unique ids of this space are above those of `other` from here on.
    pub(crate) fn follow(self: &Arc<Self>, other: &Arc<Self>) {
        if Arc::ptr_eq(self, other) {
            return;
        }
        let last = other.blocks.lock().last;
        let mut blocks = self.blocks.lock();
        blocks.last = blocks.last.max(last);
    }

    fn take_from(self: &Arc<Self>, blocks: &mut Blocks) -> Option<Id> {
        let Blocks { list: blocks, full, .. } = blocks;
        while blocks.get(*full).is_some_and(|block| block.free == 0) {
            *full += 1;
        }
        let at = match *full {
            at if at < blocks.len() => at,
            _ => {
                blocks.try_reserve(1).ok()?;
                let number = self.pool.take()?;
                let mut free = u64::MAX;
                if number == 0 {
                    free <<= self.first;
                }
                let at = blocks.partition_point(|block| block.number < number);
                blocks.insert(at, Block { number, free });
                *full = at;
                at
            }
        };
        let block = &mut blocks[at];
        let bit = block.free.trailing_zeros();
        block.free &= block.free - 1;
        Some(Id { space: Arc::clone(self), number: block.number * 64 + bit })
    }

    fn give(&self, number: u32) {
        let mut blocks = self.blocks.lock();
        let Blocks { list: blocks, full, .. } = &mut *blocks;
        let at = blocks.partition_point(|block| block.number < number / 64);
        *full = at.min(*full);
        let block = &mut blocks[at];
        block.free |= 1 << (number % 64);
    }
}

impl Drop for IdSpace {
    fn drop(&mut self) {
        for block in &self.blocks.get_mut().list {
            self.pool.give(block.number);
        }
    }
}

/// An id in use; free again when dropped.
pub struct Id {
    space: Arc<IdSpace>,
    number: u32,
}

impl Id {
    /// The number.
    pub fn number(&self) -> u32 {
        self.number
    }
}

impl Drop for Id {
    fn drop(&mut self) {
        self.space.give(self.number);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_free_id_is_reused_at_once() {
        static POOL: IdPool = IdPool::new();
        let space = Arc::new(IdSpace::new(&POOL, 1));
        let ids: Vec<Id> = (0..130).map(|_| space.take().unwrap()).collect();
        assert_eq!((ids[0].number(), ids[129].number()), (1, 130));
        let mut ids = ids.into_iter();
        drop(ids.nth(69)); // numbers 1 to 70 are free again
        assert_eq!(space.take().unwrap().number(), 1);
        drop(ids);
        drop(space);
        let other = Arc::new(IdSpace::new(&POOL, 1));
        assert_eq!(other.take().unwrap().number(), 1);
    }

    #[test]
    fn unique_ids_ascend_after_what_was_seen() {
        let far = unique_after(0) + (1 << 40);
        let next = unique_after(far);
        assert!(next > far && unique_after(0) > next && unique_after(0) > FIRST_UNIQUE);
    }
}
