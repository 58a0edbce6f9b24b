//! What a run came to: one object for programs, one table for people, one verdict.

use std::fmt;

use serde_json::{Map, Value, json};

use crate::qemu::Ending;
use crate::run::Setting;
use crate::session::Summary;

/// The verdict with everything behind it.
pub(crate) struct Report {
    rows: Vec<(String, Value)>,
    /// What went wrong, each a line; none means success.
    pub(crate) failures: Vec<String>,
}

/// Most differences that are printed; the count tells the rest.
const SHOWN_MAX: usize = 20;

impl Report {
    pub(crate) fn new(setting: &Setting, summary: Summary, ending: &Ending) -> Self {
        let mut rows = setting.rows();
        let mut row = |name: &str, value: Value| rows.push((name.to_owned(), value));
        row("namespaces", json!(summary.namespaces));
        row("mounts_loaded", json!(summary.mounts_loaded));
        row("roundtrip_mismatches", json!(summary.differences.len()));
        let mut failures = Vec::new();
        if *ending != Ending::Success {
            failures.push(ending.to_string());
        }
        failures
            .extend(some_of("differences between the input and the kernel's mountinfo", summary.differences));
        failures.extend(some_of("messages that do not follow the protocol", summary.faults));
        match summary.outcome {
            Some(outcome) => {
                if outcome.violations > 0 {
                    failures.push(format!("{} violations", outcome.violations));
                }
                for (count, what) in [
                    (outcome.leaked_mounts, "mounts"),
                    (outcome.leaked_dentries, "dentries"),
                    (outcome.leaked_bytes, "deferred bytes"),
                ] {
                    if count > 0 {
                        failures.push(format!("{count} {what} left at the end"));
                    }
                }
                if let Ok(Value::Object(counters)) = serde_json::to_value(&outcome) {
                    counters.into_iter().for_each(|(name, value)| row(&name, value));
                }
            }
            None => failures.push("the kernel gave no result".to_owned()),
        }
        Self { rows, failures }
    }

    /// The object for `--json`. Of a failed run it says in `failures` what failed.
    pub(crate) fn json(&self) -> Value {
        let mut object: Map<String, Value> = self.rows.iter().cloned().collect();
        if !self.failures.is_empty() {
            object.insert("failures".to_owned(), json!(self.failures));
        }
        Value::Object(object)
    }
}

/// A count, and the first of the lines.
fn some_of(what: &str, lines: Vec<String>) -> Vec<String> {
    if lines.is_empty() {
        return lines;
    }
    let mut shown = vec![format!("{} {what}", lines.len())];
    shown.extend(lines.into_iter().take(SHOWN_MAX).map(|line| format!("  {line}")));
    shown
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        for (name, value) in &self.rows {
            let text = match value {
                Value::String(text) => text.clone(),
                value => value.to_string(),
            };
            writeln!(f, "{name:width$}  {text:>16}")?;
        }
        for failure in &self.failures {
            writeln!(f, "FAILED: {failure}")?;
        }
        if self.failures.is_empty() { f.write_str("run: ok") } else { f.write_str("run: FAILED") }
    }
}

#[cfg(test)]
mod tests {
    use stress::protocol::Outcome;

    use super::*;
    use crate::accel::Accel;
    use crate::qemu::Failure;

    /// What every object has at least.
    const KEYS: &str = "cpus seconds seed accel namespaces mounts_loaded roundtrip_mismatches lookups \
        lookups_per_second walk_retries locked_walks mounts umounts binds moves pivots propagated_mounts \
        namespace_clones checks violations peak_deferred_bytes leaked_mounts leaked_dentries leaked_bytes";

    fn report(ending: Ending, alter: impl FnOnce(&mut Summary)) -> Report {
        let setting =
            Setting { cpus: 4, seconds: 20, seed: u64::MAX, tree: "host".into(), accel: Accel::Tcg };
        let outcome = Some(Outcome::default());
        let (differences, faults) = (Vec::new(), Vec::new());
        let mut summary = Summary { namespaces: 2, mounts_loaded: 9, differences, faults, outcome };
        alter(&mut summary);
        Report::new(&setting, summary, &ending)
    }

    #[test]
    fn a_clean_run_has_every_key_and_no_failure() {
        let report = report(Ending::Success, |_| ());
        assert_eq!(report.failures, [""; 0]);
        let json = report.json();
        for key in KEYS.split_whitespace() {
            assert!(!json[key].is_null(), "{key}");
        }
        assert_eq!((&json["seed"], &json["mounts_loaded"]), (&json!(u64::MAX), &json!(9)));
        assert!(report.to_string().ends_with("run: ok"));
    }

    #[test]
    fn anything_unclean_fails() {
        let failing = |ending, alter: fn(&mut Summary)| {
            let report = report(ending, alter);
            assert!(report.to_string().ends_with("run: FAILED"));
            assert_eq!(report.json()["failures"], json!(report.failures));
            report.failures
        };
        assert_eq!(failing(Ending::Failure(Failure::Other, "boom".into()), |_| ()), ["boom"]);
        assert_eq!(failing(Ending::Hung("no output for 60 s".into()), |_| ()), ["no output for 60 s"]);
        assert_eq!(failing(Ending::Success, |summary| summary.outcome = None), ["the kernel gave no result"]);
        let violated =
            |summary: &mut Summary| summary.outcome = Some(Outcome { violations: 2, ..Outcome::default() });
        assert_eq!(failing(Ending::Success, violated), ["2 violations"]);
        let leaked =
            |summary: &mut Summary| summary.outcome = Some(Outcome { leaked_bytes: 1, ..Outcome::default() });
        assert_eq!(failing(Ending::Success, leaked), ["1 deferred bytes left at the end"]);
        let differing = |summary: &mut Summary| summary.differences = vec!["host: x".to_owned(); 30];
        assert_eq!(failing(Ending::Success, differing).len(), 1 + SHOWN_MAX);
        let faulty = |summary: &mut Summary| summary.faults = vec!["odd".to_owned()];
        assert_eq!(failing(Ending::Success, faulty), ["1 messages that do not follow the protocol", "  odd"]);
    }
}
