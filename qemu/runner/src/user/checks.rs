//! What programs ask of a kernel beside mounts.
//!
//! Debian's kernel, the control, is older than the one whose answers these are: [`OLDER`] are the checks that need a newer one.

use anyhow::Result;

use super::Kernel;
use super::guest::Guest;

/// Checks from user space what programs ask of a kernel beside mounts
#[derive(clap::Args)]
pub(super) struct Args {
    /// Only checks whose titles contain this
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
    /// Number of virtual CPUs
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    cpus: u32,
    /// What runs in the machine
    #[arg(long, value_enum, default_value = "ours")]
    kernel: Kernel,
}

/// Linux 6.1 has no id-mapped mounts of a tmpfs.
const OLDER: [&str; 1] = ["who has no number on an id-mapped mount"];

pub(super) fn run(args: &Args) -> Result<bool> {
    let mut guest = Guest::new(args.kernel)?;
    guest.cpus = args.cpus;
    // The machine's command line has no quotes.
    let only = args.only.replace(' ', "_");
    let words: &[&str] = if only.is_empty() { &["checks"] } else { &["checks", "--only", &only] };
    guest.verdict(words, &OLDER)
}
