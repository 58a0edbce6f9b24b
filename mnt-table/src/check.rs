//! The checker: every invariant of a set of namespaces, looked at under all their locks.
//!
//! [`check`] takes the locks of the namespaces and of every peer group that their mounts name, so it sees one moment. It
//! reports what is wrong as readable lines and changes nothing. Tests and the stress job call it at rest points.
//!
//! The names in the reports are those of the invariants: `I1` to `I11` of the propagation rules (at most one mount per
//! place; mountpoints below roots; children at home; rings; slave lists; nothing on the unshared; runs of peers;
//! masters older; unbindable alone; locked below something; counts), and `[Pair]`, `[Home]`, `[Flag]` of this crate.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::dentry::Dentry;
use crate::group::Group;
use crate::mount::{Mount, state};
use crate::namespace::MntNamespace;
use crate::platform;
use crate::reclaim::{Guard, pin};
use crate::sync::Ordering;
use crate::table::LOAD_MAX;
use crate::write_set::{LockPlan, WriteSet};

/// How often a namespace gets a chance to let its hash grow before a long chain is a violation.
const CATCH_UP_TRIES: u32 = 10_000;

/// Why the checker does not say that it ran out of memory.
const MEMORY: &str = "the checker runs where there is memory";

/// What was looked at, and what is wrong with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Mounts in all the namespaces.
    pub mounts: usize,
    /// Peer groups that they name.
    pub groups: usize,
    /// Mounts on a directory that is not below their parent's root (I2): only a rename by another namespace, whom mounts of this
    /// one do not hinder, brings that about.
    pub strayed: usize,
    /// One line for each broken invariant; empty is good.
    pub violations: Vec<String>,
}

/// Looks at `namespaces`. Groups may have members elsewhere; those are looked at from here only.
///
/// Context: not pinned; no lock held; blocks every change of these namespaces meanwhile.
pub fn check<D: Dentry>(namespaces: &[Arc<MntNamespace<D>>]) -> Report {
    let Some((first, others)) = namespaces.split_first() else { return Report::default() };
    let mut plan = LockPlan::new(first);
    others.iter().for_each(|ns| plan.namespace(ns));
    let mut spins = 0;
    loop {
        let locks = plan.lock().expect(MEMORY);
        // A reader that lost its CPU while it was pinned may have kept a hash from growing. It catches up when the set
        // is dropped.
        if spins < CATCH_UP_TRIES && namespaces.iter().any(|ns| locks.namespace(ns).edges.starved()) {
            drop(locks);
            platform::relax(spins);
            spins += 1;
            continue;
        }
        let groups = groups_of(&locks, namespaces);
        let missing: Vec<_> = groups.values().filter(|group| !locks.holds_group(group)).cloned().collect();
        if missing.is_empty() {
            return Checker { locks: &locks, guard: &pin(), report: Report::default() }
                .run(namespaces, &groups);
        }
        drop(locks);
        missing.iter().for_each(|group| plan.group(group));
    }
}

/// The groups and master groups of all mounts, by stamp.
fn groups_of<D: Dentry>(
    locks: &WriteSet<D>,
    namespaces: &[Arc<MntNamespace<D>>],
) -> BTreeMap<u64, Arc<Group<D>>> {
    let mut groups = BTreeMap::new();
    for mount in namespaces.iter().flat_map(|ns| locks.mounts(ns)) {
        let here = mount.propagation();
        let named = here.peers.map(|(group, _)| group).into_iter().chain(here.master.map(|link| link.group));
        groups.extend(named.map(|group| (group.stamp(), group)));
    }
    groups
}

struct Checker<'w, D: Dentry> {
    locks: &'w WriteSet<D>,
    guard: &'w Guard,
    report: Report,
}

