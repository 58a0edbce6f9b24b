//! File system contexts: what is to be mounted, or changed, parameter by parameter.
//!
//! ```text
//!  fsopen --> [CreateParams] --CREATE--> [AwaitingMount] --fsmount--> [AwaitingReconf]
//!                                                                          | next call
//!  fspick ------------------------------------------------------------> [ReconfParams] <--> RECONFIGURE
//!  whatever fails in CREATE or RECONFIGURE --> [Failed]
//! ```
//!
//! mount(2) uses a context too, and drops it at its end.
//!
//! Sources: fsopen(2), fsconfig(2), fspick(2).

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;

use mnt_table::dentry::SuperBlockRef;
use mnt_table::{Dentry, SuperBlock, UserNs};

use crate::file_system::{Configure, Parameter, Purpose, Request, SuperFlags, TypeFlags, TypeRef, Value};
use crate::user_memory::copy;
use crate::{Credentials, Errno};

/// Messages that a log keeps; older ones are forgotten.
const MESSAGES_MAX: usize = 8;

/// What a file system had to say about parameters; read(2) of a context returns one message after the other.
#[derive(Default)]
pub struct Log(VecDeque<Vec<u8>>);

impl Log {
    /// An error, in `parts`.
    pub fn error(&mut self, parts: &[&[u8]]) {
        self.push(b"e ", parts);
    }

    /// A warning.
    pub fn warning(&mut self, parts: &[&[u8]]) {
        self.push(b"w ", parts);
    }

    /// Something to know.
    pub fn info(&mut self, parts: &[&[u8]]) {
        self.push(b"i ", parts);
    }

    fn push(&mut self, level: &[u8], parts: &[&[u8]]) {
        if self.0.len() == MESSAGES_MAX {
            self.0.pop_front();
        }
        let mut text = Vec::new();
        let size = parts.iter().fold(level.len() + 1, |size, part| size + part.len());
        // Without memory there is one message less.
        if text.try_reserve_exact(size).is_err() || self.0.try_reserve(1).is_err() {
            return;
        }
        text.extend_from_slice(level);
        parts.iter().for_each(|part| text.extend_from_slice(part));
        text.push(b'\n');
        self.0.push_back(text);
    }

    /// The oldest message, which is forgotten then.
    ///
    /// # Errors
    /// `ENODATA`: there is none. `EMSGSIZE`: it has more than `max` bytes, and stays.
    pub fn read(&mut self, max: usize) -> Result<Vec<u8>, Errno> {
        let next = self.0.front().ok_or(Errno::ENODATA)?;
        if next.len() > max {
            return Err(Errno::EMSGSIZE);
        }
        self.0.pop_front().ok_or(Errno::ENODATA)
    }
}

/// How far a context is; see the module's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Takes parameters of something new.
    CreateParams,
    /// Has its instance.
    AwaitingMount,
    /// Was mounted; begins anew as one for a change with the next call.
    AwaitingReconf,
    /// Takes parameters of a change.
    ReconfParams,
    /// Of no use any more.
    Failed,
}

/// Parameters that are flags of the superblock: set or cleared.
const SUPER_WORDS: [(&[u8], SuperFlags, bool); 9] = [
    (b"ro", SuperFlags::RDONLY, true),
    (b"rw", SuperFlags::RDONLY, false),
    (b"sync", SuperFlags::SYNCHRONOUS, true),
    (b"async", SuperFlags::SYNCHRONOUS, false),
    (b"dirsync", SuperFlags::DIRSYNC, true),
    (b"mand", SuperFlags::MANDLOCK, true),
    (b"nomand", SuperFlags::MANDLOCK, false),
    (b"lazytime", SuperFlags::LAZYTIME, true),
    (b"nolazytime", SuperFlags::LAZYTIME, false),
];

/// A context.
pub struct Context<D: Dentry> {
    fs_type: TypeRef<D>,
    owner: UserNs,
    phase: Phase,
    configure: Option<Box<dyn Configure<D>>>,
    source: Option<Vec<u8>>,
    subtype: Option<Vec<u8>>,
    flags: SuperFlags,
    /// Which of `flags` were spoken of.
    mask: SuperFlags,
    instance: Option<SuperBlockRef<D>>,
    log: Log,
}

