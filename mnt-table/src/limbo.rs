//! Where retired objects wait, so that the CPU that retired them frees them.
//!
//! The collector's queue of garbage is the machine's: whoever looks at it runs what is due. Were each object freed there,
//! two CPUs that change unrelated namespaces would free each other's objects, wait for each other's cache lines, and give
//! memory to each other's heaps. Instead:
//!
//! 1. Objects gather in the *open* bag of their CPU. A full bag, or any at a flush, is given to the collector as one.
//! 2. Whoever runs it after the grace period hands it back to its CPU: one store per bag.
//! 3. That CPU empties it at its next flush. So no destructor runs inside a pin that happens to collect, under whatever
//!    locks.
//!
//! A CPU that never flushes again keeps nobody waiting: [`quiesce`](crate::reclaim::quiesce) and whoever is over the limit
//! take from any. What a writer waits for does not come here at all, see
//! [`Guard::retire_awaited`](crate::reclaim::Guard::retire_awaited).
//!
//! # Invariants
//! - `[Once]` An object is in one bag, and a bag in one place: open, with the collector, handed back, or with the one
//!   who empties it. So each is freed once.
//!
//! # Edges
//! - `[Back]` Release in [`Limbo::hand_back`], Acquire in [`Limbo::empty`]: the bag's contents and its link. Models
//!   `hand_back_vs_empty`, `empty_vs_empty`; with the collector in between, `retire_vs_reader`, `retire_vs_quiesce`.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ptr;

use crate::platform::CPUS_MAX;
use crate::sync::{AtomicPtr, Memory, Mutex, Ordering, order, planted};

/// Objects in a full bag.
const BAG_MAX: usize = if cfg!(loom) { 2 } else { 64 };

/// A retired object.
struct Retired {
    object: *mut (),
    /// Takes `object`.
    free: unsafe fn(*mut ()),
    bytes: usize,
}

// SAFETY: made from a `Send` box or `Arc` only, of which it is the one owner.
unsafe impl Send for Retired {}

/// What was freed, to be counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Freed {
    /// Objects.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Retired objects of one CPU.
pub struct Bag {
    memory: Memory,
    cpu: usize,
    objects: Vec<Retired>,
    /// The bag that was handed back before it.
    next: *mut Bag,
}

// SAFETY: `next` is followed by the bag's owner only; the rest is Send.
unsafe impl Send for Bag {}

/// The bag that a CPU fills, on a line of its own.
#[repr(align(128))]
struct Open(Mutex<Vec<Retired>>);

/// Bags that were handed back to a CPU and wait to be emptied, on a line of its own: other CPUs write it.
#[repr(align(128))]
struct Back(AtomicPtr<Bag>);

/// Where retired objects wait. The machine has one; a model has one per execution.
pub struct Limbo {
    open: [Open; CPUS_MAX],
    back: [Back; CPUS_MAX],
}

impl Limbo {
    /// With nothing in it.
    #[cfg(not(loom))]
    pub(crate) const fn new() -> Self {
        Limbo {
            open: [const { Open(Mutex::new(Vec::new())) }; CPUS_MAX],
            back: [const { Back(AtomicPtr::new(ptr::null_mut())) }; CPUS_MAX],
        }
    }

    /// With nothing in it.
    #[cfg(loom)]
    #[expect(clippy::new_without_default, reason = "as in production, where it is a constant")]
    pub fn new() -> Self {
        Limbo {
            open: core::array::from_fn(|_| Open(Mutex::new(Vec::new()))),
            back: core::array::from_fn(|_| Back(AtomicPtr::new(ptr::null_mut()))),
        }
    }

