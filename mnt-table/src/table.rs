//! A hash table of immutable entries: many lock-free readers, one writer at a time, growing while readers run.
//!
//! The mount hash ([`crate::mount::Edge`]) and a directory's dentry cache are such tables.
//!
//! 1. **Lookup** loads the bucket array, the bucket's head, and follows `next` links. One dependent cache line per
//!    entry; no lock, no shared write, no retry.
//! 2. **Insert** links at the head; **remove** re-publishes the successor in the predecessor; **replace** puts a
//!    fresh entry in an old one's place with one store, so its key never looks empty.
//! 3. **Growth**: at load factor 1 the writer allocates an array of at least twice the size and links [`STEP`] buckets of
//!    old entries into it with every change, through the *other* one of each entry's two links. Once all are
//!    linked, one Release store publishes the new array. Readers know nothing of it: no second probe, no marker.
//!    The old array is retired; a reader still in it sees the entries of the moment of publication, which lies
//!    inside its lookup.
//!
//! What a lookup returns is never foreign and at most stale: a hit was there at some moment of the lookup, and so
//! was the gap of a miss, because entries are never re-linked: a change of place is a fresh entry.
//!
//! # Invariants
//! - `[Frozen]` What an entry is compared by never changes while it is linked.
//! - `[Tail]` Unlinking leaves the entry's own links alone, so a reader standing on it gets out by links that were
//!   right when it was unlinked.
//! - `[Single]` Only the owner of the [`Writer`] stores links.
//! - `[Spare]` The links of the retired array are written again only after a grace period; until then a due
//!   growth waits. See [`Writer::starved`] for what that means under a reader that never unpins.
//!
//! # Edges
//! - `[Publish]` Release: a head, a `next`, the array. Acquire: each of the three in `find`. Models:
//!   `lookup_vs_insert_remove`, `growth_vs_lookup`.
//!
//! # Left out
//! Shrinking: a table goes with its owner.

use alloc::alloc::{Layout, alloc, dealloc};
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::ptr::{self, NonNull};

use crate::foresight;
use crate::memory;
use crate::reclaim::{Guard, pin};
use crate::sync::{AtomicBool, AtomicPtr, Memory, Ordering, order, planted};
use crate::visits;

/// Buckets of a new table, as a power of two.
const FIRST_BITS: u32 = if cfg!(loom) { 1 } else { 3 };

/// Entries per bucket from which on insertions are held up until the table can grow.
pub const LOAD_MAX: usize = 4;

/// Old buckets that each change links into the next array.
const STEP: usize = if cfg!(loom) { 1 } else { 4 };

/// Flushes after which [`Writer::catch_up`] gives up: a grace period takes three with nobody in the way.
const CATCH_UP_TRIES: u32 = 8;

/// An entry's links: one for each of the two arrays that can exist.
pub struct Links<E>([AtomicPtr<E>; 2]);

impl<E> Links<E> {
    /// The links of an entry that is in no table.
    pub fn new() -> Self {
        Links([AtomicPtr::new(ptr::null_mut()), AtomicPtr::new(ptr::null_mut())])
    }
}

impl<E> Default for Links<E> {
    fn default() -> Self {
        Self::new()
    }
}

/// What can be in a [`Table`].
pub trait Entry: Send + Sync + Sized + 'static {
    /// The hash of the key. Its high bits choose the bucket. Never changes.
    fn hash(&self) -> u64;
    /// Where the table links it.
    fn links(&self) -> &Links<Self>;
}

/// An entry with its final address, not linked yet: other pointers to it can be set before readers can meet it.
pub struct Unlinked<E: Entry>(NonNull<E>);

impl<E: Entry> Unlinked<E> {
    /// Takes `entry` to be linked.
    pub fn new(entry: Box<E>) -> Self {
        Unlinked(NonNull::from(Box::leak(entry)))
    }

    /// The address that it has now and when it is linked.
    pub fn address(&self) -> NonNull<E> {
        self.0
    }

