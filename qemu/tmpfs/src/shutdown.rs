//! How the tree of a superblock is taken apart when its last mount is gone.
//!
//! Depth first, a few entries under a directory's lock at a time, and with no memory but the few claims that this takes: a
//! tree that has eaten all memory is what this gives back. A directory is marked removed when it is entered, so that
//! nothing is added from then on, and leaves its own directory when nothing is left in it; its place says the way up.

use alloc::sync::Arc;
use core::ptr::NonNull;

use mnt_table::dentry::Dentry;
use mnt_table::list::NoMemory;
use mnt_table::memory::{self, Claims};
use mnt_table::reclaim::{self, pin};
use mnt_table::table::Entry;
use smallvec::SmallVec;

use crate::dentry::{DirEntry, TmpDentry};
use crate::name;

/// Entries that leave a directory at a time, each with its place.
const BATCH: usize = 32;

/// Where to go on.
enum Next {
    /// A directory in which nobody was yet.
    Down(Arc<TmpDentry>),
    /// In the same one, from this hash on.
    Here(u64),
    /// Where it came from: nothing is left here.
    Up,
}

/// Marks everything below `root` removed, unlinks every entry and forgets every place, so that all of it is free after one
/// grace period but for what somebody still has a handle of; contents of files are freed at once. Waits for the memory that
/// it needs, a few blocks.
///
/// Context: not pinned; no lock held; once for each tree.
pub(crate) fn take_apart(root: Arc<TmpDentry>) {
    let (mut at, mut from) = (root, 0);
    loop {
        match memory::until(|| empty(&at, from)) {
            Next::Down(child) => (at, from) = (child, 0),
            Next::Here(hash) => from = hash,
            Next::Up => {
                let above =
                    at.place().get(&pin()).map(|place| (Arc::clone(&place.parent), name::hash(&place.name)));
                let Some(above) = above else { return };
                (at, from) = above;
            }
        }
        reclaim::relieve();
    }
}

/// Takes some of the entries with a hash of `from` or more out of `directory`.
fn empty(directory: &TmpDentry, from: u64) -> Result<Next, NoMemory> {
    let Ok((entries, writer)) = directory.directory() else { return Ok(Next::Up) };
    let mut claims = Claims::none();
    reclaim::claim(&mut claims, 2 * BATCH)?;
    let guard = pin();
    let mut writer = writer.lock();
    directory.set_removed();
    let some: SmallVec<[NonNull<DirEntry>; BATCH]> = writer.entries.entries_from(from).take(BATCH).collect();
    let mut next = 0;
    for entry in some {
        // SAFETY: linked, and not removed before the call below.
        let (hash, child) = unsafe { (entry.as_ref().hash(), Arc::clone(entry.as_ref().child())) };
        if child.is_dir() && !child.is_removed() {
            return Ok(Next::Down(child));
        }
        child.place().set(None, &guard);
        // SAFETY: found linked under this lock, and removed once.
        unsafe { writer.entries.remove(entries, entry, &guard) };
        if !child.is_dir() {
            child.set_removed();
            child.inode().remove_name();
        }
        next = hash;
    }
    // If some lie before `from`, because the table has grown, this comes to them in another round.
    Ok(if writer.entries.is_empty() { Next::Up } else { Next::Here(next) })
}
