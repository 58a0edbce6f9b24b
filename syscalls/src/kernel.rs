//! What this crate asks of the kernel around it.
//!
//! | trait | what |
//! |---|---|
//! | [`UserMemory`] | the calling task's memory |
//! | [`FileSystems`] | file system types, by name and by superblock |
//! | [`Show`] | what listings print of a superblock |
//! | [`Kernel`] | all of that, the calling task, and its file descriptors |

use alloc::sync::Arc;
use alloc::vec::Vec;

use linux_raw_sys::general as abi;
use mnt_table::Dentry;
use mnt_table::list::NoMemory;
use mnt_table::memory::{Claims, covered};

use crate::credentials::Capabilities;
use crate::file::Object;
use crate::file_system::FileSystems;
use crate::nsfs::Namespaces;
use crate::user_memory::UserMemory;
use crate::{Credentials, Errno, File, Task};

/// The kernel around this crate, as a system call sees it: of one task, for the time of one call.
pub trait Kernel<D: Dentry>: FileSystems<D> + Show<D> + UserMemory {
    /// The task that makes the call.
    fn task(&self) -> &Task<D>;

    /// What the descriptor `fd` refers to.
    ///
    /// # Errors
    /// `EBADF`.
    fn file(&self, fd: i32) -> Result<Arc<File<D>>, Errno>;

    /// Gives `file` the lowest free descriptor, which execve(2) closes if `cloexec`. The kernel drops a [`File`] with its
    /// last descriptor, where it may block.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`, `ENOMEM`; `file` is dropped then.
    fn install(&self, file: File<D>, cloexec: bool) -> Result<i32, Errno>;

    /// Whether the calling task is the only thread of its process.
    fn is_single_threaded(&self) -> bool {
        true
    }

    /// Whether the calling task may look into `target`, as for ptrace(2) reading.
    fn may_inspect(&self, target: &Task<D>) -> bool {
        let (own, others) = (self.task().credentials(), target.credentials());
        own.euid == others.euid || own.capable(&others.user_ns, Capabilities::SYS_PTRACE)
    }

    /// All mount namespaces of the machine that are somebody's.
    fn namespaces(&self) -> &Namespaces<D>;

    /// The file of a namespace, as `/proc/PID/ns` would open it.
    fn namespace_file(&self, object: Object<D>) -> File<D> {
        File::new(None, object)
    }

    /// A call mounted so many copies besides what it was asked for: for who counts.
    fn propagated(&self, count: usize) {
        let _ = count;
    }

    /// The part of setns(2) that is none of mounts: the calling task joins those namespaces that `file` stands for, one or
    /// a process's, that are of the kinds `flags`; it will have `credentials`. Called before anything is changed.
    ///
    /// # Errors
    /// `EINVAL`: there is no such thing here. `EPERM`.
    fn setns_others(&self, file: &File<D>, flags: u32, credentials: &Credentials) -> Result<(), Errno> {
        let _ = (file, credentials);
        if flags == 0 { Ok(()) } else { Err(Errno::EINVAL) }
    }

    /// The part of unshare(2) that is none of mounts: `CLONE_FILES`, other kinds of namespaces, which the user namespace of
    /// `credentials` will own, as the calling task will have them. Called when nothing can
    /// fail any more but this, and before anything is changed.
    ///
    /// # Errors
    /// `EINVAL`: there is no such thing here. `EPERM`, `ENOSPC`, `ENOMEM`.
    fn unshare_others(&self, flags: u32, credentials: &Credentials) -> Result<(), Errno> {
        let _ = credentials;
        match flags & !(abi::CLONE_FILES | abi::CLONE_SYSVSEM) {
            0 => Ok(()),
            _ => Err(Errno::EINVAL),
        }
    }
}

/// Allocations that an answer of [`Show`] may make.
pub const SHOW_ALLOCATIONS: usize = 4;

/// What listings show of a mount's superblock; asked with the root dentry of the mount.
///
/// An answer makes at most [`SHOW_ALLOCATIONS`] allocations of at most [`ALLOCATION_MAX`](mnt_table::memory::ALLOCATION_MAX) bytes each, for which the
/// caller has the memory, and does not block.
pub trait Show<D: Dentry> {
    /// Major and minor device number.
    fn device(&self, root: &Arc<D>) -> (u32, u32);

    /// The type's name.
    fn fs_type(&self, root: &Arc<D>) -> Vec<u8>;

    /// The superblock's options as a mount with this root shows them, beginning with `ro` or `rw`.
    fn options(&self, root: &Arc<D>) -> Vec<u8>;

    /// A name that stands instead of the path of the root dentry, such as `mnt:[4026531840]`.
    fn root_name(&self, root: &Arc<D>) -> Option<Vec<u8>>;

    /// The magic number of the type (statfs(2)).
    fn magic(&self, root: &Arc<D>) -> u64 {
        let _ = root;
        0
    }

    /// The source, if the file system knows it better than the call that mounted it.
    fn source(&self, root: &Arc<D>) -> Option<Vec<u8>> {
        let _ = root;
        None
    }

    /// What the file system has counted (mountstats).
    fn statistics(&self, root: &Arc<D>) -> Option<Vec<u8>> {
        let _ = root;
        None
    }
}

/// Asks for an answer of [`Show`].
///
/// # Errors
/// `ENOMEM`; it was not asked.
pub(crate) fn shown<R>(ask: impl FnOnce() -> R) -> Result<R, NoMemory> {
    let mut claims = Claims::none();
    claims.claim(SHOW_ALLOCATIONS)?;
    Ok(covered(ask))
}
