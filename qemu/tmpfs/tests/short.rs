//! A tree is taken apart with next to no memory: it may be what has eaten it all. The hooks are the process's, so this is the
//! only test in it.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::fresh;
use mnt_table::dentry::{Dentry, SuperBlock};
use mnt_table::memory::{self, Hooks};
use mnt_table::reclaim;
use tmpfs::{Stats, TmpDentry, stats};

/// What a kernel is sure to have.
const CLAIMS_MAX: usize = 16;

static CLAIMED: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

fn claim(more: usize) -> bool {
    let claimed = CLAIMED.fetch_add(more, Ordering::SeqCst) + more;
    MOST.fetch_max(claimed, Ordering::SeqCst);
    true
}

fn release(less: usize) {
    CLAIMED.fetch_sub(less, Ordering::SeqCst);
}

fn fill(directory: &Arc<TmpDentry>, files: usize) {
    for index in 0..files {
        let file = directory.create(format!("file{index}").as_bytes()).unwrap();
        file.write_at(0, b"x").unwrap();
    }
}

#[test]
fn a_large_tree_is_taken_apart_with_few_claims_and_its_pages_are_free_at_once() {
    const WIDE: usize = if cfg!(miri) { 100 } else { 20_000 };
    const DEEP: usize = if cfg!(miri) { 20 } else { 1000 };
    memory::install(Hooks { claim, release, cover: || (), uncover: || () });
    let root = fresh(1);
    let wide = root.mkdir(b"wide").unwrap();
    fill(&wide, WIDE);
    let directories = root.mkdir(b"directories").unwrap();
    for index in 0..WIDE / 10 {
        fill(&directories.mkdir(format!("d{index}").as_bytes()).unwrap(), index % 3);
    }
    let mut deep = root.mkdir(b"deep").unwrap();
    for _ in 0..DEEP {
        fill(&deep, 2);
        deep = deep.mkdir(b"deeper").unwrap();
    }
    let super_block = Arc::clone(root.super_block());
    assert!(stats().bytes > WIDE as i64 * 4096);

    MOST.store(0, Ordering::SeqCst);
    super_block.shutdown();
    let most = MOST.load(Ordering::SeqCst);
    assert!(most <= CLAIMS_MAX, "{most} allocations were claimed at once");
    assert_eq!(stats().bytes, 0);
    assert!(wide.is_removed() && deep.is_removed());

    drop((root, wide, directories, deep, super_block));
    reclaim::quiesce();
    assert_eq!(stats(), Stats::default());
}
