//! File system types: which there are, and instances of them.
//!
//! Types register at boot. An instance is a [`TmpSuperBlock`] with an [`Instance`] attached: its flags, and how its
//! parameters are shown.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use core::ops::Range;
use core::sync::atomic::{AtomicU32, Ordering};

use mnt_table::dentry::{Dentry, SuperBlockRef};
use mnt_table::sync::Mutex;
use mnt_table::{Mount, memory};
use syscalls::Errno;
use syscalls::context::Log;
use syscalls::file_system::{Configure, FileSystemType, Purpose, Request, SuperFlags, TypeFlags, TypeRef};
use tmpfs::{Machine, Options, TmpDentry, TmpSuperBlock, What};

use super::error;
use super::permission::{self, EXEC, Subject};
use crate::arch::spin::SpinLock;

static TYPES: SpinLock<Vec<TypeRef<TmpDentry>>> = SpinLock::new(Vec::new());

/// Adds a type. Context: boot.
pub(crate) fn register(of: TypeRef<TmpDentry>) {
    TYPES.lock().push(of);
}

/// Types that the kernel mounts for itself and that have no name for anybody else, as in Linux: `ENODEV` to who asks.
const NAMELESS: [&[u8]; 2] = [b"anon_inodefs", b"nsfs"];

/// The type that programs know as `name`.
pub(crate) fn find(name: &[u8]) -> Option<TypeRef<TmpDentry>> {
    if NAMELESS.contains(&name) { None } else { named(name) }
}

/// The type that a superblock is of.
pub(crate) fn of(super_block: &TmpSuperBlock) -> TypeRef<TmpDentry> {
    named(super_block.fs_type()).expect("every instance is of a type that is registered")
}

fn named(name: &[u8]) -> Option<TypeRef<TmpDentry>> {
    TYPES.lock().iter().find(|of| of.name() == name).cloned()
}

/// All types that programs know, in the order in which they were added.
pub(crate) fn all() -> Vec<TypeRef<TmpDentry>> {
    TYPES.lock().iter().filter(|of| !NAMELESS.contains(&of.name())).cloned().collect()
}

/// What the kernel keeps with an instance.
pub(crate) struct Instance {
    /// [`SuperFlags`], but for `RDONLY`, which the superblock knows.
    flags: AtomicU32,
    /// `,name=value` for each parameter that is shown.
    parameters: Mutex<Vec<u8>>,
    magic: u64,
    /// The type's own.
    pub(crate) own: Option<Arc<dyn Any + Send + Sync>>,
}

impl Instance {
    /// Of an instance.
    pub(crate) fn of(super_block: &TmpSuperBlock) -> Option<Arc<Instance>> {
        let attached = super_block.attached().lock().clone();
        attached.and_then(|attached| attached.downcast().ok())
    }

    /// Changes how parameters are shown.
    pub(crate) fn show(&self, parameters: Vec<u8>) {
        *self.parameters.lock() = parameters;
    }

    pub(crate) fn set_flags(&self, flags: SuperFlags) {
        // Relaxed: bits that stand for themselves.
        self.flags.store((flags - SuperFlags::RDONLY).bits(), Ordering::Relaxed);
    }
}

/// The machine around file systems.
struct Kernel;

impl Machine for Kernel {
    fn now(&self) -> i64 {
        crate::task::time::wall_ns() as i64
    }

    fn may_search(&self, directory: &TmpDentry, mount: &Mount<TmpDentry>) -> bool {
        let who = permission::current();
        Subject::new(mount, directory).may(&who, EXEC).is_ok()
    }

    fn cut(&self, file: (u32, u64), pages: Range<u64>) {
        // To the end: the file was cut short; else there is a hole, beneath private copies.
        let copies = pages.end == u64::MAX;
        crate::mm::registry::cut(super::identity(file), &pages, copies);
    }
}

/// What a new instance is made of, beside what was asked for.
pub(crate) struct Make<'a> {
    pub(crate) fs_type: &'a [u8],
    pub(crate) magic: u64,
    pub(crate) root: What<'a>,
    /// Permissions, owner and group of the root.
    pub(crate) attributes: (u32, u32, u32),
    pub(crate) pages: Option<u64>,
    pub(crate) inodes: Option<u64>,
    pub(crate) parameters: Vec<u8>,
    pub(crate) own: Option<Arc<dyn Any + Send + Sync>>,
}

impl<'a> Make<'a> {
    /// Without limits.
    pub(crate) fn new(fs_type: &'a [u8], magic: u64, root: What<'a>, attributes: (u32, u32, u32)) -> Self {
        Make {
            fs_type,
            magic,
            root,
            attributes,
            pages: None,
            inodes: None,
            parameters: Vec::new(),
            own: None,
        }
    }
}

static NEXT: AtomicU32 = AtomicU32::new(1);

