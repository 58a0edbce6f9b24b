//! A container made by unmodified programs: the same script on our kernel and on Debian's Linux, and the same view of the
//! mounts.
//!
//! `unshare -m`, a tmpfs as root, bind mounts made read-only, `/dev` and all on it, `pivot_root`, `umount -l` of the old
//! root, a shell without chroot; what the host mounts in its `/run` afterwards arrives, and goes again.

use anyhow::{Context, Result};
use stress::compare::compare;
use stress::forest::Namespace;

use super::Kernel;
use super::guest::Guest;
use crate::debian;

/// Sets up a container with busybox and with util-linux, and compares what it sees with Debian's Linux
#[derive(clap::Args)]
pub(super) struct Args {
    /// Number of virtual CPUs
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    cpus: u32,
}

/// Whose programs mount and unshare.
#[derive(Clone, Copy)]
enum Tools {
    Busybox,
    UtilLinux,
}

/// The programs of util-linux that the scripts call.
const PROGRAMS: [&str; 4] = ["mount", "umount", "unshare", "pivot_root"];

const SCRIPTS: [(&str, &str); 3] = [
    ("/etc/outside.sh", include_str!("container/outside.sh")),
    ("/etc/container.sh", include_str!("container/container.sh")),
    ("/etc/inside.sh", include_str!("container/inside.sh")),
];

/// The words of busybox that the scripts call, but for those of [`PROGRAMS`].
const APPLETS: [&str; 7] = ["sh", "cat", "ls", "mkdir", "mkfifo", "rmdir", "grep"];

pub(super) fn run(args: &Args) -> Result<bool> {
    let mut passed = true;
    for (name, tools) in [("busybox", Tools::Busybox), ("util-linux", Tools::UtilLinux)] {
        let wanted = seen(Kernel::Linux, tools, args)?;
        let got = seen(Kernel::Ours, tools, args)?;
        let (Some(wanted), Some(got)) = (wanted, got) else {
            passed = false;
            continue;
        };
        let differences = compare(&wanted.views, &got.views);
        differences.iter().for_each(|line| println!("{name}: {line}"));
        if wanted.said != got.said {
            println!("{name}: wanted {:?}\n{name}: got    {:?}", wanted.said, got.said);
        }
        let same = differences.is_empty() && wanted.said == got.said;
        let mounts: usize = got.views.iter().map(|view| view.mounts.len()).sum();
        println!(
            "{name}: {} views, {mounts} mounts, {}",
            got.views.len(),
            if same { "alike" } else { "not alike" }
        );
        passed &= same && got.views.len() == VIEWS;
    }
    Ok(passed)
}

/// How often the script looks.
const VIEWS: usize = 3;

/// What a container saw.
struct Seen {
    views: Vec<Namespace>,
    /// What was said besides.
    said: Vec<String>,
}

/// Runs the script; `None` if it failed.
fn seen(kernel: Kernel, tools: Tools, args: &Args) -> Result<Option<Seen>> {
    let mut guest = Guest::new(kernel)?;
    guest.cpus = args.cpus;
    let image = &mut guest.image;
    image.program("/bin/busybox", &debian::busybox()?)?;
    APPLETS.iter().for_each(|name| _ = image.symlink(&format!("/bin/{name}"), "busybox"));
    let folders = match tools {
        Tools::Busybox => {
            PROGRAMS.iter().for_each(|name| _ = image.symlink(&format!("/bin/{name}"), "busybox"));
            ""
        }
        Tools::UtilLinux => {
            debian::util_linux(image, &PROGRAMS)?;
            "lib lib64 sbin usr"
        }
    };
    for (path, text) in SCRIPTS {
        image.file(path, text, 0o755);
    }
    let start = format!("#!/bin/sh\nFOLDERS='{folders}' exec /bin/sh /etc/outside.sh\n");
    image.file("/etc/start.sh", start, 0o755);
    let ended = guest.run(&["run", "/etc/start.sh"], &mut |_| ())?;
    let mut seen = Seen { views: Vec::new(), said: Vec::new() };
    let mut inside = false;
    for line in &ended.lines {
        match (line.strip_prefix("@seen "), seen.views.last_mut().filter(|_| inside)) {
            (Some(name), _) => {
                seen.views.push(Namespace::empty(name, name, 1));
                inside = true;
            }
            (None, _) if line == "@end" => inside = false,
            (None, Some(view)) => view.push(line.as_bytes()).with_context(|| format!("on {kernel:?}"))?,
            (None, None) if !is_log(line) => seen.said.push(line.clone()),
            (None, None) => {}
        }
    }
    if !ended.passed() {
        println!("on {kernel:?}:");
        ended.lines.iter().for_each(|line| println!("  {line}"));
        return Ok(None);
    }
    seen.views.iter_mut().for_each(normalise);
    Ok(Some(seen))
}

/// Whether a line is one of a kernel's own, or of the first process.
fn is_log(line: &str) -> bool {
    line.starts_with("kernel: ") || line.starts_with("init: ") || line.starts_with("[ ")
}

/// Gives devices numbers by their first appearance, and forgets how large a devtmpfs is, which depends on the machine's
/// memory, and `inode64`, which Debian's kernel says of every tmpfs because it was built so.
fn normalise(view: &mut Namespace) {
    let mut devices = Vec::new();
    for mount in &mut view.mounts {
        let device = (mount.major, mount.minor);
        let known = devices.iter().position(|other| *other == device);
        mount.minor = known.unwrap_or(devices.len()) as u32;
        if known.is_none() {
            devices.push(device);
        }
        if mount.fs_type == b"devtmpfs" {
            mount.super_options.truncate(2);
        }
        if let Some(shorter) = mount.super_options.strip_suffix(b",inode64") {
            mount.super_options = shorter.to_vec();
        }
    }
}
