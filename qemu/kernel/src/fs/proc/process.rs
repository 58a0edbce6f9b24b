//! What the directory of a process has, and that of a thread in its `task`.

use alloc::sync::Arc;
use alloc::vec::Vec;

use linux_raw_sys::general as abi;
use mnt_table::PathRef;
use syscalls::Errno;
use syscalls::file::Object;
use syscalls::mounts_file::Format;
use tmpfs::{Handle, TmpDentry, mode};

use super::directory::{Directory, FIRST, Listed, Made, Name, Text, open_text};
use super::{Instance, fds, id_map, links, memory, status, time_offsets};
use crate::fs::file::OpenFile;
use crate::fs::mounts_file;
use crate::fs::node::{Node, Opened};
use crate::task::creds::As;
use crate::task::{self, Pid, Process, Thread};

/// A process or a thread, as an instance shows it.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) instance: Arc<Instance>,
    pub(super) pid: Arc<Pid>,
    /// Seen in a directory `task`: a thread, not its process.
    pub(super) is_task: bool,
}

impl Target {
    /// What goes by `pid`.
    ///
    /// # Errors
    /// `ENOENT`: nothing does.
    pub(super) fn new(instance: &Arc<Instance>, pid: Arc<Pid>, is_task: bool) -> Result<Target, Errno> {
        let target = Target { instance: Arc::clone(instance), pid, is_task };
        if target.is_gone() { Err(Errno::ENOENT) } else { Ok(target) }
    }

    /// Whether nothing goes by the number any more. Context: may be pinned; drops nothing.
    pub(super) fn is_gone(&self) -> bool {
        !self.pid.is_somebody(self.is_task)
    }

    /// The process.
    ///
    /// # Errors
    /// `ESRCH`: it is gone.
    pub(super) fn process(&self) -> Result<Arc<Process>, Errno> {
        let of_thread = || self.pid.thread().map(|thread| Arc::clone(thread.process()));
        self.pid.process().or_else(of_thread).ok_or(Errno::ESRCH)
    }

    /// The thread, or one of the process's if it is that whole process's directory.
    ///
    /// # Errors
    /// `ESRCH`: it is gone, or has ended.
    pub(super) fn thread(&self) -> Result<Arc<Thread>, Errno> {
        let own = self.pid.thread().filter(|thread| !thread.is_exiting());
        let of_process = || self.pid.process().filter(|_| !self.is_task)?.leader();
        own.or_else(of_process).ok_or(Errno::ESRCH)
    }

    /// Its number as the instance's namespace has it.
    pub(super) fn number(&self) -> u32 {
        self.pid.number_in(&self.instance.ns).unwrap_or(0)
    }

    /// Owner and group of its files: its effective ones, unless it is not to be looked into.
    fn owner(&self, of_directory: bool) -> Option<(u32, u32)> {
        // Not by way of handles that this could be the last to drop: see `Pid::owner_of_files`.
        self.pid.owner_of_files(of_directory)
    }

    /// Whether the calling task may look into it, as for ptrace(2) reading.
    ///
    /// # Errors
    /// `EACCES`; `ESRCH`: it has ended.
    pub(super) fn may_inspect(&self) -> Result<(), Errno> {
        let own = task::current();
        let may = match self.thread() {
            Ok(thread) => own.may_inspect(&thread, As::Files),
            // There is no memory any more that could be secret.
            Err(gone) => {
                own.may_inspect_as(&*self.process()?.last_credentials().ok_or(gone)?, true, As::Files)
            }
        };
        if may { Ok(()) } else { Err(Errno::EACCES) }
    }
}

/// What an entry is.
enum What {
    /// A file that anybody may read; permissions, and the text.
    Text(u32, fn(&Target, &mut Vec<u8>) -> Result<(), Errno>),
    /// A file for those who may look into the process.
    Private(u32, fn(&Target, &mut Vec<u8>) -> Result<(), Errno>),
    /// A file that can be written.
    Writable(
        u32,
        fn(&Target, &mut Vec<u8>) -> Result<(), Errno>,
        fn(&Target, &OpenFile, &[u8]) -> Result<(), Errno>,
    ),
    Mounts(Format),
    Memory,
    Link(links::Place),
    Fds,
    FdInfo,
    Namespaces,
    Tasks,
}