    /// Puts a box in the open bag of `cpu`. Returns the bag if it is full now, to be given to the collector.
    pub fn put_box<T: Send + 'static>(&self, cpu: usize, value: Box<T>) -> Option<Box<Bag>> {
        unsafe fn free<T>(object: *mut ()) {
            // SAFETY: from `into_raw` below; [Once].
            drop(unsafe { Box::from_raw(object.cast::<T>()) });
        }
        self.put(cpu, Retired { object: Box::into_raw(value).cast(), free: free::<T>, bytes: size_of::<T>() })
    }

    /// As [`Limbo::put_box`], for one count of a shared object.
    pub fn put_arc<T: Send + Sync + 'static>(&self, cpu: usize, value: Arc<T>) -> Option<Box<Bag>> {
        unsafe fn free<T>(object: *mut ()) {
            // SAFETY: from `into_raw` below; [Once].
            drop(unsafe { Arc::from_raw(object.cast::<T>()) });
        }
        let object = Arc::into_raw(value).cast_mut().cast();
        self.put(cpu, Retired { object, free: free::<T>, bytes: size_of::<T>() })
    }

    fn put(&self, cpu: usize, retired: Retired) -> Option<Box<Bag>> {
        let mut open = self.open[cpu].0.lock();
        if open.capacity() == 0 {
            open.reserve_exact(BAG_MAX);
        }
        open.push(retired);
        (open.len() >= BAG_MAX).then(|| Bag::new(cpu, &mut open))
    }

    /// Takes the open bag of `cpu`, if there is anything in it.
    pub fn close(&self, cpu: usize) -> Option<Box<Bag>> {
        let mut open = self.open[cpu].0.lock();
        (!open.is_empty()).then(|| Bag::new(cpu, &mut open))
    }

    /// The grace period is over: the bag goes back to its CPU.
    ///
    /// Context: any that the collector may run in; never blocks, frees nothing.
    pub fn hand_back(&self, bag: Box<Bag>) {
        let back = &self.back[bag.cpu].0;
        let bag = Box::into_raw(bag);
        // Relaxed: the exchange orders. A bag that was emptied meanwhile and came again at the same address does no harm:
        // its address is all that is used of it.
        let mut top = back.load(Ordering::Relaxed);
        loop {
            // SAFETY: this bag is nobody else's before the exchange succeeds.
            unsafe {
                (*bag).memory.change();
                (*bag).next = top;
            }
            if planted("push_lost") {
                // Release: as below.
                return back.store(bag, Ordering::Release);
            }
            // Release [Back]: pairs with the Acquire in `empty`. Relaxed on failure: only the address is used again.
            let release = order(Ordering::Release, "back_relaxed");
            match back.compare_exchange_weak(top, bag, release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => top = now,
            }
        }
    }

    /// Frees what was handed back to `cpu`. Several may do so at once, each with other bags.
    ///
    /// Context: no lock held; runs destructors.
    pub fn empty(&self, cpu: usize) -> Freed {
        let mut freed = Freed::default();
        let mut top = self.take_back(cpu);
        while !top.is_null() {
            // SAFETY: from `into_raw` in `hand_back`; the exchange in `take_back` made this thread the one owner of the
            // whole chain.
            let bag = unsafe { Box::from_raw(top) };
            bag.memory.check();
            top = bag.next;
            let one = self.empty_bag(*bag);
            freed.objects += one.objects;
            freed.bytes += one.bytes;
        }
        freed
    }

    /// Takes the chain of bags that were handed back to `cpu`.
    fn take_back(&self, cpu: usize) -> *mut Bag {
        let back = &self.back[cpu].0;
        // Relaxed: a hint that spares the exchange.
        let top = back.load(Ordering::Relaxed);
        if top.is_null() {
            return top;
        }
        if planted("emptied_twice") {
            let top = back.load(Ordering::Acquire);
            back.store(ptr::null_mut(), Ordering::Release);
            return top;
        }
        // Acquire [Back]: pairs with the Release in `hand_back`, and through its chain of exchanges with those before it.
        back.swap(ptr::null_mut(), order(Ordering::Acquire, "take_back_relaxed"))
    }

    fn empty_bag(&self, mut bag: Bag) -> Freed {
        let mut freed = Freed::default();
        for Retired { object, free, bytes } in bag.objects.drain(..) {
            // SAFETY: what `free` was made for; drained, so once.
            unsafe { free(object) };
            freed.objects += 1;
            freed.bytes += bytes as u64;
        }
        // Its memory is the next open bag's.
        let mut open = self.open[bag.cpu].0.lock();
        if open.capacity() == 0 || planted("open_bag_overwritten") {
            *open = core::mem::take(&mut bag.objects);
        }
        freed
    }
}

impl Bag {
    fn new(cpu: usize, open: &mut Vec<Retired>) -> Box<Self> {
        let objects = core::mem::take(open);
        Box::new(Bag { memory: Memory::new(), cpu, objects, next: ptr::null_mut() })
    }
}
