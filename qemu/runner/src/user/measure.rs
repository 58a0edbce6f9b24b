//! Costs in instructions: one CPU, one instruction a nanosecond.

use anyhow::{Context, Result};

use super::Kernel;
use super::guest::Guest;

/// Counts the instructions of some calls, and from the kernel's entry to the first process
#[derive(clap::Args)]
pub(super) struct Args {
    /// Fail if it takes more instructions from the kernel's entry to the first process
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// What runs in the machine
    #[arg(long, value_enum, default_value = "ours")]
    kernel: Kernel,
}

/// How the line with the way to the first process begins.
const ENTRY: &str = "@measure from the kernel's entry to this program: ";

pub(super) fn run(args: &Args) -> Result<bool> {
    let mut guest = Guest::new(args.kernel)?;
    guest.cpus = 1;
    guest.icount = true;
    guest.words = "debug_call".to_owned();
    let ended = guest.run(&["measure"], &mut |line| println!("{}", line.trim_start_matches("@measure ")))?;
    let mut passed = ended.passed();
    if let Some(limit) = args.limit {
        let count = ended.lines.iter().find_map(|line| line.strip_prefix(ENTRY)?.parse::<u64>().ok());
        let count = count.context("nothing was said of the kernel's entry")?;
        if count > limit {
            println!("FAILED: {count} instructions to the first process, {limit} are allowed");
            passed = false;
        }
    }
    Ok(passed)
}
