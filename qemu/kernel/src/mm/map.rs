//! Changes of the mappings: mmap, munmap, mprotect, mremap, brk.
//!
//! What a change needs is there before it begins, so that one that fails changed nothing.

use alloc::sync::Arc;
use core::ops::Range;
use core::sync::atomic::Ordering::Relaxed;

use linux_raw_sys::general as lx;
use syscalls::Errno;

use super::area::{Area, Flags, PAGE, Prot};
use super::backing::{Backing, Writing};
use super::frames;
use super::space::{AddressSpace, Inner, MAP_MIN, USER_END, grave_for};

/// Where `MAP_32BIT` goes.
const LOW: Range<usize> = 0x4000_0000..0x8000_0000;

/// Where a mapping goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Anywhere; here if it is not 0 and free.
    Hint(usize),
    /// Here, in the place of what is there.
    Fixed(usize),
    /// Here, or `EEXIST`.
    NoReplace(usize),
}

/// A new mapping.
pub(crate) struct MapRequest {
    pub(crate) place: Place,
    pub(crate) length: usize,
    pub(crate) prot: Prot,
    /// What mprotect may raise it to (a file that is open for reading only: no `WRITE` in a shared mapping).
    pub(crate) max_prot: Prot,
    pub(crate) shared: bool,
    /// `None`: anonymous memory, private.
    pub(crate) backing: Option<(Arc<dyn Backing>, u64)>,
    pub(crate) grows_down: bool,
    pub(crate) locked: bool,
    /// Its maker may lock as much as he likes.
    pub(crate) may_lock_all: bool,
    pub(crate) populate: bool,
    pub(crate) no_reserve: bool,
    /// Below 2 GiB (`MAP_32BIT`).
    pub(crate) low: bool,
}

impl MapRequest {
    /// Private anonymous memory.
    pub(crate) fn anonymous(place: Place, length: usize, prot: Prot) -> Self {
        MapRequest {
            place,
            length,
            prot,
            max_prot: Prot::all(),
            shared: false,
            backing: None,
            grows_down: false,
            locked: false,
            may_lock_all: false,
            populate: false,
            no_reserve: false,
            low: false,
        }
    }
}

/// Rounds up to whole pages; `None` on overflow.
pub(super) fn whole_pages(length: usize) -> Option<usize> {
    length.checked_next_multiple_of(PAGE)
}

/// The range of whole pages from `address`, a page's, on.
///
/// # Errors
/// `EINVAL`: the address is not a page's. `ENOMEM`: not user memory.
pub(super) fn page_range(address: usize, length: usize) -> Result<Range<usize>, Errno> {
    if !address.is_multiple_of(PAGE) {
        return Err(Errno::EINVAL);
    }
    let end = whole_pages(length).and_then(|length| address.checked_add(length));
    Ok(address..end.filter(|&end| end <= USER_END).ok_or(Errno::ENOMEM)?)
}

