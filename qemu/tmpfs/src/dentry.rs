//! The dentry: a name of an inode, and for a directory its entries.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use mnt_table::dentry::{Dentry, LookupError, MountedHere};
use mnt_table::list::NoMemory;
use mnt_table::namespace::MntNamespace;
use mnt_table::reclaim::{Guard, pin};
use mnt_table::sync::Mutex;
use mnt_table::table::{Entry, Links, Table, Writer};
use mnt_table::walk::WalkError;
use mnt_table::{Mount, PathRef, memory};

use crate::handle::Handle;
use crate::inode::{Body, Inode, New, mode};
use crate::name::{self, Name};
use crate::place::{Place, PlaceCell};
use crate::stats::{self, Shard};
use crate::{FsError, TmpSuperBlock};

/// What a dentry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// A symbolic link.
    Symlink,
    /// A fifo.
    Fifo,
    /// A socket.
    Socket,
    /// A character device.
    CharacterDevice,
    /// A block device.
    BlockDevice,
    /// What stands for a thing of the kernel's; see [`Handle`].
    Handle,
}

/// A name of a file, or a directory.
///
/// Aligned so that the counts of the `Arc` around it, which change with every handle, are not on the line that walks
/// read.
#[repr(C, align(64))]
pub struct TmpDentry {
    // Read by walks, fixed but for the hint that something is mounted here and the leave to search.
    /// The entries of a directory.
    entries: Option<Table<DirEntry>>,
    /// Everybody may look names up here: no owner, group or capability needs to be looked at.
    open_to_all: AtomicBool,
    /// Names that are not here are asked for.
    dynamic: bool,
    super_block: Arc<TmpSuperBlock>,
    mounted_here: MountedHere<TmpDentry>,
    // Read by `..` and by changes.
    place: PlaceCell,
    /// Written under the lock of its directory, and its own if it is one.
    removed: AtomicBool,
    inode: Arc<Inode>,
    /// Its entry's offset in its directory (getdents64(2)), written under the directory's lock.
    offset: AtomicU64,
    /// Of a directory.
    writer: Option<Mutex<DirWriter>>,
}

/// Who changes a directory.
pub(crate) struct DirWriter {
    pub(crate) entries: Writer<DirEntry>,
    /// The offset of the next entry.
    next_offset: u64,
}

/// The offset of a directory's first entry behind `.` and `..`.
const FIRST_OFFSET: u64 = 3;

/// An entry of a directory. Never changes.
#[repr(align(64))]
pub(crate) struct DirEntry {
    links: Links<DirEntry>,
    hash: u64,
    name: Name,
    child: Arc<TmpDentry>,
}

// One line, so that a lookup that hits waits for one line per entry.
const _: () = assert!(size_of::<DirEntry>() == 64 || size_of::<usize>() != 8);

impl DirEntry {
    pub(crate) fn new(hash: u64, name: Name, child: &Arc<TmpDentry>) -> Result<Box<Self>, NoMemory> {
        memory::boxed(DirEntry { links: Links::new(), hash, name, child: Arc::clone(child) })
    }

    #[inline]
    pub(crate) fn is(&self, hash: u64, name: &[u8]) -> bool {
        self.hash == hash && name::same(&self.name, name)
    }

    pub(crate) fn name(&self) -> &[u8] {
        &self.name
    }

    pub(crate) fn child(&self) -> &Arc<TmpDentry> {
        &self.child
    }
}

impl Entry for DirEntry {
    fn hash(&self) -> u64 {
        self.hash
    }

    fn links(&self) -> &Links<Self> {
        &self.links
    }
}

impl TmpDentry {
    /// A dentry with a new inode, that no directory has an entry for.
    ///
    /// Context: what fails retires the place, for which the caller has the memory ([`mnt_table::reclaim::claim`]).
    pub(crate) fn new(
        super_block: &Arc<TmpSuperBlock>,
        place: Option<Place>,
        new: New<'_>,
        named: bool,
    ) -> Result<Arc<Self>, FsError> {
        Self::with_inode(place, Inode::new(super_block, new, named)?)
    }

