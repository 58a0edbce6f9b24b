//! The end, when something is wrong: one CPU tells the story, all others stand still.
//!
//! 1. The first CPU to panic, or to take an unexpected exception, claims [`OWNER`].
//! 2. It stops the others with an NMI, which gets through whatever they do; each notes where it was.
//! 3. It prints the reason, its registers and its backtrace, then where the others stopped, and leaves the
//!    machine with a status of its own.
//!
//! An NMI without a panic comes from outside (a watchdog's `inject-nmi`) and is a panic that shows every
//! CPU's backtrace: that is what one wants to know of a hang.
//!
//! Lock order: takes none, and calls nothing that takes one without trying.

use core::fmt::Write;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::*};

use x86_64::instructions::interrupts;

use crate::arch::power::{self, ExitCode};
use crate::arch::trap::{Name, TrapFrame};
use crate::arch::{cpu, lapic, percpu};
use crate::console::Emergency;
use crate::symbols::{Backtrace, Location};

const NOBODY: usize = usize::MAX;
/// How long to wait for the others to stop, in ticks of the counter: some hundred milliseconds.
const STOP_TICKS: u64 = 1 << 30;

/// The CPU that panics.
static OWNER: AtomicUsize = AtomicUsize::new(NOBODY);

/// Where a CPU was when a panic elsewhere stopped it.
pub(crate) struct StopRecord {
    set: AtomicBool,
    rip: AtomicU64,
    rbp: AtomicU64,
}

impl StopRecord {
    pub(crate) const fn new() -> Self {
        Self { set: AtomicBool::new(false), rip: AtomicU64::new(0), rbp: AtomicU64::new(0) }
    }

    fn store(&self, rip: u64, rbp: u64) {
        // Relaxed, both: ordered by the Release below.
        self.rip.store(rip, Relaxed);
        self.rbp.store(rbp, Relaxed);
        self.set.store(true, Release); // Release: pairs with the Acquire in `is_set`.
    }

    fn is_set(&self) -> bool {
        self.set.load(Acquire) // Acquire: pairs with the Release in `store`.
    }
}

/// Why the kernel dies.
pub(crate) enum Cause<'a> {
    /// A Rust panic.
    Panic(&'a PanicInfo<'a>),
    /// An exception that nothing expects.
    Exception(&'a TrapFrame),
    /// An NMI that no panic sent.
    Nmi(&'a TrapFrame),
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    die(&Cause::Panic(info))
}

/// An NMI: a panic on another CPU, or somebody outside wants to see where we are.
pub(crate) fn nmi(frame: &TrapFrame) {
    // Acquire: pairs with whoever became the owner; what it wrote comes first.
    if OWNER.load(Acquire) == NOBODY {
        die(&Cause::Nmi(frame));
    }
    stop(frame.rip, frame.rbp);
}

fn stop(rip: u64, rbp: u64) -> ! {
    percpu::this().stopped.store(rip, rbp);
    cpu::halt_forever()
}

/// Stops all CPUs, tells what happened, and leaves the machine.
///
/// Context: any.
pub(crate) fn die(cause: &Cause<'_>) -> ! {
    interrupts::disable();
    let me = percpu::current().map_or(0, |cpu| cpu.index);
    // SeqCst: rare, and no argument to make.
    match OWNER.compare_exchange(NOBODY, me, SeqCst, SeqCst) {
        Ok(_) => {}
        Err(owner) if owner == me => {
            let _ = writeln!(Emergency::new(), "\npanic while panicking");
            power::exit(ExitCode::Panic);
        }
        Err(_) => match cause {
            Cause::Panic(_) => stop(0, cpu::frame_pointer()),
            Cause::Exception(frame) | Cause::Nmi(frame) => stop(frame.rip, frame.rbp),
        },
    }
    lapic::stop_others();
    // Acquire: pairs with the Release in `sched::idle`; a CPU that is not there yet has no interrupt table.
    let others = || percpu::all().filter(|cpu| cpu.index != me && cpu.online.load(Acquire));
    let deadline = cpu::tsc().saturating_add(STOP_TICKS);
    while !others().all(|cpu| cpu.stopped.is_set()) && cpu::tsc() < deadline {
        core::hint::spin_loop();
    }
    // The sink has no errors, and there would be nobody to tell.
    let _ = report(&mut Emergency::new(), me, cause, others());
    power::exit(ExitCode::Panic)
}

fn report(
    out: &mut Emergency,
    me: usize,
    cause: &Cause<'_>,
    others: impl Iterator<Item = &'static percpu::PerCpu>,
) -> core::fmt::Result {
    let thread = percpu::current().and_then(|cpu| cpu.run_queue.current_name());
    let thread = thread.as_deref().unwrap_or("?");
    write!(out, "\nPANIC on CPU {me}, thread {thread}: ")?;
    match cause {
        Cause::Panic(info) => {
            match info.location() {
                Some(location) => writeln!(out, "{} at {location}", info.message())?,
                None => writeln!(out, "{}", info.message())?,
            }
            writeln!(out, "registers in the panic handler:\n{}", TrapFrame::here())?;
            writeln!(out, "backtrace:\n{}", Backtrace { rip: 0, rbp: cpu::frame_pointer() })?;
        }
        Cause::Exception(frame) | Cause::Nmi(frame) => {
            writeln!(out, "{}", Name(frame))?;
            writeln!(out, "registers:\n{frame}")?;
            writeln!(out, "backtrace:\n{}", Backtrace { rip: frame.rip, rbp: frame.rbp })?;
        }
    }
    for cpu in others {
        if !cpu.stopped.is_set() {
            writeln!(out, "CPU {} did not stop", cpu.index)?;
            continue;
        }
        // Relaxed, both: ordered by the Acquire in `is_set`.
        let (rip, rbp) = (cpu.stopped.rip.load(Relaxed), cpu.stopped.rbp.load(Relaxed));
        let thread = cpu.run_queue.current_name();
        let thread = thread.as_deref().unwrap_or("?");
        writeln!(out, "CPU {} stopped in thread {thread} at {}", cpu.index, Location(rip))?;
        if matches!(cause, Cause::Nmi(_)) {
            write!(out, "{}", Backtrace { rip: 0, rbp })?;
        }
    }
    Ok(())
}
