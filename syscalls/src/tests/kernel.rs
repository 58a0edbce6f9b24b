//! A kernel of one task, with a few pages of user memory and one type of file system.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};

use linux_raw_sys::general as abi;
use mnt_table::dentry::SuperBlockRef;
use mnt_table::sync::Mutex;
use mnt_table::{Dentry, Kind, MntNamespace, MountFlags, MountSpec, NamespaceSpec, PathRef, WriteSet, pin};
use tmpfs::{Options, TmpDentry, TmpSuperBlock};

use crate::abi::dispatch;
use crate::context::Log;
use crate::file_system::{
    Configure, FileSystemType, Parameter, Purpose, Request, SuperFlags, TypeFlags, Value,
};
use crate::nsfs::Namespaces;
use crate::user_memory::{PAGE_SIZE, UserMemory};
use crate::{Errno, File, FileSystems, Kernel, Show, Task};

/// Where user memory begins; before and behind it nothing can be read or written.
const BASE: usize = 0x10000;
const SIZE: usize = 4 * PAGE_SIZE;

/// An address that cannot be read.
pub(super) const BAD: usize = 8;

pub(super) struct TestKernel {
    task: Task<TmpDentry>,
    memory: Mutex<Memory>,
    files: Mutex<Vec<Option<Arc<File<TmpDentry>>>>>,
    namespaces: Namespaces<TmpDentry>,
    tmpfs: Arc<Tmpfs>,
}

struct Memory {
    bytes: Vec<u8>,
    used: usize,
}

pub(super) struct Tmpfs {
    next: AtomicU32,
}

/// A configuration: takes `size`, and refuses when it is made or changed with `size=0`.
struct Config {
    fs_type: Arc<Tmpfs>,
    empty: bool,
}

impl TestKernel {
    /// A task at the root of a file system with the directories `a` and `b`, mounted over its namespace's first mount.
    pub(super) fn new() -> Self {
        let tmpfs = Arc::new(Tmpfs { next: AtomicU32::new(1) });
        let ns = MntNamespace::from_spec(NamespaceSpec::new(Kind::Ordinary)).unwrap();
        let (hidden, base) = (tmpfs.fresh(false).unwrap(), tmpfs.fresh(false).unwrap());
        let spec = |root: &SuperBlockRef<TmpDentry>| {
            MountSpec::new(
                Arc::clone(root.root()),
                MountFlags::RELATIME,
                mnt_table::Source::new(b"none").expect("memory"),
            )
        };
        let mut locks = WriteSet::one(&ns);
        let top = locks.new_mount(&ns, spec(&hidden)).unwrap();
        locks.attach_root(&ns, &top);
        let root = locks.new_mount(&ns, spec(&base)).unwrap();
        let joint = locks.prepare(&root, &top, top.root()).map_err(|_| "no memory").unwrap();
        locks.attach(&root, joint, &pin());
        drop(locks);
        let kept = root.keep(&pin()).map_err(|_| "busy").unwrap();
        let task = Task::new(&ns, &PathRef { mount: kept, dentry: Arc::clone(root.root()) }).unwrap();
        let namespaces = Namespaces::new();
        namespaces.add(&ns).unwrap();
        let memory = Mutex::new(Memory { bytes: alloc::vec![0; SIZE], used: 0 });
        TestKernel { task, memory, files: Mutex::new(Vec::new()), namespaces, tmpfs }
    }

    /// Makes a call.
    pub(super) fn call(&self, nr: u32, args: &[usize]) -> Result<usize, Errno> {
        let mut all = [0; 6];
        all[..args.len()].copy_from_slice(args);
        dispatch(self, nr as usize, all)
    }

    /// Puts `bytes` into user memory; returns where.
    pub(super) fn put(&self, bytes: &[u8]) -> usize {
        let mut memory = self.memory.lock();
        let at = memory.used;
        memory.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        memory.used += bytes.len().next_multiple_of(8);
        BASE + at
    }

    /// Has room for as much as in the beginning: what was put is not needed any more.
    pub(super) fn forget_memory(&self) {
        self.memory.lock().used = 0;
    }

    /// Puts a string, with its NUL.
    pub(super) fn text(&self, text: &str) -> usize {
        self.put(&[text.as_bytes(), b"\0"].concat())
    }

    /// Puts `bytes` where user memory ends.
    pub(super) fn put_at_end(&self, bytes: &[u8]) -> usize {
        self.memory.lock().bytes[SIZE - bytes.len()..].copy_from_slice(bytes);
        BASE + SIZE - bytes.len()
    }

    /// What is at `addr`.
    pub(super) fn get(&self, addr: usize, len: usize) -> Vec<u8> {
        self.memory.lock().bytes[addr - BASE..][..len].to_vec()
    }

    /// Closes a descriptor.
    pub(super) fn close(&self, fd: usize) {
        let file = self.files.lock()[fd].take();
        drop(file);
    }

    pub(super) fn open(&self, fd: usize) -> Arc<File<TmpDentry>> {
        self.file(fd as i32).unwrap()
    }

    /// Mounts a fresh file system on `path`.
    pub(super) fn mount(&self, path: &str) -> Result<usize, Errno> {
        let (path, tmpfs) = (self.text(path), self.text("tmpfs"));
        self.call(abi::__NR_mount, &[0, path, tmpfs, 0, 0])
    }

    /// The mountpoints that mountinfo shows.
    pub(super) fn mountpoints(&self) -> Vec<Vec<u8>> {
        let lines = crate::listing::mountinfo(&self.task, self).unwrap();
        lines.into_iter().map(|line| line.mountpoint).collect()
    }
}

