//! What this crate asks of the machine: which CPU is this, stay on it, pin an epoch, wait a little, set memory
//! aside.
//!
//! On hosts threads stand for CPUs and the answers are built in. A kernel gives its functions once, through
//! [`platform!`](crate::platform!), in the manner of the `critical-section` crate: they are found when the kernel
//! is linked, so a pin costs no indirect call.

/// The most CPUs that per-CPU counters tell apart. A machine with more shares slots, which costs time only. Miri would
/// spend most of its time on sums of slots that nobody used.
pub const CPUS_MAX: usize = match (cfg!(loom), cfg!(miri)) {
    (true, _) => 3,
    (_, true) => 4,
    _ => 64,
};

/// What a kernel provides; see [`platform!`](crate::platform!).
///
/// # Safety
/// - `preempt_off` and `preempt_on` nest; between them the thread stays on its CPU and runs without a break by others.
/// - `pin` is called with preemption off, and returns a guard of the machine's one collector, pinned through a handle
///   that only this CPU uses; the guard is dropped before preemption is on again.
/// - No interrupt handler calls anything of this crate.
/// - All guards come from one collector.
///
/// `claim`, `release`, `cover`, `uncover` and `press` keep the promise of [`crate::memory`]; no memory safety rests on them.
pub unsafe trait Platform {
    /// The index of the CPU that runs this; may be out of date as soon as it is returned.
    fn cpu() -> usize;
    /// From here on this thread is not preempted.
    fn preempt_off();
    /// Ends one `preempt_off`; a reschedule that became due meanwhile happens now.
    fn preempt_on();
    /// Pins this CPU's epoch handle. Pins nest.
    fn pin() -> crossbeam_epoch::Guard;
    /// Called while waiting for another CPU, with the number of calls so far in this wait.
    fn relax(spins: u32);
    /// Sets memory aside for `more` allocations of this thread, of up to
    /// [`ALLOCATION_MAX`](crate::memory::ALLOCATION_MAX) bytes each; `false` if there is too little, and nothing was done.
    fn claim(more: usize) -> bool;
    /// So many of the allocations that were claimed are made, or not needed.
    fn release(less: usize);
    /// Until `uncover` this thread's allocations may use what it claimed. Called with preemption off; nests.
    fn cover();
    /// Ends one `cover`.
    fn uncover();
    /// From `true` to `false`, which nest, claims of this thread may be met from the last memory that there is: what it does
    /// gives some back.
    fn press(on: bool);
}

/// Makes a type that implements [`Platform`] the one of this kernel. Use it once.
#[macro_export]
macro_rules! platform {
    ($type:ty) => {
        const _: () = {
            #[unsafe(no_mangle)]
            extern "Rust" fn _mnt_table_cpu() -> usize {
                <$type as $crate::platform::Platform>::cpu()
            }
            #[unsafe(no_mangle)]
            extern "Rust" fn _mnt_table_pin() -> $crate::platform::EpochGuard {
                <$type as $crate::platform::Platform>::pin()
            }
            #[unsafe(no_mangle)]
            extern "Rust" fn _mnt_table_preempt_off() {
                <$type as $crate::platform::Platform>::preempt_off()
            }
            #[unsafe(no_mangle)]
            extern "Rust" fn _mnt_table_preempt_on() {
                <$type as $crate::platform::Platform>::preempt_on()
            }
            #[unsafe(no_mangle)]
            extern "Rust" fn _mnt_table_relax(spins: u32) {
                <$type as $crate::platform::Platform>::relax(spins)
            }
            #[unsafe(no_mangle)]
            extern "Rust" fn _mnt_table_claim(more: usize) -> bool {
                <$type as $crate::platform::Platform>::claim(more)
            }
            #[unsafe(no_mangle)]
            extern "Rust" fn _mnt_table_release(less: usize) {
                <$type as $crate::platform::Platform>::release(less)
            }
            #[unsafe(no_mangle)]
            extern "Rust" fn _mnt_table_cover() {
                <$type as $crate::platform::Platform>::cover()
            }
            #[unsafe(no_mangle)]
            extern "Rust" fn _mnt_table_uncover() {
                <$type as $crate::platform::Platform>::uncover()
            }
            #[unsafe(no_mangle)]
            extern "Rust" fn _mnt_table_press(on: bool) {
                <$type as $crate::platform::Platform>::press(on)
            }
        };
    };
}

