//! open(2), openat2(2), and what is opened: the way from a place to an open file.
//!
//! Order of checks as in Linux: flags, the path, `O_CREAT`, kinds, permissions of the mount, permission bits, the kind's own
//! opening, truncation.
//!
//! Sources: open(2), openat2(2).

use alloc::sync::Arc;

use linux_raw_sys::general as abi;
use mnt_table::dentry::Dentry;
use mnt_table::walk::{Last, Resolve};
use mnt_table::writers::WriteRef;
use mnt_table::{MountRef, PathRef, memory};
use syscalls::access::may_open_device;
use syscalls::file::Object;
use syscalls::user_memory::structure;
use syscalls::{Errno, File};
use tmpfs::{Kind, New, TmpDentry, What};

use super::file::OpenFile;
use super::kernel::{Call, writing};
use super::node::{self, Opened};
use super::permission::{EXEC, READ, Subject, WRITE, may_create};
use super::regular::{DirectoryOps, RegularOps};
use super::{error, pipe};

/// Flags that openat2(2) knows; open(2) ignores the rest.
const KNOWN: u32 = abi::O_ACCMODE
    | abi::O_CREAT
    | abi::O_EXCL
    | abi::O_NOCTTY
    | abi::O_TRUNC
    | abi::O_APPEND
    | abi::O_NONBLOCK
    | abi::O_SYNC
    | abi::O_DSYNC
    | abi::FASYNC
    | abi::O_DIRECT
    | abi::O_LARGEFILE
    | abi::O_DIRECTORY
    | abi::O_NOFOLLOW
    | abi::O_NOATIME
    | abi::O_CLOEXEC
    | abi::O_PATH
    | abi::O_TMPFILE;

/// `__O_TMPFILE`, without `O_DIRECTORY`.
const TMPFILE: u32 = abi::O_TMPFILE & !abi::O_DIRECTORY;

/// Flags that are of no more use once the file is open.
const USED_UP: u32 = abi::O_CREAT | abi::O_EXCL | abi::O_NOCTTY | abi::O_TRUNC | abi::O_CLOEXEC;

/// What open(2) was asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct How {
    pub(crate) flags: u32,
    pub(crate) mode: u32,
    pub(crate) resolve: Resolve,
}

impl How {
    fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }

    /// Bits of [`READ`] and [`WRITE`].
    fn access(&self) -> u32 {
        let access = match self.flags & abi::O_ACCMODE {
            abi::O_RDONLY => READ,
            abi::O_WRONLY => WRITE,
            _ => READ | WRITE,
        };
        access | if self.has(abi::O_TRUNC) { WRITE } else { 0 }
    }

    /// # Errors
    /// `EINVAL`.
    fn check(mut self) -> Result<Self, Errno> {
        if self.has(abi::O_CREAT | TMPFILE) {
            self.mode &= 0o7777;
        } else if self.mode != 0 {
            return Err(Errno::EINVAL);
        }
        if self.has(abi::O_CREAT) && self.has(abi::O_DIRECTORY) {
            return Err(Errno::EINVAL);
        }
        if self.has(TMPFILE) {
            let writes = self.flags & abi::O_ACCMODE != abi::O_RDONLY;
            if !self.has(abi::O_DIRECTORY) || !writes || self.has(abi::O_CREAT) {
                return Err(Errno::EINVAL);
            }
        }
        if self.has(abi::O_PATH) {
            let allowed = abi::O_PATH | abi::O_DIRECTORY | abi::O_NOFOLLOW | abi::O_CLOEXEC;
            if self.flags & !allowed != 0 {
                return Err(Errno::EINVAL);
            }
        }
        Ok(self)
    }
}

/// openat(2) and its like, whose unknown and useless flags are ignored.
pub(crate) fn openat(call: &Call<'_>, dfd: i32, addr: usize, flags: u32, mode: u32) -> Result<usize, Errno> {
    let mut flags = flags & KNOWN | abi::O_LARGEFILE;
    if flags & abi::O_PATH != 0 {
        flags &= abi::O_PATH | abi::O_DIRECTORY | abi::O_NOFOLLOW | abi::O_CLOEXEC;
    }
    let mode = if flags & (abi::O_CREAT | TMPFILE) != 0 { mode & 0o7777 } else { 0 };
    install(call, dfd, addr, How { flags, mode, resolve: Resolve::empty() })
}

