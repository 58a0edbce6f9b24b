//! Random small programs and their outcomes: the check of the explorer itself.
//!
//! The runner starts this twice with one seed, the second time with `LOOM_EVERY_ORDER` set, under which the corrected
//! loom tries each runnable thread at each step. The lines must be equal: a reduction may skip executions, never outcomes.
//!
//! Loom orders the stores of one atomic only partly, so a few executions end in outcomes that no coherent memory has, such
//! as a thread that reads past its own newer store. [`coherent`] drops those from both sides: whether they show depends on
//! the order of independent operations, and nothing is lost with them.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering as StdOrdering};
use std::sync::{Arc as StdArc, Mutex as StdMutex};

use fastrand::Rng;
use loom::sync::atomic::Ordering::{self, AcqRel, Acquire, Relaxed, Release, SeqCst};
use loom::sync::atomic::{AtomicUsize, fence};
use loom::sync::{Mutex, MutexGuard};
use loom::thread;

/// Atomics of one program, besides one lock.
const VARIABLES: usize = 2;

/// One operation; what it reads becomes part of the outcome.
#[derive(Clone, Copy)]
enum Op {
    Load(usize, Ordering),
    Store(usize, usize, Ordering),
    Swap(usize, usize, Ordering),
    CompareExchange(usize, usize, usize, Ordering),
    Fence(Ordering),
    /// Takes the lock around a load of the variable.
    Locked(usize),
    /// The same if the lock is free.
    TryLocked(usize),
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |variable: usize| ["x", "y"][variable];
        match *self {
            Op::Load(variable, order) => write!(f, "{}.load({order:?})", name(variable)),
            Op::Store(variable, value, order) => write!(f, "{}.store({value}, {order:?})", name(variable)),
            Op::Swap(variable, value, order) => write!(f, "{}.swap({value}, {order:?})", name(variable)),
            Op::CompareExchange(variable, old, new, order) => {
                write!(f, "{}.compare_exchange({old}, {new}, {order:?}, Relaxed)", name(variable))
            }
            Op::Fence(order) => write!(f, "fence({order:?})"),
            Op::Locked(variable) => write!(f, "lock {{ {}.load(Relaxed) }}", name(variable)),
            Op::TryLocked(variable) => write!(f, "try_lock {{ {}.load(Relaxed) }}", name(variable)),
        }
    }
}

fn random_op(rng: &mut Rng, locks: bool) -> Op {
    let pick = |rng: &mut Rng, orders: &[Ordering]| orders[rng.usize(..orders.len())];
    let variable = rng.usize(..VARIABLES);
    let value = rng.usize(1..4);
    match rng.u8(..if locks { 18 } else { 15 }) {
        0..5 => Op::Load(variable, pick(rng, &[Relaxed, Acquire])),
        5..9 => Op::Store(variable, value, pick(rng, &[Relaxed, Release])),
        9..11 => Op::Swap(variable, value, pick(rng, &[Relaxed, AcqRel])),
        11..13 => Op::CompareExchange(variable, rng.usize(..3), value, pick(rng, &[Relaxed, AcqRel])),
        13..15 => Op::Fence(pick(rng, &[Acquire, Release, SeqCst, SeqCst, SeqCst])),
        15..17 => Op::Locked(variable),
        _ => Op::TryLocked(variable),
    }
}

/// One list of operations per thread; the last one runs on the main thread.
fn random_program(rng: &mut Rng) -> Vec<Vec<Op>> {
    // As many operations as an exploration without reduction can still finish.
    let (lengths, locks): (&[usize], bool) = if rng.bool() { (&[3, 3], true) } else { (&[2, 1, 2], false) };
    lengths.iter().map(|&length| (0..length).map(|_| random_op(rng, locks)).collect()).collect()
}

/// Prints the outcomes of `count` programs, one line each.
pub fn print(seed: u64, count: usize) {
    let mut rng = Rng::with_seed(seed);
    for _ in 0..count {
        let program = random_program(&mut rng);
        let threads: Vec<String> =
            program.iter().map(|ops| ops.iter().map(Op::to_string).collect::<Vec<_>>().join("; ")).collect();
        let (executions, outcomes) = explore(program);
        let outcomes: Vec<String> = outcomes.iter().map(Outcome::to_string).collect();
        println!("litmus\t{executions}\t{}\t{}", outcomes.join(" "), threads.join(" || "));
    }
}

/// What one execution read, per thread and in order, and the final values.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Outcome {
    read: Vec<Vec<usize>>,
    last: [usize; VARIABLES],
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |values: &[usize]| values.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
        for read in &self.read {
            write!(f, "{}/", list(read))?;
        }
        f.write_str(&list(&self.last))
    }
}

fn explore(program: Vec<Vec<Op>>) -> (u64, BTreeSet<Outcome>) {
    let executions = StdArc::new(AtomicU64::new(0));
    let outcomes = StdArc::new(StdMutex::new(BTreeSet::new()));
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = None;
    builder.check({
        let (executions, outcomes, program) =
            (StdArc::clone(&executions), StdArc::clone(&outcomes), program.clone());
        move || {
            executions.fetch_add(1, StdOrdering::Relaxed); // Relaxed: statistics.
            let outcome = execute(&program);
            outcomes.lock().expect("no panic while held").insert(outcome);
        }
    });
    let mut outcomes = outcomes.lock().expect("no panic while held").clone();
    outcomes.retain(|outcome| coherent(&program, outcome));
    (executions.load(StdOrdering::Relaxed), outcomes) // Relaxed: one thread.
}

