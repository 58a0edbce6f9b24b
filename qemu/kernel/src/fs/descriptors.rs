//! Calls about descriptors: dup(2), close(2), fcntl(2), the ioctls that all files have, getdents64(2).

use alloc::sync::Arc;
use alloc::vec::Vec;

use linux_raw_sys::{general as abi, ioctl};
use syscalls::Errno;
use syscalls::nsfs::nsfs_ioctl;

use super::file::{Entries, OpenFile};
use super::kernel::Call;
use super::node;
use super::pipe::PipeOps;
use super::{error, locks, nofile};
use crate::mm::user;

const F_DUPFD_QUERY: u32 = 1027;
const F_CREATED_QUERY: u32 = 1028;
/// `F_SEAL_SEAL` and the others that a file can get.
const SEALS: u32 = 0x3f;
const SEAL_SEAL: u32 = 1;

pub(crate) fn dup(call: &Call<'_>, fd: i32) -> Result<usize, Errno> {
    call.install_file(call.any(fd)?, false)
}

/// dup2(2) and dup3(2).
pub(crate) fn dup_to(call: &Call<'_>, old: i32, new: i32, cloexec: bool) -> Result<usize, Errno> {
    let files = call.thread.files();
    let file = files.get(old)?;
    let before = files.replace(new, file, nofile(call.thread), cloexec)?;
    before.into_iter().for_each(|before| files.closed(before));
    Ok(new as usize)
}

pub(crate) fn close_range(call: &Call<'_>, first: u32, last: u32, flags: u32) -> Result<usize, Errno> {
    const CLOSE_RANGE_UNSHARE: u32 = 2;
    const CLOSE_RANGE_CLOEXEC: u32 = 4;
    if flags & !(CLOSE_RANGE_UNSHARE | CLOSE_RANGE_CLOEXEC) != 0 || first > last {
        return Err(Errno::EINVAL);
    }
    let (first, last) = (first as usize, last as usize);
    if flags & CLOSE_RANGE_UNSHARE != 0 {
        // What is going to be closed need not be copied.
        let goes = flags & CLOSE_RANGE_CLOEXEC == 0 && last >= super::fd::NR_OPEN;
        let own = call.thread.files();
        call.thread.set_files(own.fork_below(if goes { first } else { usize::MAX })?);
    }
    let files = call.thread.files();
    if flags & CLOSE_RANGE_CLOEXEC != 0 {
        files.mark_range(first, last);
    } else {
        files.close_range(first, last);
    }
    Ok(0)
}

pub(crate) fn fcntl(call: &Call<'_>, fd: i32, command: u32, arg: usize) -> Result<usize, Errno> {
    let files = call.thread.files();
    let file = files.get(fd)?;
    match command {
        abi::F_DUPFD | abi::F_DUPFD_CLOEXEC => {
            let from = usize::try_from(arg as i32).map_err(|_| Errno::EINVAL)?;
            let limit = nofile(call.thread);
            if from >= limit {
                return Err(Errno::EINVAL);
            }
            let new = files.install(file, from, limit, command == abi::F_DUPFD_CLOEXEC)?;
            return Ok(new as usize);
        }
        abi::F_GETFD => return Ok(if files.close_on_exec(fd)? { abi::FD_CLOEXEC as usize } else { 0 }),
        abi::F_SETFD => {
            files.set_close_on_exec(fd, arg as u32 & abi::FD_CLOEXEC != 0)?;
            return Ok(0);
        }
        abi::F_GETFL => return Ok(file.flags() as usize),
        F_DUPFD_QUERY => return Ok(usize::from(Arc::ptr_eq(&file, &files.get(arg as i32)?))),
        _ if file.is_path() => return Err(Errno::EBADF),
        _ => {}
    }
    match command {
        abi::F_SETFL => {
            let flags = arg as u32;
            if flags & abi::O_NOATIME != 0 && file.flags() & abi::O_NOATIME == 0 {
                let at = file.file().path().ok_or(Errno::EPERM)?;
                if !super::permission::Subject::new(&at.mount, &at.dentry).is_owner(&call.credentials()) {
                    return Err(Errno::EPERM);
                }
            }
            file.set_flags(flags);
            Ok(0)
        }
        abi::F_GETLK | abi::F_OFD_GETLK => locks::get(call, &file, arg, command == abi::F_OFD_GETLK),
        abi::F_SETLK | abi::F_SETLKW | abi::F_OFD_SETLK | abi::F_OFD_SETLKW => {
            let open_file = matches!(command, abi::F_OFD_SETLK | abi::F_OFD_SETLKW);
            let waits = matches!(command, abi::F_SETLKW | abi::F_OFD_SETLKW);
            locks::set(call, fd, &file, arg, open_file, waits)
        }
        abi::F_GETPIPE_SZ => Ok(file.as_ops::<PipeOps>().ok_or(Errno::EBADF)?.capacity()),
        abi::F_SETPIPE_SZ => {
            file.as_ops::<PipeOps>().ok_or(Errno::EBADF)?.set_capacity(call, arg as u32 as usize)
        }
        abi::F_GET_SEALS => {
            let contents = file.dentry().and_then(|dentry| dentry.inode().contents()).ok_or(Errno::EINVAL)?;
            Ok(contents.seals() as usize)
        }
        abi::F_ADD_SEALS => {
            let contents = file.dentry().and_then(|dentry| dentry.inode().contents()).ok_or(Errno::EINVAL)?;
            let seals = arg as u32;
            if !file.is_writable() {
                return Err(Errno::EPERM);
            }
            if seals & !SEALS != 0 {
                return Err(Errno::EINVAL);
            }
            let _whole = contents.writing().lock();
            if contents.seals() & SEAL_SEAL != 0 {
                return Err(Errno::EPERM);
            }
            contents.add_seals(seals).map_err(error)?;
            Ok(0)
        }
        F_CREATED_QUERY => Ok(file.is_created().into()),
        // Nobody is told of input by signals here.
        abi::F_GETOWN | abi::F_GETSIG => Ok(0),
        abi::F_GETLEASE => Ok(abi::F_UNLCK as usize),
        _ => Err(Errno::EINVAL),
    }
}

