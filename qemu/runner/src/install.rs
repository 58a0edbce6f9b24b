//! What the other modules need from the machine: each is looked for first, and installed with a word if missing.

use std::env;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::project;

/// The program that runs the kernel.
pub(crate) const QEMU: &str = "qemu-system-x86_64";
/// Debian's package with it.
const QEMU_PACKAGE: &str = "qemu-system-x86";

/// The pinned toolchain with these components and the kernel's target.
pub(crate) fn stable(components: &[&str]) -> Result<()> {
    toolchain(project::TOOLCHAIN)?;
    for component in components {
        have("component", project::TOOLCHAIN, component)?;
    }
    have("target", project::TOOLCHAIN, project::KERNEL_TARGET)
}

/// The target of programs that run on the kernel.
pub(crate) fn userland() -> Result<()> {
    toolchain(project::TOOLCHAIN)?;
    have("target", project::TOOLCHAIN, project::USERLAND_TARGET)
}

/// Nightly with Miri and the sources that it interprets.
pub(crate) fn miri() -> Result<()> {
    toolchain(project::NIGHTLY)?;
    have("component", project::NIGHTLY, "rust-src")?;
    have("component", project::NIGHTLY, "miri")
}

/// QEMU for the kernel's machine.
pub(crate) fn qemu() -> Result<()> {
    if in_path(QEMU).is_some() {
        return Ok(());
    }
    eprintln!("installing {QEMU_PACKAGE}, for {QEMU}");
    ensure!(
        in_path("apt-get").is_some(),
        "{QEMU} is not installed, and without apt-get it cannot be: install QEMU for x86 by hand"
    );
    apt_update()?;
    apt_get(&["install", "--yes", "--no-install-recommends", QEMU_PACKAGE])?;
    ensure!(in_path(QEMU).is_some(), "{QEMU_PACKAGE} is installed, but there is no {QEMU} in PATH");
    Ok(())
}

/// Whether this process is root's.
pub(crate) fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// Renews apt's lists.
pub(crate) fn apt_update() -> Result<()> {
    apt_get(&["update"])
}

/// Whether there is a program with this name.
pub(crate) fn has(program: &str) -> bool {
    in_path(program).is_some()
}

/// What a command prints.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let words = project::describe(command);
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run `{words}`"))?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`{words}` failed: {}", complaint.trim_end());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn apt_get(args: &[&str]) -> Result<()> {
    let mut command = if is_root() {
        Command::new("apt-get")
    } else if in_path("sudo").is_some() {
        let mut command = Command::new("sudo");
        command.arg("apt-get");
        command
    } else {
        bail!("packages are missing; that needs root: run as root, or install sudo");
    };
    run(command.args(args).env("DEBIAN_FRONTEND", "noninteractive"))
}

fn toolchain(name: &str) -> Result<()> {
    ensure!(
        in_path("rustup").is_some(),
        "rustup is not installed; toolchain {} and target {} come through it",
        project::TOOLCHAIN,
        project::KERNEL_TARGET
    );
    let installed = rustup(&["toolchain", "list"])?;
    if installed.lines().any(|line| line == name || line.starts_with(&format!("{name}-"))) {
        return Ok(());
    }
    eprintln!("installing the Rust toolchain {name}");
    run(Command::new("rustup").args(["toolchain", "install", name, "--profile", "minimal"]))
}

/// `kind` is what rustup calls it, `component` or `target`.
fn have(kind: &str, toolchain: &str, name: &str) -> Result<()> {
    let installed = rustup(&[kind, "list", "--installed", "--toolchain", toolchain])?;
    if installed.lines().any(|line| line == name || line.starts_with(&format!("{name}-"))) {
        return Ok(());
    }
    eprintln!("installing the {kind} {name} for Rust {toolchain}");
    run(Command::new("rustup").args([kind, "add", "--toolchain", toolchain, name]))
}

fn rustup(args: &[&str]) -> Result<String> {
    let output = Command::new("rustup").args(args).stderr(Stdio::inherit()).output();
    let output = output.context("cannot run rustup")?;
    ensure!(output.status.success(), "`rustup {}` failed", args.join(" "));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn run(command: &mut Command) -> Result<()> {
    let words = project::describe(command);
    // Standard output may be a guest's console, or what a script reads.
    command.stdin(Stdio::null()).stdout(std::io::stderr());
    let status = command.status().with_context(|| format!("cannot run `{words}`"))?;
    ensure!(status.success(), "`{words}` failed: {status}");
    Ok(())
}

fn in_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|dir| dir.join(program)).find(|file| file.is_file())
}
