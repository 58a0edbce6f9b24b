//! `cargo xtask shell`: Debian's busybox on the kernel.

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::initramfs::Initramfs;
use crate::{boot, debian};

/// Boots into a busybox shell; leave it with `exit`, or from a terminal with Ctrl-A X.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    options: boot::Options,
}

/// What happens before and after the shell.
const INIT: &str = include_str!("shell/init.sh");

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let mut image = Initramfs::default();
    image
        .program("/bin/busybox", &debian::busybox()?)?
        .file("/init", INIT, 0o755)
        .symlink("/bin/sh", "busybox");
    for folder in ["/proc", "/sys", "/dev", "/tmp", "/root", "/mnt"] {
        image.directory(folder);
    }
    image.file("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\n", 0o644);
    image.file("/etc/group", "root:x:0:\n", 0o644);
    let bytes = image.to_bytes()?;
    let mut file = tempfile::NamedTempFile::new().context("cannot make a temporary file")?;
    file.write_all(&bytes).context("cannot write the image")?;
    boot::boot(file.path(), &bytes, &args.options)
}
