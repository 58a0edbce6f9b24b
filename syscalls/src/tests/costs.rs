//! How costs grow: what calls look at ([`mnt_table::visits`]), with some mounts and with four times as many. No clock.

extern crate std;

use alloc::string::String;
use alloc::vec::Vec;

use linux_raw_sys::general as abi;
use mnt_table::walk::{Last, walk};
use mnt_table::{Kind, LockPlan, MntNamespace, NamespaceSpec, UserNs, visits};
use propagate::copy_tree::clone_namespace;
use propagate::with_locks;

use super::kernel::TestKernel;
use crate::mounts_file::{Format, MountsFile};
use crate::user_memory::PAGE_SIZE;
use crate::{Errno, Kernel};

/// How many times the work four times the mounts may be: how full the hash is matters a little.
const LINEAR: f64 = 5.0;

/// Doublings of the smaller world.
const FEW: u32 = 6;

const BIND: u32 = abi::MS_BIND;
const REC: u32 = abi::MS_REC;

struct World(TestKernel);

impl World {
    /// With a file system on `/a`.
    fn new() -> Self {
        let world = World(TestKernel::new());
        world.tmpfs("/a");
        world
    }

    fn tmpfs(&self, path: &str) {
        self.0.forget_memory();
        self.0.mount(path).unwrap();
    }

    fn try_mount(&self, source: &str, target: &str, flags: u32) -> Result<usize, Errno> {
        self.0.forget_memory();
        let (source, target) = (self.0.text(source), self.0.text(target));
        self.0.call(abi::__NR_mount, &[source, target, 0, flags as usize, 0])
    }

    fn mount(&self, source: &str, target: &str, flags: u32) {
        self.try_mount(source, target, flags).unwrap();
    }

    fn make(&self, path: &str, to: u32) {
        self.mount("", path, to);
    }

    fn detach(&self, path: &str) {
        self.0.forget_memory();
        let path = self.0.text(path);
        self.0.call(abi::__NR_umount2, &[path, abi::MNT_DETACH as usize]).unwrap();
    }

    /// On the directory `a` of `/a` a stack of peers: a bind of a shared directory on itself is received by all the peers
    /// that there are, so each one doubles them.
    fn stack(doublings: u32) -> Self {
        let world = World::new();
        world.mount("/a/a", "/a/a", BIND);
        world.make("/a/a", abi::MS_SHARED);
        (0..doublings).for_each(|_| world.mount("/a/a", "/a/a", BIND));
        world
    }

    /// On `/a/a` a shared file system, on `/a/b` its slave, which is shared too, and on `/b` a slave of that; and in each of
    /// them, on `a`, a stack as above.
    fn stacks_of_slaves(doublings: u32) -> Self {
        let world = World::new();
        world.tmpfs("/a/a");
        world.make("/a/a", abi::MS_SHARED);
        for (from, to) in [("/a/a", "/a/b"), ("/a/b", "/b")] {
            world.mount(from, to, BIND);
            world.make(to, abi::MS_SLAVE);
            world.make("/a/b", abi::MS_SHARED);
        }
        (0..doublings).for_each(|_| world.mount("/a/a/a", "/a/a/a", BIND));
        world
    }

    /// On `/a` a shared file system, on its directory another one, and so on.
    fn nested(doublings: u32) -> Self {
        let world = World::new();
        world.make("/a", abi::MS_SHARED);
        let mut path = String::from("/a");
        (0..1 << doublings).for_each(|_| {
            path.push_str("/a");
            world.tmpfs(&path);
        });
        world
    }

    /// On `/a/a` many mounts one on the other.
    fn pile(doublings: u32) -> Self {
        let world = World::new();
        (0..1 << doublings).for_each(|_| world.tmpfs("/a/a"));
        world
    }

