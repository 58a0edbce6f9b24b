//! One program on two executors, compared after every step.

use anyhow::Result;

use crate::{Answer, Linux, Model, Session, Step, Views};

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
    linux: Session<Linux>,
    /// The crates.
    pub model: Session<Model>,
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
        let (mut linux, mut model) =
            (Session::new(Linux::new(tasks_max)?), Session::new(Model::beside_linux()?));
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
            return Ok(Ok(Answer::Error(linux_raw_sys::errno::ESRCH)));
        }
        let mut ours = self.model.run(step)?;
        let theirs = self.linux.run(step)?;
        if let Some(target) = step.text().strip_prefix("umount ")
            && (&ours, &theirs) == (&Answer::BUSY, &Answer::Ok)
            && self.model.machine.umount_takes_chains(step.task, target)
        {
            // An intended difference. What went there goes here too.
            self.intended += 1;
            let lazily = Step::new(step.task, &format!("umount -l {target}")).map_err(anyhow::Error::msg)?;
            ours = self.model.run(&lazily)?;
        }
        self.views = self.model.views()?;
        let wanted = self.linux.views()?;
        let violations = mnt_table::check::check(&self.model.machine.namespaces()).violations;
        if ours == theirs && self.views == wanted && violations.is_empty() {
            return Ok(Ok(theirs));
        }
        if !violations.is_empty() {
            // A broken table cannot be taken down; it stays until the process ends.
            std::mem::forget(std::mem::replace(&mut self.model, Session::new(Model::new()?)));
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
