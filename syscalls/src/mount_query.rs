//! The request of statmount(2) and listmount(2): which mount, of which namespace (8.10, rows 2 to 6).

use alloc::sync::Arc;
use core::mem::offset_of;

use linux_raw_sys::general as abi;
use mnt_table::namespace::NamespaceId;
use mnt_table::{Dentry, Kind, MntNamespace, WriteSet};
use propagate::pivot_root::Position;

use crate::file::{NamespaceRef, Object};
use crate::user_memory::{PAGE_SIZE, read_all, structure};
use crate::{Errno, Kernel};

/// Unique ids are above this.
pub(crate) const LAST_OLD_ID: u64 = 1 << 31;

/// A request.
pub(crate) struct Query {
    /// The unique id of a mount.
    pub(crate) id: u64,
    /// What is wanted, or where to go on.
    pub(crate) param: u64,
    ns_fd: u32,
    ns_id: u64,
}

impl Query {
    /// Reads the structure at `addr`, which says itself how long it is.
    ///
    /// # Errors
    /// `EFAULT`, `E2BIG`, `EINVAL`.
    pub(crate) fn read<D: Dentry>(kernel: &impl Kernel<D>, addr: usize) -> Result<Self, Errno> {
        let mut size = [0; 4];
        read_all(kernel, addr, &mut size)?;
        let size = u32::from_le_bytes(size) as usize;
        if size > PAGE_SIZE {
            return Err(Errno::E2BIG);
        }
        if size < abi::MNT_ID_REQ_SIZE_VER0 as usize {
            return Err(Errno::EINVAL);
        }
        let mut bytes = [0; size_of::<abi::mnt_id_req>()];
        structure(kernel, addr, size, &mut bytes)?;
        let word = |at: usize| bytes[at..].first_chunk().map_or(0, |word| u64::from_le_bytes(*word));
        // The second half of the first word: a descriptor since Linux 6.18, before that to be zero.
        let fd_at = offset_of!(abi::mnt_id_req, spare);
        let query = Query {
            id: word(offset_of!(abi::mnt_id_req, mnt_id)),
            param: word(offset_of!(abi::mnt_id_req, param)),
            ns_fd: bytes[fd_at..].first_chunk().map_or(0, |half| u32::from_le_bytes(*half)),
            ns_id: word(offset_of!(abi::mnt_id_req, mnt_ns_id)),
        };
        if query.ns_fd != 0 && query.ns_id != 0 || query.id <= LAST_OLD_ID {
            return Err(Errno::EINVAL);
        }
        Ok(query)
    }

    /// Whether it says by its id which namespace is meant.
    pub(crate) fn names_namespace(&self) -> bool {
        self.ns_id != 0
    }
}

/// The namespace that is meant: the caller's, if it does not say.
///
/// # Errors
/// `ENOENT`: there is none with that id. `EBADF`, `EINVAL`: the descriptor is not of one.
pub(crate) fn requested_namespace<D: Dentry>(
    kernel: &impl Kernel<D>,
    query: &Query,
) -> Result<NamespaceRef<D>, Errno> {
    if query.ns_id != 0 {
        return kernel.namespaces().find(NamespaceId(query.ns_id)).ok_or(Errno::ENOENT);
    }
    if query.ns_fd != 0 {
        let file = kernel.file(query.ns_fd as i32)?;
        let Object::MountNamespace(ns) = file.opened()? else { return Err(Errno::EINVAL) };
        return Ok(ns.clone());
    }
    Ok(NamespaceRef::new(&kernel.task().namespace()))
}

/// Where the mounts of `ns` are looked at from: the caller's root `caller` in its `own` namespace, in another one the
/// first mount on the namespace's root that is younger than that: Linux begins its search there.
///
/// # Errors
/// `ENOENT`: there is none.
pub(crate) fn requested_root<D: Dentry>(
    locks: &WriteSet<D>,
    ns: &Arc<MntNamespace<D>>,
    own: bool,
    caller: &Position<D>,
) -> Result<Position<D>, Errno> {
    if own {
        return Ok(caller.clone());
    }
    debug_assert!(ns.kind() == Kind::Ordinary, "files are of ordinary namespaces");
    let root = locks.root(ns).ok_or(Errno::ENOENT)?;
    let is_first = |mount: &&Arc<_>| locks.parent(mount).is_some_and(|parent| Arc::ptr_eq(parent, root));
    let first = locks.mounts_from(ns, root.unique_id()).find(is_first).ok_or(Errno::ENOENT)?;
    Ok((Arc::clone(first), Arc::clone(first.root())))
}
