//! What the models of mounts stand on: file systems of a few fixed names, and trees of mounts over them.

use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering as StdOrdering};
use std::sync::{Arc, OnceLock};

use loom::cell::UnsafeCell;
use loom::sync::atomic::AtomicBool;
use loom::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use mnt_table::dentry::{ActiveMounts, LookupError, MountedHere};
use mnt_table::mount::{MountFlags, MountSpec};
use mnt_table::place::{FsStruct, PathRef};
use mnt_table::reclaim::Guard;
use mnt_table::sync::planted;
use mnt_table::tree::Joint;
use mnt_table::walk::{Last, WalkError, walk_with};
use mnt_table::{Dentry, Kind, LockPlan, MntNamespace, Mount, NamespaceSpec, SuperBlock, WriteSet, pin};
use propagate::with_locks;

use crate::harness::Outcome;

/// A name in a file system of a model. Never changes.
pub struct Name {
    /// `file system:path`.
    label: String,
    name: &'static [u8],
    instance: Arc<Instance>,
    mounted_here: MountedHere<Name>,
    removed: AtomicBool,
    around: OnceLock<Around>,
}

/// Where the file system holds a name's parent and its children.
struct Around {
    parent: *const Arc<Name>,
    children: Vec<*const Arc<Name>>,
}

// SAFETY: the pointers are into the slice of a `FileSystem`, which never changes and which its model keeps to the end of
// the execution; what they lead to is shared.
unsafe impl Send for Around {}
// SAFETY: as above.
unsafe impl Sync for Around {}

impl Name {
    /// `file system:path`.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Removes the entry, as a file system does between the two halves of a [`mnt_table::removal::Removal`].
    pub fn remove(&self) {
        self.removed.store(true, Release); // Release: pairs with the Acquire in `is_removed`.
    }

    fn around(&self) -> &Around {
        self.around.get().expect("set when the file system is made")
    }
}

impl Dentry for Name {
    type SuperBlock = Instance;

    fn super_block(&self) -> &Arc<Instance> {
        &self.instance
    }

    fn mounted_here(&self) -> &MountedHere<Self> {
        &self.mounted_here
    }

    fn is_dir(&self) -> bool {
        true
    }

    fn lookup<'g>(&'g self, name: &[u8], _guard: &'g Guard) -> Result<&'g Arc<Self>, LookupError> {
        // Acquire: pairs with the Release in `shutdown`. Relaxed: what no file system may do, planted.
        let acquire = if planted("shutdown_seen_relaxed") { Relaxed } else { Acquire };
        if self.instance.forgets_names && self.instance.forgotten.load(acquire) {
            return Err(LookupError::NotFound);
        }
        // SAFETY: see `Around`.
        let mut children = self.around().children.iter().map(|child| unsafe { &**child });
        children.find(|child| child.name == name).ok_or(LookupError::NotFound)
    }

    fn parent<'g>(&'g self, _guard: &'g Guard) -> Option<(&'g [u8], &'g Arc<Self>)> {
        // SAFETY: see `Around`; null for a root.
        unsafe { self.around().parent.as_ref() }.map(|parent| (self.name, parent))
    }

    fn symlink(&self) -> Option<&[u8]> {
        None
    }

    fn is_removed(&self) -> bool {
        self.removed.load(Acquire) // Acquire: pairs with the Release in `remove`.
    }
}

/// The superblock of a [`FileSystem`].
pub struct Instance {
    active: ActiveMounts,
    /// Read by whoever uses the file system, written by its shutdown: loom reports a use that the shutdown did not wait
    /// for.
    alive: UnsafeCell<bool>,
    shutdowns: AtomicU32,
    forgets_names: bool,
    forgotten: AtomicBool,
}

// SAFETY: the cell is accessed under the rules of mounts; loom checks them.
unsafe impl Sync for Instance {}

impl Instance {
    /// Uses the file system, which must not be shut down.
    pub fn touch(&self) {
        // SAFETY: loom reports an access beside the write in `shutdown`.
        assert!(self.alive.with(|alive| unsafe { *alive }), "used after its shutdown");
    }

