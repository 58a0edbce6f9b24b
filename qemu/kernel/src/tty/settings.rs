//! ioctl(2) on terminals.

use alloc::sync::Arc;

use linux_raw_sys::general::{self as abi, termios2, winsize};
use linux_raw_sys::ioctl;
use syscalls::Errno;
use syscalls::credentials::Capabilities;

use super::{Kind, State, Tty, pty};
use crate::fs::file::OpenFile;
use crate::mm::user;
use crate::task;

/// Bytes of `struct termios` and `struct termios2`.
const OLD: usize = 36;
const NEW: usize = 44;

/// `struct termios2`, whose beginning is `struct termios`.
fn to_bytes(termios: &termios2) -> [u8; NEW] {
    let mut bytes = [0; NEW];
    let words = [termios.c_iflag, termios.c_oflag, termios.c_cflag, termios.c_lflag];
    for (place, word) in bytes.chunks_exact_mut(4).zip(words) {
        place.copy_from_slice(&word.to_ne_bytes());
    }
    bytes[16] = termios.c_line;
    bytes[17..OLD].copy_from_slice(&termios.c_cc);
    bytes[OLD..40].copy_from_slice(&termios.c_ispeed.to_ne_bytes());
    bytes[40..].copy_from_slice(&termios.c_ospeed.to_ne_bytes());
    bytes
}

/// The settings that `bytes` stand for; the old structure has no speeds but those in `c_cflag`.
fn from_bytes(bytes: &[u8], old: &termios2) -> termios2 {
    let word = |at: usize| {
        let mut word = [0; 4];
        word.copy_from_slice(&bytes[at..at + 4]);
        u32::from_ne_bytes(word)
    };
    let mut termios = termios2 {
        c_iflag: word(0),
        c_oflag: word(4),
        c_cflag: word(8),
        c_lflag: word(12),
        c_line: 0,
        c_cc: old.c_cc,
        c_ispeed: old.c_ispeed,
        c_ospeed: old.c_ospeed,
    };
    termios.c_cc.copy_from_slice(&bytes[17..OLD]);
    let speed = if bytes.len() == NEW && termios.c_cflag & abi::CBAUD == abi::BOTHER {
        Some((word(OLD), word(40)))
    } else {
        baud(termios.c_cflag & abi::CBAUD).map(|speed| (speed, speed))
    };
    if let Some(speed) = speed {
        (termios.c_ispeed, termios.c_ospeed) = speed;
    }
    termios
}

/// Bits per second.
fn baud(code: u32) -> Option<u32> {
    #[rustfmt::skip]
    const SPEEDS: [(u32, u32); 20] = [
        (abi::B0, 0), (abi::B50, 50), (abi::B75, 75), (abi::B110, 110), (abi::B134, 134), (abi::B150, 150),
        (abi::B200, 200), (abi::B300, 300), (abi::B600, 600), (abi::B1200, 1200), (abi::B1800, 1800),
        (abi::B2400, 2400), (abi::B4800, 4800), (abi::B9600, 9600), (abi::B19200, 19200), (abi::B38400, 38400),
        (abi::B57600, 57600), (abi::B115200, 115_200), (abi::B230400, 230_400), (abi::B460800, 460_800),
    ];
    SPEEDS.iter().find_map(|(known, speed)| (*known == code).then_some(*speed))
}

/// When a change of settings takes place.
#[derive(Clone, Copy, PartialEq, Eq)]
enum When {
    Now,
    Drained,
    DrainedAndFlushed,
}

