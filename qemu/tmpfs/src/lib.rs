//! An in-memory file system with a lock-free dentry cache, shared by hosts, benches and the kernel.
//!
//! 1. The tree is the cache: a directory is a [`mnt_table::table::Table`] of immutable entries (name, child), so a lookup
//!    takes no lock and writes nothing.
//! 2. A change takes the lock of each directory that it touches, and links a fresh entry; what it unlinks goes through
//!    [`mnt_table::reclaim`].
//! 3. A rename publishes the new name before it takes the old one away, and a rename onto an existing name replaces its
//!    entry with one store: a name that always exists is never missed. For a moment both names can be found.
//! 4. When the last mount of a superblock is gone its tree is taken apart, directory by directory, which breaks the
//!    cycles of entries that own children that own their parents.
//!
//! # Lock order
//! The mount namespace of the caller (in [`mnt_table::removal`], held for its test only); then [`TmpSuperBlock`]'s rename
//! lock, for renames between two directories; then directories by address. All but the first are leaf locks.
//!
//! # Left out
//! Hard links, special files, modes, owners, times and limits: nothing here mounts differently for them.
#![no_std]

extern crate alloc;

mod dentry;
mod directory;
mod error;
mod file;
mod name;
mod place;
mod rename;
mod stats;
mod super_block;

pub use dentry::{Handle, Kind, TmpDentry};
pub use directory::{Entries, Removed};
pub use error::FsError;
pub use file::FILE_MAX;
pub use name::{NAME_MAX, TARGET_MAX};
pub use rename::rename;
pub use stats::{Stats, stats};
pub use super_block::{Options, TmpSuperBlock};
