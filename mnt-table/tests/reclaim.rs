//! Memory: kept while somebody is pinned, free afterwards, bounded in between.

mod common;

use std::sync::{Arc, Weak};
use std::thread;

use common::{World, alone, beside, beside_a_pin, drain, find, held, mkdirs, sized};
use mnt_table::{pin, reclaim};
use tmpfs::Stats;

#[test]
fn nothing_is_freed_while_somebody_is_pinned_and_everything_afterwards() {
    let _alone = alone();
    let world = World::new();
    let dir = mkdirs(world.dir(), "mnt");
    let mut gone = Vec::new();
    let count = sized(2000, 8);
    beside_a_pin(|| {
        let before = reclaim::stats();
        for _ in 0..count {
            let mount = world.mount_fresh(&world.root, &dir);
            gone.push(Arc::downgrade(&mount));
            assert!(world.umount(&mount));
        }
        reclaim::quiesce();
        let after = reclaim::stats();
        assert!(gone.iter().all(|mount| mount.strong_count() > 0), "the pinned thread might look at them");
        assert_eq!(after.freed, before.freed);
        assert!(after.retired >= before.retired + 2 * count as u64, "a mount and an edge each");
        assert!(after.deferred_bytes > before.deferred_bytes, "a long pin shows");
    });
    drain();
    assert!(gone.iter().all(|mount| mount.strong_count() == 0));
    world.end();
}

#[test]
fn a_mount_is_freed_after_the_pin_that_found_it() {
    let _alone = alone();
    let world = World::new();
    let dir = mkdirs(world.dir(), "mnt");
    let mount = world.mount_fresh(&world.root, &dir);
    let weak: Weak<_> = Arc::downgrade(&mount);
    let (id, guard) = (mount.id(), pin());
    let found = world.ns.lookup_mnt(&world.root, &dir, &guard).unwrap();
    thread::scope(|scope| {
        let umount = scope.spawn(|| {
            assert!(world.umount(&mount));
            drop(mount);
            reclaim::quiesce();
        });
        umount.join().unwrap();
    });
    assert_eq!(found.id(), id, "still readable");
    assert!(weak.strong_count() > 0);
    drop(guard);
    drain();
    assert_eq!(weak.strong_count(), 0);
    world.end();
}

#[test]
fn a_namespace_leaves_nothing() {
    let _alone = alone();
    let before = tmpfs::stats();
    let world = World::new();
    let weak = Arc::downgrade(&world.ns);
    let dirs: Vec<_> = (0..sized(300, 6)).map(|number| mkdirs(world.dir(), &format!("{number}"))).collect();
    for dir in &dirs {
        let mount = world.mount_fresh(&world.root, dir);
        let below = mkdirs(mount.root(), "below");
        world.mount_fresh(&mount, &below);
    }
    let task = world.task();
    assert!(find(&task, "/3/below/..").is_ok());
    drop((task, dirs));
    world.end();
    drain();
    assert_eq!(tmpfs::stats(), before);
    assert_eq!(weak.strong_count(), 0);
    assert_eq!(before, Stats::default());
}

#[test]
fn memory_that_waits_is_bounded_and_umount_never_waits() {
    let _alone = alone();
    let before = reclaim::limit();
    let world = World::new();
    let root = held();
    let dirs: Vec<_> = (0..sized(3000, 10)).map(|number| mkdirs(world.dir(), &format!("{number}"))).collect();
    let mounts: Vec<_> = dirs.iter().map(|dir| world.mount(&world.root, dir, root.root())).collect();
    let per_mount = 100;
    reclaim::set_limit(sized(1000, 5) as u64 * per_mount);
    beside_a_pin(|| {
        // An operation that allocates is held up and then refused; one that frees is not.
        for mount in &mounts {
            assert!(world.umount(mount));
        }
        assert!(reclaim::stats().deferred_bytes > reclaim::limit());
        let refused = reclaim::stats().refused;
        // It looks when this CPU has retired enough since it last did.
        let guard = pin();
        (0..reclaim::FLUSH_EVERY).for_each(|_| guard.retire(Box::new(0u64)));
        drop(guard);
        assert!(reclaim::reserve().is_err());
        assert!(reclaim::reserve().is_err(), "as long as the reader stays");
        assert_eq!(reclaim::stats().refused, refused + 2);
    });
    drop(mounts);
    drain();
    assert!(reclaim::reserve().is_ok());
    reclaim::set_limit(before);
    drop((dirs, root));
    world.end();
}

#[test]
fn a_steady_load_beside_readers_stays_below_the_limit() {
    let _alone = alone();
    let before = reclaim::limit();
    let limit = 1 << 20;
    reclaim::set_limit(limit);
    let world = World::new();
    let (dir, root) = (mkdirs(world.dir(), "mnt"), held());
    let mut peak = 0;
    let task = world.task();
    beside(
        || drop(find(&task, "/mnt/../mnt").unwrap()),
        || {
            for _ in 0..sized(100_000, 10) {
                while reclaim::reserve().is_err() {
                    thread::yield_now();
                }
                let mount = world.mount(&world.root, &dir, root.root());
                while !world.umount(&mount) {}
                peak = peak.max(reclaim::stats().deferred_bytes);
            }
        },
    );
    // What is retired between two looks comes on top.
    let slack = 2 * reclaim::FLUSH_EVERY * 1024;
    assert!(peak <= limit + slack, "{peak} bytes");
    reclaim::set_limit(before);
    drop((root, task));
    world.end();
}
