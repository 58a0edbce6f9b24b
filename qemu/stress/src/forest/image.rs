//! The forest as one text, which the boot loader hands to the kernel.
//!
//! ```text
//! forest 1
//! namespace NAME MOUNTS
//! <MOUNTS lines of mountinfo>
//! ...
//! end
//! ```
//! The counts and the last line make a cut image an error instead of a smaller forest.

use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;
use core::fmt;

use super::{Forest, LoadError, Namespace};

const MAGIC: &[u8] = b"forest 1";

/// What errors call the image.
const FILE: &str = "image";

fn error(line: usize, reason: impl fmt::Display) -> LoadError {
    LoadError { file: FILE.to_string(), line, reason: reason.to_string() }
}

impl Forest {
    /// The forest as an image.
    pub fn to_image(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.push(b'\n');
        for namespace in self.namespaces() {
            out.extend_from_slice(
                format!("namespace {} {}\n", namespace.name, namespace.mounts.len()).as_bytes(),
            );
            for mount in &namespace.mounts {
                mount.write(&mut out);
                out.push(b'\n');
            }
        }
        out.extend_from_slice(b"end\n");
        out
    }

    /// Reads an image. Zero bytes after its end are padding.
    ///
    /// # Errors
    /// The first line that does not belong in an image, and what [`Forest::new`] finds.
    pub fn from_image(image: &[u8]) -> Result<Self, LoadError> {
        let mut lines = image.split(|&byte| byte == b'\n').zip(1..);
        let mut next =
            |wanted: &str| lines.next().ok_or_else(|| error(0, format_args!("ends before {wanted}")));
        if next("its first line")?.0 != MAGIC {
            return Err(error(1, "not a forest image"));
        }
        let mut namespaces = Vec::new();
        loop {
            let (line, number) = next("`end`")?;
            if line == b"end" {
                break;
            }
            let header = core::str::from_utf8(line).ok().and_then(|line| {
                let (name, count) = line.strip_prefix("namespace ")?.split_once(' ')?;
                Some((name, count.parse::<usize>().ok()?))
            });
            let (name, count) =
                header.ok_or_else(|| error(number, "neither `namespace NAME MOUNTS` nor `end`"))?;
            let mut namespace = Namespace::empty(name, FILE, number + 1);
            for _ in 0..count {
                namespace.push(next("the last mount")?.0)?;
            }
            namespaces.push(namespace);
        }
        let (rest, number) = next("the newline after `end`")?;
        if rest.iter().any(|&byte| byte != 0) || lines.next().is_some() {
            return Err(error(number, "text after `end`"));
        }
        Self::new(namespaces)
    }
}
