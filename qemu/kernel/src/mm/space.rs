//! The memory of a process: mappings, and the pages that are there.
//!
//! 1. A mapping ([`super::area`]) says what may be where; a page comes when it is touched ([`AddressSpace::fault`]) and lies in the page
//!    tables ([`super::tables`]) alone.
//! 2. Private pages are shared between a space and its copies, read-only, until one writes: who is not alone with the page copies it.
//! 3. A CPU that goes from a space to a thread without user memory keeps the space's tables ("lazy"). It does not hear of what
//!    changes meanwhile; `generation` tells it to forget everything when it comes back.
//!
//! # Invariants
//! - `[Active]` A CPU whose bit is in `active` runs a thread that holds a reference to the space.
//! - `[Loaded]` A CPU that has the space's tables has its bit in `loaded`, and the tables outlive that: [`AddressSpace`]'s drop sends
//!   the last lazy CPUs away.
//! - `[Flush]` A page or table that a CPU may know is freed only after [`AddressSpace::flush`].
//!
//! # Edges
//! - `[Lazy]` A CPU sets its bit in `active`, then reads `generation`; who takes pages away changes the tables, then `generation`, then
//!   reads `active`. All SeqCst: one of the two sees the other, so the CPU hears of the change or forgets all.
//!
//! # Lock order
//! A space's lock (blocking) → what a [`Backing`] takes → heap. Two spaces are never locked at once but by fork, the child's last, whom
//! nobody knows yet. No user memory is touched under a space's lock.

use alloc::sync::Arc;
use core::cell::Cell;
use core::ops::Range;
use core::ptr;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::*};

use mnt_table::sync::BlockingMutex;
use syscalls::Errno;
use tmpfs::Page;

pub(crate) use super::area::Prot;
use super::area::{Area, Areas, Flags, Grave, PAGE};
use super::backing::Backing;
use super::fault::Access;
use super::tables::{NoMemory, Tables};
use super::{paging, registry, shootdown};
use crate::arch::cpu::IrqOff;
use crate::arch::percpu::{self, PreemptOff};
use crate::arch::spin::SpinLock;

/// End of user memory: the last page of the lower half is left out.
pub(crate) const USER_END: usize = 0x7fff_ffff_f000;
/// Where mappings are placed from, downwards, unless the stack needs more room.
pub(super) const MAP_TOP: usize = 0x7fff_f7ff_f000;
/// The lowest address that is given without being asked for; also the lowest for those without privilege.
pub(crate) const MAP_MIN: usize = 0x1_0000;
/// What a mapping is for, when it is no ordinary one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Role {
    #[default]
    Plain,
    Heap,
    /// The main thread's stack.
    Stack,
}

/// A mapping as `/proc` shows it.
pub(crate) struct AreaView<'a> {
    pub(crate) start: usize,
    pub(crate) end: usize,
    pub(crate) prot: Prot,
    pub(crate) shared: bool,
    pub(crate) offset: u64,
    pub(crate) backing: Option<&'a Arc<dyn Backing>>,
    pub(crate) role: Role,
    pub(crate) grows_down: bool,
    pub(crate) locked: bool,
    /// Pages that are there, and those of them that can be written. None if they were not to be counted.
    pub(crate) resident: usize,
    pub(crate) writable: usize,
}

/// How much memory a space has, in pages; for `statm`, `status` and `stat`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) total: usize,
    pub(crate) resident: usize,
    pub(crate) shared: usize,
    pub(crate) text: usize,
    pub(crate) data: usize,
    pub(crate) stack: usize,
    pub(crate) locked: usize,
    /// Frames of page tables.
    pub(crate) tables: usize,
    pub(crate) peak_total: usize,
    pub(crate) peak_resident: usize,
}

/// Where the parts of a program lie; for `stat` and `/proc/PID/{cmdline,environ,auxv}`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) code_start: usize,
    pub(crate) code_end: usize,
    pub(crate) data_start: usize,
    pub(crate) data_end: usize,
    pub(crate) brk_start: usize,
    pub(crate) brk: usize,
    pub(crate) stack_start: usize,
    pub(crate) arg_start: usize,
    pub(crate) arg_end: usize,
    pub(crate) env_start: usize,
    pub(crate) env_end: usize,
    pub(crate) auxv_start: usize,
    pub(crate) auxv_end: usize,
}

