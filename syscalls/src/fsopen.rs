//! Contexts from user space: fsopen(2), fspick(2), fsconfig(2), fsmount(2), and read(2) of a context.
//!
//! Numbers in comments are rows of the ordered checks of each call.

use alloc::sync::Arc;
use alloc::vec::Vec;

use linux_raw_sys::general as abi;
use linux_raw_sys::general::fsconfig_command as command;
use mnt_table::sync::BlockingMutex;
use mnt_table::{Dentry, LockPlan, MountFlags, MountSpec, Source};

use crate::attributes::{from_attr, times_from_attr};
use crate::context::{Context, Phase};
use crate::detached::Detached;
use crate::file::Object;
use crate::file_system::{SuperFlags, Value, find_type};
use crate::mount::revealing;
use crate::path::{Argument, Empty, last};
use crate::user_memory::{PAGE_SIZE, Text, copy, name, owned, read_all, zeroed};
use crate::{Errno, File, Kernel};

/// Bytes of a parameter's name, and of its value if that is a string; the NUL counted.
const PARAMETER_MAX: usize = 256;

/// Bytes of a value that is a blob.
const BLOB_MAX: i32 = 1 << 20;

/// fsopen(2): a context for something new. Returns its descriptor.
///
/// # Errors
/// `EPERM`, `EINVAL`, `EFAULT`, `ENODEV`; those of [`Kernel::install`].
pub fn fsopen<D: Dentry, K: Kernel<D>>(kernel: &K, fs_name: usize, flags: u32) -> Result<i32, Errno> {
    let task = kernel.task();
    task.may_mount()?;
    if flags & !abi::FSOPEN_CLOEXEC != 0 {
        return Err(Errno::EINVAL);
    }
    let fs_name = name(kernel, fs_name, PAGE_SIZE)?;
    let (fs_type, _) = find_type(kernel, &fs_name)?;
    let context = Context::for_mount(fs_type, &task.credentials(), SuperFlags::empty())?;
    install(kernel, context, flags & abi::FSOPEN_CLOEXEC != 0)
}

/// fspick(2): a context for a change of the file system mounted at a place. Returns its descriptor.
///
/// # Errors
/// `EPERM`, `EINVAL`: flags, or not the root of a mount; those of the walk and of [`Kernel::install`].
pub fn fspick<D: Dentry, K: Kernel<D>>(kernel: &K, dfd: i32, path: usize, flags: u32) -> Result<i32, Errno> {
    let task = kernel.task();
    task.may_mount()?;
    let known = abi::FSPICK_CLOEXEC
        | abi::FSPICK_SYMLINK_NOFOLLOW
        | abi::FSPICK_NO_AUTOMOUNT
        | abi::FSPICK_EMPTY_PATH;
    if flags & !known != 0 {
        return Err(Errno::EINVAL);
    }
    let empty = if flags & abi::FSPICK_EMPTY_PATH != 0 { Empty::Here } else { Empty::Refused };
    let follow = last(flags & abi::FSPICK_SYMLINK_NOFOLLOW == 0);
    // Kept, so that the instance is there when the context takes it.
    let at = Argument::read(kernel, dfd, path, empty)?.kept(task, follow)?;
    if !Arc::ptr_eq(at.mount.root(), &at.dentry) {
        return Err(Errno::EINVAL);
    }
    let (none, fs_type) = (SuperFlags::empty(), kernel.type_of(&at.dentry));
    let context = Context::for_reconfigure(fs_type, &at.dentry, none, none)?;
    install(kernel, context, flags & abi::FSPICK_CLOEXEC != 0)
}

fn install<D: Dentry, K: Kernel<D>>(kernel: &K, context: Context<D>, cloexec: bool) -> Result<i32, Errno> {
    kernel.install(File::new(None, Object::Context(BlockingMutex::new(context))), cloexec)
}

