//! Attaching a tree, with its propagated copies: mount, bind and move.
//!
//! 1. If the place is shared, every mount of the tree that has no group gets one (in the tree's order, before any copy
//!    is made), and each receiver that shows the place gets a copy of the whole tree.
//! 2. In the sender's own group each copy is a sibling of the copy before it. The first copy in a slave group is a slave
//!    of the latest copy in the nearest group upstream that got one, and shared if its receiver is; the others there are
//!    its siblings.
//! 3. Where a receiver already has something on the place, the copy goes beneath it: what was there is hung on the
//!    topmost mount of the copy (*tucked*), so that an earlier local mount stays on top.
//! 4. Then the commit: the graph first, then the tree itself, then the copies in reverse order. A namespace in which
//!    more than one edge changes that a walk can meet is in its window meanwhile.
//!
//! Receivers in anonymous namespaces are skipped, but their peers and slaves are not.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use mnt_table::tree::Joint;
use mnt_table::{Dentry, Kind, MntNamespace, Mount, WriteSet, pin};
use smallvec::SmallVec;

use crate::copy_tree::{Inside, NewTree, Standing, Step, copy_tree, places};
use crate::graph::{is_shared, missing_groups};
use crate::receivers::{Receiver, receivers};
use crate::{Error, Retry};

/// What is attached.
pub enum What<D: Dentry> {
    /// A tree that nobody has seen, and the steps by which its mounts get their places in the graph.
    New(NewTree<D>, Vec<Step<D>>),
    /// A mount, with all that is on it, that leaves its place in the same namespace.
    Move(Arc<Mount<D>>),
}

/// A copy for a receiver.
struct Copy<D: Dentry> {
    tree: NewTree<D>,
    root: Joint<D>,
    /// What it goes beneath, and the edge by which that will hang on it.
    beneath: Option<(Arc<Mount<D>>, Joint<D>)>,
}

/// Attaches `what` on `dentry` in `parent`, which is the top of its stack, with all copies. Returns the number of
/// copies.
///
/// # Errors
/// `EINVAL`: an unbindable mount would be moved to a shared place. `ENOSPC`: a namespace would have more than
/// `mounts_max` mounts. `ENOENT`: the place is being removed. `ENOMEM`. Also: locks that are missing.
pub fn attach<D: Dentry>(
    locks: &mut WriteSet<D>,
    what: What<D>,
    parent: &Arc<Mount<D>>,
    dentry: &Arc<D>,
    mounts_max: usize,
) -> Result<usize, Retry<D>> {
    let ns = Arc::clone(locks.namespace_of(parent).ok_or(Error::Invalid)?);
    let shared = is_shared(parent);
    let (moved, mut tree, mut steps) = match what {
        What::New(tree, steps) => (None, tree, steps),
        What::Move(mount) => {
            let mounts = locks.subtree(&mount);
            if shared && mounts.iter().any(|mount| locks.is_unbindable(mount)) {
                return Err(Error::Invalid.into());
            }
            let places = places(locks, &mounts);
            let standing = mounts.iter().map(|mount| Standing::of(mount)).collect();
            (
                Some(mount),
                NewTree { mounts: mounts.into(), places: places.into(), standing, inner: Vec::new() },
                Vec::new(),
            )
        }
    };
    let fresh = if moved.is_some() { 0 } else { tree.mounts.len() };
    if locks.mounts_len(&ns) + fresh > mounts_max {
        return Err(Error::Limit.into());
    }
    let mut copies = Vec::new();
    if shared {
        if moved.is_some() {
            // They get groups, and slaves of theirs get copies as peers.
            let missing = missing_groups(locks, &tree.mounts);
            if !missing.is_empty() {
                return Err(Retry::With(missing));
            }
        }
        let receivers = receivers(locks, parent).map_err(|missing| Retry::With(alloc::vec![missing]))?;
        make_shared(locks, &ns, &mut tree, &mut steps)?;
        let (moved, limit) = (moved.as_ref(), (&ns, fresh, mounts_max));
        copies = plan_copies(locks, &receivers, &tree, moved, dentry, limit, &mut steps)?;
    }
    let root = locks.prepare(tree.root(), parent, dentry)?;

    // Nothing fails from here on.
    let delivered = copies.len();
    let arriving = arriving(locks, &ns, (tree.mounts.len(), if moved.is_some() { 2 } else { 1 }), &copies);
    for (ns, edges, _) in &arriving {
        locks.expect_edges(ns, *edges);
    }
    let guard = pin();
    for (ns, ..) in arriving.iter().filter(|(_, _, visible)| *visible > 1) {
        locks.begin(ns, &guard);
    }
    steps.into_iter().for_each(|step| step.commit(locks));
    match moved {
        Some(mount) => locks.rehang(&mount, root, &guard),
        None => {
            let top = tree.mounts.remove(0);
            for (mount, joint) in tree.mounts.iter().zip(tree.inner) {
                locks.attach(mount, joint, &guard);
            }
            locks.attach(&top, root, &guard);
        }
    }
    for copy in copies.into_iter().rev() {
        let Copy { tree, root, beneath } = copy;
        for (mount, joint) in tree.mounts[1..].iter().zip(tree.inner) {
            locks.attach(mount, joint, &guard);
        }
        match beneath {
            Some((upper, joint)) => locks.tuck(&tree.mounts[0], root, &upper, joint, &guard),
            None => locks.attach(&tree.mounts[0], root, &guard),
        }
    }
    locks.end();
    Ok(delivered)
}

