//! Builds a forest through system calls.
//!
//! 1. Each superblock of the forest is a file system of the kernel's type `stand-in`, which shows the type, the device and
//!    the options that it is told, and exists once for each number. Where there is no such type (on Linux) it is a tmpfs. A
//!    base is a mount of its root in this process's namespace, where directories are made and removed.
//! 2. Each peer group gets a seed: a mount of its superblock in this process's namespace, made shared, a slave of the seed of
//!    the group's master if it has one. Seeds stay as long as the stress, so they stand in for groups that live outside the
//!    forest.
//! 3. Mounts are made in the order of the lines, detached, from a file system context with the line's source or as a clone
//!    of such a mount's subtree. Their namespace is made by unshare(2); a hidden file system becomes its root. They are
//!    attached parents first, and of one parent the deepest first, so that no path leads into a child. All are private then.
//!    A mount that is its own parent is the root of a namespace that the kernel makes around it, where it can
//!    ([`debug_call::namespace`]).
//! 4. Each mount takes the group of its seed with `MOVE_MOUNT_SET_GROUP`.
//! 5. Readers of the namespace have the root that its lines were read from: the root of the one mount that hangs outside
//!    the list, whatever is mounted over it. If there are several, or it is not at `/`, that is the directory of the hidden
//!    file system that they hang on.

use std::collections::HashMap;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use linux_raw_sys::general as abi;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, mkdirat, open, openat, unlinkat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen, mount, mount_change,
    move_mount, open_tree, unmount,
};
use rustix::process::{chdir, pivot_root};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};
use stress::forest::{Forest, MountPlan, NamespacePlan, Parent, Plan, Root};
use syscalls::mountinfo::{MountInfo, OptionFlags};

use super::place::{self, Arena, Mark, Place, find, mountinfo, name_of};
use crate::debug_call;
use crate::sys::mount_setattr;

/// The type of file systems that show what they are told.
const STAND_IN: &str = "stand-in";
/// In a stand-in, the directory of those whose root shows without a path.
const NAMED: &str = ".named";
/// The directory, in mounts, that changes are made in.
const ARENA: &str = ".stress";
/// Arenas of one mount, and mounts with arenas of one namespace.
const ARENAS: usize = 4;
const MOUNTS_WITH_ARENAS: usize = 6;
/// Where seeds are attached.
const SEEDS: &str = "/tmp";

/// The whole forest.
pub(crate) struct World {
    pub(crate) places: Vec<Place>,
    /// The namespace that it was built from.
    pub(crate) home: OwnedFd,
    /// A directory of a proc file system.
    pub(crate) proc: OwnedFd,
    /// This program.
    pub(crate) program: OwnedFd,
    _seeds: Seeds,
}

/// Seeds by group: of members, and of those that only receive.
#[derive(Default)]
struct Seeds {
    shared: HashMap<usize, OwnedFd>,
    slaves: HashMap<usize, OwnedFd>,
}

impl World {
    /// Builds `forest`; this process goes into a namespace of its own first.
    ///
    /// # Errors
    /// A call that failed.
    pub(crate) fn build(forest: &Forest) -> Result<World> {
        let path = OFlags::PATH | OFlags::CLOEXEC;
        let proc = open("/proc", path | OFlags::DIRECTORY, Mode::empty()).context("cannot open /proc")?;
        let program = open("/proc/self/exe", path, Mode::empty()).context("cannot open this program")?;
        let plan = forest.plan();
        private_namespace()?;
        mount("seeds", SEEDS, "tmpfs", MountFlags::empty(), None).context("cannot mount a tmpfs")?;
        let home = namespace(&proc)?;
        let mut builder = Builder {
            plan: &plan,
            forest,
            proc: &proc,
            home: &home,
            stand_in: has_stand_in(),
            bases: Vec::new(),
        };
        for superblock in 0..plan.superblocks.len() {
            let base = builder.fresh(superblock, b"base").and_then(|base| {
                attach_hidden(&base, &format!("base-{superblock}"))?;
                Ok(base)
            });
            builder.bases.push(base.with_context(|| format!("superblock {superblock}"))?);
        }
        let seeds = builder.seeds().context("cannot make the peer groups")?;
        let mut places = Vec::new();
        for index in 0..plan.namespaces.len() {
            let place = builder.place(index, &seeds);
            places.push(place.with_context(|| format!("namespace {}", forest.namespaces()[index].name))?);
        }
        for (place, plan) in places.iter_mut().zip(&plan.namespaces) {
            place.enter()?;
            place.lines = mountinfo(&proc)?;
            look(place, plan, &proc)?;
            move_into_link_name_space(home.as_fd(), Some(LinkNameSpaceType::Mount))?;
        }
        Ok(World { places, home, proc, program, _seeds: seeds })
    }

