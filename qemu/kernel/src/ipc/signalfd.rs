//! signalfd4(2): signals as something to read. They are the reader's, whoever made the file.

use core::task::Waker;

use linux_raw_sys::general as abi;
use syscalls::Errno;

use crate::arch::spin::SpinLock;
use crate::fs::anon;
use crate::fs::copy::Sink;
use crate::fs::file::{FileOps, OpenFile};
use crate::mm::user;
use crate::sched::wait::Wait;
use crate::task;
use crate::task::signal::{Detail, Info, SigSet};

/// Bytes of `struct signalfd_siginfo`.
const INFO: usize = 128;

struct SignalFd(SpinLock<SigSet>);

/// signalfd4(2): a new file, or another set for the file `fd`.
///
/// # Errors
/// `EINVAL`: a set of another size, unknown flags, another kind of file; `EFAULT`, `EBADF`, `EMFILE`, `ENOMEM`.
pub(super) fn signalfd4(fd: i32, (set, size): (usize, usize), flags: u32) -> Result<usize, Errno> {
    if size != size_of::<abi::kernel_sigset_t>() {
        return Err(Errno::EINVAL);
    }
    let set = SigSet(user::get::<u64>(set)?).without(SigSet::UNBLOCKABLE);
    if flags & !(abi::O_CLOEXEC | abi::O_NONBLOCK) != 0 {
        return Err(Errno::EINVAL);
    }
    if fd == -1 {
        let ops = mnt_table::memory::arc(SignalFd(SpinLock::new(set))).map_err(|_| Errno::ENOMEM)?;
        let status = abi::O_RDWR | flags & abi::O_NONBLOCK;
        return anon::install(ops, anon::Kind::Anon("[signalfd]"), status, flags & abi::O_CLOEXEC != 0);
    }
    let thread = task::current();
    let file = thread.files().get_open(fd)?;
    *file.as_ops::<SignalFd>().ok_or(Errno::EINVAL)?.0.lock() = set;
    thread.process().signal_waiters.wake();
    Ok(fd as usize)
}

impl FileOps for SignalFd {
    fn read(&self, file: &OpenFile, to: &mut Sink<'_>, _at: u64) -> Result<usize, Errno> {
        let room = to.left() / INFO;
        if room == 0 {
            return Err(Errno::EINVAL);
        }
        let thread = task::current();
        let take = || thread.dequeue(*self.0.lock());
        let mut done = 0;
        for index in 0..room {
            let info = match take() {
                Some(info) => info,
                None if index != 0 => break,
                None if file.is_nonblocking() => return Err(Errno::EAGAIN),
                None => thread.process().signal_waiters.wait(Wait::INTERRUPTIBLE, take)?,
            };
            done += to.put(&to_bytes(&info))?;
        }
        Ok(done)
    }

    fn poll(&self, _file: &OpenFile, waker: Option<&Waker>) -> Result<u32, Errno> {
        let thread = task::current();
        if let Some(waker) = waker {
            thread.process().signal_waiters.watch(waker)?;
        }
        let pending = thread.pending().and(*self.0.lock());
        Ok(if pending.is_empty() { 0 } else { abi::POLLIN })
    }

    fn unwatch(&self, _file: &OpenFile, waker: &Waker) {
        task::with_current(|thread| thread.process().signal_waiters.unwatch(waker));
    }
}

/// `struct signalfd_siginfo`
fn to_bytes(info: &Info) -> [u8; INFO] {
    let mut bytes = [0; INFO];
    let mut put = |at: usize, value: u64, len: usize| {
        bytes[at..at + len].copy_from_slice(&value.to_ne_bytes()[..len]);
    };
    put(0, info.signal.into(), 4);
    put(4, info.errno as u64, 4);
    put(8, info.code as u64, 4);
    match info.detail {
        Detail::None => {}
        Detail::Sender { pid, uid, value } => {
            put(12, pid.into(), 4);
            put(16, uid.into(), 4);
            put(44, value, 4);
            put(48, value, 8);
        }
        Detail::Child { pid, uid, status, user_ticks, system_ticks } => {
            put(12, pid.into(), 4);
            put(16, uid.into(), 4);
            put(40, status as u64, 4);
            put(56, user_ticks, 8);
            put(64, system_ticks, 8);
        }
        Detail::Fault { address } => put(72, address, 8),
        Detail::Timer { id, overrun, value, .. } => {
            put(24, id as u64, 4);
            put(32, overrun as u64, 4);
            put(44, value, 4);
            put(48, value, 8);
        }
        Detail::Raw(raw) => {
            // What rt_sigqueueinfo(2) says: process, user, value.
            let word = |at: usize| u32::from_ne_bytes([raw[at], raw[at + 1], raw[at + 2], raw[at + 3]]);
            put(12, word(0).into(), 4);
            put(16, word(4).into(), 4);
            put(44, word(8).into(), 4);
            put(48, u64::from(word(8)) | u64::from(word(12)) << 32, 8);
        }
    }
    bytes
}
