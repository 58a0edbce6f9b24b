//! `dashmap`: shards, each under its own lock.

use dashmap::DashMap;

use super::Peer;
use crate::keys::{AddressHash, Key, Steps};

/// The sharded map.
pub struct Sharded(DashMap<Key, usize, AddressHash>);

impl Peer for Sharded {
    const NAME: &str = "dashmap";

    fn new(entries: &[(Key, usize)]) -> Self {
        Sharded(entries.iter().copied().collect())
    }

    #[inline]
    fn batch(&self, keys: &[Key], steps: &mut Steps) {
        steps.run(|at| self.0.get(&keys[at]).map_or(0, |found| *found));
    }

    fn insert(&self, key: Key, value: usize) {
        self.0.insert(key, value);
    }

    fn remove(&self, key: Key) {
        self.0.remove(&key);
    }
}
