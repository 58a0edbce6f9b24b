//! The rules of path walk: crossing down (D), going up (U), symbolic links, limits.

mod common;

use std::sync::Arc;

use common::{Tasks, World, chdir, chroot, find, fresh, is_at, mkdirs, open};
use mnt_table::dentry::Dentry;
use mnt_table::walk::{Last, WalkError, walk_to_change, walk_with};
use mnt_table::{MountFlags, MountSpec, WriteSet, pin};
use tmpfs::{TmpDentry, rename};

fn found(task: &Tasks, path: &str, last: Last) -> Result<Arc<TmpDentry>, WalkError> {
    walk_to_change(task, path.as_bytes(), last).map(|(_, dentry)| dentry)
}

/// Whether `path` leads to `want`.
fn leads(task: &Tasks, path: &str, want: &Arc<TmpDentry>) -> bool {
    found(task, path, Last::Follow).is_ok_and(|found| Arc::ptr_eq(&found, want))
}

fn fails(task: &Tasks, path: &str) -> WalkError {
    found(task, path, Last::Follow).expect_err(path)
}

#[test]
fn a_stack_is_entered_at_its_top() {
    // D1, D2, D7.
    let world = World::new();
    let dir = mkdirs(world.dir(), "d");
    let one = world.mount_fresh(&world.root, &dir);
    let two = world.mount_fresh(&one, one.root());
    let three = world.mount_fresh(&two, two.root());
    let task = world.task();
    for last in [Last::Follow, Last::NoFollow, Last::FollowAndCross, Last::NoFollowAndCross] {
        let at = walk_to_change(&task, b"/d", last).unwrap();
        assert!(is_at(&at, &three, three.root()), "{last:?}");
    }
    let set = WriteSet::one(&world.ns);
    assert!(Arc::ptr_eq(&set.topmost(&world.root), &world.root), "nothing is on the root");
    assert!(Arc::ptr_eq(&set.topmost(&one), &three));
    drop(set);
    world.check();
    assert!(world.umount(&three));
    assert!(is_at(&find(&task, "/d").unwrap(), &two, two.root()));
    assert!(!world.umount(&one), "something is on it");
    drop((task, one, two, three));
    world.end();
}

#[test]
fn a_dot_and_the_starting_root_do_not_cross() {
    // D3, D5, D6, U4.
    let world = World::new();
    let dir = mkdirs(world.dir(), "d");
    let below = mkdirs(&dir, "below");
    let task = world.task();
    chdir(&task, "/d");
    let over = world.mount_fresh(&world.root, &dir);
    assert!(is_at(&find(&task, ".").unwrap(), &world.root, &dir));
    assert!(is_at(&find(&task, "./below").unwrap(), &world.root, &below));
    assert!(is_at(&find(&task, "below/../.").unwrap(), &over, over.root()), "U4");
    assert!(is_at(&walk_to_change(&task, b".", Last::FollowAndCross).unwrap(), &over, over.root()));
    // The root.
    let on_root = world.mount_fresh(&world.root, world.dir());
    assert!(is_at(&find(&task, "/").unwrap(), &world.root, world.dir()));
    assert!(is_at(&find(&task, "//").unwrap(), &world.root, world.dir()));
    assert!(is_at(&find(&task, "/d").unwrap(), &over, over.root()));
    assert!(is_at(&find(&task, "/..").unwrap(), &on_root, on_root.root()), "U4");
    let crossed = walk_to_change(&task, b"/", Last::NoFollowAndCross).unwrap();
    assert!(is_at(&crossed, &on_root, on_root.root()));
    drop((task, over, on_root));
    world.end();
}

#[test]
fn the_parent_of_a_last_name_is_crossed_into_and_the_name_is_not() {
    // D8.
    let world = World::new();
    let dir = mkdirs(world.dir(), "d");
    let mount = world.mount_fresh(&world.root, &dir);
    let inner = mkdirs(mount.root(), "inner");
    world.mount_fresh(&mount, &inner);
    let task = world.task();
    let parent = |path: &str| {
        walk_with(&task, path.as_bytes(), Last::Parent, |found| {
            Ok((found.mount.id(), Arc::clone(found.dentry), String::from_utf8(found.name.to_vec()).unwrap()))
        })
    };
    for path in ["/d/inner", "d/inner", "/d/inner/", "/d/./inner//"] {
        let (id, dentry, name) = parent(path).unwrap();
        assert!(id == mount.id() && Arc::ptr_eq(&dentry, mount.root()) && name == "inner", "{path}");
    }
    assert_eq!(parent("new").unwrap().2, "new");
    for path in ["/", "//", ".", "..", "/d/.", "/d/..", "d/../"] {
        assert_eq!(parent(path).unwrap_err(), WalkError::NoLastName, "{path}");
    }
    assert_eq!(parent("").unwrap_err(), WalkError::NotFound);
    assert_eq!(parent("none/new").unwrap_err(), WalkError::NotFound);
    drop((task, mount));
    world.end();
}

