//! The same mounts in the lines of `/proc/PID/mounts` and `/proc/PID/mountstats`.

use alloc::vec::Vec;

use super::{MountInfo, NAME_ESCAPED, OPTION_WORDS, OptionFlags, PATH_ESCAPED, escape};

/// Words that a superblock's flags have in its options, in the kernel's order.
const SUPER_WORDS: [&[u8]; 4] = [b"sync", b"dirsync", b"mand", b"lazytime"];

/// A superblock's options, as mountinfo prints them, in their parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SuperOptions<'a> {
    /// `ro`
    pub read_only: bool,
    /// The words of its flags.
    pub words: Vec<&'a [u8]>,
    /// What the file system says of itself.
    pub rest: Vec<&'a [u8]>,
}

impl<'a> SuperOptions<'a> {
    /// Takes `options` apart.
    pub fn new(options: &'a [u8]) -> Self {
        let mut all = options.split(|byte| *byte == b',');
        let read_only = all.next() == Some(b"ro");
        let mut rest: Vec<&[u8]> = all.collect();
        let flags = rest.iter().take_while(|word| SUPER_WORDS.contains(word)).count();
        let words = rest.drain(..flags).collect();
        SuperOptions { read_only, words, rest }
    }
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
        for word in options.words.into_iter().chain(own).chain(options.rest) {
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
