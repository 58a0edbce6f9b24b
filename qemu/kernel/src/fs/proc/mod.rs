//! proc: what processes and the machine are like, as files.
//!
//! | file | what |
//! |---|---|
//! | this one | the type, its instances, the root directory |
//! | [`directory`] | directories whose entries are made on demand; files of text |
//! | [`process`], [`status`] | what a process's directory has; the text of its files |
//! | [`fds`], [`links`], [`memory`] | descriptors; places and namespaces; memory of others |
//! | [`id_map`] | the maps of user namespaces |
//! | [`system`], [`sysctl`] | files about the machine; `sys` |
//!
//! 1. Each mount makes an instance, which shows the PID namespace of the task that asked for it.
//! 2. An entry is made when somebody looks it up, and kept. An entry of a process that is gone is noticed by the next lookup;
//!    the end of a process takes its directory out of all instances, so that nothing of it is left.
//! 3. Nodes know a process by its identity (`Pid`), which keeps nothing of it alive.
//!
//! # Lock order
//! `INSTANCES` is a leaf. Text is put together under the lock of its open file, which comes before the locks of processes.

use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use linux_raw_sys::general as abi;
use mnt_table::dentry::{Dentry, SuperBlockRef};
use mnt_table::memory::Grow;
use mnt_table::{UserNs, memory as claims};
use syscalls::context::Log;
use syscalls::file::OtherNamespace;
use syscalls::file_system::{
    Configure, FileSystemType, Parameter, Purpose, Request, SuperFlags, TypeFlags, Value,
};
use syscalls::{Credentials, Errno};
use tmpfs::{Handle, TmpDentry, What, mode};

use self::directory::{Directory, DirectoryNode, FIRST, Fixed, Listed, Made, Name};
use self::process::{ProcessDirectory, Target};
use crate::arch::spin::SpinLock;
use crate::fs::node::{self, Node};
use crate::fs::types::{self, Make};
use crate::task::{self, Pid, PidNamespace};

pub(crate) mod directory;
mod fds;
mod id_map;
mod links;
mod memory;
mod process;
mod status;
mod sysctl;
mod system;
mod time_offsets;

const MAGIC: u64 = abi::PROC_SUPER_MAGIC as u64;
/// The numbers of processes in listings begin behind the files.
const PROCESSES: u64 = 256;

/// An instance.
pub(crate) struct Instance {
    ns: Arc<PidNamespace>,
    /// Processes only (`subset=pid`).
    subset: bool,
    root: SpinLock<Weak<TmpDentry>>,
}

/// What files that are about no process depend on.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) instance: Arc<Instance>,
}

static INSTANCES: SpinLock<Vec<Weak<Instance>>> = SpinLock::new(Vec::new());

/// A process, or a thread that is not its first, has been waited for, or has ended: its directory goes.
///
/// Context: threads; no lock held; may block.
pub(crate) fn process_gone(pid: &Pid) {
    let mut at = 0;
    loop {
        let found = {
            let instances = INSTANCES.lock();
            let found = instances.iter().enumerate().skip(at).find_map(|(index, instance)| {
                let instance = instance.upgrade()?;
                Some((index, instance))
            });
            drop(instances);
            found
        };
        let Some((index, instance)) = found else { return };
        at = index + 1;
        let Some(number) = pid.number_in(&instance.ns) else { continue };
        let root = instance.root.lock().upgrade();
        if let Some(root) = root.filter(|root| !root.super_block().is_shut_down()) {
            let name = alloc::format!("{number}");
            // The number may be somebody else's by now.
            let own = |there: &Arc<TmpDentry>| {
                let directory = node::downcast::<DirectoryNode<ProcessDirectory>>(there);
                directory.is_some_and(|directory| core::ptr::eq(&*directory.0.0.pid, pid))
            };
            if root.entry(name.as_bytes()).as_ref().is_some_and(own) {
                directory::forget(&root, name.as_bytes());
            }
        }
    }
}

/// The identity that a directory of a process is of.
pub(crate) fn pid_of(dentry: &TmpDentry) -> Option<Arc<Pid>> {
    let directory = node::downcast::<DirectoryNode<ProcessDirectory>>(dentry)?;
    let target = &directory.0.0;
    (!target.is_task).then(|| Arc::clone(&target.pid))
}

