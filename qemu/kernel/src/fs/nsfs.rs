//! nsfs: the files of namespaces. One instance, which the kernel mounts for itself; its files can be bound elsewhere.
//!
//! A namespace's file is made when somebody follows a link to it, and found again as long as somebody has it. A mount of
//! it keeps the namespace; so does an open file.
//!
//! # Lock order
//! `FILES` (sleeping) → directories of the instance. `holds` is a leaf.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use linux_raw_sys::general as abi;
use mnt_table::namespace::MntNamespace;
use mnt_table::sync::BlockingMutex;
use mnt_table::walk::Resolve;
use mnt_table::{PathRef, UserNs};
use syscalls::Errno;
use syscalls::file::{File, NamespaceRef, Object, OtherNamespace};
use tmpfs::{Handle, New, TmpDentry, What, mode};

use super::anon::{self, KernelMount};
use super::error;
use super::file::{FileOps, OpenFile};
use super::kernel::Call;
use super::node::{self, Node, Opened};
use super::open::{self, How};
use crate::arch::spin::SpinLock;
use crate::task::Thread;

const MAGIC: u64 = abi::NSFS_MAGIC as u64;

/// A namespace.
#[derive(Clone)]
pub(crate) enum Namespace {
    Mounts(Arc<MntNamespace<TmpDentry>>),
    Users(UserNs),
    Other(Arc<dyn OtherNamespace>),
}

/// The numbers of mount and user namespaces of boot on Linux, and where those of others begin here. Other kinds have
/// their own.
const MOUNTS_INITIAL: u64 = 4_026_531_840;
const USERS_INITIAL: u64 = 4_026_531_837;
const MOUNTS: u64 = 0xf400_0000;
const USERS: u64 = 0xf800_0000;

impl Namespace {
    /// The one of the kind `kind` (`CLONE_NEW*`) that `thread` is in, or that its children are going to be in. `None`: there is
    /// no such kind, or nobody is in it yet.
    pub(crate) fn of_thread(thread: &Thread, kind: u32, of_children: bool) -> Option<Namespace> {
        let namespaces = thread.namespaces();
        Some(match (kind, of_children) {
            (abi::CLONE_NEWNS, _) => Namespace::Mounts(thread.mounts().namespace()),
            (abi::CLONE_NEWUSER, _) => Namespace::Users(thread.credentials().user_ns.clone()),
            (abi::CLONE_NEWPID, false) => Namespace::Other(Arc::clone(thread.pid_ns()) as _),
            (abi::CLONE_NEWPID, true) => {
                let ns = namespaces.pid_for_children.clone();
                ns.init()?;
                Namespace::Other(ns)
            }
            (abi::CLONE_NEWTIME, true) => Namespace::Other(namespaces.time_for_children.clone()),
            (kind, _) => Namespace::Other(namespaces.of_kind(kind)?),
        })
    }

    /// The flag of its kind.
    fn kind(&self) -> u32 {
        match self {
            Namespace::Mounts(_) => abi::CLONE_NEWNS,
            Namespace::Users(_) => abi::CLONE_NEWUSER,
            Namespace::Other(ns) => ns.kind(),
        }
    }

    /// The number of its file.
    pub(crate) fn number(&self) -> u64 {
        match self {
            // Relaxed: written at boot.
            Namespace::Mounts(ns) if ns.id().0 == FIRST_ID.load(Ordering::Relaxed) => MOUNTS_INITIAL,
            Namespace::Mounts(ns) => MOUNTS + ns.id().0,
            Namespace::Users(ns) if ns.is_initial() => USERS_INITIAL,
            Namespace::Users(ns) => USERS + ns.id(),
            Namespace::Other(ns) => ns.id(),
        }
    }

    /// Its name, such as `mnt:[4026531840]`.
    pub(crate) fn name(&self) -> String {
        let kind = match self.kind() {
            abi::CLONE_NEWNS => "mnt",
            abi::CLONE_NEWUSER => "user",
            abi::CLONE_NEWPID => "pid",
            abi::CLONE_NEWUTS => "uts",
            abi::CLONE_NEWIPC => "ipc",
            abi::CLONE_NEWNET => "net",
            abi::CLONE_NEWCGROUP => "cgroup",
            _ => "time",
        };
        alloc::format!("{kind}:[{}]", self.number())
    }

    fn object(&self) -> Object<TmpDentry> {
        match self {
            Namespace::Mounts(ns) => Object::MountNamespace(NamespaceRef::new(ns)),
            Namespace::Users(ns) => Object::UserNamespace(ns.clone()),
            Namespace::Other(ns) => Object::OtherNamespace(Arc::clone(ns)),
        }
    }

    /// The one that an object is of.
    fn of(object: &Object<TmpDentry>) -> Option<Namespace> {
        match object {
            Object::MountNamespace(ns) => Some(Namespace::Mounts(Arc::clone(ns))),
            Object::UserNamespace(ns) => Some(Namespace::Users(ns.clone())),
            Object::OtherNamespace(ns) => Some(Namespace::Other(Arc::clone(ns))),
            _ => None,
        }
    }
}

