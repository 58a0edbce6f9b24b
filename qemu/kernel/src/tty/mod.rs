//! Terminals: the console on the serial port, and pseudo terminals.
//!
//! | file | what |
//! |---|---|
//! | [`discipline`] | what happens between bytes that arrive and bytes that are read |
//! | this one | a terminal: its queues, who waits for them, reading and writing |
//! | [`job_control`] | sessions and their foreground: who may read, write and set it, signals of keys |
//! | [`settings`] | ioctl(2) |
//! | [`console`], [`receive`] | the serial port |
//! | [`pty`] | pseudo terminals |
//!
//! 1. A driver hands bytes that arrive to [`Tty::receive`]; readers take them from the discipline.
//! 2. What is written goes through the discipline into `output`, and from there to the driver ([`Tty::start`]): onto the
//!    serial port, or to whoever reads the other side of a pseudo terminal.
//! 3. A hang-up starts a new generation: files that were opened before are at their end for good.
//!
//! # Lock order
//! `sender` (sleeping) → `state`, which is a leaf: under it no session is asked, no list of waiters woken, no signal sent and
//! no user memory touched.

use alloc::collections::VecDeque;
use alloc::sync::{Arc, Weak};
use core::task::Waker;

use linux_raw_sys::general::{self as abi, termios2, winsize};
use mnt_table::sync::BlockingMutex;
use syscalls::Errno;

use self::discipline::{Discipline, Effect, OUTPUT_MAX};
use crate::arch::clock;
use crate::arch::spin::SpinLock;
use crate::fs::copy::{Sink, Source};
use crate::fs::file::OpenFile;
use crate::sched::wait::{Wait, WaitList};
use crate::task::pid::Pid;
use crate::task::process::Session;

pub(crate) mod console;
mod discipline;
mod file;
mod job_control;
pub(crate) mod pty;
pub(crate) mod receive;
mod settings;

pub(crate) use file::TtyFile;

/// Bytes that are copied at a time.
const CHUNK: usize = 256;
/// What `VTIME` counts.
const TENTH_NS: u64 = 100_000_000;

/// A terminal.
pub(crate) struct Tty {
    /// Major and minor number.
    device: (u32, u32),
    kind: Kind,
    /// Held by whoever passes output on to the serial port, so that it stays in order.
    sender: BlockingMutex<()>,
    state: SpinLock<State>,
    /// Something to read, an end, a hang-up.
    readable: WaitList,
    /// Room for output, a hang-up.
    writable: WaitList,
    /// Room for what arrives, a hang-up.
    accepting: WaitList,
    /// A pseudo terminal's output, for whoever reads the other side.
    master: WaitList,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Console,
    Pty,
}

struct State {
    discipline: Discipline,
    output: VecDeque<u8>,
    window: winsize,
    /// Whose controlling terminal it is.
    session: Option<Weak<Session>>,
    /// The process group that keys signal and that may read.
    foreground: Option<Arc<Pid>>,
    /// Hang-ups so far.
    generation: u32,
    /// Open files.
    opens: usize,
    /// Nobody else may open it (`TIOCEXCL`).
    exclusive: bool,
    pair: pty::Pair,
}

impl Tty {
    fn new(device: (u32, u32), kind: Kind, termios: termios2, window: winsize) -> Result<Arc<Self>, Errno> {
        let mut output = VecDeque::new();
        output.try_reserve_exact(OUTPUT_MAX).map_err(|_| Errno::ENOMEM)?;
        let state = State {
            discipline: Discipline::new(termios)?,
            output,
            window,
            session: None,
            foreground: None,
            generation: 0,
            opens: 0,
            exclusive: false,
            pair: pty::Pair::default(),
        };
        let tty = Tty {
            device,
            kind,
            sender: BlockingMutex::new(()),
            state: SpinLock::new(state),
            readable: WaitList::new(),
            writable: WaitList::new(),
            accepting: WaitList::new(),
            master: WaitList::new(),
        };
        mnt_table::memory::arc(tty).map_err(|_| Errno::ENOMEM)
    }

    /// Bytes that arrived; returns how many were taken. Less: there is no room until somebody reads.
    ///
    /// Context: threads; may block.
    fn receive(&self, bytes: &[u8]) -> usize {
        let (mut all, mut taken) = (Effect::default(), 0);
        let mut keys = heapless::Vec::<discipline::Key, 8>::new();
        {
            let mut state = self.state.lock();
            let State { discipline, output, .. } = &mut *state;
            for &byte in bytes {
                if !discipline.has_room() || keys.is_full() {
                    break;
                }
                let effect = discipline.receive(byte, output);
                taken += 1;
                all.readable |= effect.readable;
                all.started |= effect.started;
                effect.key.into_iter().for_each(|key| {
                    let _ = keys.push(key); // There is room.
                });
            }
        }
        if all.readable {
            self.readable.wake();
        }
        keys.into_iter().for_each(|key| self.press(key));
        if all.started {
            self.writable.wake();
        }
        self.start();
        taken
    }

    /// Passes output on to where it goes.
    ///
    /// Context: threads; may block.
    fn start(&self) {
        match self.kind {
            Kind::Pty => self.master.wake(),
            Kind::Console => self.send(),
        }
    }

    /// Sends at least what is in `output` now, unless it was stopped by a key.
    fn send(&self) {
        let mut left = self.state.lock().output.len();
        while left != 0 {
            let _in_order = self.sender.lock();
            let mut chunk = heapless::Vec::<u8, CHUNK>::new();
            {
                let mut state = self.state.lock();
                if state.discipline.stopped {
                    return;
                }
                let count = state.output.len().min(CHUNK);
                chunk.extend(state.output.drain(..count));
            }
            if chunk.is_empty() {
                return;
            }
            console::transmit(&chunk);
            left = left.saturating_sub(chunk.len());
            self.writable.wake();
        }
    }

