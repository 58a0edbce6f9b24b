//! What the job needs of the kernel or host that it runs on.

/// Threads, time and a console.
pub trait Env: Sync {
    /// How many workers run at once, an even number: one that looks and one that changes.
    fn workers(&self) -> usize;

    /// Runs `work(index)` for every index below [`Env::workers`], all at once, each on its own thread, and returns when all
    /// have returned.
    fn run(&self, work: &(dyn Fn(usize) + Sync));

    /// Lets other workers run for a moment.
    fn give_way(&self);

    /// Nanoseconds since some moment; never goes back.
    fn now_ns(&self) -> u64;

    /// Prints a line, which has its newline.
    fn print(&self, line: &[u8]);

    /// Frees everything that was retired, on every CPU.
    fn quiesce(&self);
}

/// This host: threads of the standard library.
#[cfg(feature = "std")]
pub struct Host {
    workers: usize,
    start: std::time::Instant,
}

#[cfg(feature = "std")]
impl Host {
    /// An environment of `workers` threads.
    pub fn new(workers: usize) -> Self {
        Host { workers, start: std::time::Instant::now() }
    }
}

#[cfg(feature = "std")]
impl Env for Host {
    fn workers(&self) -> usize {
        self.workers
    }

    fn run(&self, work: &(dyn Fn(usize) + Sync)) {
        std::thread::scope(|scope| {
            let running: std::vec::Vec<_> =
                (0..self.workers).map(|index| scope.spawn(move || work(index))).collect();
            // Joined one by one: the scope itself does not wait for a thread to hand over what it retired.
            for thread in running {
                thread.join().expect("a worker reports what is wrong, and does not panic");
            }
        });
    }

    fn give_way(&self) {
        std::thread::yield_now();
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn print(&self, line: &[u8]) {
        // A console that is gone is no reason to end the job.
        let _written = std::io::Write::write_all(&mut std::io::stdout().lock(), line);
    }

    fn quiesce(&self) {
        // Threads that ended gave their waiting retirements to the collector.
        for _ in 0..64 {
            mnt_table::reclaim::quiesce();
        }
    }
}
