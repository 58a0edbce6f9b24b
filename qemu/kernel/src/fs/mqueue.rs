//! mqueue: the file system that message queues are in. It can be mounted, and is empty: there are no queues here.

use alloc::boxed::Box;
use alloc::sync::Arc;

use mnt_table::dentry::SuperBlockRef;
use mnt_table::{UserNs, memory};
use syscalls::context::Log;
use syscalls::file::OtherNamespace;
use syscalls::file_system::{Configure, FileSystemType, Purpose, Request, SuperFlags, TypeFlags};
use syscalls::{Credentials, Errno};
use tmpfs::{TmpDentry, What};

use super::node;
use super::proc::directory::{DirectoryNode, FixedDirectory};
use super::singles::Singles;
use super::types::{self, Make};
use crate::task;

const MAGIC: u64 = 0x1980_0202;

/// Instances, by the numbers of IPC namespaces.
static INSTANCES: Singles = Singles::new();

/// The type.
pub(crate) struct Mqueue;

impl FileSystemType<TmpDentry> for Mqueue {
    fn name(&self) -> &[u8] {
        b"mqueue"
    }

    fn flags(&self) -> TypeFlags {
        TypeFlags::USER_NS
    }

    fn owner(&self, _credentials: &Credentials) -> UserNs {
        task::with_current(|thread| thread.namespaces().ipc.owner().clone()).unwrap_or(UserNs::INITIAL)
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
    fn get_tree(&mut self, request: &Request<'_>, _log: &mut Log) -> Result<SuperBlockRef<TmpDentry>, Errno> {
        let of = task::current().namespaces().ipc.id();
        INSTANCES.get(of, request, || {
            let root = node::handle(DirectoryNode(FixedDirectory::<()>(&[], ())))?;
            types::instance(Make::new(b"mqueue", MAGIC, What::HandleDirectory(root), (0o1777, 0, 0)), request)
        })
    }

    fn reconfigure(&mut self, root: &Arc<TmpDentry>, flags: SuperFlags, _log: &mut Log) -> Result<(), Errno> {
        types::reconfigure(root, flags)
    }
}
