//! `cargo xtask run`: one tree, one boot, one verdict.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use serde_json::{Value, json};
use stress::forest::Forest;
use stress::protocol;

use crate::accel::{self, Accel};
use crate::initramfs::Initramfs;
use crate::qemu::{Ending, Limits, Machine};
use crate::report::Report;
use crate::session::Session;
use crate::tree::Tree;
use crate::{BadInput, EXIT_HUNG, install, project};

/// Boots the kernel, rebuilds a tree of real mounts there, and stresses it on all CPUs.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Number of virtual CPUs
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    cpus: u32,
    /// How long to stress
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    seconds: u32,
    /// Seed of each CPU's operation sequence; without it, one is taken from the clock and printed
    #[arg(long)]
    seed: Option<u64>,
    /// `host` (this machine's namespaces), `pods:N` (a generated node), or a mountinfo file or folder of them
    #[arg(long, default_value = "host")]
    tree: Tree,
    /// What rebuilds and stresses the tree: processes through system calls, or threads of the kernel
    #[arg(long, value_enum, default_value = "user")]
    level: Level,
    /// How QEMU runs the CPUs
    #[arg(long, value_enum, env = "XTASK_ACCEL", default_value = "auto")]
    accel: accel::Choice,
    /// Where to write the final counters as one object
    #[arg(long, value_name = "PATH")]
    json: Option<PathBuf>,
}

/// Where the stress runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Level {
    /// In processes and threads of user space
    User,
    /// In threads of the kernel
    Kernel,
}

/// What a run was asked to do.
pub(crate) struct Setting {
    pub(crate) cpus: u32,
    pub(crate) seconds: u32,
    pub(crate) seed: u64,
    pub(crate) tree: String,
    pub(crate) accel: Accel,
}

impl Setting {
    /// Name and value of each, in the order of the table.
    pub(crate) fn rows(&self) -> Vec<(String, Value)> {
        let Self { cpus, seconds, seed, tree, accel } = self;
        let rows = [
            ("cpus", json!(cpus)),
            ("seconds", json!(seconds)),
            ("seed", json!(seed)),
            ("tree", json!(tree)),
            ("accel", json!(accel.to_string())),
        ];
        rows.map(|(name, value)| (name.to_owned(), value)).into()
    }
}

/// Longest silence of the kernel; it has a line of progress every second.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// What boot, loading, the checks at the end and a slow host may add to the time of the stress.
const MARGIN: Duration = Duration::from_secs(300);

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let forest = args.tree.load()?;
    let json = args.json.as_deref().map(create).transpose()?;
    let result = boot(args, &forest);
    let (object, code) = match &result {
        Ok((report, ending)) => {
            println!("\n{report}");
            let code = match ending {
                Ending::Hung(_) => ExitCode::from(EXIT_HUNG),
                _ if report.failures.is_empty() => ExitCode::SUCCESS,
                _ => ExitCode::FAILURE,
            };
            (report.json(), code)
        }
        Err(error) => (json!({ "failures": [format!("{error:#}")] }), ExitCode::FAILURE),
    };
    if let Some(mut file) = json {
        writeln!(file, "{object:#}").context("cannot write the counters")?;
    }
    result.map(|_| code)
}

/// Makes the file for the counters, while a mistake in its path has cost nothing yet.
fn create(path: &Path) -> Result<File> {
    let file = File::create(path);
    Ok(file.map_err(|error| BadInput(format!("{}: cannot be written: {error}", path.display())))?)
}

fn boot(args: &Args, forest: &Forest) -> Result<(Report, Ending)> {
    install::stable(&[])?;
    install::qemu()?;
    build_kernel()?;
    let kernel = project::kernel();
    let accel = accel::choose(args.accel, &kernel)?;
    let seed = args.seed.unwrap_or_else(seed_from_clock);
    let setting =
        Setting { cpus: args.cpus, seconds: args.seconds, seed, tree: args.tree.to_string(), accel };
    println!("cpus {}, seconds {}, seed {seed}", args.cpus, args.seconds);

    let mut image = tempfile::NamedTempFile::new().context("cannot make a temporary file")?;
    let (module, command_line) = match args.level {
        Level::Kernel => (forest.to_image(), protocol::command_line(args.seconds, seed)),
        Level::User => {
            build_userland()?;
            let mut files = Initramfs::default();
            files.program("/init", &project::userland())?.file("/forest", forest.to_image(), 0o644);
            let seconds = args.seconds;
            let words = format!("debug_call -- stress /forest --seconds {seconds} --seed {seed}");
            (files.to_bytes()?, words)
        }
    };
    image.write_all(&module).context("cannot write the boot module")?;
    let machine = Machine {
        kernel: &kernel,
        image: Some(image.path()),
        command_line: &command_line,
        cpus: args.cpus,
        memory_mib: memory_mib(forest),
        accel,
        icount: false,
    };
    let total = Duration::from_secs(args.seconds.into()) + MARGIN;
    let mut session = Session::new(forest, args.seconds);
    let ending = machine.boot(Limits { silence: SILENCE_MAX, total }, &mut |line| session.follow(line))?;
    Ok((Report::new(&setting, session.finish(), &ending), ending))
}

/// Builds the kernel, with cargo's own messages where somebody can read them.
pub(crate) fn build_kernel() -> Result<()> {
    build(project::build_kernel(), "the kernel")
}

/// Builds the user-space tests.
pub(crate) fn build_userland() -> Result<()> {
    install::userland()?;
    build(project::build_userland(), "the user-space tests")
}

fn build(mut command: Command, what: &str) -> Result<()> {
    let words = project::describe(&command);
    let status = command.stdin(Stdio::null()).status().with_context(|| format!("cannot run `{words}`"))?;
    ensure!(status.success(), "{what}: the build fails; `{words}` tells why");
    Ok(())
}

/// Room for the kernel and its churn, and for the tree with the copies that are made of it.
fn memory_mib(forest: &Forest) -> usize {
    // 64 KiB per mount; the kernel maps what lies below the hole under 4 GiB.
    (1024 + forest.mounts() / 16).min(2048)
}

/// A seed that every reader of the counters can hold exactly.
fn seed_from_clock() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (now.as_nanos() as u64) & 0xffff_ffff
}