    /// On `/a/a` many mounts side by side; on `/a/b` slaves of theirs, and on `/b` slaves of those.
    fn slaves_of_slaves(doublings: u32) -> Self {
        let world = World::new();
        world.tmpfs("/a/a");
        world.make("/a/a", abi::MS_SHARED);
        let top = walk(&world.0.task().fs(), b"/a/a", Last::Follow).unwrap().dentry;
        for at in 0..8 << doublings {
            let name = alloc::format!("{at}");
            top.mkdir(name.as_bytes()).unwrap();
            world.tmpfs(&alloc::format!("/a/a/{name}"));
        }
        for (from, to) in [("/a/a", "/a/b"), ("/a/b", "/b")] {
            world.mount(from, to, BIND | REC);
            world.make(to, REC | abi::MS_SLAVE);
            world.make("/a/b", REC | abi::MS_SHARED);
        }
        world
    }

    /// On `/a/a` many peers side by side, of which each is a copy of the one before it: so the ring is in their order.
    fn row(doublings: u32) -> Self {
        let world = World::new();
        world.tmpfs("/a/a");
        let top = walk(&world.0.task().fs(), b"/a/a", Last::Follow).unwrap().dentry;
        let path = |at: u32| alloc::format!("/a/a/{at}");
        for at in 0..1 << doublings {
            top.mkdir(alloc::format!("{at}").as_bytes()).unwrap();
            if at == 0 {
                world.tmpfs(&path(0));
                world.make(&path(0), abi::MS_SHARED);
            } else {
                world.mount(&path(at - 1), &path(at), BIND);
            }
        }
        world
    }

    /// On `/a/a` a file system with many mounts side by side, which became shared later; and on the directories of `/b` as many
    /// peers of it, with nothing on them.
    fn bare_peers(doublings: u32) -> Self {
        let world = World::new();
        world.tmpfs("/a/a");
        world.tmpfs("/b");
        for at in 0..1 << doublings {
            for top in ["/a/a", "/b"] {
                let top = walk(&world.0.task().fs(), top.as_bytes(), Last::Follow).unwrap().dentry;
                top.mkdir(alloc::format!("{at}").as_bytes()).unwrap();
            }
            world.tmpfs(&alloc::format!("/a/a/{at}"));
        }
        world.make("/a/a", abi::MS_SHARED);
        (0..1 << doublings).for_each(|at| world.mount("/a/a", &alloc::format!("/b/{at}"), BIND));
        world
    }

    fn copied_row(doublings: u32) -> Self {
        World::copied(World::row(doublings))
    }

    /// Reads all of mountinfo, a page at a time; returns how many lines name another group that the mount receives from.
    fn read_mountinfo(&self) -> usize {
        let file = MountsFile::open(self.0.task(), Format::Mountinfo);
        let (mut text, mut page) = (Vec::new(), [0; PAGE_SIZE]);
        loop {
            match file.read(&self.0, &mut page).unwrap() {
                0 => break,
                count => text.extend_from_slice(&page[..count]),
            }
        }
        String::from_utf8(text).unwrap().matches("propagate_from:").count()
    }

    /// As `world`, and everything has a slave in a namespace of somebody with less privilege.
    fn copied(world: Self) -> Self {
        let from = world.0.task().namespace();
        let mut spec = NamespaceSpec::new(Kind::Ordinary);
        spec.owner = UserNs::INITIAL.child(0).unwrap();
        let to = MntNamespace::from_spec(spec).unwrap();
        let copies = with_locks(LockPlan::new(&from), |locks| {
            locks.add_new(&to);
            clone_namespace(locks, &from, &to)
        });
        assert!(copies.is_ok_and(|copies| copies.len() > 1 << FEW));
        world
    }

    fn copied_stack(doublings: u32) -> Self {
        World::copied(World::stack(doublings))
    }

    fn copied_nested(doublings: u32) -> Self {
        World::copied(World::nested(doublings))
    }
}

/// Compares what `work` looks at in a world and in one of four times the size.
fn is_linear(what: &str, world: fn(u32) -> World, work: fn(&World)) {
    let [few, many] = [FEW, FEW + 2].map(|doublings| {
        let world = world(doublings);
        visits::of(|| work(&world))
    });
    let ratio = many as f64 / few as f64;
    std::println!("{what}: {few} visits, with four times the mounts {many}: {ratio:.2} times");
    assert!(ratio <= LINEAR, "{what}: {few} visits, with four times the mounts {many}: {ratio:.2} times");
}

