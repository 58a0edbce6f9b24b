//! Strings and structures that cannot be read, beside other mistakes: which error is seen.

use alloc::string::String;

use linux_raw_sys::general as abi;

use super::kernel::{BAD, TestKernel};
use crate::Errno;
use crate::credentials::{Capabilities, Credentials};

const MNT_BAD_FLAG: usize = 16;
const NOUSER: usize = 1 << 31;

#[test]
fn mount_reads_type_source_and_data_before_it_looks_at_the_target() {
    let kernel = TestKernel::new();
    let missing = kernel.text("/missing");
    let tmpfs = kernel.text("tmpfs");
    let long = kernel.text(&"x".repeat(4096));
    let mount = |args: [usize; 5]| kernel.call(abi::__NR_mount, &args);
    // Source, target, type, flags, data.
    let table = [
        ([BAD, BAD, BAD, NOUSER, BAD], Errno::EFAULT),
        ([0, missing, long, NOUSER, 0], Errno::EINVAL),
        ([long, missing, tmpfs, NOUSER, BAD], Errno::EINVAL),
        ([BAD, missing, tmpfs, NOUSER, 0], Errno::EFAULT),
        ([0, missing, tmpfs, NOUSER, BAD], Errno::EFAULT),
        ([0, BAD, tmpfs, NOUSER, 0], Errno::EFAULT),
        ([0, missing, tmpfs, NOUSER, 0], Errno::ENOENT),
        ([0, kernel.text("/a"), tmpfs, NOUSER, 0], Errno::EINVAL),
        ([0, kernel.text("/a"), tmpfs, 1 << 32, 0], Errno::EINVAL),
        ([0, kernel.text("/a"), kernel.text("nofs"), 0, 0], Errno::ENODEV),
        ([0, kernel.text("/a"), 0, 0, 0], Errno::EINVAL),
    ];
    for (at, (args, errno)) in table.into_iter().enumerate() {
        assert_eq!(mount(args), Err(errno), "row {at}");
    }
    let magic = abi::MS_MGC_VAL as usize | 1 << 32;
    assert_eq!(mount([0, kernel.text("/a"), tmpfs, magic, 0]), Ok(0), "the upper half goes with the magic");
}

#[test]
fn data_is_a_page_or_what_can_be_read_of_it() {
    let kernel = TestKernel::new();
    let (target, tmpfs) = (kernel.text("/a"), kernel.text("tmpfs"));
    let mount = |data| kernel.call(abi::__NR_mount, &[0, target, tmpfs, 0, data]);
    assert_eq!(mount(kernel.put_at_end(b"size=1,size=2")), Ok(0), "ends where memory ends, without a NUL");
    assert_eq!(mount(kernel.put_at_end(b"bad")), Err(Errno::EINVAL));
    assert_eq!(mount(kernel.put(b",,size=1,=x,\0")), Ok(0), "empty options are none");
    let full = String::from("size=") + &"1".repeat(4090);
    assert_eq!(mount(kernel.put(&[full.as_bytes(), b"1"].concat())), Ok(0), "the last byte counts as a NUL");
}

