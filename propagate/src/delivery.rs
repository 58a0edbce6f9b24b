//! The copies of a tree that receivers get: planned one after the other, committed in reverse order ([`crate::attach`]).
//!
//! A mount in a large group makes thousands of them, so the plan keeps them side by side and not each as an object of its
//! own: with a tree of N mounts, N mounts and N - 1 inner edges for each copy in one vector each.

use alloc::sync::Arc;
use alloc::vec::Vec;

use hashbrown::HashMap;
use mnt_table::foresight::AHEAD;
use mnt_table::list::NoMemory;
use mnt_table::memory::Grow;
use mnt_table::namespace::NamespaceId;
use mnt_table::tree::Joint;
use mnt_table::{Dentry, Guard, Kind, MntNamespace, Mount, WriteSet, memory, pin};
use smallvec::SmallVec;

use crate::Error;
use crate::attach::{Rules, topmost, transfer_lock};
use crate::copy_tree::{NewTree, Standing, Step, copy_mount, lock_tree};
use crate::receivers::Receiver;

/// What is delivered, and on which conditions.
pub(crate) struct Delivery<'a, D: Dentry> {
    /// The mount that leaves its place.
    pub(crate) moved: Option<&'a Arc<Mount<D>>>,
    pub(crate) dentry: &'a Arc<D>,
    pub(crate) rules: &'a Rules,
}

/// What comes to a namespace.
pub(crate) struct Arrival<D: Dentry> {
    pub(crate) ns: Arc<MntNamespace<D>>,
    /// Edges.
    pub(crate) edges: usize,
    /// Changes that a walk there can meet: above one they need a window.
    pub(crate) visible: usize,
    /// Mounts that it has more then.
    pub(crate) mounts: usize,
}

/// What comes to each namespace.
pub(crate) struct Arrivals<D: Dentry> {
    pub(crate) list: SmallVec<[Arrival<D>; 1]>,
    /// Where in `list` a namespace is, if it is not the first.
    index: HashMap<NamespaceId, usize>,
    last: usize,
}

impl<D: Dentry> Arrivals<D> {
    pub(crate) fn new(first: Arrival<D>) -> Self {
        Arrivals { list: SmallVec::from_buf([first]), index: HashMap::default(), last: 0 }
    }

    fn at(&mut self, ns: &Arc<MntNamespace<D>>) -> Result<&mut Arrival<D>, NoMemory> {
        // Those of one namespace come one after the other, mostly.
        if let Some(at) = [self.last, 0].into_iter().find(|at| Arc::ptr_eq(&self.list[*at].ns, ns)) {
            self.last = at;
            return Ok(&mut self.list[at]);
        }
        self.last = match self.index.get(&ns.id()) {
            Some(at) => *at,
            None => {
                self.index.try_reserve(1).map_err(|_| NoMemory)?;
                self.list.try_push(Arrival { ns: Arc::clone(ns), edges: 0, visible: 0, mounts: 0 })?;
                self.index.insert(ns.id(), self.list.len() - 1);
                self.list.len() - 1
            }
        };
        Ok(&mut self.list[self.last])
    }
}

/// The copies; see the module's header.
pub(crate) struct Copies<D: Dentry> {
    /// How many mounts each has.
    size: usize,
    mounts: Vec<Arc<Mount<D>>>,
    /// What each of them will be.
    standing: Vec<Standing<D>>,
    inner: Vec<Joint<D>>,
    roots: Vec<Joint<D>>,
    /// Which of them go beneath something, in their order, and the edge by which that will hang on it.
    beneath: Vec<(usize, Arc<Mount<D>>, Joint<D>)>,
}

impl<D: Dentry> Copies<D> {
    pub(crate) fn none() -> Self {
        Copies {
            size: 0,
            mounts: Vec::new(),
            standing: Vec::new(),
            inner: Vec::new(),
            roots: Vec::new(),
            beneath: Vec::new(),
        }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.roots.len()
    }

