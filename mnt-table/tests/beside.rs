//! Walks beside changes: what they never see, and that they go on undisturbed where nothing concerns them.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use common::{Done, World, alone, beside, chdir, find, fresh, held, is_at, mkdirs, open, sized};
use mnt_table::tree::Leave;
use mnt_table::{WriteSet, pin, walk};

/// The retries of this thread while `then` runs.
fn retries(then: impl FnOnce()) -> u64 {
    let before = walk::stats_here().retries;
    then();
    walk::stats_here().retries - before
}

#[test]
fn changes_in_another_namespace_disturb_no_walk() {
    let _alone = alone();
    let (mine, other) = (World::new(), World::new());
    let below = mkdirs(mine.dir(), "a/b");
    let mount = mine.mount_fresh(&mine.root, &below);
    mkdirs(mount.root(), "c/d");
    let (task, total) = (mine.task(), AtomicU64::new(0));
    let (from, to, root) = (mkdirs(other.dir(), "from"), mkdirs(other.dir(), "to"), held());
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let _done = Done(&over);
        scope.spawn(|| {
            let retries = retries(|| {
                while !over.load(Ordering::Acquire) {
                    let end = find(&task, "/a/b/c/../../../a/b/c/d").unwrap();
                    assert!(Arc::ptr_eq(&end.0, &mount));
                }
            });
            total.fetch_add(retries, Ordering::Relaxed);
        });
        for _ in 0..sized(8_000, 3) {
            let moving = other.mount(&other.root, &from, root.root());
            other.move_to(&moving, &other.root, &to);
            assert!(other.umount(&moving));
        }
    });
    assert_eq!(total.into_inner(), 0);
    drop((task, mount, root));
    mine.end();
    other.end();
}

#[test]
fn plain_mounts_and_umounts_elsewhere_in_its_namespace_disturb_no_walk() {
    let _alone = alone();
    let world = World::new();
    let below = mkdirs(world.dir(), "a/b");
    let mount = world.mount_fresh(&world.root, &below);
    mkdirs(mount.root(), "c/d");
    let dirs: Vec<_> = (0..50).map(|number| mkdirs(world.dir(), &format!("m{number}"))).collect();
    let (task, total, root) = (world.task(), AtomicU64::new(0), held());
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let _done = Done(&over);
        scope.spawn(|| {
            let retries = retries(|| {
                while !over.load(Ordering::Acquire) {
                    let end = find(&task, "/a/b/c/../../../a/b/c/d").unwrap();
                    assert!(Arc::ptr_eq(&end.0, &mount));
                }
            });
            total.fetch_add(retries, Ordering::Relaxed);
        });
        for round in 0..sized(20_000, 6) {
            let mounted = world.mount(&world.root, &dirs[round % dirs.len()], root.root());
            assert!(world.umount(&mounted));
        }
    });
    assert_eq!(total.into_inner(), 0);
    drop((task, mount, root));
    world.end();
}

#[test]
fn a_mount_that_moves_is_somewhere_and_leads_up() {
    let _alone = alone();
    let world = World::new();
    let (a, b) = (mkdirs(world.dir(), "a"), mkdirs(world.dir(), "b"));
    let marker = mkdirs(world.dir(), "marker");
    let moving = world.mount_fresh(&world.root, &a);
    mkdirs(moving.root(), "sub");
    let task = world.task();
    chdir(&task, "/a/sub");
    beside(
        || {
            // From inside, up leads to one of the two places, and both are in the same directory.
            assert!(is_at(&find(&task, "../..").unwrap(), &world.root, world.dir()));
            assert!(is_at(&find(&task, "../../marker").unwrap(), &world.root, &marker));
            assert!(is_at(&find(&task, "..").unwrap(), &moving, moving.root()));
            for path in ["/a", "/b"] {
                let (mount, dentry) = find(&task, path).unwrap();
                assert!(Arc::ptr_eq(&mount, &moving) == Arc::ptr_eq(&dentry, moving.root()));
            }
        },
        || {
            for round in 0..sized(8_000, 3) {
                world.move_to(&moving, &world.root, if round % 2 == 0 { &b } else { &a });
            }
        },
    );
    drop((task, moving));
    world.end();
}

#[test]
fn two_mounts_that_swap_places_are_never_away() {
    let _alone = alone();
    let world = World::new();
    let places = ["p", "q", "aside"].map(|name| mkdirs(world.dir(), name));
    let mut pair = [0, 1].map(|at| {
        let root = fresh();
        mkdirs(&root, "inside");
        world.mount(&world.root, &places[at], &root)
    });
    let task = world.task();
    beside(
        || {
            // Three edges change; a walk sees the moment before or the moment after.
            for path in ["/p/inside", "/q/inside", "/p/inside/../../q/inside"] {
                assert!(find(&task, path).is_ok(), "{path}");
            }
            assert!(is_at(&find(&task, "/aside").unwrap(), &world.root, &places[2]));
        },
        || {
            for _ in 0..sized(8_000, 3) {
                let mut set = WriteSet::one(&world.ns);
                let joints = [(1, 2), (0, 1), (1, 0)]
                    .map(|(mount, place)| set.prepare(&pair[mount], &world.root, &places[place]).unwrap());
                let guard = pin();
                set.begin(&world.ns, &guard);
                for (mount, joint) in [1, 0, 1].into_iter().zip(joints) {
                    set.rehang(&pair[mount], joint, &guard);
                }
                set.end();
                pair.swap(0, 1);
            }
        },
    );
    world.check();
    drop((task, pair));
    world.end();
}

