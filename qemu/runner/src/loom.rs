//! `cargo xtask loom`: the models of `loom-tests`.

use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::project;

/// Runs the loom models of the mount table and the bugs planted in them.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only models whose name contains this
    #[arg(long, value_name = "X")]
    filter: Option<String>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let mut command = project::cargo(project::TOOLCHAIN);
    command.args(["test", "--release", "--package", "loom-tests", "--target-dir"]);
    command.arg(project::target().join("loom")).env("RUSTFLAGS", "--cfg loom");
    command.args(args.filter.as_deref());
    let status = command.status().context("cannot run cargo test")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
