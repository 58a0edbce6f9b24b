//! Pages that are wanted or not: madvise, msync, mincore, mlock and its like.

use core::ops::Range;
use core::sync::atomic::Ordering::Relaxed;

use linux_raw_sys::general as lx;
use syscalls::Errno;

use super::area::{Flags, Grave, PAGE, Prot};
use super::fault::Fault;
use super::map::page_range;
use super::space::{AddressSpace, Inner, grave_for};

/// Which mappings change.
#[derive(Clone, Copy)]
enum Change {
    Set(Flags),
    Clear(Flags),
}

impl AddressSpace {
    /// madvise(2).
    ///
    /// # Errors
    /// `EINVAL`: not a page's address, or advice that nobody knows or that does not fit the mapping. `ENOMEM`: not all of it is mapped;
    /// what is was advised. `EFAULT`, `EHWPOISON`: pages cannot be had.
    pub(crate) fn advise(&self, address: usize, length: usize, advice: u32) -> Result<(), Errno> {
        let known = matches!(
            advice,
            lx::MADV_NORMAL
                | lx::MADV_RANDOM
                | lx::MADV_SEQUENTIAL
                | lx::MADV_WILLNEED
                | lx::MADV_DONTNEED
                | lx::MADV_FREE
                | lx::MADV_REMOVE
                | lx::MADV_DONTFORK
                | lx::MADV_DOFORK
                | lx::MADV_HUGEPAGE
                | lx::MADV_NOHUGEPAGE
                | lx::MADV_DONTDUMP
                | lx::MADV_DODUMP
                | lx::MADV_WIPEONFORK
                | lx::MADV_KEEPONFORK
                | lx::MADV_COLD
                | lx::MADV_PAGEOUT
                | lx::MADV_POPULATE_READ
                | lx::MADV_POPULATE_WRITE
                | lx::MADV_DONTNEED_LOCKED
        );
        if !known {
            return Err(Errno::EINVAL);
        }
        let range = page_range(address, length).map_err(|_| Errno::EINVAL)?;
        if range.is_empty() {
            return Ok(());
        }
        let mut grave = Grave::new();
        let result = self.advise_locked(&mut self.inner.lock(), range, advice, &mut grave);
        drop(grave);
        result
    }

    fn advise_locked(
        &self,
        inner: &mut Inner,
        range: Range<usize>,
        advice: u32,
        grave: &mut Grave,
    ) -> Result<(), Errno> {
        match advice {
            lx::MADV_DONTFORK => return self.change(inner, range, Change::Set(Flags::DONT_FORK), grave),
            lx::MADV_DOFORK => return self.change(inner, range, Change::Clear(Flags::DONT_FORK), grave),
            lx::MADV_WIPEONFORK | lx::MADV_KEEPONFORK => {
                let all = inner.areas.overlapping(&range).filter_map(|index| inner.areas.get(index));
                if advice == lx::MADV_WIPEONFORK && all.clone().any(|area| area.backing().is_some()) {
                    return Err(Errno::EINVAL);
                }
                let flag = Flags::WIPE_ON_FORK;
                let change =
                    if advice == lx::MADV_WIPEONFORK { Change::Set(flag) } else { Change::Clear(flag) };
                return self.change(inner, range, change, grave);
            }
            _ => {}
        }
        let mut at = range.start;
        let mut hole = false;
        while at < range.end {
            let Some(area) =
                inner.areas.get(inner.areas.first_above(at)).filter(|area| area.start < range.end)
            else {
                hole = true;
                break;
            };
            hole |= area.start > at;
            let part = area.start.max(at)..area.end.min(range.end);
            let (shared, anonymous, locked) =
                (area.is_shared(), area.backing().is_none(), area.flags.contains(Flags::LOCKED));
            at = part.end;
            match advice {
                lx::MADV_DONTNEED | lx::MADV_DONTNEED_LOCKED | lx::MADV_FREE => {
                    if locked && advice != lx::MADV_DONTNEED_LOCKED
                        || advice == lx::MADV_FREE && (shared || !anonymous)
                    {
                        return Err(Errno::EINVAL);
                    }
                    // Pages that may be freed at any time are freed now.
                    self.zap(inner, part);
                }
                // There is no swap to put it to and no file to take it from, but this: the mapping's part of a shared file.
                lx::MADV_REMOVE => {
                    return Err(if shared && !locked { Errno::EOPNOTSUPP } else { Errno::EINVAL });
                }
                lx::MADV_COLD | lx::MADV_PAGEOUT if locked => return Err(Errno::EINVAL),
                lx::MADV_POPULATE_READ | lx::MADV_POPULATE_WRITE => {
                    if hole {
                        return Err(Errno::ENOMEM);
                    }
                    let write = advice == lx::MADV_POPULATE_WRITE;
                    if write && !area.prot.contains(Prot::WRITE) || area.prot.is_empty() {
                        return Err(Errno::EINVAL);
                    }
                    self.populate(inner, part, write).map_err(|fault| match fault {
                        Fault::NoMemory => Errno::ENOMEM,
                        Fault::Segv(_) | Fault::Bus(_) => Errno::EFAULT,
                    })?;
                }
                _ => {}
            }
        }
        if hole { Err(Errno::ENOMEM) } else { Ok(()) }
    }

