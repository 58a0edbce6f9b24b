//! The contents of regular files: small, in one piece, under one lock.

use alloc::vec::Vec;

use mnt_table::dentry::Dentry;
use mnt_table::sync::Mutex;

use crate::FsError;
use crate::dentry::{Body, TmpDentry};
use crate::stats::{self, Shard};

/// The most bytes of a file. The contents are copied under a leaf lock, so they stay small.
pub const FILE_MAX: usize = 1 << 20;

impl TmpDentry {
    fn contents(&self) -> Result<&Mutex<Vec<u8>>, FsError> {
        match self.body() {
            Body::File(contents) => Ok(contents),
            Body::Directory(_) => Err(FsError::IsDirectory),
            Body::Symlink(_) | Body::Handle(_) => Err(FsError::NotFile),
        }
    }

    /// The number of bytes.
    ///
    /// # Errors
    /// `EISDIR`, `EINVAL`: not a regular file.
    pub fn size(&self) -> Result<usize, FsError> {
        Ok(self.contents()?.lock().len())
    }

    /// Reads from `offset` into `buffer`; returns how many bytes there were.
    ///
    /// # Errors
    /// `EISDIR`, `EINVAL`: not a regular file.
    pub fn read_at(&self, offset: usize, buffer: &mut [u8]) -> Result<usize, FsError> {
        let contents = self.contents()?.lock();
        let found = contents.get(offset..).unwrap_or_default();
        let count = found.len().min(buffer.len());
        buffer[..count].copy_from_slice(&found[..count]);
        Ok(count)
    }

    /// Writes `bytes` at `offset`, with zeroes in a gap before it. All or nothing.
    ///
    /// # Errors
    /// `EISDIR`, `EINVAL`: not a regular file. `EROFS`. `EFBIG`. `ENOMEM`.
    pub fn write_at(&self, offset: usize, bytes: &[u8]) -> Result<usize, FsError> {
        let contents = self.contents()?;
        self.super_block().may_write()?;
        if bytes.is_empty() {
            return Ok(0);
        }
        let end = offset.checked_add(bytes.len()).filter(|end| *end <= FILE_MAX).ok_or(FsError::TooBig)?;
        let mut contents = contents.lock();
        if end > contents.len() {
            self.resize(&mut contents, end)?;
        }
        contents[offset..end].copy_from_slice(bytes);
        Ok(bytes.len())
    }

    /// Cuts or extends to `size` bytes.
    ///
    /// # Errors
    /// As [`TmpDentry::write_at`].
    pub fn truncate(&self, size: usize) -> Result<(), FsError> {
        let contents = self.contents()?;
        self.super_block().may_write()?;
        if size > FILE_MAX {
            return Err(FsError::TooBig);
        }
        self.resize(&mut contents.lock(), size)
    }

    fn resize(&self, contents: &mut Vec<u8>, size: usize) -> Result<(), FsError> {
        let before = contents.len();
        contents.try_reserve(size.saturating_sub(before)).map_err(|_| FsError::NoMemory)?;
        contents.resize(size, 0);
        if size == 0 {
            *contents = Vec::new();
        }
        Shard::add(&stats::of(self.super_block().dev()).bytes, size as i64 - before as i64);
        Ok(())
    }
}
