//! Sessions and terminals: whose controlling terminal one is, which of its process groups is in the foreground, and what
//! happens to the others.
//!
//! Source: credentials(7), POSIX "Controlling Terminal".

use alloc::sync::Arc;

use linux_raw_sys::general as abi;
use syscalls::Errno;
use syscalls::credentials::Capabilities;

use super::Tty;
use super::discipline::Key;
use crate::task::pid::Pid;
use crate::task::process::{Session, Terminal};
use crate::task::signal::{self, Info};
use crate::task::{self, Thread};

impl Tty {
    /// The session whose controlling terminal it is.
    fn session(&self) -> Option<Arc<Session>> {
        self.state.lock().session.as_ref()?.upgrade()
    }

    /// Whether it is the controlling terminal of `thread`.
    fn controls(&self, thread: &Thread) -> bool {
        self.session().is_some_and(|session| Arc::ptr_eq(&session, &thread.process().session()))
    }

    /// Whether the calling task may read: it is in the foreground, or nobody is.
    ///
    /// # Errors
    /// `ERESTARTSYS`: it was sent `SIGTTIN`. `EIO`: that would do nothing.
    pub(super) fn may_read(&self) -> Result<(), Errno> {
        self.must_be_in_foreground(abi::SIGTTIN)
    }

    /// Whether the calling task may write.
    ///
    /// # Errors
    /// With `TOSTOP`, as [`Tty::may_change`].
    pub(super) fn may_write(&self) -> Result<(), Errno> {
        let stops = self.state.lock().discipline.termios().c_lflag & abi::TOSTOP != 0;
        if stops { self.must_be_in_foreground(abi::SIGTTOU) } else { Ok(()) }
    }

    /// Whether the calling task may change the terminal.
    ///
    /// # Errors
    /// `ERESTARTSYS`: it was sent `SIGTTOU`. `EIO`: its process group is orphaned.
    pub(super) fn may_change(&self) -> Result<(), Errno> {
        self.must_be_in_foreground(abi::SIGTTOU)
    }

    fn must_be_in_foreground(&self, signal: u32) -> Result<(), Errno> {
        let thread = task::current();
        if !self.controls(&thread) {
            return Ok(());
        }
        let own = thread.process().group();
        match &self.state.lock().foreground {
            Some(foreground) if !Arc::ptr_eq(foreground, &own) => {}
            _ => return Ok(()),
        }
        if signal::is_ignored(&thread, signal) {
            return if signal == abi::SIGTTIN { Err(Errno::EIO) } else { Ok(()) };
        }
        if task::process::is_orphaned(&own) {
            return Err(Errno::EIO);
        }
        signal::send_to_group(&own, Info::kernel(signal));
        Err(signal::ERESTARTSYS)
    }

    /// A key that stands for a signal was pressed.
    pub(super) fn press(&self, key: Key) {
        let signal = match key {
            Key::Interrupt => abi::SIGINT,
            Key::Quit => abi::SIGQUIT,
            Key::Suspend => abi::SIGTSTP,
        };
        self.signal_foreground(signal);
    }

    /// Sends a signal to the foreground.
    pub(super) fn signal_foreground(&self, signal: u32) {
        let foreground = self.state.lock().foreground.clone();
        if let Some(foreground) = foreground {
            signal::send_to_group(&foreground, Info::kernel(signal));
        }
    }

    /// Makes it the controlling terminal of the caller's session, if that has none and is nobody's else, and the caller
    /// leads it.
    pub(super) fn become_controlling_if_free(self: &Arc<Self>, thread: &Thread) {
        let process = thread.process();
        let session = process.session();
        if process.is_session_leader() && session.terminal().is_none() && self.session().is_none() {
            self.control(&session, process.group());
        }
    }

    fn control(self: &Arc<Self>, session: &Arc<Session>, foreground: Arc<Pid>) {
        {
            let mut state = self.state.lock();
            state.session = Some(Arc::downgrade(session));
            state.foreground = Some(foreground);
        }
        session.set_terminal(Some(Arc::clone(self) as Arc<dyn Terminal>));
    }

    /// `TIOCSCTTY`
    pub(super) fn set_controlling(self: &Arc<Self>, steal: bool) -> Result<(), Errno> {
        let thread = task::current();
        let process = thread.process();
        let session = process.session();
        if process.is_session_leader() && self.controls(&thread) {
            return Ok(());
        }
        if !process.is_session_leader() || session.terminal().is_some() {
            return Err(Errno::EPERM);
        }
        if let Some(other) = self.session() {
            let credentials = thread.credentials();
            if !steal || !credentials.capable(&mnt_table::UserNs::INITIAL, Capabilities::SYS_ADMIN) {
                return Err(Errno::EPERM);
            }
            other.set_terminal(None);
        }
        self.control(&session, process.group());
        Ok(())
    }

