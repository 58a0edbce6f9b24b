//! What the crates ask of the kernel, for one call of one task.

use std::sync::{Arc, Mutex};

use linux_raw_sys::general as abi;
use mnt_table::Dentry;
use syscalls::file::Object;
use syscalls::file_system::{FileSystems, SuperFlags, TypeRef};
use syscalls::nsfs::Namespaces;
use syscalls::user_memory::UserMemory;
use syscalls::{Errno, File, Kernel, Show, Task};
use tmpfs::{TmpDentry, TmpSuperBlock};

use super::memory::Memory;
use super::nsfs::{NamespaceFile, Nsfs};
use super::open::Open;
use super::proc::thing;
use super::types::{NSFS, Types};

/// What all tasks share.
pub(super) struct World {
    pub(super) types: Types,
    pub(super) namespaces: Namespaces<TmpDentry>,
    pub(super) nsfs: Arc<Nsfs>,
    /// The instances that files without a name were counted in when it last mattered.
    pub(super) nameless: Mutex<Vec<Arc<TmpSuperBlock>>>,
}

/// A task with what is its own.
pub(super) struct Process {
    pub(super) pid: i32,
    pub(super) task: Arc<Task<TmpDentry>>,
    /// Open files by their descriptors.
    pub(super) fds: Mutex<Vec<Option<Arc<Open>>>>,
    /// Files that are mapped into its memory.
    pub(super) mapped: Mutex<Vec<Arc<Open>>>,
    /// Whether its children are in a pid namespace of its user namespace.
    pub(super) makes_pids: Mutex<bool>,
}

/// Descriptors that one task can have.
const FDS_MAX: usize = 256;

impl Process {
    /// The open file `fd`.
    pub(super) fn open(&self, fd: i32) -> Result<Arc<Open>, Errno> {
        let fd = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        self.fds.lock().expect("no panic").get(fd).cloned().flatten().ok_or(Errno::EBADF)
    }
}

/// A call.
pub(super) struct Call<'a> {
    pub(super) world: &'a World,
    pub(super) process: &'a Process,
    pub(super) memory: Memory,
}

impl Call<'_> {
    /// Gives `open` the lowest free descriptor.
    pub(super) fn install_open(&self, open: Arc<Open>) -> Result<i32, Errno> {
        let fd = {
            let mut fds = self.process.fds.lock().expect("no panic");
            let free = fds.iter().position(Option::is_none).unwrap_or(fds.len());
            if free == FDS_MAX {
                return Err(Errno::EMFILE);
            }
            if free == fds.len() {
                fds.push(None);
            }
            fds[free] = Some(Arc::clone(&open));
            free as i32
        };
        let processes = &self.world.types.instances().processes;
        processes.set_fd(self.process.pid, fd, Some(&open), &self.process.task);
        Ok(fd)
    }

    /// Takes descriptor `fd` away.
    pub(super) fn close(&self, fd: i32) -> Result<(), Errno> {
        let index = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        let open = self.process.fds.lock().expect("no panic").get_mut(index).and_then(Option::take);
        let open = open.ok_or(Errno::EBADF)?;
        let processes = &self.world.types.instances().processes;
        processes.set_fd(self.process.pid, fd, None, &self.process.task);
        drop(open);
        Ok(())
    }
}

impl FileSystems<TmpDentry> for World {
    fn file_system(&self, name: &[u8]) -> Option<TypeRef<TmpDentry>> {
        self.types.find(name).filter(|_| name != NSFS.as_bytes())
    }

    fn type_of(&self, root: &Arc<TmpDentry>) -> TypeRef<TmpDentry> {
        self.types.find(root.super_block().fs_type()).expect("every instance is of a type that is known")
    }

    fn super_flags(&self, root: &Arc<TmpDentry>) -> SuperFlags {
        self.types.instances().flags(root.super_block())
    }

    fn is_permanently_empty(&self, dentry: &Arc<TmpDentry>) -> bool {
        let guard = mnt_table::pin();
        let named = dentry.parent(&guard).is_some_and(|(name, _)| name == b"binfmt_misc");
        named && dentry.super_block().fs_type() == b"proc"
    }
}

impl Show<TmpDentry> for World {
    fn device(&self, root: &Arc<TmpDentry>) -> (u32, u32) {
        (0, root.super_block().dev())
    }

