//! cargo xtask.

mod loom;
mod loom_fix;

use clap::Parser;

/// Builds, boots, tests and measures.
#[derive(Parser)]
enum Command {
    Loom(loom::Args),
}

fn main() -> anyhow::Result<std::process::ExitCode> {
    match Command::parse() {
        Command::Loom(args) => loom::run(&args),
    }
}
