//! Inodes and contents: hard links, attributes, limits, sparse files, offsets of entries, exchanges, entries on demand.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use common::{fresh, look, namespace};
use mnt_table::Mount;
use mnt_table::dentry::{Dentry, LookupError, SuperBlock};
use mnt_table::walk::WalkError;
use tmpfs::{
    FsError, Handle, Kind, Machine, New, Options, PAGE_SIZE, TmpDentry, TmpSuperBlock, What, exchange, mode,
    rename, rename_if,
};

fn with(options: Options<'_>) -> Arc<TmpDentry> {
    TmpSuperBlock::new(options).unwrap()
}

fn file(bits: u32, uid: u32, gid: u32) -> New<'static> {
    New { what: What::File, mode: bits, uid, gid }
}

#[test]
fn names_share_an_inode_until_the_last_one_goes() {
    let (root, ns) = (fresh(1), namespace());
    let first = root.make(b"a", file(0o640, 1, 2)).unwrap();
    let directory = root.mkdir(b"d").unwrap();
    let second = directory.link(b"b", &first).unwrap();
    assert_eq!(first.id(), second.id());
    assert!(!Arc::ptr_eq(&first, &second), "each name is a dentry of its own");
    first.write_at(0, b"shared").unwrap();
    let mut bytes = [0; 6];
    assert_eq!(second.read_at(0, &mut bytes), Ok(6));
    assert_eq!((&bytes, first.inode().names()), (b"shared", 2));
    second.set_permissions(0o4711);
    assert_eq!(first.inode().mode(), mode::FILE | 0o4711);
    assert_eq!(root.link(b"c", &directory).unwrap_err(), FsError::NotPermitted);
    assert_eq!(fresh(2).link(b"c", &first).unwrap_err(), FsError::CrossDevice);
    drop(root.unlink(b"a", &ns).unwrap());
    assert_eq!(second.inode().names(), 1);
    assert_eq!(second.size(), Ok(6));
    // Open, it outlives its last name; and then nothing brings it back.
    second.inode().open().unwrap();
    drop(directory.unlink(b"b", &ns).unwrap());
    assert_eq!(second.size(), Ok(6));
    assert!(!root.super_block().set_read_only(true), "a file without a name is open");
    assert_eq!(root.link(b"again", &second).unwrap_err(), FsError::NotFound);
    second.inode().close();
    assert_eq!(second.inode().open().unwrap_err(), FsError::NotFound);
    assert_eq!(root.super_block().usage().pages, 0);
    assert!(root.super_block().set_read_only(true));
    root.super_block().shutdown();
}

#[test]
fn directories_count_their_subdirectories() {
    let (root, ns) = (fresh(1), namespace());
    let (a, b) = (root.mkdir(b"a").unwrap(), root.mkdir(b"b").unwrap());
    a.mkdir(b"x").unwrap();
    assert_eq!((root.inode().names(), a.inode().names(), b.inode().names()), (4, 3, 2));
    rename((&a, b"x"), (&b, b"x"), &ns).unwrap();
    assert_eq!((a.inode().names(), b.inode().names()), (2, 3));
    drop(b.rmdir(b"x", &ns).unwrap());
    assert_eq!(b.inode().names(), 2);
    drop(root.rmdir(b"b", &ns).unwrap());
    assert_eq!((root.inode().names(), b.inode().names()), (3, 0));
    root.super_block().shutdown();
}

#[test]
fn a_set_group_id_directory_gives_its_group() {
    let root = fresh(1);
    let shared = root.make(b"shared", New { what: What::Directory, mode: 0o2775, uid: 0, gid: 50 }).unwrap();
    let made = shared.make(b"f", file(0o644, 7, 7)).unwrap();
    assert_eq!(made.inode().owner(), (7, 50));
    let below = shared.make(b"d", New { what: What::Directory, mode: 0o755, uid: 7, gid: 7 }).unwrap();
    assert_eq!((below.inode().owner(), below.inode().mode()), ((7, 50), mode::DIRECTORY | 0o2755));
    root.super_block().shutdown();
}