impl Tty {
    /// ioctl(2) on the side of programs, by a file of `generation`.
    ///
    /// # Errors
    /// `ENOTTY`: no such request. `EFAULT`, `EINVAL`, `EPERM`, and those of job control.
    pub(super) fn ioctl(self: &Arc<Self>, generation: u32, request: u32, arg: usize) -> Result<usize, Errno> {
        match request {
            ioctl::TIOCGPGRP => put(arg, self.foreground_number(false)?),
            ioctl::TIOCGSID => put(arg, self.session_number(false)?),
            ioctl::TIOCSPGRP => self.set_foreground(user::get::<i32>(arg)?).map(|()| 0),
            ioctl::TIOCSCTTY => self.set_controlling(arg == 1).map(|()| 0),
            ioctl::TIOCNOTTY => self.give_up().map(|()| 0),
            ioctl::FIONREAD => put(arg, self.look(|state| state.discipline.readable() as u32)),
            ioctl::TIOCOUTQ => put(arg, self.look(|state| state.output.len() as u32)),
            ioctl::TIOCVHANGUP => {
                must_administer(Errno::EPERM)?;
                self.hang_up_all();
                Ok(0)
            }
            ioctl::TIOCSTI => {
                // Whoever could type for others is asked for privilege, as Linux does unless it is told not to.
                must_administer(Errno::EIO)?;
                self.receive(&[user::get::<u8>(arg)?]);
                Ok(0)
            }
            ioctl::TCSBRK | ioctl::TCSBRKP => {
                self.may_change()?;
                self.drain(generation).map(|()| 0)
            }
            ioctl::TCXONC => {
                self.may_change()?;
                self.flow(arg).map(|()| 0)
            }
            _ => self.common_ioctl(generation, request, arg),
        }
    }

    /// Requests that both sides of a pseudo terminal take, about the side of programs.
    pub(super) fn common_ioctl(&self, generation: u32, request: u32, arg: usize) -> Result<usize, Errno> {
        match request {
            ioctl::TCGETS => put_bytes(arg, &to_bytes(&self.termios())[..OLD]),
            ioctl::TCGETS2 => put_bytes(arg, &to_bytes(&self.termios())),
            ioctl::TCSETS => self.set::<OLD>(generation, arg, When::Now),
            ioctl::TCSETSW => self.set::<OLD>(generation, arg, When::Drained),
            ioctl::TCSETSF => self.set::<OLD>(generation, arg, When::DrainedAndFlushed),
            ioctl::TCSETS2 => self.set::<NEW>(generation, arg, When::Now),
            ioctl::TCSETSW2 => self.set::<NEW>(generation, arg, When::Drained),
            ioctl::TCSETSF2 => self.set::<NEW>(generation, arg, When::DrainedAndFlushed),
            ioctl::TCFLSH => {
                self.may_change()?;
                self.flush(arg).map(|()| 0)
            }
            ioctl::TIOCGWINSZ => {
                let window = self.state.lock().window;
                user::put(arg, [window.ws_row, window.ws_col, window.ws_xpixel, window.ws_ypixel])?;
                Ok(0)
            }
            ioctl::TIOCSWINSZ => {
                let [ws_row, ws_col, ws_xpixel, ws_ypixel] = user::get::<[u16; 4]>(arg)?;
                self.resize(winsize { ws_row, ws_col, ws_xpixel, ws_ypixel });
                Ok(0)
            }
            ioctl::TIOCEXCL | ioctl::TIOCNXCL => {
                self.state.lock().exclusive = request == ioctl::TIOCEXCL;
                Ok(0)
            }
            ioctl::TIOCGEXCL => put(arg, self.look(|state| u32::from(state.exclusive))),
            ioctl::TIOCGETD => put(arg, 0),
            // There is one line discipline.
            ioctl::TIOCSETD => match user::get::<u32>(arg)? {
                0 => Ok(0),
                _ => Err(Errno::EINVAL),
            },
            ioctl::TIOCGDEV => {
                let (major, minor) = self.device;
                put(arg, major << 8 | minor)
            }
            _ => Err(Errno::ENOTTY),
        }
    }

    fn termios(&self) -> termios2 {
        self.look(|state| *state.discipline.termios())
    }

    /// Looks at the state, and lets go of it: user memory is not touched under its lock.
    fn look<R>(&self, look: impl FnOnce(&State) -> R) -> R {
        look(&self.state.lock())
    }

    fn set<const SIZE: usize>(&self, generation: u32, arg: usize, when: When) -> Result<usize, Errno> {
        self.may_change()?;
        let bytes = user::get::<[u8; SIZE]>(arg)?;
        if when != When::Now {
            self.drain(generation)?;
        }
        let (changed, started) = {
            let mut state = self.state.lock();
            if when == When::DrainedAndFlushed {
                state.discipline.flush_input();
            }
            let was_stopped = state.discipline.stopped;
            let mut new = from_bytes(&bytes, state.discipline.termios());
            if self.kind == Kind::Pty {
                // There is no line that could have another size or parity.
                new.c_cflag = new.c_cflag & !(abi::CSIZE | abi::PARENB) | abi::CS8 | abi::CREAD;
            }
            (state.discipline.set_termios(new), was_stopped && !state.discipline.stopped)
        };
        if changed {
            self.readable.wake();
        }
        self.accepting.wake();
        if started {
            self.writable.wake();
            self.start();
        }
        Ok(0)
    }

