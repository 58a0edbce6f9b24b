//! The controller of devices' interrupts: hands the first serial port's to one CPU.

use super::acpi::Line;
use super::spin::IrqSpinLock;
use crate::mm::paging::{Use, map_direct};

/// Vector of the first serial port.
pub(crate) const SERIAL: u8 = 0x30;

/// A register is chosen by writing its number to the address, and is read and written 16 bytes behind that.
const WINDOW: u64 = 0x10;
/// The first half of the first input's entry; an entry has two halves.
const ENTRIES: u32 = 0x10;

const ACTIVE_LOW: u32 = 1 << 13;
const LEVEL: u32 = 1 << 15;

static SERIAL_LINE: IrqSpinLock<Option<Line>> = IrqSpinLock::new(None);

/// Remembers where the first serial port's interrupt arrives.
pub(crate) fn init(serial: Option<Line>) {
    *SERIAL_LINE.lock() = serial;
}

/// Delivers the first serial port's interrupt as [`SERIAL`] to the CPU with this APIC id. Nothing happens if it is not known
/// where it arrives.
///
/// Context: after the local controllers are on.
pub(crate) fn route_serial(apic_id: u32) {
    let line = SERIAL_LINE.lock();
    let Some(line) = &*line else { return };
    let registers = map_direct(line.controller, 0x20, Use::Device);
    let write = |register: u32, value: u32| {
        // SAFETY: the registers were mapped above, and nobody else uses them: the other inputs stay masked as they are
        // after a reset. The lock keeps the two halves together.
        unsafe {
            (registers as *mut u32).write_volatile(register);
            ((registers + WINDOW) as *mut u32).write_volatile(value);
        }
    };
    let mut low = u32::from(SERIAL);
    if line.active_low {
        low |= ACTIVE_LOW;
    }
    if line.level {
        low |= LEVEL;
    }
    let entry = ENTRIES + 2 * line.input;
    write(entry + 1, apic_id << 24);
    // Last: this half unmasks it.
    write(entry, low);
}
