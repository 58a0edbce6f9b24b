//! What the tests share: a namespace over fresh file systems, and the operations without propagation.
#![allow(dead_code, reason = "each test file uses its part")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use mnt_table::check::check;
use mnt_table::dentry::{Dentry, SuperBlockRef};
use mnt_table::namespace::Kind;
use mnt_table::tree::Leave;
use mnt_table::walk::{Last, WalkError, walk, walk_to_change};
use mnt_table::{FsStruct, MntNamespace, Mount, MountFlags, MountSpec, PathRef, WriteSet, pin, reclaim};
use tmpfs::{Options, TmpDentry, TmpSuperBlock};

pub(crate) type Ns = Arc<MntNamespace<TmpDentry>>;
pub(crate) type Mnt = Arc<Mount<TmpDentry>>;
pub(crate) type Tasks = FsStruct<TmpDentry>;

/// `full`, or `small` under Miri.
pub(crate) const fn sized(full: usize, small: usize) -> usize {
    if cfg!(miri) { small } else { full }
}

/// A test that is pinned for long, or counts, holds up what the others wait for: such tests run one at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// Waits for the other tests that are alone, and frees what they left.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    drain();
    alone
}

/// Frees everything that was retired, waiting for threads that are about to end.
pub(crate) fn drain() {
    while reclaim::stats().deferred_bytes != 0 {
        reclaim::quiesce();
        thread::yield_now();
    }
}

/// Says that it is over, to threads that go on until then, also when a test fails.
pub(crate) struct Done<'a>(pub(crate) &'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Threads that look on; Miri runs all by turns, so each one more makes everything slower.
pub(crate) const READERS: usize = sized(2, 1);

/// Runs `then` while other threads repeat `again`.
pub(crate) fn beside(again: impl Fn() + Sync, then: impl FnOnce()) {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let _done = Done(&over);
        for _ in 0..READERS {
            scope.spawn(|| {
                while !over.load(Ordering::Acquire) {
                    again();
                }
            });
        }
        then();
    });
}

/// Runs `then` while another thread is pinned.
pub(crate) fn beside_a_pin(then: impl FnOnce()) {
    let (pinned, over) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        let _done = Done(&over);
        scope.spawn(|| {
            let _guard = pin();
            pinned.store(true, Ordering::Release);
            while !over.load(Ordering::Acquire) {
                thread::yield_now();
            }
        });
        while !pinned.load(Ordering::Acquire) {
            thread::yield_now();
        }
        then();
    });
}

/// The root of a fresh file system.
pub(crate) fn fresh() -> Arc<TmpDentry> {
    TmpSuperBlock::new(Options::new(1, b"tmpfs")).unwrap()
}

/// The root of a fresh file system that lives on between its mounts.
pub(crate) fn held() -> SuperBlockRef<TmpDentry> {
    SuperBlockRef::new(fresh())
}

pub(crate) fn spec(root: &Arc<TmpDentry>) -> MountSpec<TmpDentry> {
    MountSpec::new(Arc::clone(root), MountFlags::empty(), mnt_table::Source::new(b"none").unwrap())
}

/// A namespace and its root mount.
pub(crate) struct World {
    pub(crate) ns: Ns,
    pub(crate) root: Mnt,
}

impl World {
    /// A namespace whose root is a fresh file system.
    pub(crate) fn new() -> Self {
        Self::over(&fresh())
    }

    /// A namespace whose root is `root`.
    pub(crate) fn over(root: &Arc<TmpDentry>) -> Self {
        let ns = MntNamespace::new(Kind::Ordinary).unwrap();
        let mut set = WriteSet::one(&ns);
        let root = set.new_mount(&ns, spec(root)).unwrap();
        set.attach_root(&ns, &root);
        drop(set);
        World { ns, root }
    }

    /// The root directory of the root mount.
    pub(crate) fn dir(&self) -> &Arc<TmpDentry> {
        self.root.root()
    }

    /// A task at the root.
    pub(crate) fn task(&self) -> Tasks {
        let guard = pin();
        let mount = self.root.keep(&guard).ok().unwrap();
        drop(guard);
        FsStruct::new(&PathRef { mount, dentry: Arc::clone(self.dir()) }).unwrap()
    }

