//! devtmpfs: one tmpfs with the nodes of all devices, which every mount of it shows.

use alloc::boxed::Box;
use alloc::sync::Arc;

use linux_raw_sys::general as abi;
use mnt_table::dentry::SuperBlockRef;
use mnt_table::sync::BlockingMutex;
use mnt_table::{UserNs, memory};
use syscalls::context::Log;
use syscalls::file_system::{
    Configure, FileSystemType, Parameter, Purpose, Request, SuperFlags, TypeFlags, Value,
};
use syscalls::{Credentials, Errno};
use tmpfs::{New, TmpDentry, What, mode};

use super::error;
use super::types::{self, Make};
use crate::dev;

const MAGIC: u64 = abi::TMPFS_MAGIC as u64;
/// The group that disks are of everywhere.
const DISK: u32 = 6;
/// The group of terminals.
const TTY: u32 = 5;

const LINKS: [(&str, &str); 4] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];

/// The instance, once somebody has asked for it; it is there for good.
static INSTANCE: BlockingMutex<Option<SuperBlockRef<TmpDentry>>> = BlockingMutex::new(None);

/// The type.
pub(crate) struct Devtmpfs;

impl FileSystemType<TmpDentry> for Devtmpfs {
    fn name(&self) -> &[u8] {
        b"devtmpfs"
    }

    fn flags(&self) -> TypeFlags {
        TypeFlags::empty()
    }

    fn owner(&self, _credentials: &Credentials) -> UserNs {
        UserNs::INITIAL
    }

    fn configure(
        self: Arc<Self>,
        _purpose: Purpose<'_, TmpDentry>,
    ) -> Result<Box<dyn Configure<TmpDentry>>, Errno> {
        Ok(memory::boxed(Config).map_err(|_| Errno::ENOMEM)?)
    }
}

struct Config;

impl Configure<TmpDentry> for Config {
    /// Those of tmpfs are taken, and the instance stays as it is.
    fn set_parameter(
        &mut self,
        key: &[u8],
        value: &Value<'_, TmpDentry>,
        _log: &mut Log,
    ) -> Result<Parameter, Errno> {
        let known = [&b"size"[..], b"mode", b"nr_blocks", b"nr_inodes", b"uid", b"gid", b"huge"];
        match value {
            Value::String(text) if known.contains(&key) => {
                let starts = text.first().is_some_and(u8::is_ascii_alphanumeric);
                if starts { Ok(Parameter::Taken) } else { Err(Errno::EINVAL) }
            }
            Value::Flag if [&b"inode32"[..], b"inode64"].contains(&key) => Ok(Parameter::Taken),
            _ if known.contains(&key) => Err(Errno::EINVAL),
            _ => Ok(Parameter::Unknown),
        }
    }

    fn get_tree(&mut self, request: &Request<'_>, _log: &mut Log) -> Result<SuperBlockRef<TmpDentry>, Errno> {
        let mut instance = INSTANCE.lock();
        if let Some(instance) = &*instance {
            if request.exclusive {
                return Err(Errno::EBUSY);
            }
            return Ok(SuperBlockRef::new(Arc::clone(instance.root())));
        }
        let mut make = Make::new(b"devtmpfs", MAGIC, What::Directory, (0o755, 0, 0));
        make.parameters = b",mode=755".to_vec();
        let owned = Request {
            source: Some(b"devtmpfs"),
            subtype: None,
            flags: SuperFlags::empty(),
            owner: &UserNs::INITIAL,
            exclusive: false,
        };
        let made = types::instance(make, &owned)?;
        fill(made.root())?;
        let root = SuperBlockRef::new(Arc::clone(made.root()));
        *instance = Some(made);
        Ok(root)
    }

    fn reconfigure(&mut self, root: &Arc<TmpDentry>, flags: SuperFlags, _log: &mut Log) -> Result<(), Errno> {
        types::reconfigure(root, flags)
    }
}

fn fill(root: &Arc<TmpDentry>) -> Result<(), Errno> {
    for node in &dev::NODES {
        let kind = if node.is_block { mode::BLOCK } else { mode::CHARACTER };
        let gid = match node.name {
            "tty" | "ptmx" => TTY,
            _ if node.is_block => DISK,
            _ => 0,
        };
        let number = super::device_number(node.numbers.0, node.numbers.1);
        let new = New { what: What::Special(kind, number), mode: node.mode, uid: 0, gid };
        root.adopt(node.name.as_bytes(), new).map_err(error)?;
    }
    for (name, target) in LINKS {
        root.adopt(name.as_bytes(), New::of(What::Symlink(target.as_bytes()))).map_err(error)?;
    }
    Ok(())
}