impl From<NoMemory> for Errno {
    fn from(_: NoMemory) -> Self {
        Errno::ENOMEM
    }
}

/// Limits of a space, in bytes; `usize::MAX` is none. Its processes set them (`RLIMIT_*`).
#[derive(Debug)]
pub(crate) struct Limits {
    /// `RLIMIT_AS`
    pub(crate) total: AtomicUsize,
    /// `RLIMIT_DATA`
    pub(crate) data: AtomicUsize,
    /// `RLIMIT_STACK`
    pub(crate) stack: AtomicUsize,
    /// `RLIMIT_MEMLOCK`
    pub(crate) locked: AtomicUsize,
}

/// The address space of one process, or of several (`CLONE_VM`).
pub(crate) struct AddressSpace {
    root: u64,
    /// CPUs that run in it.
    active: AtomicU64,
    /// CPUs that have its tables.
    loaded: AtomicU64,
    /// Changes when translations go away.
    generation: AtomicU64,
    /// Where it is known; `None` while it is made.
    place: SpinLock<Option<registry::Place>>,
    pub(crate) limits: Limits,
    /// Pages that are there; written under the lock.
    pub(super) resident: AtomicUsize,
    pub(super) inner: BlockingMutex<Inner>,
}

/// What the lock guards.
pub(super) struct Inner {
    pub(super) areas: Areas,
    pub(super) tables: Tables,
    pub(super) layout: Layout,
    /// Bytes of all mappings.
    pub(super) total: usize,
    pub(super) locked: usize,
    peak_total: usize,
    peak_resident: usize,
    /// mlockall(MCL_FUTURE)
    pub(super) lock_future: bool,
    /// Where mappings are placed from, downwards.
    pub(super) map_top: usize,
}

impl Inner {
    pub(super) fn grow_total(&mut self, bytes: usize) {
        self.total += bytes;
        self.peak_total = self.peak_total.max(self.total);
    }

    /// Bytes of private memory that may be written.
    pub(super) fn data(&self) -> usize {
        self.areas.iter().filter(|area| area.is_data()).map(Area::len).sum()
    }
}

/// The tables that a CPU has.
pub(crate) struct SpaceSlot {
    /// Whose tables are loaded; null: the kernel's own.
    loaded: Cell<*const AddressSpace>,
    /// Whether a thread of it runs.
    active: Cell<bool>,
    /// The space's generation when all was forgotten last.
    generation: Cell<u64>,
}

// SAFETY: own CPU only, with interrupts off.
unsafe impl Sync for SpaceSlot {}

impl SpaceSlot {
    pub(crate) const fn new() -> Self {
        Self { loaded: Cell::new(ptr::null()), active: Cell::new(false), generation: Cell::new(0) }
    }
}

/// Does what another CPU asked of this one, see [`shootdown`]. Context: interrupts off.
pub(super) fn forget_here(root: u64, range: &Range<usize>, evict: bool) {
    if root == paging::root() {
        // The kernel's half, which all tables have.
        return shootdown::forget(range);
    }
    let cpu = percpu::this();
    // SAFETY: [Loaded]: the space outlives its tables' use here.
    let Some(space) = (unsafe { cpu.space.loaded.get().as_ref() }) else { return };
    if space.root != root {
        return;
    }
    if evict && !cpu.space.active.get() {
        leave(space);
    } else {
        shootdown::forget(range);
    }
}

/// Goes back to the kernel's own tables. Context: interrupts off, no thread of the space runs here.
fn leave(space: &AddressSpace) {
    let cpu = percpu::this();
    // SAFETY: the kernel's own root, which stays.
    unsafe { paging::switch(paging::root()) };
    cpu.space.loaded.set(ptr::null());
    // SeqCst: after the tables are out of use; the last thing that this CPU does with the space.
    space.loaded.fetch_and(!(1 << cpu.index), SeqCst);
}

/// The space of the thread that runs here, if it has one.
pub(super) fn current<'a>() -> Option<&'a AddressSpace> {
    let slot = &percpu::this().space;
    let _off = IrqOff::new();
    if !slot.active.get() {
        return None;
    }
    // SAFETY: [Active]: the running thread holds a reference, and does not give it up while the caller, who is in it, looks at it.
    unsafe { slot.loaded.get().as_ref() }
}

