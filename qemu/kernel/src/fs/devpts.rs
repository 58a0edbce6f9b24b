//! devpts: the sides of pseudo terminals that programs have, by their numbers. Each mount makes an instance, with numbers and
//! a `ptmx` of its own.
//!
//! # Lock order
//! `numbers` and `options` are leaves.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use linux_raw_sys::general as abi;
use mnt_table::dentry::{Dentry, SuperBlockRef};
use mnt_table::walk::{Last, Resolve};
use mnt_table::{PathRef, UserNs, memory, pin};
use syscalls::Errno;
use syscalls::context::Log;
use syscalls::file_system::{
    Configure, FileSystemType, Parameter, Purpose, Request, SuperFlags, TypeFlags, Value,
};
use syscalls::ids::Kind;
use tmpfs::{Handle, New, TmpDentry, TmpSuperBlock, What, mode};

use super::kernel::Call;
use super::node::{self, Node};
use super::proc::directory::forget;
use super::types::{self, Make};
use super::{error, open};
use crate::arch::spin::SpinLock;
use crate::task;
use crate::tty::{Tty, pty};

const MAGIC: u64 = abi::DEVPTS_SUPER_MAGIC as u64;
/// Pseudo terminals of one instance.
const MAX: u32 = 4096;
/// `ptmx`
const PTMX: (u32, u32) = (5, 2);

#[derive(Clone, Copy)]
struct Options {
    uid: Option<u32>,
    gid: Option<u32>,
    mode: u32,
    ptmx_mode: u32,
    max: u32,
}

impl Options {
    const DEFAULT: Options = Options { uid: None, gid: None, mode: 0o600, ptmx_mode: 0, max: MAX };

    fn show(&self, viewer: &UserNs) -> Vec<u8> {
        let mut text = Vec::new();
        let mut say = |word: alloc::string::String| text.extend_from_slice(word.as_bytes());
        if let Some(uid) = self.uid {
            say(alloc::format!(",uid={}", Kind::Users.seen_by(viewer, uid).unwrap_or(u32::MAX)));
        }
        if let Some(gid) = self.gid {
            say(alloc::format!(",gid={}", Kind::Groups.seen_by(viewer, gid).unwrap_or(u32::MAX)));
        }
        say(alloc::format!(",mode={:03o},ptmxmode={:03o}", self.mode, self.ptmx_mode));
        if self.max < MAX {
            say(alloc::format!(",max={}", self.max));
        }
        text
    }
}

/// An instance.
pub(crate) struct Instance {
    root: SpinLock<Weak<TmpDentry>>,
    options: SpinLock<Options>,
    numbers: SpinLock<BTreeMap<u32, Weak<Tty>>>,
}

impl Instance {
    /// The one that a superblock is of.
    fn of(super_block: &TmpSuperBlock) -> Option<Arc<Instance>> {
        types::Instance::of(super_block)?.own.clone()?.downcast().ok()
    }

    /// Takes the lowest free number.
    ///
    /// # Errors
    /// `ENOSPC`, `ENOMEM`.
    pub(crate) fn take_number(instance: &Arc<Instance>) -> Result<Number, Errno> {
        let max = instance.options.lock().max;
        let mut numbers = instance.numbers.lock();
        let mut free = 0;
        while numbers.contains_key(&free) {
            free += 1;
        }
        if free >= max {
            return Err(Errno::ENOSPC);
        }
        memory::once(|| numbers.insert(free, Weak::new())).map_err(|_| Errno::ENOMEM)?;
        Ok(Number { instance: Arc::clone(instance), number: free })
    }

    /// The terminal with this number.
    fn tty(&self, number: u32) -> Option<Arc<Tty>> {
        let found = self.numbers.lock().get(&number).cloned();
        found.and_then(|tty| tty.upgrade())
    }
}

/// A number that is taken, until this is dropped.
pub(crate) struct Number {
    instance: Arc<Instance>,
    number: u32,
}

impl Number {
    /// The number.
    pub(crate) fn get(&self) -> u32 {
        self.number
    }

    fn name(&self) -> alloc::string::String {
        alloc::format!("{}", self.number)
    }

