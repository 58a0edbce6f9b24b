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
//! A CPU that never flushes again keeps nobody waiting: [`quiesce`](crate::reclaim::quiesce) and whoever is over the limit take
//! from any. What a writer waits for does not
//! come here at all, see [`Guard::retire_awaited`](crate::reclaim::Guard::retire_awaited).
//!
//! # Edges
//! - `[Back]` Release in [`Bag::hand_back`], Acquire in [`empty`]: the bag's contents and its link.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ptr;

use crate::platform::CPUS_MAX;
use crate::sync::{AtomicPtr, Mutex, Ordering};

/// Objects in a full bag.
pub(crate) const BAG_MAX: usize = 64;

/// A retired object.
struct Retired {
    object: *mut (),
    /// Takes `object`.
    free: unsafe fn(*mut ()),
    bytes: usize,
}

// SAFETY: made from a `Send` box or `Arc` only, of which it is the one owner.
unsafe impl Send for Retired {}

/// What is in a bag, to be counted.
#[derive(Clone, Copy, Default)]
pub(crate) struct Freed {
    pub(crate) objects: u64,
    pub(crate) bytes: u64,
}

/// Retired objects of one CPU.
pub(crate) struct Bag {
    cpu: usize,
    objects: Vec<Retired>,
    /// The bag that was handed back before it.
    next: *mut Bag,
}

// SAFETY: `next` is followed by the bag's owner only; the rest is Send.
unsafe impl Send for Bag {}

#[repr(align(128))]
struct Limbo {
    open: Mutex<Vec<Retired>>,
}

/// Bags that were handed back and wait to be emptied, on a line of its own: other CPUs write it.
#[repr(align(128))]
struct Back(AtomicPtr<Bag>);

static LIMBO: [Limbo; CPUS_MAX] = [const { Limbo { open: Mutex::new(Vec::new()) } }; CPUS_MAX];
static BACK: [Back; CPUS_MAX] = [const { Back(AtomicPtr::new(ptr::null_mut())) }; CPUS_MAX];

/// Puts a box in the open bag of `cpu`. Returns the bag if it is full now, to be given to the collector.
pub(crate) fn put_box<T: Send + 'static>(cpu: usize, value: Box<T>) -> Option<Box<Bag>> {
    unsafe fn free<T>(object: *mut ()) {
        // SAFETY: from `into_raw` below, and `Retired` is emptied once.
        drop(unsafe { Box::from_raw(object.cast::<T>()) });
    }
    put(cpu, Retired { object: Box::into_raw(value).cast(), free: free::<T>, bytes: size_of::<T>() })
}

/// As [`put_box`], for one count of a shared object.
pub(crate) fn put_arc<T: Send + Sync + 'static>(cpu: usize, value: Arc<T>) -> Option<Box<Bag>> {
    unsafe fn free<T>(object: *mut ()) {
        // SAFETY: from `into_raw` below, and `Retired` is emptied once.
        drop(unsafe { Arc::from_raw(object.cast::<T>()) });
    }
    put(
        cpu,
        Retired { object: Arc::into_raw(value).cast_mut().cast(), free: free::<T>, bytes: size_of::<T>() },
    )
}

fn put(cpu: usize, retired: Retired) -> Option<Box<Bag>> {
    let mut open = LIMBO[cpu].open.lock();
    if open.capacity() == 0 {
        open.reserve_exact(BAG_MAX);
    }
    open.push(retired);
    (open.len() >= BAG_MAX).then(|| Bag::new(cpu, &mut open))
}

/// Takes the open bag of `cpu`, if there is anything in it.
pub(crate) fn close(cpu: usize) -> Option<Box<Bag>> {
    let mut open = LIMBO[cpu].open.lock();
    (!open.is_empty()).then(|| Bag::new(cpu, &mut open))
}

impl Bag {
    fn new(cpu: usize, open: &mut Vec<Retired>) -> Box<Self> {
        Box::new(Bag { cpu, objects: core::mem::take(open), next: ptr::null_mut() })
    }

    /// The grace period is over: the bag goes back to its CPU.
    pub(crate) fn hand_back(self: Box<Self>) {
        let back = &BACK[self.cpu].0;
        let bag = Box::into_raw(self);
        // Relaxed: the exchange orders.
        let mut top = back.load(Ordering::Relaxed);
        loop {
            // SAFETY: this bag is nobody else's before the exchange succeeds.
            unsafe { (*bag).next = top };
            // Release [Back]: pairs with the Acquire in `empty`. Relaxed on failure: only the link is used again.
            match back.compare_exchange_weak(top, bag, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => top = now,
            }
        }
    }

    fn empty(mut self) -> Freed {
        let mut freed = Freed::default();
        for Retired { object, free, bytes } in self.objects.drain(..) {
            // SAFETY: what `free` was made for; drained, so once.
            unsafe { free(object) };
            freed.objects += 1;
            freed.bytes += bytes as u64;
        }
        // Its memory is the next open bag's.
        let mut open = LIMBO[self.cpu].open.lock();
        if open.capacity() == 0 {
            *open = core::mem::take(&mut self.objects);
        }
        freed
    }
}

/// Frees what was handed back to `cpu`.
///
/// Context: no lock held; runs destructors.
pub(crate) fn empty(cpu: usize) -> Freed {
    let back = &BACK[cpu].0;
    let mut freed = Freed::default();
    // Relaxed: a hint that spares the exchange.
    if back.load(Ordering::Relaxed).is_null() {
        return freed;
    }
    // Acquire [Back]: pairs with the Release in `hand_back`, and through its chain of exchanges with those before it.
    let mut top = back.swap(ptr::null_mut(), Ordering::Acquire);
    while !top.is_null() {
        // SAFETY: from `into_raw` in `hand_back`; the exchange made this thread the one owner of the whole chain.
        let bag = unsafe { Box::from_raw(top) };
        top = bag.next;
        let one = bag.empty();
        freed.objects += one.objects;
        freed.bytes += one.bytes;
    }
    freed
}
