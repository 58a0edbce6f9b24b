//! From options to an instance.
//!
//! Order of checks as in Linux.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use mnt_table::dentry::{Dentry, SuperBlockRef};
use mnt_table::memory::{self, Grow};
use mnt_table::{MountFlags, PathRef, UserNs};
use syscalls::context::Log;
use syscalls::file_system::{
    Configure, FileSystemType, Parameter, Purpose, Request, SuperFlags, TypeFlags, Value,
};
use syscalls::{Credentials, Errno};
use tmpfs::{New, Set, TmpDentry, TmpSuperBlock, What};

use super::attributes::{self, TRUSTED, USER};
use super::entry::{self, Entry, Lower};
use super::layers::{Layer, Layers, Upper, discard};
use super::options::{Named, Options, contains};
use super::{MAGIC, no_memory};
use crate::fs::types::{self, Instance, Make};
use crate::fs::{error, node, permission, xattr};

/// Instances that may lie on each other, file systems of memory not counted.
const DEPTH_MAX: u32 = 2;

/// The type.
pub(crate) struct Overlay;

impl FileSystemType<TmpDentry> for Overlay {
    fn name(&self) -> &[u8] {
        b"overlay"
    }

    fn flags(&self) -> TypeFlags {
        TypeFlags::USER_NS
    }

    fn owner(&self, credentials: &Credentials) -> UserNs {
        credentials.user_ns.clone()
    }

    fn configure(
        self: Arc<Self>,
        purpose: Purpose<'_, TmpDentry>,
    ) -> Result<Box<dyn Configure<TmpDentry>>, Errno> {
        let config = Config { options: Options::default(), new: matches!(purpose, Purpose::Mount) };
        Ok(memory::boxed(config).map_err(no_memory)?)
    }
}

struct Config {
    options: Options,
    /// It is for a new instance.
    new: bool,
}

/// File systems of layers, by instance.
struct FileSystems(Vec<Arc<TmpSuperBlock>>);

impl FileSystems {
    /// Which of them that of `at` is.
    fn number(&mut self, at: &PathRef<TmpDentry>) -> Result<usize, Errno> {
        let super_block = at.dentry.super_block();
        if let Some(known) = self.0.iter().position(|known| Arc::ptr_eq(known, super_block)) {
            return Ok(known);
        }
        self.0.try_push(Arc::clone(super_block)).map_err(no_memory)?;
        Ok(self.0.len() - 1)
    }
}

/// The layers of an instance that is being made, and what is known of them. Dropped before they are the instance's, the
/// private mounts end.
struct Making {
    traps: Vec<Arc<TmpDentry>>,
    file_systems: FileSystems,
    depth: u32,
}

impl Making {
    /// Adds a directory that no other layer may be.
    ///
    /// # Errors
    /// `ELOOP`: one is.
    fn trap(&mut self, dentry: &Arc<TmpDentry>) -> Result<(), Errno> {
        if self.traps.iter().any(|trap| Arc::ptr_eq(trap, dentry)) {
            return Err(Errno::ELOOP);
        }
        self.traps.try_push(Arc::clone(dentry)).map_err(no_memory)?;
        Ok(())
    }

    fn upper(&mut self, upper: &Named, work: Option<&Named>) -> Result<Upper, Errno> {
        const ATIME: MountFlags =
            MountFlags::NOATIME.union(MountFlags::NODIRATIME).union(MountFlags::RELATIME);
        let work = work.ok_or(Errno::EINVAL)?;
        let mount = &upper.at.mount;
        if mount.is_read_only() {
            return Err(Errno::EINVAL);
        }
        self.trap(&upper.at.dentry)?;
        let file_system = self.file_systems.number(&upper.at)?;
        let layer = Layer::new(&upper.at, mount.flags() - ATIME, file_system)?;
        let apart =
            !contains(&upper.at.dentry, &work.at.dentry) && !contains(&work.at.dentry, &upper.at.dentry);
        if !Arc::ptr_eq(&mount.to_arc(), &work.at.mount.to_arc()) || !apart {
            return Err(Errno::EINVAL);
        }
        self.trap(&work.at.dentry)?;
        let work = make_work(&layer, &work.at.dentry)?;
        self.trap(&work)?;
        Ok(Upper { layer, work })
    }

