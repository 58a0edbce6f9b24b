//! The crates of this project as an executor, in this process.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Result, anyhow};
use linux_raw_sys::general as abi;
use mnt_table::dentry::SuperBlockRef;
use mnt_table::walk::{Last, walk_to_change};
use mnt_table::{Dentry, Kind, LockPlan, MntNamespace, MountFlags, MountSpec, PathRef, WriteSet, pin};
use propagate::receivers::depth_first;
use propagate::{Retry, with_locks};
use syscalls::context::Log;
use syscalls::file_system::{Configure, FileSystemType, Purpose, Request, SuperFlags};
use syscalls::listing::mountinfo;
use syscalls::mount::mount;
use syscalls::pivot_root::pivot_root;
use syscalls::umount::umount2;
use syscalls::{Errno, FileSystems, Show, Task};
use tmpfs::{Options, TmpDentry, TmpSuperBlock};

use syscalls::mountinfo::MountInfo;

use crate::DIRECTORIES;
use crate::machine::Machine;
use crate::raw::{Arg, Raw, Reply};

/// Tasks in namespaces of in-memory file systems. Task 0 exists from the start: its root is a file system with the fixed
/// directories, mounted over the hidden root of its namespace.
pub struct Model {
    tasks: Vec<Option<Task<TmpDentry>>>,
    files: Files,
    /// Whether copies of namespaces forget which mounts are unbindable, as Linux 6.18 does.
    forgets_unbindable: bool,
}

/// File systems: each mount is of a fresh one.
struct Files(Arc<Fresh>);

struct Fresh {
    next: AtomicU32,
}

impl Files {
    fn fresh(&self) -> Result<SuperBlockRef<TmpDentry>, Errno> {
        // Relaxed: a number.
        let dev = self.0.next.fetch_add(1, Ordering::Relaxed);
        let options = Options { dev, fs_type: b"tmpfs", source: b"none", read_only: false };
        let root = TmpSuperBlock::new(options).map_err(|_| Errno::ENOMEM)?;
        let held = SuperBlockRef::new(Arc::clone(&root));
        for path in DIRECTORIES {
            let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
            let parent = match above {
                "" => Arc::clone(&root),
                above => root.lookup(above.as_bytes(), &pin()).map(Arc::clone).map_err(|_| Errno::ENOENT)?,
            };
            parent.mkdir(name.as_bytes()).map_err(|_| Errno::ENOMEM)?;
        }
        Ok(held)
    }
}

impl FileSystems<TmpDentry> for Files {
    fn file_system(&self, name: &[u8]) -> Option<Arc<dyn FileSystemType<TmpDentry>>> {
        (name == b"tmpfs").then(|| Arc::clone(&self.0) as Arc<dyn FileSystemType<TmpDentry>>)
    }

    fn type_of(&self, _root: &Arc<TmpDentry>) -> Arc<dyn FileSystemType<TmpDentry>> {
        Arc::clone(&self.0) as Arc<dyn FileSystemType<TmpDentry>>
    }

    fn super_flags(&self, root: &Arc<TmpDentry>) -> SuperFlags {
        if root.super_block().is_read_only() { SuperFlags::RDONLY } else { SuperFlags::empty() }
    }
}

impl FileSystemType<TmpDentry> for Fresh {
    fn name(&self) -> &[u8] {
        b"tmpfs"
    }

    fn configure(
        self: Arc<Self>,
        _purpose: Purpose<'_, TmpDentry>,
    ) -> Result<Box<dyn Configure<TmpDentry>>, Errno> {
        Ok(Box::new(Files(self)))
    }
}

impl Configure<TmpDentry> for Files {
    fn get_tree(
        &mut self,
        _request: &Request<'_>,
        _log: &mut Log,
    ) -> Result<SuperBlockRef<TmpDentry>, Errno> {
        self.fresh()
    }

    fn reconfigure(&mut self, root: &Arc<TmpDentry>, flags: SuperFlags, _log: &mut Log) -> Result<(), Errno> {
        root.super_block().set_read_only(flags.contains(SuperFlags::RDONLY));
        Ok(())
    }
}

impl Show<TmpDentry> for Files {
    fn device(&self, root: &Arc<TmpDentry>) -> (u32, u32) {
        (0, root.super_block().dev())
    }

    fn fs_type(&self, root: &Arc<TmpDentry>) -> Vec<u8> {
        root.super_block().fs_type().to_vec()
    }

    fn options(&self, root: &Arc<TmpDentry>) -> Vec<u8> {
        if root.super_block().is_read_only() { b"ro".to_vec() } else { b"rw".to_vec() }
    }

    fn root_name(&self, _root: &Arc<TmpDentry>) -> Option<Vec<u8>> {
        None
    }
}

