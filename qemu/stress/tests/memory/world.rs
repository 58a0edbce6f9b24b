//! A few namespaces over in-memory file systems, what can be done to them, and what they look like.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use mnt_table::check::check;
use mnt_table::dentry::{Dentry, SuperBlockRef};
use mnt_table::memory::Grow;
use mnt_table::place::PlaceError;
use mnt_table::walk::{Last, walk_to_change};
use mnt_table::{
    FsStruct, Group, Kind, LockPlan, MntNamespace, Mount, MountFlags, MountRef, MountSpec, NamespaceSpec,
    PathRef, UserNs, WriteSet, pin,
};
use propagate::attach::{Place, Rules, What, attach};
use propagate::beneath::{may_go_beneath, place_beneath};
use propagate::copy_tree::{
    Extent, NewTree, Step, clone_namespace, commit_steps, copy_tree, make_siblings, members, places,
};
use propagate::graph::{PropagationType, change_types, need_groups, set_group};
use propagate::pivot_root::pivot_root;
use propagate::umount::{detach, detach_from, dissolve, umount};
use propagate::{Error, Retry, with_locks};
use tmpfs::{Options, TmpDentry, TmpSuperBlock};

pub(crate) type Ns = Arc<MntNamespace<TmpDentry>>;
pub(crate) type Mnt = Arc<Mount<TmpDentry>>;
pub(crate) type Position = (Mnt, Arc<TmpDentry>);

const DIRS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

/// The root of a fresh file system with a few directories.
fn fresh() -> Arc<TmpDentry> {
    let options = Options::new(1, b"tmpfs");
    let root = TmpSuperBlock::new(options).unwrap();
    make_directories(&root);
    root
}

fn make_directories(at: &Arc<TmpDentry>) {
    DIRS.iter().for_each(|name| drop(at.mkdir(name.as_bytes()).unwrap()));
}

/// What an operation made, which lives until the world ends.
pub(crate) enum Made {
    Nothing,
    Namespace(Ns),
    Task(FsStruct<TmpDentry>),
    File(MountRef<TmpDentry>),
}

/// Several namespaces; the task of each stands at its root.
pub(crate) struct World {
    pub(crate) namespaces: Vec<Ns>,
    pub(crate) tasks: Vec<FsStruct<TmpDentry>>,
    files: Vec<MountRef<TmpDentry>>,
    held: Vec<SuperBlockRef<TmpDentry>>,
}

fn rules() -> Rules {
    Rules { mounts_max: 100_000, owner: UserNs::INITIAL }
}

impl World {
    /// With one namespace, whose root mount is private.
    pub(crate) fn new() -> Self {
        let ns = MntNamespace::new(Kind::Ordinary).unwrap();
        let mut world =
            World { namespaces: Vec::new(), tasks: Vec::new(), files: Vec::new(), held: Vec::new() };
        let root = world.disk();
        let mut locks = WriteSet::one(&ns);
        let root = locks.new_mount(&ns, spec(&root)).unwrap();
        locks.attach_root(&ns, &root);
        drop(locks);
        world.enter(ns);
        world
    }

    fn enter(&mut self, ns: Ns) {
        let root = WriteSet::one(&ns).root(&ns).unwrap().clone();
        let dentry = root.root().clone();
        self.tasks.push(FsStruct::new(&keep(&(root, dentry))).unwrap());
        self.namespaces.push(ns);
    }

    /// Takes in what an operation made.
    pub(crate) fn keep(&mut self, made: Made) {
        match made {
            Made::Nothing => {}
            Made::Namespace(ns) => self.enter(ns),
            Made::Task(task) => self.tasks.push(task),
            Made::File(file) => self.files.push(file),
        }
    }

    /// A fresh file system that lives as long as the world.
    pub(crate) fn disk(&mut self) -> Arc<TmpDentry> {
        let root = fresh();
        self.held.push(SuperBlockRef::new(root.clone()));
        root
    }

    /// Where `path` leads in the namespace `n`.
    pub(crate) fn at(&self, n: usize, path: &str) -> Position {
        walk_to_change(&self.tasks[n], path.as_bytes(), Last::Follow).unwrap()
    }

    /// The mount that `path` leads to in the namespace `n`.
    pub(crate) fn mount_at(&self, n: usize, path: &str) -> Mnt {
        self.at(n, path).0
    }

    /// Makes a few directories in each of `paths`.
    pub(crate) fn make_directories(&self, n: usize, paths: &[&str]) {
        paths.iter().for_each(|path| make_directories(&self.at(n, path).1));
    }

    /// Mounts a fresh file system on each of `paths`.
    pub(crate) fn mount(&mut self, n: usize, paths: &[&str]) {
        for path in paths {
            let disk = self.disk();
            mount(&self.namespaces[n], &self.at(n, path), &disk).unwrap();
        }
    }

