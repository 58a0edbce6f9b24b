//! `papaya`: lock-free, with its own reclaimer; one pin per batch.

use papaya::HashMap;

use super::Peer;
use crate::keys::{AddressHash, Key, Steps};

/// The lock-free map.
pub struct LockFree(HashMap<Key, usize, AddressHash>);

impl Peer for LockFree {
    const NAME: &str = "papaya";

    fn new(entries: &[(Key, usize)]) -> Self {
        LockFree(entries.iter().copied().collect())
    }

    #[inline]
    fn batch(&self, keys: &[Key], steps: &mut Steps) {
        let guard = self.0.guard();
        steps.run(|at| self.0.get(&keys[at], &guard).copied().unwrap_or(0));
    }

    fn insert(&self, key: Key, value: usize) {
        self.0.pin().insert(key, value);
    }

    fn remove(&self, key: Key) {
        self.0.pin().remove(&key);
    }
}
