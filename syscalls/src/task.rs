//! A task as mounts see it: root and working directory, mount namespace, credentials.

use alloc::sync::Arc;

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use mnt_table::arc_cell::ArcCell;
use mnt_table::memory::Claims;
use mnt_table::place::PlaceError;
use mnt_table::sync::Mutex;
use mnt_table::walk::{Last, walk};
use mnt_table::{Dentry, FsStruct, LockPlan, MntNamespace, PathRef, SuperBlock, memory, pin, reclaim};
use propagate::umount::dissolve;
use propagate::{Error, with_locks};

use crate::credentials::Capabilities;
use crate::detached::until_memory;
use crate::user_memory::Text;
use crate::{Credentials, Errno, File};

/// A task.
///
/// Tasks can share root and working directory (`CLONE_FS`); those that do are always in the same mount namespace.
pub struct Task<D: Dentry> {
    fs: Mutex<Arc<SharedFs<D>>>,
    ns: ArcCell<MntNamespace<D>>,
    credentials: ArcCell<Credentials>,
    /// It is no user of the namespace any more.
    has_left: AtomicBool,
}

/// Root and working directory of one or several tasks.
pub struct SharedFs<D: Dentry> {
    fs: FsStruct<D>,
    tasks: AtomicUsize,
    umask: AtomicU32,
}

/// The umask of a machine's first task.
const UMASK: u32 = 0o022;

impl<D: Dentry> SharedFs<D> {
    fn new(fs: FsStruct<D>, umask: u32) -> Result<Arc<Self>, Errno> {
        let fs = SharedFs { fs, tasks: AtomicUsize::new(1), umask: AtomicU32::new(umask) };
        Ok(memory::arc(fs).map_err(Error::from)?)
    }

    /// The same places for somebody else.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn copy(&self) -> Result<Arc<Self>, Errno> {
        Self::new(self.fs.fork().map_err(Error::from)?, self.umask())
    }

    /// Permission bits that new files do not get.
    pub fn umask(&self) -> u32 {
        self.umask.load(Ordering::Relaxed) // Relaxed: a number.
    }

    /// umask(2): returns the one before.
    pub fn set_umask(&self, umask: u32) -> u32 {
        self.umask.swap(umask & 0o777, Ordering::Relaxed) // Relaxed: a number.
    }
}

impl<D: Dentry> core::ops::Deref for SharedFs<D> {
    type Target = FsStruct<D>;

    fn deref(&self) -> &FsStruct<D> {
        &self.fs
    }
}

impl<D: Dentry> Task<D> {
    /// The machine's administrator in `ns`, with root and working directory at `path`.
    ///
    /// # Errors
    /// `ENOENT`: an umount of that mount fails at this moment, or has succeeded.
    pub fn new(ns: &Arc<MntNamespace<D>>, path: &PathRef<D>) -> Result<Self, Errno> {
        let fs = FsStruct::new(path).map_err(cannot_stand)?;
        let credentials = memory::arc(Credentials::ROOT).map_err(Error::from)?;
        Ok(Self::from_parts(SharedFs::new(fs, UMASK)?, Arc::clone(ns), credentials))
    }

    fn from_parts(fs: Arc<SharedFs<D>>, ns: Arc<MntNamespace<D>>, credentials: Arc<Credentials>) -> Self {
        ns.get_user();
        Task {
            fs: Mutex::new(fs),
            ns: ArcCell::new(ns),
            credentials: ArcCell::new(credentials),
            has_left: AtomicBool::new(false),
        }
    }

    /// A task in the same places, with the same credentials (fork(2)).
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn fork(&self) -> Result<Self, Errno> {
        let fs = self.fs().copy()?;
        Ok(Self::from_parts(fs, self.namespace(), self.credentials()))
    }

    /// As [`Task::fork`], with one root and working directory for both (clone(2) with `CLONE_FS`).
    pub fn fork_sharing_fs(&self) -> Self {
        let fs = self.fs();
        // Relaxed: a number, which the tasks that share it order among themselves.
        fs.tasks.fetch_add(1, Ordering::Relaxed);
        Self::from_parts(fs, self.namespace(), self.credentials())
    }