    /// Another name of `inode`, which is no directory, or its first.
    pub(crate) fn with_inode(place: Option<Place>, inode: Arc<Inode>) -> Result<Arc<Self>, FsError> {
        let (entries, writer) = if inode.file_type() == mode::DIRECTORY {
            let (table, entries) = Table::new().ok_or(FsError::NoMemory)?;
            (Some(table), Some(Mutex::new(DirWriter { entries, next_offset: FIRST_OFFSET })))
        } else {
            (None, None)
        };
        let place = match place {
            Some(place) => Some(memory::boxed(place)?),
            None => None,
        };
        let dentry = TmpDentry {
            entries,
            open_to_all: AtomicBool::new(is_open_to_all(inode.mode())),
            dynamic: inode.handle().is_some_and(|handle| handle.is_dynamic()),
            super_block: Arc::clone(inode.super_block()),
            mounted_here: MountedHere::new(),
            place: PlaceCell::new(place),
            removed: AtomicBool::new(false),
            inode,
            offset: AtomicU64::new(0),
            writer,
        };
        Shard::add(&stats::of(dentry.super_block.dev()).dentries, 1);
        memory::arc(dentry).map_err(|_| FsError::NoMemory)
    }

    /// What it is. Fixed for life.
    pub fn kind(&self) -> Kind {
        self.inode.kind()
    }

    /// The identity of the inode: the superblock's `dev`, and a number that is never used again in it.
    pub fn id(&self) -> (u32, u64) {
        (self.super_block.dev(), self.inode.ino())
    }

    /// The inode.
    pub fn inode(&self) -> &Arc<Inode> {
        &self.inode
    }

    /// What it stands for, if it is a [`Handle`].
    pub fn handle(&self) -> Option<&Arc<dyn Handle>> {
        self.inode.handle()
    }

    /// Changes the permission bits.
    pub fn set_permissions(&self, permissions: u32) {
        self.inode.set_permissions(permissions);
        self.open_to_all.store(is_open_to_all(permissions), Ordering::Relaxed); // Relaxed: a bit that stands for itself.
    }

    /// Changes owner and group.
    pub fn set_owner(&self, uid: u32, gid: u32) {
        self.inode.set_owner(uid, gid);
    }

    pub(crate) fn place(&self) -> &PlaceCell {
        &self.place
    }

    /// The entries and their writer's lock.
    pub(crate) fn directory(&self) -> Result<(&Table<DirEntry>, &Mutex<DirWriter>), FsError> {
        match (&self.entries, &self.writer) {
            (Some(entries), Some(writer)) => Ok((entries, writer)),
            _ => Err(FsError::NotDirectory),
        }
    }

    /// Its entry's offset.
    pub(crate) fn offset(&self) -> u64 {
        self.offset.load(Ordering::Relaxed) // Relaxed: under its directory's lock.
    }

    /// Gives it the next offset of `writer`, whose directory's lock the caller holds.
    pub(crate) fn take_offset(&self, writer: &mut DirWriter) {
        self.offset.store(writer.next_offset, Ordering::Relaxed);
        writer.next_offset += 1;
    }

    /// Marks it removed. Context: holds the lock of its directory, and its own if it is one.
    pub(crate) fn set_removed(&self) {
        // Release: pairs with the Acquire in `is_removed`, for who does not hold the lock.
        self.removed.store(true, Ordering::Release);
    }

    /// A handle of the entry `name`.
    pub(crate) fn get(&self, hash: u64, name: &[u8]) -> Result<Option<Arc<TmpDentry>>, FsError> {
        let guard = pin();
        let (entries, _) = self.directory()?;
        Ok(entries.find(hash, |entry| entry.is(hash, name), &guard).map(|entry| Arc::clone(&entry.child)))
    }
}