    /// Copies of `tree` for `receivers`, and what will be done to the graph for them.
    ///
    /// # Errors
    /// `EINVAL`: the root is a file of a mount namespace. `ENOSPC`: a namespace would have more mounts than it may.
    /// `ENOENT`: the place is being removed. `ENOMEM`.
    pub(crate) fn plan(
        locks: &mut WriteSet<D>,
        receivers: &[Receiver<D>],
        tree: &NewTree<D>,
        delivery: &Delivery<'_, D>,
        arrivals: &mut Arrivals<D>,
        steps: &mut Vec<Step<D>>,
    ) -> Result<Self, Error> {
        let Delivery { moved, dentry, rules } = delivery;
        let without = without_namespace_files(tree)?;
        let tree = without.as_ref().unwrap_or(tree);
        let mut copies = Copies { size: tree.mounts.len(), ..Copies::none() };
        copies.make_room(receivers.len())?;
        steps.make_room(receivers.len() * copies.size)?;
        // Of each set its latest copy, and the one in the nearest set upstream that has any; they are counted in the order of
        // visits. A set is visited whole before those that receive from it, so what is upstream is final.
        let mut sets: Vec<(Option<usize>, Option<usize>)> = memory::collect([(None, None)])?;
        let top = topmost(tree);
        for (turn, receiver) in receivers.iter().enumerate() {
            locks.foresee_children(turn, dentry, |turn| receivers.get(turn).map(|receiver| &receiver.mount));
            if receiver.set == sets.len() {
                let (latest, upstream) = sets[receiver.upstream];
                sets.try_push((None, latest.or(upstream)))?;
            }
            let home = Arc::clone(locks.namespace_of(&receiver.mount).expect("receivers are locked"));
            let shows = receiver.mount.root().is_ancestor_of(dentry, &pin());
            if home.kind() == Kind::Anonymous || !shows {
                continue;
            }
            if tree.root().root().mnt_namespace().is_some() {
                return Err(Error::Invalid);
            }
            let there = locks.mounts_len(&home);
            let arrival = arrivals.at(&home)?;
            arrival.edges += copies.size;
            arrival.mounts += copies.size;
            arrival.visible += 1;
            if there + arrival.mounts > rules.mounts_max {
                return Err(Error::Limit);
            }
            // The latest copy in its own set, else in the nearest set upstream that has one, else the tree itself, which is
            // in set 0.
            let (latest, upstream) = sets[receiver.set];
            let source = latest.or(upstream);
            let sibling = latest.is_some() || receiver.set == 0;
            copies.copy(locks, tree, source, &home)?;
            copies.relate(locks, tree, source, sibling, receiver.shared, &home, steps)?;
            let root = &copies.mounts[copies.mounts.len() - copies.size];
            let joint = locks.prepare(root, &receiver.mount, dentry)?;
            // What moves has left its old place when the copies come, and the copy for that place finds it free.
            let there = locks.child_at(&receiver.mount, dentry);
            let stays = |there: &Arc<Mount<D>>| moved.is_none_or(|moved| !Arc::ptr_eq(there, moved));
            if let Some(upper) = there.filter(stays) {
                let on = &copies.mounts[copies.mounts.len() - copies.size + top];
                let joint = locks.prepare(&upper, on, on.root())?;
                copies.beneath.try_push((copies.roots.len(), upper, joint))?;
            }
            sets[receiver.set].0 = Some(copies.roots.len());
            copies.roots.try_push(joint)?;
        }
        Ok(copies)
    }

    fn make_room(&mut self, more: usize) -> Result<(), NoMemory> {
        self.mounts.make_room(more * self.size)?;
        self.standing.make_room(more * self.size)?;
        self.inner.make_room(more * (self.size - 1))?;
        self.roots.make_room(more)
    }

