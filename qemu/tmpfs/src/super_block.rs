//! An instance of the file system, and how it is taken apart.

use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use mnt_table::dentry::{ActiveMounts, Dentry, SuperBlock};
use mnt_table::list::NoMemory;
use mnt_table::memory::{self, Claims, Grow};
use mnt_table::reclaim::{self, pin};
use mnt_table::sync::Mutex;
use mnt_table::{Source, UserNs};
use smallvec::SmallVec;

use crate::FsError;
use crate::dentry::{self, DirEntry, TmpDentry, What};
use crate::stats::{self, Shard};

/// What a superblock is made of.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// The device's minor number, which tells this instance from others.
    pub dev: u32,
    /// The name of the file system type that mountinfo shows.
    pub fs_type: &'a [u8],
    /// The source that mountinfo shows.
    pub source: &'a [u8],
    /// Whether changes fail with `EROFS`.
    pub read_only: bool,
}

/// An instance of the file system.
pub struct TmpSuperBlock {
    active: ActiveMounts,
    dev: u32,
    fs_type: Box<[u8]>,
    source: Source,
    /// Open files that have lost their names: with them it does not become read-only.
    nameless: AtomicU32,
    owner: Mutex<UserNs>,
    inos: AtomicU64,
    /// Held by renames from one directory to another: nothing else changes who is below whom.
    pub(crate) rename: Mutex<()>,
    /// Weak, because the root owns the superblock.
    root: Mutex<Weak<TmpDentry>>,
    shut_down: AtomicBool,
}

impl TmpSuperBlock {
    /// An empty instance; returns its root, which keeps it alive.
    ///
    /// Mounts end it, by [`SuperBlock::shutdown`]; whoever fills it and never mounts it calls that.
    ///
    /// # Errors
    /// `ENOMEM`.
    #[expect(clippy::new_ret_no_self, reason = "a superblock is had by its root")]
    pub fn new(options: Options<'_>) -> Result<Arc<TmpDentry>, FsError> {
        let (fs_type, source) = (dentry::copy(options.fs_type)?, Source::new(options.source)?);
        Shard::add(&stats::of(options.dev).super_blocks, 1);
        let super_block = memory::arc(TmpSuperBlock {
            active: ActiveMounts::new(),
            dev: options.dev,
            fs_type,
            source,
            nameless: AtomicU32::new(0),
            owner: Mutex::new(UserNs::INITIAL),
            inos: AtomicU64::new(1),
            rename: Mutex::new(()),
            root: Mutex::new(Weak::new()),
            shut_down: AtomicBool::new(false),
        })?;
        // Nobody writes yet, and nobody has a file.
        assert!(super_block.set_read_only(options.read_only));
        let root = TmpDentry::new(&super_block, None, What::Directory)?;
        *super_block.root.lock() = Arc::downgrade(&root);
        Ok(root)
    }

    /// The device's minor number.
    pub fn dev(&self) -> u32 {
        self.dev
    }

    /// The name of the file system type.
    pub fn fs_type(&self) -> &[u8] {
        &self.fs_type
    }

    /// The source.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// Whether changes fail with `EROFS`.
    pub fn is_read_only(&self) -> bool {
        self.active.is_read_only()
    }

    /// Sets whether changes fail; `false` if it is written to, or a file without a name is open, so that it stays writable.
    #[must_use]
    pub fn set_read_only(&self, read_only: bool) -> bool {
        // Relaxed: a number.
        let nameless = self.nameless.load(Ordering::Relaxed) != 0;
        let keeps = nameless && read_only && !self.is_read_only();
        !keeps && self.active.set_read_only(read_only)
    }

    /// Makes `owner` the user namespace that owns it: before anybody has it.
    pub fn set_owner(&self, owner: UserNs) {
        *self.owner.lock() = owner;
    }

    /// One open file more that has no name.
    pub fn get_nameless(&self) {
        // Relaxed: a number.
        self.nameless.fetch_add(1, Ordering::Relaxed);
    }

    /// One less.
    pub fn put_nameless(&self) {
        self.nameless.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn may_write(&self) -> Result<(), FsError> {
        if self.is_read_only() { Err(FsError::ReadOnly) } else { Ok(()) }
    }

    /// The root; `None` when nothing of the tree is left.
    pub fn root(&self) -> Option<Arc<TmpDentry>> {
        self.root.lock().upgrade()
    }

    /// Whether the tree was taken apart.
    pub fn is_shut_down(&self) -> bool {
        // Acquire: pairs with the AcqRel in `shutdown`.
        self.shut_down.load(Ordering::Acquire)
    }

    pub(crate) fn next_ino(&self) -> u64 {
        // Relaxed: a number.
        self.inos.fetch_add(1, Ordering::Relaxed)
    }
}

impl Drop for TmpSuperBlock {
    fn drop(&mut self) {
        Shard::add(&stats::of(self.dev).super_blocks, -1);
    }
}

impl SuperBlock for TmpSuperBlock {
    fn active(&self) -> &ActiveMounts {
        &self.active
    }

    fn user_ns(&self) -> UserNs {
        self.owner.lock().clone()
    }

    fn make_read_only(&self) -> bool {
        self.set_read_only(true)
    }

    /// Takes the tree apart: marks every directory removed, unlinks every entry and forgets every place, so that all of
    /// it is free after one grace period but for what somebody still has a handle of. Waits for the memory that it needs.
    ///
    /// # Panics
    /// When it is called twice.
    fn shutdown(&self) {
        assert!(!self.shut_down.swap(true, Ordering::AcqRel), "a superblock is shut down once");
        let Some(root) = self.root() else { return };
        let mut waiting = Waiting { directories: SmallVec::new(), found: SmallVec::new() };
        waiting.directories.push(root);
        while let Some(directory) = waiting.directories.pop() {
            memory::until(|| waiting.empty(&directory));
            reclaim::relieve();
        }
    }
}

/// What is yet to be taken apart.
struct Waiting {
    directories: SmallVec<[Arc<TmpDentry>; 4]>,
    /// The entries of one directory.
    found: SmallVec<[NonNull<DirEntry>; 8]>,
}

impl Waiting {
    /// Takes the entries out of `directory`, or none of them.
    fn empty(&mut self, directory: &TmpDentry) -> Result<(), NoMemory> {
        let Ok((entries, writer)) = directory.directory() else { return Ok(()) };
        let mut claims = Claims::none();
        let guard = pin();
        let mut writer = writer.lock();
        // From here on nothing is added.
        directory.set_removed();
        self.directories.make_room(writer.len())?;
        self.found.make_room(writer.len())?;
        // An entry and a place each.
        reclaim::claim(&mut claims, 2 * writer.len())?;
        self.found.extend(writer.entries());
        for entry in self.found.drain(..) {
            // SAFETY: linked, and not removed before the call below.
            let child = Arc::clone(unsafe { entry.as_ref() }.child());
            child.place().set(None, &guard);
            // SAFETY: found linked under this lock, and removed once.
            unsafe { writer.remove(entries, entry, &guard) };
            if child.is_dir() {
                self.directories.push(child);
            } else {
                child.set_removed();
            }
        }
        Ok(())
    }
}
