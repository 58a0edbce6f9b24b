//! Why an operation of the file system failed.

use mnt_table::list::NoMemory;
use mnt_table::reclaim::OverLimit;
use mnt_table::removal::RemovalError;

/// Why an operation failed; nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FsError {
    /// `ENOENT`: no such name, an empty name or target, or the directory was removed.
    NotFound,
    /// `ENOTDIR`: a directory was needed.
    NotDirectory,
    /// `EISDIR`: a directory stands where another kind was needed.
    IsDirectory,
    /// `EEXIST`: the name is taken.
    Exists,
    /// `ENOTEMPTY`: the directory has entries.
    NotEmpty,
    /// `EBUSY`: something is mounted on it in the caller's namespace.
    Busy,
    /// `EINVAL`: `.`, `..`, or a name with `/` or NUL.
    BadName,
    /// `EPERM`: not for a directory.
    NotPermitted,
    /// `EPERM`: a seal forbids it.
    Sealed,
    /// `EMLINK`: too many names of one file.
    TooManyLinks,
    /// `ENOSPC`: the instance is full.
    NoSpace,
    /// `EFAULT`: a page beyond the end of the file.
    BeyondEnd,
    /// `EINVAL`: a limit below what is used, or where there was none.
    BadLimit,
    /// `ETXTBSY`: it is run, or written.
    Run,
    /// `ENXIO`: no such byte in the file.
    NoSuchByte,
    /// `ENODATA`: no such extended attribute.
    NoAttribute,
    /// `ENAMETOOLONG`: a name above 255 bytes, or a link's target above 4095.
    NameTooLong,
    /// `EINVAL`: a directory cannot become its own descendant.
    IntoItself,
    /// `EINVAL`: not a regular file.
    NotFile,
    /// `EXDEV`: the two directories are in different superblocks.
    CrossDevice,
    /// `EROFS`: the superblock is read-only.
    ReadOnly,
    /// `EFBIG`: beyond [`crate::FILE_MAX`].
    TooBig,
    /// `ENOMEM`.
    NoMemory,
}

impl From<RemovalError> for FsError {
    fn from(error: RemovalError) -> Self {
        match error {
            RemovalError::Busy => FsError::Busy,
            RemovalError::NoMemory => FsError::NoMemory,
        }
    }
}

impl From<NoMemory> for FsError {
    fn from(NoMemory: NoMemory) -> Self {
        FsError::NoMemory
    }
}

impl From<OverLimit> for FsError {
    fn from(OverLimit: OverLimit) -> Self {
        FsError::NoMemory
    }
}
