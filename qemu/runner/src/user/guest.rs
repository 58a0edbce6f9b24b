//! One job in one machine.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use super::Kernel;
use crate::accel::Accel;
use crate::initramfs::Initramfs;
use crate::qemu::{Ending, Failure, Limits, Line, Machine};
use crate::run::{build_kernel, build_userland};
use crate::{debian, install, project};

/// A machine for jobs of the `userland` program, which is its first process.
pub(super) struct Guest {
    kernel: Kernel,
    file: PathBuf,
    /// The root file system; the program is in it as `/init`.
    pub(super) image: Initramfs,
    pub(super) cpus: u32,
    pub(super) memory_mib: usize,
    /// Further words for our kernel.
    pub(super) words: String,
    pub(super) icount: bool,
    /// After which it counts as hung.
    pub(super) limit: Duration,
    /// Longest time without a line.
    pub(super) silence: Duration,
}

/// How a job ended.
#[derive(Debug)]
pub(super) struct Ended {
    /// Its lines, without those of the kernel's own before it.
    pub(super) lines: Vec<String>,
    /// The exit status that it gave, unless the machine did not get there.
    pub(super) status: Result<i32, String>,
}

impl Ended {
    /// Whether the job succeeded and the machine ended as it should; says what was wrong if not.
    pub(super) fn passed(&self) -> bool {
        match &self.status {
            Ok(0) => true,
            Ok(status) => {
                println!("FAILED: the job ended with status {status}");
                false
            }
            Err(reason) => {
                println!("FAILED: {reason}");
                false
            }
        }
    }
}

impl Guest {
    /// Runs a job that says `FAILED` of each of its parts that did, and at the end `@`, its name, and how many there were. The
    /// control may fail in parts that begin with one of `older`, since it is an older Linux. Whether all was well.
    pub(super) fn verdict(&self, words: &[&str], older: &[&str]) -> Result<bool> {
        let older = if self.kernel == Kernel::Linux { older } else { &[] };
        let (mut failed, mut excused) = (0, 0);
        let ended = self.run(words, &mut |line| match line.strip_prefix("FAILED ") {
            Some(what) if older.iter().any(|older| what.starts_with(older)) => excused += 1,
            Some(_) => {
                failed += 1;
                println!("{line}");
            }
            None => println!("{line}"),
        })?;
        if self.kernel == Kernel::Linux {
            println!("{excused} of them need a newer Linux, {failed} failed");
            let end = format!("@{} ", words[0]);
            let ran = ended.lines.iter().any(|line| line.starts_with(&end));
            return Ok(ran && ended.status.is_ok() && failed == 0);
        }
        Ok(ended.passed())
    }

    /// Builds or downloads what it needs.
    pub(super) fn new(kernel: Kernel) -> Result<Self> {
        install::stable(&[])?;
        install::qemu()?;
        build_userland()?;
        let file = match kernel {
            Kernel::Ours => {
                build_kernel()?;
                project::kernel()
            }
            Kernel::Linux => debian::linux()?,
        };
        let mut image = Initramfs::default();
        image.program("/init", &project::userland())?;
        Ok(Self {
            kernel,
            file,
            image,
            cpus: 4,
            memory_mib: 1024,
            words: String::new(),
            icount: false,
            limit: Duration::from_secs(600),
            silence: Duration::from_secs(120),
        })
    }

    /// Runs a job and gives its lines to `follow` as they come.
    pub(super) fn run(&self, job: &[&str], follow: &mut dyn FnMut(&str)) -> Result<Ended> {
        let mut image = tempfile::NamedTempFile::new().context("cannot make a temporary file")?;
        image.write_all(&self.image.to_bytes()?).context("cannot write the image")?;
        let own = match self.kernel {
            Kernel::Ours => &self.words,
            // Linux speaks on the serial port only if told so; a panic ends the machine.
            Kernel::Linux => "console=ttyS0 quiet panic=-1",
        };
        let command_line = format!("{own} -- {}", job.join(" "));
        let machine = Machine {
            kernel: &self.file,
            image: Some(image.path()),
            command_line: command_line.trim_start(),
            cpus: self.cpus,
            memory_mib: self.memory_mib,
            accel: Accel::Tcg,
            icount: self.icount,
        };
        let limits = Limits { silence: self.silence, total: self.limit };
        let mut lines = Vec::new();
        let mut exit = None;
        let ending = machine.boot(limits, &mut |line| match line {
            Line::Serial(text) => {
                let text = String::from_utf8_lossy(&text).into_owned();
                if let Some(status) = text.strip_prefix("init: exit ").and_then(|status| status.parse().ok())
                {
                    exit = Some(status);
                } else {
                    follow(&text);
                    lines.push(text);
                }
            }
            Line::Outside(text) => println!("{text}"),
        })?;
        let status = match (ending, exit) {
            (Ending::Success, Some(status)) => Ok(status),
            (Ending::Failure(Failure::Off, _), Some(status)) if self.kernel == Kernel::Linux => Ok(status),
            (Ending::Success, None) => Err("the machine powered off before the job ended".into()),
            (ending, _) => Err(ending.to_string()),
        };
        Ok(Ended { lines, status })
    }
}
