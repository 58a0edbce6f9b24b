//! The main job where every writer lingers with what it did, so that whatever two of them can do to each other happens in
//! seconds: stacks of binds, covers over covers and over what is on its way out, all with propagation.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use stress::env::{Env, Host};
use stress::forest::{Forest, Namespace};
use stress::job::{self, Job};

/// Threads of this host that take their time.
struct Slow {
    host: Host,
    given_way: AtomicU64,
}

impl Env for Slow {
    fn workers(&self) -> usize {
        self.host.workers()
    }

    fn run(&self, work: &(dyn Fn(usize) + Sync)) {
        self.host.run(work);
    }

    fn give_way(&self) {
        self.given_way.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(1));
    }

    fn now_ns(&self) -> u64 {
        self.host.now_ns()
    }

    fn print(&self, line: &[u8]) {
        self.host.print(line);
    }

    fn quiesce(&self) {
        self.host.quiesce();
    }
}

/// A host, two clones of its namespace that receive from it, and one that is its peer. Few paths, so that writers meet.
fn forest() -> Forest {
    let lines = |first: u32, groups: &dyn Fn(u32) -> String| {
        let mounts = [("/", 0), ("/sys", 1), ("/sys/fs", 2), ("/usr", 1), ("/usr", 4), ("/run", 1)];
        let line = |(at, (path, parent)): (u32, &(&str, u32))| {
            let (id, parent, tags) = (first + at, first + parent - 1, groups(at + 1));
            format!("{id} {parent} 0:{} / {path} rw,relatime {tags} - tmpfs t{at} rw\n", at + 1)
        };
        (0..).zip(&mounts).map(line).collect::<String>()
    };
    let texts = [
        ("host", lines(11, &|group| format!("shared:{group}"))),
        ("peer", lines(21, &|group| format!("shared:{group}"))),
        ("one", lines(31, &|group| format!("shared:{} master:{group}", group + 10))),
        ("two", lines(41, &|group| format!("shared:{} master:{group}", group + 20))),
    ];
    let namespaces = texts.iter().map(|(name, text)| Namespace::read(name, name, text.as_bytes()).unwrap());
    Forest::new(namespaces.collect()).unwrap()
}

#[test]
fn writers_that_meet_undo_only_what_is_theirs() {
    let env = Slow { host: Host::new(16), given_way: AtomicU64::new(0) };
    let job = Job { seconds: 4, seed: 7 };
    let outcome = job::run(&env, &job, &forest()).unwrap();
    assert!(env.given_way.load(Ordering::Relaxed) > 100, "hardly anybody lingered");
    assert!(outcome.is_clean(), "seed {}: {outcome:?}", job.seed);
}
