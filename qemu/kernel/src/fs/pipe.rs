//! Pipes and fifos.
//!
//! 1. Bytes lie in a ring that grows to the pipe's capacity when it is needed. Who copies holds `data`, which blocks, since
//!    user memory may fault; how many bytes there are, and who has the ends open, is in `state`, under a spin lock.
//! 2. A write of up to `PIPE_BUF` bytes goes in as a whole or waits.
//! 3. Opening a fifo for one end waits for the other: each open moves a counter, and who waits looks for a move.
//!
//! # Lock order
//! `data` → `state` (leaf). Wake-ups are under neither.
//!
//! Sources: pipe(7), fifo(7), fcntl(2).

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::task::Waker;

use linux_raw_sys::{general as abi, ioctl};
use mnt_table::memory;
use mnt_table::sync::BlockingMutex;
use syscalls::Errno;
use syscalls::credentials::Capabilities;
use syscalls::file::Object;
use tmpfs::TmpDentry;

use super::anon::{self, Kind};
use super::copy::{Sink, Source};
use super::file::{FileOps, OpenFile};
use super::kernel::Call;
use super::node::Opened;
use crate::arch::spin::SpinLock;
use crate::mm::user;
use crate::sched::wait::{Wait, WaitList};
use crate::task;

/// A write of so many bytes is never mixed with others.
const PIPE_BUF: usize = 4096;
/// Bytes that a new pipe holds.
const CAPACITY: usize = 65536;
/// The most that `F_SETPIPE_SZ` gives somebody without privilege (`fs.pipe-max-size`).
const CAPACITY_MAX: usize = 1 << 20;

#[derive(Default)]
struct Ring {
    bytes: Vec<u8>,
    first: usize,
    len: usize,
}

#[derive(Clone, Copy)]
struct State {
    /// As in the ring.
    len: usize,
    capacity: usize,
    readers: usize,
    writers: usize,
    reader_opens: u64,
    writer_opens: u64,
}

/// A pipe.
pub(crate) struct Pipe {
    data: BlockingMutex<Ring>,
    state: SpinLock<State>,
    readers: WaitList,
    writers: WaitList,
}

impl Ring {
    /// Makes room for `more` bytes.
    fn reserve(&mut self, more: usize, capacity: usize) -> Result<(), Errno> {
        if self.len + more <= self.bytes.len() {
            return Ok(());
        }
        let size = (self.len + more).next_power_of_two().max(PIPE_BUF).min(capacity.max(self.len + more));
        self.resize(size)
    }

    fn resize(&mut self, size: usize) -> Result<(), Errno> {
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(size).map_err(|_| Errno::ENOMEM)?;
        bytes.resize(size, 0);
        let (first, second) = self.filled();
        bytes[..first.len()].copy_from_slice(first);
        bytes[first.len()..self.len].copy_from_slice(second);
        (self.bytes, self.first) = (bytes, 0);
        Ok(())
    }

    fn filled(&self) -> (&[u8], &[u8]) {
        let end = self.first + self.len;
        if end <= self.bytes.len() {
            (&self.bytes[self.first..end], &[])
        } else {
            (&self.bytes[self.first..], &self.bytes[..end - self.bytes.len()])
        }
    }

    /// The free bytes behind the last one that lie together.
    fn free(&mut self) -> &mut [u8] {
        let size = self.bytes.len();
        if self.len == size {
            return &mut [];
        }
        let start = (self.first + self.len) % size;
        let end = if start < self.first { self.first } else { size };
        &mut self.bytes[start..end]
    }

    fn consume(&mut self, count: usize) {
        self.len -= count;
        self.first = if self.len == 0 { 0 } else { (self.first + count) % self.bytes.len() };
    }
}