    fn lower(&mut self, lower: &Named) -> Result<Layer, Errno> {
        self.depth = self.depth.max(1 + depth(&lower.at.dentry));
        if self.depth > DEPTH_MAX {
            return Err(Errno::EINVAL);
        }
        self.trap(&lower.at.dentry)?;
        let file_system = self.file_systems.number(&lower.at)?;
        let flags = lower.at.mount.flags() | MountFlags::READONLY | MountFlags::NOATIME;
        Layer::new(&lower.at, flags, file_system)
    }

    /// Makes sure that no lower layer is within another layer.
    fn check_overlaps(&self, lowers: &[Named]) -> Result<(), Errno> {
        let within = |lower: &Named| {
            let mut others = self.traps.iter().filter(|trap| !Arc::ptr_eq(trap, &lower.at.dentry));
            others.any(|trap| contains(trap, &lower.at.dentry))
        };
        if lowers.iter().any(within) { Err(Errno::ELOOP) } else { Ok(()) }
    }
}

/// How many instances lie on each other where `dentry` is.
fn depth(dentry: &TmpDentry) -> u32 {
    entry::of(dentry).map_or(0, |entry| entry.layers.depth)
}

/// Makes the work directory `work` anew. One that a `volatile` instance has used stays as it is.
///
/// # Errors
/// `EINVAL`: it is such a one.
fn make_work(layer: &Layer, base: &Arc<TmpDentry>) -> Result<Arc<TmpDentry>, Errno> {
    const NAME: &[u8] = b"work";
    if base.entry(NAME).and_then(|work| work.entry(INCOMPATIBLE)).is_some() {
        return Err(Errno::EINVAL);
    }
    let _writing = crate::fs::kernel::writing(&layer.path(layer.root())?.mount)?;
    let who = permission::current();
    permission::Subject::new(layer.mount(), base).may_access(&who, permission::WRITE | permission::EXEC)?;
    discard(base, NAME);
    let (uid, gid) = super::copy_up::stored(layer, who.fsuid, who.fsgid)?;
    base.make(NAME, New { what: What::Directory, mode: 0, uid, gid }).map_err(error)
}

/// The directory in a work directory that says what an instance needs to be able to.
const INCOMPATIBLE: &[u8] = b"incompat";

/// Notes in the work directory that nothing was written out when the instance ended.
fn note_volatile(upper: &Upper) -> Result<(), Errno> {
    let directory = upper.work.mkdir(INCOMPATIBLE).and_then(|made| made.mkdir(b"volatile"));
    directory.and_then(|made| made.create(b"dirty")).map(drop).map_err(error)
}

/// Whether the upper layer keeps the instance's own attributes.
fn keeps_attributes(layers: &Layers, upper: &Upper) -> bool {
    let (mount, who) = (upper.layer.mount(), &layers.mounter);
    let name = attributes::own(layers, b"opaque");
    let set = xattr::set(mount, &upper.work, who, &name, b"0", Set::Any);
    set.and_then(|()| xattr::remove(mount, &upper.work, who, &name)).is_ok()
}

/// What `uuid=` is shown as. An instance whose upper layer has never been one gets a number, which the layer keeps.
fn uuid(layers: &Layers, options: &Options) -> Option<&'static str> {
    let Ok(upper) = layers.upper() else { return options.uuid.filter(|word| *word != "auto") };
    if layers.without_attributes {
        return Some("null");
    }
    let auto = matches!(options.uuid, None | Some("auto"));
    if !auto && options.uuid != Some("on") {
        return options.uuid;
    }
    let name = attributes::own(layers, b"uuid");
    let (mount, root) = (upper.layer.mount(), upper.layer.root());
    if xattr::get(mount, root, &layers.mounter, &name).is_ok() {
        return options.uuid.filter(|word| *word == "on");
    }
    let mut number = [0; 16];
    crate::random::fill(&mut number);
    let kept = xattr::set(mount, root, &layers.mounter, &name, &number, Set::Any);
    Some(if kept.is_ok() { "on" } else { "null" })
}

/// Ends the layers of an instance that is not made after all.
struct EndOf(Option<Arc<Layers>>);

impl Drop for EndOf {
    fn drop(&mut self) {
        self.0.iter().for_each(|layers| layers.end());
    }
}

