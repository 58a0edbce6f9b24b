//! overlayfs: several directories, the *layers*, shown as one. What is changed is changed in the topmost one, the *upper*
//! layer, into which a file of a lower layer is copied first.
//!
//! | Module | What |
//! |---|---|
//! | [`options`] | what is asked for with `lowerdir=` and its like, and how it is shown |
//! | [`mount`] | from options to an instance |
//! | [`layers`] | what an instance lies on |
//! | [`entry`] | the node of a file: which files of the layers it stands in front of |
//! | [`lookup`] | which files of the layers a name stands for |
//! | [`copy_up`] | from a lower layer into the upper one |
//! | [`changes`] | making, removing, renaming |
//! | [`listing`] | directories of several layers, read as one |
//! | [`contents`] | open files |
//! | [`attributes`] | extended attributes |
//!
//! # How it works
//! 1. An instance is a superblock like any other, whose dentries have an [`Entry`](entry::Entry) each: a file of the upper
//!    layer, files of lower layers, or both. The dentries are the cache: a walk that finds a name there takes no lock and
//!    looks at no layer. A name that is not there is asked for ([`lookup`]), and stays.
//! 2. An entry's lower files never change. Its upper file is set once, by a copy-up, and never again: a rename moves the same
//!    dentry of the layer, as it moves the same dentry of the instance.
//! 3. Layers are changed beneath the cache and together with it: a name changes in the upper layer while the instance's own
//!    dentry cannot fail to change any more ([`tmpfs::rename_with`] and its like), so that neither is ever alone.
//! 4. A removed name of a lower layer leaves a *whiteout* in the upper one, a character device 0:0; a directory that hides
//!    what the layers below have there is *opaque*, by an extended attribute. Both are what Linux makes and reads.
//! 5. The caller's rights are looked at for the instance's files, which show owner and permissions of the layer's; those of
//!    whoever mounted it, for the layer's own ([`Entry::may`](super::node::Node::may)).
//! 6. Layers are held by private mounts, which nobody finds: their places can be umounted. They end with the instance's last
//!    mount, whoever still has a dentry of it.
//!
//! # Lock order
//! An open file's `offset`, a listing's → an entry's `copying` → its instance's `changing` → the same of an instance that is
//! a layer → locks of the mount table and of tmpfs. All but the last block. No two entries' `copying` are held at once: the
//! directories above are copied before.
//!
//! - `copying`: who copies this file up. Its contents are copied under it alone.
//! - `changing`: who changes names, adds to the cache, or puts a listing together. What is added is looked up again under it;
//!   a name that nobody has needs no lock: it was missing at some moment of the lookup, since the upper layer gets the
//!   whiteout, or loses it, in one step.
//!
//! # What is published by what
//! `[Upper]` a copy-up, once the copy is whole and has its name in the upper layer, sets the entry's upper file with Release;
//! whoever reads it does so with Acquire, and without it sees the lower file, which is as good until then.
//!
//! # Left out
//! Redirects of directories and copies of attributes alone (`redirect_dir=on`, `metacopy=on`, data layers), the index of hard
//! links and with it file handles (`index=on`, `nfs_export=on`): they are refused. The number of a file that was copied up
//! before the instance was mounted is the copy's: there are no file handles by which to find the original. Layers are
//! file systems of memory, or overlays.
//!
//! Sources: Documentation/filesystems/overlayfs.rst; the running Linux.

mod attributes;
mod changes;
mod contents;
mod copy_up;
mod entry;
mod layers;
mod listing;
mod lookup;
mod mount;
mod options;

pub(super) use mount::Overlay;

use alloc::sync::Arc;

use mnt_table::namespace::MntNamespace;
use syscalls::Errno;
use tmpfs::TmpDentry;

/// `OVERLAYFS_SUPER_MAGIC`
const MAGIC: u64 = 0x794c_7630;

/// The calling thread's mount namespace.
fn own_namespace() -> Arc<MntNamespace<TmpDentry>> {
    crate::task::current().mounts().namespace()
}

/// The error of an allocation.
fn no_memory<E>(_: E) -> Errno {
    Errno::ENOMEM
}
