//! Runs the same mount program on the running Linux and on the mount table, and compares after every step.
//!
//! 1. A program is a list of [`Step`]s, as one would type them at several prompts. Each is a line of text and lowers to a
//!    raw system call: a number and six arguments ([`language`], [`raw`]).
//! 2. A machine makes raw calls as one of its tasks ([`machine`]). There are two: the crates in this process ([`Model`]),
//!    and the running kernel through helper processes in mount namespaces of their own ([`Linux`]).
//! 3. A session runs a program on a machine ([`session`]): it knows the names that a program gives to descriptors and
//!    numbers, and makes text of what calls return. So there is one reading of programs for all machines.
//! 4. After each step both machines are asked for the answer and for what every task's mountinfo shows ([`view`]), with
//!    numbers renamed by first appearance. Line order, parents, roots, mountpoints, options and tags must be the same.
//! 5. Programs are made at random from what the tasks see at that moment ([`generate`]), and run beside each other
//!    ([`random`]); one on which the two differ is shrunk ([`shrink`]) and printed. What they hit is counted ([`coverage`]).
//! 6. A program with the wanted answers in it is a script ([`script`]): a test that needs no Linux to run.
//!
//! # Intended differences
//! Where Linux 6.18 has a rule of its own that newer kernels gave up, the crates follow those, and the comparison makes
//! allowance:
//! - A copy of a namespace forgets there which mounts are unbindable, and did not before 6.17. [`Model::beside_linux`]
//!   forgets it too.
//! - An umount does not ask there whether a counterpart is in use that has mounts on it besides one that covers it, though
//!   it takes that counterpart along if all those go too. Here it answers `EBUSY`; [`compare`] then goes on with a lazy
//!   umount, which takes the same mounts.
//! - What comes beneath a locked mount is not locked there, and the upper one stays so. Here the lock goes to what comes
//!   beneath; [`Model::beside_linux`] takes it back.
//! - A group is handed to an unbindable mount there. Here that is `EINVAL`, and the comparison of that program ends.
//!
//! What lies under the first mount that tasks see is this machine's own on Linux, so the comparison of a program ends where
//! a task comes to see it.

pub mod answer;
pub mod compare;
pub mod coverage;
pub mod errno;
pub mod generate;
pub mod language;
pub mod linux;
pub mod machine;
pub mod model;
pub mod random;
pub mod raw;
pub mod script;
pub mod session;
pub mod shrink;
pub mod trace;
pub mod view;

pub use answer::Answer;
pub use language::Step;
pub use linux::Linux;
pub use machine::Machine;
pub use model::Model;
pub use session::Session;
pub use view::Views;

/// The directories of every file system here.
pub const DIRECTORIES: [&str; 11] = ["a", "b", "c", "x", "y", "a/x", "a/y", "b/x", "b/y", "c/x", "c/y"];
