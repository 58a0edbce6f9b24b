//! Names of places: getcwd(2), and what a link to an open file reads.

use std::sync::Arc;

use mnt_table::namespace::namespace_of;
use mnt_table::{Dentry, Mount, WriteSet, pin};
use tmpfs::TmpDentry;

type Position = (Arc<Mount<TmpDentry>>, Arc<TmpDentry>);

/// The path of `at` from `root`, and whether it is below it.
pub(super) fn path(at: &Position, root: &Position) -> (Vec<u8>, bool) {
    let mut names: Vec<Vec<u8>> = Vec::new();
    // That of a detached mount that stays connected, too: its way up is still known there.
    let ns = namespace_of(&at.0);
    let locks = ns.as_ref().map(WriteSet::one);
    let guard = pin();
    let (mut mount, mut dentry) = at.clone();
    let mut reached = true;
    loop {
        if Arc::ptr_eq(&mount, &root.0) && Arc::ptr_eq(&dentry, &root.1) {
            break;
        }
        if Arc::ptr_eq(&dentry, mount.root()) {
            let up = locks.as_ref().and_then(|locks| {
                let parent = locks.parent(&mount)?;
                let on = locks.mountpoint(&mount)?;
                (!Arc::ptr_eq(parent, &mount)).then(|| (Arc::clone(parent), Arc::clone(on)))
            });
            match up {
                Some(up) => (mount, dentry) = up,
                None => {
                    reached = false;
                    break;
                }
            }
            continue;
        }
        let Some((name, parent)) = dentry.parent(&guard) else {
            // Out of its mount: nothing of the way is left.
            names.clear();
            reached = false;
            break;
        };
        names.push(name.to_vec());
        let parent = Arc::clone(parent);
        dentry = parent;
    }
    let mut text: Vec<u8> = names.iter().rev().flat_map(|name| [b"/", name.as_slice()].concat()).collect();
    if text.is_empty() {
        text.push(b'/');
    }
    (text, reached)
}