    fn into_address(self) -> NonNull<E> {
        let address = self.0;
        core::mem::forget(self);
        address
    }
}

impl<E: Entry> Drop for Unlinked<E> {
    fn drop(&mut self) {
        // SAFETY: leaked in `new`; `into_address` forgets the value when the table takes over.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

/// A bucket array: this header, then `1 << bits` heads, in one allocation.
#[repr(C)]
struct Buckets<E> {
    memory: Memory,
    bits: u32,
    which: usize,
    heads: [AtomicPtr<E>; 0],
}

impl<E: Entry> Buckets<E> {
    fn layout(bits: u32) -> Option<(Layout, usize)> {
        let heads = Layout::array::<AtomicPtr<E>>(1usize.checked_shl(bits)?).ok()?;
        Layout::new::<Buckets<E>>().extend(heads).ok()
    }

    /// A new array with empty chains, or `None` without memory.
    fn new(bits: u32, which: usize) -> Option<NonNull<Self>> {
        let (layout, heads) = Self::layout(bits)?;
        // SAFETY: the layout is not empty: it holds the header.
        let at = NonNull::new(unsafe { alloc(layout) })?.cast::<Self>();
        // SAFETY: freshly allocated with room and alignment for the header and `1 << bits` heads behind it.
        unsafe {
            at.write(Buckets { memory: Memory::new(), bits, which, heads: [] });
            let first = at.cast::<u8>().add(heads).cast::<AtomicPtr<E>>();
            for index in 0..1usize << bits {
                first.add(index).write(AtomicPtr::new(ptr::null_mut()));
            }
        }
        Some(at)
    }

    /// The bucket of a hash: its upper bits, so that buckets are in the order of hashes in every array.
    ///
    /// # Safety
    /// `at` is an array of [`Buckets::new`] that lives.
    #[inline]
    unsafe fn index(at: NonNull<Self>, hash: u64) -> usize {
        // SAFETY: by contract.
        (hash >> (64 - unsafe { (*at.as_ptr()).bits })) as usize
    }

    /// # Safety
    /// `at` is an array of [`Buckets::new`] that lives as long as `'a`.
    #[inline]
    unsafe fn head<'a>(at: NonNull<Self>, hash: u64) -> &'a AtomicPtr<E> {
        // SAFETY: by contract. The index has at most `bits` bits, and `heads` is where `layout` put the first one:
        // the header's size is a multiple of its alignment, which is that of the heads.
        unsafe {
            let index = Self::index(at, hash);
            &*(&raw const (*at.as_ptr()).heads).cast::<AtomicPtr<E>>().add(index)
        }
    }

    /// # Safety
    /// As [`Buckets::head`], with `index < 1 << bits`.
    unsafe fn head_at<'a>(at: NonNull<Self>, index: usize) -> &'a AtomicPtr<E> {
        // SAFETY: by contract.
        unsafe { &*(&raw const (*at.as_ptr()).heads).cast::<AtomicPtr<E>>().add(index) }
    }

    /// # Safety
    /// `at` came from [`Buckets::new`], nobody uses it any more, and this is called once.
    unsafe fn free(at: NonNull<Self>) {
        // SAFETY: by contract; the layout is the one that it was allocated with.
        unsafe {
            let bits = at.as_ref().bits;
            ptr::drop_in_place(&raw mut (*at.as_ptr()).memory);
            for index in 0..1usize << bits {
                ptr::drop_in_place(ptr::from_ref(Self::head_at(at, index)).cast_mut());
            }
            let (layout, _) = Self::layout(bits).expect("it was allocated with this layout");
            dealloc(at.as_ptr().cast(), layout);
        }
    }
}

/// An array on its way through the reclaimer; tells the writer when the grace period has passed.
struct RetiredArray<E: Entry> {
    array: NonNull<Buckets<E>>,
    /// Nobody waits for the last array of a table.
    spare: Option<Arc<AtomicBool>>,
}

// SAFETY: the array holds pointers only; nobody but the reclaimer uses it from here on.
unsafe impl<E: Entry> Send for RetiredArray<E> {}

impl<E: Entry> Drop for RetiredArray<E> {
    fn drop(&mut self) {
        // SAFETY: it was unpublished before it was retired, and every pin that could have seen it has ended.
        unsafe { Buckets::free(self.array) };
        if let Some(spare) = &self.spare {
            // Release [Spare]: pairs with the Acquire in `Writer::grow`; readers of the old links are gone.
            spare.store(true, Ordering::Release);
        }
    }
}

/// The readers' side of a table.
pub struct Table<E: Entry> {
    current: AtomicPtr<Buckets<E>>,
}

/// The writer's side: whoever owns it may change the table that it was made with.
pub struct Writer<E: Entry> {
    current: NonNull<Buckets<E>>,
    len: usize,
    /// Entries that a growth makes room for, at least.
    expected: usize,
    growth: Option<Growth<E>>,
    /// Whether the links that `current` does not use may be written.
    spare: Arc<AtomicBool>,
}

// SAFETY: the arrays behind the pointers belong to this writer and its table; entries are Send and Sync.
unsafe impl<E: Entry> Send for Writer<E> {}
// SAFETY: a shared `Writer` gives out its length and nothing else.
unsafe impl<E: Entry> Sync for Writer<E> {}

struct Growth<E: Entry> {
    next: NonNull<Buckets<E>>,
    /// Old buckets below this one are linked in `next`.
    linked: usize,
}

/// The size of an array for `entries`, as a power of two.
fn bits_for(entries: usize) -> u32 {
    entries.checked_next_power_of_two().map_or(usize::BITS, usize::trailing_zeros).max(FIRST_BITS)
}

impl<E: Entry> Table<E> {
    /// An empty table and its writer, or `None` without memory.
    pub fn new() -> Option<(Table<E>, Writer<E>)> {
        Self::with_capacity(0)
    }

    /// An empty table for `entries`, which are going to be inserted with no reader inside.
    pub fn with_capacity(entries: usize) -> Option<(Table<E>, Writer<E>)> {
        let spare = memory::arc(AtomicBool::new(true)).ok()?;
        let first = Buckets::new(bits_for(entries), 0)?;
        let table = Table { current: AtomicPtr::new(first.as_ptr()) };
        Some((table, Writer { current: first, len: 0, expected: 0, growth: None, spare }))
    }

    /// The entry with this hash for which `is` holds. At most one entry of a table should answer to a key.
    ///
    /// Context: pinned; no lock; never allocates or blocks.
    /// Ordering: reads `[Publish]`. May miss what was inserted, or return what was removed, after the call began.
    #[inline]
    pub fn find<'g>(&self, hash: u64, mut is: impl FnMut(&E) -> bool, _guard: &'g Guard) -> Option<&'g E> {
        // Acquire [Publish]: pairs with the Release in `finish_growth`: the array and the links in it are whole.
        let array = self.current.load(order(Ordering::Acquire, "array_load_relaxed"));
        // SAFETY: never null; [Reach]: a replaced array is retired, and `_guard` is a pin.
        let (head, which) = unsafe {
            let array = NonNull::new_unchecked(array);
            (*array.as_ptr()).memory.check();
            (Buckets::head(array, hash), (*array.as_ptr()).which)
        };
        // Acquire [Publish]: pairs with the Release in `link`, `unlink` and `replace`: the entry is whole.
        let mut at = head.load(order(Ordering::Acquire, "head_load_relaxed"));
        // SAFETY: [Publish] made the entry whole; [Reach] keeps it for the pin `'g`; entries are shared only.
        while let Some(entry) = unsafe { at.as_ref::<'g>() } {
            visits::count();
            if is(entry) {
                return Some(entry);
            }
            // Acquire [Publish]: as above, for the rest of the chain; [Tail] if `entry` was unlinked meanwhile.
            at = entry.links().0[which].load(order(Ordering::Acquire, "next_load_relaxed"));
        }
        None
    }

