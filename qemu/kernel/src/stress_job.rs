//! The main job on kernel threads: the `stress` crate's environment.
//!
//! Two workers per CPU, one that looks and one that changes, so that each CPU preempts lookups with changes. The forest
//! comes as the loader's module; results leave as lines on the console.

use alloc::string::String;

use stress::env::Env;
use stress::forest::Forest;
use stress::job::{self, Job};
use stress::protocol::Message;

use crate::arch::power::ExitCode;
use crate::arch::{clock, percpu};
use crate::console::{print_line, println};
use crate::{epoch, sched};

/// Workers per CPU.
const PER_CPU: usize = 2;

struct Threads;

impl Env for Threads {
    fn workers(&self) -> usize {
        percpu::count() * PER_CPU
    }

    fn run(&self, work: &(dyn Fn(usize) + Sync)) {
        if let Err(error) = sched::run_all(self.workers(), PER_CPU, work) {
            println!("kernel: not all workers could be started: {error:?}");
        }
    }

    fn give_way(&self) {
        sched::yield_now();
    }

    fn now_ns(&self) -> u64 {
        clock::now_ns()
    }

    fn print(&self, line: &[u8]) {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        print_line(format_args!("{}", String::from_utf8_lossy(line)));
    }

    fn quiesce(&self) {
        if let Err(error) = epoch::flush_epochs() {
            println!("kernel: not all CPUs could be flushed: {error:?}");
        }
    }
}

/// Runs the job on the forest in `image`.
pub(crate) fn run(seconds: u32, seed: u64, image: &[u8]) -> ExitCode {
    let forest = match Forest::from_image(image) {
        Ok(forest) => forest,
        Err(error) => {
            println!("kernel: {error}");
            return ExitCode::BadInput;
        }
    };
    match job::run(&Threads, &Job { seconds, seed }, &forest) {
        Ok(outcome) => {
            let clean = outcome.is_clean();
            Threads.print(&Message::Result(outcome).to_line());
            if clean { ExitCode::Success } else { ExitCode::JobFailed }
        }
        Err(error) => {
            println!("kernel: the forest cannot be built: {error}");
            ExitCode::JobFailed
        }
    }
}
