//! Paths as listings print them: of a dentry in its file system, and of a mount from a reader's root.

use alloc::sync::Arc;
use alloc::vec::Vec;

use mnt_table::{Dentry, Guard, Mount, WriteSet};
use propagate::pivot_root::Position;

/// The path of a dentry in its file system.
pub(crate) fn root_path<D: Dentry>(dentry: &Arc<D>, guard: &Guard) -> Vec<u8> {
    let mut names = Vec::new();
    climb(dentry, None, &mut names, guard);
    let mut path = join(names);
    if dentry.is_removed() {
        path.extend_from_slice(b"//deleted");
    }
    path
}

/// The path from `root` to the root of `mount`, which is reachable from there.
pub(crate) fn path_from<D: Dentry>(
    locks: &WriteSet<D>,
    mount: &Arc<Mount<D>>,
    root: &Position<D>,
    guard: &Guard,
) -> Vec<u8> {
    let mut names = Vec::new();
    let mut at = mount;
    while !Arc::ptr_eq(at, &root.0) {
        let (Some(parent), Some(on)) = (locks.parent(at), locks.mountpoint(at)) else { break };
        let stop = if Arc::ptr_eq(parent, &root.0) { &root.1 } else { parent.root() };
        climb(on, Some(stop), &mut names, guard);
        at = parent;
    }
    join(names)
}

/// Pushes the names from `from` up to, and without, `to` or the root of the file system.
fn climb<D: Dentry>(from: &Arc<D>, to: Option<&Arc<D>>, names: &mut Vec<Vec<u8>>, guard: &Guard) {
    let mut at: &Arc<D> = from;
    while to.is_none_or(|to| !Arc::ptr_eq(at, to)) {
        let Some((name, parent)) = at.parent(guard) else { break };
        names.push(name.to_vec());
        at = parent;
    }
}

/// A path of `names`, which begin with the last.
fn join(names: Vec<Vec<u8>>) -> Vec<u8> {
    if names.is_empty() {
        return b"/".to_vec();
    }
    names.into_iter().rev().flat_map(|name| [b"/".to_vec(), name].concat()).collect()
}