    /// How often it was shut down.
    pub fn shutdowns(&self) -> u32 {
        self.shutdowns.load(StdOrdering::Relaxed) // Relaxed: a number that loom does not see.
    }
}

impl SuperBlock for Instance {
    fn active(&self) -> &ActiveMounts {
        &self.active
    }

    fn shutdown(&self) {
        self.shutdowns.fetch_add(1, StdOrdering::Relaxed); // Relaxed: as above.
        // SAFETY: as in `touch`.
        self.alive.with_mut(|alive| unsafe { *alive = false });
        if self.forgets_names {
            self.forgotten.store(true, Release); // Release: pairs with the Acquire in `lookup`.
        }
    }
}

/// A file system of a model: its names in one slice, the root first.
pub struct FileSystem(Box<[Arc<Name>]>);

impl FileSystem {
    /// The file system `label` with a root and `paths`, each after its parent.
    pub fn new<const N: usize>(label: &str, paths: [&'static str; N]) -> Self {
        Self::make(label, &paths, false)
    }

    /// As [`FileSystem::new`]; it finds no name any more once it was shut down.
    pub fn forgetful<const N: usize>(label: &str, paths: [&'static str; N]) -> Self {
        Self::make(label, &paths, true)
    }

    fn make(label: &str, paths: &[&'static str], forgets_names: bool) -> Self {
        let instance = Arc::new(Instance {
            active: ActiveMounts::new(),
            alive: UnsafeCell::new(true),
            shutdowns: AtomicU32::new(0),
            forgets_names,
            forgotten: AtomicBool::new(false),
        });
        let all: Vec<&'static str> = std::iter::once("").chain(paths.iter().copied()).collect();
        let name = |path: &&'static str| {
            Arc::new(Name {
                label: format!("{label}:{path}"),
                name: path.rsplit('/').next().unwrap_or_default().as_bytes(),
                instance: Arc::clone(&instance),
                mounted_here: MountedHere::new(),
                removed: AtomicBool::new(false),
                around: OnceLock::new(),
            })
        };
        let names: Box<[Arc<Name>]> = all.iter().map(name).collect();
        let parent_of = |path: &'static str| path.rsplit_once('/').map_or("", |(parent, _)| parent);
        for (at, path) in all.iter().enumerate() {
            let is_child = |child: &usize| *child != 0 && parent_of(all[*child]) == *path;
            let parent = all.iter().position(|parent| at != 0 && *parent == parent_of(path));
            let around = Around {
                parent: parent.map_or(ptr::null(), |parent| &raw const names[parent]),
                children: (0..all.len()).filter(is_child).map(|child| &raw const names[child]).collect(),
            };
            assert!(names[at].around.set(around).is_ok());
        }
        FileSystem(names)
    }

    /// The root.
    pub fn root(&self) -> &Arc<Name> {
        &self.0[0]
    }

    /// A name, counted in the order in which [`FileSystem::new`] was given them.
    pub fn name(&self, at: usize) -> &Arc<Name> {
        &self.0[at + 1]
    }

    /// The superblock.
    pub fn instance(&self) -> &Instance {
        &self.0[0].instance
    }
}

/// A mount that is going to be in `ns`, attached nowhere yet.
pub fn new_mount(
    locks: &mut WriteSet<Name>,
    ns: &Arc<MntNamespace<Name>>,
    root: &Arc<Name>,
) -> Arc<Mount<Name>> {
    let spec = MountSpec::new(
        Arc::clone(root),
        MountFlags::empty(),
        mnt_table::Source::new(b"model").expect("memory"),
    );
    locks.new_mount(ns, spec).expect("memory")
}

/// Ready to attach `child` on `on` in `parent`.
pub fn joint(
    locks: &mut WriteSet<Name>,
    child: &Arc<Mount<Name>>,
    parent: &Arc<Mount<Name>>,
    on: &Arc<Name>,
) -> Joint<Name> {
    locks.prepare(child, parent, on).unwrap_or_else(|error| panic!("{error:?}"))
}

/// A namespace with a mount of `fs` as its root.
pub fn namespace(fs: &FileSystem) -> (Arc<MntNamespace<Name>>, Arc<Mount<Name>>) {
    namespace_of(fs.root())
}

/// A namespace whose root mount shows what is below `root`.
pub fn namespace_of(root: &Arc<Name>) -> (Arc<MntNamespace<Name>>, Arc<Mount<Name>>) {
    let ns = MntNamespace::from_spec(NamespaceSpec::new(Kind::Ordinary).with_mounts(4)).expect("memory");
    let mut locks = WriteSet::one(&ns);
    let root = new_mount(&mut locks, &ns, root);
    locks.attach_root(&ns, &root);
    drop(locks);
    (ns, root)
}

/// Mounts `root` on `on` in `parent`.
pub fn mount(
    ns: &Arc<MntNamespace<Name>>,
    root: &Arc<Name>,
    parent: &Arc<Mount<Name>>,
    on: &Arc<Name>,
) -> Arc<Mount<Name>> {
    let mut locks = WriteSet::one(ns);
    let child = new_mount(&mut locks, ns, root);
    let joint = joint(&mut locks, &child, parent, on);
    locks.attach(&child, joint, &pin());
    child
}

/// A reference to `dentry` in `mount`, which is not being umounted.
pub fn path(mount: &Mount<Name>, dentry: &Arc<Name>) -> PathRef<Name> {
    let Ok(mount) = mount.keep(&pin()) else { panic!("the mount is on its way out") };
    PathRef { mount, dentry: Arc::clone(dentry) }
}

/// A task whose root and working directory are the root of `mount`.
pub fn task(mount: &Mount<Name>) -> FsStruct<Name> {
    let path = path(mount, mount.root());
    FsStruct::new(&path).unwrap_or_else(|error| panic!("{error:?}"))
}

/// Where a walk ends: the label of the dentry, or the error.
pub fn walk_label(fs: &FsStruct<Name>, path: &str) -> Outcome {
    walk_with(fs, path.as_bytes(), Last::Follow, |found| Ok(found.dentry.label().to_owned()))
        .unwrap_or_else(|error| error_label(error).to_owned())
}

fn error_label(error: WalkError) -> &'static str {
    match error {
        WalkError::NotFound => "ENOENT",
        WalkError::NotDirectory => "ENOTDIR",
        WalkError::Loop => "ELOOP",
        WalkError::NameTooLong => "ENAMETOOLONG",
        WalkError::Leaves => "EXDEV",
        WalkError::Again => "EAGAIN",
        WalkError::BadFlags => "EINVAL",
        WalkError::Denied => "EACCES",
        WalkError::NoLastName => "EBUSY",
        WalkError::NoMemory => "ENOMEM",
    }
}

/// Removes everything from `namespaces`, which nobody uses any more.
pub fn dissolve<const N: usize>(namespaces: [Arc<MntNamespace<Name>>; N]) {
    for ns in namespaces {
        let gone = with_locks(LockPlan::new(&ns), |locks| propagate::umount::dissolve(locks, &ns));
        gone.unwrap_or_else(|error| panic!("{error:?}"));
    }
}

/// The end of an execution of the structure layer: nothing is left, and every file system was shut down once.
#[cfg(not(crossbeam_loom))]
pub fn end<const N: usize>(file_systems: [&FileSystem; N]) {
    mnt_table::reclaim::drain();
    assert_eq!(mnt_table::mount::live_mounts(), 0, "a mount was not freed");
    check_file_systems(file_systems);
}

/// Every file system was shut down once, and nobody holds its names any more.
pub fn check_file_systems<const N: usize>(file_systems: [&FileSystem; N]) {
    for fs in file_systems {
        assert_eq!(Arc::strong_count(fs.root()), 1, "somebody holds {}", fs.root().label());
        assert_eq!(fs.instance().shutdowns(), 1, "shutdowns of {}", fs.root().label());
    }
}
