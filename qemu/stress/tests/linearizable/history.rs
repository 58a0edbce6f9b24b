//! Programs at random, and what happens when threads run them at once.

use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
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
        setup.extend((0..rng.random_range(2..8)).map(|_| match change(rng) {
            // There is one process yet.
            Call::OpenNamespace(_) => Call::OpenNamespace(0),
            call => call,
        }));
        let threads = (0..3)
            .map(|_| {
                let call = |_| match rng.random_range(0..20) {
                    0..13 => change(rng),
                    13 => Call::List,
                    14 => Call::Count,
                    15 => Call::LookupAt(descriptor(rng), any(&PATHS, rng)),
                    _ => Call::Lookup(any(&PATHS, rng)),
                };
                (0..3).map(call).collect()
            })
            .collect();
        Program { setup, threads }
    }
}

fn any<T: Copy>(choices: &[T], rng: &mut SmallRng) -> T {
    *choices.choose(rng).expect("there are some")
}

/// The first ones are there most often.
fn descriptor(rng: &mut SmallRng) -> usize {
    any(&[0, 0, 0, 1, 1, 2], rng)
}

fn change(rng: &mut SmallRng, dev: u32) -> Call {
    if rng.random_bool(0.4) { change_by_descriptor(rng, dev) } else { change_by_path(rng, dev) }
}

fn change_by_path(rng: &mut SmallRng, dev: u32) -> Call {
    let (path, mountpoint) =
        (|rng: &mut SmallRng| any(&PATHS, rng), |rng: &mut SmallRng| any(&MOUNTPOINTS, rng));
    match rng.random_range(0..28) {
        0..6 => Call::Mount(path(rng), dev),
        6..9 => Call::Bind(path(rng), path(rng), rng.random_bool(0.4)),
        9..12 => Call::Move(mountpoint(rng), path(rng)),
        12..15 => Call::Make(mountpoint(rng), any(&TYPES, rng)),
        15..20 => Call::Umount(mountpoint(rng), rng.random_bool(0.4)),
        20..22 => Call::Pivot(mountpoint(rng), path(rng)),
        22 => Call::Chdir(path(rng)),
        23 => Call::Chroot(path(rng)),
        24 => Call::MovePath(mountpoint(rng), mountpoint(rng), abi::MOVE_MOUNT_BENEATH),
        25 => Call::MovePath(mountpoint(rng), mountpoint(rng), abi::MOVE_MOUNT_SET_GROUP),
        26 => Call::SetAttr(mountpoint(rng), rng.random_bool(0.5), attributes(rng)),
        _ => Call::Unshare,
    }
}

fn change_by_descriptor(rng: &mut SmallRng, dev: u32) -> Call {
    let (path, mountpoint) =
        (|rng: &mut SmallRng| any(&PATHS, rng), |rng: &mut SmallRng| any(&MOUNTPOINTS, rng));
    match rng.random_range(0..24) {
        0..5 => Call::OpenTree(path(rng), rng.random_bool(0.6)),
        5 => Call::OpenPlace(path(rng)),
        6..8 => Call::FsMount(dev),
        8..13 => Call::MoveFile(descriptor(rng), path(rng), 0),
        13 => Call::MoveFile(descriptor(rng), mountpoint(rng), abi::MOVE_MOUNT_BENEATH),
        14 => Call::MoveFile(descriptor(rng), mountpoint(rng), abi::MOVE_MOUNT_SET_GROUP),
        15..17 => Call::SetAttrFile(descriptor(rng), rng.random_bool(0.5), attributes(rng)),
        17..19 => Call::OpenNamespace(any(&[0, 0, 1, 2], rng)),
        19..21 => Call::SetNs(descriptor(rng)),
        21 => Call::Fchdir(descriptor(rng)),
        _ => Call::Close(descriptor(rng)),
    }
}

/// Attributes to set and to clear, and a propagation type.
fn attributes(rng: &mut SmallRng) -> [u32; 3] {
    let flags = [0, abi::MOUNT_ATTR_RDONLY, abi::MOUNT_ATTR_NODEV];
    [any(&flags, rng), any(&flags, rng), any(&[0, 0, abi::MS_SHARED, abi::MS_SLAVE, abi::MS_PRIVATE], rng)]
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

/// Lets all threads begin at once. One that sleeps until then, as at the standard library's barrier, comes late: calls
/// are over in a few microseconds.
struct Start(AtomicUsize);

impl Start {
    fn of(threads: usize) -> Self {
        Start(AtomicUsize::new(threads))
    }

    fn wait(&self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
        let mut spins = 0;
        while self.0.load(Ordering::SeqCst) != 0 {
            spins += 1;
            if spins % 1000 == 0 { thread::yield_now() } else { std::hint::spin_loop() }
        }
    }
}

/// Runs `program`, a thread for each task.
pub(crate) fn record(program: &Program) -> History {
    let world = World::new(&program.setup);
    world.give_way();
    let (clock, start) = (AtomicU64::new(0), Start::of(program.threads.len()));
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
