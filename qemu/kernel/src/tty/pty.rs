//! Pseudo terminals: a terminal whose other side, the master, is a file too.
//!
//! 1. The master reads what the terminal puts out, and what it writes arrives at the terminal.
//! 2. Opening `ptmx` of a devpts instance makes both; the side of programs is locked at first (`TIOCSPTLCK`) and is opened
//!    by its number in the instance.
//! 3. A key that stops output stops what is written from then on; what is there already, echo included, can be read.
//! 4. The end of the master hangs the terminal up for good. When the other side was opened and then closed by everybody, the
//!    master reads `EIO` until somebody opens it again.

use alloc::sync::Arc;
use core::task::Waker;

use linux_raw_sys::general::{self as abi, termios2, winsize};
use syscalls::Errno;

use super::{CHUNK, Kind, Tty, discipline};
use crate::fs::copy::{Sink, Source};
use crate::fs::devpts::{Instance, Number};
use crate::fs::file::{FileOps, OpenFile};
use crate::sched::wait::Wait;

/// Major number of the sides of programs.
pub(crate) const MAJOR: u32 = 136;

const SETTINGS: termios2 = termios2 { c_cflag: abi::B38400 | abi::CS8 | abi::CREAD, ..discipline::DEFAULT };

/// What a pseudo terminal knows of its two sides; nothing for others.
#[derive(Default)]
pub(super) struct Pair {
    locked: bool,
    master_gone: bool,
    /// The side of programs was opened, and nobody has it open now.
    deserted: bool,
    packets: bool,
}

impl Pair {
    pub(super) fn master_is_gone(&self) -> bool {
        self.master_gone
    }

    /// # Errors
    /// `EIO`
    pub(super) fn may_open(&self) -> Result<(), Errno> {
        if self.locked || self.master_gone { Err(Errno::EIO) } else { Ok(()) }
    }

    pub(super) fn opened(&mut self) {
        self.deserted = false;
    }

    pub(super) fn closed(&mut self) {
        self.deserted = true;
    }

    pub(super) fn set_locked(&mut self, locked: bool) {
        self.locked = locked;
    }

    pub(super) fn is_locked(&self) -> bool {
        self.locked
    }

    pub(super) fn set_packets(&mut self, packets: bool) {
        self.packets = packets;
    }

    pub(super) fn packets(&self) -> bool {
        self.packets
    }
}

/// An open `ptmx`.
pub(crate) struct Master {
    tty: Arc<Tty>,
    number: Number,
}

impl Master {
    /// A new pseudo terminal of `instance`.
    ///
    /// # Errors
    /// `ENOSPC`: there are too many. `ENOMEM`.
    pub(crate) fn open(instance: &Arc<Instance>) -> Result<Arc<Self>, Errno> {
        let number = Instance::take_number(instance)?;
        let window = winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
        let tty = Tty::new((MAJOR, number.get()), Kind::Pty, SETTINGS, window)?;
        tty.state.lock().pair.locked = true;
        number.show(&tty)?;
        mnt_table::memory::arc(Master { tty, number }).map_err(|_| Errno::ENOMEM)
    }

    /// The side of programs.
    pub(super) fn tty(&self) -> &Arc<Tty> {
        &self.tty
    }

    /// Its number in its instance.
    pub(super) fn number(&self) -> u32 {
        self.number.get()
    }

    /// `TIOCGPTPEER`: a descriptor of the other side, whatever is mounted over it.
    pub(super) fn open_peer(&self, file: &OpenFile, flags: u32) -> Result<usize, Errno> {
        self.number.open(file.file().path().ok_or(Errno::EIO)?, flags)
    }
}

impl FileOps for Master {
    fn read(&self, file: &OpenFile, to: &mut Sink<'_>, _at: u64) -> Result<usize, Errno> {
        let tty = &self.tty;
        let start = to.done();
        while to.left() != 0 {
            let mut chunk = heapless::Vec::<u8, CHUNK>::new();
            let deserted = {
                let mut state = tty.state.lock();
                if state.pair.packets && to.done() == start && !state.output.is_empty() {
                    let _ = chunk.push(0); // `TIOCPKT_DATA`; there is room.
                }
                let count = state.output.len().min(to.left().min(CHUNK) - chunk.len());
                chunk.extend(state.output.drain(..count));
                state.pair.deserted
            };
            if !chunk.is_empty() {
                tty.writable.wake();
                to.put(&chunk)?;
                continue;
            }
            if to.done() != start {
                break;
            }
            if deserted {
                return Err(Errno::EIO);
            }
            if file.is_nonblocking() {
                return Err(Errno::EAGAIN);
            }
            tty.master.wait(Wait::INTERRUPTIBLE, || {
                let state = tty.state.lock();
                (!state.output.is_empty() || state.pair.deserted).then_some(())
            })?;
        }
        Ok(to.done() - start)
    }

    fn write(&self, file: &OpenFile, from: &mut Source<'_>, at: u64) -> Result<(usize, u64), Errno> {
        let tty = &self.tty;
        let mut written = 0;
        while from.left() != 0 {
            let mut chunk = [0; CHUNK];
            let count = match from.take(&mut chunk) {
                Err(error) if written == 0 => return Err(error),
                Err(_) => break,
                Ok(count) => count,
            };
            let mut rest = &chunk[..count];
            while !rest.is_empty() {
                let taken = tty.receive(rest);
                written += taken;
                rest = &rest[taken..];
                if taken != 0 {
                    continue;
                }
                if file.is_nonblocking() {
                    return if written == 0 { Err(Errno::EAGAIN) } else { Ok((written, at)) };
                }
                let room = || tty.state.lock().discipline.has_room().then_some(());
                match tty.accepting.wait(Wait::INTERRUPTIBLE, room) {
                    Ok(()) => {}
                    Err(_) if written != 0 => return Ok((written, at)),
                    Err(error) => return Err(error),
                }
            }
        }
        Ok((written, at))
    }

    fn poll(&self, _file: &OpenFile, waker: Option<&Waker>) -> Result<u32, Errno> {
        if let Some(waker) = waker {
            self.tty.master.watch(waker)?;
            self.tty.accepting.watch(waker)?;
        }
        let state = self.tty.state.lock();
        let mut there = 0;
        if !state.output.is_empty() {
            there |= abi::POLLIN | abi::POLLRDNORM;
        }
        if state.discipline.has_room() {
            there |= abi::POLLOUT | abi::POLLWRNORM;
        }
        if state.pair.deserted {
            there |= abi::POLLHUP;
        }
        Ok(there)
    }

    fn unwatch(&self, _file: &OpenFile, waker: &Waker) {
        self.tty.master.unwatch(waker);
        self.tty.accepting.unwatch(waker);
    }

    fn ioctl(&self, file: &Arc<OpenFile>, request: u32, arg: usize) -> Result<usize, Errno> {
        self.requests(file, request, arg)
    }

    fn release(&self, _file: &OpenFile) {
        self.tty.state.lock().pair.master_gone = true;
        self.tty.hang_up_all();
        self.number.hide();
    }
}