/// A minor device number, which is never used again: there are enough of them.
pub(crate) fn device() -> u32 {
    NEXT.fetch_add(1, Ordering::Relaxed) // Relaxed: a number.
}

/// Makes an instance.
///
/// # Errors
/// `ENOMEM`.
pub(crate) fn instance(make: Make<'_>, request: &Request<'_>) -> Result<SuperBlockRef<TmpDentry>, Errno> {
    let instance = Instance {
        flags: AtomicU32::new((request.flags - SuperFlags::RDONLY).bits()),
        parameters: Mutex::new(make.parameters),
        magic: make.magic,
        own: make.own,
    };
    let instance = memory::arc(instance).map_err(|_| Errno::ENOMEM)?;
    let options = Options {
        dev: device(),
        fs_type: make.fs_type,
        source: request.source.unwrap_or(b"none"),
        read_only: request.flags.contains(SuperFlags::RDONLY),
        pages: make.pages,
        inodes: make.inodes,
        root: make.attributes,
        owner: request.owner,
        machine: Some(&Kernel),
    };
    let root = TmpSuperBlock::with_root(options, make.root).map_err(error)?;
    *root.super_block().attached().lock() = Some(instance);
    Ok(SuperBlockRef::new(root))
}

/// The flags of an instance.
pub(crate) fn flags(super_block: &TmpSuperBlock) -> SuperFlags {
    // Relaxed: bits that stand for themselves.
    let bits = Instance::of(super_block).map_or(0, |instance| instance.flags.load(Ordering::Relaxed));
    let mut flags = SuperFlags::from_bits_retain(bits);
    flags.set(SuperFlags::RDONLY, super_block.is_read_only());
    flags
}

/// The type's magic number.
pub(crate) fn magic(super_block: &TmpSuperBlock) -> u64 {
    Instance::of(super_block).map_or(0, |instance| instance.magic)
}

/// An instance's options as mountinfo shows them.
pub(crate) fn options(super_block: &TmpSuperBlock) -> Vec<u8> {
    const WORDS: [(SuperFlags, &[u8]); 4] = [
        (SuperFlags::SYNCHRONOUS, b",sync"),
        (SuperFlags::DIRSYNC, b",dirsync"),
        (SuperFlags::MANDLOCK, b",mand"),
        (SuperFlags::LAZYTIME, b",lazytime"),
    ];
    let flags = flags(super_block);
    let mut text = if flags.contains(SuperFlags::RDONLY) { b"ro".to_vec() } else { b"rw".to_vec() };
    let words = WORDS.iter().filter(|(flag, _)| flags.contains(*flag));
    words.for_each(|(_, word)| text.extend_from_slice(word));
    if let Some(instance) = Instance::of(super_block) {
        text.extend_from_slice(&instance.parameters.lock());
    }
    text
}

/// Whether a directory is there only to be mounted on.
pub(crate) fn is_permanently_empty(dentry: &Arc<TmpDentry>) -> bool {
    dentry.handle().is_some_and(|handle| handle.is_permanently_empty())
}

/// Makes an instance read-only or writable, as a remount asks, and sets its other flags.
///
/// # Errors
/// `EBUSY`.
pub(crate) fn reconfigure(root: &Arc<TmpDentry>, flags: SuperFlags) -> Result<(), Errno> {
    let super_block = root.super_block();
    if !super_block.set_read_only(flags.contains(SuperFlags::RDONLY)) {
        return Err(Errno::EBUSY);
    }
    if let Some(instance) = Instance::of(super_block) {
        instance.set_flags(flags);
    }
    Ok(())
}

/// A type whose instances the kernel alone makes.
pub(crate) struct Internal(pub(crate) &'static [u8]);

impl FileSystemType<TmpDentry> for Internal {
    fn name(&self) -> &[u8] {
        self.0
    }

    fn flags(&self) -> TypeFlags {
        TypeFlags::INTERNAL
    }

    fn configure(
        self: Arc<Self>,
        _purpose: Purpose<'_, TmpDentry>,
    ) -> Result<Box<dyn Configure<TmpDentry>>, Errno> {
        Ok(memory::boxed(InternalConfig).map_err(|_| Errno::ENOMEM)?)
    }
}

/// Whoever may mount at all hears that this cannot be mounted.
struct InternalConfig;

impl Configure<TmpDentry> for InternalConfig {
    fn get_tree(
        &mut self,
        _request: &Request<'_>,
        _log: &mut Log,
    ) -> Result<SuperBlockRef<TmpDentry>, Errno> {
        Err(Errno::EINVAL)
    }

    fn reconfigure(
        &mut self,
        _root: &Arc<TmpDentry>,
        _flags: SuperFlags,
        _log: &mut Log,
    ) -> Result<(), Errno> {
        Err(Errno::EINVAL)
    }
}