#[test]
fn special_files_know_their_numbers() {
    let root = fresh(1);
    for (name, kind, wanted) in [
        (&b"fifo"[..], mode::FIFO, Kind::Fifo),
        (b"socket", mode::SOCKET, Kind::Socket),
        (b"null", mode::CHARACTER, Kind::CharacterDevice),
        (b"ram", mode::BLOCK, Kind::BlockDevice),
    ] {
        let made = root.make(name, New::of(What::Special(kind, 0x103))).unwrap();
        assert_eq!((made.kind(), made.inode().rdev()), (wanted, 0x103));
        assert_eq!(made.write_at(0, b"x").unwrap_err(), FsError::NotFile);
    }
    root.super_block().shutdown();
}

#[test]
fn limits_are_kept_and_can_be_changed() {
    let (root, ns) =
        (with(Options { pages: Some(3), inodes: Some(3), ..Options::new(1, b"tmpfs") }), namespace());
    let super_block = root.super_block();
    let one = root.create(b"one").unwrap();
    root.create(b"two").unwrap();
    assert_eq!(root.create(b"three").unwrap_err(), FsError::NoSpace);
    assert_eq!(look(&root, b"three").unwrap_err(), LookupError::NotFound);
    // All or nothing.
    one.write_at(0, &[1; 2 * PAGE_SIZE]).unwrap();
    assert_eq!(one.write_at(PAGE_SIZE as u64, &[2; 3 * PAGE_SIZE]).unwrap_err(), FsError::NoSpace);
    assert_eq!((one.size(), super_block.usage().pages), (Ok(2 * PAGE_SIZE as u64), 2));
    assert_eq!(super_block.set_limits(Some(1), None).unwrap_err(), FsError::BadLimit);
    assert_eq!(super_block.set_limits(None, Some(2)).unwrap_err(), FsError::BadLimit);
    super_block.set_limits(Some(2), Some(4)).unwrap();
    assert_eq!(one.write_at(2 * PAGE_SIZE as u64, b"x").unwrap_err(), FsError::NoSpace);
    root.create(b"three").unwrap();
    // What is removed is there again.
    drop(root.unlink(b"one", &ns).unwrap());
    assert_eq!(super_block.usage().pages, 0);
    super_block.set_limits(Some(0), Some(0)).unwrap();
    assert_eq!(super_block.set_limits(Some(5), None).unwrap_err(), FsError::BadLimit, "there was none");
    super_block.shutdown();
}

#[test]
fn a_long_target_of_a_link_is_a_page() {
    let (root, ns) = (with(Options { pages: Some(1), ..Options::new(1, b"tmpfs") }), namespace());
    root.make_symlink(b"short", &[b'a'; 127]).unwrap();
    root.make_symlink(b"long", &[b'a'; 128]).unwrap();
    assert_eq!(root.make_symlink(b"longer", &[b'a'; 129]).unwrap_err(), FsError::NoSpace);
    assert_eq!(root.super_block().usage().inodes, 3, "what was refused is not counted");
    drop(root.unlink(b"long", &ns).unwrap());
    assert_eq!(root.super_block().usage().pages, 0);
    root.super_block().shutdown();
}

