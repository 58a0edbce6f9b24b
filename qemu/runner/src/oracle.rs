//! `cargo xtask oracle`: the mount table beside the running Linux.

use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::project;

/// Compares the mount table with the running Linux on random programs, operation by operation; needs root.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Operations to compare for each seed
    #[arg(long, value_name = "N")]
    ops: Option<u64>,
    /// Where randomness starts; may be given several times. Without it a seed is drawn, and printed
    #[arg(long, value_name = "S")]
    seed: Vec<u64>,
    /// One drawn seed more
    #[arg(long)]
    random: bool,
    /// Tasks of one program
    #[arg(long, value_name = "K")]
    tasks: Option<u64>,
    /// Namespaces at one time
    #[arg(long, value_name = "M")]
    namespaces: Option<u64>,
    /// Operations of one program
    #[arg(long, value_name = "N")]
    length: Option<u64>,
    /// The first program: each is known by the seed and its number
    #[arg(long, value_name = "N")]
    first: Option<u64>,
    /// Programs that are run at the same time; without it one on each processor
    #[arg(long, value_name = "N")]
    jobs: Option<u64>,
    /// Print how often each call gave each answer, and how often each rule of Linux was shown
    #[arg(long)]
    coverage: bool,
    /// Run these scripts on Linux and on the mount table instead
    #[arg(long, value_name = "FILE", num_args = 1..)]
    scripts: Vec<std::path::PathBuf>,
    /// Make the first program of this script, on which the two differ, as short as it gets instead
    #[arg(long, value_name = "FILE")]
    minimise: Option<std::path::PathBuf>,
    /// Print instead which rules these scripts show, and how often
    #[arg(long, value_name = "FILE", num_args = 1..)]
    rules: Vec<std::path::PathBuf>,
    /// Write these scripts again with Linux's answers instead
    #[arg(long, value_name = "FILE", num_args = 1..)]
    record: Vec<std::path::PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let mut command = project::cargo(project::TOOLCHAIN);
    command.args(["run", "--quiet", "--release", "--package", "oracle", "--"]);
    let numbers = [
        ("--ops", args.ops),
        ("--tasks", args.tasks),
        ("--namespaces", args.namespaces),
        ("--length", args.length),
        ("--first", args.first),
        ("--jobs", args.jobs),
    ];
    for (name, number) in numbers {
        command.args(number.map(|number| format!("{name}={number}")));
    }
    command.args(args.seed.iter().map(|seed| format!("--seed={seed}")));
    command.args(args.random.then_some("--random")).args(args.coverage.then_some("--coverage"));
    command
        .args(args.minimise.iter().flat_map(|file| [std::ffi::OsStr::new("--minimise"), file.as_os_str()]));
    for (name, files) in [("--scripts", &args.scripts), ("--rules", &args.rules), ("--record", &args.record)]
    {
        command.args((!files.is_empty()).then_some(name)).args(files);
    }
    let status = command.status().context("cannot run cargo")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
