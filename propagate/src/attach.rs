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

use hashbrown::HashMap;
use mnt_table::list::NoMemory;
use mnt_table::memory::Grow;
use mnt_table::tree::{Adoption, Joint};
use mnt_table::{Dentry, Guard, Kind, MntNamespace, Mount, UserNs, WriteSet, memory, pin};
use smallvec::SmallVec;

use crate::copy_tree::{Inside, NewTree, Standing, Step, copy_tree, lock_tree, places};
use crate::graph::{is_shared, need_groups};
use crate::receivers::{Receiver, receivers};
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

/// A copy for a receiver.
struct Copy<D: Dentry> {
    tree: NewTree<D>,
    root: Joint<D>,
    /// What it goes beneath, and the edge by which that will hang on it.
    beneath: Option<(Arc<Mount<D>>, Joint<D>)>,
    /// Whether its namespace has another owner.
    locked: bool,
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
    let mut copies = Vec::new();
    if shared {
        if moved.is_some() {
            // They get groups, and slaves of theirs get copies as peers.
            need_groups(locks, &tree.mounts)?;
            tree.standing = memory::collect(tree.mounts.iter().map(|mount| Standing::of(locks, mount)))?;
        }
        let receivers = receivers(locks, parent)?;
        make_shared(locks, &ns, &mut tree, &mut steps)?;
        let delivery = Delivery { moved: moved.as_ref(), dentry, ns: &ns, fresh, rules };
        copies = plan_copies(locks, &receivers, &tree, &delivery, &mut steps)?;
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
    let visible = match &transfer {
        None => 1,
        Some(transfer) => usize::from(!adopted) + 1 + if transfer.beneath.is_some() { 2 } else { 0 },
    };
    let arriving = arriving(locks, &ns, (tree.mounts.len(), visible), &copies)?;

    // Nothing fails from here on.
    for (ns, edges, _) in &arriving {
        locks.expect_edges(ns, *edges);
    }
    let guard = pin();
    for (ns, ..) in arriving.iter().filter(|(_, _, visible)| *visible > 1) {
        locks.begin(ns, &guard);
    }
    steps.into_iter().for_each(|step| step.commit(locks));
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
    for copy in copies.into_iter().rev() {
        let Copy { tree, root, beneath, locked } = copy;
        if locked {
            lock_tree(locks, &tree.mounts);
        }
        for (mount, joint) in tree.mounts[1..].iter().zip(tree.inner) {
            locks.attach(mount, joint, &guard);
        }
        match beneath {
            Some((upper, joint)) => {
                transfer_lock(locks, &upper, &tree.mounts[0]);
                locks.tuck(&tree.mounts[0], root, &upper, joint, &guard);
            }
            None => locks.attach(&tree.mounts[0], root, &guard),
        }
    }
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
fn transfer_lock<D: Dentry>(locks: &mut WriteSet<D>, upper: &Arc<Mount<D>>, lower: &Arc<Mount<D>>) {
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

/// What is delivered, and on which conditions.
struct Delivery<'a, D: Dentry> {
    /// The mount that leaves its place.
    moved: Option<&'a Arc<Mount<D>>>,
    dentry: &'a Arc<D>,
    /// The sender's namespace, which gets `fresh` mounts more.
    ns: &'a Arc<MntNamespace<D>>,
    fresh: usize,
    rules: &'a Rules,
}

fn plan_copies<D: Dentry>(
    locks: &mut WriteSet<D>,
    receivers: &[Receiver<D>],
    tree: &NewTree<D>,
    delivery: &Delivery<'_, D>,
    steps: &mut Vec<Step<D>>,
) -> Result<Vec<Copy<D>>, Error> {
    let Delivery { moved, dentry, ns, fresh, rules } = delivery;
    let without = without_namespace_files(tree)?;
    let tree = without.as_ref().unwrap_or(tree);
    let mut copies: Vec<Copy<D>> = Vec::new();
    // Its upstream set, and its latest copy, of each set; they are counted in the order of visits.
    let mut sets: Vec<(usize, Option<usize>)> = memory::collect([(0, None)])?;
    let mut pending: HashMap<_, usize> = HashMap::default();
    pending.try_reserve(1).map_err(|_| Error::NoMemory)?;
    pending.insert(ns.id(), *fresh);
    let top = topmost(tree);
    for receiver in receivers {
        if receiver.set == sets.len() {
            sets.try_push((receiver.upstream, None))?;
        }
        let home = Arc::clone(locks.namespace_of(&receiver.mount).expect("receivers are locked"));
        let shows = receiver.mount.root().is_ancestor_of(dentry, &pin());
        if home.kind() == Kind::Anonymous || !shows {
            continue;
        }
        if tree.root().root().mnt_namespace().is_some() {
            return Err(Error::Invalid);
        }
        pending.try_reserve(1).map_err(|_| Error::NoMemory)?;
        let more = pending.entry(home.id()).or_insert(0);
        *more += tree.mounts.len();
        if locks.mounts_len(&home) + *more > rules.mounts_max {
            return Err(Error::Limit);
        }
        // The latest copy in its own set, else in the nearest set upstream that has one, else the tree itself.
        let mut set = receiver.set;
        let source = loop {
            match sets[set] {
                (_, Some(copy)) => break Some(copy),
                (upstream, None) if set != 0 => set = upstream,
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
        sets[receiver.set].1 = Some(copies.len());
        let locked = *home.owner() != rules.owner;
        copies.try_push(Copy { tree: copy, root, beneath, locked })?;
    }
    Ok(copies)
}

/// `tree` without files of mount namespaces and what is on them, which are delivered to nobody (rule T4); `None` if it has
/// none but its root.
///
/// # Errors
/// `ENOMEM`.
fn without_namespace_files<D: Dentry>(tree: &NewTree<D>) -> Result<Option<NewTree<D>>, NoMemory> {
    let is_file = |mount: &Arc<Mount<D>>| mount.root().mnt_namespace().is_some();
    if !tree.mounts[1..].iter().any(is_file) {
        return Ok(None);
    }
    // The new index of each mount that is kept.
    let mut index: Vec<Option<usize>> = Vec::new();
    let mut kept = NewTree {
        mounts: SmallVec::new(),
        places: SmallVec::new(),
        standing: SmallVec::new(),
        inner: Vec::new(),
    };
    for ((mount, place), standing) in tree.mounts.iter().zip(&tree.places).zip(&tree.standing) {
        let inside = match place {
            None => None,
            Some((parent, dentry)) => match index[*parent] {
                Some(parent) if !is_file(mount) => Some((parent, Arc::clone(dentry))),
                _ => {
                    index.try_push(None)?;
                    continue;
                }
            },
        };
        index.try_push(Some(kept.mounts.len()))?;
        kept.mounts.try_push(Arc::clone(mount))?;
        kept.places.try_push(inside)?;
        kept.standing.try_push(standing.clone())?;
    }
    Ok(Some(kept))
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
        if sibling {
            if let Some(group) = &standing.group {
                locks.reserve_members(group, 1)?;
            }
            steps.try_push(Step::Join(from(), to()))?;
            if let Some(member) = &standing.member {
                locks.reserve_slaves(member, 1)?;
                steps.try_push(Step::EnslaveBehind(from(), to()))?;
            }
            copy.standing.try_push(standing.clone())?;
            continue;
        }
        locks.reserve_slaves(&from(), 1)?;
        steps.try_push(Step::Enslave(from(), to()))?;
        let mut group = None;
        if shared {
            let new = locks.new_group(ns, standing.group.as_deref())?;
            steps.try_push(Step::Found(Arc::clone(&new), to()))?;
            group = Some(new);
        }
        copy.standing.try_push(Standing { group, master: standing.group.clone(), member: Some(from()) })?;
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
) -> Result<SmallVec<[(Arc<MntNamespace<D>>, usize, usize); 1]>, NoMemory> {
    let mut arriving: SmallVec<[(Arc<MntNamespace<D>>, usize, usize); 1]> = SmallVec::new();
    arriving.push((Arc::clone(ns), own.0, own.1));
    for copy in copies {
        let home = locks.namespace_of(copy.root.parent()).expect("receivers are locked");
        match arriving.last_mut() {
            Some((last, edges, visible)) if Arc::ptr_eq(last, home) => {
                (*edges, *visible) = (*edges + copy.tree.mounts.len(), *visible + 1);
            }
            _ => arriving.try_push((Arc::clone(home), copy.tree.mounts.len(), 1))?,
        }
    }
    arriving.sort_unstable_by_key(|(ns, ..)| ns.id());
    arriving.dedup_by(|next, kept| {
        let same = Arc::ptr_eq(&next.0, &kept.0);
        if same {
            (kept.1, kept.2) = (kept.1 + next.1, kept.2 + next.2);
        }
        same
    });
    Ok(arriving)
}
