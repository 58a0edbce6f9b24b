//! Namespaces that a process makes for itself: copies that are changed at will, roots that are pivoted into, programs that
//! are executed there, threads that look while the process changes.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_string, fsmount, fsopen, mount_bind_recursive, mount_change, move_mount,
    unmount,
};
use rustix::process::{chdir, fchdir, pivot_root};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::build::World;
use super::place::{Place, Root, find, mountinfo};
use super::reader::{self, TAG, TAG_TEXT, tag};
use super::shared::{Shared, add};
use super::writer;
use crate::sys;

/// Changes in a copy.
const CHANGES: usize = 12;

/// Runs one such process to its end. There is none where nobody can pivot, or where nothing can be mounted.
pub(crate) fn run(world: &World, place: &Place, rng: &mut SmallRng, shared: &Shared) {
    if !place.root_is.can_pivot() || place.arenas.is_empty() {
        return;
    }
    let seed = rng.random();
    let body = || {
        let mut rng = SmallRng::seed_from_u64(seed);
        match copy(world, place, &mut rng, shared) {
            Ok(()) => 0,
            Err(error) => {
                shared.violation(&format!("{}: in a copy: {error:#}", place.name));
                1
            }
        }
    };
    // Without memory there is no process.
    if let Ok(pid) = sys::fork(body) {
        sys::wait(pid);
    }
}

fn copy(world: &World, place: &Place, rng: &mut SmallRng, shared: &Shared) -> Result<()> {
    // SAFETY: one thread, and a mount namespace is no property that memory or descriptors rest on.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.context("cannot copy the namespace")?;
    add(&shared.namespace_clones, 1);
    if rng.random_ratio(1, 3) {
        // As peers: what changes here changes there.
        writer::changes(world, place, CHANGES, rng, shared);
        return Ok(());
    }
    let mut reach = Reach { receives: rng.random(), shares: false };
    let kind =
        if reach.receives { MountPropagationFlags::DOWNSTREAM } else { MountPropagationFlags::PRIVATE };
    mount_change("/", kind | MountPropagationFlags::REC).context("cannot stop sharing")?;
    if rng.random_ratio(1, 3) {
        threads(world, place, rng, shared);
        reach.shares = true;
    }
    pivot(world, place, reach, rng, shared)
}

/// What can come between a pivot and its success.
#[derive(Clone, Copy, Debug)]
struct Reach {
    /// What others do in the original arrives in the copy. An umount there takes away whatever is in the same place here.
    receives: bool,
    /// Some mounts of the copy may be shared, and nothing pivots on those.
    shares: bool,
}

impl Reach {
    /// Whether a pivot may fail like that, with a new root that is mounted afterwards or not.
    ///
    /// A new root that was taken away is ENOENT to Linux since 6.17, and EINVAL to those before.
    fn explains(self, error: Errno, is_mounted: bool) -> bool {
        match error {
            Errno::NOENT => self.receives && !is_mounted,
            Errno::INVAL => self.shares || self.receives && !is_mounted,
            _ => false,
        }
    }
}

/// Threads that look up, beside changes in a namespace of their own.
fn threads(world: &World, place: &Place, rng: &mut SmallRng, shared: &Shared) {
    std::thread::scope(|scope| {
        for _ in 0..2 {
            let seed = rng.random();
            let look = move || {
                let mut rng = SmallRng::seed_from_u64(seed);
                for _ in 0..4 {
                    look_up(world, place, &mut rng, shared);
                }
            };
            if std::thread::Builder::new().spawn_scoped(scope, look).is_ok() {
                add(&shared.threads, 1);
            }
        }
        writer::changes(world, place, CHANGES, rng, shared);
    });
}

/// Lookups in a copy: the files are those of the original, the mounts are not.
fn look_up(world: &World, place: &Place, rng: &mut SmallRng, shared: &Shared) {
    use rand::seq::IndexedRandom;
    for _ in 0..16 {
        let Some(mark) = place.marks.choose(rng) else { return };
        let result = find(CWD, &mark.path);
        match result {
            Ok((fd, found)) => {
                if found.file != mark.found.file {
                    shared.violation(&format!("in a copy {} is {:?}", mark.path.display(), found.file));
                }
                let name = format!("self/fd/{}", fd.as_raw_fd());
                if rustix::fs::readlinkat(&world.proc, &name, Vec::new()).is_err() {
                    shared.violation(&format!("in a copy {} has no name", mark.path.display()));
                }
            }
            Err(error) => shared.violation(&format!("in a copy {}: {error}", mark.path.display())),
        }
    }
    add(&shared.lookups, 16);
}

/// Pivots into a fresh file system, checks that nothing else is there, and runs a program in it.
fn pivot(world: &World, place: &Place, reach: Reach, rng: &mut SmallRng, shared: &Shared) -> Result<()> {
    let arena = &place.arenas[rng.random_range(0..place.arenas.len())].path;
    // Ready before it is attached: from then on others may take it away.
    let root = fresh_root().context("cannot make a root")?;
    fchdir(&root)?;
    fs::write(TAG, format!("{TAG_TEXT}{}\n", std::process::id()))?;
    fs::create_dir("old")?;
    if let Err(error) = move_mount(&root, "", CWD, arena, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH) {
        ensure!(error == Errno::NOSPC, "cannot attach a root: {error}");
        return Ok(());
    }
    if let Err(error) = pivot_root(".", "old") {
        let id = find(CWD, ".")?.1.mount;
        let is_mounted = mountinfo(&world.proc)?.iter().any(|line| u64::from(line.id) == id);
        ensure!(
            reach.explains(error, is_mounted),
            "cannot pivot ({reach:?}, mounted: {is_mounted}): {error}"
        );
        return Ok(());
    }
    add(&shared.pivots, 1);
    chdir("/")?;
    ensure!(find(CWD, "/old")?.1.mount != find(CWD, "/")?.1.mount, "the old root is not there");
    if place.root_is == Root::Open {
        let mark = Path::new("/old").join(relative(&place.marks[0].path));
        ensure!(mark.exists(), "there is no {}", mark.display());
    }
    if rng.random()
        && let Err(error) = mount_bind_recursive("/old", "/old")
    {
        let id = find(CWD, "/old")?.1.mount;
        let is_unbindable =
            |line: &syscalls::mountinfo::MountInfo| u64::from(line.id) == id && line.tags.unbindable;
        let is_explained = error == Errno::INVAL && mountinfo(&world.proc)?.iter().any(is_unbindable);
        ensure!(is_explained, "cannot bind the old root: {error}");
    }
    while unmount("/old", UnmountFlags::DETACH).is_ok() {}
    tag(Path::new("/tag")).map_err(anyhow::Error::msg)?;
    let lines = mountinfo(&world.proc)?;
    ensure!(lines.len() == 1 && lines[0].mountpoint == b"/", "not alone after a pivot: {lines:?}");
    if rng.random() {
        let error = sys::exec(world.program.as_fd(), &["userland", "probe"]);
        anyhow::bail!("cannot execute: {error}");
    }
    Ok(())
}

/// A detached mount of a fresh file system.
fn fresh_root() -> Result<OwnedFd, Errno> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", "root")?;
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
}

fn relative(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

/// What a program does that was executed after a pivot.
///
/// # Errors
/// It is not where it should be.
pub(crate) fn probe() -> Result<()> {
    let names: Vec<_> = fs::read_dir("/")?.map(|entry| Ok(entry?.file_name())).collect::<Result<_>>()?;
    ensure!(names.iter().any(|name| name == TAG), "there is no tag in {names:?}");
    reader::tag(Path::new("/tag")).map_err(anyhow::Error::msg)
}