/// Whether everybody may search a directory with these permissions.
fn is_open_to_all(mode: u32) -> bool {
    mode & 0o111 == 0o111
}

impl Drop for TmpDentry {
    fn drop(&mut self) {
        Shard::add(&stats::of(self.super_block.dev()).dentries, -1);
    }
}

impl fmt::Debug for TmpDentry {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (dev, ino) = self.id();
        write!(out, "{:?} {dev}:{ino}", self.kind())
    }
}

impl Dentry for TmpDentry {
    type SuperBlock = TmpSuperBlock;

    #[inline]
    fn super_block(&self) -> &Arc<TmpSuperBlock> {
        &self.super_block
    }

    #[inline]
    fn mounted_here(&self) -> &MountedHere<Self> {
        &self.mounted_here
    }

    #[inline]
    fn is_dir(&self) -> bool {
        self.entries.is_some()
    }

    #[inline]
    fn lookup<'g>(&'g self, name: &[u8], guard: &'g Guard) -> Result<&'g Arc<Self>, LookupError> {
        let Some(entries) = &self.entries else { return Err(LookupError::NotDirectory) };
        let hash = name::hash(name);
        match entries.find(hash, |entry| entry.is(hash, name), guard) {
            Some(entry) if !self.dynamic => Ok(&entry.child),
            Some(entry) if entry.child.handle().is_some_and(|handle| handle.is_stale()) => {
                Err(LookupError::Ask)
            }
            Some(entry) => Ok(&entry.child),
            None if self.dynamic => Err(LookupError::Ask),
            None => Err(LookupError::NotFound),
        }
    }

    fn instantiate(self: &Arc<Self>, name: &[u8]) -> Result<(), WalkError> {
        self.handle().map_or(Err(WalkError::NotFound), |handle| handle.instantiate(self, name))
    }

    #[inline]
    fn may_search(&self, mount: &Mount<Self>) -> bool {
        // Relaxed: as in `set_permissions`.
        self.open_to_all.load(Ordering::Relaxed) || self.super_block.may_search(self, mount)
    }

    #[inline]
    fn parent<'g>(&'g self, guard: &'g Guard) -> Option<(&'g [u8], &'g Arc<Self>)> {
        self.place.get(guard).map(|place| (&*place.name, &place.parent))
    }

    #[inline]
    fn symlink(&self) -> Option<&[u8]> {
        // A directory says so on the line that the walk has read already.
        if self.is_dir() {
            return None;
        }
        match self.inode.body() {
            Body::Symlink(target) => Some(target),
            Body::Handle(handle) => handle.symlink(),
            _ => None,
        }
    }

    fn is_magic_link(&self) -> bool {
        !self.is_dir() && self.handle().is_some_and(|handle| handle.is_link())
    }

    fn follow_magic_link(&self) -> Result<PathRef<Self>, WalkError> {
        self.handle().and_then(|handle| handle.follow()).unwrap_or(Err(WalkError::NotFound))
    }

    fn is_fleeting(&self) -> bool {
        self.handle().is_some_and(|handle| handle.is_fleeting())
    }

    fn is_handle(&self) -> bool {
        self.handle().is_some_and(|handle| handle.is_handle())
    }

    fn mnt_namespace(&self) -> Option<&Arc<MntNamespace<Self>>> {
        self.handle()?.mnt_namespace()
    }

    fn mounted(&self) {
        self.inode.hold();
        self.handle().into_iter().for_each(|handle| handle.mounted());
    }

    fn unmounted(&self) {
        self.inode.close();
        self.handle().into_iter().for_each(|handle| handle.unmounted());
    }

    fn is_removed(&self) -> bool {
        // Acquire: pairs with the Release in `set_removed`.
        self.removed.load(Ordering::Acquire)
    }
}
