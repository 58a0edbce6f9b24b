//! Inodes: what hard links share.
//!
//! # Lock order
//! `links` is a leaf, and so are `attached` and `attributes`. An inode whose names are all gone lives on while somebody has it
//! open; what [`Inode::open`] counts decides when its contents go, not the last handle, which garbage may hold for long.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::any::Any;
use core::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use mnt_table::memory;
use mnt_table::sync::Mutex;

use crate::contents::Contents;
use crate::handle::Handle;
use crate::stats::{self, Shard};
use crate::super_block::TmpSuperBlock;
use crate::xattr::Attributes;
use crate::{FsError, Kind};

/// The bits of a mode that say what a file is, and their values.
pub mod mode {
    /// All of them.
    pub const TYPE: u32 = 0o170_000;
    /// A socket.
    pub const SOCKET: u32 = 0o140_000;
    /// A symbolic link.
    pub const SYMLINK: u32 = 0o120_000;
    /// A regular file.
    pub const FILE: u32 = 0o100_000;
    /// A block device.
    pub const BLOCK: u32 = 0o060_000;
    /// A directory.
    pub const DIRECTORY: u32 = 0o040_000;
    /// A character device.
    pub const CHARACTER: u32 = 0o020_000;
    /// A fifo.
    pub const FIFO: u32 = 0o010_000;
    /// Runs as its owner.
    pub const SET_UID: u32 = 0o4_000;
    /// Runs as its group; entries of a directory get its group.
    pub const SET_GID: u32 = 0o2_000;
    /// Entries are for their owners to remove.
    pub const STICKY: u32 = 0o1_000;
}

/// Bytes of a link's target from which on it counts as a page, as on Linux.
const SHORT_TARGET: usize = 128;

/// Times in nanoseconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// Of the last reading.
    pub accessed: i64,
    /// Of the last change of the contents.
    pub modified: i64,
    /// Of the last change of anything.
    pub changed: i64,
    /// Of its making.
    pub born: i64,
}

/// A file that is made.
pub struct New<'a> {
    /// What it is.
    pub what: What<'a>,
    /// Permission bits.
    pub mode: u32,
    /// The owner, as the initial user namespace numbers it.
    pub uid: u32,
    /// The group, which a directory with the set-group-id bit overrides.
    pub gid: u32,
}

/// What a new file is to be.
pub enum What<'a> {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// A symbolic link with its target.
    Symlink(&'a [u8]),
    /// A fifo, a socket or a device: the type's bits of the mode, and the device's number.
    Special(u32, u64),
    /// Stands for a thing of the kernel's.
    Handle(Arc<dyn Handle>),
    /// A directory of the kernel's.
    HandleDirectory(Arc<dyn Handle>),
}

impl<'a> New<'a> {
    /// The machine's administrator's, with the usual permissions.
    pub fn of(what: What<'a>) -> Self {
        let mode = match &what {
            What::Directory => 0o755,
            What::File | What::Special(..) => 0o644,
            What::Symlink(_) => 0o777,
            What::Handle(handle) | What::HandleDirectory(handle) => handle.mode() & 0o7777,
        };
        New { what, mode, uid: 0, gid: 0 }
    }
}

pub(crate) enum Body {
    /// Directories, fifos, sockets, devices.
    Bare,
    File(Contents),
    Symlink(Box<[u8]>),
    Handle(Arc<dyn Handle>),
}

/// Names, who has it open, and times: what changes together or is told together.
#[derive(Clone, Copy, Debug)]
struct Links {
    times: Times,
    names: u32,
    /// Pages that it is charged for beside contents: a long target of a link.
    pages: u64,
    opens: u32,
    /// Nothing is left of it.
    evicted: bool,
    /// It can be given a name though it has none (`O_TMPFILE`).
    linkable: bool,
}

impl Links {
    /// Whether nobody has it any more in any way, for the first time. Notes it.
    fn is_to_be_evicted(&mut self) -> bool {
        let now = self.names == 0 && self.opens == 0 && !self.evicted;
        self.evicted |= now;
        now
    }
}

/// An inode.
pub struct Inode {
    super_block: Arc<TmpSuperBlock>,
    ino: u64,
    /// Type and permissions.
    mode: AtomicU32,
    uid: AtomicU32,
    gid: AtomicU32,
    rdev: u64,
    links: Mutex<Links>,
    /// Who has the contents open for writing; below zero, who forbids that.
    writers: AtomicI32,
    body: Body,
    attached: Mutex<Option<Arc<dyn Any + Send + Sync>>>,
    attributes: Attributes,
}

