//! What must hold for namespaces to have existed together.
//!
//! In one namespace, for each record:
//! 1. its mount id is unique;
//! 2. its mountpoint is an absolute path in plain form (its root need not be: file systems print their own there);
//! 3. it has at most the tags that fit together;
//! 4. its parent is listed, is itself (the root of the namespace), or is out of the reader's sight;
//! 5. its mountpoint lies at or below that of a listed parent, and no other mount has the same parent and mountpoint;
//! 6. following parents ends;
//! 7. the namespace holds at most [`MOUNTS_MAX`] mounts.
//!
//! Over all namespaces:
//! 8. names are unique words;
//! 9. the members and slaves of a peer group are mounts of one superblock;
//! 10. no peer group is its own master, at any distance;
//! 11. the group of `propagate_from` can be reached from the master.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec;

use syscalls::mountinfo::MountInfo;

use super::plan::{Chains, SuperblockKey};
use super::{LoadError, MOUNTS_MAX, Namespace, below};

pub(super) fn namespaces(namespaces: &[Namespace]) -> Result<(), LoadError> {
    let mut names = BTreeSet::new();
    for namespace in namespaces {
        name(namespace)?;
        if !names.insert(&namespace.name) {
            return Err(namespace.error(0, format_args!("a second namespace is named `{}`", namespace.name)));
        }
        within(namespace)?;
    }
    groups(namespaces)
}

fn name(namespace: &Namespace) -> Result<(), LoadError> {
    if namespace.name.is_empty() || namespace.name.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(namespace.error(0, format_args!("`{}` cannot name a namespace", namespace.name)));
    }
    Ok(())
}

/// Rules 1 to 7.
fn within(namespace: &Namespace) -> Result<(), LoadError> {
    let mounts = &namespace.mounts;
    let mut by_id = BTreeMap::new();
    for (index, mount) in mounts.iter().enumerate() {
        if let Some(earlier) = by_id.insert(mount.id, index) {
            let line = namespace.first_line + earlier;
            return Err(
                namespace.error(index, format_args!("mount id {} stands on line {line} too", mount.id))
            );
        }
        record(mount).map_err(|reason| namespace.error(index, reason))?;
    }

    let mut own_parent = None;
    let mut outside = None;
    let mut places = BTreeMap::new();
    for (index, mount) in mounts.iter().enumerate() {
        let parent = by_id.get(&mount.parent).copied();
        match parent {
            Some(parent) if parent == index => own_parent = own_parent.max(Some(index)),
            Some(parent) if below(&mount.mountpoint, &mounts[parent].mountpoint).is_none() => {
                let reason = format_args!(
                    "mount point {} is not below {}, that of its parent {}",
                    mount.mountpoint.escape_ascii(),
                    mounts[parent].mountpoint.escape_ascii(),
                    mount.parent,
                );
                return Err(namespace.error(index, reason));
            }
            Some(_) => {}
            None => outside = outside.or(Some(index)),
        }
        // The namespace's own root is mounted on nothing, not even on itself.
        if parent != Some(index)
            && let Some(earlier) = places.insert((parent, &mount.mountpoint), index)
        {
            let line = namespace.first_line + earlier;
            let mountpoint = mount.mountpoint.escape_ascii();
            let reason = format_args!("line {line} has a mount at {mountpoint} on the same parent");
            return Err(namespace.error(index, reason));
        }
        if index + 1 + usize::from(outside.is_some()) > MOUNTS_MAX {
            return Err(namespace.error(index, format_args!("too many mounts: {MOUNTS_MAX} at most")));
        }
    }
    roots(namespace, own_parent, &by_id)
}

/// Rules 4 and 6: one root, and every mount hangs from it.
fn roots(
    namespace: &Namespace,
    own_parent: Option<usize>,
    by_id: &BTreeMap<u32, usize>,
) -> Result<(), LoadError> {
    let mounts = &namespace.mounts;
    if let Some(root) = own_parent {
        let other = (0..mounts.len()).find(|&index| {
            index != root && by_id.get(&mounts[index].parent).is_none_or(|&parent| parent == index)
        });
        if let Some(other) = other {
            let line = namespace.first_line + root.min(other);
            let reason =
                format_args!("a second root: the mount on line {line} is its own parent or has none");
            return Err(namespace.error(root.max(other), reason));
        }
    }
    // Each climb marks its mounts with its own number. It ends at a root, in an earlier climb, or in its own marks.
    let mut climbs = vec![0; mounts.len()];
    for start in 0..mounts.len() {
        let climb = start + 1;
        let mut at = start;
        while climbs[at] == 0 {
            climbs[at] = climb;
            match by_id.get(&mounts[at].parent) {
                Some(&parent) if parent != at && climbs[parent] == climb => {
                    return Err(namespace
                        .error(parent, format_args!("mount {} is its own ancestor", mounts[parent].id)));
                }
                Some(&parent) => at = parent,
                None => break,
            }
        }
    }
    Ok(())
}

/// Rules 2 and 3.
fn record(mount: &MountInfo) -> Result<(), &'static str> {
    if !is_plain_path(&mount.mountpoint) {
        return Err("mount point: not an absolute path in plain form");
    }
    let tags = &mount.tags;
    if tags.unbindable && tags.shared.is_some() {
        return Err("optional fields: unbindable and shared");
    }
    match (tags.master, tags.propagate_from) {
        (None, Some(_)) => Err("optional fields: propagate_from without master"),
        (Some(master), Some(from)) if master == from => {
            Err("optional fields: propagate_from is the master itself")
        }
        (Some(master), _) if tags.shared == Some(master) => Err("optional fields: a group is its own master"),
        _ => Ok(()),
    }
}

/// `/`, or names with one slash before each; no `.`, no `..`.
pub(super) fn is_plain_path(path: &[u8]) -> bool {
    match path {
        b"/" => true,
        [b'/', names @ ..] => {
            names.split(|&byte| byte == b'/').all(|name| !matches!(name, b"" | b"." | b".."))
        }
        _ => false,
    }
}

/// Rules 9 to 11.
fn groups(namespaces: &[Namespace]) -> Result<(), LoadError> {
    let mut superblocks = BTreeMap::new();
    let each = || {
        namespaces.iter().flat_map(|namespace| {
            namespace.mounts.iter().enumerate().map(move |(index, mount)| (namespace, index, mount))
        })
    };
    for (namespace, index, mount) in each() {
        let key = SuperblockKey::of(mount);
        for group in [mount.tags.shared, mount.tags.master].into_iter().flatten() {
            let first = superblocks.entry(group).or_insert((key, namespace, index));
            if first.0 != key {
                let (_, other, line) = *first;
                let reason = format_args!(
                    "peer group {group} is of another superblock on {}:{}",
                    other.file,
                    other.first_line + line,
                );
                return Err(namespace.error(index, reason));
            }
        }
    }
    let chains = Chains::new(namespaces);
    for (namespace, index, mount) in each() {
        if let Some(shared) = mount.tags.shared
            && chains.up(shared).is_none()
        {
            let reason = format_args!("peer group {shared} is a master of itself");
            return Err(namespace.error(index, reason));
        }
        if let (Some(master), Some(from)) = (mount.tags.master, mount.tags.propagate_from)
            && !chains.up(master).is_some_and(|groups| groups.contains(&from))
        {
            let reason = format_args!("propagate_from:{from} is no master of group {master}");
            return Err(namespace.error(index, reason));
        }
    }
    Ok(())
}
