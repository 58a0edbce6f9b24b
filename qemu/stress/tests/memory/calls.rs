//! System calls, from their arguments in user memory to their end, and changes of directories.

use std::sync::{Arc, Weak};

use linux_raw_sys::general as abi;
use linux_raw_sys::general::fsconfig_command as config;
use mnt_table::user_ns::{IdMaps, IdRange};
use mnt_table::walk::{Last, WalkError, walk};
use mnt_table::{Dentry, Mount, PathRef, UserNs, pin};
use syscalls::entry::detach_elsewhere;
use syscalls::file::{NamespaceRef, Object};
use syscalls::listing::mountinfo;
use syscalls::mounts_file::{Format, MountsFile};
use syscalls::namespaces::clone;
use syscalls::nsfs::nsfs_ioctl;
use syscalls::{Errno, File};
use tmpfs::{FsError, Handle, TmpDentry};

use crate::kernel::{HERE, Machine, Process};

/// A call with its arguments in place.
pub(crate) type Call = Box<dyn FnOnce(&World) -> Result<usize, Errno>>;

/// A setting, and the call that is made in it.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) build: fn() -> (World, Call),
}

/// Processes in some namespaces.
pub(crate) struct World {
    pub(crate) processes: Vec<Process>,
}

impl World {
    /// Process 0 with mounts on `/a` and `/a/b` that are shared with process 1 and received by process 2.
    fn related() -> Self {
        let first = Machine::start();
        let world = World { processes: vec![first] };
        world.mount("/a");
        world.mount("/a/b");
        world.make("/", abi::MS_SHARED | abi::MS_REC);
        let mut world = world;
        for _ in 0..2 {
            let next = world.processes[0].fork();
            next.call(abi::__NR_unshare, &[abi::CLONE_NEWNS as usize]).unwrap();
            world.processes.push(next);
        }
        let slave = &world.processes[2];
        let root = slave.text("/");
        slave.call(abi::__NR_mount, &[0, root, 0, (abi::MS_SLAVE | abi::MS_REC) as usize]).unwrap();
        world.forget();
        world
    }

    /// Process 0 alone, with private mounts on `/a` and `/a/b`.
    fn alone() -> Self {
        let world = World { processes: vec![Machine::start()] };
        world.mount("/a");
        world.mount("/a/b");
        world.forget();
        world
    }

    fn first(&self) -> &Process {
        &self.processes[0]
    }

    fn forget(&self) {
        self.processes.iter().for_each(Process::forget);
    }

    fn mount(&self, path: &str) {
        let process = self.first();
        let (path, fs_type) = (process.text(path), process.text("tmpfs"));
        process.call(abi::__NR_mount, &[0, path, fs_type]).unwrap();
    }

    fn make(&self, path: &str, to: u32) {
        let process = self.first();
        let path = process.text(path);
        process.call(abi::__NR_mount, &[0, path, 0, to as usize]).unwrap();
    }

    /// Makes a call of process 0 that has to succeed.
    fn call(&self, nr: u32, args: &[usize]) -> usize {
        self.first().call(nr, args).unwrap()
    }

    fn text(&self, text: &str) -> usize {
        self.first().text(text)
    }

    fn place(&self, path: &str) -> PathRef<TmpDentry> {
        walk(&self.first().task.fs(), path.as_bytes(), Last::Follow).unwrap()
    }

    fn dir(&self, path: &str) -> Arc<TmpDentry> {
        self.place(path).dentry
    }

    /// A descriptor of a copy of the tree at `path`.
    fn tree(&self, path: &str) -> usize {
        let flags = abi::OPEN_TREE_CLONE | abi::AT_RECURSIVE;
        self.call(abi::__NR_open_tree, &[HERE, self.text(path), flags as usize])
    }

    /// A descriptor of a context with an instance.
    fn context(&self) -> usize {
        let fd = self.call(abi::__NR_fsopen, &[self.text("tmpfs"), 0]);
        self.call(abi::__NR_fsconfig, &[fd, config::FSCONFIG_CMD_CREATE as usize]);
        fd
    }

    /// A descriptor of a user namespace that maps every id to another one.
    fn user_ns(&self) -> usize {
        let ns = UserNs::INITIAL.child(0).unwrap();
        let map = || Arc::from([IdRange { inside: 0, outside: 1000, count: 1000 }]);
        ns.set_maps(IdMaps { uids: map(), gids: map() });
        self.first().open(File::new(None, Object::UserNamespace(ns)))
    }

