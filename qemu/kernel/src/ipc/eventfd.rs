//! eventfd2(2): a counter to wait for.

use alloc::vec::Vec;
use core::fmt::Write;
use core::sync::atomic::{AtomicU32, Ordering};
use core::task::Waker;

use linux_raw_sys::general as abi;
use syscalls::Errno;

use crate::arch::spin::SpinLock;
use crate::fs::anon;
use crate::fs::copy::{Sink, Source};
use crate::fs::file::{FileOps, OpenFile};
use crate::sched::wait::{Wait, WaitList};

/// The largest value of the counter.
const MAX: u64 = u64::MAX - 1;

static NEXT_ID: AtomicU32 = AtomicU32::new(0);

struct EventFd {
    /// Tells it from others (`/proc/PID/fdinfo`).
    id: u32,
    /// Reading takes one away instead of all.
    semaphore: bool,
    count: SpinLock<u64>,
    changed: WaitList,
}

/// eventfd2(2)
///
/// # Errors
/// `EINVAL`: unknown flags. `EMFILE`, `ENOMEM`.
pub(super) fn eventfd2(count: u32, flags: u32) -> Result<usize, Errno> {
    if flags & !(abi::EFD_SEMAPHORE | abi::EFD_CLOEXEC | abi::EFD_NONBLOCK) != 0 {
        return Err(Errno::EINVAL);
    }
    let file = EventFd {
        // Relaxed: a number.
        id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
        semaphore: flags & abi::EFD_SEMAPHORE != 0,
        count: SpinLock::new(count.into()),
        changed: WaitList::new(),
    };
    let ops = mnt_table::memory::arc(file).map_err(|_| Errno::ENOMEM)?;
    let status = abi::O_RDWR | flags & abi::EFD_NONBLOCK;
    anon::install(ops, anon::Kind::Anon("[eventfd]"), status, flags & abi::EFD_CLOEXEC != 0)
}

impl FileOps for EventFd {
    fn read(&self, file: &OpenFile, to: &mut Sink<'_>, _at: u64) -> Result<usize, Errno> {
        if to.left() < 8 {
            return Err(Errno::EINVAL);
        }
        let take = || {
            let mut count = self.count.lock();
            let taken = match *count {
                0 => return None,
                _ if self.semaphore => 1,
                all => all,
            };
            *count -= taken;
            Some(taken)
        };
        let taken = match take() {
            Some(taken) => taken,
            None if file.is_nonblocking() => return Err(Errno::EAGAIN),
            None => self.changed.wait(Wait::INTERRUPTIBLE, take)?,
        };
        self.changed.wake();
        to.put(&taken.to_ne_bytes())
    }

    fn write(&self, file: &OpenFile, from: &mut Source<'_>, at: u64) -> Result<(usize, u64), Errno> {
        let mut bytes = [0; 8];
        if from.left() < bytes.len() {
            return Err(Errno::EINVAL);
        }
        if from.take(&mut bytes)? != bytes.len() {
            return Err(Errno::EFAULT);
        }
        let more = u64::from_ne_bytes(bytes);
        if more > MAX {
            return Err(Errno::EINVAL);
        }
        let add = || {
            let mut count = self.count.lock();
            if MAX - *count < more {
                return None;
            }
            *count += more;
            Some(())
        };
        match add() {
            Some(()) => {}
            None if file.is_nonblocking() => return Err(Errno::EAGAIN),
            None => self.changed.wait(Wait::INTERRUPTIBLE, add)?,
        }
        if more != 0 {
            self.changed.wake();
        }
        Ok((bytes.len(), at))
    }

    fn poll(&self, _file: &OpenFile, waker: Option<&Waker>) -> Result<u32, Errno> {
        if let Some(waker) = waker {
            self.changed.watch(waker)?;
        }
        let count = *self.count.lock();
        let mut there = 0;
        if count > 0 {
            there |= abi::POLLIN;
        }
        if count < MAX {
            there |= abi::POLLOUT;
        }
        Ok(there)
    }

    fn unwatch(&self, _file: &OpenFile, waker: &Waker) {
        self.changed.unwatch(waker);
    }

    fn fdinfo(&self, _file: &OpenFile, text: &mut Vec<u8>) {
        let mut lines = heapless::String::<128>::new();
        // They fit.
        let _ = write!(
            lines,
            "eventfd-count: {:16x}\neventfd-id: {}\neventfd-semaphore: {}\n",
            *self.count.lock(),
            self.id,
            i32::from(self.semaphore),
        );
        text.extend_from_slice(lines.as_bytes());
    }
}
