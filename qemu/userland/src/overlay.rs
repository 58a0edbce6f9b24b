//! An overlay of several layers, and a container in one: what every call answers, for a comparison with Linux.
//!
//! The calls are a script ([`LAYERS`]), which runs twice: in the initial user namespace, and as the administrator of one of
//! its own. Then several processes change an overlay at once, and a container whose root is an overlay runs this program.
//! Another script ([`ATTRIBUTES`]) is about the extended attributes that overlays need.

mod calls;
mod hammer;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount};
use rustix::process::{chdir, pivot_root};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use calls::World;

use crate::debug_call;

const LAYERS: &str = include_str!("overlay/layers.script");
const ATTRIBUTES: &str = include_str!("overlay/attributes.script");

/// Counters of our kernel that are as before when everything is gone.
const LEAKS: [&str; 6] = ["mounts", "dentries", "inodes", "super_blocks", "file_bytes", "deferred_bytes"];

/// Where everything is mounted.
const PLACE: &str = "/tmp";

/// Runs all of it. Prints a line per call, which begins with `@`.
pub(crate) fn run() -> Result<bool> {
    let mut passed = true;
    // Of our kernel alone.
    let before = debug_call::settled();
    for (name, user_namespace) in [("initial", false), ("user", true)] {
        passed &= in_child(|| {
            enter(user_namespace)?;
            script(name, LAYERS, user_namespace)?;
            // Other users have no numbers there.
            if !user_namespace {
                script("attributes", ATTRIBUTES, false)?;
            }
            hammer(name, user_namespace)?;
            container(name, user_namespace)
        })?;
    }
    if let Ok(before) = before {
        let after = debug_call::settled()?;
        for name in LEAKS.iter().filter(|name| after.get(**name) > before.get(**name)) {
            println!("@ leak: {name} were {:?}, and are {:?}", before.get(*name), after.get(*name));
            passed = false;
        }
    }
    Ok(passed)
}

/// Runs `job` in a child process; whether it went well.
fn in_child(job: impl FnOnce() -> Result<()>) -> Result<bool> {
    let child = crate::sys::fork(|| match job() {
        Ok(()) => 0,
        Err(error) => {
            println!("@ error: {error:#}");
            1
        }
    })?;
    let (_, status) = crate::sys::wait(child).context("the child is gone")?;
    Ok(status == 0)
}

/// Into a mount namespace of its own, in a user namespace of its own too if that is asked for.
fn enter(user_namespace: bool) -> Result<()> {
    let mut flags = UnshareFlags::NEWNS;
    flags.set(UnshareFlags::NEWUSER, user_namespace);
    // SAFETY: namespaces alone, which no memory depends on; this process has one thread.
    unsafe { unshare_unsafe(flags) }.context("unshare")?;
    if user_namespace {
        fs::write("/proc/self/setgroups", "deny").context("setgroups")?;
        fs::write("/proc/self/uid_map", "0 0 1").context("uid_map")?;
        fs::write("/proc/self/gid_map", "0 0 1").context("gid_map")?;
    }
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    fresh()
}

/// A fresh tmpfs to work in.
fn fresh() -> Result<()> {
    mount("tmpfs", PLACE, "tmpfs", MountFlags::empty(), None).context("tmpfs")?;
    Ok(chdir(PLACE)?)
}

fn script(name: &str, script: &str, user_namespace: bool) -> Result<()> {
    let mut world = World::new(user_namespace);
    let lines = script.lines().filter(|line| !line.starts_with('#'));
    let commands = lines.flat_map(|line| line.split("; ")).map(str::trim).filter(|line| !line.is_empty());
    for (number, command) in commands.enumerate() {
        println!("@ {name} {number}. {command} = {}", world.call(command)?);
    }
    drop(world);
    chdir("/")?;
    unmount(PLACE, UnmountFlags::empty()).context("the script left something in use")?;
    fresh()
}

/// Several processes at once; then what they left is compared with what the layers have when they are mounted again.
fn hammer(name: &str, user_namespace: bool) -> Result<()> {
    let seed = rand::random();
    for folder in ["one", "two", "up", "work", "m"] {
        fs::create_dir(folder)?;
    }
    hammer::prepare()?;
    let user = if user_namespace { ",userxattr" } else { "" };
    let options = std::ffi::CString::new(format!("lowerdir=one:two,upperdir=up,workdir=work{user}"))?;
    let overlay = || mount("overlay", "m", "overlay", MountFlags::empty(), options.as_c_str());
    overlay().context("overlay")?;
    hammer::run(seed)?;
    let seen = hammer::tree(Path::new("m"))?;
    unmount("m", UnmountFlags::empty()).context("what the processes left is in use")?;
    overlay().context("overlay, again")?;
    let again = hammer::tree(Path::new("m"))?;
    unmount("m", UnmountFlags::empty())?;
    ensure!(seen == again, "seed {seed}: seen {seen:?}, and from the layers {again:?}");
    println!("@ {name} processes at once: what they left is what the layers have");
    chdir("/")?;
    unmount(PLACE, UnmountFlags::empty())?;
    fresh()
}

/// The words of the hidden job that runs in the container.
const INSIDE: &str = "overlay-inside";

/// A container: this program in the lowest layer, something to hide in the next one, and `pivot_root` into all of it.
fn container(name: &str, user_namespace: bool) -> Result<()> {
    for folder in ["base/bin", "base/etc", "base/gone", "top/etc", "up", "work", "root"] {
        fs::create_dir_all(folder)?;
    }
    fs::copy("/proc/self/exe", "base/bin/program").context("cannot copy the program")?;
    fs::write("base/etc/name", "base")?;
    fs::write("top/etc/name", "top")?;
    calls::whiteout("top/gone").context("no whiteout")?;
    let user = if user_namespace { ",userxattr" } else { "" };
    let options = format!("lowerdir=top:base,upperdir=up,workdir=work{user}");
    let options = std::ffi::CString::new(options)?;
    mount("overlay", "root", "overlay", MountFlags::empty(), options.as_c_str()).context("overlay")?;
    chdir("root")?;
    fs::create_dir("old")?;
    pivot_root(".", "old").context("pivot_root")?;
    chdir("/")?;
    unmount("old", UnmountFlags::DETACH)?;
    fs::remove_dir("old")?;
    // There is no /dev/null to read from.
    let mut command = Command::new("/bin/program");
    command.arg(INSIDE).stdin(Stdio::inherit());
    let output = command.output().context("cannot run the program inside")?;
    ensure!(output.status.success(), "inside: {}", String::from_utf8_lossy(&output.stdout));
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        println!("@ {name} inside: {line}");
    }
    Ok(())
}

/// What the program does in the container.
pub(crate) fn inside() -> Result<()> {
    let mut world = World::new(false);
    for command in [
        "ls /",
        "ls /etc",
        "read /etc/name",
        "write /etc/name inside",
        "read /etc/name",
        "stat /gone",
        "mkdir /gone",
        "ls /gone",
        "unlink /bin/program",
        "ls /bin",
        "kind /",
        "rename /etc/name /etc/other",
        "ls /etc",
        "rename /etc /etc2",
    ] {
        println!("{command} = {}", world.call(command)?);
    }
    ensure!(!Path::new("/old").exists(), "the old root is gone");
    Ok(())
}
