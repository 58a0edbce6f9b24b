//! The restrictions of openat2(2): staying on a mount, staying in a directory, following no links.

mod common;

use std::sync::Arc;

use common::{Tasks, World, mkdirs, open};
use mnt_table::PathRef;
use mnt_table::dentry::Dentry;
use mnt_table::walk::{How, Last, Resolve, WalkError, walk_how};
use tmpfs::{TmpDentry, rename};

/// A path, how it is walked, and where it leads.
type Row<'a> = (&'a str, Last, Resolve, Result<&'a Arc<TmpDentry>, WalkError>);

fn walked(
    task: &Tasks,
    dir: Option<&PathRef<TmpDentry>>,
    path: &str,
    (last, resolve): (Last, Resolve),
) -> Result<Arc<TmpDentry>, WalkError> {
    let how = How { last, resolve, dir };
    walk_how(task, path.as_bytes(), &how, |found| Ok(Arc::clone(found.dentry)))
}

#[test]
fn a_restricted_walk_stays_where_it_has_to() {
    let world = World::new();
    let base = world.dir();
    // /a is a mount with the directories `plain/deep` and `x`, on which another is mounted; `far` links to /other.
    let on = mkdirs(base, "a");
    let other = mkdirs(base, "other");
    let a = world.mount_fresh(&world.root, &on);
    let plain = mkdirs(a.root(), "plain");
    let deep = mkdirs(&plain, "deep");
    let x = mkdirs(a.root(), "x");
    a.root().make_symlink(b"far", b"/other").unwrap();
    a.root().make_symlink(b"near", b"plain").unwrap();
    a.root().make_symlink(b"up", b"../other").unwrap();
    a.root().make_symlink(b"in", b"x").unwrap();
    let b = world.mount_fresh(&a, &x);
    let y = mkdirs(b.root(), "y");
    let task = world.task();
    let dir = open(&task, "/a");

    use Last::{Follow, NoFollow};
    let xdev = Resolve::NO_XDEV;
    let (beneath, in_root, no_links) = (Resolve::BENEATH, Resolve::IN_ROOT, Resolve::NO_SYMLINKS);
    let leaves = Err(WalkError::Leaves);
    #[rustfmt::skip] // columns
    let rows: [Row<'_>; 26] = [
        ("plain/deep",         Follow,   xdev,     Ok(&deep)),
        (".",                  Follow,   xdev,     Ok(a.root())),
        ("x",                  Follow,   xdev,     leaves),
        ("..",                 Follow,   xdev,     leaves),
        ("plain/..",           Follow,   xdev,     Ok(a.root())),
        ("/",                  Follow,   xdev,     Ok(base)),
        ("/a",                 Follow,   xdev,     leaves),
        ("far",                Follow,   xdev,     leaves),
        ("in",                 Follow,   xdev,     leaves),
        ("near/deep",          Follow,   xdev,     Ok(&deep)),
        ("near/deep",          Follow,   no_links, Err(WalkError::Loop)),
        ("plain/deep",         Follow,   no_links, Ok(&deep)),
        ("x/y",                Follow,   beneath,  Ok(&y)),
        ("x/..",               Follow,   beneath,  Ok(a.root())),
        ("x/../..",            Follow,   beneath,  leaves),
        ("..",                 Follow,   beneath,  leaves),
        ("/x",                 Follow,   beneath,  leaves),
        ("far",                Follow,   beneath,  leaves),
        ("up",                 Follow,   beneath,  leaves),
        ("near",               Follow,   beneath,  Ok(&plain)),
        ("..",                 Follow,   in_root,  Ok(a.root())),
        ("/../x/y",            Follow,   in_root,  Ok(&y)),
        ("/plain/deep",        Follow,   in_root,  Ok(&deep)),
        ("far",                Follow,   in_root,  Err(WalkError::NotFound)),
        ("up/../plain/deep",   Follow,   in_root,  Err(WalkError::NotFound)),
        ("plain",              Follow,   beneath | in_root, Err(WalkError::BadFlags)),
    ];
    for (path, last, resolve, want) in rows {
        let found = walked(&task, Some(&dir), path, (last, resolve));
        let same = match (&found, &want) {
            (Ok(found), Ok(want)) => Arc::ptr_eq(found, want),
            (Err(found), Err(want)) => found == want,
            _ => false,
        };
        assert!(same, "{path} {resolve:?}: {found:?} instead of {want:?}");
    }
    // A link at the end that is not followed is no change of mount, and no link that was followed.
    for resolve in [xdev, no_links, beneath] {
        let link = walked(&task, Some(&dir), "far", (NoFollow, resolve)).unwrap();
        assert!(link.symlink().is_some(), "{resolve:?}");
    }
    assert!(Arc::ptr_eq(&walked(&task, None, "/other", (Follow, Resolve::CACHED)).unwrap(), &other));
    drop((task, dir, a, b));
    world.end();
}

#[test]
fn a_directory_that_was_renamed_away_is_no_way_out() {
    let world = World::new();
    let base = world.dir();
    let (jail, outside) = (mkdirs(base, "jail"), mkdirs(base, "outside"));
    mkdirs(&jail, "d/e");
    let task = world.task();
    let dir = open(&task, "/jail");
    // Stands in jail/d/e when jail/d goes elsewhere.
    let inner = open(&task, "/jail/d/e");
    assert!(rename((&jail, b"d"), (&outside, b"d"), &world.ns).unwrap().is_none());
    let gone = walked(&task, Some(&dir), "d", (Last::Follow, Resolve::BENEATH));
    assert_eq!(gone.err(), Some(WalkError::NotFound));
    // From inside, the directory itself is the root: `..` stops there.
    let up = walked(&task, Some(&inner), "..", (Last::Follow, Resolve::IN_ROOT)).unwrap();
    assert!(Arc::ptr_eq(&up, &inner.dentry));
    drop((task, dir, inner));
    world.end();
}
