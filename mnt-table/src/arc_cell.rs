//! A shared value that is read often and replaced seldom: a task's root, its working directory, its namespace.
//!
//! Two bodies behind one interface: `arc-swap` on hosts; an epoch-protected pointer in kernels, where arc-swap cannot
//! go (its `no_std` form needs thread-local storage through a register that belongs to user mode), and in models, which
//! explore the kernel's. In both a reader writes no line that other readers write.
//!
//! # Edges
//! - `[Publish]` Release in `swap`, Acquire in `load`. Model `chdir_vs_walk`.

use alloc::sync::Arc;

use crate::reclaim::Guard;

/// The cell; see the module's header.
pub struct ArcCell<T: Send + Sync + 'static>(body::Cell<T>);

/// What [`ArcCell::load`] saw. Stays readable as long as it lives, replaced or not.
pub struct Loaded<'g, T: Send + Sync + 'static>(body::Ref<'g, T>);

impl<T: Send + Sync + 'static> core::ops::Deref for Loaded<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Send + Sync + 'static> ArcCell<T> {
    /// A cell that holds `value`.
    pub fn new(value: Arc<T>) -> Self {
        ArcCell(body::Cell::new(value))
    }

    /// The value of this moment. Context: pinned; never blocks.
    #[inline]
    pub fn load<'g>(&'g self, guard: &'g Guard) -> Loaded<'g, T> {
        Loaded(self.0.load(guard))
    }

    /// The value of this moment, to keep.
    pub fn load_full(&self) -> Arc<T> {
        self.0.load_full()
    }

    /// Puts `value` in and returns what was there, which readers may still be using.
    pub fn swap(&self, value: Arc<T>, guard: &Guard) -> Arc<T> {
        self.0.swap(value, guard)
    }
}

#[cfg(all(feature = "std", not(loom)))]
mod body {
    use super::{Arc, Guard};

    pub(super) type Ref<'g, T> = RefOf<'g, T>;
    pub(super) struct Cell<T>(arc_swap::ArcSwap<T>);
    pub(super) struct RefOf<'g, T>(arc_swap::Guard<Arc<T>>, core::marker::PhantomData<&'g ()>);

    impl<T> core::ops::Deref for RefOf<'_, T> {
        type Target = T;

        #[inline]
        fn deref(&self) -> &T {
            &self.0
        }
    }

    impl<T: Send + Sync + 'static> Cell<T> {
        pub(super) fn new(value: Arc<T>) -> Self {
            Cell(arc_swap::ArcSwap::new(value))
        }

        #[inline]
        pub(super) fn load<'g>(&'g self, _guard: &'g Guard) -> Ref<'g, T> {
            RefOf(self.0.load(), core::marker::PhantomData)
        }

        pub(super) fn load_full(&self) -> Arc<T> {
            self.0.load_full()
        }

        pub(super) fn swap(&self, value: Arc<T>, _guard: &Guard) -> Arc<T> {
            self.0.swap(value)
        }
    }
}

#[cfg(any(not(feature = "std"), loom))]
mod body {
    use super::{Arc, Guard};
    use crate::reclaim::pin;
    use crate::sync::{AtomicPtr, Ordering, order};

    pub(super) type Ref<'g, T> = RefOf<'g, T>;
    pub(super) struct RefOf<'g, T>(&'g T);
    pub(super) struct Cell<T: Send + Sync + 'static>(AtomicPtr<T>);

    impl<T> core::ops::Deref for RefOf<'_, T> {
        type Target = T;

        #[inline]
        fn deref(&self) -> &T {
            self.0
        }
    }

    impl<T: Send + Sync + 'static> Cell<T> {
        pub(super) fn new(value: Arc<T>) -> Self {
            Cell(AtomicPtr::new(Arc::into_raw(value).cast_mut()))
        }

        #[inline]
        pub(super) fn load<'g>(&'g self, _guard: &'g Guard) -> Ref<'g, T> {
            // Acquire: pairs with the Release in `swap`.
            // SAFETY: from `Arc::into_raw`; the count of a replaced value is dropped through the reclaimer, so the
            // value outlives the pin.
            RefOf(unsafe { &*self.0.load(order(Ordering::Acquire, "cell_load_relaxed")) })
        }

        pub(super) fn load_full(&self) -> Arc<T> {
            let _pinned = pin();
            // Acquire: as in `load`.
            let value = self.0.load(Ordering::Acquire);
            // SAFETY: as in `load`; the value's count is not zero while a pin that saw it lasts.
            unsafe {
                Arc::increment_strong_count(value);
                Arc::from_raw(value)
            }
        }

        pub(super) fn swap(&self, value: Arc<T>, guard: &Guard) -> Arc<T> {
            // AcqRel: Release publishes the new value; Acquire makes the old one ours.
            let old =
                self.0.swap(Arc::into_raw(value).cast_mut(), order(Ordering::AcqRel, "cell_swap_relaxed"));
            // SAFETY: the cell's count of the old value, which the swap took out.
            let old = unsafe { Arc::from_raw(old) };
            guard.retire_arc(Arc::clone(&old));
            old
        }
    }

    impl<T: Send + Sync + 'static> Drop for Cell<T> {
        fn drop(&mut self) {
            // SAFETY: the cell's own count; `&mut self`, so no reader is inside.
            drop(unsafe { Arc::from_raw(self.0.load(Ordering::Acquire)) });
        }
    }
}
