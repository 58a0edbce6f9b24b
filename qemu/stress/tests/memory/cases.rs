//! The operations, each in a setting in which it has much to do.

use mnt_table::UserNs;
use propagate::Error;
use propagate::copy_tree::Extent;
use propagate::graph::PropagationType::{Private, Shared, Slave, Unbindable};

use crate::world::{
    Made, World, bind, copy_namespace, end_namespace, join, keep, mount, move_beneath, move_mount, open_tree,
    pivot, placed, set_type, umount_from, umount_lazily, umount_now,
};

/// An operation, ready to run: all paths are walked, all file systems are there.
pub(crate) type Operation = Box<dyn FnOnce(&World) -> Result<Made, Error>>;

/// A setting, and what is done in it.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) build: fn() -> (World, Operation),
}

/// A namespace, two copies that are its peers, a copy whose mounts are slaves and shared themselves, a peer of that one,
/// and one that only receives. In all of them the root and a mount on `a` are shared.
fn related() -> World {
    let mut world = World::new();
    world.mount(0, &["/a", "/d"]);
    world.set_types(0, "/", Shared);
    world.copy(0, UserNs::INITIAL);
    world.copy(0, UserNs::INITIAL);
    let slave = world.copy(0, UserNs::INITIAL);
    world.set_types(slave, "/", Slave);
    world.set_types(slave, "/", Shared);
    world.copy(slave, UserNs::INITIAL);
    let end = world.copy(1, UserNs::INITIAL);
    world.set_types(end, "/", Slave);
    world
}

/// As [`related`], with a tree of four mounts on `b` everywhere.
fn related_trees() -> World {
    let mut world = related();
    world.mount(0, &["/b", "/b/a", "/b/b", "/b/a/c"]);
    world
}

/// As [`related`], with a private tree on `f` in the first namespace, which is private there.
fn with_private_tree(mut world: World) -> World {
    world.set_type(0, "/", Private);
    world.mount(0, &["/f", "/f/a", "/f/b"]);
    world
}