/// read(2) of a context: the next message of its log, if that has at most `max` bytes.
///
/// # Errors
/// `EINVAL`: not a context. `ENODATA`: no message. `EMSGSIZE`: it does not fit, and stays.
pub fn read<D: Dentry>(file: &File<D>, max: usize) -> Result<Vec<u8>, Errno> {
    file.context()?.lock().log().read(max)
}

/// The arguments of fsconfig(2).
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// What to do.
    pub command: u32,
    /// Where the parameter's name is.
    pub key: usize,
    /// Where its value is.
    pub value: usize,
    /// A length or a descriptor.
    pub aux: i32,
}

const SET_FLAG: u32 = command::FSCONFIG_SET_FLAG as u32;
const SET_STRING: u32 = command::FSCONFIG_SET_STRING as u32;
const SET_BINARY: u32 = command::FSCONFIG_SET_BINARY as u32;
const SET_PATH: u32 = command::FSCONFIG_SET_PATH as u32;
const SET_PATH_EMPTY: u32 = command::FSCONFIG_SET_PATH_EMPTY as u32;
const SET_FD: u32 = command::FSCONFIG_SET_FD as u32;
const CREATE: u32 = command::FSCONFIG_CMD_CREATE as u32;
const CREATE_EXCL: u32 = command::FSCONFIG_CMD_CREATE_EXCL as u32;
const RECONFIGURE: u32 = command::FSCONFIG_CMD_RECONFIGURE as u32;

/// fsconfig(2).
///
/// # Errors
/// `EINVAL`, `EOPNOTSUPP`, `EBADF`, `EFAULT`; `EBUSY`: not in this phase; `EPERM`; what the file system says.
pub fn fsconfig<D: Dentry, K: Kernel<D>>(kernel: &K, fd: i32, config: Config) -> Result<(), Errno> {
    if fd < 0 {
        return Err(Errno::EINVAL); // 1
    }
    has_shape(&config)?; // 2, 3
    let file = kernel.file(fd)?; // 4
    let context = file.context()?;
    match config.command {
        CREATE | CREATE_EXCL | RECONFIGURE => command(kernel, context, config.command),
        _ => set_parameter(kernel, context, &config),
    }
}

/// Whether each argument is there, or not, as the command wants it.
fn has_shape(config: &Config) -> Result<(), Errno> {
    let Config { command, key, value, aux } = *config;
    let (has_key, has_value) = (key != 0, value != 0);
    let fits = match command {
        SET_FLAG => has_key && !has_value && aux == 0,
        SET_STRING => has_key && has_value && aux == 0,
        SET_BINARY => has_key && has_value && (1..=BLOB_MAX).contains(&aux),
        SET_PATH | SET_PATH_EMPTY => has_key && has_value && (aux >= 0 || aux == abi::AT_FDCWD),
        SET_FD => has_key && !has_value && aux >= 0,
        CREATE | CREATE_EXCL | RECONFIGURE => !has_key && !has_value && aux == 0,
        _ => return Err(Errno::EOPNOTSUPP),
    };
    if fits { Ok(()) } else { Err(Errno::EINVAL) }
}

fn set_parameter<D: Dentry, K: Kernel<D>>(
    kernel: &K,
    context: &BlockingMutex<Context<D>>,
    config: &Config,
) -> Result<(), Errno> {
    let key = name(kernel, config.key, PARAMETER_MAX)?; // 5
    let set = |value: &Value<'_, D>| {
        let mut context = context.lock();
        context.finish_clean()?;
        if !matches!(context.phase(), Phase::CreateParams | Phase::ReconfParams) {
            return Err(Errno::EBUSY); // 6
        }
        context.set_parameter(&key, value)
    };
    match config.command {
        SET_FLAG => set(&Value::Flag),
        SET_STRING => set(&Value::String(&name(kernel, config.value, PARAMETER_MAX)?)),
        SET_BINARY => {
            let mut blob = zeroed(config.aux as usize)?;
            read_all(kernel, config.value, &mut blob)?;
            set(&Value::Blob(&blob))
        }
        SET_FD => set(&Value::File(&kernel.file(config.aux)?)),
        _ => {
            let path = owned(Text::User(kernel, config.value).read()?)?;
            let empty = config.command == SET_PATH_EMPTY;
            if path.is_empty() && !empty {
                return Err(Errno::ENOENT);
            }
            let argument = || Argument::from_path(kernel, config.aux, copy(&path)?);
            set(&Value::Path(&|| argument()?.kept(kernel.task(), last(true))))
        }
    }
}

