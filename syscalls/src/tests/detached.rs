//! Detached trees live and die with the file that made them; namespaces with whoever keeps them.

use alloc::sync::Arc;

use linux_raw_sys::general as abi;
use mnt_table::reclaim::quiesce;

use super::kernel::TestKernel;
use crate::file::{NamespaceRef, Object};
use crate::nsfs::nsfs_ioctl;
use crate::{Errno, File, Kernel};

const CWD: usize = abi::AT_FDCWD as usize;
const CLONE: usize = abi::OPEN_TREE_CLONE as usize;
const EMPTY: usize = abi::MOVE_MOUNT_F_EMPTY_PATH as usize;

fn attach(kernel: &TestKernel, fd: usize, path: &str) -> Result<usize, Errno> {
    let (empty, path) = (kernel.text(""), kernel.text(path));
    kernel.call(abi::__NR_move_mount, &[fd, empty, CWD, path, EMPTY])
}

fn open_tree(kernel: &TestKernel, path: &str, flags: usize) -> Result<usize, Errno> {
    kernel.call(abi::__NR_open_tree, &[CWD, kernel.text(path), flags])
}

#[test]
fn a_tree_that_was_attached_outlives_its_file() {
    let kernel = TestKernel::new();
    kernel.mount("/a").unwrap();
    let tree = open_tree(&kernel, "/", CLONE | abi::AT_RECURSIVE as usize).unwrap();
    assert_eq!(attach(&kernel, tree, "/b"), Ok(0));
    assert_eq!(attach(&kernel, tree, "/b"), Err(Errno::ELOOP), "an ordinary mount by now");
    kernel.close(tree);
    let wanted: [&[u8]; 4] = [b"/", b"/a", b"/b", b"/b/a"];
    assert_eq!(kernel.mountpoints(), wanted);
}

#[test]
fn a_tree_that_was_not_attached_goes_with_its_file() {
    let kernel = TestKernel::new();
    let tree = open_tree(&kernel, "/a", CLONE).unwrap();
    let second = kernel.call(abi::__NR_open_tree, &[tree, kernel.text(""), abi::AT_EMPTY_PATH as usize]);
    let second = second.unwrap();
    kernel.close(tree);
    assert_eq!(attach(&kernel, second, "/b"), Err(Errno::EINVAL));
    assert_eq!(kernel.mountpoints().len(), 1);
    let again = kernel.call(abi::__NR_open_tree, &[second, kernel.text(""), 0x1000 | CLONE]);
    assert_eq!(again, Err(Errno::EINVAL), "nothing to copy from any more");
}

#[test]
fn trees_of_one_origin_can_be_put_together() {
    let kernel = TestKernel::new();
    let outer = open_tree(&kernel, "/", CLONE).unwrap();
    let inner = open_tree(&kernel, "/a", CLONE).unwrap();
    let (empty, b) = (kernel.text(""), kernel.text("b"));
    assert_eq!(kernel.call(abi::__NR_move_mount, &[inner, empty, outer, b, EMPTY]), Ok(0));
    assert_eq!(attach(&kernel, inner, "/b"), Err(Errno::EINVAL), "not the root of its tree");
    assert_eq!(attach(&kernel, outer, "/a"), Ok(0));
    kernel.close(outer);
    kernel.close(inner);
    let wanted: [&[u8]; 3] = [b"/", b"/a", b"/a/b"];
    assert_eq!(kernel.mountpoints(), wanted);
}

#[test]
fn a_namespace_lives_as_long_as_its_file() {
    let kernel = TestKernel::new();
    kernel.mount("/a").unwrap();
    let old = kernel.task().namespace();
    let file = File::new(None, Object::MountNamespace(NamespaceRef::new(&old)));
    let fd = kernel.install(file, true).unwrap();
    kernel.call(abi::__NR_unshare, &[abi::CLONE_NEWNS as usize]).unwrap();
    let own = kernel.task().namespace();
    assert_ne!(own.id(), old.id());
    kernel.call(abi::__NR_umount2, &[kernel.text("/a"), 0]).unwrap();
    assert_eq!(kernel.mountpoints().len(), 1);

    let info = kernel.put(&[0; 16]);
    let ioctl = |request, arg| nsfs_ioctl(&kernel, &kernel.open(fd as usize), request, arg);
    assert_eq!(ioctl(0x8010_b70a, info), Ok(0));
    let wanted = [2 << 32 | 16, old.id().0].map(u64::to_le_bytes).concat();
    assert_eq!(kernel.get(info, 16), wanted, "size, mounts without the hidden one, id");
    assert_eq!(ioctl(0x8008_b70a, info), Err(Errno::ENOTTY), "too short");
    assert_eq!(ioctl(0xb703, 0), Ok(abi::CLONE_NEWNS as usize));
    assert_eq!(ioctl(0xb702, 0), Err(Errno::EINVAL));
    let next = ioctl(0x8010_b70b, info).unwrap();
    assert_eq!(&kernel.get(info, 16)[8..], own.id().0.to_le_bytes());
    kernel.close(next);
    assert_eq!(ioctl(0x8010_b70c, info), Err(Errno::ENOENT), "there is none before it");

    kernel.call(abi::__NR_setns, &[fd as usize, abi::CLONE_NEWUSER as usize]).unwrap_err();
    kernel.call(abi::__NR_setns, &[fd as usize, 0]).unwrap();
    assert_eq!(kernel.mountpoints().len(), 2);
    assert_eq!(kernel.namespaces().find(own.id()).map(|_| ()), None, "nobody is there any more");
    let gone = Arc::downgrade(&own);
    drop(own);
    quiesce();
    assert!(gone.upgrade().is_none());
}
