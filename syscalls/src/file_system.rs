//! File system types, and how an instance of one is configured.
//!
//! A kernel lists its types ([`FileSystems`]). A type opens a configuration ([`Configure`]): parameters one by one, then
//! an instance ([`Configure::get_tree`]) or a change of one that is there ([`Configure::reconfigure`]). mount(2) and
//! fsopen(2) both go this way; [`crate::context`] has what they share.

use alloc::boxed::Box;
use alloc::sync::Arc;

use bitflags::bitflags;
use linux_raw_sys::general as abi;
use mnt_table::dentry::SuperBlockRef;
use mnt_table::{Dentry, PathRef, UserNs};

use crate::context::Log;
use crate::{Credentials, Errno, File};

bitflags! {
    /// What a file system type is like.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct TypeFlags: u32 {
        /// Admins of a user namespace may have instances that it owns; of others, only those of the machine.
        const USER_NS = 1;
        /// `type.subtype` is a name of it.
        const SUBTYPES = 2;
        /// Its mounts can be id-mapped.
        const ID_MAPS = 4;
        /// It shows the kernel's state (proc, sysfs): not to be mounted where something of it is covered for good.
        const EXPOSES_KERNEL = 8;
        /// Only the kernel mounts it.
        const INTERNAL = 0x10;
    }
}

bitflags! {
    /// A superblock's own flags, with the values that they have in mount(2) and statmount(2).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct SuperFlags: u32 {
        /// Nothing can be written.
        const RDONLY = abi::MS_RDONLY;
        /// Writes are synchronous.
        const SYNCHRONOUS = abi::MS_SYNCHRONOUS;
        /// Mandatory locks, once.
        const MANDLOCK = abi::MS_MANDLOCK;
        /// Changes of directories are synchronous.
        const DIRSYNC = abi::MS_DIRSYNC;
        /// Not a word in the kernel's log.
        const SILENT = abi::MS_SILENT;
        /// Access control lists.
        const POSIXACL = abi::MS_POSIXACL;
        /// Inode versions.
        const I_VERSION = abi::MS_I_VERSION;
        /// Times are written late.
        const LAZYTIME = abi::MS_LAZYTIME;
    }
}

impl SuperFlags {
    /// Those that a remount can change.
    pub const CHANGEABLE: SuperFlags = SuperFlags::from_bits_retain(abi::MS_RMT_MASK);
}

/// The file systems of the kernel around this crate.
pub trait FileSystems<D: Dentry>: Sync {
    /// The type with this name; without a subtype.
    fn file_system(&self, name: &[u8]) -> Option<TypeRef<D>>;

    /// The type of the instance that `root` is in.
    fn type_of(&self, root: &Arc<D>) -> TypeRef<D>;

    /// The flags of the instance that `root` is in.
    fn super_flags(&self, root: &Arc<D>) -> SuperFlags;

    /// Whether a directory is empty and stays so, being there only to be mounted on (`/proc/sys/fs/binfmt_misc`).
    fn is_permanently_empty(&self, dentry: &Arc<D>) -> bool {
        let _ = dentry;
        false
    }
}

/// The type that a user means by `name`, and the subtype that stands behind a dot; it may be empty.
///
/// # Errors
/// `ENODEV`: there is none, or it has no subtypes.
pub(crate) fn find_type<'a, D: Dentry>(
    kernel: &(impl FileSystems<D> + ?Sized),
    name: &'a [u8],
) -> Result<(TypeRef<D>, Option<&'a [u8]>), Errno> {
    let mut parts = name.splitn(2, |byte| *byte == b'.');
    let (base, subtype) = (parts.next().unwrap_or(name), parts.next());
    let found = kernel.file_system(base).ok_or(Errno::ENODEV)?;
    let fits = subtype.is_none() || found.flags().contains(TypeFlags::SUBTYPES);
    if fits { Ok((found, subtype)) } else { Err(Errno::ENODEV) }
}

/// A file system type, whichever it is.
pub type TypeRef<D> = Arc<dyn FileSystemType<D>>;

/// A file system type.
pub trait FileSystemType<D: Dentry>: Send + Sync {
    /// Its name.
    fn name(&self) -> &[u8];

    /// What it is like.
    fn flags(&self) -> TypeFlags {
        TypeFlags::empty()
    }

    /// The user namespace that would own an instance that a task with these credentials makes, and in which it needs
    /// `CAP_SYS_ADMIN` if the type has [`TypeFlags::USER_NS`].
    ///
    /// Usually the task's own. A type that shows another kind of namespace (proc, sysfs, mqueue) says who owns that.
    fn owner(&self, credentials: &Credentials) -> UserNs {
        credentials.user_ns.clone()
    }

    /// Begins a configuration.
    ///
    /// # Errors
    /// `ENOMEM`; whatever the type says.
    fn configure(self: Arc<Self>, purpose: Purpose<'_, D>) -> Result<Box<dyn Configure<D>>, Errno>;
}

/// What a configuration is for.
pub enum Purpose<'a, D: Dentry> {
    /// A mount.
    Mount,
    /// A change of the instance with this root.
    Reconfigure(&'a Arc<D>),
}

/// The value of a parameter.
pub enum Value<'a, D: Dentry> {
    /// None: the parameter is a flag.
    Flag,
    /// A string.
    String(&'a [u8]),
    /// Bytes.
    Blob(&'a [u8]),
    /// A path, which is walked when it is asked for.
    Path(&'a dyn Fn() -> Result<PathRef<D>, Errno>),
    /// An open file.
    File(&'a Arc<File<D>>),
}

/// Whether a type knows a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parameter {
    /// It took it.
    Taken,
    /// It has none with this name.
    Unknown,
}

/// What an instance is asked for with.
pub struct Request<'a> {
    /// The source, such as a device.
    pub source: Option<&'a [u8]>,
    /// The part of the type's name behind the dot.
    pub subtype: Option<&'a [u8]>,
    /// Flags of the superblock.
    pub flags: SuperFlags,
    /// The user namespace that a new instance belongs to.
    pub owner: &'a UserNs,
    /// Only a new instance will do: `EBUSY` where one that is there would be returned.
    pub exclusive: bool,
}

/// A configuration under way.
///
/// Flags of the superblock (`ro`, `sync` and so on) never come here, and `source` only if the type takes it itself.
pub trait Configure<D: Dentry>: Send {
    /// One parameter.
    ///
    /// # Errors
    /// `EINVAL` and whatever else the value deserves; the log can say why.
    fn set_parameter(&mut self, key: &[u8], value: &Value<'_, D>, log: &mut Log) -> Result<Parameter, Errno> {
        let _ = (key, value, log);
        Ok(Parameter::Unknown)
    }

    /// The instance that was asked for: a new one, or one that is there.
    ///
    /// Context: no lock of the mount table held; may block.
    ///
    /// # Errors
    /// Whatever the file system says of source and parameters.
    fn get_tree(&mut self, request: &Request<'_>, log: &mut Log) -> Result<SuperBlockRef<D>, Errno>;

    /// Gives the instance with this root the parameters that were set, and `flags`: all its flags, as they will be.
    ///
    /// Context: as [`Configure::get_tree`].
    ///
    /// # Errors
    /// `EBUSY`: it is to become read-only, and is written to through one of its mounts, or has a file that is open and
    /// removed. What else the file system says. Then it is as before.
    fn reconfigure(&mut self, root: &Arc<D>, flags: SuperFlags, log: &mut Log) -> Result<(), Errno>;
}
