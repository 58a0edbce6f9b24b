//! The calls about files: what programs need around mounts.

use std::sync::{Arc, Weak};

use linux_raw_sys::{errno, general as abi};
use mnt_table::walk::{How, Last, Resolve, WalkError, walk_how};
use mnt_table::writers::WriteRef;
use mnt_table::{Dentry, MountFlags, MountRef, PathRef};
use syscalls::access::may_open_device;
use syscalls::attributes::to_statfs;
use syscalls::context::Log;
use syscalls::credentials::Capabilities;
use syscalls::file::Object;
use syscalls::mounts_file::MountsFile;
use syscalls::nsfs::nsfs_ioctl;
use syscalls::paths::place_path;
use syscalls::user_memory::{read_all, structure, write_all};
use syscalls::{Errno, File, FileSystems, Kernel, Task};
use tmpfs::{FsError, Kind, TmpDentry};

use super::kernel::Call;
use super::nsfs::NamespaceFile;
use super::open::{Access, Open};
use super::proc::{ProcFile, thing};

/// An error number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Failure(pub(super) u32);

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        Failure(errno.raw())
    }
}

impl From<WalkError> for Failure {
    fn from(error: WalkError) -> Self {
        Errno::from(error).into()
    }
}

impl From<FsError> for Failure {
    fn from(error: FsError) -> Self {
        Failure(match error {
            FsError::NotFound => errno::ENOENT,
            FsError::NotDirectory => errno::ENOTDIR,
            FsError::IsDirectory => errno::EISDIR,
            FsError::Exists => errno::EEXIST,
            FsError::NotEmpty => errno::ENOTEMPTY,
            FsError::Busy => errno::EBUSY,
            FsError::BadName | FsError::IntoItself | FsError::NotFile | FsError::BadLimit => errno::EINVAL,
            FsError::NotPermitted | FsError::Sealed => errno::EPERM,
            FsError::TooManyLinks => errno::EMLINK,
            FsError::NoAttribute => errno::ENODATA,
            FsError::NoSpace => errno::ENOSPC,
            FsError::BeyondEnd => errno::EFAULT,
            FsError::NoSuchByte => errno::ENXIO,
            FsError::Run => errno::ETXTBSY,
            FsError::NameTooLong => errno::ENAMETOOLONG,
            FsError::CrossDevice => errno::EXDEV,
            FsError::ReadOnly => errno::EROFS,
            FsError::TooBig => errno::EFBIG,
            FsError::NoMemory => errno::ENOMEM,
        })
    }
}

pub(super) type Answer = Result<usize, Failure>;

/// Somebody who writes through `mount` from here on.
pub(super) fn write(mount: &MountRef<TmpDentry>) -> Result<WriteRef<MountRef<TmpDentry>>, Failure> {
    Ok(WriteRef::new(mount.clone()).map_err(Errno::from)?)
}

/// The type and mode bits that statx(2) tells.
const DIRECTORY: u16 = 0o040_755;
const FILE: u16 = 0o100_644;
const SYMLINK: u16 = 0o120_777;
const DEVICE: u16 = 0o020_644;

