use alloc::string::ToString;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::*;

fn check_exact(line: &str) {
    let record = MountInfo::parse(line.as_bytes()).unwrap_or_else(|error| panic!("{line}: {error}"));
    assert_eq!(record.to_string(), line);
}

#[track_caller]
fn check_error(line: &str, wanted: &str) {
    assert_eq!(MountInfo::parse(line.as_bytes()).expect_err(line).to_string(), wanted);
}

#[test]
fn every_field_is_read() {
    let line = r"36 35 98:0 /mnt1\040a /mnt2 ro,noatime,new shared:7 master:1 propagate_from:2 - ext3.x /dev/r\043t rw,a b\c";
    let record = MountInfo::parse(line.as_bytes()).unwrap();
    assert_eq!((record.id, record.parent, record.major, record.minor), (36, 35, 98, 0));
    assert_eq!((&*record.root, &*record.mountpoint), (&b"/mnt1 a"[..], &b"/mnt2"[..]));
    assert_eq!(record.options.flags, OptionFlags::RDONLY | OptionFlags::NOATIME);
    assert_eq!(record.options.unknown, [b"new"]);
    let tags =
        PropagationTags { shared: Some(7), master: Some(1), propagate_from: Some(2), unbindable: false };
    assert_eq!(record.tags, tags);
    assert_eq!((&*record.fs_type, &*record.source), (&b"ext3.x"[..], &b"/dev/r#t"[..]));
    assert_eq!(record.super_options, br"rw,a b\c");
    assert_eq!(record.to_string(), line);
}

#[test]
fn odd_lines_print_back_exactly() {
    for line in [
        "1 1 0:1 / / rw - rootfs rootfs rw",
        "20 1 0:5 / /dev rw,relatime unbindable - devtmpfs  rw,size=1k", // empty source
        "21 20 0:4 mnt:[4026531840] /run/ns rw shared:4 - nsfs nsfs rw",
        "22 20 0:54 /kmsg//deleted /proc/kmsg rw,nosuid,nodev shared:54 - tmpfs tmpfs rw",
        "23 20 259:3 /x /y rw,noatime,nosuid,nodev - btrfs /dev/sdc1 rw,subvolid=264", // words in another order
        "24 20 0:3 / /a\\134b\\011c\\012d'\"# rw - cifs //h/A\\040B/ rw,unc=\\\\h\\A B,user=u",
    ] {
        check_exact(line);
    }
}

#[test]
fn a_deviating_order_of_words_can_be_dropped() {
    let line = b"23 20 259:3 / /y rw,noatime,nosuid - btrfs /dev/sdc1 rw";
    let mut record = MountInfo::parse(line).unwrap();
    record.options.canonicalize();
    assert_eq!(record.options, MountOptions::new(OptionFlags::NOSUID | OptionFlags::NOATIME));
    assert_eq!(record.to_string(), "23 20 259:3 / /y rw,nosuid,noatime - btrfs /dev/sdc1 rw");
}

#[test]
fn names_need_not_be_utf8() {
    let line = b"1 0 0:1 / /\xff\xfe rw - tmpfs \xc3 rw";
    assert_eq!(MountInfo::parse(line).unwrap().to_line(), line);
}

