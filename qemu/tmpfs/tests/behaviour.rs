//! What each operation does and refuses, and in which order it refuses.

mod common;

use std::sync::Arc;

use common::{Ns, fresh, look, namespace};
use mnt_table::dentry::{Dentry, LookupError, SuperBlock};
use mnt_table::reclaim::pin;
use mnt_table::{MountFlags, MountSpec, WriteSet};
use tmpfs::{FILE_MAX, FsError, Kind, NAME_MAX, TARGET_MAX, TmpDentry, rename};

/// The names from the root down to `dentry`.
fn path(dentry: &TmpDentry) -> String {
    let guard = pin();
    let mut names = Vec::new();
    let mut at = dentry;
    while let Some((name, parent)) = at.parent(&guard) {
        names.push(String::from_utf8(name.to_vec()).unwrap());
        at = parent;
    }
    names.reverse();
    format!("/{}", names.join("/"))
}

/// Mounts a fresh file system as the root of `ns` and another one on `dentry` of `root`.
fn mount_on(ns: &Ns, root: &Arc<TmpDentry>, dentry: &Arc<TmpDentry>) {
    let spec = |root: &Arc<TmpDentry>| {
        MountSpec::new(Arc::clone(root), MountFlags::empty(), mnt_table::Source::new(b"x").unwrap())
    };
    let mut set = WriteSet::one(ns);
    let guard = pin();
    let base = set.new_mount(ns, spec(root)).unwrap();
    set.attach_root(ns, &base);
    let top = set.new_mount(ns, spec(&fresh(99))).unwrap();
    let joint = set.prepare(&top, &base, dentry).unwrap();
    set.attach(&top, joint, &guard);
}

#[test]
fn entries_are_found_and_know_where_they_are() {
    let root = fresh(1);
    let usr = root.mkdir(b"usr").unwrap();
    let bin = usr.mkdir(b"bin").unwrap();
    let sh = bin.create(b"sh").unwrap();
    let link = root.make_symlink(b"bin", b"usr/bin").unwrap();
    assert!(Arc::ptr_eq(&look(&bin, b"sh").unwrap(), &sh));
    assert_eq!(look(&bin, b"zsh").unwrap_err(), LookupError::NotFound);
    assert_eq!(look(&sh, b"x").unwrap_err(), LookupError::NotDirectory);
    assert_eq!(path(&sh), "/usr/bin/sh");
    assert_eq!((sh.kind(), bin.kind(), link.kind()), (Kind::File, Kind::Directory, Kind::Symlink));
    assert_eq!((link.symlink(), sh.symlink(), bin.symlink()), (Some(&b"usr/bin"[..]), None, None));
    assert!(bin.is_dir() && !sh.is_dir() && !link.is_dir());
    let mut ids = [root.id(), usr.id(), bin.id(), sh.id(), link.id()];
    ids.sort_unstable();
    assert!(ids.windows(2).all(|two| two[0] != two[1] && two[0].0 == 1));
    let mut names: Vec<_> = root.entries().unwrap().into_iter().map(|(name, _)| name).collect();
    names.sort();
    assert_eq!(names, [Box::from(&b"bin"[..]), Box::from(&b"usr"[..])]);
    root.super_block().shutdown();
}

#[test]
fn names_are_checked() {
    let (root, ns) = (fresh(1), namespace());
    let too_long = vec![b'x'; NAME_MAX + 1];
    for (name, error) in [
        (&b""[..], FsError::NotFound),
        (b".", FsError::BadName),
        (b"..", FsError::BadName),
        (b"a/b", FsError::BadName),
        (b"a\0", FsError::BadName),
        (&too_long, FsError::NameTooLong),
    ] {
        assert_eq!(root.create(name).unwrap_err(), error);
        assert_eq!(root.mkdir(name).unwrap_err(), error);
        assert_eq!(root.make_symlink(name, b"x").unwrap_err(), error);
        assert_eq!(root.unlink(name, &ns).unwrap_err(), error);
        assert_eq!(root.rmdir(name, &ns).unwrap_err(), error);
        assert_eq!(rename((&root, name), (&root, b"x"), &ns).unwrap_err(), error);
        assert_eq!(rename((&root, b"x"), (&root, name), &ns).unwrap_err(), error);
    }
    let longest = vec![b'x'; NAME_MAX];
    let found = root.create(&longest).unwrap();
    assert!(Arc::ptr_eq(&look(&root, &longest).unwrap(), &found));
    assert_eq!(path(&found).len(), NAME_MAX + 1);
    assert_eq!(root.make_symlink(b"l", b"").unwrap_err(), FsError::NotFound);
    assert_eq!(root.make_symlink(b"l", &vec![b'x'; TARGET_MAX + 1]).unwrap_err(), FsError::NameTooLong);
    root.make_symlink(b"l", &vec![b'x'; TARGET_MAX]).unwrap();
    root.super_block().shutdown();
}