    /// `TIOCNOTTY`: the caller's session has no terminal any more, if the caller leads it.
    pub(super) fn give_up(&self) -> Result<(), Errno> {
        let thread = task::current();
        if !self.controls(&thread) {
            return Err(Errno::ENOTTY);
        }
        let process = thread.process();
        if process.is_session_leader() {
            self.signal_foreground(abi::SIGHUP);
            self.signal_foreground(abi::SIGCONT);
            self.forget_session();
            process.session().set_terminal(None);
        }
        Ok(())
    }

    fn forget_session(&self) {
        let mut state = self.state.lock();
        let old = (state.session.take(), state.foreground.take());
        drop(state);
        drop(old);
    }

    /// `TIOCGPGRP`; `any`: whoever asks.
    pub(super) fn foreground_number(&self, any: bool) -> Result<u32, Errno> {
        let thread = task::current();
        if !any && !self.controls(&thread) {
            return Err(Errno::ENOTTY);
        }
        let foreground = self.state.lock().foreground.clone();
        Ok(foreground.map_or(0, |group| group.number_in(thread.pid_ns()).unwrap_or(0)))
    }

    /// `TIOCGSID`
    pub(super) fn session_number(&self, any: bool) -> Result<u32, Errno> {
        let thread = task::current();
        if !any && !self.controls(&thread) {
            return Err(Errno::ENOTTY);
        }
        let session = self.session().ok_or(Errno::ENOTTY)?;
        Ok(session.id.number_in(thread.pid_ns()).unwrap_or(0))
    }

    /// `TIOCSPGRP`
    pub(super) fn set_foreground(&self, number: i32) -> Result<(), Errno> {
        let thread = task::current();
        match self.may_change() {
            Err(Errno::EIO) => return Err(Errno::ENOTTY),
            other => other?,
        }
        if !self.controls(&thread) {
            return Err(Errno::ENOTTY);
        }
        let number = u32::try_from(number).map_err(|_| Errno::EINVAL)?;
        let group = thread.pid_ns().pid(number).ok_or(Errno::ESRCH)?;
        if !thread.process().session().has_group(&group) {
            return Err(Errno::EPERM);
        }
        let old = self.state.lock().foreground.replace(group);
        drop(old);
        Ok(())
    }

    /// A new size of the window: the foreground is told.
    pub(super) fn resize(&self, window: abi::winsize) {
        let changed = {
            let mut state = self.state.lock();
            let same = |a: &abi::winsize, b: &abi::winsize| {
                (a.ws_row, a.ws_col, a.ws_xpixel, a.ws_ypixel)
                    == (b.ws_row, b.ws_col, b.ws_xpixel, b.ws_ypixel)
            };
            let changed = !same(&state.window, &window);
            state.window = window;
            changed
        };
        if changed {
            self.signal_foreground(abi::SIGWINCH);
        }
    }

    /// Ends all open files but `/dev/console`, and the session's hold on it; the session and the foreground are told.
    pub(super) fn hang_up_all(&self) {
        let session = self.session();
        let foreground = {
            let mut state = self.state.lock();
            state.generation = state.generation.wrapping_add(1);
            // What was put out before is still sent, or read at the other side.
            state.discipline.flush_input();
            state.exclusive = false;
            state.foreground.take()
        };
        self.forget_session();
        if let Some(session) = session {
            session.set_terminal(None);
            if let Some(leader) = session.leader() {
                signal::send_to_process(&leader, Info::kernel(abi::SIGHUP));
                signal::send_to_process(&leader, Info::kernel(abi::SIGCONT));
            }
        }
        if let Some(foreground) = foreground {
            signal::send_to_group(&foreground, Info::kernel(abi::SIGHUP));
            signal::send_to_group(&foreground, Info::kernel(abi::SIGCONT));
        }
        for list in [&self.readable, &self.writable, &self.accepting, &self.master] {
            list.wake();
        }
    }
}

impl Terminal for Tty {
    fn device(&self) -> u64 {
        let (major, minor) = self.device;
        u64::from(major) << 8 | u64::from(minor)
    }

    fn foreground(&self) -> Option<Arc<Pid>> {
        self.state.lock().foreground.clone()
    }

    fn hang_up(&self) {
        self.hang_up_all();
    }
}