impl AddressSpace {
    /// An empty space.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn new() -> Result<Arc<Self>, Errno> {
        let tables = Tables::new()?;
        let space = AddressSpace {
            root: tables.root(),
            active: AtomicU64::new(0),
            loaded: AtomicU64::new(0),
            generation: AtomicU64::new(0),
            place: SpinLock::new(None),
            limits: Limits {
                total: AtomicUsize::new(usize::MAX),
                data: AtomicUsize::new(usize::MAX),
                stack: AtomicUsize::new(8 << 20),
                locked: AtomicUsize::new(8 << 20),
            },
            resident: AtomicUsize::new(0),
            inner: BlockingMutex::new(Inner {
                areas: Areas::default(),
                tables,
                layout: Layout::default(),
                total: 0,
                locked: 0,
                peak_total: 0,
                peak_resident: 0,
                lock_future: false,
                map_top: MAP_TOP,
            }),
        };
        let space = mnt_table::memory::arc(space).map_err(|_| Errno::ENOMEM)?;
        *space.place.lock() = Some(registry::enter(&space)?);
        Ok(space)
    }

    /// Makes this the space of this CPU. Context: in a switch to a thread of the space, or when a thread takes the space up; interrupts
    /// off. The thread holds a reference until [`Self::deactivate`], or until another space is activated here.
    pub(crate) fn activate(self: &Arc<Self>) {
        let cpu = percpu::this();
        let (slot, bit) = (&cpu.space, 1 << cpu.index);
        let old = slot.loaded.get();
        if ptr::eq(old, &**self) {
            if !slot.active.replace(true) {
                self.active.fetch_or(bit, SeqCst); // [Lazy]
                let generation = self.generation.load(SeqCst); // [Lazy]
                if slot.generation.replace(generation) != generation {
                    x86_64::instructions::tlb::flush_all();
                }
            }
            return;
        }
        self.loaded.fetch_or(bit, SeqCst); // Before the tables are in use.
        self.active.fetch_or(bit, SeqCst); // [Lazy]
        slot.generation.set(self.generation.load(SeqCst)); // [Lazy]
        // SAFETY: the tables live as long as the space, which outlives their use here ([Loaded]).
        unsafe { paging::switch(self.root) };
        let was_active = slot.active.replace(true);
        slot.loaded.set(&**self);
        // SAFETY: [Loaded]: this CPU's bit is still set there.
        if let Some(old) = unsafe { old.as_ref() } {
            if was_active {
                old.active.fetch_and(!bit, SeqCst);
            }
            old.loaded.fetch_and(!bit, SeqCst); // The last thing that this CPU does with it.
        }
    }

    /// This CPU runs a thread without user memory from here on. Context: in a switch to such a thread, or when an exiting thread
    /// gives its space up; interrupts off. The space may be dropped afterwards.
    pub(crate) fn deactivate() {
        let cpu = percpu::this();
        if cpu.space.active.replace(false) {
            // SAFETY: [Active] until now, hence [Loaded].
            if let Some(space) = unsafe { cpu.space.loaded.get().as_ref() } {
                space.active.fetch_and(!(1 << cpu.index), SeqCst);
            }
        }
    }

    /// Makes all CPUs forget the translations of `range`. With `tables`, tables went away too: also those that are lazy.
    pub(super) fn flush(&self, range: Range<usize>, tables: bool) {
        let off = PreemptOff::new();
        let before = self.generation.fetch_add(1, SeqCst); // [Lazy]
        let targets = if tables { &self.loaded } else { &self.active }.load(SeqCst); // [Lazy]
        let cpu = percpu::this();
        if targets & 1 << cpu.index != 0 {
            let _off = IrqOff::new();
            shootdown::forget(&range);
            if cpu.space.generation.get() == before {
                cpu.space.generation.set(before + 1);
            }
        }
        shootdown::post(targets, self.root, range, false);
        drop(off);
    }

    /// So many pages more are there.
    pub(super) fn more_resident(&self, inner: &mut Inner, pages: usize) {
        let resident = self.resident.load(Relaxed) + pages; // Relaxed: under the lock; others read statistics.
        self.resident.store(resident, Relaxed);
        inner.peak_resident = inner.peak_resident.max(resident);
    }

    /// What the space's end frees, in pages.
    pub(super) fn weight(&self) -> usize {
        self.resident.load(Relaxed) // Relaxed: statistics.
    }

    /// A copy for a child: private memory is shared until one of the two writes it.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn fork(&self) -> Result<Arc<Self>, Errno> {
        let child = Self::new()?;
        for (to, from) in [
            (&child.limits.total, &self.limits.total),
            (&child.limits.data, &self.limits.data),
            (&child.limits.stack, &self.limits.stack),
            (&child.limits.locked, &self.limits.locked),
        ] {
            to.store(from.load(Relaxed), Relaxed); // Relaxed: numbers that stand for themselves.
        }
        let mut changed: Option<Range<usize>> = None;
        let result = {
            let inner = &mut *self.inner.lock();
            let copy = &mut *child.inner.lock();
            copy_all(inner, &child, copy, &mut changed)
        };
        // What was copied so far counts, be it all or not.
        if let Some(range) = changed {
            self.flush(range, false);
        }
        result?;
        Ok(child)
    }

    /// Shows the mappings in order, until `show` says false.
    pub(crate) fn areas(&self, counts: bool, show: &mut dyn FnMut(&AreaView<'_>) -> bool) {
        let inner = self.inner.lock();
        let layout = &inner.layout;
        for area in inner.areas.iter() {
            let role = if area.range().contains(&layout.stack_start) {
                Role::Stack
            } else if area.backing().is_none() && area.start < layout.brk && area.end > layout.brk_start {
                Role::Heap
            } else {
                Role::Plain
            };
            let (mut resident, mut writable) = (0, 0);
            if counts {
                inner.tables.visit(area.range(), |_, slot| {
                    resident += 1;
                    writable += usize::from(slot.get().is_some_and(|entry| entry.is_writable()));
                    true
                });
            }
            let view = AreaView {
                start: area.start,
                end: area.end,
                prot: area.prot,
                shared: area.is_shared(),
                offset: area.offset,
                backing: area.backing(),
                role,
                grows_down: area.flags.contains(Flags::GROWS_DOWN),
                locked: area.flags.contains(Flags::LOCKED),
                resident,
                writable,
            };
            if !show(&view) {
                break;
            }
        }
    }

    /// The most pages that it has had.
    pub(crate) fn peak(&self) -> usize {
        self.inner.lock().peak_resident.max(self.weight())
    }

    /// How much memory it has.
    pub(crate) fn usage(&self) -> Usage {
        let inner = self.inner.lock();
        let mut usage = Usage {
            total: inner.total / PAGE,
            resident: self.weight(),
            locked: inner.locked / PAGE,
            tables: inner.tables.frames(),
            peak_total: inner.peak_total / PAGE,
            peak_resident: inner.peak_resident,
            ..Usage::default()
        };
        for area in inner.areas.iter() {
            let pages = area.len() / PAGE;
            if area.flags.contains(Flags::GROWS_DOWN) {
                usage.stack += pages;
            } else if area.is_data() {
                usage.data += pages;
            } else if area.prot.contains(Prot::EXEC) {
                usage.text += pages;
            }
            if area.backing().is_some() {
                inner.tables.visit(area.range(), |_, slot| {
                    usage.shared +=
                        usize::from(slot.get().is_some_and(|entry| area.is_shared() || !entry.is_writable()));
                    true
                });
            }
        }
        usage
    }

    /// Where the parts of its program lie.
    pub(crate) fn layout(&self) -> Layout {
        self.inner.lock().layout
    }

    /// Changes where the parts of its program lie.
    pub(crate) fn set_layout(&self, change: impl FnOnce(&mut Layout)) {
        change(&mut self.inner.lock().layout);
    }

    /// Runs `work(page, offset, part)` for the part of each page of a range, until one cannot be had. Returns how many bytes there were.
    fn each_page(
        &self,
        address: usize,
        length: usize,
        access: Access,
        mut work: impl FnMut(&Page, usize, Range<usize>),
    ) -> usize {
        let mut done = 0;
        while done < length {
            let Some(at) = address.checked_add(done).filter(|&at| at < USER_END) else { break };
            let mut inner = self.inner.lock();
            if self.fault_locked(&mut inner, at, access).is_err() {
                break;
            }
            let Some(entry) = inner.tables.slot(at).and_then(|slot| slot.get()) else { break };
            let page = entry.page();
            drop(inner);
            let offset = at % PAGE;
            let count = (PAGE - offset).min(length - done);
            work(&page, offset, done..done + count);
            done += count;
        }
        done
    }

    /// Reads memory of this space, be it active or not. Returns how many bytes there were.
    pub(crate) fn read_other(&self, address: usize, buffer: &mut [u8]) -> usize {
        self.each_page(address, buffer.len(), Access::Read, |page, offset, part| {
            page.read(offset, &mut buffer[part])
        })
    }

    /// Writes memory of this space, be it active or not, where its program may write. Returns how many bytes there were.
    pub(crate) fn write_other(&self, address: usize, bytes: &[u8]) -> usize {
        self.each_page(address, bytes.len(), Access::Write, |page, offset, part| {
            page.write(offset, &bytes[part])
        })
    }

    /// Writes zeroes as [`Self::write_other`].
    pub(super) fn zero_other(&self, address: usize, length: usize) -> usize {
        self.each_page(address, length, Access::Write, |page, offset, part| page.clear(offset, part.len()))
    }

    /// What a futex at `address` is known by: `Some((object, offset))` in shared mappings, `None` for private memory.
    ///
    /// # Errors
    /// `EFAULT`.
    pub(crate) fn futex_key(&self, address: usize) -> Result<Option<(u64, u64)>, Errno> {
        let inner = self.inner.lock();
        let area = inner.areas.find(address).ok_or(Errno::EFAULT)?;
        let shared = area.backing().filter(|_| area.is_shared());
        Ok(shared.map(|backing| (backing.identity(), area.offset_of(address))))
    }
}

