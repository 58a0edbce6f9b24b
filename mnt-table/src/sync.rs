//! Atomics and locks: the only file of this crate that names `core::sync::atomic`, `parking_lot` or `loom`.
//!
//! Three bodies behind one set of names: hosts (`parking_lot` under `lock_api`), kernels (a spin lock that asks
//! the kernel around it how to wait, see [`mod@crate::platform`]), and models (`cfg(loom)`).
//!
//! [`RawLock`] is a lock without data: a namespace or a peer group is locked for a whole operation, by an
//! operation that may hold thousands of them, so the guard is the [`WriteSet`](crate::WriteSet) and not a value
//! that borrows the lock. [`Mutex`] is for leaves: small data, held for a few instructions, never two at once
//! unless the place says so.
//!
//! [`planted`] is how a model proves that it can fail: under `cfg(loom)` the model names a bug, and the one line
//! that the bug concerns behaves wrongly. In every other build it is a constant `false` and leaves no code.

/// Atomics that models explore.
#[cfg(not(loom))]
pub(crate) use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, fence};
#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, fence};

pub(crate) use core::sync::atomic::Ordering;

/// Atomics that models do not explore: counters of statistics and identifiers, on which no ordering rests.
pub(crate) mod plain {
    pub(crate) use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize};

    #[cfg(not(loom))]
    pub(crate) use super::Mutex;

    /// A leaf lock that models do not explore: what it guards decides nothing, and nothing that they explore happens
    /// under it.
    #[cfg(loom)]
    pub(crate) struct Mutex<T>(std::sync::Mutex<T>);

    #[cfg(loom)]
    impl<T> Mutex<T> {
        pub(crate) const fn new(value: T) -> Self {
            Mutex(std::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> std::sync::MutexGuard<'_, T> {
            self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
        }

        pub(crate) fn get_mut(&mut self) -> &mut T {
            self.0.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner)
        }
    }
}

/// A part of an object that stands for its plain fields. Nothing, except in models: there a [`check`](Memory::check)
/// fails unless it comes after the object was made and after its last [`change`](Memory::change), and before it is changed
/// again or freed.
pub(crate) struct Memory(#[cfg(loom)] loom::cell::UnsafeCell<()>);

// SAFETY: the cell guards nothing; loom checks the order of the accesses.
#[cfg(loom)]
unsafe impl Sync for Memory {}

impl Memory {
    pub(crate) fn new() -> Self {
        Memory(
            #[cfg(loom)]
            loom::cell::UnsafeCell::new(()),
        )
    }

    /// Somebody reads the object.
    #[inline(always)]
    pub(crate) fn check(&self) {
        #[cfg(loom)]
        self.0.with(|_| ());
    }

    /// Somebody writes the object.
    #[inline(always)]
    pub(crate) fn change(&self) {
        #[cfg(loom)]
        self.0.with_mut(|_| ());
    }
}

#[cfg(loom)]
impl Drop for Memory {
    fn drop(&mut self) {
        self.0.with_mut(|_| ());
    }
}

/// Whether the running model planted the bug `name`.
#[cfg(not(loom))]
#[inline(always)]
pub(crate) const fn planted(_name: &'static str) -> bool {
    false
}

#[cfg(loom)]
static PLANTED: std::sync::Mutex<Option<&'static str>> = std::sync::Mutex::new(None);

/// Plants the bug `name` in this process until the next call; `None` removes it. Models only.
#[cfg(loom)]
pub fn plant(name: Option<&'static str>) {
    *PLANTED.lock().expect("nothing panics while it holds this lock") = name;
}

/// Whether the running model planted the bug `name`.
#[cfg(loom)]
pub fn planted(name: &'static str) -> bool {
    *PLANTED.lock().expect("nothing panics while it holds this lock") == Some(name)
}

/// `order`, or `Relaxed` where the running model planted the bug `name`.
#[inline(always)]
pub(crate) fn order(order: Ordering, name: &'static str) -> Ordering {
    if planted(name) { Ordering::Relaxed } else { order }
}

#[cfg(not(loom))]
mod lock {
    use lock_api::RawMutex;

    #[cfg(feature = "std")]
    type Raw = parking_lot::RawMutex;
    #[cfg(not(feature = "std"))]
    type Raw = super::spin::RawSpin;

    #[cfg(feature = "std")]
    type RawLeaf = parking_lot::RawMutex;
    #[cfg(not(feature = "std"))]
    type RawLeaf = super::spin::RawLeafSpin;

    /// A leaf lock around its data. In a kernel its holder is not preempted, so it may be taken while pinned.
    pub type Mutex<T> = lock_api::Mutex<RawLeaf, T>;

    /// What holds a [`Mutex`].
    pub type MutexGuard<'a, T> = lock_api::MutexGuard<'a, RawLeaf, T>;

    /// A lock around its data whose holder may block: not to be taken while pinned, nor under another lock of this crate.
    pub type BlockingMutex<T> = lock_api::Mutex<Raw, T>;

    /// A lock without data; see the module's header.
    pub(crate) struct RawLock(Raw);

    impl RawLock {
        pub(crate) const fn new() -> Self {
            RawLock(Raw::INIT)
        }

        /// Waits for the lock. Context: may block.
        #[inline]
        pub(crate) fn lock(&self) {
            let _proof = self.0.lock();
        }

        /// Lets the next one in.
        ///
        /// # Safety
        /// The caller locked it and unlocks it once.
        #[inline]
        pub(crate) unsafe fn unlock(&self) {
            // SAFETY: forwarded; the guard type of both raw locks is an empty token.
            unsafe { self.0.unlock(lock_api::GuardNoSend::new()) }
        }
    }
}

#[cfg(all(not(loom), not(feature = "std")))]
mod spin {
    use super::{AtomicBool, Ordering};
    use crate::platform;

    /// The kernel's lock: test and test-and-set, waiting as the kernel around it wants ([`platform::relax`]).
    pub struct RawSpin(AtomicBool);

    // SAFETY: `lock` returns only after this caller changed the flag from false to true, and only `unlock` sets it
    // back, so at most one caller is between them; Acquire and Release order what they guard.
    unsafe impl lock_api::RawMutex for RawSpin {
        const INIT: Self = RawSpin(AtomicBool::new(false));
        type Guard = lock_api::GuardNoSend;

        #[inline]
        fn lock(&self) -> Self::Guard {
            let mut spins = 0;
            loop {
                if let Some(guard) = self.try_lock() {
                    return guard;
                }
                // Relaxed: only decides when to try again; `try_lock` orders.
                while self.0.load(Ordering::Relaxed) {
                    platform::relax(spins);
                    spins += 1;
                }
            }
        }

        #[inline]
        fn try_lock(&self) -> Option<Self::Guard> {
            // Acquire: pairs with the Release in `unlock`. Relaxed on failure: nothing was entered.
            self.0
                .compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed)
                .is_ok()
                .then(lock_api::GuardNoSend::new)
        }

        #[inline]
        unsafe fn unlock(&self, _guard: Self::Guard) {
            // Release: pairs with the Acquire in `try_lock`.
            self.0.store(false, Ordering::Release);
        }

        fn is_locked(&self) -> bool {
            self.0.load(Ordering::Relaxed)
        }
    }

    /// [`RawSpin`] whose holder is not preempted, so that a waiter that cannot be preempted either gets its turn.
    pub struct RawLeafSpin(RawSpin);

    // SAFETY: as for the lock inside.
    unsafe impl lock_api::RawMutex for RawLeafSpin {
        const INIT: Self = RawLeafSpin(RawSpin::INIT);
        type Guard = lock_api::GuardNoSend;

        #[inline]
        fn lock(&self) -> Self::Guard {
            platform::preempt_off();
            self.0.lock()
        }

        #[inline]
        fn try_lock(&self) -> Option<Self::Guard> {
            platform::preempt_off();
            let guard = self.0.try_lock();
            if guard.is_none() {
                platform::preempt_on();
            }
            guard
        }

        #[inline]
        unsafe fn unlock(&self, guard: Self::Guard) {
            // SAFETY: the caller holds the lock.
            unsafe { self.0.unlock(guard) };
            platform::preempt_on();
        }

        fn is_locked(&self) -> bool {
            self.0.is_locked()
        }
    }
}

