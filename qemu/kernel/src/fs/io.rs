//! Reading and writing: read(2), write(2) and their vectors; lseek(2); copies between files.

use alloc::sync::Arc;
use alloc::vec::Vec;

use linux_raw_sys::general as abi;
use mnt_table::dentry::Dentry;
use smallvec::SmallVec;
use syscalls::Errno;
use syscalls::user_memory::read_all;

use super::copy::{Piece, Sink, Source};
use super::file::{OpenFile, Whence};
use super::kernel::Call;
use super::node;
use crate::mm::user;

/// The most bytes that one call moves.
const RW_MAX: usize = 0x7fff_f000;

/// Bytes that are moved at a time between files.
const CHUNK: usize = 16384;

type Pieces = SmallVec<[Piece; 8]>;

/// One piece of user memory.
fn one(addr: usize, len: usize) -> Result<[Piece; 1], Errno> {
    let end = addr.checked_add(len).ok_or(Errno::EFAULT)?;
    if end > crate::mm::space::USER_END {
        Err(Errno::EFAULT)
    } else {
        Ok([Piece { addr, len: len.min(RW_MAX) }])
    }
}

/// The pieces of an `iovec` array.
///
/// # Errors
/// `EINVAL`: too many, or too long. `EFAULT`.
pub(crate) fn vector(call: &Call<'_>, addr: usize, count: usize) -> Result<Pieces, Errno> {
    const SIZE: usize = 16;
    if count > abi::UIO_MAXIOV as usize {
        return Err(Errno::EINVAL);
    }
    let mut pieces = Pieces::new();
    pieces.try_reserve_exact(count).map_err(|_| Errno::ENOMEM)?;
    let mut room = RW_MAX;
    for index in 0..count {
        let mut bytes = [0; SIZE];
        read_all(call, addr.wrapping_add(index * SIZE), &mut bytes)?;
        let word = |at: usize| usize::from_le_bytes(core::array::from_fn(|byte| bytes[at + byte]));
        let (addr, len) = (word(0), word(8));
        if isize::try_from(len).is_err() {
            return Err(Errno::EINVAL);
        }
        let len = len.min(room);
        room -= len;
        if addr.checked_add(len).is_none_or(|end| end > crate::mm::space::USER_END) {
            return Err(Errno::EFAULT);
        }
        pieces.push(Piece { addr, len });
    }
    Ok(pieces)
}

/// read(2) of `file` at its offset, or at `at`.
fn read_into(file: &OpenFile, to: &mut Sink<'_>, at: Option<u64>) -> Result<usize, Errno> {
    if !file.is_readable() {
        return Err(Errno::EBADF);
    }
    match at {
        Some(at) => file.ops().read(file, to, at),
        None if file.ops().is_seekable() => {
            let mut offset = file.offset().lock();
            let count = file.ops().read(file, to, *offset)?;
            *offset += count as u64;
            Ok(count)
        }
        None => file.ops().read(file, to, 0),
    }
}

/// write(2), as [`read_into`].
fn write_from(file: &OpenFile, from: &mut Source<'_>, at: Option<u64>) -> Result<usize, Errno> {
    if !file.is_writable() {
        return Err(Errno::EBADF);
    }
    match at {
        Some(at) => Ok(file.ops().write(file, from, at)?.0),
        None if file.ops().is_seekable() => {
            let mut offset = file.offset().lock();
            let (count, end) = file.ops().write(file, from, *offset)?;
            if count != 0 {
                *offset = end;
            }
            Ok(count)
        }
        None => Ok(file.ops().write(file, from, 0)?.0),
    }
}

/// The offset of pread(2) and pwrite(2).
fn position(file: &OpenFile, at: usize) -> Result<Option<u64>, Errno> {
    let at = u64::try_from(at as isize).map_err(|_| Errno::EINVAL)?;
    if file.ops().is_seekable() { Ok(Some(at)) } else { Err(Errno::ESPIPE) }
}

pub(crate) fn read(call: &Call<'_>, fd: i32, addr: usize, len: usize) -> Result<usize, Errno> {
    let file = call.open_file(fd)?;
    if !file.is_readable() {
        return Err(Errno::EBADF);
    }
    read_into(&file, &mut Sink::user(&one(addr, len)?), None)
}

pub(crate) fn write(call: &Call<'_>, fd: i32, addr: usize, len: usize) -> Result<usize, Errno> {
    let file = call.open_file(fd)?;
    if !file.is_writable() {
        return Err(Errno::EBADF);
    }
    write_from(&file, &mut Source::user(&one(addr, len)?), None)
}

pub(crate) fn pread(call: &Call<'_>, fd: i32, addr: usize, len: usize, at: usize) -> Result<usize, Errno> {
    let file = call.open_file(fd)?;
    let at = position(&file, at)?;
    read_into(&file, &mut Sink::user(&one(addr, len)?), at)
}

pub(crate) fn pwrite(call: &Call<'_>, fd: i32, addr: usize, len: usize, at: usize) -> Result<usize, Errno> {
    let file = call.open_file(fd)?;
    let at = position(&file, at)?;
    write_from(&file, &mut Source::user(&one(addr, len)?), at)
}

