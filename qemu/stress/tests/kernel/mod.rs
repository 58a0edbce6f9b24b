//! A kernel for tests: processes with user memory and descriptors, who make system calls by their numbers.
//!
//! Every process can make calls beside the others. What the kernel itself allocates can be refused, as in the crates that
//! it is around.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use linux_raw_sys::general as abi;
use mnt_table::dentry::{Dentry, SuperBlockRef};
use mnt_table::memory::{self, Grow};
use mnt_table::sync::Mutex;
use mnt_table::{Kind, MntNamespace, MountFlags, MountSpec, PathRef, Source, WriteSet, pin};
use syscalls::abi::dispatch;
use syscalls::context::Log;
use syscalls::file_system::{
    Configure, FileSystemType, Parameter, Purpose, Request, SuperFlags, TypeFlags, TypeRef, Value,
};
use syscalls::nsfs::Namespaces;
use syscalls::user_memory::UserMemory;
use syscalls::{Errno, File, FileSystems, Kernel, Show, Task};
use tmpfs::{Options, TmpDentry, TmpSuperBlock};

/// The directories of every file system.
pub(crate) const DIRECTORIES: [&str; 4] = ["a", "b", "a/x", "b/x"];

/// Where user memory begins, and how much there is.
const BASE: usize = 0x10000;
const SIZE: usize = 0x10000;

/// Descriptors that a process can have.
const FILES_MAX: usize = 64;

/// What all processes share.
pub(crate) struct Machine {
    namespaces: Namespaces<TmpDentry>,
    fs_type: Arc<Tmpfs>,
}

/// A process of one thread.
pub(crate) struct Process {
    pub(crate) machine: Arc<Machine>,
    pub(crate) task: Task<TmpDentry>,
    memory: Mutex<Memory>,
    files: Mutex<Vec<Option<Arc<File<TmpDentry>>>>>,
    /// Whether others may run in the middle of its calls, also where there is but one processor for all.
    pub(crate) gives_way: AtomicBool,
}

struct Memory {
    bytes: Vec<u8>,
    used: usize,
}

/// The one type of file system. Its instances have [`DIRECTORIES`]; their numbers are those of their making, or the one
/// that the parameter `dev` gives.
pub(crate) struct Tmpfs(AtomicU32);

struct Config {
    fs_type: Arc<Tmpfs>,
    dev: Option<u32>,
}

impl Machine {
    /// With one process, at the root of a file system that is mounted over its namespace's first mount.
    pub(crate) fn start() -> Process {
        let fs_type = Arc::new(Tmpfs(AtomicU32::new(1)));
        let ns = MntNamespace::new(Kind::Ordinary).unwrap();
        let (hidden, base) = (fs_type.fresh(None).unwrap(), fs_type.fresh(None).unwrap());
        let spec = |root: &SuperBlockRef<TmpDentry>| {
            MountSpec::new(Arc::clone(root.root()), MountFlags::RELATIME, Source::new(b"none").unwrap())
        };
        let mut locks = WriteSet::one(&ns);
        let top = locks.new_mount(&ns, spec(&hidden)).unwrap();
        locks.attach_root(&ns, &top);
        let root = locks.new_mount(&ns, spec(&base)).unwrap();
        let joint = locks.prepare(&root, &top, top.root()).unwrap();
        locks.attach(&root, joint, &pin());
        drop(locks);
        let kept = root.keep(&pin()).ok().unwrap();
        let task = Task::new(&ns, &PathRef { mount: kept, dentry: Arc::clone(root.root()) }).unwrap();
        let namespaces = Namespaces::new();
        namespaces.add(&ns).unwrap();
        Process::new(&Arc::new(Machine { namespaces, fs_type }), task)
    }
}

impl Process {
    /// A process that is `task`.
    pub(crate) fn new(machine: &Arc<Machine>, task: Task<TmpDentry>) -> Self {
        let memory = Mutex::new(Memory { bytes: vec![0; SIZE], used: 0 });
        let files = Mutex::new(Vec::with_capacity(FILES_MAX));
        Process { machine: Arc::clone(machine), task, memory, files, gives_way: AtomicBool::new(false) }
    }