#[test]
fn up_stays_inside_a_mount_and_climbs_over_its_root() {
    // U1, U2, U3.
    let world = World::new();
    let dir = mkdirs(world.dir(), "a/b");
    let one = world.mount_fresh(&world.root, &dir);
    let two = world.mount_fresh(&one, one.root());
    let sub = mkdirs(two.root(), "sub/subsub");
    let task = world.task();
    assert!(leads(&task, "/..", world.dir()) && leads(&task, "/../../..", world.dir()));
    assert!(leads(&task, "/a/b/sub/subsub/..", &mkdirs(two.root(), "sub")));
    assert!(is_at(&find(&task, "/a/b/sub/..").unwrap(), &two, two.root()));
    let up = find(&task, "/a/b/..").unwrap();
    assert!(is_at(&up, &world.root, &mkdirs(world.dir(), "a")), "over both of the stack");
    chdir(&task, "/a/b/sub/subsub");
    assert!(leads(&task, "../../..", &mkdirs(world.dir(), "a")));
    assert!(leads(&task, "../../../b/sub/subsub", &sub));
    drop((task, one, two));
    world.end();
}

#[test]
fn the_walks_root_stops_up() {
    // U1, U3, U6.
    let world = World::new();
    let dir = mkdirs(world.dir(), "a/b");
    let task = world.task();
    chroot(&task, "/a");
    let a = mkdirs(world.dir(), "a");
    assert!(leads(&task, "/..", &a) && leads(&task, "/b/../..", &a));
    // The working directory is outside: nothing stops it before the top of the tree.
    assert!(leads(&task, "..", world.dir()) && leads(&task, "a/..", &a), "through the root it is stopped");
    let low = world.mount_fresh(&world.root, &dir);
    let task = world.task();
    chdir(&task, "/a/b");
    chroot(&task, "/a/b");
    let top = world.mount_fresh(&low, low.root());
    // From the top of a stack whose bottom is the root: stay, then cross.
    assert!(is_at(&find(&task, "/..").unwrap(), &top, top.root()));
    let other = world.task();
    chroot(&other, "/a");
    chdir(&other, "/b");
    assert!(is_at(&find(&other, ".").unwrap(), &top, top.root()));
    chroot(&other, "/");
    let inside = world.task();
    inside.set_root(&open(&task, "/")).unwrap();
    chdir_at(&inside, &open(&task, "/.."));
    assert!(is_at(&find(&inside, "..").unwrap(), &top, top.root()), "stayed where it was");
    drop((task, other, inside, low, top));
    world.end();
}

fn chdir_at(task: &Tasks, path: &mnt_table::PathRef<TmpDentry>) {
    task.set_cwd(path).unwrap();
}

#[test]
fn a_directory_that_left_the_bound_subtree_has_no_way_up() {
    // U5.
    let world = World::new();
    let (u, there) = (mkdirs(world.dir(), "s/t/u/v"), mkdirs(world.dir(), "bind"));
    let (t, s) = (mkdirs(world.dir(), "s/t"), mkdirs(world.dir(), "s"));
    let bind = world.mount(&world.root, &there, &t);
    let task = world.task();
    chdir(&task, "/bind/u/v");
    assert!(leads(&task, "../..", bind.root()));
    rename((&t, b"u"), (&s, b"u"), &world.ns).unwrap();
    assert!(leads(&task, ".", &u));
    assert_eq!(fails(&task, ".."), WalkError::NotFound);
    assert_eq!(fails(&task, "../.."), WalkError::NotFound);
    // By the whole file system there is one.
    assert!(leads(&task, "/s/u/v/../..", &s));
    rename((&s, b"u"), (&t, b"u"), &world.ns).unwrap();
    assert!(leads(&task, "../..", bind.root()));
    drop((task, bind));
    world.end();
}

