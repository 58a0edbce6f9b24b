//! `cargo xtask boot` from outside: images of every kind, every way to end, and the exit status of each.
//!
//! The programs are Debian's busybox, as first process by `init=`, so nothing of ours runs in user space.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result};
use flate2::write::GzEncoder;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};

use crate::initramfs::Initramfs;
use crate::run::build_kernel;
use crate::{debian, install};

/// Boots plain, compressed and broken images, and looks at exit statuses and what is said
#[derive(clap::Args)]
pub(super) struct Args {}

/// A boot and its end.
struct Boot {
    image: &'static str,
    words: &'static [&'static str],
    status: i32,
    /// A part of what standard output or standard error says.
    says: &'static str,
}

/// Says something from user space, and powers the machine off.
const HELLO: &str = "init=/bin/busybox -- sh -c \"echo from $((6*7)); busybox poweroff -f\"";

const BOOTS: [Boot; 12] = [
    Boot { image: "plain", words: &["--append", HELLO], status: 0, says: "from 42" },
    Boot { image: "gzip", words: &["--append", HELLO], status: 0, says: "from 42" },
    Boot { image: "zstd", words: &["--append", HELLO, "--cpus", "2"], status: 0, says: "from 42" },
    Boot { image: "plain", words: &["--append", HELLO, "--icount"], status: 0, says: "from 42" },
    Boot { image: "text", words: &[], status: 2, says: "neither a newc cpio archive nor gzip nor zstd" },
    Boot { image: "cut", words: &["--append", HELLO], status: 2, says: "error: " },
    Boot { image: "plain", words: &[], status: 2, says: "there is no /init in it" },
    Boot { image: "no-program", words: &[], status: 2, says: "/init cannot be run: ENOEXEC" },
    Boot { image: "plain", words: &["--cpus", "65"], status: 2, says: "65 is not in 1..=64" },
    Boot { image: "plain", words: &["--append", "init=/bin/busybox -- true"], status: 3, says: "panic" },
    Boot { image: "no-program", words: &["--append", "job=panic"], status: 3, says: "panic" },
    Boot {
        image: "plain",
        words: &["--append", "init=/bin/busybox -- sleep 1000", "--timeout", "5"],
        status: 124,
        says: "not at its end after 5 s",
    },
];

pub(super) fn run(_: &Args) -> Result<bool> {
    install::stable(&[])?;
    install::qemu()?;
    build_kernel()?;
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    images(folder.path())?;
    let mut failed = 0;
    for boot in &BOOTS {
        let wrong = boot.check(&boot.start(folder.path())?);
        println!("{}: {} {:?}", if wrong.is_empty() { "ok" } else { "FAILED" }, boot.image, boot.words);
        wrong.iter().for_each(|line| println!("  {line}"));
        failed += usize::from(!wrong.is_empty());
    }
    println!("{} boots, {failed} failed", BOOTS.len());
    Ok(failed == 0)
}

/// Makes the images in `folder`.
fn images(folder: &Path) -> Result<()> {
    let mut files = Initramfs::default();
    files.program("/bin/busybox", &debian::busybox()?)?.symlink("/bin/sh", "busybox");
    let plain = files.to_bytes()?;
    let mut gzip = GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(&plain)?;
    let gzip = gzip.finish()?;
    let zstd = compress_to_vec(&plain[..], CompressionLevel::Fastest);
    let cut = gzip[..gzip.len() / 2].to_vec();
    let mut files = Initramfs::default();
    files.file("/init", &b"no program\n"[..], 0o755);
    let images = [
        ("plain", plain),
        ("gzip", gzip),
        ("zstd", zstd),
        ("cut", cut),
        ("text", b"no image\n".to_vec()),
        ("no-program", files.to_bytes()?),
    ];
    for (name, bytes) in images {
        std::fs::write(folder.join(name), bytes).with_context(|| format!("cannot write the image {name}"))?;
    }
    Ok(())
}

impl Boot {
    fn start(&self, folder: &Path) -> Result<Output> {
        let mut command = Command::new(std::env::current_exe().context("cannot find this program")?);
        command.arg("boot").arg("--initrd").arg(folder.join(self.image)).args(self.words);
        command.stdin(Stdio::null()).output().context("cannot boot")
    }

    /// What is not as it should be.
    fn check(&self, output: &Output) -> Vec<String> {
        let mut wrong = Vec::new();
        if output.status.code() != Some(self.status) {
            wrong.push(format!("it ended with {}, and not with {}", output.status, self.status));
        }
        let texts = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        if !texts.iter().any(|text| text.contains(self.says)) {
            wrong.push(format!("nothing says `{}`", self.says));
        }
        let errors = texts[1].lines().filter(|line| line.starts_with("error: ")).count();
        if errors != usize::from(self.status != 0) {
            wrong.push(format!("{errors} lines of standard error tell errors"));
        }
        if !wrong.is_empty() {
            wrong.extend(texts.iter().flat_map(|text| text.lines()).map(str::to_owned));
        }
        wrong
    }
}
