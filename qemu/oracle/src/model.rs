//! The crates of this project as a machine, in this process: a small kernel around them.
//!
//! | module | what |
//! |---|---|
//! | `kernel` | what the crates ask of a kernel, for one call of one task |
//! | `memory` | user memory, laid out as a helper on Linux lays it out |
//! | `files`, `entries` | the calls about files, over the `tmpfs` crate |
//! | `open`, `paths` | open files; names of places |
//! | `types` | file system types |
//! | `nameless` | files in use that have no name any more |
//! | `older` | what Linux 6.18 does otherwise |
//! | `proc`, `nsfs` | what proc shows of tasks; the files of namespaces |
//!
//! Everything about mounts goes through [`syscalls::abi::dispatch`] with the registers of the call.

use std::sync::{Arc, Mutex};

use anyhow::{Result, anyhow};
use linux_raw_sys::general as abi;
use mnt_table::dentry::SuperBlockRef;
use mnt_table::namespace::namespace_of;
use mnt_table::user_ns::{IdMaps, IdRange};
use mnt_table::walk::{Last, walk_to_change};
use mnt_table::{
    Dentry, Kind, LockPlan, MntNamespace, Mount, MountFlags, MountSpec, NamespaceSpec, PathRef, UserNs,
    WriteSet, pin,
};
use propagate::receivers::depth_first;
use propagate::with_locks;
use syscalls::abi::dispatch;
use syscalls::file_system::SuperFlags;
use syscalls::listing::mountinfo;
use syscalls::mountinfo::MountInfo;
use syscalls::nsfs::Namespaces;
use syscalls::{Errno, File, Task};
use tmpfs::TmpDentry;

use crate::DIRECTORIES;
use crate::machine::Machine;
use crate::raw::{Raw, Reply};
use files::Failure;
use kernel::{Call, Process, World};
use memory::Memory;
use nsfs::Nsfs;
use older::{Locked, forget_unbindable};
use open::Open;
use types::Types;

mod entries;
mod files;
mod kernel;
mod memory;
mod nameless;
mod nsfs;
mod older;
mod open;
mod proc;
mod types;

/// Tasks in namespaces of in-memory file systems; see [`Machine`].
pub struct Model {
    world: World,
    processes: Vec<Option<Process>>,
    /// Whether it does what Linux 6.18 does where that differs from what is intended.
    beside_linux: bool,
    /// Keeps the mounts that are in nobody's namespace.
    _internal: Vec<Namespace>,
}

type Namespace = Arc<MntNamespace<TmpDentry>>;

/// The pid of task 0; the others follow in the order of their numbers.
const FIRST_PID: i32 = 100;

/// The descriptor of proc that every task has.
const PROC: i32 = 0;

/// A namespace with one mount.
fn namespace(kind: Kind, spec: MountSpec<TmpDentry>) -> Result<(Namespace, Arc<Mount<TmpDentry>>)> {
    let no_memory = || anyhow!("out of memory");
    let ns = MntNamespace::from_spec(NamespaceSpec::new(kind)).map_err(|_| no_memory())?;
    let mut locks = WriteSet::one(&ns);
    let mount = locks.new_mount(&ns, spec).map_err(|_| no_memory())?;
    locks.attach_root(&ns, &mount);
    drop(locks);
    Ok((ns, mount))
}

fn spec(root: &SuperBlockRef<TmpDentry>) -> MountSpec<TmpDentry> {
    MountSpec::new(
        Arc::clone(root.root()),
        MountFlags::RELATIME,
        mnt_table::Source::new(b"none").expect("memory"),
    )
}

