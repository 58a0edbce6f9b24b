//! Other hash maps, keyed as the mount hash is and with its hash function; the values are addresses of mounts.
//!
//! Each takes its locks as a mount table built on it would: a lock per lookup, a pin per batch.

pub mod dashmap;
pub mod hashbrown;
pub mod papaya;
pub mod rwlock;

use crate::keys::{Key, Steps};

/// A concurrent map in the place of the mount hash.
pub trait Peer: Sync {
    /// What tables call it.
    const NAME: &str;

    /// A map of `entries`.
    fn new(entries: &[(Key, usize)]) -> Self;

    /// Makes one batch of lookups of `keys`.
    fn batch(&self, keys: &[Key], steps: &mut Steps);

    /// Mounts.
    fn insert(&self, key: Key, value: usize);

    /// Umounts.
    fn remove(&self, key: Key);
}
