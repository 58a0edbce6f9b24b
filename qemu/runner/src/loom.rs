//! `cargo xtask loom`: builds the models with a corrected loom, runs each in a process of its own, prints a table.
//!
//! Two builds, one per layer (the header of `loom-tests` says what they are), then jobs: every model plain, every model
//! once per planted bug. A job fails if a model fails, if a planted bug is *not* caught, if an outcome is missing, or
//! if the process ends in any way but with a result line (a crash, a timeout).

use std::collections::BTreeMap;
use std::env;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::loom_fix;

/// Runs the loom models of the mount table and the bugs planted in them.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only models whose name contains this
    #[arg(long, value_name = "X")]
    filter: Option<String>,
    /// Preemption bound for every run, in place of the models' own; a lower one may leave outcomes unreached
    #[arg(long, value_name = "N")]
    bound: Option<usize>,
    /// Only the planted bugs
    #[arg(long, conflicts_with = "no_planted")]
    planted_only: bool,
    /// Only the models themselves
    #[arg(long)]
    no_planted: bool,
    /// Show that loom as released fails the canaries; nothing else runs
    #[arg(long, conflicts_with_all = ["filter", "bound", "planted_only", "no_planted"])]
    stock: bool,
    /// Seconds that one run may take; the longest takes one minute where nothing else runs
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    timeout: u64,
    /// Seed of the random programs that check the explorer
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    seed: u64,
    /// Number of random programs
    #[arg(long, value_name = "COUNT", default_value_t = 100)]
    programs: usize,
}

/// The two builds, in the order in which they run.
const BUILDS: [Build; 2] = [
    Build { name: "structure", cfgs: "--cfg loom", layers: &["canary", "harness", "structure"] },
    Build { name: "lifetime", cfgs: "--cfg loom --cfg crossbeam_loom", layers: &["lifetime"] },
];

struct Build {
    name: &'static str,
    cfgs: &'static str,
    /// The layers whose models run in this build.
    layers: &'static [&'static str],
}

/// The structure build over loom as released.
const STOCK: Build = Build { name: "stock", cfgs: "--cfg loom", layers: &["canary"] };

