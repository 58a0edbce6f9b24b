//! The Linux mount ABI over a small trait for the kernel around it.
//!
//! A kernel implements [`Kernel`] and hands raw registers to [`abi::dispatch`]. Each call takes the [`Task`] that makes it
//! and the arguments as they come from user space, checks them in Linux's order, walks its paths, and hands the change to
//! the `propagate` crate. Numbers, flags and structures are the ABI's own, from `linux-raw-sys`.
//!
//! | module | what |
//! |---|---|
//! | [`abi`] | system calls from raw registers |
//! | [`kernel`], [`file_system`], [`user_memory`] | what the kernel around this crate gives |
//! | [`task`], [`credentials`], [`mod@file`] | who calls, with which rights, and what descriptors refer to |
//! | [`mount`] | `mount(2)`: new mounts, bind, move, remount, propagation type |
//! | [`umount`] | `umount2(2)` |
//! | [`pivot_root`] | `pivot_root(2)` |
//! | [`namespaces`], [`nsfs`] | `unshare(2)`, `setns(2)`, `clone(2)`; ioctls of namespace files |
//! | [`context`], [`fsopen`] | file system contexts; `fsopen(2)`, `fsconfig(2)`, `fsmount(2)`, `fspick(2)` |
//! | [`open_tree`], [`move_mount`], [`setattr`] | `open_tree(2)`, `open_tree_attr(2)`; `move_mount(2)`; `mount_setattr(2)` |
//! | [`attributes`], [`sysctl`] | flags of mounts in all their spellings; `fs.mount-max` |
//! | [`entry`] | mounts elsewhere on an entry that `rmdir(2)` and its like remove |
//! | [`statmount`], [`listmount`] | `statmount(2)`, `listmount(2)` |
//! | [`listing`], [`mounts_file`] | what `/proc/PID/mountinfo`, `mounts` and `mountstats` show; open ones |
//! | [`mountinfo`] | the text of their lines |
//! | [`paths`] | the paths of places, as `getcwd(2)` and proc show them |
//! | [`access`] | what a mount lets a task do with files
//! | [`ids`] | users and groups as user namespaces number them |
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod abi;
pub mod access;
pub mod attributes;
pub mod context;
pub mod credentials;
mod detached;
pub mod entry;
pub mod errno;
pub mod file;
pub mod file_system;
pub mod fsopen;
pub mod ids;
pub mod kernel;
pub mod listing;
pub mod listmount;
pub mod mount;
mod mount_query;
pub mod mountinfo;
pub mod mounts_file;
pub mod move_mount;
pub mod namespaces;
pub mod nsfs;
pub mod open_tree;
mod path;
pub mod paths;
pub mod pivot_root;
pub mod private;
mod scope;
pub mod setattr;
pub mod statmount;
pub mod sysctl;
pub mod task;
#[cfg(test)]
mod tests;
pub mod umount;
pub mod user_memory;
mod ways;

pub use credentials::Credentials;
pub use errno::Errno;
pub use file::File;
pub use file_system::FileSystems;
pub use kernel::{Kernel, Show};
pub use task::Task;