    /// Asks for the head of the bucket of `hash`, where a [`Table::find`] is going to begin ([`crate::foresight`]).
    ///
    /// Context: pinned.
    #[inline]
    pub(crate) fn foresee_bucket(&self, hash: u64, _guard: &Guard) {
        // Acquire [Publish]: as in `find`.
        let array = self.current.load(Ordering::Acquire);
        // SAFETY: as in `find`.
        foresight::ask(unsafe { Buckets::head(NonNull::new_unchecked(array), hash) });
    }

    /// Asks for the first entry of the bucket of `hash`.
    ///
    /// Context: pinned.
    #[inline]
    pub(crate) fn foresee_entry(&self, hash: u64, guard: &Guard) {
        if let Some(entry) = self.first(hash, guard) {
            foresight::ask(entry);
        }
    }

    /// The first entry of the bucket of `hash`, whatever its key.
    ///
    /// Context: pinned.
    #[inline]
    pub(crate) fn first<'g>(&self, hash: u64, _guard: &'g Guard) -> Option<&'g E> {
        // Acquire [Publish]: as in `find`.
        let array = self.current.load(Ordering::Acquire);
        // SAFETY: as in `find`.
        unsafe {
            let head = Buckets::head(NonNull::new_unchecked(array), hash);
            head.load(Ordering::Acquire).as_ref::<'g>()
        }
    }

    /// Every entry of one array, in no order: exact where the caller keeps the writer out.
    ///
    /// Context: pinned.
    pub fn iter<'g>(&self, _guard: &'g Guard) -> impl Iterator<Item = &'g E> {
        // Acquire [Publish]: as in `find`.
        let array = NonNull::new(self.current.load(Ordering::Acquire)).expect("never null");
        // SAFETY: as in `find`.
        let (bits, which) = unsafe { (array.as_ref().bits, array.as_ref().which) };
        (0..1usize << bits).flat_map(move |index| {
            // SAFETY: as in `find`; the index is below the array's size.
            let head = unsafe { Buckets::head_at(array, index) };
            // SAFETY: as in `find`.
            let first = unsafe { head.load(Ordering::Acquire).as_ref::<'g>() };
            core::iter::successors(first, move |entry| {
                // SAFETY: as in `find`.
                unsafe { entry.links().0[which].load(Ordering::Acquire).as_ref::<'g>() }
            })
        })
    }
}

