//! Two unrelated namespaces: what two writers reach together, and whether a walk in one of them ever has to start again
//! because of changes in the other.
//!
//! Exit status 1 if one had to. The ratio depends on what else the machine is doing, so it is printed with its spread.

use std::hint::black_box;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use benches::churn::beside;
use benches::machine;
use benches::namespace::{Namespace, Sharing};
use benches::scaling::{Change, Scaling, Second, scaling};
use mnt_table::walk::{Last, stats_here, walk_with};

const ROUNDS: usize = 15;
const SLICE: Duration = Duration::from_millis(150);

fn main() -> ExitCode {
    println!("{}", machine::describe());
    println!(
        "two writers in unrelated namespaces, as a multiple of one; median (quartiles) of {ROUNDS} rounds"
    );
    let mut retries = 0;
    for sharing in [Sharing::Private, Sharing::Shared] {
        for change in [Change::Bind, Change::Prepared, Change::Fresh] {
            let Scaling { by_clock, by_processor, .. } =
                scaling(change, sharing, Second::UnrelatedNamespace, ROUNDS, SLICE);
            println!("  {sharing:?}, {}: {by_clock}, by processor time {by_processor}", change.name());
        }
        retries += walk_beside_changes(sharing);
    }
    println!("walk_retries {retries}");
    if retries == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Walks in one namespace while another one changes, and prints and returns the retries.
fn walk_beside_changes(sharing: Sharing) -> u64 {
    let (reader, writer) = (Namespace::new(1, sharing), Namespace::new(2, sharing));
    reader.mkdir("a").mkdir(b"b").expect("a fresh name");
    reader.bind("/a", "/a/b");
    let before = stats_here();
    let start = Instant::now();
    let fs = reader.task().fs();
    let walks = || {
        let mut walks = 0u64;
        while start.elapsed() < SLICE * 4 {
            let found = walk_with(&fs, b"/a/b/b", Last::Follow, |found| Ok(Arc::as_ptr(found.dentry).addr()));
            black_box(found.expect("it is there"));
            walks += 1;
        }
        walks
    };
    let (walks, changes) = beside(Change::Prepared.maker(&writer, "churn"), walks);
    let (now, sharing) = (stats_here(), format!("{sharing:?}"));
    let (retries, locked) = (now.retries - before.retries, now.locked - before.locked);
    println!(
        "  {sharing}: {walks} walks beside {changes} changes elsewhere: {retries} retries, {locked} under locks"
    );
    retries
}
