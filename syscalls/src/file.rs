//! What a file descriptor refers to, as far as mounts are concerned.

use alloc::sync::{Arc, Weak};

use mnt_table::sync::BlockingMutex;
use mnt_table::{Dentry, MntNamespace, PathRef, UserNs};

use crate::context::Context;
use crate::task::leave;
use crate::{Errno, Task, detached};

/// What a file descriptor refers to. The kernel keeps it in an `Arc` that all descriptors of one open file share, and drops
/// it with the last of them, where it may block: that can be the end of mounts.
pub struct File<D: Dentry> {
    path: Option<PathRef<D>>,
    object: Object<D>,
}

/// What a file is beside a path.
pub enum Object<D: Dentry> {
    /// Nothing that this crate cares about.
    Plain,
    /// No open file but a place (`O_PATH`): good for paths that begin there, and for nothing else.
    Place,
    /// The root of a tree that fsmount(2) or open_tree(2) made, and that ends with the file unless it is attached.
    Tree,
    /// fsopen(2), fspick(2).
    Context(BlockingMutex<Context<D>>),
    /// `/proc/PID/ns/mnt`.
    MountNamespace(NamespaceRef<D>),
    /// `/proc/PID/ns/user`.
    UserNamespace(UserNs),
    /// Another kind of namespace.
    OtherNamespace(Arc<dyn OtherNamespace>),
    /// A pidfd. It keeps nothing of a process that is gone.
    Process(Weak<Task<D>>),
}

/// A namespace of a kind that mounts know nothing of.
pub trait OtherNamespace: core::any::Any + Send + Sync {
    /// The `CLONE_NEW*` flag of its kind.
    fn kind(&self) -> u32;

    /// A number that no other namespace of its kind has.
    fn id(&self) -> u64;

    /// The user namespace that owns it.
    fn owner(&self) -> &UserNs;

    /// The one above it, if the calling task may see that.
    ///
    /// # Errors
    /// `EINVAL`: this kind has no levels. `EPERM`: there is none, or not for this task.
    fn parent(&self) -> Result<Arc<dyn OtherNamespace>, Errno> {
        Err(Errno::EINVAL)
    }
}

impl<D: Dentry> File<D> {
    /// An open file: its place, and what it is.
    pub fn new(path: Option<PathRef<D>>, object: Object<D>) -> Self {
        File { path, object }
    }

    /// An ordinary file, or a directory.
    pub fn at(path: PathRef<D>) -> Self {
        File::new(Some(path), Object::Plain)
    }

    /// A place (`O_PATH`).
    pub fn place(path: PathRef<D>) -> Self {
        File::new(Some(path), Object::Place)
    }

    /// Where it was opened. Files that are in no file system that mounts show, such as a context, have no place.
    pub fn path(&self) -> Option<&PathRef<D>> {
        self.path.as_ref()
    }

    /// What it is.
    pub fn object(&self) -> &Object<D> {
        &self.object
    }

    /// What it is, for a call that does something with an open file.
    ///
    /// # Errors
    /// `EBADF`: it is a place only.
    pub fn opened(&self) -> Result<&Object<D>, Errno> {
        match &self.object {
            Object::Place | Object::Tree => Err(Errno::EBADF),
            object => Ok(object),
        }
    }

    /// The context that it is.
    ///
    /// # Errors
    /// `EBADF`: it is a place only. `EINVAL`: it is none.
    pub fn context(&self) -> Result<&BlockingMutex<Context<D>>, Errno> {
        match self.opened()? {
            Object::Context(context) => Ok(context),
            _ => Err(Errno::EINVAL),
        }
    }
}

impl<D: Dentry> Drop for File<D> {
    /// Context: no lock of the mount table held; may block.
    fn drop(&mut self) {
        if let (Object::Tree, Some(root)) = (&self.object, &self.path) {
            detached::close(&root.mount.to_arc());
        }
    }
}

/// A mount namespace that is kept from dying, by a task, an open file or a mount of its file.
pub struct NamespaceRef<D: Dentry>(Arc<MntNamespace<D>>);

impl<D: Dentry> NamespaceRef<D> {
    /// Keeps `ns`, which somebody else keeps now, or which is new.
    pub fn new(ns: &Arc<MntNamespace<D>>) -> Self {
        ns.get_user();
        NamespaceRef(Arc::clone(ns))
    }

    /// Keeps `ns`, unless nobody does any more.
    pub(crate) fn of_living(ns: Arc<MntNamespace<D>>) -> Option<Self> {
        ns.try_get_user().then(|| NamespaceRef(ns))
    }
}

impl<D: Dentry> core::ops::Deref for NamespaceRef<D> {
    type Target = Arc<MntNamespace<D>>;

    fn deref(&self) -> &Arc<MntNamespace<D>> {
        &self.0
    }
}

impl<D: Dentry> Clone for NamespaceRef<D> {
    fn clone(&self) -> Self {
        NamespaceRef::new(&self.0)
    }
}

impl<D: Dentry> Drop for NamespaceRef<D> {
    /// Context: no lock of the mount table held; may block: the last one takes the namespace down.
    fn drop(&mut self) {
        leave(&self.0);
    }
}