impl Config {
    /// # Errors
    /// `EINVAL`, `ELOOP`; those of the private mounts and of the work directory; `ENOMEM`.
    fn layers(&self) -> Result<Layers, Errno> {
        let options = &self.options;
        if options.lowers.is_empty()
            || options.user_attributes && options.redirects == super::options::Redirects::Follow
        {
            return Err(Errno::EINVAL);
        }
        let mut making = Making { traps: Vec::new(), file_systems: FileSystems(Vec::new()), depth: 1 };
        let upper = match &options.upper {
            Some(upper) => Some(making.upper(upper, options.work.as_ref())?),
            None if options.lowers.len() == 1 => return Err(Errno::EINVAL),
            None => None,
        };
        let mut lowers = Vec::new();
        for lower in &options.lowers {
            lowers.try_push(making.lower(lower)?).map_err(no_memory)?;
        }
        making.check_overlaps(&options.lowers)?;
        let prefix = if options.user_attributes { USER } else { TRUSTED };
        let mut layers = Layers::new(upper, lowers, permission::current(), prefix);
        layers.traps = making.traps;
        layers.depth = making.depth;
        for _ in &making.file_systems.0 {
            layers.devices.try_push(types::device()).map_err(no_memory)?;
        }
        if options.numbers_of_several && !layers.is_same_file_system() {
            return Err(Errno::EINVAL);
        }
        if let Ok(upper) = layers.upper() {
            let keeps = keeps_attributes(&layers, upper);
            if options.volatile {
                note_volatile(upper)?;
            }
            layers.without_attributes = !keeps;
        }
        Ok(layers)
    }
}

impl Configure<TmpDentry> for Config {
    fn set_parameter(
        &mut self,
        key: &[u8],
        value: &Value<'_, TmpDentry>,
        log: &mut Log,
    ) -> Result<Parameter, Errno> {
        if !self.new {
            // As mount(2) has always had it; fsconfig(2) cannot be told from it here.
            return Ok(Parameter::Taken);
        }
        self.options.set(key, value, log)
    }

    fn get_tree(&mut self, request: &Request<'_>, _log: &mut Log) -> Result<SuperBlockRef<TmpDentry>, Errno> {
        let layers = memory::arc(self.layers()?).map_err(no_memory)?;
        let mut end = EndOf(Some(Arc::clone(&layers)));
        let uuid = uuid(&layers, &self.options);
        let upper = layers.upper().ok().map(|upper| Arc::clone(upper.layer.root()));
        let mut roots = Vec::new();
        for (layer, lower) in layers.lowers.iter().enumerate() {
            let lower = Lower { layer, dentry: Arc::clone(lower.root()) };
            roots.try_push(lower).map_err(no_memory)?;
        }
        let mut root = Entry::new(&layers, upper, roots)?;
        root.is_root = true;
        let inode = root.real_dentry().inode();
        let ((uid, gid), bits) = (inode.owner(), inode.mode() & 0o7777);
        let own = Arc::clone(&layers);
        let make = Make {
            parameters: self.options.show(layers.without_attributes, uuid),
            own: Some(own),
            ..Make::new(b"overlay", MAGIC, What::HandleDirectory(node::handle(root)?), (bits, uid, gid))
        };
        let mut flags = request.flags;
        flags.set(SuperFlags::RDONLY, flags.contains(SuperFlags::RDONLY) || layers.upper().is_err());
        let request = Request {
            source: request.source,
            subtype: request.subtype,
            flags,
            owner: request.owner,
            exclusive: request.exclusive,
        };
        let instance = types::instance(make, &request)?;
        // From here on they end with it.
        end.0 = None;
        Ok(instance)
    }

    fn reconfigure(&mut self, root: &Arc<TmpDentry>, flags: SuperFlags, _log: &mut Log) -> Result<(), Errno> {
        let own = Instance::of(root.super_block()).and_then(|instance| instance.own.clone());
        let layers = own.and_then(|own| own.downcast::<Layers>().ok());
        if !flags.contains(SuperFlags::RDONLY) && layers.is_none_or(|layers| layers.upper().is_err()) {
            return Err(Errno::EROFS);
        }
        types::reconfigure(root, flags)
    }
}
