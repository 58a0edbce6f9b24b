//! `cargo xtask user`: tests from user space, each a job of the `userland` program in a machine that boots for it.
//!
//! The machine runs our kernel or, as the control, Debian's Linux, on the same root file system. A job talks in lines on
//! the console; the last one is `init: exit` with its status.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Subcommand, ValueEnum};

mod boots;
mod cases;
mod checks;
mod container;
mod fuzz;
mod guest;
mod hoard;
mod measure;
mod overlay;
mod program;
mod trace;

/// Runs tests from user space on the kernel, or on Debian's Linux in the same machine.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    job: Job,
}

#[derive(Subcommand)]
enum Job {
    Boots(boots::Args),
    Cases(cases::Args),
    Checks(checks::Args),
    Oracle(trace::Args),
    Container(container::Args),
    Fuzz(fuzz::Args),
    Hoard(hoard::Args),
    Measure(measure::Args),
    Overlay(overlay::Args),
    Program(program::Args),
}

/// What runs in the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kernel {
    /// This project's kernel
    Ours,
    /// Debian's Linux
    Linux,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let passed = match &args.job {
        Job::Boots(args) => boots::run(args)?,
        Job::Cases(args) => cases::run(args)?,
        Job::Checks(args) => checks::run(args)?,
        Job::Oracle(args) => trace::run(args)?,
        Job::Container(args) => container::run(args)?,
        Job::Fuzz(args) => fuzz::run(args)?,
        Job::Hoard(args) => hoard::run(args)?,
        Job::Measure(args) => measure::run(args)?,
        Job::Overlay(args) => overlay::run(args)?,
        Job::Program(args) => program::run(args)?,
    };
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