#[test]
fn a_name_is_taken_once() {
    let root = fresh(1);
    root.create(b"f").unwrap();
    root.mkdir(b"d").unwrap();
    for name in [b"f", b"d"] {
        assert_eq!(root.create(name).unwrap_err(), FsError::Exists);
        assert_eq!(root.mkdir(name).unwrap_err(), FsError::Exists);
        assert_eq!(root.make_symlink(name, b"x").unwrap_err(), FsError::Exists);
    }
    let file = look(&root, b"f").unwrap();
    assert_eq!(file.create(b"x").unwrap_err(), FsError::NotDirectory);
    root.super_block().shutdown();
}

#[test]
fn removal_refuses_in_order() {
    let (root, ns) = (fresh(1), namespace());
    let full = root.mkdir(b"full").unwrap();
    let file = full.create(b"f").unwrap();
    assert_eq!(root.unlink(b"none", &ns).unwrap_err(), FsError::NotFound);
    assert_eq!(root.rmdir(b"none", &ns).unwrap_err(), FsError::NotFound);
    assert_eq!(root.unlink(b"full", &ns).unwrap_err(), FsError::IsDirectory);
    assert_eq!(root.rmdir(b"full", &ns).unwrap_err(), FsError::NotEmpty);
    assert_eq!(full.rmdir(b"f", &ns).unwrap_err(), FsError::NotDirectory);
    assert_eq!(file.unlink(b"f", &ns).unwrap_err(), FsError::NotDirectory);
    assert!(!full.is_removed() && !file.is_removed());
    assert!(Arc::ptr_eq(&full.unlink(b"f", &ns).unwrap().dentry, &file));
    assert!(file.is_removed());
    assert_eq!(full.unlink(b"f", &ns).unwrap_err(), FsError::NotFound);
    assert!(root.rmdir(b"full", &ns).unwrap().elsewhere.is_empty());
    assert!(full.is_removed());
    root.super_block().shutdown();
}

#[test]
fn a_removed_directory_is_dead_but_leads_up() {
    let (root, ns) = (fresh(1), namespace());
    let gone = root.mkdir(b"gone").unwrap();
    root.create(b"f").unwrap();
    let _ = root.rmdir(b"gone", &ns).unwrap();
    assert_eq!(gone.create(b"x").unwrap_err(), FsError::NotFound);
    assert_eq!(gone.mkdir(b"x").unwrap_err(), FsError::NotFound);
    assert_eq!(gone.unlink(b"x", &ns).unwrap_err(), FsError::NotFound);
    assert_eq!(rename((&root, b"f"), (&gone, b"f"), &ns).unwrap_err(), FsError::NotFound);
    assert_eq!(path(&gone), "/gone");
    let again = root.mkdir(b"gone").unwrap();
    assert!(!Arc::ptr_eq(&again, &gone) && again.id() != gone.id());
    root.super_block().shutdown();
}