    /// Goes back to where the forest was built from.
    ///
    /// # Errors
    /// Those of setns(2).
    pub(crate) fn leave(&self) -> Result<()> {
        move_into_link_name_space(self.home.as_fd(), Some(LinkNameSpaceType::Mount)).context("cannot go back")
    }
}

fn namespace(proc: &OwnedFd) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    openat(proc, "self/ns/mnt", flags, Mode::empty()).context("cannot open the namespace")
}

fn has_stand_in() -> bool {
    fsopen(STAND_IN, FsOpenFlags::FSOPEN_CLOEXEC).is_ok()
}

struct Builder<'a> {
    plan: &'a Plan,
    forest: &'a Forest,
    proc: &'a OwnedFd,
    home: &'a OwnedFd,
    stand_in: bool,
    /// By superblock.
    bases: Vec<OwnedFd>,
}

/// Attaches a mount where nobody looks.
fn attach_hidden(mount: &OwnedFd, name: &str) -> Result<()> {
    let at = format!("{SEEDS}/{name}");
    fs::create_dir(&at).context("cannot make a directory")?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(mount, "", CWD, &at, flags).context("cannot attach a mount")
}

/// A detached mount.
fn clone_of(from: impl AsFd, path: &Path) -> Result<OwnedFd> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    open_tree(from, path, flags).with_context(|| format!("cannot clone {}", path.display()))
}

/// A path without its first slash.
fn relative(path: &[u8]) -> &Path {
    Path::new(std::ffi::OsStr::from_bytes(path.strip_prefix(b"/").unwrap_or(path)))
}

/// Makes a directory and those above it.
fn make_directories(from: impl AsFd, path: &Path) -> Result<()> {
    let mut at = PathBuf::new();
    for part in path.iter() {
        at.push(part);
        match mkdirat(from.as_fd(), &at, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error).with_context(|| format!("cannot make {}", at.display())),
        }
    }
    Ok(())
}

