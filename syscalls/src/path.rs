//! Path arguments: a directory descriptor, a path in user memory, and what an empty one means (8.1).

use alloc::sync::Arc;
use alloc::vec::Vec;

use linux_raw_sys::general as abi;
use mnt_table::walk::{How, Last, Resolve, WalkError, walk_how, walk_under};
use mnt_table::{Dentry, MntNamespace, PathRef, WriteSet, pin};
use propagate::Error;
use propagate::pivot_root::Position;

use crate::user_memory::{Text, copy, owned};
use crate::{Errno, File, Kernel, Task};

/// What an empty path means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Empty {
    /// `ENOENT`.
    Refused,
    /// The descriptor's own place, or the working directory.
    Here,
    /// As `Here`, and so does a null pointer.
    NullIsHere,
}

/// A path argument, read from user memory, its descriptor looked up.
pub(crate) enum Argument<D: Dentry> {
    /// A path, from a directory if it is relative to one.
    Path(Vec<u8>, Option<Arc<File<D>>>),
    /// Where an open file is.
    File(Arc<File<D>>),
    /// The working directory.
    Cwd,
}

impl<D: Dentry> Argument<D> {
    /// A path at hand; an empty one leads nowhere.
    ///
    /// # Errors
    /// `ENOENT`: it is empty. `ENOMEM`.
    pub(crate) fn text(path: &[u8]) -> Result<Self, Errno> {
        if path.is_empty() { Err(Errno::ENOENT) } else { Ok(Argument::Path(copy(path)?, None)) }
    }

    /// Reads the path at `addr`, and looks `dfd` up if that matters.
    ///
    /// # Errors
    /// `EFAULT`, `ENAMETOOLONG`; `ENOENT`: it is empty and must not be; `EBADF`; `ENOTDIR`: `dfd` is no directory.
    pub(crate) fn read<K: Kernel<D>>(kernel: &K, dfd: i32, addr: usize, empty: Empty) -> Result<Self, Errno> {
        let path = if addr == 0 && empty == Empty::NullIsHere {
            Vec::new()
        } else {
            owned(Text::User(kernel, addr).read()?)?
        };
        if path.is_empty() && empty == Empty::Refused {
            return Err(Errno::ENOENT);
        }
        Self::from_path(kernel, dfd, path)
    }

    /// As [`Argument::read`], of a path at hand; an empty one is the descriptor's own place.
    ///
    /// # Errors
    /// `EBADF`, `ENOTDIR`.
    pub(crate) fn from_path<K: Kernel<D>>(kernel: &K, dfd: i32, path: Vec<u8>) -> Result<Self, Errno> {
        if path.starts_with(b"/") {
            return Ok(Argument::Path(path, None));
        }
        match (dfd, path.is_empty()) {
            (abi::AT_FDCWD, true) => Ok(Argument::Cwd),
            (abi::AT_FDCWD, false) => Ok(Argument::Path(path, None)),
            (_, true) => Ok(Argument::File(kernel.file(dfd)?)),
            (_, false) => {
                let file = kernel.file(dfd)?;
                if file.path().is_none_or(|at| !at.dentry.is_dir()) {
                    return Err(Errno::ENOTDIR);
                }
                Ok(Argument::Path(path, Some(file)))
            }
        }
    }

    /// The place, for a change that is going to lock.
    ///
    /// # Errors
    /// Those of the walk; `EINVAL`: a file that is nowhere.
    pub(crate) fn spot(self, task: &Task<D>, last: Last) -> Result<Spot<'_, D>, Errno> {
        let ns = task.namespace();
        let generation = ns.generation();
        let found = match &self {
            Argument::Path(path, dir) => walk_how(&task.fs(), path, &how(dir, last), |found| {
                Ok((found.mount.to_arc(found.guard()), Arc::clone(found.dentry)))
            })?,
            Argument::File(file) => {
                let at = file.path().ok_or(Errno::EINVAL)?;
                (at.mount.to_arc(), Arc::clone(&at.dentry))
            }
            Argument::Cwd => task.fs().cwd(),
        };
        Ok(Spot { task, argument: self, last, ns, generation, found })
    }

    /// The place, to be kept.
    ///
    /// # Errors
    /// As [`Argument::position`].
    pub(crate) fn kept(&self, task: &Task<D>, last: Last) -> Result<PathRef<D>, Errno> {
        match self {
            Argument::Path(path, dir) => {
                let found = walk_how(&task.fs(), path, &how(dir, last), |found| {
                    let mount = found.mount.keep(found.guard())?;
                    Ok(PathRef { mount, dentry: Arc::clone(found.dentry) })
                })?;
                Ok(found)
            }
            Argument::File(file) => file.path().cloned().ok_or(Errno::EINVAL),
            Argument::Cwd => loop {
                let (mount, dentry) = task.fs().cwd();
                let kept = mount.keep(&pin());
                match kept {
                    Ok(mount) => return Ok(PathRef { mount, dentry }),
                    // An umount that is going to fail, since the task stands here.
                    Err(unkept) => unkept.settle(),
                }
            },
        }
    }
}

/// A place that was found without locks, to be looked at again under those of the change that is made there: a call is
/// one step, from its paths to its end.
pub(crate) struct Spot<'a, D: Dentry> {
    task: &'a Task<D>,
    argument: Argument<D>,
    last: Last,
    ns: Arc<MntNamespace<D>>,
    /// That of `ns` before the walk.
    generation: u64,
    found: Position<D>,
}

impl<'a, D: Dentry> Spot<'a, D> {
    /// A place at hand.
    pub(crate) fn at(task: &'a Task<D>, found: Position<D>) -> Self {
        let ns = task.namespace();
        Spot { task, argument: Argument::Cwd, last: Last::Follow, generation: ns.generation(), ns, found }
    }

    /// The place as it was found.
    pub(crate) fn found(&self) -> &Position<D> {
        &self.found
    }

    /// The place as it is now. Context: holds the caller's namespace.
    ///
    /// A path that leads elsewhere than to the caller's namespace, or through a magic link, is not walked again: its place
    /// is the one that was found.
    ///
    /// # Errors
    /// Those of the walk.
    pub(crate) fn now(&self, locks: &WriteSet<D>) -> Result<Position<D>, Error> {
        let Argument::Path(path, dir) = &self.argument else { return Ok(self.found.clone()) };
        if self.ns.generation() == self.generation {
            return Ok(self.found.clone());
        }
        match walk_under(locks, &self.task.fs(), path, &how(dir, self.last)) {
            Ok(place) => Ok(place),
            Err(WalkError::NotFound) => Err(Error::NotFound),
            Err(WalkError::NotDirectory) => Err(Error::NotDirectory),
            Err(WalkError::Loop) => Err(Error::Loop),
            Err(WalkError::NoMemory) => Err(Error::NoMemory),
            Err(_) => Ok(self.found.clone()),
        }
    }
}

fn how<D: Dentry>(dir: &Option<Arc<File<D>>>, last: Last) -> How<'_, D> {
    How { last, resolve: Resolve::empty(), dir: dir.as_ref().and_then(|dir| dir.path()) }
}

/// Whether a symbolic link at the end is followed.
pub(crate) fn last(follow: bool) -> Last {
    if follow { Last::Follow } else { Last::NoFollow }
}
