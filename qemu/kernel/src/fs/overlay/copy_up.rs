//! Copying a file of a lower layer up into the upper one.
//!
//! 1. The directories above come first, from the top down.
//! 2. A copy is made in the work directory, with contents, owner, permissions, times and extended attributes, under the
//!    entry's `copying`; others copy other files meanwhile.
//! 3. Under `changing` it gets its name in the upper layer, and becomes the entry's upper file.
//!
//! Whoever had the lower file open reads the copy from then on; who has it mapped keeps the lower one.

use alloc::sync::Arc;
use alloc::vec::Vec;

use mnt_table::dentry::Dentry;
use mnt_table::{memory, pin};
use syscalls::Errno;
use syscalls::ids::Kind as Ids;
use tmpfs::{Contents, Kind, New, PAGE_SIZE, TmpDentry, What, mode, rename};

use super::entry::{self, Entry, UpperFile};
use super::layers::{Layer, discard};
use super::{attributes, no_memory, own_namespace};
use crate::fs::kernel::Name;
use crate::fs::names::removed;
use crate::fs::permission::{self, READ, Subject};
use crate::fs::{error, node};

/// The directory that `dentry` is in.
fn above(dentry: &TmpDentry) -> Option<Arc<TmpDentry>> {
    dentry.parent(&pin()).map(|(_, parent)| Arc::clone(parent))
}

/// An owner and a group as the mount of `layer` has them stored.
///
/// # Errors
/// `EOVERFLOW`: they have no numbers there.
pub(super) fn stored(layer: &Layer, uid: u32, gid: u32) -> Result<(u32, u32), Errno> {
    let uid = permission::stored(layer.mount(), Ids::Users, uid)?;
    Ok((uid, permission::stored(layer.mount(), Ids::Groups, gid)?))
}

/// Sees to it that `dentry`, of an instance, has an upper file; of a regular file, with no more than `size` bytes if that is
/// given.
///
/// Context: holds neither `copying` nor `changing`.
///
/// # Errors
/// `EROFS`: there is no upper layer, or it is read-only. `EACCES`, `ENOSPC`, `ENOMEM`, `EOVERFLOW`; `EEXIST`: it was removed
/// meanwhile.
pub(super) fn copy_up(dentry: &Arc<TmpDentry>, size: Option<u64>) -> Result<(), Errno> {
    loop {
        if entry::of(dentry)?.upper().is_some() {
            return Ok(());
        }
        // The highest that has none.
        let mut at = Arc::clone(dentry);
        while let Some(parent) = above(&at) {
            if entry::of(&parent)?.upper().is_some() {
                break;
            }
            at = parent;
        }
        let size = if Arc::ptr_eq(&at, dentry) { size } else { None };
        copy_one(&at, size)?;
    }
}

fn copy_one(dentry: &Arc<TmpDentry>, size: Option<u64>) -> Result<(), Errno> {
    let entry = entry::of(dentry)?;
    let layers = &entry.layers;
    let upper = layers.upper()?;
    let _one = entry.copying.lock();
    if entry.upper().is_some() {
        return Ok(());
    }
    let _writing = layers.writing()?;
    let temporary = layers.temporary();
    let made = copy(entry, size, &temporary).and_then(|copy| publish(entry, dentry, &temporary, copy));
    if made.is_err() {
        discard(&upper.work, &temporary);
    }
    made
}

/// Makes the copy in the work directory.
fn copy(entry: &Entry, size: Option<u64>, temporary: &[u8]) -> Result<Arc<TmpDentry>, Errno> {
    let layers = &entry.layers;
    let upper = layers.upper()?;
    let lower = entry.lowers.first().ok_or(Errno::ENOENT)?;
    let layer = &layers.lowers[lower.layer];
    let real = node::real(&lower.dentry);
    let inode = real.inode();
    let (uid, gid) = permission::owner(layer.mount(), lower.dentry.inode());
    let (uid, gid) = stored(&upper.layer, uid, gid)?;
    let what = match real.kind() {
        Kind::Directory => What::Directory,
        Kind::File => {
            Subject::new(layer.mount(), &lower.dentry).may(&layers.mounter, READ)?;
            What::File
        }
        Kind::Symlink => What::Symlink(real.symlink().ok_or(Errno::EINVAL)?),
        _ => What::Special(inode.file_type(), inode.rdev()),
    };
    let new = New { what, mode: inode.mode() & !mode::TYPE, uid, gid };
    let copy = upper.work.make(temporary, new).map_err(error)?;
    if let Some(from) = inode.contents() {
        copy_contents(from, &copy, size)?;
    }
    attributes::copy(layers, layer, &lower.dentry, &copy)?;
    let times = inode.times();
    copy.inode().change_times(|copied| {
        (copied.accessed, copied.modified) = (times.accessed, times.modified);
    });
    Ok(copy)
}

/// Copies up to `limit` bytes, without the holes.
fn copy_contents(from: &Contents, to: &TmpDentry, limit: Option<u64>) -> Result<(), Errno> {
    const CHUNK: usize = 16 * PAGE_SIZE;
    let size = from.size().min(limit.unwrap_or(u64::MAX));
    let mut buffer = Vec::new();
    buffer.try_reserve_exact(CHUNK).map_err(no_memory)?;
    buffer.resize(CHUNK, 0);
    let mut at = 0;
    while at < size {
        let Ok(start) = from.seek(at, true) else { break };
        let hole = from.seek(start, false).unwrap_or(size);
        let wanted = hole.min(size).saturating_sub(start).min(CHUNK as u64) as usize;
        let count = from.read(start, &mut buffer[..wanted]);
        if count == 0 {
            break;
        }
        to.write_at(start, &buffer[..count]).map_err(error)?;
        at = start + count as u64;
    }
    to.truncate(size).map_err(error)
}

/// Gives the copy its name, and the entry its upper file.
fn publish(
    entry: &Entry,
    dentry: &Arc<TmpDentry>,
    temporary: &[u8],
    copy: Arc<TmpDentry>,
) -> Result<(), Errno> {
    let upper = entry.layers.upper()?;
    let boxed = memory::boxed(UpperFile(copy)).map_err(no_memory)?;
    let own = own_namespace();
    let _changing = entry.layers.changing.lock();
    let place = {
        let guard = pin();
        dentry.parent(&guard).map(|(name, parent)| (owned(name), Arc::clone(parent)))
    };
    let (name, parent) = place.ok_or(Errno::ENOENT)?;
    // Its name may have a whiteout by now, or belong to another file.
    let above = entry::of(&parent)?.upper().ok_or(Errno::ENOENT)?;
    if dentry.is_removed() || above.entry(&name).is_some() {
        return Err(Errno::EEXIST);
    }
    let times = above.inode().times();
    let gone = rename((&upper.work, temporary), (above, &name), &own).map_err(error)?;
    gone.iter().try_for_each(removed)?;
    // Nobody is to see by the directory's times that something was copied.
    above.inode().change_times(|changed| {
        (changed.accessed, changed.modified) = (times.accessed, times.modified);
    });
    entry.set_upper(boxed);
    Ok(())
}

/// A copy of an entry's name, which is no longer than names are.
fn owned(name: &[u8]) -> Name {
    Name::from_slice(name).unwrap_or_default()
}
