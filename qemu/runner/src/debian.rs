//! Debian's packages, unpacked below the target folder and not installed: the programs that the kernel must run, and the
//! Linux that it is compared with.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use object::read::elf::ElfFile64;

use crate::initramfs::Initramfs;
use crate::{install, project};

/// What a dynamically linked program of util-linux needs, the programs among it.
const UTIL_LINUX: [&str; 9] = [
    "util-linux",
    "mount",
    "libc6",
    "libmount1",
    "libblkid1",
    "libselinux1",
    "libpcre2-8-0",
    "libsmartcols1",
    "libudev1",
];

/// The folder with the files of package `name`.
///
/// # Errors
/// It cannot be downloaded or unpacked.
pub(crate) fn package(name: &str) -> Result<PathBuf> {
    unpacked(name, None)
}

/// Busybox, with all that it can do in one file.
pub(crate) fn busybox() -> Result<PathBuf> {
    Ok(package("busybox-static")?.join("bin/busybox"))
}

/// Debian's own kernel for this machine.
///
/// # Errors
/// It cannot be had.
pub(crate) fn linux() -> Result<PathBuf> {
    let words = ["depends", "--important", "linux-image-amd64"];
    let newest = || {
        let text = install::output(Command::new("apt-cache").args(words))?;
        let name = text.lines().find_map(|line| line.trim().strip_prefix("Depends: "));
        name.map(str::to_owned).context("linux-image-amd64 names no kernel")
    };
    let name = newest().or_else(|_| {
        install::apt_update()?;
        newest()
    })?;
    let folder = unpacked(&name, Some("./boot"))?.join("boot");
    let files = fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let kernel = files
        .filter_map(|file| Some(file.ok()?.path()))
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz")));
    kernel.with_context(|| format!("{name} has no kernel in it"))
}

/// Puts programs of util-linux into `image`, with the libraries and the loader that they need.
///
/// # Errors
/// A package cannot be had, or a library is in none.
pub(crate) fn util_linux(image: &mut Initramfs, programs: &[&str]) -> Result<()> {
    let folders = UTIL_LINUX.iter().map(|name| package(name)).collect::<Result<Vec<_>>>()?;
    let find = |name: &str, places: &[&str]| {
        let candidates = folders.iter().flat_map(|folder| {
            places.iter().map(move |place| (folder.join(place).join(name), format!("/{place}/{name}")))
        });
        let found = candidates.into_iter().find(|(path, _)| path.exists());
        found.with_context(|| format!("no package has {name}"))
    };
    let mut seen = BTreeSet::new();
    let mut open: Vec<(PathBuf, String)> = Vec::new();
    for program in programs {
        open.push(find(program, &["bin", "sbin", "usr/bin", "usr/sbin"])?);
    }
    // The name that every dynamic program has its loader under.
    let (loader, _) = find("ld-linux-x86-64.so.2", LIBRARIES)?;
    image.program("/lib64/ld-linux-x86-64.so.2", &loader)?;
    while let Some((path, at)) = open.pop() {
        let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        for library in needed(&bytes).with_context(|| format!("{} is no ELF file", path.display()))? {
            if seen.insert(library.clone()) {
                open.push(find(&library, LIBRARIES)?);
            }
        }
        image.file(&at, bytes, 0o755);
    }
    Ok(())
}

/// Where Debian has libraries, and where its loader looks for them.
const LIBRARIES: &[&str] = &["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"];

/// The names of the libraries that a program or library asks for.
fn needed(bytes: &[u8]) -> Result<Vec<String>> {
    let file = ElfFile64::<object::Endianness>::parse(bytes)?;
    let table = file.elf_dynamic_table()?;
    let mut names = Vec::new();
    for entry in table.iter().filter(|entry| entry.tag == object::elf::DT_NEEDED) {
        names.push(String::from_utf8_lossy(table.string(entry)?).into_owned());
    }
    Ok(names)
}

/// Downloads and unpacks a package, once; `part` alone if it is given.
fn unpacked(name: &str, part: Option<&str>) -> Result<PathBuf> {
    let top = project::target().join("debian");
    let folder = top.join(name);
    if folder.exists() {
        return Ok(folder);
    }
    ensure!(
        install::has("apt-get") && install::has("dpkg-deb"),
        "{name} is a package of Debian's, and this is none"
    );
    eprintln!("downloading Debian's {name} (it is unpacked in {}, not installed)", folder.display());
    fs::create_dir_all(&top).with_context(|| format!("cannot make {}", top.display()))?;
    let work = tempfile::tempdir_in(&top).context("cannot make a temporary folder")?;
    let download = || {
        let mut command = Command::new("apt-get");
        // As who one is: the user that apt takes for downloads may not write there.
        command.args(["--quiet", "-o", "APT::Sandbox::User=root", "download", name]).current_dir(work.path());
        install::output(&mut command)
    };
    download().or_else(|_| {
        install::apt_update()?;
        download()
    })?;
    let archive = fs::read_dir(work.path())?.find_map(|file| Some(file.ok()?.path()));
    let Some(archive) = archive else { bail!("apt-get downloads nothing for {name}") };
    let fresh = work.path().join("files");
    fs::create_dir(&fresh)?;
    let mut unpack = Command::new("dpkg-deb");
    unpack.arg("--fsys-tarfile").arg(&archive).stdout(std::process::Stdio::piped());
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--directory"]).arg(&fresh).args(part);
    pipe(unpack, tar).with_context(|| format!("cannot unpack {name}"))?;
    fs::rename(&fresh, &folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}

/// Runs two programs, the output of the first being the input of the second.
fn pipe(mut from: Command, mut to: Command) -> Result<()> {
    let mut from = from.spawn()?;
    to.stdin(from.stdout.take().context("no pipe")?);
    let status = to.status()?;
    ensure!(from.wait()?.success() && status.success(), "`dpkg-deb | tar` failed");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_program_asks_for_a_c_library() {
        let bytes = fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(needed(&bytes).unwrap().iter().any(|name| name.starts_with("libc.so")));
        assert!(needed(b"text").is_err());
    }
}
