//! Lines of `/proc/PID/mountinfo`: parsed into fields, and printed again byte for byte.
//!
//! ```text
//! ID PARENT MAJ:MIN ROOT MOUNTPOINT OPTIONS [TAG...] - FSTYPE SOURCE SUPEROPTIONS
//! ```
//!
//! Names are bytes, as everywhere in Linux. ROOT, MOUNTPOINT, FSTYPE and SOURCE are escaped: a backslash and three
//! octal digits stand for a byte that would break the line. SUPEROPTIONS is the rest of the line, verbatim: old
//! kernels print spaces and single backslashes there.
//!
//! # Invariants
//! - `[Exact]` Printing a parsed line gives the same bytes, for every line that a kernel prints. A line with an
//!   escape that no kernel writes (say `\057`) is read, and printed in the kernel's form.
//! - `[Order]` Known words of OPTIONS print in the kernel's order. A line that has them in another order keeps
//!   its own text until [`MountOptions::canonicalize`].

use alloc::vec::Vec;
use core::fmt;

use bitflags::bitflags;

mod others;
mod parse;
#[cfg(test)]
mod tests;

pub use others::SuperOptions;
pub use parse::{Field, ParseError};

bitflags! {
    /// The per-mount flags that mountinfo has words for. The bits stand in the order in which the words print.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct OptionFlags: u32 {
        /// `ro`; without it the line says `rw`.
        const RDONLY = 1 << 0;
        /// `nosuid`
        const NOSUID = 1 << 1;
        /// `nodev`
        const NODEV = 1 << 2;
        /// `noexec`
        const NOEXEC = 1 << 3;
        /// `noatime`
        const NOATIME = 1 << 4;
        /// `nodiratime`
        const NODIRATIME = 1 << 5;
        /// `relatime`
        const RELATIME = 1 << 6;
        /// `nosymfollow`
        const NOSYMFOLLOW = 1 << 7;
        /// `idmapped`
        const IDMAPPED = 1 << 8;
    }
}

/// Words of OPTIONS after `ro` or `rw`, in print order.
const OPTION_WORDS: [(OptionFlags, &[u8]); 8] = [
    (OptionFlags::NOSUID, b"nosuid"),
    (OptionFlags::NODEV, b"nodev"),
    (OptionFlags::NOEXEC, b"noexec"),
    (OptionFlags::NOATIME, b"noatime"),
    (OptionFlags::NODIRATIME, b"nodiratime"),
    (OptionFlags::RELATIME, b"relatime"),
    (OptionFlags::NOSYMFOLLOW, b"nosymfollow"),
    (OptionFlags::IDMAPPED, b"idmapped"),
];

/// The OPTIONS field: flags, and words that this crate has no flag for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MountOptions {
    /// The words known here.
    pub flags: OptionFlags,
    /// The others, in the order of the line.
    pub unknown: Vec<Vec<u8>>,
    /// The field's own text where its words are not in the kernel's order; see `[Order]`.
    verbatim: Option<Vec<u8>>,
}

impl MountOptions {
    /// Options with these flags and no other words.
    pub fn new(flags: OptionFlags) -> Self {
        Self { flags, ..Self::default() }
    }

    /// Forgets a deviating order of the words, which carries no meaning.
    pub fn canonicalize(&mut self) {
        self.verbatim = None;
    }

    /// Appends the field.
    pub fn write(&self, out: &mut Vec<u8>) {
        if let Some(text) = &self.verbatim {
            return out.extend_from_slice(text);
        }
        out.extend_from_slice(if self.flags.contains(OptionFlags::RDONLY) { b"ro" } else { b"rw" });
        let known = OPTION_WORDS.iter().filter(|(flag, _)| self.flags.contains(*flag)).map(|(_, word)| *word);
        for word in known.chain(self.unknown.iter().map(Vec::as_slice)) {
            out.push(b',');
            out.extend_from_slice(word);
        }
    }
}

/// The optional fields: how the mount takes part in propagation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PropagationTags {
    /// `shared:N`: the peer group.
    pub shared: Option<u32>,
    /// `master:N`: the peer group that this mount receives from.
    pub master: Option<u32>,
    /// `propagate_from:N`: the nearest group up the chain of masters with a member in sight of the reader.
    pub propagate_from: Option<u32>,
    /// `unbindable`
    pub unbindable: bool,
}

