//! What Linux 6.18 does otherwise than the crates, done to them from outside; see the crate's header.

use std::sync::Arc;

use mnt_table::{MntNamespace, Mount, WriteSet};
use tmpfs::TmpDentry;

type Namespace = Arc<MntNamespace<TmpDentry>>;
type MountArc = Arc<Mount<TmpDentry>>;

/// A copy of a namespace forgets which mounts are unbindable.
pub(super) fn forget_unbindable(ns: &Namespace) {
    let mut locks = WriteSet::one(ns);
    let mounts: Vec<_> = locks.mounts(ns).cloned().collect();
    mounts.iter().for_each(|mount| locks.set_unbindable(mount, false));
}

/// The locked mounts before a call, and what each was attached to.
pub(super) struct Locked(Vec<(Namespace, MountArc, MountArc)>);

impl Locked {
    /// In those of `namespaces` that are not the machine administrator's: elsewhere nothing is locked.
    pub(super) fn of(namespaces: Vec<Namespace>) -> Self {
        let mut locked = Vec::new();
        for ns in namespaces.into_iter().filter(|ns| !ns.owner().is_initial()) {
            let locks = WriteSet::one(&ns);
            let mounts = locks.mounts(&ns).filter(|mount| locks.is_locked(mount));
            let pairs =
                mounts.filter_map(|mount| Some((Arc::clone(mount), Arc::clone(locks.parent(mount)?))));
            locked.extend(pairs.map(|(mount, parent)| (Arc::clone(&ns), mount, parent)));
        }
        Locked(locked)
    }

    /// What comes beneath a locked mount does not take its lock over.
    pub(super) fn restore(self) {
        for (ns, upper, old) in self.0 {
            let mut locks = WriteSet::one(&ns);
            if !upper.is_mounted() || locks.is_locked(&upper) {
                continue;
            }
            // What is attached where it was.
            let mut at = Arc::clone(&upper);
            let lower = loop {
                match locks.parent(&at).map(Arc::clone) {
                    Some(parent) if Arc::ptr_eq(&parent, &old) => break Some(at),
                    Some(parent) if !Arc::ptr_eq(&parent, &at) => at = parent,
                    _ => break None,
                }
            };
            if let Some(lower) = lower.filter(|lower| !Arc::ptr_eq(lower, &upper) && locks.is_locked(lower)) {
                locks.set_locked(&lower, false);
                locks.set_locked(&upper, true);
            }
        }
    }
}
