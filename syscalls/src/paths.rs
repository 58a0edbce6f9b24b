//! Paths as they are shown: of a dentry in its file system, of a mount from a reader's root, and of a place (getcwd(2), links
//! in proc).

use alloc::sync::Arc;
use alloc::vec::Vec;

use mnt_table::list::NoMemory;
use mnt_table::memory::Grow;
use mnt_table::namespace::namespace_of;
use mnt_table::{Dentry, Guard, WriteSet, pin};
use propagate::pivot_root::Position;

use crate::Errno;

/// The path of a dentry in its file system.
///
/// # Errors
/// `ENOMEM`.
pub(crate) fn root_path<D: Dentry>(dentry: &Arc<D>, guard: &Guard) -> Result<Vec<u8>, NoMemory> {
    let mut climbed = Vec::new();
    let _to_the_top = climb(dentry, None, &mut climbed, guard)?;
    let mut path = turn(climbed)?;
    if dentry.is_removed() {
        path.try_extend(b"//deleted".iter().copied())?;
    }
    Ok(path)
}

/// The path of `at` from `root`, and whether it is below it: if not, the path is from the top of its tree, or of what it was
/// moved or removed out of.
///
/// Context: not pinned; takes the lock of the namespace that `at` is in.
///
/// # Errors
/// `ENOMEM`.
pub fn place_path<D: Dentry>(at: &Position<D>, root: &Position<D>) -> Result<(Vec<u8>, bool), Errno> {
    // A detached mount that stays connected names its namespace still, and its way up is known there.
    let ns = namespace_of(&at.0);
    let locks = ns.as_ref().map(WriteSet::one);
    let guard = pin();
    let mut climbed = Vec::new();
    let (mut mount, mut dentry) = (&at.0, &at.1);
    let reached = loop {
        if Arc::ptr_eq(mount, &root.0) && Arc::ptr_eq(dentry, &root.1) {
            break true;
        }
        if Arc::ptr_eq(dentry, mount.root()) {
            let up = locks.as_ref().and_then(|locks| Some((locks.parent(mount)?, locks.mountpoint(mount)?)));
            let Some(up) = up else { break false };
            (mount, dentry) = up;
            continue;
        }
        let Some((name, parent)) = dentry.parent(&guard) else {
            // Out of its mount: nothing of the way is left.
            climbed.clear();
            break false;
        };
        climb_one(name, &mut climbed)?;
        dentry = parent;
    };
    Ok((turn(climbed)?, reached))
}

/// Adds the path of `from` below, and without, `to` or the root of the file system, read from its end. Whether it is below
/// `to`.
pub(crate) fn climb<D: Dentry>(
    from: &Arc<D>,
    to: Option<&Arc<D>>,
    climbed: &mut Vec<u8>,
    guard: &Guard,
) -> Result<bool, NoMemory> {
    let mut at: &Arc<D> = from;
    while to.is_none_or(|to| !Arc::ptr_eq(at, to)) {
        let Some((name, parent)) = at.parent(guard) else { return Ok(false) };
        climb_one(name, climbed)?;
        at = parent;
    }
    Ok(true)
}

fn climb_one(name: &[u8], climbed: &mut Vec<u8>) -> Result<(), NoMemory> {
    climbed.make_room(name.len() + 1)?;
    climbed.extend(name.iter().rev());
    climbed.push(b'/');
    Ok(())
}

/// The path that `climbed` is from its end.
fn turn(mut climbed: Vec<u8>) -> Result<Vec<u8>, NoMemory> {
    if climbed.is_empty() {
        climbed.try_push(b'/')?;
    }
    climbed.reverse();
    Ok(climbed)
}
