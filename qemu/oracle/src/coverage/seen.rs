//! One step, what it answered, and what the tasks saw before and after it.

use std::collections::BTreeSet;

use syscalls::mountinfo::MountInfo;

use crate::{Answer, Step, Views};

/// A step that was run.
pub struct Seen<'a> {
    /// The step.
    pub step: &'a Step,
    /// Its answer.
    pub answer: &'a Answer,
    /// What the tasks saw before.
    pub before: &'a Views,
    /// What they saw after.
    pub after: &'a Views,
    /// Whether the task's namespace is owned by another user namespace than the first.
    pub is_confined: bool,
}

impl Seen<'_> {
    /// The operation without the name of its result.
    pub(super) fn text(&self) -> &str {
        let text = self.step.text();
        let named = text.split_once(" = ").filter(|(name, _)| name.starts_with(['@', '%']));
        named.map_or(text, |(_, text)| text)
    }

    /// Whether the operation begins so, and goes on with another word or not at all.
    pub(super) fn is(&self, words: &str) -> bool {
        self.text().strip_prefix(words).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
    }

    /// Whether it has this word.
    pub(super) fn has(&self, word: &str) -> bool {
        self.text().split(' ').any(|known| known == word)
    }

    /// Its last word, and the one before.
    pub(super) fn target(&self) -> &str {
        self.text().rsplit(' ').next().unwrap_or_default()
    }

    pub(super) fn source(&self) -> &str {
        self.text().rsplit(' ').nth(1).unwrap_or_default()
    }

    fn lines<'v>(&self, views: &'v Views) -> &'v [MountInfo] {
        views.0.get(self.step.task).and_then(Option::as_deref).unwrap_or_default()
    }

    pub(super) fn before(&self) -> &[MountInfo] {
        self.lines(self.before)
    }

    pub(super) fn after(&self) -> &[MountInfo] {
        self.lines(self.after)
    }

    /// The mount that `path` names, if that is plain: the only one there.
    pub(super) fn mount(&self, path: &str) -> Option<&MountInfo> {
        let mut at = self.before().iter().filter(|line| line.mountpoint == path.as_bytes());
        at.next().filter(|_| at.next().is_none())
    }

    /// Whether nothing is mounted at the absolute `path`.
    pub(super) fn is_no_mount(&self, path: &str) -> bool {
        path.starts_with('/') && !self.before().iter().any(|line| line.mountpoint == path.as_bytes())
    }

    /// What the mount that `path` names is mounted on, if it is in sight.
    pub(super) fn parent(&self, path: &str) -> Option<&MountInfo> {
        let parent = self.mount(path)?.parent;
        self.before().iter().find(|line| line.id == parent)
    }

    /// The mount that the absolute `path` is in or names, if that is plain.
    pub(super) fn carrier(&self, path: &str) -> Option<&MountInfo> {
        let above = |line: &&MountInfo| {
            let point = String::from_utf8_lossy(&line.mountpoint);
            path == point || path.starts_with(&format!("{}/", point.trim_end_matches('/')))
        };
        let longest = self.before().iter().filter(above).max_by_key(|line| line.mountpoint.len())?;
        self.mount(&String::from_utf8_lossy(&longest.mountpoint)).filter(|_| path.starts_with('/'))
    }

    /// Mounts at and below `path`.
    pub(super) fn tree<'s>(&'s self, path: &'s str) -> impl Iterator<Item = &'s MountInfo> {
        let below = format!("{}/", path.trim_end_matches('/'));
        let inside = move |point: &[u8]| point == path.as_bytes() || point.starts_with(below.as_bytes());
        self.before().iter().filter(move |line| inside(&line.mountpoint))
    }

    /// How many mounts of any task are in the group.
    pub(super) fn members(&self, group: u32) -> usize {
        let lines = self.before.0.iter().flatten().flatten();
        let of_group = lines.filter(|line| line.tags.shared == Some(group));
        of_group.map(|line| line.id).collect::<BTreeSet<_>>().len()
    }

    /// How many mounts the task sees more than before.
    pub(super) fn gained(&self) -> i64 {
        self.after().len() as i64 - self.before().len() as i64
    }

    /// Whether some other task sees more, or fewer, mounts than before, but not the same ones as this task.
    pub(super) fn changes_elsewhere(&self) -> bool {
        let own = self.before();
        self.before.0.iter().zip(&self.after.0).enumerate().any(|(task, (before, after))| {
            let (Some(before), Some(after)) = (before, after) else { return false };
            let others = before.first().map(|line| line.id) != own.first().map(|line| line.id);
            task != self.step.task && others && before.len() != after.len()
        })
    }
}

/// How many mounts lie below one that came later.
pub(super) fn tucked(lines: &[MountInfo]) -> usize {
    let later = |at: usize, line: &MountInfo| lines[at + 1..].iter().any(|other| other.id == line.parent);
    lines.iter().enumerate().filter(|(at, line)| later(*at, line)).count()
}
