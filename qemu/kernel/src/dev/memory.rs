//! Devices without anything behind them: null, zero, full, random, urandom.

use alloc::sync::Arc;

use syscalls::Errno;

use crate::fs::copy::{Sink, Source};
use crate::fs::file::{FileOps, OpenFile, Whence};
use crate::mm::backing::Backing;
use crate::mm::shared::SharedMemory;
use crate::random;

/// Bytes that are copied at a time.
const CHUNK: usize = 512;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Memory {
    Null,
    Zero,
    Full,
    /// `random` and `urandom`: the generator is ready from the start.
    Random,
}

/// Opens one by its minor number.
///
/// # Errors
/// `ENXIO`, `ENOMEM`.
pub(super) fn open(minor: u32) -> Result<Arc<dyn FileOps>, Errno> {
    let memory = match minor {
        3 => Memory::Null,
        5 => Memory::Zero,
        7 => Memory::Full,
        8 | 9 => Memory::Random,
        _ => return Err(Errno::ENXIO),
    };
    Ok(mnt_table::memory::arc(memory).map_err(|_| Errno::ENOMEM)?)
}

impl FileOps for Memory {
    fn backing(&self, _file: &Arc<OpenFile>) -> Result<Arc<dyn Backing>, Errno> {
        // Every mapping of zero is memory of its own.
        if *self == Memory::Zero { SharedMemory::backing(usize::MAX) } else { Err(Errno::ENODEV) }
    }

    fn read(&self, _file: &OpenFile, to: &mut Sink<'_>, _at: u64) -> Result<usize, Errno> {
        let start = to.done();
        if *self == Memory::Null {
            return Ok(0);
        }
        let mut chunk = [0; CHUNK];
        while to.left() != 0 && !crate::task::with_current(|thread| thread.fatal_signal()).unwrap_or(false) {
            if *self == Memory::Random {
                random::fill(&mut chunk);
            }
            match to.put(&chunk) {
                Ok(put) if put == chunk.len() => {}
                Err(error) if to.done() == start => return Err(error),
                _ => break,
            }
        }
        Ok(to.done() - start)
    }

    fn write(&self, _file: &OpenFile, from: &mut Source<'_>, at: u64) -> Result<(usize, u64), Errno> {
        // Bytes that nobody reads are not looked at.
        if *self == Memory::Full { Err(Errno::ENOSPC) } else { Ok((from.left(), at)) }
    }

    fn seek(&self, _file: &OpenFile, _now: u64, _offset: i64, _whence: Whence) -> Result<u64, Errno> {
        Ok(0)
    }

    /// They are there at all times.
    fn can_wait(&self) -> bool {
        *self == Memory::Random
    }
}
