//! How what calls return reads.
//!
//! Numbers that depend on the machine are left out or renamed: ids of groups by their first appearance in one answer, the
//! options of file systems down to their flags, other namespaces than the caller's not at all.

use std::collections::HashMap;

use anyhow::Result;
use linux_raw_sys::general as abi;

use super::Session;
use crate::answer::Answer;
use crate::language::flags::{ATTRIBUTES, TYPES, spell};
use crate::language::{self, Column, Show, Value};
use crate::machine::Machine;
use crate::raw::{Arg, Raw, Reply};

impl<M: Machine> Session<M> {
    pub(super) fn show(&mut self, task: usize, show: &Show, reply: &Reply) -> Result<Answer> {
        Ok(Answer::Value(match show {
            Show::Nothing => return Ok(Answer::Ok),
            Show::Number if reply.result == 0 => return Ok(Answer::Ok),
            Show::Number => reply.result.to_string(),
            Show::Bits => format!("{:#x}", reply.result),
            Show::Path => lossy(reply.text(0, 0)),
            Show::Bytes => {
                let memory = reply.memory.first().map_or(&[][..], Vec::as_slice);
                let end = memory.len().min(reply.result as usize);
                lossy(&memory[..end]).trim_end_matches("; ").to_owned()
            }
            Show::Poll => poll(reply.number(0, 6, 2)),
            Show::NsInfo => format!("size={} mounts={}", reply.number(0, 0, 4), reply.number(0, 4, 4)),
            Show::Stat => stat(reply),
            Show::StatFs => {
                // The flag that says that there are flags says nothing.
                const VALID: u64 = 0x20;
                format!("{:#x}", reply.number(0, language::STATFS_FLAGS, 8) & !VALID)
            }
            Show::StatMount => stat_mount(reply),
            Show::Mounts(ns_fd, ns_id) => {
                let ids: Vec<u64> = (0..reply.result as usize).map(|at| reply.number(1, 8 * at, 8)).collect();
                self.mountpoints(task, &ids, ns_fd, ns_id)?
            }
        }))
    }

    /// Where mounts are, in one namespace.
    fn mountpoints(&mut self, task: usize, ids: &[u64], ns_fd: &Value, ns_id: &Value) -> Result<String> {
        let mask = Value::Int(u64::from(abi::STATMOUNT_MNT_POINT));
        let mut calls = Vec::new();
        for id in ids {
            let request = language::request(ns_fd, ns_id, Value::Int(*id), mask.clone());
            let request = self.arg(task, &request)?;
            let size = language::STATMOUNT_SIZE as u32;
            let args =
                [request, Arg::Out(size), Arg::Int(u64::from(size)), Arg::Int(0), Arg::Int(0), Arg::Int(0)];
            calls.push(Raw { nr: abi::__NR_statmount, args });
        }
        let mut points = Vec::new();
        for some in calls.chunks(MOST_AT_ONCE) {
            for reply in self.machine.calls(task, some)? {
                points.push(match reply.errno() {
                    0 => string(&reply, MNT_POINT, u64::from(abi::STATMOUNT_MNT_POINT)).unwrap_or("?".into()),
                    errno => crate::errno::name(errno),
                });
            }
        }
        Ok(if points.is_empty() { "nothing".into() } else { points.join(" ") })
    }
}

/// Calls in one message.
pub(super) const MOST_AT_ONCE: usize = 30;

/// Text, with what would break a line or is none spelled out.
fn lossy(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        match byte {
            b'\n' => text.push_str("; "),
            b' '..=b'~' => text.push(char::from(*byte)),
            _ => text.push_str(&format!("\\x{byte:02x}")),
        }
    }
    text
}

/// The names of `getdents64`.
pub(super) fn names(reply: &Reply) -> String {
    let mut names = Vec::new();
    let mut at = 0;
    while at < reply.result as usize {
        let len = reply.number(0, at + 16, 2) as usize;
        let name = lossy(reply.text(0, at + 19));
        if name != "." && name != ".." {
            names.push(name);
        }
        at += len.max(20);
    }
    names.sort();
    if names.is_empty() { "nothing".into() } else { names.join(" ") }
}

/// Lines, or the words in one column of them.
pub(super) fn lines(text: &[u8], column: Column) -> String {
    let text = String::from_utf8_lossy(text);
    let lines = text.lines().map(|line| match column {
        Column::Whole => line.to_owned(),
        Column::Mountpoint => line.split(' ').nth(4).unwrap_or("?").to_owned(),
    });
    let between = if column == Column::Whole { " | " } else { " " };
    let text = lines.collect::<Vec<_>>().join(between);
    if text.is_empty() { "nothing".into() } else { text }
}

