//! Dependent lookups: the result of each decides where the next one looks.
//!
//! Every contestant goes through the same keys in the same shuffled order. The address that a lookup returns is folded
//! into the index of the next key with a mask of zero which the compiler cannot see, so the processor has to wait for
//! it, as a path walk does, and nothing else is loaded that only some contestants would have at hand.

use std::hash::{BuildHasher, Hasher};
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mnt_table::{Mount, pin};
use tmpfs::TmpDentry;

use crate::namespace::Namespace;

/// Lookups under one pin, where the contestant has pins: about what one path walk makes.
pub const BATCH: u64 = 16;

/// What peers are keyed by: the addresses of the parent mount and of the dentry.
pub type Key = (usize, usize);

/// Mounts on directories of one root mount, in shuffled order.
pub struct Keys {
    /// The namespace that has them mounted.
    pub namespace: Namespace,
    dentries: Vec<Arc<TmpDentry>>,
    mounts: Vec<Arc<Mount<TmpDentry>>>,
}

impl Keys {
    /// `count` mounts.
    pub fn new(count: usize, namespace: Namespace) -> Self {
        let mut dentries: Vec<_> = (0..count).map(|at| namespace.mkdir(&format!("mnt{at}"))).collect();
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        for at in (1..count).rev() {
            // xorshift64
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            dentries.swap(at, (random % (at as u64 + 1)) as usize);
        }
        let mounts = dentries.iter().map(|dentry| namespace.attach(dentry)).collect();
        Keys { namespace, dentries, mounts }
    }

    /// Makes `lookups` lookups in the mount hash.
    pub fn look_up(&self, lookups: u64) -> Duration {
        let (ns, root, dentries) = (&**self.namespace.ns(), &**self.namespace.root(), &self.dentries[..]);
        walk_through(dentries.len(), lookups, |steps| {
            let guard = pin();
            steps.run(|at| {
                ns.lookup_mnt(root, &dentries[at], &guard).map_or(0, |found| (&raw const *found).addr())
            });
        })
    }

    /// The key of `dentry` on the root mount.
    pub fn key(&self, dentry: &Arc<TmpDentry>) -> Key {
        (Arc::as_ptr(self.namespace.root()).addr(), Arc::as_ptr(dentry).addr())
    }

    /// Keys with the addresses of their mounts, in the order of the lookups.
    pub fn entries(&self) -> Vec<(Key, usize)> {
        let addresses = self.mounts.iter().map(|mount| Arc::as_ptr(mount).addr());
        self.dentries.iter().map(|dentry| self.key(dentry)).zip(addresses).collect()
    }
}

/// Makes `lookups` lookups, going round `count` keys. `batch` makes at most [`BATCH`] of them, under one pin.
pub fn walk_through(count: usize, lookups: u64, mut batch: impl FnMut(&mut Steps)) -> Duration {
    let mut steps = Steps { at: 0, count, mask: black_box(0), left: 0 };
    let start = Instant::now();
    let mut left = lookups;
    while left > 0 {
        steps.left = left.min(BATCH);
        left -= steps.left;
        batch(&mut steps);
    }
    let time = start.elapsed();
    black_box(steps.at);
    time
}

/// The way through the keys.
pub struct Steps {
    at: usize,
    count: usize,
    mask: usize,
    left: u64,
}

impl Steps {
    /// Makes one batch with `lookup`, which returns the address of what is mounted at the key with this index.
    #[inline]
    pub fn run(&mut self, mut lookup: impl FnMut(usize) -> usize) {
        for _ in 0..self.left {
            let found = lookup(self.at);
            assert_ne!(found, 0, "every key is there");
            let next = self.at + 1;
            self.at = (if next == self.count { 0 } else { next }) ^ (found & self.mask);
        }
    }
}

/// The mount hash's multiply-shift of both addresses, for the peers.
///
/// The mount hash takes its bucket from the high bits of the product, where they are good. The peers take theirs from
/// the low bits, so they get the product rotated.
#[derive(Clone, Copy, Default)]
pub struct AddressHash;

/// See [`AddressHash`].
#[derive(Default)]
pub struct AddressHasher(u64);

impl BuildHasher for AddressHash {
    type Hasher = AddressHasher;

    #[inline]
    fn build_hasher(&self) -> AddressHasher {
        AddressHasher(0)
    }
}

impl Hasher for AddressHasher {
    #[inline]
    fn write_usize(&mut self, word: usize) {
        self.0 = self.0.rotate_left(32) ^ word as u64;
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("keys are words");
    }

    #[inline]
    fn finish(&self) -> u64 {
        const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
        self.0.wrapping_mul(ODD).rotate_left(26)
    }
}
