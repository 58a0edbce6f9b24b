//! How to build a forest: superblocks, peer groups, and per namespace the mounts, parents first.
//!
//! 1. Make every [`Superblock`] with the directories that [`MountPlan::root`] and [`MountPlan::at`] name in it.
//! 2. For each [`Group`] without members, make its stand-in: a shared mount of the group's superblock in no listed
//!    namespace, slave of `stand_in_master` if there is one. The forest's mounts only receive from it.
//! 3. For each namespace make its root: the mount whose parent is [`Parent::Own`], or a hidden mount that the
//!    [`Parent::Outside`] mounts sit on, where the reader's root directory is.
//! 4. Attach the mounts in [`NamespacePlan::order`], with their groups and masters.
//!
//! Mounts are *created* in the order of the lines, which is what mountinfo prints by; a parent can be younger than
//! its child (it was tucked under it, or the child was moved), so they are *attached* in another order.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec;
use alloc::vec::Vec;

use syscalls::mountinfo::MountInfo;

use super::check::is_plain_path;
use super::{Namespace, below};

/// What tells superblocks apart: the device number and the type. (The source is each mount's own, as in Linux; the
/// type guards against a device number that was reused while the machine was read.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SuperblockKey<'a> {
    major: u32,
    minor: u32,
    fs_type: &'a [u8],
}

impl<'a> SuperblockKey<'a> {
    pub(super) fn of(mount: &'a MountInfo) -> Self {
        Self { major: mount.major, minor: mount.minor, fs_type: &mount.fs_type }
    }
}

/// A mount of the forest, by position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Index of the namespace.
    pub namespace: usize,
    /// Index of the record in it.
    pub mount: usize,
}

/// A file system instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// Device number, major part.
    pub major: u32,
    /// Device number, minor part.
    pub minor: u32,
    /// File system type.
    pub fs_type: Vec<u8>,
}

/// A peer group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its number in the input.
    pub id: u32,
    /// Index of the superblock that all its mounts show.
    pub superblock: usize,
    /// The peers. Without any, the group lives outside the forest and needs a stand-in.
    pub members: Vec<Place>,
    /// The mounts that receive from it.
    pub slaves: Vec<Place>,
    /// For a stand-in: index of the group that it must be a slave of, so that `propagate_from` comes out right.
    pub stand_in_master: Option<usize>,
}

/// What a mount hangs from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parent {
    /// Itself: it is the root of its namespace.
    Own,
    /// The hidden root mount of the namespace, at the directory that the reader has as root.
    Outside,
    /// The mount at this index.
    Listed(usize),
}

/// The root of a mount inside its superblock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Root {
    /// A path.
    Path(Vec<u8>),
    /// A path whose file was removed after it was mounted: it prints with `//deleted`.
    Deleted(Vec<u8>),
    /// What the file system prints for it: `mnt:[4026531840]`, or `/../..` of a control group above the reader's.
    Named(Vec<u8>),
}

impl Root {
    fn of(root: &[u8]) -> Self {
        let (path, is_deleted) = match root.strip_suffix(b"//deleted") {
            Some(path) => (path, true),
            None => (root, false),
        };
        match (is_plain_path(path), is_deleted) {
            (true, false) => Self::Path(path.to_vec()),
            (true, true) => Self::Deleted(path.to_vec()),
            (false, _) => Self::Named(root.to_vec()),
        }
    }
}

/// How to build one mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountPlan {
    /// Index of its superblock.
    pub superblock: usize,
    /// Its root there.
    pub root: Root,
    /// What it hangs from.
    pub parent: Parent,
    /// Where: a path from the parent's root, crossing no mount; `/` is that root itself (a stack).
    pub at: Vec<u8>,
    /// Index of its peer group.
    pub group: Option<usize>,
    /// Index of the group it is a slave of.
    pub master: Option<usize>,
}

/// How to build one namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespacePlan {
    /// One plan per record, in the order of the lines.
    pub mounts: Vec<MountPlan>,
    /// Indices of all records, parents before children, otherwise in the order of the lines.
    pub order: Vec<usize>,
    /// Whether there are [`Parent::Outside`] mounts, and so a hidden root to make.
    pub hidden_root: bool,
}

/// How to build a forest. Indices are positions in these lists and in [`super::Forest::namespaces`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// All superblocks, by first appearance.
    pub superblocks: Vec<Superblock>,
    /// All peer groups, by first appearance.
    pub groups: Vec<Group>,
    /// All namespaces.
    pub namespaces: Vec<NamespacePlan>,
}

