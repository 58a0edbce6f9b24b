//! The `--tree` option: where the forest comes from.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::Result;
use stress::forest::{Forest, LoadError, Namespace};
use stress::pods;

use crate::{BadInput, host_tree};

/// What `--tree` names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Tree {
    /// The namespaces of this machine.
    Host,
    /// A generated node with this many containers.
    Pods(usize),
    /// A saved mountinfo file, or a folder of them.
    Path(PathBuf),
}

impl FromStr for Tree {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.strip_prefix("pods:")) {
            ("host", _) => Ok(Self::Host),
            (_, Some(count)) => match count.parse() {
                Ok(count @ 1..=pods::PODS_MAX) => Ok(Self::Pods(count)),
                _ => Err(format!("`{count}` is no number of pods from 1 to {}", pods::PODS_MAX)),
            },
            ("", _) => Err("neither host nor pods:N nor a path".to_owned()),
            (path, None) => Ok(Self::Path(path.into())),
        }
    }
}

impl fmt::Display for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("host"),
            Self::Pods(count) => write!(f, "pods:{count}"),
            Self::Path(path) => path.display().fmt(f),
        }
    }
}

impl From<LoadError> for BadInput {
    fn from(error: LoadError) -> Self {
        Self(error.to_string())
    }
}

impl Tree {
    /// Reads and checks the forest, and says what was read.
    ///
    /// # Errors
    /// `BadInput` for whatever is wrong with it.
    pub(crate) fn load(&self) -> Result<Forest> {
        let forest = match self {
            Self::Host => host_tree::read(Path::new("/proc"))?,
            Self::Pods(count) => pods::node(*count),
            Self::Path(path) if path.is_dir() => Forest::new(read_folder(path)?).map_err(BadInput::from)?,
            Self::Path(path) => Forest::new(vec![read_file(path)?]).map_err(BadInput::from)?,
        };
        for namespace in forest.namespaces() {
            namespace.notices.iter().for_each(|notice| println!("note: {notice}"));
        }
        println!("tree {self}: {} namespaces, {} mounts", forest.namespaces().len(), forest.mounts());
        Ok(forest)
    }
}

fn read_file(path: &Path) -> Result<Namespace, BadInput> {
    let text = fs::read(path).map_err(|error| unreadable(path, error))?;
    let file_name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    Ok(Namespace::read(&word(&file_name), &path.display().to_string(), &text)?)
}

/// Reads the files of a folder in the order of their names. What the extension tells to be another kind of file is
/// left out with a note; folders and hidden files are left out.
fn read_folder(folder: &Path) -> Result<Vec<Namespace>, BadInput> {
    let entries = fs::read_dir(folder).and_then(|entries| entries.collect::<Result<Vec<_>, _>>());
    let entries = entries.map_err(|error| unreadable(folder, error))?;
    let mut paths: Vec<_> = entries.iter().map(fs::DirEntry::path).filter(|path| !path.is_dir()).collect();
    paths.sort();
    let mut namespaces = Vec::new();
    for path in paths {
        match path.extension().map(|extension| extension.to_string_lossy()) {
            _ if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.')) => {}
            Some(extension) if !matches!(&*extension, "mountinfo" | "txt") => {
                println!("note: {} is left out: neither .mountinfo nor .txt", path.display());
            }
            _ => namespaces.push(read_file(&path)?),
        }
    }
    if namespaces.is_empty() {
        return Err(BadInput(format!("{}: no mountinfo files in this folder", folder.display())));
    }
    Ok(namespaces)
}

fn unreadable(path: &Path, error: std::io::Error) -> BadInput {
    BadInput(format!("{}: cannot be read: {error}", path.display()))
}

/// `text` as one word, as the name of a namespace must be.
pub(crate) fn word(text: &str) -> String {
    text.chars().map(|c| if c.is_whitespace() || c.is_control() { '_' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "1 0 0:1 / / rw - tmpfs t rw\n";

    fn error(tree: &str) -> String {
        let error = tree.parse::<Tree>().unwrap().load().unwrap_err();
        assert!(error.is::<BadInput>());
        error.to_string()
    }

    #[test]
    fn the_option_names_a_kind_of_tree() {
        for text in ["host", "pods:7", "./x", "/a/b"] {
            assert_eq!(text.parse::<Tree>().unwrap().to_string(), text);
        }
        for text in ["", "pods:", "pods:0", "pods:-1", "pods:4001", "pods:1x"] {
            assert!(text.parse::<Tree>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_folder_gives_one_namespace_per_mountinfo_file() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.mountinfo", "a b.txt", "c", "README.md", ".hidden"] {
            fs::write(folder.path().join(name), LINE).unwrap();
        }
        fs::create_dir(folder.path().join("sub")).unwrap();
        let forest = Tree::Path(folder.path().into()).load().unwrap();
        let names: Vec<_> = forest.namespaces().iter().map(|namespace| &*namespace.name).collect();
        assert_eq!(names, ["a_b.txt", "b.mountinfo", "c"]);
    }

    #[test]
    fn mistakes_name_the_file_and_the_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bad.txt");
        let name = path.display().to_string();
        assert_eq!(error(&name), format!("{name}: cannot be read: No such file or directory (os error 2)"));
        fs::write(&path, format!("{LINE}2 1 0:2 / /a rw tmpfs t rw\n")).unwrap();
        assert_eq!(error(&name), format!("{name}:2: optional fields: unknown tag: `tmpfs`"));
        fs::write(&path, "").unwrap();
        assert_eq!(error(&name), format!("{name}:1: no mounts"));
        let empty = tempfile::tempdir().unwrap();
        let name = empty.path().display().to_string();
        assert_eq!(error(&name), format!("{name}: no mountinfo files in this folder"));
    }
}
