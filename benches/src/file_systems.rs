//! The instances that `mount(2)` mounts: one that is there, and new ones.

use std::sync::Arc;

use mnt_table::Dentry;
use mnt_table::dentry::SuperBlockRef;
use syscalls::{Errno, FileSystems, Show};
use tmpfs::TmpDentry;

use crate::namespace::fresh_tmpfs;

/// The file systems of one namespace, so that namespaces share no superblock.
pub struct Instances {
    dev: u32,
    prepared: SuperBlockRef<TmpDentry>,
}

impl Instances {
    /// The type of the instance that is there.
    pub const PREPARED: &[u8] = b"prepared";
    /// The type of new instances.
    pub const FRESH: &[u8] = b"tmpfs";

    /// Instances that say they are `dev`.
    pub fn new(dev: u32) -> Self {
        Instances { dev, prepared: SuperBlockRef::new(fresh_tmpfs(dev)) }
    }
}

impl FileSystems<TmpDentry> for Instances {
    fn get_tree(
        &self,
        fs_type: &[u8],
        _: Option<&[u8]>,
        _: &[u8],
    ) -> Result<SuperBlockRef<TmpDentry>, Errno> {
        match fs_type {
            Self::PREPARED => Ok(SuperBlockRef::new(self.prepared.root().clone())),
            Self::FRESH => Ok(SuperBlockRef::new(fresh_tmpfs(self.dev))),
            _ => Err(Errno::ENODEV),
        }
    }
}

impl Show<TmpDentry> for Instances {
    fn device(&self, root: &Arc<TmpDentry>) -> (u32, u32) {
        (0, root.super_block().dev())
    }

    fn fs_type(&self, _: &Arc<TmpDentry>) -> Vec<u8> {
        b"tmpfs".to_vec()
    }

    fn options(&self, _: &Arc<TmpDentry>) -> Vec<u8> {
        b"rw".to_vec()
    }

    fn root_name(&self, _: &Arc<TmpDentry>) -> Option<Vec<u8>> {
        None
    }
}
