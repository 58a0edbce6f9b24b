//! The mappings of a space, as a sorted list.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;

use bitflags::bitflags;
use linux_raw_sys::general as lx;
use syscalls::Errno;

use super::backing::{Backing, Writing};

/// The most mappings of a space.
const AREAS_MAX: usize = 65530;
/// What stays free below a mapping that grows down.
pub(super) const GUARD_GAP: usize = 256 * PAGE;
pub(super) const PAGE: usize = tmpfs::PAGE_SIZE;

bitflags! {
    /// What may be done with memory; the numbers are those of mmap(2).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct Prot: u32 {
        const READ = lx::PROT_READ;
        const WRITE = lx::PROT_WRITE;
        const EXEC = lx::PROT_EXEC;
    }

    /// What a mapping is like.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) struct Flags: u32 {
        const SHARED = 1 << 0;
        const GROWS_DOWN = 1 << 1;
        const LOCKED = 1 << 2;
        const NO_RESERVE = 1 << 3;
        const DONT_FORK = 1 << 4;
        const WIPE_ON_FORK = 1 << 5;
    }
}

/// A mapping.
pub(super) struct Area {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) prot: Prot,
    /// What mprotect may raise it to.
    pub(super) max_prot: Prot,
    pub(super) flags: Flags,
    backing: Option<Arc<dyn Backing>>,
    /// Of `start` in the backing, in bytes.
    pub(super) offset: u64,
    /// Shared, and may be written.
    writing: Option<Arc<Writing>>,
}

impl Area {
    /// A mapping of anonymous memory, or of `backing` from its offset on.
    pub(super) fn new(
        range: Range<usize>,
        prot: Prot,
        max_prot: Prot,
        flags: Flags,
        backing: Option<(Arc<dyn Backing>, u64)>,
        writing: Option<Arc<Writing>>,
    ) -> Self {
        let (backing, offset) = backing.map_or((None, 0), |(backing, offset)| (Some(backing), offset));
        Area { start: range.start, end: range.end, prot, max_prot, flags, backing, offset, writing }
    }

    /// A part of it, or of where it could be (mremap), with the same properties.
    pub(super) fn part(&self, range: Range<usize>, offset: u64) -> Self {
        let (backing, writing) = (self.backing.clone(), self.writing.clone());
        let offset = if backing.is_some() { offset } else { 0 };
        Area { start: range.start, end: range.end, backing, offset, writing, ..*self }
    }

    pub(super) fn backing(&self) -> Option<&Arc<dyn Backing>> {
        self.backing.as_ref()
    }

    pub(super) fn range(&self) -> Range<usize> {
        self.start..self.end
    }

    pub(super) fn len(&self) -> usize {
        self.end - self.start
    }

    pub(super) fn is_shared(&self) -> bool {
        self.flags.contains(Flags::SHARED)
    }

    /// Private memory that may be written: what the kernel has to have memory for.
    pub(super) fn is_data(&self) -> bool {
        self.prot.contains(Prot::WRITE) && !self.is_shared()
    }

    /// Where `address` is in the backing.
    pub(super) fn offset_of(&self, address: usize) -> u64 {
        self.offset + (address - self.start) as u64
    }

    /// The lowest address that is taken, by it or by what has to stay free below.
    fn floor(&self) -> usize {
        if self.flags.contains(Flags::GROWS_DOWN) { self.start.saturating_sub(GUARD_GAP) } else { self.start }
    }

    fn continues(&self, next: &Area) -> bool {
        self.end == next.start
            && (self.prot, self.max_prot, self.flags) == (next.prot, next.max_prot, next.flags)
            && match (&self.backing, &next.backing) {
                (None, None) => true,
                (Some(a), Some(b)) => Arc::ptr_eq(a, b) && self.offset + self.len() as u64 == next.offset,
                _ => false,
            }
    }
}

/// Mappings that are gone, to be dropped when the space's lock is free: that may end files.
pub(super) type Grave = Vec<Area>;

/// The mappings, by address; they do not overlap.
#[derive(Default)]
pub(super) struct Areas(Vec<Area>);

