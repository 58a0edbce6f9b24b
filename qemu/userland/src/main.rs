//! One static program for tests on the kernel: its first process, and what that runs.
//!
//! As process 1 it sets the root file system up (`init`) and runs the words of the command line as a job: one of its own,
//! or any program. As any other process it is that job.
//!
//! | job | what |
//! |---|---|
//! | `run PROGRAM ...` | another program (process 1 only) |
//! | `cases FILE...` | the case files through system calls, each task a process |
//! | `checks` | what programs ask of a kernel beside mounts |
//! | `trace` | random programs of the oracle's; prints what the kernel answers |
//! | `stress` | a forest built through system calls, looked up and changed by processes that are killed at random |
//! | `fuzz` | random system calls with random arguments |
//! | `hoard` | processes that take all memory, in many ways |
//! | `overlay` | an overlay of several layers, and a container in one; prints what every call answers |
//! | `measure` | what calls cost |

mod cases;
mod checks;
mod debug_call;
mod fuzz;
mod hoard;
mod init;
mod measure;
mod overlay;
mod stress_job;
mod sys;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use oracle::generate::Limits;

/// Tests on the kernel, from user space.
#[derive(Parser)]
enum Job {
    /// Run case files through system calls
    Cases {
        /// The files, or folders of them
        files: Vec<PathBuf>,
    },
    /// Check what programs ask of a kernel beside mounts
    Checks {
        /// Only those whose titles contain this, in which `_` stands for a space
        #[arg(long, default_value = "")]
        only: String,
    },
    /// Run random programs and print what the kernel answers
    Trace {
        /// Where randomness starts
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Operations
        #[arg(long, default_value_t = 1000)]
        ops: u64,
        /// Print only this program, with all that its tasks see
        #[arg(long)]
        program: Option<u64>,
    },
    /// Build a forest and stress it
    Stress(stress_job::Args),
    /// Check where one is after a pivot; the stress runs it
    #[command(hide = true)]
    Probe,
    /// Make random system calls
    Fuzz(fuzz::Args),
    /// Take all memory, in many ways
    Hoard(hoard::Args),
    /// Make an overlay and a container in it, and print what every call answers
    Overlay,
    /// Look around in that container
    #[command(hide = true)]
    OverlayInside,
    /// Print what calls cost
    Measure,
    /// Print the kernel's counters
    Counters,
}

fn main() -> ExitCode {
    if std::process::id() == 1 {
        init::run(std::env::args_os().skip(1).collect());
    }
    match run(Job::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all went well.
fn run(job: Job) -> Result<bool> {
    match job {
        Job::Cases { files } => cases::run(&files),
        Job::Checks { only } => checks::run(&only.replace('_', " ")),
        Job::Trace { seed, ops, program } => {
            oracle::linux::prepare()?;
            let mut out = std::io::BufWriter::new(std::io::stdout().lock());
            let limits = Limits { tasks: 4, namespaces: 6 };
            oracle::trace::trace(seed, ops, limits, program, &mut out)?;
            out.flush()?;
            Ok(true)
        }
        Job::Stress(args) => stress_job::run(&args),
        Job::Probe => stress_job::probe().map(|()| true),
        Job::Fuzz(args) => fuzz::run(&args),
        Job::Hoard(args) => hoard::run(&args),
        Job::Overlay => overlay::run(),
        Job::OverlayInside => overlay::inside().map(|()| true),
        Job::Measure => measure::run().map(|()| true),
        Job::Counters => {
            debug_call::counters()?.iter().for_each(|(name, value)| println!("{name} {value}"));
            Ok(true)
        }
    }
}
