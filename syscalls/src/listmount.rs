//! listmount(2): the ids of the mounts below one (8.11).
//!
//! Numbers in comments are rows of the ordered checks.

use alloc::sync::Arc;
use alloc::vec::Vec;

use linux_raw_sys::general as abi;
use mnt_table::list::NoMemory;
use mnt_table::memory::Grow;
use mnt_table::{Dentry, MntNamespace, Mount, WriteSet, memory, pin};
use propagate::pivot_root::{Position, is_reachable};

use crate::mount_query::{LAST_OLD_ID, Query, requested_namespace, requested_root};
use crate::user_memory::write_all;
use crate::ways::Ways;
use crate::{Errno, Kernel};

/// The id that stands for the caller's root.
const ROOT: u64 = abi::LSMT_ROOT as i64 as u64;

/// How many ids one call returns at most.
const COUNT_MAX: usize = 1_000_000;

/// listmount(2): writes up to `count` ids to `ids`; returns how many.
///
/// # Errors
/// `EINVAL`, `EOVERFLOW`, `E2BIG`, `EFAULT`, `ENOENT`, `EBADF`, `EPERM`, `ENOMEM`.
pub fn listmount<D: Dentry, K: Kernel<D>>(
    kernel: &K,
    request: usize,
    ids: usize,
    count: usize,
    flags: u32,
) -> Result<usize, Errno> {
    if flags & !abi::LISTMOUNT_REVERSE != 0 {
        return Err(Errno::EINVAL); // 1
    }
    if count > COUNT_MAX {
        return Err(Errno::EOVERFLOW); // 2
    }
    let query = Query::read(kernel, request)?; // 4
    if query.param != 0 && query.param <= LAST_OLD_ID {
        return Err(Errno::EINVAL); // 5
    }
    let (task, ns) = (kernel.task(), requested_namespace(kernel, &query)?);
    let own = ns.id() == task.namespace().id();
    let is_admin = task.credentials().is_admin(ns.owner());
    if query.names_namespace() && !own && !is_admin {
        return Err(Errno::ENOENT); // 6
    }
    let fs = task.fs();
    let found = {
        let mut locks = WriteSet::one(&ns);
        locks.make_index(&ns);
        let root = requested_root(&locks, &ns, own, &fs.root())?;
        let from = start(&locks, &ns, &query, &root)?; // 7
        if !is_reachable(&locks, &from, &root) && !is_admin {
            return Err(Errno::EPERM); // 8
        }
        let guard = pin();
        let mut ways = Ways::new(&locks, &from, &guard);
        let mut listed = |mounts: &mut dyn Iterator<Item = &Arc<Mount<D>>>| -> Result<Vec<u64>, NoMemory> {
            let mut found = Vec::new();
            for mount in mounts.filter(|mount| mount.unique_id() != query.id) {
                if found.len() == count {
                    break;
                }
                if ways.is_visible(mount)? {
                    found.try_push(mount.unique_id())?;
                }
            }
            Ok(found)
        };
        if flags & abi::LISTMOUNT_REVERSE == 0 {
            listed(&mut locks.mounts_from(&ns, query.param.saturating_add(1)))?
        } else {
            let before = |mount: &&Arc<Mount<D>>| query.param == 0 || mount.unique_id() < query.param;
            let mounts: Vec<_> = memory::collect(locks.mounts(&ns).take_while(before))?;
            listed(&mut mounts.into_iter().rev())?
        }
    };
    let bytes: Vec<u8> = memory::collect(found.iter().flat_map(|id| id.to_le_bytes()))?;
    write_all(kernel, ids, &bytes)?;
    Ok(found.len())
}

/// The place below which mounts are listed.
fn start<D: Dentry>(
    locks: &WriteSet<D>,
    ns: &Arc<MntNamespace<D>>,
    query: &Query,
    root: &Position<D>,
) -> Result<Position<D>, Errno> {
    if query.id == ROOT {
        return Ok(root.clone());
    }
    let mount = locks.mount_by_id(ns, query.id).ok_or(Errno::ENOENT)?;
    Ok((Arc::clone(mount), Arc::clone(mount.root())))
}
