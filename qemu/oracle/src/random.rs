//! Random programs on both machines, on several processors at once.
//!
//! A program is known by the seed and its number alone, whoever runs it. Each processor takes the next number, until there
//! were as many operations as wanted or somebody found a difference.
//!
//! # Marks that get lost
//! On Linux a lookup that any change of mounts in the whole machine falls into starts again with references, and those take
//! expiry marks away that nobody used. So when an expiring umount answers `EAGAIN` there and succeeds here, the program
//! runs anew; such a mark is not lost each time.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use anyhow::{Result, anyhow};
use rand::SeedableRng;
use rand::rngs::SmallRng;

use crate::Step;
use crate::compare::{Difference, Pair, compare};
use crate::coverage::{Coverage, Seen};
use crate::generate::{Generator, Limits};
use crate::linux::Nursery;

/// What is run.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Where randomness starts.
    pub seed: u64,
    /// The number of the first program.
    pub first: u64,
    /// Operations, at least.
    pub ops: u64,
    /// Operations of one program.
    pub length: u64,
    /// How large things get.
    pub limits: Limits,
    /// Whether what is hit is counted.
    pub coverage: bool,
}

/// What became of it.
#[derive(Default)]
pub struct Outcome {
    /// Programs.
    pub programs: u64,
    /// Operations.
    pub done: u64,
    /// Those that succeeded.
    pub succeeded: u64,
    /// Intended differences.
    pub intended: u64,
    /// Expiry marks that were lost on Linux.
    pub lost_marks: u64,
    /// How often what was hit.
    pub coverage: Coverage,
    /// Programs on which the two differ: at most one for each processor.
    pub found: Vec<Found>,
}

/// A program on which the two differ.
pub struct Found {
    /// Its number.
    pub number: u64,
    /// Its steps, up to the one that shows it.
    pub program: Vec<Step>,
    /// Where they differ.
    pub difference: Box<Difference>,
}

/// Runs programs, beside each nursery one at a time.
///
/// # Errors
/// An executor failed.
pub fn run(nurseries: &[Nursery], plan: &Plan) -> Result<Outcome> {
    let (next, done) = (AtomicU64::new(plan.first), AtomicU64::new(0));
    let stop = AtomicBool::new(false);
    let outcome = Mutex::new(Outcome::default());
    let work = |nursery: &Nursery| -> Result<()> {
        nursery.stay()?;
        // Relaxed, all of them: numbers, and a hint.
        while !stop.load(Ordering::Relaxed) && done.load(Ordering::Relaxed) < plan.ops {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let one = program(nursery, plan, number).inspect_err(|_| stop.store(true, Ordering::Relaxed))?;
            done.fetch_add(one.done, Ordering::Relaxed);
            if !one.found.is_empty() {
                stop.store(true, Ordering::Relaxed);
            }
            outcome.lock().expect("no panic").add(one);
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = nurseries.iter().map(|nursery| scope.spawn(|| work(nursery))).collect();
        let ends =
            workers.into_iter().map(|worker| worker.join().map_err(|_| anyhow!("a worker panicked"))?);
        ends.collect::<Result<()>>()
    })?;
    Ok(outcome.into_inner().expect("no panic"))
}

/// Program `number`.
fn program(nursery: &Nursery, plan: &Plan, number: u64) -> Result<Outcome> {
    /// An odd number with bits all over: programs of neighbouring seeds have nothing in common.
    const FAR: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut rng = SmallRng::seed_from_u64(plan.seed.wrapping_mul(FAR).wrapping_add(number));
    let mut outcome = Outcome { programs: 1, ..Outcome::default() };
    let mut pair = Pair::new(nursery, plan.limits.tasks)?;
    let mut generator = Generator::new(plan.limits);
    let mut program = Vec::new();
    for _ in 0..plan.length {
        let before = plan.coverage.then(|| pair.views.clone());
        let Some(step) = generator.next(&mut rng, &pair.model, &pair.views) else { break };
        outcome.done += 1;
        match pair.step(&step)? {
            Ok(answer) => {
                outcome.succeeded += u64::from(answer.is_ok());
                generator.done(&step, &answer);
                if let Some(before) = &before {
                    let is_confined = pair.model.machine.is_confined(step.task);
                    let (step, answer, after) = (&step, &answer, &pair.views);
                    outcome.coverage.count(&Seen { step, answer, before, after, is_confined });
                }
                program.push(step);
            }
            Err(difference) => {
                program.push(step);
                if difference.is_lost_mark(&program) && agrees_again(nursery, &program, plan)? {
                    outcome.lost_marks += 1;
                    break;
                }
                outcome.found.push(Found { number, program, difference });
                break;
            }
        }
        if pair.over {
            break;
        }
    }
    outcome.intended = pair.intended;
    Ok(outcome)
}

/// Whether the two agree on `program` after all, in one of a few more runs.
fn agrees_again(nursery: &Nursery, program: &[Step], plan: &Plan) -> Result<bool> {
    const RUNS: usize = 5;
    for _ in 0..RUNS {
        if compare(nursery, program, plan.limits.tasks)?.is_none() {
            return Ok(true);
        }
    }
    Ok(false)
}

impl Outcome {
    fn add(&mut self, other: Outcome) {
        self.programs += other.programs;
        self.done += other.done;
        self.succeeded += other.succeeded;
        self.intended += other.intended;
        self.lost_marks += other.lost_marks;
        self.coverage.add(other.coverage);
        self.found.extend(other.found);
    }
}