#[test]
fn holes_cost_nothing_and_read_as_zeroes() {
    const PAGE: u64 = PAGE_SIZE as u64;
    let root = fresh(1);
    let file = root.create(b"f").unwrap();
    file.truncate(1 << 40).unwrap();
    file.write_at(10 * PAGE + 1, b"data").unwrap();
    file.write_at((1 << 40) - 1, b"e").unwrap();
    let contents = file.contents().unwrap();
    assert_eq!(contents.pages(), 2);
    assert_eq!(contents.seek(0, true), Ok(10 * PAGE));
    assert_eq!(contents.seek(10 * PAGE + 3, true), Ok(10 * PAGE + 3));
    assert_eq!(contents.seek(10 * PAGE, false), Ok(11 * PAGE));
    assert_eq!(contents.seek(11 * PAGE, true), Ok((1 << 40) - PAGE));
    assert_eq!(contents.seek((1 << 40) - 1, false), Ok(1 << 40), "the end is a hole");
    assert_eq!(contents.seek(1 << 40, true), Err(FsError::NoSuchByte));
    let mut bytes = [9; 8];
    assert_eq!(file.read_at(10 * PAGE - 3, &mut bytes), Ok(8));
    assert_eq!(&bytes, b"\0\0\0\0data");
    contents.punch(10 * PAGE + 2..10 * PAGE + 4).unwrap();
    assert_eq!(file.read_at(10 * PAGE, &mut bytes), Ok(8));
    assert_eq!(&bytes, b"\0d\0\0a\0\0\0");
    contents.punch(PAGE..20 * PAGE).unwrap();
    assert_eq!((contents.pages(), contents.size()), (1, 1 << 40));
    // What is cut off does not come back.
    file.write_at(0, &[7; PAGE_SIZE]).unwrap();
    file.truncate(3).unwrap();
    file.truncate(PAGE).unwrap();
    assert_eq!(file.read_at(0, &mut bytes), Ok(8));
    assert_eq!(&bytes, b"\x07\x07\x07\0\0\0\0\0");
    root.super_block().shutdown();
}

#[test]
fn a_mapped_page_is_the_file_s_own() {
    let root = fresh(1);
    let file = root.create(b"f").unwrap();
    let contents = file.contents().unwrap();
    assert_eq!(contents.mapped_page(0).unwrap_err(), FsError::BeyondEnd);
    file.truncate(5).unwrap();
    let page = contents.mapped_page(0).unwrap();
    page.write(0, b"hello");
    let mut bytes = [0; 5];
    file.read_at(0, &mut bytes).unwrap();
    assert_eq!(&bytes, b"hello");
    file.truncate(0).unwrap();
    assert_eq!(contents.mapped_page(0).unwrap_err(), FsError::BeyondEnd);
    assert!(page.is_unique(), "the file has let go of it");
    root.super_block().shutdown();
}

#[test]
fn seals_forbid() {
    let root = fresh(1);
    let file = root.create(b"f").unwrap();
    file.write_at(0, b"abc").unwrap();
    let contents = file.contents().unwrap();
    contents.add_seals(0x4).unwrap();
    assert_eq!(file.write_at(3, b"d").unwrap_err(), FsError::Sealed);
    assert_eq!(file.write_at(0, b"x"), Ok(1));
    contents.add_seals(0x2).unwrap();
    assert_eq!(file.truncate(1).unwrap_err(), FsError::Sealed);
    contents.map_writable(true).unwrap();
    assert_eq!(contents.add_seals(0x8).unwrap_err(), FsError::Busy);
    contents.map_writable(false).unwrap();
    contents.add_seals(0x8).unwrap();
    assert_eq!(file.write_at(0, b"x").unwrap_err(), FsError::Sealed);
    assert_eq!(contents.map_writable(true).unwrap_err(), FsError::Sealed);
    root.super_block().shutdown();
}

