//! What an instance lies on: the layers, held by private mounts.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use mnt_table::sync::{BlockingMutex, Mutex};
use mnt_table::writers::WriteRef;
use mnt_table::{Mount, MountFlags, MountRef, PathRef};
use syscalls::private::private_mount;
use syscalls::{Credentials, Errno, File};
use tmpfs::TmpDentry;

use super::lookup::is_whiteout;
use crate::fs::kernel::writing;
use crate::fs::proc::directory::forget;
use crate::task;

/// A layer.
pub(super) struct Layer {
    /// To ask about owners; it may have ended.
    mount: Arc<Mount<TmpDentry>>,
    /// What keeps it going. Taken at the end of the instance.
    held: Mutex<Option<File<TmpDentry>>>,
    /// Which of [`Layers::devices`] its file system has.
    pub(super) file_system: usize,
}

impl Layer {
    /// Holds what is at `at`, for the running thread.
    ///
    /// # Errors
    /// Those of [`private_mount`].
    pub(super) fn new(at: &PathRef<TmpDentry>, flags: MountFlags, file_system: usize) -> Result<Self, Errno> {
        let file = private_mount(task::current().mounts(), at, flags)?;
        let mount = file.path().ok_or(Errno::EINVAL)?.mount.to_arc();
        Ok(Layer { mount, held: Mutex::new(Some(file)), file_system })
    }

    /// The mount, to ask about owners.
    pub(super) fn mount(&self) -> &Mount<TmpDentry> {
        &self.mount
    }

    /// Its root.
    pub(super) fn root(&self) -> &Arc<TmpDentry> {
        self.mount.root()
    }

    /// A place in it.
    ///
    /// # Errors
    /// `ENOENT`: the instance has ended.
    pub(super) fn path(&self, dentry: &Arc<TmpDentry>) -> Result<PathRef<TmpDentry>, Errno> {
        let mount = self.held.lock().as_ref().and_then(|held| held.path()).map(|at| at.mount.clone());
        Ok(PathRef { mount: mount.ok_or(Errno::ENOENT)?, dentry: Arc::clone(dentry) })
    }

    fn end(&self) {
        // Its end takes locks of the mount table.
        let held = self.held.lock().take();
        drop(held);
    }
}

/// The upper layer.
pub(super) struct Upper {
    pub(super) layer: Layer,
    /// Where files are made that get their names when they are whole.
    pub(super) work: Arc<TmpDentry>,
}

/// What an instance lies on.
pub(super) struct Layers {
    upper: Option<Upper>,
    /// From the top down.
    pub(super) lowers: Vec<Layer>,
    /// Who mounted it.
    pub(super) mounter: Arc<Credentials>,
    /// What the names of its own extended attributes begin with.
    pub(super) prefix: &'static [u8],
    /// The upper layer keeps no extended attributes of its own.
    pub(super) without_attributes: bool,
    /// See the module's header.
    pub(super) changing: BlockingMutex<()>,
    /// The device's number that stat(2) tells for files of each file system, where there are several. The first is the upper
    /// layer's.
    pub(super) devices: Vec<u32>,
    /// Directories that must not be found by a lookup: the layers' roots, and the work directory.
    pub(super) traps: Vec<Arc<TmpDentry>>,
    /// How many instances lie on each other.
    pub(super) depth: u32,
    temporaries: AtomicU64,
}

impl Layers {
    pub(super) fn new(
        upper: Option<Upper>,
        lowers: Vec<Layer>,
        mounter: Arc<Credentials>,
        prefix: &'static [u8],
    ) -> Self {
        Layers {
            upper,
            lowers,
            mounter,
            prefix,
            without_attributes: false,
            changing: BlockingMutex::new(()),
            devices: Vec::new(),
            traps: Vec::new(),
            depth: 1,
            temporaries: AtomicU64::new(0),
        }
    }

    /// The upper layer.
    ///
    /// # Errors
    /// `EROFS`: there is none.
    pub(super) fn upper(&self) -> Result<&Upper, Errno> {
        self.upper.as_ref().ok_or(Errno::EROFS)
    }

    /// Whether all layers are in one file system.
    pub(super) fn is_same_file_system(&self) -> bool {
        self.devices.len() == 1
    }

    /// Somebody who writes to the upper layer from here on.
    ///
    /// # Errors
    /// `EROFS`.
    pub(super) fn writing(&self) -> Result<WriteRef<MountRef<TmpDentry>>, Errno> {
        let layer = &self.upper()?.layer;
        writing(&layer.path(layer.root())?.mount)
    }

    /// A name in the work directory that was not given out before.
    pub(super) fn temporary(&self) -> heapless::Vec<u8, 24> {
        use core::fmt::Write;
        let mut name = heapless::String::<24>::new();
        // Relaxed: a number.
        let number = self.temporaries.fetch_add(1, Ordering::Relaxed);
        let _ = write!(name, "#{number:x}"); // It fits.
        name.into_bytes()
    }

    /// Lets the layers go.
    ///
    /// Context: as [`mnt_table::dentry::SuperBlock::shutdown`].
    pub(super) fn end(&self) {
        self.upper.iter().map(|upper| &upper.layer).chain(&self.lowers).for_each(Layer::end);
    }
}

/// Takes away what the upper layer or the work directory has under a name, whatever is in it.
pub(super) fn discard(directory: &TmpDentry, name: &[u8]) {
    forget(directory, name);
}

/// Takes the whiteouts of a directory of the upper layer away.
///
/// # Errors
/// `ENOMEM`.
pub(super) fn discard_whiteouts(directory: &TmpDentry) -> Result<(), Errno> {
    let entries = directory.entries().map_err(crate::fs::error)?;
    entries.iter().filter(|(_, entry)| is_whiteout(entry)).for_each(|(name, _)| discard(directory, name));
    Ok(())
}