    /// Changes types.
    pub(crate) fn set_type(&self, n: usize, path: &str, to: PropagationType) {
        set_type(&self.namespaces[n], &self.mount_at(n, path), to, false).unwrap();
    }

    /// Changes types, with all that is below.
    pub(crate) fn set_types(&self, n: usize, path: &str, to: PropagationType) {
        set_type(&self.namespaces[n], &self.mount_at(n, path), to, true).unwrap();
    }

    /// Binds, with all that is below.
    pub(crate) fn bind(&self, n: usize, from: &str, to: &str) {
        bind(&self.namespaces[n], &self.at(n, from), &self.at(n, to), Extent::Bindable).unwrap();
    }

    /// A copy of the namespace `n`; returns its number.
    pub(crate) fn copy(&mut self, n: usize, owner: UserNs) -> usize {
        let made = copy_namespace(&self.namespaces[n], &owner).unwrap();
        self.keep(made);
        self.namespaces.len() - 1
    }

    /// Holds the mount at `path` in use.
    pub(crate) fn open(&mut self, n: usize, path: &str) {
        let file = keep(&self.at(n, path)).mount;
        self.files.push(file);
    }

    /// Lets go of what [`World::open`] opened last.
    pub(crate) fn close(&mut self) -> MountRef<TmpDentry> {
        self.files.pop().unwrap()
    }

    /// The mount that `mount` is on.
    pub(crate) fn parent(&self, n: usize, mount: &Mnt) -> Mnt {
        WriteSet::one(&self.namespaces[n]).parent(mount).unwrap().clone()
    }

    /// The dentry that the mount at `path` is on.
    pub(crate) fn mountpoint(&self, n: usize, path: &str) -> Arc<TmpDentry> {
        let mount = self.mount_at(n, path);
        WriteSet::one(&self.namespaces[n]).mountpoint(&mount).unwrap().clone()
    }

    /// Mounts keep the file system that was made last, and nothing else does.
    pub(crate) fn release_last_disk(&mut self) {
        drop(self.held.pop());
    }

    /// Makes the task of the first namespace stand at the root of a mount that has a parent, with another one on `a`.
    pub(crate) fn pivotable(&mut self) {
        self.mount(0, &["/a"]);
        let at = keep(&self.at(0, "/a"));
        placed(self.tasks[0].set_root(&at)).unwrap();
        placed(self.tasks[0].set_cwd(&at)).unwrap();
        self.mount(0, &["/a"]);
    }

    /// Locks the mount at `path` to its parent.
    pub(crate) fn lock(&self, n: usize, path: &str) {
        let mount = self.mount_at(n, path);
        WriteSet::one(&self.namespaces[n]).set_locked(&mount, true);
    }

    /// All that can be seen of it, in numbers that are the same in every world that was made alike.
    pub(crate) fn view(&self) -> String {
        let mut plan = LockPlan::new(&self.namespaces[0]);
        self.namespaces[1..].iter().for_each(|ns| plan.namespace(ns));
        let mut groups: BTreeMap<u64, Arc<Group<TmpDentry>>> = BTreeMap::new();
        {
            let locks = plan.lock().unwrap();
            for mount in self.namespaces.iter().flat_map(|ns| locks.mounts(ns)) {
                let here = mount.propagation();
                let named = here.peers.map(|(group, _)| group);
                groups.extend(
                    named.into_iter().chain(here.master.map(|link| link.group)).map(|g| (g.stamp(), g)),
                );
            }
        }
        groups.values().for_each(|group| plan.group(group));
        let locks = plan.lock().unwrap();
        let mut out = String::new();
        for (n, ns) in self.namespaces.iter().enumerate() {
            let root = locks.root(ns).map(|root| root.id());
            writeln!(out, "namespace {n}: root {root:?}, gone {}", locks.is_dissolved(ns)).unwrap();
            for mount in locks.mounts(ns) {
                let on = locks.mountpoint(mount).map(|on| on.id().1);
                let children: Vec<_> = locks.children(mount).map(|child| child.id()).collect();
                let parent = locks.parent(mount).map(|parent| parent.id());
                let here = mount.propagation();
                let (peers, master) =
                    (here.peers.map(|(group, _)| group.id()), here.master.map(|link| link.group.id()));
                writeln!(
                    out,
                    "  {}: on {parent:?} {on:?}, root {}, children {children:?}, shared {peers:?}, master \
                     {master:?}, locked {}, unbindable {}, {:?}",
                    mount.id(),
                    mount.root().id().1,
                    locks.is_locked(mount),
                    locks.is_unbindable(mount),
                    mount.flags(),
                )
                .unwrap();
            }
        }
        for group in groups.values() {
            let members = locks.group(group).members.iter().map(|(_, member)| {
                let slaves: Vec<_> = member.slaves.iter().map(|(_, slave)| slave.id()).collect();
                (member.mount.id(), slaves)
            });
            let above = group.above().map(|above| above.id());
            writeln!(out, "group {}: {:?} below {above:?}", group.id(), members.collect::<Vec<_>>()).unwrap();
        }
        for (n, task) in self.tasks.iter().enumerate() {
            let (root, cwd) = (task.root(), task.cwd());
            let place = |at: &Position| (at.0.id(), at.1.id().1);
            writeln!(out, "task {n}: {:?}, {:?}", place(&root), place(&cwd)).unwrap();
        }
        let flagged: Vec<_> = self
            .held
            .iter()
            .map(|disk| {
                let top = disk.root();
                let of = |name: &&str| top.lookup(name.as_bytes(), &pin()).unwrap().clone();
                let dirs = DIRS.iter().map(of).filter(|dir| dir.mounted_here().is_mountpoint()).count();
                (mnt_table::SuperBlock::active(&**top.super_block()).count(), dirs)
            })
            .collect();
        writeln!(out, "file systems: {flagged:?}").unwrap();
        out
    }

