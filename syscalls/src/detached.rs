//! Trees in anonymous namespaces, and the files that they live and die with (8.6).

use alloc::sync::Arc;

use mnt_table::{
    Dentry, Kind, LockPlan, MntNamespace, Mount, NamespaceSpec, PathRef, UserNs, WriteSet, pin,
};
use propagate::umount::dissolve;
use propagate::{Error, Retry, with_locks};

use crate::file::Object;
use crate::scope::anonymous_root;
use crate::{Errno, File};

use mnt_table::namespace::NamespaceId;

/// An anonymous namespace that is being filled. Dropped before it becomes a file it is dissolved.
pub(crate) struct Detached<D: Dentry>(Option<Arc<MntNamespace<D>>>);

impl<D: Dentry> Detached<D> {
    /// One without mounts, whose tree is going to be a copy of something in `origin`.
    ///
    /// # Errors
    /// `ENOSPC`: `owner` has too many namespaces. `ENOMEM`.
    pub(crate) fn empty(owner: &UserNs, origin: Option<NamespaceId>) -> Result<Self, Errno> {
        let charge = Some(owner.charge()?);
        let spec =
            NamespaceSpec { owner: owner.clone(), origin, charge, ..NamespaceSpec::new(Kind::Anonymous) };
        Ok(Detached(Some(MntNamespace::from_spec(spec).map_err(Error::from)?)))
    }
}