    /// All that can be seen, in numbers that are the same in every world that was made alike.
    pub(crate) fn view(&self) -> String {
        let mut out = String::new();
        for (number, process) in self.processes.iter().enumerate() {
            let fs = process.task.fs();
            let place = |(mount, dentry): (Arc<Mount<TmpDentry>>, Arc<TmpDentry>)| (mount.id(), dentry.id());
            let credentials = process.task.credentials();
            out += &format!(
                "process {number}: root {:?}, at {:?}, alone there {}, descriptors {:?}, user namespace {}\n",
                place(fs.root()),
                place(fs.cwd()),
                !process.task.shares_fs(),
                process.descriptors(),
                credentials.user_ns.level(),
            );
            for line in mountinfo(&process.task, process).unwrap() {
                out += &format!("  {line}\n");
            }
            tree(fs.root().0.root(), 1, &mut out);
        }
        out
    }
}

/// The names below `dentry`.
fn tree(dentry: &Arc<TmpDentry>, depth: usize, out: &mut String) {
    let mut entries = dentry.entries().unwrap_or_default();
    entries.sort_by(|a, b| a.0.cmp(&b.0));
    for (name, child) in entries {
        let name = String::from_utf8_lossy(&name[..name.len().min(20)]).into_owned();
        *out += &format!("{:depth$}{name} {child:?} {}\n", "", child.mounted_here().is_mountpoint());
        tree(&child, depth + 1, out);
    }
}

fn fs(result: Result<impl Sized, FsError>) -> Result<usize, Errno> {
    match result {
        Ok(_) => Ok(0),
        Err(FsError::NoMemory) => Err(Errno::ENOMEM),
        Err(error) => panic!("{error:?}"),
    }
}

/// A link to a place, which it does not keep.
struct Link(Weak<Mount<TmpDentry>>, Weak<TmpDentry>);

impl Handle for Link {
    fn follow(&self) -> Option<Result<PathRef<TmpDentry>, WalkError>> {
        let (mount, dentry) = (self.0.upgrade()?, self.1.upgrade()?);
        let kept = mount.keep(&pin());
        Some(kept.map(|mount| PathRef { mount, dentry }).map_err(|unkept| {
            unkept.settle();
            WalkError::NotFound
        }))
    }

    fn is_link(&self) -> bool {
        true
    }
}

macro_rules! case {
    ($name:literal, $world:expr, |$w:ident| $arguments:expr, $nr:ident) => {
        Case {
            name: $name,
            build: || {
                let $w = $world;
                let arguments: Vec<usize> =
                    $arguments.into_iter().map(|argument| argument as usize).collect();
                ($w, Box::new(move |w| w.first().call(abi::$nr, &arguments)))
            },
        }
    };
    ($name:literal, $world:expr, |$w:ident| $ready:expr, $then:expr) => {
        Case {
            name: $name,
            build: || {
                let $w = $world;
                let ready = $ready;
                let then = $then;
                ($w, Box::new(move |w| then(w, ready)))
            },
        }
    };
}

/// statmount(2) and listmount(2) want to know about `/a`.
fn query(w: &World, param: u64) -> usize {
    let id = w.place("/a").mount.unique_id();
    w.first().words(&[32, id, param, 0])
}

fn attributes(w: &World, set: u32, propagation: u32, fd: usize) -> usize {
    w.first().words(&[set.into(), 0, propagation.into(), fd as u64])
}

pub(crate) fn cases() -> Vec<Case> {
    let mut all = mounts();
    all.extend(descriptors());
    all.extend(questions());
    all.extend(tasks());
    all.extend(directories());
    all
}

