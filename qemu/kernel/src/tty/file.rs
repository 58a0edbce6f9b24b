//! An open terminal, as programs on its side have it.

use alloc::sync::Arc;
use core::task::Waker;

use linux_raw_sys::general as abi;
use syscalls::Errno;
use syscalls::credentials::Capabilities;

use super::Tty;
use crate::fs::copy::{Sink, Source};
use crate::fs::file::{FileOps, OpenFile};
use crate::fs::permission;
use crate::task;

/// An open terminal.
pub(crate) struct TtyFile {
    tty: Arc<Tty>,
    /// The terminal's when it was opened; `None` for `/dev/console`, which no hang-up ends.
    generation: Option<u32>,
}

impl TtyFile {
    /// Opens `tty`; a leader of a session without a terminal gets it, unless `flags` forbid that.
    ///
    /// # Errors
    /// `EIO`: a pseudo terminal that is locked, or whose other side is closed. `EBUSY`: somebody has it alone. `ENOMEM`.
    pub(crate) fn open(tty: &Arc<Tty>, flags: u32) -> Result<Arc<Self>, Errno> {
        let opened = Self::make(tty, true)?;
        if flags & abi::O_NOCTTY == 0 && flags & abi::O_ACCMODE != abi::O_WRONLY {
            task::with_current(|thread| tty.become_controlling_if_free(thread));
        }
        Ok(opened)
    }

    /// Opens `tty` as `/dev/console`.
    ///
    /// # Errors
    /// `EBUSY`, `ENOMEM`.
    pub(crate) fn open_console(tty: &Arc<Tty>) -> Result<Arc<Self>, Errno> {
        Self::make(tty, false)
    }

    fn make(tty: &Arc<Tty>, ends_with_hang_up: bool) -> Result<Arc<Self>, Errno> {
        // The first process's files are opened before it is there.
        let credentials = permission::current();
        let mut state = tty.state.lock();
        if state.exclusive && !credentials.capable(&credentials.user_ns, Capabilities::SYS_ADMIN) {
            return Err(Errno::EBUSY);
        }
        state.pair.may_open()?;
        let generation = ends_with_hang_up.then_some(state.generation);
        let file = TtyFile { tty: Arc::clone(tty), generation };
        let file = mnt_table::memory::arc(file).map_err(|_| Errno::ENOMEM)?;
        state.opens += 1;
        state.pair.opened();
        Ok(file)
    }

    fn generation(&self) -> u32 {
        self.generation.unwrap_or_else(|| self.tty.state.lock().generation)
    }
}

impl FileOps for TtyFile {
    fn read(&self, file: &OpenFile, to: &mut Sink<'_>, _at: u64) -> Result<usize, Errno> {
        let generation = self.generation();
        if self.tty.is_hung_up(generation) || to.left() == 0 {
            return Ok(0);
        }
        self.tty.may_read()?;
        self.tty.read(file, generation, to)
    }

    fn write(&self, file: &OpenFile, from: &mut Source<'_>, at: u64) -> Result<(usize, u64), Errno> {
        self.tty.may_write()?;
        self.tty.write(file, self.generation(), from).map(|count| (count, at))
    }

    fn poll(&self, _file: &OpenFile, waker: Option<&Waker>) -> Result<u32, Errno> {
        self.tty.poll(self.generation(), waker)
    }

    fn unwatch(&self, _file: &OpenFile, waker: &Waker) {
        self.tty.unwatch(waker);
    }

    fn ioctl(&self, _file: &Arc<OpenFile>, request: u32, arg: usize) -> Result<usize, Errno> {
        let generation = self.generation();
        if self.tty.is_hung_up(generation) {
            return Err(Errno::EIO);
        }
        self.tty.ioctl(generation, request, arg)
    }

    fn release(&self, _file: &OpenFile) {
        self.tty.closed();
    }
}

impl Tty {
    /// One open file less: those that were hung up count until they are closed.
    fn closed(&self) {
        let last = {
            let mut state = self.state.lock();
            state.opens -= 1;
            if state.opens == 0 {
                state.exclusive = false;
                state.pair.closed();
            }
            state.opens == 0
        };
        if last {
            self.master.wake();
        }
    }
}
