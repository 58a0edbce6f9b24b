//! Open files.

use std::sync::{Arc, Mutex};

use mnt_table::Dentry;
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
    /// The instance that it keeps from becoming read-only.
    writes: Mutex<Option<Arc<TmpSuperBlock>>>,
}

impl Open {
    /// A file that nothing can be read from or written to.
    pub(super) fn place(file: File<TmpDentry>) -> Arc<Self> {
        Arc::new(Open { file: Arc::new(file), access: Access::Place, writes: Mutex::default() })
    }

    /// An open file.
    pub(super) fn new(file: File<TmpDentry>, access: Access, writes: bool) -> Arc<Self> {
        let open = Arc::new(Open { file: Arc::new(file), access, writes: Mutex::default() });
        if writes {
            open.keep_writable();
        }
        open
    }

    /// It keeps its file system from becoming read-only: it writes, or it is of a file without a name.
    pub(super) fn keep_writable(&self) {
        let mut writes = self.writes.lock().expect("no panic");
        if let (None, Some(path)) = (&*writes, self.file.path()) {
            path.dentry.super_block().get_writer();
            *writes = Some(Arc::clone(path.dentry.super_block()));
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.writes.get_mut().expect("no panic").iter().for_each(|super_block| super_block.put_writer());
    }
}
