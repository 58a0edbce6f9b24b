//! Who writes through a mount keeps it, and its file system, writable.

use linux_raw_sys::general as abi;
use mnt_table::MountRef;
use mnt_table::walk::{Last, walk};
use mnt_table::writers::{ReadOnly, WriteRef};
use tmpfs::TmpDentry;

use super::kernel::TestKernel;
use crate::{Errno, Kernel};

const BIND: u32 = abi::MS_BIND;
const REMOUNT: u32 = abi::MS_REMOUNT;
const READ_ONLY: u32 = abi::MS_RDONLY;

fn write(kernel: &TestKernel, path: &str) -> Result<WriteRef<MountRef<TmpDentry>>, ReadOnly> {
    WriteRef::new(walk(&kernel.task().fs(), path.as_bytes(), Last::Follow).unwrap().mount)
}

fn mount(kernel: &TestKernel, source: &str, target: &str, flags: u32) -> Result<usize, Errno> {
    let (source, target) = (kernel.text(source), kernel.text(target));
    kernel.call(abi::__NR_mount, &[source, target, 0, flags as usize, 0])
}

fn setattr(kernel: &TestKernel, path: &str, flags: u32, attr: [u64; 4]) -> Result<usize, Errno> {
    let (path, attr) = (kernel.text(path), kernel.put(&attr.map(u64::to_le_bytes).concat()));
    kernel.call(abi::__NR_mount_setattr, &[abi::AT_FDCWD as usize, path, flags as usize, attr, 32])
}

#[test]
fn a_writer_keeps_its_mount_and_the_file_system_writable() {
    let kernel = TestKernel::new();
    kernel.mount("/a").unwrap();
    mount(&kernel, "/a", "/b", BIND).unwrap();
    let writer = write(&kernel, "/a").unwrap();
    assert_eq!(mount(&kernel, "", "/a", REMOUNT | BIND | READ_ONLY), Err(Errno::EBUSY));
    assert_eq!(mount(&kernel, "", "/b", REMOUNT | BIND | READ_ONLY), Ok(0), "nobody writes through this one");
    assert!(write(&kernel, "/b").is_err());
    assert_eq!(
        mount(&kernel, "", "/b", REMOUNT | READ_ONLY),
        Err(Errno::EBUSY),
        "the file system is written to"
    );
    drop(writer);
    assert_eq!(mount(&kernel, "", "/b", REMOUNT | READ_ONLY), Ok(0));
    assert!(write(&kernel, "/a").is_err(), "read-only by its file system");
    assert_eq!(mount(&kernel, "", "/a", REMOUNT), Ok(0));
    assert!(write(&kernel, "/a").is_ok());
    assert!(write(&kernel, "/b").is_err(), "read-only by itself");
    assert_eq!(mount(&kernel, "", "/b", REMOUNT | BIND), Ok(0));
    assert!(write(&kernel, "/b").is_ok());
}

#[test]
fn a_tree_becomes_read_only_as_a_whole() {
    let kernel = TestKernel::new();
    for path in ["/a", "/a/a", "/a/b"] {
        kernel.mount(path).unwrap();
    }
    let shared = u64::from(abi::MS_SHARED);
    let all = |clear| setattr(&kernel, "/a", abi::AT_RECURSIVE, [u64::from(clear == 0), clear, shared, 0]);
    let writer = write(&kernel, "/a/b").unwrap();
    assert_eq!(all(0), Err(Errno::EBUSY));
    let lines = crate::listing::mountinfo(kernel.task(), &kernel).unwrap();
    assert!(lines.iter().all(|line| line.tags.shared.is_none()), "nor did the type of any change");
    assert!(write(&kernel, "/a").is_ok() && write(&kernel, "/a/a").is_ok());
    drop(writer);
    assert_eq!(all(0), Ok(0));
    assert!(["/a", "/a/a", "/a/b"].iter().all(|path| write(&kernel, path).is_err()));
    assert_eq!(all(1), Ok(0));
    assert!(["/a", "/a/a", "/a/b"].iter().all(|path| write(&kernel, path).is_ok()));
}

#[test]
fn a_copy_of_a_read_only_mount_is_read_only() {
    let kernel = TestKernel::new();
    kernel.mount("/a").unwrap();
    mount(&kernel, "", "/a", REMOUNT | BIND | READ_ONLY).unwrap();
    mount(&kernel, "/a", "/b", BIND).unwrap();
    assert!(write(&kernel, "/b").is_err());
    kernel.call(abi::__NR_unshare, &[abi::CLONE_NEWNS as usize]).unwrap();
    assert!(write(&kernel, "/a").is_err() && write(&kernel, "/").is_ok());
}
