//! Programs at random, and what happens when threads run them at once.

use std::fmt;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use linux_raw_sys::general as abi;
use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;

use super::world::{Answer, Call, World};

/// What is done before the threads start, and what each of them does.
pub(crate) struct Program {
    pub(crate) setup: Vec<Call>,
    pub(crate) threads: Vec<Vec<Call>>,
}

const PATHS: [&str; 10] = ["/", "/a", "/b", "/a/x", "/b/x", "/a/a", "/a/b/x", ".", "..", "/b/a"];
const MOUNTPOINTS: [&str; 6] = ["/a", "/b", "/a/x", "/b/x", "/a/a", "/"];
const TYPES: [u32; 5] = [abi::MS_SHARED, abi::MS_SHARED, abi::MS_SLAVE, abi::MS_PRIVATE, abi::MS_UNBINDABLE];

impl Program {
    /// One at random.
    pub(crate) fn random(rng: &mut SmallRng) -> Self {
        let mut dev = 10;
        let mut change = |rng: &mut SmallRng| {
            dev += 1;
            change(rng, dev)
        };
        let mut setup = vec![Call::Make("/", abi::MS_SHARED)];
        if rng.random_bool(0.3) {
            setup.clear();
        }
        setup.extend((0..rng.random_range(2..6)).map(|_| change(rng)));
        let threads = (0..3)
            .map(|_| {
                let call = |_| match rng.random_range(0..10) {
                    0..6 => change(rng),
                    6 => Call::List,
                    _ => Call::Lookup(PATHS.choose(rng).expect("there are some")),
                };
                (0..3).map(call).collect()
            })
            .collect();
        Program { setup, threads }
    }
}

fn change(rng: &mut SmallRng, dev: u32) -> Call {
    let path = |rng: &mut SmallRng| *PATHS.choose(rng).expect("there are some");
    let mountpoint = |rng: &mut SmallRng| *MOUNTPOINTS.choose(rng).expect("there are some");
    match rng.random_range(0..24) {
        0..6 => Call::Mount(path(rng), dev),
        6..9 => Call::Bind(path(rng), path(rng), rng.random_bool(0.4)),
        9..12 => Call::Move(mountpoint(rng), path(rng)),
        12..15 => Call::Make(mountpoint(rng), *TYPES.choose(rng).expect("there are some")),
        15..20 => Call::Umount(mountpoint(rng), rng.random_bool(0.4)),
        20 => Call::Pivot(mountpoint(rng), path(rng)),
        21 => Call::Chdir(path(rng)),
        22 => Call::Chroot(path(rng)),
        _ => Call::Unshare,
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "before: {:?}", self.setup)
    }
}

/// A call as it happened: between two moments.
pub(crate) struct Event {
    pub(crate) began: u64,
    pub(crate) ended: u64,
    pub(crate) answer: Answer,
}

/// What happened.
pub(crate) struct History {
    /// The calls of each thread, in their order.
    pub(crate) threads: Vec<Vec<Event>>,
    /// What the tasks see in the end.
    pub(crate) state: Vec<Vec<String>>,
    /// What the checker says then.
    pub(crate) violations: Vec<String>,
    text: String,
}

impl History {
    /// Whether any two calls ran at the same time.
    pub(crate) fn overlaps(&self) -> bool {
        let all: Vec<_> = self.threads.iter().flatten().collect();
        let at_once = |a: &Event, b: &Event| a.began < b.ended && b.began < a.ended;
        all.iter().enumerate().any(|(at, a)| all[at + 1..].iter().any(|b| at_once(a, b)))
    }
}

impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Runs `program`, a thread for each task.
pub(crate) fn record(program: &Program) -> History {
    let world = World::new(&program.setup);
    let (clock, start) = (AtomicU64::new(0), Barrier::new(program.threads.len()));
    let now = || clock.fetch_add(1, Ordering::SeqCst);
    let threads: Vec<Vec<Event>> = thread::scope(|scope| {
        let run = |(task, calls): (usize, &'_ Vec<Call>)| {
            let (world, start, now) = (&world, &start, &now);
            let calls = calls.clone();
            scope.spawn(move || {
                start.wait();
                let call = |call: &Call| {
                    let began = now();
                    let answer = world.run(task, call);
                    Event { began, ended: now(), answer }
                };
                calls.iter().map(call).collect::<Vec<_>>()
            })
        };
        let running: Vec<_> = program.threads.iter().enumerate().map(run).collect();
        running.into_iter().map(|thread| thread.join().expect("no call panics")).collect()
    });
    let mut lines: Vec<_> = threads
        .iter()
        .zip(&program.threads)
        .enumerate()
        .flat_map(|(task, (events, calls))| {
            let line = move |(event, call): (&Event, &Call)| {
                (
                    event.began,
                    format!(
                        "t{task} {:>3}..{:<3} {call:?} => {:?}\n",
                        event.began, event.ended, event.answer
                    ),
                )
            };
            events.iter().zip(calls).map(line)
        })
        .collect();
    lines.sort();
    let (state, violations) = world.state();
    let mut text: String = lines.into_iter().map(|(_, line)| line).collect();
    text.push_str(&format!("in the end: {state:#?}"));
    History { threads, state, violations, text }
}
