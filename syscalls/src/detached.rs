//! Trees in anonymous namespaces, and the files that they live and die with (8.6).

use alloc::sync::Arc;

use mnt_table::list::NoMemory;
use mnt_table::namespace::{NamespaceId, namespace_of};
use mnt_table::{Dentry, LockPlan, MntNamespace, Mount, NamespaceSpec, PathRef, WriteSet, memory, pin};
use propagate::umount::dissolve;
use propagate::{Error, Retry, with_locks};

use crate::Errno;
use crate::scope::anonymous_root;

/// An anonymous namespace that is being filled. Dropped before it is the file's, it is dissolved.
pub(crate) struct Detached<D: Dentry> {
    ns: Option<Arc<MntNamespace<D>>>,
}

impl<D: Dentry> Detached<D> {
    /// One without mounts, for somebody in `caller`. Its tree is going to be a copy of something in `origin`, or new.
    ///
    /// # Errors
    /// `ENOSPC`: the owner of `caller` has too many namespaces. `ENOMEM`.
    pub(crate) fn empty(caller: &MntNamespace<D>, origin: Option<NamespaceId>) -> Result<Self, Errno> {
        let mut spec = NamespaceSpec::anonymous(caller);
        spec.origin = origin;
        spec.charge = Some(caller.owner().charge()?);
        Ok(Detached { ns: Some(MntNamespace::from_spec(spec).map_err(Error::from)?) })
    }

    /// One that is no user's, for a mount that nobody finds.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn private(caller: &MntNamespace<D>) -> Result<Self, Errno> {
        let spec = NamespaceSpec::anonymous(caller);
        Ok(Detached { ns: Some(MntNamespace::from_spec(spec).map_err(Error::from)?) })
    }

    /// Fills it under its lock and those of `plan`; returns the root that `fill` gave it, kept.
    ///
    /// # Errors
    /// Those of `fill`.
    pub(crate) fn fill(
        mut self,
        mut plan: LockPlan<D>,
        mut fill: impl FnMut(&mut WriteSet<D>, &Arc<MntNamespace<D>>) -> Result<Arc<Mount<D>>, Retry<D>>,
    ) -> Result<PathRef<D>, Errno> {
        let ns = self.ns.clone().ok_or(Errno::EINVAL)?;
        plan.namespace(&ns);
        let root = with_locks(plan, |locks| fill(locks, &ns))?;
        // Nobody knows of it, so nobody decides about it.
        let kept = root.keep(&pin());
        match kept {
            Ok(mount) => {
                self.ns = None;
                Ok(PathRef { mount, dentry: Arc::clone(root.root()) })
            }
            Err(unkept) => {
                unkept.settle();
                Err(Errno::ENOMEM)
            }
        }
    }
}

impl<D: Dentry> Drop for Detached<D> {
    fn drop(&mut self) {
        if let Some(ns) = self.ns.take() {
            until_memory(|| with_locks(LockPlan::new(&ns), |locks| dissolve(locks, &ns)).map(drop));
        }
    }
}

/// The end of the file that made the tree with the root `mount`: the tree is dissolved, unless it was attached meanwhile.
///
/// Context: no lock of the mount table held; may block.
pub(crate) fn close<D: Dentry>(mount: &Arc<Mount<D>>) {
    until_memory(|| {
        let Some(ns) = namespace_of(&**mount) else { return Ok(()) };
        with_locks(LockPlan::new(&ns), |locks| match anonymous_root(locks, mount)? {
            Some(ns) => dissolve(locks, &ns).map(drop),
            None => Ok(()),
        })
    });
}

/// Makes a change that nobody could be told has failed, for want of memory: again, until there is some.
pub(crate) fn until_memory(change: impl Fn() -> Result<(), Error>) {
    memory::until(|| change().map_err(|_| NoMemory));
}
