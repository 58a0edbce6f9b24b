//! Directories whose entries are made when somebody asks for them, and files of text: what proc and sysfs consist of.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use linux_raw_sys::general as abi;
use mnt_table::PathRef;
use mnt_table::sync::BlockingMutex;
use mnt_table::walk::WalkError;
use syscalls::Errno;
use tmpfs::{FsError, Handle, New, TmpDentry, What, mode};

use crate::fs::copy::{Sink, Source};
use crate::fs::file::{Entries, FileOps, OpenFile, Whence};
use crate::fs::node::{self, Node, Opened};

/// A name of an entry.
pub(crate) type Name = heapless::Vec<u8, 64>;

/// The offset of the first entry behind `.` and `..`.
pub(crate) const FIRST: u64 = 2;
/// What a write to a file of text may have.
const WRITE_MAX: usize = 4096;

/// An entry, as a listing shows it.
pub(crate) struct Listed {
    /// Where the listing goes on behind it.
    pub(crate) next: u64,
    /// A `DT_*`.
    pub(crate) kind: u32,
    pub(crate) name: Name,
}

/// A directory.
pub(crate) trait Directory: Send + Sync + 'static {
    /// Permissions.
    fn permissions(&self) -> u32 {
        0o555
    }

    /// As [`Handle::owner`].
    fn owner(&self) -> Option<(u32, u32)> {
        None
    }

    /// As [`Handle::is_stale`].
    fn is_stale(&self) -> bool {
        false
    }

    /// Whether it is there only to be mounted on, and never has entries.
    fn is_permanently_empty(&self) -> bool {
        false
    }

    /// As [`Node::refuses_entries`].
    fn refuses_entries(&self) -> Errno {
        Errno::EPERM
    }

    /// Whether the calling task may list it.
    ///
    /// # Errors
    /// `EACCES`.
    fn may_list(&self) -> Result<(), Errno> {
        Ok(())
    }

    /// What the entry `name` is.
    ///
    /// # Errors
    /// `ENOENT`: there is none. `ENOMEM`.
    fn make(&self, name: &[u8]) -> Result<Made, Errno>;

    /// Whether `there`, an entry that was made before, still is what `name` stands for.
    fn keeps(&self, name: &[u8], there: &TmpDentry) -> bool {
        let _ = name;
        there.handle().is_none_or(|handle| !handle.is_stale())
    }

    /// The first entry from offset `at` on, which is [`FIRST`] for the first of all.
    fn next(&self, at: u64) -> Option<Listed>;
}

/// What an entry is made of.
pub(crate) enum Made {
    /// A file or a link.
    Node(Arc<dyn Handle>),
    /// A directory.
    Directory(Arc<dyn Handle>),
    /// A symbolic link that always says the same.
    Symlink(&'static [u8]),
}

impl Made {
    /// A file or a link.
    ///
    /// # Errors
    /// `ENOMEM`
    pub(crate) fn node(node: impl Node) -> Result<Made, Errno> {
        Ok(Made::Node(node::handle(node)?))
    }

    /// A directory.
    ///
    /// # Errors
    /// `ENOMEM`
    pub(crate) fn directory(directory: impl Directory) -> Result<Made, Errno> {
        Ok(Made::Directory(node::handle(DirectoryNode(directory))?))
    }
}

/// The node of a directory.
pub(crate) struct DirectoryNode<T>(pub(crate) T);

impl<T: Directory> Handle for DirectoryNode<T> {
    fn mode(&self) -> u32 {
        mode::DIRECTORY | self.0.permissions()
    }

    fn owner(&self) -> Option<(u32, u32)> {
        self.0.owner()
    }

    fn is_dynamic(&self) -> bool {
        true
    }

    fn is_permanently_empty(&self) -> bool {
        self.0.is_permanently_empty()
    }

    fn is_stale(&self) -> bool {
        self.0.is_stale()
    }