impl AddressSpace {
    /// mmap(2). Returns the address.
    ///
    /// # Errors
    /// `EINVAL`: no length, or a fixed address that is not a page's. `ENOMEM`. `EEXIST`. `EOVERFLOW`: beyond the largest offset. `EAGAIN`:
    /// more locked memory than allowed.
    pub(crate) fn map(&self, request: MapRequest) -> Result<usize, Errno> {
        if request.length == 0 {
            return Err(Errno::EINVAL);
        }
        let length = whole_pages(request.length).filter(|&length| length <= USER_END).ok_or(Errno::ENOMEM)?;
        let mut request = request;
        let mut writing = None;
        if let Some((backing, offset)) = &request.backing {
            let end = offset.checked_add(length as u64).filter(|&end| end <= i64::MAX as u64);
            end.ok_or(Errno::EOVERFLOW)?;
            if request.shared && request.max_prot.contains(Prot::WRITE) {
                match Writing::begin(backing) {
                    Ok(begun) => writing = Some(begun),
                    // What is sealed can still be read.
                    Err(Errno::EPERM) if !request.prot.contains(Prot::WRITE) => {
                        request.max_prot -= Prot::WRITE
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        let mut grave = grave_for(2)?;
        let result = {
            let inner = &mut *self.inner.lock();
            self.map_locked(inner, request, length, writing, &mut grave)
        };
        drop(grave);
        result
    }

    /// The highest free place for `length` bytes.
    pub(super) fn find_place(&self, length: usize) -> Option<usize> {
        self.inner.lock().place(0, whole_pages(length)?)
    }

    /// Where mappings are placed from, downwards.
    pub(super) fn set_map_top(&self, top: usize) {
        self.inner.lock().map_top = top;
    }

    fn map_locked(
        &self,
        inner: &mut Inner,
        request: MapRequest,
        length: usize,
        writing: Option<Arc<Writing>>,
        grave: &mut super::area::Grave,
    ) -> Result<usize, Errno> {
        let start = match request.place {
            Place::Hint(_) if request.low => inner.areas.find_gap(length, &LOW).ok_or(Errno::ENOMEM)?,
            Place::Hint(hint) => inner.place(hint, length).ok_or(Errno::ENOMEM)?,
            Place::Fixed(at) | Place::NoReplace(at) => {
                let range = page_range(at, length)?;
                if matches!(request.place, Place::NoReplace(_)) && inner.areas.count(&range) != 0 {
                    return Err(Errno::EEXIST);
                }
                at
            }
        };
        let range = start..start + length;
        let locked = request.locked || inner.lock_future;
        // Relaxed, all: numbers that stand for themselves.
        if locked
            && !request.may_lock_all
            && inner.locked.saturating_add(length) > self.limits.locked.load(Relaxed)
        {
            return Err(Errno::EAGAIN);
        }
        let replaced = inner.covered(&range);
        self.check_total(inner, length.saturating_sub(replaced))?;
        let data = request.prot.contains(Prot::WRITE) && !request.shared;
        if data {
            // More than the whole memory is refused at once.
            if !request.no_reserve && length / PAGE > frames::total() {
                return Err(Errno::ENOMEM);
            }
            self.check_data(inner, length)?;
        }
        let mut flags = Flags::empty();
        flags.set(Flags::SHARED, request.shared);
        flags.set(Flags::GROWS_DOWN, request.grows_down);
        flags.set(Flags::LOCKED, locked);
        flags.set(Flags::NO_RESERVE, request.no_reserve);
        inner.areas.make_room(1)?;
        if inner.areas.count(&range) != 0 {
            self.unmap_locked(inner, range.clone(), grave)?;
        }
        inner.areas.reserve(1)?; // Not used up: the room is that of before, or more.
        let area = Area::new(range.clone(), request.prot, request.max_prot, flags, request.backing, writing);
        inner.grow_total(length);
        if locked {
            inner.locked += length;
        }
        inner.areas.insert_merged(area, grave);
        if (locked || request.populate) && !request.prot.is_empty() {
            let _ = self.populate(inner, range, false); // What cannot be there yet comes when it is touched.
        }
        Ok(start)
    }

    pub(super) fn check_total(&self, inner: &Inner, more: usize) -> Result<(), Errno> {
        // Relaxed: as above.
        let fits =
            inner.total.checked_add(more).is_some_and(|total| total <= self.limits.total.load(Relaxed));
        fits.then_some(()).ok_or(Errno::ENOMEM)
    }

    fn check_data(&self, inner: &Inner, more: usize) -> Result<(), Errno> {
        let limit = self.limits.data.load(Relaxed); // Relaxed: as above.
        let fits = limit == usize::MAX || inner.data().saturating_add(more) <= limit;
        fits.then_some(()).ok_or(Errno::ENOMEM)
    }

    /// munmap(2).
    ///
    /// # Errors
    /// `EINVAL`: no length, not a page's address, or beyond user memory. `ENOMEM`: too many mappings.
    pub(crate) fn unmap(&self, address: usize, length: usize) -> Result<(), Errno> {
        let range = page_range(address, length).map_err(|_| Errno::EINVAL)?;
        if range.is_empty() {
            return Err(Errno::EINVAL);
        }
        let mut grave = grave_for(0)?;
        let result = {
            let inner = &mut *self.inner.lock();
            self.unmap_locked(inner, range, &mut grave)
        };
        drop(grave);
        result
    }

    /// Takes everything in `range` out. What was mapped goes to `grave`.
    pub(super) fn unmap_locked(
        &self,
        inner: &mut Inner,
        range: Range<usize>,
        grave: &mut super::area::Grave,
    ) -> Result<(), Errno> {
        let count = inner.areas.count(&range);
        if count == 0 {
            return Ok(());
        }
        inner.make_splits(&range)?;
        grave.try_reserve(count + 2).map_err(|_| Errno::ENOMEM)?;
        inner.areas.split(range.start);
        inner.areas.split(range.end);
        let first = grave.len();
        inner.areas.take(&range, grave);
        for area in &grave[first..] {
            inner.total -= area.len();
            if area.flags.contains(Flags::LOCKED) {
                inner.locked -= area.len();
            }
        }
        self.zap_and_prune(inner, range);
        Ok(())
    }

    /// mprotect(2). With `PROT_GROWSDOWN` (`down`) the range begins where its first mapping does.
    ///
    /// # Errors
    /// `EINVAL`: not a page's address. `ENOMEM`: not all of it is mapped; what comes before is changed. `EACCES`: more than the file
    /// allows; likewise.
    pub(crate) fn protect(&self, address: usize, length: usize, prot: Prot, down: bool) -> Result<(), Errno> {
        let mut range = page_range(address, length)?;
        if range.is_empty() {
            return Ok(());
        }
        let inner = &mut *self.inner.lock();
        if down {
            let first = inner.areas.find(range.start).ok_or(Errno::ENOMEM)?;
            if !first.flags.contains(Flags::GROWS_DOWN) {
                return Err(Errno::EINVAL);
            }
            range.start = first.start;
        }
        let mut grave = grave_for(inner.areas.count(&range) + 4)?;
        inner.make_splits(&range)?;
        // What lies behind a gap, or behind what refuses, stays.
        let mut end = range.start;
        let mut result = Ok(());
        for index in inner.areas.overlapping(&range) {
            let Some(area) = inner.areas.get(index).filter(|area| area.start <= end) else { break };
            if !area.max_prot.contains(prot) {
                result = Err(Errno::EACCES);
                break;
            }
            end = area.end.min(range.end);
        }
        if result.is_ok() && end < range.end {
            result = Err(Errno::ENOMEM);
        }
        let range = range.start..end;
        if !range.is_empty() {
            self.protect_locked(inner, range, prot, &mut grave);
        }
        result
    }

    fn protect_locked(
        &self,
        inner: &mut Inner,
        range: Range<usize>,
        prot: Prot,
        grave: &mut super::area::Grave,
    ) {
        inner.areas.split(range.start);
        inner.areas.split(range.end);
        let Inner { areas, tables, .. } = &mut *inner;
        let mut lost = false;
        for index in areas.overlapping(&range) {
            let Some(area) = areas.get_mut(index) else { break };
            if area.prot == prot {
                continue;
            }
            area.prot = prot;
            let (shared, part) = (area.is_shared(), area.range());
            tables.visit(part, |_, slot| {
                // Private pages become writable when they are written.
                let may_write = shared || slot.get().is_some_and(|entry| entry.is_writable());
                lost |= slot.protect(if may_write { prot } else { prot - Prot::WRITE });
                true
            });
        }
        if lost {
            self.flush(range.clone(), false);
        }
        inner.areas.merge(range, grave);
    }

    /// brk(2): the new end of the heap, or the old one if it cannot be moved there.
    pub(crate) fn brk(&self, wanted: usize) -> usize {
        let mut grave = grave_for(0).unwrap_or_default();
        let result = {
            let inner = &mut *self.inner.lock();
            match self.brk_locked(inner, wanted, &mut grave) {
                Ok(()) => {
                    inner.layout.brk = wanted;
                    wanted
                }
                Err(_) => inner.layout.brk,
            }
        };
        drop(grave);
        result
    }

    fn brk_locked(
        &self,
        inner: &mut Inner,
        wanted: usize,
        grave: &mut super::area::Grave,
    ) -> Result<(), Errno> {
        let layout = inner.layout;
        if wanted < layout.brk_start || wanted > USER_END {
            return Err(Errno::EINVAL);
        }
        let data =
            (wanted - layout.brk_start).saturating_add(layout.data_end.saturating_sub(layout.data_start));
        if data > self.limits.data.load(Relaxed) {
            return Err(Errno::ENOMEM); // Relaxed: as above.
        }
        let (old, new) = (layout.brk.next_multiple_of(PAGE), wanted.next_multiple_of(PAGE));
        if new < old {
            return self.unmap_locked(inner, new..old, grave);
        }
        if new == old {
            return Ok(());
        }
        // One page stays free above.
        if !inner.areas.is_free(&(old..new.checked_add(PAGE).ok_or(Errno::ENOMEM)?)) {
            return Err(Errno::ENOMEM);
        }
        let mut request = MapRequest::anonymous(Place::Fixed(old), new - old, Prot::READ | Prot::WRITE);
        request.locked = inner.lock_future;
        grave.try_reserve(2).map_err(|_| Errno::ENOMEM)?;
        self.map_locked(inner, request, new - old, None, grave).map(|_| ())
    }

    /// mremap(2). Returns the new address.
    ///
    /// # Errors
    /// `EINVAL`: what flags and addresses may not be. `EFAULT`: the old range is not one mapping. `ENOMEM`. `EAGAIN`: more locked memory
    /// than allowed.
    pub(crate) fn remap(
        &self,
        old: usize,
        old_length: usize,
        length: usize,
        flags: u32,
        new: usize,
    ) -> Result<usize, Errno> {
        const KNOWN: u32 = lx::MREMAP_MAYMOVE | lx::MREMAP_FIXED | lx::MREMAP_DONTUNMAP;
        let has = |flag| flags & flag != 0;
        if flags & !KNOWN != 0
            || has(lx::MREMAP_FIXED | lx::MREMAP_DONTUNMAP) && !has(lx::MREMAP_MAYMOVE)
            || !old.is_multiple_of(PAGE)
        {
            return Err(Errno::EINVAL);
        }
        let old_length = whole_pages(old_length).ok_or(Errno::EINVAL)?;
        let length =
            whole_pages(length).filter(|&length| length != 0 && length <= USER_END).ok_or(Errno::EINVAL)?;
        if has(lx::MREMAP_DONTUNMAP) && old_length != length {
            return Err(Errno::EINVAL);
        }
        let target = if has(lx::MREMAP_FIXED) {
            let range = page_range(new, length).map_err(|_| Errno::EINVAL)?;
            if range.start < old.saturating_add(old_length) && old < range.end {
                return Err(Errno::EINVAL);
            }
            Some(new)
        } else {
            None
        };
        let mut grave = grave_for(4)?;
        let result = {
            let inner = &mut *self.inner.lock();
            self.remap_locked(inner, old..old.saturating_add(old_length), length, flags, target, &mut grave)
        };
        drop(grave);
        result
    }

    fn remap_locked(
        &self,
        inner: &mut Inner,
        old: Range<usize>,
        length: usize,
        flags: u32,
        target: Option<usize>,
        grave: &mut super::area::Grave,
    ) -> Result<usize, Errno> {
        let has = |flag| flags & flag != 0;
        if old.end > USER_END {
            return Err(Errno::EFAULT);
        }
        if target.is_none() && !has(lx::MREMAP_DONTUNMAP) && old.len() >= length && !old.is_empty() {
            // Smaller, in place. What lies there may be several mappings.
            if inner.areas.find(old.start).is_none() {
                return Err(Errno::EFAULT);
            }
            if old.len() > length {
                self.unmap_locked(inner, old.start + length..old.end, grave)?;
            }
            return Ok(old.start);
        }
        let area = inner.areas.find(old.start).ok_or(Errno::EFAULT)?;
        if old.is_empty() && !area.is_shared() {
            return Err(Errno::EINVAL); // Only shared memory can be had twice.
        }
        if old.end > area.end {
            return Err(Errno::EFAULT);
        }
        let (locked, is_data) = (area.flags.contains(Flags::LOCKED), area.is_data());
        let more = length.saturating_sub(old.len());
        let extra = if has(lx::MREMAP_DONTUNMAP) || old.is_empty() { length } else { more };
        let offset = area.offset_of(old.start);
        if area.backing().is_some() {
            offset.checked_add(length as u64).filter(|&end| end <= i64::MAX as u64).ok_or(Errno::EINVAL)?;
        }
        // Relaxed: as above.
        if locked && inner.locked.saturating_add(more) > self.limits.locked.load(Relaxed) {
            return Err(Errno::EAGAIN);
        }
        self.check_total(inner, extra)?;
        if is_data {
            self.check_data(inner, extra)?;
        }
        let area = inner.areas.find(old.start).ok_or(Errno::EFAULT)?;
        // In place, if there is room behind.
        let behind = area.end..old.start + length;
        if target.is_none()
            && !has(lx::MREMAP_DONTUNMAP)
            && !old.is_empty()
            && old.end == area.end
            && behind.end <= USER_END
        {
            let next = inner.areas.first_above(area.start) + 1;
            let free = inner.areas.get(next).is_none_or(|_| inner.areas.is_free(&behind));
            if free {
                let index = inner.areas.first_above(old.start);
                if let Some(area) = inner.areas.get_mut(index) {
                    area.end = behind.end;
                }
                inner.grow_total(behind.len());
                if locked {
                    inner.locked += behind.len();
                    let _ = self.populate(inner, behind.clone(), false);
                }
                inner.areas.merge(behind, grave);
                return Ok(old.start);
            }
        }
        if !has(lx::MREMAP_MAYMOVE) {
            return Err(Errno::ENOMEM);
        }
        let start = match target {
            Some(start) => {
                self.unmap_locked(inner, start..start + length, grave)?;
                start
            }
            None => inner.place(0, length).ok_or(Errno::ENOMEM)?,
        };
        let new = start..start + length;
        let keep = old.start..old.start + old.len().min(length);
        inner.make_splits(&old)?;
        inner.areas.make_room(3)?;
        grave.try_reserve(inner.areas.count(&old) + 6).map_err(|_| Errno::ENOMEM)?;
        let area = inner.areas.find(old.start).ok_or(Errno::EFAULT)?;
        let moved = area.part(new.clone(), offset);
        inner.areas.insert(moved);
        inner.grow_total(length);
        if locked {
            inner.locked += length;
        }
        if let Err(error) = self.move_pages(inner, &keep, start) {
            // Back, into tables that are still there.
            self.move_pages(inner, &(start..start + keep.len()), keep.start)?;
            self.unmap_locked(inner, new, grave)?;
            return Err(error);
        }
        if !old.is_empty() && !has(lx::MREMAP_DONTUNMAP) {
            self.unmap_locked(inner, old, grave)?;
        }
        if locked {
            let _ = self.populate(inner, new.clone(), false);
        }
        inner.areas.merge(new, grave);
        Ok(start)
    }

    /// Moves the pages of `from` to `to`, with their rights.
    fn move_pages(&self, inner: &mut Inner, from: &Range<usize>, to: usize) -> Result<(), Errno> {
        if from.is_empty() {
            return Ok(());
        }
        // All tables first: then nothing can fail.
        let mut at = to;
        while at < to + from.len() {
            let mut used = false;
            let part = at - to + from.start;
            let end = (at | (super::tables::LEAF - 1)) + 1;
            inner.tables.visit(part..(part + end - at).min(from.end), |_, _| {
                used = true;
                false
            });
            if used {
                inner.tables.make_slot(at)?;
            }
            at = end;
        }
        let Some(area) = inner.areas.find(from.start) else { return Ok(()) };
        let prot = area.prot;
        inner.tables.visit(from.clone(), |at, slot| {
            let Some(entry) = slot.get() else { return true };
            let prot = match (entry.is_present(), entry.is_writable()) {
                (false, _) => Prot::empty(),
                (true, true) => prot,
                (true, false) => prot - Prot::WRITE,
            };
            if let (Some(new), Some(page)) = (inner.tables.slot(at - from.start + to), slot.take()) {
                new.set(page, prot);
            }
            true
        });
        self.flush(from.clone(), false);
        Ok(())
    }
}

impl Inner {
    /// Where `length` bytes can go: `hint` if that is free, else the highest free place.
    pub(super) fn place(&self, hint: usize, length: usize) -> Option<usize> {
        if hint != 0 {
            let at = (hint & !(PAGE - 1)).max(MAP_MIN);
            if at <= USER_END && length <= USER_END - at && self.areas.is_free(&(at..at + length)) {
                return Some(at);
            }
        }
        let below = self.areas.find_gap(length, &(MAP_MIN..self.map_top));
        below.or_else(|| self.areas.find_gap(length, &(MAP_MIN..USER_END)))
    }

    /// Bytes of `range` that are mapped.
    fn covered(&self, range: &Range<usize>) -> usize {
        let areas = &self.areas;
        let parts = areas.overlapping(range).filter_map(|index| areas.get(index));
        parts.map(|area| area.end.min(range.end) - area.start.max(range.start)).sum()
    }

    /// Room for splitting what lies at the ends of `range`.
    pub(super) fn make_splits(&mut self, range: &Range<usize>) -> Result<(), Errno> {
        let at = |address: usize| self.areas.find(address).is_some_and(|area| area.start < address);
        let more = usize::from(at(range.start)) + usize::from(at(range.end));
        if more == 0 { Ok(()) } else { self.areas.make_room(more) }
    }
}