impl<E: Entry> Writer<E> {
    /// The number of entries.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no entry is linked.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The number of buckets that readers see.
    pub fn buckets(&self) -> usize {
        // SAFETY: the writer's own array.
        1 << unsafe { self.current.as_ref() }.bits
    }

    /// Says that `more` entries are going to be inserted without a chance for a grace period in between: the next growth
    /// makes room for all of them.
    pub fn expect(&mut self, more: usize) {
        self.expected = self.len + more;
    }

    /// Whether a due growth waits for a grace period. Whoever can, flushes.
    pub fn waits(&self) -> bool {
        // Relaxed: a hint.
        self.growth.is_none() && self.len >= self.buckets() && !self.spare.load(Ordering::Relaxed)
    }

    /// Whether chains are [`LOAD_MAX`] entries long on average, because growth waits or many entries came at once.
    ///
    /// Whoever owns the writer calls [`Writer::catch_up`] then, at the next moment at which it is not pinned; if that does
    /// not help, callers that can refuse do so before the next insertion, so chains stay bounded even beside a reader
    /// that never unpins.
    pub fn starved(&self) -> bool {
        self.len >= LOAD_MAX * self.buckets() && self.growth.is_none()
    }

    /// Makes a starved table fit its entries at once: helps the grace period along, and links everything.
    ///
    /// Insertions alone retire next to nothing, so nobody else might see to it that the retired array is freed; and
    /// many insertions under one pin outrun any growth. Beside a reader that does not unpin the table stays starved,
    /// and the next call tries again.
    ///
    /// Context: not pinned; runs destructors; never waits.
    pub fn catch_up(&mut self, table: &Table<E>) {
        self.check_owner(table);
        for _ in 0..CATCH_UP_TRIES {
            if !self.starved() {
                return;
            }
            let guard = pin();
            guard.flush();
            self.grow(table, usize::MAX, &guard);
        }
    }

