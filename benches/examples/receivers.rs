//! What a mount costs for each of its receivers, as there are more of them, and what a line of mountinfo costs for each
//! mount of a slave namespace.
//!
//! Both sides of a comparison are of the same size as a whole, so that they miss the same caches: one master with all the
//! slaves, and many masters with few of them each.
//!
//! By the clock this also shows what more memory than a cache costs: a change of many mounts goes over them several times.
//! What the work itself is, `valgrind --tool=callgrind` tells of the things `few` and `many` of the example `work`.
//!
//! Exit status 1 if a receiver among the most costs more than [`MOST`] times what one among the fewest does, or a line
//! of the slave namespace more than [`MOST`] times one of a private one. All are compared in the same rounds.

use std::process::ExitCode;
use std::time::Instant;

use benches::machine;
use benches::namespace::{Instance, Namespace, Sharing};
use benches::receivers::{FEW, MANY, masters, places};
use benches::spread::Spread;
use linux_raw_sys::general::{MS_REC, MS_SLAVE};

const ROUNDS: usize = 15;
const MOST: f64 = 1.2;

/// Seconds that a mount on each master, and its umount, cost for each slave.
fn deliver(ns: &Namespace, slaves: usize) -> (f64, f64) {
    let paths = places(slaves);
    let start = Instant::now();
    paths.iter().for_each(|path| ns.mount(Instance::Prepared, path));
    let mounted = Instant::now();
    paths.iter().for_each(|path| ns.umount(path));
    ((mounted - start).as_secs_f64() / MANY as f64, mounted.elapsed().as_secs_f64() / MANY as f64)
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
    let (few, many) = (masters(FEW), masters(MANY));
    let delivered: Vec<_> = (0..ROUNDS).map(|_| (deliver(&few, FEW), deliver(&many, MANY))).collect();
    println!("{MANY} slaves as a multiple of {FEW}, per receiver; median (quartiles) of {ROUNDS} rounds");
    let mount = report("mount", delivered.iter().map(|(few, many)| many.0 / few.0));
    let umount = report("umount", delivered.iter().map(|(few, many)| many.1 / few.1));
    let (private, shared) = (full(Sharing::Private), full(Sharing::Shared));
    let slave = shared.unshared();
    slave.make("/", MS_SLAVE | MS_REC);
    println!("a slave namespace with {MANY} mounts as a multiple of a private one, per line of mountinfo");
    let lines = report("mountinfo", (0..ROUNDS).map(|_| list(&slave) / list(&private)));
    if mount && umount && lines { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
