//! Extended attributes: what there has to be, order, room.

mod common;

use common::{fresh, namespace};
use mnt_table::dentry::{Dentry, SuperBlock};
use tmpfs::{FsError, INODE_ROOM, Options, Set, TmpSuperBlock};

#[test]
fn attributes_are_set_replaced_listed_and_removed() {
    let root = fresh(1);
    let inode = root.create(b"f").unwrap();
    let inode = inode.inode();
    assert_eq!(inode.attribute(b"user.a").unwrap_err(), FsError::NoAttribute);
    inode.set_attribute(b"user.a", b"one", Set::Any).unwrap();
    assert_eq!(inode.set_attribute(b"user.a", b"two", Set::Create), Err(FsError::Exists));
    assert_eq!(inode.set_attribute(b"user.b", b"two", Set::Replace), Err(FsError::NoAttribute));
    inode.set_attribute(b"user.a", b"two", Set::Replace).unwrap();
    inode.set_attribute(b"user.empty", b"", Set::Create).unwrap();
    inode.set_attribute(b"trusted.t", b"3", Set::Any).unwrap();
    assert_eq!(**inode.attribute(b"user.a").unwrap(), *b"two");
    assert_eq!(**inode.attribute(b"user.empty").unwrap(), *b"");
    assert_eq!(inode.attribute_names(|_| true).unwrap(), b"user.empty\0user.a\0trusted.t\0");
    let user = |name: &[u8]| name.starts_with(b"user.");
    assert_eq!(inode.attribute_names(user).unwrap(), b"user.empty\0user.a\0");
    inode.remove_attribute(b"user.a").unwrap();
    assert_eq!(inode.remove_attribute(b"user.a"), Err(FsError::NoAttribute));
    assert_eq!(inode.attribute_names(|_| true).unwrap(), b"user.empty\0trusted.t\0");
    root.super_block().shutdown();
}

#[test]
fn attributes_take_room_that_inodes_could_have() {
    let root = TmpSuperBlock::new(Options { inodes: Some(4), ..Options::new(1, b"tmpfs") }).unwrap();
    let file = root.create(b"f").unwrap();
    let free = |root: &std::sync::Arc<tmpfs::TmpDentry>| 4 - root.super_block().usage().inodes;
    assert_eq!(free(&root), 2);
    // As on Linux: 40 bytes, the name, the value.
    let set = |number: usize| {
        let name = format!("user.{number}");
        file.inode().set_attribute(name.as_bytes(), &[0; 100], Set::Any)
    };
    assert_eq!((0..).take_while(|number| set(*number).is_ok()).count(), 14);
    assert_eq!((set(14), free(&root)), (Err(FsError::NoSpace), 0));
    assert_eq!(root.mkdir(b"d").unwrap_err(), FsError::NoSpace);
    (0..14).for_each(|number| file.inode().remove_attribute(format!("user.{number}").as_bytes()).unwrap());
    assert_eq!(free(&root), 2);
    // A value that is replaced takes no room any more; until it is, it does.
    file.inode().set_attribute(b"user.x", &[0; INODE_ROOM as usize], Set::Any).unwrap();
    assert_eq!(file.inode().set_attribute(b"user.x", &[0; 1000], Set::Any), Err(FsError::NoSpace));
    file.inode().set_attribute(b"user.x", b"", Set::Any).unwrap();
    // Without a name it takes none, though somebody has a handle of it.
    drop(root.unlink(b"f", &namespace()).unwrap());
    assert_eq!(free(&root), 3);
    drop(file);
    mnt_table::reclaim::quiesce();
    assert_eq!(free(&root), 3);
    root.super_block().shutdown();
}
