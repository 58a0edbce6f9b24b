//! Copies of mount trees, and the places in the graph that they will take.
//!
//! A copy is made whole and out of sight: its mounts exist, its inner edges are prepared ([`Joint`]), and what it will be
//! in the propagation graph is a list of [`Step`]s. Nothing that others can see changes before the commit.

use alloc::sync::Arc;
use alloc::vec::Vec;

use hashbrown::HashMap;
use mnt_table::foresight::AHEAD;
use mnt_table::list::NoMemory;
use mnt_table::memory::Grow;
use mnt_table::tree::Joint;
use mnt_table::{Dentry, Group, MntNamespace, Mount, MountFlags, MountSpec, WriteSet, memory};
use smallvec::{SmallVec, smallvec};

use crate::graph::{enslave, enslave_after, found_group, join_after, master_of, need_groups};
use crate::{Error, Retry};

/// A change of the graph, to be made in the commit.
pub enum Step<D: Dentry> {
    /// The mount founds this group.
    Found(Arc<Group<D>>, Arc<Mount<D>>),
    /// The second joins the first's ring behind it.
    Join(Arc<Mount<D>>, Arc<Mount<D>>),
    /// The second becomes a slave of the first.
    Enslave(Arc<Mount<D>>, Arc<Mount<D>>),
    /// The second becomes a slave of the first's master, behind it.
    EnslaveBehind(Arc<Mount<D>>, Arc<Mount<D>>),
    /// The mount cannot be bound.
    Unbindable(Arc<Mount<D>>),
}

impl<D: Dentry> Step<D> {
    /// Makes the change. Context: holds the groups that it names; room was made for it.
    fn commit(self, locks: &mut WriteSet<D>) {
        match self {
            Step::Found(group, mount) => found_group(locks, &group, &mount),
            Step::Join(original, copy) => join_after(locks, &original, &copy),
            Step::Enslave(master, slave) => enslave(locks, &master, &slave),
            Step::EnslaveBehind(original, copy) => enslave_after(locks, &original, &copy),
            Step::Unbindable(mount) => locks.set_unbindable(&mount, true),
        }
    }

    /// Asks for the mount that it changes ([`mnt_table::foresight`]).
    fn foresee(&self) {
        match self {
            Step::Found(_, mount)
            | Step::Join(_, mount)
            | Step::Enslave(_, mount)
            | Step::EnslaveBehind(_, mount)
            | Step::Unbindable(mount) => mount.foresee(),
        }
    }
}

/// Makes all of the changes, in their order. Context: as each of them alone.
pub fn commit_steps<D: Dentry>(locks: &mut WriteSet<D>, steps: Vec<Step<D>>) {
    let mut steps = steps.into_iter();
    while let Some(step) = steps.next() {
        if let Some(ahead) = steps.as_slice().get(AHEAD) {
            ahead.foresee();
        }
        step.commit(locks);
    }
}

/// A mount's place in the graph as it will be after the commit.
pub struct Standing<D: Dentry> {
    /// The peer group that it will be in.
    pub group: Option<Arc<Group<D>>>,
    /// The group of the master that it will have.
    pub master: Option<Arc<Group<D>>>,
    /// That master.
    pub member: Option<Arc<Mount<D>>>,
}

impl<D: Dentry> Clone for Standing<D> {
    fn clone(&self) -> Self {
        Standing { group: self.group.clone(), master: self.master.clone(), member: self.member.clone() }
    }
}

impl<D: Dentry> Standing<D> {
    /// As it is now. Context: holds the mount's groups.
    pub fn of(locks: &WriteSet<D>, mount: &Mount<D>) -> Self {
        let here = mount.propagation();
        let master = here.master.map(|link| link.group);
        Standing { group: here.peers.map(|(group, _)| group), master, member: master_of(locks, mount) }
    }
}

/// Where a mount of a tree is attached inside it: the index of its parent, and the dentry; `None` for the root.
pub type Inside<D> = Option<(usize, Arc<D>)>;

