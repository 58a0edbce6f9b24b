//! Files of namespaces: their ioctls, and the mount namespaces of the machine in the order of their ids (7.5).

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use linux_raw_sys::general as abi;
use linux_raw_sys::ioctl;
use mnt_table::list::NoMemory;
use mnt_table::memory::Grow;
use mnt_table::namespace::NamespaceId;
use mnt_table::sync::BlockingMutex;
use mnt_table::{Dentry, MntNamespace, UserNs, WriteSet};

use crate::file::{NamespaceRef, Object};
use crate::ids::Kind;
use crate::user_memory::write_all;
use crate::{Errno, File, Kernel};

/// Mount namespaces that are somebody's, by id. Only the beginning of a namespace and questions about all of them come
/// here; mounts never do.
pub struct Namespaces<D: Dentry>(BlockingMutex<Known<D>>);

struct Known<D: Dentry> {
    /// Ascending.
    by_id: Vec<(NamespaceId, Weak<MntNamespace<D>>)>,
    /// How many there may be before those that are gone are looked for.
    tidy_at: usize,
}

/// How many namespaces there are before the first look for those that are gone.
const TIDY_AT: usize = 64;

impl<D: Dentry> Default for Namespaces<D> {
    fn default() -> Self {
        Self::new()
    }
}

impl<D: Dentry> Namespaces<D> {
    /// None yet. The kernel adds the first one; others add themselves.
    pub const fn new() -> Self {
        Namespaces(BlockingMutex::new(Known { by_id: Vec::new(), tidy_at: TIDY_AT }))
    }

