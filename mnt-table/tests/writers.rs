//! Writers, and mounts and superblocks that become read-only beside them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use mnt_table::writers::{ReadOnly, Through, WriteRef, Writers};

/// A mount of a superblock.
struct Mount<'a> {
    writers: Writers,
    super_block: &'a Writers,
}

impl<'a> Mount<'a> {
    fn new(super_block: &'a Writers) -> Self {
        Mount { writers: Writers::new(), super_block }
    }

    fn want_write(&self) -> Result<WriteRef<&Self>, ReadOnly> {
        WriteRef::new(self)
    }
}

impl Through for &Mount<'_> {
    fn writers(&self) -> [&Writers; 2] {
        [&self.writers, self.super_block]
    }
}

/// Whether all of `many` became read-only; none did otherwise.
fn make_read_only(many: &[&Writers]) -> bool {
    let holds: Vec<_> = many.iter().map(|writers| writers.hold()).collect();
    let idle = holds.iter().all(|hold| hold.is_idle());
    if idle {
        holds.into_iter().for_each(|hold| hold.set_read_only());
    }
    idle
}

#[test]
fn a_writer_keeps_its_mount_and_the_superblock_writable_and_nothing_else() {
    let super_block = Writers::new();
    let [one, two] = [Mount::new(&super_block), Mount::new(&super_block)];
    let writing = one.want_write().unwrap();
    assert!(!make_read_only(&[&one.writers]));
    assert!(!make_read_only(&[&super_block]));
    assert!(make_read_only(&[&two.writers]));
    assert_eq!(two.want_write().err(), Some(ReadOnly));
    assert!(one.want_write().is_ok());
    drop(writing);
    assert!(make_read_only(&[&one.writers]));
    assert!(make_read_only(&[&super_block]));
}

#[test]
fn a_superblock_is_read_only_through_every_mount_and_mounts_keep_their_own_flag() {
    let super_block = Writers::new();
    let [one, two] = [Mount::new(&super_block), Mount::new(&super_block)];
    assert!(make_read_only(&[&one.writers]));
    assert!(make_read_only(&[&super_block]));
    assert!(one.want_write().is_err() && two.want_write().is_err());
    assert!(!two.writers.is_read_only());
    super_block.set_writable();
    assert!(one.want_write().is_err(), "its own flag stays");
    assert!(two.want_write().is_ok());
    one.writers.set_writable();
    assert!(one.want_write().is_ok());
}

#[test]
fn a_change_of_many_mounts_is_all_or_nothing() {
    let super_block = Writers::new();
    let mounts: Vec<_> = (0..5).map(|_| Mount::new(&super_block)).collect();
    let all: Vec<_> = mounts.iter().map(|mount| &mount.writers).collect();
    let writing = mounts[3].want_write().unwrap();
    assert!(!make_read_only(&all));
    assert!(mounts.iter().all(|mount| mount.want_write().is_ok()));
    drop(writing);
    assert!(make_read_only(&all));
    assert!(mounts.iter().all(|mount| mount.want_write().is_err()));
}

#[test]
fn what_was_refused_is_not_counted() {
    let super_block = Writers::new_read_only();
    let mount = Mount::new(&super_block);
    for _ in 0..100 {
        assert!(mount.want_write().is_err());
    }
    assert!(make_read_only(&[&mount.writers]));
    assert!(make_read_only(&[&super_block]), "read-only already, and idle");
}

#[test]
fn an_emergency_takes_no_notice_of_writers_and_they_end_as_ever() {
    let super_block = Writers::new();
    let mount = Mount::new(&super_block);
    let writing = mount.want_write().unwrap();
    super_block.hold().set_read_only();
    assert!(mount.want_write().is_err());
    drop(writing);
    assert!(super_block.hold().is_idle());
}

#[test]
fn a_writer_that_meets_a_hold_waits_for_the_decision() {
    let super_block = Writers::new();
    let mount = Mount::new(&super_block);
    for read_only in [false, true] {
        let hold = super_block.hold();
        let held = AtomicBool::new(true);
        thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let result = mount.want_write();
                assert!(!held.load(Ordering::SeqCst), "decided before the hold ended");
                result.is_ok()
            });
            thread::yield_now();
            held.store(false, Ordering::SeqCst);
            if read_only {
                hold.set_read_only();
            } else {
                drop(hold);
            }
            assert_eq!(writer.join().unwrap(), !read_only);
        });
    }
}

#[test]
fn writers_of_many_threads_never_write_to_what_is_read_only() {
    const ROUNDS: u64 = if cfg!(miri) { 20 } else { 2_000 };
    let super_block = Writers::new();
    let mounts = [Mount::new(&super_block), Mount::new(&super_block)];
    let (frozen, done) = (AtomicBool::new(false), AtomicBool::new(false));
    let (wrote, refused) = (AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        for number in 0..3 {
            let (mounts, frozen, done, wrote, refused) = (&mounts, &frozen, &done, &wrote, &refused);
            scope.spawn(move || {
                for turn in number.. {
                    match mounts[turn % 2].want_write() {
                        Ok(_writing) => {
                            // Relaxed: the count and the fence of a writer order it.
                            assert!(!frozen.load(Ordering::Relaxed), "wrote to what is read-only");
                            wrote.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(ReadOnly) => _ = refused.fetch_add(1, Ordering::Relaxed),
                    }
                    if done.load(Ordering::Relaxed) {
                        return;
                    }
                }
            });
        }
        let (mut changes, mut rounds) = (0, 0);
        while rounds < ROUNDS || changes == 0 {
            rounds += 1;
            if make_read_only(&[&super_block]) {
                changes += 1;
                frozen.store(true, Ordering::Relaxed);
                thread::yield_now();
                frozen.store(false, Ordering::Relaxed);
                super_block.set_writable();
            }
            thread::yield_now();
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(wrote.into_inner() > 0);
    assert!(super_block.hold().is_idle() && mounts.iter().all(|mount| mount.writers.hold().is_idle()));
}