/// Plans checked namespaces.
pub(super) fn plan(namespaces: &[Namespace]) -> Plan {
    let mut plan = Plan { superblocks: Vec::new(), groups: Vec::new(), namespaces: Vec::new() };
    let mut superblocks = BTreeMap::new();
    let mut groups = BTreeMap::new();
    for (namespace_index, namespace) in namespaces.iter().enumerate() {
        let by_id: BTreeMap<_, _> =
            namespace.mounts.iter().zip(0..).map(|(mount, i)| (mount.id, i)).collect();
        let mut mounts = Vec::with_capacity(namespace.mounts.len());
        for (index, mount) in namespace.mounts.iter().enumerate() {
            let superblock = *superblocks.entry(SuperblockKey::of(mount)).or_insert_with(|| {
                let fs_type = mount.fs_type.clone();
                plan.superblocks.push(Superblock { major: mount.major, minor: mount.minor, fs_type });
                plan.superblocks.len() - 1
            });
            let mut group_of = |id: Option<u32>| {
                let id = id?;
                Some(*groups.entry(id).or_insert_with(|| {
                    let (members, slaves) = (Vec::new(), Vec::new());
                    plan.groups.push(Group { id, superblock, members, slaves, stand_in_master: None });
                    plan.groups.len() - 1
                }))
            };
            let (group, master) = (group_of(mount.tags.shared), group_of(mount.tags.master));
            let place = Place { namespace: namespace_index, mount: index };
            if let Some(group) = group {
                plan.groups[group].members.push(place);
            }
            if let Some(master) = master {
                plan.groups[master].slaves.push(place);
            }
            let (parent, at) = match by_id.get(&mount.parent) {
                Some(&parent) if parent == index => (Parent::Own, mount.mountpoint.clone()),
                Some(&parent) => {
                    let at = below(&mount.mountpoint, &namespace.mounts[parent].mountpoint);
                    (Parent::Listed(parent), at.unwrap_or(&mount.mountpoint).to_vec())
                }
                None => (Parent::Outside, mount.mountpoint.clone()),
            };
            mounts.push(MountPlan { superblock, root: Root::of(&mount.root), parent, at, group, master });
        }
        let hidden_root = mounts.iter().any(|mount| mount.parent == Parent::Outside);
        plan.namespaces.push(NamespacePlan { order: parents_first(&mounts), mounts, hidden_root });
    }
    let chains = Chains::new(namespaces);
    for group in &mut plan.groups {
        if group.members.is_empty() {
            group.stand_in_master = chains.master.get(&group.id).and_then(|id| groups.get(id)).copied();
        }
    }
    plan
}

/// All indices, each after its parent.
fn parents_first(mounts: &[MountPlan]) -> Vec<usize> {
    let mut order = Vec::with_capacity(mounts.len());
    let mut placed = vec![false; mounts.len()];
    let mut climb = Vec::new();
    for start in 0..mounts.len() {
        let mut at = Some(start);
        while let Some(index) = at.filter(|&index| !placed[index]) {
            placed[index] = true;
            climb.push(index);
            at = match mounts[index].parent {
                Parent::Listed(parent) => Some(parent),
                Parent::Own | Parent::Outside => None,
            };
        }
        order.extend(climb.drain(..).rev());
    }
    order
}

/// Which group receives from which, as far as the lines tell.
pub(super) struct Chains {
    master: BTreeMap<u32, u32>,
}

impl Chains {
    pub(super) fn new(namespaces: &[Namespace]) -> Self {
        let tags = || namespaces.iter().flat_map(|namespace| &namespace.mounts).map(|mount| &mount.tags);
        let mut chains = Self { master: BTreeMap::new() };
        let mut listed = BTreeSet::new();
        for tags in tags() {
            if let Some(shared) = tags.shared {
                listed.insert(shared);
                if let Some(master) = tags.master {
                    chains.master.entry(shared).or_insert(master);
                }
            }
        }
        // A group outside the forest shows its own master only through the `propagate_from` of those below it. Each
        // pass extends chains at their tops, so one that leads through several such groups takes several.
        loop {
            let mut hints: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
            for tags in tags() {
                if let (Some(master), Some(from)) = (tags.master, tags.propagate_from)
                    && let Some(above) = chains.up(master)
                    && !above.contains(&from)
                {
                    let top = above.last().copied().unwrap_or(master);
                    if !listed.contains(&top) {
                        hints.entry(top).or_default().insert(from);
                    }
                }
            }
            if hints.is_empty() {
                return chains;
            }
            for (group, above) in hints {
                let nearest = chains.nearest(&above);
                chains.master.extend(nearest.map(|from| (group, from)));
            }
        }
    }

    /// The one of `groups` that the others can be reached from, as far as is known.
    fn nearest(&self, groups: &BTreeSet<u32>) -> Option<u32> {
        let reaches_all = |&from: &u32| {
            let chain = self.up(from).unwrap_or_default();
            groups.iter().all(|other| *other == from || chain.contains(other))
        };
        groups.iter().copied().find(reaches_all).or_else(|| groups.first().copied())
    }

    /// The groups above `group`, nearest first; `None` if the chain comes back to where it was.
    pub(super) fn up(&self, group: u32) -> Option<Vec<u32>> {
        let mut above = Vec::new();
        let mut at = group;
        while let Some(&master) = self.master.get(&at) {
            if master == group || above.contains(&master) {
                return None;
            }
            above.push(master);
            at = master;
        }
        Some(above)
    }
}