/// A tree that nobody can see yet: its root is attached nowhere, its inner edges are prepared.
pub struct NewTree<D: Dentry> {
    /// Parents before children; the root first.
    pub mounts: SmallVec<[Arc<Mount<D>>; 1]>,
    /// Where each is attached.
    pub places: SmallVec<[Inside<D>; 1]>,
    /// What each will be.
    pub standing: SmallVec<[Standing<D>; 1]>,
    /// The edges of all but the root, in the order of `mounts`.
    pub inner: Vec<Joint<D>>,
}

impl<D: Dentry> NewTree<D> {
    /// A tree of one private mount.
    pub fn single(mount: Arc<Mount<D>>) -> Self {
        NewTree {
            mounts: smallvec![mount],
            places: smallvec![None],
            standing: smallvec![Standing { group: None, master: None, member: None }],
            inner: Vec::new(),
        }
    }

    /// The root.
    pub fn root(&self) -> &Arc<Mount<D>> {
        &self.mounts[0]
    }
}

/// Which mounts below the root are copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// None.
    Root,
    /// All but unbindable ones and what is below those (rbind).
    Bindable,
    /// All but files of mount namespaces and what is on those (a namespace's copy: rule T4).
    All,
}

/// The mounts that a copy of `root` from `dentry` down takes: `root`, then those attached at or below `dentry`, parents
/// first.
///
/// # Errors
/// `EPERM`: a locked mount would be left out, and what it covers shown (rule T3). `ENOMEM`.
pub fn members<D: Dentry>(
    locks: &WriteSet<D>,
    root: &Arc<Mount<D>>,
    dentry: &Arc<D>,
    extent: Extent,
) -> Result<Vec<Arc<Mount<D>>>, Error> {
    let mut taken: Vec<_> = memory::collect([Arc::clone(root)])?;
    if extent == Extent::Root {
        return Ok(taken);
    }
    let mut waiting: Vec<_> = memory::collect(below(locks, root, dentry).cloned())?;
    waiting.reverse();
    while let Some(mount) = waiting.pop() {
        let wanted = match extent {
            Extent::Root => false,
            Extent::Bindable => !locks.is_unbindable(&mount),
            Extent::All => mount.root().mnt_namespace().is_none(),
        };
        if !wanted {
            if extent == Extent::Bindable && locks.is_locked(&mount) {
                return Err(Error::Permission);
            }
            continue;
        }
        let before = waiting.len();
        waiting.try_extend(locks.children(&mount).cloned())?;
        waiting[before..].reverse();
        taken.try_push(mount)?;
    }
    Ok(taken)
}

/// The children of `mount` that are attached at or below `dentry`, in their order.
fn below<'a, D: Dentry>(
    locks: &'a WriteSet<D>,
    mount: &'a Arc<Mount<D>>,
    dentry: &'a Arc<D>,
) -> impl Iterator<Item = &'a Arc<Mount<D>>> {
    let guard = mnt_table::pin();
    locks.children(mount).filter(move |child| {
        Arc::ptr_eq(dentry, mount.root())
            || locks.mountpoint(child).is_some_and(|at| dentry.is_ancestor_of(at, &guard))
    })
}

/// Whether a locked mount is attached to `mount` at or below `dentry`: without it, a copy would show what it covers.
pub fn has_locked_children<D: Dentry>(locks: &WriteSet<D>, mount: &Arc<Mount<D>>, dentry: &Arc<D>) -> bool {
    below(locks, mount, dentry).any(|child| locks.is_locked(child))
}

/// Where each of `mounts`, which are parents first as [`members`] returns them, is attached among them.
///
/// # Errors
/// `ENOMEM`.
pub fn places<D: Dentry>(locks: &WriteSet<D>, mounts: &[Arc<Mount<D>>]) -> Result<Vec<Inside<D>>, NoMemory> {
    if mounts.len() == 1 {
        return memory::collect([None]);
    }
    let mut index: HashMap<u64, usize> = HashMap::default();
    index.try_reserve(mounts.len()).map_err(|_| NoMemory)?;
    index.extend(mounts.iter().enumerate().map(|(at, mount)| (mount.unique_id(), at)));
    let inside = |mount: &Arc<Mount<D>>| {
        let parent = locks.parent(mount).expect("it is below the first");
        let on = locks.mountpoint(mount).expect("it is below the first");
        (index[&parent.unique_id()], Arc::clone(on))
    };
    memory::collect(mounts.iter().enumerate().map(|(at, mount)| (at != 0).then(|| inside(mount))))
}

