//! File systems that show what they are told, for tests that rebuild the mounts of another machine: there only with
//! `debug_call` on the command line.
//!
//! | parameter | what |
//! |---|---|
//! | `instance=N` | the instance: those with the same number are one |
//! | `type=NAME`, `device=MAJOR:MINOR`, `options=TEXT` | what listings show, settled by whoever makes the instance |
//!
//! A mount whose root is `/.named/HEX` shows the bytes of these digits as its root.
//!
//! [`namespace`] makes what no call of Linux 6.18 makes: a namespace whose own root, which hangs on nothing, is not the copy
//! of another namespace's. So it is with the first one of a machine that stays on its initramfs.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use mnt_table::dentry::{Dentry, SuperBlockRef};
use mnt_table::{Kind, MntNamespace, MountSpec, NamespaceSpec, Source, WriteSet, memory, pin};
use syscalls::context::Log;
use syscalls::file::{NamespaceRef, Object};
use syscalls::file_system::{Configure, FileSystemType, Parameter, Purpose, Request, SuperFlags, Value};
use syscalls::{Errno, Kernel};
use tmpfs::{TmpDentry, What};

use super::kernel::{Call, namespaces};
use super::singles::Singles;
use super::types::{self, Instance, Make};
use crate::task::Thread;

const MAGIC: u64 = 0x0102_1994;

/// The directory of those whose root shows without a path.
const NAMED: &[u8] = b".named";

static INSTANCES: Singles = Singles::new();

/// What listings show of an instance.
#[derive(Clone, Default)]
pub(super) struct Shown {
    pub(super) fs_type: Vec<u8>,
    pub(super) device: (u32, u32),
    pub(super) options: Vec<u8>,
}

/// What is shown of the instance that `root` belongs to, if it is such a one.
pub(super) fn shown(root: &TmpDentry) -> Option<Arc<Shown>> {
    let own = Instance::of(root.super_block())?.own.clone()?;
    own.downcast().ok()
}

/// The name that is shown for a mount's root in the place of a path.
pub(super) fn root_name(root: &TmpDentry) -> Option<Vec<u8>> {
    shown(root)?;
    let guard = pin();
    let (digits, above) = root.parent(&guard)?;
    let (name, _) = above.parent(&guard)?;
    let text = if name == NAMED { core::str::from_utf8(digits).ok()? } else { return None };
    let byte = |at: usize| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
    (0..text.len()).step_by(2).map(byte).collect()
}

/// A mount namespace whose root is a mount of what the descriptor `fd` refers to; returns a descriptor of it.
///
/// # Errors
/// `EBADF`, `EINVAL`: a file that is nowhere; `EMFILE`, `ENOMEM`.
pub(crate) fn namespace(thread: &Arc<Thread>, fd: i32) -> Result<usize, Errno> {
    let call = Call::new(thread);
    let file = call.any(fd)?;
    let at = file.file().path().ok_or(Errno::EINVAL)?;
    let no_memory = |_| Errno::ENOMEM;
    let source = Source::new(at.mount.source()).map_err(no_memory)?;
    let spec = MountSpec::new(Arc::clone(&at.dentry), at.mount.flags(), source);
    let ns = MntNamespace::from_spec(NamespaceSpec::new(Kind::Ordinary)).map_err(no_memory)?;
    let kept = NamespaceRef::new(&ns);
    let mut locks = WriteSet::one(&ns);
    let root = locks.new_mount(&ns, spec).map_err(|_| Errno::ENOMEM)?;
    locks.attach_root(&ns, &root);
    drop(locks);
    namespaces().add(&ns).map_err(no_memory)?;
    let file = call.namespace_file(Object::MountNamespace(kept));
    Ok(call.install(file, true)? as usize)
}

/// The type.
pub(crate) struct StandIn;

impl FileSystemType<TmpDentry> for StandIn {
    fn name(&self) -> &[u8] {
        b"stand-in"
    }

    fn configure(
        self: Arc<Self>,
        _purpose: Purpose<'_, TmpDentry>,
    ) -> Result<Box<dyn Configure<TmpDentry>>, Errno> {
        Ok(memory::boxed(Config::default()).map_err(|_| Errno::ENOMEM)?)
    }
}

#[derive(Default)]
struct Config {
    instance: Option<u64>,
    shown: Shown,
}

fn number<T: core::str::FromStr>(text: &[u8]) -> Option<T> {
    core::str::from_utf8(text).ok()?.parse().ok()
}

impl Config {
    fn set(&mut self, key: &[u8], text: &[u8]) -> Option<()> {
        match key {
            b"instance" => self.instance = Some(number(text)?),
            b"type" => self.shown.fs_type = text.to_vec(),
            b"options" => self.shown.options = text.to_vec(),
            _ => {
                let colon = text.iter().position(|byte| *byte == b':')?;
                self.shown.device = (number(&text[..colon])?, number(&text[colon + 1..])?);
            }
        }
        Some(())
    }
}

impl Configure<TmpDentry> for Config {
    fn set_parameter(
        &mut self,
        key: &[u8],
        value: &Value<'_, TmpDentry>,
        _log: &mut Log,
    ) -> Result<Parameter, Errno> {
        match (key, value) {
            (b"instance" | b"type" | b"device" | b"options", Value::String(text)) => {
                self.set(key, text).map(|()| Parameter::Taken).ok_or(Errno::EINVAL)
            }
            _ => Ok(Parameter::Unknown),
        }
    }

    fn get_tree(&mut self, request: &Request<'_>, _log: &mut Log) -> Result<SuperBlockRef<TmpDentry>, Errno> {
        let instance = self.instance.ok_or(Errno::EINVAL)?;
        INSTANCES.get(instance, request, || {
            let own = memory::arc(self.shown.clone()).map_err(|_| Errno::ENOMEM)?;
            let make =
                Make { own: Some(own), ..Make::new(b"stand-in", MAGIC, What::Directory, (0o755, 0, 0)) };
            types::instance(make, request)
        })
    }

    fn reconfigure(&mut self, root: &Arc<TmpDentry>, flags: SuperFlags, _log: &mut Log) -> Result<(), Errno> {
        types::reconfigure(root, flags)
    }
}