#[test]
fn up_ends_at_the_root_of_a_lazily_detached_mount() {
    // U7.
    let world = World::new();
    let dir = mkdirs(world.dir(), "mnt");
    let mount = world.mount_fresh(&world.root, &dir);
    let sub = mkdirs(mount.root(), "sub");
    let task = world.task();
    chdir(&task, "/mnt/sub");
    world.detach(&mount);
    for path in ["..", "../..", "../../.."] {
        assert!(is_at(&find(&task, path).unwrap(), &mount, mount.root()), "{path}");
    }
    assert!(leads(&task, "../sub", &sub) && leads(&task, "/mnt", &dir));
    drop(mount);
    chdir(&task, "/");
    drop(task);
    world.end();
}

#[test]
fn a_removed_working_directory_still_leads_up() {
    let world = World::new();
    mkdirs(world.dir(), "a/b");
    let a = mkdirs(world.dir(), "a");
    let task = world.task();
    chdir(&task, "/a/b");
    let _ = a.rmdir(b"b", &world.ns).unwrap();
    assert!(leads(&task, "..", &a));
    assert_eq!(fails(&task, "x"), WalkError::NotFound);
    assert_eq!(fails(&task, "/a/b"), WalkError::NotFound);
    drop(task);
    world.end();
}

#[test]
fn links_lead_on_from_their_directory_or_from_the_root() {
    let world = World::new();
    let c = mkdirs(world.dir(), "a/b/c");
    let (root, a, b) = (world.dir(), mkdirs(world.dir(), "a"), mkdirs(world.dir(), "a/b"));
    let relative = a.make_symlink(b"relative", b"b/c").unwrap();
    a.make_symlink(b"absolute", b"/a/b").unwrap();
    a.make_symlink(b"up", b"../a/relative/..").unwrap();
    a.make_symlink(b"here", b".").unwrap();
    a.make_symlink(b"top", b"/").unwrap();
    a.make_symlink(b"dangling", b"none").unwrap();
    a.make_symlink(b"slashed", b"b/").unwrap();
    b.make_symlink(b"far", b"/a/absolute/c").unwrap();
    let task = world.task();
    for (path, want) in [
        ("/a/relative", &c),
        ("/a/relative/../c", &c),
        ("/a/absolute", &b),
        ("/a/absolute/c", &c),
        ("/a/up", &b),
        ("/a/up/far", &c),
        ("/a/here/here/b", &b),
        ("/a/top", root),
        ("/a/top/a", &a),
        ("/a/slashed", &b),
        ("/a/slashed/", &b),
    ] {
        assert!(leads(&task, path, want), "{path}");
    }
    assert_eq!(fails(&task, "/a/dangling"), WalkError::NotFound);
    // Not followed: only the last, and only without a slash behind it.
    let nofollow = |path| found(&task, path, Last::NoFollow).unwrap();
    assert!(Arc::ptr_eq(&nofollow("/a/relative"), &relative));
    assert!(Arc::ptr_eq(&nofollow("/a/relative/"), &c));
    assert!(Arc::ptr_eq(&nofollow("/a/relative/."), &c));
    assert!(Arc::ptr_eq(&nofollow("/a/here/relative"), &relative));
    assert_eq!(found(&task, "/a/dangling", Last::NoFollow).unwrap().symlink(), Some(&b"none"[..]));
    // An absolute link begins at the task's root.
    chroot(&task, "/a");
    assert_eq!(fails(&task, "/absolute"), WalkError::NotFound);
    assert!(leads(&task, "/top", &a));
    drop(task);
    world.end();
}

#[test]
fn links_cross_mounts_both_ways() {
    let world = World::new();
    let (dir, other) = (mkdirs(world.dir(), "mnt"), mkdirs(world.dir(), "other"));
    let mount = world.mount_fresh(&world.root, &dir);
    mount.root().make_symlink(b"out", b"../other").unwrap();
    mount.root().make_symlink(b"away", b"/other").unwrap();
    other.make_symlink(b"in", b"../mnt").unwrap();
    let task = world.task();
    for (path, at, dentry) in [
        ("/mnt/out", &world.root, &other),
        ("/mnt/away", &world.root, &other),
        ("/other/in", &mount, mount.root()),
        ("/other/in/out/in/away/in", &mount, mount.root()),
    ] {
        assert!(is_at(&find(&task, path).unwrap(), at, dentry), "{path}");
    }
    drop((task, mount));
    world.end();
}

