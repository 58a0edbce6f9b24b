//! `fd` and `fdinfo`: the descriptors of a process.
//!
//! What a descriptor refers to can change between two looks, and whether it has cannot be said without touching files whose
//! last reference that may be. So an entry is good for one look-up, which takes `fresh`; the next one asks again, and finds
//! that nothing has changed, most of the time.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use linux_raw_sys::general as abi;
use mnt_table::PathRef;
use mnt_table::walk::WalkError;
use syscalls::Errno;
use tmpfs::{Handle, TmpDentry, mode};

use super::directory::{Directory, FIRST, Listed, Made, Name, Text, open_text, say};
use super::process::Target;
use crate::fs::file::OpenFile;
use crate::fs::node::{self, Node, Opened};

/// One of the two directories.
pub(super) struct Fds {
    pub(super) target: Target,
    pub(super) info: bool,
}

impl Fds {
    fn file(&self, name: &[u8]) -> Result<(i32, Arc<OpenFile>), Errno> {
        let fd = match name {
            b"0" => 0,
            name => super::number(name).and_then(|fd| i32::try_from(fd).ok()).ok_or(Errno::ENOENT)?,
        };
        let thread = self.target.thread().map_err(|_| Errno::ENOENT)?;
        let file = thread.try_files().ok_or(Errno::ENOENT)?.get(fd).map_err(|_| Errno::ENOENT)?;
        Ok((fd, file))
    }
}

impl Directory for Fds {
    fn refuses_entries(&self) -> Errno {
        Errno::ENOENT
    }

    fn permissions(&self) -> u32 {
        if self.info { 0o555 } else { 0o500 }
    }

    fn owner(&self) -> Option<(u32, u32)> {
        self.target.pid.owner_of_files(false)
    }

    fn is_stale(&self) -> bool {
        self.target.is_gone()
    }

    fn may_list(&self) -> Result<(), Errno> {
        if self.info { self.target.may_inspect() } else { Ok(()) }
    }

    fn keeps(&self, name: &[u8], there: &TmpDentry) -> bool {
        let Ok((_, file)) = self.file(name) else { return false };
        if self.info {
            return true;
        }
        let link = node::downcast::<FdLink>(there).filter(|link| link.is_of(&file));
        // Release: pairs with the Acquire in `is_stale`; nothing else hangs on it.
        link.map(|link| link.fresh.store(true, Ordering::Release)).is_some()
    }

    fn make(&self, name: &[u8]) -> Result<Made, Errno> {
        let (fd, file) = self.file(name)?;
        let target = self.target.clone();
        if self.info {
            return Made::node(FdInfo { target, fd });
        }
        let file_mode = (u32::from(file.is_readable()) * 0o500) | (u32::from(file.is_writable()) * 0o300);
        Made::node(FdLink {
            target,
            file: Arc::downgrade(&file),
            mode: if file.is_path() { 0 } else { file_mode },
            fresh: AtomicBool::new(true),
        })
    }

    fn next(&self, at: u64) -> Option<Listed> {
        let from = usize::try_from(at - FIRST).ok()?;
        let (fd, _file) = self.target.thread().ok()?.try_files()?.next(from)?;
        let mut name = Name::new();
        let _ = core::fmt::write(&mut name, format_args!("{fd}")); // It fits.
        let kind = if self.info { abi::DT_REG } else { abi::DT_LNK };
        Some(Listed { next: FIRST + fd as u64 + 1, kind, name })
    }
}

/// `fd/N`: leads to what the descriptor refers to.
struct FdLink {
    target: Target,
    file: Weak<OpenFile>,
    mode: u32,
    fresh: AtomicBool,
}

impl FdLink {
    fn is_of(&self, file: &Arc<OpenFile>) -> bool {
        core::ptr::eq(self.file.as_ptr(), Arc::as_ptr(file))
    }
}

impl Handle for FdLink {
    fn mode(&self) -> u32 {
        mode::SYMLINK | self.mode
    }

    fn owner(&self) -> Option<(u32, u32)> {
        self.target.pid.owner_of_files(false)
    }

    // Descriptors are closed without a word to who would stand here.
    fn is_fleeting(&self) -> bool {
        true
    }

    fn is_link(&self) -> bool {
        true
    }

    fn is_stale(&self) -> bool {
        !self.fresh.swap(false, Ordering::AcqRel) // AcqRel: pairs with the Release in `keeps`.
    }

    fn follow(&self) -> Option<Result<PathRef<TmpDentry>, WalkError>> {
        if self.target.may_inspect().is_err() {
            return Some(Err(WalkError::Denied));
        }
        let file = self.file.upgrade();
        Some(file.and_then(|file| file.file().path().cloned()).ok_or(WalkError::NotFound))
    }
}

impl Node for FdLink {}

/// `fdinfo/N`
struct FdInfo {
    target: Target,
    fd: i32,
}

impl Handle for FdInfo {
    fn mode(&self) -> u32 {
        mode::FILE | 0o444
    }

    fn owner(&self) -> Option<(u32, u32)> {
        self.target.pid.owner_of_files(false)
    }

    fn is_stale(&self) -> bool {
        self.target.is_gone()
    }
}

impl Node for FdInfo {
    fn open(&self, _at: &PathRef<TmpDentry>, flags: u32) -> Result<Opened, Errno> {
        self.target.may_inspect()?;
        open_text(FdInfo { target: self.target.clone(), fd: self.fd }, flags)
    }
}

impl Text for FdInfo {
    fn read(&self, out: &mut Vec<u8>) -> Result<(), Errno> {
        let files = self.target.thread()?.try_files().ok_or(Errno::ENOENT)?;
        let file = files.get(self.fd).map_err(|_| Errno::ENOENT)?;
        let cloexec = if files.close_on_exec(self.fd).unwrap_or(false) { abi::O_CLOEXEC } else { 0 };
        let mount = file.file().path().map_or(0, |path| path.mount.to_arc().id());
        let ino = file.dentry().map_or(0, |dentry| dentry.inode().ino());
        let offset = if file.ops().is_seekable() { *file.offset().lock() } else { 0 };
        say(
            out,
            format_args!(
                "pos:\t{offset}\nflags:\t0{:o}\nmnt_id:\t{mount}\nino:\t{ino}\n",
                file.flags() | cloexec
            ),
        )?;
        file.ops().fdinfo(&file, out);
        Ok(())
    }
}
