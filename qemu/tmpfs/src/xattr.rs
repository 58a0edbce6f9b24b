//! Extended attributes: names and values that an inode has beside its contents.
//!
//! Which names there may be, and who may see them, is for the kernel to say; here they are kept and counted. An attribute
//! takes room as inodes do, so that an instance with a limit of inodes has one of attributes: [`INODE_ROOM`].
//!
//! # Lock order
//! A set's lock is a leaf. Values are shared, so that nobody copies one under it.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use mnt_table::memory;
use mnt_table::sync::Mutex;

use crate::inode::Inode;
use crate::{FsError, name};

/// What an inode takes of the room that attributes and inodes share, in bytes.
pub const INODE_ROOM: u64 = 1024;

/// What an attribute takes beside its name and its value.
const OVERHEAD: usize = 40;

/// The value of an attribute.
pub type Value = Arc<Box<[u8]>>;

/// What there has to be for an attribute to be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Set {
    /// It may be there or not.
    Any,
    /// It must not be there (`XATTR_CREATE`).
    Create,
    /// It must be there (`XATTR_REPLACE`).
    Replace,
}

struct Attribute {
    name: Box<[u8]>,
    value: Value,
}

impl Attribute {
    fn room(&self) -> u64 {
        room(&self.name, &self.value)
    }
}

fn room(name: &[u8], value: &[u8]) -> u64 {
    (OVERHEAD + name.len() + value.len()) as u64
}

/// The attributes of an inode, in descending order of their names, in which Linux lists them.
pub(crate) struct Attributes(Mutex<Vec<Attribute>>);

impl Attributes {
    pub(crate) const fn new() -> Self {
        Attributes(Mutex::new(Vec::new()))
    }

    /// Takes them all away; returns what they took of the instance's room.
    pub(crate) fn clear(&self) -> u64 {
        let gone = core::mem::take(&mut *self.0.lock());
        gone.iter().map(Attribute::room).sum()
    }
}

fn find(attributes: &[Attribute], name: &[u8]) -> Result<usize, usize> {
    attributes.binary_search_by(|attribute| name.cmp(&attribute.name))
}

impl Inode {
    /// The value of the attribute `name`.
    ///
    /// # Errors
    /// `ENODATA`: it has none with this name.
    pub fn attribute(&self, name: &[u8]) -> Result<Value, FsError> {
        let attributes = self.attributes().0.lock();
        let at = find(&attributes, name).map_err(|_| FsError::NoAttribute)?;
        Ok(Arc::clone(&attributes[at].value))
    }

    /// Sets the attribute `name`.
    ///
    /// # Errors
    /// `EEXIST`, `ENODATA`: what [`Set`] says. `ENOSPC`: there is no room. `ENOMEM`.
    pub fn set_attribute(&self, name: &[u8], value: &[u8], set: Set) -> Result<(), FsError> {
        let super_block = self.super_block();
        let more = room(name, value);
        let value: Value = memory::arc(name::boxed(value)?).map_err(|_| FsError::NoMemory)?;
        let name = name::boxed(name)?;
        super_block.charge_room(more)?;
        let fresh = Attribute { name, value };
        let put = {
            let mut attributes = self.attributes().0.lock();
            match (find(&attributes, &fresh.name), set) {
                (Ok(_), Set::Create) => Err(FsError::Exists),
                (Err(_), Set::Replace) => Err(FsError::NoAttribute),
                (Ok(at), _) => Ok(Some(core::mem::replace(&mut attributes[at], fresh))),
                (Err(at), _) => match attributes.try_reserve(1) {
                    Ok(()) => {
                        attributes.insert(at, fresh);
                        Ok(None)
                    }
                    Err(_) => Err(FsError::NoMemory),
                },
            }
        };
        match &put {
            Ok(None) => {}
            Ok(Some(old)) => super_block.uncharge_room(old.room()),
            Err(_) => super_block.uncharge_room(more),
        }
        put?;
        self.touch_changed();
        Ok(())
    }

    /// Takes the attribute `name` away.
    ///
    /// # Errors
    /// `ENODATA`: it has none with this name.
    pub fn remove_attribute(&self, name: &[u8]) -> Result<(), FsError> {
        let gone = {
            let mut attributes = self.attributes().0.lock();
            let at = find(&attributes, name).map_err(|_| FsError::NoAttribute)?;
            attributes.remove(at)
        };
        self.super_block().uncharge_room(gone.room());
        self.touch_changed();
        Ok(())
    }

    /// The names that `shown` says yes to, each with a NUL behind it, as listxattr(2) has them.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn attribute_names(&self, shown: impl Fn(&[u8]) -> bool) -> Result<Vec<u8>, FsError> {
        let attributes = self.attributes().0.lock();
        let names = || attributes.iter().map(|attribute| &*attribute.name).filter(|name| shown(name));
        let mut text = Vec::new();
        text.try_reserve_exact(names().map(|name| name.len() + 1).sum()).map_err(|_| FsError::NoMemory)?;
        for name in names() {
            text.extend_from_slice(name);
            text.push(0);
        }
        Ok(text)
    }
}
