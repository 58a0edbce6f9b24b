//! Path walk: component by component over dentries, down and up across mounts, without locks.
//!
//! 1. Pin once. Resolve the start (root or working directory) and **enter** its mount: read the mount's namespace,
//!    sample its sequence, and read the namespace again, so that the sample belongs to the namespace that the mount is
//!    in. Resolve the start again: a pivot may have moved it before the sample.
//! 2. A named component is looked up in its directory; if something is mounted on what was found, the walk goes to
//!    that mount's root, again and again to the top of the stack (rules D1 to D9).
//! 3. `..` climbs: from a mount's root to its mountpoint, as long as that is a root again, then to the parent directory;
//!    the walk's own root and the top of a tree stop it (U1 to U7). Then it crosses down.
//! 4. Nothing is delivered, success or error, hit or miss, before the sequence is the one that was sampled **and** the
//!    mount at hand is neither being decided about nor dead. The second test is what lets an umount shut a file system
//!    down without waiting: a walk inside may meet names that vanish with the file system.
//! 5. After [`TRIES`] failures the walk takes the locks of the namespaces that it can meet and goes once more: nothing
//!    can change then, so it ends.
//!
//! A walk stays in one namespace, since edges do; an absolute link is a jump to the root, whose namespace is entered anew
//! after what was walked so far is validated.
//!
//! # Contract
//! A walk equals some walk under locks whose steps are ordered in time, and it never combines the moments before and
//! after of one multi-edge change of its namespace.
//!
//! Sources: path_resolution(7), openat2(2), pivot_root(2).

use alloc::sync::Arc;

use smallvec::SmallVec;

use crate::dentry::{Dentry, LookupError};
use crate::mount::{Mount, MountFlags, Unkept};
use crate::namespace::{MntNamespace, namespace_of};
use crate::place::{FsStruct, PathRef};
use crate::platform::{self, CPUS_MAX};
use crate::reclaim::{Guard, pin};
use crate::sync::{Ordering, plain::AtomicU64, planted};
use crate::write_set::WriteSet;

/// Lock-free tries before a walk takes locks.
pub const TRIES: u32 = 2;

/// Symbolic links that one walk follows.
const LINKS_MAX: u32 = 40;

/// Bytes of one name.
const NAME_MAX: usize = 255;

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
    /// `EEXIST`, `EBUSY` or `EINVAL` by call: the last component of a path that must name an entry is `.`, `..` or `/`.
    NoLastName,
}

