//! What a new mount is made of.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::MountFlags;
use crate::dentry::Dentry;
use crate::list::NoMemory;
use crate::memory;
use crate::user_ns::UserNs;

/// What was mounted: a device, or whatever the mounting call named. Copies of a mount share it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source(Arc<Vec<u8>>);

impl Source {
    /// `name` as a source.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new(name: &[u8]) -> Result<Self, NoMemory> {
        Ok(Source(memory::arc(memory::collect(name.iter().copied())?)?))
    }
}

impl core::ops::Deref for Source {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

/// What a new mount is made of.
pub struct MountSpec<D: Dentry> {
    /// Its root: the superblock's root or any dentry below it.
    pub root: Arc<D>,
    /// Per-mount flags.
    pub flags: MountFlags,
    /// The device name that mountinfo shows.
    pub source: Source,
    /// The user namespace whose ids it maps.
    pub idmap: Option<UserNs>,
}

impl<D: Dentry> MountSpec<D> {
    /// A mount of `root`, not id-mapped.
    pub fn new(root: Arc<D>, flags: MountFlags, source: Source) -> Self {
        MountSpec { root, flags, source, idmap: None }
    }
}
