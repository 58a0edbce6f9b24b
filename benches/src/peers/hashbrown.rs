//! The floor: `hashbrown` without any synchronisation, which only a table that never changes could use.

use hashbrown::HashMap;

use crate::keys::{AddressHash, Key, Steps};

/// A map that one thread uses alone.
pub struct Unsynchronised(HashMap<Key, usize, AddressHash>);

impl Unsynchronised {
    /// What tables call it.
    pub const NAME: &str = "hashbrown, no synchronisation";

    /// A map of `entries`.
    pub fn new(entries: &[(Key, usize)]) -> Self {
        Unsynchronised(entries.iter().copied().collect())
    }

    /// Makes one batch of lookups of `keys`.
    #[inline]
    pub fn batch(&self, keys: &[Key], steps: &mut Steps) {
        steps.run(|at| self.0.get(&keys[at]).copied().unwrap_or(0));
    }
}
