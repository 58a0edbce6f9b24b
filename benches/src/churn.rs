//! A change made again and again on another thread while something is measured.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

/// Runs `work` while another thread makes `change` over and over. `work` begins after the first change was made.
///
/// Returns what `work` did and the number of changes that were made beside it.
pub fn beside<R>(mut change: impl FnMut() + Send, work: impl FnOnce() -> R) -> (R, u64) {
    let stop = AtomicBool::new(false);
    let changes = AtomicU64::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            // Relaxed: the scope's end orders all that the caller looks at.
            while !stop.load(Ordering::Relaxed) {
                change();
                changes.store(changes.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
            }
        });
        while changes.load(Ordering::Relaxed) == 0 {
            thread::yield_now();
        }
        let before = changes.load(Ordering::Relaxed);
        let done = work();
        let made = changes.load(Ordering::Relaxed) - before;
        stop.store(true, Ordering::Relaxed);
        (done, made)
    })
}
