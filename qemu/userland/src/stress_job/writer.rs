//! Changes, all in arenas: what the forest itself has stays as it is.

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;

use linux_raw_sys::general as abi;
use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen, mount, mount_bind,
    mount_bind_recursive, mount_change, mount_move, move_mount, open_tree, unmount,
};

use super::build::World;
use super::place::{Arena, Place, mountinfo};
use super::reader::{TAG, TAG_TEXT};
use super::shared::{Shared, add};
use crate::sys::mount_setattr;

/// Mounts of a namespace from which on mounts are rather taken away.
const MANY: usize = 400;

/// Several changes in the namespace that this process is in: `place`, or a copy of it.
pub(crate) fn changes(world: &World, place: &Place, count: usize, rng: &mut SmallRng, shared: &Shared) {
    let has_many = || has_many(&world.proc, place.lines.len());
    let many = has_many();
    for _ in 0..count {
        let kind = match rng.random_range(0..100) {
            kind if many => 50 + kind / 4,
            // It can double what there is, here and in all that receive: a few of them make more than a machine can hold.
            30..35 if has_many() => 64,
            kind => kind,
        };
        change(&place.arenas, kind, rng, shared);
    }
}

fn change(arenas: &[Arena], kind: u32, rng: &mut SmallRng, shared: &Shared) {
    let Some(arena) = arenas.choose(rng) else { return };
    let (path, other) = (&arena.path, &arenas.choose(rng).unwrap_or(arena).path);
    let (counter, done) = match kind {
        0..12 => (&shared.mounts, fresh(path)),
        12..18 => (&shared.mounts, fresh_by_context(path, rng)),
        18..30 => (&shared.binds, mount_bind(other, path)),
        30..35 => (&shared.rbinds, mount_bind_recursive(other, path)),
        35..40 => (&shared.binds, clone(other, path)),
        40..50 => (&shared.moves, mount_move(other, path)),
        50..64 => (&shared.umounts, unmount(path, UnmountFlags::NOFOLLOW)),
        64..75 => (&shared.lazy_umounts, unmount(path, UnmountFlags::DETACH)),
        75..90 => (&shared.type_changes, retype(path, rng)),
        _ => (&shared.attribute_changes, attributes(path, rng)),
    };
    add(&shared.operations, 1);
    add(if done.is_ok() { counter } else { &shared.failed_operations }, 1);
    if let Err(error) = done
        && !is_expected(error)
    {
        shared.violation(&format!("a change of kind {kind} at {} answers {error}", path.display()));
    }
}

/// What changes that meet others can answer.
fn is_expected(error: Errno) -> bool {
    [Errno::BUSY, Errno::INVAL, Errno::LOOP, Errno::NOSPC, Errno::NOENT, Errno::NOMEM, Errno::PERM]
        .contains(&error)
}

/// Whether this namespace has so many mounts that some should go.
fn has_many(proc: impl AsFd, at_start: usize) -> bool {
    mountinfo(proc).map_or(true, |lines| lines.len() > at_start + MANY)
}

/// A tmpfs with a tag.
fn fresh(path: &Path) -> Result<(), Errno> {
    mount("churn", path, "tmpfs", MountFlags::NODEV, None)?;
    write_tag(path);
    Ok(())
}

/// Writes the tag of what is at `path`. That may be gone again, or read-only, or another's.
fn write_tag(path: &Path) {
    let process = std::process::id();
    let draft = path.join(format!("draft-{process}"));
    if fs::write(&draft, format!("{TAG_TEXT}{process}\n")).is_ok() {
        let _ = fs::rename(&draft, path.join(TAG));
        let _ = fs::create_dir(path.join("x"));
    }
}

fn fresh_by_context(path: &Path, rng: &mut SmallRng) -> Result<(), Errno> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", "churn")?;
    fsconfig_set_string(&context, "size", "1m")?;
    fsconfig_create(&context)?;
    let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_NOSUID)?;
    if rng.random_ratio(1, 10) {
        // It goes unmounted with its last descriptor.
        return Ok(());
    }
    move_mount(&mount, "", CWD, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    write_tag(path);
    Ok(())
}

fn clone(from: &Path, to: &Path) -> Result<(), Errno> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(CWD, from, flags)?;
    move_mount(&tree, "", CWD, to, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

fn retype(path: &Path, rng: &mut SmallRng) -> Result<(), Errno> {
    let kinds = [
        MountPropagationFlags::SHARED,
        MountPropagationFlags::DOWNSTREAM,
        MountPropagationFlags::PRIVATE,
        MountPropagationFlags::UNBINDABLE,
    ];
    let kind = kinds.choose(rng).copied().unwrap_or(MountPropagationFlags::PRIVATE);
    let deep =
        if rng.random_ratio(1, 4) { MountPropagationFlags::REC } else { MountPropagationFlags::empty() };
    mount_change(path, kind | deep)
}

fn attributes(path: &Path, rng: &mut SmallRng) -> Result<(), Errno> {
    let tree = open_tree(CWD, path, OpenTreeFlags::OPEN_TREE_CLOEXEC)?;
    let bits = u64::from(*[abi::MOUNT_ATTR_NOEXEC, abi::MOUNT_ATTR_NOSUID].choose(rng).unwrap_or(&0));
    if rng.random() {
        mount_setattr(tree.as_fd(), bits, 0, 0)
    } else {
        mount_setattr(tree.as_fd(), 0, bits, 0)
    }
}
