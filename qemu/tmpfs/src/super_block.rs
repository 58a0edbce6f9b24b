//! An instance of the file system, and how it is taken apart.

use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use core::any::Any;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use mnt_table::dentry::{ActiveMounts, SuperBlock};
use mnt_table::memory;
use mnt_table::sync::Mutex;
use mnt_table::{Mount, Source, UserNs};

use crate::dentry::TmpDentry;
use crate::inode::{New, What};
use crate::stats::{self, Shard};
use crate::xattr::INODE_ROOM;
use crate::{FsError, PAGE_SIZE, name, shutdown};

/// What an instance asks of the machine around it.
pub trait Machine: Send + Sync {
    /// The time, in nanoseconds since 1970.
    fn now(&self) -> i64;

    /// Whether the caller may look names up in `directory`, reached through `mount`: asked only where not everybody may.
    ///
    /// Context: pinned; never blocks.
    fn may_search(&self, directory: &TmpDentry, mount: &Mount<TmpDentry>) -> bool;

    /// The pages `pages` of the file with this identity are gone from it: whoever maps it forgets them.
    ///
    /// Context: no spin lock held; may block.
    fn cut(&self, file: (u32, u64), pages: Range<u64>);
}

/// What a superblock is made of.
#[derive(Clone, Copy)]
pub struct Options<'a> {
    /// The device's minor number, which tells this instance from others.
    pub dev: u32,
    /// The name of the file system type that mountinfo shows.
    pub fs_type: &'a [u8],
    /// The source that mountinfo shows.
    pub source: &'a [u8],
    /// Whether changes fail with `EROFS`.
    pub read_only: bool,
    /// The most pages of contents; `None` if there is no limit.
    pub pages: Option<u64>,
    /// The most inodes.
    pub inodes: Option<u64>,
    /// The root's permissions, owner and group.
    pub root: (u32, u32, u32),
    /// Who owns the instance.
    pub owner: &'a UserNs,
    /// The machine around it; without one it is always 1970, and everybody may search everything.
    pub machine: Option<&'static dyn Machine>,
}

impl<'a> Options<'a> {
    /// Writable, without limits, the administrator's.
    pub const fn new(dev: u32, fs_type: &'a [u8]) -> Self {
        const INITIAL: &UserNs = &UserNs::INITIAL;
        Options {
            dev,
            fs_type,
            source: b"none",
            read_only: false,
            pages: None,
            inodes: None,
            root: (0o755, 0, 0),
            owner: INITIAL,
            machine: None,
        }
    }
}

/// Something of which there may be only so much.
struct Quota {
    used: AtomicU64,
    /// `u64::MAX`: no limit.
    max: AtomicU64,
}

impl Quota {
    fn new(max: Option<u64>) -> Self {
        Quota { used: AtomicU64::new(0), max: AtomicU64::new(max.unwrap_or(u64::MAX)) }
    }

    // Relaxed, all: numbers that stand for themselves.
    fn take(&self, more: u64) -> Result<(), FsError> {
        let max = self.max.load(Ordering::Relaxed);
        let add = |used: u64| used.checked_add(more).filter(|used| *used <= max);
        match self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add) {
            Ok(_) => Ok(()),
            Err(_) => Err(FsError::NoSpace),
        }
    }

    fn give(&self, less: u64) {
        // Relaxed, here and in what reads: a number that stands for itself.
        self.used.fetch_sub(less, Ordering::Relaxed);
    }

    fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    fn max(&self) -> Option<u64> {
        Some(self.max.load(Ordering::Relaxed)).filter(|max| *max != u64::MAX)
    }
}

/// How much of an instance is used (statfs(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Pages of contents.
    pub pages: u64,
    /// The most there may be.
    pub pages_max: Option<u64>,
    /// Inodes, and what their extended attributes take as if it were inodes.
    pub inodes: u64,
    /// The most there may be.
    pub inodes_max: Option<u64>,
}