    fn instantiate(&self, directory: &Arc<TmpDentry>, name: &[u8]) -> Result<(), WalkError> {
        let there = there(directory, name);
        if let Some(there) = &there {
            if self.0.keeps(name, there) {
                return Ok(());
            }
            forget(directory, name);
        }
        let made = self.0.make(name).map_err(|error| match error {
            Errno::ENOMEM => WalkError::NoMemory,
            Errno::EACCES => WalkError::Denied,
            _ => WalkError::NotFound,
        })?;
        let what = match made {
            Made::Node(handle) => What::Handle(handle),
            Made::Directory(handle) => What::HandleDirectory(handle),
            Made::Symlink(text) => What::Symlink(text),
        };
        match directory.adopt(name, New::of(what)) {
            // Somebody was faster.
            Ok(_) | Err(FsError::Exists) => Ok(()),
            Err(FsError::NotFound) => Err(WalkError::NotFound),
            Err(_) => Err(WalkError::NoMemory),
        }
    }
}

/// The entry `name` as it is, stale or not.
fn there(directory: &Arc<TmpDentry>, name: &[u8]) -> Option<Arc<TmpDentry>> {
    directory.entry(name)
}

/// Takes an entry away that stands for nothing any more, and what is mounted on it.
pub(crate) fn forget(directory: &TmpDentry, name: &[u8]) {
    if let Some(removed) = directory.forget(name) {
        // Without memory the mounts stay, on a place that nobody finds.
        let _ = syscalls::entry::detach_elsewhere(&removed.dentry, &removed.elsewhere);
    }
}

impl<T: Directory> Node for DirectoryNode<T> {
    fn refuses_entries(&self) -> Errno {
        self.0.refuses_entries()
    }

    fn takes_permissions(&self) -> bool {
        self.0.refuses_entries() == Errno::EPERM
    }

    fn list(
        &self,
        _directory: &Arc<TmpDentry>,
        at: u64,
        entries: &mut dyn Entries,
    ) -> Option<Result<(), Errno>> {
        Some(self.0.may_list().map(|()| {
            let mut at = at.max(FIRST);
            while let Some(listed) = self.0.next(at) {
                // The numbers of entries that nobody has looked at are not known.
                if !entries.add(listed.next, listed.next, listed.kind as u8, &listed.name) {
                    break;
                }
                at = listed.next;
            }
        }))
    }
}

/// Text that somebody puts together, and takes.
pub(crate) trait Text: Send + Sync + 'static {
    /// The text.
    ///
    /// # Errors
    /// `ESRCH`: what it is about is gone. `ENOMEM`.
    fn read(&self, out: &mut Vec<u8>) -> Result<(), Errno>;

    /// Takes what was written to `file`.
    ///
    /// # Errors
    /// `EIO`: it takes nothing. What it says.
    fn write(&self, file: &OpenFile, bytes: &[u8]) -> Result<(), Errno> {
        let _ = (file, bytes);
        Err(Errno::EIO)
    }

    /// Whether it may be opened with these flags.
    ///
    /// # Errors
    /// `EACCES`, `EPERM`.
    fn may_open(&self, flags: u32) -> Result<(), Errno> {
        let _ = flags;
        Ok(())
    }
}

/// An open file of text: what was said when it was read from the beginning.
struct TextFile<T> {
    text: T,
    said: BlockingMutex<Vec<u8>>,
}

/// Opens a file of text.
///
/// # Errors
/// Those of [`Text::may_open`]; `ENOMEM`.
pub(crate) fn open_text<T: Text>(text: T, flags: u32) -> Result<Opened, Errno> {
    text.may_open(flags)?;
    let file = TextFile { text, said: BlockingMutex::new(Vec::new()) };
    let file: Arc<dyn FileOps> = mnt_table::memory::arc(file).map_err(|_| Errno::ENOMEM)?;
    Ok(file.into())
}

impl<T: Text> FileOps for TextFile<T> {
    fn read(&self, _file: &OpenFile, to: &mut Sink<'_>, at: u64) -> Result<usize, Errno> {
        let mut said = self.said.lock();
        if at == 0 || said.is_empty() {
            said.clear();
            self.text.read(&mut said)?;
        }
        let rest = usize::try_from(at).ok().and_then(|at| said.get(at..)).unwrap_or_default();
        if rest.is_empty() {
            // Who has read it all does not need it any more.
            *said = Vec::new();
            return Ok(0);
        }
        if to.left() == 0 { Ok(0) } else { to.put(rest) }
    }

    fn write(&self, file: &OpenFile, from: &mut Source<'_>, at: u64) -> Result<(usize, u64), Errno> {
        let mut bytes = Vec::new();
        let count = from.left().min(WRITE_MAX);
        bytes.try_reserve_exact(count).map_err(|_| Errno::ENOMEM)?;
        bytes.resize(count, 0);
        let count = from.take(&mut bytes)?;
        self.text.write(file, &bytes[..count])?;
        Ok((count, at + count as u64))
    }

    fn is_seekable(&self) -> bool {
        true
    }

    fn seek(&self, _file: &OpenFile, now: u64, offset: i64, whence: Whence) -> Result<u64, Errno> {
        let base = match whence {
            Whence::Set => 0,
            Whence::Current => now,
            _ => return Err(Errno::EINVAL),
        };
        base.checked_add_signed(offset).ok_or(Errno::EINVAL)
    }

    fn can_wait(&self) -> bool {
        false
    }
}

/// Formatted text that goes to the end of a vector, as long as there is memory.
pub(crate) struct Out<'a>(pub(crate) &'a mut Vec<u8>);