struct Entry {
    name: &'static str,
    /// In which of the two kinds of directories.
    of: Of,
    what: What,
}

/// Directories that an entry is in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Of {
    Both,
    Process,
    Thread,
}

const fn entry(name: &'static str, what: What) -> Entry {
    Entry { name, of: Of::Both, what }
}

static ENTRIES: &[Entry] = &[
    entry("auxv", What::Private(0o400, memory::auxv)),
    entry("cgroup", What::Text(0o444, status::cgroup)),
    Entry { name: "children", of: Of::Thread, what: What::Text(0o444, status::children) },
    entry("cmdline", What::Text(0o444, memory::cmdline)),
    entry("comm", What::Writable(0o644, status::comm, status::set_comm)),
    entry("cwd", What::Link(links::Place::Cwd)),
    entry("environ", What::Private(0o400, memory::environ)),
    entry("exe", What::Link(links::Place::Exe)),
    entry("fd", What::Fds),
    entry("fdinfo", What::FdInfo),
    entry("gid_map", What::Writable(0o644, id_map::gids, id_map::set_gids)),
    entry("limits", What::Text(0o444, status::limits)),
    entry("loginuid", What::Writable(0o644, status::no_id, status::set_no_id)),
    entry("maps", What::Private(0o444, memory::maps)),
    entry("mem", What::Memory),
    entry("mountinfo", What::Mounts(Format::Mountinfo)),
    entry("mounts", What::Mounts(Format::Mounts)),
    Entry { name: "mountstats", of: Of::Process, what: What::Mounts(Format::Mountstats) },
    entry("ns", What::Namespaces),
    entry("oom_score", What::Text(0o444, status::oom_score)),
    entry("oom_score_adj", What::Writable(0o644, status::oom_score_adj, status::set_oom_score_adj)),
    entry("personality", What::Private(0o400, status::personality)),
    entry("root", What::Link(links::Place::Root)),
    entry("sessionid", What::Text(0o444, status::no_id)),
    entry("setgroups", What::Writable(0o644, id_map::setgroups, id_map::set_setgroups)),
    entry("smaps", What::Private(0o444, memory::smaps)),
    entry("smaps_rollup", What::Private(0o444, memory::smaps_rollup)),
    entry("stat", What::Text(0o444, status::stat)),
    entry("statm", What::Text(0o444, memory::statm)),
    entry("status", What::Text(0o444, status::status)),
    Entry { name: "task", of: Of::Process, what: What::Tasks },
    entry("timens_offsets", What::Writable(0o644, time_offsets::show, time_offsets::set)),
    entry("uid_map", What::Writable(0o644, id_map::uids, id_map::set_uids)),
    entry("wchan", What::Text(0o444, status::wchan)),
];

/// The directory of a process or a thread.
pub(super) struct ProcessDirectory(pub(super) Target);

impl ProcessDirectory {
    fn shows(&self, entry: &Entry) -> bool {
        match entry.of {
            Of::Both => true,
            Of::Process => !self.0.is_task,
            Of::Thread => self.0.is_task,
        }
    }
}

impl Directory for ProcessDirectory {
    fn refuses_entries(&self) -> Errno {
        Errno::ENOENT
    }

    fn owner(&self) -> Option<(u32, u32)> {
        self.0.owner(true)
    }

    fn is_stale(&self) -> bool {
        self.0.is_gone()
    }

    fn make(&self, name: &[u8]) -> Result<Made, Errno> {
        if self.0.is_gone() {
            return Err(Errno::ENOENT);
        }
        let found = ENTRIES.iter().find(|entry| entry.name.as_bytes() == name && self.shows(entry));
        let entry = found.ok_or(Errno::ENOENT)?;
        let target = self.0.clone();
        match &entry.what {
            What::Link(place) => Made::node(links::Link { target, place: *place }),
            What::Fds => Made::directory(fds::Fds { target, info: false }),
            What::FdInfo => Made::directory(fds::Fds { target, info: true }),
            What::Namespaces => Made::directory(links::Namespaces(target)),
            What::Tasks => Made::directory(Tasks(target)),
            _ => Made::node(File { target, entry }),
        }
    }