impl Builder<'_> {
    /// A detached mount from a context: of a stand-in that there may be already, or of a new tmpfs.
    fn fresh(&self, superblock: usize, source: &[u8]) -> Result<OwnedFd> {
        let kind = if self.stand_in { STAND_IN } else { "tmpfs" };
        let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).context("cannot open the type")?;
        fsconfig_set_string(&context, "source", source).context("the source")?;
        if self.stand_in {
            let shown = &self.plan.superblocks[superblock];
            let device = format!("{}:{}", shown.major, shown.minor);
            fsconfig_set_string(&context, "instance", superblock.to_string()).context("the instance")?;
            fsconfig_set_string(&context, "type", &shown.fs_type[..]).context("the type")?;
            fsconfig_set_string(&context, "device", device).context("the device")?;
            if let Some(line) = self.line_of(superblock) {
                fsconfig_set_string(&context, "options", &line.super_options[..]).context("the options")?;
            }
        }
        fsconfig_create(&context).context("cannot make a file system")?;
        let flags = FsMountFlags::FSMOUNT_CLOEXEC;
        fsmount(&context, flags, MountAttrFlags::empty()).context("cannot make a mount")
    }

    /// The first line that shows a superblock.
    fn line_of(&self, superblock: usize) -> Option<&MountInfo> {
        let mut mounts = self.plan.namespaces.iter().zip(self.forest.namespaces());
        mounts.find_map(|(plan, namespace)| {
            let index = plan.mounts.iter().position(|mount| mount.superblock == superblock)?;
            namespace.mounts.get(index)
        })
    }

    /// A mount for each group, masters first.
    fn seeds(&self) -> Result<Seeds> {
        let mut seeds = Seeds::default();
        for index in 0..self.plan.groups.len() {
            self.seed(index, &mut seeds)?;
        }
        Ok(seeds)
    }

    fn seed(&self, group: usize, seeds: &mut Seeds) -> Result<()> {
        if seeds.shared.contains_key(&group) {
            return Ok(());
        }
        let of = &self.plan.groups[group];
        let master = match of.members.first() {
            Some(place) => self.plan.namespaces[place.namespace].mounts[place.mount].master,
            None => of.stand_in_master,
        };
        if let Some(master) = master {
            self.seed(master, seeds)?;
        }
        let from = match master.and_then(|master| seeds.shared.get(&master)) {
            Some(master) => clone_of(master, Path::new(""))?,
            None => clone_of(&self.bases[of.superblock], Path::new(""))?,
        };
        attach_hidden(&from, &format!("group-{group}"))?;
        if master.is_some() {
            mount_setattr(from.as_fd(), 0, 0, abi::MS_SLAVE.into()).context("cannot make a slave")?;
        }
        mount_setattr(from.as_fd(), 0, 0, abi::MS_SHARED.into()).context("cannot share")?;
        let slave = clone_of(&from, Path::new(""))?;
        attach_hidden(&slave, &format!("slave-{group}"))?;
        mount_setattr(slave.as_fd(), 0, 0, abi::MS_SLAVE.into()).context("cannot make a slave")?;
        seeds.shared.insert(group, from);
        seeds.slaves.insert(group, slave);
        Ok(())
    }

    /// One namespace.
    fn place(&self, index: usize, seeds: &Seeds) -> Result<Place> {
        let (plan, records) = (&self.plan.namespaces[index], &self.forest.namespaces()[index]);
        let mut mounts = Vec::with_capacity(plan.mounts.len());
        let mut own = None;
        for (mount, record) in plan.mounts.iter().zip(&records.mounts) {
            let made = self.mount(mount, record);
            let made = made.with_context(|| format!("mount {}", record.mountpoint.escape_ascii()))?;
            if self.stand_in && mount.parent == Parent::Own {
                // Its turn is now: mounts are listed in the order in which they were made.
                own = Some((mounts.len(), debug_call::namespace(&made)?));
            }
            mounts.push(made);
        }
        let root = match own {
            Some((index, namespace)) => {
                mounts[index] = root_in(&namespace)?;
                mounts[index].try_clone()?
            }
            None => hidden_root()?,
        };
        self.attach(plan, &mounts, &root)?;
        for ((mount, record), fd) in plan.mounts.iter().zip(&records.mounts).zip(&mounts) {
            let seed = match (mount.group, mount.master) {
                (Some(group), _) => seeds.shared.get(&group),
                (None, Some(master)) => seeds.slaves.get(&master),
                (None, None) => None,
            };
            if let Some(seed) = seed {
                let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH
                    | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH
                    | MoveMountFlags::MOVE_MOUNT_SET_GROUP;
                move_mount(seed, "", fd, "", flags)
                    .with_context(|| format!("the group of {}", record.mountpoint.escape_ascii()))?;
            }
            if record.tags.unbindable {
                mount_setattr(fd.as_fd(), 0, 0, abi::MS_UNBINDABLE.into())
                    .context("cannot make unbindable")?;
            }
            if let Root::Deleted(path) = &mount.root {
                unlinkat(&self.bases[mount.superblock], relative(path), AtFlags::REMOVEDIR)
                    .with_context(|| format!("cannot remove {}", path.escape_ascii()))?;
            }
        }
        let (root, root_is) = match root_of(plan) {
            Some((index, root_is)) => (mounts[index].try_clone()?, root_is),
            None => (root, place::Root::Directory),
        };
        let namespace = namespace(self.proc)?;
        move_into_link_name_space(self.home.as_fd(), Some(LinkNameSpaceType::Mount))
            .context("cannot go back")?;
        let name = records.name.clone();
        let (marks, arenas, lines) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Place { name, namespace, root, root_is, marks, arenas, lines, mounts })
    }

    /// A detached mount as a line describes it, private.
    fn mount(&self, plan: &MountPlan, record: &MountInfo) -> Result<OwnedFd> {
        let path = match &plan.root {
            Root::Path(path) | Root::Deleted(path) => relative(path).to_owned(),
            Root::Named(name) => {
                let file = name.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
                Path::new(NAMED).join(file)
            }
        };
        let base = &self.bases[plan.superblock];
        make_directories(base, &path)?;
        let mount = match (self.stand_in, path.as_os_str().is_empty()) {
            (true, true) => self.fresh(plan.superblock, &record.source)?,
            (true, false) => clone_of(self.fresh(plan.superblock, &record.source)?, &path)?,
            (false, _) => clone_of(base, &path)?,
        };
        let (set, clear) = attributes(record.options.flags);
        mount_setattr(mount.as_fd(), set, clear, 0).context("cannot set the options")?;
        Ok(mount)
    }

    /// Attaches all mounts to one another and to the hidden root.
    fn attach(&self, plan: &NamespacePlan, mounts: &[OwnedFd], root: &OwnedFd) -> Result<()> {
        // Each parent's children, those with the longest paths first, and those on a mount's root last.
        let mut children: HashMap<Option<usize>, Vec<usize>> = HashMap::new();
        let mut open = vec![None];
        for index in &plan.order {
            let parent = match plan.mounts[*index].parent {
                Parent::Listed(parent) => Some(parent),
                Parent::Own if self.stand_in => {
                    open.push(Some(*index));
                    continue;
                }
                Parent::Own | Parent::Outside => None,
            };
            children.entry(parent).or_default().push(*index);
        }
        children.values_mut().for_each(|children| {
            children.sort_by_key(|index| {
                let at = &plan.mounts[*index].at;
                std::cmp::Reverse(at.split(|byte| *byte == b'/').filter(|part| !part.is_empty()).count())
            });
        });
        while let Some(parent) = open.pop() {
            for child in children.remove(&parent).unwrap_or_default() {
                let at = relative(&plan.mounts[child].at);
                let target = parent.map_or(root, |parent| &mounts[parent]);
                match parent.map(|parent| &plan.mounts[parent]) {
                    Some(MountPlan { superblock, root: Root::Path(root) | Root::Deleted(root), .. }) => {
                        make_directories(&self.bases[*superblock], &relative(root).join(at))?;
                    }
                    _ => make_directories(target, at)?,
                }
                let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
                move_mount(&mounts[child], "", target, at, flags)
                    .with_context(|| format!("cannot attach {}", at.display()))?;
                open.push(Some(child));
            }
        }
        Ok(())
    }
}