pub use crossbeam_epoch::Guard as EpochGuard;

#[cfg(all(feature = "std", not(loom)))]
#[doc(hidden)]
pub use body::{Hooks, install};
pub(crate) use body::{claim, cover, cpu, press, relax, release, uncover};
#[cfg(any(not(loom), crossbeam_loom))]
pub(crate) use body::{pin, preempt_off, preempt_on};

#[cfg(all(not(feature = "std"), not(loom)))]
mod body {
    use super::{CPUS_MAX, EpochGuard};

    unsafe extern "Rust" {
        fn _mnt_table_cpu() -> usize;
        fn _mnt_table_pin() -> EpochGuard;
        fn _mnt_table_preempt_off();
        fn _mnt_table_preempt_on();
        fn _mnt_table_relax(spins: u32);
        fn _mnt_table_claim(more: usize) -> bool;
        fn _mnt_table_release(less: usize);
        fn _mnt_table_cover();
        fn _mnt_table_uncover();
        fn _mnt_table_press(on: bool);
    }

    #[inline]
    pub(crate) fn cpu() -> usize {
        // SAFETY: defined by `platform!` with this signature.
        unsafe { _mnt_table_cpu() % CPUS_MAX }
    }

    #[inline]
    pub(crate) fn pin() -> EpochGuard {
        // SAFETY: as above.
        unsafe { _mnt_table_pin() }
    }

    #[inline]
    pub(crate) fn preempt_off() {
        // SAFETY: as above.
        unsafe { _mnt_table_preempt_off() }
    }

    #[inline]
    pub(crate) fn preempt_on() {
        // SAFETY: as above.
        unsafe { _mnt_table_preempt_on() }
    }

    #[inline]
    pub(crate) fn relax(spins: u32) {
        // SAFETY: as above.
        unsafe { _mnt_table_relax(spins) }
    }

    #[inline]
    pub(crate) fn claim(more: usize) -> bool {
        // SAFETY: as above.
        unsafe { _mnt_table_claim(more) }
    }

    #[inline]
    pub(crate) fn release(less: usize) {
        // SAFETY: as above.
        unsafe { _mnt_table_release(less) }
    }

    #[inline]
    pub(crate) fn cover() {
        preempt_off();
        // SAFETY: as above.
        unsafe { _mnt_table_cover() }
    }

    #[inline]
    pub(crate) fn uncover() {
        // SAFETY: as above.
        unsafe { _mnt_table_uncover() };
        preempt_on();
    }

    #[inline]
    pub(crate) fn press(on: bool) {
        // SAFETY: as above.
        unsafe { _mnt_table_press(on) }
    }
}

#[cfg(all(feature = "std", not(loom)))]
mod body {
    use super::{CPUS_MAX, EpochGuard};
    use crate::sync::{Ordering, plain::AtomicUsize};

    /// A small number per thread, handed out in turn.
    #[inline]
    pub(crate) fn cpu() -> usize {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        std::thread_local! {
            // Relaxed: a number, nothing else.
            static THIS: usize = NEXT.fetch_add(1, Ordering::Relaxed) % CPUS_MAX;
        }
        // A thread that is being torn down has lost its number; any slot is right.
        THIS.try_with(|this| *this).unwrap_or(0)
    }

    #[inline]
    pub(crate) fn pin() -> EpochGuard {
        crossbeam_epoch::pin()
    }

    #[inline]
    pub(crate) fn preempt_off() {}

    #[inline]
    pub(crate) fn preempt_on() {}

