//! Costs in instructions: one CPU, one instruction a nanosecond. Or in time, on any number of CPUs.

use anyhow::{Context, Result};

use super::Kernel;
use super::guest::Guest;

/// Counts the instructions of some calls, and from the kernel's entry to the first line of the first process
#[derive(clap::Args)]
pub(super) struct Args {
    /// Measure ticks of the CPUs' clock instead, on so many of them
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=64))]
    cpus: Option<u32>,
    /// Fail if it takes more instructions or ticks from the kernel's entry to the first process
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Fail if it takes longer by the clock
    #[arg(long, value_name = "MS")]
    limit_ms: Option<u64>,
    /// What runs in the machine
    #[arg(long, value_enum, default_value = "ours")]
    kernel: Kernel,
}

/// How the lines with the way to the first process begin.
const ENTRY: &str = "@measure from the kernel's entry to the first process: ";
const ENTRY_MS: &str = "@measure milliseconds of that: ";

pub(super) fn run(args: &Args) -> Result<bool> {
    let mut guest = Guest::new(args.kernel)?;
    guest.cpus = args.cpus.unwrap_or(1);
    guest.icount = args.cpus.is_none();
    guest.words = "debug_call".to_owned();
    let ended = guest.run(&["measure"], &mut |line| println!("{}", line.trim_start_matches("@measure ")))?;
    let mut passed = ended.passed();
    for (limit, begin, unit) in [(args.limit, ENTRY, "ticks"), (args.limit_ms, ENTRY_MS, "ms")] {
        let Some(limit) = limit else { continue };
        let found = ended.lines.iter().find_map(|line| line.strip_prefix(begin)?.parse::<u64>().ok());
        let found = found.context("nothing was said of the kernel's entry")?;
        if found > limit {
            println!("FAILED: {found} {unit} to the first process, {limit} are allowed");
            passed = false;
        }
    }
    Ok(passed)
}
