//! The contents of a dentry that is a regular file, in whole calls.

use mnt_table::dentry::Dentry;

use crate::contents::Contents;
use crate::dentry::TmpDentry;
use crate::{FILE_MAX, FsError};

impl TmpDentry {
    /// The contents.
    ///
    /// # Errors
    /// `EISDIR`, `EINVAL`: not a regular file.
    pub fn contents(&self) -> Result<&Contents, FsError> {
        match self.inode().contents() {
            Some(contents) => Ok(contents),
            None if self.is_dir() => Err(FsError::IsDirectory),
            None => Err(FsError::NotFile),
        }
    }

    /// The number of bytes.
    ///
    /// # Errors
    /// `EISDIR`, `EINVAL`: not a regular file.
    pub fn size(&self) -> Result<u64, FsError> {
        Ok(self.contents()?.size())
    }

    /// Reads from `offset` into `buffer`; returns how many bytes there were.
    ///
    /// # Errors
    /// `EISDIR`, `EINVAL`: not a regular file.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, FsError> {
        Ok(self.contents()?.read(offset, buffer))
    }

    /// Writes `bytes` at `offset`, with zeroes in a gap before it. All or nothing.
    ///
    /// # Errors
    /// `EISDIR`, `EINVAL`: not a regular file. `EROFS`. `EFBIG`. `ENOSPC`. `ENOMEM`. `EPERM`: seals.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<usize, FsError> {
        let contents = self.contents()?;
        self.super_block().may_write()?;
        contents.write(offset, bytes)?;
        self.inode().touch();
        Ok(bytes.len())
    }

    /// Cuts or extends to `size` bytes.
    ///
    /// # Errors
    /// As [`TmpDentry::write_at`].
    pub fn truncate(&self, size: u64) -> Result<(), FsError> {
        let contents = self.contents()?;
        self.super_block().may_write()?;
        if size > FILE_MAX {
            return Err(FsError::TooBig);
        }
        let _whole = contents.writing().lock();
        contents.set_size(size)?;
        self.inode().touch();
        Ok(())
    }
}