    /// Changes the flags of the mappings of `range`, as far as it is mapped without a hole from its start on.
    ///
    /// # Errors
    /// `ENOMEM`: there is a hole.
    fn change(
        &self,
        inner: &mut Inner,
        range: Range<usize>,
        change: Change,
        grave: &mut Grave,
    ) -> Result<(), Errno> {
        inner.make_splits(&range)?;
        grave.try_reserve(inner.areas.count(&range) + 4).map_err(|_| Errno::ENOMEM)?;
        inner.areas.split(range.start);
        inner.areas.split(range.end);
        let mut end = range.start;
        let mut locked = inner.locked;
        for index in inner.areas.overlapping(&range) {
            let Some(area) = inner.areas.get_mut(index).filter(|area| area.start <= end) else { break };
            end = area.end;
            let before = area.flags;
            match change {
                Change::Set(flag) => area.flags |= flag,
                Change::Clear(flag) => area.flags -= flag,
            }
            match (before.contains(Flags::LOCKED), area.flags.contains(Flags::LOCKED)) {
                (false, true) => locked += area.len(),
                (true, false) => locked -= area.len(),
                _ => {}
            }
        }
        inner.locked = locked;
        inner.areas.merge(range.clone(), grave);
        if end < range.end { Err(Errno::ENOMEM) } else { Ok(()) }
    }

    /// msync(2): what is mapped has nowhere to go but where it is.
    ///
    /// # Errors
    /// `EINVAL`: flags that exclude each other or are unknown, or not a page's address. `ENOMEM`: not all of it is mapped. `EBUSY`:
    /// `MS_INVALIDATE` of locked memory.
    pub(crate) fn sync(&self, address: usize, length: usize, flags: u32) -> Result<(), Errno> {
        let has = |flag| flags & flag != 0;
        if flags & !(lx::MS_ASYNC | lx::MS_INVALIDATE | lx::MS_SYNC) != 0
            || has(lx::MS_ASYNC) && has(lx::MS_SYNC)
            || !address.is_multiple_of(PAGE)
        {
            return Err(Errno::EINVAL);
        }
        let range = page_range(address, length)?;
        let inner = self.inner.lock();
        let mut end = range.start;
        for index in inner.areas.overlapping(&range) {
            let Some(area) = inner.areas.get(index).filter(|area| area.start <= end) else { break };
            if has(lx::MS_INVALIDATE) && area.flags.contains(Flags::LOCKED) {
                return Err(Errno::EBUSY);
            }
            end = area.end;
        }
        if end < range.end { Err(Errno::ENOMEM) } else { Ok(()) }
    }