    /// Mounts what `root` is the root of on `dentry` in `parent`.
    pub(crate) fn mount(&self, parent: &Mnt, dentry: &Arc<TmpDentry>, root: &Arc<TmpDentry>) -> Mnt {
        let mut set = WriteSet::one(&self.ns);
        let mount = set.new_mount(&self.ns, spec(root)).unwrap();
        let joint = set.prepare(&mount, parent, dentry).unwrap();
        set.attach(&mount, joint, &pin());
        mount
    }

    /// Mounts a fresh file system on `dentry` in `parent`.
    pub(crate) fn mount_fresh(&self, parent: &Mnt, dentry: &Arc<TmpDentry>) -> Mnt {
        self.mount(parent, dentry, &fresh())
    }

    /// Unmounts `mount`; `false` if it is busy.
    pub(crate) fn umount(&self, mount: &Mnt) -> bool {
        let mut set = WriteSet::one(&self.ns);
        if !set.is_leaf(mount) || !set.condemn_if_idle(core::slice::from_ref(mount)) {
            return false;
        }
        set.leave(mount, Leave::Dead, &pin());
        true
    }

    /// Detaches `mount` and all below it lazily.
    pub(crate) fn detach(&self, mount: &Mnt) {
        let mut set = WriteSet::one(&self.ns);
        let going = set.subtree(mount).unwrap();
        let guard = pin();
        if going.len() > 1 {
            set.begin(&self.ns, &guard);
        }
        for mount in going.iter().rev() {
            set.leave(mount, Leave::Detached, &guard);
        }
        set.end();
    }

    /// Moves `mount` to `dentry` in `parent`.
    pub(crate) fn move_to(&self, mount: &Mnt, parent: &Mnt, dentry: &Arc<TmpDentry>) {
        let mut set = WriteSet::one(&self.ns);
        let joint = set.prepare(mount, parent, dentry).unwrap();
        let guard = pin();
        set.begin(&self.ns, &guard);
        set.rehang(mount, joint, &guard);
        set.end();
    }

    /// No invariant is broken.
    pub(crate) fn check(&self) {
        let report = check(std::slice::from_ref(&self.ns));
        assert!(report.violations.is_empty(), "{:#?}", report.violations);
    }

    /// The end: everything goes, and the namespace too.
    pub(crate) fn end(self) {
        self.check();
        self.detach(&self.root);
        WriteSet::one(&self.ns).dissolve(&self.ns);
    }
}

/// Walks, for a result that counts nothing.
pub(crate) fn find(task: &Tasks, path: &str) -> Result<(Mnt, Arc<TmpDentry>), WalkError> {
    walk_to_change(task, path.as_bytes(), Last::Follow)
}

/// Walks and keeps.
pub(crate) fn open(task: &Tasks, path: &str) -> PathRef<TmpDentry> {
    walk(task, path.as_bytes(), Last::Follow).unwrap()
}

/// Sets the working directory.
pub(crate) fn chdir(task: &Tasks, path: &str) {
    task.set_cwd(&open(task, path)).unwrap();
}

/// Sets the root.
pub(crate) fn chroot(task: &Tasks, path: &str) {
    task.set_root(&open(task, path)).unwrap();
}

/// Makes the directories of `path`, where they are missing, below `at`.
pub(crate) fn mkdirs(at: &Arc<TmpDentry>, path: &str) -> Arc<TmpDentry> {
    path.split('/').fold(Arc::clone(at), |at, name| {
        let found = at.lookup(name.as_bytes(), &pin()).cloned();
        found.unwrap_or_else(|_| at.mkdir(name.as_bytes()).unwrap())
    })
}

/// Whether both are the same place.
pub(crate) fn is_at(found: &(Mnt, Arc<TmpDentry>), mount: &Mnt, dentry: &Arc<TmpDentry>) -> bool {
    Arc::ptr_eq(&found.0, mount) && Arc::ptr_eq(&found.1, dentry)
}