    /// The linked entry with this hash for which `is` holds, as [`Writer::remove`] and [`Writer::replace`] want it.
    pub fn find(&self, hash: u64, mut is: impl FnMut(&E) -> bool) -> Option<NonNull<E>> {
        // SAFETY: the writer's own array.
        let (head, which) = unsafe { (Buckets::head(self.current, hash), self.current.as_ref().which) };
        // SAFETY: the head of a bucket of `current`.
        unsafe { chain(head, which) }
            // SAFETY: linked, so alive.
            .find(|entry| is(unsafe { entry.as_ref() }))
    }

    /// Every linked entry, in no order.
    pub fn entries(&self) -> impl Iterator<Item = NonNull<E>> {
        self.entries_from(0)
    }

    /// The linked entries of the bucket of `hash` and of all behind it, in no order; all of those with this hash or a higher
    /// one are among them.
    pub fn entries_from(&self, hash: u64) -> impl Iterator<Item = NonNull<E>> {
        // SAFETY: the writer's own array.
        let (which, first) = unsafe { (self.current.as_ref().which, Buckets::index(self.current, hash)) };
        (first..self.buckets()).flat_map(move |index| {
            // SAFETY: the index is below the array's size, and the chain is one of `current`.
            unsafe { chain(Buckets::head_at(self.current, index), which) }
        })
    }

    /// Links `entry`, which is from then on visible to readers and owned by the table.
    ///
    /// Returns the address by which [`Writer::remove`] and [`Writer::replace`] know it. The caller made sure that
    /// no entry with its key is linked.
    pub fn insert(&mut self, table: &Table<E>, entry: Unlinked<E>, guard: &Guard) -> NonNull<E> {
        self.check_owner(table);
        let entry = entry.into_address();
        // SAFETY: just leaked, linked nowhere yet.
        unsafe {
            self.link(self.current, entry);
            if let Some(next) = self.linked_in_next(entry) {
                self.link(next, entry);
            }
        }
        self.len += 1;
        self.grow_if_due(table, guard);
        entry
    }

    /// Unlinks `entry` and retires it: readers that pin from here on do not meet it.
    ///
    /// # Safety
    /// `entry` was returned by `insert` or `replace` of this writer and was not removed or replaced since.
    pub unsafe fn remove(&mut self, table: &Table<E>, entry: NonNull<E>, guard: &Guard) {
        self.check_owner(table);
        // SAFETY: by contract it is linked in `current`, and in `next` where its bucket has been linked.
        unsafe {
            let next = self.linked_in_next(entry);
            self.unlink(self.current, entry, None);
            if let Some(next) = next
                && !planted("remove_from_one_array")
            {
                self.unlink(next, entry, None);
            }
            // SAFETY: it came from a box in `insert`, and no reader that pins from here on can reach it.
            guard.retire(Box::from_raw(entry.as_ptr()));
        }
        self.len -= 1;
        self.grow_if_due(table, guard);
    }

    /// Puts `fresh` where `old` is, with one store, and retires `old`. Both have the same hash.
    ///
    /// # Safety
    /// As for [`Writer::remove`].
    pub unsafe fn replace(
        &mut self,
        table: &Table<E>,
        old: NonNull<E>,
        fresh: Unlinked<E>,
        guard: &Guard,
    ) -> NonNull<E> {
        self.check_owner(table);
        let fresh = fresh.into_address();
        // SAFETY: `old` by contract, `fresh` because the table has just taken it over.
        debug_assert_eq!(unsafe { old.as_ref() }.hash(), unsafe { fresh.as_ref() }.hash());
        // SAFETY: as in `remove`; `fresh` is linked nowhere yet.
        unsafe {
            let next = self.linked_in_next(old);
            self.unlink(self.current, old, Some(fresh));
            if let Some(next) = next {
                self.unlink(next, old, Some(fresh));
            }
            guard.retire(Box::from_raw(old.as_ptr()));
        }
        self.grow_if_due(table, guard);
        fresh
    }