    /// mincore(2): whether each page of a part of the space is there, into `there`, one byte each.
    ///
    /// # Errors
    /// `ENOMEM`: not all of it is mapped.
    pub(crate) fn resident(&self, address: usize, there: &mut [u8]) -> Result<(), Errno> {
        let range = page_range(address, there.len() * PAGE)?;
        let inner = self.inner.lock();
        let mut end = range.start;
        for index in inner.areas.overlapping(&range) {
            let Some(area) = inner.areas.get(index).filter(|area| area.start <= end) else { break };
            end = area.end;
        }
        if end < range.end {
            return Err(Errno::ENOMEM);
        }
        there.fill(0);
        inner.tables.visit(range.clone(), |at, _| {
            there[(at - range.start) / PAGE] = 1;
            true
        });
        Ok(())
    }

    /// mlock(2), mlock2(2): keeps a range in memory. Without `now` pages are kept when they come. `any`: the caller may lock as much as
    /// he likes.
    ///
    /// # Errors
    /// `ENOMEM`: not all of it is mapped, or more than allowed. `EAGAIN`: pages cannot be had.
    pub(crate) fn lock(&self, address: usize, length: usize, now: bool, any: bool) -> Result<(), Errno> {
        let range = lock_range(address, length)?;
        if range.is_empty() {
            return Ok(());
        }
        let mut grave = grave_for(0)?;
        let inner = &mut *self.inner.lock();
        let limit = self.limits.locked.load(Relaxed); // Relaxed: a number that stands for itself.
        if !any && inner.locked.saturating_add(range.len()) > limit {
            return Err(Errno::ENOMEM);
        }
        self.change(inner, range.clone(), Change::Set(Flags::LOCKED), &mut grave)?;
        if now {
            self.keep(inner, range)?;
        }
        Ok(())
    }

    fn keep(&self, inner: &mut Inner, range: Range<usize>) -> Result<(), Errno> {
        self.populate(inner, range, false).map_err(|fault| match fault {
            Fault::Segv(_) => Errno::ENOMEM,
            Fault::Bus(_) | Fault::NoMemory => Errno::EAGAIN,
        })
    }

    /// munlock(2).
    ///
    /// # Errors
    /// `ENOMEM`: not all of it is mapped.
    pub(crate) fn unlock(&self, address: usize, length: usize) -> Result<(), Errno> {
        let range = lock_range(address, length)?;
        let mut grave = grave_for(0)?;
        let inner = &mut *self.inner.lock();
        self.change(inner, range, Change::Clear(Flags::LOCKED), &mut grave)
    }

    /// mlockall(2), munlockall(2). `any` as in [`Self::lock`].
    ///
    /// # Errors
    /// `ENOMEM`: more than allowed.
    pub(crate) fn lock_all(&self, current: bool, future: bool, now: bool, any: bool) -> Result<(), Errno> {
        let inner = &mut *self.inner.lock();
        let limit = self.limits.locked.load(Relaxed); // Relaxed: a number that stands for itself.
        if current && !any && inner.total > limit {
            return Err(Errno::ENOMEM);
        }
        inner.lock_future = future;
        if !current && future {
            return Ok(());
        }
        inner.locked = 0;
        let mut locked = 0;
        for area in inner.areas.iter_mut() {
            area.flags.set(Flags::LOCKED, current);
            locked += if current { area.len() } else { 0 };
        }
        inner.locked = locked;
        if current && now {
            let mut at = 0;
            while let Some(area) = inner.areas.get(inner.areas.first_above(at)) {
                let range = area.range();
                at = range.end;
                if !area.prot.is_empty() {
                    let _ = self.populate(inner, range, false); // As far as it goes.
                }
            }
        }
        Ok(())
    }
}

/// The pages that hold a range of bytes.
fn lock_range(address: usize, length: usize) -> Result<Range<usize>, Errno> {
    let start = address & !(PAGE - 1);
    let length = length.checked_add(address - start).ok_or(Errno::EINVAL)?;
    page_range(start, length)
}
