//! A forest made real: file systems, namespaces, peer groups and mounts as its lines say.
//!
//! 1. Every superblock is an in-memory file system with just the directories that some line names.
//! 2. In each namespace the mounts are *made* in the order of the lines, which is what mountinfo prints by, and
//!    *attached* parents first. A namespace whose root is not among its lines gets a hidden root mount.
//! 3. Peer groups are founded masters first; a group that no line is a member of lives in a namespace of its own, as a
//!    shared mount that the forest's slaves receive from.
//! 4. Each namespace has two tasks: one stands where the reader of the lines stood, and prints them back; the other stands
//!    where paths lead to what the lines show.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use mnt_table::dentry::SuperBlockRef;
use mnt_table::walk::{Last, walk_with};
use mnt_table::{
    Dentry, Kind, LockPlan, MntNamespace, Mount, MountFlags, MountSpec, NamespaceSpec, PathRef, Source,
    WriteSet, pin,
};
use propagate::graph::{enslave, found_group, is_shared, join_after};
use propagate::{Error, with_locks};
use syscalls::listing::{flags_of, mountinfo};
use syscalls::mountinfo::MountInfo;
use syscalls::{Errno, Show, Task};
use tmpfs::{FsError, Options, TmpDentry, TmpSuperBlock};

use crate::forest::{Forest, Group, MountPlan, NamespacePlan, Parent, Plan, Root};

/// The directory of a hidden root mount where the reader of the lines stood.
const READER: &[u8] = b"reader";

/// What the file systems of the forest have above the number of theirs: those of the stress job.
pub const FOREIGN_DEV: u32 = 1 << 24;

/// Why a forest could not be built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildError(String);

impl core::fmt::Display for BuildError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(&self.0)
    }
}

impl core::error::Error for BuildError {}

impl From<FsError> for BuildError {
    fn from(error: FsError) -> Self {
        BuildError(alloc::format!("the in-memory file system: {error:?}"))
    }
}

impl From<Error> for BuildError {
    fn from(error: Error) -> Self {
        BuildError(alloc::format!("the mount table: {error:?}"))
    }
}

impl From<Errno> for BuildError {
    fn from(error: Errno) -> Self {
        BuildError(alloc::format!("a task: {error:?}"))
    }
}

/// A namespace of the forest.
pub struct Place {
    /// Its name in the forest.
    pub name: String,
    /// The namespace.
    pub ns: Arc<MntNamespace<TmpDentry>>,
    /// Stands where the lines were read.
    pub reader: Task<TmpDentry>,
    /// Stands where paths lead into the mounts.
    pub walker: Task<TmpDentry>,
    /// Paths of the input that lead somewhere, and the identity of what they lead to.
    pub visible: Vec<(Vec<u8>, (u32, u64))>,
}

/// All of it.
pub struct World {
    /// The namespaces, in the forest's order.
    pub places: Vec<Place>,
    /// The namespace of the groups from outside; keeps them alive.
    _outside: Task<TmpDentry>,
    outside: Arc<MntNamespace<TmpDentry>>,
    shows: Shows,
    /// Unique ids of all its mounts.
    pub original: Vec<u64>,
}

/// What mountinfo shows of the file systems.
#[derive(Default)]
struct Shows {
    super_blocks: BTreeMap<u32, (u32, u32, Vec<u8>)>,
    /// By identity of the mount's root.
    options: BTreeMap<(u32, u64), Vec<u8>>,
    names: BTreeMap<(u32, u64), Vec<u8>>,
}

impl Show<TmpDentry> for Shows {
    fn device(&self, root: &Arc<TmpDentry>) -> (u32, u32) {
        let (dev, _) = root.id();
        self.super_blocks.get(&dev).map_or((0, dev), |(major, minor, _)| (*major, *minor))
    }

    fn fs_type(&self, root: &Arc<TmpDentry>) -> Vec<u8> {
        let (dev, _) = root.id();
        self.super_blocks.get(&dev).map_or_else(|| b"tmpfs".to_vec(), |(_, _, fs_type)| fs_type.clone())
    }

    fn options(&self, root: &Arc<TmpDentry>) -> Vec<u8> {
        self.options.get(&root.id()).cloned().unwrap_or_else(|| b"rw".to_vec())
    }

    fn root_name(&self, root: &Arc<TmpDentry>) -> Option<Vec<u8>> {
        self.names.get(&root.id()).cloned()
    }
}

