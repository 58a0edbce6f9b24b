//! Where a dentry is: its name and its directory, read together.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

use mnt_table::reclaim::{Guard, pin};

use crate::dentry::TmpDentry;
use crate::name::Name;

/// A name in a directory. Never changes; a rename makes a fresh one.
pub(crate) struct Place {
    pub(crate) name: Name,
    pub(crate) parent: Arc<TmpDentry>,
}

/// The place of a dentry of this moment; nothing for a root and for what a shutdown took apart. A removed dentry keeps
/// its last place, so that `..` leads out of it.
///
/// Ordering: `[Place]` Release in [`PlaceCell::set`] pairs with the Acquire in [`PlaceCell::get`]: the place is whole.
pub(crate) struct PlaceCell(AtomicPtr<Place>);

impl PlaceCell {
    pub(crate) fn new(place: Option<Box<Place>>) -> Self {
        PlaceCell(AtomicPtr::new(into_raw(place)))
    }

    #[inline]
    pub(crate) fn get<'g>(&'g self, _guard: &'g Guard) -> Option<&'g Place> {
        // Acquire [Place]: pairs with the Release in `set`.
        // SAFETY: null or a box that `set` retires after it took it out, so it outlives the pin.
        unsafe { self.0.load(Ordering::Acquire).as_ref() }
    }

    /// Puts `place` in and retires what was there.
    pub(crate) fn set(&self, place: Option<Box<Place>>, guard: &Guard) {
        // AcqRel [Place]: Release publishes the new place; Acquire makes the old one ours to free.
        let old = self.0.swap(into_raw(place), Ordering::AcqRel);
        if !old.is_null() {
            // SAFETY: from `into_raw`; the swap took the cell's only pointer to it.
            guard.retire(unsafe { Box::from_raw(old) });
        }
    }
}

impl Drop for PlaceCell {
    fn drop(&mut self) {
        // Through the reclaimer: a walk that came by this dentry may be at its parent. It also keeps the end of a long
        // chain of removed directories from being a recursion.
        self.set(None, &pin());
    }
}

fn into_raw(place: Option<Box<Place>>) -> *mut Place {
    place.map_or(ptr::null_mut(), Box::into_raw)
}
