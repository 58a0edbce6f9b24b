//! Contexts: phases, shapes of arguments, messages.

use alloc::vec::Vec;

use linux_raw_sys::general as abi;

use super::kernel::TestKernel;
use crate::{Errno, fsopen};

const FLAG: usize = 0;
const STRING: usize = 1;
const BINARY: usize = 2;
const PATH: usize = 3;
const FD: usize = 5;
const CREATE: usize = 6;
const RECONFIGURE: usize = 7;
const CWD: usize = abi::AT_FDCWD as usize;

fn context(kernel: &TestKernel) -> usize {
    kernel.call(abi::__NR_fsopen, &[kernel.text("tmpfs"), 0]).unwrap()
}

fn config(kernel: &TestKernel, fd: usize, command: usize, rest: [usize; 3]) -> Result<usize, Errno> {
    kernel.call(abi::__NR_fsconfig, &[fd, command, rest[0], rest[1], rest[2]])
}

fn set(kernel: &TestKernel, fd: usize, key: &str, value: &str) -> Result<usize, Errno> {
    config(kernel, fd, STRING, [kernel.text(key), kernel.text(value), 0])
}

fn message(kernel: &TestKernel, fd: usize) -> Result<Vec<u8>, Errno> {
    fsopen::read(&kernel.open(fd), 100)
}

#[test]
fn a_context_goes_through_its_phases() {
    let kernel = TestKernel::new();
    let fd = context(&kernel);
    let command = |what| config(&kernel, fd, what, [0; 3]);
    let fsmount = || kernel.call(abi::__NR_fsmount, &[fd, 0, 0]);
    assert_eq!(fsmount(), Err(Errno::EINVAL), "nothing to mount");
    assert_eq!(command(RECONFIGURE), Err(Errno::EBUSY));
    assert_eq!(set(&kernel, fd, "size", "1"), Ok(0));
    assert_eq!(command(CREATE), Ok(0));
    assert_eq!(command(CREATE), Err(Errno::EBUSY));
    assert_eq!(set(&kernel, fd, "size", "1"), Err(Errno::EBUSY));
    assert!(fsmount().is_ok());
    assert_eq!(fsmount(), Err(Errno::EBUSY), "mounted once");
    assert_eq!(command(CREATE), Err(Errno::EBUSY));
    for _ in 0..2 {
        assert_eq!(config(&kernel, fd, FLAG, [kernel.text("ro"), 0, 0]), Ok(0));
        assert_eq!(command(RECONFIGURE), Ok(0));
    }
    assert_eq!(fsmount(), Err(Errno::EBUSY));
    assert_eq!(config(&kernel, fd, FLAG, [kernel.text("dirsync"), 0, 0]), Ok(0));
    assert_eq!(command(RECONFIGURE), Err(Errno::EINVAL), "this flag cannot change");
    assert_eq!(command(RECONFIGURE), Err(Errno::EBUSY), "the context failed");
    assert_eq!(set(&kernel, fd, "size", "1"), Err(Errno::EBUSY));
}

#[test]
fn a_refusal_of_the_file_system_ends_the_context() {
    let kernel = TestKernel::new();
    let fd = context(&kernel);
    assert_eq!(set(&kernel, fd, "size", "0"), Ok(0));
    assert_eq!(config(&kernel, fd, CREATE, [0; 3]), Err(Errno::EINVAL));
    assert_eq!(config(&kernel, fd, CREATE, [0; 3]), Err(Errno::EBUSY));
}

#[test]
fn arguments_have_the_shape_of_their_command() {
    let kernel = TestKernel::new();
    let fd = context(&kernel);
    let (key, value) = (kernel.text("size"), kernel.text("1"));
    let long = kernel.text(&"k".repeat(256));
    let bad = super::kernel::BAD;
    // Descriptor, command, key, value, aux.
    let table = [
        ([usize::MAX, 99, 0, 0, 0], Errno::EINVAL),
        ([99, 99, 0, 0, 0], Errno::EOPNOTSUPP),
        ([99, FLAG, 0, 0, 0], Errno::EINVAL),
        ([99, FLAG, key, value, 0], Errno::EINVAL),
        ([99, STRING, key, value, 1], Errno::EINVAL),
        ([99, BINARY, key, value, 0], Errno::EINVAL),
        ([99, BINARY, key, value, (1 << 20) + 1], Errno::EINVAL),
        ([99, PATH, key, value, usize::MAX], Errno::EINVAL),
        ([99, FD, key, value, 0], Errno::EINVAL),
        ([99, CREATE, key, 0, 0], Errno::EINVAL),
        ([99, CREATE, 0, 0, 0], Errno::EBADF),
        ([fd, STRING, long, value, 0], Errno::EINVAL),
        ([fd, STRING, key, long, 0], Errno::EINVAL),
        ([fd, STRING, bad, bad, 0], Errno::EFAULT),
        ([fd, BINARY, key, bad, 1], Errno::EFAULT),
        ([fd, FD, key, 0, 99], Errno::EBADF),
        ([fd, PATH, key, kernel.text(""), CWD], Errno::ENOENT),
        ([fd, PATH, key, kernel.text("/missing"), CWD], Errno::EINVAL),
    ];
    for (at, (args, errno)) in table.into_iter().enumerate() {
        assert_eq!(kernel.call(abi::__NR_fsconfig, &args), Err(errno), "row {at}");
    }
    let root = kernel.call(abi::__NR_open_tree, &[CWD, kernel.text("/"), 0]).unwrap();
    assert_eq!(kernel.call(abi::__NR_fsconfig, &[root, CREATE, 0, 0, 0]), Err(Errno::EBADF), "no open file");
}

#[test]
fn messages_come_one_by_one_and_the_oldest_go() {
    let kernel = TestKernel::new();
    let fd = context(&kernel);
    assert_eq!(message(&kernel, fd), Err(Errno::ENODATA));
    assert_eq!(set(&kernel, fd, "nope", "1"), Err(Errno::EINVAL));
    assert_eq!(fsopen::read(&kernel.open(fd), 5), Err(Errno::EMSGSIZE));
    assert_eq!(message(&kernel, fd).unwrap(), b"e tmpfs: Unknown parameter 'nope'\n");
    assert_eq!(set(&kernel, fd, "source", "x"), Ok(0));
    assert_eq!(set(&kernel, fd, "source", "y"), Err(Errno::EINVAL));
    assert_eq!(config(&kernel, fd, FLAG, [kernel.text("source"), 0, 0]), Err(Errno::EINVAL));
    assert_eq!(message(&kernel, fd).unwrap(), b"e Multiple sources\n");
    assert_eq!(message(&kernel, fd).unwrap(), b"e Non-string source\n");
    for number in 0..10 {
        let key = alloc::format!("k{number}");
        assert_eq!(set(&kernel, fd, &key, "1"), Err(Errno::EINVAL));
    }
    assert_eq!(message(&kernel, fd).unwrap(), b"e tmpfs: Unknown parameter 'k2'\n");
    let left = core::iter::from_fn(|| message(&kernel, fd).ok()).count();
    assert_eq!(left, 7);
}