/// The type.
pub(crate) struct Proc;

impl FileSystemType<TmpDentry> for Proc {
    fn name(&self) -> &[u8] {
        b"proc"
    }

    fn flags(&self) -> TypeFlags {
        TypeFlags::USER_NS | TypeFlags::EXPOSES_KERNEL
    }

    fn owner(&self, _credentials: &Credentials) -> UserNs {
        task::with_current(|thread| thread.pid_ns().owner().clone()).unwrap_or(UserNs::INITIAL)
    }

    fn configure(
        self: Arc<Self>,
        _purpose: Purpose<'_, TmpDentry>,
    ) -> Result<Box<dyn Configure<TmpDentry>>, Errno> {
        let config = Config { hide: None, group: None, subset: false };
        Ok(claims::boxed(config).map_err(|_| Errno::ENOMEM)?)
    }
}

/// What was asked for. Who may see which processes is kept and shown, and not enforced beyond what ptrace(2) rules say.
struct Config {
    hide: Option<&'static str>,
    group: Option<u32>,
    subset: bool,
}

impl Config {
    fn show(&self) -> Vec<u8> {
        let mut text = Vec::new();
        if let Some(group) = self.group {
            text.extend_from_slice(alloc::format!(",gid={group}").as_bytes());
        }
        if let Some(hide) = self.hide.filter(|hide| *hide != "off") {
            text.extend_from_slice(alloc::format!(",hidepid={hide}").as_bytes());
        }
        if self.subset {
            text.extend_from_slice(b",subset=pid");
        }
        text
    }
}

impl Configure<TmpDentry> for Config {
    fn set_parameter(
        &mut self,
        key: &[u8],
        value: &Value<'_, TmpDentry>,
        log: &mut Log,
    ) -> Result<Parameter, Errno> {
        const HIDE: [(&str, &str); 4] =
            [("0", "off"), ("1", "noaccess"), ("2", "invisible"), ("4", "ptraceable")];
        if ![&b"hidepid"[..], b"gid", b"subset"].contains(&key) {
            return Ok(Parameter::Unknown);
        }
        let taken = match (key, value) {
            (b"hidepid", Value::String(text)) => {
                let found =
                    HIDE.iter().find(|(number, word)| [number.as_bytes(), word.as_bytes()].contains(text));
                found.map(|(_, word)| self.hide = Some(word))
            }
            (b"gid", Value::String(text)) => {
                let number = core::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
                number.map(|number| self.group = Some(number))
            }
            (b"subset", Value::String(b"pid")) => {
                self.subset = true;
                Some(())
            }
            _ => None,
        };
        if taken.is_none() {
            log.error(&[b"proc: Bad value for '", key, b"'"]);
        }
        taken.map(|()| Parameter::Taken).ok_or(Errno::EINVAL)
    }

    fn get_tree(&mut self, request: &Request<'_>, _log: &mut Log) -> Result<SuperBlockRef<TmpDentry>, Errno> {
        let ns = Arc::clone(task::current().pid_ns());
        let instance = Instance { ns, subset: self.subset, root: SpinLock::new(Weak::new()) };
        let instance = claims::arc(instance).map_err(|_| Errno::ENOMEM)?;
        let context = Context { instance: Arc::clone(&instance) };
        let root = node::handle(DirectoryNode(Root(context)))?;
        let mut make = Make::new(b"proc", MAGIC, What::HandleDirectory(root), (0o555, 0, 0));
        make.parameters = self.show();
        let made = types::instance(make, request)?;
        *instance.root.lock() = Arc::downgrade(made.root());
        let mut instances = INSTANCES.lock();
        instances.retain(|instance| instance.strong_count() != 0);
        instances.make_room(1).map_err(|_| Errno::ENOMEM)?;
        instances.push(Arc::downgrade(&instance));
        Ok(made)
    }

    fn reconfigure(&mut self, root: &Arc<TmpDentry>, flags: SuperFlags, _log: &mut Log) -> Result<(), Errno> {
        types::reconfigure(root, flags)
    }
}

/// The root directory.
struct Root(Context);

impl Directory for Root {
    fn refuses_entries(&self) -> Errno {
        Errno::ENOENT
    }