fn mounts() -> Vec<Case> {
    vec![
        case!(
            "mount(2) of a new file system",
            World::related(),
            |w| [w.text("source"), w.text("/a/a"), w.text("tmpfs.sub"), 0, w.text("dev=77")],
            __NR_mount
        ),
        case!(
            "mount(2) with a long source",
            World::alone(),
            |w| [w.text(&"s".repeat(4090)), w.text("/b"), w.text("tmpfs")],
            __NR_mount
        ),
        case!(
            "mount(2), MS_BIND | MS_REC",
            World::related(),
            |w| [w.text("/a"), w.text("/b"), 0, (abi::MS_BIND | abi::MS_REC) as usize],
            __NR_mount
        ),
        case!(
            "mount(2), MS_BIND | MS_REMOUNT",
            World::alone(),
            |w| [0, w.text("/a"), 0, (abi::MS_BIND | abi::MS_REMOUNT | abi::MS_RDONLY) as usize],
            __NR_mount
        ),
        case!(
            "mount(2), MS_REMOUNT",
            World::alone(),
            |w| [0, w.text("/a"), 0, (abi::MS_REMOUNT | abi::MS_RDONLY) as usize, w.text("dev=5,file")],
            __NR_mount
        ),
        case!(
            "mount(2), MS_SLAVE | MS_REC",
            World::related(),
            |w| [0, w.text("/"), 0, (abi::MS_SLAVE | abi::MS_REC) as usize],
            __NR_mount
        ),
        case!(
            "mount(2), MS_MOVE",
            World::alone(),
            |w| [w.text("/a"), w.text("/b"), 0, abi::MS_MOVE as usize],
            __NR_mount
        ),
        case!("umount2(2)", World::related(), |w| [w.text("/a/b"), 0], __NR_umount2),
        case!(
            "umount2(2), MNT_DETACH",
            World::related(),
            |w| [w.text("/a"), abi::MNT_DETACH as usize],
            __NR_umount2
        ),
        case!(
            "pivot_root(2)",
            {
                let w = World::alone();
                w.mount("/b");
                w
            },
            |w| [w.text("/b"), w.text("/b/a")],
            __NR_pivot_root
        ),
        case!(
            "mount_setattr(2), recursive",
            World::related(),
            |w| {
                let flags = abi::AT_RECURSIVE as usize;
                let attr = attributes(&w, abi::MOUNT_ATTR_RDONLY, abi::MS_PRIVATE, 0);
                [HERE, w.text("/a"), flags, attr, 32]
            },
            __NR_mount_setattr
        ),
        case!(
            "mount_setattr(2), a map of ids",
            World::alone(),
            |w| {
                let (tree, ns) = (w.tree("/a"), w.user_ns());
                let flags = (abi::AT_RECURSIVE | abi::AT_EMPTY_PATH) as usize;
                [tree, w.text(""), flags, attributes(&w, abi::MOUNT_ATTR_IDMAP, 0, ns), 32]
            },
            __NR_mount_setattr
        ),
    ]
}

fn descriptors() -> Vec<Case> {
    vec![
        case!("fsopen(2)", World::alone(), |w| [w.text("tmpfs"), 0], __NR_fsopen),
        case!(
            "fsconfig(2), FSCONFIG_SET_STRING of the source",
            World::alone(),
            |w| {
                let fd = w.call(abi::__NR_fsopen, &[w.text("tmpfs"), 0]);
                [fd, config::FSCONFIG_SET_STRING as usize, w.text("source"), w.text(&"s".repeat(200)), 0]
            },
            __NR_fsconfig
        ),
        case!(
            "fsconfig(2), FSCONFIG_SET_BINARY",
            World::alone(),
            |w| {
                let fd = w.call(abi::__NR_fsopen, &[w.text("tmpfs"), 0]);
                [fd, config::FSCONFIG_SET_BINARY as usize, w.text("blob"), w.text("1234567"), 7]
            },
            __NR_fsconfig
        ),
        case!(
            "fsconfig(2), FSCONFIG_SET_PATH",
            World::alone(),
            |w| {
                let fd = w.call(abi::__NR_fsopen, &[w.text("tmpfs"), 0]);
                [fd, config::FSCONFIG_SET_PATH as usize, w.text("path"), w.text("/a/b"), HERE]
            },
            __NR_fsconfig
        ),
        case!(
            "fsconfig(2), FSCONFIG_CMD_CREATE",
            World::alone(),
            |w| {
                let fd = w.call(abi::__NR_fsopen, &[w.text("tmpfs"), 0]);
                [fd, config::FSCONFIG_CMD_CREATE as usize, 0, 0, 0]
            },
            __NR_fsconfig
        ),
        case!(
            "fsconfig(2), FSCONFIG_CMD_RECONFIGURE",
            World::alone(),
            |w| {
                let fd = w.call(abi::__NR_fspick, &[HERE, w.text("/a"), 0]);
                [fd, config::FSCONFIG_CMD_RECONFIGURE as usize, 0, 0, 0]
            },
            __NR_fsconfig
        ),
        case!("fspick(2)", World::alone(), |w| [HERE, w.text("/a"), 0], __NR_fspick),
        case!(
            "fsmount(2)",
            World::alone(),
            |w| [w.context(), 0, abi::MOUNT_ATTR_NODEV as usize],
            __NR_fsmount
        ),
        case!("open_tree(2) of a place", World::alone(), |w| [HERE, w.text("/a/b"), 0], __NR_open_tree),
        case!(
            "open_tree(2), OPEN_TREE_CLONE | AT_RECURSIVE",
            World::related(),
            |w| [HERE, w.text("/a"), (abi::OPEN_TREE_CLONE | abi::AT_RECURSIVE) as usize],
            __NR_open_tree
        ),
        case!(
            "open_tree_attr(2)",
            World::related(),
            |w| {
                let flags = (abi::OPEN_TREE_CLONE | abi::AT_RECURSIVE) as usize;
                let attr = attributes(&w, abi::MOUNT_ATTR_IDMAP | abi::MOUNT_ATTR_NODEV, 0, w.user_ns());
                [HERE, w.text("/a"), flags, attr, 32]
            },
            __NR_open_tree_attr
        ),
        case!(
            "move_mount(2) of a detached tree",
            World::related(),
            |w| [w.tree("/a"), w.text(""), HERE, w.text("/b"), abi::MOVE_MOUNT_F_EMPTY_PATH as usize],
            __NR_move_mount
        ),
        case!(
            "move_mount(2), MOVE_MOUNT_BENEATH",
            World::related(),
            |w| {
                let flags = (abi::MOVE_MOUNT_F_EMPTY_PATH | abi::MOVE_MOUNT_BENEATH) as usize;
                [w.tree("/a/b"), w.text(""), HERE, w.text("/a"), flags]
            },
            __NR_move_mount
        ),
        case!(
            "move_mount(2), MOVE_MOUNT_SET_GROUP",
            World::related(),
            |w| {
                w.make("/", abi::MS_PRIVATE);
                let bind = abi::MS_BIND as usize;
                w.call(abi::__NR_mount, &[w.text("/a"), w.text("/b"), 0, bind]);
                w.make("/b", abi::MS_PRIVATE);
                [HERE, w.text("/a"), HERE, w.text("/b"), abi::MOVE_MOUNT_SET_GROUP as usize]
            },
            __NR_move_mount
        ),
        case!("the close of a detached tree", World::related(), |w| w.tree("/a"), |w: &World, fd| {
            Ok(usize::from(w.first().close(fd)))
        }),
    ]
}

