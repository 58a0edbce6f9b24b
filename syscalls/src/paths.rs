//! Paths as listings print them: of a dentry in its file system, and of a mount from a reader's root.

use alloc::sync::Arc;
use alloc::vec::Vec;

use mnt_table::list::NoMemory;
use mnt_table::memory::Grow;
use mnt_table::{Dentry, Guard, Mount, WriteSet};
use propagate::pivot_root::Position;

/// The path of a dentry in its file system.
///
/// # Errors
/// `ENOMEM`.
pub(crate) fn root_path<D: Dentry>(dentry: &Arc<D>, guard: &Guard) -> Result<Vec<u8>, NoMemory> {
    let mut climbed = Vec::new();
    climb(dentry, None, &mut climbed, guard)?;
    let mut path = turn(climbed)?;
    if dentry.is_removed() {
        path.try_extend(b"//deleted".iter().copied())?;
    }
    Ok(path)
}

/// The path from `root` to the root of `mount`, which is reachable from there.
///
/// # Errors
/// `ENOMEM`.
pub(crate) fn path_from<D: Dentry>(
    locks: &WriteSet<D>,
    mount: &Arc<Mount<D>>,
    root: &Position<D>,
    guard: &Guard,
) -> Result<Vec<u8>, NoMemory> {
    let mut climbed = Vec::new();
    let mut at = mount;
    while !Arc::ptr_eq(at, &root.0) {
        let (Some(parent), Some(on)) = (locks.parent(at), locks.mountpoint(at)) else { break };
        let stop = if Arc::ptr_eq(parent, &root.0) { &root.1 } else { parent.root() };
        climb(on, Some(stop), &mut climbed, guard)?;
        at = parent;
    }
    turn(climbed)
}

/// Adds the path of `from` below, and without, `to` or the root of the file system, read from its end.
fn climb<D: Dentry>(
    from: &Arc<D>,
    to: Option<&Arc<D>>,
    climbed: &mut Vec<u8>,
    guard: &Guard,
) -> Result<(), NoMemory> {
    let mut at: &Arc<D> = from;
    while to.is_none_or(|to| !Arc::ptr_eq(at, to)) {
        let Some((name, parent)) = at.parent(guard) else { break };
        climbed.make_room(name.len() + 1)?;
        climbed.extend(name.iter().rev());
        climbed.push(b'/');
        at = parent;
    }
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