impl fmt::Write for Out<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.try_reserve(text.len()).map_err(|_| fmt::Error)?;
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

/// Appends formatted text.
///
/// # Errors
/// `ENOMEM`
pub(crate) fn say(out: &mut Vec<u8>, text: fmt::Arguments<'_>) -> Result<(), Errno> {
    fmt::write(&mut Out(out), text).map_err(|_| Errno::ENOMEM)
}

/// Appends bytes.
///
/// # Errors
/// `ENOMEM`
pub(crate) fn say_bytes(out: &mut Vec<u8>, bytes: &[u8]) -> Result<(), Errno> {
    out.try_reserve(bytes.len()).map_err(|_| Errno::ENOMEM)?;
    out.extend_from_slice(bytes);
    Ok(())
}

/// An entry of a table that never changes.
pub(crate) struct Fixed<C: 'static> {
    pub(crate) name: &'static str,
    pub(crate) what: FixedWhat<C>,
}

/// What it is; `C` is what its text depends on.
pub(crate) enum FixedWhat<C: 'static> {
    Directory(&'static [Fixed<C>]),
    Symlink(&'static str),
    /// Something that is made.
    Other(fn(&C) -> Result<Made, Errno>),
    /// Permissions, the text, and who takes what is written.
    Text(u32, Read<C>, Option<Write<C>>),
}

pub(crate) type Read<C> = fn(&C, &mut Vec<u8>) -> Result<(), Errno>;
pub(crate) type Write<C> = fn(&C, &OpenFile, &[u8]) -> Result<(), Errno>;

impl<C: Clone + Send + Sync + 'static> Fixed<C> {
    /// What the entry `name` of `table` is.
    ///
    /// # Errors
    /// `ENOENT`, `ENOMEM`.
    pub(crate) fn find(table: &'static [Self], context: &C, name: &[u8]) -> Result<Made, Errno> {
        let entry = table.iter().find(|entry| entry.name.as_bytes() == name).ok_or(Errno::ENOENT)?;
        match &entry.what {
            FixedWhat::Directory(table) => Made::directory(FixedDirectory(table, context.clone())),
            FixedWhat::Symlink(text) => Ok(Made::Symlink(text.as_bytes())),
            FixedWhat::Other(make) => make(context),
            FixedWhat::Text(..) => Made::node(FixedFile(entry, context.clone())),
        }
    }

    /// The entry at offset `at` of a listing.
    pub(crate) fn list(table: &'static [Self], at: u64) -> Option<Listed> {
        let entry = table.get((at - FIRST) as usize)?;
        let kind = match entry.what {
            FixedWhat::Directory(_) | FixedWhat::Other(_) => abi::DT_DIR,
            FixedWhat::Symlink(_) => abi::DT_LNK,
            FixedWhat::Text(..) => abi::DT_REG,
        };
        let name = Name::from_slice(entry.name.as_bytes()).unwrap_or_default();
        Some(Listed { next: at + 1, kind, name })
    }
}

/// A directory that is a table.
pub(crate) struct FixedDirectory<C: 'static>(pub(crate) &'static [Fixed<C>], pub(crate) C);

impl<C: Clone + Send + Sync + 'static> Directory for FixedDirectory<C> {
    fn is_permanently_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn make(&self, name: &[u8]) -> Result<Made, Errno> {
        Fixed::find(self.0, &self.1, name)
    }

    fn next(&self, at: u64) -> Option<Listed> {
        Fixed::list(self.0, at)
    }
}

/// A file of a table.
struct FixedFile<C: 'static>(&'static Fixed<C>, C);

impl<C: Clone + Send + Sync + 'static> Handle for FixedFile<C> {
    fn mode(&self) -> u32 {
        let FixedWhat::Text(permissions, ..) = self.0.what else { return mode::FILE };
        mode::FILE | permissions
    }
}

impl<C: Clone + Send + Sync + 'static> Node for FixedFile<C> {
    fn open(&self, _at: &PathRef<TmpDentry>, flags: u32) -> Result<Opened, Errno> {
        open_text(FixedFile(self.0, self.1.clone()), flags)
    }
}

impl<C: Clone + Send + Sync + 'static> Text for FixedFile<C> {
    fn read(&self, out: &mut Vec<u8>) -> Result<(), Errno> {
        match &self.0.what {
            FixedWhat::Text(_, read, _) => read(&self.1, out),
            _ => Ok(()),
        }
    }

    fn write(&self, file: &OpenFile, bytes: &[u8]) -> Result<(), Errno> {
        match &self.0.what {
            FixedWhat::Text(_, _, Some(write)) => write(&self.1, file, bytes),
            _ => Err(Errno::EIO),
        }
    }
}
