//! The whole run: build the forest, print it back, stress it in rounds with checks between them, take everything down,
//! and count what is left.
//!
//! Workers come in pairs: even ones look, odd ones change. A round lasts a second; between rounds all workers have
//! returned, which is when the checker looks at every invariant of every namespace. The operations of a worker are drawn
//! from the seed and the worker's index alone: same seed, same sequence.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use mnt_table::check::check;
use mnt_table::sync::Mutex;
use mnt_table::{LockPlan, MntNamespace, Mount, mount, reclaim, walk, write_set};
use propagate::umount::detach;
use propagate::with_locks;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use syscalls::mountinfo::MountInfo;
use tmpfs::TmpDentry;

use crate::arena::Arenas;
use crate::changes::{Done, Files, Writer};
use crate::env::Env;
use crate::forest::Forest;
use crate::lookups::{Covers, Reader};
use crate::protocol::{Message, Outcome, Progress};
use crate::world::{BuildError, World};

/// Length of a round, in nanoseconds.
const ROUND_NS: u64 = 1_000_000_000;

/// Lookups between looks at the clock.
const LOOKUPS_PER_TASK: usize = 64;

/// Violations that are printed; all are counted.
const PRINTED_MAX: u64 = 20;

/// Namespaces that are there to be pivoted in.
const PIVOTS: u32 = 2;

/// What to do.
#[derive(Clone, Copy, Debug)]
pub struct Job {
    /// How long to stress, in seconds.
    pub seconds: u32,
    /// Where the operations of every worker come from.
    pub seed: u64,
}

/// What workers hand over at the end of a round.
struct Worker {
    rng: SmallRng,
    writer: Done,
    files: Option<Files>,
    lookups: u64,
}

struct Run<'a> {
    env: &'a dyn Env,
    workers: Vec<Mutex<Worker>>,
    violations: AtomicU64,
    peak: AtomicU64,
    checks: u64,
}

/// Runs `job` on `forest`. The forest's own lines come back as `@mountinfo` messages before the stress begins.
///
/// # Errors
/// The forest could not be built.
pub fn run(env: &dyn Env, job: &Job, forest: &Forest) -> Result<Outcome, BuildError> {
    let before = Left::now();
    let mut run = Run {
        env,
        workers: (0..env.workers()).map(|index| Mutex::new(Worker::new(job.seed, index))).collect(),
        violations: AtomicU64::new(0),
        peak: AtomicU64::new(0),
        checks: 0,
    };
    let world = World::build(forest)?;
    let listed = run.list(&world);
    for (place, lines) in world.places.iter().zip(&listed) {
        for line in lines {
            run.tell(&Message::mountinfo(&place.name, line));
        }
    }
    run.check(&world.namespaces());
    let stressed_ns = {
        let arenas = Arenas::new(&world, PIVOTS)?;
        let covers = Covers::default();
        let began = env.now_ns();
        let end = began + u64::from(job.seconds) * ROUND_NS;
        while env.now_ns() < end {
            let round_end = end.min(env.now_ns() + ROUND_NS);
            env.run(&|index| run.work(index, round_end, &world, &arenas, &covers));
            let namespaces = world
                .namespaces()
                .into_iter()
                .chain(arenas.pivots.iter().map(|pivot| pivot.task.namespace()));
            run.check(&namespaces.collect::<Vec<_>>());
            run.progress(began);
        }
        (env.now_ns() - began).max(1)
    };
    run.take_down(&world);
    run.check(&world.namespaces());
    for ((place, before), after) in world.places.iter().zip(&listed).zip(run.list(&world)) {
        if *before != after {
            run.violation(&format!("{}: its mounts are not what they were before the stress", place.name));
        }
    }
    drop(world);
    run.workers.iter().for_each(|worker| worker.lock().files = None);
    env.quiesce();
    Ok(run.outcome(stressed_ns, &before, &Left::now()))
}

/// What exists of everything that must be gone at the end.
struct Left {
    mounts: u64,
    dentries: u64,
    bytes: u64,
}

impl Left {
    fn now() -> Self {
        let files = tmpfs::stats();
        Left {
            mounts: mount::live_mounts(),
            dentries: u64::try_from(files.dentries).unwrap_or(0),
            bytes: reclaim::stats().deferred_bytes,
        }
    }
}

