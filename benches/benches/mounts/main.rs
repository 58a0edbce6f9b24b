//! The benches: criterion draws each cell's distribution, then everything that ran is measured once more in turns, and
//! the ratios are printed.
//!
//! `cargo xtask bench [--quick] [-- WORDS]`; criterion's report is in `target/criterion/report/index.html`.

mod change;
mod lookup;
mod walk;

use std::cell::Cell;
use std::time::Duration;

use benches::contest::Contest;
use benches::namespace::Sharing;
use benches::scaling::{Second, scaling};
use benches::{machine, table};
use criterion::Criterion;

/// How long things are measured.
struct Effort {
    sizes: &'static [usize],
    criterion: Criterion,
    rounds: usize,
    slice: Duration,
}

impl Effort {
    fn full() -> Self {
        let criterion = Criterion::default()
            .sample_size(30)
            .warm_up_time(Duration::from_millis(300))
            .measurement_time(Duration::from_millis(1500))
            .nresamples(20_000);
        Effort { sizes: &[10, 1000, 100_000], criterion, rounds: 25, slice: Duration::from_millis(15) }
    }

    fn quick() -> Self {
        let criterion = Criterion::default()
            .sample_size(10)
            .warm_up_time(Duration::from_millis(20))
            .measurement_time(Duration::from_millis(60))
            .nresamples(1000)
            .without_plots();
        Effort { sizes: &[10, 1000, 100_000], criterion, rounds: 5, slice: Duration::from_millis(4) }
    }
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let has = |word: &str| words.iter().any(|have| have == word);
    // Without `--bench` (cargo test) criterion only tries each bench once.
    let (measures, quick) = (has("--bench") && !has("--list") && !has("--test"), has("--quick"));
    let Effort { sizes, criterion, rounds, slice } = if quick { Effort::quick() } else { Effort::full() };
    let mut criterion = criterion.configure_from_args();

    let mut report = String::new();
    let mut show = |contest: &mut Contest| {
        if draw(&mut criterion, contest) && measures {
            contest.run(rounds, slice);
            report += &table::contest(contest);
            report.push('\n');
        }
    };
    for &size in sizes {
        show(&mut lookup::contest(size));
    }
    for depth in [1, 4, 8] {
        for crossings in [0, 1, 4] {
            show(&mut walk::contest(depth, crossings));
        }
    }
    for sharing in [Sharing::Private, Sharing::Shared] {
        show(&mut change::contest(sharing));
    }
    criterion.final_summary();
    // Words that choose benches choose contests; scaling comes with all of them.
    if measures && words.iter().all(|word| word.starts_with('-')) {
        report += &table::scaling_head("two writers");
        for (sharing, second, change) in change::SCALING {
            let found = scaling(change, sharing, second, rounds.min(15), slice * 5);
            let place = match second {
                Second::SameNamespace => "one namespace",
                Second::UnrelatedNamespace => "two namespaces",
            };
            let name = format!("{place}, {sharing:?}: {}", change.name());
            report += &table::scaling(&name, &found);
        }
    }
    if !report.is_empty() {
        println!("\n{}\n{rounds} rounds in turns; median (quartiles)\n\n{report}", machine::describe());
    }
}

/// Lets criterion measure the cells; says whether it chose any.
fn draw(criterion: &mut Criterion, contest: &mut Contest) -> bool {
    let chosen = Cell::new(false);
    let mut group = criterion.benchmark_group(&contest.name);
    for cell in &mut contest.cells {
        let name = cell.name.clone();
        group.bench_function(name, |bencher| {
            chosen.set(true);
            bencher.iter_custom(|operations| cell.measure(operations));
        });
    }
    group.finish();
    chosen.get()
}
