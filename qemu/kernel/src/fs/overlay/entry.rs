//! The node of a file: which files of the layers it stands in front of.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use linux_raw_sys::general as abi;
use mnt_table::dentry::Dentry;
use mnt_table::sync::BlockingMutex;
use mnt_table::walk::WalkError;
use mnt_table::{PathRef, memory};
use once_cell::race::OnceBox;
use syscalls::Errno;
use tmpfs::{Handle, Kind, TmpDentry, mode};

use super::changes::Changes;
use super::layers::{Layer, Layers};
use super::listing::ListingOps;
use super::{contents, copy_up, lookup, no_memory};
use crate::fs::attributes::{self, Change};
use crate::fs::file::FileOps;
use crate::fs::node::{self, Identity, Names, Node, Opened};
use crate::fs::permission::{self, READ, Subject, WRITE};
use crate::fs::xattr::Attributes;
use crate::fs::{device_parts, error, pipe, regular, stat};

/// A file of a lower layer.
pub(super) struct Lower {
    /// Which of [`Layers::lowers`].
    pub(super) layer: usize,
    pub(super) dentry: Arc<TmpDentry>,
}

/// A file of the upper layer.
pub(super) struct UpperFile(pub(super) Arc<TmpDentry>);

/// The node; see the module's header. There is an upper file, or a lower one, or both.
pub(super) struct Entry {
    pub(super) layers: Arc<Layers>,
    /// Type and permissions that it is made with.
    mode: u32,
    /// `[Upper]` Set once; `OnceBox` sets with Release and gets with Acquire.
    upper: OnceBox<UpperFile>,
    /// From the top down; of what is no directory, one at most: what it is, or was copied from.
    pub(super) lowers: Vec<Lower>,
    pub(super) copying: BlockingMutex<()>,
    pub(super) is_root: bool,
}

/// The entry behind a dentry of an instance.
///
/// # Errors
/// `EXDEV`: it is none.
pub(super) fn of(dentry: &TmpDentry) -> Result<&Entry, Errno> {
    node::downcast(dentry).ok_or(Errno::EXDEV)
}

impl Entry {
    /// # Errors
    /// `ENOMEM`; `ENOENT`: there is nothing to stand in front of.
    pub(super) fn new(
        layers: &Arc<Layers>,
        upper: Option<Arc<TmpDentry>>,
        lowers: Vec<Lower>,
    ) -> Result<Self, Errno> {
        let real = upper.as_ref().or(lowers.first().map(|lower| &lower.dentry)).ok_or(Errno::ENOENT)?;
        let mode = real.inode().mode();
        let entry = Entry {
            layers: Arc::clone(layers),
            mode,
            upper: OnceBox::new(),
            lowers,
            copying: BlockingMutex::new(()),
            is_root: false,
        };
        if let Some(upper) = upper {
            entry.set_upper(memory::boxed(UpperFile(upper)).map_err(no_memory)?);
        }
        Ok(entry)
    }

    /// The upper file.
    pub(super) fn upper(&self) -> Option<&Arc<TmpDentry>> {
        self.upper.get().map(|upper| &upper.0)
    }

    /// Sets the upper file. Context: holds `copying`, or is the only one who has it.
    pub(super) fn set_upper(&self, upper: Box<UpperFile>) {
        let set = self.upper.set(upper);
        debug_assert!(set.is_ok(), "a file is copied up once");
    }

    /// The file that it stands in front of.
    pub(super) fn real_dentry(&self) -> &Arc<TmpDentry> {
        self.upper().unwrap_or_else(|| &self.lowers[0].dentry)
    }

    /// The same, and its layer.
    pub(super) fn real_in(&self) -> (&Layer, &Arc<TmpDentry>) {
        match (self.upper(), self.layers.upper()) {
            (Some(dentry), Ok(upper)) => (&upper.layer, dentry),
            _ => (&self.layers.lowers[self.lowers[0].layer], &self.lowers[0].dentry),
        }
    }

    /// Whether several layers have the directory.
    pub(super) fn is_merged(&self) -> bool {
        self.lowers.len() + usize::from(self.upper().is_some()) > 1
    }

    fn is_directory(&self) -> bool {
        self.mode & mode::TYPE == mode::DIRECTORY
    }

    /// Gives `dentry`, whose entry this is, the permissions of what it stands in front of.
    pub(super) fn refresh(&self, dentry: &TmpDentry) {
        let permissions = self.real_dentry().inode().mode() & 0o7777;
        if dentry.inode().mode() & 0o7777 != permissions {
            dentry.set_permissions(permissions);
        }
    }

    /// Changes attributes of the upper file, which is there.
    fn change_upper(&self, dentry: &Arc<TmpDentry>, change: &Change) -> Result<(), Errno> {
        copy_up::copy_up(dentry, None)?;
        let (layer, upper) = self.real_in();
        let _writing = self.layers.writing()?;
        let mut change = *change;
        if let Some((uid, gid)) = change.owner {
            change.owner = Some(copy_up::stored(layer, uid, gid)?);
        }
        attributes::change(upper, &change)?;
        self.refresh(dentry);
        Ok(())
    }

