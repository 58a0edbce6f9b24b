//! An in-memory file system with a lock-free dentry cache, shared by hosts, benches and the kernel; there it also holds
//! what the kernel shows of itself ([`Handle`]).
//!
//! 1. The tree is the cache: a directory is a [`mnt_table::table::Table`] of immutable entries (name, child), so a lookup
//!    takes no lock and writes nothing.
//! 2. A change takes the lock of each directory that it touches, and links a fresh entry; what it unlinks goes through
//!    [`mnt_table::reclaim`].
//! 3. A rename publishes the new name before it takes the old one away, and a rename onto an existing name replaces its
//!    entry with one store: a name that always exists is never missed. For a moment both names can be found.
//! 4. When the last mount of a superblock is gone its tree is taken apart, entry by entry, which breaks the cycles
//!    of entries that own children that own their parents.
//!
//! # Lock order
//! The mount namespace of the caller (in [`mnt_table::removal`], held for its test only); then [`TmpSuperBlock`]'s rename
//! lock, for renames between two directories; then directories by address; then an inode's locks and its contents'. All
//! but the first are leaf locks. A file's `writing` lock, which blocks, comes before all of them.
//!
//! # Left out
//! Quotas, and writing pages out: there is nowhere to write them.
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod contents;
mod dentry;
mod directory;
mod error;
mod file;
mod handle;
mod inode;
mod name;
mod page;
mod place;
mod radix;
mod rename;
mod shutdown;
mod stats;
mod super_block;
mod xattr;

pub use contents::{Contents, FILE_MAX};
pub use dentry::{Kind, TmpDentry};
pub use directory::{Entries, Listed, Removed};
pub use error::FsError;
pub use handle::Handle;
pub use inode::{Inode, New, Times, What, mode};
pub use name::{NAME_MAX, TARGET_MAX};
pub use page::{PAGE_SIZE, Page, pages, set_owners};
pub use rename::{exchange, exchange_with, rename, rename_if, rename_with};
pub use stats::{Stats, stats};
pub use super_block::{Machine, Options, TmpSuperBlock, Usage};
pub use xattr::{INODE_ROOM, Set, Value};