impl World {
    /// Builds `forest`.
    ///
    /// # Errors
    /// Out of memory; or a forest that its check should not have let through.
    pub fn build(forest: &Forest) -> Result<World, BuildError> {
        let plan = forest.plan();
        let mut builder = Builder { super_blocks: Vec::new(), held: Vec::new(), shows: Shows::default() };
        for (super_block, index) in plan.superblocks.iter().zip(1..) {
            builder.super_block(index, &super_block.fs_type)?;
            let shown = (super_block.major, super_block.minor, super_block.fs_type.clone());
            builder.shows.super_blocks.insert(index, shown);
        }
        let (outside, outside_task, stand_ins) = builder.outside(&plan)?;
        let mut built = Vec::new();
        for (namespace, plan) in forest.namespaces().iter().zip(&plan.namespaces) {
            built.push(builder.namespace(&namespace.mounts, plan)?);
        }
        relate(&plan, &outside, &stand_ins, &built)?;
        let mut places = Vec::new();
        for (namespace, (plan, built)) in forest.namespaces().iter().zip(plan.namespaces.iter().zip(built)) {
            places.push(builder.place(&namespace.name, &namespace.mounts, plan, built)?);
        }
        let mut world =
            World { places, _outside: outside_task, outside, shows: builder.shows, original: Vec::new() };
        for ns in world.namespaces() {
            world.original.extend(WriteSet::one(&ns).mounts(&ns).map(|mount| mount.unique_id()));
        }
        Ok(world)
    }

    /// What mountinfo shows to the reader in `place`.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn mountinfo(&self, place: &Place) -> Result<Vec<MountInfo>, Errno> {
        mountinfo(&place.reader, &self.shows)
    }

    /// Every namespace, those without lines of their own included.
    pub fn namespaces(&self) -> Vec<Arc<MntNamespace<TmpDentry>>> {
        self.places.iter().map(|place| &place.ns).chain([&self.outside]).cloned().collect()
    }
}

/// A namespace on its way.
struct Built {
    ns: Arc<MntNamespace<TmpDentry>>,
    /// By line.
    mounts: Vec<Arc<Mount<TmpDentry>>>,
    /// The hidden root and the reader's directory in it.
    hidden: Option<(Arc<Mount<TmpDentry>>, Arc<TmpDentry>)>,
}

struct Builder {
    /// Roots, by index.
    super_blocks: Vec<Arc<TmpDentry>>,
    /// Until the world's mounts hold them.
    held: Vec<SuperBlockRef<TmpDentry>>,
    shows: Shows,
}

impl Builder {
    fn super_block(&mut self, dev: u32, fs_type: &[u8]) -> Result<Arc<TmpDentry>, BuildError> {
        let options = Options::new(dev, fs_type);
        let root = TmpSuperBlock::new(options)?;
        self.held.push(SuperBlockRef::new(Arc::clone(&root)));
        self.super_blocks.push(Arc::clone(&root));
        Ok(root)
    }

    /// A file system that no line shows.
    fn hidden_super_block(&mut self) -> Result<Arc<TmpDentry>, BuildError> {
        let dev = self.super_blocks.len() as u32 + 1;
        self.super_block(dev, b"rootfs")
    }

    /// The namespace of the groups without members, and the stand-in of each.
    #[expect(clippy::type_complexity, reason = "a namespace, its task, and a mount per group")]
    fn outside(
        &mut self,
        plan: &Plan,
    ) -> Result<
        (Arc<MntNamespace<TmpDentry>>, Task<TmpDentry>, BTreeMap<usize, Arc<Mount<TmpDentry>>>),
        BuildError,
    > {
        let root = self.hidden_super_block()?;
        let ns = MntNamespace::new(Kind::Ordinary).map_err(Error::from)?;
        let mut locks = WriteSet::one(&ns);
        let top = new_mount(&mut locks, &ns, &root, MountFlags::RELATIME, b"none")?;
        locks.attach_root(&ns, &top);
        let mut stand_ins = BTreeMap::new();
        for (index, group) in plan.groups.iter().enumerate().filter(|(_, group)| group.members.is_empty()) {
            let at = directory(&root, alloc::format!("g{}", group.id).as_bytes())?;
            let shown = &self.super_blocks[group.superblock];
            let mount = new_mount(&mut locks, &ns, shown, MountFlags::RELATIME, b"none")?;
            attach(&mut locks, &mount, &top, &at)?;
            stand_ins.insert(index, mount);
        }
        drop(locks);
        let task = task(&ns, &top, top.root())?;
        Ok((ns, task, stand_ins))
    }

