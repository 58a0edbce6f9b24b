//! Lookups beside changes, in threads.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use common::{Random, fresh, look, namespace};
use mnt_table::dentry::{Dentry, SuperBlock};
use mnt_table::reclaim::pin;
use tmpfs::{Kind, TmpDentry, rename};

const ROUNDS: usize = if cfg!(miri) { 30 } else { 20_000 };

/// Says that it is over, also when a test fails.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs `reader` in two threads until `writer` has done its rounds.
fn beside(reader: impl Fn() + Sync, mut writer: impl FnMut(usize)) {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let _done = Done(&done);
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    reader();
                }
            });
        }
        (0..ROUNDS).for_each(&mut writer);
    });
}

#[test]
fn a_name_that_is_replaced_is_never_absent() {
    let (root, ns) = (fresh(1), namespace());
    let directory = root.mkdir(b"dir").unwrap();
    directory.create(b"config").unwrap();
    beside(
        || {
            let found = look(&directory, b"config").expect("it is replaced and never away");
            assert_eq!(found.kind(), Kind::File);
        },
        |round| {
            directory.create(b"config.new").unwrap();
            assert!(rename((&directory, b"config.new"), (&directory, b"config"), &ns).unwrap().is_some());
            // Makes the table grow.
            directory.create(format!("other{}", round % 1000).as_bytes()).ok();
        },
    );
    root.super_block().shutdown();
}

#[test]
fn a_constant_name_is_found_while_its_directory_grows_and_empties() {
    let (root, ns) = (fresh(1), namespace());
    let constant = root.create(b"constant").unwrap();
    beside(
        || assert!(Arc::ptr_eq(&look(&root, b"constant").unwrap(), &constant)),
        |round| {
            root.create(format!("n{round}").as_bytes()).unwrap();
            if round % 3 == 0 {
                let _ = root.unlink(format!("n{}", round / 2).as_bytes(), &ns);
            }
        },
    );
    root.super_block().shutdown();
}

#[test]
fn a_tree_renamed_to_and_fro_is_always_under_one_of_its_names() {
    let (root, ns) = (fresh(1), namespace());
    let (left, right) = (root.mkdir(b"left").unwrap(), root.mkdir(b"right").unwrap());
    let tree = left.mkdir(b"tree").unwrap();
    let leaf = tree.mkdir(b"x").unwrap().create(b"leaf").unwrap();
    let find = |directory: &TmpDentry, name: &[u8]| -> Option<Arc<TmpDentry>> {
        let guard = pin();
        let x = directory.lookup(name, &guard).ok()?.lookup(b"x", &guard).expect("it never leaves the tree");
        Some(Arc::clone(x.lookup(b"leaf", &guard).expect("it never leaves x")))
    };
    beside(
        || {
            // Both can be missed only if a rename came between, so somebody makes progress.
            let found = std::iter::repeat_with(|| find(&left, b"tree").or_else(|| find(&right, b"moved")))
                .find_map(|found| found);
            assert!(Arc::ptr_eq(&found.unwrap(), &leaf));
            let guard = pin();
            let (name, parent) = tree.parent(&guard).unwrap();
            let here: &[u8] = if Arc::ptr_eq(parent, &left) { b"tree" } else { b"moved" };
            assert_eq!(name, here, "name and parent are read together");
        },
        |round| {
            let (here, there) = ((&left, &b"tree"[..]), (&right, &b"moved"[..]));
            let (from, to) = if round % 2 == 0 { (here, there) } else { (there, here) };
            assert!(rename(from, to, &ns).unwrap().is_none());
        },
    );
    root.super_block().shutdown();
}

#[test]
fn changes_in_many_threads_leave_one_tree() {
    let (root, random) = (fresh(1), Random::new());
    // Directories that threads move around, and one to which everything leads.
    let directories: Vec<_> =
        (0..4u8).map(|number| root.mkdir(&[b'A' + number]).unwrap()).chain([Arc::clone(&root)]).collect();
    thread::scope(|scope| {
        for number in 0..3 {
            let (mut random, directories) = (random.split(number), &directories);
            scope.spawn(move || {
                let ns = namespace();
                for _ in 0..ROUNDS {
                    let mut end = || {
                        let names = [b"A", b"B", b"C", b"D", b"x", b"y"];
                        (&directories[random.below(5)], &names[random.below(6)][..])
                    };
                    let (one, two) = (end(), end());
                    match random.below(8) {
                        0 => drop(one.0.mkdir(one.1)),
                        1 => drop(one.0.create(one.1)),
                        2 => drop(one.0.unlink(one.1, &ns)),
                        // The four directories stay, wherever they are.
                        3 if matches!(one.1, b"x" | b"y") => drop(one.0.rmdir(one.1, &ns)),
                        4..=6 if matches!(two.1, b"x" | b"y") || one.1 == two.1 => {
                            drop(rename(one, two, &ns))
                        }
                        _ => drop(look(one.0, one.1)),
                    }
                }
            });
        }
    });
    let mut waiting = vec![Arc::clone(&root)];
    let mut seen = 0;
    while let Some(directory) = waiting.pop() {
        assert!(!directory.is_removed());
        for (name, child) in directory.entries().unwrap() {
            seen += 1;
            assert!(seen < 1000, "a circle");
            let guard = pin();
            let (known_as, parent) = child.parent(&guard).unwrap();
            assert!(*known_as == *name && Arc::ptr_eq(parent, &directory) && !child.is_removed());
            if child.is_dir() {
                waiting.push(child);
            }
        }
    }
    root.super_block().shutdown();
}
