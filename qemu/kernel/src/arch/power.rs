//! Ends the machine, with a status where there is a device for it.

use x86_64::instructions::port::{PortReadOnly, PortWriteOnly};

use super::acpi::SleepPort;
use super::cpu::halt_forever;
use super::serial;

/// I/O port of QEMU's isa-debug-exit; see the crate's documentation for the command line.
const DEBUG_EXIT: u16 = 0xf4;

/// How a run ended. QEMU's exit status is twice the number plus one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExitCode {
    /// All went well: status 33.
    Success = 0x10,
    /// A panic or an exception: status 35.
    Panic = 0x11,
    /// The command line or the module is unusable, nothing was run: status 37.
    BadInput = 0x12,
    /// The job ran and found something wrong: status 39.
    JobFailed = 0x13,
}

/// The port that powers the machine off, if the firmware names one; set once, before the other CPUs start.
static SLEEP: crate::arch::spin::IrqSpinLock<Option<SleepPort>> = crate::arch::spin::IrqSpinLock::new(None);

/// Remembers how to power off.
pub(crate) fn init(port: Option<SleepPort>) {
    *SLEEP.lock() = port;
}

/// Leaves QEMU with `code`; powers off where that device is missing; else stops.
pub(crate) fn exit(code: ExitCode) -> ! {
    serial::drain(); // The exit device does not wait for the serial port.
    // SAFETY: the port is that of the exit device or of nothing at all.
    unsafe { PortWriteOnly::<u32>::new(DEBUG_EXIT).write(code as u32) };
    // Still here: no such device. `try_lock`, for a panic may have come at any point.
    if let Some(port) = SLEEP.try_lock().and_then(|port| *port) {
        let old = read_control(port.control);
        // SAFETY: the control port and the sleep type come from the firmware's tables; this is how they ask
        // for S5.
        unsafe { PortWriteOnly::<u16>::new(port.control).write(old & !0x3c00 | port.kind << 10 | 1 << 13) };
    }
    halt_forever()
}

fn read_control(port: u16) -> u16 {
    // SAFETY: the firmware's tables name it as the power management control register; reading has no side
    // effect.
    unsafe { PortReadOnly::<u16>::new(port).read() }
}