/// Every mount of `tree` without a group will found one.
fn make_shared<D: Dentry>(
    locks: &mut WriteSet<D>,
    ns: &Arc<MntNamespace<D>>,
    tree: &mut NewTree<D>,
    steps: &mut Vec<Step<D>>,
) -> Result<(), Error> {
    for (mount, standing) in tree.mounts.iter().zip(&mut tree.standing) {
        if standing.group.is_none() {
            let master = mount.propagation().master.map(|link| link.group);
            let group = locks.new_group(ns, master.as_deref())?;
            steps.push(Step::Found(Arc::clone(&group), Arc::clone(mount)));
            standing.group = Some(group);
        }
    }
    Ok(())
}

fn plan_copies<D: Dentry>(
    locks: &mut WriteSet<D>,
    receivers: &[Receiver<D>],
    tree: &NewTree<D>,
    moved: Option<&Arc<Mount<D>>>,
    dentry: &Arc<D>,
    (ns, fresh, mounts_max): (&Arc<MntNamespace<D>>, usize, usize),
    steps: &mut Vec<Step<D>>,
) -> Result<Vec<Copy<D>>, Error> {
    let mut copies: Vec<Copy<D>> = Vec::new();
    // By set: its upstream set, and its latest copy.
    let mut sets: BTreeMap<usize, (usize, Option<usize>)> = BTreeMap::new();
    let mut pending = BTreeMap::from([(ns.id(), fresh)]);
    let top = topmost(tree);
    for receiver in receivers {
        sets.entry(receiver.set).or_insert((receiver.upstream, None));
        let home = Arc::clone(locks.namespace_of(&receiver.mount).expect("receivers are locked"));
        let shows = receiver.mount.root().is_ancestor_of(dentry, &pin());
        if home.kind() == Kind::Anonymous || !shows {
            continue;
        }
        let more = pending.entry(home.id()).or_insert(0);
        *more += tree.mounts.len();
        if locks.mounts_len(&home) + *more > mounts_max {
            return Err(Error::Limit);
        }
        // The latest copy in its own set, else in the nearest set upstream that has one, else the tree itself.
        let mut set = receiver.set;
        let source = loop {
            match sets.get(&set) {
                Some((_, Some(copy))) => break Some(*copy),
                Some((upstream, None)) if set != 0 => set = *upstream,
                _ => break None,
            }
        };
        let sibling = set == receiver.set;
        let original = source.map_or(tree, |copy| &copies[copy].tree);
        let mut copy = copy_tree(locks, &original.mounts, &tree.places, tree.root().root(), &home)?;
        relate(locks, original, &mut copy, sibling, receiver.shared, &home, steps)?;
        let root = locks.prepare(copy.root(), &receiver.mount, dentry)?;
        // What moves has left its old place when the copies come, and the copy for that place finds it free.
        let there = locks.child_at(&receiver.mount, dentry);
        let stays = |there: &Arc<Mount<D>>| moved.is_none_or(|moved| !Arc::ptr_eq(there, moved));
        let beneath = match there.filter(stays) {
            Some(upper) => {
                let on = &copy.mounts[top];
                let joint = locks.prepare(&upper, on, on.root())?;
                Some((upper, joint))
            }
            None => None,
        };
        sets.insert(receiver.set, (receiver.upstream, Some(copies.len())));
        copies.push(Copy { tree: copy, root, beneath });
    }
    Ok(copies)
}