    /// `TCFLSH`
    fn flush(&self, which: usize) -> Result<(), Errno> {
        let (input, output) = match u32::try_from(which) {
            Ok(abi::TCIFLUSH) => (true, false),
            Ok(abi::TCOFLUSH) => (false, true),
            Ok(abi::TCIOFLUSH) => (true, true),
            _ => return Err(Errno::EINVAL),
        };
        if input {
            self.state.lock().discipline.flush_input();
            self.accepting.wake();
        }
        if output {
            self.state.lock().output.clear();
            self.writable.wake();
        }
        Ok(())
    }

    /// `TCXONC`
    fn flow(&self, action: usize) -> Result<(), Errno> {
        match u32::try_from(action) {
            Ok(abi::TCOOFF) => self.state.lock().discipline.stopped = true,
            Ok(abi::TCOON) => {
                self.state.lock().discipline.stopped = false;
                self.writable.wake();
                self.start();
            }
            // The sender is asked to stop or to go on.
            Ok(action @ (abi::TCIOFF | abi::TCION)) => {
                let which = if action == abi::TCIOFF { abi::VSTOP } else { abi::VSTART };
                let mut state = self.state.lock();
                let byte = state.discipline.termios().c_cc[which as usize];
                if byte != 0 && state.can_write() {
                    state.output.push_back(byte);
                }
                drop(state);
                self.start();
            }
            _ => return Err(Errno::EINVAL),
        }
        Ok(())
    }
}

/// # Errors
/// `error`: the calling task has no `CAP_SYS_ADMIN`.
fn must_administer(error: Errno) -> Result<(), Errno> {
    let credentials = task::current().credentials();
    if credentials.capable(&credentials.user_ns, Capabilities::SYS_ADMIN) { Ok(()) } else { Err(error) }
}

fn put(addr: usize, value: u32) -> Result<usize, Errno> {
    user::put(addr, value).map(|()| 0)
}

fn put_bytes(addr: usize, bytes: &[u8]) -> Result<usize, Errno> {
    user::write(addr, bytes).map(|()| 0)
}

impl pty::Master {
    /// ioctl(2) on the other side of a pseudo terminal.
    ///
    /// # Errors
    /// As [`Tty::ioctl`].
    pub(super) fn requests(&self, file: &OpenFile, request: u32, arg: usize) -> Result<usize, Errno> {
        let tty = self.tty();
        match request {
            ioctl::TIOCGPTN => put(arg, self.number()),
            ioctl::TIOCSPTLCK => {
                let lock = user::get::<i32>(arg)? != 0;
                tty.state.lock().pair.set_locked(lock);
                Ok(0)
            }
            ioctl::TIOCGPTLCK => put(arg, tty.look(|state| u32::from(state.pair.is_locked()))),
            ioctl::TIOCGPTPEER => self.open_peer(file, arg as u32),
            ioctl::TIOCPKT => {
                let on = user::get::<i32>(arg)? != 0;
                tty.state.lock().pair.set_packets(on);
                Ok(0)
            }
            ioctl::TIOCGPKT => put(arg, tty.look(|state| u32::from(state.pair.packets()))),
            ioctl::TIOCGPGRP => put(arg, tty.foreground_number(true)?),
            ioctl::TIOCGSID => put(arg, tty.session_number(true)?),
            ioctl::TIOCSIG => {
                let signal = u32::try_from(arg).map_err(|_| Errno::EINVAL)?;
                if !matches!(signal, abi::SIGINT | abi::SIGQUIT | abi::SIGTSTP) {
                    return Err(Errno::EINVAL);
                }
                tty.signal_foreground(signal);
                Ok(0)
            }
            ioctl::FIONREAD => put(arg, tty.look(|state| state.output.len() as u32)),
            _ => {
                let generation = tty.state.lock().generation;
                tty.common_ioctl(generation, request, arg)
            }
        }
    }
}
