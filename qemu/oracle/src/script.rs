//! A program with the wanted answers in it.
//!
//! ```text
//! # What is mounted on a shared mount shows in its peers.
//! t0$ mount -t tmpfs none /a
//! t0$ mount --make-shared /a
//! t0$ mount --bind /a /b
//! t0$ mount --bind /a/none /b              => ENOENT
//! t0> 1 2 0:1 / / rw,relatime - tmpfs none rw
//! ```
//!
//! A line with `$` is a step; it succeeds unless an error stands behind `=>`. Lines with `>` that follow one another are
//! what the named tasks' mountinfo shows then, whole and in order; its numbers stand for themselves only, as in
//! [`crate::view`]. `#` begins a comment.

use anyhow::{Result, anyhow, bail};
use syscalls::mountinfo::MountInfo;

use crate::call::task;
use crate::view::difference;
use crate::{Answer, Call, Executor, Step, Views};

/// A line, or several, of a script.
#[derive(Clone, Debug)]
pub enum Item {
    /// A step and its answer.
    Step(Step, Answer),
    /// What the tasks see; those not named are not looked at.
    Views(Views),
}

/// A script.
#[derive(Clone, Debug)]
pub struct Script {
    /// Its items and the lines at which they begin.
    pub items: Vec<(usize, Item)>,
}

impl Script {
    /// Reads a script.
    ///
    /// # Errors
    /// The first line that is none of a script.
    pub fn parse(text: &str) -> Result<Self> {
        let mut items: Vec<(usize, Item)> = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let bad = |why: String| anyhow!("line {number}: {why}");
            let end = line.find(['$', '>']).ok_or_else(|| bad("neither `$` nor `>`".into()))?;
            let who = task(&line[..end]).map_err(bad)?;
            let rest = line[end + 1..].trim();
            if line.as_bytes()[end] == b'$' {
                let (call, answer) = match rest.split_once("=>") {
                    Some((call, errno)) => (call, errno.trim().parse().map_err(bad)?),
                    None => (rest, Answer::OK),
                };
                let call: Call = call.trim().parse().map_err(bad)?;
                items.push((number, Item::Step(Step { task: who, call }, answer)));
                continue;
            }
            let mount = MountInfo::parse(rest.as_bytes()).map_err(|error| bad(error.to_string()))?;
            if !matches!(items.last(), Some((_, Item::Views(_)))) {
                items.push((number, Item::Views(Views::default())));
            }
            let Some((_, Item::Views(views))) = items.last_mut() else { unreachable!("pushed above") };
            if views.0.len() <= who {
                views.0.resize(who + 1, None);
            }
            views.0[who].get_or_insert_default().push(mount);
        }
        for (_, item) in &mut items {
            if let Item::Views(views) = item {
                views.normalise();
            }
        }
        Ok(Script { items })
    }

    /// Its steps.
    pub fn steps(&self) -> impl Iterator<Item = &Step> {
        self.items.iter().filter_map(|(_, item)| match item {
            Item::Step(step, _) => Some(step),
            Item::Views(_) => None,
        })
    }

    /// The largest number of a task in it, and one.
    pub fn tasks(&self) -> usize {
        let named = self.steps().map(|step| match step.call {
            Call::Fork { child } => child.max(step.task),
            _ => step.task,
        });
        named.max().unwrap_or(0) + 1
    }

    /// Runs it.
    ///
    /// # Errors
    /// The first answer or view that is not the wanted one, with the number of its line.
    pub fn run(&self, executor: &mut impl Executor) -> Result<()> {
        for (line, item) in &self.items {
            match item {
                Item::Step(step, wanted) => {
                    let got = executor.run(step)?;
                    if got != *wanted {
                        bail!("line {line}: `{step}` answers {got} instead of {wanted}");
                    }
                }
                Item::Views(wanted) => {
                    let tasks: Vec<_> =
                        (0..wanted.0.len()).filter(|task| wanted.0[*task].is_some()).collect();
                    let got = only(executor.views()?, &tasks);
                    let mut wanted = wanted.clone();
                    wanted.0.resize(got.0.len(), None);
                    if got != wanted {
                        bail!("line {line}: the tasks see\n{}", difference(&wanted, &got));
                    }
                }
            }
        }
        Ok(())
    }
}

/// What `tasks` see, with numbers of their own.
fn only(mut views: Views, tasks: &[usize]) -> Views {
    let last = tasks.iter().max().map_or(0, |last| last + 1);
    views.0.resize(views.0.len().max(last), None);
    views
        .0
        .iter_mut()
        .enumerate()
        .filter(|(task, _)| !tasks.contains(task))
        .for_each(|(_, view)| *view = None);
    views.normalise();
    views
}

/// Runs `steps` and writes the answers down: a script that this executor passes.
///
/// # Errors
/// The executor failed.
pub fn record(steps: &[Step], executor: &mut impl Executor) -> Result<String> {
    let mut text = String::new();
    for step in steps {
        answer(step, executor, &mut text)?;
    }
    text.push_str(&executor.views()?.text());
    Ok(text)
}

fn answer(step: &Step, executor: &mut impl Executor, text: &mut String) -> Result<()> {
    let line = step.to_string();
    match executor.run(step)? {
        Answer::OK => text.push_str(&format!("{line}\n")),
        errno => text.push_str(&format!("{line:<50} => {errno}\n")),
    }
    Ok(())
}

/// Writes the script `text` again with the answers of `executor`, comments kept. What tasks see is written where
/// the script has lines of theirs, and these may be as short as `t0> ?`; a script without any gets what all tasks see
/// at its end.
///
/// # Errors
/// As [`Script::parse`]; the executor failed.
pub fn rewrite(text: &str, executor: &mut impl Executor) -> Result<String> {
    let mut new = String::new();
    let mut any = false;
    // The tasks whose view the lines at hand show.
    let mut shown: Vec<usize> = Vec::new();
    for line in text.lines().chain([""]) {
        let end = line.find(['$', '>', '#']).map(|at| (at, line.as_bytes()[at]));
        if !shown.is_empty() && !matches!(end, Some((_, b'>'))) {
            any = true;
            new.push_str(&only(executor.views()?, &shown).text());
            shown.clear();
        }
        match end {
            Some((at, b'>')) => {
                let who = task(line[..at].trim()).map_err(|why| anyhow!(why))?;
                if !shown.contains(&who) {
                    shown.push(who);
                }
                continue;
            }
            Some((_, b'$')) => {
                let script = Script::parse(line)?;
                for step in script.steps() {
                    answer(step, executor, &mut new)?;
                }
            }
            _ => {
                new.push_str(line);
                new.push('\n');
            }
        }
    }
    new.pop(); // of the empty line at the end
    if !any {
        new.push_str(&executor.views()?.text());
    }
    Ok(new)
}
