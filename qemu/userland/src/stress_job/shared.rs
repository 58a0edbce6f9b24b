//! What all processes of the stress write: counters in memory that they share.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};

/// Declares the counters.
macro_rules! counters {
    ($($name:ident)*) => {
        /// Counters of all processes. Relaxed everywhere: they are summed up at rest.
        #[derive(Default)]
        #[allow(missing_docs, reason = "the names are the documentation")]
        pub(crate) struct Shared {
            $(pub(crate) $name: AtomicU64,)*
        }

        impl Shared {
            /// Names and values.
            pub(crate) fn rows(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name.load(Ordering::Relaxed))),*]
            }
        }
    };
}

counters! {
    lookups mounts umounts lazy_umounts binds rbinds moves type_changes attribute_changes pivots namespace_clones threads
    kills operations failed_operations violations checks peak_deferred_bytes stressed_ns
}

impl Shared {
    /// Maps it into memory that children share.
    ///
    /// # Errors
    /// Those of mmap(2).
    pub(crate) fn map() -> Result<&'static Shared> {
        use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
        let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: the kernel chooses fresh addresses.
        let memory = unsafe { mmap_anonymous(std::ptr::null_mut(), size_of::<Shared>(), access, flags) };
        let memory = memory.context("cannot map shared memory")?;
        // SAFETY: never unmapped; large enough, aligned to a page; zeroes are counters of zero, and all that processes do
        // with them is atomic.
        Ok(unsafe { &*memory.cast::<Shared>() })
    }

    /// Counts a violation and tells it.
    pub(crate) fn violation(&self, text: &str) {
        /// Violations that are printed.
        const PRINTED_MAX: u64 = 20;
        if add(&self.violations, 1) < PRINTED_MAX {
            println!("violation: {text}");
        }
    }
}

/// Counts.
pub(crate) fn add(counter: &AtomicU64, more: u64) -> u64 {
    counter.fetch_add(more, Ordering::Relaxed)
}
