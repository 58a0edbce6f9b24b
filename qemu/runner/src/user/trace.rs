//! The oracle's random programs, by one static program, on our kernel and on the running Linux.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::Kernel;
use super::guest::Guest;
use crate::{install, project};

/// Runs random programs on the kernel and on the running Linux, and compares what they print; needs root
#[derive(clap::Args)]
pub(super) struct Args {
    /// Where randomness starts
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Operations
    #[arg(long, default_value_t = 2000)]
    ops: u64,
    /// Number of virtual CPUs
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    cpus: u32,
}

/// Lines of a program before the first difference that are shown.
const SHOWN: usize = 80;

pub(super) fn run(args: &Args) -> Result<bool> {
    ensure!(install::is_root(), "mounting needs root: the running Linux cannot be asked without it");
    let mut guest = Guest::new(Kernel::Ours)?;
    guest.cpus = args.cpus;
    let (seed, ops) = (args.seed.to_string(), args.ops.to_string());
    let job = ["trace", "--seed", &seed, "--ops", &ops];
    let wanted = here(&job)?;
    let ended = guest.run(&job, &mut |_| ())?;
    let got: Vec<&String> = ended.lines.iter().filter(|line| is_step(line)).collect();
    let same = wanted.iter().zip(&got).take_while(|(wanted, got)| wanted == *got).count();
    let passed = ended.passed();
    if same == wanted.len() && same == got.len() {
        println!("seed {seed}: {same} steps alike");
        return Ok(passed && same > 0);
    }
    println!("seed {seed}: a difference after {same} steps");
    let program = |line: &str| line.split('.').next().map(str::to_owned);
    let number = wanted.get(same).and_then(|line| program(line));
    let before = wanted[..same].iter().rev().take_while(|line| program(line) == number).take(SHOWN);
    before.collect::<Vec<_>>().iter().rev().for_each(|line| println!("  {line}"));
    let show = |mark, line: Option<&str>| println!("{mark} {}", line.unwrap_or("nothing"));
    show('-', wanted.get(same).map(String::as_str));
    show('+', got.get(same).map(|line| line.as_str()));
    let Some(number) = number else { return Ok(false) };
    // Once more, with all that the tasks of that program see.
    let job = [&job[..], &["--program", &number]].concat();
    let (wanted, got) = (here(&job)?, guest.run(&job, &mut |_| ())?.lines);
    println!("\nWhat is seen there, - on Linux, + here:");
    for line in wanted.iter().filter(|line| !got.contains(line)) {
        println!("- {line}");
    }
    for line in got.iter().filter(|line| !wanted.contains(line)) {
        println!("+ {line}");
    }
    Ok(false)
}

/// What the running Linux makes of a job, in a mount namespace of its own.
pub(super) fn here(job: &[&str]) -> Result<Vec<String>> {
    let mut command = Command::new("unshare");
    command.arg("--mount").arg(project::userland()).args(job);
    let words = project::describe(&command);
    let output = command.output().with_context(|| format!("cannot run `{words}`"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "`{words}` failed: {text}{}", String::from_utf8_lossy(&output.stderr));
    Ok(text.lines().map(str::to_owned).collect())
}

/// Whether a line is one of the program's, and not the kernel's.
fn is_step(line: &str) -> bool {
    let number = line.split(' ').next().and_then(|word| word.split_once('.'));
    number.is_some_and(|(program, step)| program.parse::<u64>().is_ok() && step.parse::<u64>().is_ok())
}
