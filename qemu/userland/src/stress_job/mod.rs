//! The stress from user space: a forest built through system calls, processes that look and processes that change, some of
//! them killed at random moments, checks in between, everything taken down, and nothing left.
//!
//! | module | what |
//! |---|---|
//! | `build`, `place` | the forest; a namespace of it from outside and inside |
//! | `reader`, `writer`, `nested` | lookups that check; changes; namespaces of a process's own, pivots, programs, threads |
//! | `shared` | counters in shared memory |
//!
//! 1. [`run`] counts what there is, and again at the end: mounts, dentries, inodes, threads, processes, memory.
//! 2. In between a process builds the forest, and keeps it by descriptors. Each round of a second it starts two workers for
//!    each CPU, one that looks and one that changes; it kills one after the other and starts others instead. At the end
//!    of the round all have ended, with all that they started, and the kernel checks its invariants.
//! 3. What workers left is unmounted, the mounts must be what they were, and the process ends.

use std::collections::{HashMap, HashSet};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rustix::fs::CWD;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Resource, Rlimit, chdir, fchdir, setrlimit};
use stress::forest::Forest;
use stress::protocol::{Message, Outcome, Progress};
use syscalls::mountinfo::MountInfo;

use crate::{debug_call, sys};
use build::World;
use place::mountinfo;
use shared::{Shared, add};

mod build;
mod nested;
mod place;
mod reader;
mod shared;
mod writer;

pub(crate) use nested::probe;

/// Length of a round.
const ROUND_NS: u64 = 1_000_000_000;
/// Changes in one visit to a place.
const CHANGES: usize = 16;
/// How long processes may go on after a round: one is in the middle of something, and the machine may be slow.
const GRACE_NS: u64 = 60_000_000_000;

/// What to do.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The forest
    forest: PathBuf,
    /// How long to stress
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Where the operations of every worker come from
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Counters of the kernel whose rise is a leak, and their names in the result; the first three have fields of their own.
pub(crate) const LEAKS: [(&str, &str); 8] = [
    ("mounts", "leaked_mounts"),
    ("dentries", "leaked_dentries"),
    ("deferred_bytes", "leaked_bytes"),
    ("inodes", "leaked_inodes"),
    ("super_blocks", "leaked_super_blocks"),
    ("file_bytes", "leaked_file_bytes"),
    ("threads", "leaked_threads"),
    ("processes", "leaked_processes"),
];

/// Counters of the kernel whose rise the result has.
const HAPPENED: [&str; 8] = [
    "forks",
    "execs",
    "syscalls",
    "faults",
    "walk_retries",
    "locked_walks",
    "lock_escalations",
    "refused_for_memory",
];

/// Runs it all. Whether nothing was wrong.
pub(crate) fn run(args: &Args) -> Result<bool> {
    let shared = Shared::map()?;
    let image =
        std::fs::read(&args.forest).with_context(|| format!("cannot read {}", args.forest.display()))?;
    let forest = Forest::from_image(&image)?;
    let before = debug_call::settled();
    if let Err(error) = &before {
        println!("this kernel does not tell what it counts ({error}): leaks are not looked for");
    }
    let pid = sys::fork(|| match hold(&forest, args, shared) {
        Ok(()) => 0,
        Err(error) => {
            shared.violation(&format!("{error:#}"));
            1
        }
    })?;
    if let Some((_, status)) = sys::wait(pid).filter(|(_, status)| *status > 1) {
        shared.violation(&format!("the process that has the forest ended with {status}"));
    }
    let outcome = outcome(shared, before.ok())?;
    let clean = outcome.is_clean();
    tell(&Message::Result(outcome));
    Ok(clean)
}

fn tell(message: &Message) {
    print!("{}", String::from_utf8_lossy(&message.to_line()));
}

/// Builds the forest, stresses it, and takes everything down; the forest goes when this process ends.
fn hold(forest: &Forest, args: &Args, shared: &Shared) -> Result<()> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    // A forest is held by descriptors: some for each group, superblock and namespace.
    let many = Some(1 << 20);
    setrlimit(Resource::Nofile, Rlimit { current: many, maximum: many }).context("so many descriptors")?;
    let world = World::build(forest).context("the forest cannot be built")?;
    for place in &world.places {
        place.lines.iter().for_each(|line| tell(&Message::mountinfo(&place.name, line)));
    }
    check(shared);
    let began = sys::now_ns();
    let end = began + args.seconds * ROUND_NS;
    let mut round = 0;
    while sys::now_ns() < end {
        round += 1;
        let round_end = end.min(sys::now_ns() + ROUND_NS);
        let pace = Pace { seed: args.seed, round, end: round_end };
        pace.run(&world, shared);
        check(shared);
        progress(began, shared);
    }
    shared.stressed_ns.store(sys::now_ns() - began, Ordering::Relaxed);
    for place in &world.places {
        take_down(&world, place, shared).with_context(|| place.name.clone())?;
    }
    check(shared);
    for place in &world.places {
        place.enter()?;
        if mountinfo(&world.proc)? != place.lines {
            shared.violation(&format!("{}: its mounts are not what they were before the stress", place.name));
        }
        world.leave()?;
    }
    Ok(())
}

