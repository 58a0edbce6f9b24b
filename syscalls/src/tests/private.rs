//! Private mounts keep what they were made from, and nobody finds them.

use alloc::sync::Arc;

use linux_raw_sys::general as abi;
use mnt_table::{Dentry, MountFlags, PathRef};
use tmpfs::TmpDentry;

use super::kernel::TestKernel;
use crate::private::private_mount;
use crate::{Errno, Kernel};

/// The place at `path`, and the descriptor that holds it.
fn place(kernel: &TestKernel, path: &str) -> (PathRef<TmpDentry>, usize) {
    let here = abi::AT_FDCWD as usize;
    let fd = kernel.call(abi::__NR_open_tree, &[here, kernel.text(path), 0]).unwrap();
    (kernel.open(fd).path().unwrap().clone(), fd)
}

#[test]
fn a_private_mount_outlives_the_place_that_it_was_made_from() {
    let kernel = TestKernel::new();
    kernel.mount("/a").unwrap();
    let (at, fd) = place(&kernel, "/a");
    let held = private_mount(kernel.task(), &at, MountFlags::READONLY).unwrap();
    let super_block = Arc::clone(at.dentry.super_block());
    kernel.close(fd);
    drop(at);
    assert_eq!(kernel.call(abi::__NR_umount2, &[kernel.text("/a"), 0]), Ok(0), "not busy");
    let kept = held.path().unwrap();
    assert!(kept.mount.is_read_only() && !super_block.is_shut_down());
    assert_eq!(kernel.mountpoints().len(), 1);
    drop(held);
    assert!(super_block.is_shut_down());
}

#[test]
fn what_cannot_be_bound_cannot_be_held() {
    let kernel = TestKernel::new();
    kernel.mount("/a").unwrap();
    let (at, fd) = place(&kernel, "/a");
    let unbindable = [0, kernel.text("/a"), 0, abi::MS_UNBINDABLE as usize, 0];
    kernel.call(abi::__NR_mount, &unbindable).unwrap();
    let refused = private_mount(kernel.task(), &at, MountFlags::empty()).err();
    assert_eq!(refused, Some(Errno::EINVAL), "unbindable");
    kernel.close(fd);
    kernel.call(abi::__NR_umount2, &[kernel.text("/a"), abi::MNT_DETACH as usize]).unwrap();
    let refused = private_mount(kernel.task(), &at, MountFlags::empty()).err();
    assert_eq!(refused, Some(Errno::EINVAL), "nowhere any more");
}