    fn check_owner(&self, table: &Table<E>) {
        // Relaxed: only this writer stores it.
        assert_eq!(
            table.current.load(Ordering::Relaxed),
            self.current.as_ptr(),
            "the writer of another table"
        );
    }

    /// The next array, if `entry`'s bucket has been linked in it.
    ///
    /// # Safety
    /// `entry` is alive.
    unsafe fn linked_in_next(&self, entry: NonNull<E>) -> Option<NonNull<Buckets<E>>> {
        let growth = self.growth.as_ref()?;
        // SAFETY: the array is the writer's; the entry is alive by contract.
        let index = unsafe { (entry.as_ref().hash() >> (64 - self.current.as_ref().bits)) as usize };
        (index < growth.linked).then_some(growth.next)
    }

    /// # Safety
    /// `array` is one of this writer's; `entry` is alive and not linked in it.
    unsafe fn link(&self, array: NonNull<Buckets<E>>, entry: NonNull<E>) {
        // SAFETY: by contract.
        let (head, links, which) = unsafe {
            (Buckets::head(array, entry.as_ref().hash()), entry.as_ref().links(), array.as_ref().which)
        };
        // Relaxed: [Single] wrote the head; the entry is published by the next store.
        links.0[which].store(head.load(Ordering::Relaxed), Ordering::Relaxed);
        // Release [Publish]: pairs with the Acquire in `find`; without it a reader may see a key of zeroes.
        // The pointer is the box's and not a reference's: `Table::drop` frees by what it reads here.
        head.store(entry.as_ptr(), order(Ordering::Release, "link_relaxed"));
    }

    /// Takes `entry` out of `array`'s chain, putting `instead` in its place if given.
    ///
    /// # Safety
    /// `array` is one of this writer's and `entry` is linked in it; `instead` is alive and not linked in it.
    unsafe fn unlink(&self, array: NonNull<Buckets<E>>, entry: NonNull<E>, instead: Option<NonNull<E>>) {
        // SAFETY: by contract; entries in the chain are alive because they are linked.
        unsafe {
            let which = array.as_ref().which;
            let mut link = Buckets::head(array, entry.as_ref().hash());
            // Relaxed: [Single].
            while link.load(Ordering::Relaxed) != entry.as_ptr() {
                visits::count();
                let here = NonNull::new(link.load(Ordering::Relaxed)).expect("the entry is in its chain");
                link = &here.as_ref().links().0[which];
            }
            let after = entry.as_ref().links().0[which].load(Ordering::Relaxed);
            let successor = match instead {
                Some(instead) => {
                    instead.as_ref().links().0[which].store(after, Ordering::Relaxed);
                    instead.as_ptr()
                }
                None => after,
            };
            // Release [Publish]: as in `link`. [Tail]: the entry's own link stays.
            link.store(successor, order(Ordering::Release, "unlink_relaxed"));
            if planted("unlink_clears_next") {
                entry.as_ref().links().0[which].store(ptr::null_mut(), Ordering::Release);
            }
        }
    }

    /// Starts or continues growth by a few buckets.
    fn grow_if_due(&mut self, table: &Table<E>, guard: &Guard) {
        self.grow(table, STEP, guard);
    }

