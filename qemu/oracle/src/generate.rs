//! Random programs, each step made from what the tasks see at that moment, so that about half of them succeed.
//!
//! 1. Places are drawn from the mountpoints that the task sees and the directories in them; a few are relative, lead
//!    upwards, or are not there.
//! 2. Descriptors get names; a task knows those that it or its parent made, and of what kind they are.
//! 3. Operations that belong together (open a type, make an instance, mount it) stand in a queue of their task, and others
//!    come between.
//! 4. Where proc is mounted, paths lead through it too: to what descriptors refer to, to other tasks' roots and working
//!    directories, and to files of namespaces.
//!
//! # Left out
//! - sysfs, and changes of the file system that the files of namespaces are in: the machine has one instance of each, and
//!   a change of its flags would be everybody's. Case files mount sysfs.
//! - The next namespace, asked for by somebody who is told: those of other programs would come up, and the descriptor keeps
//!   them and their mounts from ending, which those programs can tell. Refusals are in, and a case file asks on.
//! - Types that need a device.
//!
//! | module | what |
//! |---|---|
//! | `mounts` | mount(2), umount2(2), pivot_root(2), and where a task stands |
//! | `trees` | mounts by descriptors |
//! | `files` | files that make mounts busy, and entries that come and go |
//! | `tasks` | tasks and namespaces |
//! | `queries` | what is told about mounts |
//! | `odd` | arguments that few would give |
//! | `names`, `paths` | what a task can name |

use std::collections::VecDeque;

use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;

use crate::{Answer, Model, Session, Step, Views};
use names::Names;
use paths::{Paths, magic, places};

mod files;
mod mounts;
mod names;
mod odd;
mod paths;
mod queries;
mod tasks;
mod trees;

/// How large things get.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Tasks of one program.
    pub tasks: usize,
    /// Namespaces at one time.
    pub namespaces: usize,
}

/// Lines that a task sees from which on mounts are rather taken away.
const MANY_LINES: usize = 30;

/// Makes steps.
pub struct Generator {
    limits: Limits,
    /// What each task made so far knows.
    tasks: Vec<Names>,
    /// Tasks in user namespaces of their own that the task at hand may look at.
    confined: Vec<usize>,
    /// What a task is going to do next.
    queue: VecDeque<(usize, String)>,
}

impl Generator {
    /// For one program.
    pub fn new(limits: Limits) -> Self {
        Generator { limits, tasks: vec![Names::default()], confined: Vec::new(), queue: VecDeque::new() }
    }

    /// The next step after `views`; `None` if no task is left.
    pub fn next(&mut self, rng: &mut SmallRng, model: &Session<Model>, views: &Views) -> Option<Step> {
        if rng.random_bool(0.8)
            && let Some((task, text)) = self.queue.pop_front()
            && model.has(task)
        {
            return Some(made(task, &text));
        }
        let tasks: Vec<usize> = model.machine.tasks().collect();
        let sees_nothing = |task: &usize| views.0[*task].as_ref().is_none_or(Vec::is_empty);
        let mut task = *tasks.choose(rng)?;
        for _ in 0..3 {
            // Somebody in an unreachable place can do little.
            if sees_nothing(&task) {
                task = *tasks.choose(rng)?;
            }
        }
        let lines = views.0.iter().flatten().map(Vec::len).max().unwrap_or(0);
        let text = {
            let known = &self.tasks[task];
            let places = places(views, task);
            let others: Vec<usize> =
                tasks.iter().copied().filter(|other| model.machine.may_inspect(task, *other)).collect();
            let is_confined = |other: &usize| *other != task && model.machine.is_confined(*other);
            self.confined = others.iter().copied().filter(is_confined).collect();
            let magic = magic(&places, known, &others);
            let mut paths = Paths { rng, places, magic };
            if lines > MANY_LINES {
                let target = paths.upper();
                format!("umount {}{target}", if paths.rng.random_bool(0.7) { "-l " } else { "" })
            } else {
                match paths.rng.random_range(0..100) {
                    0..52 => self.mount_call(task, &mut paths, lines, &tasks),
                    52..73 => self.tree_call(task, &mut paths),
                    73..86 => self.file_call(task, &mut paths, &tasks, views),
                    86..94 => self.task_call(task, &mut paths, model, &others),
                    94..97 => self.query(task, &mut paths, &others, model.machine.sees_all(task)),
                    _ => odd::call(&mut paths, &self.tasks[task]),
                }
            }
        };
        Some(made(task, &text))
    }

    /// Tells what became of `step`.
    pub fn done(&mut self, step: &Step, answer: &Answer) {
        if !answer.is_ok() || step.text().starts_with("close ") {
            self.tasks[step.task].forget(step.text());
        }
    }
}

/// A step that the language has.
fn made(task: usize, text: &str) -> Step {
    Step::new(task, text).expect("the language has all that is made here")
}
