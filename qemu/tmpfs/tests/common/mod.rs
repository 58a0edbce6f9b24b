//! What the tests share.
#![allow(dead_code, reason = "each test file uses its part")]

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use mnt_table::MntNamespace;
use mnt_table::dentry::{Dentry, LookupError};
use mnt_table::namespace::Kind as NsKind;
use mnt_table::reclaim::pin;
use tmpfs::{Options, TmpDentry, TmpSuperBlock};

pub(crate) type Ns = Arc<MntNamespace<TmpDentry>>;

pub(crate) fn fresh(dev: u32) -> Arc<TmpDentry> {
    TmpSuperBlock::new(Options::new(dev, b"tmpfs")).unwrap()
}

pub(crate) fn namespace() -> Ns {
    MntNamespace::new(NsKind::Ordinary).unwrap()
}

pub(crate) fn look(directory: &TmpDentry, name: &[u8]) -> Result<Arc<TmpDentry>, LookupError> {
    let guard = pin();
    directory.lookup(name, &guard).cloned()
}

/// SplitMix64, seeded by the environment's `SEED` or by chance; says which.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new() -> Self {
        let seed = match std::env::var("SEED") {
            Ok(seed) => seed.parse().expect("SEED is a number"),
            Err(_) => RandomState::new().hash_one(0),
        };
        println!("SEED={seed}");
        Random(seed)
    }

    /// Another sequence, for the thread `number`.
    pub(crate) fn split(&self, number: u64) -> Self {
        Random(self.0 ^ (number + 1).wrapping_mul(0xd6e8_feb8_6659_fd93))
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ mixed >> 31) % end as u64) as usize
    }
}
