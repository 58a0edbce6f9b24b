//! `cargo xtask`: builds, boots, tests and measures.
//!
//! | Module | What |
//! |---|---|
//! | `run` | the main job: one boot with one tree; `session` follows it, `report` sums it up |
//! | `boot`, `shell`, `initramfs` | Linux programs on the kernel; their root file system |
//! | `user` | the tests from user space, on the kernel and on the Linux that it is compared with |
//! | `debian` | unmodified programs, and the Linux to compare with |
//! | `tree`, `host_tree` | the `--tree` option, and this machine's own namespaces |
//! | `qemu`, `qmp`, `accel` | the virtual machine: command line, console, watchdog; its monitor; how it is accelerated |
//! | `test`, `step` | the checks, each a command with a title |
//! | `loom`, `loom_fix`, `bench` | the models, with a corrected loom under them; and the benches |
//! | `oracle` | the comparison with the running Linux |
//! | `project`, `install` | folders, cargo calls and toolchains; what is missing and how to get it |
//!
//! Exit status: 0 if all went well, 1 if something failed, 2 for bad input (nothing was booted), 124 for a guest that
//! hung.

mod accel;
mod bench;
mod boot;
mod debian;
mod host_tree;
mod initramfs;
mod install;
mod loom;
mod loom_fix;
mod oracle;
mod project;
mod qemu;
mod qmp;
mod report;
mod run;
mod session;
mod shell;
mod step;
mod test;
mod tree;
mod user;

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

/// Builds, boots, tests and measures the mount table and its kernel.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Command {
    Run(run::Args),
    Boot(boot::Args),
    Shell(shell::Args),
    User(user::Args),
    Test(test::Args),
    Loom(loom::Args),
    Bench(bench::Args),
    Oracle(oracle::Args),
}

/// The user's mistake: one line, exit status 2.
#[derive(Debug)]
struct BadInput(String);

impl std::fmt::Display for BadInput {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadInput {}

/// No subcommand at all: clap's answer is the whole help.
const MISSING: ErrorKind = ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;

/// Exit status for bad input.
const EXIT_BAD_INPUT: u8 = 2;
/// Exit status for a guest that hung, as `timeout` has it.
const EXIT_HUNG: u8 = 124;

fn main() -> ExitCode {
    let command = match Command::try_parse() {
        Ok(command) => command,
        // Help and version are errors to clap, but not to us.
        Err(error) if !error.use_stderr() || error.kind() == MISSING => error.exit(),
        Err(error) => {
            let text = error.to_string();
            eprintln!("{}", one_line(&text));
            return ExitCode::from(EXIT_BAD_INPUT);
        }
    };
    let result = match command {
        Command::Run(args) => run::run(&args),
        Command::Boot(args) => boot::run(&args),
        Command::Shell(args) => shell::run(&args),
        Command::User(args) => user::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Loom(args) => loom::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Oracle(args) => oracle::run(&args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        if error.is::<BadInput>() { ExitCode::from(EXIT_BAD_INPUT) } else { ExitCode::FAILURE }
    })
}

/// The part of a usage error that says what is wrong, on one line.
fn one_line(usage_error: &str) -> String {
    let what = usage_error.split("\n\n").next().unwrap_or_default();
    what.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_option_is_one_line() {
        for (args, wanted) in [
            ("run --cpus 65", "error: invalid value '65' for '--cpus <CPUS>': 65 is not in 1..=64"),
            (
                "run --tree pods:x",
                "error: invalid value 'pods:x' for '--tree <TREE>': `x` is no number of pods from 1 to 4000",
            ),
            ("run --what", "error: unexpected argument '--what' found"),
        ] {
            let words = std::iter::once("xtask").chain(args.split(' '));
            let error = Command::try_parse_from(words).err().expect(args);
            assert_eq!(one_line(&error.to_string()), wanted);
        }
    }
}
