//! How often each call gave each answer.

use std::collections::BTreeMap;
use std::fmt;

use crate::{Answer, Call, Step};

/// Counts.
#[derive(Default)]
pub struct Coverage(BTreeMap<String, BTreeMap<Answer, u64>>);

impl Coverage {
    /// One step more.
    pub fn count(&mut self, step: &Step, answer: Answer) {
        *self.0.entry(name(&step.call)).or_default().entry(answer).or_default() += 1;
    }
}

/// The call without its paths.
fn name(call: &Call) -> String {
    let text = call.to_string();
    let words = text.split(' ').filter(|word| !word.contains(['/', '.']) || word.starts_with("-"));
    match call {
        Call::Mount { .. } => "mount -t tmpfs".to_owned(),
        Call::Remount { .. } => "mount -o remount,bind".to_owned(),
        Call::Umount { lazy, .. } => if *lazy { "umount -l" } else { "umount" }.to_owned(),
        Call::Unshare | Call::Exit => text,
        Call::Bind { .. } | Call::Move { .. } | Call::Make { .. } => {
            words.take(2).collect::<Vec<_>>().join(" ")
        }
        _ => words.take(1).collect(),
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (call, answers) in &self.0 {
            write!(f, "{call:24}")?;
            let answers = answers.iter().map(|(answer, count)| {
                let word = if *answer == Answer::OK { "ok".to_owned() } else { answer.to_string() };
                format!(" {word} {count}")
            });
            writeln!(f, "{}", answers.collect::<Vec<_>>().join(","))?;
        }
        Ok(())
    }
}
