//! Any program, on a root file system that is ready for it.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;

use super::Kernel;
use super::guest::Guest;
use crate::debian;

/// Runs a statically linked program, with proc, sysfs, devtmpfs and busybox around it
#[derive(clap::Args)]
pub(super) struct Args {
    /// The program
    program: PathBuf,
    /// Its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
    /// Number of virtual CPUs
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    cpus: u32,
    /// What runs in the machine
    #[arg(long, value_enum, default_value = "ours")]
    kernel: Kernel,
    /// Seconds after which the machine is stopped
    #[arg(long, default_value_t = 600)]
    timeout: u64,
    /// Further words for our kernel
    #[arg(long, default_value = "")]
    append: String,
}

pub(super) fn run(args: &Args) -> Result<bool> {
    let mut guest = Guest::new(args.kernel)?;
    guest.cpus = args.cpus;
    guest.words = args.append.clone();
    guest.limit = Duration::from_secs(args.timeout);
    guest.silence = guest.limit;
    guest.image.program("/bin/busybox", &debian::busybox()?)?.symlink("/bin/sh", "busybox");
    guest.image.program("/bin/program", &args.program)?;
    let mut words = vec!["run", "/bin/program"];
    words.extend(args.args.iter().map(String::as_str));
    let ended = guest.run(&words, &mut |line| println!("{line}"))?;
    Ok(ended.passed())
}
