//! Memory that runs out in the middle of any operation: it fails as a whole, and nothing is left of it.
//!
//! Each operation is run again and again in the same setting; the k-th time, its k-th allocation or claim is refused. Until
//! the operation needs fewer than k: it must have failed with `ENOMEM` and changed nothing that can be seen, or have done
//! all its work without what was refused; it must do all its work when it is called again; and when the world ends,
//! nothing is left of it, neither mounts, dentries, identifiers nor bytes: exactly as many are allocated as before, but for the
//! nodes of the collector's queue, which are known by their size, and few.
//!
//! What cannot be refused and is not covered by a claim aborts the process: see [`injector`].

mod calls;
mod cases;
mod injector;
#[path = "../kernel/mod.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod kernel;
mod world;

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};

use mnt_table::{mount, reclaim};
use propagate::Error;
use syscalls::Errno;

use cases::{Case, cases};
use injector::{QUEUE_NODE, live_bytes, live_nodes, refuse};

/// Nodes of its queue that the collector has at rest, at most: the one that the queue begins with; and for each of the epochs
/// that a bag waits for, the bag's own, and the one that the queue began with before, whose end is in that bag. Each bag
/// that ends makes the next, so there is no rest without any.
const NODES_AT_REST: i64 = 1 + 3 * 2;

/// Frees everything that was retired.
fn drain() {
    while reclaim::stats().deferred_bytes != 0 {
        reclaim::quiesce();
    }
    reclaim::quiesce();
}

/// What is left after a world ended.
fn left() -> i64 {
    drain();
    assert_eq!(mount::live_mounts(), 0, "mounts are left");
    assert_eq!(tmpfs::stats(), tmpfs::Stats::default(), "parts of file systems are left");
    let nodes = live_nodes();
    assert!(nodes <= NODES_AT_REST, "{nodes} nodes of the collector's queue are left");
    live_bytes() - nodes * QUEUE_NODE.size() as i64
}

/// What the world looks like after the operation, with nothing refused.
fn expected(case: &Case) -> String {
    let (mut world, operation) = (case.build)();
    let made = operation(&world).expect("there is memory");
    world.keep(made);
    world.check();
    let view = world.view();
    world.end();
    // Identifiers come back with the memory of their namespaces.
    left();
    view
}

/// What came of refusing one point.
#[derive(PartialEq)]
enum Came {
    /// There are not so many.
    Over,
    Failed,
    DidWithout,
}

fn refuse_one(case: &Case, k: usize, expected: &str) -> Came {
    let (mut world, operation) = (case.build)();
    let before = world.view();
    let run = refuse(k, || operation(&world));
    let came = match run.result {
        Ok(made) => {
            world.keep(made);
            if run.refused { Came::DidWithout } else { Came::Over }
        }
        Err(error) => {
            assert!(run.refused && error == Error::NoMemory, "{error:?}, refused: {}", run.refused);
            let after = world.view();
            assert!(before == after, "it failed, and the tree changed:\n{before}\n{after}");
            world.check();
            Came::Failed
        }
    };
    if came != Came::Failed {
        let view = world.view();
        assert!(view == expected, "its work is another one:\n{expected}\n{view}");
    }
    world.check();
    world.end();
    came
}

/// Refuses every point of the case `name` in turn. Whatever came, nothing is left afterwards.
fn refuse_all(name: &str, refuse_one: impl Fn(usize) -> Came) {
    // Before the bytes are looked at: what is printed may be kept.
    eprint!("{name}: ");
    let came = refuse_one(0);
    assert!(came == Came::Over);
    let before = left();
    let (mut failed, mut without) = (0, 0);
    for k in 1.. {
        let came = refuse_one(k);
        let left = left();
        // What traces hold is not ours.
        assert!(
            left == before || injector::traces(),
            "point {k}: {before} bytes were left before it, now {left}"
        );
        match came {
            Came::Over => break,
            Came::Failed => failed += 1,
            Came::DidWithout => without += 1,
        }
    }
    eprintln!("{failed} refusals failed it, {without} did not");
}

/// Whether `MEMORY_CASE` chooses the case `name`.
fn is_chosen(name: &str) -> bool {
    std::env::var("MEMORY_CASE").map_or(true, |only| name.contains(&only))
}

/// One after the other: what is left is the whole process's.
#[test]
fn every_allocation() {
    injector::install();
    for case in cases().iter().filter(|case| is_chosen(case.name)) {
        let expected = expected(case);
        refuse_all(case.name, |k| refuse_one(case, k, &expected));
    }
    for case in calls::cases().iter().filter(|case| is_chosen(case.name)) {
        let (world, call) = (case.build)();
        let answer = call(&world).expect("there is memory");
        let expected = (answer, world.view());
        drop(world);
        left();
        refuse_all(case.name, |k| refuse_one_of_call(case, k, &expected));
    }
}

/// As [`refuse_one`], of a call that gives this answer and leaves this view.
fn refuse_one_of_call(case: &calls::Case, k: usize, expected: &(usize, String)) -> Came {
    let (world, call) = (case.build)();
    let before = world.view();
    let run = refuse(k, || call(&world));
    let after = world.view();
    match run.result {
        Ok(answer) => {
            let (wanted, view) = expected;
            assert!(answer == *wanted, "it answers {answer} and not {wanted}");
            assert!(after == *view, "its work is another one:\n{view}\n{after}");
            if run.refused { Came::DidWithout } else { Came::Over }
        }
        Err(errno) => {
            assert!(run.refused && errno == Errno::ENOMEM, "{errno}, refused: {}", run.refused);
            assert!(before == after, "it failed, and something changed:\n{before}\n{after}");
            Came::Failed
        }
    }
}

/// An operation that keeps a byte, once, when its fifth point is refused.
#[test]
#[ignore = "fails, and is run by the test below"]
fn planted_leak() {
    injector::install();
    let case = &cases()[0];
    let expected = expected(case);
    refuse_all(case.name, |k| {
        if k == 5 {
            std::mem::forget(std::hint::black_box(Box::new(0u8)));
        }
        refuse_one(case, k, &expected)
    });
}

#[test]
fn a_byte_that_is_lost_once_is_found() {
    let said = said_by("planted_leak").1;
    assert!(said.contains("point 5: ") && said.contains("bytes were left before it"), "{said}");
}

/// How the planted test `name` ended, and what it said.
fn said_by(name: &str) -> (ExitStatus, String) {
    let own = std::env::current_exe().expect("the test's own program");
    let run =
        Command::new(own).args(["--ignored", "--exact", name, "--nocapture"]).output().expect("it runs");
    (run.status, String::from_utf8_lossy(&run.stderr).into_owned())
}

/// An operation with an allocation that is neither refusable nor claimed.
#[test]
#[ignore = "aborts, and is run by the test below"]
fn planted_allocation() {
    injector::install();
    for k in 1.. {
        let (world, operation) = (cases()[0].build)();
        let plant = || {
            let made = operation(&world);
            drop(std::hint::black_box(Box::new(0u64)));
            made
        };
        if !refuse(k, plant).refused {
            break;
        }
    }
}

#[test]
fn an_allocation_that_nobody_claimed_is_found() {
    let (status, said) = said_by("planted_allocation");
    assert_eq!(status.signal(), Some(6), "{said}");
    assert!(said.contains("memory allocation of 8 bytes failed"), "{said}");
}
