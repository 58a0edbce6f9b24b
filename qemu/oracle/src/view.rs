//! What all tasks see, with numbers that do not depend on who gave them out.
//!
//! A mount id, a group id and a device number are renamed by their first appearance in the whole snapshot, task by task
//! and line by line; so two snapshots are the same structure exactly if they are equal.

use std::collections::HashMap;

use syscalls::mountinfo::MountInfo;

/// The options that superblocks of all file systems can have.
const FLAGS: [&[u8]; 6] = [b"ro", b"rw", b"sync", b"dirsync", b"mand", b"lazytime"];

/// The inode number in the name of a mount namespace's file.
fn namespace_file(root: &[u8]) -> Option<u32> {
    let number = root.strip_prefix(b"mnt:[")?.strip_suffix(b"]")?;
    std::str::from_utf8(number).ok()?.parse().ok()
}

/// What each task sees; `None` for one that does not exist.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Views(pub Vec<Option<Vec<MountInfo>>>);

/// Names given in the order of first appearance, from 1.
#[derive(Default)]
struct Names(HashMap<u32, u32>);

impl Names {
    fn of(&mut self, number: u32) -> u32 {
        let next = self.0.len() as u32 + 1;
        *self.0.entry(number).or_insert(next)
    }
}

impl Views {
    /// Renames all numbers, and forgets the file system's own options but for the flags of all file systems.
    pub fn normalise(&mut self) {
        let (mut mounts, mut groups, mut devices) = (Names::default(), Names::default(), Names::default());
        let mut namespaces = Names::default();
        for line in self.0.iter_mut().flatten().flatten() {
            line.id = mounts.of(line.id);
            line.parent = mounts.of(line.parent);
            line.minor = devices.of(line.minor);
            let tags = &mut line.tags;
            for tag in [&mut tags.shared, &mut tags.master, &mut tags.propagate_from].into_iter().flatten() {
                *tag = groups.of(*tag);
            }
            if let Some(file) = namespace_file(&line.root) {
                line.root = format!("mnt:[{}]", namespaces.of(file)).into_bytes();
            }
            let known = |word: &&[u8]| FLAGS.contains(word);
            let kept: Vec<&[u8]> = line.super_options.split(|byte| *byte == b',').filter(known).collect();
            line.super_options = kept.join(&b',');
        }
    }

    /// As a script has it: a line for each mount, the task before it.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (task, lines) in self.0.iter().enumerate() {
            for line in lines.iter().flatten() {
                text.push_str(&format!("t{task}> {line}\n"));
            }
        }
        text
    }
}

/// Both snapshots for people: what only one has is marked, `-` for `wanted` and `+` for `got`; tasks that see the same are
/// left out.
pub fn difference(wanted: &Views, got: &Views) -> String {
    let mut text = String::new();
    let mut shown = Vec::new();
    for task in 0..wanted.0.len().max(got.0.len()) {
        let lines = |views: &Views| -> Vec<String> {
            let lines = views.0.get(task).and_then(Option::as_ref);
            lines.into_iter().flatten().map(|line| line.to_string()).collect()
        };
        let (wanted, got) = (lines(wanted), lines(got));
        if wanted == got {
            text.push_str(&format!("t{task}: the same {} lines\n", got.len()));
            continue;
        }
        if let Some((other, _)) = shown.iter().find(|(_, seen)| *seen == (wanted.clone(), got.clone())) {
            text.push_str(&format!("t{task}: as t{other}\n"));
            continue;
        }
        for (mark, lines, others) in [('-', &wanted, &got), ('+', &got, &wanted)] {
            for line in lines {
                let mark = if others.contains(line) { ' ' } else { mark };
                text.push_str(&format!("{mark} t{task}> {line}\n"));
            }
            text.push('\n');
        }
        shown.push((task, (wanted, got)));
    }
    text
}
