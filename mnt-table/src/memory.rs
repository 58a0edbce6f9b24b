//! Memory that runs out: before an operation changes anything it has what it needs to the end.
//!
//! 1. What a plan allocates is asked for in a way that can be refused: [`Grow`] for vectors, `reserve` for lists, [`arc`]
//!    and [`boxed`] for single objects. Each refusal is `ENOMEM`, and nothing was changed.
//! 2. What a commit puts into lists and vectors has its room from the plan.
//! 3. What can only be allocated later, or only by calls that cannot fail (an `Arc`, the bags in which retired objects
//!    wait), is *claimed*: after [`Claims::claim`] so many allocations of up to [`ALLOCATION_MAX`] bytes do not fail, if they
//!    are made under [`covered`]. Claims are not drawn by anything else, so a plan cannot eat what its commit needs.
//!
//! A claim belongs to the thread that makes it, until it is dropped. A kernel sets memory aside for it
//! ([`Platform::claim`](crate::platform::Platform::claim)). On hosts, where an allocation that fails aborts the process and
//! the system gives out more memory than it has, every claim is granted; a test can put [`Hooks`] in the place of that.
//!
//! # What cannot be told that it failed
//! - The end of a namespace (the exit of its last task, the last close of a detached tree) is tried again by its caller
//!   until there is memory.
//! - The last put of a detached mount frees without allocating, but for the bags; letting go of what is connected to it
//!   waits for memory ([`until`]).
//! - What is retired outside of an operation (a file system's entries) and finds no bag draws on what other claims of the
//!   thread left, and that failing on the machine.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use smallvec::{Array, SmallVec};

use crate::list::NoMemory;
use crate::platform;
use crate::reclaim;

/// The largest allocation that a claim covers, in bytes; its alignment may be up to 128.
pub const ALLOCATION_MAX: usize = 4096;

/// Allocations that are not going to fail; see the module's header.
#[must_use]
pub struct Claims {
    allocations: usize,
    /// Not `Send`: claims belong to their thread.
    _here: core::marker::PhantomData<*mut ()>,
}

impl Claims {
    /// None yet.
    pub const fn none() -> Self {
        Claims { allocations: 0, _here: core::marker::PhantomData }
    }

    /// `more` allocations under [`covered`] are going to succeed while this lives.
    ///
    /// # Errors
    /// `ENOMEM`: [`NoMemory`].
    pub fn claim(&mut self, more: usize) -> Result<(), NoMemory> {
        if !platform::claim(more) {
            return Err(NoMemory);
        }
        self.allocations += more;
        Ok(())
    }
}

impl Drop for Claims {
    fn drop(&mut self) {
        if self.allocations != 0 {
            platform::release(self.allocations);
        }
    }
}

/// Runs `allocate`, whose allocations are those that were claimed.
///
/// Context: must not block.
#[inline]
pub fn covered<R>(allocate: impl FnOnce() -> R) -> R {
    struct Covered;
    impl Drop for Covered {
        fn drop(&mut self) {
            platform::uncover();
        }
    }
    platform::cover();
    let _covered = Covered;
    allocate()
}

/// Runs `make`, which allocates once, or does not run it.
///
/// # Errors
/// `ENOMEM`: [`NoMemory`].
pub fn once<R>(make: impl FnOnce() -> R) -> Result<R, NoMemory> {
    let mut claims = Claims::none();
    claims.claim(1)?;
    Ok(covered(make))
}

/// `Arc::new` that can be refused.
///
/// # Errors
/// `ENOMEM`: [`NoMemory`].
pub fn arc<T>(value: T) -> Result<Arc<T>, NoMemory> {
    const { assert!(size_of::<T>() + 2 * align_of::<T>() <= ALLOCATION_MAX, "too large for a claim") };
    once(|| Arc::new(value))
}

/// `Box::new` that can be refused.
///
/// # Errors
/// `ENOMEM`: [`NoMemory`].
pub fn boxed<T>(value: T) -> Result<Box<T>, NoMemory> {
    const { assert!(size_of::<T>() <= ALLOCATION_MAX, "too large for a claim") };
    once(|| Box::new(value))
}

/// Vectors that grow, or refuse to.
pub trait Grow<T>: Default {
    /// Makes room for `more` elements.
    ///
    /// # Errors
    /// `ENOMEM`: [`NoMemory`]; it is as before.
    fn make_room(&mut self, more: usize) -> Result<(), NoMemory>;

    /// Puts `value` behind all others.
    ///
    /// # Errors
    /// As [`Grow::make_room`].
    fn try_push(&mut self, value: T) -> Result<(), NoMemory>;

    /// Puts all of `values` behind all others.
    ///
    /// # Errors
    /// As [`Grow::make_room`]; then some of them are there.
    fn try_extend(&mut self, values: impl IntoIterator<Item = T>) -> Result<(), NoMemory> {
        let values = values.into_iter();
        self.make_room(values.size_hint().0)?;
        values.into_iter().try_for_each(|value| self.try_push(value))
    }
}

impl<T> Grow<T> for Vec<T> {
    fn make_room(&mut self, more: usize) -> Result<(), NoMemory> {
        self.try_reserve(more).map_err(|_| NoMemory)
    }

    #[inline]
    fn try_push(&mut self, value: T) -> Result<(), NoMemory> {
        self.make_room(1)?;
        self.push(value);
        Ok(())
    }
}

impl<A: Array> Grow<A::Item> for SmallVec<A> {
    fn make_room(&mut self, more: usize) -> Result<(), NoMemory> {
        self.try_reserve(more).map_err(|_| NoMemory)
    }

    #[inline]
    fn try_push(&mut self, value: A::Item) -> Result<(), NoMemory> {
        self.make_room(1)?;
        self.push(value);
        Ok(())
    }
}

/// `collect` that can be refused.
///
/// # Errors
/// `ENOMEM`: [`NoMemory`].
pub fn collect<T, C: Grow<T>>(values: impl IntoIterator<Item = T>) -> Result<C, NoMemory> {
    let mut collected = C::default();
    collected.try_extend(values)?;
    Ok(collected)
}

/// While this lives, claims of this thread may be met from the last memory that there is, which others are refused: what the
/// thread does gives some back.
pub(crate) struct Pressing(
    /// Not `Send`, as claims.
    core::marker::PhantomData<*mut ()>,
);

impl Pressing {
    pub(crate) fn new() -> Self {
        platform::press(true);
        Pressing(core::marker::PhantomData)
    }
}

impl Drop for Pressing {
    fn drop(&mut self) {
        platform::press(false);
    }
}

/// Tries `work`, which nobody could be told has failed, until there is memory for it, if need be the last.
///
/// Context: not pinned; no lock held; runs destructors; may wait.
pub fn until<R>(mut work: impl FnMut() -> Result<R, NoMemory>) -> R {
    let _pressing = Pressing::new();
    let mut spins = 0;
    loop {
        if let Ok(done) = work() {
            return done;
        }
        reclaim::quiesce();
        platform::relax(spins);
        spins += 1;
    }
}

#[cfg(all(feature = "std", not(loom)))]
#[doc(hidden)]
pub use platform::{Hooks, install};
