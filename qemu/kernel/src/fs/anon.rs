//! Files that are in no directory: pipes, sockets, and what `anon_inode:[…]` stands for; and what the calls about mounts
//! make.
//!
//! They are dentries of file systems that only the kernel mounts, each in a namespace of its own, so that they have a
//! place, and links to them in proc can be followed.

use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;

use linux_raw_sys::general as abi;
use mnt_table::dentry::SuperBlockRef;
use mnt_table::namespace::{Kind as NsKind, NamespaceSpec};
use mnt_table::{MntNamespace, Mount, MountFlags, MountSpec, PathRef, Source, UserNs, WriteSet, memory, pin};
use syscalls::file::Object;
use syscalls::file_system::{Request, SuperFlags};
use syscalls::{Credentials, Errno, File};
use tmpfs::{Handle, New, TmpDentry, What, mode};

use super::file::{FileOps, OpenFile};
use super::node::{self, Node};
use super::types::{self, Internal, Make};
use super::{error, permission};
use crate::arch::spin::SpinLock;

/// Which of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A pipe.
    Pipe,
    /// A socket.
    Socket,
    /// Another thing; its name.
    Anon(&'static str),
}

/// A mount of the kernel's own.
#[derive(Clone)]
pub(crate) struct KernelMount {
    mount: Arc<Mount<TmpDentry>>,
    _ns: Arc<MntNamespace<TmpDentry>>,
}

impl KernelMount {
    /// Mounts `root` in a namespace of its own.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn new(root: &SuperBlockRef<TmpDentry>, source: &[u8]) -> Result<Self, Errno> {
        let no_memory = |_| Errno::ENOMEM;
        let source = Source::new(source).map_err(no_memory)?;
        let ns = MntNamespace::from_spec(NamespaceSpec::new(NsKind::Internal)).map_err(no_memory)?;
        let mut locks = WriteSet::one(&ns);
        let spec = MountSpec::new(Arc::clone(root.root()), MountFlags::empty(), source);
        let mount = locks.new_mount(&ns, spec).map_err(|_| Errno::ENOMEM)?;
        locks.attach_root(&ns, &mount);
        drop(locks);
        Ok(KernelMount { mount, _ns: ns })
    }

    /// The root of what is mounted.
    pub(crate) fn root(&self) -> &Arc<TmpDentry> {
        self.mount.root()
    }

    /// A place in it.
    pub(crate) fn path(&self, dentry: Arc<TmpDentry>) -> PathRef<TmpDentry> {
        loop {
            let kept = self.mount.keep(&pin());
            match kept {
                Ok(mount) => return PathRef { mount, dentry },
                // Nobody umounts it.
                Err(unkept) => unkept.settle(),
            }
        }
    }
}

struct Mounts {
    pipes: KernelMount,
    sockets: KernelMount,
    others: KernelMount,
    memory: KernelMount,
}

static MOUNTS: SpinLock<Option<Arc<Mounts>>> = SpinLock::new(None);

const PIPEFS_MAGIC: u64 = 0x5049_5045;
const SOCKFS_MAGIC: u64 = 0x534f_434b;
const ANON_INODE_MAGIC: u64 = 0x0904_1934;
const TMPFS_MAGIC: u64 = 0x0102_1994;

/// Mounts them. Context: boot.
///
/// # Errors
/// `ENOMEM`.
pub(crate) fn init() -> Result<(), Errno> {
    let mounts = Mounts {
        pipes: internal(b"pipefs", PIPEFS_MAGIC)?,
        sockets: internal(b"sockfs", SOCKFS_MAGIC)?,
        others: internal(b"anon_inodefs", ANON_INODE_MAGIC)?,
        memory: kernel_mount(b"tmpfs", TMPFS_MAGIC)?,
    };
    *MOUNTS.lock() = Some(Arc::new(mounts));
    Ok(())
}

/// A mount of an instance of a type that only the kernel uses, which is registered.
///
/// # Errors
/// `ENOMEM`.
pub(crate) fn internal(name: &'static [u8], magic: u64) -> Result<KernelMount, Errno> {
    types::register(Arc::new(Internal(name)));
    kernel_mount(name, magic)
}

fn kernel_mount(name: &'static [u8], magic: u64) -> Result<KernelMount, Errno> {
    let request = Request {
        source: Some(name),
        subtype: None,
        flags: SuperFlags::empty(),
        owner: &UserNs::INITIAL,
        exclusive: false,
    };
    let root = types::instance(Make::new(name, magic, What::Directory, (0o555, 0, 0)), &request)?;
    KernelMount::new(&root, name)
}

