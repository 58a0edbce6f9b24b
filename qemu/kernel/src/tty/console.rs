//! The terminal on the first serial port, which is the console.

use alloc::sync::Arc;

use linux_raw_sys::general::{termios2, winsize};
use syscalls::Errno;

use super::{Kind, Tty, discipline, receive};
use crate::arch::clock;
use crate::arch::spin::SpinLock;
use crate::{console, sched};

/// Major and minor number of the first serial port.
pub(crate) const DEVICE: (u32, u32) = (4, 64);
/// What the port says about its speed.
const SETTINGS: termios2 = termios2 {
    c_cflag: linux_raw_sys::general::B115200
        | linux_raw_sys::general::CS8
        | linux_raw_sys::general::CREAD
        | linux_raw_sys::general::HUPCL
        | linux_raw_sys::general::CLOCAL,
    c_ispeed: 115_200,
    c_ospeed: 115_200,
    ..discipline::DEFAULT
};
/// How long a device that takes no bytes is left alone.
const BUSY_NS: u64 = 200_000;
/// How long the end of the machine waits for what is yet to be sent.
const FLUSH_NS: u64 = 1_000_000_000;

static CONSOLE: SpinLock<Option<Arc<Tty>>> = SpinLock::new(None);

/// Makes the terminal and lets bytes in.
///
/// Context: once, on a thread.
///
/// # Errors
/// `ENOMEM`.
pub(crate) fn init() -> Result<(), Errno> {
    let window = winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    let tty = Tty::new(DEVICE, Kind::Console, SETTINGS, window)?;
    *CONSOLE.lock() = Some(Arc::clone(&tty));
    receive::start(tty)
}

/// The terminal; `None` before [`init`].
pub(crate) fn tty() -> Option<Arc<Tty>> {
    CONSOLE.lock().clone()
}

/// Puts bytes on the line, however long it takes.
pub(super) fn transmit(bytes: &[u8]) {
    let mut rest = bytes;
    while !rest.is_empty() {
        let sent = console::send(rest);
        rest = &rest[sent..];
        if sent == 0 {
            sched::sleep_ns(BUSY_NS);
        }
    }
}

/// Waits until what was written is on the line, for a while at most.
///
/// Context: threads.
pub(crate) fn flush() {
    let Some(tty) = tty() else { return };
    let end_ns = clock::now_ns() + FLUSH_NS;
    tty.state.lock().discipline.stopped = false;
    while !tty.state.lock().output.is_empty() && clock::now_ns() < end_ns {
        tty.send();
    }
    // Whoever took the last of it may still be sending it.
    drop(tty.sender.lock());
}
