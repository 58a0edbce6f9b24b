//! Lines on the serial port.
//!
//! [`println!`] writes a whole line under a lock, and into the [log](crate::log). A panic writes through [`Emergency`], which takes none: the
//! other CPUs have been stopped, perhaps while one held it.
//!
//! Lock order: `PORT` is a leaf. Never in an interrupt handler, but for a panic.

use core::fmt::{self, Write};

use crate::arch::serial::{self, Port};
use crate::arch::spin::SpinLock;
use crate::log;

/// The port, if there is one.
static PORT: SpinLock<Option<Port>> = SpinLock::new(None);

/// Sets the port up. Context: once, first of all.
pub(crate) fn init() {
    let mut port = serial::com1();
    *PORT.lock() = serial::init(&mut port).then_some(port);
}

/// Writes a line. Context: threads; never blocks, but waits for the device.
pub(crate) fn print_line(line: fmt::Arguments<'_>) {
    log::add(log::INFO, line);
    show_line(line);
}

/// As [`print_line`], of what the log has already.
pub(crate) fn show_line(line: fmt::Arguments<'_>) {
    if let Some(port) = PORT.lock().as_mut() {
        let _ = writeln!(Sink(port), "{line}"); // The sink has no errors.
    }
}

/// Sends as many bytes as the device takes at once; returns how many that was. All of them if there is no device.
///
/// Context: threads.
pub(crate) fn send(bytes: &[u8]) -> usize {
    PORT.lock().as_mut().map_or(bytes.len(), |port| port.send_bytes(bytes))
}

/// Writes a line like `std`'s macro.
macro_rules! println {
    ($($arg:tt)*) => { $crate::console::print_line(format_args!($($arg)*)) };
}
pub(crate) use println;

struct Sink<'a>(&'a mut Port);

impl Write for Sink<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.send_bytes_exact(text.as_bytes());
        Ok(())
    }
}

/// The port without its lock, for a panic.
pub(crate) struct Emergency(Port);

impl Emergency {
    pub(crate) fn new() -> Self {
        let mut port = serial::com1();
        serial::init(&mut port); // It may be the very first thing that runs.
        Self(port)
    }
}

impl Write for Emergency {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        Sink(&mut self.0).write_str(text)
    }
}
