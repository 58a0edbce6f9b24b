//! A forest: the mount namespaces of one machine at one moment, each a list of mountinfo records.
//!
//! [`Namespace::read`] reads the text of one mountinfo file, [`Forest::new`] checks that the namespaces together can
//! have existed, [`Forest::plan`] says how to build them. The runner hands a forest to the kernel as an image
//! ([`Forest::to_image`], [`Forest::from_image`]).
//!
//! # Invariants
//! - `[Line]` Record `i` of a namespace is line `first_line + i` of its file, so every error can name its line.
//! - `[Order]` Records stay in the order of the lines, which is the order in which the mounts were created.
//! - `[Plain]` Options carry no unknown word and no deviating order, so what the kernel prints can match exactly.
//! - `[Checked]` A `Forest` exists only if every rule in `check` holds.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use syscalls::mountinfo::MountInfo;

mod check;
mod image;
mod plan;
mod reuse;
#[cfg(test)]
mod tests;

pub use plan::{Group, MountPlan, NamespacePlan, Parent, Place, Plan, Root, Superblock};

/// Mounts that one namespace can hold, its hidden root included: the default of `fs.mount-max`.
pub const MOUNTS_MAX: usize = 100_000;

/// Why a forest does not load: a place in a file, and the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadError {
    /// The file as the user knows it.
    pub file: String,
    /// The line in it, from 1.
    pub line: usize,
    /// What is wrong there.
    pub reason: String,
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.reason)
    }
}

impl core::error::Error for LoadError {}

/// One mount namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// A word that names it in the forest.
    pub name: String,
    /// Where the records come from.
    pub file: String,
    /// Line of the first record in that file.
    pub first_line: usize,
    /// The records, in the order of the lines.
    pub mounts: Vec<MountInfo>,
    /// What was set right while reading, as lines for the user.
    pub notices: Vec<String>,
}

impl Namespace {
    /// Reads the text of a mountinfo file.
    ///
    /// # Errors
    /// The first line that is not one of mountinfo, or that has an option unknown here; a file without lines.
    pub fn read(name: &str, file: &str, text: &[u8]) -> Result<Self, LoadError> {
        let mut namespace = Self::empty(name, file, 1);
        if !text.is_empty() {
            let text = text.strip_suffix(b"\n").unwrap_or(text);
            text.split(|&byte| byte == b'\n').try_for_each(|line| namespace.push(line))?;
        }
        if namespace.mounts.is_empty() {
            return Err(namespace.error(0, "no mounts"));
        }
        reuse::separate_reused_ids(&mut namespace);
        Ok(namespace)
    }

    /// A namespace to [`push`](Self::push) lines to.
    pub fn empty(name: &str, file: &str, first_line: usize) -> Self {
        let (mounts, notices) = (Vec::new(), Vec::new());
        Self { name: name.to_string(), file: file.to_string(), first_line, mounts, notices }
    }

    /// Reads one more line.
    ///
    /// # Errors
    /// The line is not one of mountinfo, or has an option unknown here.
    pub fn push(&mut self, line: &[u8]) -> Result<(), LoadError> {
        let index = self.mounts.len();
        let mut record = MountInfo::parse(line).map_err(|error| self.error(index, error))?;
        if let Some(word) = record.options.unknown.first() {
            let word = word.escape_ascii();
            return Err(self.error(index, format_args!("mount options: this kernel has no `{word}`")));
        }
        record.options.canonicalize();
        self.mounts.push(record);
        Ok(())
    }

    /// An error at the line of record `index`.
    fn error(&self, index: usize, reason: impl fmt::Display) -> LoadError {
        LoadError { file: self.file.clone(), line: self.first_line + index, reason: reason.to_string() }
    }
}

/// Several namespaces that can have existed together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forest {
    namespaces: Vec<Namespace>,
}

impl Forest {
    /// Checks the namespaces one by one and together.
    ///
    /// # Errors
    /// The first rule that is broken; see `check`.
    pub fn new(namespaces: Vec<Namespace>) -> Result<Self, LoadError> {
        check::namespaces(&namespaces)?;
        Ok(Self { namespaces })
    }

    /// The namespaces, in the order given.
    pub fn namespaces(&self) -> &[Namespace] {
        &self.namespaces
    }

    /// Mounts in all namespaces.
    pub fn mounts(&self) -> usize {
        self.namespaces.iter().map(|namespace| namespace.mounts.len()).sum()
    }

    /// How to build the forest.
    pub fn plan(&self) -> Plan {
        plan::plan(&self.namespaces)
    }
}

/// The part of `path` below `ancestor`, beginning with a slash; `/` if they are equal, `None` if it is elsewhere.
fn below<'a>(path: &'a [u8], ancestor: &[u8]) -> Option<&'a [u8]> {
    if ancestor == b"/" {
        return Some(path);
    }
    match path.strip_prefix(ancestor)? {
        [] => Some(b"/"),
        rest @ [b'/', ..] => Some(rest),
        _ => None,
    }
}