/// Copies `originals`, attached among themselves at `places`, into `ns`. The copy's root has the root dentry `root`, and is
/// not locked. What the copies will be in the graph is for the caller to say.
///
/// # Errors
/// `ENOMEM`; `ENOENT` if a mountpoint inside is being removed.
pub fn copy_tree<D: Dentry>(
    locks: &mut WriteSet<D>,
    originals: &[Arc<Mount<D>>],
    places: &[Inside<D>],
    root: &Arc<D>,
    ns: &Arc<MntNamespace<D>>,
) -> Result<NewTree<D>, Error> {
    let mut tree = NewTree {
        mounts: SmallVec::new(),
        places: memory::collect(places.iter().cloned())?,
        standing: SmallVec::new(),
        inner: Vec::new(),
    };
    tree.mounts.make_room(originals.len())?;
    tree.inner.make_room(originals.len().saturating_sub(1))?;
    for (original, place) in originals.iter().zip(places) {
        let copy = copy_mount(locks, original, place.is_none().then_some(root), ns)?;
        if let Some((parent, dentry)) = place {
            tree.inner.push(locks.prepare(&copy, &tree.mounts[*parent], dentry)?);
        }
        tree.mounts.push(copy);
    }
    Ok(tree)
}

/// A copy of `original` for `ns`: with the root `root` if it is the root of a copied tree, and else locked if the original
/// is (rule T5).
///
/// # Errors
/// `ENOMEM`.
pub fn copy_mount<D: Dentry>(
    locks: &mut WriteSet<D>,
    original: &Mount<D>,
    root: Option<&Arc<D>>,
    ns: &Arc<MntNamespace<D>>,
) -> Result<Arc<Mount<D>>, NoMemory> {
    let spec = MountSpec {
        root: Arc::clone(root.unwrap_or(original.root())),
        flags: original.flags(),
        source: original.source().clone(),
        idmap: original.idmap(),
    };
    let copy = locks.new_mount(ns, spec)?;
    if root.is_none() && locks.is_locked(original) {
        locks.set_locked(&copy, true);
    }
    Ok(copy)
}

/// The copies of `tree` will be siblings of the real mounts `originals`.
///
/// # Errors
/// `ENOMEM`.
pub fn make_siblings<D: Dentry>(
    locks: &mut WriteSet<D>,
    originals: &[Arc<Mount<D>>],
    tree: &mut NewTree<D>,
    steps: &mut Vec<Step<D>>,
) -> Result<(), NoMemory> {
    for (original, copy) in originals.iter().zip(&tree.mounts) {
        let standing = Standing::of(locks, original);
        if let Some(group) = &standing.group {
            locks.reserve_members(group, 1)?;
            steps.try_push(Step::Join(Arc::clone(original), Arc::clone(copy)))?;
        }
        if let Some(member) = &standing.member {
            locks.reserve_slaves(member, 1)?;
            steps.try_push(Step::EnslaveBehind(Arc::clone(original), Arc::clone(copy)))?;
        }
        if locks.is_unbindable(original) {
            steps.try_push(Step::Unbindable(Arc::clone(copy)))?;
        }
        tree.standing.try_push(standing)?;
    }
    Ok(())
}

/// Originals with their copies.
pub type Pairs<D> = Vec<(Arc<Mount<D>>, Arc<Mount<D>>)>;