fn questions() -> Vec<Case> {
    /// What is read of an open file of mounts, in two pieces.
    fn read(w: &World, file: &MountsFile<TmpDentry>) -> Result<usize, Errno> {
        let mut buffer = [0; 100];
        let first = file.read(w.first(), &mut buffer)?;
        let mut rest = [0; 8000];
        Ok(first + file.read(w.first(), &mut rest)?)
    }
    vec![
        case!(
            "statmount(2)",
            World::related(),
            |w| {
                let everything = 0xffff_ffff;
                [query(&w, everything), w.first().put(&[0; 4096]), 4096, 0]
            },
            __NR_statmount
        ),
        case!(
            "statmount(2) of a mount with a map of ids",
            {
                let w = World::alone();
                let (tree, ns) = (w.tree("/a"), w.user_ns());
                let flags = (abi::AT_RECURSIVE | abi::AT_EMPTY_PATH) as usize;
                let attr = attributes(&w, abi::MOUNT_ATTR_IDMAP, 0, ns);
                w.call(abi::__NR_mount_setattr, &[tree, w.text(""), flags, attr, 32]);
                let flags = abi::MOVE_MOUNT_F_EMPTY_PATH as usize;
                w.call(abi::__NR_move_mount, &[tree, w.text(""), HERE, w.text("/a"), flags]);
                w
            },
            |w| {
                let maps = abi::STATMOUNT_MNT_UIDMAP | abi::STATMOUNT_MNT_GIDMAP;
                [query(&w, maps.into()), w.first().put(&[0; 4096]), 4096, 0]
            },
            __NR_statmount
        ),
        case!(
            "listmount(2)",
            World::related(),
            |w| {
                let all = w.first().words(&[32, abi::LSMT_ROOT as i64 as u64, 0, 0]);
                [all, w.first().put(&[0; 400]), 50, 0]
            },
            __NR_listmount
        ),
        case!(
            "listmount(2), LISTMOUNT_REVERSE",
            World::related(),
            |w| {
                let all = w.first().words(&[32, abi::LSMT_ROOT as i64 as u64, 0, 0]);
                [all, w.first().put(&[0; 400]), 50, abi::LISTMOUNT_REVERSE as usize]
            },
            __NR_listmount
        ),
        case!("/proc/PID/mountinfo at once", World::related(), |w| (), |w: &World, ()| {
            Ok(mountinfo(&w.processes[2].task, w.first())?.len())
        }),
        case!(
            "read(2) of /proc/PID/mountinfo",
            World::related(),
            |w| MountsFile::open(&w.processes[2].task, Format::Mountinfo),
            |w: &World, file| read(w, &file)
        ),
        case!(
            "read(2) of /proc/PID/mountinfo of slaves of slaves",
            {
                let w = World::related();
                for path in ["/", "/a", "/a/b"] {
                    let path = w.processes[2].text(path);
                    let shared = abi::MS_SHARED as usize;
                    w.processes[2].call(abi::__NR_mount, &[0, path, 0, shared]).unwrap();
                }
                let (next, all) = (w.processes[2].fork(), (abi::MS_SLAVE | abi::MS_REC) as usize);
                next.call(abi::__NR_unshare, &[abi::CLONE_NEWNS as usize]).unwrap();
                let root = next.text("/");
                next.call(abi::__NR_mount, &[0, root, 0, all]).unwrap();
                let mut w = w;
                w.processes.push(next);
                w
            },
            |w| MountsFile::open(&w.processes[3].task, Format::Mountinfo),
            |w: &World, file| read(w, &file)
        ),
        case!(
            "read(2) of /proc/PID/mounts",
            World::related(),
            |w| MountsFile::open(&w.processes[2].task, Format::Mounts),
            |w: &World, file| read(w, &file)
        ),
        case!(
            "read(2) of /proc/PID/mountstats",
            World::related(),
            |w| MountsFile::open(&w.processes[2].task, Format::Mountstats),
            |w: &World, file| read(w, &file)
        ),
        case!(
            "ioctl(2), NS_MNT_GET_NEXT",
            World::related(),
            |w| {
                let ns = NamespaceRef::new(&w.first().task.namespace());
                (File::new(None, Object::MountNamespace(ns)), w.first().put(&[0; 16]))
            },
            |w: &World, (file, arg): (File<TmpDentry>, usize)| nsfs_ioctl(w.first(), &file, 0x8010_b70b, arg)
        ),
    ]
}