fn poll(found: u64) -> String {
    let names = [("in", abi::POLLIN), ("pri", abi::POLLPRI), ("err", abi::POLLERR)];
    let words = names.iter().filter(|(_, bit)| found & u64::from(*bit) != 0).map(|(name, _)| *name);
    let text = words.collect::<Vec<_>>().join(",");
    if text.is_empty() { "nothing".into() } else { text }
}

fn stat(reply: &Reply) -> String {
    const TYPE: u64 = 0o170_000;
    let kind = match reply.number(0, language::STATX_MODE, 2) & TYPE {
        0o040_000 => "directory",
        0o100_000 => "file",
        0o120_000 => "symlink",
        _ => "other",
    };
    let attributes = reply.number(0, language::STATX_ATTRIBUTES, 8);
    let root = attributes & u64::from(abi::STATX_ATTR_MOUNT_ROOT) != 0;
    if root { format!("{kind}, root of its mount") } else { kind.to_owned() }
}

/// Where a `statmount` has the offsets of its strings, and where these begin.
const STRINGS: usize = 512;
const MNT_ROOT: usize = 104;
const MNT_POINT: usize = 108;

/// A string of a `statmount`, if the bit of the mask says that it is there.
fn string(reply: &Reply, at: usize, bit: u64) -> Option<String> {
    let there = reply.number(1, 8, 8) & bit != 0;
    there.then(|| lossy(reply.text(1, STRINGS + reply.number(1, at, 4) as usize)))
}

/// All that the mask says is there.
pub(super) fn stat_mount(reply: &Reply) -> String {
    let field = |at, size| reply.number(1, at, size);
    let mask = field(8, 8);
    let has = |bit: u32| mask & u64::from(bit) != 0;
    let mut groups = HashMap::new();
    let mut group = |id: u64| {
        let next = groups.len() + 1;
        *groups.entry(id).or_insert(next)
    };
    let mut words = Vec::new();
    let text =
        |name: &str, at, bit: u32| string(reply, at, u64::from(bit)).map(|text| format!("{name}={text}"));
    words.extend(text("point", MNT_POINT, abi::STATMOUNT_MNT_POINT));
    let mut size = field(0, 4);
    if let Some(root) = string(reply, MNT_ROOT, u64::from(abi::STATMOUNT_MNT_ROOT)) {
        // The file of a namespace: its number, and how long that is, depends on the machine.
        let is_file = root.starts_with("mnt:[");
        size -= if is_file { root.len() as u64 } else { 0 };
        words.push(format!("root={}", if is_file { "mnt:[]" } else { &root }));
    }
    words.extend(text("type", 36, abi::STATMOUNT_FS_TYPE));
    words.extend(text("subtype", 120, abi::STATMOUNT_FS_SUBTYPE));
    words.extend(text("source", 124, abi::STATMOUNT_SB_SOURCE));
    words.extend(text("opts", 4, abi::STATMOUNT_MNT_OPTS));
    if has(abi::STATMOUNT_MNT_BASIC) {
        words.push(format!("attr={}", spell(field(64, 8), ATTRIBUTES)));
        words.push(format!("propagation={}", spell(field(72, 8), TYPES)));
        for (name, at) in [("group", 80), ("master", 88)] {
            let id = field(at, 8);
            words.extend((id != 0).then(|| format!("{name}={}", group(id))));
        }
        words.extend((field(40, 8) == field(48, 8)).then(|| "its own parent".to_owned()));
    }
    if has(abi::STATMOUNT_PROPAGATE_FROM) {
        let id = field(96, 8);
        words.extend((id != 0).then(|| format!("from={}", group(id))));
    }
    if has(abi::STATMOUNT_SB_BASIC) {
        words.push(format!("sb={:#x}", field(32, 4)));
    }
    if has(abi::STATMOUNT_SUPPORTED_MASK) {
        words.push(format!("supported={:#x}", field(144, 8)));
    }
    for (name, bit, at) in
        [("uidmap", abi::STATMOUNT_MNT_UIDMAP, 152), ("gidmap", abi::STATMOUNT_MNT_GIDMAP, 160)]
    {
        words.extend(has(bit).then(|| format!("{name}={}", field(at, 4))));
    }
    words.push(format!("size={size}"));
    words.join(" ")
}
