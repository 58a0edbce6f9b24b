//! What `/proc/PID/mountinfo` and its like show: which mounts a reader sees, where, and with which tags.
//!
//! Taken under the namespace's lock, so a listing is one moment of the namespace.

use alloc::sync::Arc;
use alloc::vec::Vec;

use mnt_table::foresight::foreseen;
use mnt_table::list::NoMemory;
use mnt_table::memory::{self, Grow};
use mnt_table::mount::MountFlags;
use mnt_table::namespace::MntNamespace;
use mnt_table::{Dentry, Group, Guard, Mount, WriteSet, pin};
use propagate::dominating::Dominating;
use propagate::pivot_root::Position;

use crate::attributes::to_options;
use crate::kernel::shown;
use crate::mountinfo::{MountInfo, MountOptions, OptionFlags, PropagationTags};
use crate::paths::root_path;
use crate::user_memory::copy;
use crate::ways::Ways;
use crate::{Errno, Show, Task};

/// What mountinfo shows to `task`, in order of creation.
///
/// # Errors
/// `ENOMEM`.
pub fn mountinfo<D: Dentry>(task: &Task<D>, show: &impl Show<D>) -> Result<Vec<MountInfo>, Errno> {
    let (ns, fs) = (task.namespace(), task.fs());
    let lines = list(&WriteSet::one(&ns), &ns, &fs.root(), show, (0, usize::MAX))?;
    Ok(memory::collect(lines.into_iter().map(|line| line.info))?)
}

/// A line, and what it was made of.
pub(crate) struct Line<D: Dentry> {
    pub(crate) unique_id: u64,
    pub(crate) root: Arc<D>,
    pub(crate) info: MountInfo,
}

/// Of all mounts, the part that is listed in one piece at least where slaves of slaves are in it.
const PIECE: usize = 4;

/// The first `max` lines of mounts from the unique id `first` on. More if slaves of slaves are among them: which groups the
/// reader sees takes a look at all mounts, which a few pieces share.
///
/// # Errors
/// `ENOMEM`.
pub(crate) fn list<D: Dentry>(
    locks: &WriteSet<D>,
    ns: &Arc<MntNamespace<D>>,
    root: &Position<D>,
    show: &(impl Show<D> + ?Sized),
    (first, max): (u64, usize),
) -> Result<Vec<Line<D>>, NoMemory> {
    let guard = pin();
    let mut groups = None;
    let mut lines = Vec::new();
    let mut most = max;
    let mut ways = Ways::new(locks, root, &guard);
    for mount in foreseen(locks.mounts_from(ns, first)) {
        if lines.len() >= most {
            break;
        }
        let Some(mountpoint) = ways.path(mount)?.map(copy).transpose()? else { continue };
        let (mut tags, master) = tags(locks, mount);
        // The groups that the reader sees matter only to slaves of slaves.
        if let Some(master) = master.filter(|master| master.above().is_some()) {
            let groups = match &mut groups {
                Some(groups) => groups,
                none => {
                    most = max.max(locks.mounts_len(ns) / PIECE);
                    none.insert(dominating(locks, ns, &mut ways)?)
                }
            };
            tags.propagate_from = groups.of(&master)?;
        }
        lines.try_push(line(locks, mount, mountpoint, tags, show, &guard)?)?;
    }
    Ok(lines)
}

/// The tags of `mount` but for `propagate_from`, and the group that it receives from.
fn tags<D: Dentry>(locks: &WriteSet<D>, mount: &Mount<D>) -> (PropagationTags, Option<Arc<Group<D>>>) {
    let unbindable = locks.is_unbindable(mount);
    mount.with_propagation(|here| {
        let shared = here.peers.as_ref().map(|(group, _)| group.id());
        let master = here.master.as_ref().map(|link| Arc::clone(&link.group));
        let id = master.as_ref().map(|master| master.id());
        (PropagationTags { shared, master: id, propagate_from: None, unbindable }, master)
    })
}

/// The groups that somebody in `ns` sees, to whose root `ways` lead.
///
/// # Errors
/// `ENOMEM`.
pub(crate) fn dominating<D: Dentry>(
    locks: &WriteSet<D>,
    ns: &MntNamespace<D>,
    ways: &mut Ways<'_, D>,
) -> Result<Dominating, NoMemory> {
    let mut dominating = Dominating::default();
    for mount in foreseen(locks.mounts(ns)) {
        if ways.is_visible(mount)? {
            dominating.sees(mount)?;
        }
    }
    Ok(dominating)
}

fn line<D: Dentry>(
    locks: &WriteSet<D>,
    mount: &Arc<Mount<D>>,
    mountpoint: Vec<u8>,
    tags: PropagationTags,
    show: &(impl Show<D> + ?Sized),
    guard: &Guard,
) -> Result<Line<D>, NoMemory> {
    let (major, minor) = show.device(mount.root());
    let mut options = to_options(mount.flags());
    options.set(OptionFlags::IDMAPPED, mount.idmap().is_some());
    let info = MountInfo {
        id: mount.id(),
        parent: locks.parent(mount).unwrap_or(mount).id(),
        major,
        minor,
        root: root_name(mount, show, guard)?,
        mountpoint,
        options: MountOptions::new(options),
        tags,
        fs_type: shown(|| show.fs_type(mount.root()))?,
        source: source(mount, show)?,
        super_options: shown(|| show.options(mount.root()))?,
    };
    Ok(Line { unique_id: mount.unique_id(), root: Arc::clone(mount.root()), info })
}

/// What of its file system `mount` shows.
///
/// # Errors
/// `ENOMEM`.
pub(crate) fn root_name<D: Dentry>(
    mount: &Mount<D>,
    show: &(impl Show<D> + ?Sized),
    guard: &Guard,
) -> Result<Vec<u8>, NoMemory> {
    match shown(|| show.root_name(mount.root()))? {
        Some(name) => Ok(name),
        None => root_path(mount.root(), guard),
    }
}

/// What was mounted, as the mounting call or the file system names it.
///
/// # Errors
/// `ENOMEM`.
pub(crate) fn source<D: Dentry>(
    mount: &Mount<D>,
    show: &(impl Show<D> + ?Sized),
) -> Result<Vec<u8>, NoMemory> {
    match shown(|| show.source(mount.root()))? {
        Some(source) => Ok(source),
        None => copy(mount.source()),
    }
}

/// A mount's flags from the words of a mountinfo line.
pub fn flags_of(options: OptionFlags) -> MountFlags {
    MountFlags::USER.iter().filter(|flag| options.contains(to_options(*flag))).collect()
}
