//! Open files.

use std::sync::Arc;

use mnt_table::MountRef;
use mnt_table::writers::WriteRef;
use syscalls::File;
use syscalls::file::Object;
use syscalls::mounts_file::MountsFile;
use tmpfs::TmpDentry;

use super::nsfs::NamespaceFile;
use super::proc::thing;

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
    /// The namespace whose file it is, be it as a place only.
    _keeps: Option<Object<TmpDentry>>,
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
        let kept = file.path().and_then(|at| Some(thing::<NamespaceFile>(&at.dentry)?.object()));
        Arc::new(Open { file: Arc::new(file), access, _writes: writes, _keeps: kept })
    }
}
