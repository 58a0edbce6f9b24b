//! The files of namespaces, in a file system of the kernel's own.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use mnt_table::{MntNamespace, Mount, PathRef, UserNs, pin};
use syscalls::File;
use syscalls::file::{NamespaceRef, Object};
use tmpfs::{Handle, TmpDentry};

/// What a file of a namespace stands for.
pub(super) struct NamespaceFile {
    of: Of,
    /// Mounts of it, each of which keeps the namespace.
    holds: Mutex<Vec<NamespaceRef<TmpDentry>>>,
}

enum Of {
    Mounts(Arc<MntNamespace<TmpDentry>>),
    Users(UserNs),
}

impl NamespaceFile {
    pub(super) fn mount_namespace(ns: &Arc<MntNamespace<TmpDentry>>) -> Self {
        NamespaceFile { of: Of::Mounts(Arc::clone(ns)), holds: Mutex::default() }
    }

    pub(super) fn user_namespace(ns: &UserNs) -> Self {
        NamespaceFile { of: Of::Users(ns.clone()), holds: Mutex::default() }
    }

    /// The name of the file.
    pub(super) fn name(&self) -> String {
        match &self.of {
            Of::Mounts(ns) => format!("mnt:[{}]", ns.id().0),
            Of::Users(ns) => format!("user:[{}]", ns.id()),
        }
    }

    /// What a descriptor of it refers to.
    pub(super) fn object(&self) -> Object<TmpDentry> {
        match &self.of {
            Of::Mounts(ns) => Object::MountNamespace(NamespaceRef::new(ns)),
            Of::Users(ns) => Object::UserNamespace(ns.clone()),
        }
    }
}

impl Handle for NamespaceFile {
    fn is_handle(&self) -> bool {
        true
    }

    fn mnt_namespace(&self) -> Option<&Arc<MntNamespace<TmpDentry>>> {
        match &self.of {
            Of::Mounts(ns) => Some(ns),
            Of::Users(_) => None,
        }
    }

    fn mounted(&self) {
        if let Of::Mounts(ns) = &self.of {
            self.holds.lock().expect("no panic").push(NamespaceRef::new(ns));
        }
    }

    fn unmounted(&self) {
        let held = self.holds.lock().expect("no panic").pop();
        drop(held);
    }
}

/// The file system.
pub(super) struct Nsfs {
    mount: Arc<Mount<TmpDentry>>,
    files: Mutex<HashMap<String, Arc<TmpDentry>>>,
}

impl Nsfs {
    /// With its one mount.
    pub(super) fn new(mount: Arc<Mount<TmpDentry>>) -> Self {
        Nsfs { mount, files: Mutex::default() }
    }

    /// Where a file is; it is made if there is none yet.
    pub(super) fn path(&self, file: NamespaceFile) -> Option<PathRef<TmpDentry>> {
        let mut files = self.files.lock().expect("no panic");
        let name = file.name();
        let dentry = match files.get(&name) {
            Some(dentry) => Arc::clone(dentry),
            None => {
                let made = self.mount.root().make_handle(name.as_bytes(), Arc::new(file)).ok()?;
                files.insert(name, Arc::clone(&made));
                made
            }
        };
        let mount = self.mount.keep(&pin()).ok()?;
        Some(PathRef { mount, dentry })
    }

    /// An open file of a namespace that somebody has.
    pub(super) fn open(&self, object: Object<TmpDentry>) -> File<TmpDentry> {
        let file = match &object {
            Object::MountNamespace(ns) => NamespaceFile::mount_namespace(ns),
            Object::UserNamespace(ns) => NamespaceFile::user_namespace(ns),
            _ => return File::new(None, object),
        };
        File::new(self.path(file), object)
    }
}
