//! Small services of the CPU itself.

use core::arch::asm;
use core::marker::PhantomData;

use x86_64::instructions::interrupts;
use x86_64::instructions::random::RdRand;

use super::percpu;

/// Interrupts are off on this CPU until this drops; nests.
#[derive(Debug)]
pub(crate) struct IrqOff {
    were_on: bool,
    /// Belongs to the CPU that made it.
    not_send: PhantomData<*mut ()>,
}

impl IrqOff {
    pub(crate) fn new() -> Self {
        let were_on = interrupts::are_enabled();
        interrupts::disable();
        Self { were_on, not_send: PhantomData }
    }
}

impl Drop for IrqOff {
    fn drop(&mut self) {
        if self.were_on {
            interrupts::enable();
            // A request that came up meanwhile could not be served.
            if let Some(cpu) = percpu::current()
                && cpu.needs_resched()
                && cpu.is_preemptible()
            {
                crate::sched::preempt();
            }
        }
    }
}

/// The time stamp counter.
pub(crate) fn tsc() -> u64 {
    // SAFETY: every x86-64 CPU has it, and CR4.TSD is clear.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Eight bytes that nobody can guess, as far as the CPU has a source of such; the time stamp counter at least.
pub(crate) fn entropy() -> u64 {
    /// The source may be empty for a moment.
    const TRIES: usize = 16;
    let random = RdRand::new().and_then(|source| (0..TRIES).find_map(|_| source.get_u64()));
    random.unwrap_or(0) ^ tsc()
}

/// This function's own frame pointer: the innermost link of the chain that a backtrace follows.
#[inline(always)]
pub(crate) fn frame_pointer() -> u64 {
    let value;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, rbp", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Stops this CPU for good; only an NMI still gets through.
pub(crate) fn halt_forever() -> ! {
    loop {
        interrupts::disable();
        x86_64::instructions::hlt();
    }
}

/// Reads the eight bytes at `address`, or `None` if nothing is mapped there. Takes no lock.
pub(crate) fn peek(address: u64) -> Option<u64> {
    // SAFETY: checked to be mapped, and mappings never go away ([Grow] in `mm::paging`). Volatile: it may be
    // another CPU's stack, stopped or not.
    crate::mm::paging::is_readable(address).then(|| unsafe { (address as *const u64).read_volatile() })
}
