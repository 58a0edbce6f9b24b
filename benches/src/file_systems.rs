//! The instances that `mount(2)` mounts: one that is there, and new ones.

use std::sync::Arc;

use mnt_table::dentry::SuperBlockRef;
use syscalls::context::Log;
use syscalls::file_system::{Configure, FileSystemType, FileSystems, Purpose, Request, SuperFlags};
use syscalls::{Errno, Show};
use tmpfs::TmpDentry;

use crate::namespace::fresh_tmpfs;

/// The file systems of one namespace, so that namespaces share no superblock.
pub struct Instances {
    prepared: Arc<Prepared>,
    fresh: Arc<Fresh>,
}

/// The type of the instance that is there.
struct Prepared(SuperBlockRef<TmpDentry>);

/// The type of new instances, which say they are this device.
struct Fresh(u32);

impl Instances {
    /// The name of the type of the instance that is there.
    pub const PREPARED: &[u8] = b"prepared";
    /// The name of the type of new instances.
    pub const FRESH: &[u8] = b"tmpfs";

    /// Instances that say they are `dev`.
    pub fn new(dev: u32) -> Self {
        let prepared = Arc::new(Prepared(SuperBlockRef::new(fresh_tmpfs(dev))));
        Instances { prepared, fresh: Arc::new(Fresh(dev)) }
    }
}

impl FileSystems<TmpDentry> for Instances {
    fn file_system(&self, name: &[u8]) -> Option<Arc<dyn FileSystemType<TmpDentry>>> {
        match name {
            Self::PREPARED => Some(Arc::clone(&self.prepared) as Arc<dyn FileSystemType<TmpDentry>>),
            Self::FRESH => Some(Arc::clone(&self.fresh) as Arc<dyn FileSystemType<TmpDentry>>),
            _ => None,
        }
    }

    fn type_of(&self, _: &Arc<TmpDentry>) -> Arc<dyn FileSystemType<TmpDentry>> {
        Arc::clone(&self.fresh) as Arc<dyn FileSystemType<TmpDentry>>
    }

    fn super_flags(&self, _: &Arc<TmpDentry>) -> SuperFlags {
        SuperFlags::empty()
    }
}

impl FileSystemType<TmpDentry> for Prepared {
    fn name(&self) -> &[u8] {
        Instances::PREPARED
    }

    fn configure(self: Arc<Self>, _: Purpose<'_, TmpDentry>) -> Result<Box<dyn Configure<TmpDentry>>, Errno> {
        Ok(Box::new(One(SuperBlockRef::new(Arc::clone(self.0.root())))))
    }
}

impl FileSystemType<TmpDentry> for Fresh {
    fn name(&self) -> &[u8] {
        Instances::FRESH
    }

    fn configure(self: Arc<Self>, _: Purpose<'_, TmpDentry>) -> Result<Box<dyn Configure<TmpDentry>>, Errno> {
        Ok(Box::new(One(SuperBlockRef::new(fresh_tmpfs(self.0)))))
    }
}

/// A configuration with nothing to configure.
struct One(SuperBlockRef<TmpDentry>);

impl Configure<TmpDentry> for One {
    fn get_tree(&mut self, _: &Request<'_>, _: &mut Log) -> Result<SuperBlockRef<TmpDentry>, Errno> {
        Ok(SuperBlockRef::new(Arc::clone(self.0.root())))
    }

    fn reconfigure(&mut self, _: &Arc<TmpDentry>, _: SuperFlags, _: &mut Log) -> Result<(), Errno> {
        Err(Errno::EINVAL)
    }
}

impl Show<TmpDentry> for Instances {
    fn device(&self, root: &Arc<TmpDentry>) -> (u32, u32) {
        (0, root.id().0)
    }

    fn fs_type(&self, _: &Arc<TmpDentry>) -> Vec<u8> {
        Self::FRESH.to_vec()
    }

    fn options(&self, _: &Arc<TmpDentry>) -> Vec<u8> {
        b"rw".to_vec()
    }

    fn root_name(&self, _: &Arc<TmpDentry>) -> Option<Vec<u8>> {
        None
    }
}