/// An instance of the file system.
pub struct TmpSuperBlock {
    active: ActiveMounts,
    dev: u32,
    machine: Option<&'static dyn Machine>,
    fs_type: Box<[u8]>,
    source: Source,
    /// Open files that have lost their names: with them it does not become read-only.
    nameless: AtomicU32,
    owner: Mutex<UserNs>,
    inos: AtomicU64,
    pages: Quota,
    /// Room for inodes and their extended attributes, in bytes.
    room: Quota,
    /// What the kernel keeps with it: flags and parameters as they are shown.
    attached: Mutex<Option<Arc<dyn Any + Send + Sync>>>,
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
        Self::with_root(options, What::Directory)
    }

    /// As [`TmpSuperBlock::new`], with a root that the kernel makes the entries of.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn with_root(options: Options<'_>, root: What<'_>) -> Result<Arc<TmpDentry>, FsError> {
        let source = Source::new(options.source)?;
        let super_block = TmpSuperBlock {
            active: ActiveMounts::new(),
            dev: options.dev,
            machine: options.machine,
            fs_type: name::boxed(options.fs_type)?,
            source,
            nameless: AtomicU32::new(0),
            owner: Mutex::new(options.owner.clone()),
            inos: AtomicU64::new(1),
            pages: Quota::new(options.pages),
            room: Quota::new(options.inodes.map(|inodes| inodes.saturating_mul(INODE_ROOM))),
            attached: Mutex::new(None),
            rename: Mutex::new(()),
            root: Mutex::new(Weak::new()),
            shut_down: AtomicBool::new(false),
        };
        Shard::add(&stats::of(options.dev).super_blocks, 1);
        let super_block = memory::arc(super_block).map_err(|_| FsError::NoMemory)?;
        // Nobody writes yet, and nobody has a file.
        assert!(super_block.set_read_only(options.read_only));
        let (mode, uid, gid) = options.root;
        let root = TmpDentry::new(&super_block, None, New { what: root, mode, uid, gid }, true)?;
        *super_block.root.lock() = Arc::downgrade(&root);
        Ok(root)
    }

    /// The time.
    pub fn now(&self) -> i64 {
        self.machine.map_or(0, |machine| machine.now())
    }

    pub(crate) fn may_search(&self, directory: &TmpDentry, mount: &Mount<TmpDentry>) -> bool {
        self.machine.is_none_or(|machine| machine.may_search(directory, mount))
    }

    pub(crate) fn cut(&self, ino: u64, pages: Range<u64>) {
        self.machine.into_iter().for_each(|machine| machine.cut((self.dev, ino), pages.clone()));
    }

    /// What the kernel keeps with it.
    pub fn attached(&self) -> &Mutex<Option<Arc<dyn Any + Send + Sync>>> {
        &self.attached
    }

    /// How much of it is used.
    pub fn usage(&self) -> Usage {
        Usage {
            pages: self.pages.used(),
            pages_max: self.pages.max(),
            inodes: self.room.used().div_ceil(INODE_ROOM),
            inodes_max: self.room.max().map(|room| room / INODE_ROOM),
        }
    }

    /// Changes the limits that are given (remount); 0 is no limit.
    ///
    /// # Errors
    /// `EINVAL`: less than is used, or a limit where there was none.
    pub fn set_limits(&self, pages: Option<u64>, inodes: Option<u64>) -> Result<(), FsError> {
        let fits = |quota: &Quota, max: Option<u64>| match max {
            None | Some(0) => true,
            Some(max) => quota.max().is_some() && quota.used() <= max,
        };
        let room = inodes.map(|inodes| inodes.saturating_mul(INODE_ROOM));
        if !fits(&self.pages, pages) || !fits(&self.room, room) {
            return Err(FsError::BadLimit);
        }
        for (quota, max) in [(&self.pages, pages), (&self.room, room)] {
            // Relaxed: as in `Quota`.
            max.inspect(|max| quota.max.store(if *max == 0 { u64::MAX } else { *max }, Ordering::Relaxed));
        }
        Ok(())
    }

    pub(crate) fn charge_pages(&self, more: u64) -> Result<(), FsError> {
        self.pages.take(more)?;
        Shard::add(&stats::of(self.dev).bytes, (more * PAGE_SIZE as u64) as i64);
        Ok(())
    }

    pub(crate) fn uncharge_pages(&self, less: u64) {
        self.pages.give(less);
        Shard::add(&stats::of(self.dev).bytes, -((less * PAGE_SIZE as u64) as i64));
    }

    pub(crate) fn charge_inode(&self) -> Result<(), FsError> {
        self.room.take(INODE_ROOM)
    }

    pub(crate) fn uncharge_inode(&self) {
        self.room.give(INODE_ROOM);
    }

    pub(crate) fn charge_room(&self, more: u64) -> Result<(), FsError> {
        self.room.take(more)
    }

    pub(crate) fn uncharge_room(&self, less: u64) {
        self.room.give(less);
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

    /// As [`shutdown::take_apart`].
    ///
    /// # Panics
    /// When it is called twice.
    fn shutdown(&self) {
        // AcqRel: a second call would find all that the first one did.
        assert!(!self.shut_down.swap(true, Ordering::AcqRel), "a superblock is shut down once");
        if let Some(root) = self.root() {
            shutdown::take_apart(Arc::clone(&root));
            root.handle().into_iter().for_each(|handle| handle.shut_down());
        }
    }
}
