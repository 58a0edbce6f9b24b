//! What executes programs: tasks that make raw system calls.

use anyhow::Result;
use syscalls::mountinfo::MountInfo;

use crate::raw::{Raw, Reply};

/// Tasks with numbers, of which task 0 exists from the start: its root is a tmpfs with the fixed directories
/// ([`crate::DIRECTORIES`]), mounted over the hidden root of a mount namespace that nobody else is in.
///
/// An error of a method is one of the executor itself; what a call answers is no error here.
pub trait Machine {
    /// Makes `calls`, one after the other, as `task`.
    ///
    /// # Errors
    /// The machine failed.
    fn calls(&mut self, task: usize, calls: &[Raw]) -> Result<Vec<Reply>>;

    /// clone(2): `child` becomes a task that goes on where `task` is. Without an error the result is its pid.
    ///
    /// # Errors
    /// The machine failed; there was a task `child` before.
    fn clone_task(&mut self, task: usize, child: usize, flags: u64) -> Result<Reply>;

    /// Writes the maps of the user namespace that `task` has just made: root there is who the task was outside, and no
    /// other id is mapped.
    ///
    /// # Errors
    /// The machine failed.
    fn map_root(&mut self, task: usize) -> Result<Reply>;

    /// Ends `task`, and returns when all that it had is gone.
    ///
    /// # Errors
    /// The machine failed.
    fn exit(&mut self, task: usize) -> Result<()>;

    /// The pid of `task`, if it exists.
    fn pid(&self, task: usize) -> Option<i32>;

    /// A descriptor that every task has from the start: of a proc file system that is in nobody's namespace.
    fn proc_fd(&self) -> i32;

    /// The lines of every task's mountinfo; `None` for a task that does not exist.
    ///
    /// # Errors
    /// The machine failed.
    fn mountinfo(&mut self) -> Result<Vec<Option<Vec<MountInfo>>>>;
}