/// The mount whose root is that of a namespace's readers, if it is one's.
fn root_of(plan: &NamespacePlan) -> Option<(usize, place::Root)> {
    let is_top = |mount: &MountPlan| matches!(mount.parent, Parent::Own | Parent::Outside);
    let mut tops = plan.mounts.iter().zip(0..).filter(|(mount, _)| is_top(mount));
    let (root, index) = tops.next().filter(|(mount, _)| mount.at == b"/")?;
    if tops.next().is_some() {
        return None;
    }
    let covers = |mount: &MountPlan| mount.parent == Parent::Listed(index) && mount.at == b"/";
    let root_is = match root.parent {
        Parent::Own => place::Root::Bottom,
        _ if plan.mounts.iter().any(covers) => place::Root::Covered,
        _ => place::Root::Open,
    };
    Some((index, root_is))
}

/// Attributes to set and to clear for the options of a line.
fn attributes(flags: OptionFlags) -> (u64, u64) {
    let words = [
        (OptionFlags::RDONLY, abi::MOUNT_ATTR_RDONLY),
        (OptionFlags::NOSUID, abi::MOUNT_ATTR_NOSUID),
        (OptionFlags::NODEV, abi::MOUNT_ATTR_NODEV),
        (OptionFlags::NOEXEC, abi::MOUNT_ATTR_NOEXEC),
        (OptionFlags::NODIRATIME, abi::MOUNT_ATTR_NODIRATIME),
        (OptionFlags::NOSYMFOLLOW, abi::MOUNT_ATTR_NOSYMFOLLOW),
    ];
    let set = words.iter().filter(|(flag, _)| flags.contains(*flag)).fold(0, |set, (_, bit)| set | bit);
    let times = if flags.contains(OptionFlags::NOATIME) {
        abi::MOUNT_ATTR_NOATIME
    } else if flags.contains(OptionFlags::RELATIME) {
        abi::MOUNT_ATTR_RELATIME
    } else {
        abi::MOUNT_ATTR_STRICTATIME
    };
    (u64::from(set | times), u64::from(abi::MOUNT_ATTR__ATIME))
}