impl From<LookupError> for WalkError {
    fn from(error: LookupError) -> Self {
        match error {
            LookupError::NotFound => WalkError::NotFound,
            LookupError::NotDirectory => WalkError::NotDirectory,
        }
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

/// Where a walk ended; valid while it is pinned.
pub struct Found<'w, D: Dentry> {
    /// The mount.
    pub mount: &'w Mount<D>,
    /// The dentry in it.
    pub dentry: &'w Arc<D>,
    /// The last name, with [`Last::Parent`].
    pub name: &'w [u8],
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

/// Walks `path` and calls `then` on the place, still pinned: it must not block. An error of `then` means that the place
/// is on its way out, and the walk begins again.
///
/// Context and errors: as [`walk`].
pub fn walk_with<D: Dentry, R>(
    fs: &FsStruct<D>,
    path: &[u8],
    last: Last,
    mut then: impl FnMut(&Found<'_, D>) -> Result<R, Unkept<D>>,
) -> Result<R, WalkError> {
    if path.is_empty() {
        return Err(WalkError::NotFound);
    }
    if path.len() >= PATH_MAX {
        return Err(WalkError::NameTooLong);
    }
    for _ in 0..TRIES {
        match try_walk(fs, path, last, None, &mut then) {
            Outcome::Done(result) => return result,
            Outcome::Again(unkept) => unkept.settle(),
        }
        count(|here| &here.retries);
    }
    count(|here| &here.locked);
    let mut spins = 0;
    loop {
        let locks = lock_domains(fs);
        let outcome = try_walk(fs, path, last, Some(locks.as_ref()), &mut then);
        drop(locks);
        match outcome {
            Outcome::Done(result) => return result,
            // The root or the working directory moved to another namespace before the locks were there, or a detached
            // mount is being decided about.
            Outcome::Again(unkept) => unkept.settle(),
        }
        platform::relax(spins);
        spins += 1;
    }
}

/// The locks of the namespaces of root and working directory: a walk meets no others.
fn lock_domains<D: Dentry>(fs: &FsStruct<D>) -> Option<WriteSet<D>> {
    let (root, _) = fs.root();
    let (cwd, _) = fs.cwd();
    match (namespace_of(&*root), namespace_of(&*cwd)) {
        (Some(root), Some(cwd)) => Some(WriteSet::two(&root, &cwd)),
        (Some(one), None) | (None, Some(one)) => Some(WriteSet::one(&one)),
        (None, None) => None,
    }
}

enum Outcome<D: Dentry, R> {
    Done(Result<R, WalkError>),
    Again(Unkept<D>),
}

/// Why a walk stopped.
enum Stop {
    Again,
    Failed(WalkError),
}

impl From<WalkError> for Stop {
    fn from(error: WalkError) -> Self {
        Stop::Failed(error)
    }
}

fn try_walk<D: Dentry, R>(
    fs: &FsStruct<D>,
    path: &[u8],
    last: Last,
    locks: Option<Option<&WriteSet<D>>>,
    then: &mut impl FnMut(&Found<'_, D>) -> Result<R, Unkept<D>>,
) -> Outcome<D, R> {
    let guard = pin();
    let root = fs.root_cell().load(&guard);
    let cwd = fs.cwd_cell().load(&guard);
    let start = if path[0] == b'/' { &root } else { &cwd };
    let (mount, dentry) = start.resolve(&guard);
    let mut walker = Walker {
        mount,
        dentry,
        root: root.resolve(&guard),
        ns: None,
        sample: 0,
        links: 0,
        guard: &guard,
        locks,
    };
    walker.enter();
    // A pivot between the first look and the sample.
    let again = start.resolve(&guard);
    walker.root = root.resolve(&guard);
    let moved = !core::ptr::eq(again.0, mount) && !planted("resolve_once");
    if moved || !walker.is_covered() {
        return Outcome::Again(Unkept(None));
    }
    let walked = walker.run(path, last);
    if !walker.is_valid() {
        return Outcome::Again(Unkept(None));
    }
    match walked {
        Ok(name) => {
            let found = Found { mount: walker.mount, dentry: walker.dentry, name, guard: &guard };
            match then(&found) {
                Ok(result) => Outcome::Done(Ok(result)),
                Err(unkept) => Outcome::Again(unkept),
            }
        }
        Err(Stop::Failed(error)) => Outcome::Done(Err(error)),
        Err(Stop::Again) => Outcome::Again(Unkept(None)),
    }
}

struct Walker<'w, D: Dentry> {
    mount: &'w Mount<D>,
    dentry: &'w Arc<D>,
    root: (&'w Mount<D>, &'w Arc<D>),
    ns: Option<&'w MntNamespace<D>>,
    sample: u64,
    links: u32,
    guard: &'w Guard,
    /// The locks of a walk in its last resort; see [`lock_domains`].
    locks: Option<Option<&'w WriteSet<D>>>,
}

impl<'w, D: Dentry> Walker<'w, D> {
    /// Begins a segment in the namespace of `self.mount`.
    fn enter(&mut self) {
        loop {
            self.ns = self.mount.domain(self.guard);
            let Some(ns) = self.ns else { return };
            self.sample = ns.seq.sample();
            // [Home]: without the second look a walk could pair the old namespace with its new sequence, and validate
            // a wrong miss.
            let again = self.mount.domain(self.guard);
            if again.is_some_and(|again| core::ptr::eq(again, ns)) || planted("enter_without_second_look") {
                return;
            }
        }
    }

    /// Whether this segment's namespace is one that a walk in its last resort holds.
    fn is_covered(&self) -> bool {
        match (self.locks, self.ns) {
            (None, _) | (_, None) => true,
            (Some(locks), Some(ns)) => locks.is_some_and(|locks| locks.holds(ns)),
        }
    }

    /// Whether what was seen in this segment may be believed.
    #[inline]
    fn is_valid(&self) -> bool {
        (self.ns.is_none_or(|ns| ns.seq.unchanged(self.sample)) || planted("no_validation"))
            && (self.mount.is_sound() || planted("no_state_test"))
    }

    /// Walks `path`; `self` is then where it ended. Returns the last name with [`Last::Parent`].
    fn run(&mut self, path: &'w [u8], last: Last) -> Result<&'w [u8], Stop> {
        // What is left to walk, innermost link last.
        let mut rest: SmallVec<[&'w [u8]; 4]> = SmallVec::new();
        rest.push(path);
        let mut must_be_dir = false;
        while let Some(text) = rest.pop() {
            let (name, tail) = split(text);
            // What follows the last name, slashes apart: nothing here, and nothing in the outer paths.
            let slash = !tail.is_empty();
            let tail = trim(tail);
            let is_last = tail.is_empty() && rest.iter().all(|outer| trim(outer).is_empty());
            if !tail.is_empty() {
                rest.push(tail);
            }
            if name.is_empty() {
                continue;
            }
            if name.len() > NAME_MAX {
                return Err(WalkError::NameTooLong.into());
            }
            if is_last && last == Last::Parent {
                self.need_dir()?;
                return if matches!(name, b"." | b"..") {
                    Err(WalkError::NoLastName.into())
                } else {
                    Ok(name)
                };
            }
            must_be_dir = is_last && (slash || rest.iter().any(|outer| !outer.is_empty()));
            self.need_dir()?;
            match name {
                b"." => continue,
                b".." => {
                    self.climb()?;
                    continue;
                }
                _ => {}
            }
            let directory = (self.mount, self.dentry);
            self.dentry = self.dentry.lookup(name, self.guard).map_err(WalkError::from)?;
            self.cross()?;
            let follow = !is_last || must_be_dir || !matches!(last, Last::NoFollow | Last::NoFollowAndCross);
            if !core::ptr::eq(directory.0, self.mount) || !follow {
                continue;
            }
            if let Some(target) = self.dentry.symlink() {
                self.links += 1;
                if self.links > LINKS_MAX || self.mount.flags().contains(MountFlags::NOSYMFOLLOW) {
                    return Err(WalkError::Loop.into());
                }
                if target.is_empty() {
                    return Err(WalkError::NotFound.into());
                }
                if target[0] == b'/' {
                    self.jump_to_root()?;
                } else {
                    self.dentry = directory.1;
                }
                if slash && is_last {
                    // The link's target must be a directory, as the link had to be.
                    rest.push(b"/");
                }
                rest.push(target);
            }
        }
        if last == Last::Parent {
            return Err(WalkError::NoLastName.into());
        }
        if must_be_dir {
            self.need_dir()?;
        }
        if matches!(last, Last::FollowAndCross | Last::NoFollowAndCross) {
            self.cross()?;
        }
        Ok(b"")
    }

    fn need_dir(&self) -> Result<(), Stop> {
        if self.dentry.is_dir() { Ok(()) } else { Err(WalkError::NotDirectory.into()) }
    }

    /// To the top of what is mounted here (D1).
    #[inline]
    fn cross(&mut self) -> Result<(), Stop> {
        while self.dentry.mounted_here().is_mountpoint() {
            let Some(ns) = self.ns else { return Ok(()) };
            let hit = ns.lookup_mnt(self.mount, self.dentry, self.guard);
            // For a hit and for a miss: a walk that goes on from what a change is moving could go in circles.
            if !ns.seq.unchanged(self.sample) && !planted("no_validation") {
                return Err(Stop::Again);
            }
            let Some(mount) = hit else { return Ok(()) };
            self.mount = mount;
            self.dentry = mount.root();
        }
        Ok(())
    }

    /// `..` (U1 to U7).
    fn climb(&mut self) -> Result<(), Stop> {
        let (mut mount, mut dentry) = (self.mount, self.dentry);
        let at_root = |mount: &Mount<D>, dentry: &Arc<D>| {
            core::ptr::eq(mount, self.root.0) && Arc::ptr_eq(dentry, self.root.1)
        };
        loop {
            if at_root(mount, dentry) {
                break; // U1, U3: stay where we were.
            }
            if !Arc::ptr_eq(dentry, mount.root()) {
                // U2. A dentry without a parent that is not its mount's root was removed: it is its own parent.
                let parent = dentry.parent(self.guard).map_or(dentry, |(_, parent)| parent);
                // U5: the directory was moved out of what this mount shows.
                if mount.root().parent(self.guard).is_some()
                    && !mount.root().is_ancestor_of(parent, self.guard)
                {
                    return Err(WalkError::NotFound.into());
                }
                (self.mount, self.dentry) = (mount, parent);
                break;
            }
            match mount.up(self.guard) {
                Some(up) => (mount, dentry) = up,
                None => break, // U3, U7: the top of the tree: stay where we were.
            }
            if self.ns.is_some_and(|ns| !ns.seq.unchanged(self.sample)) && !planted("no_validation") {
                return Err(Stop::Again);
            }
        }
        self.cross() // U4
    }

    /// An absolute link.
    fn jump_to_root(&mut self) -> Result<(), Stop> {
        if !self.is_valid() {
            return Err(Stop::Again);
        }
        let same = self.ns;
        (self.mount, self.dentry) = self.root;
        let sample = self.sample;
        self.enter();
        // In the same namespace the segment goes on: what came before the jump still has to hold.
        let left = match (same, self.ns) {
            (Some(a), Some(b)) => core::ptr::eq(a, b) && sample != self.sample,
            _ => false,
        };
        if left || !self.is_covered() { Err(Stop::Again) } else { Ok(()) }
    }
}

/// The first name of `path`, and what follows it.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    let path = trim(path);
    let end = path.iter().position(|byte| *byte == b'/').unwrap_or(path.len());
    path.split_at(end)
}

/// `path` without slashes in front.
fn trim(path: &[u8]) -> &[u8] {
    let start = path.iter().position(|byte| *byte != b'/').unwrap_or(path.len());
    &path[start..]
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
