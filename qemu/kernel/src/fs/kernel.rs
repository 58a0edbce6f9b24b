//! One call of a thread: what `syscalls` asks of the kernel, and what the calls about files share.

use alloc::borrow::Cow;
use alloc::sync::Arc;
use alloc::vec::Vec;

use linux_raw_sys::general as abi;
use mnt_table::dentry::{Dentry, LookupError};
use mnt_table::walk::{How, Last, Resolve, WalkError, walk_how};
use mnt_table::writers::WriteRef;
use mnt_table::{MountRef, PathRef, pin};
use syscalls::file::Object;
use syscalls::file_system::{FileSystems, SuperFlags, TypeRef};
use syscalls::nsfs::Namespaces;
use syscalls::user_memory::{Text, UserMemory};
use syscalls::{Credentials, Errno, File, Kernel, Show, Task};
use tmpfs::TmpDentry;

use super::file::OpenFile;
use super::node::End;
use super::{anon, stand_in, types};
use crate::mm::user;
use crate::task::Thread;

static NAMESPACES: Namespaces<TmpDentry> = Namespaces::new();

/// All mount namespaces of the machine.
pub(crate) fn namespaces() -> &'static Namespaces<TmpDentry> {
    &NAMESPACES
}

/// A call.
pub(crate) struct Call<'a> {
    pub(crate) thread: &'a Arc<Thread>,
}

/// Bytes of a short path: most are shorter.
const SHORT: usize = 64;

/// A path that was read: a short one needs no memory of the heap.
pub(crate) struct Path {
    short: [u8; SHORT],
    len: usize,
    /// It is this one, if it is not empty.
    long: Vec<u8>,
}

impl core::ops::Deref for Path {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        if self.long.is_empty() { &self.short[..self.len] } else { &self.long }
    }
}

/// A name, which a walk has found to be no longer than this.
pub(crate) type Name = heapless::Vec<u8, 256>;

/// A directory and a name in it that may not be there.
pub(crate) struct Entry {
    pub(crate) at: PathRef<TmpDentry>,
    pub(crate) name: Name,
    /// A slash follows it.
    pub(crate) slash: bool,
}

impl Entry {
    /// What the name stands for.
    ///
    /// # Errors
    /// `ENOENT`, `ENOMEM`, or what the file system says.
    pub(crate) fn look(&self) -> Result<Arc<TmpDentry>, Errno> {
        look(&self.at.dentry, &self.name)
    }

    /// The directory's dentry and the name.
    pub(crate) fn end(&self) -> End<'_> {
        (&self.at.dentry, &self.name)
    }
}

/// The entry `name` of `directory`.
///
/// # Errors
/// `ENOENT`, `ENOTDIR`, or what the file system says that has to be asked.
pub(crate) fn look(directory: &Arc<TmpDentry>, name: &[u8]) -> Result<Arc<TmpDentry>, Errno> {
    loop {
        let found = directory.lookup(name, &pin()).map(Arc::clone);
        match found {
            Ok(found) => return Ok(found),
            Err(LookupError::NotFound) => return Err(Errno::ENOENT),
            Err(LookupError::NotDirectory) => return Err(Errno::ENOTDIR),
            Err(LookupError::Ask) => directory.instantiate(name)?,
        }
    }
}

/// Somebody who writes through `mount` from here on.
///
/// # Errors
/// `EROFS`.
pub(crate) fn writing(mount: &MountRef<TmpDentry>) -> Result<WriteRef<MountRef<TmpDentry>>, Errno> {
    Ok(WriteRef::new(mount.clone())?)
}

impl<'a> Call<'a> {
    /// A call of `thread`, which runs.
    pub(crate) fn new(thread: &'a Arc<Thread>) -> Self {
        Call { thread }
    }
}

