//! The image that becomes the root file system: a cpio archive in Linux's `newc` format.
//!
//! [`Initramfs`] writes one. The same entries give the same bytes: names are sorted, times are zero, everything is
//! root's. [`check`] reads a stranger's, as the kernel will, so that what is wrong with it is said before anything boots.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use cpio::newc::{Builder, ModeFileType, trailer};

mod check;

pub(crate) use check::check;

/// What a name stands for.
enum Entry {
    Directory,
    File { bytes: Vec<u8>, mode: u32 },
    Symlink(String),
}

/// An image in the making.
#[derive(Default)]
pub(crate) struct Initramfs {
    /// By name, so that a directory comes before what is in it.
    entries: BTreeMap<String, Entry>,
}

impl Initramfs {
    /// A directory, and those above it.
    pub(crate) fn directory(&mut self, path: &str) -> &mut Self {
        let name = path.trim_matches('/');
        if !name.is_empty() {
            self.above(name);
            self.entries.entry(name.to_owned()).or_insert(Entry::Directory);
        }
        self
    }

    /// A file, in place of what was there.
    pub(crate) fn file(&mut self, path: &str, bytes: impl Into<Vec<u8>>, mode: u32) -> &mut Self {
        self.put(path, Entry::File { bytes: bytes.into(), mode })
    }

    /// A program of this machine's `from`.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) fn program(&mut self, path: &str, from: &Path) -> Result<&mut Self> {
        let bytes = std::fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        Ok(self.file(path, bytes, 0o755))
    }

    /// A symbolic link.
    pub(crate) fn symlink(&mut self, path: &str, to: &str) -> &mut Self {
        self.put(path, Entry::Symlink(to.to_owned()))
    }

    fn put(&mut self, path: &str, entry: Entry) -> &mut Self {
        let name = path.trim_matches('/');
        self.above(name);
        self.entries.insert(name.to_owned(), entry);
        self
    }

    fn above(&mut self, name: &str) {
        if let Some((above, _)) = name.rsplit_once('/') {
            self.directory(above);
        }
    }

    /// The image.
    ///
    /// # Errors
    /// A file is larger than the format can say.
    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        for ((name, entry), number) in self.entries.iter().zip(1..) {
            let (kind, mode, bytes) = match entry {
                Entry::Directory => (ModeFileType::Directory, 0o755, &[][..]),
                Entry::File { bytes, mode } => (ModeFileType::Regular, *mode, &bytes[..]),
                Entry::Symlink(to) => (ModeFileType::Symlink, 0o777, to.as_bytes()),
            };
            let size = u32::try_from(bytes.len()).with_context(|| format!("{name} is too large"))?;
            let mut writer = Builder::new(name)
                .ino(number)
                .nlink(if bytes.is_empty() { 2 } else { 1 })
                .mode(mode)
                .set_mode_file_type(kind)
                .write(&mut out, size);
            std::io::Write::write_all(&mut writer, bytes)?;
            writer.finish()?;
        }
        trailer(&mut out)?;
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut image = Initramfs::default();
        image
            .file("/bin/prog", b"#!/bin/sh\n".to_vec(), 0o755)
            .symlink("/init", "bin/prog")
            .directory("/proc/");
        let bytes = image.to_bytes().unwrap();
        assert_eq!(bytes, image.to_bytes().unwrap());
        let contents = check(&bytes).unwrap();
        assert_eq!(contents.names, [&b"bin"[..], b"bin/prog", b"init", b"proc"]);
        assert_eq!(contents.size, 10 + 8);
    }
}
