//! Pages of memory: what files consist of, and what a kernel maps into address spaces.
//!
//! A [`Page`] is one pointer, to the bytes themselves, so that a kernel can put a page into a page table and take it out
//! again. How many handles there are is kept elsewhere: in a table with an entry per page of memory where somebody gave one
//! ([`set_owners`]), as a kernel does at boot, else right behind the bytes.

use alloc::alloc::{Layout, alloc, dealloc};
use core::fmt;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicI64, AtomicPtr, AtomicU32, AtomicUsize, Ordering::*, fence};

use crate::FsError;

/// Bytes of a page.
pub const PAGE_SIZE: usize = 4096;

/// More handles than these are a bug, or an attack: the counter would wrap.
const OWNERS_MAX: u32 = i32::MAX as u32;

/// The table of [`set_owners`]; null if there is none.
static OWNERS: AtomicPtr<AtomicU32> = AtomicPtr::new(ptr::null_mut());
/// The address of the page to which the table's first entry belongs.
static FIRST: AtomicUsize = AtomicUsize::new(0);

/// Gives a table for the numbers of handles: the entry of the page at address `a` is `(a - first) / PAGE_SIZE`.
///
/// # Safety
/// No page exists yet, and no other thread runs. Every page that the global allocator is going to return has an entry, which
/// nobody else uses while the page is allocated.
pub unsafe fn set_owners(first: usize, table: &'static [AtomicU32]) {
    // Relaxed, both: written once, before other threads start.
    FIRST.store(first, Relaxed);
    OWNERS.store(table.as_ptr().cast_mut(), Relaxed);
}

const SHARDS: usize = 64;

/// Counters of the pages that are alive, by their addresses: CPUs that allocate from different memory share no line.
#[repr(align(128))]
struct Shard(AtomicI64);

static LIVE: [Shard; SHARDS] = [const { Shard(AtomicI64::new(0)) }; SHARDS];

/// How many pages there are. Exact at rest.
pub fn pages() -> i64 {
    // Relaxed here and where it changes: statistics.
    LIVE.iter().map(|shard| shard.0.load(Relaxed)).sum()
}

/// A page of memory, aligned to its size, from the global allocator; the last handle frees it.
///
/// Whoever has a handle may read and write it at any time, and so may programs that it is mapped to: it is memory that
/// several parties share without a lock, so it is only ever copied from and to, and no reference to its bytes is given out.
pub struct Page(NonNull<u8>);

// SAFETY: plain memory whose last handle frees it (the count is atomic); how its bytes are accessed is said at `Page::read` and
// `Page::write`.
unsafe impl Send for Page {}
// SAFETY: as above.
unsafe impl Sync for Page {}

/// Where the handles of the page at `address` are counted.
#[inline]
fn owners(address: NonNull<u8>) -> NonNull<AtomicU32> {
    let table = OWNERS.load(Relaxed); // Relaxed: written once, before other threads start.
    if table.is_null() {
        // SAFETY: without a table every page is allocated with room for its count behind it ([`layout`]).
        return unsafe { address.add(PAGE_SIZE) }.cast();
    }
    let index = (address.addr().get() - FIRST.load(Relaxed)) / PAGE_SIZE; // Relaxed: as above.
    // SAFETY: the table has an entry for every page (`set_owners`), so this lies in it and is not null.
    unsafe { NonNull::new_unchecked(table.add(index)) }
}

/// What a page is allocated with.
#[inline]
fn layout() -> Layout {
    // Relaxed: written once, before other threads start.
    let behind = if OWNERS.load(Relaxed).is_null() { size_of::<AtomicU32>() } else { 0 };
    // SAFETY: a power of two, and far from overflow.
    unsafe { Layout::from_size_align_unchecked(PAGE_SIZE + behind, PAGE_SIZE) }
}

fn count(page: NonNull<u8>, change: i64) {
    // Relaxed: a count.
    LIVE[page.addr().get() / PAGE_SIZE % SHARDS].0.fetch_add(change, Relaxed);
}

impl Page {
    /// A page full of zeroes.
    ///
    /// # Errors
    /// `ENOMEM`.
    #[inline]
    pub fn zeroed() -> Result<Self, FsError> {
        let page = Self::dirty()?;
        // In words: a machine that repeats a store needs fewer steps than with bytes.
        // SAFETY: so many bytes are ours, aligned to a page.
        unsafe { page.0.cast::<u64>().write_bytes(0, PAGE_SIZE / size_of::<u64>()) };
        Ok(page)
    }