impl Call<'_> {
    /// Who calls.
    pub(crate) fn credentials(&self) -> Arc<Credentials> {
        self.thread.acting()
    }

    /// The open file `fd`, a place perhaps.
    pub(crate) fn any(&self, fd: i32) -> Result<Arc<OpenFile>, Errno> {
        self.thread.files().get(fd)
    }

    /// The open file `fd`.
    pub(crate) fn open_file(&self, fd: i32) -> Result<Arc<OpenFile>, Errno> {
        self.thread.files().get_open(fd)
    }

    /// Gives `file` the lowest free descriptor.
    pub(crate) fn install_file(&self, file: Arc<OpenFile>, cloexec: bool) -> Result<usize, Errno> {
        super::install_for(self.thread, file, cloexec)
    }

    /// The path at `addr`, for a call that is done with it when it has walked.
    ///
    /// # Errors
    /// `EFAULT`, `ENAMETOOLONG`, `ENOMEM`.
    pub(crate) fn path(&self, addr: usize) -> Result<Path, Errno> {
        let mut path = Path { short: [0; SHORT], len: 0, long: Vec::new() };
        let had = user::copy_in(addr, &mut path.short);
        while path.len < had && path.short[path.len] != 0 {
            path.len += 1;
        }
        if path.len < had {
            return Ok(path);
        }
        if had < SHORT {
            return Err(Errno::EFAULT);
        }
        path.long = self.text(addr)?;
        Ok(path)
    }

    /// The path at `addr`.
    pub(crate) fn text(&self, addr: usize) -> Result<Vec<u8>, Errno> {
        match Text::User(self, addr).read()? {
            Cow::Owned(text) => Ok(text),
            Cow::Borrowed(text) => Ok(text.to_vec()),
        }
    }

    /// The directory that a relative path starts in, if it is not the working directory.
    pub(crate) fn start(&self, dfd: i32, path: &[u8]) -> Result<Option<PathRef<TmpDentry>>, Errno> {
        if dfd == abi::AT_FDCWD || path.starts_with(b"/") {
            return Ok(None);
        }
        if path.is_empty() {
            return Err(Errno::ENOENT);
        }
        let file = self.any(dfd)?;
        let at = file.file().path().filter(|at| at.dentry.is_dir()).ok_or(Errno::ENOTDIR)?;
        Ok(Some(at.clone()))
    }

    /// Walks `path`, which is not empty.
    pub(crate) fn walk(
        &self,
        start: Option<&PathRef<TmpDentry>>,
        path: &[u8],
        last: Last,
        resolve: Resolve,
    ) -> Result<PathRef<TmpDentry>, WalkError> {
        let how = How { last, resolve, dir: start };
        walk_how(&self.thread.mounts().fs(), path, &how, |found| {
            let mount = found.mount.keep(found.guard())?;
            Ok(PathRef { mount, dentry: Arc::clone(found.dentry) })
        })
    }

    /// The place of a path.
    pub(crate) fn find(&self, dfd: i32, path: &[u8], last: Last) -> Result<PathRef<TmpDentry>, Errno> {
        let start = self.start(dfd, path)?;
        Ok(self.walk(start.as_ref(), path, last, Resolve::empty())?)
    }

    /// The place that calls with `AT_EMPTY_PATH` and `AT_SYMLINK_NOFOLLOW` mean.
    ///
    /// # Errors
    /// `ENOENT`: an empty path where that is not allowed; those of the walk.
    pub(crate) fn find_at(&self, dfd: i32, addr: usize, flags: u32) -> Result<PathRef<TmpDentry>, Errno> {
        let empty = flags & abi::AT_EMPTY_PATH != 0;
        let path = if addr == 0 && empty { Vec::new() } else { self.text(addr)? };
        if path.is_empty() && empty {
            if dfd != abi::AT_FDCWD {
                return self.any(dfd)?.file().path().cloned().ok_or(Errno::EBADF);
            }
            return self.find(dfd, b".", Last::Follow);
        }
        let nofollow = flags & abi::AT_SYMLINK_NOFOLLOW != 0;
        self.find(dfd, &path, if nofollow { Last::NoFollow } else { Last::Follow })
    }

    /// The directory and the last name of a path.
    ///
    /// # Errors
    /// `EBUSY`: it ends in `.`, `..` or is `/`, which callers tell in their own ways.
    pub(crate) fn entry(&self, dfd: i32, path: &[u8]) -> Result<Entry, Errno> {
        let start = self.start(dfd, path)?;
        Ok(self.entry_from(start.as_ref(), path, Resolve::empty())?)
    }

    /// As [`Call::entry`], from a directory at hand.
    pub(crate) fn entry_from(
        &self,
        start: Option<&PathRef<TmpDentry>>,
        path: &[u8],
        resolve: Resolve,
    ) -> Result<Entry, WalkError> {
        let how = How { last: Last::Parent, resolve, dir: start };
        walk_how(&self.thread.mounts().fs(), path, &how, |found| {
            let mount = found.mount.keep(found.guard())?;
            let at = PathRef { mount, dentry: Arc::clone(found.dentry) };
            let name = Name::from_slice(found.name).unwrap_or_default();
            Ok(Entry { at, name, slash: found.slash })
        })
    }
}

