//! The lines of `/proc/PID/mountinfo`: which mounts a task sees, where, and with which tags.
//!
//! Taken under the namespace's lock, so a listing is one moment of the namespace.

use alloc::sync::Arc;
use alloc::vec::Vec;

use mnt_table::mount::MountFlags;
use mnt_table::namespace::MntNamespace;
use mnt_table::{Dentry, Guard, Mount, WriteSet, pin};
use propagate::dominating::Dominating;
use propagate::pivot_root::{Position, is_reachable};

use crate::attributes::to_options;
use crate::mountinfo::{MountInfo, MountOptions, OptionFlags, PropagationTags};
use crate::{Errno, Show, Task};

/// What mountinfo shows to `task`, in order of creation.
///
/// # Errors
/// `ENOMEM`.
pub fn mountinfo<D: Dentry>(task: &Task<D>, show: &impl Show<D>) -> Result<Vec<MountInfo>, Errno> {
    let (ns, fs) = (task.namespace(), task.fs());
    Ok(list(&WriteSet::one(&ns), &ns, &fs.root(), show))
}

fn list<D: Dentry>(
    locks: &WriteSet<D>,
    ns: &Arc<MntNamespace<D>>,
    root: &Position<D>,
    show: &impl Show<D>,
) -> Vec<MountInfo> {
    let guard = pin();
    let mut dominating = Dominating::default();
    let visible: Vec<_> = locks
        .mounts(ns)
        .filter(|mount| is_reachable(locks, &(Arc::clone(mount), Arc::clone(mount.root())), root))
        .collect();
    visible.iter().for_each(|mount| dominating.sees(mount));
    visible.into_iter().map(|mount| line(locks, mount, root, dominating.of(mount), show, &guard)).collect()
}

fn line<D: Dentry>(
    locks: &WriteSet<D>,
    mount: &Arc<Mount<D>>,
    root: &Position<D>,
    propagate_from: Option<u32>,
    show: &impl Show<D>,
    guard: &Guard,
) -> MountInfo {
    let (major, minor) = show.device(mount.root());
    let here = mount.propagation();
    MountInfo {
        id: mount.id(),
        parent: locks.parent(mount).unwrap_or(mount).id(),
        major,
        minor,
        root: show.root_name(mount.root()).unwrap_or_else(|| root_path(mount.root(), guard)),
        mountpoint: path_from(locks, mount, root, guard),
        options: MountOptions::new(to_options(mount.flags())),
        tags: PropagationTags {
            shared: here.peers.map(|(group, _)| group.id()),
            master: here.master.map(|link| link.group.id()),
            propagate_from,
            unbindable: locks.is_unbindable(mount),
        },
        fs_type: show.fs_type(mount.root()),
        source: mount.source().to_vec(),
        super_options: show.options(mount.root()),
    }
}

/// A mount's flags from the words of a mountinfo line.
pub fn flags_of(options: OptionFlags) -> MountFlags {
    MountFlags::USER.iter().filter(|flag| options.contains(to_options(*flag))).collect()
}

/// The path of a dentry in its file system.
fn root_path<D: Dentry>(dentry: &Arc<D>, guard: &Guard) -> Vec<u8> {
    let mut names = Vec::new();
    climb(dentry, None, &mut names, guard);
    let mut path = join(names);
    if dentry.is_removed() {
        path.extend_from_slice(b"//deleted");
    }
    path
}

/// The path from `root` to the root of `mount`, which is reachable from there.
fn path_from<D: Dentry>(
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