impl<D: Dentry> Context<D> {
    /// For something new, made by a task with `credentials`.
    ///
    /// # Errors
    /// Those of [`FileSystemType::configure`](crate::file_system::FileSystemType::configure).
    pub fn for_mount(
        fs_type: TypeRef<D>,
        credentials: &Credentials,
        flags: SuperFlags,
    ) -> Result<Self, Errno> {
        let configure = Arc::clone(&fs_type).configure(Purpose::Mount)?;
        let owner = fs_type.owner(credentials);
        let phase = Phase::CreateParams;
        Ok(Self::new(fs_type, owner, phase, configure, (flags, SuperFlags::empty()), None))
    }

    /// For a change of the instance that `root` is in: of those of its flags that are in `mask`, to `flags`.
    ///
    /// Context: the caller keeps a mount of the instance.
    ///
    /// # Errors
    /// As [`Context::for_mount`].
    pub fn for_reconfigure(
        fs_type: TypeRef<D>,
        root: &Arc<D>,
        flags: SuperFlags,
        mask: SuperFlags,
    ) -> Result<Self, Errno> {
        let configure = Arc::clone(&fs_type).configure(Purpose::Reconfigure(root))?;
        let owner = root.super_block().user_ns();
        let instance = Some(SuperBlockRef::new(Arc::clone(root)));
        Ok(Self::new(fs_type, owner, Phase::ReconfParams, configure, (flags, mask), instance))
    }

    fn new(
        fs_type: TypeRef<D>,
        owner: UserNs,
        phase: Phase,
        configure: Box<dyn Configure<D>>,
        (flags, mask): (SuperFlags, SuperFlags),
        instance: Option<SuperBlockRef<D>>,
    ) -> Self {
        Context {
            fs_type,
            owner,
            phase,
            configure: Some(configure),
            source: None,
            subtype: None,
            flags,
            mask,
            instance,
            log: Log::default(),
        }
    }

    /// The type.
    pub fn fs_type(&self) -> &TypeRef<D> {
        &self.fs_type
    }

    /// How far it is.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Its instance, from CREATE on, or the one to change.
    pub fn instance(&self) -> Option<&SuperBlockRef<D>> {
        self.instance.as_ref()
    }

    /// The source that was set.
    pub fn source(&self) -> Option<&[u8]> {
        self.source.as_deref()
    }

    /// What it has to say.
    pub fn log(&mut self) -> &mut Log {
        &mut self.log
    }

