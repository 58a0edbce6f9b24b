//! Which files of the layers a name stands for.
//!
//! From the top down: a whiteout ends it; what is no directory is it, unless a directory is above, which hides it; directories
//! are merged, down to one that is opaque.

use alloc::sync::Arc;
use alloc::vec::Vec;

use mnt_table::dentry::Dentry;
use mnt_table::memory::Grow;
use mnt_table::walk::WalkError;
use syscalls::Errno;
use tmpfs::{FsError, Kind, New, TmpDentry, What};

use super::entry::{Entry, Lower};
use super::layers::Layer;
use super::{attributes, no_memory};
use crate::fs::kernel::look;
use crate::fs::node;
use crate::fs::permission::{EXEC, Subject};

/// What a name stands for.
#[derive(Default)]
pub(super) struct Found {
    pub(super) upper: Option<Arc<TmpDentry>>,
    pub(super) lowers: Vec<Lower>,
}

impl Found {
    fn is_nothing(&self) -> bool {
        self.upper.is_none() && self.lowers.is_empty()
    }
}

/// Whether a file of a layer says that there is nothing.
pub(super) fn is_whiteout(dentry: &Arc<TmpDentry>) -> bool {
    let real = node::real(dentry);
    real.kind() == Kind::CharacterDevice && real.inode().rdev() == 0
}

/// The entry `name` of a layer's directory, as whoever mounted the instance finds it.
fn look_in(
    entry: &Entry,
    layer: &Layer,
    directory: &Arc<TmpDentry>,
    name: &[u8],
) -> Result<Option<Arc<TmpDentry>>, Errno> {
    Subject::new(layer.mount(), directory).may(&entry.layers.mounter, EXEC)?;
    match look(directory, name) {
        Ok(found) if found.is_dir() && entry.layers.traps.iter().any(|trap| Arc::ptr_eq(trap, &found)) => {
            Err(Errno::ELOOP)
        }
        Ok(found) => Ok(Some(found)),
        Err(Errno::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What the entry `name` of the directory `entry` stands for; `None`: there is none.
///
/// # Errors
/// `EACCES`; `ELOOP`: a layer is found within a layer. `ENOMEM`.
pub(super) fn find(entry: &Entry, name: &[u8]) -> Result<Option<Found>, Errno> {
    let layers = &entry.layers;
    let mut found = Found::default();
    if let (Some(directory), Ok(upper)) = (entry.upper(), layers.upper())
        && let Some(there) = look_in(entry, &upper.layer, directory, name)?
    {
        if is_whiteout(&there) {
            return Ok(None);
        }
        let ends = !there.is_dir() || attributes::is_opaque(layers, &upper.layer, &there);
        found.upper = Some(there);
        if ends {
            return Ok(Some(found));
        }
    }
    for lower in &entry.lowers {
        let layer = &layers.lowers[lower.layer];
        let Some(there) = look_in(entry, layer, &lower.dentry, name)? else { continue };
        if is_whiteout(&there) {
            break;
        }
        let directory = there.is_dir();
        if !directory && !found.is_nothing() {
            break;
        }
        let ends = !directory || attributes::is_opaque(layers, layer, &there);
        let there = Lower { layer: lower.layer, dentry: there };
        found.lowers.try_push(there).map_err(no_memory)?;
        if ends {
            break;
        }
    }
    Ok(if found.is_nothing() { None } else { Some(found) })
}

/// Whether lower layers have an entry `name` in the directory `entry`, so that a whiteout is needed where it is removed.
///
/// # Errors
/// `EACCES`, `ENOMEM`.
pub(super) fn is_below(entry: &Entry, name: &[u8]) -> Result<bool, Errno> {
    for lower in &entry.lowers {
        let layer = &entry.layers.lowers[lower.layer];
        if let Some(there) = look_in(entry, layer, &lower.dentry, name)? {
            return Ok(!is_whiteout(&there));
        }
    }
    Ok(false)
}

/// Puts the entry `name` into the cache of `directory`, whose entry `entry` is.
///
/// # Errors
/// `ENOENT`: there is none. Those of [`find`].
pub(super) fn instantiate(entry: &Entry, directory: &Arc<TmpDentry>, name: &[u8]) -> Result<(), WalkError> {
    if find(entry, name).map_err(to_walk)?.is_none() {
        return Err(WalkError::NotFound);
    }
    let _changing = entry.layers.changing.lock();
    if directory.entry(name).is_some() {
        return Ok(());
    }
    let found = find(entry, name).map_err(to_walk)?.ok_or(WalkError::NotFound)?;
    adopt(entry, directory, name, found).map(drop).map_err(to_walk)
}

/// Makes the dentry of what was found.
///
/// Context: holds `changing`.
///
/// # Errors
/// `ENOENT`: the directory was removed. `EEXIST`, `ENOMEM`.
pub(super) fn adopt(
    entry: &Entry,
    directory: &Arc<TmpDentry>,
    name: &[u8],
    found: Found,
) -> Result<Arc<TmpDentry>, Errno> {
    directory.adopt(name, New::of(what(entry, found)?)).map_err(|failure| match failure {
        FsError::NotFound => Errno::ENOENT,
        failure => crate::fs::error(failure),
    })
}

/// What a dentry is made of that stands in front of `found`.
///
/// # Errors
/// `ENOMEM`.
pub(super) fn what(entry: &Entry, found: Found) -> Result<What<'static>, Errno> {
    let made = Entry::new(&entry.layers, found.upper, found.lowers)?;
    let directory = made.real_dentry().is_dir();
    let handle = node::handle(made)?;
    Ok(if directory { What::HandleDirectory(handle) } else { What::Handle(handle) })
}

fn to_walk(error: Errno) -> WalkError {
    match error {
        Errno::EACCES => WalkError::Denied,
        Errno::ELOOP => WalkError::Loop,
        Errno::ENOMEM => WalkError::NoMemory,
        _ => WalkError::NotFound,
    }
}