fn tasks() -> Vec<Case> {
    vec![
        case!("chdir(2)", World::alone(), |w| [w.text("/a/b")], __NR_chdir),
        case!("chroot(2)", World::alone(), |w| [w.text("/a")], __NR_chroot),
        case!("fchdir(2)", World::alone(), |w| [w.first().open(File::at(w.place("/a/b")))], __NR_fchdir),
        case!("unshare(2), CLONE_NEWNS", World::related(), |w| [abi::CLONE_NEWNS], __NR_unshare),
        case!(
            "unshare(2), CLONE_NEWUSER | CLONE_NEWNS",
            World::related(),
            |w| [abi::CLONE_NEWUSER | abi::CLONE_NEWNS],
            __NR_unshare
        ),
        case!(
            "unshare(2), CLONE_FS",
            {
                let mut w = World::alone();
                let task = w.first().task.fork_sharing_fs();
                w.processes.push(Process::new(&w.first().machine, task));
                w
            },
            |w| [abi::CLONE_FS],
            __NR_unshare
        ),
        case!(
            "setns(2)",
            World::related(),
            |w| {
                let ns = NamespaceRef::new(&w.processes[1].task.namespace());
                [w.first().open(File::new(None, Object::MountNamespace(ns))), 0]
            },
            __NR_setns
        ),
        case!("clone(2), CLONE_NEWNS", World::related(), |w| (), |w: &World, ()| {
            clone(w.first(), abi::CLONE_NEWNS.into()).map(|_child| 0)
        }),
        case!(
            "the exit of the last task of a namespace",
            {
                let mut w = World::related();
                w.processes.pop();
                w
            },
            |w| w.processes[1].task.fork().unwrap(),
            |_: &World, task| {
                drop(task);
                Ok(0)
            }
        ),
        case!(
            "a walk with links in links",
            {
                let w = World::alone();
                let root = w.dir("/");
                for level in 0..12 {
                    let target = if level == 0 { "a/.".into() } else { format!("l{}/../.", level - 1) };
                    root.make_symlink(format!("l{level}").as_bytes(), target.as_bytes()).unwrap();
                }
                w
            },
            |w| [w.text("/l11/a")],
            __NR_chdir
        ),
        case!(
            "a walk through a magic link",
            {
                let w = World::alone();
                let to = w.place("/b");
                let link = Arc::new(Link(Arc::downgrade(&to.mount.to_arc()), Arc::downgrade(&to.dentry)));
                w.dir("/").make_handle(b"link", link).unwrap();
                w
            },
            |w| [w.text("/link/x//.")],
            __NR_chdir
        ),
    ]
}

