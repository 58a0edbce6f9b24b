//! How often each call gave each answer.

use std::collections::BTreeMap;
use std::fmt;

use crate::{Answer, Step};

/// Counts.
#[derive(Default)]
pub struct Coverage(BTreeMap<String, BTreeMap<String, u64>>);

impl Coverage {
    /// What `other` counted, too.
    pub fn add(&mut self, other: Coverage) {
        for (call, answers) in other.0 {
            let known = self.0.entry(call).or_default();
            answers.into_iter().for_each(|(word, count)| *known.entry(word).or_default() += count);
        }
    }

    /// One step more.
    pub fn count(&mut self, step: &Step, answer: &Answer) {
        let word = match answer {
            Answer::Error(_) => answer.to_string(),
            Answer::Ok | Answer::Value(_) => "ok".to_owned(),
        };
        *self.0.entry(name(step)).or_default().entry(word).or_default() += 1;
    }
}

/// The verb with its options.
fn name(step: &Step) -> String {
    let text = step.text();
    let text =
        text.split_once("= ").filter(|(name, _)| name.starts_with(['@', '%'])).map_or(text, |(_, text)| text);
    let mut words = text.split(' ');
    let verb = words.next().unwrap_or_default().to_owned();
    if verb == "raw" {
        return format!("raw {}", words.next().unwrap_or_default());
    }
    let options = words.filter(|word| word.starts_with('-') && word.len() > 1).map(|word| format!(" {word}"));
    verb + &options.collect::<String>()
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (call, answers) in &self.0 {
            let answers = answers.iter().map(|(word, count)| format!(" {word} {count}"));
            writeln!(f, "{call:40}{}", answers.collect::<Vec<_>>().join(","))?;
        }
        Ok(())
    }
}