    /// Root and working directory.
    pub fn fs(&self) -> Arc<SharedFs<D>> {
        Arc::clone(&self.fs.lock())
    }

    /// Whether other tasks have the same root and working directory.
    pub fn shares_fs(&self) -> bool {
        // Relaxed: as in `fork_sharing_fs`.
        self.fs().tasks.load(Ordering::Relaxed) > 1
    }

    /// Root and working directory of its own from here on.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn unshare_fs(&self) -> Result<(), Errno> {
        if self.shares_fs() {
            let own = self.fs().copy()?;
            self.replace_fs(own);
        }
        Ok(())
    }

    fn replace_fs(&self, fs: Arc<SharedFs<D>>) {
        let old = core::mem::replace(&mut *self.fs.lock(), fs);
        // Relaxed: as in `fork_sharing_fs`.
        old.tasks.fetch_sub(1, Ordering::Relaxed);
    }

    /// Goes to `ns`, where `root` and `cwd` are; without one of them it stays where it is. Not if there were more `pivots`
    /// than when the two were found: then it answers `false`.
    ///
    /// # Errors
    /// `ENOENT`: as [`Task::new`]; nothing was changed. `ENOMEM`.
    pub(crate) fn enter(
        &self,
        ns: &Arc<MntNamespace<D>>,
        root: Option<&PathRef<D>>,
        cwd: Option<&PathRef<D>>,
        pivots: u64,
    ) -> Result<bool, Errno> {
        let mut claims = Claims::none();
        // The cell retires what it held.
        reclaim::claim(&mut claims, 1)?;
        let old = self.fs();
        let fs = old.fork().map_err(Error::from)?;
        let moved = root.map_or(Ok(()), |root| fs.set_root(root));
        moved.and_then(|()| cwd.map_or(Ok(()), |cwd| fs.set_cwd(cwd))).map_err(cannot_stand)?;
        let fs = SharedFs::new(fs, old.umask())?;
        if ns.pivots() != pivots {
            return Ok(false);
        }
        self.replace_fs(fs);
        ns.get_user();
        leave(&self.ns.swap(Arc::clone(ns), &pin()));
        Ok(true)
    }

    /// The mount namespace.
    pub fn namespace(&self) -> Arc<MntNamespace<D>> {
        self.ns.load_full()
    }

    /// Who it is.
    pub fn credentials(&self) -> Arc<Credentials> {
        self.credentials.load_full()
    }

    /// Makes it somebody else.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn set_credentials(&self, credentials: Credentials) -> Result<(), Errno> {
        let mut claims = Claims::none();
        // The cell retires what it held.
        reclaim::claim(&mut claims, 1)?;
        self.become_somebody(memory::arc(credentials)?);
        Ok(())
    }

    /// As [`Task::set_credentials`], where the memory is there: [`reclaim::claim`] for one retirement.
    pub(crate) fn become_somebody(&self, credentials: Arc<Credentials>) {
        drop(self.credentials.swap(credentials, &pin()));
    }

    /// Whether it may change its mount namespace: it has `CAP_SYS_ADMIN` in the user namespace that owns it.
    ///
    /// # Errors
    /// `EPERM`.
    pub fn may_mount(&self) -> Result<(), Errno> {
        self.may_administer(&self.namespace())
    }

    /// Whether it has `CAP_SYS_ADMIN` in the user namespace that owns `ns`.
    ///
    /// # Errors
    /// `EPERM`.
    pub fn may_administer(&self, ns: &MntNamespace<D>) -> Result<(), Errno> {
        if self.credentials().is_admin(ns.owner()) { Ok(()) } else { Err(Errno::EPERM) }
    }

    /// Whether it has `CAP_SYS_ADMIN` in the user namespace that owns the superblock.
    ///
    /// # Errors
    /// `EPERM`.
    pub fn may_reconfigure(&self, super_block: &D::SuperBlock) -> Result<(), Errno> {
        if self.credentials().is_admin(&super_block.user_ns()) { Ok(()) } else { Err(Errno::EPERM) }
    }

    /// chdir(2).
    ///
    /// # Errors
    /// Those of the walk; `ENOTDIR`.
    pub fn chdir<'a>(&self, path: impl Into<Text<'a>>) -> Result<(), Errno> {
        let path = path.into().read()?;
        self.stand(|| self.directory(&path), |at, still| self.fs().set_cwd_while(at, still))
    }

    /// fchdir(2).
    ///
    /// # Errors
    /// `ENOTDIR`.
    pub fn fchdir(&self, file: &File<D>) -> Result<(), Errno> {
        let at = file.path().filter(|at| at.dentry.is_dir()).ok_or(Errno::ENOTDIR)?;
        self.stand(|| Ok(at.clone()), |at, _| self.fs().set_cwd(at))
    }

    /// chroot(2).
    ///
    /// # Errors
    /// Those of the walk; `ENOTDIR`; `EPERM`: no `CAP_SYS_CHROOT` in its user namespace.
    pub fn chroot<'a>(&self, path: impl Into<Text<'a>>) -> Result<(), Errno> {
        let path = path.into().read()?;
        let may = || {
            let credentials = self.credentials();
            credentials.capable(&credentials.user_ns, Capabilities::SYS_CHROOT)
        };
        self.stand(
            || self.directory(&path).and_then(|at| if may() { Ok(at) } else { Err(Errno::EPERM) }),
            |at, still| self.fs().set_root_while(at, still),
        )
    }

    fn directory(&self, path: &[u8]) -> Result<PathRef<D>, Errno> {
        let at = walk(&self.fs(), path, Last::Follow)?;
        if at.dentry.is_dir() { Ok(at) } else { Err(Errno::ENOTDIR) }
    }

    fn stand(
        &self,
        find: impl Fn() -> Result<PathRef<D>, Errno>,
        set: impl Fn(&PathRef<D>, &dyn Fn() -> bool) -> Result<(), PlaceError>,
    ) -> Result<(), Errno> {
        let ns = self.namespace();
        loop {
            let pivots = ns.pivots();
            match set(&find()?, &|| ns.pivots() == pivots) {
                Ok(()) => return Ok(()),
                // An umount of that mount fails at this moment, or a pivot came between the two.
                Err(PlaceError::Stale) => {}
                Err(error) => return Err(cannot_stand(error)),
            }
        }
    }
}

