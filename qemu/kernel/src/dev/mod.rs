//! Devices by their numbers: memory, terminals, the kernel's log, disks of memory.
//!
//! | file | what |
//! |---|---|
//! | [`memory`] | null, zero, full, random, urandom |
//! | [`kmsg`] | the kernel's log |
//! | [`ram`] | block devices of memory |
//!
//! Terminals are in [`crate::tty`]. [`NODES`] says what a devtmpfs shows.

use alloc::sync::Arc;

use mnt_table::PathRef;
use syscalls::Errno;
use tmpfs::TmpDentry;

use crate::fs::devpts;
use crate::fs::file::FileOps;
use crate::task;
use crate::tty::{TtyFile, console, pty};

pub(crate) mod kmsg;
mod memory;
pub(crate) mod ram;

/// Major numbers.
const MEMORY: u32 = 1;
const TTY: u32 = 4;
const TTY_AUX: u32 = 5;
/// Of block devices.
const RAM: u32 = 1;

/// A node of a devtmpfs: its name, whether it is a block device, major and minor number, permissions.
pub(crate) struct Node {
    pub(crate) name: &'static str,
    pub(crate) is_block: bool,
    pub(crate) numbers: (u32, u32),
    pub(crate) mode: u32,
}

const fn char(name: &'static str, major: u32, minor: u32, mode: u32) -> Node {
    Node { name, is_block: false, numbers: (major, minor), mode }
}

const fn block(name: &'static str, major: u32, minor: u32, mode: u32) -> Node {
    Node { name, is_block: true, numbers: (major, minor), mode }
}

/// All devices.
pub(crate) const NODES: [Node; 14] = [
    char("null", MEMORY, 3, 0o666),
    char("zero", MEMORY, 5, 0o666),
    char("full", MEMORY, 7, 0o666),
    char("random", MEMORY, 8, 0o666),
    char("urandom", MEMORY, 9, 0o666),
    char("kmsg", MEMORY, 11, 0o644),
    char("tty", TTY_AUX, 0, 0o666),
    char("console", TTY_AUX, 1, 0o600),
    char("ptmx", TTY_AUX, 2, 0o666),
    char("ttyS0", TTY, 64, 0o600),
    block("ram0", RAM, 0, 0o660),
    block("ram1", RAM, 1, 0o660),
    block("ram2", RAM, 2, 0o660),
    block("ram3", RAM, 3, 0o660),
];

/// Opens the character device with these numbers, whose node is `at`.
///
/// # Errors
/// `ENXIO`: there is none. What the device says.
pub(crate) fn open_char(
    major: u32,
    minor: u32,
    flags: u32,
    at: &PathRef<TmpDentry>,
) -> Result<Arc<dyn FileOps>, Errno> {
    match (major, minor) {
        (MEMORY, 11) => kmsg::open(),
        (MEMORY, minor) => memory::open(minor),
        (TTY_AUX, 0) => {
            let thread = task::current();
            let terminal = thread.process().session().terminal().ok_or(Errno::ENXIO)?;
            let terminal: Arc<dyn core::any::Any + Send + Sync> = terminal;
            let tty = terminal.downcast().map_err(|_| Errno::ENXIO)?;
            Ok(TtyFile::open(&tty, flags)?)
        }
        (TTY_AUX, 1) => Ok(TtyFile::open_console(&console::tty().ok_or(Errno::ENXIO)?)?),
        (TTY_AUX, 2) => Ok(pty::Master::open(&devpts::beside(at)?)?),
        console::DEVICE => Ok(TtyFile::open(&console::tty().ok_or(Errno::ENXIO)?, flags)?),
        // Terminals of a devpts are opened by their nodes there, and by no others.
        (pty::MAJOR, number) => Ok(TtyFile::open(&devpts::tty(at, number)?, flags)?),
        _ => Err(Errno::ENXIO),
    }
}

/// Opens the block device with these numbers.
///
/// # Errors
/// `ENXIO`: there is none. `ENOMEM`.
pub(crate) fn open_block(major: u32, minor: u32) -> Result<Arc<dyn FileOps>, Errno> {
    match major {
        RAM => Ok(ram::open(minor)?),
        _ => Err(Errno::ENXIO),
    }
}
