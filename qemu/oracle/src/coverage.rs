//! How often each call gave each answer, and how often each rule of Linux was shown.

use std::collections::BTreeMap;
use std::fmt;

pub use seen::Seen;

use left_out::LEFT_OUT;

mod left_out;
mod rules;
mod seen;

/// Counts.
pub struct Coverage {
    calls: BTreeMap<String, BTreeMap<String, u64>>,
    /// Every rule that steps can be seen to show, be it 0.
    rules: BTreeMap<String, u64>,
}

impl Default for Coverage {
    fn default() -> Self {
        Coverage { calls: BTreeMap::new(), rules: rules::known().map(|rule| (rule, 0)).collect() }
    }
}

impl Coverage {
    /// What `other` counted, too.
    pub fn add(&mut self, other: Coverage) {
        for (call, answers) in other.calls {
            let known = self.calls.entry(call).or_default();
            answers.into_iter().for_each(|(word, count)| *known.entry(word).or_default() += count);
        }
        other.rules.into_iter().for_each(|(rule, count)| *self.rules.entry(rule).or_default() += count);
    }

    /// One step more.
    pub fn count(&mut self, seen: &Seen<'_>) {
        let word = if seen.answer.is_ok() { "ok".to_owned() } else { seen.answer.to_string() };
        *self.calls.entry(name(seen)).or_default().entry(word).or_default() += 1;
        rules::shown(seen).into_iter().for_each(|rule| *self.rules.entry(rule).or_default() += 1);
    }

    /// The rules, how often each was shown, and how often `cases` show it; nothing where it cannot be told from outside, and
    /// the reason where nobody shows it.
    pub fn rules(&self, cases: &BTreeMap<String, u64>) -> String {
        let mut text = format!("{:40}{:>10}{:>8}\n", "rule", "programs", "cases");
        let mut rows: BTreeMap<&str, (String, String)> = BTreeMap::new();
        cases.iter().for_each(|(rule, count)| rows.entry(rule).or_default().1 = count.to_string());
        self.rules.iter().for_each(|(rule, count)| rows.entry(rule).or_default().0 = count.to_string());
        for (rule, (programs, cases)) in rows {
            text.push_str(&format!("{rule:40}{programs:>10}{cases:>8}\n"));
        }
        for (rule, why) in LEFT_OUT {
            text.push_str(&format!("{rule:40}{why}\n"));
        }
        text
    }
}

/// The verb with its options.
fn name(seen: &Seen<'_>) -> String {
    let mut words = seen.text().split(' ');
    let verb = words.next().unwrap_or_default().to_owned();
    if verb == "raw" {
        return format!("raw {}", words.next().unwrap_or_default());
    }
    let options = words.filter(|word| word.starts_with('-') && word.len() > 1).map(|word| format!(" {word}"));
    verb + &options.collect::<String>()
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (call, answers) in &self.calls {
            let answers = answers.iter().map(|(word, count)| format!(" {word} {count}"));
            writeln!(f, "{call:40}{}", answers.collect::<Vec<_>>().join(","))?;
        }
        Ok(())
    }
}
