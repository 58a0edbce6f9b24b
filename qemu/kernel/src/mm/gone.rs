//! Pages and tables that go away, many with one flush.

use core::ops::Range;
use core::sync::atomic::Ordering::*;

use tmpfs::Page;

use super::area::PAGE;
use super::space::{AddressSpace, Inner};
use super::tables::Buried;

/// Pages that are freed after one flush,
const BATCH: usize = 128;
/// and tables.
const TABLES_BATCH: usize = 32;

/// Pages and tables that were taken out, and wait for one flush to be freed ([Flush]).
struct Gone<'a> {
    space: &'a AddressSpace,
    range: Range<usize>,
    pages: heapless::Vec<Page, BATCH>,
    tables: heapless::Vec<Buried, TABLES_BATCH>,
}

impl<'a> Gone<'a> {
    fn new(space: &'a AddressSpace) -> Self {
        Gone { space, range: 0..0, pages: heapless::Vec::new(), tables: heapless::Vec::new() }
    }

    fn extend(&mut self, range: Range<usize>) {
        self.range = if self.range.is_empty() {
            range
        } else {
            self.range.start.min(range.start)..self.range.end.max(range.end)
        };
    }

    fn page(&mut self, at: usize, page: Page) {
        if self.pages.is_full() {
            self.free();
        }
        self.extend(at..at + PAGE);
        let _ = self.pages.push(page); // There is room.
    }

    fn table(&mut self, range: &Range<usize>, table: Buried) {
        if self.tables.is_full() {
            self.free();
        }
        self.extend(range.clone());
        let _ = self.tables.push(table); // There is room.
    }

    fn free(&mut self) {
        if !self.range.is_empty() {
            self.space.flush(core::mem::take(&mut self.range), !self.tables.is_empty());
            self.pages.clear();
            self.tables.clear();
        }
    }
}

impl Drop for Gone<'_> {
    fn drop(&mut self) {
        self.free();
    }
}

impl AddressSpace {
    /// Takes all pages of `range` out and frees them.
    pub(super) fn zap(&self, inner: &mut Inner, range: Range<usize>) {
        let mut gone = Gone::new(self);
        self.take_pages(inner, range, &mut gone);
    }

    /// As [`Self::zap`], for a range that nothing is mapped in any more: frees the tables too that are left without anything to map.
    pub(super) fn zap_and_prune(&self, inner: &mut Inner, range: Range<usize>) {
        let mut gone = Gone::new(self);
        self.take_pages(inner, range.clone(), &mut gone);
        // The last table of the lower half is never whole otherwise.
        let gap = inner.areas.gap_around(&range, 1 << 47);
        inner.tables.prune(&range, &gap, &mut |table| gone.table(&gap, table));
    }

    fn take_pages(&self, inner: &mut Inner, range: Range<usize>, gone: &mut Gone<'_>) {
        let mut count = 0;
        inner.tables.visit(range, |at, slot| {
            if let Some(page) = slot.take() {
                gone.page(at, page);
                count += 1;
            }
            true
        });
        self.resident.store(self.resident.load(Relaxed) - count, Relaxed); // Relaxed: as in `more_resident`.
    }
}
