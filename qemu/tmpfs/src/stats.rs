//! What is alive, for leak checks: counters in shards by superblock, so that unrelated superblocks share no line.

use core::sync::atomic::{AtomicI64, Ordering};

const SHARDS: usize = 64;

/// Counters of the superblocks whose `dev` has the same remainder. A shard may go below zero only while it is read.
#[repr(align(128))]
pub(crate) struct Shard {
    pub(crate) dentries: AtomicI64,
    pub(crate) inodes: AtomicI64,
    pub(crate) super_blocks: AtomicI64,
    pub(crate) bytes: AtomicI64,
}

static LIVE: [Shard; SHARDS] = [const {
    Shard {
        dentries: AtomicI64::new(0),
        inodes: AtomicI64::new(0),
        super_blocks: AtomicI64::new(0),
        bytes: AtomicI64::new(0),
    }
}; SHARDS];

/// What is alive in memory: unlinked or not, mounted or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Dentries.
    pub dentries: i64,
    /// Inodes.
    pub inodes: i64,
    /// Superblocks.
    pub super_blocks: i64,
    /// Bytes of the pages that files have.
    pub bytes: i64,
}

/// Sums the counters. Exact at rest; what was retired counts until it is freed.
pub fn stats() -> Stats {
    // Relaxed here and where they change: statistics.
    LIVE.iter().fold(Stats::default(), |sum, shard| Stats {
        dentries: sum.dentries + shard.dentries.load(Ordering::Relaxed),
        inodes: sum.inodes + shard.inodes.load(Ordering::Relaxed),
        super_blocks: sum.super_blocks + shard.super_blocks.load(Ordering::Relaxed),
        bytes: sum.bytes + shard.bytes.load(Ordering::Relaxed),
    })
}

/// The counters for what belongs to the superblock `dev`.
pub(crate) fn of(dev: u32) -> &'static Shard {
    &LIVE[dev as usize % SHARDS]
}

impl Shard {
    pub(crate) fn add(counter: &AtomicI64, change: i64) {
        // Relaxed: a count.
        counter.fetch_add(change, Ordering::Relaxed);
    }
}
