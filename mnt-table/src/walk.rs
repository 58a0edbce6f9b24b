//! Path walk: component by component over dentries, down and up across mounts, without locks.
//!
//! 1. Pin once. Resolve the start (root or working directory) and **enter** its mount: read the mount's namespace,
//!    sample its sequence, and read the namespace again, so that the sample belongs to the namespace that the mount is
//!    in. Resolve the start again: a pivot may have moved it before the sample.
//! 2. A named component is looked up in its directory; if something is mounted on what was found, the walk goes to
//!    that mount's root, again and again to the top of the stack (rules D1 to D9).
//! 3. `..` climbs: from a mount's root to its mountpoint, as long as that is a root again, then to the parent directory;
//!    the walk's own root and the top of a tree stop it (U1 to U7). Then it crosses down. A mount that became the top of
//!    nothing after the walk went into it, by an umount of one edge, sends the walk back: a lazily detached one would be
//!    its own `..`, as it was neither before nor after.
//! 4. Nothing is delivered, success or error, hit or miss, before the sequence is the one that was sampled **and** the
//!    mount at hand is neither being decided about nor dead. The second test is what lets an umount shut a file system
//!    down without waiting: a walk inside may meet names that vanish with the file system.
//! 5. After [`TRIES`] failures the walk takes the locks of the namespaces that it can meet and goes once more: nothing
//!    can change then, so it ends.
//!
//! A walk stays in one namespace, since edges do; an absolute link is a jump to the root, whose namespace is entered anew
//! after what was walked so far is validated. A magic link ([`Dentry::is_magic_link`]) ends a leg of the walk: the next one
//! starts, without a pin of before, at the place that the file system names and that is kept meanwhile. A directory that
//! makes its entries when they are asked for ([`crate::dentry::LookupError::Ask`]) is asked without a pin, and the leg begins again.
//!
//! # Contract
//! A walk equals some walk under locks whose steps are ordered in time, and it never combines the moments before and
//! after of one multi-edge change of its namespace.
//!
//! Sources: path_resolution(7), openat2(2), pivot_root(2).

use alloc::borrow::Cow;
use alloc::sync::Arc;
use alloc::vec::Vec;

use bitflags::bitflags;

use crate::dentry::Dentry;
use crate::list::NoMemory;
use crate::mount::{Mount, Unkept};
use crate::namespace::namespace_of;
use crate::place::{FsStruct, PathRef};
use crate::platform::{self, CPUS_MAX};
use crate::reclaim::{Guard, pin};
use crate::sync::{Ordering, plain::AtomicU64, planted};
use crate::write_set::WriteSet;

mod walker;

use walker::{Stop, Walker};

/// Lock-free tries before a walk takes locks.
pub const TRIES: u32 = 2;

/// Bytes of a path, the final NUL counted.
const PATH_MAX: usize = 4096;

/// Why a walk ended without a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalkError {
    /// `ENOENT`: a name is missing, the path is empty, or `..` left the mounted subtree.
    NotFound,
    /// `ENOTDIR`: a component that is not the last is no directory.
    NotDirectory,
    /// `ELOOP`: too many symbolic links, or one on a `nosymfollow` mount.
    Loop,
    /// `ENAMETOOLONG`.
    NameTooLong,
    /// `EXDEV`: the walk would change mounts, or leave the directory that it has to stay in.
    Leaves,
    /// `EAGAIN`: it cannot be done without locks, or a rename took the walk out of the directory that it has to stay in.
    Again,
    /// `EINVAL`: flags that exclude each other.
    BadFlags,
    /// `EACCES`: the caller may not look names up in a directory, or follow a magic link.
    Denied,
    /// `EEXIST`, `EBUSY` or `EINVAL` by call: the last component of a path that must name an entry is `.`, `..` or `/`.
    NoLastName,
    /// `ENOMEM`: links in links, deeper than is usual, or what is left to walk behind a magic link.
    NoMemory,
}

impl WalkError {
    /// Whether a walk that fails so uses the mount where it ends, as one that arrives does (`MNT_EXPIRE`): Linux finds these
    /// only with a reference in hand.
    fn uses_mount(self) -> bool {
        use WalkError::*;
        matches!(self, NotFound | NotDirectory | NameTooLong | Denied | NoLastName)
    }
}

impl From<NoMemory> for WalkError {
    fn from(NoMemory: NoMemory) -> Self {
        WalkError::NoMemory
    }
}