/// openat2(2).
pub(crate) fn openat2(
    call: &Call<'_>,
    dfd: i32,
    addr: usize,
    how: usize,
    size: usize,
) -> Result<usize, Errno> {
    const SIZE: usize = 24;
    const PAGE: usize = 4096;
    if size < SIZE {
        return Err(Errno::EINVAL);
    }
    if size > PAGE {
        return Err(Errno::E2BIG);
    }
    let mut bytes = [0; SIZE];
    structure(call, how, size, &mut bytes)?;
    let field = |at: usize| u64::from_le_bytes(core::array::from_fn(|byte| bytes[at + byte]));
    let flags = u32::try_from(field(0)).map_err(|_| Errno::EINVAL)?;
    if flags & !KNOWN != 0 {
        return Err(Errno::EINVAL);
    }
    let mode = u32::try_from(field(8)).ok().filter(|mode| mode & !0o7777 == 0).ok_or(Errno::EINVAL)?;
    let resolve = Resolve::from_bits(field(16)).ok_or(Errno::EINVAL)?;
    if resolve.contains(Resolve::BENEATH | Resolve::IN_ROOT) {
        return Err(Errno::EINVAL);
    }
    let how = How { flags, mode, resolve };
    if resolve.contains(Resolve::CACHED) && how.has(abi::O_TRUNC | abi::O_CREAT | TMPFILE) {
        return Err(Errno::EAGAIN);
    }
    let flags = if how.has(abi::O_PATH) { flags } else { flags | abi::O_LARGEFILE };
    install(call, dfd, addr, How { flags, ..how })
}

fn install(call: &Call<'_>, dfd: i32, addr: usize, how: How) -> Result<usize, Errno> {
    let how = how.check()?;
    let path = call.text(addr)?;
    let file = open(call, dfd, &path, how)?;
    call.install_file(file, how.has(abi::O_CLOEXEC))
}

/// Opens `path` from `dfd`.
///
/// # Errors
/// As open(2).
pub(crate) fn open(call: &Call<'_>, dfd: i32, path: &[u8], how: How) -> Result<Arc<OpenFile>, Errno> {
    if path.is_empty() {
        return Err(Errno::ENOENT);
    }
    let scoped = how.resolve.intersects(Resolve::BENEATH | Resolve::IN_ROOT);
    let start = if scoped { call.start(dfd, b".")? } else { call.start(dfd, path)? };
    let stays = how.has(abi::O_NOFOLLOW) || how.has(abi::O_CREAT) && how.has(abi::O_EXCL);
    let last = if stays { Last::NoFollow } else { Last::Follow };
    loop {
        let found = call.walk(start.as_ref(), path, last, how.resolve).map_err(Errno::from);
        let makes_directory = how.has(abi::O_CREAT) && path.ends_with(b"/");
        let at = match found {
            Err(Errno::ENOTDIR) if makes_directory => {
                // A file is there, or there is none above it.
                call.entry_from(start.as_ref(), path, how.resolve)?;
                return Err(Errno::EISDIR);
            }
            Ok(_) if how.has(abi::O_CREAT) && how.has(abi::O_EXCL) => return Err(Errno::EEXIST),
            Ok(at) if how.has(TMPFILE) => return nameless(call, at, how),
            Ok(at) => {
                if how.has(abi::O_CREAT) && (path.ends_with(b"/") || at.dentry.is_dir()) {
                    return Err(Errno::EISDIR);
                }
                at
            }
            Err(Errno::ENOENT) if how.has(abi::O_CREAT) => {
                match create(call, start.as_ref(), path, how)? {
                    Some(file) => return Ok(file),
                    // Somebody made it meanwhile, or it is behind a dangling link.
                    None => continue,
                }
            }
            Err(error) => return Err(error),
        };
        return at_place(call, at, how);
    }
}

