//! Moves of trees (3.5), within a namespace or out of an anonymous one: `MS_MOVE` and move_mount(2).

use alloc::sync::Arc;

use mnt_table::{Dentry, LockPlan, Mount, WriteSet};
use propagate::attach::{Place, What, attach};
use propagate::beneath::{may_go_beneath, place_beneath};
use propagate::graph::is_shared;
use propagate::{Error, Retry, with_locks};

use super::{Done, is_root, lock_target, rules};
use crate::path::Spot;
use crate::scope::{anonymous_root, home, is_mounted, is_usable, would_loop};
use crate::{Errno, Task};

/// Where a tree goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// On top of the stack at the target.
    OnTop,
    /// Beneath its top.
    Beneath,
}

/// Moves the mount at `from`, with all that is on it, to `to`.
///
/// # Errors
/// As mount(2) and move_mount(2) say.
pub(crate) fn move_tree<D: Dentry>(
    task: &Task<D>,
    from: &Spot<'_, D>,
    to: &Spot<'_, D>,
    how: How,
) -> Result<Done, Errno> {
    let ns = task.namespace();
    let done = with_locks(LockPlan::new(&ns), |locks| {
        let (from, to) = (from.now(locks)?, to.now(locks)?);
        // 3, 4; 8.8.1, 0
        if !is_root(&from) || from.1.is_dir() != to.1.is_dir() || how == How::Beneath && !is_root(&to) {
            return Err(Error::Invalid.into());
        }
        let source = &from.0;
        // The target's lock must be held to find the top of its stack.
        home(locks, &to.0)?;
        let (parent, on, top) = match how {
            How::OnTop => {
                let (parent, on) = lock_target(locks, &to)?; // 5
                (parent, on, None)
            }
            How::Beneath if !is_mounted(&to.0) => return Err(Error::NotFound.into()), // 5
            How::Beneath => {
                let (parent, on, top) = place_beneath(locks, &to.0)?; // 8.8.1, 1
                parent.note_use();
                if on.is_removed() {
                    return Err(Error::NotFound.into()); // 5
                }
                (parent, on, Some(top))
            }
        };
        let own = home(locks, source)?.is_some_and(|home| Arc::ptr_eq(&home, &ns));
        if own {
            let Some(old) = locks.parent(source) else { return Err(Error::Invalid.into()) }; // 6a
            if locks.is_locked(source) || is_shared(old) || !locks.is_in(&parent, &ns) {
                return Err(Error::Invalid.into()); // 6a, 6b, 6c
            }
        } else {
            let Some(anonymous) = anonymous_root(locks, source)? else {
                return Err(Error::Invalid.into()); // 7a
            };
            if locks.is_in(&parent, &anonymous) || !is_usable(locks, &ns, &parent)? {
                return Err(Error::Invalid.into()); // 7b, 7c
            }
        }
        if let Some(top) = &top {
            may_go_beneath(locks, source, top, &task.fs().root().0, own)?; // 8
        }
        may_attach(locks, source, &parent, |mount| would_loop(&**mount.root(), &ns))?;
        let place = Place { parent: &parent, dentry: &on, beneath: top };
        Ok(Done { propagated: attach(locks, What::Move(Arc::clone(source)), place, &rules(&ns))? })
    });
    done.map_err(Errno::from)
}

/// Rows 9 to 12.
fn may_attach<D: Dentry>(
    locks: &WriteSet<D>,
    source: &Arc<Mount<D>>,
    parent: &Arc<Mount<D>>,
    loops: impl Fn(&Arc<Mount<D>>) -> bool,
) -> Result<(), Retry<D>> {
    let tree = locks.subtree(source)?;
    if is_shared(parent) && tree.iter().any(|mount| locks.is_unbindable(mount)) {
        return Err(Error::Invalid.into()); // 9
    }
    if tree.iter().any(loops) || locks.is_below(parent, source) {
        return Err(Error::Loop.into()); // 10, 11
    }
    if locks.topmost(source).root().is_removed() {
        return Err(Error::NotFound.into()); // 12
    }
    Ok(())
}
