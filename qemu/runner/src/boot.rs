//! `cargo xtask boot`: Linux programs on the kernel, with its console on standard input and output.
//!
//! Exit status: what `boot` says in its help. Everything that is not the machine's console goes to standard error.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;

use crate::accel::{self, Accel};
use crate::qemu::{Ending, Failure, Machine};
use crate::run::build_kernel;
use crate::{BadInput, EXIT_HUNG, initramfs, install, project};

/// Boots an initramfs of Linux programs; the console is standard input and output.
///
/// Exit status: 0 after a power-off, 2 for a bad image or arguments, 3 for a kernel panic, 124 at the timeout, 1 for
/// anything else. From a terminal, Ctrl-A X ends the machine.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The root file system: a newc cpio archive, plain or in gzip or zstd
    #[arg(long, value_name = "FILE")]
    initrd: PathBuf,
    #[command(flatten)]
    options: Options,
}

/// How to boot, whatever is booted.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Number of virtual CPUs [default: 4, with --icount 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    cpus: Option<u32>,
    /// Memory of the machine
    #[arg(long, value_name = "MIB", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(64..=2048))]
    memory: u32,
    /// The kernel's command line, as Linux reads it
    #[arg(long, value_name = "CMDLINE", default_value = "", allow_hyphen_values = true)]
    append: String,
    /// Seconds after which the machine is stopped
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u32).range(1..))]
    timeout: Option<u32>,
    /// Where to write what the console says, too
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Count instructions: one CPU, one instruction takes one nanosecond, and the same boot runs the same
    #[arg(long)]
    icount: bool,
    /// How QEMU runs the CPUs
    #[arg(long, value_enum, env = "XTASK_ACCEL", default_value = "auto")]
    accel: accel::Choice,
}

/// Exit status for a kernel panic.
const EXIT_PANIC: u8 = 3;
/// The longest command line that the kernel takes.
const COMMAND_LINE_MAX: usize = 2048;

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let image = std::fs::read(&args.initrd)
        .map_err(|error| BadInput(format!("{}: cannot be read: {error}", args.initrd.display())))?;
    boot(&args.initrd, &image, &args.options)
}

/// Checks everything, then boots `image`, which is what `path` holds.
pub(crate) fn boot(path: &Path, image: &[u8], options: &Options) -> Result<ExitCode> {
    let cpus = match (options.icount, options.cpus) {
        (true, Some(2..)) => {
            return Err(BadInput("--icount is for one CPU: --cpus must be 1 or left out".into()).into());
        }
        (true, _) => 1,
        (false, cpus) => cpus.unwrap_or(4),
    };
    if options.append.len() > COMMAND_LINE_MAX {
        let text = format!("--append is longer than {COMMAND_LINE_MAX} bytes");
        return Err(BadInput(text).into());
    }
    let in_image = |why: String| BadInput(format!("{}: {why}", path.display()));
    let contents = initramfs::check(image).map_err(in_image)?;
    let names_init = |word: &str| word.starts_with("init=") || word.starts_with("rdinit=");
    if !contents.names.iter().any(|name| name == b"init") && !options.append.split(' ').any(names_init) {
        return Err(in_image("there is no /init in it, and --append names no other".into()).into());
    }
    // The image, and what it holds.
    let needed = (image.len() as u64 + contents.size) >> 20;
    if needed >= u64::from(options.memory) {
        return Err(in_image(format!("{needed} MiB with what it unpacks to: --memory must be more")).into());
    }
    if let Some(log) = &options.log {
        let written = std::fs::File::create(log);
        written.map_err(|error| BadInput(format!("{}: cannot be written: {error}", log.display())))?;
    }
    install::stable(&[])?;
    install::qemu()?;
    build_kernel()?;
    let kernel = project::kernel();
    let accel = if options.icount { Accel::Tcg } else { accel::choose(options.accel, &kernel)? };
    let machine = Machine {
        kernel: &kernel,
        image: Some(path),
        command_line: &options.append,
        cpus,
        memory_mib: options.memory as usize,
        accel,
        icount: options.icount,
    };
    let limit = options.timeout.map(|seconds| Duration::from_secs(seconds.into()));
    let ending = machine.attach(limit, options.log.as_deref())?;
    if ending != Ending::Success {
        eprintln!("error: {ending}");
    }
    Ok(status(&ending))
}

fn status(ending: &Ending) -> ExitCode {
    match ending {
        Ending::Success => ExitCode::SUCCESS,
        Ending::Hung(_) => ExitCode::from(EXIT_HUNG),
        Ending::Failure(Failure::Input, _) => ExitCode::from(crate::EXIT_BAD_INPUT),
        // Nothing but a triple fault makes our kernel leave without a word.
        Ending::Failure(Failure::Panic | Failure::Off, _) => ExitCode::from(EXIT_PANIC),
        Ending::Failure(Failure::Other, _) => ExitCode::FAILURE,
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Words {
        #[command(flatten)]
        args: Args,
    }

    fn error(words: &[&str]) -> String {
        let all = ["boot"].iter().chain(words);
        let error = run(&Words::parse_from(all).args).unwrap_err();
        assert!(error.is::<BadInput>());
        error.to_string()
    }

    #[test]
    fn mistakes_are_found_before_anything_boots() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            path.display().to_string()
        };
        let mut image = initramfs::Initramfs::default();
        image.file("/bin/sh", vec![0; 70 << 20], 0o755);
        let image = file("image", &image.to_bytes().unwrap());
        assert_eq!(
            error(&["--initrd", "/no/such"]),
            "/no/such: cannot be read: No such file or directory (os error 2)"
        );
        assert_eq!(
            error(&["--initrd", &image]),
            format!("{image}: there is no /init in it, and --append names no other")
        );
        let words = ["--initrd", &image, "--append", "debug init=/bin/sh"];
        let small = [&words[..], &["--memory", "128"]].concat();
        assert_eq!(error(&small), format!("{image}: 140 MiB with what it unpacks to: --memory must be more"));
        let many = [&words[..], &["--icount", "--cpus", "2"]].concat();
        assert_eq!(error(&many), "--icount is for one CPU: --cpus must be 1 or left out");
        let text = file("text", b"hello");
        let wanted = format!("{text}: at byte 0: neither a newc cpio archive nor gzip nor zstd");
        assert_eq!(error(&["--initrd", &text]), wanted);
        let no_log = [&words[..], &["--log", "/no/such/log"]].concat();
        assert!(error(&no_log).starts_with("/no/such/log: cannot be written: "));
    }

    #[test]
    fn every_ending_has_a_status() {
        let failure = |who| Ending::Failure(who, String::new());
        for (ending, wanted) in [
            (Ending::Success, 0),
            (failure(Failure::Input), 2),
            (failure(Failure::Panic), 3),
            (failure(Failure::Off), 3),
            (failure(Failure::Other), 1),
            (Ending::Hung(String::new()), 124),
        ] {
            assert_eq!(status(&ending), ExitCode::from(wanted));
        }
    }
}
