//! Processes that take all memory, in many ways.

use std::time::Duration;

use anyhow::Result;

use super::Kernel;
use super::guest::Guest;

/// Has programs take all memory, in many ways; the kernel must stay up, and all of it be there for others afterwards
#[derive(clap::Args)]
pub(super) struct Args {
    /// Where randomness starts
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Rounds; in the first ones each kind has its turn
    #[arg(long, default_value_t = 16)]
    rounds: u64,
    /// Number of virtual CPUs
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    cpus: u32,
    /// Megabytes of memory
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(64..=4096))]
    memory: u32,
}

/// How long a round may take, with the time to get rid of what it left.
const ROUND_MAX: Duration = Duration::from_secs(60);

pub(super) fn run(args: &Args) -> Result<bool> {
    let mut guest = Guest::new(Kernel::Ours)?;
    guest.cpus = args.cpus;
    guest.memory_mib = args.memory as usize;
    guest.words = "debug_call".to_owned();
    guest.limit = ROUND_MAX * (args.rounds as u32 + 1);
    guest.silence = ROUND_MAX;
    let (seed, rounds) = (args.seed.to_string(), args.rounds.to_string());
    println!("seed {seed}");
    let ended =
        guest.run(&["hoard", "--seed", &seed, "--rounds", &rounds], &mut |line| println!("{line}"))?;
    Ok(ended.passed())
}