impl UserMemory for Call<'_> {
    fn read(&self, addr: usize, to: &mut [u8]) -> usize {
        user::copy_in(addr, to)
    }

    fn write(&self, addr: usize, from: &[u8]) -> usize {
        user::copy_out(addr, from)
    }
}

impl FileSystems<TmpDentry> for Call<'_> {
    fn file_system(&self, name: &[u8]) -> Option<TypeRef<TmpDentry>> {
        types::find(name)
    }

    fn type_of(&self, root: &Arc<TmpDentry>) -> TypeRef<TmpDentry> {
        types::of(root.super_block())
    }

    fn super_flags(&self, root: &Arc<TmpDentry>) -> SuperFlags {
        types::flags(root.super_block())
    }

    fn is_permanently_empty(&self, dentry: &Arc<TmpDentry>) -> bool {
        types::is_permanently_empty(dentry)
    }
}

/// What listings show, whoever asks.
pub(crate) struct Listings;

impl Show<TmpDentry> for Listings {
    fn device(&self, root: &Arc<TmpDentry>) -> (u32, u32) {
        stand_in::shown(root).map_or((0, root.super_block().dev()), |shown| shown.device)
    }

    fn fs_type(&self, root: &Arc<TmpDentry>) -> Vec<u8> {
        let own = || root.super_block().fs_type().to_vec();
        stand_in::shown(root).map_or_else(own, |shown| shown.fs_type.clone())
    }

    fn options(&self, root: &Arc<TmpDentry>) -> Vec<u8> {
        let own = || types::options(root.super_block());
        stand_in::shown(root).map_or_else(own, |shown| shown.options.clone())
    }

    fn root_name(&self, root: &Arc<TmpDentry>) -> Option<Vec<u8>> {
        let name = super::node::of(root).and_then(|node| node.root_name());
        name.or_else(|| stand_in::root_name(root))
    }

    fn magic(&self, root: &Arc<TmpDentry>) -> u64 {
        types::magic(root.super_block())
    }
}

impl Show<TmpDentry> for Call<'_> {
    fn device(&self, root: &Arc<TmpDentry>) -> (u32, u32) {
        Listings.device(root)
    }

    fn fs_type(&self, root: &Arc<TmpDentry>) -> Vec<u8> {
        Listings.fs_type(root)
    }

    fn options(&self, root: &Arc<TmpDentry>) -> Vec<u8> {
        Listings.options(root)
    }

    fn root_name(&self, root: &Arc<TmpDentry>) -> Option<Vec<u8>> {
        Listings.root_name(root)
    }

    fn magic(&self, root: &Arc<TmpDentry>) -> u64 {
        Listings.magic(root)
    }
}

impl Kernel<TmpDentry> for Call<'_> {
    fn task(&self) -> &Task<TmpDentry> {
        self.thread.mounts()
    }

    fn file(&self, fd: i32) -> Result<Arc<File<TmpDentry>>, Errno> {
        Ok(Arc::clone(self.any(fd)?.file()))
    }

    fn install(&self, file: File<TmpDentry>, cloexec: bool) -> Result<i32, Errno> {
        let open = anon::of_mounts(file, self.credentials())?;
        self.install_file(open, cloexec).map(|fd| fd as i32)
    }

    fn setns_others(
        &self,
        file: &File<TmpDentry>,
        flags: u32,
        credentials: &Credentials,
    ) -> Result<(), Errno> {
        crate::task::ns_calls::setns_others(self.thread, file, flags, credentials)
    }

    fn unshare_others(&self, flags: u32, credentials: &Credentials) -> Result<(), Errno> {
        crate::task::ns_calls::unshare_others(self.thread, flags, &credentials.user_ns)
    }

    fn propagated(&self, count: usize) {
        crate::task::stats::count_propagated(count);
    }

    fn is_single_threaded(&self) -> bool {
        self.thread.process().threads_len() == 1
    }

    fn namespaces(&self) -> &Namespaces<TmpDentry> {
        &NAMESPACES
    }

    fn namespace_file(&self, object: Object<TmpDentry>) -> File<TmpDentry> {
        super::nsfs::file(object)
    }
}
