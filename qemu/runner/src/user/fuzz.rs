//! Random system calls with random arguments.

use std::time::Duration;

use anyhow::Result;

use super::Kernel;
use super::guest::Guest;

/// Makes random system calls on all CPUs for a while; the kernel must stay up, and its invariants hold
#[derive(clap::Args)]
pub(super) struct Args {
    /// Where randomness starts
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How long
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Number of virtual CPUs
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    cpus: u32,
}

pub(super) fn run(args: &Args) -> Result<bool> {
    let mut guest = Guest::new(Kernel::Ours)?;
    guest.cpus = args.cpus;
    guest.words = "debug_call".to_owned();
    guest.limit = Duration::from_secs(args.seconds + 180);
    guest.silence = guest.limit;
    let (seed, seconds) = (args.seed.to_string(), args.seconds.to_string());
    println!("seed {seed}");
    let ended =
        guest.run(&["fuzz", "--seed", &seed, "--seconds", &seconds], &mut |line| println!("{line}"))?;
    Ok(ended.passed())
}
