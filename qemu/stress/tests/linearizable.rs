//! System calls of several threads on shared namespaces behave as if they were made one after the other.
//!
//! Each round builds a small world at random, lets threads make a few calls at once, and records when each call began and
//! ended and what it answered. Then an order is looked for that keeps to those times and in which a world that is alone
//! gives every call the same answer and ends up the same. Lookups and listings are calls like any other.
//!
//! The seed is printed; `LINEARIZABLE_SEED` and `LINEARIZABLE_ROUNDS` choose it and the number of rounds.

#[allow(dead_code, reason = "other tests use the rest")]
mod kernel;
mod linearizable {
    pub(crate) mod history;
    pub(crate) mod search;
    pub(crate) mod world;
}

use linearizable::history::{self, Program};
use linearizable::search::explain;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number")))
}

#[test]
fn some_order_explains_what_threads_saw() {
    let seed = number("LINEARIZABLE_SEED")
        .unwrap_or_else(|| std::time::UNIX_EPOCH.elapsed().map_or(0, |time| time.as_nanos() as u64));
    let rounds = number("LINEARIZABLE_ROUNDS").unwrap_or(400);
    println!("seed {seed}, {rounds} rounds");
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut overlapping = 0;
    for round in 0..rounds {
        let program = Program::random(&mut SmallRng::seed_from_u64(rng.random()));
        let history = history::record(&program);
        overlapping += u64::from(history.overlaps());
        assert!(
            history.violations.is_empty(),
            "seed {seed}, round {round}: the checker says {:#?}\nafter {history}",
            history.violations
        );
        assert!(
            explain(&program, &history),
            "seed {seed}, round {round}: no order explains\n{program}\n{history}"
        );
    }
    println!("calls overlapped in {overlapping} rounds");
    assert!(rounds < 100 || overlapping > 0, "nothing ran at the same time as anything else");
}