impl Pipe {
    fn new() -> Result<Arc<Self>, Errno> {
        let state =
            State { len: 0, capacity: CAPACITY, readers: 0, writers: 0, reader_opens: 0, writer_opens: 0 };
        let pipe = Pipe {
            data: BlockingMutex::default(),
            state: SpinLock::new(state),
            readers: WaitList::new(),
            writers: WaitList::new(),
        };
        memory::arc(pipe).map_err(|_| Errno::ENOMEM)
    }

    fn state(&self) -> State {
        *self.state.lock()
    }

    fn set_len(&self, len: usize) {
        self.state.lock().len = len;
    }

    /// An end that is opened: for reading, writing or both.
    fn end(self: &Arc<Self>, reads: bool, writes: bool) -> Result<Arc<PipeOps>, Errno> {
        {
            let mut state = self.state.lock();
            state.readers += usize::from(reads);
            state.reader_opens += u64::from(reads);
            state.writers += usize::from(writes);
            state.writer_opens += u64::from(writes);
        }
        let seen = self.state().writer_opens;
        // Dropped, it takes itself back.
        let end = PipeOps { pipe: Arc::clone(self), reads, writes, seen };
        let end = memory::arc(end).map_err(|_| Errno::ENOMEM)?;
        self.readers.wake();
        self.writers.wake();
        Ok(end)
    }

    fn read(&self, to: &mut Sink<'_>) -> Result<usize, Errno> {
        let mut ring = self.data.lock();
        let mut done = 0;
        while to.left() != 0 && ring.len != 0 {
            let put = match to.put(ring.filled().0) {
                Ok(put) => put,
                Err(_) if done != 0 => break,
                Err(error) => return Err(error),
            };
            done += put;
            ring.consume(put);
            self.set_len(ring.len);
        }
        Ok(done)
    }

    /// Writes what there is room for, or nothing if that is not enough for a write that must be whole.
    fn write(&self, from: &mut Source<'_>, whole: bool) -> Result<usize, Errno> {
        let mut ring = self.data.lock();
        let capacity = self.state().capacity;
        let room = capacity.saturating_sub(ring.len);
        if room == 0 || whole && room < from.left() {
            return Ok(0);
        }
        let count = room.min(from.left());
        ring.reserve(count, capacity)?;
        let mut done = 0;
        while done < count {
            let free = ring.free();
            let some = free.len().min(count - done);
            let taken = match from.take(&mut free[..some]) {
                Ok(taken) => taken,
                Err(_) if done != 0 => break,
                Err(error) => return Err(error),
            };
            done += taken;
            ring.len += taken;
            self.set_len(ring.len);
        }
        Ok(done)
    }

    fn set_capacity(&self, wanted: usize, privileged: bool) -> Result<usize, Errno> {
        let size = wanted.checked_next_power_of_two().ok_or(Errno::EINVAL)?.max(PIPE_BUF);
        if size > i32::MAX as usize {
            return Err(Errno::EINVAL);
        }
        if size > CAPACITY_MAX && !privileged {
            return Err(Errno::EPERM);
        }
        let mut ring = self.data.lock();
        if ring.len > size {
            return Err(Errno::EBUSY);
        }
        if ring.bytes.len() > size {
            ring.resize(size)?;
        }
        self.state.lock().capacity = size;
        drop(ring);
        self.writers.wake();
        Ok(size)
    }
}

/// An open end.
pub(crate) struct PipeOps {
    pipe: Arc<Pipe>,
    reads: bool,
    writes: bool,
    /// How often it was opened for writing when this end came: with no more, nobody has hung up.
    seen: u64,
}

impl Drop for PipeOps {
    fn drop(&mut self) {
        {
            let mut state = self.pipe.state.lock();
            state.readers -= usize::from(self.reads);
            state.writers -= usize::from(self.writes);
        }
        self.pipe.readers.wake();
        self.pipe.writers.wake();
    }
}

impl PipeOps {
    /// The bytes that it holds at most (`F_GETPIPE_SZ`).
    pub(crate) fn capacity(&self) -> usize {
        self.pipe.state().capacity
    }

