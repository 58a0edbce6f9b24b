//! The first process: makes the root file system what programs expect, runs the job, and powers the machine off.
//!
//! The job runs on a tmpfs, into which everything was copied: Linux before 7.0 does not let anybody pivot away from the file
//! system that an initramfs is unpacked into, so there the tmpfs covers it, and the job finds the same on both.
//!
//! The last line is `init: exit` and the job's exit status, 128 and the signal if one ended it.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use anyhow::{Context, Result};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_move, unmount};
use rustix::process::{Pid, Signal, WaitOptions, chdir, chroot, pivot_root};
use rustix::system::{RebootCommand, reboot};

/// Where the file system is made that becomes the root.
const FRESH: &str = "/fresh-root";

/// File systems for every program: type, place.
const MOUNTS: [(&str, &str); 6] = [
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("devtmpfs", "/dev"),
    ("devpts", "/dev/pts"),
    ("tmpfs", "/dev/shm"),
    ("tmpfs", "/tmp"),
];

/// Runs the job that `words` name, and does not return.
pub(crate) fn run(words: Vec<OsString>) -> ! {
    crate::measure::begin();
    let status = match set_up().and_then(|()| start(&words)) {
        Ok(status) => status,
        Err(error) => {
            println!("init: {error:#}");
            255
        }
    };
    // What the job left is nobody's from here on.
    let _ = rustix::process::kill_process(Pid::from_raw(-1).unwrap_or(Pid::INIT), Signal::KILL);
    println!("init: exit {status}");
    let error = reboot(RebootCommand::PowerOff).err();
    println!("init: cannot power off: {error:?}");
    std::process::exit(1)
}

fn set_up() -> Result<()> {
    fs::create_dir_all(FRESH).context("cannot make a directory")?;
    mount("tmpfs", FRESH, "tmpfs", MountFlags::empty(), None).context("cannot mount a tmpfs")?;
    copy(Path::new("/"), Path::new(FRESH)).context("cannot copy the root file system")?;
    chdir(FRESH)?;
    match pivot_root(".", ".") {
        Ok(()) => unmount(".", UnmountFlags::DETACH).context("cannot detach the old root")?,
        Err(_) => {
            mount_move(".", "/").context("cannot move the new root over the old one")?;
            chroot(".").context("cannot enter the new root")?;
        }
    }
    chdir("/")?;
    for (kind, place) in MOUNTS {
        fs::create_dir_all(place).with_context(|| format!("cannot make {place}"))?;
        mount(kind, place, kind, MountFlags::empty(), None)
            .with_context(|| format!("cannot mount {place}"))?;
    }
    Ok(())
}

/// Copies what is in folder `from`, but for the new root itself and file systems that the kernel has mounted.
fn copy(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let entry = entry?;
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        let metadata = entry.metadata().with_context(|| format!("cannot look at {}", path.display()))?;
        if path == Path::new(FRESH) {
            continue;
        }
        if metadata.is_dir() {
            fs::create_dir(&target)?;
            fs::set_permissions(&target, fs::Permissions::from_mode(metadata.permissions().mode()))?;
            if path != Path::new("/dev") {
                copy(&path, &target)?;
            }
        } else if metadata.is_symlink() {
            symlink(fs::read_link(&path)?, &target)?;
        } else if metadata.is_file() {
            fs::copy(&path, &target).with_context(|| format!("cannot copy {}", path.display()))?;
        }
    }
    Ok(())
}

/// Runs the job to its end; returns its exit status.
fn start(words: &[OsString]) -> Result<i32> {
    let (program, args) = match words.split_first() {
        Some((first, rest)) if first == "run" => {
            let (program, args) = rest.split_first().context("`run` names no program")?;
            (PathBuf::from(program), args)
        }
        _ => (std::env::current_exe().context("cannot find this program")?, words),
    };
    let mut command = Command::new(&program);
    command
        .args(args)
        .env("PATH", "/bin:/sbin:/usr/bin:/usr/sbin")
        .env("HOME", "/root")
        .env("BEGAN", crate::measure::began());
    let child = command.spawn().with_context(|| format!("cannot run {}", program.display()))?;
    let child = child.id() as i32;
    loop {
        let waited = rustix::process::wait(WaitOptions::empty()).context("cannot wait")?;
        if let Some((pid, status)) = waited
            && pid.as_raw_nonzero().get() == child
        {
            let status = ExitStatus::from_raw(status.as_raw());
            return Ok(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)));
        }
    }
}
