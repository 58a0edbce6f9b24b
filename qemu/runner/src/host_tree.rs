//! The mount namespaces of this machine, from every process's `/proc/PID/mountinfo`.
//!
//! 1. Group the processes by the namespace that `ns/mnt` names, and within it by their root directory: processes
//!    with one namespace and one root see the same list.
//! 2. Of each namespace take the longest list, the one with the widest view.
//! 3. Read again until two passes agree: the files are read one after the other, and a change in between would
//!    show a peer group in one and not in the other.
//!
//! Processes come and go meanwhile; one that has gone is left out. So is one that may not be looked at, with a note.
//! Threads with a namespace of their own are not looked for.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use stress::forest::{Forest, Namespace};

use crate::{BadInput, install, tree};

/// Passes before a machine that does not hold still is taken as it is.
const PASSES_MAX: usize = 10;

/// Reads the machine whose process file system is at `proc`.
pub(crate) fn read(proc: &Path) -> Result<Forest> {
    let mut last = Pass::read(proc)?;
    for _ in 1..PASSES_MAX {
        let next = Pass::read(proc)?;
        let is_stable = next.lists == last.lists;
        last = next;
        if is_stable {
            break;
        }
    }
    if last.denied > 0 {
        let way_out = if install::is_root() { "" } else { "; root sees all namespaces" };
        println!("note: {} processes may not be looked at{way_out}", last.denied);
    }
    if last.lists.is_empty() {
        return Err(BadInput(format!("{}: no process shows any mount", proc.display())).into());
    }
    let namespaces: Result<Vec<_>, _> = last.lists.iter().map(List::parse).collect();
    Ok(Forest::new(namespaces.map_err(BadInput::from)?).map_err(BadInput::from)?)
}

/// What one reading of all processes gave.
struct Pass {
    /// By lowest process id, so that the first is the namespace of the machine's first process.
    lists: Vec<List>,
    /// Processes that may not be looked at.
    denied: usize,
}

/// One namespace as one process sees it.
#[derive(PartialEq, Eq)]
struct List {
    name: String,
    file: PathBuf,
    text: Vec<u8>,
}

impl List {
    fn parse(&self) -> Result<Namespace, stress::forest::LoadError> {
        Namespace::read(&self.name, &self.file.display().to_string(), &self.text)
    }
}

impl Pass {
    fn read(proc: &Path) -> Result<Self> {
        let entries = fs::read_dir(proc).with_context(|| format!("cannot read {}", proc.display()))?;
        let mut processes: Vec<u32> =
            entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
        processes.sort_unstable();
        let mut denied = 0;
        // Views by namespace, each with the processes that have it.
        let mut namespaces: BTreeMap<PathBuf, BTreeMap<PathBuf, Vec<u32>>> = BTreeMap::new();
        for process in processes {
            let folder = proc.join(process.to_string());
            match (fs::read_link(folder.join("ns/mnt")), fs::read_link(folder.join("root"))) {
                (Ok(namespace), Ok(root)) => {
                    namespaces.entry(namespace).or_default().entry(root).or_default().push(process);
                }
                (Err(error), _) | (_, Err(error)) => {
                    denied += usize::from(error.kind() == ErrorKind::PermissionDenied);
                }
            }
        }
        let mut lists = Vec::new();
        for (namespace, views) in namespaces {
            let views = views.values().filter_map(|processes| {
                processes.iter().find_map(|&process| Some((process, mountinfo(proc, process)?)))
            });
            // The widest view, and of equal ones that of the oldest process.
            let lines = |text: &[u8]| text.iter().filter(|&&byte| byte == b'\n').count();
            let widest = views.max_by_key(|(process, text)| (lines(text), std::cmp::Reverse(*process)));
            if let Some((process, text)) = widest {
                let folder = proc.join(process.to_string());
                let program = fs::read_to_string(folder.join("comm")).unwrap_or_default();
                let name = format!("{}/{}", namespace.display(), program.trim_end());
                lists.push((process, List { name: tree::word(&name), file: folder.join("mountinfo"), text }));
            }
        }
        lists.sort_by_key(|(process, _)| *process);
        Ok(Self { lists: lists.into_iter().map(|(_, list)| list).collect(), denied })
    }
}

/// The list of one process, unless it has gone (a zombie's gives an error) or sees no mount at all.
fn mountinfo(proc: &Path, process: u32) -> Option<Vec<u8>> {
    fs::read(proc.join(process.to_string()).join("mountinfo")).ok().filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn process(proc: &Path, id: &str, namespace: &str, root: &str, comm: &str, mountinfo: &str) {
        let folder = proc.join(id);
        fs::create_dir_all(folder.join("ns")).unwrap();
        symlink(namespace, folder.join("ns/mnt")).unwrap();
        symlink(root, folder.join("root")).unwrap();
        fs::write(folder.join("comm"), format!("{comm}\n")).unwrap();
        fs::write(folder.join("mountinfo"), mountinfo).unwrap();
    }

    const HOST: &str = "20 1 0:1 / / rw shared:1 - tmpfs t rw\n21 20 0:2 / /a rw shared:2 - tmpfs t rw\n";
    const CHROOT: &str = "21 20 0:2 / / rw shared:2 - tmpfs t rw\n";
    const POD: &str = "30 9 0:1 / / rw master:1 - tmpfs t rw\n";

    #[test]
    fn each_namespace_is_listed_once_by_its_widest_view() {
        let proc = tempfile::tempdir().unwrap();
        let proc = proc.path();
        process(proc, "100", "mnt:[1]", "/", "a shell", HOST);
        process(proc, "7", "mnt:[1]", "/a", "jailed", CHROOT);
        process(proc, "101", "mnt:[1]", "/", "sleep", HOST);
        process(proc, "8", "mnt:[2]", "/", "pause", POD);
        process(proc, "9", "mnt:[3]", "/", "empty", "");
        fs::create_dir(proc.join("12")).unwrap(); // gone before its links were read
        fs::write(proc.join("uptime"), "1").unwrap();
        let forest = read(proc).unwrap();
        let names: Vec<_> = forest.namespaces().iter().map(|namespace| &*namespace.name).collect();
        assert_eq!(names, ["mnt:[2]/pause", "mnt:[1]/a_shell"]);
        assert_eq!(forest.mounts(), 3);
        assert_eq!(forest.namespaces()[1].file, proc.join("100/mountinfo").display().to_string());
    }

    #[test]
    fn a_line_that_cannot_be_loaded_names_its_process() {
        let proc = tempfile::tempdir().unwrap();
        process(proc.path(), "5", "mnt:[1]", "/", "x", "1 0 0:1 / / rw\n");
        let error = read(proc.path()).err().unwrap();
        assert!(error.is::<BadInput>());
        let file = proc.path().join("5/mountinfo");
        assert_eq!(error.to_string(), format!("{}:1: separator ` - `: missing", file.display()));
    }

    #[test]
    fn a_machine_without_processes_is_bad_input() {
        let proc = tempfile::tempdir().unwrap();
        assert!(read(proc.path()).err().unwrap().is::<BadInput>());
    }

    #[test]
    fn this_machine_can_be_read() {
        let forest = read(Path::new("/proc")).unwrap();
        assert!(forest.mounts() > 0);
    }
}
