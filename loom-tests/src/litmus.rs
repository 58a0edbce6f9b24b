//! Random small programs and their outcomes: the check of the explorer itself.
//!
//! The runner starts this twice with one seed, the second time with `LOOM_EVERY_ORDER` set, under which the corrected
//! loom tries each runnable thread at each step. The lines must be equal: a reduction may skip executions, never outcomes.

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

fn random_op(rng: &mut Rng) -> Op {
    let pick = |rng: &mut Rng, orders: &[Ordering]| orders[rng.usize(..orders.len())];
    let variable = rng.usize(..VARIABLES);
    let value = rng.usize(1..4);
    match rng.u8(..17) {
        0..5 => Op::Load(variable, pick(rng, &[Relaxed, Acquire])),
        5..9 => Op::Store(variable, value, pick(rng, &[Relaxed, Release])),
        9..11 => Op::Swap(variable, value, pick(rng, &[Relaxed, AcqRel])),
        11..13 => Op::CompareExchange(variable, rng.usize(..3), value, pick(rng, &[Relaxed, AcqRel])),
        13..15 => Op::Fence(pick(rng, &[Acquire, Release, SeqCst, SeqCst, SeqCst])),
        15 => Op::Locked(variable),
        _ => Op::TryLocked(variable),
    }
}

/// One list of operations per thread; the last one runs on the main thread.
fn random_program(rng: &mut Rng) -> Vec<Vec<Op>> {
    // As many operations as an exploration without reduction can still finish.
    let lengths: &[usize] = if rng.bool() { &[3, 3] } else { &[2, 1, 2] };
    lengths.iter().map(|&length| (0..length).map(|_| random_op(rng)).collect()).collect()
}

/// Prints the outcomes of `count` programs, one line each.
pub fn print(seed: u64, count: usize) {
    let mut rng = Rng::with_seed(seed);
    for _ in 0..count {
        let program = random_program(&mut rng);
        let threads: Vec<String> =
            program.iter().map(|ops| ops.iter().map(Op::to_string).collect::<Vec<_>>().join("; ")).collect();
        let (executions, outcomes) = explore(program);
        let outcomes: Vec<String> = outcomes.into_iter().collect();
        println!("litmus\t{executions}\t{}\t{}", outcomes.join(" "), threads.join(" || "));
    }
}

fn explore(program: Vec<Vec<Op>>) -> (u64, BTreeSet<String>) {
    let executions = StdArc::new(AtomicU64::new(0));
    let outcomes = StdArc::new(StdMutex::new(BTreeSet::new()));
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = None;
    builder.check({
        let (executions, outcomes) = (StdArc::clone(&executions), StdArc::clone(&outcomes));
        move || {
            executions.fetch_add(1, StdOrdering::Relaxed); // Relaxed: statistics.
            let outcome = execute(&program);
            outcomes.lock().expect("no panic while held").insert(outcome);
        }
    });
    let outcomes = outcomes.lock().expect("no panic while held").clone();
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

fn execute(program: &[Vec<Op>]) -> String {
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
    let last = perform(&memory, main);
    let mut outcome: Vec<String> = children.into_iter().map(|child| child.join().unwrap()).collect();
    outcome.push(last);
    outcome.push(memory.variables.iter().map(|variable| variable.load(Relaxed).to_string()).collect());
    outcome.join("/")
}

/// Runs one thread's operations and returns the values that it read, in order.
fn perform(memory: &Memory, ops: &[Op]) -> String {
    let mut read = String::new();
    for op in ops {
        let seen = match *op {
            Op::Load(variable, order) => memory.variables[variable].load(order),
            Op::Swap(variable, value, order) => memory.variables[variable].swap(value, order),
            Op::CompareExchange(variable, old, new, order) => {
                let result = memory.variables[variable].compare_exchange(old, new, order, Relaxed);
                result.unwrap_or_else(|seen| seen)
            }
            Op::Locked(variable) => memory.locked(memory.lock.lock().unwrap(), variable),
            Op::TryLocked(variable) => match memory.lock.try_lock() {
                Ok(turn) => memory.locked(turn, variable),
                Err(_) => 99,
            },
            Op::Store(variable, value, order) => {
                memory.variables[variable].store(value, order);
                continue;
            }
            Op::Fence(order) => {
                fence(order);
                continue;
            }
        };
        read.push_str(&format!("{seen},"));
    }
    read
}