#[test]
fn a_mount_tucked_beneath_is_never_seen() {
    let _alone = alone();
    let world = World::new();
    let dir = mkdirs(world.dir(), "mnt");
    let upper = world.mount_fresh(&world.root, &dir);
    let inside = mkdirs(upper.root(), "inside");
    let root = held();
    let task = world.task();
    chdir(&task, "/mnt/inside");
    beside(
        || {
            assert!(is_at(&find(&task, "/mnt/inside").unwrap(), &upper, &inside));
            assert!(is_at(&find(&task, "/mnt").unwrap(), &upper, upper.root()));
            assert!(is_at(&find(&task, "../..").unwrap(), &world.root, world.dir()));
        },
        || {
            for _ in 0..sized(8_000, 3) {
                let mut set = WriteSet::one(&world.ns);
                let child = set.new_mount(&world.ns, common::spec(root.root())).unwrap();
                let joint = set.prepare(&child, &world.root, &dir).unwrap();
                let upper_joint = set.prepare(&upper, &child, root.root()).unwrap();
                set.tuck(&child, joint, &upper, upper_joint, &pin());
                drop(set);
                // And away again: the upper one slides down.
                let mut set = WriteSet::one(&world.ns);
                let joint = set.prepare(&upper, &world.root, &dir).unwrap();
                // It is crossed, but nobody stands in it.
                assert!(set.condemn_if_idle(&[Arc::clone(&child)]));
                let guard = pin();
                set.begin(&world.ns, &guard);
                set.rehang(&upper, joint, &guard);
                set.leave(&child, Leave::Dead, &guard);
                set.end();
            }
        },
    );
    world.check();
    drop((task, upper, root));
    world.end();
}

#[test]
fn a_file_system_that_is_being_shut_down_is_never_seen_empty() {
    let _alone = alone();
    let world = World::new();
    mkdirs(world.dir(), "mnt/inside/it");
    let (dir, task) = (mkdirs(world.dir(), "mnt"), world.task());
    for lazily in [false, true] {
        beside(
            || {
                // The same path exists below and in every mount, so it always leads somewhere.
                find(&task, "/mnt/inside/it").expect("no walk ends in a dead file system");
                match find(&task, "/mnt/inside/../inside/../../mnt") {
                    Ok(_) => {}
                    // U7: up ended at the root of what was detached meanwhile, and there is no such name.
                    Err(error) => assert!(lazily && error == walk::WalkError::NotFound),
                }
            },
            || {
                for _ in 0..sized(4_000, 3) {
                    let root = fresh();
                    mkdirs(&root, "inside/it");
                    let mount = world.mount(&world.root, &dir, &root);
                    if lazily {
                        world.detach(&mount);
                    } else {
                        while !world.umount(&mount) {
                            thread::yield_now();
                        }
                    }
                    assert!(mount.super_block().is_shut_down());
                }
            },
        );
    }
    drop((dir, task));
    world.end();
}

#[test]
fn threads_that_change_and_threads_that_walk_come_to_an_end() {
    let _alone = alone();
    let world = World::new();
    let dirs: Vec<_> = (0..4).map(|number| mkdirs(world.dir(), &format!("d{number}/x/y"))).collect();
    let tops: Vec<_> = (0..4).map(|number| mkdirs(world.dir(), &format!("d{number}"))).collect();
    let task = world.task();
    beside(
        || {
            for number in 0..4 {
                let path = format!("/d{number}/../d{}/../d{number}", (number + 1) % 4);
                find(&task, &path).unwrap();
                let file = open(&task, &path);
                assert!(!file.mount.super_block().is_shut_down());
            }
        },
        || {
            thread::scope(|scope| {
                for number in 0..2 {
                    let (world, tops) = (&world, &tops);
                    scope.spawn(move || {
                        let (here, there) = (&tops[number], &tops[number + 2]);
                        for round in 0..sized(5_000, 2) {
                            let mount = world.mount_fresh(&world.root, here);
                            world.move_to(&mount, &world.root, there);
                            let below = mkdirs(mount.root(), "below");
                            let child = world.mount_fresh(&mount, &below);
                            if round % 2 == 0 {
                                assert!(!world.umount(&mount), "it has a child");
                                for going in [&child, &mount] {
                                    while !world.umount(going) {
                                        thread::yield_now();
                                    }
                                }
                            } else {
                                world.detach(&mount);
                            }
                        }
                    });
                }
            });
        },
    );
    world.check();
    drop((task, dirs));
    world.end();
}