    fn root(&self) -> Option<Arc<TmpDentry>> {
        let root = self.instance.root.lock().upgrade();
        root.filter(|root| !root.super_block().is_shut_down())
    }

    /// Makes the entry of `tty`.
    ///
    /// # Errors
    /// `EIO`: the instance is not mounted any more. `ENOMEM`.
    pub(crate) fn show(&self, tty: &Arc<Tty>) -> Result<(), Errno> {
        let root = self.root().ok_or(Errno::EIO)?;
        if let Some(slot) = self.instance.numbers.lock().get_mut(&self.number) {
            *slot = Arc::downgrade(tty);
        }
        let who = task::current().credentials();
        let options = *self.instance.options.lock();
        let new = New {
            what: What::Special(mode::CHARACTER, super::device_number(pty::MAJOR, self.number)),
            mode: options.mode,
            uid: options.uid.unwrap_or(who.fsuid),
            gid: options.gid.unwrap_or(who.fsgid),
        };
        root.adopt(self.name().as_bytes(), new).map(drop).map_err(error)
    }

    /// Takes the entry away.
    pub(crate) fn hide(&self) {
        if let Some(root) = self.root() {
            forget(&root, self.name().as_bytes());
        }
    }

    /// Opens the entry for the calling task, in the mount that belongs to the `ptmx` at `ptmx`.
    ///
    /// # Errors
    /// Those of open(2); `EMFILE`, `ENOMEM`.
    pub(crate) fn open(&self, ptmx: &PathRef<TmpDentry>, flags: u32) -> Result<usize, Errno> {
        let (root, _) = find(ptmx)?;
        let dentry = root.dentry.entry(self.name().as_bytes()).ok_or(Errno::EIO)?;
        let thread = task::current();
        let call = Call { thread: &thread };
        let how = open::How { flags, mode: 0, resolve: Resolve::empty() };
        let file = open::at_place(&call, PathRef { mount: root.mount, dentry }, how)?;
        super::install(file, flags & abi::O_CLOEXEC != 0)
    }
}

impl Drop for Number {
    fn drop(&mut self) {
        let old = self.instance.numbers.lock().remove(&self.number);
        drop(old);
    }
}

/// The root of the instance that a `ptmx` belongs to: the one that it is in, or the one that is mounted on `pts` beside it.
///
/// # Errors
/// `ENODEV`: there is none.
fn find(ptmx: &PathRef<TmpDentry>) -> Result<(PathRef<TmpDentry>, Arc<Instance>), Errno> {
    if let Some(instance) = Instance::of(ptmx.dentry.super_block()) {
        let root = ptmx.dentry.super_block().root().ok_or(Errno::ENODEV)?;
        return Ok((PathRef { mount: ptmx.mount.clone(), dentry: root }, instance));
    }
    let directory = ptmx.dentry.parent(&pin()).map(|(_, parent)| Arc::clone(parent)).ok_or(Errno::ENODEV)?;
    let from = PathRef { mount: ptmx.mount.clone(), dentry: directory };
    let thread = task::current();
    let call = Call { thread: &thread };
    let found = call.walk(Some(&from), b"pts", Last::Follow, Resolve::empty()).map_err(|_| Errno::ENODEV)?;
    let instance = Instance::of(found.dentry.super_block()).ok_or(Errno::ENODEV)?;
    Ok((found, instance))
}

/// The instance that a `ptmx` belongs to.
///
/// # Errors
/// `ENODEV`: there is none.
pub(crate) fn beside(ptmx: &PathRef<TmpDentry>) -> Result<Arc<Instance>, Errno> {
    find(ptmx).map(|(_, instance)| instance)
}

/// The terminal whose node is `at`.
///
/// # Errors
/// `EIO`: there is none.
pub(crate) fn tty(at: &PathRef<TmpDentry>, number: u32) -> Result<Arc<Tty>, Errno> {
    Instance::of(at.dentry.super_block()).and_then(|instance| instance.tty(number)).ok_or(Errno::EIO)
}

/// The type.
pub(crate) struct Devpts;

impl FileSystemType<TmpDentry> for Devpts {
    fn name(&self) -> &[u8] {
        b"devpts"
    }

    fn flags(&self) -> TypeFlags {
        TypeFlags::USER_NS
    }