/// What to do with the last component.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Last {
    /// Follow a symbolic link.
    Follow,
    /// Stay on a symbolic link, unless a slash follows it.
    NoFollow,
    /// Follow, and cross down once more at the end whatever the last component was (umount2, setns: rule D6).
    FollowAndCross,
    /// As before, without following.
    NoFollowAndCross,
    /// Do not look it up: the place is its directory (mkdir, unlink, rename: rule D8).
    Parent,
}

bitflags! {
    /// Restrictions of a walk, with the values of openat2(2)'s `resolve`.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Resolve: u64 {
        /// `EXDEV` where the walk would go to another mount, down or up or by a link.
        const NO_XDEV = 1;
        /// `ELOOP` at a magic link.
        const NO_MAGICLINKS = 2;
        /// `ELOOP` at any symbolic link.
        const NO_SYMLINKS = 4;
        /// `EXDEV` where the walk would leave the directory that it starts in.
        const BENEATH = 8;
        /// The directory that the walk starts in is its root.
        const IN_ROOT = 0x10;
        /// `EAGAIN` where the walk would need locks.
        const CACHED = 0x20;
    }
}

/// How to walk.
pub struct How<'a, D: Dentry> {
    /// What to do with the last component.
    pub last: Last,
    /// Restrictions.
    pub resolve: Resolve,
    /// Where relative paths start; the working directory if it is not given.
    pub dir: Option<&'a PathRef<D>>,
}

impl<D: Dentry> How<'_, D> {
    /// From the working directory, without restrictions.
    pub fn new(last: Last) -> Self {
        How { last, resolve: Resolve::empty(), dir: None }
    }
}

/// Where a walk ended; valid while it is pinned.
pub struct Found<'w, D: Dentry> {
    /// The mount.
    pub mount: &'w Mount<D>,
    /// The dentry in it.
    pub dentry: &'w Arc<D>,
    /// The last name, with [`Last::Parent`].
    pub name: &'w [u8],
    /// Whether a slash follows it: it has to name a directory.
    pub slash: bool,
    guard: &'w Guard,
}

impl<D: Dentry> Found<'_, D> {
    /// The pin that holds it.
    pub fn guard(&self) -> &Guard {
        self.guard
    }
}

/// Walks `path` and keeps what it finds.
///
/// Context: not pinned; no lock of this crate held; may block in its last resort.
///
/// # Errors
/// [`WalkError`].
pub fn walk<D: Dentry>(fs: &FsStruct<D>, path: &[u8], last: Last) -> Result<PathRef<D>, WalkError> {
    walk_with(fs, path, last, |found| {
        let mount = found.mount.keep(found.guard)?;
        Ok(PathRef { mount, dentry: Arc::clone(found.dentry) })
    })
}

/// Walks `path` for a change that is going to lock: the handles do not make the mount busy, and must be looked at again
/// under the lock.
///
/// Context and errors: as [`walk`].
pub fn walk_to_change<D: Dentry>(
    fs: &FsStruct<D>,
    path: &[u8],
    last: Last,
) -> Result<(Arc<Mount<D>>, Arc<D>), WalkError> {
    walk_with(fs, path, last, |found| Ok((found.mount.to_arc(found.guard), Arc::clone(found.dentry))))
}

/// Walks `path` under `locks`, for a change whose walk without locks may be out of date.
///
/// Context: holds no window open. Errors: as [`walk`]; and `EAGAIN`: the path leads to a namespace that is not held,
/// through a magic link, or to a name that its directory has to be asked for.
pub fn walk_under<D: Dentry>(
    locks: &WriteSet<D>,
    fs: &FsStruct<D>,
    path: &[u8],
    how: &How<'_, D>,
) -> Result<(Arc<Mount<D>>, Arc<D>), WalkError> {
    let leg = Leg { path: Cow::Borrowed(path), base: None, links: 0 };
    let mut then = |found: &Found<'_, D>| Ok((found.mount.to_arc(found.guard), Arc::clone(found.dentry)));
    match try_walk(fs, &leg, how, Some(Some(locks)), &mut then) {
        Outcome::Done(Ok(Leap::Arrived(found))) => Ok(found),
        Outcome::Done(Err(error)) => Err(error),
        Outcome::Done(Ok(Leap::Magic(..) | Leap::Ask(..))) | Outcome::Again(_) => Err(WalkError::Again),
    }
}

