//! A lock-free concurrent mount table with RCU-style lookup.
//!
//! Mounts, the mount hash, namespaces, lookup and path walk. Who receives a propagated mount is in the `propagate` crate,
//! and what a system call checks in `syscalls`.
//!
//! ```text
//!  walker (pinned, no lock, no shared write)          mutator
//!    enter: mount.ns -> sequence -> mount.ns again      plan of locks: groups by stamp, namespaces by id
//!    step : dentry; flagged dentry -> namespace's hash  prepare (all checks, all memory)
//!    check: sequence unchanged, mount sound             commit (cannot fail); window only if a reader could be confused
//!    keep : count on own CPU | fence | state sound?     unlock -> superblock shutdown -> retire memory (epoch)
//! ```
//!
//! # Code map
//! | module | what |
//! |---|---|
//! | [`table`] | the hash: immutable entries, lock-free lookup, growth under readers; also a directory's dentry cache |
//! | [`mount`] | mounts, edges, states, references, anchors of roots and working directories |
//! | `count` | split reference counts |
//! | [`writers`], [`attributes`] | who writes through a mount and to a superblock; how these become read-only, and other changes of what a mount is like |
//! | [`namespace`], `seqlock` | a namespace: hash, sequence, lock; what bumps the sequence |
//! | [`write_set`] | the locks of one change, and how they are taken |
//! | [`tree`] | prepare and commit of attach, move, tuck, leave |
//! | [`group`] | peer groups and slave lists, as objects |
//! | [`walk`], [`place`] | path walk; kept paths, roots, working directories |
//! | [`removal`] | rmdir beside mounts |
//! | [`reclaim`], `limbo`, [`platform`](mod@platform), [`sync`], [`arc_cell`] | epochs and their bound; what a kernel gives; atomics and locks; read-mostly cells |
//! | [`memory`] | what an operation allocates, and that it has it before it changes anything |
//! | `by_id` | questions about mounts by their ids |
//! | [`check`] | the checker |
//! | [`user_ns`] | who owns namespaces and superblocks |
//! | [`visits`] | how much a change looked at, for tests |
//! | [`dentry`], [`id`], [`list`] | what a file system gives; identifiers; lists in slabs |
//!
//! # Edges
//! Every ordering weaker than SeqCst belongs to one of these; the loom models are in `loom-tests`.
//!
//! | edge | writer | reader | orderings |
//! |---|---|---|---|
//! | `[Publish]` | link, unlink, replace, grow | `find` | Release / Acquire |
//! | `[Spare]` | a retired array is freed | growth | Release / Acquire |
//! | `[Window]` | `open`, `close` | `sample`, `unchanged` | odd Relaxed, edges Release, even Release / Acquire, Acquire, Relaxed |
//! | `[Home]` | attach, leave: `mount.ns` | `enter`, twice | Release / Acquire |
//! | `[Pair]` | link, rehang, leave: `mount.edge` | `up` | Release / Acquire |
//! | `[Busy]` | CHECK; fence; sums | get; fence; state | SeqCst fences on both sides |
//! | `[Put]` | put; fence; state | sums, puts before gets; DETACHED; fence; sums | Release / Acquire; SeqCst fences |
//! | `[Hold]` | HOLD; fence; sum | count; fence; state | SeqCst fences on both sides |
//! | `[Decided]` | a hold ends, writable again | a writer's look | Release / Acquire |
//! | `[Slots]` | a counter is split | `pair`, `sum` | Release / Acquire |
//! | `[Detached]` | a mount leaves its tree lazily | who puts its last reference: state; fence | Release / SeqCst fence |
//! | `[Killed]` | state, before the superblock is shut down | end of a walk: dentries, then state | the file system's / its Acquire |
//! | `[Anchor]` | `move_all`, in the window | `target`, between sample and check | Release / Acquire |
//! | `[Back]` | a bag returns to its CPU | who empties it | Release / Acquire |
//! | `[Flag]` | first use of a dentry | a walk's step | Release / Acquire |
//!
//! # Where a simpler way was taken than the fullest one thought of
//! - *Locks are retried, not extended.* A change that meets an unlocked group starts again with the union of all it knows,
//!   instead of extending the set it holds; so a forgotten rule about the age of groups can cost a retry and never the
//!   order of locks, and there is no separate queue of a namespace's own changes. Starts are counted; after
//!   [`write_set::TRIES`] of them a change asks for the machine to itself.
//! - *Identifiers are Lamport clocks per CPU*, not hybrid ones: order within a namespace comes from the namespace's last
//!   id, so no clock needs to agree with another.
//! - *Anchors move by list*, one store each, with those that nobody uses dropped on the way; there are no forward chains
//!   to shorten, and a walk resolves one pointer.
//! - *A mountpoint is registered while something is mounted on it*, and not kept idle for the next mount. Two namespaces
//!   that mount and umount on one dentry in turn share its leaf lock.
//! - *A superblock counts its mounts on one line*, which mounts of one superblock in different namespaces share.
//! - *A detached mount belongs to no namespace*, connected or not; fragments that stay connected have no table.
//! - *Listings are taken under the namespace's lock.*
//!
//! # Left out
//! Expiry marks, id-mapped mounts, and listings that never block a writer: they come with the complete semantics.
#![no_std]
#![allow(rustdoc::private_intra_doc_links, reason = "the headers also speak to readers of the source")]

extern crate alloc;
#[cfg(any(feature = "std", loom))]
extern crate std;

pub mod arc_cell;
pub mod attributes;
mod by_id;
pub mod check;
mod count;
pub mod dentry;
pub mod foresight;
pub mod group;
pub mod id;
// Models use it as it is, in place of the machine's.
#[cfg(loom)]
pub mod limbo;
#[cfg(not(loom))]
#[expect(unreachable_pub, reason = "public in models")]
mod limbo;
pub mod list;
pub mod memory;
pub mod mount;
pub mod namespace;
pub mod place;
pub mod platform;
pub mod reclaim;
pub mod removal;
mod seqlock;
pub mod sync;
pub mod table;
pub mod tree;
pub mod user_ns;
pub mod visits;
pub mod walk;
pub mod write_set;
pub mod writers;

pub use dentry::{Dentry, MountedHere, SuperBlock};
pub use group::Group;
pub use mount::{Mount, MountFlags, MountRef, MountSpec, Source};
pub use namespace::{Kind, MntNamespace, NamespaceSpec};
pub use place::{FsStruct, PathRef};
pub use reclaim::{Guard, pin};
pub use user_ns::UserNs;
pub use write_set::{LockPlan, Missing, WriteSet};
