//! Changes of what mounts are like: flags and id maps, beside those who write through them.
//!
//! Read-only is said twice: as a flag, which listings show, and in the mount's [`Writers`], which writers look at. Both
//! change here alone. A mount becomes read-only, or gets an id map, only while nobody writes through it; of several mounts
//! all change or none.

use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::dentry::{Dentry, SuperBlock};
use crate::mount::{Mount, MountFlags, MountRef};
use crate::user_ns::UserNs;
use crate::write_set::WriteSet;
use crate::writers::{Hold, Through, Writers};

/// What a mount is going to be like.
pub struct Attributes<D: Dentry> {
    /// The mount.
    pub mount: Arc<Mount<D>>,
    /// Its flags.
    pub flags: MountFlags,
    /// The user namespace whose ids it is to map, or none; `None` if that stays.
    pub idmap: Option<Option<UserNs>>,
}

impl<D: Dentry> Attributes<D> {
    /// Whether nobody may write through the mount while it changes so.
    fn excludes_writers(&self) -> bool {
        self.flags.contains(MountFlags::READONLY) && !self.mount.is_read_only() || self.idmap.is_some()
    }
}

/// Why nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttributeError {
    /// `EBUSY`: somebody writes through one of the mounts.
    Written,
    /// `ENOMEM`.
    NoMemory,
}

impl<D: Dentry> Mount<D> {
    /// Its writers, and those of its superblock: whom a write counts among.
    pub fn writers(&self) -> [&Writers; 2] {
        [self.own_writers(), self.super_block().active().writers()]
    }

    /// Whether nothing can be written through it, because of itself or of its superblock; a moment's answer.
    pub fn is_read_only(&self) -> bool {
        self.writers().iter().any(|writers| writers.is_read_only())
    }
}

impl<D: Dentry> Through for MountRef<D> {
    fn writers(&self) -> [&Writers; 2] {
        Mount::writers(self)
    }
}

impl<D: Dentry> Through for &Mount<D> {
    fn writers(&self) -> [&Writers; 2] {
        Mount::writers(self)
    }
}

impl<D: Dentry> WriteSet<D> {
    /// Makes all the changes, or none. `also` is made before them, while nobody can write through the mounts that ask for
    /// that; if it fails, nothing is changed.
    ///
    /// Context: holds the mounts' namespaces; `also` does not block.
    ///
    /// # Errors
    /// [`AttributeError`], and those of `also`.
    pub fn set_attributes<E: From<AttributeError>>(
        &mut self,
        changes: &[Attributes<D>],
        also: impl FnOnce(&mut Self) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut holds: Vec<Option<Hold<'_>>> = Vec::new();
        holds.try_reserve_exact(changes.len()).map_err(|_| AttributeError::NoMemory)?;
        for change in changes {
            let hold = change.excludes_writers().then(|| change.mount.own_writers().hold());
            if hold.as_ref().is_some_and(|hold| !hold.is_idle()) {
                return Err(AttributeError::Written.into());
            }
            holds.push(hold);
        }
        also(self)?;
        for (change, hold) in changes.iter().zip(holds) {
            self.commit(change, hold);
        }
        Ok(())
    }

    /// Sets `mount`'s flags, whoever writes through it: for a superblock that was made read-only before, and for changes that
    /// have nothing to do with writing.
    pub fn set_flags(&mut self, mount: &Arc<Mount<D>>, flags: MountFlags) {
        self.commit(&Attributes { mount: Arc::clone(mount), flags, idmap: None }, None);
    }

    fn commit(&mut self, change: &Attributes<D>, hold: Option<Hold<'_>>) {
        let mount = &change.mount;
        let ns = Arc::clone(self.namespace_of(mount).expect("the mount's namespace is locked"));
        mount.set_flags(change.flags);
        if let Some(idmap) = &change.idmap {
            mount.set_idmap(idmap.clone());
        }
        let writers = mount.own_writers();
        match (change.flags.contains(MountFlags::READONLY), hold) {
            (true, Some(hold)) => hold.set_read_only(),
            (true, None) if !writers.is_read_only() => writers.hold().set_read_only(),
            (true, None) => {}
            (false, hold) => {
                drop(hold);
                if writers.is_read_only() {
                    writers.set_writable();
                }
            }
        }
        ns.bump_generation();
    }

    /// Whether somebody writes through the mount of `change`, at this moment, who would be in its way.
    ///
    /// Context: holds the mount's namespace.
    pub fn is_written(&self, change: &Attributes<D>) -> bool {
        debug_assert!(self.namespace_of(&change.mount).is_some());
        change.excludes_writers() && !change.mount.own_writers().hold().is_idle()
    }
}