impl Inode {
    /// An inode with one name, or with none.
    pub(crate) fn new(
        super_block: &Arc<TmpSuperBlock>,
        new: New<'_>,
        named: bool,
    ) -> Result<Arc<Self>, FsError> {
        super_block.charge_inode()?;
        let uncharge = |error| {
            super_block.uncharge_inode();
            error
        };
        let ino = super_block.next_ino();
        let mut rdev = 0;
        let mut pages = 0;
        let (kind, body) = match new.what {
            What::Directory => (mode::DIRECTORY, Body::Bare),
            What::HandleDirectory(handle) => (mode::DIRECTORY, Body::Handle(handle)),
            What::File => (mode::FILE, Body::File(Contents::new(super_block, ino))),
            What::Special(kind, number) => {
                rdev = number;
                (kind & mode::TYPE, Body::Bare)
            }
            What::Symlink(target) => {
                let copy = crate::name::boxed(target).map_err(uncharge)?;
                pages = u64::from(target.len() >= SHORT_TARGET);
                super_block.charge_pages(pages).map_err(uncharge)?;
                (mode::SYMLINK, Body::Symlink(copy))
            }
            What::Handle(handle) => (handle.mode() & mode::TYPE, Body::Handle(handle)),
        };
        let names = match (named, kind) {
            (false, _) => 0,
            (true, mode::DIRECTORY) => 2,
            (true, _) => 1,
        };
        let now = super_block.now();
        let inode = Inode {
            super_block: Arc::clone(super_block),
            ino,
            mode: AtomicU32::new(kind | new.mode & 0o7777),
            uid: AtomicU32::new(new.uid),
            gid: AtomicU32::new(new.gid),
            rdev,
            links: Mutex::new(Links {
                times: Times { accessed: now, modified: now, changed: now, born: now },
                names,
                pages,
                opens: 0,
                evicted: false,
                linkable: !named,
            }),
            writers: AtomicI32::new(0),
            body,
            attached: Mutex::new(None),
            attributes: Attributes::new(),
        };
        // From here on its drop uncharges.
        Shard::add(&stats::of(super_block.dev()).inodes, 1);
        memory::arc(inode).map_err(|_| FsError::NoMemory)
    }

    /// Its number, which is never used again in its instance.
    pub fn ino(&self) -> u64 {
        self.ino
    }

    /// The instance.
    pub fn super_block(&self) -> &Arc<TmpSuperBlock> {
        &self.super_block
    }

    /// Type and permission bits.
    #[inline]
    pub fn mode(&self) -> u32 {
        // Relaxed, as all attributes: each stands for itself.
        self.mode.load(Ordering::Relaxed)
    }

    /// The type's bits. Fixed for life.
    #[inline]
    pub fn file_type(&self) -> u32 {
        self.mode() & mode::TYPE
    }

    pub(crate) fn set_permissions(&self, permissions: u32) {
        let merge = |old: u32| Some(old & mode::TYPE | permissions & 0o7777);
        // Relaxed: bits that stand for themselves.
        let _ = self.mode.fetch_update(Ordering::Relaxed, Ordering::Relaxed, merge);
    }

    /// Owner and group, as the initial user namespace numbers them.
    pub fn owner(&self) -> (u32, u32) {
        let own = || (self.uid.load(Ordering::Relaxed), self.gid.load(Ordering::Relaxed));
        self.handle().and_then(|handle| handle.owner()).unwrap_or_else(own)
    }

    pub(crate) fn set_owner(&self, uid: u32, gid: u32) {
        self.uid.store(uid, Ordering::Relaxed);
        self.gid.store(gid, Ordering::Relaxed);
    }

    /// The device's number.
    pub fn rdev(&self) -> u64 {
        self.rdev
    }

    /// Its times.
    pub fn times(&self) -> Times {
        self.links.lock().times
    }

    /// Changes its times.
    pub fn change_times(&self, change: impl FnOnce(&mut Times)) {
        change(&mut self.links.lock().times);
    }

    /// The contents were changed.
    pub fn touch(&self) {
        let now = self.super_block.now();
        self.change_times(|times| (times.modified, times.changed) = (now, now));
    }

    /// Anything else was changed.
    pub fn touch_changed(&self) {
        let now = self.super_block.now();
        self.change_times(|times| times.changed = now);
    }

    /// What it is.
    pub fn kind(&self) -> Kind {
        match (&self.body, self.file_type()) {
            (_, mode::DIRECTORY) => Kind::Directory,
            (Body::Handle(_), _) => Kind::Handle,
            (_, mode::FILE) => Kind::File,
            (_, mode::SYMLINK) => Kind::Symlink,
            (_, mode::FIFO) => Kind::Fifo,
            (_, mode::SOCKET) => Kind::Socket,
            (_, mode::BLOCK) => Kind::BlockDevice,
            _ => Kind::CharacterDevice,
        }
    }

    pub(crate) fn body(&self) -> &Body {
        &self.body
    }

    /// What it stands for, if it is a [`Handle`].
    pub fn handle(&self) -> Option<&Arc<dyn Handle>> {
        match &self.body {
            Body::Handle(handle) => Some(handle),
            _ => None,
        }
    }

    /// The contents, if it is a regular file.
    pub fn contents(&self) -> Option<&Contents> {
        match &self.body {
            Body::File(contents) => Some(contents),
            _ => None,
        }
    }

    /// What the kernel has attached while it is in use: a fifo's pipe, a bound socket.
    pub fn attached(&self) -> &Mutex<Option<Arc<dyn Any + Send + Sync>>> {
        &self.attached
    }

    pub(crate) fn attributes(&self) -> &Attributes {
        &self.attributes
    }

