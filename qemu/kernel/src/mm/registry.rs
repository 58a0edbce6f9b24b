//! All spaces, for whoever takes pages away from files that are mapped.
//!
//! Lock order: a shard is a leaf; a space is locked when its shard is free again.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::ops::Range;

use syscalls::Errno;

use super::area::PAGE;
use super::space::AddressSpace;
use crate::arch::percpu::{self, MAX_CPUS};
use crate::arch::spin::SpinLock;

static SHARDS: [SpinLock<Shard>; MAX_CPUS] =
    [const { SpinLock::new(Shard { spaces: Vec::new(), free: Vec::new() }) }; MAX_CPUS];

/// Spaces that were made on one CPU.
struct Shard {
    spaces: Vec<Weak<AddressSpace>>,
    /// Places in `spaces` that are free; has room for all of them.
    free: Vec<u32>,
}

/// A space's place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    shard: u32,
    index: u32,
}

/// Enters a space.
///
/// # Errors
/// `ENOMEM`.
pub(super) fn enter(space: &Arc<AddressSpace>) -> Result<Place, Errno> {
    let cpu = percpu::this().index;
    let mut shard = SHARDS[cpu].lock();
    let index = match shard.free.pop() {
        Some(index) => {
            shard.spaces[index as usize] = Arc::downgrade(space);
            index
        }
        None => {
            let more = shard.spaces.len() + 1;
            shard.spaces.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            shard.free.try_reserve(more).map_err(|_| Errno::ENOMEM)?;
            shard.spaces.push(Arc::downgrade(space));
            more as u32 - 1
        }
    };
    Ok(Place { shard: cpu as u32, index })
}

/// Takes a space out.
pub(super) fn leave(place: Place) {
    let mut shard = SHARDS[place.shard as usize].lock();
    let gone = core::mem::take(&mut shard.spaces[place.index as usize]);
    shard.free.push(place.index); // There is room.
    drop(shard);
    drop(gone); // The last one frees the space's memory.
}

/// How many spaces there are; for leak checks.
pub(crate) fn live() -> usize {
    SHARDS.iter().map(|shard| shard.lock()).map(|shard| shard.spaces.len() - shard.free.len()).sum()
}

/// Takes pages of a file out of all spaces: it was cut short, or has a hole there now. The file has changed already, so whoever
/// touches them afterwards asks it. With `copies` also private copies go, as when a file is cut short.
///
/// Context: threads; no lock of the file is held, blocks.
pub(crate) fn cut(identity: u64, pages: &Range<u64>, copies: bool) {
    for shard in &SHARDS {
        let mut index = 0;
        loop {
            let space = {
                let shard = shard.lock();
                let Some(space) = shard.spaces.get(index) else { break };
                space.upgrade()
            };
            if let Some(space) = space {
                space.cut(identity, pages, copies);
            }
            index += 1;
        }
    }
}

impl AddressSpace {
    fn cut(&self, identity: u64, pages: &Range<u64>, copies: bool) {
        let inner = &mut *self.inner.lock();
        let mut index = 0;
        while let Some(area) = inner.areas.get(index) {
            index += 1;
            if area.backing().is_none_or(|backing| backing.identity() != identity) {
                continue;
            }
            let first = area.offset / PAGE as u64;
            let length = (area.len() / PAGE) as u64;
            let at = |page: u64| area.start + page.saturating_sub(first).min(length) as usize * PAGE;
            let range = at(pages.start)..at(pages.end);
            if area.is_shared() || copies {
                self.zap(inner, range);
            }
        }
    }
}