    /// `F_SETPIPE_SZ`
    pub(crate) fn set_capacity(&self, call: &Call<'_>, wanted: usize) -> Result<usize, Errno> {
        let who = call.credentials();
        self.pipe.set_capacity(wanted, who.capable(&mnt_table::UserNs::INITIAL, Capabilities::SYS_RESOURCE))
    }
}

impl FileOps for PipeOps {
    fn read(&self, file: &OpenFile, to: &mut Sink<'_>, _at: u64) -> Result<usize, Errno> {
        let pipe = &self.pipe;
        if to.left() == 0 {
            return Ok(0);
        }
        loop {
            let done = pipe.read(to)?;
            if done != 0 {
                pipe.writers.wake();
                return Ok(done);
            }
            let state = pipe.state();
            if state.len == 0 && state.writers == 0 {
                return Ok(0);
            }
            if file.is_nonblocking() {
                return Err(Errno::EAGAIN);
            }
            pipe.readers.wait(Wait::INTERRUPTIBLE, || {
                let state = pipe.state();
                (state.len != 0 || state.writers == 0).then_some(())
            })?;
        }
    }

    fn write(&self, file: &OpenFile, from: &mut Source<'_>, at: u64) -> Result<(usize, u64), Errno> {
        let pipe = &self.pipe;
        let whole = from.left() <= PIPE_BUF;
        let mut done = 0;
        let result = loop {
            if from.left() == 0 {
                break Ok(());
            }
            if pipe.state().readers == 0 {
                task::with_current(|_| ());
                send_sigpipe();
                break Err(Errno::EPIPE);
            }
            match pipe.write(from, whole) {
                Ok(0) => {}
                Ok(some) => {
                    done += some;
                    pipe.readers.wake();
                    continue;
                }
                Err(error) => break Err(error),
            }
            if file.is_nonblocking() {
                break Err(Errno::EAGAIN);
            }
            let needed = if whole { from.left() } else { 1 };
            let waited = pipe.writers.wait(Wait::INTERRUPTIBLE, || {
                let state = pipe.state();
                (state.readers == 0 || state.capacity.saturating_sub(state.len) >= needed).then_some(())
            });
            if let Err(error) = waited {
                break Err(error);
            }
        };
        match result {
            Err(error) if done == 0 => Err(error),
            _ => Ok((done, at)),
        }
    }

    fn poll(&self, _file: &OpenFile, waker: Option<&Waker>) -> Result<u32, Errno> {
        if let Some(waker) = waker {
            if self.reads {
                self.pipe.readers.watch(waker)?;
            }
            if self.writes {
                self.pipe.writers.watch(waker)?;
            }
        }
        let state = self.pipe.state();
        let mut there = 0;
        if self.reads {
            if state.len != 0 {
                there |= abi::POLLIN | abi::POLLRDNORM;
            }
            if state.writers == 0 && state.writer_opens != self.seen {
                there |= abi::POLLHUP;
            }
        }
        if self.writes {
            if state.capacity.saturating_sub(state.len) >= PIPE_BUF {
                there |= abi::POLLOUT | abi::POLLWRNORM;
            }
            if state.readers == 0 {
                there |= abi::POLLERR;
            }
        }
        Ok(there)
    }

    fn unwatch(&self, _file: &OpenFile, waker: &Waker) {
        self.pipe.readers.unwatch(waker);
        self.pipe.writers.unwatch(waker);
    }

    fn ioctl(&self, _file: &Arc<OpenFile>, request: u32, arg: usize) -> Result<usize, Errno> {
        match request {
            ioctl::FIONREAD => {
                user::put(arg, self.pipe.state().len as i32)?;
                Ok(0)
            }
            _ => Err(Errno::ENOTTY),
        }
    }
}

/// Tells the running thread that nobody reads what it writes.
pub(crate) fn send_sigpipe() {
    let thread = task::current();
    task::signal::send_to_thread(&thread, task::signal::Info::kernel(abi::SIGPIPE));
}

