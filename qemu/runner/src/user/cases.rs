//! The case files through system calls of processes.
//!
//! Their answers are those of Linux 6.18 and, where they are intended to differ, of 7.0. Debian's kernel, the control, is
//! older: `cases/older.txt` names the programs on which Linux 6.1 answers otherwise, for it lacks calls or has rules that
//! were changed since. Any other program that fails there is a fault of the executor or of a case.

use std::path::Path;

use anyhow::{Context, Result};

use super::Kernel;
use super::guest::Guest;
use crate::initramfs::Initramfs;
use crate::project;

/// Runs the case files from user space
#[derive(clap::Args)]
pub(super) struct Args {
    /// Number of virtual CPUs
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    cpus: u32,
    /// What runs in the machine
    #[arg(long, value_enum, default_value = "ours")]
    kernel: Kernel,
}

/// Where they are, in the project and in the machine.
const CASES: &str = "syscalls/tests/cases";

pub(super) fn run(args: &Args) -> Result<bool> {
    let mut guest = Guest::new(args.kernel)?;
    guest.cpus = args.cpus;
    add(&mut guest.image, &project::root().join(CASES), CASES)?;
    guest.verdict(&["cases", CASES], &OLDER.lines().collect::<Vec<_>>())
}

/// The programs on which Linux 6.1 answers otherwise: file and title.
const OLDER: &str = include_str!("cases/older.txt");

/// Adds the case files of a folder and of those in it.
fn add(image: &mut Initramfs, folder: &Path, name: &str) -> Result<()> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        let name = format!("{name}/{}", path.file_name().unwrap_or_default().to_string_lossy());
        if path.is_dir() {
            add(image, &path, &name)?;
        } else if path.extension().is_some_and(|extension| extension == "case") {
            let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            image.file(&name, bytes, 0o644);
        }
    }
    Ok(())
}
