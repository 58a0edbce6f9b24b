//! References, the busy decision, lazy detach, and when a file system ends.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use common::{Done, World, beside_a_pin, chdir, chroot, find, fresh, mkdirs, open, sized, spec};
use mnt_table::dentry::SuperBlockRef;
use mnt_table::tree::Leave;
use mnt_table::{WriteSet, pin, reclaim};

#[test]
fn an_open_file_makes_the_umount_busy_until_another_thread_closes_it() {
    let world = World::new();
    let dir = mkdirs(world.dir(), "mnt");
    let mount = world.mount_fresh(&world.root, &dir);
    let task = world.task();
    let file = open(&task, "/mnt");
    assert!(Arc::ptr_eq(&file.mount.to_arc(), &mount));
    assert!(!world.umount(&mount));
    // The refusal left it usable.
    let copy = open(&task, "/mnt");
    drop(file);
    assert!(!world.umount(&mount));
    thread::spawn(move || drop(copy)).join().unwrap();
    assert!(world.umount(&mount));
    assert!(mount.super_block().is_shut_down());
    drop(task);
    world.end();
}

#[test]
fn a_reference_that_wanders_never_looks_idle() {
    let world = World::new();
    let dir = mkdirs(world.dir(), "mnt");
    let mount = world.mount_fresh(&world.root, &dir);
    let task = world.task();
    let mut file = open(&task, "/mnt");
    // Gets and puts on many threads: the counter splits meanwhile.
    for _ in 0..sized(100, 9) {
        file = thread::scope(|scope| {
            scope
                .spawn(|| {
                    let copy = file.clone();
                    drop(file);
                    copy
                })
                .join()
                .unwrap()
        });
        assert!(!world.umount(&mount));
    }
    drop(file);
    assert!(world.umount(&mount));
    drop(task);
    world.end();
}

#[test]
fn roots_and_working_directories_count() {
    let world = World::new();
    let dir = mkdirs(world.dir(), "mnt");
    let inner = fresh();
    mkdirs(&inner, "sub");
    let mount = world.mount(&world.root, &dir, &inner);
    let task = world.task();
    for path in ["/mnt", "/mnt/sub"] {
        chdir(&task, path);
        assert!(!world.umount(&mount), "a cwd at {path}");
        let child = task.fork().unwrap();
        chdir(&task, "/");
        assert!(!world.umount(&mount), "the child's cwd at {path}");
        drop(child);
        let child = task.fork().unwrap();
        chroot(&child, path);
        assert!(!world.umount(&mount), "a root at {path}");
        drop(child);
    }
    chdir(&task, "/mnt");
    chdir(&task, "/");
    assert!(world.umount(&mount), "a place that was left counts no more");
    drop((task, inner));
    world.end();
}

#[test]
fn a_plain_umount_shuts_down_before_it_returns_although_a_thread_stays_pinned() {
    let world = World::new();
    let dir = mkdirs(world.dir(), "mnt");
    let mount = world.mount_fresh(&world.root, &dir);
    beside_a_pin(|| {
        assert!(world.umount(&mount));
        assert!(mount.super_block().is_shut_down());
    });
    world.end();
}

#[test]
fn the_superblock_ends_with_its_last_mount() {
    let (one, two) = (World::new(), World::new());
    let root = fresh();
    let super_block = Arc::clone(tmpfs_super_block(&root));
    let dirs = [mkdirs(one.dir(), "a"), mkdirs(two.dir(), "b")];
    let first = one.mount(&one.root, &dirs[0], &root);
    let second = two.mount(&two.root, &dirs[1], &root);
    assert!(one.umount(&first));
    assert!(!super_block.is_shut_down());
    two.detach(&second);
    assert!(super_block.is_shut_down(), "nobody used it, so the detach ended it");
    one.end();
    two.end();
}

#[test]
fn a_mount_that_was_never_attached_lets_go_of_its_superblock() {
    let world = World::new();
    let root = fresh();
    let super_block = Arc::clone(tmpfs_super_block(&root));
    let held = SuperBlockRef::new(root);
    let mut set = WriteSet::one(&world.ns);
    let mount = set.new_mount(&world.ns, spec(held.root())).unwrap();
    drop(set);
    drop(mount);
    assert!(!super_block.is_shut_down());
    drop(held);
    assert!(super_block.is_shut_down());
    world.end();
}

#[test]
fn a_lazy_detach_ends_the_superblock_in_the_call_that_drops_the_last_reference() {
    let world = World::new();
    let dir = mkdirs(world.dir(), "mnt");
    let inner = fresh();
    mkdirs(&inner, "sub");
    let mount = world.mount(&world.root, &dir, &inner);
    let task = world.task();
    let (file, other) = (open(&task, "/mnt"), open(&task, "/mnt/sub"));
    world.detach(&mount);
    assert!(find(&task, "/mnt").is_ok_and(|found| Arc::ptr_eq(&found.0, &world.root)), "gone from sight");
    drop(file);
    assert!(!mount.super_block().is_shut_down());
    // It can still be used, by who has it.
    let more = other.clone();
    task.set_cwd(&more).unwrap();
    drop((other, more));
    assert!(!mount.super_block().is_shut_down());
    assert_eq!(find(&task, "..").map(|found| Arc::ptr_eq(&found.1, &inner)), Ok(true));
    thread::scope(|scope| {
        scope.spawn(|| {
            chdir(&task, "/");
            assert!(mount.super_block().is_shut_down(), "in this call, in this thread");
        });
    });
    drop((task, inner));
    world.end();
}

#[test]
fn the_last_put_may_come_before_the_detach_has_returned() {
    let world = World::new();
    let dir = mkdirs(world.dir(), "mnt");
    let mount = world.mount_fresh(&world.root, &dir);
    let task = world.task();
    let file = open(&task, "/mnt");
    let super_block = Arc::clone(mount.super_block());
    let mut set = WriteSet::one(&world.ns);
    let going = set.subtree(&mount).unwrap();
    drop(mount);
    set.leave(&going[0], Leave::Detached, &pin());
    drop(going);
    // The write set is still there while the last user goes, and so does the memory.
    thread::spawn(move || drop(file)).join().unwrap();
    assert!(super_block.is_shut_down());
    reclaim::quiesce();
    drop(set);
    drop(task);
    world.end();
}

#[test]
fn users_that_come_and_go_never_meet_a_dead_file_system() {
    let world = World::new();
    let dir = mkdirs(world.dir(), "mnt");
    let task = world.task();
    let (done, umounts) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let _done = Done(&done);
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let file = open(&task, "/mnt");
                    assert!(!file.mount.super_block().is_shut_down(), "a kept mount is in use");
                    let _copy = file.clone();
                }
            });
        }
        for round in 0..sized(20_000, 6) {
            let mount = world.mount_fresh(&world.root, &dir);
            if round % 4 == 0 {
                world.detach(&mount);
            } else {
                while !world.umount(&mount) {
                    thread::yield_now();
                }
                umounts.fetch_add(1, Ordering::Relaxed);
                assert!(mount.super_block().is_shut_down());
            }
        }
    });
    assert!(umounts.into_inner() > 0);
    drop(task);
    world.end();
}

fn tmpfs_super_block(root: &Arc<tmpfs::TmpDentry>) -> &Arc<tmpfs::TmpSuperBlock> {
    mnt_table::dentry::Dentry::super_block(&**root)
}