macro_rules! case {
    ($name:literal, $build:expr) => {
        Case { name: $name, build: || $build }
    };
}

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!("mount, private", {
            let mut world = World::new();
            let (disk, at) = (world.disk(), world.at(0, "/a"));
            (world, Box::new(move |w| mount(&w.namespaces[0], &at, &disk)))
        }),
        case!("mount, to peers and slaves", {
            let mut world = related();
            let (disk, at) = (world.disk(), world.at(0, "/a/b"));
            (world, Box::new(move |w| mount(&w.namespaces[0], &at, &disk)))
        }),
        case!("mount, tucked beneath earlier ones", {
            let mut world = related();
            let slaves = world.namespaces.len();
            world.mount(slaves - 1, &["/c", "/c"]);
            world.set_types(slaves - 2, "/", Private);
            let (disk, at) = (world.disk(), world.at(0, "/c"));
            (world, Box::new(move |w| mount(&w.namespaces[0], &at, &disk)))
        }),
        case!("mount, the hash grows", {
            let mut world = World::new();
            world.make_directories(0, &["/a", "/b", "/c"]);
            world.mount(0, &["/a/a", "/a/b", "/a/c", "/a/d", "/a/e", "/a/f", "/b/a", "/b/b", "/b/c"]);
            world.mount(0, &["/b/d", "/b/e", "/b/f", "/c/a", "/c/b", "/c/c", "/c/d"]);
            let (disk, at) = (world.disk(), world.at(0, "/c/e"));
            (world, Box::new(move |w| mount(&w.namespaces[0], &at, &disk)))
        }),
        case!("bind, private", {
            let mut world = World::new();
            world.mount(0, &["/a"]);
            let (from, at) = (world.at(0, "/a"), world.at(0, "/b"));
            (world, Box::new(move |w| bind(&w.namespaces[0], &from, &at, Extent::Root)))
        }),
        case!("bind of a shared mount to a private place", {
            let world = with_private_tree(related());
            let (from, at) = (world.at(0, "/a"), world.at(0, "/f/c"));
            (world, Box::new(move |w| bind(&w.namespaces[0], &from, &at, Extent::Root)))
        }),
        case!("bind of a slave to a private place", {
            let mut world = related();
            let last = world.namespaces.len() - 1;
            world.set_type(last, "/", Private);
            world.mount(last, &["/f"]);
            let (from, at) = (world.at(last, "/a"), world.at(last, "/f"));
            (world, Box::new(move |w| bind(&w.namespaces[last], &from, &at, Extent::Root)))
        }),
        case!("rbind of a shared tree to peers and slaves", {
            let world = related_trees();
            let (from, at) = (world.at(0, "/b"), world.at(0, "/a/c"));
            (world, Box::new(move |w| bind(&w.namespaces[0], &from, &at, Extent::Bindable)))
        }),
        case!("rbind of a private tree with locked mounts to peers and slaves", {
            let world = with_private_tree(related());
            world.lock(0, "/f/a");
            let (from, at) = (world.at(0, "/f"), world.at(0, "/a/c"));
            (world, Box::new(move |w| bind(&w.namespaces[0], &from, &at, Extent::Bindable)))
        }),
        case!("rbind to namespaces with another owner", {
            let mut world = related_trees();
            world.copy(0, UserNs::INITIAL.child(1000).unwrap());
            let (from, at) = (world.at(0, "/b"), world.at(0, "/a/c"));
            (world, Box::new(move |w| bind(&w.namespaces[0], &from, &at, Extent::Bindable)))
        }),
        case!("move, private", {
            let mut world = World::new();
            world.mount(0, &["/a", "/a/b"]);
            let (from, at) = (world.mount_at(0, "/a"), world.at(0, "/b"));
            (world, Box::new(move |_| move_mount(&from, &at)))
        }),
        case!("move of a private tree to peers and slaves", {
            let world = with_private_tree(related());
            let (from, at) = (world.mount_at(0, "/f"), world.at(0, "/a/c"));
            (world, Box::new(move |_| move_mount(&from, &at)))
        }),
        case!("move of a shared tree to peers and slaves", {
            let world = related_trees();
            world.set_type(0, "/", Private);
            let (from, at) = (world.mount_at(0, "/b"), world.at(0, "/a/c"));
            (world, Box::new(move |_| move_mount(&from, &at)))
        }),
        case!("move beneath, private", {
            let mut world = World::new();
            world.mount(0, &["/a", "/a/b", "/b", "/b/c"]);
            let (from, at) = (world.mount_at(0, "/b"), world.at(0, "/a/b"));
            (world, Box::new(move |_| move_beneath(&from, &at)))
        }),
        case!("move beneath, to peers and slaves", {
            let mut world = related();
            world.mount(0, &["/a/c"]);
            let world = with_private_tree(world);
            let (from, at) = (world.mount_at(0, "/f"), world.at(0, "/a/c"));
            (world, Box::new(move |_| move_beneath(&from, &at)))
        }),
        case!("open_tree of a shared tree", {
            let world = related_trees();
            let from = world.at(0, "/b");
            (world, Box::new(move |w| open_tree(&w.namespaces[0], &from)))
        }),
        case!("attach of a detached tree, private", {
            let mut world = World::new();
            world.mount(0, &["/a", "/a/a", "/a/b"]);
            let made = open_tree(&world.namespaces[0], &world.at(0, "/a")).unwrap();
            world.keep(made);
            let (from, at) = (world.mount_at(1, "/"), world.at(0, "/b"));
            (world, Box::new(move |_| move_mount(&from, &at)))
        }),
        case!("attach of a detached tree to peers and slaves", {
            let mut world = related_trees();
            let made = open_tree(&world.namespaces[0], &world.at(0, "/b")).unwrap();
            world.keep(made);
            let (from, at) = (world.mount_at(world.namespaces.len() - 1, "/"), world.at(0, "/a/c"));
            (world, Box::new(move |_| move_mount(&from, &at)))
        }),
        case!("umount, private", {
            let mut world = World::new();
            world.mount(0, &["/a"]);
            let mount = world.mount_at(0, "/a");
            (world, Box::new(move |w| umount_now(&w.namespaces[0], &mount)))
        }),
        case!("umount of the last mount of a file system", {
            let mut world = World::new();
            let disk = tmpfs_that_only_its_mount_holds(&mut world);
            (world, Box::new(move |w| umount_now(&w.namespaces[0], &disk)))
        }),
        case!("umount at peers and slaves", {
            let mut world = related();
            world.mount(0, &["/a/c"]);
            let mount = world.mount_at(0, "/a/c");
            (world, Box::new(move |w| umount_now(&w.namespaces[0], &mount)))
        }),
        case!("umount of a master, whose slaves go to a peer", {
            let mut world = World::new();
            world.mount(0, &["/a", "/a/a"]);
            world.set_type(0, "/a", Shared);
            world.bind(0, "/a", "/b");
            for path in ["/c", "/d", "/e", "/f"] {
                world.bind(0, "/a", path);
                world.set_type(0, path, Slave);
            }
            let mount = world.mount_at(0, "/b");
            world.set_type(0, "/c", Shared);
            (world, Box::new(move |w| umount_lazily(&w.namespaces[0], &mount)))
        }),
        case!("umount of the last of a group, whose slaves go up", {
            let mut world = World::new();
            world.mount(0, &["/a"]);
            world.set_type(0, "/a", Shared);
            world.bind(0, "/a", "/b");
            world.set_type(0, "/b", Slave);
            world.set_type(0, "/b", Shared);
            for path in ["/c", "/d", "/e", "/f"] {
                world.bind(0, "/b", path);
                world.set_type(0, path, Slave);
            }
            let mount = world.mount_at(0, "/b");
            (world, Box::new(move |w| umount_now(&w.namespaces[0], &mount)))
        }),
        case!("umount, what is on top slides down", {
            let mut world = related();
            world.mount(0, &["/a/c"]);
            let last = world.namespaces.len() - 1;
            world.mount(last, &["/a/c"]);
            world.mount(2, &["/a/c"]);
            let below = world.mount_at(0, "/a/c");
            let mount = world.parent(0, &below);
            (world, Box::new(move |w| umount_lazily(&w.namespaces[0], &mount)))
        }),
        case!("lazy umount of a tree in use", {
            let mut world = related_trees();
            world.open(0, "/b/a/c");
            world.open(1, "/b/b");
            let mount = world.mount_at(0, "/b");
            (world, Box::new(move |w| umount_lazily(&w.namespaces[0], &mount)))
        }),
        case!("lazy umount of peers on each other, and of mounts side by side, with slaves", {
            let mut world = related();
            world.mount(0, &["/c"]);
            world.mount(0, &["/c/a", "/c/b"]);
            world.bind(0, "/c/d", "/c/d");
            world.bind(0, "/c/d", "/c/d");
            world.copy(0, UserNs::INITIAL.child(1000).unwrap());
            let mount = world.mount_at(0, "/c");
            (world, Box::new(move |w| umount_lazily(&w.namespaces[0], &mount)))
        }),
        case!("lazy umount of a tree with locked mounts in use", {
            let mut world = related_trees();
            world.lock(0, "/b/a");
            world.lock(0, "/b/a/c");
            world.lock(3, "/b/a");
            world.open(0, "/b");
            world.open(3, "/b");
            let mount = world.mount_at(0, "/b");
            (world, Box::new(move |w| umount_lazily(&w.namespaces[0], &mount)))
        }),
        case!("the last put of a detached mount, with what is connected to it", {
            let mut world = related_trees();
            world.lock(0, "/b/a");
            world.lock(0, "/b/b");
            world.lock(0, "/b/a/c");
            world.open(0, "/b");
            umount_lazily(&world.namespaces[0], &world.mount_at(0, "/b")).unwrap();
            let file = world.close();
            (
                world,
                Box::new(move |_| {
                    drop(file);
                    Ok(Made::Nothing)
                }),
            )
        }),
        case!("removal of a directory that others mount on", {
            let mut world = related_trees();
            world.open(0, "/b/a/c");
            let dentry = world.mountpoint(0, "/b");
            (world, Box::new(move |w| umount_from(&w.namespaces[1], &dentry)))
        }),
        case!("pivot_root", {
            let mut world = World::new();
            world.pivotable();
            let (root, new, old) = (world.at(0, "/"), world.at(0, "/a"), world.at(0, "/a/b"));
            (world, Box::new(move |w| pivot(&w.namespaces[0], &root, &new, &old)))
        }),
        case!("make-rshared", {
            let world = with_private_tree(related());
            let mount = world.mount_at(0, "/");
            (world, Box::new(move |w| set_type(&w.namespaces[0], &mount, Shared, true)))
        }),
        case!("make-rslave of peers of each other", {
            let world = related_trees();
            world.bind(0, "/b", "/c");
            world.bind(0, "/b", "/e");
            world.bind(3, "/b", "/a/e");
            let mount = world.mount_at(0, "/");
            (world, Box::new(move |w| set_type(&w.namespaces[0], &mount, Slave, true)))
        }),
        case!("make-rprivate of masters and slaves", {
            let mut world = related_trees();
            world.bind(3, "/b", "/c");
            world.bind(3, "/b", "/e");
            let last = world.copy(3, UserNs::INITIAL);
            world.set_types(last, "/", Slave);
            let mount = world.mount_at(3, "/");
            (world, Box::new(move |w| set_type(&w.namespaces[3], &mount, Private, true)))
        }),
        case!("make-unbindable of a master", {
            let world = related();
            let mount = world.mount_at(0, "/a");
            (world, Box::new(move |w| set_type(&w.namespaces[0], &mount, Unbindable, false)))
        }),
        case!("move_mount with MOVE_MOUNT_SET_GROUP", {
            let world = related();
            world.set_type(3, "/", Private);
            world.bind(3, "/a", "/f");
            world.set_type(3, "/f", Private);
            let (from, to) = (world.mount_at(3, "/a"), world.mount_at(3, "/f"));
            (world, Box::new(move |w| join(&w.namespaces[3], &from, &to)))
        }),
        case!("copy of a namespace, private", {
            let mut world = World::new();
            world.mount(0, &["/a", "/a/a", "/b"]);
            (world, Box::new(move |w| copy_namespace(&w.namespaces[0], &UserNs::INITIAL)))
        }),
        case!("copy of a namespace, shared and slaves", {
            let world = related_trees();
            (world, Box::new(move |w| copy_namespace(&w.namespaces[3], &UserNs::INITIAL)))
        }),
        case!("copy of a namespace for another owner", {
            let world = related_trees();
            let owner = UserNs::INITIAL.child(1000).unwrap();
            (world, Box::new(move |w| copy_namespace(&w.namespaces[3], &owner)))
        }),
        case!("the end of a namespace", {
            let world = related_trees();
            (world, Box::new(move |w| end_namespace(&w.namespaces[3])))
        }),
        case!("the end of a detached tree in use", {
            let mut world = related_trees();
            let made = open_tree(&world.namespaces[0], &world.at(0, "/b")).unwrap();
            world.keep(made);
            let last = world.namespaces.len() - 1;
            world.open(last, "/a");
            (world, Box::new(move |w| end_namespace(&w.namespaces[last])))
        }),
        case!("chdir to a root", {
            let mut world = World::new();
            world.mount(0, &["/a"]);
            let at = keep(&world.at(0, "/a"));
            (world, Box::new(move |w| placed(w.tasks[0].set_cwd(&at))))
        }),
        case!("chroot to a directory", {
            let mut world = World::new();
            world.mount(0, &["/a"]);
            let at = keep(&world.at(0, "/a/b"));
            (world, Box::new(move |w| placed(w.tasks[0].set_root(&at))))
        }),
        case!("fork", {
            let mut world = World::new();
            world.mount(0, &["/a"]);
            placed(world.tasks[0].set_cwd(&keep(&world.at(0, "/a/b")))).unwrap();
            (world, Box::new(move |w| Ok(Made::Task(w.tasks[0].fork()?))))
        }),
        case!("a reference", {
            let world = related();
            let at = world.mount_at(0, "/a");
            (
                world,
                Box::new(move |_| {
                    let kept = at.keep(&mnt_table::pin());
                    kept.map(Made::File).map_err(|_| Error::Busy)
                }),
            )
        }),
    ]
}

fn tmpfs_that_only_its_mount_holds(world: &mut World) -> crate::world::Mnt {
    world.mount(0, &["/a"]);
    world.release_last_disk();
    world.mount_at(0, "/a")
}