/// One line of mountinfo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountInfo {
    /// The mount's id, reused after an umount.
    pub id: u32,
    /// The parent's id. It need not be listed: the reader's root may lie below it.
    pub parent: u32,
    /// Device number of the superblock, major part.
    pub major: u32,
    /// Device number of the superblock, minor part.
    pub minor: u32,
    /// Path of the mount's root inside its file system. A removed root ends in `//deleted`; nsfs prints `mnt:[INO]`.
    pub root: Vec<u8>,
    /// Path of the mount from the root of the process that was asked.
    pub mountpoint: Vec<u8>,
    /// Per-mount options.
    pub options: MountOptions,
    /// Propagation state.
    pub tags: PropagationTags,
    /// File system type, with `.subtype` if it has one.
    pub fs_type: Vec<u8>,
    /// What was mounted, as the mounting call named it; may be empty.
    pub source: Vec<u8>,
    /// Options of the superblock as this mount prints them, beginning with `ro` or `rw`.
    pub super_options: Vec<u8>,
}

impl MountInfo {
    /// Reads one line, without its newline.
    ///
    /// # Errors
    /// The first field that is not as the kernel would print it, from left to right.
    pub fn parse(line: &[u8]) -> Result<Self, ParseError> {
        parse::line(line)
    }

    /// Bytes of the longest of the lines that this can be printed as, at most.
    pub fn size_max(&self) -> usize {
        // Four numbers, three tags with one each, all the words, and what stands between.
        const REST: usize = 512;
        let escaped = self.root.len() + self.mountpoint.len() + self.fs_type.len() + self.source.len();
        let unknown: usize = self.options.unknown.iter().map(|word| word.len() + 1).sum();
        let verbatim = self.options.verbatim.as_ref().map_or(0, Vec::len);
        4 * escaped + self.super_options.len() + unknown + verbatim + REST
    }

    /// Appends the line, without a newline. It allocates only if there is no room ([`MountInfo::size_max`]).
    pub fn write(&self, out: &mut Vec<u8>) {
        put(out, format_args!("{} {} {}:{} ", self.id, self.parent, self.major, self.minor));
        escape(&self.root, PATH_ESCAPED, out);
        out.push(b' ');
        escape(&self.mountpoint, PATH_ESCAPED, out);
        out.push(b' ');
        self.options.write(out);
        for (tag, group) in [
            ("shared", self.tags.shared),
            ("master", self.tags.master),
            ("propagate_from", self.tags.propagate_from),
        ] {
            if let Some(group) = group {
                put(out, format_args!(" {tag}:{group}"));
            }
        }
        if self.tags.unbindable {
            out.extend_from_slice(b" unbindable");
        }
        out.extend_from_slice(b" - ");
        escape(&self.fs_type, NAME_ESCAPED, out);
        out.push(b' ');
        escape(&self.source, NAME_ESCAPED, out);
        out.push(b' ');
        out.extend_from_slice(&self.super_options);
    }

    /// The line as bytes, without a newline.
    pub fn to_line(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(128);
        self.write(&mut out);
        out
    }
}

/// The line for people: bytes that are not UTF-8 show as replacement characters.
impl fmt::Display for MountInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&alloc::string::String::from_utf8_lossy(&self.to_line()))
    }
}

/// Appends formatted text.
pub(crate) fn put(out: &mut Vec<u8>, text: fmt::Arguments<'_>) {
    struct To<'a>(&'a mut Vec<u8>);
    impl fmt::Write for To<'_> {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0.extend_from_slice(text.as_bytes());
            Ok(())
        }
    }
    fmt::write(&mut To(out), text).expect("a vector takes any text");
}

/// Bytes escaped in ROOT and MOUNTPOINT.
const PATH_ESCAPED: &[u8] = b" \t\n\\";
/// Bytes escaped in FSTYPE and SOURCE.
const NAME_ESCAPED: &[u8] = b" \t\n\\#";

/// Appends `text` with the bytes in `set` written as a backslash and three octal digits.
fn escape(text: &[u8], set: &[u8], out: &mut Vec<u8>) {
    for &byte in text {
        if set.contains(&byte) {
            out.extend_from_slice(&[b'\\', b'0' + (byte >> 6), b'0' + (byte >> 3 & 7), b'0' + (byte & 7)]);
        } else {
            out.push(byte);
        }
    }
}
