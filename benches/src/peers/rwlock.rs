//! `parking_lot::RwLock` around a `hashbrown` map: a read lock per lookup.

use hashbrown::HashMap;
use parking_lot::RwLock;

use super::Peer;
use crate::keys::{AddressHash, Key, Steps};

/// The map under its lock.
pub struct Locked(RwLock<HashMap<Key, usize, AddressHash>>);

impl Peer for Locked {
    const NAME: &str = "RwLock<hashbrown>";

    fn new(entries: &[(Key, usize)]) -> Self {
        Locked(RwLock::new(entries.iter().copied().collect()))
    }

    #[inline]
    fn batch(&self, keys: &[Key], steps: &mut Steps) {
        steps.run(|at| self.0.read().get(&keys[at]).copied().unwrap_or(0));
    }

    fn insert(&self, key: Key, value: usize) {
        self.0.write().insert(key, value);
    }

    fn remove(&self, key: Key) {
        self.0.write().remove(&key);
    }
}