#[test]
fn forty_links_are_followed_and_one_more_is_not() {
    let world = World::new();
    let root = world.dir();
    let end = root.mkdir(b"l0").unwrap();
    for number in 1..=41 {
        let target = format!("l{}", number - 1);
        root.make_symlink(format!("l{number}").as_bytes(), target.as_bytes()).unwrap();
    }
    root.make_symlink(b"self", b"self").unwrap();
    let task = world.task();
    assert!(leads(&task, "/l40", &end));
    assert_eq!(fails(&task, "/l41"), WalkError::Loop);
    assert_eq!(fails(&task, "/self"), WalkError::Loop);
    assert_eq!(found(&task, "/self", Last::NoFollow).unwrap().symlink(), Some(&b"self"[..]));
    // All links of one walk count.
    assert!(leads(&task, &["/l1/.."; 40].concat(), root));
    assert_eq!(fails(&task, &["/l1/.."; 41].concat()), WalkError::Loop);
    drop(task);
    world.end();
}

#[test]
fn a_mount_can_refuse_links() {
    let world = World::new();
    let dir = mkdirs(world.dir(), "mnt");
    let inner = fresh();
    inner.make_symlink(b"link", b".").unwrap();
    let mut set = WriteSet::one(&world.ns);
    let (root, source) = (Arc::clone(&inner), mnt_table::Source::new(b"none").unwrap());
    let mount = set.new_mount(&world.ns, MountSpec::new(root, MountFlags::NOSYMFOLLOW, source)).unwrap();
    let joint = set.prepare(&mount, &world.root, &dir).unwrap();
    set.attach(&mount, joint, &pin());
    drop(set);
    let task = world.task();
    assert_eq!(fails(&task, "/mnt/link"), WalkError::Loop);
    assert!(found(&task, "/mnt/link", Last::NoFollow).is_ok());
    drop((task, inner, mount));
    world.end();
}

#[test]
fn what_is_no_directory_ends_a_walk() {
    let world = World::new();
    let root = world.dir();
    let file = root.create(b"file").unwrap();
    root.make_symlink(b"link", b"file").unwrap();
    root.make_symlink(b"slashed", b"file/").unwrap();
    let task = world.task();
    let long = "x".repeat(256);
    assert!(leads(&task, "/file", &file) && leads(&task, "/link", &file));
    for path in ["/file/", "/file/.", "/file/..", "/file/x", "/link/", "/slashed", "/file//"] {
        assert_eq!(fails(&task, path), WalkError::NotDirectory, "{path}");
    }
    assert_eq!(fails(&task, &format!("/file/{long}")), WalkError::NotDirectory, "before the name's length");
    assert_eq!(found(&task, "/file/new", Last::Parent).unwrap_err(), WalkError::NotDirectory);
    drop(task);
    world.end();
}

#[test]
fn lengths_are_limited() {
    let world = World::new();
    let longest = "x".repeat(255);
    let dir = world.dir().mkdir(longest.as_bytes()).unwrap();
    let task = world.task();
    assert!(leads(&task, &longest, &dir));
    let longer = "x".repeat(256);
    assert_eq!(fails(&task, &longer), WalkError::NameTooLong);
    assert_eq!(fails(&task, &format!("/{longer}/y")), WalkError::NameTooLong);
    assert_eq!(found(&task, &longer, Last::Parent).unwrap_err(), WalkError::NameTooLong);
    assert_eq!(fails(&task, &format!("/none/{longer}")), WalkError::NotFound);
    let path = "/".repeat(4095);
    assert!(leads(&task, &path, world.dir()));
    assert_eq!(fails(&task, &format!("{path}/")), WalkError::NameTooLong);
    assert_eq!(fails(&task, ""), WalkError::NotFound);
    drop(task);
    world.end();
}

#[test]
fn an_anchor_takes_everybody_along() {
    // What pivot_root does with roots and working directories.
    let world = World::new();
    let (dir, sub) = (mkdirs(world.dir(), "new"), mkdirs(world.dir(), "sub"));
    let new = world.mount_fresh(&world.root, &dir);
    let inner = mkdirs(new.root(), "inner");
    let (task, away) = (world.task(), world.task());
    chdir(&away, "/sub");
    let forked = task.fork().unwrap();
    let pivot = |from: &common::Mnt, to: &common::Mnt| {
        let mut set = WriteSet::one(&world.ns);
        set.prepare_anchors(from, to).unwrap();
        let guard = pin();
        set.begin(&world.ns, &guard);
        set.move_anchors(from, to);
        set.end();
    };
    pivot(&world.root, &new);
    for task in [&task, &forked] {
        assert!(is_at(&find(task, "/").unwrap(), &new, new.root()));
        assert!(is_at(&find(task, ".").unwrap(), &new, new.root()));
        assert!(leads(task, "inner", &inner) && leads(task, "/inner/..", new.root()));
    }
    // A working directory that is not a mount's root stays; the root moved.
    assert!(is_at(&find(&away, ".").unwrap(), &world.root, &sub));
    assert!(leads(&away, "/inner", &inner));
    // What they stand on now is busy; and back, and often, without leaving anything.
    assert!(!world.umount(&new));
    for _ in 0..20 {
        pivot(&new, &world.root);
        assert!(leads(&task, "/new/inner", &inner));
        let late = task.fork().unwrap();
        pivot(&world.root, &new);
        assert!(leads(&late, "/inner", &inner));
    }
    drop((task, forked));
    chdir(&away, "/");
    assert!(!world.umount(&new), "one is still there");
    pivot(&new, &world.root);
    assert!(world.umount(&new));
    assert!(leads(&away, "/sub", &sub));
    drop((away, new));
    world.end();
}

