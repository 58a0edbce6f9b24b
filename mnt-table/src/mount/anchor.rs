//! Roots and working directories on a mount's root, which `pivot_root` moves together.

use alloc::sync::Arc;
use core::ptr;

use super::{Mount, NotKept, Unkept};
use crate::count::Counter;
use crate::dentry::Dentry;
use crate::list::NoMemory;
use crate::memory::{self, Grow};
use crate::reclaim::Guard;
use crate::sync::{AtomicPtr, Ordering, fence, order, planted};

/// Where processes stand that have a mount's root as root or working directory.
///
/// `pivot_root` moves all of them, in the whole system, from the old root to the new one: it changes the anchor's
/// target, so it touches no process and looks for none. One walk sees root, working directory and tree change
/// together, because the target changes inside the namespace's window.
///
/// An anchor belongs to the list of its target ([`Mount::slow`]); its users count as the target's.
pub struct Anchor<D: Dentry> {
    target: AtomicPtr<Mount<D>>,
    pub(super) users: Counter,
}

impl<D: Dentry> Anchor<D> {
    /// A use of `mount`'s anchor, for a place on its root.
    ///
    /// Context: pinned; takes a leaf lock.
    ///
    /// # Errors
    /// As [`Mount::keep`]; also without memory for a first anchor.
    pub(crate) fn keep(mount: &Mount<D>, guard: &Guard) -> Result<Arc<Anchor<D>>, NotKept<D>> {
        let anchor = {
            let mut anchors = mount.slow.lock();
            let anchor = match anchors.first() {
                Some(anchor) => Arc::clone(anchor),
                None => {
                    anchors.make_room(1)?;
                    let target = AtomicPtr::new(ptr::from_ref(mount).cast_mut());
                    let anchor = memory::arc(Anchor { target, users: Counter::new() })?;
                    anchors.push(Arc::clone(&anchor));
                    anchor
                }
            };
            // Under the lock: an anchor whose sum is zero there has no user on the way.
            if !planted("anchor_get_unlocked") {
                anchor.users.get();
            }
            anchor
        };
        if planted("anchor_get_unlocked") {
            anchor.users.get();
        }
        // [Busy]: as in `Mount::keep`, with the lock in the place of the fences: whoever sums takes it after CHECK. So
        // either the sum has this use, or CHECK is seen here.
        if anchor.target(guard).is_sound() || planted("anchor_without_state") {
            return Ok(anchor);
        }
        Err(anchor.put(guard).into())
    }

    /// One user less; the caller settles after its pin.
    pub(crate) fn put(&self, guard: &Guard) -> Unkept<D> {
        let before = self.target(guard);
        before.note_use();
        self.users.put();
        if !planted("anchor_put_without_fence") {
            // [Put]: pairs with the fence in `settle`.
            fence(Ordering::SeqCst);
        }
        // A pivot may have moved the anchor meanwhile. It holds neither of the two mounts detached when it does, so
        // only the later target can need settling; the earlier one is looked at because a look costs nothing.
        let now = self.target(guard);
        Unkept([now, before].into_iter().find(|mount| mount.is_detached()).map(|mount| mount.to_arc(guard)))
    }

    /// The mount on whose root the users stand.
    ///
    /// Context: pinned, with a use or with a place that was current during the pin.
    #[inline]
    pub(crate) fn target<'g>(&self, _guard: &'g Guard) -> &'g Mount<D> {
        // Acquire [Anchor]: pairs with the Release in `move_all`.
        // SAFETY: never null; users keep the target from dying, and a target that died without users is retired
        // after the last place that led here was replaced [Reach].
        unsafe { &*self.target.load(Ordering::Acquire) }
    }

    /// Room for [`Anchor::move_all`].
    ///
    /// Context: holds the namespace's lock of both, so nothing moves; anchors can still be made, at most one.
    pub(crate) fn reserve_move(old: &Mount<D>, new: &Mount<D>) -> Result<(), NoMemory> {
        let count = old.slow.lock().len() + 1;
        new.slow.lock().try_reserve(count).map_err(|_| NoMemory)
    }

    /// Everybody on `old`'s root stands on `new`'s from here on.
    ///
    /// Context: inside the window of the namespace of both; [`Anchor::reserve_move`] made room.
    pub(crate) fn move_all(old: &Mount<D>, new: &Mount<D>) {
        // Two locks of a kind: by age, as everybody who takes two.
        let (mut first, mut second) = if old.unique_id < new.unique_id {
            let first = old.slow.lock();
            (first, new.slow.lock())
        } else {
            let second = new.slow.lock();
            (old.slow.lock(), second)
        };
        // Anchors without users go, so that pivoting to and fro does not collect them. Users come only under this
        // lock or from a user, so a sum of zero is final.
        second.retain(|anchor| anchor.users.sum() != 0);
        for anchor in first.drain(..) {
            if anchor.users.sum() != 0 {
                // Release [Anchor]: pairs with the Acquire in `target`.
                anchor
                    .target
                    .store(ptr::from_ref(new).cast_mut(), order(Ordering::Release, "anchor_relaxed"));
                second.push(anchor);
            }
        }
    }
}