/// Walks `path` and calls `then` on the place, still pinned: it must not block. An error of `then` means that the place
/// is on its way out, and the walk begins again.
///
/// Context and errors: as [`walk`].
pub fn walk_with<D: Dentry, R>(
    fs: &FsStruct<D>,
    path: &[u8],
    last: Last,
    then: impl FnMut(&Found<'_, D>) -> Result<R, Unkept<D>>,
) -> Result<R, WalkError> {
    walk_how(fs, path, &How::new(last), then)
}

/// As [`walk_with`], with restrictions and from another directory (openat2(2)).
///
/// Context and errors: as [`walk`].
pub fn walk_how<D: Dentry, R>(
    fs: &FsStruct<D>,
    path: &[u8],
    how: &How<'_, D>,
    mut then: impl FnMut(&Found<'_, D>) -> Result<R, Unkept<D>>,
) -> Result<R, WalkError> {
    if how.resolve.contains(Resolve::BENEATH | Resolve::IN_ROOT) {
        return Err(WalkError::BadFlags);
    }
    if path.is_empty() {
        return Err(WalkError::NotFound);
    }
    if path.len() >= PATH_MAX {
        return Err(WalkError::NameTooLong);
    }
    if path[0] == b'/' && how.resolve.contains(Resolve::BENEATH) {
        return Err(WalkError::Leaves);
    }
    let mut leg = Leg { path: Cow::Borrowed(path), base: None, links: 0 };
    loop {
        let (link, rest, links) = match walk_leg(fs, &leg, how, &mut then)? {
            Leap::Arrived(result) => return Ok(result),
            Leap::Magic(link, rest, links) => (link, rest, links),
            Leap::Ask(directory, name) => {
                if how.resolve.contains(Resolve::CACHED) {
                    return Err(WalkError::Again);
                }
                directory.instantiate(&name)?;
                continue;
            }
        };
        if how.resolve.contains(Resolve::CACHED) {
            return Err(WalkError::Again);
        }
        // Nobody can say any more what the walk's root is to where a magic link leads.
        if how.resolve.intersects(Resolve::BENEATH | Resolve::IN_ROOT) {
            return Err(WalkError::Leaves);
        }
        let base = link.follow_magic_link()?;
        if how.resolve.contains(Resolve::NO_XDEV) && leg.start_mount(fs, how) != base.mount.unique_id() {
            return Err(WalkError::Leaves);
        }
        leg = Leg { path: Cow::Owned(rest), base: Some(base), links };
    }
}

/// A part of a walk: from its start, or from where a magic link led.
struct Leg<'p, D: Dentry> {
    path: Cow<'p, [u8]>,
    base: Option<PathRef<D>>,
    links: u32,
}

impl<D: Dentry> Leg<'_, D> {
    /// The mount in which the leg began: with `NO_XDEV` it is in no other.
    fn start_mount(&self, fs: &FsStruct<D>, how: &How<'_, D>) -> u64 {
        match (&self.base, how.dir) {
            (Some(base), _) => base.mount.unique_id(),
            (None, _) if self.path.starts_with(b"/") => fs.root().0.unique_id(),
            (None, Some(dir)) => dir.mount.unique_id(),
            (None, None) => fs.cwd().0.unique_id(),
        }
    }
}

/// How a leg ended.
enum Leap<D, R> {
    Arrived(R),
    /// At a magic link, with the rest of the path and the number of links so far.
    Magic(Arc<D>, Vec<u8>, u32),
    /// At a directory that has to be asked for a name.
    Ask(Arc<D>, Vec<u8>),
}

