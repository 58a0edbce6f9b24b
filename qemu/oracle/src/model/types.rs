//! The file system types that there are: tmpfs and ramfs, each mount of a new instance; proc; and sysfs, whose one instance
//! all mounts share.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};

use mnt_table::dentry::SuperBlockRef;
use mnt_table::{Dentry, UserNs};
use syscalls::context::Log;
use syscalls::file_system::{
    Configure, FileSystemType, Parameter, Purpose, Request, SuperFlags, TypeFlags, TypeRef, Value,
};
use syscalls::{Credentials, Errno};
use tmpfs::{Options, TmpDentry, TmpSuperBlock};

use super::proc::{Processes, as_kernel};

/// All types, and the flags of all instances.
pub(super) struct Types {
    pub(super) all: Vec<Arc<Type>>,
    instances: Arc<Instances>,
}

/// The instances of all types.
pub(super) struct Instances {
    next: AtomicU32,
    flags: Mutex<HashMap<u32, SuperFlags>>,
    pub(super) processes: Processes,
    /// User namespaces that own a pid namespace too, by their ids.
    pub(super) pid_owners: Mutex<Vec<u64>>,
}

/// One type.
pub(super) struct Type {
    name: &'static str,
    instances: Arc<Instances>,
    /// The instance that all mounts share, of a type that has one only.
    single: Option<Mutex<Weak<TmpDentry>>>,
}

/// The type of the files of namespaces, which nobody can ask for.
pub(super) const NSFS: &str = "nsfs";

/// The parameters of tmpfs.
const TMPFS: [&[u8]; 9] =
    [b"size", b"mode", b"uid", b"gid", b"nr_blocks", b"nr_inodes", b"huge", b"inode32", b"inode64"];

impl Types {
    pub(super) fn new() -> Self {
        let instances = Arc::new(Instances {
            next: AtomicU32::new(1),
            flags: Mutex::default(),
            processes: Processes::default(),
            pid_owners: Mutex::default(),
        });
        let new = |name| {
            let single = (name == "sysfs").then(|| Mutex::new(Weak::new()));
            Arc::new(Type { name, instances: Arc::clone(&instances), single })
        };
        Types { all: ["tmpfs", "ramfs", "proc", "sysfs", "pipefs", NSFS].map(new).to_vec(), instances }
    }

    pub(super) fn instances(&self) -> &Arc<Instances> {
        &self.instances
    }

    /// The type called `name`.
    pub(super) fn find(&self, name: &[u8]) -> Option<TypeRef<TmpDentry>> {
        let found = self.all.iter().find(|found| found.name.as_bytes() == name)?;
        Some(Arc::clone(found) as TypeRef<TmpDentry>)
    }
}

impl Instances {
    /// A new, empty instance.
    pub(super) fn fresh(
        &self,
        fs_type: &str,
        flags: SuperFlags,
        owner: &UserNs,
    ) -> Result<SuperBlockRef<TmpDentry>, Errno> {
        // Relaxed: a number.
        let dev = self.next.fetch_add(1, Ordering::Relaxed);
        let read_only = flags.contains(SuperFlags::RDONLY);
        let options = Options { read_only, ..Options::new(dev, fs_type.as_bytes()) };
        let root = TmpSuperBlock::new(options).map_err(|_| Errno::ENOMEM)?;
        root.super_block().set_owner(owner.clone());
        self.flags.lock().expect("no panic").insert(dev, flags);
        Ok(SuperBlockRef::new(root))
    }

    /// The flags of an instance.
    pub(super) fn flags(&self, super_block: &TmpSuperBlock) -> SuperFlags {
        let flags = self.flags.lock().expect("no panic").get(&super_block.dev()).copied();
        let mut flags = flags.unwrap_or_default();
        // An umount of somebody's root can have made it so.
        flags.set(SuperFlags::RDONLY, super_block.is_read_only());
        flags
    }
}

impl FileSystemType<TmpDentry> for Type {
    fn name(&self) -> &[u8] {
        self.name.as_bytes()
    }

    fn flags(&self) -> TypeFlags {
        match self.name {
            "tmpfs" => TypeFlags::USER_NS | TypeFlags::ID_MAPS,
            "ramfs" => TypeFlags::USER_NS,
            "pipefs" | NSFS => TypeFlags::INTERNAL,
            _ => TypeFlags::USER_NS | TypeFlags::EXPOSES_KERNEL,
        }
    }

    fn owner(&self, credentials: &Credentials) -> UserNs {
        let own = &credentials.user_ns;
        let owns_pids = || self.instances.pid_owners.lock().expect("no panic").contains(&own.id());
        match self.name {
            "proc" if !owns_pids() => UserNs::INITIAL,
            "sysfs" => UserNs::INITIAL,
            _ => own.clone(),
        }
    }

    fn configure(
        self: Arc<Self>,
        _purpose: Purpose<'_, TmpDentry>,
    ) -> Result<Box<dyn Configure<TmpDentry>>, Errno> {
        Ok(Box::new(Config { fs_type: self }))
    }
}

/// A configuration of any of them.
struct Config {
    fs_type: Arc<Type>,
}

impl Configure<TmpDentry> for Config {
    fn set_parameter(
        &mut self,
        key: &[u8],
        value: &Value<'_, TmpDentry>,
        log: &mut Log,
    ) -> Result<Parameter, Errno> {
        let known = match self.fs_type.name {
            "tmpfs" => TMPFS.contains(&key),
            "proc" => key == b"subset" || key == b"hidepid",
            // It ignores what it does not know.
            "ramfs" if key != b"source" => return Ok(Parameter::Taken),
            _ => false,
        };
        if !known {
            return Ok(Parameter::Unknown);
        }
        let number = |text: &[u8]| text.first().is_some_and(u8::is_ascii_digit);
        match value {
            Value::String(text) if key != b"size" || number(text) => Ok(Parameter::Taken),
            Value::Flag if key.starts_with(b"inode") => Ok(Parameter::Taken),
            _ => {
                log.error(&[self.fs_type.name(), b": Bad value for '", key, b"'"]);
                Err(Errno::EINVAL)
            }
        }
    }

    fn get_tree(&mut self, request: &Request<'_>, _log: &mut Log) -> Result<SuperBlockRef<TmpDentry>, Errno> {
        let of = &self.fs_type;
        if let Some(single) = &of.single {
            let mut single = single.lock().expect("no panic");
            let living = single.upgrade().filter(|root| !root.super_block().is_shut_down());
            return match living {
                Some(_) if request.exclusive => Err(Errno::EBUSY),
                Some(root) => Ok(SuperBlockRef::new(root)),
                None => {
                    let made = of.instances.fresh(of.name, request.flags, request.owner)?;
                    *single = Arc::downgrade(made.root());
                    Ok(made)
                }
            };
        }
        let made = of.instances.fresh(of.name, request.flags, request.owner)?;
        if of.name == "proc" {
            as_kernel(made.root(), || of.instances.processes.fill(made.root()))?;
        }
        Ok(made)
    }

    fn reconfigure(&mut self, root: &Arc<TmpDentry>, flags: SuperFlags, _log: &mut Log) -> Result<(), Errno> {
        let super_block = root.super_block();
        if !super_block.set_read_only(flags.contains(SuperFlags::RDONLY)) {
            return Err(Errno::EBUSY);
        }
        self.fs_type.instances.flags.lock().expect("no panic").insert(super_block.dev(), flags);
        Ok(())
    }
}
