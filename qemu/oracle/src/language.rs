//! The language of programs: an operation of a task is a line of text, and lowers to a raw system call.
//!
//! ```text
//! t0$ mount -t tmpfs none /a
//! t0$ @tree = open_tree --clone --recursive /a
//! t1$ move_mount --beneath @tree: /b                 => EINVAL
//! ```
//!
//! 1. A line is cut into words (`words`). Quotes keep blanks in a word; `NULL` and `BAD` without quotes are pointers.
//! 2. The first word, behind an optional name for the result, is the verb; it says which system call it is and what the
//!    other words become (`verbs`). Most verbs are those of a shell or the names of the calls; `raw` takes any call with
//!    any arguments.
//! 3. What is not known before a program runs stays a symbol in the lowered call ([`Value`]): a descriptor that got a name,
//!    a number that did, the pid of a task, the id of the mount at a path. [`crate::session`] puts them in, one way for all
//!    machines.
//!
//! # Words
//! | word | what |
//! |---|---|
//! | `/a`, `x`, `".. "` | a path, from the root or the working directory |
//! | `@t:x` | a path from what descriptor `@t` refers to; `@t:` is that itself |
//! | `/p/self/fd/{@t}`, `{t1}` | in a path: the number of a descriptor, the pid of a task |
//! | `@proc:self/ns/mnt` | `@proc` is a descriptor of a proc file system that every task has |
//! | `%n` | a number that got this name |
//! | `@t = `, `%n = ` | names the descriptor, or the number, that the call returns |
//!
//! # New file systems
//! `mount -t tmpfs` that succeeds is followed by mkdir(2) of the fixed directories ([`crate::DIRECTORIES`]) below the same
//! path, whose answers nobody looks at; so is `populate`, which is that alone.

use std::fmt;
use std::str::FromStr;

use crate::raw;

pub mod flags;
mod verbs;
mod words;

pub(crate) use verbs::{
    STATFS_FLAGS, STATMOUNT_SIZE, STATX_ATTRIBUTES, STATX_MNT_ID, STATX_MODE, request, statx,
};

/// A number that may depend on how the program ran.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// The number.
    Int(u64),
    /// The descriptor with this name.
    Fd(String),
    /// The number with this name.
    Number(String),
    /// The pid of a task.
    Pid(usize),
    /// The unique id of the mount at this place.
    MountAt(Box<Place>),
}

/// A piece of a string.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// These bytes.
    Text(Vec<u8>),
    /// A number, in decimal.
    Number(Value),
}

/// An argument of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arg {
    /// As it is.
    Raw(raw::Arg),
    /// The register.
    Value(Value),
    /// The address of a string; a NUL follows.
    Text(Vec<Piece>),
    /// The address of numbers, each so many bytes long.
    Struct(Vec<(u8, Value)>),
}

impl Arg {
    /// A null pointer, or zero.
    pub const ZERO: Arg = Arg::Raw(raw::Arg::Int(0));

    /// A number.
    pub fn int(number: impl Into<u64>) -> Self {
        Arg::Raw(raw::Arg::Int(number.into()))
    }

    /// A string without anything symbolic.
    pub fn text(text: impl Into<Vec<u8>>) -> Self {
        Arg::Text(vec![Piece::Text(text.into())])
    }
}

/// A directory and a path from it, as the `*at` calls take it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The directory.
    pub directory: Value,
    /// The path.
    pub path: Arg,
    /// Whether the directory itself is meant: the path is empty.
    pub is_empty: bool,
}

/// What becomes of what a call returned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bind {
    /// The result is a descriptor with this name.
    Fd(String),
    /// So many bytes of the first output, at this offset, are a number with this name.
    Number(String, usize, usize),
}

/// How an answer that is no error reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Show {
    /// As success.
    Nothing,
    /// The result in decimal.
    Number,
    /// The result in hexadecimal.
    Bits,
    /// The string in the first output.
    Path,
    /// As many bytes of the first output as the result says.
    Bytes,
    /// What poll(2) found.
    Poll,
    /// A `mnt_ns_info`.
    NsInfo,
    /// What a `statx` says of kind and mount.
    Stat,
    /// The flags of a `statfs`.
    StatFs,
    /// A `statmount`.
    StatMount,
    /// Where the listed mounts are, in the namespace with this descriptor and this id.
    Mounts(Value, Value),
}

/// What follows a call that succeeded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Then {
    /// Nothing.
    Nothing,
    /// These, whose answers nobody looks at.
    Calls(Vec<Call>),
    /// The maps of a new user namespace.
    MapRoot,
}

/// A system call with symbols in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Its number.
    pub nr: u32,
    /// Its arguments.
    pub args: [Arg; 6],
    /// What gets a name.
    pub bind: Option<Bind>,
    /// What the answer reads.
    pub show: Show,
    /// What follows.
    pub then: Then,
}

/// What a line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// One system call.
    Call(Box<Call>),
    /// Several, whose answers nobody looks at.
    Calls(Vec<Call>),
    /// Another task, by clone(2).
    Clone {
        /// Its number.
        child: usize,
        /// The flags of clone(2).
        flags: u64,
        /// Whether the maps of a new user namespace are written.
        map_root: bool,
    },
    /// The task ends.
    Exit,
    /// The names in a directory.
    List(Place),
    /// The lines of an open file, from its start.
    Lines(Value, Column),
    /// Capabilities that the task has no more.
    DropCapabilities(u64),
}

/// What is shown of lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Column {
    /// All.
    Whole,
    /// The fifth word: the mountpoint in mountinfo.
    Mountpoint,
}

/// An operation and who makes it.
#[derive(Clone, PartialEq, Eq)]
pub struct Step {
    /// The task.
    pub task: usize,
    text: String,
    /// What it lowers to.
    pub op: Op,
}

impl Step {
    /// Reads the operation `text` of `task`.
    ///
    /// # Errors
    /// What is not understood.
    pub fn new(task: usize, text: &str) -> Result<Self, String> {
        let op = verbs::lower(words::words(text)?).map_err(|why| format!("`{text}`: {why}"))?;
        Ok(Step { task, text: text.to_owned(), op })
    }

    /// The operation, without its task.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The largest number of a task that it is about.
    pub fn last_task(&self) -> usize {
        match self.op {
            Op::Clone { child, .. } => child.max(self.task),
            _ => self.task,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "t{}$ {}", self.task, self.text)
    }
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Step {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let (who, text) = line.split_once('$').ok_or("no `$`")?;
        Step::new(task(who.trim())?, text.trim())
    }
}

/// `t3` is task 3.
pub(crate) fn task(word: &str) -> Result<usize, String> {
    let number = word.strip_prefix('t').and_then(|number| number.parse().ok());
    number.ok_or_else(|| format!("`{word}` is no task"))
}