    fn truncate_upper(&self, dentry: &Arc<TmpDentry>, size: u64) -> Result<(), Errno> {
        copy_up::copy_up(dentry, Some(size))?;
        let _writing = self.layers.writing()?;
        let upper = self.real_dentry();
        let contents = upper.contents().map_err(error)?;
        let _whole = contents.writing().lock();
        contents.set_size(size).map_err(error)?;
        upper.inode().touch();
        Ok(())
    }
}

impl Handle for Entry {
    fn mode(&self) -> u32 {
        self.mode
    }

    fn owner(&self) -> Option<(u32, u32)> {
        let (layer, dentry) = self.real_in();
        Some(permission::owner(layer.mount(), dentry.inode()))
    }

    fn symlink(&self) -> Option<&[u8]> {
        // The target of the file that it was copied from is the same, and what is there first stays there.
        self.lowers.first().map_or_else(|| self.real_dentry(), |lower| &lower.dentry).symlink()
    }

    fn is_dynamic(&self) -> bool {
        self.is_directory()
    }

    fn instantiate(&self, directory: &Arc<TmpDentry>, name: &[u8]) -> Result<(), WalkError> {
        lookup::instantiate(self, directory, name)
    }

    fn shut_down(&self) {
        self.layers.end();
    }
}

impl Node for Entry {
    fn open(&self, at: &PathRef<TmpDentry>, flags: u32) -> Result<Opened, Errno> {
        match node::kind(&at.dentry) {
            Kind::File => contents::open(self, at, flags),
            Kind::Fifo => pipe::open_fifo(&at.dentry, flags),
            Kind::CharacterDevice => {
                let (major, minor) = device_parts(node::real(&at.dentry).inode().rdev());
                Ok(crate::dev::open_char(major, minor, flags, at)?.into())
            }
            Kind::BlockDevice => {
                let (major, minor) = device_parts(node::real(&at.dentry).inode().rdev());
                Ok(crate::dev::open_block(major, minor)?.into())
            }
            _ => Err(Errno::ENXIO),
        }
    }

    fn open_directory(&self) -> Result<Option<Arc<dyn FileOps>>, Errno> {
        let (layer, dentry) = self.real_in();
        Subject::new(layer.mount(), dentry).may(&self.layers.mounter, READ)?;
        let ops: Arc<dyn FileOps> = memory::arc(ListingOps::new()).map_err(no_memory)?;
        Ok(Some(ops))
    }

    fn real(&self) -> Option<&Arc<TmpDentry>> {
        Some(self.real_dentry())
    }

    fn identity(&self, dentry: &TmpDentry) -> Option<Identity> {
        let (layer, real) = self.real_in();
        let directory = self.is_directory();
        let same = self.layers.is_same_file_system();
        let own = dentry.super_block().dev();
        let mut shown = stat::identity(real);
        let mut file_system = layer.file_system;
        if self.upper().is_some()
            && !self.is_root
            && (!directory || same)
            && let Some(lower) = self.lowers.first()
        {
            // What it was copied from tells it from others, unless others were copied from the same.
            let origin = stat::identity(&lower.dentry);
            if directory || origin.names == 1 {
                shown.ino = origin.ino;
                file_system = self.layers.lowers[lower.layer].file_system;
            }
        }
        if directory && self.is_merged() {
            shown.names = 1;
        }
        shown.dev = own;
        if !same && directory {
            shown.ino = dentry.inode().ino();
        } else if !same {
            shown.dev = self.layers.devices[file_system];
        }
        Some(shown)
    }

    fn may(&self, wanted: u32) -> Result<(), Errno> {
        let (layer, real) = self.real_in();
        let stored = matches!(self.mode & mode::TYPE, mode::FILE | mode::DIRECTORY | mode::SYMLINK);
        let mut wanted = wanted;
        if self.upper().is_none() && stored && wanted & WRITE != 0 {
            // It will be read to be copied up.
            wanted = wanted & !WRITE | READ;
        }
        Subject::new(layer.mount(), real).may_access(&self.layers.mounter, wanted)
    }

    fn names(&self) -> Option<&dyn Names> {
        Some(&Changes)
    }

    fn attributes(&self) -> Option<&dyn Attributes> {
        Some(self)
    }

    fn change(&self, dentry: &Arc<TmpDentry>, change: &Change) -> Option<Result<(), Errno>> {
        Some(self.change_upper(dentry, change))
    }

    fn truncate(&self, dentry: &Arc<TmpDentry>, size: u64) -> Option<Result<(), Errno>> {
        Some(self.truncate_upper(dentry, size))
    }
}

/// Flags of an open file that mean that it is written to.
pub(super) fn writes(flags: u32) -> bool {
    flags & abi::O_ACCMODE != abi::O_RDONLY || flags & abi::O_TRUNC != 0
}

/// What an open file of a layer does.
///
/// # Errors
/// `ENOMEM`.
pub(super) fn regular_ops() -> Result<Arc<dyn FileOps>, Errno> {
    let ops: Arc<dyn FileOps> = memory::arc(regular::RegularOps).map_err(no_memory)?;
    Ok(ops)
}
