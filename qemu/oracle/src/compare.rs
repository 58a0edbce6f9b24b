//! One program on two executors, compared after every step.

use anyhow::{Context, Result};

use crate::{Answer, Call, Executor, Linux, Model, Step, Views};

/// Where the two first differ.
pub struct Difference {
    /// Index of the step.
    pub at: usize,
    /// What Linux answered, and what the model did.
    pub answers: (Answer, Answer),
    /// What the tasks see on Linux and in the model.
    pub views: (Views, Views),
    /// Broken invariants of the model.
    pub violations: Vec<String>,
}

/// Both executors, side by side.
pub struct Pair {
    linux: Linux,
    /// The crates.
    pub model: Model,
    /// What the tasks saw after the last step.
    pub views: Views,
    /// How often an intended difference showed.
    pub intended: u64,
    steps: usize,
}

impl Pair {
    /// Both at the start.
    ///
    /// # Errors
    /// An executor could not be made.
    pub fn new(tasks_max: usize) -> Result<Self> {
        let (mut linux, mut model) = (Linux::new(tasks_max)?, Model::beside_linux()?);
        let views = model.views()?;
        anyhow::ensure!(linux.views()? == views, "the two do not even begin alike");
        Ok(Pair { linux, model, views, intended: 0, steps: 0 })
    }

    /// Runs one step on both. A step of a task that does not exist does nothing, and so does the creation of one that
    /// does.
    ///
    /// # Errors
    /// An executor failed.
    pub fn step(&mut self, step: &Step) -> Result<Result<Answer, Box<Difference>>> {
        let at = self.steps;
        self.steps += 1;
        if !self.model.has(step.task) {
            return Ok(Ok(Answer::NO_TASK));
        }
        let mut ours = self.model.run(step)?;
        let theirs = self.linux.run(step).with_context(|| format!("at `{step}`"))?;
        if let Call::Umount { target, lazy: false } = &step.call
            && (ours, theirs) == (Answer::BUSY, Answer::OK)
            && self.model.umount_takes_chains(step.task, target)
        {
            // An intended difference. What went there goes here too.
            self.intended += 1;
            let call = Call::Umount { target: target.clone(), lazy: true };
            ours = self.model.run(&Step { task: step.task, call })?;
        }
        self.views = self.model.views()?;
        let wanted = self.linux.views()?;
        let violations = mnt_table::check::check(&self.model.namespaces()).violations;
        if ours == theirs && self.views == wanted && violations.is_empty() {
            return Ok(Ok(theirs));
        }
        if !violations.is_empty() {
            // A broken table cannot be taken down; it stays until the process ends.
            std::mem::forget(std::mem::replace(&mut self.model, Model::new()?));
        }
        let views = (wanted, self.views.clone());
        Ok(Err(Box::new(Difference { at, answers: (theirs, ours), views, violations })))
    }
}

/// Runs `program` from the start, to its end or to the first difference.
///
/// # Errors
/// An executor failed.
pub fn compare(program: &[Step], tasks_max: usize) -> Result<Option<Box<Difference>>> {
    let mut pair = Pair::new(tasks_max)?;
    for step in program {
        if let Err(difference) = pair.step(step)? {
            return Ok(Some(difference));
        }
    }
    Ok(None)
}