impl Areas {
    pub(super) fn iter(&self) -> core::slice::Iter<'_, Area> {
        self.0.iter()
    }

    pub(super) fn iter_mut(&mut self) -> core::slice::IterMut<'_, Area> {
        self.0.iter_mut()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Index of the first mapping that ends above `address`.
    pub(super) fn first_above(&self, address: usize) -> usize {
        self.0.partition_point(|area| area.end <= address)
    }

    pub(super) fn get(&self, index: usize) -> Option<&Area> {
        self.0.get(index)
    }

    pub(super) fn get_mut(&mut self, index: usize) -> Option<&mut Area> {
        self.0.get_mut(index)
    }

    /// The mapping that contains `address`.
    pub(super) fn find(&self, address: usize) -> Option<&Area> {
        self.get(self.first_above(address)).filter(|area| area.start <= address)
    }

    /// The mappings that overlap `range`, with their indices.
    pub(super) fn overlapping(&self, range: &Range<usize>) -> Range<usize> {
        let first = self.first_above(range.start);
        let count = self.0[first..].partition_point(|area| area.start < range.end);
        first..first + count
    }

    /// Room for so many more mappings, as far as memory and the limit go.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(super) fn make_room(&mut self, more: usize) -> Result<(), Errno> {
        if self.0.len() + more > AREAS_MAX {
            return Err(Errno::ENOMEM);
        }
        self.reserve(more)
    }

    /// As [`Self::make_room`], for what is there for a moment only.
    pub(super) fn reserve(&mut self, more: usize) -> Result<(), Errno> {
        self.0.try_reserve(more).map_err(|_| Errno::ENOMEM)
    }

    /// Puts a mapping in, where nothing is. There is room.
    pub(super) fn insert(&mut self, area: Area) {
        let index = self.first_above(area.start);
        debug_assert!(self.get(index).is_none_or(|next| area.end <= next.start), "mappings overlap");
        self.0.insert(index, area);
    }

    /// Puts a mapping in as [`Self::insert`], or lengthens its neighbours with it. What it replaces goes to `grave`, which has room
    /// for two.
    pub(super) fn insert_merged(&mut self, area: Area, grave: &mut Grave) {
        let (start, end) = (area.start, area.end);
        self.insert(area);
        self.merge(start..end, grave);
    }

    /// Makes one of neighbours that are alike, at the ends of `range` and within it. `grave` has room for what overlaps the range,
    /// and two.
    pub(super) fn merge(&mut self, range: Range<usize>, grave: &mut Grave) {
        let mut index = self.first_above(range.start).saturating_sub(1);
        while let Some([first, second]) = self.0.get_mut(index..index + 2) {
            if first.start > range.end {
                break;
            }
            if first.continues(second) {
                first.end = second.end;
                grave.push(self.0.remove(index + 1));
            } else {
                index += 1;
            }
        }
    }

    /// Splits what contains `address` there. There is room for one more.
    pub(super) fn split(&mut self, address: usize) {
        let index = self.first_above(address);
        if let Some(area) = self.0.get_mut(index)
            && area.start < address
        {
            let upper = area.part(address..area.end, area.offset_of(address));
            area.end = address;
            self.0.insert(index + 1, upper);
        }
    }

    /// Takes the mappings of `range` out, which begin and end at its bounds. `grave` has room for them.
    pub(super) fn take(&mut self, range: &Range<usize>, grave: &mut Grave) {
        let indices = self.overlapping(range);
        grave.extend(self.0.drain(indices));
    }

    /// How many of them a call splits or takes out of `range`: what `grave` needs.
    pub(super) fn count(&self, range: &Range<usize>) -> usize {
        self.overlapping(range).len()
    }

    /// True if nothing is in `range`, nor has to stay free there.
    pub(super) fn is_free(&self, range: &Range<usize>) -> bool {
        self.get(self.first_above(range.start)).is_none_or(|next| range.end <= next.floor())
    }

    /// The highest free range of `length` bytes within `bounds`.
    pub(super) fn find_gap(&self, length: usize, bounds: &Range<usize>) -> Option<usize> {
        let mut top = bounds.end;
        let fit = |top: usize, floor: usize| top.checked_sub(length).filter(|&start| start >= floor);
        for area in self.0.iter().rev() {
            if let Some(start) = fit(top, area.end) {
                return Some(start).filter(|&start| start >= bounds.start);
            }
            top = top.min(area.floor());
        }
        fit(top, bounds.start)
    }

    /// The free range around `range`, which is free.
    pub(super) fn gap_around(&self, range: &Range<usize>, end: usize) -> Range<usize> {
        let next = self.first_above(range.start);
        let below = next.checked_sub(1).and_then(|index| self.get(index)).map_or(0, |area| area.end);
        below..self.get(next).map_or(end, |area| area.start)
    }
}