    fn configure(
        self: Arc<Self>,
        purpose: Purpose<'_, TmpDentry>,
    ) -> Result<Box<dyn Configure<TmpDentry>>, Errno> {
        let options = match purpose {
            Purpose::Reconfigure(root) => {
                Instance::of(root.super_block()).map(|instance| *instance.options.lock())
            }
            Purpose::Mount => None,
        };
        let config = Config(options.unwrap_or(Options::DEFAULT));
        Ok(memory::boxed(config).map_err(|_| Errno::ENOMEM)?)
    }
}

struct Config(Options);

impl Configure<TmpDentry> for Config {
    fn set_parameter(
        &mut self,
        key: &[u8],
        value: &Value<'_, TmpDentry>,
        log: &mut Log,
    ) -> Result<Parameter, Errno> {
        let own = task::current().credentials().user_ns.clone();
        let text = match value {
            // What every mount does by now.
            Value::Flag if key == b"newinstance" => return Ok(Parameter::Taken),
            Value::String(text) => core::str::from_utf8(text).ok(),
            _ => None,
        };
        let number = |radix| text.and_then(|text| u32::from_str_radix(text, radix).ok());
        let taken = match key {
            b"uid" => {
                self.0.uid = number(10).and_then(|uid| Kind::Users.absolute(&own, uid));
                self.0.uid.is_some()
            }
            b"gid" => {
                self.0.gid = number(10).and_then(|gid| Kind::Groups.absolute(&own, gid));
                self.0.gid.is_some()
            }
            b"mode" => number(8).map(|mode| self.0.mode = mode & 0o777).is_some(),
            b"ptmxmode" => number(8).map(|mode| self.0.ptmx_mode = mode & 0o777).is_some(),
            b"max" => number(10).filter(|max| *max <= MAX).map(|max| self.0.max = max).is_some(),
            _ => return Ok(Parameter::Unknown),
        };
        if !taken {
            log.error(&[b"devpts: Bad value for '", key, b"'"]);
            return Err(Errno::EINVAL);
        }
        Ok(Parameter::Taken)
    }

    fn get_tree(&mut self, request: &Request<'_>, _log: &mut Log) -> Result<SuperBlockRef<TmpDentry>, Errno> {
        let instance = Instance {
            root: SpinLock::new(Weak::new()),
            options: SpinLock::new(self.0),
            numbers: SpinLock::new(BTreeMap::new()),
        };
        let instance = memory::arc(instance).map_err(|_| Errno::ENOMEM)?;
        let root = What::HandleDirectory(node::handle(Root)?);
        let owner = task::current().credentials();
        let mut make = Make::new(b"devpts", MAGIC, root, (0o755, owner.fsuid, owner.fsgid));
        make.parameters = self.0.show(request.owner);
        make.own = Some(Arc::clone(&instance) as _);
        let made = types::instance(make, request)?;
        let ptmx = New {
            what: What::Special(mode::CHARACTER, super::device_number(PTMX.0, PTMX.1)),
            mode: self.0.ptmx_mode,
            uid: owner.fsuid,
            gid: owner.fsgid,
        };
        made.root().adopt(b"ptmx", ptmx).map_err(error)?;
        *instance.root.lock() = Arc::downgrade(made.root());
        Ok(made)
    }

    fn reconfigure(&mut self, root: &Arc<TmpDentry>, flags: SuperFlags, _log: &mut Log) -> Result<(), Errno> {
        types::reconfigure(root, flags)?;
        if let Some(instance) = Instance::of(root.super_block()) {
            *instance.options.lock() = self.0;
            if let Some(shown) = types::Instance::of(root.super_block()) {
                shown.show(self.0.show(&mnt_table::SuperBlock::user_ns(&**root.super_block())));
            }
            if let Some(ptmx) = root.entry(b"ptmx") {
                ptmx.set_permissions(self.0.ptmx_mode);
            }
        }
        Ok(())
    }
}

/// The root directory: nobody but the kernel makes entries.
struct Root;

impl Handle for Root {
    fn mode(&self) -> u32 {
        mode::DIRECTORY | 0o755
    }
}

impl Node for Root {}