    /// Whether a file of `generation` was hung up.
    fn is_hung_up(&self, generation: u32) -> bool {
        self.state.lock().generation != generation
    }

    /// read(2) of a terminal that the caller may read.
    fn read(&self, file: &OpenFile, generation: u32, to: &mut Sink<'_>) -> Result<usize, Errno> {
        let start = to.done();
        let mut deadline = None;
        let mut first = true;
        loop {
            let mut chunk = [0; CHUNK];
            let wanted = to.left().min(CHUNK);
            let (got, limits) = {
                let mut state = self.state.lock();
                if state.generation != generation || state.pair.master_is_gone() {
                    break;
                }
                let limits = state.discipline.raw_limits();
                let got =
                    state.discipline.is_readable(1).then(|| state.discipline.read(&mut chunk[..wanted]));
                (got, limits)
            };
            if let Some((count, ended)) = got {
                self.accepting.wake();
                if count != 0 {
                    to.put(&chunk[..count])?;
                }
                if ended || to.left() == 0 {
                    break;
                }
                deadline = None;
                if count != 0 {
                    first = false;
                    continue;
                }
            }
            let done = to.done() - start;
            match limits {
                // Of a canonical line that is longer than a chunk there is more; of none, nothing yet.
                None if done != 0 => break,
                None => {}
                Some((least, _)) if done >= least.max(1) => break,
                Some((0, 0)) => break,
                // Between bytes, or from the call on if no byte is asked for.
                Some((least, tenths)) if tenths != 0 && (least == 0 || !first) && deadline.is_none() => {
                    deadline = Some(clock::now_ns() + u64::from(tenths) * TENTH_NS);
                }
                Some(_) => {}
            }
            if file.is_nonblocking() {
                return if done == 0 { Err(Errno::EAGAIN) } else { Ok(done) };
            }
            let ready = || {
                let state = self.state.lock();
                let ends = state.generation != generation || state.pair.master_is_gone();
                (ends || state.discipline.is_readable(1)).then_some(())
            };
            match self.readable.wait(Wait::INTERRUPTIBLE.until(deadline), ready) {
                Ok(()) => {}
                Err(Errno::ETIMEDOUT) => break,
                Err(_) if done != 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(to.done() - start)
    }

    /// write(2) of a terminal that the caller may write.
    fn write(&self, file: &OpenFile, generation: u32, from: &mut Source<'_>) -> Result<usize, Errno> {
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
                let put = self.put(rest, generation);
                match put {
                    Err(_) if written != 0 => return Ok(written),
                    Err(error) => return Err(error),
                    Ok(0) if file.is_nonblocking() => {
                        return if written == 0 { Err(Errno::EAGAIN) } else { Ok(written) };
                    }
                    Ok(0) => {
                        let waited = self.writable.wait(Wait::INTERRUPTIBLE, || {
                            let state = self.state.lock();
                            (state.generation != generation || state.can_write()).then_some(())
                        });
                        match waited {
                            Ok(()) => {}
                            Err(_) if written != 0 => return Ok(written),
                            Err(error) => return Err(error),
                        }
                    }
                    Ok(put) => {
                        written += put;
                        rest = &rest[put..];
                    }
                }
            }
        }
        Ok(written)
    }

    /// Takes as much output as there is room for, and starts it.
    fn put(&self, bytes: &[u8], generation: u32) -> Result<usize, Errno> {
        let put = {
            let mut state = self.state.lock();
            if state.generation != generation || state.pair.master_is_gone() {
                return Err(Errno::EIO);
            }
            let State { discipline, output, .. } = &mut *state;
            if discipline.stopped { 0 } else { discipline.write(bytes, output) }
        };
        if put != 0 {
            self.start();
        }
        Ok(put)
    }

    /// Waits until all output is sent.
    fn drain(&self, generation: u32) -> Result<(), Errno> {
        self.start();
        // What is written to a pseudo terminal is sent once it is written.
        let sent = || {
            let state = self.state.lock();
            let sent = self.kind == Kind::Pty || state.output.is_empty() || state.generation != generation;
            sent.then_some(())
        };
        self.writable.wait(Wait::INTERRUPTIBLE, sent)
    }

    /// poll(2).
    fn poll(&self, generation: u32, waker: Option<&Waker>) -> Result<u32, Errno> {
        if let Some(waker) = waker {
            self.readable.watch(waker)?;
            self.writable.watch(waker)?;
        }
        let state = self.state.lock();
        let (readable, writable) = (abi::POLLIN | abi::POLLRDNORM, abi::POLLOUT | abi::POLLWRNORM);
        if state.generation != generation {
            return Ok(readable | writable | abi::POLLERR | abi::POLLHUP);
        }
        let mut there = 0;
        let least = match state.discipline.raw_limits() {
            Some((least, 0)) => least,
            _ => 1,
        };
        if state.discipline.is_readable(least) {
            there |= readable;
        }
        if state.pair.master_is_gone() {
            there |= readable | abi::POLLHUP;
        }
        if state.can_write() {
            there |= writable;
        }
        Ok(there)
    }

    fn unwatch(&self, waker: &Waker) {
        self.readable.unwatch(waker);
        self.writable.unwatch(waker);
    }
}

impl State {
    fn can_write(&self) -> bool {
        // A newline needs two places.
        !self.discipline.stopped && self.output.len() + 2 <= OUTPUT_MAX
    }
}
