//! Processes in two namespaces, and the calls that they make.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use linux_raw_sys::general as abi;
use linux_raw_sys::general::fsconfig_command as config;
use mnt_table::check::check;
use mnt_table::namespace::namespace_of;
use mnt_table::walk::{How, Last, walk_how};
use mnt_table::{MntNamespace, WriteSet};
use syscalls::file::Object;
use syscalls::listing::mountinfo;
use syscalls::mountinfo::MountInfo;
use syscalls::{Errno, File, Kernel, Task};
use tmpfs::TmpDentry;

use crate::kernel::{HERE, Machine, Process};

/// A call. Descriptors are those of the process that makes it.
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
    /// From a descriptor on.
    LookupAt(usize, &'static str),
    List,
    /// How many listmount(2) finds.
    Count,
    Unshare,
    /// open_tree(2) with `OPEN_TREE_CLONE`.
    OpenTree(&'static str, bool),
    /// open_tree(2) of the place itself.
    OpenPlace(&'static str),
    /// A context of a new file system of this device, and fsmount(2).
    FsMount(u32),
    /// move_mount(2) of what a descriptor refers to, with these flags.
    MoveFile(usize, &'static str, u32),
    /// move_mount(2) from path to path, with these flags.
    MovePath(&'static str, &'static str, u32),
    /// mount_setattr(2): attributes to set and to clear, a propagation type.
    SetAttr(&'static str, bool, [u32; 3]),
    /// The same of what a descriptor refers to.
    SetAttrFile(usize, bool, [u32; 3]),
    /// open(2) of the mount namespace of another process.
    OpenNamespace(usize),
    SetNs(usize),
    Fchdir(usize),
    Close(usize),
}

/// What a call answered: an error, or what it found.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) enum Answer {
    Done(Result<usize, u32>),
    Found(Result<(u32, u64), u32>),
    Lines(Vec<String>),
}

impl Answer {
    pub(crate) const NO_MEMORY: Answer = Answer::Done(Err(linux_raw_sys::errno::ENOMEM));
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Answer::Done(Ok(value)) => write!(f, "{value}"),
            Answer::Done(Err(errno)) | Answer::Found(Err(errno)) => write!(f, "errno {errno}"),
            Answer::Found(Ok((dev, ino))) => write!(f, "{dev}:{ino}"),
            Answer::Lines(lines) => write!(f, "{lines:#?}"),
        }
    }
}

/// Processes 0 and 1 are in one namespace, process 2 is in a copy of it. All have the descriptors that the first one had
/// when they came.
pub(crate) struct World {
    pub(crate) processes: Vec<Process>,
}

impl World {
    /// As every round begins: `setup` done by process 0.
    pub(crate) fn new(setup: &[Call]) -> Self {
        let mut world = World { processes: vec![Machine::start()] };
        for call in setup {
            world.run(0, call);
        }
        for _ in 0..2 {
            let next = world.processes[0].fork();
            next.inherit(&world.processes[0]);
            world.processes.push(next);
        }
        world.processes[2].call(abi::__NR_unshare, &[abi::CLONE_NEWNS as usize]).expect("memory");
        world
    }

    /// Calls run into each other from here on, however busy the machine is.
    pub(crate) fn give_way(&self) {
        // Relaxed: threads are made later.
        self.processes.iter().for_each(|process| process.gives_way.store(true, Ordering::Relaxed));
    }

    /// Makes a call.
    pub(crate) fn run(&self, number: usize, call: &Call) -> Answer {
        let process = &self.processes[number];
        process.forget();
        let text = |text: &str| process.text(text);
        let mount = |source: &str, target: &str, fs_type: usize, flags: u32, data: usize| {
            let arguments = [text(source), text(target), fs_type, flags as usize, data];
            process.call(abi::__NR_mount, &arguments)
        };
        let recursive = |recursive: &bool, flag: u32| if *recursive { flag } else { 0 };
        let attributes =
            |[set, clear, to]: [u32; 3]| process.words(&[set.into(), clear.into(), to.into(), 0]);
        let done = match call {
            Call::Mount(target, dev) => mount("none", target, text("tmpfs"), 0, text(&format!("dev={dev}"))),
            Call::Bind(source, target, all) => {
                mount(source, target, 0, abi::MS_BIND | recursive(all, abi::MS_REC), 0)
            }
            Call::Move(source, target) => mount(source, target, 0, abi::MS_MOVE, 0),
            Call::Make(target, to) => mount("none", target, 0, *to, 0),
            Call::Umount(target, lazy) => {
                let flags = if *lazy { abi::MNT_DETACH } else { 0 };
                process.call(abi::__NR_umount2, &[text(target), flags as usize])
            }
            Call::Pivot(new_root, put_old) => {
                process.call(abi::__NR_pivot_root, &[text(new_root), text(put_old)])
            }
            Call::Chdir(path) => process.call(abi::__NR_chdir, &[text(path)]),
            Call::Chroot(path) => process.call(abi::__NR_chroot, &[text(path)]),
            Call::Fchdir(fd) => process.call(abi::__NR_fchdir, &[*fd]),
            Call::Unshare => process.call(abi::__NR_unshare, &[abi::CLONE_NEWNS as usize]),
            Call::OpenTree(path, all) => {
                let flags = abi::OPEN_TREE_CLONE | recursive(all, abi::AT_RECURSIVE);
                process.call(abi::__NR_open_tree, &[HERE, text(path), flags as usize])
            }
            Call::OpenPlace(path) => process.call(abi::__NR_open_tree, &[HERE, text(path), 0]),
            Call::FsMount(dev) => self.fsmount(process, *dev),
            Call::MoveFile(fd, target, flags) => {
                let flags = abi::MOVE_MOUNT_F_EMPTY_PATH | flags;
                process.call(abi::__NR_move_mount, &[*fd, text(""), HERE, text(target), flags as usize])
            }
            Call::MovePath(source, target, flags) => {
                let arguments = [HERE, text(source), HERE, text(target), *flags as usize];
                process.call(abi::__NR_move_mount, &arguments)
            }
            Call::SetAttr(path, all, change) => {
                let flags = recursive(all, abi::AT_RECURSIVE) as usize;
                process.call(abi::__NR_mount_setattr, &[HERE, text(path), flags, attributes(*change), 32])
            }
            Call::SetAttrFile(fd, all, change) => {
                let flags = (abi::AT_EMPTY_PATH | recursive(all, abi::AT_RECURSIVE)) as usize;
                process.call(abi::__NR_mount_setattr, &[*fd, text(""), flags, attributes(*change), 32])
            }
            Call::OpenNamespace(whose) => Ok(self.open_namespace(process, &self.processes[*whose].task)),
            Call::SetNs(fd) => process.call(abi::__NR_setns, &[*fd, 0]),
            Call::Close(fd) => Ok(usize::from(process.close(*fd))),
            Call::Count => {
                let all = process.words(&[24, abi::LSMT_ROOT as i64 as u64, 0]);
                let ids = process.put(&[0; 800]);
                process.call(abi::__NR_listmount, &[all, ids, 100, 0])
            }
            Call::List => return Answer::Lines(Names::default().listing(process)),
            Call::Lookup(path) => return Self::look_up(process, path, None),
            Call::LookupAt(fd, path) => {
                let Ok(file) = process.file(*fd as i32) else {
                    return Answer::Found(Err(Errno::EBADF.raw()));
                };
                return Self::look_up(process, path, Some(&file));
            }
        };
        Answer::Done(done.map_err(Errno::raw))
    }

    fn look_up(process: &Process, path: &str, file: Option<&Arc<File<TmpDentry>>>) -> Answer {
        let how = How { dir: file.and_then(|file| file.path()), ..How::new(Last::Follow) };
        let found = walk_how(&process.task.fs(), path.as_bytes(), &how, |found| Ok(found.dentry.id()));
        Answer::Found(found.map_err(|error| Errno::from(error).raw()))
    }

    /// Only the last step can be seen by others.
    fn fsmount(&self, process: &Process, dev: u32) -> Result<usize, Errno> {
        let context = process.call(abi::__NR_fsopen, &[process.text("tmpfs"), 0])?;
        let set = config::FSCONFIG_SET_STRING as usize;
        let number = process.text(&dev.to_string());
        process.call(abi::__NR_fsconfig, &[context, set, process.text("dev"), number, 0])?;
        process.call(abi::__NR_fsconfig, &[context, config::FSCONFIG_CMD_CREATE as usize])?;
        let mounted = process.call(abi::__NR_fsmount, &[context, 0, 0]);
        process.close(context);
        mounted
    }

    fn open_namespace(&self, process: &Process, whose: &Task<TmpDentry>) -> usize {
        loop {
            // Not there any more: it has left it.
            if let Some(ns) = process.namespaces().find(whose.namespace().id()) {
                return process.open(File::new(None, Object::MountNamespace(ns)));
            }
        }
    }

    /// What all processes see, and the trees that their descriptors keep; and what the checker says.
    pub(crate) fn state(&self) -> (Vec<Vec<String>>, Vec<String>) {
        let mut names = Names::default();
        let mut own: Vec<Arc<MntNamespace<TmpDentry>>> = Vec::new();
        let mut state = Vec::new();
        let mut note = |ns: Arc<MntNamespace<TmpDentry>>| {
            if !own.iter().any(|other| Arc::ptr_eq(other, &ns)) {
                own.push(ns);
            }
        };
        for process in &self.processes {
            state.push(names.lines(process));
            note(process.task.namespace());
        }
        for process in &self.processes {
            for fd in process.descriptors() {
                let Ok(file) = process.file(fd as i32) else { continue };
                let Some(path) = file.path() else { continue };
                let mut lines =
                    vec![format!("{fd}: {:?} in {}", path.dentry.id(), names.mount(path.mount.id()))];
                if let Some(ns) = namespace_of(&path.mount) {
                    lines.extend(names.tree(&ns));
                    note(ns);
                }
                state.push(lines);
            }
        }
        (state, check(&own).violations)
    }
}

/// Numbers by first appearance.
#[derive(Default)]
struct Names {
    mounts: HashMap<u32, u32>,
    groups: HashMap<u32, u32>,
}

impl Names {
    fn mount(&mut self, number: u32) -> u32 {
        let next = self.mounts.len() as u32 + 1;
        *self.mounts.entry(number).or_insert(next)
    }

    fn group(&mut self, number: u32) -> u32 {
        let next = self.groups.len() as u32 + 1;
        *self.groups.entry(number).or_insert(next)
    }

    /// What one read of mountinfo shows at one moment. Whether a file system can be written is no matter of the namespace:
    /// each line says it of its own moment, as on Linux.
    fn listing(&mut self, process: &Process) -> Vec<String> {
        let mut lines = mountinfo(&process.task, process).expect("memory");
        for line in &mut lines {
            self.rename(line);
            line.super_options.clear();
        }
        lines.iter().map(ToString::to_string).collect()
    }

    /// All that a process sees, when nobody changes it.
    fn lines(&mut self, process: &Process) -> Vec<String> {
        let mut lines = mountinfo(&process.task, process).expect("memory");
        lines.iter_mut().for_each(|line| self.rename(line));
        let cwd = process.task.fs().cwd();
        let mut lines: Vec<String> = lines.iter().map(ToString::to_string).collect();
        lines.push(format!("at {:?} in {}", cwd.1.id(), self.mount(cwd.0.id())));
        lines
    }

    fn rename(&mut self, line: &mut MountInfo) {
        line.id = self.mount(line.id);
        line.parent = self.mount(line.parent);
        let tags = &mut line.tags;
        for tag in [&mut tags.shared, &mut tags.master, &mut tags.propagate_from].into_iter().flatten() {
            *tag = self.group(*tag);
        }
    }

    /// All mounts of a namespace, by whom it is not seen.
    fn tree(&mut self, ns: &Arc<MntNamespace<TmpDentry>>) -> Vec<String> {
        let locks = WriteSet::one(ns);
        let mut lines = Vec::new();
        for mount in locks.mounts(ns) {
            let here = mount.propagation();
            lines.push(format!(
                "  {} on {:?} {:?}, root {:?}, shared {:?}, master {:?}, unbindable {}, {:?}",
                self.mount(mount.id()),
                locks.parent(mount).map(|parent| self.mount(parent.id())),
                locks.mountpoint(mount).map(|on| on.id()),
                mount.root().id(),
                here.peers.map(|(group, _)| self.group(group.id())),
                here.master.map(|link| self.group(link.group.id())),
                locks.is_unbindable(mount),
                mount.flags(),
            ));
        }
        lines
    }
}