    /// Lists `ns`, which lasts until its last user leaves.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn add(&self, ns: &Arc<MntNamespace<D>>) -> Result<(), NoMemory> {
        let mut known = self.0.lock();
        if known.by_id.len() >= known.tidy_at {
            known.by_id.retain(|(_, ns)| ns.strong_count() != 0);
            known.tidy_at = TIDY_AT.max(2 * known.by_id.len());
        }
        known.by_id.make_room(1)?;
        // At the end, nearly always: ids ascend.
        let at = known.by_id.partition_point(|(id, _)| *id < ns.id());
        known.by_id.insert(at, (ns.id(), Arc::downgrade(ns)));
        Ok(())
    }

    /// All that are somebody's, in the order of their ids; for checkers.
    pub fn living(&self) -> Vec<Arc<MntNamespace<D>>> {
        self.0.lock().by_id.iter().filter_map(|(_, ns)| ns.upgrade()).collect()
    }

    /// The one with this id.
    pub fn find(&self, id: NamespaceId) -> Option<NamespaceRef<D>> {
        let known = self.0.lock();
        let at = known.by_id.binary_search_by_key(&id, |(id, _)| *id).ok()?;
        let ns = known.by_id[at].1.upgrade()?;
        drop(known);
        NamespaceRef::of_living(ns)
    }

    /// The nearest one before or after `id` that is somebody's and that `wanted` holds for.
    fn beside(
        &self,
        id: NamespaceId,
        direction: Direction,
        wanted: impl Fn(&MntNamespace<D>) -> bool,
    ) -> Option<NamespaceRef<D>> {
        let known = self.0.lock();
        let living =
            |ns: &Weak<MntNamespace<D>>| NamespaceRef::of_living(ns.upgrade().filter(|ns| wanted(ns))?);
        let before = known.by_id.partition_point(|(other, _)| *other < id);
        let after = known.by_id.partition_point(|(other, _)| *other <= id);
        match direction {
            Direction::Next => known.by_id[after..].iter().find_map(|(_, ns)| living(ns)),
            Direction::Previous => known.by_id[..before].iter().rev().find_map(|(_, ns)| living(ns)),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Next,
    Previous,
}

/// The ioctls, of which the second half is not in the headers of Linux 6.12. The size of the argument is a part of a
/// request; a longer one than known is answered as far as known.
const GET_MNTNS_ID: u32 = 0x8008_b705;
const GET_ID: u32 = 0x8008_b70d;
const MNT_GET_INFO: u32 = 0x8010_b70a;
const MNT_GET_NEXT: u32 = 0x8010_b70b;
const MNT_GET_PREV: u32 = 0x8010_b70c;

/// Where the size stands in a request, and how many bits it has.
const SIZE_SHIFT: u32 = 16;
const SIZE_MASK: u32 = 0x3fff << SIZE_SHIFT;

/// What stands for a user whom the caller's user namespace has no number for.
const NOBODY: u32 = 65534;

/// Bytes of `struct mnt_ns_info`.
const INFO_SIZE: usize = 16;

/// ioctl(2) on the file of a namespace.
///
/// # Errors
/// `ENOTTY`: no such request, or not the file of a namespace. `EINVAL`: not of this kind. `EPERM`, `ENOENT`, `EFAULT`;
/// those of [`Kernel::install`].
pub fn nsfs_ioctl<D: Dentry, K: Kernel<D>>(
    kernel: &K,
    file: &File<D>,
    request: u32,
    arg: usize,
) -> Result<usize, Errno> {
    let object = file.opened()?;
    let kind = kind(object).ok_or(Errno::ENOTTY)?;
    match request {
        ioctl::NS_GET_USERNS => related(kernel, owner(object)),
        ioctl::NS_GET_PARENT => match object {
            Object::UserNamespace(ns) => related(kernel, ns.parent()),
            Object::OtherNamespace(ns) => install(kernel, Object::OtherNamespace(ns.parent()?)),
            _ => Err(Errno::EINVAL),
        },
        ioctl::NS_GET_NSTYPE => Ok(kind as usize),
        ioctl::NS_GET_OWNER_UID => match object {
            Object::UserNamespace(ns) => {
                let viewer = &kernel.task().credentials().user_ns;
                let owner = Kind::Users.seen_by(viewer, ns.owner()).unwrap_or(NOBODY);
                put(kernel, arg, &owner.to_le_bytes())
            }
            _ => Err(Errno::EINVAL),
        },
        GET_MNTNS_ID => match object {
            Object::MountNamespace(ns) => put(kernel, arg, &ns.id().0.to_le_bytes()),
            _ => Err(Errno::EINVAL),
        },
        GET_ID => match object {
            Object::MountNamespace(ns) => put(kernel, arg, &ns.id().0.to_le_bytes()),
            Object::UserNamespace(ns) => put(kernel, arg, &ns.id().to_le_bytes()),
            Object::OtherNamespace(ns) => put(kernel, arg, &ns.id().to_le_bytes()),
            _ => Err(Errno::EINVAL),
        },
        _ => extensible(kernel, object, request, arg),
    }
}

/// Requests with a structure that may grow.
fn extensible<D: Dentry, K: Kernel<D>>(
    kernel: &K,
    object: &Object<D>,
    request: u32,
    arg: usize,
) -> Result<usize, Errno> {
    let plain = request & !SIZE_MASK;
    let is = |known: u32| plain == known & !SIZE_MASK;
    let size = ((request & SIZE_MASK) >> SIZE_SHIFT) as usize;
    if size < INFO_SIZE || !(is(MNT_GET_INFO) || is(MNT_GET_NEXT) || is(MNT_GET_PREV)) {
        return Err(Errno::ENOTTY);
    }
    if !is(MNT_GET_INFO) && !kernel.task().credentials().is_admin(&UserNs::INITIAL) {
        return Err(Errno::EPERM);
    }
    let Object::MountNamespace(ns) = object else { return Err(Errno::EINVAL) };
    if is(MNT_GET_INFO) {
        return if arg == 0 { Err(Errno::EINVAL) } else { put(kernel, arg, &info(ns)) };
    }
    let direction = if is(MNT_GET_NEXT) { Direction::Next } else { Direction::Previous };
    let credentials = kernel.task().credentials();
    let found = kernel.namespaces().beside(ns.id(), direction, |ns| credentials.is_admin(ns.owner()));
    let found = found.ok_or(Errno::ENOENT)?;
    if arg != 0 {
        put(kernel, arg, &info(&found))?;
    }
    install(kernel, Object::MountNamespace(found))
}

/// `struct mnt_ns_info`: its size, the number of mounts without the hidden one, the id.
fn info<D: Dentry>(ns: &Arc<MntNamespace<D>>) -> [u8; INFO_SIZE] {
    let mounts = WriteSet::one(ns).mounts_len(ns).saturating_sub(1) as u32;
    let mut bytes = [0; INFO_SIZE];
    bytes[..4].copy_from_slice(&(INFO_SIZE as u32).to_le_bytes());
    bytes[4..8].copy_from_slice(&mounts.to_le_bytes());
    bytes[8..].copy_from_slice(&ns.id().0.to_le_bytes());
    bytes
}

fn put<D: Dentry>(kernel: &impl Kernel<D>, arg: usize, bytes: &[u8]) -> Result<usize, Errno> {
    write_all(kernel, arg, bytes).map(|()| 0)
}

fn install<D: Dentry, K: Kernel<D>>(kernel: &K, object: Object<D>) -> Result<usize, Errno> {
    kernel.install(kernel.namespace_file(object), true).map(|fd| fd as usize)
}

/// The file of a user namespace that the caller may see: its own, or one below.
fn related<D: Dentry, K: Kernel<D>>(kernel: &K, ns: Option<&UserNs>) -> Result<usize, Errno> {
    let ns = ns.filter(|ns| ns.is_within(&kernel.task().credentials().user_ns));
    install(kernel, Object::UserNamespace(ns.ok_or(Errno::EPERM)?.clone()))
}

/// The user namespace that owns a namespace.
fn owner<D: Dentry>(object: &Object<D>) -> Option<&UserNs> {
    match object {
        Object::MountNamespace(ns) => Some(ns.owner()),
        Object::UserNamespace(ns) => ns.parent(),
        Object::OtherNamespace(ns) => Some(ns.owner()),
        _ => None,
    }
}

/// The flag of a namespace's kind.
pub(crate) fn kind<D: Dentry>(object: &Object<D>) -> Option<u32> {
    match object {
        Object::MountNamespace(_) => Some(abi::CLONE_NEWNS),
        Object::UserNamespace(_) => Some(abi::CLONE_NEWUSER),
        Object::OtherNamespace(ns) => Some(ns.kind()),
        _ => None,
    }
}
