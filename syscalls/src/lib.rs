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
//! | [`task`], [`credentials`], [`file`] | who calls, with which rights, and what descriptors refer to |
//! | [`mount`] | `mount(2)`: new mounts, bind, move, remount, propagation type |
//! | [`umount`] | `umount2(2)` |
//! | [`pivot_root`] | `pivot_root(2)` |
//! | [`namespaces`] | `unshare(2)` |
//! | [`context`] | file system contexts |
//! | [`entry`] | mounts elsewhere on an entry that `rmdir(2)` and its like remove |
//! | [`listing`] | the lines of `/proc/PID/mountinfo` |
//! | [`mountinfo`] | the text of such a line |
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod abi;
pub mod context;
pub mod credentials;
pub mod entry;
pub mod errno;
pub mod file;
pub mod file_system;
pub mod kernel;
pub mod listing;
pub mod mount;
pub mod mountinfo;
pub mod namespaces;
pub mod pivot_root;
pub mod task;
pub mod umount;
pub mod user_memory;

pub use credentials::Credentials;
pub use errno::Errno;
pub use file::File;
pub use file_system::FileSystems;
pub use kernel::{Kernel, Show};
pub use task::Task;

/// `fs.mount-max`: mounts that one namespace can have.
pub const MOUNTS_MAX: usize = 100_000;
