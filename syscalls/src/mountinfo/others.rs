//! The same mounts in the lines of `/proc/PID/mounts` and `/proc/PID/mountstats`.

use alloc::vec::Vec;

use super::{MountInfo, NAME_ESCAPED, OPTION_WORDS, OptionFlags, PATH_ESCAPED, escape};

/// Words that a superblock's flags have in its options, in the kernel's order.
const SUPER_WORDS: [&[u8]; 4] = [b"sync", b"dirsync", b"mand", b"lazytime"];

/// A superblock's options, as mountinfo prints them, in their parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SuperOptions<'a> {
    /// `ro`
    pub read_only: bool,
    words: &'a [u8],
    rest: &'a [u8],
}

impl<'a> SuperOptions<'a> {
    /// Takes `options` apart.
    pub fn new(options: &'a [u8]) -> Self {
        let (first, mut rest) = cut(options);
        let all = rest;
        let mut words = 0;
        loop {
            let (word, tail) = cut(rest);
            if !SUPER_WORDS.contains(&word) {
                break;
            }
            words = all.len() - tail.len();
            rest = tail;
        }
        let words = &all[..words];
        SuperOptions { read_only: first == b"ro", words: words.strip_suffix(b",").unwrap_or(words), rest }
    }

    /// The words of its flags.
    pub fn words(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        split(self.words)
    }

    /// What the file system says of itself.
    pub fn rest(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        split(self.rest)
    }

    /// The same as one text.
    pub fn rest_text(&self) -> &'a [u8] {
        self.rest
    }
}

/// The first option, and those behind the comma.
fn cut(options: &[u8]) -> (&[u8], &[u8]) {
    match options.iter().position(|byte| *byte == b',') {
        Some(comma) => (&options[..comma], &options[comma + 1..]),
        None => (options, b""),
    }
}

/// The options between commas; none in an empty text.
fn split(options: &[u8]) -> impl Iterator<Item = &[u8]> {
    options.split(|byte| *byte == b',').filter(|_| !options.is_empty())
}

impl MountInfo {
    /// Appends the mount's line of `/proc/PID/mounts`, without a newline: `ro` if the mount or the superblock is, then the
    /// words of the superblock, of the mount, of the file system.
    pub fn write_mounts(&self, out: &mut Vec<u8>) {
        escape(&self.source, NAME_ESCAPED, out);
        out.push(b' ');
        escape(&self.mountpoint, PATH_ESCAPED, out);
        out.push(b' ');
        escape(&self.fs_type, NAME_ESCAPED, out);
        let options = SuperOptions::new(&self.super_options);
        let read_only = options.read_only || self.options.flags.contains(OptionFlags::RDONLY);
        out.extend_from_slice(if read_only { b" ro" } else { b" rw" });
        let own = OPTION_WORDS.iter().filter(|(flag, _)| self.options.flags.contains(*flag));
        let own = own.map(|(_, word)| *word);
        for word in options.words().chain(own).chain(options.rest()) {
            out.push(b',');
            out.extend_from_slice(word);
        }
        out.extend_from_slice(b" 0 0");
    }

    /// Appends the mount's line of `/proc/PID/mountstats`, without a newline, with what the file system counts.
    pub fn write_mountstats(&self, statistics: Option<&[u8]>, out: &mut Vec<u8>) {
        out.extend_from_slice(b"device ");
        escape(&self.source, NAME_ESCAPED, out);
        out.extend_from_slice(b" mounted on ");
        escape(&self.mountpoint, PATH_ESCAPED, out);
        out.extend_from_slice(b" with fstype ");
        escape(&self.fs_type, NAME_ESCAPED, out);
        if let Some(statistics) = statistics {
            out.push(b' ');
            out.extend_from_slice(statistics);
        }
    }
}