/// Copies all of a space; `changed` is what the old one's CPUs have to forget then.
fn copy_all(
    inner: &mut Inner,
    child: &AddressSpace,
    copy: &mut Inner,
    changed: &mut Option<Range<usize>>,
) -> Result<(), Errno> {
    copy.layout = inner.layout;
    copy.map_top = inner.map_top;
    copy.areas.make_room(inner.areas.len())?;
    for area in inner.areas.iter().filter(|area| !area.flags.contains(Flags::DONT_FORK)) {
        let mut new = area.part(area.range(), area.offset);
        new.flags -= Flags::LOCKED; // Locks are not inherited.
        copy.grow_total(new.len());
        copy.areas.insert(new);
        // What is shared is found again when it is touched.
        if area.is_shared() || area.flags.contains(Flags::WIPE_ON_FORK) {
            continue;
        }
        let mut failed = false;
        let mut pages = 0;
        inner.tables.visit(area.range(), |at, slot| {
            let Some(entry) = slot.get() else { return true };
            let prot = if entry.is_present() { area.prot - Prot::WRITE } else { Prot::empty() };
            let Ok(new) = copy.tables.make_slot(at) else {
                failed = true;
                return false;
            };
            if entry.is_writable() {
                slot.protect(prot);
                let range = changed.get_or_insert(at..at);
                range.end = at + PAGE;
            }
            new.set(entry.page(), prot);
            pages += 1;
            true
        });
        child.more_resident(copy, pages);
        if failed {
            return Err(Errno::ENOMEM);
        }
    }
    Ok(())
}