/// readv(2) and its like; `at` is absent or -1 for the file's own offset.
pub(crate) fn readv(
    call: &Call<'_>,
    fd: i32,
    addr: usize,
    count: usize,
    at: Option<usize>,
) -> Result<usize, Errno> {
    let file = call.open_file(fd)?;
    let at = at.map_or(Ok(None), |at| position(&file, at))?;
    if !file.is_readable() {
        return Err(Errno::EBADF);
    }
    read_into(&file, &mut Sink::user(&vector(call, addr, count)?), at)
}

/// writev(2) and its like.
pub(crate) fn writev(
    call: &Call<'_>,
    fd: i32,
    addr: usize,
    count: usize,
    at: Option<usize>,
) -> Result<usize, Errno> {
    let file = call.open_file(fd)?;
    let at = at.map_or(Ok(None), |at| position(&file, at))?;
    if !file.is_writable() {
        return Err(Errno::EBADF);
    }
    write_from(&file, &mut Source::user(&vector(call, addr, count)?), at)
}

/// The offset and flags of preadv2(2): -1 is the file's own offset.
pub(crate) fn second_version(at: usize, flags: u32) -> Result<Option<usize>, Errno> {
    const IGNORED: u32 = abi::RWF_HIPRI | abi::RWF_DSYNC | abi::RWF_SYNC;
    if flags & !IGNORED != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    Ok(if at == usize::MAX { None } else { Some(at) })
}

pub(crate) fn lseek(call: &Call<'_>, fd: i32, offset: usize, whence: u32) -> Result<usize, Errno> {
    let file = call.open_file(fd)?;
    let whence = match whence {
        abi::SEEK_SET => Whence::Set,
        abi::SEEK_CUR => Whence::Current,
        abi::SEEK_END => Whence::End,
        abi::SEEK_DATA => Whence::Data,
        abi::SEEK_HOLE => Whence::Hole,
        _ => return Err(Errno::EINVAL),
    };
    let mut now = file.offset().lock();
    *now = file.ops().seek(&file, *now, offset as i64, whence)?;
    Ok(*now as usize)
}

/// Moves up to `count` bytes from one file to another, through memory of the kernel's. Reads at `from_at` and writes at
/// `to_at` if they are given, and moves them on.
fn move_bytes(
    from: &OpenFile,
    from_at: &mut Option<u64>,
    to: &OpenFile,
    to_at: &mut Option<u64>,
    count: usize,
) -> Result<usize, Errno> {
    if !from.is_readable() || !to.is_writable() {
        return Err(Errno::EBADF);
    }
    let mut buffer = Vec::new();
    let size = CHUNK.min(count);
    buffer.try_reserve_exact(size).map_err(|_| Errno::ENOMEM)?;
    buffer.resize(size, 0);
    // One offset cannot be read at and written at.
    if core::ptr::eq(from, to) && from_at.is_none() && to_at.is_none() && from.ops().is_seekable() {
        return Err(Errno::EINVAL);
    }
    let mut done = 0;
    while done < count {
        let wanted = size.min(count - done);
        // What is read and cannot be written is to be read again. The offset is not locked meanwhile: two calls that copy
        // in opposite directions would wait for each other.
        let own = from.ops().is_seekable() && from_at.is_none();
        let at = from_at.unwrap_or_else(|| if own { *from.offset().lock() } else { 0 });
        let had = match from.ops().read(from, &mut Sink::kernel(&mut buffer[..wanted]), at) {
            Ok(0) => break,
            Ok(had) => had,
            Err(_) if done != 0 => break,
            Err(error) => return Err(error),
        };
        let mut put = 0;
        let mut failure = None;
        while put < had {
            match write_from(to, &mut Source::kernel(&buffer[put..had]), *to_at) {
                Ok(0) => break,
                Ok(some) => {
                    put += some;
                    if let Some(at) = to_at {
                        *at += some as u64;
                    }
                }
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            }
        }
        if let Some(at) = from_at {
            *at += put as u64;
        }
        if own {
            *from.offset().lock() = at + put as u64;
        }
        done += put;
        match failure {
            Some(error) if done == 0 => return Err(error),
            _ if put < had || had < wanted => break,
            _ => {}
        }
    }
    Ok(done)
}

/// An offset in user memory, if there is one.
fn offset_at(addr: usize) -> Result<Option<u64>, Errno> {
    if addr == 0 {
        return Ok(None);
    }
    u64::try_from(user::get::<i64>(addr)?).map(Some).map_err(|_| Errno::EINVAL)
}

fn store_offset(addr: usize, at: Option<u64>) -> Result<(), Errno> {
    at.map_or(Ok(()), |at| user::put(addr, at))
}

pub(crate) fn sendfile(
    call: &Call<'_>,
    to: i32,
    from: i32,
    addr: usize,
    count: usize,
) -> Result<usize, Errno> {
    let (to, from) = (call.open_file(to)?, call.open_file(from)?);
    if !from.ops().is_seekable() || to.flags() & abi::O_APPEND != 0 {
        return Err(Errno::EINVAL);
    }
    let mut at = offset_at(addr)?;
    let done = move_bytes(&from, &mut at, &to, &mut None, count.min(RW_MAX))?;
    store_offset(addr, at)?;
    Ok(done)
}