    /// fork(2), without descriptors.
    pub(crate) fn fork(&self) -> Self {
        Process::new(&self.machine, self.task.fork().unwrap())
    }

    /// Has the descriptors of `parent`.
    pub(crate) fn inherit(&self, parent: &Process) {
        self.files.lock().clone_from(&parent.files.lock());
    }

    /// Makes a call.
    pub(crate) fn call(&self, nr: u32, args: &[usize]) -> Result<usize, Errno> {
        let mut all = [0; 6];
        all[..args.len()].copy_from_slice(args);
        dispatch(self, nr as usize, all)
    }

    /// Puts `bytes` into user memory; returns where.
    pub(crate) fn put(&self, bytes: &[u8]) -> usize {
        let mut memory = self.memory.lock();
        let at = memory.used;
        memory.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        memory.used += bytes.len().next_multiple_of(8);
        BASE + at
    }

    /// Puts a string, with its NUL.
    pub(crate) fn text(&self, text: &str) -> usize {
        let at = self.put(text.as_bytes());
        self.put(b"\0");
        // `put` rounds up, and memory that was not written is zero.
        at
    }

    /// Puts numbers.
    pub(crate) fn words(&self, words: &[u64]) -> usize {
        let at = BASE + self.memory.lock().used;
        for word in words {
            self.put(&word.to_le_bytes());
        }
        at
    }

    /// Forgets what was put into user memory.
    pub(crate) fn forget(&self) {
        let mut memory = self.memory.lock();
        let used = memory.used;
        memory.bytes[..used].fill(0);
        memory.used = 0;
    }

    /// Closes a descriptor; whether there was one.
    pub(crate) fn close(&self, fd: usize) -> bool {
        // Not under the lock: it may be the end of mounts.
        let file = self.files.lock().get_mut(fd).and_then(Option::take);
        file.is_some()
    }

    /// Which descriptors are open.
    pub(crate) fn descriptors(&self) -> Vec<usize> {
        let files = self.files.lock();
        (0..files.len()).filter(|fd| files[*fd].is_some()).collect()
    }

    /// Opens `file`.
    pub(crate) fn open(&self, file: File<TmpDentry>) -> usize {
        self.install(file, false).unwrap() as usize
    }
}

impl Tmpfs {
    fn fresh(&self, dev: Option<u32>) -> Result<SuperBlockRef<TmpDentry>, Errno> {
        let dev = dev.unwrap_or_else(|| self.0.fetch_add(1, Ordering::Relaxed));
        let options = Options::new(dev, b"tmpfs");
        let no_memory = |_| Errno::ENOMEM;
        let root = SuperBlockRef::new(TmpSuperBlock::new(options).map_err(no_memory)?);
        for path in DIRECTORIES {
            let at = |name: &str| root.root().lookup(name.as_bytes(), &pin()).map(Arc::clone);
            let (parent, name) = match path.split_once('/') {
                Some((above, name)) => (at(above).expect("made before"), name),
                None => (Arc::clone(root.root()), path),
            };
            parent.mkdir(name.as_bytes()).map_err(no_memory)?;
        }
        Ok(root)
    }
}

impl FileSystemType<TmpDentry> for Tmpfs {
    fn name(&self) -> &[u8] {
        b"tmpfs"
    }

    fn flags(&self) -> TypeFlags {
        TypeFlags::USER_NS | TypeFlags::ID_MAPS | TypeFlags::SUBTYPES
    }