fn command<D: Dentry, K: Kernel<D>>(
    kernel: &K,
    context: &BlockingMutex<Context<D>>,
    command: u32,
) -> Result<(), Errno> {
    let task = kernel.task();
    let mut context = context.lock();
    context.finish_clean()?;
    if command != RECONFIGURE {
        return context.create(&task.credentials(), command == CREATE_EXCL);
    }
    let (Phase::ReconfParams, Some(instance)) = (context.phase(), context.instance()) else {
        return Err(Errno::EBUSY);
    };
    let root = Arc::clone(instance.root());
    if let Err(errno) = task.may_reconfigure(root.super_block()) {
        context.fail();
        return Err(errno);
    }
    context.reconfigure(kernel.super_flags(&root))?;
    context.clean();
    Ok(())
}

/// fsmount(2): a new mount of a context's instance, alone in an anonymous namespace. Returns the descriptor of its root.
///
/// # Errors
/// `EPERM`: who, or too revealing. `EINVAL`: flags; no context; no instance. `EBADF`. `EBUSY`: mounted already. `ENOSPC`:
/// too many namespaces. `ENOMEM`; those of [`Kernel::install`].
pub fn fsmount<D: Dentry, K: Kernel<D>>(kernel: &K, fd: i32, flags: u32, attr: u32) -> Result<i32, Errno> {
    let task = kernel.task();
    task.may_mount()?; // 1
    if flags & !abi::FSMOUNT_CLOEXEC != 0 {
        return Err(Errno::EINVAL); // 2
    }
    let flags_of_mount = new_mount_flags(attr)?; // 3, 4
    let file = kernel.file(fd)?; // 5
    let mut context = file.context()?.lock();
    let root = Arc::clone(context.instance().ok_or(Errno::EINVAL)?.root()); // 6
    let ns = task.namespace();
    let fs_type = Arc::clone(context.fs_type());
    let checked = revealing::check(kernel, &ns, &fs_type, flags_of_mount); // 7
    if checked.is_err() {
        context.log().error(&[b"VFS: Mount too revealing"]);
    }
    let flags_of_mount = checked?;
    if context.phase() != Phase::AwaitingMount {
        return Err(Errno::EBUSY); // 8
    }
    let source = Source::new(context.source().unwrap_or(b"none"))?;
    context.clean();
    let root = Detached::empty(&ns, None)?.fill(LockPlan::new(&ns), |locks, to| {
        let spec = MountSpec::new(Arc::clone(&root), flags_of_mount, source.clone());
        let mount = locks.new_mount(to, spec)?;
        locks.attach_root(to, &mount);
        Ok(mount)
    })?;
    drop(context);
    kernel.install(File::new(Some(root), Object::Tree), flags & abi::FSMOUNT_CLOEXEC != 0)
}

/// The flags of a mount made with these attributes.
///
/// # Errors
/// `EINVAL`: others than can be given here; more than one kind of access times.
fn new_mount_flags(attr: u32) -> Result<MountFlags, Errno> {
    let known = abi::MOUNT_ATTR_RDONLY
        | abi::MOUNT_ATTR_NOSUID
        | abi::MOUNT_ATTR_NODEV
        | abi::MOUNT_ATTR_NOEXEC
        | abi::MOUNT_ATTR__ATIME
        | abi::MOUNT_ATTR_NODIRATIME
        | abi::MOUNT_ATTR_NOSYMFOLLOW;
    if attr & !known != 0 {
        return Err(Errno::EINVAL);
    }
    Ok(from_attr(attr.into()) | times_from_attr(attr.into())?)
}