/// Makes the file that `path` names and opens it; `None`: it is there now.
fn create(
    call: &Call<'_>,
    start: Option<&PathRef<TmpDentry>>,
    path: &[u8],
    how: How,
) -> Result<Option<Arc<OpenFile>>, Errno> {
    const LINKS_MAX: usize = 40;
    let mut from = start.cloned();
    let mut path = path.to_vec();
    for _ in 0..LINKS_MAX {
        let entry = match call.entry_from(from.as_ref(), &path, how.resolve) {
            Ok(entry) => entry,
            Err(mnt_table::walk::WalkError::NoLastName) => return Err(Errno::EISDIR),
            Err(error) => return Err(error.into()),
        };
        if entry.slash {
            return Err(Errno::EISDIR);
        }
        match entry.look() {
            // A link that dangles: what it leads to is made.
            Ok(found) if found.symlink().is_some() => {
                if how.has(abi::O_NOFOLLOW) || how.has(abi::O_EXCL) {
                    return Ok(None);
                }
                path = found.symlink().unwrap_or_default().to_vec();
                from = if path.starts_with(b"/") { from } else { Some(entry.at) };
                continue;
            }
            Ok(_) => return Ok(None),
            Err(Errno::ENOENT) => {}
            Err(error) => return Err(error),
        }
        let who = call.credentials();
        if super::names::is_proc(&entry.at.dentry) {
            return Err(Errno::ENOENT);
        }
        // Read-only comes after "no such file", and before permissions.
        let writes = writing(&entry.at.mount)?;
        let names = node::names(&entry.at.dentry).map_err(|refused| match refused {
            Errno::EPERM => Errno::EACCES,
            error => error,
        })?;
        let (uid, gid) = may_create(&entry.at.mount, &entry.at.dentry, &who)?;
        let mode = super::creation_mode(call.thread, &entry.at.dentry, how.mode);
        let new = New { what: What::File, mode, uid, gid };
        let made = match names {
            Some(names) => names.make(entry.end(), new),
            None => entry.at.dentry.make(&entry.name, new).map_err(error),
        };
        let made = match made {
            Ok(made) => made,
            Err(Errno::EEXIST) => return Ok(None),
            Err(error) => return Err(error),
        };
        let at = PathRef { mount: entry.at.mount, dentry: made };
        // Whoever makes a file may open it, whatever its permissions.
        let writes = if how.access() & WRITE != 0 { Some(writes) } else { None };
        // There is nothing to be cut off.
        let how = How { flags: how.flags & !abi::O_TRUNC, ..how };
        let file = finish(call, at, how, writes)?;
        file.set_created();
        return Ok(Some(file));
    }
    Err(Errno::ELOOP)
}

/// `O_TMPFILE`.
fn nameless(call: &Call<'_>, at: PathRef<TmpDentry>, how: How) -> Result<Arc<OpenFile>, Errno> {
    if !at.dentry.is_dir() {
        return Err(Errno::ENOTDIR);
    }
    let who = call.credentials();
    let writes = writing(&at.mount)?;
    let (uid, gid) = may_create(&at.mount, &at.dentry, &who)?;
    let names = node::names(&at.dentry).map_err(|_| Errno::EOPNOTSUPP)?;
    let mode = super::creation_mode(call.thread, &at.dentry, how.mode);
    let new = New { what: What::File, mode, uid, gid };
    let dentry = match names {
        Some(names) => names.nameless(&at.dentry, new)?,
        None => at.dentry.nameless(new).map_err(error)?,
    };
    if how.has(abi::O_EXCL) {
        dentry.inode().never_link();
    }
    let at = PathRef { mount: at.mount, dentry };
    finish(call, at, how, Some(writes))
}

/// Opens what is there.
pub(crate) fn at_place(call: &Call<'_>, at: PathRef<TmpDentry>, how: How) -> Result<Arc<OpenFile>, Errno> {
    if how.has(abi::O_DIRECTORY) && !at.dentry.is_dir() {
        return Err(Errno::ENOTDIR);
    }
    let who = call.credentials();
    if how.has(abi::O_PATH) {
        let file = memory::arc(File::place(at)).map_err(|_| Errno::ENOMEM)?;
        return OpenFile::new(Arc::new(super::anon::OfMounts), file, how.flags & !USED_UP, who, None);
    }
    let wanted = how.access();
    match node::kind(&at.dentry) {
        Kind::Symlink => return Err(Errno::ELOOP),
        Kind::Handle if at.dentry.is_magic_link() => return Err(Errno::ELOOP),
        Kind::Directory if wanted & WRITE != 0 => return Err(Errno::EISDIR),
        Kind::CharacterDevice | Kind::BlockDevice => may_open_device(&at.mount)?,
        _ => {}
    }
    let subject = Subject::new(&at.mount, &at.dentry);
    subject.may_access(&who, wanted)?;
    if how.has(abi::O_NOATIME) && !subject.is_owner(&who) {
        return Err(Errno::EPERM);
    }
    let special = node::kind(&at.dentry) != Kind::File;
    let writes = if wanted & WRITE != 0 && !special { Some(writing(&at.mount)?) } else { None };
    finish(call, at, how, writes)
}

