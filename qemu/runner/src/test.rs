//! `cargo xtask test`: everything that is checked before a change lands, in steps; the first failure ends it.
//!
//! Each step is a command that can be typed by hand, and a failing one is printed. Builds that differ in flags have
//! target folders of their own, so that a second call finds every one of them warm.

use std::env;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::project::{self, NIGHTLY, TOOLCHAIN};
use crate::step::Step;
use crate::{BadInput, install};

/// Runs all checks: formatting, lints, tests, models, Miri, bare-metal builds, short runs.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only steps whose title contains this
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Print the titles of the steps, and run none
    #[arg(long)]
    list: bool,
}

/// Crates that must build without the standard library, beside the kernel.
const NO_STD_CRATES: [&str; 5] = ["mnt-table", "propagate", "syscalls", "tmpfs", "stress"];

/// Miri's switches. Stacked Borrows reports crossbeam-epoch's own list, so Tree Borrows; the global collector keeps
/// its last bags, so leaks are ignored; epoch's tagged pointers are integers on the way.
const MIRI_FLAGS: &str = "-Zmiri-tree-borrows -Zmiri-ignore-leaks -Zmiri-permissive-provenance";

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let mut steps = steps()?;
    if let Some(only) = &args.only {
        steps.retain(|step| step.title.contains(only.as_str()));
        if steps.is_empty() {
            return Err(BadInput(format!("no step has `{only}` in its title")).into());
        }
    }
    if args.list {
        steps.iter().for_each(|step| println!("{}", step.title));
        return Ok(ExitCode::SUCCESS);
    }
    prepare()?;

    let start = Instant::now();
    let count = steps.len();
    let mut rows: Vec<(String, &str, Duration)> = Vec::new();
    for (step, number) in steps.into_iter().zip(1..) {
        let title = step.title.clone();
        let done = step.run(number, count)?;
        rows.push((title, if done.passed { "ok" } else { "FAILED" }, done.time));
        if !done.passed {
            break;
        }
    }

    let width = rows.iter().map(|(title, ..)| title.chars().count()).max().unwrap_or(0);
    println!();
    for (title, verdict, time) in &rows {
        println!("{title:width$}  {verdict:6} {:>8.1} s", time.as_secs_f32());
    }
    println!("{:width$}  {:6} {:>8.1} s", "all", "", start.elapsed().as_secs_f32());
    let failed = rows.iter().filter(|(_, verdict, _)| *verdict != "ok").count();
    if rows.len() < count {
        println!("{} steps were not reached", count - rows.len());
    }
    println!("{} passed, {failed} failed", rows.len() - failed);
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What all steps need. What cannot be had is an error here, and not a step that is skipped.
fn prepare() -> Result<()> {
    ensure!(install::is_root(), "the tests read the mounts of every process, and that needs root");
    install::stable(&["rustfmt", "clippy"])?;
    install::miri()?;
    install::userland()?;
    install::qemu()
}