impl<D: Dentry> Checker<'_, D> {
    fn run(mut self, namespaces: &[Arc<MntNamespace<D>>], groups: &BTreeMap<u64, Arc<Group<D>>>) -> Report {
        for ns in namespaces {
            self.namespace(ns);
        }
        for group in groups.values() {
            self.group(group);
        }
        self.report.groups = groups.len();
        self.report
    }

    fn claim(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.report.violations.push(what());
        }
    }

    fn namespace(&mut self, ns: &Arc<MntNamespace<D>>) {
        let id = ns.id().0;
        let mounts: Vec<Arc<Mount<D>>> = self.locks.mounts(ns).cloned().collect();
        self.report.mounts += mounts.len();
        let ascending = mounts.windows(2).all(|pair| pair[0].unique_id() < pair[1].unique_id());
        self.claim(ascending, || format!("namespace {id}: its order is not that of the unique ids"));
        for mount in &mounts {
            self.mount(ns, mount);
        }
        let root = self.locks.root(ns).cloned();
        let tree = root.as_ref().map_or(Ok(Vec::new()), |root| self.locks.subtree(root));
        let reachable = tree.expect(MEMORY).len();
        self.claim(reachable == mounts.len(), || {
            format!("I3: namespace {id} has {} mounts, {reachable} in its tree", mounts.len())
        });
        if let Some(root) = root {
            let top = self.locks.parent(&root).is_none();
            self.claim(top, || format!("namespace {id}: its root {} has a parent", root.id()));
        }
        let state = self.locks.namespace(ns);
        let (counted, linked, buckets) =
            (state.edges.len(), ns.table.iter(self.guard).count(), state.edges.buckets());
        let mountpoints: Vec<_> = state.mountpoints.values().cloned().collect();
        let edges = mounts.len().saturating_sub(1);
        self.claim(counted < LOAD_MAX * buckets + LOAD_MAX, || {
            format!("namespace {id}: {counted} edges in {buckets} buckets")
        });
        let children: usize = mounts
            .iter()
            .filter(|mount| self.locks.is_in(mount, ns))
            .map(|mount| self.locks.tree(mount).children.len())
            .sum();
        self.claim(children == edges, || format!("I3: namespace {id}: {edges} edges, {children} children"));
        let mut attached = 0;
        // Of detached mounts that stay connected.
        let mut connected = 0;
        for mountpoint in mountpoints {
            let here: Vec<_> = self.locks.mounts_on(ns, mountpoint.dentry()).collect();
            let in_tree = here.iter().filter(|mount| self.locks.is_attached(mount)).count();
            attached += in_tree;
            connected += here.len() - in_tree;
            let flagged = mountpoint.dentry().mounted_here().is_mountpoint();
            self.claim(!here.is_empty() && flagged, || {
                format!(
                    "[Flag]: namespace {id} keeps a mountpoint with {} mounts, flag {flagged}",
                    here.len()
                )
            });
        }
        self.claim(attached == edges, || {
            format!("namespace {id}: {edges} edges, {attached} mounts on mountpoints")
        });
        self.claim(counted == edges + connected && linked == counted, || {
            format!(
                "namespace {id}: {edges} edges in the tree and {connected} in fragments, {linked} in the hash, \
                 {counted} counted"
            )
        });
    }

    fn mount(&mut self, ns: &Arc<MntNamespace<D>>, mount: &Arc<Mount<D>>) {
        let id = mount.id();
        // Relaxed: written under this lock.
        let state = mount.state.load(Ordering::Relaxed);
        self.claim(state == state::LIVE, || format!("mount {id}: in a tree with state {state}"));
        let home = self.locks.is_in(mount, ns);
        self.claim(home, || format!("[Home]: mount {id} does not name its namespace"));
        if !home {
            return;
        }
        match (self.locks.parent(mount), self.locks.mountpoint(mount)) {
            (Some(parent), Some(on)) => {
                let found = self.locks.child_at(parent, on);
                let hit = found.as_ref().is_some_and(|found| Arc::ptr_eq(found, mount));
                self.claim(hit, || format!("I1: mount {id} is not what the hash has at its place"));
                let up = mount.up(self.guard);
                let pair = up.is_some_and(|(up, at)| core::ptr::eq(up, &**parent) && Arc::ptr_eq(at, on));
                self.claim(pair, || format!("[Pair]: mount {id}'s edge is not its place in the tree"));
                self.report.strayed += usize::from(!parent.root().is_ancestor_of(on, self.guard));
                // With as many children as edges in all, each is one once.
                let place = self.locks.tree(mount).in_parent;
                let child = place.map(|place| self.locks.tree(parent).children.get(place));
                let its = child.is_some_and(|child| Arc::ptr_eq(child, mount));
                self.claim(its, || format!("I3: mount {id} is not at its place among its parent's children"));
                let same = self.locks.is_in(parent, ns);
                self.claim(same, || format!("I3: mount {id}'s parent is in another namespace"));
            }
            (None, None) => {
                let root = self.locks.root(ns).is_some_and(|root| Arc::ptr_eq(root, mount));
                self.claim(root, || format!("I3: mount {id} has no parent and is not the root"));
                let locked = self.locks.is_locked(mount);
                self.claim(!locked, || format!("I10: mount {id} is locked to nothing"));
            }
            _ => self.claim(false, || format!("mount {id} has half a place")),
        }
        self.standing(mount);
    }

    /// The mount's own view of the graph.
    fn standing(&mut self, mount: &Arc<Mount<D>>) {
        let id = mount.id();
        let here = mount.propagation();
        if let Some((group, slot)) = &here.peers {
            let member = &self.locks.group(group).members.get(*slot).mount;
            let itself = Arc::ptr_eq(member, mount);
            self.claim(itself, || format!("I4: mount {id} is not at its slot of group {}", group.id()));
        }
        if let Some(link) = &here.master {
            let member = self.locks.group(&link.group).members.get(link.member);
            let (itself, same) = (
                Arc::ptr_eq(member.slaves.get(link.place), mount),
                Arc::ptr_eq(member.mount.super_block(), mount.super_block()),
            );
            self.claim(itself, || format!("I5: mount {id} is not at its place in a slave list"));
            self.claim(same, || format!("I5: mount {id}'s master is of another superblock"));
            if let Some((group, _)) = &here.peers {
                let older = link.group.stamp() < group.stamp();
                self.claim(older, || format!("[Older]: group {} is not younger than its master", group.id()));
            }
        }
        let alone = here.peers.is_none() && here.master.is_none();
        let unbindable = self.locks.is_unbindable(mount);
        self.claim(alone || !unbindable, || format!("I9: mount {id} is unbindable and takes part"));
    }

    /// A group's view of its members and their slaves.
    fn group(&mut self, group: &Arc<Group<D>>) {
        let id = group.id();
        let members = &self.locks.group(group).members;
        self.claim(!members.is_empty(), || format!("I4: group {id} has no members"));
        let Some(first) = members.first() else { return };
        let super_block = Arc::clone(members.get(first).mount.super_block());
        // I7: where the members are slaves, their places in the one list, one behind the other.
        let mut behind = None;
        for (slot, member) in members.iter() {
            let here = member.mount.propagation();
            let back =
                here.peers.as_ref().is_some_and(|(at, place)| Arc::ptr_eq(at, group) && *place == slot);
            self.claim(back, || format!("I4: group {id} has a member that does not name it"));
            let same = Arc::ptr_eq(member.mount.super_block(), &super_block);
            self.claim(same, || format!("I4: group {id} spans superblocks"));
            let master = here.master.as_ref().map(|link| link.group.stamp());
            let above = group.above().map(|above| above.stamp());
            self.claim(above == master, || format!("group {id} does not know the master of its members"));
            let before = behind.replace(master);
            self.claim(before.is_none_or(|before| before == master), || {
                format!("I7: members of group {id} have different masters")
            });
            for (place, slave) in member.slaves.iter() {
                let back = slave.propagation().master.is_some_and(|link| {
                    Arc::ptr_eq(&link.group, group) && link.member == slot && link.place == place
                });
                self.claim(back, || {
                    format!("I5: mount {} is in a list of group {id}, not its slave", slave.id())
                });
            }
        }
    }
}