#[test]
fn rename_moves_and_replaces() {
    let (root, ns) = (fresh(1), namespace());
    let (a, b) = (root.mkdir(b"a").unwrap(), root.mkdir(b"b").unwrap());
    let file = a.create(b"f").unwrap();
    assert!(rename((&a, b"f"), (&b, b"g"), &ns).unwrap().is_none());
    assert_eq!(look(&a, b"f").unwrap_err(), LookupError::NotFound);
    assert!(Arc::ptr_eq(&look(&b, b"g").unwrap(), &file));
    assert_eq!(path(&file), "/b/g");
    // Onto an existing file, in one directory and between two.
    let other = b.create(b"h").unwrap();
    let lost = rename((&b, b"g"), (&b, b"h"), &ns).unwrap().unwrap();
    assert!(Arc::ptr_eq(&lost.dentry, &other) && other.is_removed() && !file.is_removed());
    a.create(b"h").unwrap();
    assert!(rename((&b, b"h"), (&a, b"h"), &ns).unwrap().is_some());
    assert_eq!(path(&look(&a, b"h").unwrap()), "/a/h");
    // Onto itself nothing happens.
    assert!(rename((&a, b"h"), (&a, b"h"), &ns).unwrap().is_none());
    assert!(!file.is_removed());
    // Directories, onto an empty one.
    assert!(rename((&root, b"a"), (&root, b"b"), &ns).unwrap().is_some());
    assert_eq!(path(&file), "/b/h");
    assert!(b.is_removed());
    root.super_block().shutdown();
}

#[test]
fn rename_refuses_in_order() {
    let (root, other, ns) = (fresh(1), fresh(2), namespace());
    let a = root.mkdir(b"a").unwrap();
    let b = a.mkdir(b"b").unwrap();
    let file = b.create(b"f").unwrap();
    root.create(b"g").unwrap();
    assert_eq!(rename((&file, b"x"), (&root, b"x"), &ns).unwrap_err(), FsError::NotDirectory);
    assert_eq!(rename((&root, b"x"), (&file, b"x"), &ns).unwrap_err(), FsError::NotDirectory);
    assert_eq!(rename((&root, b"none"), (&other, b"x"), &ns).unwrap_err(), FsError::CrossDevice);
    assert_eq!(rename((&root, b"none"), (&root, b"x"), &ns).unwrap_err(), FsError::NotFound);
    assert_eq!(rename((&root, b"a"), (&a, b"x"), &ns).unwrap_err(), FsError::IntoItself);
    assert_eq!(rename((&root, b"a"), (&b, b"x"), &ns).unwrap_err(), FsError::IntoItself);
    assert_eq!(rename((&root, b"a"), (&b, b"f"), &ns).unwrap_err(), FsError::IntoItself);
    // Onto an ancestor: not "is a directory".
    assert_eq!(rename((&b, b"f"), (&root, b"a"), &ns).unwrap_err(), FsError::NotEmpty);
    assert_eq!(rename((&root, b"a"), (&root, b"g"), &ns).unwrap_err(), FsError::NotDirectory);
    assert_eq!(rename((&root, b"g"), (&root, b"a"), &ns).unwrap_err(), FsError::IsDirectory);
    root.mkdir(b"c").unwrap();
    assert_eq!(rename((&root, b"c"), (&root, b"a"), &ns).unwrap_err(), FsError::NotEmpty);
    assert_eq!(path(&file), "/a/b/f");
    root.super_block().shutdown();
    other.super_block().shutdown();
}

#[test]
fn a_read_only_superblock_changes_nothing() {
    let (root, ns) = (fresh(1), namespace());
    let file = root.create(b"f").unwrap();
    assert!(root.super_block().set_read_only(true));
    // As Linux: what exists is said first by whoever makes, and last by whoever takes away.
    assert_eq!(root.mkdir(b"f").unwrap_err(), FsError::Exists);
    assert_eq!(root.mkdir(b"d").unwrap_err(), FsError::ReadOnly);
    assert_eq!(root.unlink(b"none", &ns).unwrap_err(), FsError::ReadOnly);
    assert_eq!(root.rmdir(b"f", &ns).unwrap_err(), FsError::ReadOnly);
    assert_eq!(rename((&root, b"none"), (&root, b"x"), &ns).unwrap_err(), FsError::ReadOnly);
    assert_eq!(file.write_at(0, b"x").unwrap_err(), FsError::ReadOnly);
    assert_eq!(file.truncate(0).unwrap_err(), FsError::ReadOnly);
    assert_eq!(root.entries().unwrap().len(), 1);
    assert!(root.super_block().set_read_only(false));
    root.mkdir(b"d").unwrap();
    root.super_block().shutdown();
}

