//! A forest beside what the kernel prints back for it.
//!
//! Numbers are free, structure is not: a mount id stands for the position of its line in its namespace, a group id
//! for a group, one to one over the whole snapshot. Everything else must be equal byte for byte, and the lines must
//! stand in the same order.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use syscalls::mountinfo::{MountInfo, MountOptions};

use crate::forest::Namespace;

/// Where a parent id points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Parent {
    Own,
    Line(usize),
    Outside,
}

impl fmt::Display for Parent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own => f.write_str("itself"),
            Self::Line(line) => write!(f, "line {line}"),
            Self::Outside => f.write_str("outside the list"),
        }
    }
}

/// Lists every difference, as lines for the user; none means that `got` is `wanted`.
pub fn compare(wanted: &[Namespace], got: &[Namespace]) -> Vec<String> {
    let mut differences = Vec::new();
    let mut groups = Groups::default();
    for namespace in wanted {
        match got.iter().filter(|other| other.name == namespace.name).collect::<Vec<_>>()[..] {
            [] => differences.push(format!("{}: the namespace is missing", namespace.name)),
            [other] => compare_namespace(namespace, other, &mut groups, &mut differences),
            [..] => differences.push(format!("{}: the namespace is printed twice", namespace.name)),
        }
    }
    for namespace in got {
        if !wanted.iter().any(|other| other.name == namespace.name) {
            differences.push(format!("{}: a namespace that was not asked for", namespace.name));
        }
    }
    differences
}

fn compare_namespace(
    wanted: &Namespace,
    got: &Namespace,
    groups: &mut Groups,
    differences: &mut Vec<String>,
) {
    let name = &wanted.name;
    let (wanted_parents, got_parents) = (Parents::new(&wanted.mounts), Parents::new(&got.mounts));
    for (index, (want, have)) in wanted.mounts.iter().zip(&got.mounts).enumerate() {
        let line = index + 1;
        let mut report = |field: &str, want: &dyn fmt::Display, have: &dyn fmt::Display| {
            differences.push(format!("{name}: line {line}: {field}: wanted `{want}`, got `{have}`"));
        };
        let mut bytes = |field, want: &[u8], have: &[u8]| {
            if want != have {
                report(field, &want.escape_ascii(), &have.escape_ascii());
            }
        };
        bytes("mount point", &want.mountpoint, &have.mountpoint);
        bytes("root", &want.root, &have.root);
        bytes("file system type", &want.fs_type, &have.fs_type);
        bytes("mount source", &want.source, &have.source);
        bytes("super options", &want.super_options, &have.super_options);
        if want.options != have.options {
            report("mount options", &Words(&want.options), &Words(&have.options));
        }
        if (want.major, want.minor) != (have.major, have.minor) {
            let (want, have) = ((want.major, want.minor), (have.major, have.minor));
            report(
                "major:minor",
                &format_args!("{}:{}", want.0, want.1),
                &format_args!("{}:{}", have.0, have.1),
            );
        }
        if want.tags.unbindable != have.tags.unbindable {
            report("unbindable", &want.tags.unbindable, &have.tags.unbindable);
        }
        let (parent, other) = (wanted_parents.of(index, want), got_parents.of(index, have));
        if parent != other {
            report("parent", &parent, &other);
        }
        if let Some(first) = got_parents.first_with_id(have.id).filter(|&first| first != index) {
            differences.push(format!(
                "{name}: line {line}: mount id {} is that of line {} too",
                have.id,
                first + 1
            ));
        }
        let tags = [
            ("shared", want.tags.shared, have.tags.shared),
            ("master", want.tags.master, have.tags.master),
            ("propagate_from", want.tags.propagate_from, have.tags.propagate_from),
        ];
        for (tag, want, have) in tags {
            if let Some(reason) = groups.differ(want, have) {
                differences.push(format!("{name}: line {line}: {tag}: {reason}"));
            }
        }
    }
    let (want, have) = (wanted.mounts.len(), got.mounts.len());
    for mount in wanted.mounts.iter().skip(have) {
        differences.push(format!("{name}: missing: {mount}"));
    }
    for mount in got.mounts.iter().skip(want) {
        differences.push(format!("{name}: not asked for: {mount}"));
    }
}

struct Words<'a>(&'a MountOptions);

impl fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = Vec::new();
        self.0.write(&mut text);
        text.escape_ascii().fmt(f)
    }
}

/// First line of each mount id in one namespace.
struct Parents(BTreeMap<u32, usize>);

impl Parents {
    fn new(mounts: &[MountInfo]) -> Self {
        let mut lines = BTreeMap::new();
        for (index, mount) in mounts.iter().enumerate() {
            lines.entry(mount.id).or_insert(index);
        }
        Self(lines)
    }

    fn first_with_id(&self, id: u32) -> Option<usize> {
        self.0.get(&id).copied()
    }

    fn of(&self, index: usize, mount: &MountInfo) -> Parent {
        match self.first_with_id(mount.parent) {
            Some(parent) if parent == index => Parent::Own,
            Some(parent) => Parent::Line(parent + 1),
            None => Parent::Outside,
        }
    }
}

/// Which group of one side is which of the other, as settled by their first common appearance.
#[derive(Default)]
struct Groups {
    wanted_to_got: BTreeMap<u32, u32>,
    got_to_wanted: BTreeMap<u32, u32>,
}

impl Groups {
    fn differ(&mut self, wanted: Option<u32>, got: Option<u32>) -> Option<String> {
        let (wanted, got) = match (wanted, got) {
            (None, None) => return None,
            (Some(wanted), None) => return Some(format!("wanted group {wanted}, got none")),
            (None, Some(got)) => return Some(format!("wanted none, got group {got}")),
            (Some(wanted), Some(got)) => (wanted, got),
        };
        let forth = *self.wanted_to_got.entry(wanted).or_insert(got);
        if forth != got {
            return Some(format!("wanted group {wanted}, printed as {forth} before, got {got}"));
        }
        let back = *self.got_to_wanted.entry(got).or_insert(wanted);
        (back != wanted).then(|| format!("wanted group {wanted}, got {got}, which was group {back} before"))
    }
}

#[cfg(test)]
mod tests;
