//! The system calls about files and mounts, from their registers.

use alloc::sync::Arc;

use linux_raw_sys::general as abi;
use mnt_table::PathRef;
use mnt_table::dentry::Dentry;
use mnt_table::walk::Last;
use syscalls::Errno;
use syscalls::abi::dispatch;
use tmpfs::{Kind, TmpDentry};

use super::attributes;
use super::kernel::Call;
use super::permission::{EXEC, Subject};
use super::xattr::{self, At};
use super::{descriptors, io, locks, memfd, names, open, pipe, stat};
use crate::task::Thread;

/// The call `nr` of `thread`, if it is one of these.
pub(crate) fn call(thread: &Arc<Thread>, nr: u32, args: [usize; 6]) -> Option<Result<usize, Errno>> {
    let call = &Call { thread };
    let [a, b, c, d, e, f] = args;
    let (fd, third) = (a as i32, c as u32);
    const HERE: i32 = abi::AT_FDCWD;
    const NOFOLLOW: u32 = abi::AT_SYMLINK_NOFOLLOW;
    Some(match nr {
        // Opening and closing.
        abi::__NR_open => open::openat(call, HERE, a, b as u32, third),
        abi::__NR_creat => open::openat(call, HERE, a, abi::O_CREAT | abi::O_WRONLY | abi::O_TRUNC, b as u32),
        abi::__NR_openat => open::openat(call, fd, b, third, d as u32),
        abi::__NR_openat2 => open::openat2(call, fd, b, c, d),
        abi::__NR_close => thread.files().close(fd).map(|()| 0),
        abi::__NR_close_range => descriptors::close_range(call, a as u32, b as u32, third),
        abi::__NR_dup => descriptors::dup(call, fd),
        abi::__NR_dup2 if a == b => call.any(fd).map(|_| b),
        abi::__NR_dup2 => descriptors::dup_to(call, fd, b as i32, false),
        abi::__NR_dup3 if a == b || third & !abi::O_CLOEXEC != 0 => Err(Errno::EINVAL),
        abi::__NR_dup3 => descriptors::dup_to(call, fd, b as i32, third & abi::O_CLOEXEC != 0),
        abi::__NR_pipe => pipe::pipe2(call, a, 0),
        abi::__NR_pipe2 => pipe::pipe2(call, a, b as u32),
        abi::__NR_memfd_create => memfd::memfd_create(call, a, b as u32),
        abi::__NR_fcntl => descriptors::fcntl(call, fd, b as u32, c),
        abi::__NR_flock => locks::flock(call, fd, b as u32),
        abi::__NR_ioctl => descriptors::ioctl(call, fd, b as u32, c),
        // Contents.
        abi::__NR_read => io::read(call, fd, b, c),
        abi::__NR_write => io::write(call, fd, b, c),
        abi::__NR_pread64 => io::pread(call, fd, b, c, d),
        abi::__NR_pwrite64 => io::pwrite(call, fd, b, c, d),
        abi::__NR_readv => io::readv(call, fd, b, c, None),
        abi::__NR_writev => io::writev(call, fd, b, c, None),
        abi::__NR_preadv => io::readv(call, fd, b, c, Some(d)),
        abi::__NR_pwritev => io::writev(call, fd, b, c, Some(d)),
        abi::__NR_preadv2 => io::second_version(d, f as u32).and_then(|at| io::readv(call, fd, b, c, at)),
        abi::__NR_pwritev2 => io::second_version(d, f as u32).and_then(|at| io::writev(call, fd, b, c, at)),
        abi::__NR_lseek => io::lseek(call, fd, b, third),
        abi::__NR_sendfile => io::sendfile(call, fd, b as i32, c, d),
        abi::__NR_copy_file_range => io::copy_file_range(call, (fd, b), (c as i32, d), e, f as u32),
        abi::__NR_splice => io::splice(call, (fd, b), (c as i32, d), e, f as u32),
        abi::__NR_truncate => attributes::truncate(call, a, b),
        abi::__NR_ftruncate => io::ftruncate(call, fd, b),
        abi::__NR_fallocate => io::fallocate(call, fd, b as u32, c, d),
        abi::__NR_fsync | abi::__NR_fdatasync => io::fsync(call, fd),
        abi::__NR_sync => Ok(0),
        abi::__NR_syncfs => call.open_file(fd).map(|_| 0),
        abi::__NR_sync_file_range => sync_range(call, fd, b as i64, c as i64, d as u32),
        abi::__NR_fadvise64 => advise(call, fd, d as u32),
        abi::__NR_readahead => read_ahead(call, fd),
        abi::__NR_getdents64 => descriptors::getdents(call, fd, b, c as u32 as usize, false),
        abi::__NR_getdents => descriptors::getdents(call, fd, b, c as u32 as usize, true),
        // Names.
        abi::__NR_mkdir => names::mkdir(call, HERE, a, b as u32),
        abi::__NR_mkdirat => names::mkdir(call, fd, b, third),
        abi::__NR_mknod => names::mknod(call, HERE, a, b as u32, third),
        abi::__NR_mknodat => names::mknod(call, fd, b, third, d as u32),
        abi::__NR_rmdir => names::unlink(call, HERE, a, abi::AT_REMOVEDIR),
        abi::__NR_unlink => names::unlink(call, HERE, a, 0),
        abi::__NR_unlinkat => names::unlink(call, fd, b, third),
        abi::__NR_rename => names::rename(call, (HERE, a), (HERE, b), 0),
        abi::__NR_renameat => names::rename(call, (fd, b), (c as i32, d), 0),
        abi::__NR_renameat2 => names::rename(call, (fd, b), (c as i32, d), e as u32),
        abi::__NR_link => names::link(call, HERE, a, HERE, b, 0),
        abi::__NR_linkat => names::link(call, fd, b, c as i32, d, e as u32),
        abi::__NR_symlink => names::symlink(call, a, HERE, b),
        abi::__NR_symlinkat => names::symlink(call, a, b as i32, c),
        abi::__NR_readlink => names::readlink(call, HERE, a, b, c),
        abi::__NR_readlinkat => names::readlink(call, fd, b, c, d),
        abi::__NR_getcwd => names::getcwd(call, a, b),
        abi::__NR_umask => Ok(super::set_umask(thread, a as u32) as usize),
        // Attributes.
        abi::__NR_stat => stat::fstatat(call, HERE, a, b, 0),
        abi::__NR_lstat => stat::fstatat(call, HERE, a, b, NOFOLLOW),
        abi::__NR_fstat => stat::fstat(call, fd, b),
        abi::__NR_newfstatat => stat::fstatat(call, fd, b, c, d as u32),
        abi::__NR_statx => stat::statx(call, fd, b, third, d as u32, e),
        abi::__NR_statfs => stat::statfs(call, a, b),
        abi::__NR_fstatfs => stat::fstatfs(call, fd, b),
        abi::__NR_access => attributes::faccessat(call, HERE, a, b as u32, 0),
        abi::__NR_faccessat => attributes::faccessat(call, fd, b, third, 0),
        abi::__NR_faccessat2 => attributes::faccessat(call, fd, b, third, d as u32),
        abi::__NR_chmod => attributes::fchmodat(call, HERE, a, b as u32, 0),
        abi::__NR_fchmod => attributes::fchmod(call, fd, b as u32),
        abi::__NR_fchmodat => attributes::fchmodat(call, fd, b, third, 0),
        abi::__NR_fchmodat2 => attributes::fchmodat(call, fd, b, third, d as u32),
        abi::__NR_chown => attributes::fchownat(call, HERE, a, (b as u32, third), 0),
        abi::__NR_lchown => attributes::fchownat(call, HERE, a, (b as u32, third), NOFOLLOW),
        abi::__NR_fchown => attributes::fchown(call, fd, (b as u32, third)),
        abi::__NR_fchownat => attributes::fchownat(call, fd, b, (third, d as u32), e as u32),
        abi::__NR_utimensat => attributes::utimensat(call, fd, b, c, d as u32),
        abi::__NR_futimesat => attributes::utimes(call, fd, b, c),
        abi::__NR_utimes => attributes::utimes(call, HERE, a, b),
        abi::__NR_utime => attributes::utime(call, a, b),
        // Extended attributes.
        abi::__NR_getxattr => xattr::getxattr(call, At::Path(a), b, c, d),
        abi::__NR_lgetxattr => xattr::getxattr(call, At::Link(a), b, c, d),
        abi::__NR_fgetxattr => xattr::getxattr(call, At::File(fd), b, c, d),
        abi::__NR_getxattrat => xattr::getxattrat(call, At::From(fd, b, third), d, e, f),
        abi::__NR_setxattr => xattr::setxattr(call, At::Path(a), b, (c, d), e as u32),
        abi::__NR_lsetxattr => xattr::setxattr(call, At::Link(a), b, (c, d), e as u32),
        abi::__NR_fsetxattr => xattr::setxattr(call, At::File(fd), b, (c, d), e as u32),
        abi::__NR_setxattrat => xattr::setxattrat(call, At::From(fd, b, third), d, e, f),
        abi::__NR_listxattr => xattr::listxattr(call, At::Path(a), b, c),
        abi::__NR_llistxattr => xattr::listxattr(call, At::Link(a), b, c),
        abi::__NR_flistxattr => xattr::listxattr(call, At::File(fd), b, c),
        abi::__NR_listxattrat => xattr::listxattr(call, At::From(fd, b, third), d, e),
        abi::__NR_removexattr => xattr::removexattr(call, At::Path(a), b),
        abi::__NR_lremovexattr => xattr::removexattr(call, At::Link(a), b),
        abi::__NR_fremovexattr => xattr::removexattr(call, At::File(fd), b),
        abi::__NR_removexattrat => xattr::removexattr(call, At::From(fd, b, third), d),
        // There are no handles of files.
        abi::__NR_name_to_handle_at => call.find_at(fd, b, to_at_flags(e as u32)).and(Err(Errno::EOPNOTSUPP)),
        // Where a task is; and mounts.
        abi::__NR_chdir | abi::__NR_chroot => {
            stand(call, call.path(a).and_then(|path| call.find(HERE, &path, Last::Follow)))
                .and_then(|()| dispatch(call, nr as usize, args))
        }
        abi::__NR_fchdir => {
            stand(call, call.any(fd).and_then(|file| file.file().path().cloned().ok_or(Errno::ENOTDIR)))
                .and_then(|()| dispatch(call, nr as usize, args))
        }
        abi::__NR_mount
        | abi::__NR_umount2
        | abi::__NR_pivot_root
        | abi::__NR_statmount
        | abi::__NR_listmount
        | abi::__NR_fsopen
        | abi::__NR_fspick
        | abi::__NR_fsmount
        | abi::__NR_fsconfig
        | abi::__NR_open_tree
        | abi::__NR_open_tree_attr
        | abi::__NR_move_mount
        | abi::__NR_mount_setattr
        | abi::__NR_unshare
        | abi::__NR_setns => dispatch(call, nr as usize, args),
        _ => return None,
    })
}

