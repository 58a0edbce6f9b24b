//! The contents of regular files: pages by index, holes between them.
//!
//! 1. `state` is a leaf lock, held for one look or one change of one page. Pages are copied from and to without it: a page
//!    that is taken out meanwhile stays with whoever has a handle.
//! 2. Who writes or changes the size holds `writing` for the whole call, so that writes are whole beside each other. It is
//!    never taken by a page fault, so user memory may be touched under it.
//! 3. A page that a hole gets is charged to the file system before it is made. Beyond the end of the file there is no page
//!    but what a writer adds right before the size grows.
//! 4. When a file is cut, the size changes first, then the pages go, then the mappings of them: whoever faults in between
//!    finds the new size or is told to forget the page.

use alloc::sync::Arc;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, Ordering};

use mnt_table::sync::{BlockingMutex, Mutex};
use smallvec::SmallVec;

use crate::radix::Radix;
use crate::super_block::TmpSuperBlock;
use crate::{FsError, PAGE_SIZE, Page};

/// The most bytes of a file.
pub const FILE_MAX: u64 = i64::MAX as u64;

/// Pages that are taken out under one lock.
const BATCH: usize = 32;

/// Seals of a file (`F_SEAL_*`).
const SEAL_SEAL: u32 = 1;
const SEAL_SHRINK: u32 = 2;
const SEAL_GROW: u32 = 4;
const SEAL_WRITE: u32 = 8;
const SEAL_FUTURE_WRITE: u32 = 0x10;

#[derive(Default)]
struct State {
    size: u64,
    pages: Radix,
    /// `F_SEAL_*`
    seals: u32,
    /// Shared mappings that may be written.
    writable_mappings: u32,
}

/// The contents of a regular file.
pub struct Contents {
    super_block: Arc<TmpSuperBlock>,
    ino: u64,
    state: Mutex<State>,
    writing: BlockingMutex<()>,
    /// It was mapped at some time.
    mapped: AtomicBool,
}

impl Contents {
    pub(crate) fn new(super_block: &Arc<TmpSuperBlock>, ino: u64) -> Self {
        Contents {
            super_block: Arc::clone(super_block),
            ino,
            // No seals but by who makes a file for them.
            state: Mutex::new(State { seals: SEAL_SEAL, ..State::default() }),
            writing: BlockingMutex::new(()),
            mapped: AtomicBool::new(false),
        }
    }

    /// Held by whoever writes or changes the size, over the whole call.
    pub fn writing(&self) -> &BlockingMutex<()> {
        &self.writing
    }

    /// It is going to be mapped: those who do are told what goes.
    pub fn set_mapped(&self) {
        // SeqCst: whoever cuts the file changes its size first and looks here then; who maps it looks at the size after
        // this.
        self.mapped.store(true, Ordering::SeqCst);
    }

    fn cut_mappings(&self, pages: Range<u64>) {
        // SeqCst: see `set_mapped`.
        if self.mapped.load(Ordering::SeqCst) {
            self.super_block.cut(self.ino, pages);
        }
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.state.lock().size
    }

    /// Pages that are there.
    pub fn pages(&self) -> u64 {
        self.state.lock().pages.count()
    }

    /// [`Contents::size`] and [`Contents::pages`] of one moment.
    pub fn size_and_pages(&self) -> (u64, u64) {
        let state = self.state.lock();
        (state.size, state.pages.count())
    }

    /// `F_SEAL_*` bits.
    pub fn seals(&self) -> u32 {
        self.state.lock().seals
    }

    /// Sets the seals of a file that nobody knows yet.
    pub fn set_seals(&self, seals: u32) {
        self.state.lock().seals = seals;
    }

    /// Adds seals.
    ///
    /// # Errors
    /// `EBUSY`: no more writes, but it is mapped for writing.
    pub fn add_seals(&self, seals: u32) -> Result<(), FsError> {
        let mut state = self.state.lock();
        if seals & SEAL_WRITE != 0 && state.seals & SEAL_WRITE == 0 && state.writable_mappings != 0 {
            return Err(FsError::Busy);
        }
        state.seals |= seals;
        Ok(())
    }

    /// Counts a shared mapping that may be written, or one less.
    ///
    /// # Errors
    /// `EPERM`: it is sealed.
    pub fn map_writable(&self, more: bool) -> Result<(), FsError> {
        let mut state = self.state.lock();
        if !more {
            state.writable_mappings = state.writable_mappings.saturating_sub(1);
        } else if state.seals & (SEAL_WRITE | SEAL_FUTURE_WRITE) != 0 {
            return Err(FsError::Sealed);
        } else {
            state.writable_mappings += 1;
        }
        Ok(())
    }

