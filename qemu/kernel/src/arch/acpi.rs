//! What the kernel wants to know from the firmware: the CPUs, a timer, and how to power off.

use core::ptr::NonNull;

use acpi::address::AddressSpace;
use acpi::fadt::Fadt;
use acpi::madt::{Madt, MadtEntry};
use acpi::{AcpiHandler, AcpiTables, PhysicalMapping};
use heapless::Vec;

use super::percpu::MAX_CPUS;
use crate::mm::paging::{Use, map_direct};

/// The firmware's answer.
#[derive(Debug)]
pub(crate) struct Platform {
    /// APIC ids of the usable CPUs, in the table's order, at most [`MAX_CPUS`].
    pub(crate) apic_ids: Vec<u32, MAX_CPUS>,
    /// Usable CPUs beyond those, left alone.
    pub(crate) cpus_left_out: usize,
    /// I/O port of the power management timer.
    pub(crate) pm_timer: u16,
    /// How to power off, if that was found.
    pub(crate) sleep: Option<SleepPort>,
    /// Where the first serial port's interrupt arrives, if a controller for devices was found.
    pub(crate) serial: Option<Line>,
}

/// An input of an interrupt controller for devices (I/O APIC).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Line {
    /// Physical address of the controller's registers.
    pub(crate) controller: u64,
    /// Which of its inputs.
    pub(crate) input: u32,
    /// Whether low means that the interrupt is there.
    pub(crate) active_low: bool,
    /// Whether it is there as long as the line says so, and not only when that begins.
    pub(crate) level: bool,
}

/// The first serial port's interrupt on a PC.
const SERIAL_IRQ: u8 = 4;

/// Writing `kind` to `control` powers the machine off.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SleepPort {
    /// Port of the control register.
    pub(crate) control: u16,
    /// The value for S5.
    pub(crate) kind: u16,
}

/// Reads tables through the direct map.
#[derive(Clone, Debug)]
struct Direct;

impl AcpiHandler for Direct {
    unsafe fn map_physical_region<T>(&self, address: usize, size: usize) -> PhysicalMapping<Self, T> {
        let virt = map_direct(address as u64, size as u64, Use::ReadOnly);
        let start = NonNull::new(virt as *mut T).expect("the direct map starts above 0");
        // SAFETY: `size` bytes are mapped at `start` and hold a `T` (the caller's promise).
        unsafe { PhysicalMapping::new(address, start, size, size, self.clone()) }
    }

    fn unmap_physical_region<T>(_: &PhysicalMapping<Self, T>) {}
}

/// Reads the tables.
///
/// # Panics
/// If a table that the kernel cannot do without is missing or broken.
pub(crate) fn read(rsdp: u64) -> Platform {
    // SAFETY: the loader vouches for the address; the tables are firmware memory that nobody writes.
    let tables = unsafe { AcpiTables::from_rsdp(Direct, rsdp as usize) }.expect("broken ACPI tables");

    let madt = tables.find_table::<Madt>().expect("no ACPI table of the CPUs (MADT)");
    let (mut apic_ids, mut cpus_left_out) = (Vec::new(), 0);
    let serial = serial_line(madt.get());
    for entry in madt.get().entries() {
        let (id, flags) = match entry {
            MadtEntry::LocalApic(entry) => (u32::from(entry.apic_id), { entry.flags }),
            MadtEntry::LocalX2Apic(entry) => ({ entry.x2apic_id }, { entry.flags }),
            _ => continue,
        };
        // Bit 0: enabled. Ids above 254 need x2APIC, see `lapic`.
        if flags & 1 != 0 && (id > 254 || apic_ids.push(id).is_err()) {
            cpus_left_out += 1;
        }
    }

    let fadt = tables.find_table::<Fadt>().expect("no ACPI table of the platform (FADT)");
    let io_port = |space, address: u64| {
        (space == AddressSpace::SystemIo).then(|| u16::try_from(address).ok()).flatten().filter(|&p| p != 0)
    };
    let pm_timer = fadt
        .pm_timer_block()
        .ok()
        .flatten()
        .and_then(|block| io_port(block.address_space, block.address))
        .expect("no ACPI power management timer at an I/O port");
    let control =
        fadt.pm1a_control_block().ok().and_then(|block| io_port(block.address_space, block.address));
    let sleep = control.zip(soft_off(&tables)).map(|(control, kind)| SleepPort { control, kind });
    Platform { apic_ids, cpus_left_out, pm_timer, sleep, serial }
}

/// Which input of which controller the first serial port is wired to. Old interrupts keep their numbers, are edges and
/// active high, unless the table says otherwise.
fn serial_line(madt: core::pin::Pin<&Madt>) -> Option<Line> {
    /// Polarity and trigger mode, two bits each.
    const ACTIVE_LOW: u16 = 0b11;
    const LEVEL: u16 = 0b1100;
    let mut line = (u32::from(SERIAL_IRQ), 0);
    for entry in madt.entries() {
        if let MadtEntry::InterruptSourceOverride(entry) = entry
            && entry.irq == SERIAL_IRQ
        {
            line = ({ entry.global_system_interrupt }, { entry.flags });
        }
    }
    let (number, flags) = line;
    let controllers = madt.entries().filter_map(|entry| match entry {
        MadtEntry::IoApic(entry) => Some(({ entry.global_system_interrupt_base }, { entry.io_apic_address })),
        _ => None,
    });
    let (base, address) = controllers.filter(|(base, _)| *base <= number).max_by_key(|(base, _)| *base)?;
    Some(Line {
        controller: address.into(),
        input: number - base,
        active_low: flags & ACTIVE_LOW == ACTIVE_LOW,
        level: flags & LEVEL == LEVEL,
    })
}

/// The sleep type of S5, from the DSDT's `_S5_` package.
///
/// An AML interpreter would be the whole answer; the package is a constant, so its encoding can be found and
/// read.
fn soft_off(tables: &AcpiTables<Direct>) -> Option<u16> {
    let dsdt = tables.dsdt().ok()?;
    let virt = map_direct(dsdt.address as u64, dsdt.length.into(), Use::ReadOnly);
    // SAFETY: so long the table is, by its checked header; nobody writes it.
    let aml = unsafe { core::slice::from_raw_parts(virt as *const u8, dsdt.length as usize) };
    let name = aml.windows(4).position(|window| window == b"_S5_")?;
    // Package operator, length of 1 to 4 bytes (count in the first one's top bits), number of elements, first
    // element: a bare ZeroOp or OneOp, or a byte constant.
    let package = aml.get(name + 4..)?;
    let [0x12, length, ..] = package else { return None };
    let element = package.get(1 + 1 + usize::from(length >> 6) + 1..)?;
    match element {
        [kind @ (0 | 1), ..] | [0x0a, kind, ..] => Some((*kind).into()),
        _ => None,
    }
}
