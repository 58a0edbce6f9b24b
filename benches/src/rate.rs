//! How many changes per second threads make side by side.
//!
//! Two figures: by the clock, which is what a user gets, and by each thread's own processor time, which tells what the
//! threads cost each other apart from what else the machine was doing.

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// Changes between two looks at the clock.
const STRIDE: u64 = 16;

/// Changes per second of all threads together.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// By the clock.
    pub by_clock: f64,
    /// By the threads' processor time.
    pub by_processor: f64,
}

fn processor_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// Makes each of `changes` on a thread of its own, over and over, for `time`.
pub fn rate(changes: Vec<Box<dyn FnMut() + Send + '_>>, time: Duration) -> Rate {
    let barrier = Barrier::new(changes.len());
    let measure = |mut change: Box<dyn FnMut() + Send + '_>| {
        change();
        barrier.wait();
        let (start, processor) = (Instant::now(), processor_time());
        let mut made = 0u64;
        while start.elapsed() < time {
            (0..STRIDE).for_each(|_| change());
            made += STRIDE;
        }
        let made = made as f64;
        let (clock, processor) = (start.elapsed(), processor_time() - processor);
        Rate { by_clock: made / clock.as_secs_f64(), by_processor: made / processor.as_secs_f64() }
    };
    thread::scope(|scope| {
        let threads: Vec<_> = changes.into_iter().map(|change| scope.spawn(|| measure(change))).collect();
        let rates = threads.into_iter().map(|thread| thread.join().expect("a change panicked"));
        rates.fold(Rate { by_clock: 0.0, by_processor: 0.0 }, |sum, one| Rate {
            by_clock: sum.by_clock + one.by_clock,
            by_processor: sum.by_processor + one.by_processor,
        })
    })
}