/// Has the kernel look at every invariant.
fn check(shared: &Shared) {
    if let Ok(lines) = debug_call::check() {
        add(&shared.checks, 1);
        lines.iter().for_each(|line| shared.violation(line));
    }
}

/// One round.
struct Pace {
    seed: u64,
    round: u64,
    end: u64,
}

impl Pace {
    fn run(&self, world: &World, shared: &Shared) {
        let count = 2 * sys::cpus();
        let mut rng = self.rng(0);
        let mut workers: Vec<i32> =
            (0..count).filter_map(|index| self.start(index, 0, world, shared)).collect();
        let mut killed = HashSet::new();
        let mut generation = 0;
        while sys::now_ns() < self.end {
            std::thread::sleep(Duration::from_micros(rng.random_range(500..100_000)));
            let index = rng.random_range(0..workers.len().max(1));
            if let Some(worker) = workers.get_mut(index)
                && rng.random_ratio(1, 2)
            {
                sys::kill(*worker);
                killed.insert(*worker);
                add(&shared.kills, 1);
                generation += 1;
                if let Some(fresh) = self.start(index, generation, world, shared) {
                    *worker = fresh;
                }
            }
            while let Ok(Some(ended)) = sys::wait_now() {
                self.ended(ended, &killed, shared);
            }
        }
        loop {
            match sys::wait_now() {
                Err(_) => return,
                Ok(Some(ended)) => self.ended(ended, &killed, shared),
                Ok(None) if sys::now_ns() > self.end + GRACE_NS => {
                    shared.violation("a process does not end");
                    return;
                }
                Ok(None) => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    }

    /// A worker that ended by itself did so for a reason, and others of its kind by nothing but the death of a parent.
    fn ended(&self, (pid, status): (i32, u8), killed: &HashSet<i32>, shared: &Shared) {
        const KILLED: u8 = 128 + 9;
        if status != 0 && status != KILLED && !killed.contains(&pid) {
            shared.violation(&format!("process {pid} ended with {status}"));
        }
    }

    fn rng(&self, index: u64) -> SmallRng {
        let mixed =
            (index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ self.round.wrapping_mul(0xd1b5_4a32_d192_ed03);
        SmallRng::seed_from_u64(self.seed ^ mixed)
    }

    /// Starts a worker, if there is memory for one.
    fn start(&self, index: usize, generation: u64, world: &World, shared: &Shared) -> Option<i32> {
        let body = || {
            let mut rng = self.rng(1 + index as u64 + (generation << 16));
            while sys::now_ns() < self.end {
                let place = &world.places[rng.random_range(0..world.places.len())];
                if let Err(error) = place.enter() {
                    shared.violation(&format!("{}: {error:#}", place.name));
                    return 1;
                }
                if index.is_multiple_of(2) {
                    reader::visit(world, place, &mut rng, shared);
                    continue;
                }
                writer::changes(world, place, CHANGES, &mut rng, shared);
                if rng.random_ratio(1, 3) {
                    nested::run(world, place, &mut rng, shared);
                }
            }
            0
        };
        sys::fork(body).ok()
    }
}

fn progress(began: u64, shared: &Shared) {
    let kernel = debug_call::counters().unwrap_or_default();
    let count = |name: &str| kernel.get(name).copied().unwrap_or(0);
    shared.peak_deferred_bytes.fetch_max(count("deferred_bytes"), Ordering::Relaxed);
    tell(&Message::Progress(Progress {
        elapsed_ms: (sys::now_ns() - began) / 1_000_000,
        lookups: shared.lookups.load(Ordering::Relaxed),
        operations: shared.operations.load(Ordering::Relaxed),
        mounts: count("mounts"),
        deferred_bytes: count("deferred_bytes"),
        violations: shared.violations.load(Ordering::Relaxed),
    }));
}

/// Unmounts what workers left.
fn take_down(world: &World, place: &place::Place, shared: &Shared) -> Result<()> {
    place.enter()?;
    let original: HashMap<u32, usize> = place.lines.iter().map(|line| line.id).zip(0..).collect();
    loop {
        let lines = mountinfo(&world.proc)?;
        let by_id: HashMap<u32, &MountInfo> = lines.iter().map(|line| (line.id, line)).collect();
        let left: Vec<_> = lines.iter().rev().filter(|line| !original.contains_key(&line.id)).collect();
        if left.is_empty() {
            break;
        }
        let mut gone = 0;
        for line in &left {
            // From the mount of the forest that it is on, which may be under others: propagation finds those too.
            let Some((from, path)) = way_to(line, &by_id, &original) else { continue };
            fchdir(&place.mounts[from])?;
            let leads_there = |(_, found): (_, place::Found)| found.mount == u64::from(line.id);
            if place::find(CWD, path).is_ok_and(leads_there)
                && unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).is_ok()
            {
                gone += 1;
            }
        }
        if gone == 0 {
            shared.violation(&format!("{}: these cannot be unmounted", place.name));
            left.iter().for_each(|line| println!("  {line}"));
            break;
        }
    }
    chdir("/")?;
    world.leave()
}

/// Which mount of the forest `line` is on, and the path from there.
fn way_to<'a>(
    line: &'a MountInfo,
    lines: &HashMap<u32, &MountInfo>,
    original: &HashMap<u32, usize>,
) -> Option<(usize, &'a Path)> {
    let mut at = line;
    // No chain is longer than the list.
    for _ in 0..lines.len() {
        at = lines.get(&at.parent)?;
        if let Some(index) = original.get(&at.id) {
            let path = line.mountpoint.strip_prefix(&at.mountpoint[..])?;
            let path = path.strip_prefix(b"/").unwrap_or(path);
            return Some((*index, Path::new(std::ffi::OsStr::from_bytes(path))));
        }
    }
    None
}

/// What there is to say at the end.
fn outcome(shared: &Shared, before: Option<std::collections::BTreeMap<String, u64>>) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    if let Some(before) = before {
        let after = debug_call::settled()?;
        let rise = |name: &str| {
            let of =
                |counters: &std::collections::BTreeMap<String, u64>| counters.get(name).copied().unwrap_or(0);
            of(&after).saturating_sub(of(&before))
        };
        for (name, shown) in LEAKS {
            let leaked = rise(name);
            match shown {
                "leaked_mounts" => outcome.leaked_mounts = leaked,
                "leaked_dentries" => outcome.leaked_dentries = leaked,
                "leaked_bytes" => outcome.leaked_bytes = leaked,
                _ => {
                    if leaked > 0 {
                        shared.violation(&format!("{leaked} {name} are left"));
                    }
                    outcome.more.insert(shown.to_owned(), leaked);
                }
            }
        }
        outcome.walk_retries = rise("walk_retries");
        outcome.locked_walks = rise("locked_walks");
        outcome.propagated_mounts = rise("propagated_mounts");
        for name in HAPPENED.into_iter().filter(|name| !name.contains("walk")) {
            outcome.more.insert(name.to_owned(), rise(name));
        }
    }
    let stressed_ns = shared.stressed_ns.load(Ordering::Relaxed).max(1);
    for (name, value) in shared.rows() {
        match name {
            "lookups" => outcome.lookups = value,
            "mounts" => outcome.mounts = value,
            "umounts" => outcome.umounts += value,
            "lazy_umounts" => outcome.umounts += value,
            "binds" => outcome.binds += value,
            "rbinds" => outcome.binds += value,
            "moves" => outcome.moves = value,
            "pivots" => outcome.pivots = value,
            "namespace_clones" => outcome.namespace_clones = value,
            "checks" => outcome.checks = value,
            "violations" => outcome.violations = value,
            "peak_deferred_bytes" => outcome.peak_deferred_bytes = value,
            _ => {}
        }
        let is_field = [
            "lookups",
            "mounts",
            "umounts",
            "binds",
            "moves",
            "pivots",
            "namespace_clones",
            "checks",
            "violations",
            "peak_deferred_bytes",
            "stressed_ns",
        ];
        if !is_field.contains(&name) {
            outcome.more.insert(name.to_owned(), value);
        }
    }
    outcome.lookups_per_second =
        (u128::from(outcome.lookups) * u128::from(ROUND_NS) / u128::from(stressed_ns)) as u64;
    Ok(outcome)
}