#[test]
fn paths_fault_where_their_turn_is() {
    let kernel = TestKernel::new();
    let (root, missing) = (kernel.text("/"), kernel.text("/missing"));
    let long = kernel.text(&"x/".repeat(2048));
    let unprivileged = Credentials { effective: Capabilities::empty(), ..Credentials::ROOT };
    // Call, arguments, what an administrator sees, what somebody without capabilities sees.
    let table = [
        (abi::__NR_umount2, [BAD, MNT_BAD_FLAG, 0], Errno::EINVAL, Errno::EINVAL),
        (abi::__NR_umount2, [BAD, 0, 0], Errno::EFAULT, Errno::EFAULT),
        (abi::__NR_umount2, [missing, 0, 0], Errno::ENOENT, Errno::ENOENT),
        (abi::__NR_umount2, [long, 0, 0], Errno::ENAMETOOLONG, Errno::ENAMETOOLONG),
        (abi::__NR_umount2, [kernel.text("/a"), 0, 0], Errno::EINVAL, Errno::EPERM),
        (abi::__NR_pivot_root, [missing, BAD, 0], Errno::ENOENT, Errno::EPERM),
        (abi::__NR_pivot_root, [root, BAD, 0], Errno::EFAULT, Errno::EPERM),
        (abi::__NR_chroot, [BAD, 0, 0], Errno::EFAULT, Errno::EFAULT),
        (abi::__NR_chroot, [kernel.text(""), 0, 0], Errno::ENOENT, Errno::ENOENT),
        (abi::__NR_fsopen, [BAD, 2, 0], Errno::EINVAL, Errno::EPERM),
        (abi::__NR_fsopen, [BAD, 0, 0], Errno::EFAULT, Errno::EPERM),
        (abi::__NR_fsmount, [99, 2, 0], Errno::EINVAL, Errno::EPERM),
        (abi::__NR_fsmount, [99, 0, 0x30], Errno::EINVAL, Errno::EPERM),
        (abi::__NR_fsmount, [99, 0, 0], Errno::EBADF, Errno::EPERM),
        (abi::__NR_fspick, [99, root, 16], Errno::EINVAL, Errno::EPERM),
        (abi::__NR_open_tree, [99, BAD, 4], Errno::EINVAL, Errno::EINVAL),
        (abi::__NR_open_tree, [99, BAD, abi::AT_RECURSIVE as usize], Errno::EINVAL, Errno::EINVAL),
        (abi::__NR_open_tree, [99, BAD, 1], Errno::EFAULT, Errno::EPERM),
        (abi::__NR_open_tree, [99, 0, abi::AT_EMPTY_PATH as usize], Errno::EFAULT, Errno::EFAULT),
        (abi::__NR_open_tree, [99, kernel.text(""), 0], Errno::ENOENT, Errno::ENOENT),
        (abi::__NR_open_tree, [99, kernel.text("a"), 0], Errno::EBADF, Errno::EBADF),
        (abi::__NR_unshare, [1 << 40, 0, 0], Errno::EINVAL, Errno::EINVAL),
        (abi::__NR_setns, [99, 7, 0], Errno::EBADF, Errno::EBADF),
    ];
    for (at, (nr, args, admin, other)) in table.into_iter().enumerate() {
        for (credentials, errno) in [(&Credentials::ROOT, admin), (&unprivileged, other)] {
            crate::Kernel::task(&kernel).set_credentials(credentials.clone()).unwrap();
            assert_eq!(kernel.call(nr, &args), Err(errno), "row {at}, {credentials:?}");
        }
    }
}

#[test]
fn mount_setattr_reads_as_much_as_it_is_told() {
    let kernel = TestKernel::new();
    let (here, size) = (abi::AT_FDCWD as usize, abi::MOUNT_ATTR_SIZE_VER0 as usize);
    let missing = kernel.text("/missing");
    let words = |set: u64, clear: u64, propagation: u64, fd: u64| {
        let words = [set, clear, propagation, fd, 0, 1];
        kernel.put(&words.map(u64::to_le_bytes).concat())
    };
    let call = |path, flags: u32, attr, size| {
        kernel.call(abi::__NR_mount_setattr, &[here, path, flags as usize, attr, size])
    };
    let nothing = words(0, 0, 0, 0);
    let read_only = words(1, 0, 0, 0);
    assert_eq!(call(BAD, 4, BAD, 0), Err(Errno::EINVAL), "flags");
    assert_eq!(call(BAD, 0, BAD, 4097), Err(Errno::E2BIG));
    assert_eq!(call(BAD, 0, BAD, 31), Err(Errno::EINVAL));
    assert_eq!(call(BAD, 0, BAD, size), Err(Errno::EFAULT));
    assert_eq!(call(BAD, 0, nothing, 48), Err(Errno::E2BIG), "something unknown is set");
    assert_eq!(call(BAD, 0, nothing, 40), Ok(0), "nothing to do, so nobody looks at the path");
    assert_eq!(call(BAD, 0, read_only, size), Err(Errno::EFAULT));
    assert_eq!(call(missing, 0, read_only, size), Err(Errno::ENOENT));
    // Set, clear, propagation, descriptor.
    let refused = [
        ([0, 0, 3 << 18, 0], Errno::EINVAL),
        ([1 << 40, 0, 0, 0], Errno::EINVAL),
        ([0, 0x10, 0, 0], Errno::EINVAL),
        ([0x10, 0, 0, 0], Errno::EINVAL),
        ([0x30, 0x70, 0, 0], Errno::EINVAL),
        ([0, 0x10_0000, 0, 0], Errno::EINVAL),
        ([0x10_0000, 0, 0, 1 << 31], Errno::EINVAL),
        ([0x10_0000, 0, 0, 99], Errno::EBADF),
    ];
    for ([set, clear, propagation, fd], errno) in refused {
        let attr = words(set, clear, propagation, fd);
        assert_eq!(call(missing, 0, attr, size), Err(errno), "{set:#x} {clear:#x} {propagation:#x} {fd}");
    }
}
