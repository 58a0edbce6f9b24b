//! The Linux mount ABI over a small trait for the kernel around it.
//!
//! Each call takes the [`Task`] that makes it and the arguments as they come from user space, checks them in Linux's
//! order, walks its paths, and hands the change to the `propagate` crate. Numbers and flags are the ABI's own, from
//! `linux-raw-sys`.
//!
//! | module | calls |
//! |---|---|
//! | [`mount`] | `mount(2)`: new mounts, bind, move, remount of a bind, propagation type |
//! | [`umount`] | `umount2(2)` |
//! | [`pivot_root`] | `pivot_root(2)` |
//! | [`task`] | `chroot(2)`, `chdir(2)`, `unshare(CLONE_NEWNS)`, and the end of a task |
//! | [`entry`] | mounts elsewhere on an entry that `rmdir(2)` and its like remove |
//! | [`listing`] | the lines of `/proc/PID/mountinfo` |
//! | [`mountinfo`] | the text of such a line |
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod entry;
pub mod errno;
pub mod listing;
pub mod mount;
pub mod mountinfo;
pub mod pivot_root;
pub mod task;
pub mod umount;

pub use errno::Errno;
pub use task::Task;

use alloc::sync::Arc;
use alloc::vec::Vec;

use mnt_table::Dentry;
use mnt_table::dentry::SuperBlockRef;

/// `fs.mount-max`: mounts that one namespace can have.
pub const MOUNTS_MAX: usize = 100_000;

/// The file systems of the kernel around this crate.
pub trait FileSystems<D: Dentry>: Sync {
    /// An instance of the type `fs_type` for `source` and the options `data`: a new one, or the one that is there.
    ///
    /// # Errors
    /// `ENODEV`: no such type. Whatever the file system says of source and options.
    fn get_tree(&self, fs_type: &[u8], source: Option<&[u8]>, data: &[u8])
    -> Result<SuperBlockRef<D>, Errno>;
}

/// What mountinfo shows of a mount's superblock; asked with the root dentry of the mount.
pub trait Show<D: Dentry> {
    /// Major and minor device number.
    fn device(&self, root: &Arc<D>) -> (u32, u32);
    /// The type's name.
    fn fs_type(&self, root: &Arc<D>) -> Vec<u8>;
    /// The superblock's options as a mount with this root shows them, beginning with `ro` or `rw`.
    fn options(&self, root: &Arc<D>) -> Vec<u8>;
    /// A name that stands instead of the path of the root dentry, such as `mnt:[4026531840]`.
    fn root_name(&self, root: &Arc<D>) -> Option<Vec<u8>>;
}
