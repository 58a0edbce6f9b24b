//! `cargo xtask bench`: criterion's benches; their program prints the table of ratios at the end.

use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::{install, project};

/// Runs the benches beside their peers; criterion's report is left in target/criterion.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Measure for a shorter time, with wider error
    #[arg(long)]
    quick: bool,
    /// Further words for criterion, such as a part of a bench's name
    #[arg(last = true)]
    words: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    install::stable(&[])?;
    let mut command = project::cargo(project::TOOLCHAIN);
    command.args(["bench", "--package", "benches", "--benches", "--"]);
    command.args(args.quick.then_some("--quick")).args(&args.words);
    let status = command.status().context("cannot run cargo bench")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