    fn fs_type(&self, root: &Arc<TmpDentry>) -> Vec<u8> {
        root.super_block().fs_type().to_vec()
    }

    fn options(&self, root: &Arc<TmpDentry>) -> Vec<u8> {
        const WORDS: [(SuperFlags, &str); 4] = [
            (SuperFlags::SYNCHRONOUS, ",sync"),
            (SuperFlags::DIRSYNC, ",dirsync"),
            (SuperFlags::MANDLOCK, ",mand"),
            (SuperFlags::LAZYTIME, ",lazytime"),
        ];
        let flags = self.super_flags(root);
        let mut text = if flags.contains(SuperFlags::RDONLY) { "ro" } else { "rw" }.to_owned();
        WORDS.iter().filter(|(flag, _)| flags.contains(*flag)).for_each(|(_, word)| text.push_str(word));
        text.into_bytes()
    }

    fn root_name(&self, root: &Arc<TmpDentry>) -> Option<Vec<u8>> {
        thing::<NamespaceFile>(root).map(|file| file.name().into_bytes())
    }

    fn magic(&self, root: &Arc<TmpDentry>) -> u64 {
        match root.super_block().fs_type() {
            b"proc" => 0x9fa0,
            b"sysfs" => 0x6265_6572,
            b"ramfs" => 0x8584_58f6,
            _ => 0x0102_1994,
        }
    }
}

impl FileSystems<TmpDentry> for Call<'_> {
    fn file_system(&self, name: &[u8]) -> Option<TypeRef<TmpDentry>> {
        self.world.file_system(name)
    }

    fn type_of(&self, root: &Arc<TmpDentry>) -> TypeRef<TmpDentry> {
        self.world.type_of(root)
    }

    fn super_flags(&self, root: &Arc<TmpDentry>) -> SuperFlags {
        self.world.super_flags(root)
    }

    fn is_permanently_empty(&self, dentry: &Arc<TmpDentry>) -> bool {
        self.world.is_permanently_empty(dentry)
    }
}

impl Show<TmpDentry> for Call<'_> {
    fn device(&self, root: &Arc<TmpDentry>) -> (u32, u32) {
        self.world.device(root)
    }

    fn fs_type(&self, root: &Arc<TmpDentry>) -> Vec<u8> {
        self.world.fs_type(root)
    }

    fn options(&self, root: &Arc<TmpDentry>) -> Vec<u8> {
        self.world.options(root)
    }

    fn root_name(&self, root: &Arc<TmpDentry>) -> Option<Vec<u8>> {
        self.world.root_name(root)
    }

    fn magic(&self, root: &Arc<TmpDentry>) -> u64 {
        self.world.magic(root)
    }
}

impl UserMemory for Call<'_> {
    fn read(&self, addr: usize, to: &mut [u8]) -> usize {
        self.memory.read(addr, to)
    }

    fn write(&self, addr: usize, from: &[u8]) -> usize {
        self.memory.write(addr, from)
    }
}

impl Kernel<TmpDentry> for Call<'_> {
    fn task(&self) -> &Task<TmpDentry> {
        &self.process.task
    }

    fn file(&self, fd: i32) -> Result<Arc<File<TmpDentry>>, Errno> {
        Ok(Arc::clone(&self.process.open(fd)?.file))
    }

    fn install(&self, file: File<TmpDentry>, _cloexec: bool) -> Result<i32, Errno> {
        self.install_open(Open::place(file))
    }

    fn namespaces(&self) -> &Namespaces<TmpDentry> {
        &self.world.namespaces
    }

    fn namespace_file(&self, object: Object<TmpDentry>) -> File<TmpDentry> {
        self.world.nsfs.open(object)
    }

    fn unshare_others(&self, flags: u32, _: &syscalls::Credentials) -> Result<(), Errno> {
        if flags & abi::CLONE_NEWPID != 0 {
            *self.process.makes_pids.lock().expect("no panic") = true;
        }
        match flags & !(abi::CLONE_FILES | abi::CLONE_SYSVSEM | abi::CLONE_NEWPID) {
            0 => Ok(()),
            _ => Err(Errno::EINVAL),
        }
    }
}