    fn namespace(&mut self, lines: &[MountInfo], plan: &NamespacePlan) -> Result<Built, BuildError> {
        let ns = MntNamespace::from_spec(NamespaceSpec::new(Kind::Ordinary).with_mounts(lines.len()))
            .map_err(Error::from)?;
        let hidden_root = if plan.hidden_root { Some(self.hidden_super_block()?) } else { None };
        let mut roots = Vec::new();
        for (line, mount) in lines.iter().zip(&plan.mounts) {
            roots.push(self.root_dentry(line, mount)?);
        }
        let mut locks = WriteSet::one(&ns);
        let mut hidden = None;
        if let Some(root) = hidden_root {
            let top = new_mount(&mut locks, &ns, &root, MountFlags::RELATIME, b"none")?;
            locks.attach_root(&ns, &top);
            hidden = Some((top, directory(&root, READER)?));
        }
        let mut mounts = Vec::new();
        for ((line, plan), root) in lines.iter().zip(&plan.mounts).zip(&roots) {
            let mount = new_mount(&mut locks, &ns, root, flags_of(line.options.flags), &line.source)?;
            locks.set_unbindable(&mount, line.tags.unbindable);
            if plan.parent == Parent::Own {
                locks.attach_root(&ns, &mount);
            }
            mounts.push(mount);
        }
        for index in &plan.order {
            let MountPlan { parent, at, .. } = &plan.mounts[*index];
            let (parent, base) = match parent {
                Parent::Own => continue,
                Parent::Listed(parent) => (&mounts[*parent], mounts[*parent].root()),
                Parent::Outside => {
                    let (top, reader) = hidden.as_ref().expect("planned with the hidden root");
                    (top, reader)
                }
            };
            let at = directory(base, at)?;
            attach(&mut locks, &mounts[*index], parent, &at)?;
        }
        drop(locks);
        for (plan, (dentry, ns)) in plan.mounts.iter().zip(roots.iter().map(|root| (root, &ns))) {
            if let Root::Deleted(_) = plan.root {
                remove(dentry, ns)?;
            }
        }
        Ok(Built { ns, mounts, hidden })
    }

    /// The dentry that a line's mount shows, and what mountinfo prints of it.
    fn root_dentry(&mut self, line: &MountInfo, plan: &MountPlan) -> Result<Arc<TmpDentry>, BuildError> {
        let top = &self.super_blocks[plan.superblock];
        let root = match &plan.root {
            Root::Path(path) | Root::Deleted(path) => directory(top, path)?,
            Root::Named(name) => {
                let escaped: Vec<u8> =
                    name.iter().map(|byte| if *byte == b'/' { b'_' } else { *byte }).collect();
                let root = directory(top, &escaped)?;
                self.shows.names.insert(root.id(), name.clone());
                root
            }
        };
        self.shows.options.insert(root.id(), line.super_options.clone());
        Ok(root)
    }

    fn place(
        &self,
        name: &str,
        lines: &[MountInfo],
        plan: &NamespacePlan,
        built: Built,
    ) -> Result<Place, BuildError> {
        let Built { ns, mounts, hidden } = built;
        let own = plan.mounts.iter().position(|mount| mount.parent == Parent::Own);
        let root_line = own.or_else(|| {
            let top = |mount: &MountPlan| mount.parent == Parent::Outside && mount.at == b"/";
            plan.mounts.iter().position(top)
        });
        let seen = root_line.map(|line| (&mounts[line], mounts[line].root()));
        let hidden = hidden.as_ref().map(|(mount, reader)| (mount, reader));
        let (reader, walker) = match (hidden, seen) {
            (Some(hidden), Some(seen)) => (hidden, seen),
            (Some(only), None) | (None, Some(only)) => (only, only),
            (None, None) => return Err(BuildError(alloc::format!("{name}: no root"))),
        };
        let (reader, walker) = (task(&ns, reader.0, reader.1)?, task(&ns, walker.0, walker.1)?);
        // Not every line's mount can be reached: others may be mounted over it.
        let visible = lines.iter().filter_map(|line| {
            let look = walk_with(&walker.fs(), &line.mountpoint, Last::Follow, |found| Ok(found.dentry.id()));
            look.ok().map(|id| (line.mountpoint.clone(), id))
        });
        let visible = visible.collect();
        Ok(Place { name: name.into(), ns, reader, walker, visible })
    }
}