    /// A copy of what the page has at this moment.
    ///
    /// # Errors
    /// `ENOMEM`.
    #[inline]
    pub fn copy(&self) -> Result<Self, FsError> {
        let page = Self::dirty()?;
        // SAFETY: two pages, so valid, and apart from each other; the new one is nobody else's. What is written to the old one
        // meanwhile may be copied or not.
        unsafe { page.0.cast::<u64>().copy_from_nonoverlapping(self.0.cast(), PAGE_SIZE / size_of::<u64>()) };
        Ok(page)
    }

    /// A page with any bytes.
    #[inline]
    fn dirty() -> Result<Self, FsError> {
        // SAFETY: the size is not zero.
        let page = NonNull::new(unsafe { alloc(layout()) }).ok_or(FsError::NoMemory)?;
        // SAFETY: the place of the new page's count, which nobody else uses (`set_owners`).
        unsafe { owners(page).write(AtomicU32::new(1)) };
        count(page, 1);
        Ok(Page(page))
    }

    /// Where it is.
    #[inline]
    pub fn address(&self) -> NonNull<u8> {
        self.0
    }

    #[inline]
    fn owners(&self) -> &AtomicU32 {
        // SAFETY: the page is alive, hence its count is.
        unsafe { owners(self.0).as_ref() }
    }

    /// Whether this is the only handle: nobody else can come to have one meanwhile.
    #[inline]
    pub fn is_unique(&self) -> bool {
        self.owners().load(Acquire) == 1 // Acquire: pairs with the Release in `drop`; what former owners did is done.
    }

    /// Whether both are handles of the same page.
    #[inline]
    pub fn is(&self, other: &Page) -> bool {
        self.0 == other.0
    }

    /// Makes a pointer of the handle, to the bytes, to be kept where a `Page` cannot be; [`Page::from_raw`] undoes it.
    #[inline]
    pub fn into_raw(self) -> *const () {
        let raw = self.0.as_ptr();
        core::mem::forget(self);
        raw.cast()
    }

    /// The handle again.
    ///
    /// # Safety
    /// `raw` comes from [`Page::into_raw`], and this is called once for it.
    #[inline]
    pub unsafe fn from_raw(raw: *const ()) -> Self {
        // SAFETY: a page that is alive, hence not null (caller).
        Page(unsafe { NonNull::new_unchecked(raw.cast_mut().cast()) })
    }

    /// Copies out of the page, from `offset` on.
    ///
    /// # Panics
    /// If that is not within the page.
    pub fn read(&self, offset: usize, to: &mut [u8]) {
        assert!(offset <= PAGE_SIZE && to.len() <= PAGE_SIZE - offset, "beyond the page");
        // SAFETY: within the page (assertion), which `self` keeps; `to` is not part of it, since no reference to its bytes
        // exists. A byte that somebody writes at this moment reads old or new.
        unsafe { ptr::copy_nonoverlapping(self.0.as_ptr().add(offset), to.as_mut_ptr(), to.len()) };
    }

    /// Copies into the page, from `offset` on.
    ///
    /// # Panics
    /// If that is not within the page.
    pub fn write(&self, offset: usize, from: &[u8]) {
        assert!(offset <= PAGE_SIZE && from.len() <= PAGE_SIZE - offset, "beyond the page");
        // SAFETY: as in `read`.
        unsafe { ptr::copy_nonoverlapping(from.as_ptr(), self.0.as_ptr().add(offset), from.len()) };
    }

    /// Fills a part of the page with zeroes.
    ///
    /// # Panics
    /// If that is not within the page.
    pub fn clear(&self, offset: usize, len: usize) {
        assert!(offset <= PAGE_SIZE && len <= PAGE_SIZE - offset, "beyond the page");
        // SAFETY: as in `read`.
        unsafe { ptr::write_bytes(self.0.as_ptr().add(offset), 0, len) };
    }
}

impl Clone for Page {
    #[inline]
    fn clone(&self) -> Self {
        // Relaxed: whoever clones has a handle, so the page cannot go away meanwhile.
        let before = self.owners().fetch_add(1, Relaxed);
        assert!(before < OWNERS_MAX, "a page with too many owners");
        Page(self.0)
    }
}

impl Drop for Page {
    #[inline]
    fn drop(&mut self) {
        // Release: pairs with the Acquire below, and with that in `is_unique`: what this owner did comes before the free.
        if self.owners().fetch_sub(1, Release) == 1 {
            fence(Acquire);
            count(self.0, -1);
            // SAFETY: allocated in `dirty` with this layout, and the last handle is gone.
            unsafe { dealloc(self.0.as_ptr(), layout()) };
        }
    }
}

impl fmt::Debug for Page {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "page at {:p}", self.0)
    }
}
