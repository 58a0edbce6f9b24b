//! Runs the same mount program on the running Linux and on the mount table, and compares after every step.
//!
//! 1. A program is a list of [`Step`]s, as one would type them at several prompts ([`call`]).
//! 2. Two things can run it: the crates in this process ([`Model`]), and the running kernel through helper processes in
//!    mount namespaces of their own ([`Linux`]).
//! 3. After each step both are asked for the answer and for what every task's mountinfo shows ([`view`]), with numbers
//!    renamed by first appearance. Line order, parents, roots, mountpoints, options and tags must be the same.
//! 4. Programs are made at random from what the tasks see at that moment ([`generate`]); one on which the two differ is
//!    shrunk ([`shrink`]) and printed.
//! 5. A program with the wanted answers in it is a script ([`script`]): a test that needs no Linux to run.
//!
//! # Intended differences
//! Where Linux 6.18 has a rule of its own that newer kernels gave up, the crates follow those, and the comparison makes
//! allowance:
//! - A copy of a namespace forgets there which mounts are unbindable, and did not before 6.17. [`Model::beside_linux`]
//!   forgets it too.
//! - An umount does not ask there whether a counterpart is in use that has mounts on it besides one that covers it, though
//!   it takes that counterpart along if all those go too. Here it answers `EBUSY`; [`compare`] then goes on with a lazy
//!   umount, which takes the same mounts.

pub mod call;
pub mod compare;
pub mod coverage;
pub mod errno;
pub mod generate;
pub mod linux;
pub mod model;
pub mod script;
pub mod shrink;
pub mod view;

pub use call::{Call, Step, Type};
pub use errno::Answer;
pub use linux::Linux;
pub use model::Model;
pub use view::Views;

/// The directories of every file system here.
pub const DIRECTORIES: [&str; 9] = ["a", "b", "c", "a/x", "a/y", "b/x", "b/y", "c/x", "c/y"];

/// Something that runs programs.
pub trait Executor {
    /// Runs one step, of a task that exists.
    ///
    /// # Errors
    /// The executor itself failed.
    fn run(&mut self, step: &Step) -> anyhow::Result<Answer>;

    /// What every task sees, normalised.
    ///
    /// # Errors
    /// The executor itself failed.
    fn views(&mut self) -> anyhow::Result<Views>;
}
