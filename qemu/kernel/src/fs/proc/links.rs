//! Links of a process: where it stands, what it runs, and its namespaces.

use alloc::sync::Arc;
use alloc::vec::Vec;

use linux_raw_sys::general as abi;
use mnt_table::walk::WalkError;
use mnt_table::{PathRef, pin};
use syscalls::Errno;
use tmpfs::{Handle, TmpDentry, mode};

use super::directory::{Directory, FIRST, Listed, Made, Name};
use super::process::Target;
use crate::fs::node::Node;
use crate::fs::nsfs::{self, Namespace};

/// Where a link leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Cwd,
    Root,
    Exe,
    /// The index of an entry of [`KINDS`].
    Namespace(usize),
}

/// A link.
pub(super) struct Link {
    pub(super) target: Target,
    pub(super) place: Place,
}

/// Files in `ns`, and the kinds of namespaces that they are of; `true`: of children.
const KINDS: [(&str, u32, bool); 10] = [
    ("cgroup", abi::CLONE_NEWCGROUP, false),
    ("ipc", abi::CLONE_NEWIPC, false),
    ("mnt", abi::CLONE_NEWNS, false),
    ("net", abi::CLONE_NEWNET, false),
    ("pid", abi::CLONE_NEWPID, false),
    ("pid_for_children", abi::CLONE_NEWPID, true),
    ("time", abi::CLONE_NEWTIME, false),
    ("time_for_children", abi::CLONE_NEWTIME, true),
    ("user", abi::CLONE_NEWUSER, false),
    ("uts", abi::CLONE_NEWUTS, false),
];

/// The namespace that the entry `index` of [`KINDS`] is of. A process that has ended is still somebody's, with a number.
fn namespace(target: &Target, index: usize) -> Option<Namespace> {
    let (_, kind, of_children) = KINDS[index];
    if let Ok(thread) = target.thread() {
        return Namespace::of_thread(&thread, kind, of_children);
    }
    let process = target.process().ok()?;
    match kind {
        abi::CLONE_NEWUSER => Some(Namespace::Users(process.last_credentials()?.user_ns.clone())),
        abi::CLONE_NEWPID if !of_children => {
            Some(Namespace::Other(Arc::clone(process.identity().namespace()) as _))
        }
        _ => None,
    }
}

impl Link {
    fn find(&self) -> Result<PathRef<TmpDentry>, WalkError> {
        let denied = |error| if error == Errno::EACCES { WalkError::Denied } else { WalkError::NotFound };
        self.target.may_inspect().map_err(denied)?;
        if let Place::Namespace(index) = self.place {
            let found = namespace(&self.target, index).ok_or(WalkError::NotFound)?;
            return nsfs::path(found).map_err(|_| WalkError::NoMemory);
        }
        let thread = self.target.thread().map_err(denied)?;
        let fs = thread.mounts().fs();
        let stand = |read: &dyn Fn() -> (Arc<mnt_table::Mount<TmpDentry>>, Arc<TmpDentry>)| loop {
            let (mount, dentry) = read();
            let kept = mount.keep(&pin());
            match kept {
                Ok(mount) => return Ok(PathRef { mount, dentry }),
                // An umount that is going to fail, since the task stands there.
                Err(unkept) => unkept.settle(),
            }
        };
        match self.place {
            Place::Cwd => stand(&|| fs.cwd()),
            Place::Root => stand(&|| fs.root()),
            Place::Exe | Place::Namespace(_) => {
                let exe = thread.process().exe().ok_or(WalkError::NotFound)?;
                exe.file().path().cloned().ok_or(WalkError::NotFound)
            }
        }
    }
}

impl Handle for Link {
    fn mode(&self) -> u32 {
        mode::SYMLINK | 0o777
    }

    fn owner(&self) -> Option<(u32, u32)> {
        self.target.pid.owner_of_files(false)
    }

    fn is_link(&self) -> bool {
        true
    }

    fn is_stale(&self) -> bool {
        self.target.is_gone()
    }

    fn follow(&self) -> Option<Result<PathRef<TmpDentry>, WalkError>> {
        Some(self.find())
    }
}

impl Node for Link {
    fn readlink(&self) -> Option<Result<Vec<u8>, Errno>> {
        let Place::Namespace(index) = self.place else { return None };
        let read = || {
            self.target.may_inspect()?;
            let found = namespace(&self.target, index).ok_or(Errno::ENOENT)?;
            Ok(found.name().into_bytes())
        };
        Some(read())
    }
}

/// The directory `ns`.
pub(super) struct Namespaces(pub(super) Target);

impl Directory for Namespaces {
    fn refuses_entries(&self) -> Errno {
        Errno::ENOENT
    }

    fn permissions(&self) -> u32 {
        0o511
    }

    fn owner(&self) -> Option<(u32, u32)> {
        self.0.pid.owner_of_files(false)
    }

    fn is_stale(&self) -> bool {
        self.0.is_gone()
    }

    fn may_list(&self) -> Result<(), Errno> {
        self.0.may_inspect()
    }

    fn make(&self, name: &[u8]) -> Result<Made, Errno> {
        let index = KINDS.iter().position(|(known, ..)| known.as_bytes() == name).ok_or(Errno::ENOENT)?;
        Made::node(Link { target: self.0.clone(), place: Place::Namespace(index) })
    }

    fn next(&self, at: u64) -> Option<Listed> {
        let (name, ..) = KINDS.get((at - FIRST) as usize)?;
        let name = Name::from_slice(name.as_bytes()).unwrap_or_default();
        Some(Listed { next: at + 1, kind: abi::DT_LNK, name })
    }
}