    /// No invariant is broken.
    pub(crate) fn check(&self) {
        let alive: Vec<_> =
            self.namespaces.iter().filter(|ns| !WriteSet::one(ns).is_dissolved(ns)).cloned().collect();
        let report = check(&alive);
        assert!(report.violations.is_empty(), "{:#?}", report.violations);
        assert_eq!(report.strayed, 0, "mounts above their parents' roots");
    }

    /// Everything ends.
    pub(crate) fn end(self) {
        let World { namespaces, tasks, files, held } = self;
        drop((tasks, files));
        for ns in namespaces {
            if !WriteSet::one(&ns).is_dissolved(&ns) {
                end_namespace(&ns).unwrap();
            }
        }
        drop(held);
    }
}

fn spec(root: &Arc<TmpDentry>) -> MountSpec<TmpDentry> {
    MountSpec::new(root.clone(), MountFlags::empty(), root.super_block().source().clone())
}

/// A place, in use.
pub(crate) fn keep((mount, dentry): &Position) -> PathRef<TmpDentry> {
    let mount = mount.keep(&pin()).ok().unwrap();
    PathRef { mount, dentry: dentry.clone() }
}

/// The parent and the dentry on which something is attached that comes to `at`.
fn top(locks: &WriteSet<TmpDentry>, at: &Position) -> Position {
    propagate::pivot_root::top_of(locks, at)
}

pub(crate) fn mount(ns: &Ns, at: &Position, disk: &Arc<TmpDentry>) -> Result<Made, Error> {
    ns.make_room()?;
    with_locks(LockPlan::new(ns), |locks| {
        let (parent, on) = top(locks, at);
        let mount = locks.new_mount(ns, spec(disk))?;
        let what = What::New(NewTree::single(mount), Vec::new());
        attach(locks, what, Place::top(&parent, &on), &rules())?;
        Ok(Made::Nothing)
    })
}

type Copied = (NewTree<TmpDentry>, Vec<Step<TmpDentry>>);

fn copy(
    locks: &mut WriteSet<TmpDentry>,
    (mount, dentry): &Position,
    extent: Extent,
    to: &Ns,
) -> Result<Copied, Retry<TmpDentry>> {
    let originals = members(locks, mount, dentry, extent)?;
    need_groups(locks, &originals)?;
    let inside = places(locks, &originals)?;
    let mut tree = copy_tree(locks, &originals, &inside, dentry, to)?;
    let mut steps = Vec::new();
    make_siblings(locks, &originals, &mut tree, &mut steps)?;
    Ok((tree, steps))
}

pub(crate) fn bind(ns: &Ns, from: &Position, at: &Position, extent: Extent) -> Result<Made, Error> {
    with_locks(LockPlan::new(ns), |locks| {
        let (parent, on) = top(locks, at);
        let (tree, steps) = copy(locks, from, extent, ns)?;
        attach(locks, What::New(tree, steps), Place::top(&parent, &on), &rules())?;
        Ok(Made::Nothing)
    })
}

/// A copy in an anonymous namespace (open_tree(2)).
pub(crate) fn open_tree(ns: &Ns, from: &Position) -> Result<Made, Error> {
    let to = MntNamespace::from_spec(NamespaceSpec::anonymous(ns))?;
    let mut plan = LockPlan::new(ns);
    plan.namespace(&to);
    let copied = with_locks(plan, |locks| {
        let (mut tree, steps) = copy(locks, from, Extent::Bindable, &to)?;
        let guard = pin();
        commit_steps(locks, steps);
        locks.expect_edges(&to, tree.mounts.len());
        locks.attach_root(&to, &tree.mounts[0]);
        for (mount, joint) in tree.mounts[1..].iter().zip(std::mem::take(&mut tree.inner)) {
            locks.attach(mount, joint, &guard);
        }
        Ok(())
    });
    made_namespace(to, copied)
}