#[test]
fn a_mount_costs_what_it_makes() {
    is_linear("on a stack", World::stack, |world| world.mount("/a/a", "/a/a", BIND));
    is_linear("with slaves", World::stacks_of_slaves, |world| world.mount("/a/a/a", "/a/a/a", BIND));
    is_linear("with a copy", World::copied_stack, |world| world.mount("/a/a", "/a/a", BIND));
    is_linear("beside a stack", World::stack, |world| world.tmpfs("/a/b"));
}

#[test]
fn mountinfo_costs_the_same_for_each_line() {
    is_linear("slaves of slaves", World::slaves_of_slaves, |world| {
        // The group of their masters' masters is not the nearest that the reader sees.
        assert_eq!(world.read_mountinfo(), 0);
    });
    let read = |world: &World| {
        world.read_mountinfo();
    };
    is_linear("one on the other", World::pile, read);
    is_linear("one in the other", World::nested, read);
    is_linear("a stack", World::stack, read);
}

#[test]
fn an_umount_costs_what_goes() {
    is_linear("all of a stack", World::stack, |world| world.detach("/a"));
    is_linear("half of a stack", World::stack, |world| world.detach("/a/a"));
    is_linear("with slaves", World::stacks_of_slaves, |world| world.detach("/a"));
    is_linear("masters only", World::stacks_of_slaves, |world| world.detach("/a/a"));
    is_linear("slaves first", World::stacks_of_slaves, |world| {
        ["/b", "/a/b", "/a/a"].into_iter().for_each(|path| world.detach(path));
    });
    is_linear("nested", World::nested, |world| world.detach("/a"));
    is_linear("with bare peers", World::bare_peers, |world| world.detach("/a/a"));
}

#[test]
fn an_umount_costs_what_goes_along_in_other_namespaces() {
    is_linear("all of a stack", World::copied_stack, |world| world.detach("/a"));
    is_linear("half of a stack", World::copied_stack, |world| world.detach("/a/a"));
    is_linear("nested", World::copied_nested, |world| world.detach("/a/a"));
}

#[test]
fn what_a_lock_keeps_from_going_along_costs_no_more_in_a_long_chain() {
    is_linear("nested", World::copied_nested, |world| world.detach("/a"));
}

#[test]
fn a_change_of_types_costs_what_it_changes() {
    is_linear("private", World::stack, |world| world.make("/a", REC | abi::MS_PRIVATE));
    is_linear("slave", World::stack, |world| world.make("/a", REC | abi::MS_SLAVE));
    for (what, world) in [("a row", World::row as fn(u32) -> World), ("a row with a copy", World::copied_row)]
    {
        is_linear(what, world, |world| world.make("/a", REC | abi::MS_PRIVATE));
        is_linear(what, world, |world| world.make("/a", REC | abi::MS_SLAVE));
    }
    is_linear("private, with slaves", World::stacks_of_slaves, |world| {
        world.make("/a", REC | abi::MS_PRIVATE)
    });
    is_linear("slave, with slaves", World::stacks_of_slaves, |world| world.make("/a", REC | abi::MS_SLAVE));
    is_linear("private, with a copy", World::copied_stack, |world| world.make("/a", REC | abi::MS_PRIVATE));
    is_linear("slave, with a copy", World::copied_stack, |world| world.make("/a", REC | abi::MS_SLAVE));
    is_linear("shared", World::nested, |world| world.make("/a", REC | abi::MS_SHARED));
}

#[test]
fn a_copy_or_a_move_costs_what_it_takes() {
    is_linear("a copy", World::stack, |world| world.mount("/a", "/b", BIND | REC));
    is_linear("a copy, and its end", World::stack, |world| {
        world.mount("/a", "/b", BIND | REC);
        world.detach("/b");
    });
    is_linear("a move", World::stack, |world| world.mount("/a", "/b", abi::MS_MOVE));
    is_linear("a namespace", World::stack, |world| {
        world.0.call(abi::__NR_unshare, &[abi::CLONE_NEWNS as usize]).unwrap();
    });
}