    /// Starts or continues growth by `steps` buckets. Failing to allocate only leaves chains longer.
    fn grow(&mut self, table: &Table<E>, steps: usize, guard: &Guard) {
        if self.growth.is_none() {
            // Acquire [Spare]: pairs with the Release in `RetiredArray::drop`: the readers of the links that this
            // growth is going to write are gone.
            let spare = self.spare.load(Ordering::Acquire) || planted("grow_before_grace");
            let wanted = self.len.max(self.expected);
            if wanted < self.buckets() || !spare {
                return;
            }
            // SAFETY: the writer's own array.
            let (bits, which) = unsafe { (self.current.as_ref().bits, self.current.as_ref().which) };
            // Twice the size, or more for the many that came while a growth had to wait, or are to come.
            let bits = bits_for(wanted).max(bits + 1);
            let Some(next) = Buckets::new(bits, 1 - which) else { return };
            self.growth = Some(Growth { next, linked: 0 });
        }
        let buckets = self.buckets();
        for _ in 0..steps {
            let Some(growth) = &mut self.growth else { return };
            let (next, index) = (growth.next, growth.linked);
            growth.linked += 1;
            if index + 1 == buckets && planted("publish_before_linked") {
                table.current.store(next.as_ptr(), Ordering::Release);
            }
            // SAFETY: `current` is the writer's; entries in it are alive because they are linked.
            unsafe {
                let which = self.current.as_ref().which;
                let mut at = Buckets::head_at(self.current, index).load(Ordering::Relaxed);
                while let Some(entry) = NonNull::new(at) {
                    self.link(next, entry);
                    at = entry.as_ref().links().0[which].load(Ordering::Relaxed);
                }
            }
            if index + 1 == buckets {
                self.finish_growth(table, guard);
            }
        }
    }

    /// Publishes the next array and retires the old one.
    fn finish_growth(&mut self, table: &Table<E>, guard: &Guard) {
        let Some(growth) = self.growth.take() else { return };
        let old = core::mem::replace(&mut self.current, growth.next);
        // Relaxed: until the retired array is dropped nobody else writes it, and only this writer reads it.
        self.spare.store(false, Ordering::Relaxed);
        // Release [Publish]: pairs with the Acquire in `find`: the new array and all links through it.
        table.current.store(growth.next.as_ptr(), order(Ordering::Release, "array_publish_relaxed"));
        guard.retire_awaited(RetiredArray { array: old, spare: Some(Arc::clone(&self.spare)) });
    }
}

/// The entries of a chain, for its writer.
///
/// # Safety
/// `head` is a head of an array with this `which`, and no entry of its chain is freed while the iterator is used.
unsafe fn chain<E: Entry>(head: &AtomicPtr<E>, which: usize) -> impl Iterator<Item = NonNull<E>> {
    // Relaxed: [Single].
    core::iter::successors(NonNull::new(head.load(Ordering::Relaxed)), move |entry| {
        // SAFETY: alive by contract.
        NonNull::new(unsafe { entry.as_ref() }.links().0[which].load(Ordering::Relaxed))
    })
}

impl<E: Entry> Drop for Writer<E> {
    fn drop(&mut self) {
        if let Some(growth) = self.growth.take() {
            // SAFETY: never published, so only this writer knows it.
            unsafe { Buckets::free(growth.next) };
        }
    }
}

impl<E: Entry> Drop for Table<E> {
    fn drop(&mut self) {
        let guard = pin();
        // Acquire: pairs with the Release in `finish_growth`, should the writer have been another thread.
        let array = NonNull::new(self.current.load(Ordering::Acquire)).expect("never null");
        // SAFETY: `&mut self` means that no new lookup can begin and that nobody changes the table through its
        // writer any more; entries in the array are linked, so alive, and came from boxes. A reader that found one
        // before may still use it: everything goes through the reclaimer.
        unsafe {
            let which = array.as_ref().which;
            for index in 0..1usize << array.as_ref().bits {
                let mut at = Buckets::head_at(array, index).load(Ordering::Acquire);
                while let Some(entry) = NonNull::new(at) {
                    at = entry.as_ref().links().0[which].load(Ordering::Acquire);
                    guard.retire(Box::from_raw(entry.as_ptr()));
                }
            }
        }
        guard.retire_awaited(RetiredArray { array, spare: None });
    }
}