/// Runs what `args` asks for. The exit code is 1 if any row of the table is a failure.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let project = Project::read()?;
    let timeout = Duration::from_secs(args.timeout);
    if args.stock {
        return stock(&project, timeout);
    }
    let fixed = loom_fix::prepare(&project.loom_manifest, &project.loom_version, &project.target)?;
    let (mut runs, mut failures) = (0, 0);
    for build in &BUILDS {
        let program = project.build(build, Some(&fixed))?;
        if build.name == "structure" && args.filter.is_none() && !args.planted_only {
            failures += cross_check(&program, args.seed, args.programs, timeout)?;
        }
        let jobs = jobs(args, list(&program, build)?);
        if jobs.is_empty() {
            continue;
        }
        runs += jobs.iter().filter(|job| job.model.layer != "canary").count();
        print_header();
        failures += run_jobs(&program, &jobs, timeout);
    }
    ensure!(runs > 0 || failures > 0, "no model fits the options");
    println!();
    match failures {
        0 => println!(
            "loom: {runs} runs besides the canaries; every model passed and every planted bug was caught"
        ),
        _ => println!("loom: {failures} FAILED"),
    }
    Ok(if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs the canaries over the registry's loom. They must fail, or the correction has become needless.
fn stock(project: &Project, timeout: Duration) -> Result<ExitCode> {
    let program = project.build(&STOCK, None)?;
    println!("loom {} as released:", project.loom_version);
    let mut skipping = 0;
    for model in list(&program, &STOCK)? {
        let job = Job { bound: model.bound, model, switch: Switch::None };
        let result = start(&program, &job, timeout);
        let (executions, outcomes) = (result.executions, &result.outcomes);
        println!(
            "  {:<24}{executions:>8} executions, outcomes {outcomes}: {}",
            job.model.name,
            result.end.describe()
        );
        skipping += usize::from(matches!(result.end, End::Missing(_)));
    }
    println!("{skipping} canaries miss outcomes, which is why a corrected copy is used");
    Ok(if skipping > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What cargo knows about this workspace.
struct Project {
    root: PathBuf,
    target: PathBuf,
    loom_manifest: PathBuf,
    loom_version: String,
}

impl Project {
    fn read() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .ancestors()
            .nth(2)
            .context("the runner lies in qemu/runner")?;
        let output = cargo()
            .args(["metadata", "--format-version", "1"])
            .current_dir(root)
            .stderr(Stdio::inherit())
            .output()
            .context("cannot run cargo metadata")?;
        ensure!(output.status.success(), "cargo metadata failed");
        let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        let packages = metadata["packages"].as_array().context("cargo metadata lists no packages")?;
        let of_loom_tests = packages
            .iter()
            .filter(|package| package["name"] == "loom-tests")
            .flat_map(|package| package["dependencies"].as_array().into_iter().flatten())
            .find(|dependency| dependency["name"] == "loom");
        ensure!(of_loom_tests.is_some(), "loom-tests does not depend on loom");
        // Another crate may bring an old loom of its own; ours is the newest.
        let loom = packages
            .iter()
            .filter(|package| package["name"] == "loom" && package["source"].is_string())
            .max_by_key(|package| version_key(&package["version"]))
            .context("loom is not in Cargo.lock")?;
        let text = |value: &serde_json::Value| {
            value.as_str().map(str::to_owned).context("cargo metadata left out a path")
        };
        Ok(Project {
            root: root.to_owned(),
            target: text(&metadata["target_directory"])?.into(),
            loom_manifest: text(&loom["manifest_path"])?.into(),
            loom_version: text(&loom["version"])?,
        })
    }

    /// Builds `loom-tests`, with the loom at `fixed` in place of the released one, and returns the program.
    fn build(&self, build: &Build, fixed: Option<&Path>) -> Result<PathBuf> {
        let target = self.target.join("loom-sound").join(build.name);
        let mut flags = env::var("RUSTFLAGS").unwrap_or_default();
        flags.push(' ');
        flags.push_str(build.cfgs);
        let mut command = cargo();
        command
            .args(["build", "--quiet", "--release", "--package", "loom-tests", "--target-dir"])
            .arg(&target)
            .current_dir(&self.root)
            .env("RUSTFLAGS", flags)
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .env_remove("CARGO_BUILD_TARGET")
            // Loom ends its threads by unwinding them.
            .env("CARGO_PROFILE_RELEASE_PANIC", "unwind")
            // The models rely on the shipping code's debug assertions.
            .env("CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS", "true");
        if let Some(fixed) = fixed {
            // A path override, and not a patch: it reaches every crate and leaves Cargo.lock as it is.
            let path = serde_json::to_string(fixed)?; // A JSON string is a TOML string too.
            command.arg("--config").arg(format!("paths=[{path}]"));
        }
        println!("building the {} models", build.name);
        ensure!(
            command.status().context("cannot run cargo build")?.success(),
            "the {} models do not build",
            build.name
        );
        Ok(target.join("release").join("loom-tests"))
    }
}

fn cargo() -> Command {
    Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

fn version_key(version: &serde_json::Value) -> Vec<u64> {
    version.as_str().unwrap_or_default().split('.').map(|part| part.parse().unwrap_or(0)).collect()
}

/// One line of `loom-tests list`.
#[derive(Clone)]
struct Model {
    name: String,
    layer: String,
    bound: Option<usize>,
    hunt: Option<usize>,
    bugs: Vec<String>,
    harmless: Vec<String>,
}

/// Returns the models of `program` that run in this build.
fn list(program: &Path, build: &Build) -> Result<Vec<Model>> {
    let output = Command::new(program)
        .arg("list")
        .stderr(Stdio::inherit())
        .output()
        .context("cannot list the models")?;
    let text = String::from_utf8(output.stdout)?;
    let models: Option<Vec<Model>> = text.lines().map(Model::parse).collect();
    let mut models = models.with_context(|| format!("unreadable list of models:\n{text}"))?;
    models.retain(|model| build.layers.contains(&model.layer.as_str()));
    ensure!(!models.is_empty(), "the {} build has no models", build.name);
    Ok(models)
}

impl Model {
    fn parse(line: &str) -> Option<Self> {
        let ["model", name, layer, bound, hunt, bugs, harmless] = *line.split('\t').collect::<Vec<_>>()
        else {
            return None;
        };
        let names = |list: &str| list.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
        Some(Model {
            name: name.to_owned(),
            layer: layer.to_owned(),
            bound: parse_bound(bound)?,
            hunt: parse_bound(hunt)?,
            bugs: names(bugs),
            harmless: names(harmless),
        })
    }
}

fn parse_bound(text: &str) -> Option<Option<usize>> {
    if text == "-" { Some(None) } else { text.parse().ok().map(Some) }
}

/// What is switched on in the shipping code while a model runs.
#[derive(Clone, Debug)]
enum Switch {
    None,
    /// Must be caught.
    Bug(String),
    /// Changes nothing, so it must come out as a bug that was not caught: the check of the check.
    Harmless(String),
}

/// One row of the table: one process.
struct Job {
    model: Model,
    switch: Switch,
    bound: Option<usize>,
}

/// Returns the jobs that `args` leaves of `models`. The canaries always run, and exhaustively: without them no other row
/// means anything.
fn jobs(args: &Args, models: Vec<Model>) -> Vec<Job> {
    let mut jobs = Vec::new();
    for model in models {
        if model.layer == "canary" {
            jobs.push(Job { bound: None, model, switch: Switch::None });
            continue;
        }
        if args.filter.as_ref().is_some_and(|filter| !model.name.contains(filter.as_str())) {
            continue;
        }
        let mut add = |switch: Switch, bound: Option<usize>| {
            jobs.push(Job { model: model.clone(), switch, bound: args.bound.or(bound) });
        };
        if !args.planted_only {
            add(Switch::None, model.bound);
        }
        if !args.no_planted {
            model.bugs.iter().for_each(|bug| add(Switch::Bug(bug.clone()), model.hunt));
            model.harmless.iter().for_each(|switch| add(Switch::Harmless(switch.clone()), model.hunt));
        }
    }
    jobs
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    /// Every expected outcome and no other.
    Pass,
    /// A panic, an assertion, a race or a deadlock that loom reported.
    Panic(String),
    /// An outcome outside the expected set.
    Unexpected(String),
    /// Everything was explored, and some expected outcome never came.
    Missing(String),
    /// No result: a crash, a timeout, a wrong argument. Never counts as caught.
    Broken(String),
}

impl End {
    fn describe(&self) -> &str {
        match self {
            End::Pass => "ok",
            End::Panic(note) | End::Unexpected(note) | End::Missing(note) | End::Broken(note) => note,
        }
    }
}

struct Run {
    end: End,
    executions: u64,
    time: Duration,
    outcomes: String,
}

/// Whether a run went as it should, and how to say so.
#[derive(Debug, PartialEq, Eq)]
struct Verdict {
    ok: bool,
    text: String,
}

/// Judges the end of a run. `lowered` says that its bound is below the model's own, so that missing outcomes prove
/// neither a failure nor a catch.
fn judge(switch: &Switch, end: &End, lowered: bool) -> Verdict {
    let verdict = |ok, text: String| Verdict { ok, text };
    match (switch, end) {
        (_, End::Broken(note)) => verdict(false, format!("FAILED: {note}")),
        (Switch::None, End::Pass) => verdict(true, "ok".into()),
        (Switch::None, End::Missing(note)) if lowered => verdict(true, format!("ok so far; {note}")),
        (Switch::None, end) => verdict(false, format!("FAILED: {}", end.describe())),
        (Switch::Bug(bug), End::Pass) => verdict(false, format!("NOT CAUGHT: {bug}")),
        (Switch::Bug(bug), End::Missing(_)) if lowered => verdict(false, format!("NOT CAUGHT: {bug}")),
        (Switch::Bug(_), end) => verdict(true, format!("caught: {}", end.describe())),
        (Switch::Harmless(switch), end) => match judge(&Switch::Bug(switch.clone()), end, lowered) {
            Verdict { ok: false, .. } => verdict(true, "no bug, and not caught".into()),
            Verdict { text, .. } => verdict(false, format!("FAILED: a switch without effect was {text}")),
        },
    }
}

/// Runs the jobs on all processors and prints their rows in order; returns the number of failures.
fn run_jobs(program: &Path, jobs: &[Job], timeout: Duration) -> usize {
    let next = AtomicUsize::new(0);
    let (sender, receiver) = mpsc::channel();
    let mut failures = 0;
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, |count| count.get()) {
            let (sender, next) = (sender.clone(), &next);
            scope.spawn(move || {
                // Relaxed: hands out each index once; results travel through the channel.
                while let Some((index, job)) =
                    Some(next.fetch_add(1, Relaxed)).and_then(|i| Some((i, jobs.get(i)?)))
                {
                    if sender.send((index, start(program, job, timeout))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        let mut finished = BTreeMap::new();
        let mut printed = 0;
        for (index, run) in receiver {
            finished.insert(index, run);
            while let Some(run) = finished.remove(&printed) {
                failures += usize::from(!print_row(&jobs[printed], &run));
                printed += 1;
            }
        }
    });
    failures
}

fn print_header() {
    println!(
        "{:<32} {:<10} {:>5} {:>12} {:>8}  {:<28} result",
        "model", "layer", "bound", "executions", "seconds", "outcomes"
    );
}

/// Prints one row; returns whether it is a good one.
fn print_row(job: &Job, run: &Run) -> bool {
    let below = |bound: Option<usize>| bound.unwrap_or(usize::MAX);
    let verdict = judge(&job.switch, &run.end, below(job.bound) < below(job.model.bound));
    let name = match &job.switch {
        Switch::None => job.model.name.clone(),
        Switch::Bug(bug) | Switch::Harmless(bug) => format!("{} + {bug}", job.model.name),
    };
    println!(
        "{name:<32} {:<10} {:>5} {:>12} {:>8.2}  {:<28} {}",
        job.model.layer,
        job.bound.map_or("-".to_owned(), |bound| bound.to_string()),
        run.executions,
        run.time.as_secs_f64(),
        run.outcomes.replace('|', ", "),
        verdict.text,
    );
    verdict.ok
}

/// Runs one job in a process of its own, for no longer than `timeout`.
fn start(program: &Path, job: &Job, timeout: Duration) -> Run {
    let mut command = Command::new(program);
    command.args(["run", &job.model.name]);
    match &job.switch {
        Switch::None => {}
        Switch::Bug(bug) | Switch::Harmless(bug) => {
            command.arg(format!("bug={bug}"));
        }
    }
    command.arg(format!("bound={}", job.bound.map_or("-".to_owned(), |bound| bound.to_string())));
    let started = Instant::now();
    let (end, executions, outcomes) = match output_within(&mut command, timeout) {
        Ok(output) => read_result(&output),
        Err(error) => (End::Broken(format!("{error:#}")), 0, String::new()),
    };
    Run { end, executions, time: started.elapsed(), outcomes }
}

/// Reads the result line of a run.
fn read_result(output: &str) -> (End, u64, String) {
    let fields = output.lines().find_map(|line| line.strip_prefix("result\t"));
    let fields: Vec<&str> = fields.unwrap_or_default().split('\t').collect();
    let broken = |why: &str| (End::Broken(format!("{why}: {output:?}")), 0, String::new());
    let [verdict, executions, _, outcomes, note] = fields[..] else {
        return broken("no result line");
    };
    let end = match verdict {
        "pass" => End::Pass,
        "panic" => End::Panic(note.to_owned()),
        "unexpected" => End::Unexpected(note.to_owned()),
        "missing" => End::Missing(note.to_owned()),
        _ => return broken("unknown verdict"),
    };
    match executions.parse() {
        Ok(executions) => (end, executions, outcomes.to_owned()),
        Err(_) => broken("no number of executions"),
    }
}

/// Runs `command` and returns what it wrote to its standard output.
///
/// # Errors
/// If it cannot start, takes longer than `timeout` (it is killed then), or ends with anything but status 0.
fn output_within(command: &mut Command, timeout: Duration) -> Result<String> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start the models")?;
    let (mut out, mut err) =
        (child.stdout.take().context("no stdout")?, child.stderr.take().context("no stderr")?);
    let out = thread::spawn(move || {
        let mut text = String::new();
        out.read_to_string(&mut text).map(|_| text)
    });
    let err = thread::spawn(move || {
        let mut text = String::new();
        err.read_to_string(&mut text).map(|_| text)
    });
    let deadline = Instant::now() + timeout;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            bail!("no end within {} s", timeout.as_secs());
        }
        thread::sleep(Duration::from_millis(5));
    };
    let out = out.join().expect("the reader does not panic")?;
    let err = err.join().expect("the reader does not panic")?;
    ensure!(status.success(), "the process ended with {status}: {}", err.trim());
    Ok(out)
}

/// Explores random programs with and without reduction and compares the outcomes; returns the number of differences.
fn cross_check(program: &Path, seed: u64, count: usize, timeout: Duration) -> Result<usize> {
    let explore = |every_order: bool| {
        let mut command = Command::new(program);
        command.arg("litmus").arg(seed.to_string()).arg(count.to_string());
        if every_order {
            command.env("LOOM_EVERY_ORDER", "1");
        }
        output_within(&mut command, timeout)
    };
    let started = Instant::now();
    let (reduced, all) = thread::scope(|scope| {
        let reduced = scope.spawn(|| explore(false));
        let all = explore(true);
        (reduced.join().expect("the explorer does not panic"), all)
    });
    let (reduced, all) = (reduced?, all?);
    let (reduced, all) = (litmus_lines(&reduced)?, litmus_lines(&all)?);
    ensure!(reduced.len() == count && all.len() == count, "the explorer left out programs");
    let mut differences = 0;
    let mut executions = (0, 0);
    for (reduced, all) in reduced.iter().zip(&all) {
        executions.0 += reduced.0;
        executions.1 += all.0;
        if reduced.1 != all.1 {
            differences += 1;
            println!("FAILED: {}\n  with reduction {}\n  every order    {}", all.2, reduced.1, all.1);
        }
    }
    println!(
        "explorer: {count} random programs (seed {seed}), {} executions with reduction, {} without, {:.1} s: {}",
        executions.0,
        executions.1,
        started.elapsed().as_secs_f64(),
        if differences == 0 { "same outcomes".to_owned() } else { format!("{differences} DIFFER") },
    );
    Ok(differences)
}

/// Parses the lines of `loom-tests litmus`: executions, outcomes, program.
fn litmus_lines(text: &str) -> Result<Vec<(u64, &str, &str)>> {
    text.lines()
        .map(|line| match line.split('\t').collect::<Vec<_>>()[..] {
            ["litmus", executions, outcomes, program] => Ok((executions.parse()?, outcomes, program)),
            _ => bail!("unreadable line: {line}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bug() -> Switch {
        Switch::Bug("weak".into())
    }

    #[test]
    fn a_planted_bug_must_be_caught() {
        for end in [End::Panic("race".into()), End::Unexpected("2".into()), End::Missing("1".into())] {
            assert!(judge(&bug(), &end, false).ok, "{end:?}");
        }
        let missed = judge(&bug(), &End::Pass, false);
        assert!(!missed.ok && missed.text.contains("NOT CAUGHT: weak"), "{}", missed.text);
    }

    #[test]
    fn a_lowered_bound_excuses_missing_outcomes_and_proves_nothing_about_a_bug() {
        let missing = End::Missing("1".into());
        assert!(judge(&Switch::None, &missing, true).ok);
        assert!(!judge(&Switch::None, &missing, false).ok);
        assert!(!judge(&bug(), &missing, true).ok);
    }

    #[test]
    fn a_run_without_a_result_fails_whatever_was_planted() {
        for switch in [Switch::None, bug(), Switch::Harmless("nothing".into())] {
            assert!(!judge(&switch, &End::Broken("signal 11".into()), false).ok, "{switch:?}");
        }
    }

    #[test]
    fn a_harmless_switch_must_not_be_caught() {
        let switch = Switch::Harmless("nothing".into());
        assert!(judge(&switch, &End::Pass, false).ok);
        assert!(!judge(&switch, &End::Panic("race".into()), false).ok);
    }

    #[test]
    fn results_are_read_back() {
        let (end, executions, outcomes) = read_result("noise\nresult\tpass\t12\t3\ta|b\t\n");
        assert_eq!((end, executions, outcomes.as_str()), (End::Pass, 12, "a|b"));
        for text in ["", "result\tpass\tmany\t3\ta\t\n", "result\tmaybe\t1\t3\ta\t\n", "result\tpass\n"] {
            assert!(matches!(read_result(text).0, End::Broken(_)), "{text:?}");
        }
    }

    #[test]
    fn a_process_that_hangs_is_ended() {
        let error = output_within(Command::new("sleep").arg("60"), Duration::from_millis(20)).unwrap_err();
        assert!(error.to_string().contains("no end within"), "{error}");
        let error = output_within(&mut Command::new("false"), Duration::from_secs(10)).unwrap_err();
        assert!(error.to_string().contains("ended with"), "{error}");
    }
}
