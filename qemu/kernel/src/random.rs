//! Random bytes for everybody, as good as the CPU's own source.
//!
//! One generator, ChaCha with 20 rounds, behind a spin lock. Its key comes from the CPU's random source, which QEMU and all
//! recent CPUs have, and from the time stamp counter; after so many bytes it is mixed anew, so that what was given out
//! before cannot be found from what is in memory now.
//!
//! Lock order: `GENERATOR` is a leaf.

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use crate::arch::cpu;
use crate::arch::spin::SpinLock;

/// Bytes of a key.
const KEY: usize = 32;
/// Bytes between two keys.
const MIX_AFTER: usize = 1 << 16;
/// Bytes that are made under the lock at a time.
const CHUNK: usize = 256;

struct Generator {
    random: ChaCha20Rng,
    left: usize,
}

static GENERATOR: SpinLock<Option<Generator>> = SpinLock::new(None);

/// Fills `bytes`. Context: threads; never fails.
pub(crate) fn fill(bytes: &mut [u8]) {
    for chunk in bytes.chunks_mut(CHUNK) {
        let mut generator = GENERATOR.lock();
        let before = generator.take().map(|generator| (generator.random, generator.left));
        let (mut random, left) = match before {
            Some((random, left)) if left >= chunk.len() => (random, left),
            Some((random, _)) => (mixed(Some(random)), MIX_AFTER),
            None => (mixed(None), MIX_AFTER),
        };
        random.fill_bytes(chunk);
        *generator = Some(Generator { random, left: left - chunk.len() });
    }
}

/// A generator with a key of what the CPU gives, and of what the old one gives.
fn mixed(old: Option<ChaCha20Rng>) -> ChaCha20Rng {
    let mut key = [0; KEY];
    if let Some(mut old) = old {
        old.fill_bytes(&mut key);
    }
    for word in key.chunks_exact_mut(8) {
        let fresh = cpu::entropy();
        word.iter_mut().zip(fresh.to_ne_bytes()).for_each(|(byte, fresh)| *byte ^= fresh);
    }
    ChaCha20Rng::from_seed(key)
}