/// unshare(2) with `CLONE_NEWNS`.
pub(crate) fn copy_namespace(from: &Ns, owner: &UserNs) -> Result<Made, Error> {
    let mut spec = NamespaceSpec::new(Kind::Ordinary);
    spec.owner = owner.clone();
    let to = MntNamespace::from_spec(spec)?;
    let copied = with_locks(LockPlan::new(from), |locks| {
        locks.add_new(&to);
        clone_namespace(locks, from, &to).map(drop)
    });
    made_namespace(to, copied)
}

fn made_namespace(ns: Ns, filled: Result<(), Error>) -> Result<Made, Error> {
    match filled {
        Ok(()) => Ok(Made::Namespace(ns)),
        Err(error) => {
            end_namespace(&ns)?;
            Err(error)
        }
    }
}

pub(crate) fn end_namespace(ns: &Ns) -> Result<Made, Error> {
    with_locks(LockPlan::new(ns), |locks| dissolve(locks, ns))?;
    Ok(Made::Nothing)
}

pub(crate) fn move_mount(mount: &Mnt, at: &Position) -> Result<Made, Error> {
    move_between(mount, at, false)
}

pub(crate) fn move_beneath(mount: &Mnt, at: &Position) -> Result<Made, Error> {
    move_between(mount, at, true)
}

fn move_between(mount: &Mnt, at: &Position, beneath: bool) -> Result<Made, Error> {
    let ns = |mount: &Mnt| mnt_table::namespace::namespace_of(&**mount).unwrap();
    let mut plan = LockPlan::new(&ns(&at.0));
    plan.namespace(&ns(mount));
    with_locks(plan, |locks| {
        let place;
        let place = if beneath {
            let root = locks.root(&ns(&at.0)).unwrap().clone();
            place = place_beneath(locks, &at.0)?;
            may_go_beneath(locks, mount, &place.2, &root, true)?;
            Place { parent: &place.0, dentry: &place.1, beneath: Some(place.2.clone()) }
        } else {
            let (parent, on) = top(locks, at);
            place = (parent, on, mount.clone());
            Place::top(&place.0, &place.1)
        };
        attach(locks, What::Move(mount.clone()), place, &rules())?;
        Ok(Made::Nothing)
    })
}

pub(crate) fn umount_now(ns: &Ns, mount: &Mnt) -> Result<Made, Error> {
    with_locks(LockPlan::new(ns), |locks| umount(locks, mount))?;
    Ok(Made::Nothing)
}

pub(crate) fn umount_lazily(ns: &Ns, mount: &Mnt) -> Result<Made, Error> {
    with_locks(LockPlan::new(ns), |locks| detach(locks, mount))?;
    Ok(Made::Nothing)
}

pub(crate) fn umount_from(ns: &Ns, dentry: &Arc<TmpDentry>) -> Result<Made, Error> {
    with_locks(LockPlan::new(ns), |locks| detach_from(locks, ns, dentry))?;
    Ok(Made::Nothing)
}

pub(crate) fn pivot(ns: &Ns, root: &Position, new: &Position, old: &Position) -> Result<Made, Error> {
    with_locks(LockPlan::new(ns), |locks| Ok(pivot_root(locks, ns, root, new, old)?))?;
    Ok(Made::Nothing)
}

pub(crate) fn set_type(ns: &Ns, mount: &Mnt, to: PropagationType, recursive: bool) -> Result<Made, Error> {
    with_locks(LockPlan::new(ns), |locks| {
        let mut mounts = Vec::new();
        if recursive {
            mounts = locks.subtree(mount)?;
        } else {
            mounts.try_push(mount.clone())?;
        }
        change_types(locks, &mounts, to)
    })?;
    Ok(Made::Nothing)
}

pub(crate) fn join(ns: &Ns, from: &Mnt, to: &Mnt) -> Result<Made, Error> {
    with_locks(LockPlan::new(ns), |locks| set_group(locks, from, to))?;
    Ok(Made::Nothing)
}

/// What the place of a task says.
pub(crate) fn placed(result: Result<(), PlaceError>) -> Result<Made, Error> {
    match result {
        Ok(()) => Ok(Made::Nothing),
        Err(PlaceError::NoMemory) => Err(Error::NoMemory),
        Err(PlaceError::Stale) => Err(Error::Busy),
    }
}
