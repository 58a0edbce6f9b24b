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
//! Receivers in anonymous namespaces are skipped, but their peers and slaves are not. Trees that come to a namespace with
//! another owner are locked there.

use alloc::sync::Arc;
use alloc::vec::Vec;

use mnt_table::memory::Grow;
use mnt_table::tree::{Adoption, Joint};
use mnt_table::{Dentry, Guard, MntNamespace, Mount, UserNs, WriteSet, memory, pin};
use smallvec::SmallVec;

use crate::copy_tree::{Inside, NewTree, Standing, Step, commit_steps, lock_tree, places};
use crate::delivery::{Arrival, Arrivals, Copies, Delivery};
use crate::graph::{is_shared, need_groups};
use crate::receivers::receivers;
use crate::{Error, Retry};

/// What is attached.
pub enum What<D: Dentry> {
    /// A tree that nobody has seen, and the steps by which its mounts get their places in the graph.
    New(NewTree<D>, Vec<Step<D>>),
    /// A mount, with all that is on it, that leaves its place in the same namespace; or the root of an anonymous
    /// namespace, which ends.
    Move(Arc<Mount<D>>),
}

/// Where something is attached.
pub struct Place<'a, D: Dentry> {
    /// The mount that is going to be the parent.
    pub parent: &'a Arc<Mount<D>>,
    /// The dentry in it.
    pub dentry: &'a Arc<D>,
    /// What is attached there now and gets hung on top of what comes (*beneath*). Only for [`What::Move`].
    pub beneath: Option<Arc<Mount<D>>>,
}

impl<'a, D: Dentry> Place<'a, D> {
    /// The top of a stack.
    pub fn top(parent: &'a Arc<Mount<D>>, dentry: &'a Arc<D>) -> Self {
        Place { parent, dentry, beneath: None }
    }
}

/// What the caller's circumstances are to an attach.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Mounts that a namespace may have (`fs.mount-max`).
    pub mounts_max: usize,
    /// The owner of the caller's namespace: trees that come to namespaces with another owner are locked.
    pub owner: UserNs,
}

/// How a tree that is there already gets to its new place.
struct Transfer<D: Dentry> {
    /// The edges inside it, if it comes from another namespace.
    inner: Option<Adoption<D>>,
    /// What it goes beneath.
    beneath: Option<(Arc<Mount<D>>, Joint<D>)>,
}

