//! Programs with the wanted answers in them.
//!
//! ```text
//! == What is mounted on a shared mount shows in its peers.
//! # rules: 4.3, B39
//! t0$ mount -t tmpfs none /a
//! t0$ mount --make-shared /a
//! t0$ mount --bind /a /b
//! t0$ mount --bind /a/none /b                        => ENOENT
//! t0$ ls /a/x                                        => nothing
//! t0> 1 2 0:1 / / rw,relatime - tmpfs none rw
//! ```
//!
//! - A line with `$` is a step; it succeeds with nothing to tell unless an error, or what the call told, stands behind
//!   `=>`.
//! - Lines with `>` that follow one another are what the named tasks' mountinfo shows then, whole and in order; its numbers
//!   stand for themselves only, as in [`crate::view`].
//! - `==` and a title begin a program of its own, on a fresh machine.
//! - `#` begins a comment. `# rules:` names, with commas between, the rules of Linux that the program shows.

use anyhow::{Context, Result, anyhow, bail};
use syscalls::mountinfo::MountInfo;

use crate::Answer;
use crate::language::{Step, task};
use crate::machine::Machine;
use crate::session::Session;
use crate::view::{Views, difference};

/// A line, or several, of a script.
#[derive(Clone, Debug)]
pub enum Item {
    /// A step and its answer.
    Step(Box<Step>, Answer),
    /// What the tasks see; those not named are not looked at.
    Views(Views),
}

/// A program with its answers.
#[derive(Clone, Debug, Default)]
pub struct Section {
    /// Its title; empty for what stands before the first one.
    pub title: String,
    /// The rules that it shows.
    pub rules: Vec<String>,
    /// Its items and the lines at which they begin.
    pub items: Vec<(usize, Item)>,
}

/// A file of them.
#[derive(Clone, Debug, Default)]
pub struct Script {
    /// The programs.
    pub sections: Vec<Section>,
}

impl Script {
    /// Reads a script.
    ///
    /// # Errors
    /// The first line that is none of a script.
    pub fn parse(text: &str) -> Result<Self> {
        let mut sections = vec![Section::default()];
        for (number, line) in (1..).zip(text.lines()) {
            let section = sections.last_mut().expect("there is one from the start");
            let line = line.trim();
            let bad = |why: String| anyhow!("line {number}: {why}");
            if let Some(title) = line.strip_prefix("==") {
                sections.push(Section { title: title.trim().to_owned(), ..Section::default() });
                continue;
            }
            if let Some(rules) = line.strip_prefix("# rules:") {
                section.rules.extend(rules.split(',').map(|rule| rule.trim().to_owned()));
            }
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let end = line.find(['$', '>']).ok_or_else(|| bad("neither `$` nor `>`".into()))?;
            let who = task(&line[..end]).map_err(bad)?;
            let rest = line[end + 1..].trim();
            if line.as_bytes()[end] == b'$' {
                let (text, answer) = split(rest);
                let step = Step::new(who, text).map_err(bad)?;
                section.items.push((number, Item::Step(Box::new(step), answer)));
                continue;
            }
            let mount = MountInfo::parse(rest.as_bytes()).map_err(|error| bad(error.to_string()))?;
            if !matches!(section.items.last(), Some((_, Item::Views(_)))) {
                section.items.push((number, Item::Views(Views::default())));
            }
            let Some((_, Item::Views(views))) = section.items.last_mut() else {
                unreachable!("pushed above")
            };
            if views.0.len() <= who {
                views.0.resize(who + 1, None);
            }
            views.0[who].get_or_insert_default().push(mount);
        }
        sections.retain(|section| !section.items.is_empty());
        for (_, item) in sections.iter_mut().flat_map(|section| &mut section.items) {
            if let Item::Views(views) = item {
                views.normalise();
            }
        }
        Ok(Script { sections })
    }
}

/// An operation and its answer.
fn split(line: &str) -> (&str, Answer) {
    match line.split_once("=>") {
        Some((text, answer)) => (text.trim(), Answer::parse(answer.trim())),
        None => (line, Answer::Ok),
    }
}

impl Section {
    /// Its steps.
    pub fn steps(&self) -> impl Iterator<Item = &Step> {
        self.items.iter().filter_map(|(_, item)| match item {
            Item::Step(step, _) => Some(&**step),
            Item::Views(_) => None,
        })
    }

    /// The largest number of a task in it, and one.
    pub fn tasks(&self) -> usize {
        self.steps().map(Step::last_task).max().unwrap_or(0) + 1
    }