impl Model {
    /// One task alone in a namespace.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new() -> Result<Self> {
        let no_memory = || anyhow!("out of memory");
        let types = Types::new();
        let fresh = |fs_type| types.instances().fresh(fs_type, SuperFlags::empty(), &UserNs::INITIAL);
        let files = fresh("nsfs")?;
        let (files_ns, files_mount) = namespace(
            Kind::Internal,
            MountSpec::new(
                Arc::clone(files.root()),
                MountFlags::empty(),
                mnt_table::Source::new(b"nsfs").expect("memory"),
            ),
        )?;
        let nsfs = Arc::new(Nsfs::new(files_mount));
        types.instances().processes.set_nsfs(&nsfs);
        let proc = fresh("proc")?;
        types.instances().processes.fill(proc.root())?;
        let (proc_ns, proc_mount) = namespace(Kind::Ordinary, spec(&proc))?;
        let (ns, top) = namespace(Kind::Ordinary, spec(&fresh("tmpfs")?))?;
        let base = fresh("tmpfs")?;
        for path in DIRECTORIES {
            let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
            let parent = match above {
                "" => Arc::clone(base.root()),
                above => {
                    base.root().lookup(above.as_bytes(), &pin()).map(Arc::clone).map_err(|_| no_memory())?
                }
            };
            parent.mkdir(name.as_bytes()).map_err(|_| no_memory())?;
        }
        let mut locks = WriteSet::one(&ns);
        let root = locks.new_mount(&ns, spec(&base)).map_err(|_| no_memory())?;
        let joint = locks.prepare(&root, &top, top.root()).map_err(|_| no_memory())?;
        locks.attach(&root, joint, &pin());
        drop(locks);
        let at = |mount: &Arc<Mount<TmpDentry>>| {
            let kept = mount.keep(&pin()).map_err(|_| anyhow!("a fresh mount is busy"))?;
            Ok::<_, anyhow::Error>(PathRef { mount: kept, dentry: Arc::clone(mount.root()) })
        };
        let task = Arc::new(Task::new(&ns, &at(&root)?)?);
        let namespaces = Namespaces::new();
        namespaces.add(&ns).map_err(|_| no_memory())?;
        let world = World { types, namespaces, nsfs, nameless: Mutex::default() };
        let mut model =
            Model { world, processes: Vec::new(), beside_linux: false, _internal: vec![files_ns, proc_ns] };
        let proc = Open::place(File::at(at(&proc_mount)?));
        model.add(0, task, vec![Some(proc)], Vec::new());
        Ok(model)
    }

    fn add(
        &mut self,
        number: usize,
        task: Arc<Task<TmpDentry>>,
        fds: Vec<Option<Arc<Open>>>,
        mapped: Vec<Arc<Open>>,
    ) {
        let pid = FIRST_PID + number as i32;
        let processes = &self.world.types.instances().processes;
        processes.add(pid, &task);
        for (fd, open) in fds.iter().enumerate() {
            processes.set_fd(pid, fd as i32, open.as_ref(), &task);
        }
        if self.processes.len() <= number {
            self.processes.resize_with(number + 1, || None);
        }
        let process = Process {
            pid,
            task,
            fds: Mutex::new(fds),
            mapped: Mutex::new(mapped),
            makes_pids: Mutex::new(false),
        };
        self.processes[number] = Some(process);
    }

    /// As [`Model::new`], to be compared with Linux 6.18; see the crate's header.
    ///
    /// # Errors
    /// Out of memory.
    pub fn beside_linux() -> Result<Self> {
        Ok(Model { beside_linux: true, ..Self::new()? })
    }

    /// The numbers of the tasks that exist.
    pub fn tasks(&self) -> impl Iterator<Item = usize> {
        self.processes.iter().enumerate().filter(|(_, task)| task.is_some()).map(|(number, _)| number)
    }

    /// All namespaces that have tasks, each once.
    pub fn namespaces(&self) -> Vec<Arc<MntNamespace<TmpDentry>>> {
        let mut found: Vec<Arc<MntNamespace<TmpDentry>>> = Vec::new();
        for ns in self.processes.iter().flatten().map(|process| process.task.namespace()) {
            if !found.iter().any(|other| Arc::ptr_eq(other, &ns)) {
                found.push(ns);
            }
        }
        found
    }

    /// Whether task `number` exists.
    pub fn has(&self, number: usize) -> bool {
        self.processes.get(number).is_some_and(Option::is_some)
    }

    /// Whether the namespace of task `number` is owned by another user namespace than the machine's first.
    pub fn is_confined(&self, number: usize) -> bool {
        let process = self.processes.get(number).and_then(Option::as_ref);
        process.is_some_and(|process| !process.task.namespace().owner().is_initial())
    }

    /// Whether task `number` may ask for the namespaces of the whole machine.
    pub fn sees_all(&self, number: usize) -> bool {
        let process = self.processes.get(number).and_then(Option::as_ref);
        process.is_some_and(|process| process.task.credentials().is_admin(&UserNs::INITIAL))
    }

    /// The id of the namespace of task `number`: younger ones have larger ids.
    pub fn namespace_id(&self, number: usize) -> Option<u64> {
        let process = self.processes.get(number)?.as_ref()?;
        Some(process.task.namespace().id().0)
    }

    /// Whether task `number` may look at the namespaces of task `other`.
    pub fn may_inspect(&self, number: usize, other: usize) -> bool {
        let credentials = |number: usize| {
            let process = self.processes.get(number)?.as_ref()?;
            Some(process.task.credentials())
        };
        let both = credentials(number).zip(credentials(other));
        number == other || both.is_some_and(|(own, others)| proc::may_inspect(&own, &others))
    }

    /// Whether an umount of `target` takes along counterparts that have mounts on them besides one that covers them: those
    /// of which Linux 6.18 does not ask whether they are in use.
    pub(crate) fn umount_takes_chains(&self, number: usize, target: &str) -> bool {
        let Some(Some(process)) = self.processes.get(number) else { return false };
        let task = &process.task;
        let Ok((mount, _)) = walk_to_change(&task.fs(), target.as_bytes(), Last::FollowAndCross) else {
            return false;
        };
        if namespace_of(&mount).is_none_or(|ns| ns.id() != task.namespace().id()) {
            return false;
        }
        let found = with_locks(LockPlan::new(&task.namespace()), |locks| {
            let (Some(parent), Some(on)) = (locks.parent(&mount), locks.mountpoint(&mount)) else {
                return Ok(false);
            };
            let receivers = depth_first(locks, parent, |_| false)?;
            let counterparts = receivers.iter().filter_map(|receiver| locks.child_at(receiver, on));
            Ok(counterparts.into_iter().any(|counterpart| {
                let children = locks.children(&counterpart).count();
                children > 1 || (children == 1 && locks.overmount(&counterpart).is_none())
            }))
        });
        found.unwrap_or(false)
    }

    /// The type of the file system that `path` leads task `number` to.
    pub(crate) fn fs_type_at(&self, number: usize, path: &str) -> Option<Vec<u8>> {
        let task = &self.processes.get(number)?.as_ref()?.task;
        let (mount, _) = walk_to_change(&task.fs(), path.as_bytes(), Last::Follow).ok()?;
        Some(mount.super_block().fs_type().to_vec())
    }

    fn process(&self, task: usize) -> Result<&Process> {
        self.processes.get(task).and_then(Option::as_ref).ok_or_else(|| anyhow!("task {task} is gone"))
    }

    fn call(&self, task: usize, raw: &Raw) -> Result<Reply> {
        if matches!(raw.nr, abi::__NR_mount | abi::__NR_umount2 | abi::__NR_fsconfig) {
            self.count_nameless();
        }
        let process = self.process(task)?;
        self.world.types.instances().processes.set_current(process.pid, &process.task);
        let (memory, registers) = Memory::new(&raw.args);
        let call = Call { world: &self.world, process, memory };
        let before = process.task.namespace().id();
        let attaches = matches!(raw.nr, abi::__NR_mount | abi::__NR_move_mount);
        let locked = (self.beside_linux && attaches).then(|| Locked::of(self.namespaces()));
        let result = match raw.nr {
            abi::__NR_pidfd_open => {
                let found =
                    self.processes.iter().flatten().find(|process| process.pid == registers[0] as i32);
                found.map_or(Err(Failure(Errno::ESRCH.raw())), |found| {
                    call.open_process(Arc::downgrade(&found.task))
                })
            }
            nr => match call.file_call(nr, registers) {
                Some(result) => result,
                None => dispatch(&call, nr as usize, registers).map_err(Failure::from),
            },
        };
        locked.into_iter().for_each(Locked::restore);
        if self.beside_linux && raw.nr == abi::__NR_unshare && process.task.namespace().id() != before {
            forget_unbindable(&process.task.namespace());
        }
        let result = result.map_or_else(|Failure(errno)| -i64::from(errno), |value| value as i64);
        Ok(Reply { result, memory: call.memory.outputs(&raw.args) })
    }
}

