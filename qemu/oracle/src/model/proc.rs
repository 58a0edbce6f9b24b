//! What proc file systems show: a directory per task with its links to files and namespaces, kept up to date as tasks open
//! and close files.

use std::any::Any;
use std::sync::{Arc, Mutex, Weak};

use mnt_table::walk::WalkError;
use mnt_table::{Dentry, PathRef, pin};
use syscalls::credentials::Capabilities;
use syscalls::mounts_file::Format;
use syscalls::{Credentials, Errno, Task};
use tmpfs::{Handle, TmpDentry};

use super::nsfs::{NamespaceFile, Nsfs};
use super::open::Open;

/// A task as proc shows it.
pub(super) struct Process {
    pub(super) pid: i32,
    pub(super) task: Weak<Task<TmpDentry>>,
    /// The open files by their numbers.
    fds: Vec<(i32, Weak<Open>)>,
}

/// Who calls now.
type Caller = Arc<Mutex<Weak<Task<TmpDentry>>>>;

/// Whether a task with credentials `own` may look at what is a task's with `others`.
pub(super) fn may_inspect(own: &Credentials, others: &Credentials) -> bool {
    own.user_ns == others.user_ns && own.effective.contains(others.effective)
        || own.capable(&others.user_ns, Capabilities::SYS_PTRACE)
}

/// All tasks, and the instances of proc that show them.
#[derive(Default)]
pub(super) struct Processes(Mutex<Known>);

#[derive(Default)]
struct Known {
    processes: Vec<Process>,
    current: i32,
    caller: Caller,
    roots: Vec<Weak<TmpDentry>>,
    nsfs: Option<Arc<Nsfs>>,
}

/// A file whose contents the kernel makes.
#[derive(Clone)]
pub(super) enum ProcFile {
    /// `mountinfo` and its like, of a task.
    Mounts(Weak<Task<TmpDentry>>, Format),
    /// `sys/user/max_mnt_namespaces`, of the task that writes.
    MaxMntNamespaces,
}

impl Handle for ProcFile {}

/// `fd/N`.
struct FdLink(Weak<Open>);

impl Handle for FdLink {
    fn is_link(&self) -> bool {
        true
    }

    fn is_fleeting(&self) -> bool {
        true
    }

    fn follow(&self) -> Option<Result<PathRef<TmpDentry>, WalkError>> {
        let open = self.0.upgrade();
        Some(open.and_then(|open| open.file.path().cloned()).ok_or(WalkError::NotFound))
    }
}

/// `ns/mnt`, `ns/user`, `root`, `cwd`.
struct TaskLink {
    task: Weak<Task<TmpDentry>>,
    caller: Caller,
    nsfs: Arc<Nsfs>,
    to: Target,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Target {
    MountNamespace,
    UserNamespace,
    Root,
    Cwd,
}

impl Handle for TaskLink {
    fn is_link(&self) -> bool {
        true
    }

    fn follow(&self) -> Option<Result<PathRef<TmpDentry>, WalkError>> {
        let caller = self.caller.lock().expect("no panic").upgrade();
        let Some((task, caller)) = self.task.upgrade().zip(caller) else {
            return Some(Err(WalkError::NotFound));
        };
        if !Arc::ptr_eq(&task, &caller) && !may_inspect(&caller.credentials(), &task.credentials()) {
            return Some(Err(WalkError::Denied));
        }
        Some(self.find(&task).ok_or(WalkError::NotFound))
    }
}

impl TaskLink {
    fn find(&self, task: &Task<TmpDentry>) -> Option<PathRef<TmpDentry>> {
        let (mount, dentry) = match self.to {
            Target::MountNamespace => {
                return self.nsfs.path(NamespaceFile::mount_namespace(&task.namespace()));
            }
            Target::UserNamespace => {
                return self.nsfs.path(NamespaceFile::user_namespace(&task.credentials().user_ns));
            }
            Target::Root => task.fs().root(),
            Target::Cwd => task.fs().cwd(),
        };
        let mount = mount.keep(&pin()).ok()?;
        Some(PathRef { mount, dentry })
    }
}

impl Processes {
    /// Where the files of namespaces are. Set once.
    pub(super) fn set_nsfs(&self, nsfs: &Arc<Nsfs>) {
        self.0.lock().expect("no panic").nsfs = Some(Arc::clone(nsfs));
    }

    /// Fills a new instance.
    pub(super) fn fill(&self, root: &Arc<TmpDentry>) -> Result<(), Errno> {
        let mut known = self.0.lock().expect("no panic");
        let no_memory = |_| Errno::ENOMEM;
        let sys = root.mkdir(b"sys").map_err(no_memory)?;
        let user = sys.mkdir(b"user").map_err(no_memory)?;
        let limit = Arc::new(ProcFile::MaxMntNamespaces);
        user.make_handle(b"max_mnt_namespaces", limit).map_err(no_memory)?;
        sys.mkdir(b"fs").and_then(|fs| fs.mkdir(b"binfmt_misc")).map_err(no_memory)?;
        for process in &known.processes {
            known.show(root, process).map_err(no_memory)?;
        }
        let current = known.current.to_string();
        root.make_symlink(b"self", current.as_bytes()).map_err(no_memory)?;
        known.roots.retain(|root| root.strong_count() != 0);
        known.roots.push(Arc::downgrade(root));
        Ok(())
    }