    /// Sets the part of the type's name behind the dot.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn set_subtype(&mut self, subtype: &[u8]) -> Result<(), Errno> {
        self.subtype = Some(copy(subtype)?);
        Ok(())
    }

    /// Sets one parameter, in whatever phase: the flags of superblocks first, then what the type knows, then `source`.
    ///
    /// # Errors
    /// `EINVAL`: nobody knows it; `source` is no string, or was set before. What the type says. `ENOMEM`.
    pub fn set_parameter(&mut self, key: &[u8], value: &Value<'_, D>) -> Result<(), Errno> {
        if let Some((_, flag, on)) = SUPER_WORDS.iter().find(|(word, ..)| *word == key) {
            self.flags.set(*flag, *on);
            self.mask.insert(*flag);
            return Ok(());
        }
        let configure = self.configure.as_mut().ok_or(Errno::EBUSY)?;
        if configure.set_parameter(key, value, &mut self.log)? == Parameter::Taken {
            return Ok(());
        }
        if key != b"source" {
            self.log.error(&[self.fs_type.name(), b": Unknown parameter '", key, b"'"]);
            return Err(Errno::EINVAL);
        }
        let Value::String(source) = value else {
            self.log.error(&[b"Non-string source"]);
            return Err(Errno::EINVAL);
        };
        if self.source.is_some() {
            self.log.error(&[b"Multiple sources"]);
            return Err(Errno::EINVAL);
        }
        self.source = Some(copy(source)?);
        Ok(())
    }

    /// Sets the options of mount(2): parameters between commas.
    ///
    /// # Errors
    /// As [`Context::set_parameter`].
    pub fn set_options(&mut self, data: &[u8]) -> Result<(), Errno> {
        for option in data.split(|byte| *byte == b',') {
            match option.iter().position(|byte| *byte == b'=') {
                // An empty option is none, and neither is a value without a key.
                Some(0) => {}
                None if option.is_empty() => {}
                None => self.set_parameter(option, &Value::Flag)?,
                Some(at) => self.set_parameter(&option[..at], &Value::String(&option[at + 1..]))?,
            }
        }
        Ok(())
    }

    /// Whether a task with `credentials` may make an instance of this.
    ///
    /// # Errors
    /// `EPERM`.
    pub fn may_create(&self, credentials: &Credentials) -> Result<(), Errno> {
        let initial = UserNs::INITIAL;
        let ns = if self.fs_type.flags().contains(TypeFlags::USER_NS) { &self.owner } else { &initial };
        if credentials.is_admin(ns) { Ok(()) } else { Err(Errno::EPERM) }
    }

    /// Gets the instance (`FSCONFIG_CMD_CREATE`).
    ///
    /// Context: no lock of the mount table held; may block.
    ///
    /// # Errors
    /// `EBUSY`: not the phase for it. `EPERM`: [`Context::may_create`]. What the file system says; then the context is
    /// of no use any more.
    pub fn create(&mut self, credentials: &Credentials, exclusive: bool) -> Result<(), Errno> {
        if self.phase != Phase::CreateParams {
            return Err(Errno::EBUSY);
        }
        self.may_create(credentials)?;
        let configure = self.configure.as_mut().ok_or(Errno::EBUSY)?;
        let request = Request {
            source: self.source.as_deref(),
            subtype: self.subtype.as_deref(),
            flags: self.flags,
            owner: &self.owner,
            exclusive,
        };
        match configure.get_tree(&request, &mut self.log) {
            Ok(instance) => {
                self.instance = Some(instance);
                self.phase = Phase::AwaitingMount;
                Ok(())
            }
            Err(errno) => {
                self.phase = Phase::Failed;
                Err(errno)
            }
        }
    }

    /// Changes the instance, whose flags are `old` (`FSCONFIG_CMD_RECONFIGURE`). The caller made sure of the phase and of
    /// who may.
    ///
    /// Context: as [`Context::create`].
    ///
    /// # Errors
    /// `EINVAL`: flags were spoken of that cannot change. What the file system says. Then the context is of no use any
    /// more.
    pub fn reconfigure(&mut self, old: SuperFlags) -> Result<(), Errno> {
        let (Some(configure), Some(instance)) = (&mut self.configure, &self.instance) else {
            return Err(Errno::EBUSY);
        };
        let flags = old.difference(self.mask) | self.flags.intersection(self.mask);
        let done = if SuperFlags::CHANGEABLE.contains(self.mask) {
            configure.reconfigure(instance.root(), flags, &mut self.log)
        } else {
            Err(Errno::EINVAL)
        };
        if done.is_err() {
            self.fail();
        }
        done
    }

    /// It is of no use any more.
    pub(crate) fn fail(&mut self) {
        self.phase = Phase::Failed;
    }

    /// Forgets the parameters; what comes next is a change of the instance. Flags that were spoken of before stay so, now
    /// as cleared.
    pub fn clean(&mut self) {
        self.configure = None;
        (self.source, self.subtype) = (None, None);
        self.flags = SuperFlags::empty();
        self.phase = Phase::AwaitingReconf;
    }

    /// Begins a change after [`Context::clean`].
    ///
    /// # Errors
    /// Those of [`FileSystemType::configure`](crate::file_system::FileSystemType::configure); then the context is of no use any more.
    pub fn finish_clean(&mut self) -> Result<(), Errno> {
        let (Phase::AwaitingReconf, Some(instance)) = (self.phase, &self.instance) else { return Ok(()) };
        match Arc::clone(&self.fs_type).configure(Purpose::Reconfigure(instance.root())) {
            Ok(configure) => {
                self.configure = Some(configure);
                self.phase = Phase::ReconfParams;
                Ok(())
            }
            Err(errno) => {
                self.phase = Phase::Failed;
                Err(errno)
            }
        }
    }
}
