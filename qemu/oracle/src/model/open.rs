//! Open files.

use std::sync::{Arc, Mutex};

use mnt_table::writers::WriteRef;
use mnt_table::{Dentry, MountRef};
use syscalls::File;
use syscalls::mounts_file::MountsFile;
use tmpfs::{TmpDentry, TmpSuperBlock};

/// What can be done with an open file, beside what the calls about mounts do with it.
pub(super) enum Access {
    /// Nothing: it is a place only (`O_PATH`), or a context, or a namespace.
    Place,
    /// A file or directory.
    Contents,
    /// `mountinfo` and its like.
    Mounts(MountsFile<TmpDentry>),
    /// `sys/user/max_mnt_namespaces`.
    MaxMntNamespaces,
}

/// An open file, which descriptors share.
pub(super) struct Open {
    pub(super) file: Arc<File<TmpDentry>>,
    pub(super) access: Access,
    /// Open for writing, it keeps its mount writable.
    _writes: Option<WriteRef<MountRef<TmpDentry>>>,
    /// The instance whose file it is that lost its name.
    nameless: Mutex<Option<Arc<TmpSuperBlock>>>,
}

impl Open {
    /// A file that nothing can be read from or written to.
    pub(super) fn place(file: File<TmpDentry>) -> Arc<Self> {
        Self::new(file, Access::Place, None)
    }

    /// An open file, for writing with `writes`.
    pub(super) fn new(
        file: File<TmpDentry>,
        access: Access,
        writes: Option<WriteRef<MountRef<TmpDentry>>>,
    ) -> Arc<Self> {
        Arc::new(Open { file: Arc::new(file), access, _writes: writes, nameless: Mutex::default() })
    }

    /// Its file has lost its name, and keeps its file system from becoming read-only.
    pub(super) fn lose_name(&self) {
        let mut nameless = self.nameless.lock().expect("no panic");
        if let (None, Some(path)) = (&*nameless, self.file.path()) {
            path.dentry.super_block().get_nameless();
            *nameless = Some(Arc::clone(path.dentry.super_block()));
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.nameless.get_mut().expect("no panic").iter().for_each(|super_block| super_block.put_nameless());
    }
}