fn mounts() -> Arc<Mounts> {
    MOUNTS.lock().clone().expect("mounted at boot, before anybody opens anything")
}

/// The mount that files of memfd_create(2) are in.
pub(crate) fn memory_mount() -> KernelMount {
    mounts().memory.clone()
}

/// What stands for an open file that is in no directory.
struct Thing {
    kind: Kind,
}

impl Handle for Thing {
    fn mode(&self) -> u32 {
        match self.kind {
            Kind::Pipe => mode::FIFO | 0o600,
            Kind::Socket => mode::SOCKET | 0o777,
            Kind::Anon(_) => 0o600,
        }
    }
}

impl Node for Thing {
    fn open(&self, at: &PathRef<TmpDentry>, flags: u32) -> Result<node::Opened, Errno> {
        match self.kind {
            Kind::Pipe => super::pipe::open_attached(&at.dentry, flags),
            Kind::Socket | Kind::Anon(_) => Err(Errno::ENXIO),
        }
    }
}

/// The dentry of a new one.
pub(crate) fn dentry(kind: Kind) -> Result<PathRef<TmpDentry>, Errno> {
    let mounts = mounts();
    let mount = match kind {
        Kind::Pipe => &mounts.pipes,
        Kind::Socket => &mounts.sockets,
        Kind::Anon(_) => &mounts.others,
    };
    let who = permission::current();
    let handle = node::handle(Thing { kind })?;
    let mode = handle.mode() & 0o7777;
    let new = New { what: What::Handle(handle), mode, uid: who.fsuid, gid: who.fsgid };
    let dentry = mount.root().nameless(new).map_err(error)?;
    Ok(mount.path(dentry))
}

/// An open file of `ops`; `flags` are those of open(2): access mode and status flags.
///
/// # Errors
/// `ENOMEM`.
pub(crate) fn open(ops: Arc<dyn FileOps>, kind: Kind, flags: u32) -> Result<Arc<OpenFile>, Errno> {
    open_at(ops, dentry(kind)?, flags)
}

/// As [`open`], at a place that is there.
pub(crate) fn open_at(
    ops: Arc<dyn FileOps>,
    at: PathRef<TmpDentry>,
    flags: u32,
) -> Result<Arc<OpenFile>, Errno> {
    let file = memory::arc(File::at(at)).map_err(|_| Errno::ENOMEM)?;
    OpenFile::new(ops, file, flags, permission::current(), None)
}

/// As [`open`], and gives it a descriptor of the running thread's.
///
/// # Errors
/// `EMFILE`, `ENOMEM`.
pub(crate) fn install(ops: Arc<dyn FileOps>, kind: Kind, flags: u32, cloexec: bool) -> Result<usize, Errno> {
    let file = open(ops, kind, flags)?;
    super::install(file, cloexec)
}

/// What a link to it reads, if it is one of these: `pipe:[7]`.
pub(crate) fn name(dentry: &TmpDentry) -> Option<Vec<u8>> {
    let thing = node::downcast::<Thing>(dentry)?;
    let (_, ino) = dentry.id();
    Some(
        match thing.kind {
            Kind::Pipe => format!("pipe:[{ino}]"),
            Kind::Socket => format!("socket:[{ino}]"),
            Kind::Anon(name) => format!("anon_inode:{name}"),
        }
        .into_bytes(),
    )
}

/// A file that calls about mounts made: a tree, a context, a place, a namespace.
pub(crate) struct OfMounts;

impl FileOps for OfMounts {
    fn read(&self, file: &OpenFile, to: &mut super::copy::Sink<'_>, _at: u64) -> Result<usize, Errno> {
        let context = file.file().context()?;
        let message = syscalls::context::Log::read(context.lock().log(), to.left())?;
        to.put(&message)
    }
}

/// An open file for one of `syscalls`.
///
/// # Errors
/// `ENOMEM`.
pub(crate) fn of_mounts(file: File<TmpDentry>, who: Arc<Credentials>) -> Result<Arc<OpenFile>, Errno> {
    let flags = match file.object() {
        Object::Place | Object::Tree => abi::O_PATH,
        Object::Context(_) | Object::Process(_) => abi::O_RDWR,
        _ => abi::O_RDONLY,
    };
    let no_memory = |_| Errno::ENOMEM;
    let ops: Arc<dyn FileOps> = match file.object() {
        Object::MountNamespace(_) | Object::UserNamespace(_) | Object::OtherNamespace(_) => {
            memory::arc(super::nsfs::Operations).map_err(no_memory)?
        }
        _ => memory::arc(OfMounts).map_err(no_memory)?,
    };
    OpenFile::new(ops, memory::arc(file).map_err(no_memory)?, flags, who, None)
}