#[test]
fn entries_keep_their_offsets() {
    let (root, ns) = (fresh(1), namespace());
    for number in 0..100u32 {
        root.create(format!("{number}").as_bytes()).unwrap();
    }
    let names = |after, max| -> Vec<(u64, String)> {
        let listed = root.list(after, max).unwrap();
        listed.iter().map(|entry| (entry.offset, String::from_utf8(entry.name().to_vec()).unwrap())).collect()
    };
    let first = names(0, 40);
    assert_eq!(
        first.iter().map(|(_, name)| name.clone()).collect::<Vec<_>>(),
        (0..40).map(|n| n.to_string()).collect::<Vec<_>>()
    );
    // What goes and comes in between changes nothing for the rest.
    drop(root.unlink(b"10", &ns).unwrap());
    drop(root.unlink(b"41", &ns).unwrap());
    rename((&root, b"20"), (&root, b"moved"), &ns).unwrap();
    let rest = names(first.last().unwrap().0, usize::MAX);
    let wanted: Vec<String> =
        (40..100).filter(|n| *n != 41).map(|n| n.to_string()).chain(["moved".to_owned()]).collect();
    assert_eq!(rest.into_iter().map(|(_, name)| name).collect::<Vec<_>>(), wanted);
    root.super_block().shutdown();
}

#[test]
fn two_entries_are_exchanged() {
    let (root, ns) = (fresh(1), namespace());
    let (a, b) = (root.mkdir(b"a").unwrap(), root.mkdir(b"b").unwrap());
    let file = a.create(b"f").unwrap();
    let directory = b.mkdir(b"d").unwrap();
    let fine = |_: &Arc<TmpDentry>, _: Option<&Arc<TmpDentry>>| Ok::<(), FsError>(());
    exchange((&a, b"f"), (&b, b"d"), &ns, fine).unwrap();
    assert!(Arc::ptr_eq(&look(&a, b"f").unwrap(), &directory));
    assert!(Arc::ptr_eq(&look(&b, b"d").unwrap(), &file));
    assert_eq!((a.inode().names(), b.inode().names()), (3, 2));
    assert_eq!(exchange((&root, b"a"), (&a, b"f"), &ns, fine).unwrap_err(), FsError::IntoItself);
    assert_eq!(exchange((&root, b"a"), (&b, b"none"), &ns, fine).unwrap_err(), FsError::NotFound);
    let refused = |_: &Arc<TmpDentry>, _: Option<&Arc<TmpDentry>>| Err(FsError::NotPermitted);
    assert_eq!(exchange((&a, b"f"), (&b, b"d"), &ns, refused).unwrap_err(), FsError::NotPermitted);
    assert_eq!(rename_if((&a, b"f"), (&b, b"x"), &ns, refused).unwrap_err(), FsError::NotPermitted);
    assert!(Arc::ptr_eq(&look(&a, b"f").unwrap(), &directory));
    root.super_block().shutdown();
}

#[test]
fn a_nameless_file_gets_a_name_once() {
    let (root, ns) = (fresh(1), namespace());
    let made = root.nameless(file(0o600, 0, 0)).unwrap();
    made.inode().open().unwrap();
    assert!(made.is_removed() && made.inode().names() == 0);
    assert!(!root.super_block().set_read_only(true));
    made.write_at(0, b"x").unwrap();
    let named = root.link(b"now", &made).unwrap();
    assert_eq!((named.id(), named.inode().names()), (made.id(), 1));
    drop(root.unlink(b"now", &ns).unwrap());
    assert_eq!(root.link(b"again", &made).unwrap_err(), FsError::NotFound);
    let never = root.nameless(file(0o600, 0, 0)).unwrap();
    never.inode().never_link();
    assert_eq!(root.link(b"never", &never).unwrap_err(), FsError::NotFound);
    made.inode().close();
    root.super_block().shutdown();
}

/// A clock that stands still until it is moved.
struct Clock(AtomicU32);

impl Machine for Clock {
    fn now(&self) -> i64 {
        self.0.load(Ordering::Relaxed).into()
    }

    fn may_search(&self, _directory: &TmpDentry, _mount: &Mount<TmpDentry>) -> bool {
        false
    }

    fn cut(&self, _file: (u32, u64), _pages: std::ops::Range<u64>) {}
}