impl Call<'_> {
    /// The call `nr`, if it is one of these.
    pub(super) fn file_call(&self, nr: u32, args: [usize; 6]) -> Option<Answer> {
        let [a, b, c, d, e, _] = args;
        let fd = a as i32;
        Some(match nr {
            abi::__NR_openat => self.openat(fd, b, c as u32, Resolve::empty()),
            abi::__NR_openat2 => self.openat2(fd, b, c, d),
            abi::__NR_close => self.close(fd).map(|()| 0).map_err(Failure::from),
            abi::__NR_dup => self
                .process
                .open(fd)
                .and_then(|open| self.install_open(open))
                .map(fd_result)
                .map_err(Failure::from),
            abi::__NR_read => self.read_file(fd, b, c),
            abi::__NR_pread64 => self.pread(fd, b, c, d),
            abi::__NR_write => self.write_file(fd, b, c),
            abi::__NR_mmap => self.mmap(e as i32, c),
            abi::__NR_poll => self.poll(a),
            abi::__NR_ioctl => self.ioctl(fd, b as u32, c),
            abi::__NR_getdents64 => self.getdents(fd, b, c),
            abi::__NR_mkdirat => self.make(fd, b, |at, name| at.mkdir(name).map(drop), true),
            abi::__NR_mknodat => self.mknod(fd, b, c as u32),
            abi::__NR_symlinkat => self.symlink(a, b as i32, c),
            abi::__NR_unlinkat => self.unlink(fd, b, c as u32),
            abi::__NR_renameat2 => self.rename(fd, b, (c as i32, d), e as u32),
            abi::__NR_linkat => self.link(fd, b, c as i32, d),
            abi::__NR_getcwd => self.getcwd(a, b),
            abi::__NR_readlinkat => self.readlink(fd, b, (c, d)),
            abi::__NR_statx => self.statx(fd, b, c as u32, e),
            abi::__NR_statfs => self.statfs(a, b),
            abi::__NR_capget => self.capget(b),
            abi::__NR_capset => self.capset(b),
            _ => return None,
        })
    }

    pub(super) fn text(&self, addr: usize) -> Result<Vec<u8>, Failure> {
        let text = syscalls::user_memory::Text::User(self, addr).read()?;
        Ok(text.into_owned())
    }

    /// The directory that a relative path starts in, if it is not the working directory.
    pub(super) fn start(&self, dfd: i32, path: &[u8]) -> Result<Option<PathRef<TmpDentry>>, Failure> {
        if dfd == abi::AT_FDCWD || path.starts_with(b"/") {
            return Ok(None);
        }
        let file = self.file(dfd)?;
        let at = file.path().filter(|at| at.dentry.is_dir()).ok_or(Errno::ENOTDIR)?;
        Ok(Some(at.clone()))
    }

    pub(super) fn find(
        &self,
        dfd: i32,
        path: &[u8],
        last: Last,
        resolve: Resolve,
    ) -> Result<PathRef<TmpDentry>, Failure> {
        if path.is_empty() {
            return Err(Errno::ENOENT.into());
        }
        // An absolute path starts at the root, unless the directory is to be the root.
        let scoped = resolve.intersects(Resolve::BENEATH | Resolve::IN_ROOT | Resolve::NO_XDEV);
        let start =
            if scoped && dfd != abi::AT_FDCWD { self.start(dfd, b"")? } else { self.start(dfd, path)? };
        let how = How { last, resolve, dir: start.as_ref() };
        Ok(walk_how(&self.process.task.fs(), path, &how, |found| {
            let mount = found.mount.keep(found.guard())?;
            Ok(PathRef { mount, dentry: Arc::clone(found.dentry) })
        })?)
    }

    fn openat2(&self, dfd: i32, addr: usize, how: usize, size: usize) -> Answer {
        const SIZE: usize = 24;
        if size < SIZE {
            return Err(Errno::EINVAL.into());
        }
        let mut bytes = [0; SIZE];
        structure(self, how, size, &mut bytes)?;
        let field = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let resolve = Resolve::from_bits(field(16)).ok_or(Errno::EINVAL)?;
        if resolve.contains(Resolve::BENEATH | Resolve::IN_ROOT) {
            return Err(Errno::EINVAL.into());
        }
        self.openat(dfd, addr, field(0) as u32, resolve)
    }

    fn openat(&self, dfd: i32, addr: usize, flags: u32, resolve: Resolve) -> Answer {
        let has = |flag: u32| flags & flag != 0;
        let path = self.text(addr)?;
        let last = if has(abi::O_NOFOLLOW) { Last::NoFollow } else { Last::Follow };
        let writes = has(abi::O_WRONLY | abi::O_RDWR) && !has(abi::O_PATH);
        let at = match self.find(dfd, &path, last, resolve) {
            Ok(_) if has(abi::O_CREAT) && has(abi::O_EXCL) => return Err(Errno::EEXIST.into()),
            Ok(at) => at,
            Err(Failure(errno::ENOENT)) if has(abi::O_CREAT) && !path.is_empty() => {
                let entry = self.entry(dfd, addr)?;
                self.may_change(&entry)?;
                if entry.at.dentry.is_removed() {
                    return Err(Errno::ENOENT.into());
                }
                let _writing = write(&entry.at.mount)?;
                self.may_own(&entry)?;
                let dentry = entry.at.dentry.create(&entry.name)?;
                PathRef { mount: entry.at.mount, dentry }
            }
            Err(failure) => return Err(failure),
        };
        if has(abi::O_DIRECTORY) && !at.dentry.is_dir() {
            return Err(Errno::ENOTDIR.into());
        }
        if has(abi::O_PATH) {
            return Ok(fd_result(self.install(File::place(at), false)?));
        }
        if at.dentry.symlink().is_some() {
            return Err(Errno::ELOOP.into());
        }
        let mut writing = None;
        if self.is_device(&at.dentry) {
            may_open_device(&at.mount)?;
        } else if writes {
            if at.dentry.is_dir() {
                return Err(Failure(errno::EISDIR));
            }
            if thing::<NamespaceFile>(&at.dentry).is_some() {
                return Err(Errno::EPERM.into());
            }
            if thing::<ProcFile>(&at.dentry).is_none() {
                writing = Some(write(&at.mount)?);
            }
        }
        if let Some(file) = thing::<NamespaceFile>(&at.dentry) {
            let object = file.object();
            return Ok(fd_result(self.install(File::new(Some(at), object), false)?));
        }
        let access = match thing::<ProcFile>(&at.dentry) {
            Some(ProcFile::Mounts(task, format)) => {
                let task = task.upgrade().ok_or(Errno::EINVAL)?;
                Access::Mounts(MountsFile::open(&task, *format))
            }
            Some(ProcFile::MaxMntNamespaces) => Access::MaxMntNamespaces,
            None => Access::Contents,
        };
        if has(abi::O_TRUNC) && writes {
            at.dentry.truncate(0)?;
        }
        let open = Open::new(File::at(at), access, writing);
        Ok(fd_result(self.install_open(open)?))
    }

    fn read_file(&self, fd: i32, addr: usize, len: usize) -> Answer {
        let open = self.process.open(fd)?;
        if let Ok(context) = open.file.context() {
            let message = Log::read(context.lock().log(), len)?;
            write_all(self, addr, &message)?;
            return Ok(message.len());
        }
        self.pread(fd, addr, len, 0)
    }

    fn pread(&self, fd: i32, addr: usize, len: usize, offset: usize) -> Answer {
        let open = self.process.open(fd)?;
        let mut bytes = vec![0; len];
        let count = match &open.access {
            Access::Mounts(mounts) => {
                let mut text = Vec::new();
                mounts.rewind();
                loop {
                    let mut some = [0; 4096];
                    match mounts.read(self.world, &mut some)? {
                        0 => break,
                        count => text.extend_from_slice(&some[..count]),
                    }
                }
                let rest = text.get(offset..).unwrap_or_default();
                let count = rest.len().min(len);
                bytes[..count].copy_from_slice(&rest[..count]);
                count
            }
            Access::Contents => {
                let at = open.file.path().ok_or(Errno::EBADF)?;
                at.dentry.read_at(offset as u64, &mut bytes)?
            }
            _ => return Err(Errno::EBADF.into()),
        };
        write_all(self, addr, &bytes[..count])?;
        Ok(count)
    }

    fn write_file(&self, fd: i32, addr: usize, len: usize) -> Answer {
        let open = self.process.open(fd)?;
        let mut bytes = vec![0; len];
        read_all(self, addr, &mut bytes)?;
        match &open.access {
            Access::MaxMntNamespaces => {
                let text = String::from_utf8_lossy(&bytes);
                let max = text.trim().parse().map_err(|_| Errno::EINVAL)?;
                self.process.task.credentials().user_ns.set_mount_namespaces_max(max);
            }
            Access::Contents => {
                let at = open.file.path().ok_or(Errno::EBADF)?;
                at.dentry.write_at(0, &bytes)?;
            }
            _ => return Err(Errno::EBADF.into()),
        }
        Ok(len)
    }

    /// mmap(2), as far as mounts see it: the mapping keeps the file open.
    fn mmap(&self, fd: i32, access: usize) -> Answer {
        const EXEC: usize = 4;
        const ADDRESS: usize = 0x7000_0000;
        let open = self.process.open(fd)?;
        let at = open.file.path().ok_or(Errno::EBADF)?;
        if access & EXEC != 0 && at.mount.flags().contains(MountFlags::NOEXEC) {
            return Err(Errno::EPERM.into());
        }
        self.process.mapped.lock().expect("no panic").push(open);
        Ok(ADDRESS)
    }

    /// poll(2) of one descriptor, without waiting.
    fn poll(&self, addr: usize) -> Answer {
        const INVALID: u32 = 0x20;
        let mut bytes = [0; 8];
        read_all(self, addr, &mut bytes)?;
        let fd = i32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        let wanted = u32::from(u16::from_le_bytes([bytes[4], bytes[5]]));
        let found = match self.process.open(fd) {
            Err(_) => INVALID,
            Ok(open) => match &open.access {
                Access::Mounts(mounts) => mounts.poll(wanted),
                _ => abi::POLLIN & wanted,
            },
        };
        write_all(self, addr + 6, &(found as u16).to_le_bytes())?;
        Ok(usize::from(found != 0))
    }

    fn ioctl(&self, fd: i32, request: u32, arg: usize) -> Answer {
        let file = self.file(fd)?;
        Ok(nsfs_ioctl(self, &file, request, arg)?)
    }

    fn getdents(&self, fd: i32, addr: usize, size: usize) -> Answer {
        const HEADER: usize = 19;
        let file = self.file(fd)?;
        let at = file.path().ok_or(Errno::ENOTDIR)?;
        if at.dentry.is_removed() {
            return Err(Errno::ENOENT.into());
        }
        let mut out = Vec::new();
        for (name, child) in at.dentry.entries()? {
            let len = (HEADER + name.len() + 1).next_multiple_of(8);
            let (_, ino) = child.id();
            let start = out.len();
            out.extend_from_slice(&ino.to_le_bytes());
            out.extend_from_slice(&[0; 8]);
            out.extend_from_slice(&(len as u16).to_le_bytes());
            out.push(0);
            out.extend_from_slice(&name);
            out.resize(start + len, 0);
        }
        out.truncate(size);
        write_all(self, addr, &out)?;
        Ok(out.len())
    }

    fn getcwd(&self, addr: usize, size: usize) -> Answer {
        let fs = self.process.task.fs();
        let (at, root) = (fs.cwd(), fs.root());
        if at.1.is_removed() {
            return Err(Errno::ENOENT.into());
        }
        let (text, reached) = place_path(&at, &root)?;
        let mut all = if reached { Vec::new() } else { b"(unreachable)".to_vec() };
        all.extend_from_slice(&text);
        all.push(0);
        if all.len() > size {
            return Err(Failure(errno::ERANGE));
        }
        write_all(self, addr, &all)?;
        Ok(all.len())
    }

    fn readlink(&self, dfd: i32, addr: usize, (to, size): (usize, usize)) -> Answer {
        let name = self.text(addr)?;
        let at = self.find(dfd, &name, Last::NoFollow, Resolve::empty())?;
        let mut text = match at.dentry.symlink() {
            Some(target) => target.to_vec(),
            None if at.dentry.is_magic_link() => {
                let to = at.dentry.follow_magic_link()?;
                match thing::<NamespaceFile>(&to.dentry) {
                    Some(file) => file.name().into_bytes(),
                    None => {
                        let root = self.process.task.fs().root();
                        place_path(&(to.mount.to_arc(), Arc::clone(&to.dentry)), &root)?.0
                    }
                }
            }
            None => return Err(Errno::EINVAL.into()),
        };
        text.truncate(size);
        write_all(self, to, &text)?;
        Ok(text.len())
    }

    fn statx(&self, dfd: i32, addr: usize, flags: u32, to: usize) -> Answer {
        const SIZE: usize = 256;
        let name = self.text(addr)?;
        let at = if name.is_empty() && flags & abi::AT_EMPTY_PATH != 0 && dfd != abi::AT_FDCWD {
            self.file(dfd)?.path().cloned().ok_or(Errno::EBADF)?
        } else {
            let nofollow = flags & abi::AT_SYMLINK_NOFOLLOW != 0;
            let name = if name.is_empty() && flags & abi::AT_EMPTY_PATH != 0 { b".".to_vec() } else { name };
            self.find(dfd, &name, if nofollow { Last::NoFollow } else { Last::Follow }, Resolve::empty())?
        };
        let mount = at.mount.to_arc();
        let (dev, ino) = at.dentry.id();
        let mode = match at.dentry.kind() {
            Kind::Directory => DIRECTORY,
            Kind::Symlink => SYMLINK,
            Kind::Handle if at.dentry.is_magic_link() => SYMLINK,
            _ if self.is_device(&at.dentry) => DEVICE,
            _ => FILE,
        };
        let mut bytes = [0; SIZE];
        bytes[..4].copy_from_slice(&(abi::STATX_BASIC_STATS | abi::STATX_MNT_ID_UNIQUE).to_le_bytes());
        if Arc::ptr_eq(&at.dentry, mount.root()) {
            bytes[8..16].copy_from_slice(&u64::from(abi::STATX_ATTR_MOUNT_ROOT).to_le_bytes());
        }
        bytes[0x1c..0x1e].copy_from_slice(&mode.to_le_bytes());
        bytes[0x20..0x28].copy_from_slice(&ino.to_le_bytes());
        bytes[0x8c..0x90].copy_from_slice(&dev.to_le_bytes());
        bytes[0x90..0x98].copy_from_slice(&mount.unique_id().to_le_bytes());
        write_all(self, to, &bytes)?;
        Ok(0)
    }

    fn statfs(&self, addr: usize, to: usize) -> Answer {
        const SIZE: usize = 120;
        const FLAGS: usize = 80;
        let name = self.text(addr)?;
        let at = self.find(abi::AT_FDCWD, &name, Last::Follow, Resolve::empty())?;
        let flags = to_statfs(at.mount.flags(), self.super_flags(at.mount.root()));
        let mut bytes = [0; SIZE];
        bytes[FLAGS..FLAGS + 8].copy_from_slice(&flags.to_le_bytes());
        write_all(self, to, &bytes)?;
        Ok(0)
    }

    /// capget(2): the effective capabilities, which are all that matter here.
    fn capget(&self, addr: usize) -> Answer {
        let bits = self.process.task.credentials().effective.bits();
        let mut bytes = [0; 24];
        for word in 0..2 {
            let half = ((bits >> (32 * word)) as u32).to_le_bytes();
            bytes[12 * word..12 * word + 4].copy_from_slice(&half);
            bytes[12 * word + 4..12 * word + 8].copy_from_slice(&half);
        }
        write_all(self, addr, &bytes)?;
        Ok(0)
    }

    fn capset(&self, addr: usize) -> Answer {
        let mut bytes = [0; 24];
        read_all(self, addr, &mut bytes)?;
        let half =
            |at: usize| u64::from(u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes")));
        let wanted = Capabilities::from_bits_retain(half(0) | half(12) << 32);
        let mut credentials = (*self.process.task.credentials()).clone();
        if !credentials.effective.contains(wanted) {
            return Err(Errno::EPERM.into());
        }
        credentials.effective = wanted;
        self.process.task.set_credentials(credentials)?;
        Ok(0)
    }

    /// pidfd_open(2) of a task at hand.
    pub(super) fn open_process(&self, task: Weak<Task<TmpDentry>>) -> Answer {
        Ok(fd_result(self.install(File::new(None, Object::Process(task)), true)?))
    }
}

fn fd_result(fd: i32) -> usize {
    fd as usize
}
