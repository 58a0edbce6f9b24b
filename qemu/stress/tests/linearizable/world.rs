//! Tasks in two namespaces, and the calls that they make.

use std::fmt;
use std::sync::Arc;

use linux_raw_sys::general as abi;
use mnt_table::check::check;
use mnt_table::dentry::SuperBlockRef;
use mnt_table::walk::{Last, walk_with};
use mnt_table::{Dentry, Kind, MntNamespace, MountFlags, MountSpec, PathRef, WriteSet, pin};
use syscalls::context::Log;
use syscalls::file_system::{Configure, FileSystemType, FileSystems, Purpose, Request, SuperFlags};
use syscalls::listing::mountinfo;
use syscalls::mount::mount;
use syscalls::pivot_root::pivot_root;
use syscalls::umount::umount2;
use syscalls::{Errno, Show, Task};
use tmpfs::{Options, TmpDentry, TmpSuperBlock};

/// The directories of every file system.
pub(crate) const DIRECTORIES: [&str; 4] = ["a", "b", "a/x", "b/x"];

/// A call.
#[derive(Clone, Debug)]
pub(crate) enum Call {
    /// A new file system, which says it is this device.
    Mount(&'static str, u32),
    Bind(&'static str, &'static str, bool),
    Move(&'static str, &'static str),
    Make(&'static str, u32),
    Umount(&'static str, bool),
    Pivot(&'static str, &'static str),
    Chdir(&'static str),
    Chroot(&'static str),
    Lookup(&'static str),
    List,
    Unshare,
}

/// What a call answered: an error, or what it found.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) enum Answer {
    Done(Result<(), u32>),
    Found(Result<(u32, u64), u32>),
    Lines(Vec<String>),
}

impl Answer {
    pub(crate) const NO_MEMORY: Answer = Answer::Done(Err(linux_raw_sys::errno::ENOMEM));
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Answer::Done(Ok(())) => f.write_str("0"),
            Answer::Done(Err(errno)) | Answer::Found(Err(errno)) => write!(f, "errno {errno}"),
            Answer::Found(Ok((dev, ino))) => write!(f, "{dev}:{ino}"),
            Answer::Lines(lines) => write!(f, "{lines:#?}"),
        }
    }
}

/// Tasks 0 and 1 are in one namespace, task 2 is in a copy of it.
pub(crate) struct World {
    pub(crate) tasks: Vec<Task<TmpDentry>>,
}

struct Fresh(u32);

struct Files;

impl FileSystems<TmpDentry> for Files {
    fn file_system(&self, name: &[u8]) -> Option<Arc<dyn FileSystemType<TmpDentry>>> {
        let dev = std::str::from_utf8(name).ok()?.parse().ok()?;
        Some(Arc::new(Fresh(dev)))
    }

    fn type_of(&self, root: &Arc<TmpDentry>) -> Arc<dyn FileSystemType<TmpDentry>> {
        Arc::new(Fresh(root.id().0))
    }

    fn super_flags(&self, _: &Arc<TmpDentry>) -> SuperFlags {
        SuperFlags::empty()
    }
}

impl FileSystemType<TmpDentry> for Fresh {
    fn name(&self) -> &[u8] {
        b"tmpfs"
    }

    fn configure(self: Arc<Self>, _: Purpose<'_, TmpDentry>) -> Result<Box<dyn Configure<TmpDentry>>, Errno> {
        Ok(Box::new(Instance(self.0)))
    }
}

struct Instance(u32);

impl Configure<TmpDentry> for Instance {
    fn get_tree(&mut self, _: &Request<'_>, _: &mut Log) -> Result<SuperBlockRef<TmpDentry>, Errno> {
        Ok(fresh(self.0))
    }

    fn reconfigure(&mut self, _: &Arc<TmpDentry>, _: SuperFlags, _: &mut Log) -> Result<(), Errno> {
        Ok(())
    }
}

impl Show<TmpDentry> for Files {
    fn device(&self, root: &Arc<TmpDentry>) -> (u32, u32) {
        (0, root.id().0)
    }

    fn fs_type(&self, _: &Arc<TmpDentry>) -> Vec<u8> {
        b"tmpfs".to_vec()
    }

    fn options(&self, _: &Arc<TmpDentry>) -> Vec<u8> {
        b"rw".to_vec()
    }

    fn root_name(&self, _: &Arc<TmpDentry>) -> Option<Vec<u8>> {
        None
    }
}

/// A file system with the fixed directories.
fn fresh(dev: u32) -> SuperBlockRef<TmpDentry> {
    let options = Options { dev, fs_type: b"tmpfs", source: b"none", read_only: false };
    let root = TmpSuperBlock::new(options).expect("memory");
    for path in DIRECTORIES {
        let at = |at: &Arc<TmpDentry>, name: &str| at.lookup(name.as_bytes(), &pin()).map(Arc::clone);
        let (parent, name) = match path.split_once('/') {
            Some((above, name)) => (at(&root, above).expect("made before"), name),
            None => (Arc::clone(&root), path),
        };
        parent.mkdir(name.as_bytes()).expect("memory");
    }
    SuperBlockRef::new(root)
}

impl World {
    /// As every round begins: `setup` done by task 0.
    pub(crate) fn new(setup: &[Call]) -> Self {
        let ns = MntNamespace::new(Kind::Ordinary).expect("memory");
        let (hidden, base) = (fresh(1), fresh(2));
        let spec = |root: &SuperBlockRef<TmpDentry>| {
            MountSpec::new(Arc::clone(root.root()), MountFlags::RELATIME, Arc::from(&b"none"[..]))
        };
        let mut locks = WriteSet::one(&ns);
        let top = locks.new_mount(&ns, spec(&hidden)).expect("memory");
        locks.attach_root(&ns, &top);
        let root = locks.new_mount(&ns, spec(&base)).expect("memory");
        let joint = locks.prepare(&root, &top, top.root()).expect("memory");
        locks.attach(&root, joint, &pin());
        drop(locks);
        let at = root.keep(&pin()).unwrap_or_else(|_| unreachable!("nobody else knows it"));
        let first =
            Task::new(&ns, &PathRef { mount: at, dentry: Arc::clone(root.root()) }).expect("it is there");
        let mut world = World { tasks: vec![first] };
        for call in setup {
            world.run(0, call);
        }
        world.tasks.push(world.tasks[0].fork().unwrap());
        world.tasks.push(world.tasks[0].fork().unwrap());
        world.tasks[2].unshare_mounts().expect("memory");
        world
    }

    /// Makes a call.
    pub(crate) fn run(&self, task: usize, call: &Call) -> Answer {
        let task = &self.tasks[task];
        let mount = |source: &str, target: &str, fs_type: Option<&[u8]>, flags: u32| {
            mount(task, &Files, Some(source.as_bytes()), target.as_bytes(), fs_type, flags, b"").map(|_| ())
        };
        let done = match call {
            Call::Mount(target, dev) => mount("none", target, Some(dev.to_string().as_bytes()), 0),
            Call::Bind(source, target, recursive) => {
                mount(source, target, None, abi::MS_BIND | if *recursive { abi::MS_REC } else { 0 })
            }
            Call::Move(source, target) => mount(source, target, None, abi::MS_MOVE),
            Call::Make(target, to) => mount("none", target, None, *to),
            Call::Umount(target, lazy) => {
                umount2(task, target.as_bytes(), if *lazy { abi::MNT_DETACH } else { 0 }).map(|_| ())
            }
            Call::Pivot(new_root, put_old) => pivot_root(task, new_root.as_bytes(), put_old.as_bytes()),
            Call::Chdir(path) => task.chdir(path.as_bytes()),
            Call::Chroot(path) => task.chroot(path.as_bytes()),
            Call::Unshare => task.unshare_mounts().map(|_| ()),
            Call::List => return Answer::Lines(self.lines(task)),
            Call::Lookup(path) => {
                let found =
                    walk_with(&task.fs(), path.as_bytes(), Last::Follow, |found| Ok(found.dentry.id()));
                return Answer::Found(found.map_err(|error| Errno::from(error).raw()));
            }
        };
        Answer::Done(done.map_err(Errno::raw))
    }

    /// What a task sees, with numbers by first appearance.
    fn lines(&self, task: &Task<TmpDentry>) -> Vec<String> {
        let mut lines = mountinfo(task, &Files).expect("memory");
        let (mut mounts, mut groups) = (Vec::new(), Vec::new());
        let name = |seen: &mut Vec<u32>, number: &mut u32| {
            let at = seen.iter().position(|seen| seen == number).unwrap_or_else(|| {
                seen.push(*number);
                seen.len() - 1
            });
            *number = at as u32 + 1;
        };
        for line in &mut lines {
            name(&mut mounts, &mut line.id);
            name(&mut mounts, &mut line.parent);
            let tags = &mut line.tags;
            for tag in [&mut tags.shared, &mut tags.master, &mut tags.propagate_from].into_iter().flatten() {
                name(&mut groups, tag);
            }
        }
        lines.iter().map(ToString::to_string).collect()
    }

    /// What all tasks see, and what the checker says.
    pub(crate) fn state(&self) -> (Vec<Vec<String>>, Vec<String>) {
        let lines = self.tasks.iter().map(|task| self.lines(task)).collect();
        let namespaces: Vec<_> = self.tasks.iter().map(Task::namespace).collect();
        let mut own: Vec<Arc<MntNamespace<TmpDentry>>> = Vec::new();
        for ns in namespaces {
            if !own.iter().any(|other| Arc::ptr_eq(other, &ns)) {
                own.push(ns);
            }
        }
        (lines, check(&own).violations)
    }
}
