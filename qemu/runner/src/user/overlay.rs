//! An overlay of several layers and a container in one, by one static program, on our kernel and on the running Linux.

use anyhow::{Result, ensure};

use super::Kernel;
use super::guest::Guest;
use super::trace::here;
use crate::install;

/// Makes overlays and containers in them on the kernel and on the running Linux, and compares all answers; needs root
#[derive(clap::Args)]
pub(super) struct Args {
    /// Number of virtual CPUs
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    cpus: u32,
}

/// What every line of the job begins with.
const MARK: &str = "@ ";

pub(super) fn run(args: &Args) -> Result<bool> {
    ensure!(install::is_root(), "mounting needs root: the running Linux cannot be asked without it");
    let mut guest = Guest::new(Kernel::Ours)?;
    guest.cpus = args.cpus;
    // So that leaks are looked for.
    guest.words = "debug_call".to_owned();
    let wanted = here(&["overlay"])?;
    let ended = guest.run(&["overlay"], &mut |_| ())?;
    let got: Vec<&String> = ended.lines.iter().filter(|line| line.starts_with(MARK)).collect();
    let mut differences = 0;
    for at in 0..wanted.len().max(got.len()) {
        let (wanted, got) = (wanted.get(at), got.get(at).copied());
        if wanted != got {
            differences += 1;
            let show =
                |mark, line: Option<&String>| println!("{mark} {}", line.map_or("nothing", String::as_str));
            show('-', wanted);
            show('+', got);
        }
    }
    println!("{} answers, {differences} differ from Linux", wanted.len());
    Ok(ended.passed() && differences == 0 && !wanted.is_empty())
}
