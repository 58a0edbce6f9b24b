//! Removing a directory entry (rmdir, unlink, rename onto it) beside mounts on it.
//!
//! An entry on which the caller's namespace mounts is `EBUSY`; mounts on it in other namespaces go with it. There is no
//! lock that mounting and removing both take across namespaces; instead:
//!
//! 1. [`Removal::begin`] marks the dentry *dying* under its leaf lock, and takes the list of namespaces that mount on
//!    it. From here on no namespace can begin to ([`MountedHere`](crate::MountedHere)); one that did already may go on.
//! 2. If the caller's namespace is in the list it is locked: in use there means that the mark is taken back, `EBUSY`.
//! 3. The file system unlinks the entry.
//! 4. [`Removal::elsewhere`] names the other namespaces; the caller detaches what each has mounted there, one after the
//!    other, as Linux does.
//!
//! A mounter tests the mark under the same leaf lock under which it registers, before it publishes its edge under its
//! namespace's lock: either the removal finds it, or it finds the mark and fails with `ENOENT`.

use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::dentry::Dentry;
use crate::list::NoMemory;
use crate::memory::Grow;
use crate::namespace::MntNamespace;
use crate::sync::planted;
use crate::write_set::WriteSet;

/// Why an entry cannot be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemovalError {
    /// `EBUSY`: something is mounted here in the caller's namespace.
    Busy,
    /// `ENOMEM`.
    NoMemory,
}

impl From<NoMemory> for RemovalError {
    fn from(NoMemory: NoMemory) -> Self {
        RemovalError::NoMemory
    }
}

/// A removal under way. Dropped without [`Removal::done`] it is taken back.
#[must_use]
pub struct Removal<D: Dentry> {
    dentry: Arc<D>,
    elsewhere: Vec<Arc<MntNamespace<D>>>,
    done: bool,
}

impl<D: Dentry> Removal<D> {
    /// Makes sure that nothing is, or will be, mounted on `dentry` in `own`.
    ///
    /// Several removals of one dentry may be under way; the file system lets one of them unlink it.
    ///
    /// Context: not pinned; no lock of this crate held; may block.
    ///
    /// # Errors
    /// `EBUSY`, `ENOMEM`: [`RemovalError`].
    pub fn begin(dentry: &Arc<D>, own: &Arc<MntNamespace<D>>) -> Result<Self, RemovalError> {
        let users = dentry.mounted_here().mark_dying()?;
        // Whatever fails from here on, dropping `removal` takes the mark back.
        let mut removal = Removal { dentry: Arc::clone(dentry), elsewhere: Vec::new(), done: false };
        for ns in users.iter().filter_map(|user| user.namespace()) {
            if !Arc::ptr_eq(&ns, own) && planted("elsewhere_not_visited") {
                continue;
            }
            if !Arc::ptr_eq(&ns, own) {
                removal.elsewhere.try_push(ns)?;
            } else if WriteSet::one(own).mounts_on(own, dentry).next().is_some() {
                return Err(RemovalError::Busy);
            }
        }
        Ok(removal)
    }

    /// As [`Removal::begin`], by nobody in particular: mounts on `dentry` in every namespace go with it.
    ///
    /// Context: not pinned; no lock of this crate held.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn begin_everywhere(dentry: &Arc<D>) -> Result<Self, NoMemory> {
        let users = dentry.mounted_here().mark_dying()?;
        let mut removal = Removal { dentry: Arc::clone(dentry), elsewhere: Vec::new(), done: false };
        for ns in users.iter().filter_map(|user| user.namespace()) {
            removal.elsewhere.try_push(ns)?;
        }
        Ok(removal)
    }

    /// The entry was unlinked. Returns the namespaces in which something may be mounted on it, to be detached.
    pub fn done(mut self) -> Vec<Arc<MntNamespace<D>>> {
        self.done = true;
        core::mem::take(&mut self.elsewhere)
    }
}

impl<D: Dentry> Drop for Removal<D> {
    fn drop(&mut self) {
        if !self.done {
            self.dentry.mounted_here().unmark_dying();
        }
    }
}