#[test]
fn times_follow_what_is_done() {
    static CLOCK: Clock = Clock(AtomicU32::new(1));
    let (root, ns) = (with(Options { machine: Some(&CLOCK), ..Options::new(1, b"tmpfs") }), namespace());
    let at = |time| CLOCK.0.store(time, Ordering::Relaxed);
    let made = root.create(b"f").unwrap();
    let times = |dentry: &TmpDentry| {
        let times = dentry.inode().times();
        (times.accessed, times.modified, times.changed, times.born)
    };
    assert_eq!(times(&made), (1, 1, 1, 1));
    at(2);
    made.write_at(0, b"x").unwrap();
    assert_eq!((times(&made), times(&root)), ((1, 2, 2, 1), (1, 1, 1, 1)));
    at(3);
    rename((&root, b"f"), (&root, b"g"), &ns).unwrap();
    assert_eq!((times(&made), times(&root)), ((1, 2, 3, 1), (1, 3, 3, 1)));
    at(4);
    drop(root.unlink(b"g", &ns).unwrap());
    assert_eq!((times(&made), times(&root)), ((1, 2, 4, 1), (1, 4, 4, 1)));
    root.super_block().shutdown();
}

/// A directory of the numbers below a limit that changes.
struct Numbers(&'static AtomicU32);

/// One of them.
struct Number(u32, &'static AtomicU32);

impl Handle for Numbers {
    fn mode(&self) -> u32 {
        mode::DIRECTORY | 0o555
    }

    fn is_dynamic(&self) -> bool {
        true
    }

    fn instantiate(&self, directory: &Arc<TmpDentry>, name: &[u8]) -> Result<(), WalkError> {
        drop(directory.forget(name));
        let number: u32 =
            std::str::from_utf8(name).ok().and_then(|name| name.parse().ok()).ok_or(WalkError::NotFound)?;
        if number >= self.0.load(Ordering::Relaxed) {
            return Err(WalkError::NotFound);
        }
        match directory.adopt(name, New::of(What::Handle(Arc::new(Number(number, self.0))))) {
            Ok(_) | Err(FsError::Exists) => Ok(()),
            Err(_) => Err(WalkError::NoMemory),
        }
    }
}

impl Handle for Number {
    fn is_stale(&self) -> bool {
        self.0 >= self.1.load(Ordering::Relaxed)
    }
}

#[test]
fn entries_are_made_when_they_are_asked_for_and_asked_for_again_when_stale() {
    static LIMIT: AtomicU32 = AtomicU32::new(5);
    let options = Options { read_only: true, ..Options::new(1, b"proc") };
    let root = TmpSuperBlock::with_root(options, What::HandleDirectory(Arc::new(Numbers(&LIMIT)))).unwrap();
    assert_eq!(look(&root, b"3").unwrap_err(), LookupError::Ask);
    root.instantiate(b"3").unwrap();
    let three = look(&root, b"3").unwrap();
    assert_eq!(root.instantiate(b"7"), Err(WalkError::NotFound));
    assert_eq!(look(&root, b"7").unwrap_err(), LookupError::Ask, "it may come to be");
    LIMIT.store(2, Ordering::Relaxed);
    assert_eq!(look(&root, b"3").unwrap_err(), LookupError::Ask);
    assert_eq!(root.instantiate(b"3"), Err(WalkError::NotFound));
    assert!(three.is_removed());
    assert_eq!(root.entry_count(), Ok(0));
    root.super_block().shutdown();
}

#[test]
fn what_is_forgotten_may_be_deep() {
    let root = fresh(1);
    let mut at = root.mkdir(b"top").unwrap();
    for _ in 0..20_000 {
        at.create(b"file").unwrap();
        at = at.mkdir(b"d").unwrap();
    }
    drop(at);
    let gone = root.forget(b"top").unwrap();
    assert!(gone.dentry.is_removed() && gone.dentry.entry(b"d").is_none());
    assert_eq!((root.entry_count(), root.inode().names()), (Ok(0), 2));
    root.super_block().shutdown();
}
