//! An allocator that refuses one allocation, or one claim, and grants what was claimed.
//!
//! While a thread is *armed* each of its claims, and each allocation that no claim covers, is a point; the k-th one is
//! refused. A refusal of what can be refused is an error that the operation returns. A null for anything else aborts the
//! process, and that is the finding: set `MEMORY_TRACE` to see where each refused allocation was made.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use mnt_table::memory::{self, ALLOCATION_MAX, Hooks};

struct Injector;

#[global_allocator]
static INJECTOR: Injector = Injector;

/// A node of the queue of `crossbeam-epoch`: 64 deferred calls of four words each, how many there are, their epoch, and the
/// next node.
pub(crate) const QUEUE_NODE: Layout =
    match Layout::from_size_align((64 * 4 + 3) * size_of::<usize>(), align_of::<usize>()) {
        Ok(layout) => layout,
        Err(_) => unreachable!(),
    };

/// Claims that a thread can hold one in the other.
const NESTED_MAX: usize = 64;

struct State {
    /// Points until the refusal; 0 while not armed, or when it is over.
    countdown: Cell<usize>,
    refused: Cell<bool>,
    trace: Cell<bool>,
    covered: Cell<usize>,
    /// What claims are good for.
    credit: Cell<usize>,
    /// How much was claimed each time, and the credit before that.
    claims: [Cell<(usize, usize)>; NESTED_MAX],
    nested: Cell<usize>,
    /// Bytes that this thread allocated, less those that it freed.
    live_bytes: Cell<i64>,
    /// Nodes of the collector's queue among them.
    live_nodes: Cell<i64>,
}

thread_local! {
    static STATE: State = const {
        State {
            countdown: Cell::new(0),
            refused: Cell::new(false),
            trace: Cell::new(false),
            covered: Cell::new(0),
            credit: Cell::new(0),
            claims: [const { Cell::new((0, 0)) }; NESTED_MAX],
            nested: Cell::new(0),
            live_bytes: Cell::new(0),
            live_nodes: Cell::new(0),
        }
    };
}

impl State {
    /// One point more; whether it is refused.
    fn point(&self) -> bool {
        let left = self.countdown.get();
        self.countdown.set(left.saturating_sub(1));
        if left == 1 {
            self.refused.set(true);
        }
        left == 1
    }

    fn is_granted(&self, layout: Layout) -> bool {
        let covers = layout.size() <= ALLOCATION_MAX && layout.align() <= 128;
        if self.covered.get() != 0 && self.credit.get() != 0 && covers {
            self.credit.set(self.credit.get() - 1);
            return true;
        }
        !self.point()
    }

    fn claim(&self, more: usize) -> bool {
        if self.point() {
            return false;
        }
        self.claims[self.nested.get()].set((more, self.credit.get()));
        self.nested.set(self.nested.get() + 1);
        self.credit.set(self.credit.get() + more);
        true
    }

    /// Gives up the last claims: those that are made in others end before them.
    fn release(&self, less: usize) {
        let mut left = less;
        while left != 0 {
            self.nested.set(self.nested.get() - 1);
            let (claimed, before) = self.claims[self.nested.get()].get();
            left = left.checked_sub(claimed).expect("claims are released as they were made");
            self.credit.set(self.credit.get().min(before));
        }
    }
}

// SAFETY: everything that is granted is the system's.
unsafe impl GlobalAlloc for Injector {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // A thread that is being torn down has lost its state.
        if !STATE.try_with(|state| state.is_granted(layout)).unwrap_or(true) {
            trace("an allocation");
            return std::ptr::null_mut();
        }
        count(layout, 1);
        // SAFETY: forwarded.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, object: *mut u8, layout: Layout) {
        count(layout, -1);
        // SAFETY: forwarded.
        unsafe { System.dealloc(object, layout) }
    }
}

fn count(layout: Layout, objects: i64) {
    // As above.
    let _torn_down = STATE.try_with(|state| {
        state.live_bytes.set(state.live_bytes.get() + objects * layout.size() as i64);
        if layout == QUEUE_NODE {
            state.live_nodes.set(state.live_nodes.get() + objects);
        }
    });
}

fn trace(what: &str) {
    if traces() {
        eprintln!("refused {what}:\n{}", std::backtrace::Backtrace::force_capture());
    }
}

fn claim(more: usize) -> bool {
    let granted = STATE.with(|state| state.claim(more));
    if !granted {
        trace("a claim");
    }
    granted
}

/// Whether refusals are traced.
pub(crate) fn traces() -> bool {
    STATE.with(|state| state.trace.get())
}

/// Puts this in the place of the host's memory. Once.
pub(crate) fn install() {
    memory::install(Hooks {
        claim,
        release: |less| STATE.with(|state| state.release(less)),
        cover: || STATE.with(|state| state.covered.set(state.covered.get() + 1)),
        uncover: || STATE.with(|state| state.covered.set(state.covered.get() - 1)),
    });
    let trace = std::env::var_os("MEMORY_TRACE").is_some();
    STATE.with(|state| state.trace.set(trace));
}

/// What an armed run met.
pub(crate) struct Run<R> {
    pub(crate) result: R,
    /// Whether one was refused.
    pub(crate) refused: bool,
}

/// Runs `run`, whose `k`-th point from here on is refused; none for 0.
pub(crate) fn refuse<R>(k: usize, run: impl FnOnce() -> R) -> Run<R> {
    STATE.with(|state| {
        state.refused.set(false);
        state.countdown.set(k);
    });
    let result = run();
    STATE.with(|state| {
        state.countdown.set(0);
        let left = (state.credit.get(), state.nested.get(), state.covered.get());
        assert_eq!(left, (0, 0, 0), "claims are left");
        Run { result, refused: state.refused.get() }
    })
}

/// Bytes that this thread allocated, less those that it freed.
pub(crate) fn live_bytes() -> i64 {
    STATE.with(|state| state.live_bytes.get())
}

/// Nodes of the collector's queue that this thread allocated, less those that it freed.
pub(crate) fn live_nodes() -> i64 {
    STATE.with(|state| state.live_nodes.get())
}
