//! Memory that runs out in the middle of any operation: it fails as a whole, and nothing is left of it.
//!
//! Each operation is run again and again in the same setting; the k-th time, its k-th allocation or claim is refused. Until
//! the operation needs fewer than k: it must have failed with `ENOMEM` and changed nothing that can be seen, or have done
//! all its work without what was refused; it must do all its work when it is called again; and when the world ends,
//! nothing is left of it, neither mounts, dentries, identifiers nor bytes.
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
use std::process::Command;

use mnt_table::{mount, reclaim};
use propagate::Error;
use syscalls::Errno;

use cases::{Case, cases};
use injector::{live_bytes, refuse};

/// Runs to learn how many bytes caches hold, which comes and goes.
const RUNS_BEFORE: usize = 6;

/// Runs that refuse one point, until one leaves no more bytes than there were before it.
const RUNS_AT_MOST: usize = 20;

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
    live_bytes()
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
    let most = (0..RUNS_BEFORE).map(|_| {
        let came = refuse_one(0);
        assert!(came == Came::Over);
        left()
    });
    // What traces hold is not ours.
    let most = most.max().filter(|_| !injector::traces()).unwrap_or(i64::MAX);
    let (mut failed, mut without) = (0, 0);
    for k in 1.. {
        // The collector's queue comes and goes from run to run. What leaks is more with every run.
        let mut before = None;
        let run = |_| {
            let (came, left) = (refuse_one(k), left());
            let stays = left <= most || before.replace(left) == Some(left);
            stays.then_some(came)
        };
        let Some(came) = (0..RUNS_AT_MOST).find_map(run) else {
            panic!("point {k}: more bytes are left with every run");
        };
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

/// An operation with an allocation that is neither refusable nor claimed.
#[test]
#[ignore = "aborts, and is run by the test below"]
fn planted() {
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
    let own = std::env::current_exe().expect("the test's own program");
    let run = Command::new(own).args(["--ignored", "--exact", "planted"]).output().expect("it runs");
    let said = String::from_utf8_lossy(&run.stderr);
    assert_eq!(run.status.signal(), Some(6), "{said}");
    assert!(said.contains("memory allocation of 8 bytes failed"), "{said}");
}
