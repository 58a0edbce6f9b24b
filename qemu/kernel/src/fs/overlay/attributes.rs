//! Extended attributes: those of the file behind, without the instance's own.
//!
//! What begins with the instance's own prefix is `overlay.` deeper in the layers, so that an instance that is kept in another
//! one can have its own there.

use alloc::sync::Arc;
use alloc::vec::Vec;

use mnt_table::UserNs;
use syscalls::{Credentials, Errno};
use tmpfs::{Set, TmpDentry, Value};

use super::copy_up::copy_up;
use super::entry::Entry;
use super::layers::{Layer, Layers};
use super::no_memory;
use crate::fs::xattr::{self, Attributes};

pub(super) const TRUSTED: &[u8] = b"trusted.overlay.";
pub(super) const USER: &[u8] = b"user.overlay.";

const ESCAPED: &[u8] = b"overlay.";
const OPAQUE: &[u8] = b"opaque";

/// A name that fits, or would not be taken.
pub(super) type Name = heapless::Vec<u8, 300>;

/// One of the instance's own names.
pub(super) fn own(layers: &Layers, name: &[u8]) -> Name {
    joined(&[layers.prefix, name])
}

fn joined(parts: &[&[u8]]) -> Name {
    let mut name = Name::new();
    for part in parts {
        let _ = name.extend_from_slice(part); // Names have 255 bytes at most, and little is added.
    }
    name
}

/// Whether a directory of a layer hides what the layers below have there.
pub(super) fn is_opaque(layers: &Layers, layer: &Layer, directory: &Arc<TmpDentry>) -> bool {
    let value = xattr::get(layer.mount(), directory, &layers.mounter, &own(layers, OPAQUE));
    value.is_ok_and(|value| **value == *b"y")
}

/// Makes a directory of the upper layer opaque.
///
/// # Errors
/// `EIO`: it cannot be. `ENOSPC`, `ENOMEM`.
pub(super) fn set_opaque(layers: &Layers, directory: &Arc<TmpDentry>) -> Result<(), Errno> {
    let layer = &layers.upper()?.layer;
    if layers.without_attributes {
        return Err(Errno::EIO);
    }
    xattr::set(layer.mount(), directory, &layers.mounter, &own(layers, OPAQUE), b"y", Set::Any)
}

/// A name as the layers have it.
fn escaped(layers: &Layers, name: &[u8]) -> Name {
    match name.strip_prefix(layers.prefix) {
        Some(rest) => joined(&[layers.prefix, ESCAPED, rest]),
        None => joined(&[name]),
    }
}

/// A layer's name as the instance shows it; `None`: it is the instance's own.
fn shown(layers: &Layers, name: &[u8]) -> Option<Name> {
    let Some(own) = name.strip_prefix(layers.prefix) else { return Some(joined(&[name])) };
    own.strip_prefix(ESCAPED).map(|rest| joined(&[layers.prefix, rest]))
}

/// The names in what listxattr(2) says.
fn each(names: &[u8]) -> impl Iterator<Item = &[u8]> {
    names.split(|byte| *byte == 0).filter(|name| !name.is_empty())
}

/// Gives `to`, a file of the work directory, the attributes of the lower file `from`.
///
/// # Errors
/// `ENOSPC`, `ENOMEM`.
pub(super) fn copy(
    layers: &Layers,
    layer: &Layer,
    from: &Arc<TmpDentry>,
    to: &Arc<TmpDentry>,
) -> Result<(), Errno> {
    let upper = &layers.upper()?.layer;
    let names = xattr::names(from, &layers.mounter)?;
    for name in each(&names).filter(|name| shown(layers, name).is_some()) {
        let value = match xattr::get(layer.mount(), from, &layers.mounter, name) {
            Err(Errno::ENODATA) => continue,
            value => value?,
        };
        match xattr::set(upper.mount(), to, &layers.mounter, name, &value, Set::Any) {
            // What the upper layer cannot have is left behind; of `security.*`, what whoever mounted it may not give.
            Err(Errno::EOPNOTSUPP | Errno::EPERM) => {}
            set => set?,
        }
    }
    Ok(())
}

impl Attributes for Entry {
    fn get(&self, _dentry: &Arc<TmpDentry>, name: &[u8]) -> Result<Value, Errno> {
        let (layer, real) = self.real_in();
        xattr::get(layer.mount(), real, &self.layers.mounter, &escaped(&self.layers, name))
    }

    fn set(&self, dentry: &Arc<TmpDentry>, name: &[u8], value: &[u8], set: Set) -> Result<(), Errno> {
        copy_up(dentry, None)?;
        let (layer, real) = self.real_in();
        let _writing = self.layers.writing()?;
        let name = escaped(&self.layers, name);
        xattr::set(layer.mount(), real, &self.layers.mounter, &name, value, set)
    }

    fn remove(&self, dentry: &Arc<TmpDentry>, name: &[u8]) -> Result<(), Errno> {
        // Nothing is copied up for what is not there.
        drop(self.get(dentry, name)?);
        copy_up(dentry, None)?;
        let (layer, real) = self.real_in();
        let _writing = self.layers.writing()?;
        xattr::remove(layer.mount(), real, &self.layers.mounter, &escaped(&self.layers, name))
    }

    fn names(&self, _dentry: &Arc<TmpDentry>, who: &Credentials) -> Result<Vec<u8>, Errno> {
        let (_, real) = self.real_in();
        let names = xattr::names(real, &self.layers.mounter)?;
        let all = who.is_admin(&UserNs::INITIAL);
        let mut text = Vec::new();
        text.try_reserve_exact(names.len()).map_err(no_memory)?;
        for name in each(&names).filter_map(|name| shown(&self.layers, name)) {
            if all || !name.starts_with(b"trusted.") {
                text.extend_from_slice(&name);
                text.push(0);
            }
        }
        Ok(text)
    }
}