impl Drop for AddressSpace {
    fn drop(&mut self) {
        if let Some(place) = self.place.get_mut().take() {
            registry::leave(place);
        }
        // No thread is in it any more, but lazy CPUs may have its tables.
        loop {
            let off = PreemptOff::new();
            let cpu = percpu::this();
            {
                let _off = IrqOff::new();
                if ptr::eq(cpu.space.loaded.get(), self) {
                    leave(self);
                }
            }
            let loaded = self.loaded.load(SeqCst);
            if loaded == 0 {
                break;
            }
            shootdown::post(loaded, self.root, 0..0, true);
            drop(off);
        }
        let inner = self.inner.get_mut();
        for area in inner.areas.iter() {
            inner.tables.clear(&area.range());
        }
        // A table goes with the last mapping that it is for.
        let mut areas = inner.areas.iter().peekable();
        while let Some(area) = areas.next() {
            let end = areas.peek().map_or(1 << 47, |next| next.start);
            inner.tables.clear_tables(&area.range(), end);
        }
    }
}

/// Room in a grave for so many.
///
/// # Errors
/// `ENOMEM`.
pub(super) fn grave_for(count: usize) -> Result<Grave, Errno> {
    let mut grave = Grave::new();
    grave.try_reserve_exact(count).map_err(|_| Errno::ENOMEM)?;
    Ok(grave)
}