/// The kind's own opening, and truncation.
fn finish(
    call: &Call<'_>,
    at: PathRef<TmpDentry>,
    how: How,
    writes: Option<WriteRef<MountRef<TmpDentry>>>,
) -> Result<Arc<OpenFile>, Errno> {
    let flags = how.flags & !USED_UP;
    let opened: Opened = match at.dentry.kind() {
        Kind::File => shared(RegularOps)?,
        Kind::Directory => match node::of(&at.dentry).map_or(Ok(None), |node| node.open_directory())? {
            Some(ops) => ops.into(),
            None => shared(DirectoryOps)?,
        },
        Kind::Fifo => pipe::open_fifo(&at.dentry, flags)?,
        Kind::CharacterDevice => {
            let (major, minor) = super::device_parts(at.dentry.inode().rdev());
            crate::dev::open_char(major, minor, how.flags, &at)?.into()
        }
        Kind::BlockDevice => {
            let (major, minor) = super::device_parts(at.dentry.inode().rdev());
            crate::dev::open_block(major, minor)?.into()
        }
        Kind::Handle => node::of(&at.dentry).ok_or(Errno::ENXIO)?.open(&at, how.flags)?,
        Kind::Socket => return Err(Errno::ENXIO),
        Kind::Symlink => return Err(Errno::ELOOP),
    };
    let truncates = how.has(abi::O_TRUNC) && node::kind(&at.dentry) == Kind::File;
    let path = at.clone();
    let file = memory::arc(File::new(Some(at), opened.object)).map_err(|_| Errno::ENOMEM)?;
    let open = OpenFile::new(opened.ops, file, flags, call.credentials(), writes)?;
    if truncates {
        super::regular::truncate(call, &path, 0)?;
    }
    Ok(open)
}

/// What opening gives, of operations that need nothing else.
fn shared(ops: impl super::file::FileOps) -> Result<Opened, Errno> {
    let ops: Arc<dyn super::file::FileOps> = memory::arc(ops).map_err(|_| Errno::ENOMEM)?;
    Ok(Opened { ops, object: Object::Plain })
}

/// Opens a file to be executed: a regular file on a mount that allows it, with permission to execute.
///
/// # Errors
/// As execve(2): `EACCES`, `ELOOP`, `ENOENT`, …
pub(crate) fn open_exec(call: &Call<'_>, dfd: i32, path: &[u8], flags: u32) -> Result<Arc<OpenFile>, Errno> {
    let nofollow = flags & abi::AT_SYMLINK_NOFOLLOW != 0;
    let at = if path.is_empty() && flags & abi::AT_EMPTY_PATH != 0 {
        call.any(dfd)?.file().path().cloned().ok_or(Errno::EACCES)?
    } else if path.is_empty() {
        return Err(Errno::ENOENT);
    } else {
        call.find(dfd, path, if nofollow { Last::NoFollow } else { Last::Follow })?
    };
    if at.dentry.symlink().is_some() || at.dentry.is_magic_link() {
        return Err(Errno::ELOOP);
    }
    if node::kind(&at.dentry) != Kind::File {
        return Err(Errno::EACCES);
    }
    syscalls::access::may_exec(&at.mount)?;
    Subject::new(&at.mount, &at.dentry).may(&call.credentials(), EXEC)?;
    let opened = match node::of(&at.dentry) {
        Some(node) => node.open(&at, abi::O_RDONLY)?,
        None => shared(RegularOps)?,
    };
    let file = memory::arc(File::at(at)).map_err(|_| Errno::ENOMEM)?;
    OpenFile::new_run(opened.ops, file, call.credentials())
}