    /// Runs it.
    ///
    /// # Errors
    /// The first answer or view that is not the wanted one, with the number of its line.
    pub fn run<M: Machine>(&self, session: &mut Session<M>) -> Result<()> {
        for (line, item) in &self.items {
            match item {
                Item::Step(step, wanted) => {
                    let got = session.run(step).with_context(|| format!("line {line}"))?;
                    if got != *wanted {
                        bail!("line {line}: `{step}` answers {got} instead of {wanted}");
                    }
                }
                Item::Views(wanted) => {
                    let tasks: Vec<_> =
                        (0..wanted.0.len()).filter(|task| wanted.0[*task].is_some()).collect();
                    let got = only(session.views()?, &tasks);
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

/// Runs `steps` and writes the answers down, and what all tasks see at the end: a script that this machine passes.
///
/// # Errors
/// The machine failed.
pub fn record<M: Machine>(steps: &[Step], session: &mut Session<M>) -> Result<String> {
    let mut text = String::new();
    for step in steps {
        answer(step, session, &mut text)?;
    }
    text.push_str(&session.views()?.text());
    Ok(text)
}

fn answer<M: Machine>(step: &Step, session: &mut Session<M>, text: &mut String) -> Result<()> {
    let line = step.to_string();
    match session.run(step)? {
        Answer::Ok => text.push_str(&format!("{line}\n")),
        answer => text.push_str(&format!("{line:<50} => {answer}\n")),
    }
    Ok(())
}

/// Writes the script `text` again with the answers of machines that `fresh` makes, comments kept. What tasks see is
/// written where the script has lines of theirs, and these may be as short as `t0> ?`.
///
/// # Errors
/// As [`Script::parse`]; a machine failed.
pub fn rewrite<M: Machine>(text: &str, mut fresh: impl FnMut() -> Result<M>) -> Result<String> {
    let mut new = String::new();
    let mut session = Session::new(fresh()?);
    // The tasks whose view the lines at hand show.
    let mut shown: Vec<usize> = Vec::new();
    for (number, line) in (1..).zip(text.lines().chain([""])) {
        let bad = |why: String| anyhow!("line {number}: {why}");
        let comment = line.starts_with(['#', '=']);
        let end = line.find(['$', '>']).filter(|_| !comment).map(|at| (at, line.as_bytes()[at]));
        if !shown.is_empty() && !matches!(end, Some((_, b'>'))) {
            new.push_str(&only(session.views()?, &shown).text());
            shown.clear();
        }
        match end {
            Some((at, b'>')) => {
                let who = task(line[..at].trim()).map_err(bad)?;
                if !shown.contains(&who) {
                    shown.push(who);
                }
            }
            Some((at, _)) => {
                let who = task(line[..at].trim()).map_err(bad)?;
                let step = Step::new(who, split(line[at + 1..].trim()).0).map_err(bad)?;
                answer(&step, &mut session, &mut new).with_context(|| format!("line {number}"))?;
            }
            None => {
                if line.starts_with("==") {
                    session = Session::new(fresh()?);
                }
                new.push_str(line);
                new.push('\n');
            }
        }
    }
    new.pop(); // of the empty line at the end
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Model;

    const TEXT: &str = "\
# A comment.
t0$ mount -t tmpfs none /a
t0$ mount --bind /none /b                          => ENOENT
t0> 7 9 0:5 / / rw,relatime - tmpfs none rw
t0> 8 7 0:6 / /a rw,relatime - tmpfs none rw
";

    fn run(text: &str) -> Result<()> {
        let script = Script::parse(text)?;
        script.sections.iter().try_for_each(|section| section.run(&mut Session::new(Model::new()?)))
    }

    #[test]
    fn answers_and_views_are_asked_for() {
        run(TEXT).unwrap();
        for (from, to, wanted) in [
            ("ENOENT", "EBUSY", "line 3: `t0$ mount --bind /none /b` answers ENOENT instead of EBUSY"),
            ("8 7", "8 9", "line 4: the tasks see"),
            ("t0> 8 7 0:6 / /a rw,relatime - tmpfs none rw\n", "", "line 4: the tasks see"),
            ("none /a", "none", "line 2: `mount -t tmpfs none`: the target is missing"),
            ("t0$ mount -t", "t$ mount -t", "line 2: `t` is no task"),
        ] {
            let error = run(&TEXT.replacen(from, to, 1)).unwrap_err().to_string();
            assert!(error.starts_with(wanted), "{error}");
        }
    }

    #[test]
    fn every_section_begins_anew() {
        let text =
            TEXT.replace("# A comment.", "== One") + &TEXT.replace("# A comment.", "== Two\n# rules: C1, B7");
        run(&text).unwrap();
        let script = Script::parse(&text).unwrap();
        assert_eq!(script.sections.len(), 2);
        assert_eq!((script.sections[1].title.as_str(), script.sections[1].rules.len()), ("Two", 2));
    }

    #[test]
    fn a_rewritten_script_keeps_its_comments_and_passes() {
        let text =
            TEXT.replace("=> ENOENT", "").replace("t0> 8 7 0:6 / /a rw,relatime - tmpfs none rw\n", "");
        let new = rewrite(&text, Model::new).unwrap();
        assert!(new.starts_with("# A comment.\nt0$ mount -t tmpfs none /a\n"), "{new}");
        assert!(new.contains("=> ENOENT"), "{new}");
        run(&new).unwrap();
    }
}