/// Founds the groups, masters first, and makes the slaves.
fn relate(
    plan: &Plan,
    outside: &Arc<MntNamespace<TmpDentry>>,
    stand_ins: &BTreeMap<usize, Arc<Mount<TmpDentry>>>,
    built: &[Built],
) -> Result<(), BuildError> {
    let mount_at = |place: &crate::forest::Place| &built[place.namespace].mounts[place.mount];
    let master_of = |index: usize, group: &Group| match group.members.first() {
        Some(first) => plan.namespaces[first.namespace].mounts[first.mount].master,
        None => stand_ins.get(&index).and(group.stand_in_master),
    };
    let mut all = LockPlan::new(outside);
    built.iter().for_each(|built| all.namespace(&built.ns));
    with_locks(all, |locks| {
        let mut founded: Vec<Option<Arc<Mount<TmpDentry>>>> = plan.groups.iter().map(|_| None).collect();
        let mut waiting: Vec<usize> = (0..plan.groups.len()).collect();
        // Each round founds the groups whose master is there; the forest's check found no circle.
        while !waiting.is_empty() {
            let before = waiting.len();
            let mut later = Vec::new();
            for index in core::mem::take(&mut waiting) {
                let group = &plan.groups[index];
                let master = master_of(index, group);
                let above = match master {
                    Some(master) => match &founded[master] {
                        Some(mount) => Some(Arc::clone(mount)),
                        None => {
                            later.push(index);
                            continue;
                        }
                    },
                    None => None,
                };
                let first = match group.members.first() {
                    Some(first) => mount_at(first),
                    None => &stand_ins[&index],
                };
                let ns = Arc::clone(locks.namespace_of(first).expect("all are locked"));
                let stamp =
                    above.as_ref().and_then(|mount| mount.propagation().peers).map(|(group, _)| group);
                let new = locks.new_group(&ns, stamp.as_deref())?;
                found_group(locks, &new, first);
                // Each stands behind the one before it, and in the master's list too: the last one first.
                let mut last = first;
                for member in group.members.iter().skip(1).map(mount_at) {
                    join_after(locks, last, member);
                    last = member;
                }
                if let Some(above) = &above {
                    for member in group.members.iter().rev().map(mount_at) {
                        enslave(locks, above, member);
                    }
                    if group.members.is_empty() {
                        enslave(locks, above, first);
                    }
                }
                founded[index] = Some(Arc::clone(first));
            }
            if later.len() == before {
                return Err(Error::Invalid.into());
            }
            waiting = later;
        }
        for (master, group) in founded.iter().zip(&plan.groups) {
            let master = master.as_ref().expect("all were founded");
            for slave in group.slaves.iter().rev().map(mount_at).filter(|slave| !is_shared(slave)) {
                enslave(locks, master, slave);
            }
        }
        Ok(())
    })
    .map_err(BuildError::from)
}

fn new_mount(
    locks: &mut WriteSet<TmpDentry>,
    ns: &Arc<MntNamespace<TmpDentry>>,
    root: &Arc<TmpDentry>,
    flags: MountFlags,
    source: &[u8],
) -> Result<Arc<Mount<TmpDentry>>, BuildError> {
    let spec = MountSpec::new(Arc::clone(root), flags, Source::new(source).map_err(Error::from)?);
    Ok(locks.new_mount(ns, spec).map_err(Error::from)?)
}

fn attach(
    locks: &mut WriteSet<TmpDentry>,
    mount: &Arc<Mount<TmpDentry>>,
    parent: &Arc<Mount<TmpDentry>>,
    at: &Arc<TmpDentry>,
) -> Result<(), BuildError> {
    let joint = locks.prepare(mount, parent, at).map_err(Error::from)?;
    locks.attach(mount, joint, &pin());
    Ok(())
}

fn task(
    ns: &Arc<MntNamespace<TmpDentry>>,
    mount: &Arc<Mount<TmpDentry>>,
    dentry: &Arc<TmpDentry>,
) -> Result<Task<TmpDentry>, BuildError> {
    let kept = mount.keep(&pin());
    let Ok(mount) = kept else { return Err(BuildError("a new mount is on its way out".into())) };
    Ok(Task::new(ns, &PathRef { mount, dentry: Arc::clone(dentry) })?)
}

/// The directory at `path` below `base`, made where it is missing.
pub fn directory(base: &Arc<TmpDentry>, path: &[u8]) -> Result<Arc<TmpDentry>, BuildError> {
    let mut at = Arc::clone(base);
    for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
        at = match at.mkdir(name) {
            Err(FsError::Exists) => {
                let guard = pin();
                at.lookup(name, &guard).map(Arc::clone).map_err(|_| FsError::NotFound)?
            }
            made => made?,
        };
    }
    Ok(at)
}

/// Removes a directory that a mount shows, as somebody did before the lines were read.
fn remove(dentry: &Arc<TmpDentry>, ns: &Arc<MntNamespace<TmpDentry>>) -> Result<(), BuildError> {
    let parent = {
        let guard = pin();
        dentry.parent(&guard).map(|(name, parent)| (name.to_vec(), Arc::clone(parent)))
    };
    match parent {
        Some((name, parent)) if !dentry.is_removed() => {
            let _nobody_mounts_on_it = parent.rmdir(&name, ns)?;
            Ok(())
        }
        _ => Ok(()),
    }
}
