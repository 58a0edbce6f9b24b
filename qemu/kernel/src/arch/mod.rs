//! x86-64: all that is not portable, and with `boot` and `mm` the only place of `unsafe`.

pub(crate) mod acpi;
pub(crate) mod clock;
pub(crate) mod context;
pub(crate) mod cpu;
pub(crate) mod descriptors;
pub(crate) mod fpu;
pub(crate) mod identity;
pub(crate) mod ioapic;
pub(crate) mod lapic;
pub(crate) mod percpu;
pub(crate) mod power;
pub(crate) mod rtc;
pub(crate) mod serial;
pub(crate) mod spin;
pub(crate) mod trap;
pub(crate) mod user;
