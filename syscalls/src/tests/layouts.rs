//! Buffers of statmount(2) and listmount(2), byte by byte, and the lines of open files.

use alloc::string::String;
use alloc::vec::Vec;

use linux_raw_sys::general as abi;

use super::kernel::{BAD, TestKernel};
use crate::mounts_file::{Format, MountsFile};
use crate::{Errno, Kernel};

/// A request, as it is in memory.
fn request(kernel: &TestKernel, size: u32, id: u64, param: u64, ns: u64) -> usize {
    let words = [u64::from(size), id, param, ns, 0];
    kernel.put(&words.map(u64::to_le_bytes).concat())
}

fn statmount(kernel: &TestKernel, id: u64, mask: u64, size: usize) -> Result<Vec<u8>, Errno> {
    let request = request(kernel, 32, id, mask, 0);
    let buffer = kernel.put(&alloc::vec![0xaa; size.max(600)]);
    kernel.call(abi::__NR_statmount, &[request, buffer, size, 0])?;
    Ok(kernel.get(buffer, size.max(600)))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn string_at(bytes: &[u8], at: usize) -> String {
    let start = 512 + u32_at(bytes, at) as usize;
    let text = bytes[start..].split(|byte| *byte == 0).next().unwrap();
    String::from_utf8(text.to_vec()).unwrap()
}

fn list(kernel: &TestKernel, id: u64, after: u64, count: usize, flags: usize) -> Result<Vec<u64>, Errno> {
    let request = request(kernel, 32, id, after, 0);
    let buffer = kernel.put(&alloc::vec![0; 8 * count]);
    let found = kernel.call(abi::__NR_listmount, &[request, buffer, count, flags])?;
    Ok(kernel.get(buffer, 8 * found).chunks(8).map(|id| u64_at(id, 0)).collect())
}

#[test]
fn statmount_puts_each_field_at_its_offset() {
    let kernel = TestKernel::new();
    kernel.mount("/a").unwrap();
    let ids = list(&kernel, u64::MAX, 0, 8, 0).unwrap();
    let answer = statmount(&kernel, ids[1], u64::MAX, 1024).unwrap();
    let filled = u64::from(
        abi::STATMOUNT_SB_BASIC
            | abi::STATMOUNT_MNT_BASIC
            | abi::STATMOUNT_PROPAGATE_FROM
            | abi::STATMOUNT_MNT_ROOT
            | abi::STATMOUNT_MNT_POINT
            | abi::STATMOUNT_FS_TYPE
            | abi::STATMOUNT_MNT_NS_ID
            | abi::STATMOUNT_MNT_OPTS
            | abi::STATMOUNT_SB_SOURCE
            | abi::STATMOUNT_OPT_ARRAY
            | abi::STATMOUNT_SUPPORTED_MASK,
    );
    assert_eq!(u64_at(&answer, 8), filled);
    assert_eq!(u32_at(&answer, 16), 7, "major");
    assert_eq!(u64_at(&answer, 24), 0x0102_1994, "magic");
    assert_eq!((u64_at(&answer, 40), u64_at(&answer, 48)), (ids[1], ids[0]));
    assert_eq!(u64_at(&answer, 64), 0, "relatime and nothing else");
    assert_eq!(u64_at(&answer, 72), u64::from(abi::MS_PRIVATE));
    assert_eq!(u64_at(&answer, 112), kernel.task().namespace().id().0);
    assert_eq!(u64_at(&answer, 144), 0x7fff, "all that is known");
    let texts =
        [(36, "tmpfs"), (104, "/"), (108, "/a"), (4, "size=4k,inode64"), (124, "none"), (132, "size=4k")];
    for (at, text) in texts {
        assert_eq!(string_at(&answer, at), text, "at {at}");
    }
    assert_eq!((u32_at(&answer, 128), u32_at(&answer, 136)), (2, 0), "options");
    let end = u32_at(&answer, 0) as usize;
    let strings = b"\0tmpfs\0/\0/a\0size=4k,inode64\0size=4k\0inode64\0none\0";
    assert_eq!(&answer[512..end], strings);
    assert_eq!(answer[end], 0xaa, "nothing behind it is written");
}

#[test]
fn statmount_says_when_strings_do_not_fit() {
    let kernel = TestKernel::new();
    let id = list(&kernel, u64::MAX, 0, 8, 0).unwrap()[0];
    let size = |mask, room| statmount(&kernel, id, mask, room).map(|answer| u32_at(&answer, 0));
    let (text, none, basic) = (0x20, 0x100, 0x2);
    assert_eq!(size(text, 519), Ok(519), "a NUL that is nobody's, five letters and a NUL");
    assert_eq!(size(text, 518), Err(Errno::EOVERFLOW));
    assert_eq!(size(text, 512), Err(Errno::EOVERFLOW));
    assert_eq!(size(text, 100), Err(Errno::EOVERFLOW));
    assert_eq!(size(none, 512), Err(Errno::EOVERFLOW));
    assert_eq!(size(none, 513), Ok(513));
    assert_eq!(size(basic, 512), Ok(512));
    let short = statmount(&kernel, id, basic, 48).unwrap();
    assert_eq!((u32_at(&short, 0), u64_at(&short, 40)), (48, id));
    assert_eq!(short[48..], alloc::vec![0xaa; 552], "cut off");
    assert!(statmount(&kernel, id, basic, 0).is_ok());
}

#[test]
fn requests_are_checked_before_they_are_answered() {
    let kernel = TestKernel::new();
    let id = list(&kernel, u64::MAX, 0, 8, 0).unwrap()[0];
    let own = kernel.task().namespace().id().0;
    let call = |request, flags| kernel.call(abi::__NR_statmount, &[request, 0, 0, flags]);
    let at = |size, id, ns| request(&kernel, size, id, 0, ns);
    assert_eq!(call(BAD, 1), Err(Errno::EINVAL), "flags");
    assert_eq!(call(BAD, 0), Err(Errno::EFAULT));
    assert_eq!(call(at(4097, id, 0), 0), Err(Errno::E2BIG));
    assert_eq!(call(at(23, id, 0), 0), Err(Errno::EINVAL));
    assert_eq!(call(at(32, 1 << 31, 0), 0), Err(Errno::EINVAL), "not a unique id");
    assert_eq!(call(at(32, id, 1 << 40), 0), Err(Errno::ENOENT), "no such namespace");
    assert_eq!(call(at(32, id, own), 0), Ok(0));
    assert_eq!(call(at(24, id, 1 << 40), 0), Ok(0), "the first size has no namespace");
    assert_eq!(call(at(32, (1 << 31) + 1, 0), 0), Err(Errno::ENOENT));
    let with_fd = |fd: u64| kernel.put(&[32 | fd << 32, id, 0, own].map(u64::to_le_bytes).concat());
    assert_eq!(call(with_fd(9), 0), Err(Errno::EINVAL), "by descriptor and by id");
    let long = kernel.put(&[40, id, 0, 0, 1].map(u64::to_le_bytes).concat());
    assert_eq!(call(long, 0), Err(Errno::E2BIG), "something unknown is set");
    let only_fd = kernel.put(&[32 | 9 << 32, id, 0, 0].map(u64::to_le_bytes).concat());
    assert_eq!(call(only_fd, 0), Err(Errno::EBADF));
}

#[test]
fn listmount_goes_on_behind_the_last_id() {
    let kernel = TestKernel::new();
    for path in ["/a", "/b", "/a/a"] {
        kernel.mount(path).unwrap();
    }
    let all = list(&kernel, u64::MAX, 0, 100, 0).unwrap();
    assert_eq!(all.len(), 4);
    assert!(all.is_sorted());
    let (first, second) = (list(&kernel, u64::MAX, 0, 3, 0), list(&kernel, u64::MAX, all[2], 3, 0));
    assert_eq!((first.unwrap(), second.unwrap()), (all[..3].to_vec(), all[3..].to_vec()));
    let mut back = list(&kernel, u64::MAX, all[3], 100, 1).unwrap();
    back.reverse();
    assert_eq!(back, all[..3]);
    assert_eq!(list(&kernel, all[1], 0, 100, 0).unwrap(), all[3..], "only what is on /a");
    assert_eq!(list(&kernel, u64::MAX, 0, 0, 0).unwrap(), []);
    assert_eq!(list(&kernel, u64::MAX, 1, 8, 0), Err(Errno::EINVAL));
    assert_eq!(list(&kernel, u64::MAX, 0, 8, 2), Err(Errno::EINVAL));
    let request = request(&kernel, 32, u64::MAX, 0, 0);
    let call = |buffer, count| kernel.call(abi::__NR_listmount, &[request, buffer, count, 0]);
    assert_eq!(call(BAD, 1_000_001), Err(Errno::EOVERFLOW));
    assert_eq!(call(BAD, 4), Err(Errno::EFAULT));
}

#[test]
fn an_open_file_is_read_in_pieces_and_tells_of_changes_once() {
    let kernel = TestKernel::new();
    kernel.mount("/a").unwrap();
    let files = [Format::Mountinfo, Format::Mounts, Format::Mountstats]
        .map(|format| MountsFile::open(kernel.task(), format));
    let events = abi::POLLIN | abi::POLLPRI;
    let poll = || files.each_ref().map(|file| file.poll(events));
    assert_eq!(poll(), [0x1, 0x1, 0x1]);
    let read = |file: &MountsFile<_>, size: usize| {
        let mut text = Vec::new();
        loop {
            let mut piece = alloc::vec![0; size];
            match file.read(&kernel, &mut piece).unwrap() {
                0 => return String::from_utf8(text).unwrap(),
                count => text.extend_from_slice(&piece[..count]),
            }
        }
    };
    let first = read(&files[0], 7);
    assert_eq!(first.lines().count(), 2);
    kernel.mount("/b").unwrap();
    assert_eq!(poll(), [0xb, 0xb, 0x1]);
    assert_eq!(poll(), [0x1, 0x1, 0x1]);
    let more = read(&files[0], 100);
    assert!(more.lines().count() == 1 && more.contains(" /b "), "{more}");
    files[0].rewind();
    assert_eq!(read(&files[0], 1000), first + &more);
    assert_eq!(
        read(&files[1], 64),
        "none / tmpfs rw,relatime,size=4k,inode64 0 0\n\
         none /a tmpfs rw,relatime,size=4k,inode64 0 0\n\
         none /b tmpfs rw,relatime,size=4k,inode64 0 0\n"
    );
    assert_eq!(read(&files[2], 64).lines().next(), Some("device none mounted on / with fstype tmpfs"));
}