    fn make(&self, name: &[u8]) -> Result<Made, Errno> {
        match name {
            b"self" => return Made::node(SelfLink { instance: Arc::clone(&self.0.instance), thread: false }),
            b"thread-self" => {
                return Made::node(SelfLink { instance: Arc::clone(&self.0.instance), thread: true });
            }
            _ => {}
        }
        match number(name) {
            Some(number) => {
                let pid = self.0.instance.ns.pid(number).ok_or(Errno::ENOENT)?;
                let target = Target::new(&self.0.instance, pid, false)?;
                Made::directory(ProcessDirectory(target))
            }
            None if self.0.instance.subset => Err(Errno::ENOENT),
            None => Fixed::find(system::ENTRIES, &self.0, name),
        }
    }

    fn next(&self, at: u64) -> Option<Listed> {
        if at < PROCESSES {
            let links = ["self", "thread-self"];
            let index = (at - FIRST) as usize;
            if let Some(name) = links.get(index) {
                let name = Name::from_slice(name.as_bytes()).unwrap_or_default();
                return Some(Listed { next: at + 1, kind: abi::DT_LNK, name });
            }
            let listed = Fixed::list(system::ENTRIES, at - links.len() as u64);
            if let Some(listed) = listed.filter(|_| !self.0.instance.subset) {
                return Some(Listed { next: at + 1, ..listed });
            }
        }
        let from = at.saturating_sub(PROCESSES) as u32;
        let (number, _) = self.0.instance.ns.next_process(from)?;
        let mut name = Name::new();
        let _ = core::fmt::write(&mut name, format_args!("{number}")); // It fits.
        Some(Listed { next: PROCESSES + u64::from(number) + 1, kind: abi::DT_DIR, name })
    }
}

/// A number without leading zeroes.
fn number(name: &[u8]) -> Option<u32> {
    let plain = name.first().is_some_and(|first| *first != b'0') && name.iter().all(u8::is_ascii_digit);
    if plain { core::str::from_utf8(name).ok()?.parse().ok() } else { None }
}

/// `self` and `thread-self`: a symbolic link that says something else to everybody.
struct SelfLink {
    instance: Arc<Instance>,
    thread: bool,
}

/// The text of all numbers that processes can have.
static NUMBERS: [[u8; DIGITS]; task::pid::PID_MAX as usize] = numbers();
const DIGITS: usize = 5;

const fn numbers() -> [[u8; DIGITS]; task::pid::PID_MAX as usize] {
    let mut all = [[0; DIGITS]; task::pid::PID_MAX as usize];
    let mut number = 0;
    while number < all.len() {
        let (mut at, mut rest) = (DIGITS, number);
        while at > 0 {
            at -= 1;
            all[number][at] = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        number += 1;
    }
    all
}

/// A number's text.
fn digits(number: u32) -> &'static [u8] {
    let Some(all) = NUMBERS.get(number as usize) else { return b"0" };
    let zeroes = all.iter().take(DIGITS - 1).take_while(|digit| **digit == b'0').count();
    &all[zeroes..]
}

impl SelfLink {
    /// The numbers of the calling task's process and of itself, as the instance's namespace has them; 0: none.
    fn numbers(&self) -> (u32, u32) {
        let numbers = task::with_current(|thread| {
            let ns = &self.instance.ns;
            (thread.process().pid_in(ns).unwrap_or(0), thread.tid_in(ns).unwrap_or(0))
        });
        numbers.unwrap_or((0, 0))
    }
}

impl Handle for SelfLink {
    fn mode(&self) -> u32 {
        mode::SYMLINK | 0o777
    }

    /// A thread has a directory by its own number too, so that is where `thread-self` leads.
    fn symlink(&self) -> Option<&[u8]> {
        let (process, thread) = self.numbers();
        Some(digits(if self.thread { thread } else { process }))
    }
}

impl Node for SelfLink {
    fn readlink(&self) -> Option<Result<Vec<u8>, Errno>> {
        let text = match self.numbers() {
            (0, _) | (_, 0) => return Some(Err(Errno::ENOENT)),
            (process, thread) if self.thread => alloc::format!("{process}/task/{thread}"),
            (process, _) => alloc::format!("{process}"),
        };
        Some(Ok(text.into_bytes()))
    }
}
