//! Compares the mount table with the running Linux on random programs, or runs scripts on both.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Parser;
use oracle::compare::{Difference, Pair};
use oracle::coverage::Coverage;
use oracle::generate::{Generator, Limits};
use oracle::script::{Script, record, rewrite};
use oracle::shrink::shrink;
use oracle::view::difference;
use oracle::{Linux, Model, Session, Step, linux};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// Compares the mount table with the running Linux, operation by operation.
#[derive(Parser)]
struct Args {
    /// Operations to compare for each seed
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    ops: u64,
    /// Where randomness starts; may be given several times. Without it a seed is drawn, and printed
    #[arg(long, value_name = "S")]
    seed: Vec<u64>,
    /// A further seed that is drawn
    #[arg(long)]
    random: bool,
    /// Tasks of one program
    #[arg(long, value_name = "K", default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=64))]
    tasks: u64,
    /// Namespaces at one time
    #[arg(long, value_name = "M", default_value_t = 6, value_parser = clap::value_parser!(u64).range(1..=64))]
    namespaces: u64,
    /// Operations of one program
    #[arg(long, value_name = "N", default_value_t = 80, value_parser = clap::value_parser!(u64).range(1..))]
    length: u64,
    /// Print how often each call gave each answer
    #[arg(long)]
    coverage: bool,
    /// Run these scripts on Linux and on the mount table instead
    #[arg(long, value_name = "FILE", num_args = 1..)]
    scripts: Vec<PathBuf>,
    /// Write these scripts again with Linux's answers instead
    #[arg(long, value_name = "FILE", num_args = 1..)]
    record: Vec<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<ExitCode> {
    linux::check()?;
    linux::prepare()?;
    for path in &args.record {
        let text = rewrite(&text(path)?, || Linux::new(RECORDED_TASKS))
            .with_context(|| path.display().to_string())?;
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if !args.record.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    if !args.scripts.is_empty() {
        return scripts(&args.scripts);
    }
    let mut seeds = args.seed.clone();
    if args.random || seeds.is_empty() {
        seeds.push(rand::rng().random_range(0..1_000_000_000));
    }
    for seed in seeds {
        if !random(args, seed)? {
            return Ok(ExitCode::FAILURE);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Tasks that a script can have while it is recorded.
const RECORDED_TASKS: usize = 16;

fn text(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

fn read(path: &Path) -> Result<Script> {
    Script::parse(&text(path)?).with_context(|| path.display().to_string())
}

fn scripts(paths: &[PathBuf]) -> Result<ExitCode> {
    let (mut sections, mut failed) = (0, 0);
    for path in paths {
        for section in &read(path)?.sections {
            sections += 1;
            let on_linux = section.run(&mut Session::new(Linux::new(section.tasks())?));
            let on_model = section.run(&mut Session::new(Model::beside_linux()?));
            for (name, result) in [("Linux", on_linux), ("the mount table", on_model)] {
                if let Err(error) = result {
                    failed += 1;
                    println!("{}: {}: on {name}: {error:#}", path.display(), section.title);
                }
            }
        }
    }
    println!("{} files, {sections} programs, {failed} failures", paths.len());
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Programs from `seed`, until the operations are used up or the two differ.
fn random(args: &Args, seed: u64) -> Result<bool> {
    let limits = Limits { tasks: args.tasks as usize, namespaces: args.namespaces as usize };
    let start = Instant::now();
    let (mut done, mut succeeded, mut programs, mut intended) = (0, 0, 0, 0);
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut coverage = Coverage::default();
    while done < args.ops {
        programs += 1;
        let mut pair = Pair::new(limits.tasks)?;
        let mut generator = Generator::new(limits);
        let mut program = Vec::new();
        for _ in 0..args.length.min(args.ops - done) {
            let Some(step) = generator.next(&mut rng, &pair.model.machine, &pair.views) else { break };
            program.push(step);
            done += 1;
            match pair.step(&program[program.len() - 1])? {
                Ok(answer) => {
                    succeeded += u64::from(answer.is_ok());
                    coverage.count(&program[program.len() - 1], &answer);
                }
                Err(found) => {
                    println!("seed {seed}: a difference after {done} operations, in program {programs}");
                    drop(pair);
                    let (program, found) = shrink(program, found, limits.tasks)?;
                    show(&program, &found, limits)?;
                    return Ok(false);
                }
            }
        }
        intended += pair.intended;
    }
    let time = start.elapsed().max(Duration::from_millis(1));
    println!(
        "seed {seed}: {done} operations in {programs} programs alike, {}% succeeded, {intended} intended \
         differences, {:.1} s, {:.0} per second",
        succeeded * 100 / done.max(1),
        time.as_secs_f64(),
        done as f64 / time.as_secs_f64()
    );
    if args.coverage {
        print!("{coverage}");
    }
    Ok(true)
}

fn show(program: &[Step], found: &Difference, limits: Limits) -> Result<()> {
    println!("\nThe shortest program found, with Linux's answers:\n");
    print!("{}", record(program, &mut Session::new(Linux::new(limits.tasks)?))?);
    let (linux, model) = &found.answers;
    println!("\nThe last step answers {linux} on Linux, {model} here.");
    found.violations.iter().for_each(|line| println!("Broken here: {line}"));
    println!(
        "What the tasks see then, - on Linux, + here:\n\n{}",
        difference(&found.views.0, &found.views.1)
    );
    Ok(())
}