impl Machine for Model {
    fn calls(&mut self, task: usize, calls: &[Raw]) -> Result<Vec<Reply>> {
        calls.iter().map(|raw| self.call(task, raw)).collect()
    }

    fn clone_task(&mut self, task: usize, child: usize, flags: u64) -> Result<Reply> {
        let process = self.process(task)?;
        let (memory, _) = Memory::new(&[const { crate::raw::Arg::Int(0) }; 6]);
        let call = Call { world: &self.world, process, memory };
        let made = match syscalls::namespaces::clone(&call, flags) {
            Ok(made) => Arc::new(made),
            Err(errno) => return Ok(Reply { result: -i64::from(errno.raw()), memory: Vec::new() }),
        };
        if *process.makes_pids.lock().expect("no panic") {
            let owner = made.credentials().user_ns.id();
            self.world.types.instances().pid_owners.lock().expect("no panic").push(owner);
        }
        if self.beside_linux && made.namespace().id() != process.task.namespace().id() {
            forget_unbindable(&made.namespace());
        }
        let fds = process.fds.lock().expect("no panic").clone();
        let mapped = process.mapped.lock().expect("no panic").clone();
        self.add(child, made, fds, mapped);
        Ok(Reply { result: i64::from(FIRST_PID) + child as i64, memory: Vec::new() })
    }

    fn map_root(&mut self, task: usize) -> Result<Reply> {
        let credentials = self.process(task)?.task.credentials();
        let one = |id| Arc::from([IdRange { inside: 0, outside: id, count: 1 }]);
        credentials.user_ns.set_maps(IdMaps { uids: one(0), gids: one(0) });
        Ok(Reply::default())
    }

    fn exit(&mut self, task: usize) -> Result<()> {
        if let Some(process) = self.processes.get_mut(task).and_then(Option::take) {
            self.world.types.instances().processes.remove(process.pid);
        }
        Ok(())
    }

    fn pid(&self, task: usize) -> Option<i32> {
        Some(self.processes.get(task)?.as_ref()?.pid)
    }

    fn proc_fd(&self) -> i32 {
        PROC
    }

    fn mountinfo(&mut self) -> Result<Vec<Option<Vec<MountInfo>>>> {
        let see = |process: &Option<Process>| {
            process.as_ref().map(|process| mountinfo(&process.task, &self.world)).transpose()
        };
        Ok(self.processes.iter().map(see).collect::<Result<_, _>>()?)
    }
}
