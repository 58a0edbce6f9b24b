//! What `/proc/PID/mountinfo` and its like show: which mounts a reader sees, where, and with which tags.
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
use crate::paths::{path_from, root_path};
use crate::{Errno, Show, Task};

/// What mountinfo shows to `task`, in order of creation.
///
/// # Errors
/// `ENOMEM`.
pub fn mountinfo<D: Dentry>(task: &Task<D>, show: &impl Show<D>) -> Result<Vec<MountInfo>, Errno> {
    let (ns, fs) = (task.namespace(), task.fs());
    let lines = list(&WriteSet::one(&ns), &ns, &fs.root(), show, (0, usize::MAX));
    Ok(lines.into_iter().map(|line| line.info).collect())
}

/// A line, and what it was made of.
pub(crate) struct Line<D: Dentry> {
    pub(crate) unique_id: u64,
    pub(crate) root: Arc<D>,
    pub(crate) info: MountInfo,
}

/// The first `max` lines of mounts from the unique id `first` on.
pub(crate) fn list<D: Dentry>(
    locks: &WriteSet<D>,
    ns: &Arc<MntNamespace<D>>,
    root: &Position<D>,
    show: &(impl Show<D> + ?Sized),
    (first, max): (u64, usize),
) -> Vec<Line<D>> {
    let guard = pin();
    let wanted = locks.mounts_from(ns, first).filter(|mount| is_visible(locks, mount, root)).take(max);
    let mut groups = None;
    let lines = wanted.map(|mount| {
        // The groups that the reader sees matter to slaves only.
        let from = mount
            .propagation()
            .master
            .and_then(|_| groups.get_or_insert_with(|| dominating(&visible(locks, ns, root))).of(mount));
        line(locks, mount, root, from, show, &guard)
    });
    lines.collect()
}

/// The mounts of `ns` whose roots can be reached from `root`, in order of creation.
pub(crate) fn visible<'l, D: Dentry>(
    locks: &'l WriteSet<D>,
    ns: &MntNamespace<D>,
    root: &Position<D>,
) -> Vec<&'l Arc<Mount<D>>> {
    locks.mounts(ns).filter(|mount| is_visible(locks, mount, root)).collect()
}

/// Whether the root of `mount` can be reached from `root`.
pub(crate) fn is_visible<D: Dentry>(locks: &WriteSet<D>, mount: &Arc<Mount<D>>, root: &Position<D>) -> bool {
    is_reachable(locks, &(Arc::clone(mount), Arc::clone(mount.root())), root)
}

/// The groups that somebody sees who sees `visible`.
pub(crate) fn dominating<D: Dentry>(visible: &[&Arc<Mount<D>>]) -> Dominating {
    let mut dominating = Dominating::default();
    visible.iter().for_each(|mount| dominating.sees(mount));
    dominating
}

fn line<D: Dentry>(
    locks: &WriteSet<D>,
    mount: &Arc<Mount<D>>,
    root: &Position<D>,
    propagate_from: Option<u32>,
    show: &(impl Show<D> + ?Sized),
    guard: &Guard,
) -> Line<D> {
    let (major, minor) = show.device(mount.root());
    let here = mount.propagation();
    let mut options = to_options(mount.flags());
    options.set(OptionFlags::IDMAPPED, mount.idmap().is_some());
    let info = MountInfo {
        id: mount.id(),
        parent: locks.parent(mount).unwrap_or(mount).id(),
        major,
        minor,
        root: show.root_name(mount.root()).unwrap_or_else(|| root_path(mount.root(), guard)),
        mountpoint: path_from(locks, mount, root, guard),
        options: MountOptions::new(options),
        tags: PropagationTags {
            shared: here.peers.map(|(group, _)| group.id()),
            master: here.master.map(|link| link.group.id()),
            propagate_from,
            unbindable: locks.is_unbindable(mount),
        },
        fs_type: show.fs_type(mount.root()),
        source: source(mount, show),
        super_options: show.options(mount.root()),
    };
    Line { unique_id: mount.unique_id(), root: Arc::clone(mount.root()), info }
}

/// What was mounted, as the mounting call or the file system names it.
pub(crate) fn source<D: Dentry>(mount: &Mount<D>, show: &(impl Show<D> + ?Sized)) -> Vec<u8> {
    show.source(mount.root()).unwrap_or_else(|| mount.source().to_vec())
}

/// A mount's flags from the words of a mountinfo line.
pub fn flags_of(options: OptionFlags) -> MountFlags {
    MountFlags::USER.iter().filter(|flag| options.contains(to_options(*flag))).collect()
}