/// Attaches `what` at `place` with all copies. Returns the number of copies.
///
/// Context: holds the namespace of the place and that of a mount that moves.
///
/// # Errors
/// `EINVAL`: an unbindable mount would be moved to a shared place. `ENOSPC`: a namespace would have more mounts than
/// it may. `ENOENT`: the place is being removed. `ENOMEM`. Also: locks that are missing.
pub fn attach<D: Dentry>(
    locks: &mut WriteSet<D>,
    what: What<D>,
    place: Place<'_, D>,
    rules: &Rules,
) -> Result<usize, Retry<D>> {
    let Place { parent, dentry, beneath } = place;
    let ns = Arc::clone(locks.namespace_of(parent).ok_or(Error::Invalid)?);
    let shared = is_shared(parent);
    let (moved, mut tree, mut steps) = match what {
        What::New(tree, steps) => (None, tree, steps),
        What::Move(mount) => {
            let mounts = locks.subtree(&mount)?;
            if shared && mounts.iter().any(|mount| locks.is_unbindable(mount)) {
                return Err(Error::Invalid.into());
            }
            let places = places(locks, &mounts)?;
            let standing = SmallVec::new();
            (
                Some(mount),
                NewTree { mounts: mounts.into(), places: places.into(), standing, inner: Vec::new() },
                Vec::new(),
            )
        }
    };
    let adopted = moved.as_ref().is_some_and(|mount| !locks.is_in(mount, &ns));
    let fresh = if moved.is_some() && !adopted { 0 } else { tree.mounts.len() };
    if locks.mounts_len(&ns) + fresh > rules.mounts_max {
        return Err(Error::Limit.into());
    }
    // A walk can meet the root's old edge and its new one, and what moves aside for it.
    let visible = match &moved {
        None => 1,
        Some(_) => usize::from(!adopted) + 1 + if beneath.is_some() { 2 } else { 0 },
    };
    let own = Arrival { ns: Arc::clone(&ns), edges: tree.mounts.len(), visible, mounts: fresh };
    let mut arrivals = Arrivals::new(own);
    let mut copies = Copies::none();
    if shared {
        if moved.is_some() {
            // They get groups, and slaves of theirs get copies as peers.
            need_groups(locks, &tree.mounts)?;
            tree.standing = memory::collect(tree.mounts.iter().map(|mount| Standing::of(locks, mount)))?;
        }
        let receivers = receivers(locks, parent)?;
        make_shared(locks, &ns, &mut tree, &mut steps)?;
        if !receivers.is_empty() {
            let delivery = Delivery { moved: moved.as_ref(), dentry, rules };
            copies = Copies::plan(locks, &receivers, &tree, &delivery, &mut arrivals, &mut steps)?;
        }
    }
    let root = locks.prepare(tree.root(), parent, dentry)?;
    let transfer = match &moved {
        None => None,
        Some(_) => {
            let inner = adopted.then(|| locks.prepare_adoption(&ns, &tree.mounts[1..])).transpose()?;
            let beneath = beneath.map(|upper| {
                let top = &tree.mounts[topmost(&tree)];
                let joint = locks.prepare_in(&ns, &upper, top, top.root())?;
                Ok::<_, Error>((upper, joint))
            });
            Some(Transfer { inner, beneath: beneath.transpose()? })
        }
    };

    let delivered = copies.len();

    // Nothing fails from here on.
    for arrival in &arrivals.list {
        locks.expect_edges(&arrival.ns, arrival.edges);
    }
    let guard = pin();
    for arrival in arrivals.list.iter().filter(|arrival| arrival.visible > 1) {
        locks.begin(&arrival.ns, &guard);
    }
    commit_steps(locks, steps);
    if *ns.owner() != rules.owner {
        lock_tree(locks, &tree.mounts);
    }
    match transfer {
        Some(transfer) => commit_transfer(locks, &tree, root, transfer, &guard),
        None => {
            let top = tree.mounts.remove(0);
            for (mount, joint) in tree.mounts.iter().zip(tree.inner) {
                locks.attach(mount, joint, &guard);
            }
            locks.attach(&top, root, &guard);
        }
    }
    copies.commit(locks, rules, &guard);
    locks.end();
    Ok(delivered)
}

/// Moves `tree`. Where it goes beneath something, that leaves the place first, in the window.
fn commit_transfer<D: Dentry>(
    locks: &mut WriteSet<D>,
    tree: &NewTree<D>,
    root: Joint<D>,
    transfer: Transfer<D>,
    guard: &Guard,
) {
    if let Some(inner) = transfer.inner {
        locks.adopt(tree.root(), root, &tree.mounts[1..], inner, guard);
    } else {
        locks.rehang(tree.root(), root, guard);
    }
    if let Some((upper, joint)) = transfer.beneath {
        transfer_lock(locks, &upper, tree.root());
        locks.rehang(&upper, joint, guard);
    }
}

/// What hides a place for good hides it no more when something comes beneath it: that takes over (from Linux 7.0 on).
pub(crate) fn transfer_lock<D: Dentry>(
    locks: &mut WriteSet<D>,
    upper: &Arc<Mount<D>>,
    lower: &Arc<Mount<D>>,
) {
    if locks.is_locked(upper) {
        locks.set_locked(lower, true);
        locks.set_locked(upper, false);
    }
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
            let group = locks.new_group(ns, standing.master.as_deref())?;
            steps.try_push(Step::Found(Arc::clone(&group), Arc::clone(mount)))?;
            standing.group = Some(group);
        }
    }
    Ok(())
}

/// The index of the end of the stack that begins with the tree's root.
pub fn topmost<D: Dentry>(tree: &NewTree<D>) -> usize {
    let on_root_of = |at: usize, place: &Inside<D>| {
        place
            .as_ref()
            .is_some_and(|(parent, dentry)| *parent == at && Arc::ptr_eq(dentry, tree.mounts[at].root()))
    };
    let mut top = 0;
    // What is on a mount comes behind it.
    for (at, place) in tree.places.iter().enumerate().skip(1) {
        if on_root_of(top, place) {
            top = at;
        }
    }
    top
}
