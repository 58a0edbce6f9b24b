//! One step of the checks: a command with a title. Its output is kept, and shown only if it fails.

use std::fs::File;
use std::io::{Read, Seek};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};

use crate::project;

/// A step before it ran.
pub(crate) struct Step {
    pub(crate) title: String,
    pub(crate) command: Command,
}

/// How a step went.
pub(crate) struct Done {
    pub(crate) passed: bool,
    pub(crate) time: Duration,
}

/// How often a step that nobody watches says that it still runs.
const STILL_RUNNING_EVERY: Duration = Duration::from_secs(30);
/// How often a running step is looked at.
const POLL_EVERY: Duration = Duration::from_millis(50);

impl Step {
    /// Runs it as number `number` of `count`, and shows what it printed if it fails.
    pub(crate) fn run(mut self, number: usize, count: usize) -> Result<Done> {
        let words = project::describe(&self.command);
        let title = format!("[{number}/{count}] {}", self.title);
        let mut output = tempfile::tempfile().context("cannot make a temporary file")?;
        self.command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output.try_clone()?);
        let bar = ProgressBar::new_spinner();
        if bar.is_hidden() {
            println!("{title} ...");
        } else if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
            bar.set_style(style);
            bar.set_message(title.clone());
            bar.enable_steady_tick(Duration::from_millis(100));
        }
        let start = Instant::now();
        let mut child = self.command.spawn().with_context(|| format!("cannot run `{words}`"))?;
        let mut said = start;
        let status = loop {
            if let Some(status) = child.try_wait().context("cannot wait for a step")? {
                break status;
            }
            if bar.is_hidden() && said.elapsed() >= STILL_RUNNING_EVERY {
                println!("{title} ... {} s", start.elapsed().as_secs());
                said = Instant::now();
            }
            thread::sleep(POLL_EVERY);
        };
        bar.finish_and_clear();
        let done = Done { passed: status.success(), time: start.elapsed() };
        let verdict = if done.passed { "ok" } else { "FAILED" };
        println!("{title}: {verdict} ({:.1} s)", done.time.as_secs_f32());
        if !done.passed {
            println!("{}", text(&mut output)?);
            println!("FAILED: {}: {status}\nthe command was: {words}", self.title);
        }
        Ok(done)
    }
}

/// All that the step printed.
fn text(output: &mut File) -> Result<String> {
    let mut bytes = Vec::new();
    output.rewind()?;
    output.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(script: &str) -> Result<Done> {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Step { title: "a script".into(), command }.run(1, 1)
    }

    #[test]
    fn the_exit_status_decides() {
        assert!(run("echo fine").unwrap().passed);
        assert!(!run("echo broken >&2; exit 3").unwrap().passed);
        assert!(!run("kill -9 $$").unwrap().passed);
    }

    #[test]
    fn a_command_that_cannot_start_is_an_error() {
        let step = Step { title: "nothing".into(), command: Command::new("no-such-program") };
        assert!(step.run(1, 1).is_err());
    }
}
