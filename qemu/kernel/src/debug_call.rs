//! A system call for tests: there only if the command line says `debug_call`.
//!
//! `syscall(1000, what, buffer, size)` writes text and returns its length, `ERANGE` if the buffer is too small for it.
//!
//! | what | text |
//! |---|---|
//! | 0 | what the kernel counts, a name and a number in each line |
//! | 1 | broken invariants of the mount table, a line each; nobody may change mounts meanwhile |
//! | 2 | as 0, after everything that was retired has been freed, as far as readers allow |
//!
//! `syscall(1000, 3, fd)` is [`fs::stand_in::namespace`].

use alloc::string::String;
use alloc::sync::Arc;
use core::fmt::Write;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use mnt_table::{check, mount, reclaim, walk, write_set};
use syscalls::Errno;

use crate::task::{self, Thread};
use crate::{epoch, fs, mm};

/// Its number, which Linux does not use.
const NUMBER: u32 = 1000;

/// Whether there is such a call. Relaxed: set once, before user mode.
pub(crate) static ENABLED: AtomicBool = AtomicBool::new(false);

/// The CPU's time stamp at the kernel's entry. Relaxed: set once, before the other CPUs start.
pub(crate) static ENTRY_TSC: AtomicU64 = AtomicU64::new(0);

/// Makes the call, if it is this one and there is one.
pub(crate) fn call(thread: &Arc<Thread>, nr: u32, args: [usize; 6]) -> Option<Result<usize, Errno>> {
    (nr == NUMBER && ENABLED.load(Relaxed)).then(|| {
        let [what, buffer, size, ..] = args;
        let text = match what {
            0 => counters(),
            1 => violations(),
            2 => {
                // What is left is among the counters.
                crate::ipc::collect_lost_sockets();
                mm::oom::collect();
                epoch::flush_epochs().map_err(|_| Errno::ENOMEM)?;
                counters()
            }
            3 => return fs::stand_in::namespace(thread, buffer as i32),
            _ => return Err(Errno::EINVAL),
        };
        if text.len() > size {
            return Err(Errno::ERANGE);
        }
        let done = mm::user::copy_out(buffer, text.as_bytes());
        if done == text.len() { Ok(done) } else { Err(Errno::EFAULT) }
    })
}

fn counters() -> String {
    let (tasks, files, walks, reclaim) = (task::stats(), tmpfs::stats(), walk::stats(), reclaim::stats());
    let heap = mm::heap::live();
    let count = |number: i64| u64::try_from(number).unwrap_or(0);
    let rows = [
        ("mounts", mount::live_mounts()),
        ("dentries", count(files.dentries)),
        ("inodes", count(files.inodes)),
        ("super_blocks", count(files.super_blocks)),
        ("file_bytes", count(files.bytes)),
        ("heap_bytes", count(heap.bytes)),
        ("heap_objects", count(heap.objects)),
        ("deferred_bytes", reclaim.deferred_bytes),
        ("refused_for_memory", reclaim.refused),
        ("walk_retries", walks.retries),
        ("locked_walks", walks.locked),
        // Relaxed, all: counts.
        ("lock_escalations", write_set::ESCALATIONS.load(Relaxed) as u64),
        ("threads", tasks.threads as u64),
        ("processes", tasks.processes),
        ("task_objects", tasks.objects as u64),
        ("forks", tasks.forks),
        ("execs", tasks.execs),
        ("syscalls", tasks.syscalls),
        ("faults", tasks.faults),
        ("propagated_mounts", tasks.propagated),
        ("entry_tsc", ENTRY_TSC.load(Relaxed)),
    ];
    let mut text = String::new();
    for (name, number) in rows {
        // A string takes all.
        let _ = writeln!(text, "{name} {number}");
    }
    text
}

fn violations() -> String {
    let mut text = String::new();
    for line in check::check(&fs::kernel::namespaces().living()).violations {
        let _ = writeln!(text, "{line}");
    }
    text
}