fn steps() -> Result<Vec<Step>> {
    let host = |words: &str| {
        let mut command = project::cargo(TOOLCHAIN);
        command.args(words.split(' '));
        command
    };
    let packages = |mut command: Command, names: &[&str]| {
        command.args(names.iter().flat_map(|name| ["--package", name]));
        command
    };
    let mut clippy_bare = packages(project::cargo_bare("clippy", "kernel"), &["kernel"]);
    clippy_bare.args(["--", "--deny", "warnings"]);
    let mut no_std = packages(project::cargo_bare("build", "no-std"), &NO_STD_CRATES);
    no_std.arg("--no-default-features");
    let mut miri = project::cargo(NIGHTLY);
    miri.args(["miri", "test", "--package", "mnt-table", "--target-dir"])
        .arg(project::target().join("miri"))
        // One at a time: those that wait for the others would be interpreted meanwhile.
        .args(["--", "--test-threads=1"])
        .env("MIRIFLAGS", MIRI_FLAGS)
        .env_remove("RUSTFLAGS");

    let mut steps = vec![
        ("formatting".to_owned(), host("fmt --all --check")),
        (
            "clippy, host crates".to_owned(),
            host("clippy --workspace --exclude kernel --all-targets -- --deny warnings"),
        ),
        ("clippy, kernel".to_owned(), clippy_bare),
        (
            "unit, property and doc tests".to_owned(),
            host("test --release --workspace --exclude kernel --exclude loom-tests"),
        ),
        (
            "oracle: two seeds and a drawn one".to_owned(),
            own(&["oracle", "--seed", "1", "--seed", "2", "--random", "--ops", "10000"])?,
        ),
        ("oracle: the scripts on Linux".to_owned(), scripts()?),
        ("loom models".to_owned(), own(&["loom"])?),
        ("Miri on mnt-table".to_owned(), miri),
        ("builds without std".to_owned(), no_std),
        ("kernel build".to_owned(), project::build_kernel()),
    ];
    steps.push(("user-space tests build".to_owned(), project::build_userland()));
    for (title, words) in [
        ("case files from user space, 1 CPU", "user cases --cpus 1"),
        ("case files from user space, 4 CPUs", "user cases --cpus 4"),
        ("case files on Debian's Linux", "user cases --kernel linux"),
        ("what programs ask beside mounts", "user checks"),
        ("what programs ask beside mounts, on Debian's Linux", "user checks --kernel linux"),
        ("oracle: one seed on the kernel and on Linux", "user oracle --seed 1 --ops 2000"),
        ("a container by busybox and util-linux", "user container"),
        ("overlays, and containers in them", "user overlay"),
        ("images that boot, and exit statuses", "user boots"),
        ("system calls at random", "user fuzz --seed 1 --seconds 20"),
        ("memory that runs out", "user hoard --seed 1 --rounds 10"),
        ("from the entry to user space", "user measure --limit 100000000"),
    ] {
        steps.push((title.to_owned(), own(&words.split(' ').collect::<Vec<_>>())?));
    }
    for level in ["kernel", "user"] {
        for (tree, cpus) in [("host", "1"), ("host", "4"), ("pods:20", "4")] {
            let title = format!("run on {tree}, {cpus} CPU{}, {level}", if cpus == "1" { "" } else { "s" });
            let words = ["run", "--level", level, "--cpus", cpus, "--seconds", "10", "--tree", tree];
            steps.push((title, own(&words)?));
        }
    }
    Ok(steps.into_iter().map(|(title, command)| Step { title, command }).collect())
}

/// The scripts that say what Linux answers, on Linux.
fn scripts() -> Result<Command> {
    let folder = project::root().join("syscalls/tests/cases");
    let mut command = own(&["oracle", "--scripts"])?;
    let files = std::fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut paths = files.map(|file| Ok(file?.path())).collect::<Result<Vec<_>>>()?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "case"));
    ensure!(!paths.is_empty(), "there are no scripts in {}", folder.display());
    paths.sort();
    command.args(paths);
    Ok(command)
}

/// This program with another subcommand.
fn own(words: &[&str]) -> Result<Command> {
    let mut command = Command::new(env::current_exe().context("cannot find this program")?);
    command.args(words).current_dir(project::root());
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_steps_cover_what_a_change_must_pass() {
        let steps = steps().unwrap();
        let words: Vec<_> = steps.iter().map(|step| project::describe(&step.command)).collect();
        for wanted in [
            "cargo fmt --all --check",
            "clippy --workspace --exclude kernel --all-targets -- --deny warnings",
            "test --release --workspace",
            " oracle --seed 1 --seed 2 --random",
            " oracle --scripts",
            " loom",
            "miri test --package mnt-table",
            "--package tmpfs --package stress --no-default-features",
            "--package kernel",
            "--package userland",
            "user cases --cpus 1",
            "user cases --cpus 4",
            "user cases --kernel linux",
            "user checks",
            "user checks --kernel linux",
            "user oracle",
            "user container",
            "user overlay",
            "user boots",
            "user fuzz",
            "user hoard",
            "user measure",
            "run --level kernel --cpus 4 --seconds 10 --tree host",
            "run --level user --cpus 1 --seconds 10 --tree host",
            "run --level user --cpus 4 --seconds 10 --tree pods:20",
        ] {
            assert!(words.iter().any(|words| words.contains(wanted)), "{wanted}");
        }
        assert!(
            words
                .iter()
                .filter(|words| words.contains("cargo "))
                .all(|words| words.contains("RUSTUP_TOOLCHAIN="))
        );
    }

    #[test]
    fn a_title_that_no_step_has_is_bad_input() {
        let args = Args { only: Some("no such step".into()), list: false };
        assert!(run(&args).unwrap_err().is::<BadInput>());
    }
}