    /// The mount `at` of `source`, which is one of the copies or the tree itself, and what it will be.
    fn original<'a>(
        &'a self,
        tree: &'a NewTree<D>,
        source: Option<usize>,
        at: usize,
    ) -> (&'a Arc<Mount<D>>, &'a Standing<D>) {
        match source {
            Some(copy) => (&self.mounts[copy * self.size + at], &self.standing[copy * self.size + at]),
            None => (&tree.mounts[at], &tree.standing[at]),
        }
    }

    /// One copy more, of `source`, for `home`.
    fn copy(
        &mut self,
        locks: &mut WriteSet<D>,
        tree: &NewTree<D>,
        source: Option<usize>,
        home: &Arc<MntNamespace<D>>,
    ) -> Result<(), Error> {
        let first = self.mounts.len();
        for (at, place) in tree.places.iter().enumerate() {
            let (original, _) = self.original(tree, source, at);
            let copy = copy_mount(locks, original, place.is_none().then_some(tree.root().root()), home)?;
            if let Some((parent, dentry)) = place {
                self.inner.try_push(locks.prepare(&copy, &self.mounts[first + parent], dentry)?)?;
            }
            self.mounts.try_push(copy)?;
        }
        Ok(())
    }

    /// What the mounts of the last copy will be beside those of `source`, which all are shared by then, or are slaves that
    /// nobody copies.
    #[expect(clippy::too_many_arguments, reason = "all that the plan knows of a copy")]
    fn relate(
        &mut self,
        locks: &mut WriteSet<D>,
        tree: &NewTree<D>,
        source: Option<usize>,
        sibling: bool,
        shared: bool,
        home: &Arc<MntNamespace<D>>,
        steps: &mut Vec<Step<D>>,
    ) -> Result<(), Error> {
        let first = self.mounts.len() - self.size;
        for at in 0..self.size {
            let (from, standing) = self.original(tree, source, at);
            let to = Arc::clone(&self.mounts[first + at]);
            if sibling {
                if let Some(group) = &standing.group {
                    locks.reserve_members(group, 1)?;
                }
                steps.try_push(Step::Join(Arc::clone(from), Arc::clone(&to)))?;
                if let Some(member) = &standing.member {
                    locks.reserve_slaves(member, 1)?;
                    steps.try_push(Step::EnslaveBehind(Arc::clone(from), to))?;
                }
                let standing = standing.clone();
                self.standing.try_push(standing)?;
                continue;
            }
            locks.reserve_slaves(from, 1)?;
            steps.try_push(Step::Enslave(Arc::clone(from), Arc::clone(&to)))?;
            let mut group = None;
            if shared {
                let new = locks.new_group(home, standing.group.as_deref())?;
                steps.try_push(Step::Found(Arc::clone(&new), to))?;
                group = Some(new);
            }
            let standing = Standing { group, master: standing.group.clone(), member: Some(Arc::clone(from)) };
            self.standing.try_push(standing)?;
        }
        Ok(())
    }

    /// Attaches them, the last one first. Those that come to a namespace with another owner than `rules` say are locked.
    ///
    /// Context: pinned, after the changes of the graph; in the windows of the namespaces that need one.
    pub(crate) fn commit(self, locks: &mut WriteSet<D>, rules: &Rules, guard: &Guard) {
        let Copies { size, mut mounts, mut inner, mut roots, mut beneath, .. } = self;
        while let Some(root) = roots.pop() {
            if let Some(ahead) = roots.len().checked_sub(AHEAD) {
                roots[ahead].foresee();
                mounts[ahead * size].foresee();
            }
            if let Some(ahead) = roots.len().checked_sub(AHEAD / 2) {
                locks.foresee_attach(&roots[ahead]);
            }
            let first = roots.len() * size;
            let ns = locks.namespace_of(&mounts[first]).expect("receivers are locked");
            if *ns.owner() != rules.owner {
                lock_tree(locks, &mounts[first..]);
            }
            let edges = inner.drain(roots.len() * (size - 1)..);
            for (mount, joint) in mounts[first + 1..].iter().zip(edges) {
                locks.attach(mount, joint, guard);
            }
            match beneath.pop_if(|(copy, ..)| *copy == roots.len()) {
                Some((_, upper, joint)) => {
                    transfer_lock(locks, &upper, &mounts[first]);
                    locks.tuck(&mounts[first], root, &upper, joint, guard);
                }
                None => locks.attach(&mounts[first], root, guard),
            }
            mounts.truncate(first);
        }
    }
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