pub(crate) fn ioctl(call: &Call<'_>, fd: i32, request: u32, arg: usize) -> Result<usize, Errno> {
    let files = call.thread.files();
    let file = files.get_open(fd)?;
    let set = |flag: u32| -> Result<usize, Errno> {
        let on = user::get::<i32>(arg)? != 0;
        let flags = file.flags();
        file.set_flags(if on { flags | flag } else { flags & !flag });
        Ok(0)
    };
    match request {
        ioctl::FIOCLEX => files.set_close_on_exec(fd, true).map(|()| 0),
        ioctl::FIONCLEX => files.set_close_on_exec(fd, false).map(|()| 0),
        ioctl::FIONBIO => set(abi::O_NONBLOCK),
        ioctl::FIOASYNC => set(abi::FASYNC),
        ioctl::FICLONE | ioctl::FICLONERANGE => Err(Errno::EOPNOTSUPP),
        ioctl::FIGETBSZ => user::put(arg, tmpfs::PAGE_SIZE as i32).map(|()| 0),
        ioctl::FIONREAD if file.dentry().is_some_and(|dentry| node::kind(dentry) == tmpfs::Kind::File) => {
            let size = file.dentry().and_then(|dentry| node::real(dentry).size().ok()).unwrap_or(0);
            let left = size.saturating_sub(*file.offset().lock());
            user::put(arg, i32::try_from(left).unwrap_or(i32::MAX)).map(|()| 0)
        }
        _ => match file.ops().ioctl(&file, request, arg) {
            Err(Errno::ENOTTY) => nsfs_ioctl(call, file.file(), request, arg),
            result => result,
        },
    }
}

/// Entries as getdents64(2) lays them out, in memory of the kernel's.
struct Listing {
    bytes: Vec<u8>,
    room: usize,
    /// The offset behind the last one that was taken.
    next: u64,
    /// One did not fit.
    full: bool,
    /// `struct linux_dirent`, of getdents(2).
    old: bool,
}

impl Entries for Listing {
    fn add(&mut self, ino: u64, next: u64, kind: u8, name: &[u8]) -> bool {
        const HEADER: usize = 19;
        const OLD_HEADER: usize = 18;
        // The old form has the kind behind the name.
        let len =
            if self.old { OLD_HEADER + name.len() + 2 } else { HEADER + name.len() + 1 }.next_multiple_of(8);
        if self.bytes.len() + len > self.room || self.bytes.try_reserve(len).is_err() {
            self.full = true;
            return false;
        }
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&ino.to_le_bytes());
        self.bytes.extend_from_slice(&next.to_le_bytes());
        self.bytes.extend_from_slice(&(len as u16).to_le_bytes());
        if !self.old {
            self.bytes.push(kind);
        }
        self.bytes.extend_from_slice(name);
        self.bytes.resize(start + len, 0);
        if self.old {
            self.bytes[start + len - 1] = kind;
        }
        self.next = next;
        true
    }
}

pub(crate) fn getdents(
    call: &Call<'_>,
    fd: i32,
    addr: usize,
    size: usize,
    old: bool,
) -> Result<usize, Errno> {
    /// As much as is made at a time.
    const MOST: usize = 65536;
    let file: Arc<OpenFile> = call.open_file(fd)?;
    let mut offset = file.offset().lock();
    let mut listing = Listing { bytes: Vec::new(), room: size.min(MOST), next: *offset, full: false, old };
    file.ops().readdir(&file, *offset, &mut listing)?;
    if listing.bytes.is_empty() {
        return if listing.full { Err(Errno::EINVAL) } else { Ok(0) };
    }
    user::write(addr, &listing.bytes)?;
    *offset = listing.next;
    Ok(listing.bytes.len())
}