/// A directory that is asked for its entries: `yes` comes to be when it is asked for, `gone` never does.
struct Asked(std::sync::atomic::AtomicU32);

impl tmpfs::Handle for Asked {
    fn mode(&self) -> u32 {
        tmpfs::mode::DIRECTORY | 0o555
    }

    fn is_dynamic(&self) -> bool {
        true
    }

    fn instantiate(&self, directory: &Arc<TmpDentry>, name: &[u8]) -> Result<(), WalkError> {
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        match name {
            b"yes" => {
                directory
                    .adopt(name, tmpfs::New::of(tmpfs::What::Directory))
                    .map_err(|_| WalkError::NoMemory)?;
                Ok(())
            }
            _ => Err(WalkError::NotFound),
        }
    }
}

#[test]
fn a_directory_is_asked_for_what_it_does_not_have() {
    let asked = Arc::new(Asked(std::sync::atomic::AtomicU32::new(0)));
    let times = || asked.0.load(std::sync::atomic::Ordering::Relaxed);
    let world = World::new();
    let handle: Arc<dyn tmpfs::Handle> = asked.clone();
    let what = tmpfs::What::HandleDirectory(handle);
    let dir = world.dir().adopt(b"asked", tmpfs::New::of(what)).unwrap();
    let task = world.task();
    assert_eq!(fails(&task, "/asked/gone/x"), WalkError::NotFound);
    assert_eq!(times(), 1);
    let yes = found(&task, "/asked/yes/../yes", Last::Follow).unwrap();
    assert!(leads(&task, "/asked/yes", &yes) && Arc::ptr_eq(yes.parent(&pin()).unwrap().1, &dir));
    assert_eq!(times(), 2, "asked once, though the walk came by twice");
    // The last name of a path that names an entry is nobody's to ask for.
    assert!(found(&task, "/asked/new", Last::Parent).is_ok_and(|at| Arc::ptr_eq(&at, &dir)));
    assert_eq!(times(), 2);
    drop((task, yes, dir));
    world.end();
}

/// Lets nobody search.
struct Guarded;

impl tmpfs::Machine for Guarded {
    fn now(&self) -> i64 {
        0
    }

    fn may_search(&self, _directory: &TmpDentry, _mount: &mnt_table::Mount<TmpDentry>) -> bool {
        false
    }

    fn cut(&self, _file: (u32, u64), _pages: std::ops::Range<u64>) {}
}

#[test]
fn a_walk_ends_in_a_directory_that_must_not_be_searched() {
    static MACHINE: Guarded = Guarded;
    let options = tmpfs::Options { machine: Some(&MACHINE), ..tmpfs::Options::new(1, b"tmpfs") };
    let root = tmpfs::TmpSuperBlock::new(options).unwrap();
    let closed = tmpfs::New { mode: 0o700, ..tmpfs::New::of(tmpfs::What::Directory) };
    let dir = root.make(b"closed", closed).unwrap();
    mkdirs(&dir, "below");
    let world = World::over(&root);
    let task = world.task();
    assert!(leads(&task, "/closed", &dir), "to come to it nothing is looked up in it");
    assert!(leads(&task, "/closed/", &dir));
    for path in ["/closed/below", "/closed/none", "/closed/.", "/closed/..", "/closed/below/../.."] {
        assert_eq!(fails(&task, path), WalkError::Denied, "{path}");
    }
    let too_long = format!("/closed/{}", "x".repeat(300));
    assert_eq!(fails(&task, &too_long), WalkError::Denied, "before what is wrong with the name");
    assert_eq!(found(&task, "/closed/new", Last::Parent).err(), Some(WalkError::Denied));
    dir.set_permissions(0o711);
    assert!(found(&task, "/closed/below", Last::Follow).is_ok());
    drop((task, dir, root));
    world.end();
}
