//! What a mount costs for each of its receivers, as there are more of them, and what a line of mountinfo costs for each
//! mount of a slave namespace.
//!
//! Both sides of a comparison are of the same size as a whole, so that they miss the same caches: one master with all the
//! slaves, and many masters with few of them each. A third world has one master with few slaves and nothing else: all of
//! that stays in the nearest cache, so it also shows what more memory than that costs.
//!
//! What the work itself is, `valgrind --tool=callgrind` tells of the things `few` and `many` of the example `work`.
//!
//! Exit status 1 if a receiver among the most costs more than [`MOST`] times what one among the fewest does, or a line
//! of the slave namespace more than [`MOST`] times one of a private one. All are compared in the same rounds.

use std::process::ExitCode;
use std::time::Instant;

use benches::machine;
use benches::namespace::{Instance, Namespace, Sharing};
use benches::receivers::{FEW, MANY, masters, places, some_masters};
use benches::spread::Spread;
use linux_raw_sys::general::{MS_REC, MS_SLAVE};

const ROUNDS: usize = 31;
const MOST: f64 = 1.2;

/// Nanoseconds that a mount and its umount cost for each receiver.
#[derive(Clone, Copy)]
struct Cost {
    mount: f64,
    umount: f64,
}

/// What one of each costs.
struct Round {
    alone: Cost,
    few: Cost,
    many: Cost,
}

/// Mounts on each master, and umounts.
fn deliver(ns: &Namespace, slaves: usize) -> Cost {
    deliver_to(ns, &places(slaves), 1)
}

/// Mounts and umounts on `paths`, which have [`MANY`] receivers in all the `times` together.
fn deliver_to(ns: &Namespace, paths: &[String], times: usize) -> Cost {
    let mut cost = Cost { mount: 0.0, umount: 0.0 };
    for _ in 0..times {
        let start = Instant::now();
        paths.iter().for_each(|path| ns.mount(Instance::Prepared, path));
        let mounted = Instant::now();
        paths.iter().for_each(|path| ns.umount(path));
        cost.mount += (mounted - start).as_nanos() as f64 / MANY as f64;
        cost.umount += mounted.elapsed().as_nanos() as f64 / MANY as f64;
    }
    cost
}

/// Seconds per line of mountinfo.
fn list(ns: &Namespace) -> f64 {
    let start = Instant::now();
    let lines = ns.mountinfo_len();
    start.elapsed().as_secs_f64() / lines as f64
}

/// A namespace with [`MANY`] mounts.
fn full(sharing: Sharing) -> Namespace {
    let ns = Namespace::new(2, sharing);
    for mount in 0..MANY {
        let path = format!("/d{mount}");
        ns.mkdir(&path[1..]);
        ns.mount(Instance::Prepared, &path);
    }
    ns
}

fn report(what: &str, ratios: impl Iterator<Item = f64>) -> bool {
    let spread = Spread::of(ratios);
    let good = spread.median <= MOST;
    println!("  {what}: {spread}{}", if good { "" } else { "  TOO MUCH" });
    good
}

fn main() -> ExitCode {
    println!("{}", machine::describe());
    let (few, many, alone) = (masters(FEW), masters(MANY), some_masters(1, FEW));
    let round = |_| Round {
        alone: deliver_to(&alone, &places(FEW)[..1], MANY / FEW),
        few: deliver(&few, FEW),
        many: deliver(&many, MANY),
    };
    let rounds: Vec<Round> = (0..ROUNDS).map(round).collect();
    let all = |of: fn(&Round) -> f64| Spread::of(rounds.iter().map(of));
    println!("ns per receiver; median (quartiles) of {ROUNDS} rounds");
    println!("  {FEW} slaves, alone: mount {}, umount {}", all(|r| r.alone.mount), all(|r| r.alone.umount));
    println!("  {FEW} slaves: mount {}, umount {}", all(|r| r.few.mount), all(|r| r.few.umount));
    println!("  {MANY} slaves: mount {}, umount {}", all(|r| r.many.mount), all(|r| r.many.umount));
    println!("{MANY} slaves as a multiple of {FEW} alone, all of which the nearest cache holds");
    println!("  mount: {}", all(|r| r.many.mount / r.alone.mount));
    println!("  umount: {}", all(|r| r.many.umount / r.alone.umount));
    println!("{MANY} slaves as a multiple of {FEW}");
    let mount = report("mount", rounds.iter().map(|r| r.many.mount / r.few.mount));
    let umount = report("umount", rounds.iter().map(|r| r.many.umount / r.few.umount));
    let (private, shared) = (full(Sharing::Private), full(Sharing::Shared));
    let slave = shared.unshared();
    slave.make("/", MS_SLAVE | MS_REC);
    println!("a slave namespace with {MANY} mounts as a multiple of a private one, per line of mountinfo");
    let lines = report("mountinfo", (0..ROUNDS).map(|_| list(&slave) / list(&private)));
    if mount && umount && lines { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