    /// A new task.
    pub(super) fn add(&self, pid: i32, task: &Arc<Task<TmpDentry>>) {
        let mut known = self.0.lock().expect("no panic");
        let process = Process { pid, task: Arc::downgrade(task), fds: Vec::new() };
        for root in known.living() {
            // Short of memory, or an instance that is on its way out: nobody is told of the task there.
            let _ = as_kernel(&root, || known.show(&root, &process));
        }
        known.processes.push(process);
    }

    /// A task that is gone. Its directories stay, with links that lead nowhere.
    pub(super) fn remove(&self, pid: i32) {
        self.0.lock().expect("no panic").processes.retain(|process| process.pid != pid);
    }

    /// Who calls now.
    pub(super) fn set_current(&self, pid: i32, task: &Arc<Task<TmpDentry>>) {
        let mut known = self.0.lock().expect("no panic");
        *known.caller.lock().expect("no panic") = Arc::downgrade(task);
        if std::mem::replace(&mut known.current, pid) == pid {
            return;
        }
        for root in known.living() {
            let _ = as_kernel(&root, || {
                root.unlink(b"self", &task.namespace()).map(drop)?;
                root.make_symlink(b"self", pid.to_string().as_bytes())
            });
        }
    }

    /// `pid` has `open` as `fd` from here on, or nothing any more.
    pub(super) fn set_fd(&self, pid: i32, fd: i32, open: Option<&Arc<Open>>, task: &Task<TmpDentry>) {
        let mut known = self.0.lock().expect("no panic");
        let name = fd.to_string();
        for root in known.living() {
            let Some(directory) = look(&root, &[&pid.to_string(), "fd"]) else { continue };
            let _ = as_kernel(&root, || match open {
                Some(open) => {
                    let link = Arc::new(FdLink(Arc::downgrade(open)));
                    directory.make_handle(name.as_bytes(), link).map(drop)
                }
                None => directory.unlink(name.as_bytes(), &task.namespace()).map(drop),
            });
        }
        let Some(process) = known.processes.iter_mut().find(|process| process.pid == pid) else { return };
        process.fds.retain(|(other, _)| *other != fd);
        process.fds.extend(open.map(|open| (fd, Arc::downgrade(open))));
    }
}

impl Known {
    fn living(&self) -> Vec<Arc<TmpDentry>> {
        let living = self.roots.iter().filter_map(Weak::upgrade);
        living.filter(|root| !root.super_block().is_shut_down()).collect()
    }

    /// Makes the directory of a task.
    fn show(&self, root: &Arc<TmpDentry>, process: &Process) -> Result<(), tmpfs::FsError> {
        let directory = root.mkdir(process.pid.to_string().as_bytes())?;
        let fds = directory.mkdir(b"fd")?;
        for (fd, open) in &process.fds {
            fds.make_handle(fd.to_string().as_bytes(), Arc::new(FdLink(Weak::clone(open))))?;
        }
        let formats = [
            ("mountinfo", Format::Mountinfo),
            ("mounts", Format::Mounts),
            ("mountstats", Format::Mountstats),
        ];
        for (name, format) in formats {
            let file = ProcFile::Mounts(Weak::clone(&process.task), format);
            directory.make_handle(name.as_bytes(), Arc::new(file))?;
        }
        let Some(nsfs) = &self.nsfs else { return Ok(()) };
        let link = |to| {
            let (task, caller) = (Weak::clone(&process.task), Arc::clone(&self.caller));
            Arc::new(TaskLink { task, caller, nsfs: Arc::clone(nsfs), to })
        };
        let namespaces = directory.mkdir(b"ns")?;
        namespaces.make_handle(b"mnt", link(Target::MountNamespace))?;
        namespaces.make_handle(b"user", link(Target::UserNamespace))?;
        directory.make_handle(b"root", link(Target::Root))?;
        directory.make_handle(b"cwd", link(Target::Cwd))?;
        Ok(())
    }
}

/// Lets the kernel change the instance with this root, which may be read-only to everybody else.
pub(super) fn as_kernel<R>(root: &Arc<TmpDentry>, change: impl FnOnce() -> R) -> R {
    let super_block = root.super_block();
    let read_only = super_block.is_read_only();
    let writable = super_block.set_read_only(false);
    let result = change();
    let restored = super_block.set_read_only(read_only);
    assert!(writable && restored, "nobody writes to it, and what has no name does not count there");
    result
}

/// The dentry below `root` at these names.
fn look(root: &Arc<TmpDentry>, names: &[&str]) -> Option<Arc<TmpDentry>> {
    let guard = pin();
    names.iter().try_fold(Arc::clone(root), |at, name| {
        let next = at.lookup(name.as_bytes(), &guard).ok()?;
        Some(Arc::clone(next))
    })
}

/// The kernel's own thing that a dentry stands for, if it is of this type.
pub(super) fn thing<T: Any>(dentry: &TmpDentry) -> Option<&T> {
    let handle: &dyn Any = dentry.handle()?.as_ref();
    handle.downcast_ref()
}
