//! A lock-free concurrent mount table with RCU-style lookup.
//!
//! Mounts, the mount hash, namespaces, lookup and path walk. Who receives a propagated mount is in the `propagate`
//! crate, and what a system call checks in `syscalls`.
#![no_std]

extern crate alloc;
#[cfg(any(feature = "std", loom))]
extern crate std;

pub mod arc_cell;
pub mod check;
mod count;
pub mod dentry;
pub mod group;
pub mod id;
pub mod list;
pub mod mount;
pub mod namespace;
pub mod place;
pub mod platform;
pub mod reclaim;
pub mod removal;
mod seqlock;
pub mod sync;
pub mod table;
pub mod tree;
pub mod walk;
pub mod write_set;

pub use dentry::{Dentry, MountedHere, SuperBlock};
pub use group::Group;
pub use mount::{Mount, MountFlags, MountRef, MountSpec};
pub use namespace::{Kind, MntNamespace};
pub use place::{FsStruct, PathRef};
pub use reclaim::{Guard, pin};
pub use write_set::{LockPlan, Missing, WriteSet};
