//! One run as the console tells it: progress, the kernel's own mountinfo, the result.

use std::io::Write;
use std::time::Duration;

use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressStyle};
use stress::compare::compare;
use stress::forest::{Forest, Namespace};
use stress::protocol::{Message, Outcome, Progress};

use crate::qemu::Line;

/// What the kernel has said so far.
pub(crate) struct Session<'a> {
    wanted: &'a Forest,
    bar: ProgressBar,
    got: Vec<Namespace>,
    outcome: Option<Outcome>,
    /// Messages that do not follow the protocol.
    faults: Vec<String>,
}

/// What the kernel has said in all.
pub(crate) struct Summary {
    /// Namespaces that it printed back.
    pub(crate) namespaces: usize,
    /// Mounts that it printed back.
    pub(crate) mounts_loaded: usize,
    /// Where these differ from the input.
    pub(crate) differences: Vec<String>,
    /// Messages that do not follow the protocol.
    pub(crate) faults: Vec<String>,
    pub(crate) outcome: Option<Outcome>,
}

impl<'a> Session<'a> {
    pub(crate) fn new(wanted: &'a Forest, seconds: u32) -> Self {
        let bar = ProgressBar::new(u64::from(seconds) * 1000);
        let style = ProgressStyle::with_template("{elapsed_precise} [{bar:20}] {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
        bar.enable_steady_tick(Duration::from_millis(200));
        Self { wanted, bar, got: Vec::new(), outcome: None, faults: Vec::new() }
    }

    /// Takes one line.
    pub(crate) fn follow(&mut self, line: Line) {
        let text = match line {
            Line::Outside(text) => return self.print(text.as_bytes()),
            Line::Serial(text) => text,
        };
        match Message::parse(&text) {
            None => self.print(&[b"kernel | ", &text[..]].concat()),
            Some(Err(reason)) => self.fault(&text, &reason),
            Some(Ok(Message::Progress(progress))) => self.progress(&progress),
            Some(Ok(Message::Mountinfo { namespace, line })) => {
                let index = self.got.iter().rposition(|other| other.name == namespace);
                let index = index.unwrap_or_else(|| {
                    self.got.push(Namespace::empty(&namespace, &namespace, 1));
                    self.got.len() - 1
                });
                if let Err(error) = self.got[index].push(&line) {
                    self.fault(&text, &error.to_string());
                }
            }
            Some(Ok(Message::Result(outcome))) => {
                if self.outcome.replace(outcome).is_some() {
                    self.fault(&text, "a second result");
                }
            }
        }
    }

    /// Sums up after the last line.
    pub(crate) fn finish(self) -> Summary {
        self.bar.finish_and_clear();
        Summary {
            namespaces: self.got.len(),
            mounts_loaded: self.got.iter().map(|namespace| namespace.mounts.len()).sum(),
            differences: compare(self.wanted.namespaces(), &self.got),
            faults: self.faults,
            outcome: self.outcome,
        }
    }

    fn fault(&mut self, text: &[u8], reason: &str) {
        let shown = text[..text.len().min(100)].escape_ascii();
        self.faults.push(format!("{reason}: `{shown}`"));
    }

    fn progress(&mut self, progress: &Progress) {
        let text = format!(
            "{} lookups, {} operations, {} mounts, {} deferred, {} violations",
            HumanCount(progress.lookups),
            HumanCount(progress.operations),
            HumanCount(progress.mounts),
            HumanBytes(progress.deferred_bytes),
            HumanCount(progress.violations),
        );
        if self.bar.is_hidden() {
            println!("{:>4} s: {text}", progress.elapsed_ms / 1000);
        } else {
            self.bar.set_position(progress.elapsed_ms);
            self.bar.set_message(text);
        }
    }

    /// Prints a line above the progress bar.
    fn print(&self, text: &[u8]) {
        self.bar.suspend(|| println!("{}", String::from_utf8_lossy(text)));
        // A reader of a file or pipe should see the last line before a hang.
        let _ = std::io::stdout().flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forest() -> Forest {
        let text = b"1 0 0:1 / / rw shared:3 - tmpfs t rw\n2 1 0:2 / /a rw - tmpfs t rw\n";
        Forest::new(vec![Namespace::read("host", "f", text).unwrap()]).unwrap()
    }

    fn play(lines: &[&str]) -> Summary {
        let forest = forest();
        let mut session = Session::new(&forest, 1);
        lines.iter().for_each(|line| session.follow(Line::Serial(line.as_bytes().to_vec())));
        session.finish()
    }

    fn result() -> String {
        let line = Message::Result(Outcome { lookups: 5, ..Outcome::default() }).to_line();
        String::from_utf8(line).unwrap().trim_end().to_owned()
    }

    #[test]
    fn a_faithful_kernel_gives_no_difference() {
        let summary = play(&[
            "kernel: 4 CPUs",
            "@mountinfo host 7 6 0:1 / / rw shared:1 - tmpfs t rw",
            "@mountinfo host 9 7 0:2 / /a rw - tmpfs t rw",
            &result(),
        ]);
        assert_eq!((summary.namespaces, summary.mounts_loaded), (1, 2));
        assert_eq!((summary.differences, summary.faults), (vec![], vec![]));
        assert_eq!(summary.outcome.unwrap().lookups, 5);
    }

    #[test]
    fn a_mount_that_is_lost_or_altered_is_a_difference() {
        let summary = play(&["@mountinfo host 7 6 0:1 / / ro shared:1 - tmpfs t rw", &result()]);
        assert_eq!(
            summary.differences,
            [
                "host: line 1: mount options: wanted `rw`, got `ro`",
                "host: missing: 2 1 0:2 / /a rw - tmpfs t rw",
            ]
        );
    }

    #[test]
    fn a_silent_kernel_misses_everything() {
        let summary = play(&[]);
        assert_eq!(summary.differences, ["host: the namespace is missing"]);
        assert!(summary.outcome.is_none());
    }

    #[test]
    fn broken_messages_are_kept_as_faults() {
        let summary = play(&["@mountinfo host x", "@progress {}", "@what", &result(), &result()]);
        assert_eq!(summary.faults.len(), 4);
    }
}
