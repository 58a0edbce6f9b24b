//! What the scheduler schedules: a stack, a context, and where it stands.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::task::Wake;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering::*};

use heapless::String;
use intrusive_collections::{LinkedListAtomicLink, RBTreeAtomicLink};

use super::queue::SLICE_NS;
use crate::arch::context::Context;
use crate::arch::spin::SpinLock;
use crate::mm::stack::Stack;
use crate::task;

/// Running, or among the ready.
pub(super) const READY: u8 = 0;
/// Waits to be woken, or for a time if it is among the sleepers.
pub(super) const PARKED: u8 = 1;
/// Waits for a time.
pub(super) const ASLEEP: u8 = 2;

pub(super) const PROMPT: u8 = 0;
pub(super) const BATCH: u8 = 1;

pub(crate) type Name = String<24>;

/// A thread of the kernel; those of user programs are threads of the kernel that now and then run in user mode.
pub(crate) struct Entity {
    // Immutable.
    pub(super) name: Name,
    /// `None` for an idle thread, which keeps the stack that its CPU started on.
    pub(super) stack: Option<Stack>,
    /// The thread of a user program that it is.
    pub(super) user: Option<Arc<task::Thread>>,
    // Own CPU, in a switch.
    pub(super) context: Context,
    // Under the run queue of `cpu`.
    /// Changes only while `at_border`, and not while it runs there.
    pub(super) cpu: AtomicUsize,
    pub(super) state: AtomicU8,
    /// Somebody woke it since its last park.
    pub(super) notified: AtomicBool,
    /// It is new, or in user mode but for the last steps of the kernel; see the module's header on moving.
    pub(super) at_border: AtomicBool,
    /// Its registers are in a CPU, not in `context`.
    pub(super) on_cpu: AtomicBool,
    pub(super) class: AtomicU8,
    pub(super) slice_ns: AtomicU64,
    pub(super) deadline_ns: AtomicU64,
    pub(super) ready_link: LinkedListAtomicLink,
    pub(super) sleep_link: RBTreeAtomicLink,
    pub(super) switches: AtomicU64,
    pub(super) preemptions: AtomicU64,
    // Itself.
    /// How often [`super::press`] was begun and not ended.
    pub(super) pressing: AtomicU32,
    // Any CPU.
    /// The CPUs that it may run on, a bit for each.
    pub(super) allowed: AtomicU64,
    /// Taken when it starts.
    pub(super) body: SpinLock<Option<Box<dyn FnOnce() + Send>>>,
    pub(super) end: SpinLock<End>,
    /// Itself, from its start to its end: whoever waits need not be known to anybody else.
    pub(super) keep: SpinLock<Option<Arc<Entity>>>,
}

#[derive(Default)]
pub(super) struct End {
    pub(super) done: bool,
    pub(super) joiner: Option<Arc<Entity>>,
}

impl Entity {
    pub(super) fn new(name: fmt::Arguments<'_>, context: Context) -> Self {
        Self {
            name: name_of(name),
            stack: None,
            user: None,
            context,
            cpu: AtomicUsize::new(0),
            state: AtomicU8::new(READY),
            notified: AtomicBool::new(false),
            at_border: AtomicBool::new(true),
            on_cpu: AtomicBool::new(false),
            class: AtomicU8::new(PROMPT),
            slice_ns: AtomicU64::new(SLICE_NS),
            deadline_ns: AtomicU64::new(0),
            ready_link: LinkedListAtomicLink::new(),
            sleep_link: RBTreeAtomicLink::new(),
            switches: AtomicU64::new(0),
            preemptions: AtomicU64::new(0),
            pressing: AtomicU32::new(0),
            allowed: AtomicU64::new(u64::MAX),
            body: SpinLock::new(None),
            end: SpinLock::new(End::default()),
            keep: SpinLock::new(None),
        }
    }

    /// It waited, so it is prompt and has a whole slice again. Context: under its run queue.
    pub(super) fn refresh(&self) {
        // Relaxed, both: under the run queue.
        self.class.store(PROMPT, Relaxed);
        self.slice_ns.store(SLICE_NS, Relaxed);
    }

    /// Whether it may run on CPU `cpu`.
    pub(super) fn is_allowed(&self, cpu: usize) -> bool {
        self.allowed.load(Relaxed) >> cpu & 1 != 0 // Relaxed: a hint; who changes it sees to it that it is followed.
    }

    /// Whether it, which is ready, may be moved to CPU `cpu`. Context: under its run queue.
    pub(super) fn may_move_to(&self, cpu: usize) -> bool {
        // Relaxed: under the run queue. Acquire: pairs with the Release in `settle`: the registers are in `context`.
        self.at_border.load(Relaxed) && !self.on_cpu.load(Acquire) && self.is_allowed(cpu)
    }

    /// Context switches: those that it asked for, and those that it did not.
    pub(crate) fn switches(&self) -> (u64, u64) {
        (self.switches.load(Relaxed), self.preemptions.load(Relaxed)) // Relaxed: statistics.
    }

    /// The CPU that it is on.
    pub(crate) fn cpu(&self) -> usize {
        self.cpu.load(Relaxed) // Relaxed: a snapshot.
    }

    /// Whether it is running or would like to.
    pub(crate) fn is_ready(&self) -> bool {
        self.state.load(Relaxed) == READY // Relaxed: a snapshot.
    }

    /// The CPUs that it may run on, a bit for each.
    pub(crate) fn allowed(&self) -> u64 {
        self.allowed.load(Relaxed) // Relaxed: as in `is_allowed`.
    }
}

impl Wake for Entity {
    fn wake(self: Arc<Self>) {
        super::unpark(&self);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        super::unpark(self);
    }
}

/// Cuts a name that is too long.
fn name_of(text: fmt::Arguments<'_>) -> Name {
    struct Cut(Name);
    impl fmt::Write for Cut {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            text.chars().try_for_each(|c| self.0.push(c)).map_err(|_| fmt::Error)
        }
    }
    let mut name = Cut(Name::new());
    let _ = fmt::write(&mut name, text); // An error says that it was cut.
    name.0
}
