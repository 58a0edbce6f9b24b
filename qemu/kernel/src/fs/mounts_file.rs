//! Open files of `/proc/PID/mountinfo`, `mounts` and `mountstats`.

use alloc::sync::Arc;
use core::task::Waker;

use mnt_table::sync::BlockingMutex;
use syscalls::Errno;
use syscalls::mounts_file::{Format, MountsFile};
use tmpfs::TmpDentry;

use super::copy::Sink;
use super::file::{FileOps, OpenFile, Whence};
use super::kernel::Listings;
use crate::task::Thread;

/// Bytes that are copied at a time.
const CHUNK: usize = 1024;

struct Mounts {
    file: MountsFile<TmpDentry>,
    /// How far it was read. It can be read on from there, and from the beginning.
    position: BlockingMutex<u64>,
}

/// Opens a file of `thread`.
///
/// # Errors
/// `ENOMEM`.
pub(crate) fn open(thread: &Thread, format: Format) -> Result<Arc<dyn FileOps>, Errno> {
    let mounts = Mounts { file: MountsFile::open(thread.mounts(), format), position: BlockingMutex::new(0) };
    Ok(mnt_table::memory::arc(mounts).map_err(|_| Errno::ENOMEM)?)
}

impl Mounts {
    /// Goes to `at`, which text before that may have changed under.
    fn go_to(&self, position: &mut u64, at: u64) -> Result<(), Errno> {
        if at < *position {
            self.file.rewind();
            *position = 0;
        }
        let mut chunk = [0; CHUNK];
        while *position < at {
            let wanted = (at - *position).min(CHUNK as u64) as usize;
            match self.file.read(&Listings, &mut chunk[..wanted])? {
                0 => break,
                count => *position += count as u64,
            }
        }
        Ok(())
    }
}

impl FileOps for Mounts {
    fn read(&self, _file: &OpenFile, to: &mut Sink<'_>, at: u64) -> Result<usize, Errno> {
        let mut position = self.position.lock();
        // From the beginning everything is put together anew, as after a seek.
        if at == 0 && *position != 0 {
            self.file.rewind();
            *position = 0;
        }
        self.go_to(&mut position, at)?;
        if *position < at {
            return Ok(0);
        }
        let start = to.done();
        let mut chunk = [0; CHUNK];
        while to.left() != 0 {
            let wanted = to.left().min(CHUNK);
            let count = self.file.read(&Listings, &mut chunk[..wanted])?;
            if count == 0 {
                break;
            }
            *position += count as u64;
            to.put(&chunk[..count])?;
        }
        Ok(to.done() - start)
    }

    fn is_seekable(&self) -> bool {
        true
    }

    fn seek(&self, _file: &OpenFile, now: u64, offset: i64, whence: Whence) -> Result<u64, Errno> {
        let base = match whence {
            Whence::Set => 0,
            Whence::Current => now,
            _ => return Err(Errno::EINVAL),
        };
        base.checked_add_signed(offset).ok_or(Errno::EINVAL)
    }

    fn poll(&self, _file: &OpenFile, waker: Option<&Waker>) -> Result<u32, Errno> {
        if let Some(waker) = waker {
            self.file.watch(waker)?;
        }
        Ok(self.file.poll(u32::MAX))
    }
}
