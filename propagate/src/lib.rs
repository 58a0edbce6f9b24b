//! Shared subtrees: who receives a mount or an umount, and what becomes of peer groups and masters.
//!
//! Each operation works in two steps under the locks of one [`WriteSet`]: a **plan** that makes
//! every check, every copy and every reservation, and a **commit** that cannot fail. A plan that meets a peer group or
//! a namespace which is not locked says which ([`Retry`]); [`with_locks`] drops everything and starts again with them.
//! A private operation finds all it needs under its own namespace's lock, at the first try.
//!
//! What a plan allocates can be refused, and what a commit puts anywhere has its room from the plan ([`mnt_table::memory`]):
//! so without memory an operation fails as a whole.
//!
//! | module | Linux | what |
//! |---|---|---|
//! | [`graph`] | `fs/pnode.c` | joining and leaving rings and slave lists; changing a mount's type |
//! | [`receivers`] | `propagation_next` | the order in which receivers are visited |
//! | [`copy_tree`] | `copy_tree`, `clone_mnt` | copies of trees, for binds, for receivers and for namespaces |
//! | [`attach`] | `attach_recursive_mnt`, `propagate_mnt` | mount, bind and move with their copies |
//! | `delivery` | `propagate_one` | the copies that receivers get |
//! | [`beneath`] | `can_move_mount_beneath` | what may go beneath a mount |
//! | [`umount`] | `umount_tree`, `propagate_umount` | which counterparts go, and what slides down |
//! | `unshare` | `change_mnt_propagation` | the slaves of mounts that leave their groups in turn |
//! | `heirs` | `propagate_umount` | who gets the slaves of what goes |
//! | [`dominating`] | `get_dominating_id` | whom a slave receives from, as far as a reader sees |
//! | [`pivot_root`] | `pivot_root` | exchange of the root |
//!
//! Sources: the kernel's "Shared Subtrees" text; mount_namespaces(7); pivot_root(2).
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod attach;
pub mod beneath;
pub mod copy_tree;
mod delivery;
pub mod dominating;
pub mod graph;
mod heirs;
pub mod pivot_root;
pub mod receivers;
pub mod umount;
mod unshare;

use alloc::vec::Vec;

use mnt_table::attributes::AttributeError;
use mnt_table::dentry::RegisterError;
use mnt_table::list::NoMemory;
use mnt_table::reclaim::OverLimit;
use mnt_table::{Dentry, LockPlan, Missing, WriteSet, memory};

/// Why a change of the tree was refused; nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// `EINVAL`: the mounts, or the place, do not allow this.
    Invalid,
    /// `ENOENT`: the place is gone.
    NotFound,
    /// `EBUSY`.
    Busy,
    /// `ELOOP`: a tree would be attached inside itself.
    Loop,
    /// `ENOTDIR`: a directory on a file, or the reverse.
    NotDirectory,
    /// `ENOSPC`: a namespace would get more mounts than it may have.
    Limit,
    /// `EPERM`: something locked would be revealed.
    Permission,
    /// `ENOMEM`.
    NoMemory,
}

impl From<NoMemory> for Error {
    fn from(NoMemory: NoMemory) -> Self {
        Error::NoMemory
    }
}

impl From<AttributeError> for Error {
    fn from(error: AttributeError) -> Self {
        match error {
            AttributeError::Written => Error::Busy,
            AttributeError::NoMemory => Error::NoMemory,
        }
    }
}

impl From<OverLimit> for Error {
    fn from(OverLimit: OverLimit) -> Self {
        Error::NoMemory
    }
}

impl From<RegisterError> for Error {
    fn from(error: RegisterError) -> Self {
        match error {
            RegisterError::Dying => Error::NotFound,
            RegisterError::NoMemory => Error::NoMemory,
        }
    }
}

/// Why a plan ended.
pub enum Retry<D: Dentry> {
    /// These locks are needed too: start again.
    With(Vec<Missing<D>>),
    /// The operation failed.
    Failed(Error),
}

impl<D: Dentry> Retry<D> {
    /// `missing` is needed too.
    pub fn needs(missing: Missing<D>) -> Self {
        match memory::collect([missing]) {
            Ok(missing) => Retry::With(missing),
            Err(NoMemory) => Retry::Failed(Error::NoMemory),
        }
    }
}

impl<D: Dentry, E: Into<Error>> From<E> for Retry<D> {
    fn from(error: E) -> Self {
        Retry::Failed(error.into())
    }
}

/// Takes the locks of `plan` and tries `change` under them, until it has all the locks that it needs.
///
/// Context: not pinned; no lock held; may block.
///
/// # Errors
/// Those of `change`; `ENOMEM`.
pub fn with_locks<D: Dentry, R>(
    mut plan: LockPlan<D>,
    mut change: impl FnMut(&mut WriteSet<D>) -> Result<R, Retry<D>>,
) -> Result<R, Error> {
    loop {
        let mut locks = plan.lock()?;
        match change(&mut locks) {
            Ok(result) => return Ok(result),
            Err(Retry::Failed(error)) => return Err(error),
            Err(Retry::With(missing)) => {
                drop(locks);
                missing.into_iter().for_each(|missing| plan.add(missing));
            }
        }
    }
}
