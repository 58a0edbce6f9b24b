//! The switch from one thread's stack to another's.
//!
//! A thread that is switched out has its callee-saved registers on its stack and its stack pointer in its
//! [`Context`]. Interrupts are off throughout; the flags are not saved, for every thread is switched out with
//! interrupts off and turns them on itself.

use core::arch::naked_asm;
use core::cell::UnsafeCell;

/// Where a thread that is switched out continues.
#[derive(Debug)]
pub(crate) struct Context(UnsafeCell<u64>);

// SAFETY: written and read by the thread's own CPU only, in `switch`, with interrupts off.
unsafe impl Sync for Context {}
// SAFETY: a number; the thread that it belongs to runs on the CPU that it was made for.
unsafe impl Send for Context {}

impl Context {
    /// For the thread that runs now; its first switch fills it.
    pub(crate) const fn running() -> Self {
        Self(UnsafeCell::new(0))
    }

    /// For a thread that will start in `entry` on the stack that ends at `top`.
    ///
    /// # Safety
    /// `top` is 16-aligned and ends a mapped stack that only this thread will use.
    pub(crate) unsafe fn starting(top: u64, entry: extern "C" fn() -> !) -> Self {
        // What `switch` pops: six registers (a zero rbp ends the chain of frames), then the address to return
        // to. One word stays above it, so that `entry` finds its stack aligned as after a call.
        let frame: [u64; 8] = [0, 0, 0, 0, 0, 0, entry as usize as u64, 0];
        let pointer = top - size_of_val(&frame) as u64;
        // SAFETY: the uppermost bytes of a stack that is ours (caller).
        unsafe { (pointer as *mut [u64; 8]).write(frame) };
        Self(UnsafeCell::new(pointer))
    }
}

/// Switches stacks: returns when somebody switches back to `from`.
///
/// # Safety
/// Interrupts are off. `from` is the running thread's; `to` belongs to a thread of this CPU that is switched
/// out or was never in. Both outlive the time that they are switched out.
pub(crate) unsafe fn switch(from: &Context, to: &Context) {
    // SAFETY: nobody else touches either (caller).
    unsafe { swap(from.0.get(), *to.0.get()) };
}

#[unsafe(naked)]
unsafe extern "C" fn swap(_from: *mut u64, _to: u64) {
    naked_asm!(
        "push rbp",
        "push rbx",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "mov [rdi], rsp",
        "mov rsp, rsi",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbx",
        "pop rbp",
        "ret",
    );
}
