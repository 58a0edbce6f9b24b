//! One program on two executors, compared after every step.

use anyhow::Result;

use crate::language::Op;
use crate::linux::Nursery;
use crate::{Answer, Linux, Model, Session, Step, Views};

/// Where the two first differ.
pub struct Difference {
    /// Index of the step.
    pub at: usize,
    /// What Linux answered, and what the model did.
    pub answers: (Answer, Answer),
    /// What the tasks see on Linux and in the model.
    pub views: (Views, Views),
    /// What else the task of the step sees on Linux and in the model.
    pub looks: (Vec<String>, Vec<String>),
    /// Broken invariants of the model.
    pub violations: Vec<String>,
}

impl Difference {
    /// Whether it may be that Linux forgot that a mount was to expire, in the last step of `program`.
    pub fn is_lost_mark(&self, program: &[Step]) -> bool {
        let expires = program.get(self.at).is_some_and(|step| step.text().starts_with("umount --expire"));
        expires && self.answers == (Answer::AGAIN, Answer::Ok)
    }
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
    /// Whether the two went different ways that are intended: nothing is compared from there on.
    pub over: bool,
    /// Tasks that were made.
    made: Vec<usize>,
    steps: usize,
}

/// Paths that are looked up after each step.
const LOOKED_UP: [&str; 16] = [
    "/", ".", "..", "/..", "../..", "a", "x/..", "/a", "/b", "/c", "/a/x", "/b/y", "/a/a", "/a/x/a",
    "/x/../b", "/c/x/..",
];

impl Pair {
    /// Both at the start.
    ///
    /// # Errors
    /// An executor could not be made.
    pub fn new(nursery: &Nursery, tasks_max: usize) -> Result<Self> {
        let (mut linux, mut model) =
            (Session::new(Linux::new(nursery, tasks_max)?), Session::new(Model::beside_linux()?));
        let views = model.views()?;
        anyhow::ensure!(linux.views()? == views, "the two do not even begin alike");
        Ok(Pair { linux, model, views, intended: 0, over: false, made: vec![0], steps: 0 })
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
        if self.over || self.is_taken(step) || self.is_about_the_machine(step) {
            return Ok(Ok(Answer::Error(linux_raw_sys::errno::ESRCH)));
        }
        let chains = step.text().strip_prefix("umount ").is_some_and(|words| {
            let target = words.split(' ').next_back().unwrap_or_default();
            self.model.machine.umount_takes_chains(step.task, target)
        });
        let mut ours = self.model.run(step)?;
        let theirs = self.linux.run(step)?;
        let differ = |wanted: Answer, got: Answer| theirs == wanted && ours == got;
        if chains && differ(Answer::Ok, Answer::BUSY) {
            // What went there goes here too.
            self.intended += 1;
            let target = step.text().split(' ').next_back().unwrap_or_default();
            let lazily = Step::new(step.task, &format!("umount -l {target}")).map_err(anyhow::Error::msg)?;
            ours = self.model.run(&lazily)?;
        } else if step.text().starts_with("move_mount --set-group") && differ(Answer::Ok, Answer::INVALID) {
            // Onto an unbindable mount. What it is there it cannot be here.
            self.intended += 1;
            self.over = true;
            return Ok(Ok(theirs));
        }
        self.views = self.model.views()?;
        let wanted = self.linux.views()?;
        let shows_hidden_root = wanted.0.iter().flatten().flatten().any(|line| line.id == line.parent);
        if shows_hidden_root {
            // What is under everything is the machine's own.
            self.over = true;
            return Ok(Ok(theirs));
        }
        let violations = mnt_table::check::check(&self.model.machine.namespaces()).violations;
        // A look at a mount takes its mark away.
        let marks = step.text().starts_with("umount --expire");
        let looks = if self.model.has(step.task) && !marks {
            let paths = paths(&self.views, step.task);
            (self.linux.look(step.task, &paths)?, self.model.look(step.task, &paths)?)
        } else {
            Default::default()
        };
        if ours == theirs && self.views == wanted && looks.0 == looks.1 && violations.is_empty() {
            return Ok(Ok(theirs));
        }
        if !violations.is_empty() {
            // A broken table cannot be taken down; it stays until the process ends.
            std::mem::forget(std::mem::replace(&mut self.model, Session::new(Model::new()?)));
        }
        let views = (wanted, self.views.clone());
        Ok(Err(Box::new(Difference { at, answers: (theirs, ours), views, looks, violations })))
    }

    /// Whether the step makes a task that there is, or was.
    fn is_taken(&mut self, step: &Step) -> bool {
        match step.op {
            Op::Clone { child, .. } => {
                let taken = self.made.contains(&child);
                self.made.push(child);
                taken
            }
            _ => false,
        }
    }

    /// Whether the step would change a file system that is the machine's own, and not the program's, since there is one
    /// instance of that of namespaces' files; or list what processes there are.
    fn is_about_the_machine(&self, step: &Step) -> bool {
        let text = step.text();
        let changes =
            text.contains("fspick ") || text.starts_with("mount -o remount,") && !text.contains("bind");
        let fs_type: &[u8] = match changes {
            true => b"nsfs",
            false if text.starts_with("ls ") => b"proc",
            false => return false,
        };
        let path = text.rsplit(' ').next().unwrap_or_default();
        self.model.machine.fs_type_at(step.task, path).is_some_and(|found| found == fs_type)
    }
}

/// What is looked up as `task`: some fixed paths, and mountpoints.
pub(crate) fn paths(views: &Views, task: usize) -> Vec<String> {
    let lines = views.0.get(task).and_then(Option::as_ref).into_iter().flatten();
    let points = lines.map(|line| String::from_utf8_lossy(&line.mountpoint).into_owned());
    LOOKED_UP.iter().map(|path| (*path).to_owned()).chain(points.take(10)).collect()
}

/// Runs `program` from the start, to its end or to the first difference.
///
/// # Errors
/// An executor failed.
pub fn compare(nursery: &Nursery, program: &[Step], tasks_max: usize) -> Result<Option<Box<Difference>>> {
    let mut pair = Pair::new(nursery, tasks_max)?;
    for step in program {
        if let Err(difference) = pair.step(step)? {
            return Ok(Some(difference));
        }
    }
    Ok(None)
}