/// The flags of name_to_handle_at(2), which follows links only if it is told to.
fn to_at_flags(flags: u32) -> u32 {
    let follow = flags & abi::AT_SYMLINK_FOLLOW != 0;
    flags & abi::AT_EMPTY_PATH | if follow { 0 } else { abi::AT_SYMLINK_NOFOLLOW }
}

/// Whether the caller may stand in a directory.
///
/// # Errors
/// `ENOTDIR`, `EACCES`; those of the walk.
fn stand(call: &Call<'_>, at: Result<PathRef<TmpDentry>, Errno>) -> Result<(), Errno> {
    let at = at?;
    if !at.dentry.is_dir() {
        return Err(Errno::ENOTDIR);
    }
    Subject::new(&at.mount, &at.dentry).may(&call.credentials(), EXEC)
}

/// sync_file_range(2): there is nothing to be written elsewhere.
fn sync_range(call: &Call<'_>, fd: i32, offset: i64, len: i64, flags: u32) -> Result<usize, Errno> {
    let known =
        abi::SYNC_FILE_RANGE_WAIT_BEFORE | abi::SYNC_FILE_RANGE_WRITE | abi::SYNC_FILE_RANGE_WAIT_AFTER;
    let file = call.open_file(fd)?;
    let fits = offset >= 0 && len >= 0 && offset.checked_add(len).is_some();
    if flags & !known != 0 || !fits {
        return Err(Errno::EINVAL);
    }
    match file.dentry().map(|dentry| dentry.kind()) {
        Some(Kind::File | Kind::BlockDevice | Kind::Directory | Kind::Symlink) => Ok(0),
        _ => Err(Errno::ESPIPE),
    }
}

/// readahead(2): everything is in memory as it is.
fn read_ahead(call: &Call<'_>, fd: i32) -> Result<usize, Errno> {
    let file = call.open_file(fd)?;
    if !file.is_readable() {
        return Err(Errno::EBADF);
    }
    match file.dentry().map(|dentry| dentry.kind()) {
        Some(Kind::File | Kind::BlockDevice) => Ok(0),
        _ => Err(Errno::EINVAL),
    }
}

/// posix_fadvise(2): everything is in memory as it is.
fn advise(call: &Call<'_>, fd: i32, advice: u32) -> Result<usize, Errno> {
    const ADVICE_MAX: u32 = 5;
    let file = call.open_file(fd)?;
    if file.as_ops::<pipe::PipeOps>().is_some() {
        return Err(Errno::ESPIPE);
    }
    if advice > ADVICE_MAX { Err(Errno::EINVAL) } else { Ok(0) }
}