impl<D: Dentry> Task<D> {
    /// The task exits, though somebody may still know it: it lets go of its places and its
    /// namespace, and stands at `nowhere`, which is somebody's for good.
    ///
    /// Context: no lock of the mount table held; may block: it may be the last of its namespace. What is dropped later does
    /// not block.
    pub fn exit(&self, nowhere: &Arc<SharedFs<D>>) {
        // Relaxed: as in `fork_sharing_fs`.
        nowhere.tasks.fetch_add(1, Ordering::Relaxed);
        self.replace_fs(Arc::clone(nowhere));
        self.leave();
    }

    fn leave(&self) {
        // Relaxed: only the task itself and, when nobody has it any more, its drop come here.
        if !self.has_left.swap(true, Ordering::Relaxed) {
            leave(&self.namespace());
        }
    }
}

impl<D: Dentry> Drop for Task<D> {
    /// The task exits. Context: no lock of the mount table held; may block, unless it called [`Task::exit`]: it may be the
    /// last of its namespace.
    fn drop(&mut self) {
        // Relaxed: as in `fork_sharing_fs`.
        self.fs().tasks.fetch_sub(1, Ordering::Relaxed);
        self.leave();
    }
}

/// What a task is told that cannot stand somewhere.
fn cannot_stand(error: PlaceError) -> Errno {
    match error {
        PlaceError::Stale => Errno::ENOENT,
        PlaceError::NoMemory => Errno::ENOMEM,
    }
}

/// One user of `ns` less; the last one takes the namespace down.
pub(crate) fn leave<D: Dentry>(ns: &Arc<MntNamespace<D>>) {
    if ns.put_user() {
        until_memory(|| with_locks(LockPlan::new(ns), |locks| dissolve(locks, ns)).map(drop));
    }
}