/// A name that no entry has room for inside.
const LONG: &[u8] = &[b'n'; 200];

fn directories() -> Vec<Case> {
    vec![
        case!("mkdir(2)", World::alone(), |w| w.dir("/"), |_: &World, dir: Arc<TmpDentry>| {
            fs(dir.mkdir(b"new"))
        }),
        case!("mkdir(2) of a long name", World::alone(), |w| w.dir("/"), |_: &World, dir: Arc<TmpDentry>| {
            fs(dir.mkdir(LONG))
        }),
        case!("open(2), O_CREAT", World::alone(), |w| w.dir("/"), |_: &World, dir: Arc<TmpDentry>| {
            fs(dir.create(b"new"))
        }),
        case!("symlink(2)", World::alone(), |w| w.dir("/"), |_: &World, dir: Arc<TmpDentry>| {
            fs(dir.make_symlink(b"new", &[b'a'; 3000]))
        }),
        case!("getdents(2)", World::alone(), |w| w.dir("/"), |_: &World, dir: Arc<TmpDentry>| {
            fs(dir.entries())
        }),
        case!("rename(2)", World::alone(), |w| w.dir("/"), |w: &World, dir: Arc<TmpDentry>| {
            fs(tmpfs::rename((&dir, b"b"), (&dir, LONG), &w.first().task.namespace()))
        }),
        case!(
            "rename(2) onto another, from directory to directory",
            {
                let w = World::alone();
                w.dir("/").mkdir(b"from").unwrap().mkdir(LONG).unwrap();
                w.dir("/").mkdir(b"to").unwrap().mkdir(LONG).unwrap();
                w
            },
            |w| (w.dir("/from"), w.dir("/to")),
            |w: &World, (from, to): (Arc<TmpDentry>, Arc<TmpDentry>)| {
                fs(tmpfs::rename((&from, LONG), (&to, LONG), &w.first().task.namespace()))
            }
        ),
        case!(
            "rmdir(2)",
            {
                let w = World::alone();
                w.dir("/").mkdir(LONG).unwrap();
                w
            },
            |w| w.dir("/"),
            |w: &World, dir: Arc<TmpDentry>| { fs(dir.rmdir(LONG, &w.first().task.namespace())) }
        ),
        case!(
            "unlink(2)",
            {
                let w = World::alone();
                w.dir("/").create(b"file").unwrap();
                w
            },
            |w| w.dir("/"),
            |w: &World, dir: Arc<TmpDentry>| { fs(dir.unlink(b"file", &w.first().task.namespace())) }
        ),
        case!(
            "rmdir(2) of what others mount on",
            {
                let mut w = World::alone();
                w.dir("/").mkdir(b"d").unwrap();
                for _ in 0..3 {
                    let next = w.first().fork();
                    next.call(abi::__NR_unshare, &[abi::CLONE_NEWNS as usize]).unwrap();
                    let (path, fs_type) = (next.text("/d"), next.text("tmpfs"));
                    next.call(abi::__NR_mount, &[0, path, fs_type]).unwrap();
                    w.processes.push(next);
                }
                w
            },
            |w| w.dir("/"),
            |w: &World, dir: Arc<TmpDentry>| { fs(dir.rmdir(b"d", &w.first().task.namespace())) }
        ),
        case!(
            "the end of mounts on a removed directory",
            {
                let mut w = World::alone();
                w.dir("/").mkdir(b"d").unwrap();
                let next = w.first().fork();
                next.call(abi::__NR_unshare, &[abi::CLONE_NEWNS as usize]).unwrap();
                for path in ["/d", "/d/a"] {
                    let (path, fs_type) = (next.text(path), next.text("tmpfs"));
                    next.call(abi::__NR_mount, &[0, path, fs_type]).unwrap();
                }
                w.processes.push(next);
                w
            },
            |w| w.dir("/").rmdir(b"d", &w.first().task.namespace()).unwrap(),
            |_: &World, removed: tmpfs::Removed| detach_elsewhere(&removed.dentry, &removed.elsewhere)
        ),
    ]
}