impl Model {
    /// One task alone in a namespace.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new() -> Result<Self> {
        let files = Files(Arc::new(Fresh { next: AtomicU32::new(1) }));
        let failed = |what| move |_| anyhow!("the mount table cannot make {what}");
        let ns = MntNamespace::new(Kind::Ordinary).map_err(failed("a namespace"))?;
        let (hidden, base) = (files.fresh()?, files.fresh()?);
        let mut locks = WriteSet::one(&ns);
        let spec = |root: &SuperBlockRef<TmpDentry>| {
            MountSpec::new(Arc::clone(root.root()), MountFlags::RELATIME, Arc::from(&b"none"[..]))
        };
        let top = locks.new_mount(&ns, spec(&hidden)).map_err(|_| anyhow!("out of memory"))?;
        locks.attach_root(&ns, &top);
        let root = locks.new_mount(&ns, spec(&base)).map_err(|_| anyhow!("out of memory"))?;
        let joint = locks.prepare(&root, &top, top.root()).map_err(|_| anyhow!("out of memory"))?;
        locks.attach(&root, joint, &pin());
        drop(locks);
        let at = root.keep(&pin()).map_err(|_| anyhow!("a fresh mount is busy"))?;
        let task = Task::new(&ns, &PathRef { mount: at, dentry: Arc::clone(root.root()) })?;
        Ok(Model { tasks: vec![Some(task)], files, forgets_unbindable: false })
    }

    /// As [`Model::new`], to be compared with Linux 6.18; see the crate's header.
    ///
    /// # Errors
    /// Out of memory.
    pub fn beside_linux() -> Result<Self> {
        Ok(Model { forgets_unbindable: true, ..Self::new()? })
    }

    /// The numbers of the tasks that exist.
    pub fn tasks(&self) -> impl Iterator<Item = usize> {
        self.tasks.iter().enumerate().filter(|(_, task)| task.is_some()).map(|(number, _)| number)
    }

    /// All namespaces that have tasks, each once.
    pub fn namespaces(&self) -> Vec<Arc<MntNamespace<TmpDentry>>> {
        let mut found: Vec<Arc<MntNamespace<TmpDentry>>> = Vec::new();
        for ns in self.tasks.iter().flatten().map(Task::namespace) {
            if !found.iter().any(|other| Arc::ptr_eq(other, &ns)) {
                found.push(ns);
            }
        }
        found
    }

    /// Whether task `number` exists.
    pub fn has(&self, number: usize) -> bool {
        self.tasks.get(number).is_some_and(Option::is_some)
    }

    /// Whether an umount of `target` takes along counterparts that have mounts on them besides one that covers them: those
    /// of which Linux 6.18 does not ask whether they are in use.
    pub(crate) fn umount_takes_chains(&self, number: usize, target: &str) -> bool {
        let Some(Some(task)) = self.tasks.get(number) else { return false };
        let Ok((mount, _)) = walk_to_change(&task.fs(), target.as_bytes(), Last::FollowAndCross) else {
            return false;
        };
        let found = with_locks(LockPlan::new(&task.namespace()), |locks| {
            let (Some(parent), Some(on)) = (locks.parent(&mount), locks.mountpoint(&mount)) else {
                return Ok(false);
            };
            let receivers = depth_first(locks, parent).map_err(|missing| Retry::With(vec![missing]))?;
            let counterparts = receivers.iter().filter_map(|receiver| locks.child_at(receiver, on));
            Ok(counterparts.into_iter().any(|counterpart| {
                let children = locks.children(&counterpart).count();
                children > 1 || (children == 1 && locks.overmount(&counterpart).is_none())
            }))
        });
        found.unwrap_or(false)
    }

    fn call(&mut self, number: usize, raw: &Raw) -> Result<(), Errno> {
        let task = self.tasks[number].as_ref().expect("the caller asked whether the task exists");
        let text = |at: usize| match &raw.args[at] {
            Arg::Bytes(bytes) => Some(&bytes[..bytes.len() - 1]),
            _ => None,
        };
        let path = |at| text(at).ok_or(Errno::ENOENT);
        let bits = |at: usize| match raw.args[at] {
            Arg::Int(bits) => bits as u32,
            _ => 0,
        };
        match raw.nr {
            abi::__NR_mount => mount(task, &self.files, text(0), path(1)?, text(2), bits(3), b"").map(|_| ()),
            abi::__NR_umount2 => umount2(task, path(0)?, bits(1)).map(|_| ()),
            abi::__NR_pivot_root => pivot_root(task, path(0)?, path(1)?),
            abi::__NR_chdir => task.chdir(path(0)?),
            abi::__NR_chroot => task.chroot(path(0)?),
            abi::__NR_unshare => {
                task.unshare_mounts()?;
                if self.forgets_unbindable {
                    forget_unbindable(&task.namespace());
                }
                Ok(())
            }
            _ => Err(Errno::EINVAL),
        }
    }
}

fn forget_unbindable(ns: &Arc<MntNamespace<TmpDentry>>) {
    let mut locks = WriteSet::one(ns);
    let mounts: Vec<_> = locks.mounts(ns).cloned().collect();
    mounts.iter().for_each(|mount| locks.set_unbindable(mount, false));
}

impl Machine for Model {
    fn calls(&mut self, task: usize, calls: &[Raw]) -> Result<Vec<Reply>> {
        let reply = |call| {
            let result = self.call(task, call).map_or_else(|errno| -i64::from(errno.raw()), |()| 0);
            Reply { result, memory: Vec::new() }
        };
        Ok(calls.iter().map(reply).collect())
    }

    fn clone_task(&mut self, task: usize, child: usize, _flags: u64) -> Result<Reply> {
        let forked = self.tasks[task].as_ref().map(Task::fork);
        if self.tasks.len() <= child {
            self.tasks.resize_with(child + 1, || None);
        }
        self.tasks[child] = forked;
        Ok(Reply { result: child as i64 + 1, memory: Vec::new() })
    }

    fn map_root(&mut self, _task: usize) -> Result<Reply> {
        Ok(Reply { result: -i64::from(Errno::EINVAL.raw()), memory: Vec::new() })
    }

    fn exit(&mut self, task: usize) -> Result<()> {
        self.tasks[task] = None;
        Ok(())
    }

    fn pid(&self, task: usize) -> Option<i32> {
        self.has(task).then_some(task as i32 + 1)
    }

    fn proc_fd(&self) -> i32 {
        3
    }

    fn mountinfo(&mut self) -> Result<Vec<Option<Vec<MountInfo>>>> {
        let see = |task: &Option<Task<TmpDentry>>| {
            task.as_ref().map(|task| mountinfo(task, &self.files)).transpose()
        };
        Ok(self.tasks.iter().map(see).collect::<Result<_, _>>()?)
    }
}