#[cfg(loom)]
mod lock {
    use core::cell::UnsafeCell;

    /// A leaf lock around its data.
    pub struct Mutex<T>(loom::sync::Mutex<T>);

    /// What holds a [`Mutex`].
    pub type MutexGuard<'a, T> = loom::sync::MutexGuard<'a, T>;

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Mutex(loom::sync::Mutex::new(value))
        }

        /// Waits for the lock.
        pub fn lock(&self) -> loom::sync::MutexGuard<'_, T> {
            self.0.lock().expect("a model that panics ends")
        }
    }

    /// A lock without data; see the module's header.
    pub(crate) struct RawLock {
        inner: loom::sync::Mutex<()>,
        held: UnsafeCell<Option<loom::sync::MutexGuard<'static, ()>>>,
    }

    // SAFETY: `held` is touched only by the holder of `inner`.
    unsafe impl Send for RawLock {}
    // SAFETY: as above.
    unsafe impl Sync for RawLock {}

    impl RawLock {
        pub(crate) fn new() -> Self {
            RawLock { inner: loom::sync::Mutex::new(()), held: UnsafeCell::new(None) }
        }

        pub(crate) fn lock(&self) {
            let guard = self.inner.lock().expect("a model that panics ends");
            // SAFETY: the guard is dropped in `unlock`, before `inner` can be: the caller of `lock` borrows `self`
            // until then by the contract of `unlock`.
            let guard = unsafe {
                core::mem::transmute::<loom::sync::MutexGuard<'_, ()>, loom::sync::MutexGuard<'static, ()>>(
                    guard,
                )
            };
            // SAFETY: this thread holds `inner`.
            unsafe { *self.held.get() = Some(guard) };
        }

        /// # Safety
        /// The caller locked it and unlocks it once.
        pub(crate) unsafe fn unlock(&self) {
            // SAFETY: this thread holds `inner`; the guard leaves the cell before it is dropped, because dropping
            // it lets another holder reach the cell.
            let guard = unsafe { (*self.held.get()).take() };
            drop(guard);
        }
    }
}

#[cfg(not(loom))]
pub use lock::BlockingMutex;
pub(crate) use lock::RawLock;
pub use lock::{Mutex, MutexGuard};
