//! Numbers that an administrator sets.

use core::sync::atomic::{AtomicUsize, Ordering};

use crate::Errno;

static MOUNTS_MAX: AtomicUsize = AtomicUsize::new(100_000);

/// `fs.mount-max`: how many mounts a namespace may have.
pub fn mounts_max() -> usize {
    // Relaxed: a number that stands for itself.
    MOUNTS_MAX.load(Ordering::Relaxed)
}

/// Sets `fs.mount-max`.
///
/// # Errors
/// `EINVAL`: 0.
pub fn set_mounts_max(max: usize) -> Result<(), Errno> {
    if max == 0 {
        return Err(Errno::EINVAL);
    }
    // Relaxed: a number that stands for itself.
    MOUNTS_MAX.store(max, Ordering::Relaxed);
    Ok(())
}