/// pipe2(2).
pub(crate) fn pipe2(call: &Call<'_>, addr: usize, flags: u32) -> Result<usize, Errno> {
    if flags & !(abi::O_CLOEXEC | abi::O_NONBLOCK) != 0 {
        return Err(Errno::EINVAL);
    }
    let pipe = Pipe::new()?;
    let (reader, writer) = (pipe.end(true, false)?, pipe.end(false, true)?);
    // The pipe was just made: nobody has hung up.
    let at = anon::dentry(Kind::Pipe)?;
    let attached: Arc<dyn core::any::Any + Send + Sync> = pipe;
    *at.dentry.inode().attached().lock() = Some(attached);
    let status = flags & abi::O_NONBLOCK;
    let reader = anon::open_at(reader, at.clone(), abi::O_RDONLY | status)?;
    let writer = anon::open_at(writer, at, abi::O_WRONLY | status)?;
    let cloexec = flags & abi::O_CLOEXEC != 0;
    let first = call.install_file(reader, cloexec)?;
    let second = match call.install_file(writer, cloexec) {
        Ok(second) => second,
        Err(error) => {
            let _ = call.thread.files().close(first as i32);
            return Err(error);
        }
    };
    if let Err(error) = user::put(addr, [first as i32, second as i32]) {
        let _ = call.thread.files().close(first as i32);
        let _ = call.thread.files().close(second as i32);
        return Err(error);
    }
    Ok(0)
}

/// The pipe of a fifo, made if nobody has it open.
fn of(dentry: &TmpDentry) -> Result<Arc<Pipe>, Errno> {
    let fresh = Pipe::new()?;
    let mut attached = dentry.inode().attached().lock();
    // It stays until nobody has the fifo open: `state` says so.
    if let Some(there) = attached.clone().and_then(|there| there.downcast::<Pipe>().ok()) {
        return Ok(there);
    }
    let kept: Arc<dyn core::any::Any + Send + Sync> = fresh.clone();
    *attached = Some(kept);
    Ok(fresh)
}

/// Opens a pipe through a link in proc. Who was at the other end may have been and gone, so nobody is waited for.
///
/// # Errors
/// `ENOMEM`.
pub(crate) fn open_attached(dentry: &TmpDentry, flags: u32) -> Result<Opened, Errno> {
    let (reads, writes) = match flags & abi::O_ACCMODE {
        abi::O_RDONLY => (true, false),
        abi::O_WRONLY => (false, true),
        _ => (true, true),
    };
    let ops: Arc<dyn FileOps> = of(dentry)?.end(reads, writes)?;
    Ok(Opened { ops, object: Object::Plain })
}

/// Opens a fifo; waits for somebody at the other end.
///
/// # Errors
/// `ENXIO`: for writing, without waiting, and nobody reads. `ERESTARTSYS`.
pub(crate) fn open_fifo(dentry: &TmpDentry, flags: u32) -> Result<Opened, Errno> {
    let pipe = of(dentry)?;
    let nonblocking = flags & abi::O_NONBLOCK != 0;
    let (reads, writes) = match flags & abi::O_ACCMODE {
        abi::O_RDONLY => (true, false),
        abi::O_WRONLY => (false, true),
        _ => (true, true),
    };
    if writes && !reads && nonblocking && pipe.state().readers == 0 {
        return Err(Errno::ENXIO);
    }
    let before = pipe.state();
    let end = pipe.end(reads, writes)?;
    if reads && !writes && !nonblocking && pipe.state().writers == 0 {
        pipe.readers
            .wait(Wait::INTERRUPTIBLE, || (pipe.state().writer_opens != before.writer_opens).then_some(()))?;
    }
    if writes && !reads && pipe.state().readers == 0 {
        pipe.writers
            .wait(Wait::INTERRUPTIBLE, || (pipe.state().reader_opens != before.reader_opens).then_some(()))?;
    }
    let ops: Arc<dyn FileOps> = end;
    Ok(Opened { ops, object: Object::Plain })
}