    /// Whether a write up to `end` is what seals allow.
    ///
    /// # Errors
    /// `EPERM`.
    pub fn may_write(&self, end: u64) -> Result<(), FsError> {
        let state = self.state.lock();
        let sealed = state.seals & (SEAL_WRITE | SEAL_FUTURE_WRITE) != 0
            || state.seals & SEAL_GROW != 0 && end > state.size;
        if sealed { Err(FsError::Sealed) } else { Ok(()) }
    }

    /// The page at `index`; `None` for a hole and beyond the end.
    pub fn page(&self, index: u64) -> Option<Page> {
        self.state.lock().pages.get(index).cloned()
    }

    /// The page at `index`, made if there is none. Context: the caller holds `writing`, or `index` is before the end.
    ///
    /// # Errors
    /// `ENOSPC`, `ENOMEM`.
    pub fn page_for_write(&self, index: u64) -> Result<Page, FsError> {
        if let Some(page) = self.page(index) {
            return Ok(page);
        }
        self.make_page(index, u64::MAX)
    }

    /// The page at `index`, to be mapped: made if it is a hole.
    ///
    /// # Errors
    /// `EFAULT`: beyond the end. `ENOSPC`, `ENOMEM`.
    pub fn mapped_page(&self, index: u64) -> Result<Page, FsError> {
        {
            let state = self.state.lock();
            if index >= state.size.div_ceil(PAGE_SIZE as u64) {
                return Err(FsError::BeyondEnd);
            }
            if let Some(page) = state.pages.get(index) {
                return Ok(page.clone());
            }
        }
        self.make_page(index, index)
    }

    /// Shows the pages of a range that are there, holes left out. Context: `show` runs under a leaf lock.
    pub fn present(&self, range: Range<u64>, show: &mut dyn FnMut(u64, &Page)) {
        let state = self.state.lock();
        let end = range.end.min(state.size.div_ceil(PAGE_SIZE as u64));
        for index in range.start..end {
            if let Some(page) = state.pages.get(index) {
                show(index, page);
            }
        }
    }

    /// `before`: the last page that the file has to have room for, or `u64::MAX` for a writer.
    fn make_page(&self, index: u64, needed: u64) -> Result<Page, FsError> {
        self.super_block.charge_pages(1)?;
        let made = Page::zeroed().and_then(|page| {
            let mut state = self.state.lock();
            if let Some(there) = state.pages.get(index) {
                return Ok((there.clone(), false));
            }
            if needed != u64::MAX && needed >= state.size.div_ceil(PAGE_SIZE as u64) {
                return Err(FsError::BeyondEnd);
            }
            state.pages.insert(index, page.clone())?;
            Ok((page, true))
        });
        match made {
            Ok((page, true)) => Ok(page),
            Ok((page, false)) => {
                self.super_block.uncharge_pages(1);
                Ok(page)
            }
            Err(error) => {
                self.super_block.uncharge_pages(1);
                Err(error)
            }
        }
    }

    /// The file reaches to `end` at least. Context: the caller holds `writing`.
    pub fn grow(&self, end: u64) {
        let mut state = self.state.lock();
        state.size = state.size.max(end);
    }

    /// Cuts or extends to `size` bytes. Context: the caller holds `writing`.
    ///
    /// # Errors
    /// `EPERM`: seals. `EFBIG`.
    pub fn set_size(&self, size: u64) -> Result<(), FsError> {
        if size > FILE_MAX {
            return Err(FsError::TooBig);
        }
        let before = {
            let mut state = self.state.lock();
            let sealed = size < state.size && state.seals & SEAL_SHRINK != 0
                || size > state.size && state.seals & SEAL_GROW != 0;
            if sealed {
                return Err(FsError::Sealed);
            }
            core::mem::replace(&mut state.size, size)
        };
        if size < before {
            self.clear_beyond(size);
        }
        Ok(())
    }

    /// Frees everything: nobody can come to it any more.
    pub(crate) fn evict(&self) {
        self.state.lock().size = 0;
        self.take_pages(0, u64::MAX);
    }

    /// Undoes what a failed write left behind its end. Context: the caller holds `writing`.
    pub fn trim(&self) {
        let size = self.size();
        self.take_pages(size.div_ceil(PAGE_SIZE as u64), u64::MAX);
    }