/// The number of the mount namespace of boot.
static FIRST_ID: AtomicU64 = AtomicU64::new(0);

/// A file.
struct NamespaceFile {
    of: Namespace,
    /// Mounts of it, each of which keeps a mount namespace.
    holds: SpinLock<Vec<NamespaceRef<TmpDentry>>>,
}

impl Handle for NamespaceFile {
    fn mode(&self) -> u32 {
        mode::FILE | 0o444
    }

    fn is_handle(&self) -> bool {
        true
    }

    fn mnt_namespace(&self) -> Option<&Arc<MntNamespace<TmpDentry>>> {
        match &self.of {
            Namespace::Mounts(ns) => Some(ns),
            _ => None,
        }
    }

    fn mounted(&self) {
        if let Namespace::Mounts(ns) = &self.of {
            // Under the locks of a change, whose memory is claimed.
            mnt_table::memory::covered(|| self.holds.lock().push(NamespaceRef::new(ns)));
        }
    }

    fn unmounted(&self) {
        let held = self.holds.lock().pop();
        drop(held);
    }
}

impl Node for NamespaceFile {
    fn open(&self, _at: &PathRef<TmpDentry>, flags: u32) -> Result<Opened, Errno> {
        if flags & abi::O_ACCMODE != abi::O_RDONLY {
            return Err(Errno::EPERM);
        }
        let ops: Arc<dyn FileOps> = mnt_table::memory::arc(Operations).map_err(|_| Errno::ENOMEM)?;
        Ok(Opened { ops, object: self.of.object() })
    }

    fn root_name(&self) -> Option<Vec<u8>> {
        Some(self.of.name().into_bytes())
    }

    fn ino(&self) -> Option<u64> {
        Some(self.of.number())
    }
}

/// What an open file of a namespace does: nothing but ioctl(2), which `syscalls` answers.
pub(crate) struct Operations;

impl FileOps for Operations {
    fn ioctl(&self, file: &Arc<OpenFile>, request: u32, arg: usize) -> Result<usize, Errno> {
        let thread = crate::task::current();
        let call = Call { thread: &thread };
        syscalls::nsfs::nsfs_ioctl(&call, file.file(), request, arg)
    }
}

/// The mount, and the files that somebody may have.
struct Nsfs {
    mount: KernelMount,
    files: BTreeMap<(u32, u64), Weak<TmpDentry>>,
    tidy_at: usize,
}

static FILES: BlockingMutex<Option<Nsfs>> = BlockingMutex::new(None);

/// `first` is the mount namespace that the first process is going to be in.
pub(super) fn set_first(first: &MntNamespace<TmpDentry>) {
    FIRST_ID.store(first.id().0, Ordering::Relaxed); // Relaxed: before there is a process.
}

/// Makes the instance. Context: boot.
///
/// # Errors
/// `ENOMEM`.
pub(super) fn init() -> Result<(), Errno> {
    const TIDY_AT: usize = 64;
    let mount = anon::internal(b"nsfs", MAGIC)?;
    *FILES.lock() = Some(Nsfs { mount, files: BTreeMap::new(), tidy_at: TIDY_AT });
    Ok(())
}

/// Where the file of a namespace is.
///
/// # Errors
/// `ENOMEM`.
pub(crate) fn path(of: Namespace) -> Result<PathRef<TmpDentry>, Errno> {
    let mut files = FILES.lock();
    let nsfs = files.as_mut().ok_or(Errno::ENOMEM)?;
    let key = (of.kind(), of.number());
    let dentry = match nsfs.files.get(&key).and_then(Weak::upgrade) {
        Some(dentry) => dentry,
        None => {
            if nsfs.files.len() >= nsfs.tidy_at {
                nsfs.files.retain(|_, file| file.strong_count() != 0);
                nsfs.tidy_at = nsfs.tidy_at.max(2 * nsfs.files.len());
            }
            let handle = node::handle(NamespaceFile { of, holds: SpinLock::new(Vec::new()) })?;
            let dentry = nsfs.mount.root().unlisted(New::of(What::Handle(handle))).map_err(error)?;
            let weak = Arc::downgrade(&dentry);
            mnt_table::memory::once(|| nsfs.files.insert(key, weak)).map_err(|_| Errno::ENOMEM)?;
            dentry
        }
    };
    Ok(nsfs.mount.path(dentry))
}

/// Opens the file of a namespace; returns the descriptor.
///
/// # Errors
/// `EMFILE`, `ENOMEM`.
pub(crate) fn install(of: Namespace) -> Result<usize, Errno> {
    let thread = crate::task::current();
    let how = How { flags: abi::O_RDONLY, mode: 0, resolve: Resolve::empty() };
    let call = Call { thread: &thread };
    call.install_file(open::at_place(&call, path(of)?, how)?, true)
}

/// An open file of a namespace that somebody has, for `syscalls`.
pub(crate) fn file(object: Object<TmpDentry>) -> File<TmpDentry> {
    let path = Namespace::of(&object).and_then(|of| path(of).ok());
    File::new(path, object)
}
