//! Namespaces that a process makes for itself: copies that are changed at will, roots that are pivoted into, programs that
//! are executed there, threads that look while the process changes.

use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind_recursive, mount_change, unmount,
};
use rustix::process::{chdir, pivot_root};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::build::World;
use super::place::{Place, mountinfo};
use super::reader::{self, TAG, TAG_TEXT, tag};
use super::shared::{Shared, add};
use super::writer;
use crate::sys;

/// Changes in a copy.
const CHANGES: usize = 12;

/// Runs one such process to its end.
pub(crate) fn run(world: &World, place: &Place, rng: &mut SmallRng, shared: &Shared) {
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
        for _ in 0..CHANGES {
            writer::change(&place.arenas, false, rng, shared);
        }
        return Ok(());
    }
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
        .context("cannot receive only")?;
    if rng.random_ratio(1, 3) {
        threads(world, place, rng, shared);
    }
    pivot(world, place, rng, shared)
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
        for _ in 0..CHANGES {
            writer::change(&place.arenas, false, rng, shared);
        }
    });
}

/// Lookups in a copy: the files are those of the original, the mounts are not.
fn look_up(world: &World, place: &Place, rng: &mut SmallRng, shared: &Shared) {
    use rand::seq::IndexedRandom;
    for _ in 0..16 {
        let Some(mark) = place.marks.choose(rng) else { return };
        let result = super::place::find(rustix::fs::CWD, &mark.path);
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
fn pivot(world: &World, place: &Place, rng: &mut SmallRng, shared: &Shared) -> Result<()> {
    let arena = &place.arenas[rng.random_range(0..place.arenas.len())].path;
    // What others do arrives here too, so that the arena may go at any moment.
    let ready = || -> Result<()> {
        mount("root", arena, "tmpfs", MountFlags::empty(), None)?;
        chdir(arena)?;
        Ok(())
    };
    if ready().is_err() {
        return Ok(());
    }
    fs::write(TAG, format!("{TAG_TEXT}{}\n", std::process::id()))?;
    fs::create_dir("old")?;
    if let Err(error) = pivot_root(".", "old") {
        // Covered, moved or taken away by somebody whose changes arrive here.
        ensure!(
            [rustix::io::Errno::INVAL, rustix::io::Errno::BUSY].contains(&error),
            "cannot pivot: {error}"
        );
        return Ok(());
    }
    add(&shared.pivots, 1);
    chdir("/")?;
    ensure!(Path::new("/old").join(relative(&place.marks[0].path)).exists(), "the old root is not there");
    if rng.random() {
        mount_bind_recursive("/old", "/old").context("cannot bind the old root")?;
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