    #[inline]
    pub(crate) fn relax(spins: u32) {
        match spins {
            0..64 => core::hint::spin_loop(),
            64..256 => std::thread::yield_now(),
            // Whoever is waited for has lost its processor to somebody else.
            _ => std::thread::sleep(std::time::Duration::from_micros(100)),
        }
    }

    /// What a test does instead of granting every claim; see [`super::Platform`].
    #[derive(Clone, Copy)]
    pub struct Hooks {
        /// `Platform::claim`.
        pub claim: fn(usize) -> bool,
        /// `Platform::release`.
        pub release: fn(usize),
        /// `Platform::cover`.
        pub cover: fn(),
        /// `Platform::uncover`.
        pub uncover: fn(),
    }

    static HOOKS: std::sync::OnceLock<Hooks> = std::sync::OnceLock::new();

    /// Puts `hooks` in the place of what hosts do, for the rest of the process.
    ///
    /// # Panics
    /// When it is called twice.
    pub fn install(hooks: Hooks) {
        assert!(HOOKS.set(hooks).is_ok(), "hooks are installed once");
    }

    #[inline]
    pub(crate) fn claim(more: usize) -> bool {
        HOOKS.get().is_none_or(|hooks| (hooks.claim)(more))
    }

    #[inline]
    pub(crate) fn release(less: usize) {
        if let Some(hooks) = HOOKS.get() {
            (hooks.release)(less);
        }
    }

    #[inline]
    pub(crate) fn cover() {
        if let Some(hooks) = HOOKS.get() {
            (hooks.cover)();
        }
    }

    #[inline]
    pub(crate) fn uncover() {
        if let Some(hooks) = HOOKS.get() {
            (hooks.uncover)();
        }
    }

    #[inline]
    pub(crate) fn press(_on: bool) {}
}

#[cfg(loom)]
mod body {
    /// Models run few threads; each says which CPU it stands for.
    pub(crate) fn cpu() -> usize {
        CPU.with(|cpu| cpu.get())
    }

    loom::thread_local! {
        static CPU: core::cell::Cell<usize> = core::cell::Cell::new(0);
    }

    pub(crate) fn set_cpu(index: usize) {
        CPU.with(|cpu| cpu.set(index));
    }

    #[cfg(crossbeam_loom)]
    loom::thread_local! {
        static EPOCH: core::cell::RefCell<Option<crossbeam_epoch::LocalHandle>> = core::cell::RefCell::new(None);
    }

    #[cfg(crossbeam_loom)]
    pub(crate) fn set_epoch(
        handle: Option<crossbeam_epoch::LocalHandle>,
    ) -> Option<crossbeam_epoch::LocalHandle> {
        EPOCH.with(|epoch| epoch.replace(handle))
    }

    #[cfg(crossbeam_loom)]
    pub(crate) fn pin() -> super::EpochGuard {
        EPOCH.with(|epoch| epoch.borrow().as_ref().expect("the thread was given a handle").pin())
    }

    #[cfg(crossbeam_loom)]
    pub(crate) fn preempt_off() {}

    #[cfg(crossbeam_loom)]
    pub(crate) fn preempt_on() {}

    pub(crate) fn relax(_spins: u32) {
        loom::thread::yield_now();
    }

    pub(crate) fn claim(_more: usize) -> bool {
        true
    }

    pub(crate) fn release(_less: usize) {}

    pub(crate) fn cover() {}

    pub(crate) fn uncover() {}

    pub(crate) fn press(_on: bool) {}
}

/// Says which CPU this thread of a model stands for, from here on.
#[cfg(loom)]
pub fn set_cpu(index: usize) {
    body::set_cpu(index);
}

/// Gives this thread of a model its epoch handle, or takes it away; returns the one that it had.
#[cfg(crossbeam_loom)]
pub fn set_epoch(handle: Option<crossbeam_epoch::LocalHandle>) -> Option<crossbeam_epoch::LocalHandle> {
    body::set_epoch(handle)
}
