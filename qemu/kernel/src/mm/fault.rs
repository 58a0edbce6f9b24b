//! What happens when a program touches an address: pages come, are copied, or the program hears of it.

use alloc::sync::Arc;
use core::ops::Range;
use core::sync::atomic::Ordering::*;

use linux_raw_sys::general as lx;
use syscalls::Errno;
use tmpfs::Page;

use super::area::{Area, Flags, GUARD_GAP, PAGE, Prot};
use super::backing::Backing;
use super::space::{AddressSpace, Inner, MAP_MIN, USER_END, current};
use super::tables::{NoMemory, Tables};

/// What is mapped together of a file, a power of two; it lies below one table of the last level.
const AROUND: usize = 16 * PAGE;

/// What a program did with an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
    Execute,
}

/// Why an access cannot be allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// SIGSEGV with this `si_code` (`SEGV_MAPERR` or `SEGV_ACCERR`).
    Segv(u32),
    /// SIGBUS with this `si_code`.
    Bus(u32),
    /// No memory is left: the process is to be killed.
    NoMemory,
}

impl From<NoMemory> for Fault {
    fn from(_: NoMemory) -> Self {
        Fault::NoMemory
    }
}

/// Resolves an access of the running thread. Context: as [`AddressSpace::fault`].
///
/// # Errors
/// See [`Fault`].
pub(crate) fn resolve(address: usize, access: Access) -> Result<(), Fault> {
    crate::task::stats::count_fault();
    current().ok_or(Fault::Segv(lx::SEGV_MAPERR))?.fault(address, access)
}

impl AddressSpace {
    /// Resolves an access of user mode, or of the kernel for it. Context: threads, interrupts on, no spin lock held; blocks.
    ///
    /// # Errors
    /// See [`Fault`].
    pub(crate) fn fault(&self, address: usize, access: Access) -> Result<(), Fault> {
        if address >= USER_END {
            return Err(Fault::Segv(lx::SEGV_MAPERR));
        }
        self.fault_locked(&mut self.inner.lock(), address, access)
    }

    pub(super) fn fault_locked(
        &self,
        inner: &mut Inner,
        address: usize,
        access: Access,
    ) -> Result<(), Fault> {
        let mut index = inner.areas.first_above(address);
        if inner.areas.get(index).is_none_or(|area| address < area.start) {
            self.grow_stack(inner, index, address)?;
            index = inner.areas.first_above(address);
        }
        let Inner { areas, tables, .. } = inner;
        let Some(area) = areas.get(index) else { return Err(Fault::Segv(lx::SEGV_MAPERR)) };
        let allowed = match access {
            Access::Read => !area.prot.is_empty(),
            Access::Write => area.prot.contains(Prot::WRITE),
            Access::Execute => area.prot.contains(Prot::EXEC),
        };
        if !allowed {
            return Err(Fault::Segv(lx::SEGV_ACCERR));
        }
        let at = address & !(PAGE - 1);
        let slot = tables.make_slot(at)?;
        let write = access == Access::Write;
        if let Some(entry) = slot.get() {
            if !entry.is_present() || write && !entry.is_writable() {
                if area.is_shared() || !write || entry.with_page(Page::is_unique) {
                    // Rights are added: whoever does not know it yet faults and finds it.
                    let prot = if area.is_shared() || write { area.prot } else { area.prot - Prot::WRITE };
                    slot.protect(prot);
                } else {
                    let copy = entry.with_page(Page::copy).map_err(|_| Fault::NoMemory)?;
                    let old = slot.set(copy, area.prot);
                    self.flush(at..at + PAGE, false);
                    drop(old);
                }
            }
            return Ok(());
        }
        let (page, prot) = match area.backing() {
            None => (Page::zeroed().map_err(|_| Fault::NoMemory)?, area.prot),
            Some(backing) => {
                let page =
                    backing.page(area.offset_of(at) / PAGE as u64, area.is_shared()).map_err(fault_of)?;
                if area.is_shared() {
                    (page, area.prot)
                } else if write {
                    (page.copy().map_err(|_| Fault::NoMemory)?, area.prot)
                } else {
                    (page, area.prot - Prot::WRITE)
                }
            }
        };
        slot.set(page, prot);
        let mut more = 1;
        if let Some(backing) = area.backing().filter(|_| !write) {
            more += map_around(tables, area, backing, at);
        }
        self.more_resident(inner, more);
        Ok(())
    }

    /// Lengthens the mapping `index` down to `address`, if it is one that grows.
    fn grow_stack(&self, inner: &mut Inner, index: usize, address: usize) -> Result<(), Fault> {
        let fault = Fault::Segv(lx::SEGV_MAPERR);
        let start = address & !(PAGE - 1);
        let floor = index.checked_sub(1).and_then(|below| inner.areas.get(below)).map_or(MAP_MIN, |below| {
            if below.flags.contains(Flags::GROWS_DOWN) || below.prot.is_empty() {
                below.end
            } else {
                below.end.saturating_add(GUARD_GAP)
            }
        });
        // Relaxed, both: numbers that stand for themselves.
        let (stack, total) = (self.limits.stack.load(Relaxed), self.limits.total.load(Relaxed));
        let old_total = inner.total;
        let area =
            inner.areas.get_mut(index).filter(|area| area.flags.contains(Flags::GROWS_DOWN)).ok_or(fault)?;
        let more = area.start - start;
        if start < floor || area.end - start > stack || old_total.saturating_add(more) > total {
            return Err(fault);
        }
        area.start = start;
        inner.grow_total(more);
        Ok(())
    }

    /// Makes the pages of `range` be there, as far as they may be.
    ///
    /// # Errors
    /// The first [`Fault`].
    pub(super) fn populate(&self, inner: &mut Inner, range: Range<usize>, write: bool) -> Result<(), Fault> {
        let mut at = range.start;
        while at < range.end {
            let access = match inner.areas.find(at) {
                Some(area) if area.prot.contains(Prot::WRITE) && (write || !area.is_shared()) => {
                    Access::Write
                }
                _ if write => Access::Write,
                _ => Access::Read,
            };
            self.fault_locked(inner, at, access)?;
            at += PAGE;
        }
        Ok(())
    }
}

/// Maps what is there of a file beside the page `at`, which was read. Returns how many pages that are.
fn map_around(tables: &Tables, area: &Area, backing: &Arc<dyn Backing>, at: usize) -> usize {
    let start = (at & !(AROUND - 1)).max(area.start);
    let end = ((at | (AROUND - 1)) + 1).min(area.end);
    let first = area.offset_of(start) / PAGE as u64;
    let prot = if area.is_shared() { area.prot } else { area.prot - Prot::WRITE };
    let mut count = 0;
    backing.present(first..first + ((end - start) / PAGE) as u64, &mut |index, page| {
        let at = start + (index - first) as usize * PAGE;
        if let Some(slot) = tables.slot(at)
            && slot.get().is_none()
        {
            slot.set(page.clone(), prot);
            count += 1;
        }
    });
    count
}

/// What a backing's error is to the program that touched the page.
fn fault_of(error: Errno) -> Fault {
    if error == Errno::ENOMEM { Fault::NoMemory } else { Fault::Bus(lx::BUS_ADRERR) }
}
