//! Compares the mount table with the running Linux on random programs, or runs scripts on both.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Parser;
use oracle::compare::{Difference, compare};
use oracle::generate::Limits;
use oracle::linux::Nursery;
use oracle::random::{self, Plan};
use oracle::script::{Script, record, rewrite};
use oracle::shrink::shrink;
use oracle::view::difference;
use oracle::{Linux, Model, Session, Step, linux};
use rand::Rng;

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
    /// The first program: each is known by the seed and its number
    #[arg(long, value_name = "N", default_value_t = 0)]
    first: u64,
    /// Programs that are run at the same time; without it one on each processor
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=64))]
    jobs: Option<u64>,
    /// Print how often each call gave each answer, and how often each rule of Linux was shown
    #[arg(long)]
    coverage: bool,
    /// Run these scripts on Linux and on the mount table instead
    #[arg(long, value_name = "FILE", num_args = 1..)]
    scripts: Vec<PathBuf>,
    /// Make the first program of this script, on which the two differ, as short as it gets instead
    #[arg(long, value_name = "FILE")]
    minimise: Option<PathBuf>,
    /// Print instead which rules these scripts show, and how often
    #[arg(long, value_name = "FILE", num_args = 1..)]
    rules: Vec<PathBuf>,
    /// Write these scripts again with Linux's answers instead
    #[arg(long, value_name = "FILE", num_args = 1..)]
    record: Vec<PathBuf>,
}

impl Args {
    fn limits(&self) -> Limits {
        Limits { tasks: self.tasks as usize, namespaces: self.namespaces as usize }
    }
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
    if !args.rules.is_empty() {
        let counts = rules(&args.rules)?;
        counts.iter().for_each(|(rule, count)| println!("{rule:12}{count}"));
        println!("{} rules", counts.len());
        return Ok(ExitCode::SUCCESS);
    }
    linux::check()?;
    linux::prepare()?;
    let processors = linux::processors()?;
    let workers = args.jobs.map_or(processors.len(), |jobs| jobs as usize);
    let nurseries = (0..workers).map(|at| Nursery::new(processors[at % processors.len()]));
    let nurseries = nurseries.collect::<Result<Vec<_>>>()?;
    let nursery = nurseries.first().context("there is no processor to run on")?;
    nursery.stay()?;
    for path in &args.record {
        let text = rewrite(&text(path)?, || Linux::new(nursery, RECORDED_TASKS))
            .with_context(|| path.display().to_string())?;
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if !args.record.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    if !args.scripts.is_empty() {
        return scripts(nursery, &args.scripts);
    }
    if let Some(path) = &args.minimise {
        return minimise(nursery, path, args.limits());
    }
    let mut seeds = args.seed.clone();
    if args.random || seeds.is_empty() {
        seeds.push(rand::rng().random_range(0..1_000_000_000));
    }
    for seed in seeds {
        if !random(args, &nurseries, seed)? {
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

fn scripts(nursery: &Nursery, paths: &[PathBuf]) -> Result<ExitCode> {
    let (mut sections, mut failed) = (0, 0);
    for path in paths {
        for section in &read(path)?.sections {
            sections += 1;
            let on_linux = section.run(&mut Session::new(Linux::new(nursery, section.tasks())?));
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

/// Which rules the programs of scripts show, and how many show each.
fn rules(paths: &[PathBuf]) -> Result<BTreeMap<String, u64>> {
    let mut counts = BTreeMap::new();
    for path in paths {
        for rule in read(path)?.sections.into_iter().flat_map(|section| section.rules) {
            *counts.entry(rule).or_insert(0) += 1;
        }
    }
    Ok(counts)
}

/// Makes a program on which the two differ short.
fn minimise(nursery: &Nursery, path: &Path, limits: Limits) -> Result<ExitCode> {
    let script = read(path)?;
    let section = script.sections.first().context("there is no program in it")?;
    let limits = Limits { tasks: limits.tasks.max(section.tasks()), ..limits };
    let program: Vec<Step> = section.steps().cloned().collect();
    let Some(found) = compare(nursery, &program, limits.tasks)? else {
        println!("{}: the two are alike", path.display());
        return Ok(ExitCode::SUCCESS);
    };
    let (program, found) = shrink(nursery, program, found, limits.tasks)?;
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    show(nursery, &program, &found, limits, &format!("{name}-minimal"))?;
    Ok(ExitCode::FAILURE)
}

/// Programs from `seed`, until the operations are used up or the two differ.
fn random(args: &Args, nurseries: &[Nursery], seed: u64) -> Result<bool> {
    let limits = args.limits();
    // Before anything, so that one that cannot be read is not found at the end.
    let cases = if args.coverage { rules(&cases()?)? } else { BTreeMap::new() };
    let start = Instant::now();
    let plan =
        Plan { seed, first: args.first, ops: args.ops, length: args.length, limits, coverage: args.coverage };
    let outcome = random::run(nurseries, &plan)?;
    let done = outcome.done;
    if let Some(found) = outcome.found.into_iter().min_by_key(|found| found.number) {
        println!("seed {seed}: a difference after {done} operations, in program {}", found.number);
        let (program, difference) = shrink(&nurseries[0], found.program, found.difference, limits.tasks)?;
        show(&nurseries[0], &program, &difference, limits, &format!("seed-{seed}"))?;
        return Ok(false);
    }
    let time = start.elapsed().max(Duration::from_millis(1));
    println!(
        "seed {seed}: {done} operations in {} programs alike, {}% succeeded, {} intended differences, {} expiry marks lost, \
         {:.1} s, {:.0} per second",
        outcome.programs,
        outcome.succeeded * 100 / done.max(1),
        outcome.intended,
        outcome.lost_marks,
        time.as_secs_f64(),
        done as f64 / time.as_secs_f64()
    );
    if args.coverage {
        print!("{}\n{}", outcome.coverage, outcome.coverage.rules(&cases));
    }
    Ok(true)
}

/// All case files.
fn cases() -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(CASES).with_context(|| format!("cannot read {CASES}"))?;
    let paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    Ok(paths.into_iter().filter(|path| path.is_file()).collect())
}

/// Where they are.
const CASES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../syscalls/tests/cases");

/// Where programs on which the two differ are saved.
const SAVED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/oracle");

/// Prints a program on which the two differ, and saves it under `name`.
fn show(nursery: &Nursery, program: &[Step], found: &Difference, limits: Limits, name: &str) -> Result<()> {
    let text = record(program, &mut Session::new(Linux::new(nursery, limits.tasks)?))?;
    println!("\nThe shortest program found, with Linux's answers:\n\n{text}");
    let path = Path::new(SAVED).join(name).with_extension("case");
    std::fs::create_dir_all(SAVED)
        .and_then(|()| std::fs::write(&path, &text))
        .with_context(|| format!("cannot write {}", path.display()))?;
    println!("It is saved as {}.", path.display());
    let (linux, model) = &found.answers;
    println!("\nThe last step answers {linux} on Linux, {model} here.");
    found.violations.iter().for_each(|line| println!("Broken here: {line}"));
    println!(
        "What the tasks see then, - on Linux, + here:\n\n{}",
        difference(&found.views.0, &found.views.1)
    );
    let (theirs, ours) = &found.looks;
    for (theirs, ours) in theirs.iter().zip(ours).filter(|(theirs, ours)| theirs != ours) {
        println!("- {theirs}\n+ {ours}");
    }
    Ok(())
}