pub(crate) fn copy_file_range(
    call: &Call<'_>,
    from: (i32, usize),
    to: (i32, usize),
    count: usize,
    flags: u32,
) -> Result<usize, Errno> {
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    let (source, target) = (call.open_file(from.0)?, call.open_file(to.0)?);
    let regular = |file: &Arc<OpenFile>| match file.dentry() {
        Some(dentry) if node::kind(dentry) == tmpfs::Kind::File => Ok(()),
        Some(dentry) if dentry.is_dir() => Err(Errno::EISDIR),
        _ => Err(Errno::EINVAL),
    };
    regular(&source)?;
    regular(&target)?;
    if target.flags() & abi::O_APPEND != 0 {
        return Err(Errno::EBADF);
    }
    let (mut source_at, mut target_at) = (offset_at(from.1)?, offset_at(to.1)?);
    let ends = |at: Option<u64>, file: &OpenFile| {
        at.unwrap_or_else(|| *file.offset().lock())
            .checked_add(count as u64)
            .filter(|end| i64::try_from(*end).is_ok())
    };
    if ends(source_at, &source).is_none() || ends(target_at, &target).is_none() {
        return Err(Errno::EOVERFLOW);
    }
    let same = source.dentry().map(|dentry| dentry.id()) == target.dentry().map(|dentry| dentry.id());
    if same {
        let start = source_at.unwrap_or_else(|| *source.offset().lock());
        let end = target_at.unwrap_or_else(|| *target.offset().lock());
        if start.abs_diff(end) < count as u64 {
            return Err(Errno::EINVAL);
        }
        if Arc::ptr_eq(&source, &target) && (source_at.is_none() || target_at.is_none()) {
            // One offset for both ends: the halves are done apart, since its lock is one.
            source_at.get_or_insert(start);
            target_at.get_or_insert(end);
        }
    }
    let done = move_bytes(&source, &mut source_at, &target, &mut target_at, count.min(RW_MAX))?;
    if from.1 != 0 {
        store_offset(from.1, source_at)?;
    }
    if to.1 != 0 {
        store_offset(to.1, target_at)?;
    }
    Ok(done)
}

pub(crate) fn splice(
    call: &Call<'_>,
    from: (i32, usize),
    to: (i32, usize),
    count: usize,
    flags: u32,
) -> Result<usize, Errno> {
    if flags & !0xf != 0 {
        return Err(Errno::EINVAL);
    }
    let (source, target) = (call.open_file(from.0)?, call.open_file(to.0)?);
    let is_pipe = |file: &Arc<OpenFile>| file.as_ops::<super::pipe::PipeOps>().is_some();
    if !is_pipe(&source) && !is_pipe(&target) {
        return Err(Errno::EINVAL);
    }
    if is_pipe(&source) && from.1 != 0 || is_pipe(&target) && to.1 != 0 {
        return Err(Errno::ESPIPE);
    }
    if target.flags() & abi::O_APPEND != 0 && !is_pipe(&target) {
        return Err(Errno::EINVAL);
    }
    let (mut source_at, mut target_at) = (offset_at(from.1)?, offset_at(to.1)?);
    // A pipe gives what it has.
    let count = if is_pipe(&source) { count.min(CHUNK) } else { count };
    let done = move_bytes(&source, &mut source_at, &target, &mut target_at, count.min(RW_MAX))?;
    store_offset(from.1, source_at.filter(|_| from.1 != 0))?;
    store_offset(to.1, target_at.filter(|_| to.1 != 0))?;
    Ok(done)
}

pub(crate) fn fsync(call: &Call<'_>, fd: i32) -> Result<usize, Errno> {
    let file = call.open_file(fd)?;
    file.ops().sync(&file).map(|()| 0)
}

pub(crate) fn fallocate(
    call: &Call<'_>,
    fd: i32,
    mode: u32,
    offset: usize,
    len: usize,
) -> Result<usize, Errno> {
    let file = call.open_file(fd)?;
    let (offset, len) = (offset as i64, len as i64);
    if offset < 0 || len <= 0 {
        return Err(Errno::EINVAL);
    }
    if !file.is_writable() {
        return Err(Errno::EBADF);
    }
    match file.dentry().map(node::kind) {
        Some(tmpfs::Kind::Fifo) => return Err(Errno::ESPIPE),
        Some(tmpfs::Kind::Directory) => return Err(Errno::EISDIR),
        _ => {}
    }
    file.ops().allocate(&file, mode, offset as u64, len as u64).map(|()| 0)
}

pub(crate) fn ftruncate(call: &Call<'_>, fd: i32, size: usize) -> Result<usize, Errno> {
    let size = u64::try_from(size as i64).map_err(|_| Errno::EINVAL)?;
    let file = call.open_file(fd)?;
    if !file.is_writable() {
        return Err(Errno::EINVAL);
    }
    file.ops().truncate(&file, size).map(|()| 0)
}
