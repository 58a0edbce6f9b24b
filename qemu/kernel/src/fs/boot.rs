//! The first mounts: an empty root that stays, as from Linux 7.0 on, and over it the file system that the initramfs is
//! unpacked into.
//!
//! Nobody stands on the empty root, nothing can be made in it, and it can neither be umounted nor pivoted away from. So what
//! is over it can be: `pivot_root` works in an initramfs as anywhere else.

use alloc::sync::Arc;
use core::fmt;

use linux_raw_sys::general as abi;
use mnt_table::dentry::SuperBlockRef;
use mnt_table::namespace::{Kind, NamespaceSpec};
use mnt_table::{MntNamespace, Mount, MountFlags, MountSpec, PathRef, Source, UserNs, WriteSet, memory, pin};
use syscalls::file_system::{Request, SuperFlags};
use syscalls::{Credentials, Errno, File};
use tmpfs::{FsError, New, TmpDentry, What, mode};

use super::fd::FdTable;
use super::file::OpenFile;
use super::memory_types::{self, Type};
use super::overlay::Overlay;
use super::types::{self, Internal, Make};
use super::{anon, device_number, initramfs};
use crate::task::thread::Mounts;

const NULLFS_MAGIC: u64 = 0x4e55_4c4c;

/// Why user space cannot be begun with.
#[derive(Debug)]
pub(crate) enum Error {
    /// No memory for the first mounts.
    Memory(Errno),
    /// A bad image.
    Image(initramfs::Error),
}

impl From<Errno> for Error {
    fn from(errno: Errno) -> Self {
        Error::Memory(errno)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Memory(errno) => write!(f, "the first file systems cannot be mounted: {errno}"),
            Error::Image(error) => error.fmt(f),
        }
    }
}

/// Registers the file system types of this module, and mounts those that only the kernel sees. Once.
///
/// # Errors
/// `ENOMEM`.
pub(crate) fn init() -> Result<(), Errno> {
    for of in [Type::Rootfs, Type::Tmpfs, Type::Ramfs] {
        types::register(Arc::new(of));
    }
    types::register(Arc::new(Overlay));
    types::register(Arc::new(Internal(b"nullfs")));
    anon::init()
}

/// Mounts the first file systems and unpacks `image`; returns what the first process is to stand on.
///
/// Context: after [`init`]; once.
///
/// # Errors
/// [`Error`].
pub(crate) fn mount_root(image: &[u8]) -> Result<Mounts, Error> {
    let request = Request {
        source: Some(b"none"),
        subtype: None,
        flags: SuperFlags::empty(),
        owner: &UserNs::INITIAL,
        exclusive: false,
    };
    let empty =
        types::instance(Make::new(b"nullfs", NULLFS_MAGIC, What::Directory, (0o555, 0, 0)), &request)?;
    let root = memory_types::rootfs()?;
    fill(root.root()).map_err(initramfs::Error::from).map_err(Error::Image)?;
    initramfs::unpack(image, root.root()).map_err(Error::Image)?;
    let no_memory = |_| Errno::ENOMEM;
    let ns: Arc<MntNamespace<TmpDentry>> =
        MntNamespace::from_spec(NamespaceSpec::new(Kind::Ordinary)).map_err(no_memory)?;
    let mut locks = WriteSet::one(&ns);
    let bottom = locks.new_mount(&ns, spec(&empty, b"nullfs")?).map_err(|_| Errno::ENOMEM)?;
    locks.attach_root(&ns, &bottom);
    let top = locks.new_mount(&ns, spec(&root, b"rootfs")?).map_err(|_| Errno::ENOMEM)?;
    let joint = locks.prepare(&top, &bottom, bottom.root()).map_err(|_| Errno::ENOMEM)?;
    locks.attach(&top, joint, &pin());
    drop(locks);
    super::nsfs::set_first(&ns);
    super::kernel::namespaces().add(&ns).map_err(|_| Errno::ENOMEM)?;
    Ok(Mounts::new(&ns, &path(&top, root.root()))?)
}

fn spec(root: &SuperBlockRef<TmpDentry>, source: &'static [u8]) -> Result<MountSpec<TmpDentry>, Errno> {
    let source = Source::new(source).map_err(|_| Errno::ENOMEM)?;
    Ok(MountSpec::new(Arc::clone(root.root()), MountFlags::empty(), source))
}

fn path(mount: &Arc<Mount<TmpDentry>>, dentry: &Arc<TmpDentry>) -> PathRef<TmpDentry> {
    loop {
        let kept = mount.keep(&pin());
        match kept {
            Ok(mount) => return PathRef { mount, dentry: Arc::clone(dentry) },
            // Nobody umounts it yet.
            Err(unkept) => unkept.settle(),
        }
    }
}

/// What the root has before anything is unpacked: a console.
fn fill(root: &Arc<TmpDentry>) -> Result<(), FsError> {
    const CONSOLE: (u32, u32) = (5, 1);
    let dev = root.adopt(b"dev", New::of(What::Directory))?;
    let console = What::Special(mode::CHARACTER, device_number(CONSOLE.0, CONSOLE.1));
    dev.adopt(b"console", New { what: console, mode: 0o600, uid: 0, gid: 0 })?;
    root.adopt(b"root", New { mode: 0o700, ..New::of(What::Directory) })?;
    Ok(())
}

/// The descriptors of the first process: the console, three times, if `/dev/console` can be opened.
///
/// # Errors
/// `ENOMEM`.
pub(crate) fn first_files(mounts: &Mounts) -> Result<Arc<FdTable>, Errno> {
    let files = FdTable::new()?;
    let found = mnt_table::walk::walk(&mounts.fs(), b"/dev/console", mnt_table::walk::Last::Follow);
    if let Ok(at) = found
        && at.dentry.inode().file_type() == mode::CHARACTER
    {
        let (major, minor) = super::device_parts(at.dentry.inode().rdev());
        if let Ok(ops) = crate::dev::open_char(major, minor, abi::O_RDWR, &at) {
            let file = memory::arc(File::at(at)).map_err(|_| Errno::ENOMEM)?;
            let who = memory::arc(Credentials::ROOT).map_err(|_| Errno::ENOMEM)?;
            let console = OpenFile::new(ops, file, abi::O_RDWR | abi::O_LARGEFILE, who, None)?;
            for _ in 0..3 {
                files.install(Arc::clone(&console), 0, usize::MAX, false)?;
            }
        }
    }
    Ok(files)
}
