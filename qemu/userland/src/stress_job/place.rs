//! A mount namespace of the forest, from outside and from inside.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};
use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags, openat, statx};
use rustix::process::{chroot, fchdir};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use syscalls::mountinfo::MountInfo;

/// Where a path leads: the mount, the device and the inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) mount: u64,
    pub(crate) file: File,
}

/// A file: its device and its inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct File {
    device: (u32, u32),
    inode: u64,
}

/// A mount that stays, and what its path leads to.
pub(crate) struct Mark {
    pub(crate) path: PathBuf,
    /// What proc shows for a descriptor of it.
    pub(crate) name: Vec<u8>,
    pub(crate) found: Found,
    /// What `..` of it is.
    pub(crate) above: File,
}

/// A directory that changes are made in.
pub(crate) struct Arena {
    pub(crate) path: PathBuf,
}

/// What the root directory of a namespace's readers is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Root {
    /// The root of a mount that nothing is mounted over.
    Open,
    /// The root of a mount under others: what they show is not to be reached from it.
    Covered,
    /// The root of the namespace itself, which hangs on nothing.
    Bottom,
    /// A directory of a mount that is not listed.
    Directory,
}

impl Root {
    /// Whether it can be replaced by pivot_root(2).
    pub(crate) fn can_pivot(self) -> bool {
        matches!(self, Root::Open | Root::Covered)
    }
}

/// A namespace, as a reader with its root directory sees it.
pub(crate) struct Place {
    pub(crate) name: String,
    pub(crate) namespace: OwnedFd,
    pub(crate) root: OwnedFd,
    pub(crate) root_is: Root,
    pub(crate) marks: Vec<Mark>,
    pub(crate) arenas: Vec<Arena>,
    /// Its mounts at the start.
    pub(crate) lines: Vec<MountInfo>,
    /// A descriptor of each: some are under others, where no path leads.
    pub(crate) mounts: Vec<OwnedFd>,
}

impl Place {
    /// Enters it.
    ///
    /// # Errors
    /// Those of setns(2) and chroot(2).
    pub(crate) fn enter(&self) -> Result<()> {
        move_into_link_name_space(self.namespace.as_fd(), Some(LinkNameSpaceType::Mount))
            .context("cannot enter a namespace")?;
        fchdir(&self.root).context("cannot enter a root")?;
        chroot(".").context("cannot change the root")?;
        Ok(())
    }
}

/// Where `path` leads, from `from`.
///
/// # Errors
/// Those of openat(2) and statx(2).
pub(crate) fn find(from: impl AsFd, path: impl rustix::path::Arg) -> rustix::io::Result<(OwnedFd, Found)> {
    let fd = openat(from, path, OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())?;
    let stat = statx(&fd, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS | StatxFlags::MNT_ID)?;
    let file = File { device: (stat.stx_dev_major, stat.stx_dev_minor), inode: stat.stx_ino };
    Ok((fd, Found { mount: stat.stx_mnt_id, file }))
}

/// What proc shows for a descriptor.
///
/// # Errors
/// Those of readlinkat(2).
pub(crate) fn name_of(fd: &OwnedFd, proc: impl AsFd) -> rustix::io::Result<Vec<u8>> {
    let name = format!("self/fd/{}", fd.as_raw_fd());
    Ok(rustix::fs::readlinkat(proc, &name, Vec::new())?.into_bytes())
}

/// The mountinfo of this process, through the directory `proc` of a proc file system.
///
/// # Errors
/// The file cannot be read, or is not as it should be.
pub(crate) fn mountinfo(proc: impl AsFd) -> Result<Vec<MountInfo>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = openat(proc, "self/mountinfo", flags, Mode::empty()).context("cannot open mountinfo")?;
    let mut text = Vec::new();
    std::io::Read::read_to_end(&mut std::fs::File::from(file), &mut text).context("cannot read mountinfo")?;
    let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| MountInfo::parse(line).map_err(|error| anyhow!("mountinfo: {error}"))).collect()
}