    fn next(&self, at: u64) -> Option<Listed> {
        if self.0.is_gone() {
            return None;
        }
        let shown = ENTRIES.iter().enumerate().skip((at - FIRST) as usize);
        let (index, entry) = shown.into_iter().find(|(_, entry)| self.shows(entry))?;
        let kind = match entry.what {
            What::Link(_) => abi::DT_LNK,
            What::Fds | What::FdInfo | What::Namespaces | What::Tasks => abi::DT_DIR,
            _ => abi::DT_REG,
        };
        let name = Name::from_slice(entry.name.as_bytes()).unwrap_or_default();
        Some(Listed { next: FIRST + index as u64 + 1, kind, name })
    }
}

/// A file of a process.
#[derive(Clone)]
struct File {
    target: Target,
    entry: &'static Entry,
}

impl Handle for File {
    fn mode(&self) -> u32 {
        let permissions = match self.entry.what {
            What::Text(permissions, _) | What::Private(permissions, _) => permissions,
            What::Writable(permissions, ..) => permissions,
            What::Mounts(Format::Mountstats) => 0o400,
            What::Memory => 0o600,
            _ => 0o444,
        };
        mode::FILE | permissions
    }

    fn owner(&self) -> Option<(u32, u32)> {
        self.target.owner(false)
    }

    fn is_stale(&self) -> bool {
        self.target.is_gone()
    }
}

impl Node for File {
    fn takes_permissions(&self) -> bool {
        false
    }

    fn open(&self, _at: &PathRef<TmpDentry>, flags: u32) -> Result<Opened, Errno> {
        match &self.entry.what {
            What::Mounts(format) => {
                if *format == Format::Mountstats {
                    self.target.may_inspect()?;
                }
                let thread = self.target.thread().map_err(|_| Errno::EINVAL)?;
                Ok(Opened { ops: mounts_file::open(&thread, *format)?, object: Object::Plain })
            }
            What::Memory => {
                self.target.may_inspect()?;
                memory::open(&self.target)
            }
            _ => open_text(self.clone(), flags),
        }
    }
}

impl Text for File {
    fn read(&self, out: &mut Vec<u8>) -> Result<(), Errno> {
        match &self.entry.what {
            What::Text(_, read) | What::Writable(_, read, _) => read(&self.target, out),
            What::Private(_, read) => {
                self.target.may_inspect()?;
                read(&self.target, out)
            }
            _ => Ok(()),
        }
    }

    fn write(&self, file: &OpenFile, bytes: &[u8]) -> Result<(), Errno> {
        match &self.entry.what {
            What::Writable(_, _, write) => write(&self.target, file, bytes),
            _ => Err(Errno::EIO),
        }
    }

    fn may_open(&self, flags: u32) -> Result<(), Errno> {
        let writes = flags & abi::O_ACCMODE != abi::O_RDONLY;
        match &self.entry.what {
            What::Private(..) => self.target.may_inspect(),
            What::Writable(..) if self.entry.name == "setgroups" && writes => {
                id_map::may_set_setgroups(&self.target)
            }
            _ => Ok(()),
        }
    }
}

/// The directory `task`.
struct Tasks(Target);

impl Directory for Tasks {
    fn refuses_entries(&self) -> Errno {
        Errno::ENOENT
    }

    fn owner(&self) -> Option<(u32, u32)> {
        self.0.owner(true)
    }

    fn is_stale(&self) -> bool {
        self.0.is_gone()
    }

    fn make(&self, name: &[u8]) -> Result<Made, Errno> {
        let number = super::number(name).ok_or(Errno::ENOENT)?;
        let process = self.0.process().map_err(|_| Errno::ENOENT)?;
        let pid = self.0.instance.ns.pid(number).ok_or(Errno::ENOENT)?;
        let thread = pid.thread().filter(|thread| Arc::ptr_eq(thread.process(), &process));
        thread.ok_or(Errno::ENOENT)?;
        Made::directory(ProcessDirectory(Target::new(&self.0.instance, pid, true)?))
    }

    fn next(&self, at: u64) -> Option<Listed> {
        let from = (at - FIRST) as u32;
        let process = self.0.process().ok()?;
        let numbers = process.threads().into_iter().filter_map(|thread| thread.tid_in(&self.0.instance.ns));
        let number = numbers.filter(|number| *number >= from).min()?;
        let mut name = Name::new();
        let _ = core::fmt::write(&mut name, format_args!("{number}")); // It fits.
        Some(Listed { next: FIRST + u64::from(number) + 1, kind: abi::DT_DIR, name })
    }
}