/// What the mounts of `copy` will be beside those of `original`, which all are shared by then, or are slaves that nobody
/// copies.
fn relate<D: Dentry>(
    locks: &mut WriteSet<D>,
    original: &NewTree<D>,
    copy: &mut NewTree<D>,
    sibling: bool,
    shared: bool,
    ns: &Arc<MntNamespace<D>>,
    steps: &mut Vec<Step<D>>,
) -> Result<(), Error> {
    for ((from, standing), to) in original.mounts.iter().zip(&original.standing).zip(&copy.mounts) {
        let (from, to) = (|| Arc::clone(from), || Arc::clone(to));
        let mut group = None;
        if sibling {
            group = standing.group.clone();
            steps.push(Step::Join(from(), to()));
            if standing.has_master {
                steps.push(Step::EnslaveBehind(from(), to()));
            }
        } else {
            steps.push(Step::Enslave(from(), to()));
            if shared {
                let new = locks.new_group(ns, standing.group.as_deref())?;
                steps.push(Step::Found(Arc::clone(&new), to()));
                group = Some(new);
            }
        }
        let has_master = !sibling || standing.has_master;
        copy.standing.push(Standing { group, has_master });
    }
    Ok(())
}

/// The index of the end of the stack that begins with the tree's root.
fn topmost<D: Dentry>(tree: &NewTree<D>) -> usize {
    let on_root_of = |at: usize, place: &Inside<D>| {
        place
            .as_ref()
            .is_some_and(|(parent, dentry)| *parent == at && Arc::ptr_eq(dentry, tree.mounts[at].root()))
    };
    let mut top = 0;
    while let Some(next) = tree.places.iter().position(|place| on_root_of(top, place)) {
        top = next;
    }
    top
}

/// How many edges each namespace gets, and how many changes a walk there can meet: above one they need a window.
///
/// `own` is what the namespace `ns` gets of what is attached itself.
#[expect(clippy::type_complexity, reason = "a list of triples")]
fn arriving<D: Dentry>(
    locks: &WriteSet<D>,
    ns: &Arc<MntNamespace<D>>,
    own: (usize, usize),
    copies: &[Copy<D>],
) -> SmallVec<[(Arc<MntNamespace<D>>, usize, usize); 1]> {
    let mut arriving: SmallVec<[(Arc<MntNamespace<D>>, usize, usize); 1]> = SmallVec::new();
    arriving.push((Arc::clone(ns), own.0, own.1));
    for copy in copies {
        let home = locks.namespace_of(copy.root.parent()).expect("receivers are locked");
        arriving.push((Arc::clone(home), copy.tree.mounts.len(), 1));
    }
    arriving.sort_unstable_by_key(|(ns, ..)| ns.id());
    arriving.dedup_by(|next, kept| {
        let same = Arc::ptr_eq(&next.0, &kept.0);
        if same {
            (kept.1, kept.2) = (kept.1 + next.1, kept.2 + next.2);
        }
        same
    });
    arriving
}