/// Makes a namespace of this process's own, from which nothing propagates.
fn private_namespace() -> Result<()> {
    // SAFETY: one thread, and a mount namespace is no property that memory or descriptors rest on.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.context("cannot make a namespace")?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .context("cannot make the mounts private")
}

/// Makes a namespace whose root is a fresh file system with one directory in it, and goes there; returns that directory.
fn hidden_root() -> Result<OwnedFd> {
    private_namespace()?;
    mount("hidden", "/tmp", "tmpfs", MountFlags::empty(), None).context("cannot mount a tmpfs")?;
    chdir("/tmp")?;
    mkdirat(CWD, "reader", Mode::from_raw_mode(0o755))?;
    pivot_root(".", ".").context("cannot pivot")?;
    unmount(".", UnmountFlags::DETACH).context("cannot detach the old root")?;
    chdir("/")?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    open("/reader", flags, Mode::empty()).context("cannot open the root")
}

/// Goes to `namespace`; returns its root.
fn root_in(namespace: &OwnedFd) -> Result<OwnedFd> {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Mount))
        .context("cannot enter a namespace")?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    open("/", flags, Mode::empty()).context("cannot open the root")
}

/// Finds out what the mounts' paths lead to, as a reader in the place, and makes arenas in some that can be written.
fn look(place: &mut Place, plan: &NamespacePlan, proc: &OwnedFd) -> Result<()> {
    for (record, mount) in place.lines.iter().zip(&plan.mounts) {
        let path = PathBuf::from(std::ffi::OsStr::from_bytes(&record.mountpoint));
        // What is hidden by others is nobody's to find.
        let Ok((fd, found)) = find(CWD, &path) else { continue };
        if found.mount != u64::from(record.id) {
            continue;
        }
        let above = find(&fd, "..").with_context(|| format!("above {}", path.display()))?.1.file;
        let is_writable = !record.options.flags.contains(OptionFlags::RDONLY);
        if is_writable
            && matches!(mount.root, Root::Path(_))
            && place.arenas.len() < ARENAS * MOUNTS_WITH_ARENAS
        {
            for number in 0..ARENAS {
                let arena = Path::new(ARENA).join(number.to_string());
                if make_directories(&fd, &arena.join("x")).is_ok() {
                    place.arenas.push(Arena { path: path.join(arena) });
                }
            }
        }
        let name = name_of(&fd, proc).with_context(|| format!("the name of {}", path.display()))?;
        place.marks.push(Mark { path, name, found, above });
    }
    Ok(())
}
