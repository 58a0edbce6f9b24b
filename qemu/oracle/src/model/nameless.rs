//! Files in use that have no name any more: they keep their file system from becoming read-only.

use std::sync::Arc;

use mnt_table::namespace::namespace_of;
use mnt_table::{Dentry, Mount, WriteSet};
use syscalls::file::Object;
use tmpfs::TmpDentry;

use super::kernel::World;
use super::nsfs::NamespaceFile;
use super::proc::thing;
use super::{Model, Namespace};

/// What was found in use so far.
#[derive(Default)]
struct Used {
    dentries: Vec<Arc<TmpDentry>>,
    namespaces: Vec<Namespace>,
}

impl Used {
    fn namespace(&mut self, ns: &Namespace) {
        if !self.namespaces.iter().any(|known| Arc::ptr_eq(known, ns)) {
            self.namespaces.push(Arc::clone(ns));
        }
    }

    /// The namespace whose file `dentry` is.
    fn file(&mut self, dentry: &TmpDentry) {
        if let Some(Object::MountNamespace(ns)) = thing::<NamespaceFile>(dentry).map(NamespaceFile::object) {
            self.namespace(&ns);
        }
    }

    /// `dentry`, and `mount` with all that is in one tree with it.
    fn place(&mut self, mount: &Arc<Mount<TmpDentry>>, dentry: &Arc<TmpDentry>) {
        self.dentries.extend([Arc::clone(dentry), Arc::clone(mount.root())]);
        if let Some(ns) = namespace_of(mount) {
            self.namespace(&ns);
        }
    }

    /// The roots of all mounts, also of the namespaces that mounts keep.
    fn mounts(&mut self) {
        let mut at = 0;
        while let Some(ns) = self.namespaces.get(at).cloned() {
            let roots: Vec<_> =
                WriteSet::one(&ns).mounts(&ns).map(|mount| Arc::clone(mount.root())).collect();
            roots.iter().for_each(|root| self.file(root));
            self.dentries.extend(roots);
            at += 1;
        }
    }
}

impl Model {
    /// Counts them anew.
    pub(super) fn count_nameless(&self) {
        let mut used = Used::default();
        for process in self.processes.iter().flatten() {
            used.namespace(&process.task.namespace());
            let fs = process.task.fs();
            [fs.root(), fs.cwd()].iter().for_each(|(mount, dentry)| used.place(mount, dentry));
            let open = process.fds.lock().expect("no panic").clone();
            let mapped = process.mapped.lock().expect("no panic").clone();
            for open in open.iter().flatten().chain(&mapped) {
                if let Some(at) = open.file.path() {
                    used.file(&at.dentry);
                    used.place(&at.mount.to_arc(), &at.dentry);
                }
            }
        }
        used.mounts();
        self.world.set_nameless(&used.dentries);
    }
}

impl World {
    /// Those of `used` that have no name keep their file systems writable, and what was found before does no more.
    fn set_nameless(&self, used: &[Arc<TmpDentry>]) {
        // Entries that the kernel takes away had no name to begin with; other names of a file are names of it.
        let is_nameless = |dentry: &&Arc<TmpDentry>| {
            let is_kernels = dentry.super_block().fs_type() == b"proc";
            dentry.is_removed() && dentry.inode().names() == 0 && !is_kernels
        };
        let nameless = used.iter().filter(is_nameless);
        let nameless: Vec<_> = nameless.map(|dentry| Arc::clone(dentry.super_block())).collect();
        nameless.iter().for_each(|super_block| super_block.get_nameless());
        let before = std::mem::replace(&mut *self.nameless.lock().expect("no panic"), nameless);
        before.iter().for_each(|super_block| super_block.put_nameless());
    }
}
