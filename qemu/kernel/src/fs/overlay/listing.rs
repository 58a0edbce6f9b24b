//! Directories, of one layer or of several, read as one.
//!
//! An open directory has the names of the moment when it was read from the beginning, in their order: where reading goes on
//! is then always the same place, whatever is made or removed in between.

use alloc::sync::Arc;
use alloc::vec::Vec;

use mnt_table::dentry::Dentry;
use mnt_table::memory::Grow;
use mnt_table::pin;
use mnt_table::sync::BlockingMutex;
use syscalls::Errno;
use tmpfs::TmpDentry;

use super::entry::{self, Entry};
use super::lookup::is_whiteout;
use super::{layers::Layer, no_memory};
use crate::fs::copy::{Sink, Source};
use crate::fs::file::{Entries, FileOps, OpenFile, Whence, offset_from};
use crate::fs::permission::{READ, Subject};
use crate::fs::{error, node, stat};

/// Entries that are asked for at a time.
const BATCH: usize = 512;
/// `DT_DIR`
const DIRECTORY: u8 = 4;
/// The offset behind `.` and `..`.
const FIRST: u64 = 2;

/// An entry.
struct Item {
    name: Vec<u8>,
    ino: u64,
    kind: u8,
    /// How far up its layer is.
    layer: usize,
    whiteout: bool,
}

/// The entries of a directory, without whiteouts, each name once. Context: holds no `changing` but the instance's own.
///
/// # Errors
/// `EACCES`, `ENOMEM`.
fn merged(entry: &Entry, directory: &Arc<TmpDentry>) -> Result<Vec<Item>, Errno> {
    let layers = &entry.layers;
    let mut items = Vec::new();
    if let (Some(upper), Ok(at)) = (entry.upper(), layers.upper()) {
        collect(entry, &at.layer, upper, 0, &mut items)?;
    }
    for (lower, order) in entry.lowers.iter().zip(1..) {
        collect(entry, &layers.lowers[lower.layer], &lower.dentry, order, &mut items)?;
    }
    items.sort_unstable_by(|one: &Item, two| (&one.name, one.layer).cmp(&(&two.name, two.layer)));
    items.dedup_by(|next, kept| next.name == kept.name);
    items.retain(|item| !item.whiteout);
    for item in &mut items {
        // What somebody has looked at has the number that stat(2) told.
        if let Some(known) = directory.entry(&item.name) {
            item.ino = stat::ino(&known);
        }
    }
    Ok(items)
}

/// Adds the entries of a layer's directory.
fn collect(
    entry: &Entry,
    layer: &Layer,
    directory: &Arc<TmpDentry>,
    order: usize,
    items: &mut Vec<Item>,
) -> Result<(), Errno> {
    Subject::new(layer.mount(), directory).may(&entry.layers.mounter, READ)?;
    if let Ok(below) = entry::of(directory) {
        // An instance that is a layer itself.
        let _changing = below.layers.changing.lock();
        for item in merged(below, directory)? {
            items.try_push(Item { layer: order, ..item }).map_err(no_memory)?;
        }
        return Ok(());
    }
    let mut after = FIRST;
    loop {
        let listed = directory.list(after, BATCH).map_err(error)?;
        let Some(last) = listed.last() else { return Ok(()) };
        after = last.offset;
        for one in &listed {
            let mut name = Vec::new();
            name.try_reserve_exact(one.name().len()).map_err(no_memory)?;
            name.extend_from_slice(one.name());
            let kind = (node::real(&one.dentry).inode().file_type() >> 12) as u8;
            let whiteout = is_whiteout(&one.dentry);
            let item = Item { name, ino: stat::ino(&one.dentry), kind, layer: order, whiteout };
            items.try_push(item).map_err(no_memory)?;
        }
    }
}

/// Whether a directory has no entries. Context: holds `changing`.
///
/// # Errors
/// `EACCES`, `ENOMEM`.
pub(super) fn is_empty(entry: &Entry, directory: &Arc<TmpDentry>) -> Result<bool, Errno> {
    Ok(merged(entry, directory)?.is_empty())
}

/// An open directory.
pub(super) struct ListingOps {
    items: BlockingMutex<Option<Vec<Item>>>,
}

impl ListingOps {
    pub(super) fn new() -> Self {
        ListingOps { items: BlockingMutex::new(None) }
    }
}

impl FileOps for ListingOps {
    fn read(&self, _file: &OpenFile, _to: &mut Sink<'_>, _at: u64) -> Result<usize, Errno> {
        Err(Errno::EISDIR)
    }

    fn write(&self, _file: &OpenFile, _from: &mut Source<'_>, _at: u64) -> Result<(usize, u64), Errno> {
        Err(Errno::EISDIR)
    }

    fn is_seekable(&self) -> bool {
        true
    }

    fn can_wait(&self) -> bool {
        false
    }

    fn seek(&self, _file: &OpenFile, now: u64, offset: i64, whence: Whence) -> Result<u64, Errno> {
        match whence {
            Whence::Set => offset_from(0, offset),
            Whence::Current => offset_from(now, offset),
            _ => Err(Errno::EINVAL),
        }
    }

    fn readdir(&self, file: &OpenFile, at: u64, entries: &mut dyn Entries) -> Result<(), Errno> {
        let directory = file.dentry().ok_or(Errno::ENOTDIR)?;
        if directory.is_removed() {
            return Err(Errno::ENOENT);
        }
        let own = stat::ino(directory);
        let above = directory.parent(&pin()).map_or(own, |(_, parent)| stat::ino(parent));
        let dots = (at >= 1 || entries.add(own, 1, DIRECTORY, b"."))
            && (at >= FIRST || entries.add(above, FIRST, DIRECTORY, b".."));
        if !dots {
            return Ok(());
        }
        let mut items = self.items.lock();
        if at == 0 || items.is_none() {
            let entry = entry::of(directory)?;
            let _changing = entry.layers.changing.lock();
            *items = Some(merged(entry, directory)?);
        }
        let first = usize::try_from(at.max(FIRST) - FIRST).unwrap_or(usize::MAX);
        let rest = items.as_deref().and_then(|items| items.get(first..)).unwrap_or_default();
        for (item, next) in rest.iter().zip(at.max(FIRST) + 1..) {
            if !entries.add(item.ino, next, item.kind, &item.name) {
                break;
            }
        }
        Ok(())
    }

    fn sync(&self, _file: &OpenFile) -> Result<(), Errno> {
        Ok(())
    }
}
