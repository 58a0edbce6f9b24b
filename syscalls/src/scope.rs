//! Which mounts a caller may use: those of its own namespace; and those of anonymous namespaces that come from there.
//!
//! A mount can move from an anonymous namespace to another one at any time, so the namespace that it is in is asked for
//! under the locks, and a change that does not hold it starts again with it.

use alloc::sync::Arc;

use mnt_table::namespace::namespace_of;
use mnt_table::{Dentry, Kind, Missing, MntNamespace, Mount, WriteSet};
use propagate::Retry;
use propagate::pivot_root::Position;

/// The namespace that `mount` is in; `None` if it is detached.
///
/// # Errors
/// Its lock is missing.
pub(crate) fn home<D: Dentry>(
    locks: &WriteSet<D>,
    mount: &Arc<Mount<D>>,
) -> Result<Option<Arc<MntNamespace<D>>>, Retry<D>> {
    match locks.namespace_of(mount) {
        Some(ns) => Ok(locks.is_attached(mount).then(|| Arc::clone(ns))),
        None => match namespace_of(&**mount) {
            Some(ns) => Err(Retry::needs(Missing::Namespace(ns))),
            None => Ok(None),
        },
    }
}

/// Sees to it that what is on top of `place` can be told, in whichever namespace that is.
///
/// # Errors
/// Its lock is missing.
pub(crate) fn hold_stack<D: Dentry>(locks: &WriteSet<D>, place: &Position<D>) -> Result<(), Retry<D>> {
    if place.1.mounted_here().is_mountpoint() {
        home(locks, &place.0)?;
    }
    Ok(())
}

/// Whether `mount` is where calls can change something: neither detached nor the kernel's own.
pub(crate) fn is_mounted<D: Dentry>(mount: &Arc<Mount<D>>) -> bool {
    mount.is_mounted() && namespace_of(&**mount).is_some_and(|ns| ns.kind() != Kind::Internal)
}

/// The anonymous namespace whose root `mount` is.
///
/// # Errors
/// Its lock is missing.
pub(crate) fn anonymous_root<D: Dentry>(
    locks: &WriteSet<D>,
    mount: &Arc<Mount<D>>,
) -> Result<Option<Arc<MntNamespace<D>>>, Retry<D>> {
    let is_root = |ns: &Arc<MntNamespace<D>>| {
        ns.kind() == Kind::Anonymous && locks.root(ns).is_some_and(|root| Arc::ptr_eq(root, mount))
    };
    Ok(home(locks, mount)?.filter(is_root))
}

/// Whether a caller in `ns` may use `mount`: it is there, or in an anonymous namespace of the same origin.
///
/// # Errors
/// A lock is missing.
pub(crate) fn is_usable<D: Dentry>(
    locks: &WriteSet<D>,
    ns: &Arc<MntNamespace<D>>,
    mount: &Arc<Mount<D>>,
) -> Result<bool, Retry<D>> {
    let same_origin = |home: Arc<MntNamespace<D>>| {
        Arc::ptr_eq(&home, ns)
            || home.kind() == Kind::Anonymous && home.origin().is_none_or(|origin| origin == ns.id())
    };
    Ok(home(locks, mount)?.is_some_and(same_origin))
}

/// Whether a mount of `root` in `ns` could keep `ns` alive for ever: it is the file of a namespace that is not younger, and
/// so could, over others, hold `ns` itself.
pub(crate) fn would_loop<D: Dentry>(root: &D, ns: &MntNamespace<D>) -> bool {
    root.mnt_namespace().is_some_and(|held| held.id() <= ns.id())
}