    /// Names that it has, with the entries `.` and `..` as directories have them.
    pub fn names(&self) -> u32 {
        self.links.lock().names
    }

    /// Pages that it is charged for beside contents.
    pub fn pages(&self) -> u64 {
        self.links.lock().pages
    }

    /// [`Inode::names`] and [`Inode::times`] of one moment.
    pub fn names_and_times(&self) -> (u32, Times) {
        let links = self.links.lock();
        (links.names, links.times)
    }

    /// One name more.
    ///
    /// # Errors
    /// `ENOENT`: it has lost its last one. `EMLINK`.
    pub(crate) fn add_name(&self) -> Result<(), FsError> {
        let mut links = self.links.lock();
        if links.names == 0 && !links.linkable {
            return Err(FsError::NotFound);
        }
        if links.names == 0 && links.opens != 0 {
            self.super_block.put_nameless();
        }
        links.names = links.names.checked_add(1).ok_or(FsError::TooManyLinks)?;
        Ok(())
    }

    /// It never gets a name (`O_TMPFILE | O_EXCL`).
    pub fn never_link(&self) {
        self.links.lock().linkable = false;
    }

    /// One entry `..` more that is it, or one less.
    pub(crate) fn change_subdirectories(&self, more: bool) {
        let mut links = self.links.lock();
        links.names = if more { links.names.saturating_add(1) } else { links.names.saturating_sub(1) };
    }

    /// One name less, or, of a directory, all.
    pub(crate) fn remove_name(&self) {
        let evict = {
            let mut links = self.links.lock();
            let directory = self.file_type() == mode::DIRECTORY;
            links.names = if directory { 0 } else { links.names.saturating_sub(1) };
            links.linkable = false;
            if links.names == 0 && links.opens != 0 {
                self.super_block.get_nameless();
            }
            links.is_to_be_evicted()
        };
        if evict {
            self.evict();
        }
    }

    /// Counts somebody who has it open, maps it, or can open it again.
    ///
    /// # Errors
    /// `ENOENT`: nothing is left of it.
    pub fn open(&self) -> Result<(), FsError> {
        let mut links = self.links.lock();
        if links.evicted {
            return Err(FsError::NotFound);
        }
        self.count(&mut links);
        Ok(())
    }

    /// As [`Inode::open`], of what is there whether anything is left of it or not: a mount.
    pub(crate) fn hold(&self) {
        self.count(&mut self.links.lock());
    }

    fn count(&self, links: &mut Links) {
        if links.names == 0 && links.opens == 0 {
            self.super_block.get_nameless();
        }
        links.opens += 1;
    }

    /// Ends what [`Inode::open`] began.
    pub fn close(&self) {
        let evict = {
            let mut links = self.links.lock();
            links.opens -= 1;
            let last = links.names == 0 && links.opens == 0;
            if last {
                self.super_block.put_nameless();
            }
            links.is_to_be_evicted()
        };
        if evict {
            self.evict();
        }
    }

    /// Counts somebody who has the contents open for writing.
    ///
    /// # Errors
    /// `ETXTBSY`: it is run.
    pub fn begin_write(&self) -> Result<(), FsError> {
        self.change_writers(|writers| writers >= 0, 1)
    }

    /// Ends what [`Inode::begin_write`] began.
    pub fn end_write(&self) {
        let _ = self.change_writers(|_| true, -1);
    }

    /// Nobody may open the contents for writing.
    ///
    /// # Errors
    /// `ETXTBSY`: somebody has them open.
    pub fn forbid_write(&self) -> Result<(), FsError> {
        self.change_writers(|writers| writers <= 0, -1)
    }

    /// Ends what [`Inode::forbid_write`] began.
    pub fn allow_write(&self) {
        let _ = self.change_writers(|_| true, 1);
    }

    fn change_writers(&self, may: impl Fn(i32) -> bool, by: i32) -> Result<(), FsError> {
        // Relaxed: a number that stands for itself.
        let change = |writers: i32| if may(writers) { writers.checked_add(by) } else { None };
        match self.writers.fetch_update(Ordering::Relaxed, Ordering::Relaxed, change) {
            Ok(_) => Ok(()),
            Err(_) => Err(FsError::Run),
        }
    }

    /// What it takes of the instance is given back, though garbage may hold the inode itself for long. Once.
    ///
    /// Context: a leaf lock may be held by the caller's caller, so this does not block.
    fn evict(&self) {
        self.super_block.uncharge_pages(core::mem::take(&mut self.links.lock().pages));
        self.super_block.uncharge_inode();
        self.super_block.uncharge_room(self.attributes.clear());
        if let Body::File(contents) = &self.body {
            contents.evict();
        }
    }
}

impl Drop for Inode {
    fn drop(&mut self) {
        let (pages, evicted) = {
            let links = self.links.lock();
            (links.pages, links.evicted)
        };
        self.super_block.uncharge_pages(pages);
        // What somebody still set after it was evicted.
        self.super_block.uncharge_room(self.attributes.clear());
        if !evicted {
            self.super_block.uncharge_inode();
        }
        Shard::add(&stats::of(self.super_block.dev()).inodes, -1);
    }
}