impl Worker {
    fn new(seed: u64, index: usize) -> Self {
        let rng = SmallRng::seed_from_u64(seed ^ (index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        Worker { rng, writer: Done::default(), files: Some(Files::new(index)), lookups: 0 }
    }
}

impl Run<'_> {
    /// A round of one worker.
    fn work(&self, index: usize, end: u64, world: &World, arenas: &Arenas, covers: &Covers) {
        // Nobody else locks it during a round, so it may be taken out.
        let (mut rng, mut done, files, mut lookups) = {
            let mut worker = self.workers[index].lock();
            (worker.rng.clone(), worker.writer, worker.files.take(), worker.lookups)
        };
        let reader = Reader { world, arenas, covers };
        let files = files.unwrap_or_else(|| Files::new(index));
        let mut writer = Writer { env: self.env, world, arenas, covers, files, done };
        while self.env.now_ns() < end {
            let place = rng.random_range(0..world.places.len());
            let task = world.places[place].walker.fork().expect("there is memory");
            if index.is_multiple_of(2) {
                let held = reader.hold(&task, &mut rng);
                for _ in 0..LOOKUPS_PER_TASK {
                    self.report(reader.look(&task, place, &mut rng));
                }
                lookups += LOOKUPS_PER_TASK as u64;
                drop(held);
            } else {
                self.report(writer.change(&task, place, &mut rng));
            }
            // Relaxed: statistics.
            self.peak.fetch_max(reclaim::stats().deferred_bytes, Ordering::Relaxed);
        }
        done = writer.done;
        let mut worker = self.workers[index].lock();
        *worker = Worker { rng, writer: done, files: Some(writer.files), lookups };
    }

    fn report(&self, result: Result<(), String>) {
        if let Err(line) = result {
            self.violation(&line);
        }
    }

    fn violation(&self, line: &str) {
        // Relaxed: a count.
        if self.violations.fetch_add(1, Ordering::Relaxed) < PRINTED_MAX {
            self.env.print(format!("violation: {line}\n").as_bytes());
        }
    }

    fn check(&mut self, namespaces: &[Arc<MntNamespace<TmpDentry>>]) {
        self.checks += 1;
        let report = check(namespaces);
        for line in report.violations {
            self.violation(&line);
        }
        // Nothing is renamed here.
        if report.strayed != 0 {
            self.violation(&format!("I2: {} mounts are attached above their parents' roots", report.strayed));
        }
    }

    /// The mountinfo of every namespace.
    fn list(&self, world: &World) -> Vec<Vec<MountInfo>> {
        let list = |place| world.mountinfo(place);
        let lists = world.places.iter().map(|place| {
            list(place).unwrap_or_else(|error| {
                self.violation(&format!("{}: no mountinfo: {error}", place.name));
                Vec::new()
            })
        });
        lists.collect()
    }

    fn progress(&self, began: u64) {
        let sum = |of: fn(&Worker) -> u64| self.workers.iter().map(|worker| of(&worker.lock())).sum();
        let progress = Progress {
            elapsed_ms: (self.env.now_ns() - began) / 1_000_000,
            lookups: sum(|worker| worker.lookups),
            operations: sum(|worker| worker.writer.operations),
            mounts: mount::live_mounts(),
            deferred_bytes: reclaim::stats().deferred_bytes,
            violations: self.violations.load(Ordering::Relaxed),
        };
        self.tell(&Message::Progress(progress));
    }

    fn tell(&self, message: &Message) {
        self.env.print(&message.to_line());
    }

    /// Removes what writers could not: mounts that were propagated somewhere, and stayed when their source went.
    fn take_down(&mut self, world: &World) {
        let original: BTreeSet<u64> = world.original.iter().copied().collect();
        for ns in world.namespaces() {
            while let Some(mount) = foreign(&ns, &original) {
                let removed = with_locks(LockPlan::new(&ns), |locks| {
                    if locks.is_in(&mount, &ns) { detach(locks, &mount) } else { Ok(0) }
                });
                if let Err(error) = removed {
                    self.violation(&format!("a mount of the job cannot be removed: {error:?}"));
                    return;
                }
            }
        }
    }

    fn outcome(&self, stressed_ns: u64, before: &Left, left: &Left) -> Outcome {
        let mut sum = Done::default();
        let mut lookups = 0;
        for worker in &self.workers {
            let worker = worker.lock();
            let one = &worker.writer;
            lookups += worker.lookups;
            let fields: [(&mut u64, u64); 13] = [
                (&mut sum.operations, one.operations),
                (&mut sum.mounts, one.mounts),
                (&mut sum.umounts, one.umounts),
                (&mut sum.lazy_umounts, one.lazy_umounts),
                (&mut sum.binds, one.binds),
                (&mut sum.rbinds, one.rbinds),
                (&mut sum.moves, one.moves),
                (&mut sum.type_changes, one.type_changes),
                (&mut sum.pivots, one.pivots),
                (&mut sum.propagated_mounts, one.propagated_mounts),
                (&mut sum.namespace_clones, one.namespace_clones),
                (&mut sum.removals, one.removals),
                (&mut sum.failed, one.failed),
            ];
            fields.into_iter().for_each(|(sum, one)| *sum += one);
        }
        let walks = walk::stats();
        // Relaxed: at rest.
        let escalations = write_set::ESCALATIONS.load(Ordering::Relaxed) as u64;
        let more = [
            ("operations", sum.operations),
            ("lazy_umounts", sum.lazy_umounts),
            ("rbinds", sum.rbinds),
            ("type_changes", sum.type_changes),
            ("removals", sum.removals),
            ("failed_operations", sum.failed),
            ("refused_for_memory", reclaim::stats().refused),
            ("lock_escalations", escalations),
        ];
        Outcome {
            lookups,
            lookups_per_second: (u128::from(lookups) * u128::from(ROUND_NS) / u128::from(stressed_ns)) as u64,
            walk_retries: walks.retries,
            locked_walks: walks.locked,
            mounts: sum.mounts,
            umounts: sum.umounts + sum.lazy_umounts,
            binds: sum.binds + sum.rbinds,
            moves: sum.moves,
            pivots: sum.pivots,
            propagated_mounts: sum.propagated_mounts,
            namespace_clones: sum.namespace_clones,
            checks: self.checks,
            violations: self.violations.load(Ordering::Relaxed),
            peak_deferred_bytes: self.peak.load(Ordering::Relaxed),
            leaked_mounts: left.mounts.saturating_sub(before.mounts),
            leaked_dentries: left.dentries.saturating_sub(before.dentries),
            leaked_bytes: left.bytes.saturating_sub(before.bytes),
            more: more.into_iter().map(|(name, value)| (name.to_string(), value)).collect::<BTreeMap<_, _>>(),
        }
    }
}

/// A mount of `ns` that is not one of `original`, whose parent is.
fn foreign(ns: &Arc<MntNamespace<TmpDentry>>, original: &BTreeSet<u64>) -> Option<Arc<Mount<TmpDentry>>> {
    let mut plan = LockPlan::new(ns);
    let locks = plan.lock().expect("there is memory");
    locks.mounts(ns).find(|mount| !original.contains(&mount.unique_id())).cloned()
}
