//! The dentry, which is the inode too: there are no hard links.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};

use mnt_table::PathRef;
use mnt_table::dentry::{Dentry, LookupError, MountedHere};
use mnt_table::list::NoMemory;
use mnt_table::memory;
use mnt_table::namespace::MntNamespace;
use mnt_table::reclaim::{Guard, pin};
use mnt_table::sync::Mutex;
use mnt_table::table::{Entry, Links, Table, Writer};
use mnt_table::walk::WalkError;

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
    /// What stands for a thing of the kernel's; see [`Handle`].
    Handle,
}

/// A thing of the kernel's that has a dentry here: a link of a process's directory, the file of a namespace.
pub trait Handle: Any + Send + Sync {
    /// Where it leads, if it is a magic link: `Some` always or never. As [`Dentry::follow_magic_link`].
    fn follow(&self) -> Option<Result<PathRef<TmpDentry>, WalkError>> {
        None
    }

    /// Whether it is a magic link.
    fn is_link(&self) -> bool {
        false
    }

    /// As [`Dentry::is_fleeting`].
    fn is_fleeting(&self) -> bool {
        false
    }

    /// As [`Dentry::is_handle`].
    fn is_handle(&self) -> bool {
        self.mnt_namespace().is_some()
    }

    /// The mount namespace that it is the file of.
    fn mnt_namespace(&self) -> Option<&Arc<MntNamespace<TmpDentry>>> {
        None
    }

    /// As [`Dentry::mounted`].
    fn mounted(&self) {}

    /// As [`Dentry::unmounted`].
    fn unmounted(&self) {}
}

/// A directory, file or symbolic link.
///
/// Aligned so that the counts of the `Arc` around it, which change with every handle, are not on the line that walks
/// read.
#[repr(C, align(64))]
pub struct TmpDentry {
    // Read by walks, fixed but for the hint that something is mounted here.
    /// The entries of a directory.
    entries: Option<Table<DirEntry>>,
    super_block: Arc<TmpSuperBlock>,
    mounted_here: MountedHere<TmpDentry>,
    // Read by `..` and by changes.
    place: PlaceCell,
    /// Written under the lock of its directory, and its own if it is one.
    removed: AtomicBool,
    ino: u64,
    body: Body,
}

/// What a new dentry is to be.
pub(crate) enum What<'a> {
    Directory,
    File,
    Symlink(&'a [u8]),
    Handle(Arc<dyn Handle>),
}

pub(crate) enum Body {
    Directory(Mutex<Writer<DirEntry>>),
    File(Mutex<Vec<u8>>),
    Symlink(Box<[u8]>),
    Handle(Arc<dyn Handle>),
}

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
        self.hash == hash && *self.name == *name
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
    /// A dentry that no directory has an entry for.
    ///
    /// Context: what fails retires the place, for which the caller has the memory ([`mnt_table::reclaim::claim`]).
    pub(crate) fn new(
        super_block: &Arc<TmpSuperBlock>,
        place: Option<Place>,
        what: What<'_>,
    ) -> Result<Arc<Self>, FsError> {
        let (entries, body) = match what {
            What::Directory => {
                let (table, writer) = Table::new().ok_or(FsError::NoMemory)?;
                (Some(table), Body::Directory(Mutex::new(writer)))
            }
            What::File => (None, Body::File(Mutex::new(Vec::new()))),
            What::Symlink(target) => (None, Body::Symlink(copy(target)?)),
            What::Handle(handle) => (None, Body::Handle(handle)),
        };
        let place = place.map(memory::boxed).transpose()?;
        Shard::add(&stats::of(super_block.dev()).dentries, 1);
        Ok(memory::arc(TmpDentry {
            entries,
            super_block: Arc::clone(super_block),
            mounted_here: MountedHere::new(),
            place: PlaceCell::new(place),
            removed: AtomicBool::new(false),
            ino: super_block.next_ino(),
            body,
        })?)
    }

    /// What it is. Fixed for life.
    pub fn kind(&self) -> Kind {
        match self.body {
            Body::Directory(_) => Kind::Directory,
            Body::File(_) => Kind::File,
            Body::Symlink(_) => Kind::Symlink,
            Body::Handle(_) => Kind::Handle,
        }
    }

    /// The identity: the superblock's `dev`, and a number that is never used again in it.
    pub fn id(&self) -> (u32, u64) {
        (self.super_block.dev(), self.ino)
    }

    /// What it stands for, if it is a [`Handle`].
    pub fn handle(&self) -> Option<&Arc<dyn Handle>> {
        match &self.body {
            Body::Handle(handle) => Some(handle),
            _ => None,
        }
    }

    pub(crate) fn body(&self) -> &Body {
        &self.body
    }

    pub(crate) fn place(&self) -> &PlaceCell {
        &self.place
    }

    /// The entries and their writer's lock.
    pub(crate) fn directory(&self) -> Result<(&Table<DirEntry>, &Mutex<Writer<DirEntry>>), FsError> {
        match (&self.entries, &self.body) {
            (Some(entries), Body::Directory(writer)) => Ok((entries, writer)),
            _ => Err(FsError::NotDirectory),
        }
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

/// `bytes` in memory of their own.
pub(crate) fn copy(bytes: &[u8]) -> Result<Box<[u8]>, NoMemory> {
    let mut copy = Vec::new();
    copy.try_reserve_exact(bytes.len()).map_err(|_| NoMemory)?;
    copy.extend_from_slice(bytes);
    Ok(copy.into_boxed_slice())
}

impl Drop for TmpDentry {
    fn drop(&mut self) {
        let live = stats::of(self.super_block.dev());
        if let Body::File(contents) = &mut self.body {
            Shard::add(&live.bytes, -(contents.get_mut().len() as i64));
        }
        Shard::add(&live.dentries, -1);
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
            Some(entry) => Ok(&entry.child),
            None => Err(LookupError::NotFound),
        }
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
        match &self.body {
            Body::Symlink(target) => Some(target),
            _ => None,
        }
    }

    fn is_magic_link(&self) -> bool {
        self.handle().is_some_and(|handle| handle.is_link())
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
        self.handle().into_iter().for_each(|handle| handle.mounted());
    }

    fn unmounted(&self) {
        self.handle().into_iter().for_each(|handle| handle.unmounted());
    }

    fn is_removed(&self) -> bool {
        // Acquire: pairs with the Release in `set_removed`.
        self.removed.load(Ordering::Acquire)
    }
}
