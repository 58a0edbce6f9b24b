//! The ratios, in plain text.

use std::fmt::Write;

use crate::contest::Contest;
use crate::scaling::Scaling;
use crate::spread::Spread;

/// What a contest showed: each cell's time, and how many times the time of the cell it is compared with.
pub fn contest(contest: &Contest) -> String {
    let mut text = String::new();
    row(&mut text, &contest.name, "ns", "");
    for (at, cell) in contest.cells.iter().enumerate() {
        let base = &contest.cells[cell.base];
        let ratio =
            if cell.base == at { String::new() } else { format!("{} x {}", cell.ratio(base), base.name) };
        row(&mut text, &format!("  {}", cell.name), &cell.time().to_string(), &ratio);
    }
    text
}

/// What two writers reached together, as a multiple of one.
pub fn scaling(name: &str, measured: &Scaling) -> String {
    let Scaling { one, by_clock, by_processor } = measured;
    let one = Spread { low: one.low / 1e3, median: one.median / 1e3, high: one.high / 1e3 };
    let mut text = String::new();
    let ratio = format!("{by_clock} x one; by processor time {by_processor}");
    row(&mut text, &format!("  {name}"), &one.to_string(), &ratio);
    text
}

/// The head above rows of [`scaling`].
pub fn scaling_head(name: &str) -> String {
    let mut text = String::new();
    row(&mut text, name, "one, 1000/s", "two");
    text
}

fn row(text: &mut String, name: &str, figure: &str, ratio: &str) {
    let line = format!("{name:<74} {figure:<26} {ratio}");
    writeln!(text, "{}", line.trim_end()).expect("a string takes all");
}
