//! Nothing is left when a superblock is gone. One test at a time: the counters are the process's.

mod common;

use std::sync::{Arc, Mutex, PoisonError};

use common::{fresh, look, namespace};
use mnt_table::dentry::{Dentry, SuperBlock};
use mnt_table::{MountFlags, MountSpec, WriteSet, pin, reclaim};
use tmpfs::{Stats, rename, stats};

static ALONE: Mutex<()> = Mutex::new(());

/// Runs `test` alone and looks at what is left.
fn leaves_nothing(test: impl FnOnce()) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    assert_eq!(stats(), Stats::default());
    test();
    reclaim::quiesce();
    assert_eq!(stats(), Stats::default());
    assert_eq!(reclaim::stats().deferred_bytes, 0);
}

#[test]
fn an_empty_superblock_needs_no_shutdown() {
    leaves_nothing(|| {
        let root = fresh(1);
        assert_eq!(stats(), Stats { dentries: 1, inodes: 1, super_blocks: 1, bytes: 0 });
        drop(root);
    });
}

#[test]
fn bytes_follow_the_files() {
    leaves_nothing(|| {
        let (root, ns) = (fresh(1), namespace());
        let file = root.create(b"f").unwrap();
        file.write_at(100, b"x").unwrap();
        assert_eq!(stats().bytes, 4096);
        file.truncate(10).unwrap();
        assert_eq!(stats().bytes, 4096);
        file.inode().open().unwrap();
        let _ = root.unlink(b"f", &ns).unwrap();
        reclaim::quiesce();
        assert_eq!(
            stats(),
            Stats { dentries: 2, inodes: 2, super_blocks: 1, bytes: 4096 },
            "an open file stays"
        );
        file.inode().close();
        assert_eq!(stats().bytes, 0, "closed, it is gone, whoever has a handle");
        drop(file);
        assert_eq!(stats(), Stats { dentries: 1, inodes: 1, super_blocks: 1, bytes: 0 });
    });
}

#[test]
fn shutdown_takes_a_deep_and_wide_tree_apart() {
    const DEPTH: usize = if cfg!(miri) { 50 } else { 100_000 };
    leaves_nothing(|| {
        let root = fresh(1);
        let mut at = Arc::clone(&root);
        for _ in 0..DEPTH {
            at = at.mkdir(b"d").unwrap();
        }
        for number in 0..DEPTH / 10 {
            root.create(number.to_string().as_bytes()).unwrap();
        }
        assert_eq!(stats().dentries as usize, 1 + DEPTH + DEPTH / 10);
        root.super_block().shutdown();
        // A handle that is left sees a dead directory.
        assert!(at.is_removed() && at.create(b"x").is_err());
        assert!(at.parent(&pin()).is_none());
        assert!(root.super_block().is_shut_down());
    });
}

#[test]
fn a_long_chain_of_removed_directories_goes_without_recursion() {
    const DEPTH: usize = if cfg!(miri) { 20 } else { 20_000 };
    leaves_nothing(|| {
        let (root, ns) = (fresh(1), namespace());
        let mut chain = vec![Arc::clone(&root)];
        for _ in 0..DEPTH {
            let next = chain.last().unwrap().mkdir(b"d").unwrap();
            chain.push(next);
        }
        let deepest = chain.pop().unwrap();
        while let Some(directory) = chain.pop() {
            let _ = directory.rmdir(b"d", &ns).unwrap();
        }
        // The deepest keeps all others, by their places, and lets them go one grace period after the other.
        reclaim::quiesce();
        assert_eq!(stats().dentries as usize, 1 + DEPTH);
        drop((deepest, root));
        while reclaim::stats().deferred_bytes != 0 {
            reclaim::quiesce();
        }
    });
}

#[test]
fn the_last_mount_shuts_the_superblock_down() {
    leaves_nothing(|| {
        let ns = namespace();
        let root = fresh(1);
        let super_block = Arc::clone(root.super_block());
        let dir = root.mkdir(b"dir").unwrap();
        root.create(b"f").unwrap();
        rename((&root, b"f"), (&dir, b"g"), &ns).unwrap();
        let spec = |root| MountSpec::new(root, MountFlags::empty(), mnt_table::Source::new(b"x").unwrap());
        let (base, top) = {
            let mut set = WriteSet::one(&ns);
            let base = set.new_mount(&ns, spec(Arc::clone(&root))).unwrap();
            set.attach_root(&ns, &base);
            // A bind of a subdirectory keeps the superblock too.
            let top = set.new_mount(&ns, spec(look(&root, b"dir").unwrap())).unwrap();
            let joint = set.prepare(&top, &base, &dir).unwrap();
            set.attach(&top, joint, &pin());
            (base, top)
        };
        drop((root, dir));
        for (mount, left) in [(top, 1), (base, 0)] {
            let mut set = WriteSet::one(&ns);
            assert!(set.condemn_if_idle(&[Arc::clone(&mount)]));
            set.leave(&mount, mnt_table::tree::Leave::Dead, &pin());
            assert_eq!(super_block.active().count(), left + 1, "under the lock");
            drop(set);
            assert_eq!(super_block.active().count(), left);
            assert_eq!(super_block.is_shut_down(), left == 0);
        }
        WriteSet::one(&ns).dissolve(&ns);
    });
}
