//! The mount hash of a namespace: right from one mount to very many, and beside changes.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use common::{Done, Mnt, READERS, World, alone, find, held, is_at, mkdirs, sized, spec};
use mnt_table::{WriteSet, pin};
use tmpfs::TmpDentry;

/// `count` directories in `world`'s root directory, in groups of a hundred.
fn dirs(world: &World, count: usize) -> Vec<Arc<TmpDentry>> {
    (0..count).map(|number| mkdirs(world.dir(), &format!("{}/{}", number / 100, number % 100))).collect()
}

fn looks_up(world: &World, dentry: &TmpDentry) -> Option<Mnt> {
    let guard = pin();
    world.ns.lookup_mnt(&world.root, dentry, &guard).map(|mount| mount.to_arc(&guard))
}

#[test]
fn every_mount_is_found_from_one_to_very_many() {
    let _alone = alone();
    let world = World::new();
    let (count, root) = (sized(100_000, 10), held());
    let dirs = dirs(&world, count + 1);
    let mut mounts = Vec::new();
    for number in 0..count {
        mounts.push(world.mount(&world.root, &dirs[number], root.root()));
        if (number + 1).is_power_of_two() || number + 1 == count {
            world.check(); // chains are short, the hash equals the tree
            for (mount, dentry) in mounts.iter().zip(&dirs) {
                assert!(looks_up(&world, dentry).is_some_and(|found| Arc::ptr_eq(&found, mount)));
            }
            assert!(looks_up(&world, &dirs[number + 1]).is_none());
        }
    }
    // And back: every second one goes.
    for mount in mounts.iter().step_by(2) {
        assert!(world.umount(mount));
    }
    world.check();
    for (number, (mount, dentry)) in mounts.iter().zip(&dirs).enumerate() {
        let found = looks_up(&world, dentry);
        assert_eq!(found.map(|found| Arc::ptr_eq(&found, mount)), (number % 2 == 1).then_some(true));
    }
    drop((mounts, root));
    world.end();
}

#[test]
fn one_operation_with_many_mounts_leaves_short_chains() {
    let _alone = alone();
    one_operation(false);
    one_operation(true);
}

fn one_operation(expected: bool) {
    let world = World::new();
    let (count, root) = (sized(10_000, 10), held());
    let dirs = dirs(&world, count);
    let mut set = WriteSet::one(&world.ns);
    if expected {
        set.expect_edges(&world.ns, count);
    }
    let prepared: Vec<_> = dirs
        .iter()
        .map(|dentry| {
            let mount = set.new_mount(&world.ns, spec(root.root())).unwrap();
            let joint = set.prepare(&mount, &world.root, dentry).unwrap();
            (mount, joint)
        })
        .collect();
    let guard = pin();
    set.begin(&world.ns, &guard);
    for (mount, joint) in prepared {
        set.attach(&mount, joint, &guard);
    }
    set.end();
    drop(guard);
    drop(set);
    world.check();
    assert!(dirs.iter().all(|dentry| looks_up(&world, dentry).is_some()));
    drop(root);
    world.end();
}

#[test]
fn a_constant_mount_is_never_missed_while_the_hash_grows() {
    let _alone = alone();
    let world = World::new();
    let dirs = dirs(&world, sized(20_000, 12));
    let (first, rest) = dirs.split_first().unwrap();
    let constant = world.mount_fresh(&world.root, first);
    let root = held();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let _done = Done(&done);
        for _ in 0..READERS {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let found = looks_up(&world, first).expect("it is always there");
                    assert!(Arc::ptr_eq(&found, &constant));
                }
            });
        }
        for (number, dentry) in rest.iter().enumerate() {
            let mount = world.mount(&world.root, dentry, root.root());
            if number % 3 == 0 {
                assert!(world.umount(&mount));
            }
        }
    });
    drop((constant, root));
    world.end();
}

#[test]
fn a_mount_is_on_one_mount_and_not_on_its_bind() {
    let _alone = alone();
    // D9: the flag on the dentry is a hint.
    let world = World::new();
    let (there, inner) = (mkdirs(world.dir(), "bind"), mkdirs(world.dir(), "tree/inner"));
    let mounted = world.mount_fresh(&world.root, &inner);
    let bind = world.mount(&world.root, &there, &mkdirs(world.dir(), "tree"));
    let task = world.task();
    assert!(is_at(&find(&task, "/tree/inner").unwrap(), &mounted, mounted.root()));
    assert!(is_at(&find(&task, "/bind/inner").unwrap(), &bind, &inner));
    drop((task, mounted, bind));
    world.end();
}

#[test]
fn namespaces_do_not_see_each_other() {
    let _alone = alone();
    let one = World::new();
    let two = World::over(one.dir());
    let dir = mkdirs(one.dir(), "mnt");
    let mounted = one.mount_fresh(&one.root, &dir);
    let (here, there) = (one.task(), two.task());
    assert!(is_at(&find(&here, "/mnt").unwrap(), &mounted, mounted.root()));
    assert!(is_at(&find(&there, "/mnt").unwrap(), &two.root, &dir));
    let other = two.mount_fresh(&two.root, &dir);
    assert!(one.umount(&mounted));
    assert!(is_at(&find(&here, "/mnt").unwrap(), &one.root, &dir));
    assert!(is_at(&find(&there, "/mnt").unwrap(), &other, other.root()));
    drop((here, there, mounted, other));
    two.end();
    one.end();
}