#[test]
fn files_are_read_and_written_at_offsets() {
    let root = fresh(1);
    let file = root.create(b"f").unwrap();
    assert_eq!(file.write_at(3, b"abc"), Ok(3));
    let mut buffer = [9; 8];
    assert_eq!(file.read_at(1, &mut buffer), Ok(5));
    assert_eq!(&buffer[..6], b"\0\0abc\x09");
    assert_eq!(file.read_at(6, &mut buffer), Ok(0));
    assert_eq!(file.read_at(u64::MAX, &mut buffer), Ok(0));
    assert_eq!(file.write_at(4, b"X"), Ok(1));
    assert_eq!(file.size(), Ok(6));
    assert_eq!(file.truncate(5), Ok(()));
    assert_eq!(file.truncate(7), Ok(()));
    assert_eq!(file.read_at(0, &mut buffer), Ok(7));
    assert_eq!(&buffer[..7], b"\0\0\0aX\0\0");
    assert_eq!(file.write_at(FILE_MAX, b"x").unwrap_err(), FsError::TooBig);
    assert_eq!(file.write_at(u64::MAX, b"xy").unwrap_err(), FsError::TooBig);
    assert_eq!(file.truncate(FILE_MAX + 1).unwrap_err(), FsError::TooBig);
    assert_eq!(file.size(), Ok(7));
    assert_eq!(root.write_at(0, b"x").unwrap_err(), FsError::IsDirectory);
    let link = root.make_symlink(b"l", b"f").unwrap();
    assert_eq!(link.read_at(0, &mut buffer).unwrap_err(), FsError::NotFile);
    root.super_block().shutdown();
}

#[test]
fn a_mountpoint_in_the_callers_namespace_is_busy() {
    let (root, own) = (fresh(1), namespace());
    let dir = root.mkdir(b"dir").unwrap();
    let file = root.create(b"file").unwrap();
    root.mkdir(b"empty").unwrap();
    root.create(b"plain").unwrap();
    mount_on(&own, &root, &dir);
    mount_on(&namespace(), &root, &file);
    assert_eq!(root.rmdir(b"dir", &own).unwrap_err(), FsError::Busy);
    assert_eq!(rename((&root, b"dir"), (&root, b"x"), &own).unwrap_err(), FsError::Busy);
    assert_eq!(rename((&root, b"empty"), (&root, b"dir"), &own).unwrap_err(), FsError::Busy);
    dir.create(b"f").unwrap();
    // Before "not empty".
    assert_eq!(root.rmdir(b"dir", &own).unwrap_err(), FsError::Busy);
    // The refusals left no trace: the directory can be mounted on.
    let set = WriteSet::one(&own);
    assert_eq!(set.mounts_on(&own, &dir).count(), 1);
    assert!(!dir.is_removed());
}

#[test]
fn a_mountpoint_elsewhere_goes_and_says_where() {
    let (root, own, other) = (fresh(1), namespace(), namespace());
    for (name, target) in [(b"a", None), (b"b", Some(b"c"))] {
        let dentry = root.create(name).unwrap();
        let elsewhere = namespace();
        mount_on(&elsewhere, &root, &dentry);
        // The mount follows the dentry.
        assert!(rename((&root, name), (&root, b"moved"), &own).unwrap().is_none());
        let removed = match target {
            None => root.unlink(b"moved", &own).unwrap(),
            Some(target) => {
                root.create(target).unwrap();
                rename((&root, target), (&root, b"moved"), &own).unwrap().unwrap()
            }
        };
        assert!(Arc::ptr_eq(&removed.dentry, &dentry));
        assert_eq!(removed.elsewhere.len(), 1);
        assert!(Arc::ptr_eq(&removed.elsewhere[0], &elsewhere));
        // Nobody can begin to mount on it.
        let mut set = WriteSet::one(&other);
        let spec = MountSpec::new(fresh(3), MountFlags::empty(), mnt_table::Source::new(b"x").unwrap());
        let base = set.new_mount(&other, MountSpec { root: Arc::clone(&root), ..spec }).unwrap();
        assert!(set.prepare(&base, &base, &dentry).is_err());
    }
}
