//! A mount namespace of its own over a tmpfs of its own: nothing that it does concerns another one.

use std::sync::Arc;

use linux_raw_sys::general::{MS_BIND, MS_SHARED};
use mnt_table::{Kind, LockPlan, MntNamespace, Mount, MountFlags, MountSpec, PathRef, Source, WriteSet, pin};
use propagate::attach::{Place, Rules, What, attach};
use propagate::copy_tree::NewTree;
use propagate::with_locks;
use syscalls::Task;
use syscalls::listing::mountinfo;
use syscalls::mount::mount;
use syscalls::umount::umount2;
use tmpfs::{Options, TmpDentry, TmpSuperBlock};

use crate::file_systems::Instances;

/// Whether the root mount is shared, in a peer group of its own, and with it all that is mounted below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// Private mounts.
    Private,
    /// Shared mounts, with nobody to share them with.
    Shared,
}

/// A namespace, its root, and a task in it.
pub struct Namespace {
    task: Task<TmpDentry>,
    ns: Arc<MntNamespace<TmpDentry>>,
    root: Arc<Mount<TmpDentry>>,
    instances: Instances,
}

/// An empty tmpfs.
pub fn fresh_tmpfs(dev: u32) -> Arc<TmpDentry> {
    let options = Options::new(dev, b"tmpfs");
    TmpSuperBlock::new(options).expect("memory")
}

impl Namespace {
    /// A namespace whose root mount shows a tmpfs of its own. `dev` tells it and what it mounts from others.
    pub fn new(dev: u32, sharing: Sharing) -> Self {
        let fs = fresh_tmpfs(dev);
        let ns = MntNamespace::new(Kind::Ordinary).expect("memory");
        let root = {
            let mut locks = WriteSet::one(&ns);
            let root = locks.new_mount(&ns, spec(&fs)).expect("memory");
            locks.attach_root(&ns, &root);
            root
        };
        let kept = root.keep(&pin()).unwrap_or_else(|_| unreachable!("nobody umounts it"));
        let task = Task::new(&ns, &PathRef { mount: kept, dentry: fs }).expect("the root is there");
        let this = Namespace { task, ns, root, instances: Instances::new(dev) };
        if sharing == Sharing::Shared {
            mount(&this.task, &this.instances, None, &b"/"[..], None, MS_SHARED, b"")
                .expect("a root can be shared");
        }
        this
    }

    /// A task that gets a copy of this namespace, as unshare(2) makes it.
    pub fn unshared(&self) -> Self {
        let task = self.task.fork().expect("memory");
        task.unshare_mounts().expect("memory");
        let ns = task.namespace();
        let root = task.fs().root().0;
        Namespace { task, ns, root, instances: Instances::new(0) }
    }

    /// The task in it.
    pub fn task(&self) -> &Task<TmpDentry> {
        &self.task
    }

    /// The namespace.
    pub fn ns(&self) -> &Arc<MntNamespace<TmpDentry>> {
        &self.ns
    }

    /// The root mount.
    pub fn root(&self) -> &Arc<Mount<TmpDentry>> {
        &self.root
    }

    /// A new directory in the root.
    pub fn mkdir(&self, name: &str) -> Arc<TmpDentry> {
        self.root.root().mkdir(name.as_bytes()).expect("a fresh name")
    }

    /// Mounts the root's file system on `dentry` of the root mount, by the lower layer: no path, no system call.
    pub fn attach(&self, dentry: &Arc<TmpDentry>) -> Arc<Mount<TmpDentry>> {
        self.ns.make_room().expect("no reader stays");
        let done = with_locks(LockPlan::new(&self.ns), |locks| {
            let mount = locks.new_mount(&self.ns, spec(self.root.root()))?;
            let tree = NewTree::single(Arc::clone(&mount));
            let rules = Rules { mounts_max: usize::MAX, owner: self.ns.owner().clone() };
            attach(locks, What::New(tree, Vec::new()), Place::top(&self.root, dentry), &rules)?;
            Ok(mount)
        });
        done.expect("the directory is there")
    }

    /// Takes away what [`Namespace::attach`] mounted.
    pub fn detach(&self, mount: &Arc<Mount<TmpDentry>>) {
        with_locks(LockPlan::new(&self.ns), |locks| propagate::umount::umount(locks, mount)).expect("idle");
    }

    /// [`Namespace::attach`] and [`Namespace::detach`].
    pub fn attach_and_detach(&self, dentry: &Arc<TmpDentry>) {
        let mount = self.attach(dentry);
        self.detach(&mount);
    }

    /// mount(2) of a file system on `target`.
    pub fn mount(&self, kind: Instance, target: &str) {
        let fs_type = match kind {
            Instance::Prepared => Instances::PREPARED,
            Instance::Fresh => Instances::FRESH,
        };
        mount(&self.task, &self.instances, None, target.as_bytes(), Some(fs_type), 0u32, b"").expect("mount");
    }

    /// mount(2) with `MS_BIND`.
    pub fn bind(&self, source: &str, target: &str) {
        let source = Some(source.as_bytes());
        mount(&self.task, &self.instances, source, target.as_bytes(), None, MS_BIND, b"").expect("bind");
    }

    /// mount(2) with a propagation type.
    pub fn make(&self, target: &str, to: u32) {
        mount(&self.task, &self.instances, None, target.as_bytes(), None, to, b"").expect("a mountpoint");
    }

    /// The lines of the task's mountinfo.
    pub fn mountinfo_len(&self) -> usize {
        mountinfo(&self.task, &self.instances).expect("memory").len()
    }

    /// umount2(2).
    pub fn umount(&self, target: &str) {
        umount2(&self.task, target.as_bytes(), 0).expect("umount");
    }
}

/// What mount(2) mounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instance {
    /// A tmpfs that is there: the cost of the mount alone.
    Prepared,
    /// A new tmpfs, which the umount shuts down.
    Fresh,
}

fn spec(root: &Arc<TmpDentry>) -> MountSpec<TmpDentry> {
    MountSpec::new(Arc::clone(root), MountFlags::RELATIME, Source::new(b"none").expect("memory"))
}
