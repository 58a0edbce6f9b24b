//! The folders of this workspace, and cargo calls with a pinned toolchain.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The stable toolchain that everything is built and checked with.
pub(crate) const TOOLCHAIN: &str = "1.95.0";
/// The toolchain for Miri, which stable does not have.
pub(crate) const NIGHTLY: &str = "nightly";
/// The kernel's target.
pub(crate) const KERNEL_TARGET: &str = "x86_64-unknown-none";

/// The target of programs that run on the kernel: static ones, with a C library of their own.
pub(crate) const USERLAND_TARGET: &str = "x86_64-unknown-linux-musl";

/// The top folder of the workspace.
pub(crate) fn root() -> &'static Path {
    // This crate lies in qemu/runner.
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap_or(Path::new("."))
}

/// Where builds go: each kind of build has a folder of its own below it, so that none waits for or undoes another's.
pub(crate) fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// A cargo call with `toolchain`, in the top folder.
pub(crate) fn cargo(toolchain: &str) -> Command {
    let mut command = Command::new("cargo");
    command.current_dir(root()).env("RUSTUP_TOOLCHAIN", toolchain);
    // What the cargo around this process says about this package is not about the packages built here, and a path
    // to one toolchain's program would win over the choice of toolchain.
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("CARGO_PKG_")
            || name.starts_with("CARGO_MANIFEST_")
            || matches!(&*name, "CARGO" | "RUSTC" | "RUSTDOC" | "CARGO_CRATE_NAME" | "CARGO_BIN_NAME")
        {
            command.env_remove(&*name);
        }
    }
    command
}

/// A cargo call that builds for the bare machine. Flags from outside would replace those that the kernel needs.
pub(crate) fn cargo_bare(subcommand: &str, folder: &str) -> Command {
    let mut command = cargo(TOOLCHAIN);
    command
        .args([subcommand, "--release", "--target", KERNEL_TARGET, "--target-dir"])
        .arg(target().join(folder))
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    command
}

/// The cargo call that builds the kernel: on its own, or features of host crates would reach it.
pub(crate) fn build_kernel() -> Command {
    let mut command = cargo_bare("build", "kernel");
    command.args(["--package", "kernel"]);
    command
}

/// The cargo call that builds the user-space tests as one static program.
pub(crate) fn build_userland() -> Command {
    let mut command = cargo(TOOLCHAIN);
    command
        .args(["build", "--release", "--package", "userland", "--target", USERLAND_TARGET, "--target-dir"])
        .arg(target().join("userland"))
        // It is unpacked into memory with everything that it carries.
        .args(["--config", "profile.release.strip=true"])
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    command
}

/// Where [`build_userland`] leaves the program.
pub(crate) fn userland() -> PathBuf {
    target().join("userland").join(USERLAND_TARGET).join("release").join("userland")
}

/// Where [`build_kernel`] leaves the kernel.
pub(crate) fn kernel() -> PathBuf {
    target().join("kernel").join(KERNEL_TARGET).join("release").join("kernel")
}

/// The words of a command as a user would type them.
pub(crate) fn describe(command: &Command) -> String {
    let words = command.get_envs().filter_map(|(name, value)| {
        Some(format!("{}={}", name.to_string_lossy(), quote(&value?.to_string_lossy())))
    });
    let program = std::iter::once(command.get_program()).chain(command.get_args());
    words.chain(program.map(|word| quote(&word.to_string_lossy()))).collect::<Vec<_>>().join(" ")
}

fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_described_command_can_be_typed() {
        let mut command = Command::new("prog");
        command.args(["a b", "it's", "", "--x=1"]).env("FLAGS", "-A -B");
        assert_eq!(describe(&command), r"FLAGS='-A -B' prog 'a b' 'it'\''s' '' --x=1");
    }
}
