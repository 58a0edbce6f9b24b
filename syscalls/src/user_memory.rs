//! What system calls read from user memory and write to it: strings, paths, structures that grow from version to version.

use alloc::borrow::Cow;
use alloc::vec::Vec;

use linux_raw_sys::general::PATH_MAX;
use mnt_table::list::NoMemory;
use mnt_table::memory::{self, Grow};

use crate::Errno;

/// Bytes of a page: the size of what mount(2) takes as data, and the most that a structure of a call can have.
pub const PAGE_SIZE: usize = 4096;

/// Bytes that a string is looked for in at a time.
const CHUNK: usize = 128;

/// The memory of the task that makes a call.
pub trait UserMemory {
    /// Copies from user memory as much as can be read; returns how many bytes that is.
    fn read(&self, addr: usize, to: &mut [u8]) -> usize;
    /// Copies to user memory as much as can be written; returns how many bytes that is.
    fn write(&self, addr: usize, from: &[u8]) -> usize;
}

/// All of `to`.
///
/// # Errors
/// `EFAULT`.
pub fn read_all(memory: &dyn UserMemory, addr: usize, to: &mut [u8]) -> Result<(), Errno> {
    if memory.read(addr, to) == to.len() { Ok(()) } else { Err(Errno::EFAULT) }
}

/// All of `from`.
///
/// # Errors
/// `EFAULT`.
pub fn write_all(memory: &dyn UserMemory, addr: usize, from: &[u8]) -> Result<(), Errno> {
    if memory.write(addr, from) == from.len() { Ok(()) } else { Err(Errno::EFAULT) }
}

/// So many zeroes.
///
/// # Errors
/// `ENOMEM`.
pub(crate) fn zeroed(size: usize) -> Result<Vec<u8>, Errno> {
    let mut bytes = Vec::new();
    bytes.make_room(size)?;
    bytes.resize(size, 0);
    Ok(bytes)
}

/// A copy of `bytes`.
///
/// # Errors
/// `ENOMEM`.
pub(crate) fn copy(bytes: &[u8]) -> Result<Vec<u8>, NoMemory> {
    memory::collect(bytes.iter().copied())
}

/// `path` as a path of one's own.
///
/// # Errors
/// `ENOMEM`.
pub(crate) fn owned(path: Cow<'_, [u8]>) -> Result<Vec<u8>, NoMemory> {
    match path {
        Cow::Owned(path) => Ok(path),
        Cow::Borrowed(path) => copy(path),
    }
}

/// A string that ends with a NUL among its first `max` bytes; without the NUL.
///
/// # Errors
/// `EFAULT`: it cannot be read up to its NUL. `too_long`: there is none. `ENOMEM`.
fn string(memory: &dyn UserMemory, addr: usize, max: usize, too_long: Errno) -> Result<Vec<u8>, Errno> {
    let mut text = Vec::new();
    while text.len() < max {
        let mut chunk = [0; CHUNK];
        let wanted = CHUNK.min(max - text.len());
        let from = addr.checked_add(text.len()).ok_or(Errno::EFAULT)?;
        let had = memory.read(from, &mut chunk[..wanted]);
        let end = chunk[..had].iter().position(|byte| *byte == 0);
        text.try_extend(chunk[..end.unwrap_or(had)].iter().copied())?;
        match end {
            Some(_) => return Ok(text),
            None if had < wanted => return Err(Errno::EFAULT),
            None => {}
        }
    }
    Err(too_long)
}

/// A name or a value: at most `max` bytes with its NUL.
///
/// # Errors
/// `EFAULT`; `EINVAL`: it is longer; `ENOMEM`.
pub fn name(memory: &dyn UserMemory, addr: usize, max: usize) -> Result<Vec<u8>, Errno> {
    string(memory, addr, max, Errno::EINVAL)
}

/// A string argument of mount(2), which may be absent.
///
/// # Errors
/// As [`name`].
pub fn optional_name(memory: &dyn UserMemory, addr: usize) -> Result<Option<Vec<u8>>, Errno> {
    if addr == 0 { Ok(None) } else { name(memory, addr, PATH_MAX as usize).map(Some) }
}

/// The options of mount(2): a page, or as much of it as can be read, up to its first NUL.
///
/// # Errors
/// `ENOMEM`; `EFAULT`: not even the first byte can be read.
pub fn mount_data(memory: &dyn UserMemory, addr: usize) -> Result<Vec<u8>, Errno> {
    if addr == 0 {
        return Ok(Vec::new());
    }
    let mut page = zeroed(PAGE_SIZE)?;
    let had = memory.read(addr, &mut page);
    if had == 0 {
        return Err(Errno::EFAULT);
    }
    // What was read short of the page is as good as followed by zeroes; the last byte is one in any case.
    page.truncate(had.min(PAGE_SIZE - 1));
    let end = page.iter().position(|byte| *byte == 0).unwrap_or(page.len());
    page.truncate(end);
    Ok(page)
}

/// A structure that user space says has `size` bytes, of which `ours` is the beginning that is known here. What user space
/// left out is zero.
///
/// # Errors
/// `EFAULT`. `E2BIG`: it says something that is not known here. `ENOMEM`.
pub fn structure(memory: &dyn UserMemory, addr: usize, size: usize, ours: &mut [u8]) -> Result<(), Errno> {
    let known = size.min(ours.len());
    let mut rest = zeroed(size - known)?;
    read_all(memory, addr.wrapping_add(known), &mut rest)?;
    if rest.iter().any(|byte| *byte != 0) {
        return Err(Errno::E2BIG);
    }
    ours[known..].fill(0);
    read_all(memory, addr, &mut ours[..known])
}

/// A path argument: bytes at hand, or the address of a string that is read when its turn comes in the order of checks.
#[derive(Clone, Copy)]
pub enum Text<'a> {
    /// The path.
    Bytes(&'a [u8]),
    /// Where it is.
    User(&'a dyn UserMemory, usize),
}

impl<'a> From<&'a [u8]> for Text<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Text::Bytes(bytes)
    }
}

impl<'a> Text<'a> {
    /// The path.
    ///
    /// # Errors
    /// `EFAULT`; `ENAMETOOLONG`; `ENOMEM`.
    pub fn read(self) -> Result<Cow<'a, [u8]>, Errno> {
        match self {
            Text::Bytes(bytes) => Ok(Cow::Borrowed(bytes)),
            Text::User(memory, addr) => {
                string(memory, addr, PATH_MAX as usize, Errno::ENAMETOOLONG).map(Cow::Owned)
            }
        }
    }
}