fn walk_leg<D: Dentry, R>(
    fs: &FsStruct<D>,
    leg: &Leg<'_, D>,
    how: &How<'_, D>,
    then: &mut impl FnMut(&Found<'_, D>) -> Result<R, Unkept<D>>,
) -> Result<Leap<D, R>, WalkError> {
    for _ in 0..TRIES {
        match try_walk(fs, leg, how, None, then) {
            Outcome::Done(result) => return result,
            Outcome::Again(unkept) => unkept.settle(),
        }
        count(|here| &here.retries);
    }
    if how.resolve.contains(Resolve::CACHED) {
        return Err(WalkError::Again);
    }
    count(|here| &here.locked);
    let mut spins = 0;
    loop {
        let locks = lock_domains(fs, leg, how);
        let outcome = try_walk(fs, leg, how, Some(locks.as_ref()), then);
        drop(locks);
        match outcome {
            Outcome::Done(result) => return result,
            // The root or the start moved to another namespace before the locks were there, or a detached mount is
            // being decided about.
            Outcome::Again(unkept) => unkept.settle(),
        }
        platform::relax(spins);
        spins += 1;
    }
}

/// The locks of the namespaces of root and start: a walk meets no others.
fn lock_domains<D: Dentry>(fs: &FsStruct<D>, leg: &Leg<'_, D>, how: &How<'_, D>) -> Option<WriteSet<D>> {
    let root = namespace_of(&*fs.root().0);
    let start = match leg.base.as_ref().or(how.dir) {
        Some(dir) => namespace_of(&dir.mount),
        None => namespace_of(&*fs.cwd().0),
    };
    match (root, start) {
        (Some(root), Some(start)) => Some(WriteSet::two(&root, &start)),
        (Some(one), None) | (None, Some(one)) => Some(WriteSet::one(&one)),
        (None, None) => None,
    }
}

enum Outcome<D: Dentry, R> {
    Done(Result<Leap<D, R>, WalkError>),
    Again(Unkept<D>),
}

fn try_walk<D: Dentry, R>(
    fs: &FsStruct<D>,
    leg: &Leg<'_, D>,
    how: &How<'_, D>,
    locks: Option<Option<&WriteSet<D>>>,
    then: &mut impl FnMut(&Found<'_, D>) -> Result<R, Unkept<D>>,
) -> Outcome<D, R> {
    let guard = pin();
    let root = fs.root_cell().load(&guard);
    let cwd = fs.cwd_cell().load(&guard);
    let scoped = how.resolve.intersects(Resolve::BENEATH | Resolve::IN_ROOT);
    let start = || match (&leg.base, how.dir) {
        (Some(base), _) => (&*base.mount, &base.dentry),
        (None, _) if leg.path.starts_with(b"/") && !scoped => root.resolve(&guard),
        (None, Some(dir)) => (&*dir.mount, &dir.dentry),
        (None, None) => cwd.resolve(&guard),
    };
    let (mount, dentry) = start();
    let mut walker = Walker {
        mount,
        dentry,
        root: (mount, dentry),
        ns: None,
        sample: 0,
        links: leg.links,
        resolve: how.resolve,
        guard: &guard,
        locks,
    };
    walker.enter();
    // A pivot between the first look and the sample.
    let again = start();
    walker.root = if scoped { again } else { root.resolve(&guard) };
    let moved = !core::ptr::eq(again.0, mount) && !planted("resolve_once");
    if moved || !walker.is_covered() {
        return Outcome::Again(Unkept(None));
    }
    let walked = walker.run(&leg.path, how.last);
    if !walker.is_valid() {
        return Outcome::Again(Unkept(None));
    }
    match walked {
        Ok((name, slash)) => {
            if !matches!(how.last, Last::FollowAndCross | Last::NoFollowAndCross) {
                // What an umount looks for is not used by that.
                walker.mount.note_use();
            }
            let found = Found { mount: walker.mount, dentry: walker.dentry, name, slash, guard: &guard };
            match then(&found) {
                Ok(result) => Outcome::Done(Ok(Leap::Arrived(result))),
                Err(unkept) => Outcome::Again(unkept),
            }
        }
        Err(Stop::Magic(link, rest)) => {
            walker.mount.note_use();
            Outcome::Done(Ok(Leap::Magic(link, rest, walker.links)))
        }
        Err(Stop::Ask(directory, name)) => Outcome::Done(Ok(Leap::Ask(directory, name))),
        Err(Stop::Failed(error)) => {
            if error.uses_mount() {
                walker.mount.note_use();
            }
            Outcome::Done(Err(error))
        }
        Err(Stop::Again) => Outcome::Again(Unkept(None)),
    }
}

#[repr(align(128))]
struct Counters {
    retries: AtomicU64,
    locked: AtomicU64,
}

static COUNTERS: [Counters; CPUS_MAX] =
    [const { Counters { retries: AtomicU64::new(0), locked: AtomicU64::new(0) } }; CPUS_MAX];

#[cold]
fn count(field: fn(&Counters) -> &AtomicU64) {
    // Relaxed: statistics.
    field(&COUNTERS[platform::cpu()]).fetch_add(1, Ordering::Relaxed);
}

/// What walks met since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Lock-free tries that had to be made again.
    pub retries: u64,
    /// Walks that took locks in the end.
    pub locked: u64,
}

fn read(counters: &Counters) -> Stats {
    Stats {
        retries: counters.retries.load(Ordering::Relaxed),
        locked: counters.locked.load(Ordering::Relaxed),
    }
}

/// Of all CPUs.
pub fn stats() -> Stats {
    COUNTERS.iter().map(read).fold(Stats::default(), |sum, one| Stats {
        retries: sum.retries + one.retries,
        locked: sum.locked + one.locked,
    })
}

/// Of the CPU or thread that asks.
pub fn stats_here() -> Stats {
    read(&COUNTERS[platform::cpu()])
}