    fn configure(
        self: Arc<Self>,
        _purpose: Purpose<'_, TmpDentry>,
    ) -> Result<Box<dyn Configure<TmpDentry>>, Errno> {
        Ok(memory::boxed(Config { fs_type: self, dev: None })?)
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
            (b"dev", Value::String(number)) => {
                let number = str::from_utf8(number).ok().and_then(|number| number.parse().ok());
                self.dev = Some(number.ok_or(Errno::EINVAL)?);
            }
            (b"path", Value::Path(walk)) => drop(walk()?),
            (b"file" | b"blob", _) => log.info(&[b"taken"]),
            _ => return Ok(Parameter::Unknown),
        }
        Ok(Parameter::Taken)
    }

    fn get_tree(
        &mut self,
        _request: &Request<'_>,
        _log: &mut Log,
    ) -> Result<SuperBlockRef<TmpDentry>, Errno> {
        self.fs_type.fresh(self.dev)
    }

    fn reconfigure(&mut self, root: &Arc<TmpDentry>, flags: SuperFlags, _log: &mut Log) -> Result<(), Errno> {
        let done = root.super_block().set_read_only(flags.contains(SuperFlags::RDONLY));
        if done { Ok(()) } else { Err(Errno::EBUSY) }
    }
}

impl FileSystems<TmpDentry> for Process {
    fn file_system(&self, name: &[u8]) -> Option<TypeRef<TmpDentry>> {
        (name == b"tmpfs").then(|| Arc::clone(&self.machine.fs_type) as TypeRef<TmpDentry>)
    }

    fn type_of(&self, _root: &Arc<TmpDentry>) -> TypeRef<TmpDentry> {
        Arc::clone(&self.machine.fs_type) as TypeRef<TmpDentry>
    }

    fn super_flags(&self, root: &Arc<TmpDentry>) -> SuperFlags {
        if root.super_block().is_read_only() { SuperFlags::RDONLY } else { SuperFlags::empty() }
    }
}

impl Show<TmpDentry> for Process {
    fn device(&self, root: &Arc<TmpDentry>) -> (u32, u32) {
        (0, root.id().0)
    }

    fn fs_type(&self, _root: &Arc<TmpDentry>) -> Vec<u8> {
        b"tmpfs".to_vec()
    }

    fn options(&self, root: &Arc<TmpDentry>) -> Vec<u8> {
        if root.super_block().is_read_only() { b"ro,seen".to_vec() } else { b"rw,seen".to_vec() }
    }

    fn root_name(&self, _root: &Arc<TmpDentry>) -> Option<Vec<u8>> {
        None
    }

    fn statistics(&self, _root: &Arc<TmpDentry>) -> Option<Vec<u8>> {
        Some(b"none".to_vec())
    }
}

impl UserMemory for Process {
    fn read(&self, addr: usize, to: &mut [u8]) -> usize {
        // Relaxed: a hint.
        if self.gives_way.load(Ordering::Relaxed) {
            std::thread::yield_now();
        }
        let memory = self.memory.lock();
        let from = addr.checked_sub(BASE).and_then(|at| memory.bytes.get(at..)).unwrap_or_default();
        let count = from.len().min(to.len());
        to[..count].copy_from_slice(&from[..count]);
        count
    }

    fn write(&self, addr: usize, from: &[u8]) -> usize {
        let mut memory = self.memory.lock();
        let to = addr.checked_sub(BASE).and_then(|at| memory.bytes.get_mut(at..)).unwrap_or_default();
        let count = to.len().min(from.len());
        to[..count].copy_from_slice(&from[..count]);
        count
    }
}

impl Kernel<TmpDentry> for Process {
    fn task(&self) -> &Task<TmpDentry> {
        &self.task
    }

    fn file(&self, fd: i32) -> Result<Arc<File<TmpDentry>>, Errno> {
        let files = self.files.lock();
        let file = usize::try_from(fd).ok().and_then(|fd| files.get(fd)?.clone());
        file.ok_or(Errno::EBADF)
    }

    fn install(&self, file: File<TmpDentry>, _cloexec: bool) -> Result<i32, Errno> {
        let file = memory::arc(file)?;
        let mut files = self.files.lock();
        let at = match files.iter().position(Option::is_none) {
            Some(at) => at,
            None if files.len() == FILES_MAX => return Err(Errno::EMFILE),
            None => {
                files.try_push(None)?;
                files.len() - 1
            }
        };
        files[at] = Some(file);
        Ok(at as i32)
    }

    fn namespaces(&self) -> &Namespaces<TmpDentry> {
        &self.machine.namespaces
    }
}

/// The number of a call's argument that stands for the working directory.
pub(crate) const HERE: usize = abi::AT_FDCWD as isize as usize;