#[test]
#[rustfmt::skip] // columns
fn errors_name_the_field_and_the_reason() {
    check_error("", "mount id: empty");
    check_error("x 1 0:1 / / rw - t s rw", "mount id: not a number: `x`");
    check_error("-1 1 0:1 / / rw - t s rw", "mount id: not a number: `-1`");
    check_error("01 1 0:1 / / rw - t s rw", "mount id: leading zero: `01`");
    check_error("2147483648 1 0:1 / / rw - t s rw", "mount id: number too large: `2147483648`");
    check_error("1", "parent id: missing");
    check_error("1  0:1 / / rw - t s rw", "parent id: empty");
    check_error("1 1 01 / / rw - t s rw", "major:minor: no colon: `01`");
    check_error("1 1 0: / / rw - t s rw", "major:minor: not a number");
    check_error("1 1 0:1 /a\\40 / rw - t s rw", "root: a backslash without three octal digits: `/a\\\\40`");
    check_error("1 1 0:1 / /\\000 rw - t s rw", "mount point: a zero byte: `/\\\\000`");
    check_error("1 1 0:1 / /a\tb rw - t s rw", "mount point: an unescaped tab or newline: `/a\\tb`");
    check_error("1 1 0:1 / / nosuid - t s rw", "mount options: neither `ro` nor `rw` comes first: `nosuid`");
    check_error("1 1 0:1 / / rw,nodev,nodev - t s rw", "mount options: a word stands twice: `rw,nodev,nodev`");
    check_error("1 1 0:1 / / rw,,x - t s rw", "mount options: an empty, `ro` or `rw` word after the first: `rw,,x`");
    check_error("1 1 0:1 / / rw shared:1", "separator ` - `: missing");
    check_error("1 1 0:1 / / rw shared:0 - t s rw", "optional fields: peer group 0: `0`");
    check_error("1 1 0:1 / / rw shared: - t s rw", "optional fields: not a number");
    check_error("1 1 0:1 / / rw master:2 shared:1 - t s rw", "optional fields: a tag stands twice or out of order: `shared:1`");
    check_error("1 1 0:1 / / rw later:1 - t s rw", "optional fields: unknown tag: `later:1`");
    check_error("1 1 0:1 / / rw - ", "file system type: empty");
    check_error("1 1 0:1 / / rw - t", "mount source: missing");
    check_error("1 1 0:1 / / rw - t s", "super options: missing");
    check_error("1 1 0:1 / / rw - t s seclabel", "super options: neither `ro` nor `rw` comes first: `seclabel`");
    check_error("1 1 0:1 / / rw - t s rw\r", "super options: a carriage return at the end of the line: `rw\\r`");
}

prop_compose! {
    fn name(lengths: core::ops::Range<usize>)
        (bytes in prop::collection::vec(prop_oneof![1u8.., Just(b' '), Just(b'\\'), Just(b'\n')], lengths))
        -> Vec<u8> { bytes }
}

fn group() -> impl Strategy<Value = Option<u32>> {
    prop::option::of(1..=i32::MAX as u32)
}

prop_compose! {
    fn tags()(shared in group(), master in group(), propagate_from in group(), unbindable: bool)
        -> PropagationTags { PropagationTags { shared, master, propagate_from, unbindable } }
}

prop_compose! {
    fn options()(bits in 0..=OptionFlags::all().bits(), unknown in prop::collection::vec("x[a-z=]{1,6}", 0..3))
        -> MountOptions {
            let mut options = MountOptions::new(OptionFlags::from_bits_truncate(bits));
            options.unknown = unknown.into_iter().map(|word| word.into_bytes()).collect();
            options
        }
}

prop_compose! {
    fn record()(
        ids in prop::array::uniform4(0..=i32::MAX as u32),
        root in name(1..20), mountpoint in name(1..20),
        options in options(), tags in tags(),
        fs_type in name(1..8), source in name(0..12), more in "(,[a-z =:\\\\]{1,8}){0,3}",
    ) -> MountInfo {
        let [id, parent, major, minor] = ids;
        let super_options = [&b"rw"[..], more.as_bytes()].concat();
        MountInfo { id, parent, major, minor, root, mountpoint, options, tags, fs_type, source, super_options }
    }
}

proptest! {
    #[test]
    fn a_printed_record_reads_back(record in record()) {
        prop_assert_eq!(MountInfo::parse(&record.to_line()), Ok(record));
    }

    #[test]
    fn any_bytes_give_a_record_or_an_error(line in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(record) = MountInfo::parse(&line) {
            prop_assert_eq!(MountInfo::parse(&record.to_line()), Ok(record));
        }
    }

    #[test]
    fn a_damaged_line_gives_a_record_or_an_error(record in record(), at: prop::sample::Index, byte: u8) {
        let mut line = record.to_line();
        let at = at.index(line.len());
        line[at] = byte;
        if let Ok(record) = MountInfo::parse(&line) {
            prop_assert_eq!(MountInfo::parse(&record.to_line()), Ok(record));
        }
    }
}