/// The copies of `tree` will receive from the real mounts `originals`, and not send (rule T6): those of shared mounts as
/// their slaves, those of slaves beside them.
fn make_slaves<D: Dentry>(
    locks: &mut WriteSet<D>,
    originals: &[Arc<Mount<D>>],
    tree: &mut NewTree<D>,
    steps: &mut Vec<Step<D>>,
) -> Result<(), NoMemory> {
    for (original, copy) in originals.iter().zip(&tree.mounts) {
        let Standing { group, mut master, mut member } = Standing::of(locks, original);
        if let Some(group) = group {
            locks.reserve_slaves(original, 1)?;
            steps.try_push(Step::Enslave(Arc::clone(original), Arc::clone(copy)))?;
            (master, member) = (Some(group), Some(Arc::clone(original)));
        } else if let Some(member) = &member {
            locks.reserve_slaves(member, 1)?;
            steps.try_push(Step::EnslaveBehind(Arc::clone(original), Arc::clone(copy)))?;
        }
        if locks.is_unbindable(original) {
            steps.try_push(Step::Unbindable(Arc::clone(copy)))?;
        }
        tree.standing.try_push(Standing { group: None, master, member })?;
    }
    Ok(())
}

/// Locks a tree that came from a namespace with another owner (7.3): what is set of the attributes of each mount, and all
/// but the first in their places.
pub fn lock_tree<D: Dentry>(locks: &mut WriteSet<D>, mounts: &[Arc<Mount<D>>]) {
    const LOCKS: [(MountFlags, MountFlags); 4] = [
        (MountFlags::READONLY, MountFlags::LOCK_READONLY),
        (MountFlags::NOSUID, MountFlags::LOCK_NOSUID),
        (MountFlags::NODEV, MountFlags::LOCK_NODEV),
        (MountFlags::NOEXEC, MountFlags::LOCK_NOEXEC),
    ];
    for (index, mount) in mounts.iter().enumerate() {
        let mut flags = mount.flags() | MountFlags::LOCK_ATIME;
        for (set, lock) in LOCKS {
            flags.set(lock, flags.contains(set) || flags.contains(lock));
        }
        locks.set_flags(mount, flags);
        if index != 0 {
            locks.set_locked(mount, true);
        }
    }
}

/// A copy of the namespace `from` in `to`, which is new and empty; both are locked. Returns originals and copies in
/// pairs.
///
/// Every copy is a sibling of its original: a change of a shared mount reaches both namespaces. If the two have different
/// owners, copies of shared mounts are slaves, and the copied tree is locked ([`lock_tree`]). Unbindable mounts stay so,
/// as before Linux 6.17 and from 7.0 on.
///
/// # Errors
/// Groups that are not locked; `ENOMEM`; `ENOENT` if a mountpoint is being removed.
pub fn clone_namespace<D: Dentry>(
    locks: &mut WriteSet<D>,
    from: &Arc<MntNamespace<D>>,
    to: &Arc<MntNamespace<D>>,
) -> Result<Pairs<D>, Retry<D>> {
    let Some(root) = locks.root(from).cloned() else { return Err(Error::Invalid.into()) };
    let mounts = members(locks, &root, root.root(), Extent::All)?;
    need_groups(locks, &mounts)?;
    let places = places(locks, &mounts)?;
    locks.follow_ids(to, from);
    let mut tree = copy_tree(locks, &mounts, &places, root.root(), to)?;
    let mut steps = Vec::new();
    let less_privileged = from.owner() != to.owner();
    if less_privileged {
        make_slaves(locks, &mounts, &mut tree, &mut steps)?;
    } else {
        make_siblings(locks, &mounts, &mut tree, &mut steps)?;
    }
    let mut pairs: Pairs<D> = Vec::new();
    pairs.make_room(mounts.len())?;

    // Nothing fails from here on.
    commit_steps(locks, steps);
    if less_privileged {
        lock_tree(locks, &tree.mounts);
    }
    locks.expect_edges(to, mounts.len());
    let guard = mnt_table::pin();
    locks.attach_root(to, tree.root());
    for (copy, joint) in tree.mounts[1..].iter().zip(tree.inner) {
        locks.attach(copy, joint, &guard);
    }
    pairs.extend(mounts.into_iter().zip(tree.mounts));
    Ok(pairs)
}