/// What the threads of a program share.
struct Memory {
    variables: [AtomicUsize; VARIABLES],
    lock: Mutex<usize>,
}

impl Memory {
    /// Loads `variable` under the lock and says in the tens who held it how many times.
    fn locked(&self, mut turn: MutexGuard<'_, usize>, variable: usize) -> usize {
        *turn += 1;
        10 * *turn + self.variables[variable].load(Relaxed)
    }
}

fn execute(program: &[Vec<Op>]) -> Outcome {
    // A plain `Arc`: the programs are about the operations, and each clone and drop of loom's would be one more.
    let memory = StdArc::new(Memory { variables: [0; VARIABLES].map(AtomicUsize::new), lock: Mutex::new(0) });
    let (main, children) = program.split_last().expect("a program has threads");
    let children: Vec<_> = children
        .iter()
        .map(|ops| {
            let (memory, ops) = (StdArc::clone(&memory), ops.clone());
            thread::spawn(move || perform(&memory, &ops))
        })
        .collect();
    let main = perform(&memory, main);
    let mut read: Vec<_> = children.into_iter().map(|child| child.join().unwrap()).collect();
    read.push(main);
    Outcome { read, last: [0, 1].map(|variable| memory.variables[variable].load(Relaxed)) }
}

/// Runs one thread's operations and returns the values that it read, in order.
fn perform(memory: &Memory, ops: &[Op]) -> Vec<usize> {
    let mut read = Vec::new();
    for op in ops {
        match *op {
            Op::Load(variable, order) => read.push(memory.variables[variable].load(order)),
            Op::Swap(variable, value, order) => read.push(memory.variables[variable].swap(value, order)),
            Op::CompareExchange(variable, old, new, order) => {
                let result = memory.variables[variable].compare_exchange(old, new, order, Relaxed);
                read.push(result.unwrap_or_else(|seen| seen));
            }
            Op::Locked(variable) => read.push(memory.locked(memory.lock.lock().unwrap(), variable)),
            Op::TryLocked(variable) => match memory.lock.try_lock() {
                Ok(turn) => read.push(memory.locked(turn, variable)),
                Err(_) => read.push(HELD),
            },
            Op::Store(variable, value, order) => memory.variables[variable].store(value, order),
            Op::Fence(order) => fence(order),
        }
    }
    read
}

/// What [`Op::TryLocked`] reads when somebody else has the lock.
const HELD: usize = 99;

/// One access to the variable looked at: what it read, and what it left behind, where it did either.
#[derive(Clone, Copy)]
struct Access {
    read: Option<usize>,
    written: Option<usize>,
}

/// Whether each variable by itself behaved as a single cell that one thread at a time uses. Every memory that is coherent
/// and has atomic read-modify-writes guarantees that much, whatever the orderings.
fn coherent(program: &[Vec<Op>], outcome: &Outcome) -> bool {
    (0..VARIABLES).all(|variable| {
        let threads: Vec<Vec<Access>> =
            program.iter().zip(&outcome.read).map(|(ops, read)| accesses(ops, read, variable)).collect();
        let mut done = vec![0; threads.len()];
        some_order(&threads, &mut done, 0, outcome.last[variable])
    })
}

/// The accesses of one thread to `variable`.
fn accesses(ops: &[Op], read: &[usize], variable: usize) -> Vec<Access> {
    let mut read = read.iter().copied();
    let mut next = || read.next().expect("one value per operation that reads");
    let mut accesses = Vec::new();
    for op in ops {
        let (at, read, written) = match *op {
            Op::Load(at, _) => (at, Some(next()), None),
            Op::Store(at, value, _) => (at, None, Some(value)),
            Op::Swap(at, value, _) => (at, Some(next()), Some(value)),
            Op::CompareExchange(at, old, new, _) => {
                let seen = next();
                (at, Some(seen), (seen == old).then_some(new))
            }
            Op::Fence(_) => continue,
            Op::Locked(at) | Op::TryLocked(at) => match next() {
                HELD => continue,
                seen => (at, Some(seen % 10), None),
            },
        };
        if at == variable {
            accesses.push(Access { read, written });
        }
    }
    accesses
}

/// Whether the accesses that are not `done` yet can follow each other, from `value` to `last`.
fn some_order(threads: &[Vec<Access>], done: &mut [usize], value: usize, last: usize) -> bool {
    let mut finished = true;
    for thread in 0..threads.len() {
        let Some(access) = threads[thread].get(done[thread]) else {
            continue;
        };
        finished = false;
        if access.read.is_none_or(|read| read == value) {
            done[thread] += 1;
            let found = some_order(threads, done, access.written.unwrap_or(value), last);
            done[thread] -= 1;
            if found {
                return true;
            }
        }
    }
    finished && value == last
}