impl Tmpfs {
    fn fresh(&self, read_only: bool) -> Result<SuperBlockRef<TmpDentry>, Errno> {
        let dev = self.next.fetch_add(1, Ordering::Relaxed);
        let options = Options { read_only, ..Options::new(dev, b"tmpfs") };
        let root = SuperBlockRef::new(TmpSuperBlock::new(options).map_err(|_| Errno::ENOMEM)?);
        for name in [b"a", b"b"] {
            root.root().mkdir(name).map_err(|_| Errno::ENOMEM)?;
        }
        Ok(root)
    }
}

impl FileSystemType<TmpDentry> for Tmpfs {
    fn name(&self) -> &[u8] {
        b"tmpfs"
    }

    fn flags(&self) -> TypeFlags {
        TypeFlags::USER_NS | TypeFlags::ID_MAPS
    }

    fn configure(
        self: Arc<Self>,
        _purpose: Purpose<'_, TmpDentry>,
    ) -> Result<Box<dyn Configure<TmpDentry>>, Errno> {
        Ok(Box::new(Config { fs_type: self, empty: false }))
    }
}

impl Configure<TmpDentry> for Config {
    fn set_parameter(
        &mut self,
        key: &[u8],
        value: &Value<'_, TmpDentry>,
        log: &mut Log,
    ) -> Result<Parameter, Errno> {
        match (key, value) {
            (b"size", Value::String(size)) => {
                self.empty = *size == b"0";
                Ok(Parameter::Taken)
            }
            (b"size", _) => {
                log.error(&[b"tmpfs: Bad value for 'size'"]);
                Err(Errno::EINVAL)
            }
            _ => Ok(Parameter::Unknown),
        }
    }

    fn get_tree(&mut self, request: &Request<'_>, _log: &mut Log) -> Result<SuperBlockRef<TmpDentry>, Errno> {
        if self.empty {
            return Err(Errno::EINVAL);
        }
        self.fs_type.fresh(request.flags.contains(SuperFlags::RDONLY))
    }

    fn reconfigure(&mut self, root: &Arc<TmpDentry>, flags: SuperFlags, _log: &mut Log) -> Result<(), Errno> {
        if self.empty {
            return Err(Errno::EINVAL);
        }
        let done = root.super_block().set_read_only(flags.contains(SuperFlags::RDONLY));
        if done { Ok(()) } else { Err(Errno::EBUSY) }
    }
}

impl FileSystems<TmpDentry> for TestKernel {
    fn file_system(&self, name: &[u8]) -> Option<Arc<dyn FileSystemType<TmpDentry>>> {
        (name == b"tmpfs").then(|| Arc::clone(&self.tmpfs) as Arc<dyn FileSystemType<TmpDentry>>)
    }

    fn type_of(&self, _root: &Arc<TmpDentry>) -> Arc<dyn FileSystemType<TmpDentry>> {
        Arc::clone(&self.tmpfs) as Arc<dyn FileSystemType<TmpDentry>>
    }

    fn super_flags(&self, root: &Arc<TmpDentry>) -> SuperFlags {
        if root.super_block().is_read_only() { SuperFlags::RDONLY } else { SuperFlags::empty() }
    }
}

impl Show<TmpDentry> for TestKernel {
    fn device(&self, root: &Arc<TmpDentry>) -> (u32, u32) {
        (7, root.super_block().dev())
    }

    fn fs_type(&self, root: &Arc<TmpDentry>) -> Vec<u8> {
        root.super_block().fs_type().to_vec()
    }

    fn options(&self, root: &Arc<TmpDentry>) -> Vec<u8> {
        let state: &[u8] = if root.super_block().is_read_only() { b"ro" } else { b"rw" };
        [state, b",size=4k,inode64"].concat()
    }

    fn root_name(&self, _root: &Arc<TmpDentry>) -> Option<Vec<u8>> {
        None
    }

    fn magic(&self, _root: &Arc<TmpDentry>) -> u64 {
        0x0102_1994
    }
}

impl UserMemory for TestKernel {
    fn read(&self, addr: usize, to: &mut [u8]) -> usize {
        let Some(at) = addr.checked_sub(BASE).filter(|at| *at < SIZE) else { return 0 };
        let count = to.len().min(SIZE - at);
        to[..count].copy_from_slice(&self.memory.lock().bytes[at..at + count]);
        count
    }

    fn write(&self, addr: usize, from: &[u8]) -> usize {
        let Some(at) = addr.checked_sub(BASE).filter(|at| *at < SIZE) else { return 0 };
        let count = from.len().min(SIZE - at);
        self.memory.lock().bytes[at..at + count].copy_from_slice(&from[..count]);
        count
    }
}

impl Kernel<TmpDentry> for TestKernel {
    fn task(&self) -> &Task<TmpDentry> {
        &self.task
    }

    fn file(&self, fd: i32) -> Result<Arc<File<TmpDentry>>, Errno> {
        let fd = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        self.files.lock().get(fd).cloned().flatten().ok_or(Errno::EBADF)
    }

    fn install(&self, file: File<TmpDentry>, _cloexec: bool) -> Result<i32, Errno> {
        let mut files = self.files.lock();
        files.push(Some(Arc::new(file)));
        Ok(files.len() as i32 - 1)
    }

    fn namespaces(&self) -> &Namespaces<TmpDentry> {
        &self.namespaces
    }
}
