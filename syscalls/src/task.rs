//! A task as mounts see it: root, working directory, namespace.

use alloc::sync::Arc;

use mnt_table::arc_cell::ArcCell;
use mnt_table::place::Stale;
use mnt_table::walk::{Last, walk};
use mnt_table::{Dentry, FsStruct, Kind, LockPlan, MntNamespace, PathRef, pin};
use propagate::copy_tree::{Pairs, clone_namespace};
use propagate::pivot_root::Position;
use propagate::umount::dissolve;
use propagate::{Error, with_locks};

use crate::Errno;

/// A task, or several threads that share root, working directory and namespace.
pub struct Task<D: Dentry> {
    fs: FsStruct<D>,
    ns: ArcCell<MntNamespace<D>>,
}

impl<D: Dentry> Task<D> {
    /// A task in `ns` whose root and working directory are at `path`.
    ///
    /// # Errors
    /// `ENOENT`: an umount of that mount fails at this moment, or has succeeded.
    pub fn new(ns: &Arc<MntNamespace<D>>, path: &PathRef<D>) -> Result<Self, Errno> {
        let fs = FsStruct::new(path).map_err(|Stale| Errno::ENOENT)?;
        ns.get_user();
        Ok(Task { fs, ns: ArcCell::new(Arc::clone(ns)) })
    }

    /// A task with the same root, working directory and namespace (fork(2)).
    pub fn fork(&self) -> Self {
        let ns = self.namespace();
        ns.get_user();
        Task { fs: self.fs.fork(), ns: ArcCell::new(ns) }
    }

    /// Root and working directory.
    pub fn fs(&self) -> &FsStruct<D> {
        &self.fs
    }

    /// The mount namespace.
    pub fn namespace(&self) -> Arc<MntNamespace<D>> {
        self.ns.load_full()
    }

    /// chdir(2).
    ///
    /// # Errors
    /// Those of the walk; `ENOTDIR`.
    pub fn chdir(&self, path: &[u8]) -> Result<(), Errno> {
        self.stand(path, |at| self.fs.set_cwd(at))
    }

    /// chroot(2).
    ///
    /// # Errors
    /// Those of the walk; `ENOTDIR`.
    pub fn chroot(&self, path: &[u8]) -> Result<(), Errno> {
        self.stand(path, |at| self.fs.set_root(at))
    }

    fn stand(&self, path: &[u8], set: impl Fn(&PathRef<D>) -> Result<(), Stale>) -> Result<(), Errno> {
        loop {
            let at = walk(&self.fs, path, Last::Follow)?;
            if !at.dentry.is_dir() {
                return Err(Errno::ENOTDIR);
            }
            if set(&at).is_ok() {
                return Ok(());
            }
        }
    }

    /// unshare(2) with `CLONE_NEWNS`: a copy of the namespace, with root and working directory at the copies. Returns
    /// the number of mounts copied.
    ///
    /// # Errors
    /// `ENOMEM`; `EINVAL` if the namespace is dying.
    pub fn unshare_mounts(&self) -> Result<usize, Errno> {
        let from = self.namespace();
        from.make_room().map_err(Error::from)?;
        let to = MntNamespace::new(Kind::Ordinary).map_err(Error::from)?;
        to.get_user();
        let copied = with_locks(LockPlan::new(&from), |locks| {
            locks.add_new(&to);
            let copies = clone_namespace(locks, &from, &to)?;
            // A pivot of the old namespace is before or after this, since it takes its lock.
            Ok((
                copies.len(),
                self.translate(&copies, self.fs.root()),
                self.translate(&copies, self.fs.cwd()),
            ))
        });
        let (count, root, cwd) = match copied {
            Ok(copied) => copied,
            Err(error) => {
                leave(&to);
                return Err(error.into());
            }
        };
        let moved = [(root, true), (cwd, false)].into_iter().try_for_each(|(at, is_root)| match at {
            Some(at) if is_root => self.fs.set_root(&at),
            Some(at) => self.fs.set_cwd(&at),
            // It stands elsewhere than in the namespace that it leaves; so it stays.
            None => Ok(()),
        });
        if moved.is_err() {
            leave(&to);
            return Err(Errno::ENOMEM);
        }
        let old = self.ns.swap(to, &pin());
        leave(&old);
        Ok(count)
    }

    /// The copy of a place.
    fn translate(&self, copies: &Pairs<D>, (mount, dentry): Position<D>) -> Option<PathRef<D>> {
        let (_, copy) = copies.iter().find(|(original, _)| Arc::ptr_eq(original, &mount))?;
        let mount = copy.keep(&pin()).ok()?;
        Some(PathRef { mount, dentry })
    }
}

impl<D: Dentry> Drop for Task<D> {
    /// The task exits. Context: no lock of the mount table held; may block: it may be the last of its namespace.
    fn drop(&mut self) {
        let ns = self.namespace();
        leave(&ns);
    }
}

/// One user of `ns` less; the last one takes the namespace down.
fn leave<D: Dentry>(ns: &Arc<MntNamespace<D>>) {
    if ns.put_user() {
        // Short of memory for the plan: again, until there is some. A namespace without users is nobody's to return to.
        while with_locks(LockPlan::new(ns), |locks| dissolve(locks, ns)).is_err() {
            mnt_table::reclaim::quiesce();
        }
    }
}