    fn clear_beyond(&self, size: u64) {
        let rest = (size % PAGE_SIZE as u64) as usize;
        if rest != 0
            && let Some(page) = self.page(size / PAGE_SIZE as u64)
        {
            page.clear(rest, PAGE_SIZE - rest);
        }
        let first = size.div_ceil(PAGE_SIZE as u64);
        self.take_pages(first, u64::MAX);
        self.cut_mappings(first..u64::MAX);
    }

    /// Makes a hole (`FALLOC_FL_PUNCH_HOLE`). Context: the caller holds `writing`.
    ///
    /// # Errors
    /// `EPERM`: seals.
    pub fn punch(&self, bytes: Range<u64>) -> Result<(), FsError> {
        if self.seals() & (SEAL_WRITE | SEAL_FUTURE_WRITE) != 0 {
            return Err(FsError::Sealed);
        }
        let page = PAGE_SIZE as u64;
        let (first, end) = (bytes.start.div_ceil(page), bytes.end / page);
        if first > end {
            // Within one page.
            self.clear(bytes);
            return Ok(());
        }
        self.clear(bytes.start..first * page);
        self.clear(end * page..bytes.end);
        if first < end {
            self.take_pages(first, end);
            self.cut_mappings(first..end);
        }
        Ok(())
    }

    /// Zeroes of one page.
    fn clear(&self, bytes: Range<u64>) {
        if !bytes.is_empty()
            && let Some(page) = self.page(bytes.start / PAGE_SIZE as u64)
        {
            page.clear((bytes.start % PAGE_SIZE as u64) as usize, (bytes.end - bytes.start) as usize);
        }
    }

    fn take_pages(&self, first: u64, end: u64) {
        loop {
            // Freed without the lock.
            let mut taken: SmallVec<[Page; BATCH]> = SmallVec::new();
            {
                let mut state = self.state.lock();
                while taken.len() < BATCH {
                    let Some(page) = state.pages.take(first, end) else { break };
                    taken.push(page);
                }
            }
            if taken.is_empty() {
                return;
            }
            self.super_block.uncharge_pages(taken.len() as u64);
        }
    }

    /// The first byte from `from` on that is in a page (`SEEK_DATA`) or in a hole (`SEEK_HOLE`); the end is a hole.
    ///
    /// # Errors
    /// `ENXIO`: there is none before the end.
    pub fn seek(&self, from: u64, data: bool) -> Result<u64, FsError> {
        let state = self.state.lock();
        if from >= state.size {
            return Err(FsError::NoSuchByte);
        }
        let page = PAGE_SIZE as u64;
        let found = state.pages.next(from / page, data).map(|index| (index * page).max(from));
        match found {
            Some(at) if at < state.size => Ok(at),
            _ if data => Err(FsError::NoSuchByte),
            _ => Ok(state.size),
        }
    }

    /// Reads into `buffer` from `offset` on; returns how many bytes there were.
    pub fn read(&self, offset: u64, buffer: &mut [u8]) -> usize {
        let size = self.size();
        let count = size.saturating_sub(offset).min(buffer.len() as u64) as usize;
        let mut done = 0;
        while done < count {
            let at = offset + done as u64;
            let start = (at % PAGE_SIZE as u64) as usize;
            let some = (PAGE_SIZE - start).min(count - done);
            let part = &mut buffer[done..done + some];
            match self.page(at / PAGE_SIZE as u64) {
                Some(page) => page.read(start, part),
                None => part.fill(0),
            }
            done += some;
        }
        count
    }

    /// Writes `bytes` at `offset`; a hole in front of it reads as zeroes. All or nothing.
    ///
    /// # Errors
    /// `EFBIG`, `EPERM` (seals), `ENOSPC`, `ENOMEM`.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), FsError> {
        let end = offset.checked_add(bytes.len() as u64).filter(|end| *end <= FILE_MAX);
        let end = end.ok_or(FsError::TooBig)?;
        if bytes.is_empty() {
            return Ok(());
        }
        let _whole = self.writing.lock();
        self.may_write(end)?;
        let page = PAGE_SIZE as u64;
        for index in offset / page..end.div_ceil(page) {
            if let Err(error) = self.page_for_write(index) {
                self.trim();
                return Err(error);
            }
        }
        let mut done = 0;
        while done < bytes.len() {
            let at = offset + done as u64;
            let start = (at % page) as usize;
            let some = (PAGE_SIZE - start).min(bytes.len() - done);
            self.page_for_write(at / page)?.write(start, &bytes[done..done + some]);
            done += some;
        }
        self.grow(end);
        Ok(())
    }
}

impl Drop for Contents {
    fn drop(&mut self) {
        self.super_block.uncharge_pages(self.state.lock().pages.count());
    }
}
