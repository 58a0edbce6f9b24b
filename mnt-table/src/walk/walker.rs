//! The steps of a walk: down by names, up by `..`, across mounts, by links.

use alloc::sync::Arc;
use alloc::vec::Vec;

use smallvec::SmallVec;

use super::{Last, Resolve, WalkError};
use crate::dentry::{Dentry, LookupError};
use crate::list::NoMemory;
use crate::memory::{self, Grow};
use crate::mount::{Mount, MountFlags};
use crate::namespace::MntNamespace;
use crate::reclaim::Guard;
use crate::sync::planted;
use crate::write_set::WriteSet;

/// Symbolic links that one walk follows.
const LINKS_MAX: u32 = 40;

/// Bytes of one name.
const NAME_MAX: usize = 255;

/// Why a walk stopped.
pub(super) enum Stop<D> {
    Again,
    Failed(WalkError),
    /// At a magic link, with what is to be walked from where it leads.
    Magic(Arc<D>, Vec<u8>),
    /// At a directory that has to be asked for a name.
    Ask(Arc<D>, Vec<u8>),
}

impl<D> From<NoMemory> for Stop<D> {
    fn from(error: NoMemory) -> Self {
        Stop::Failed(error.into())
    }
}

impl<D> From<WalkError> for Stop<D> {
    fn from(error: WalkError) -> Self {
        Stop::Failed(error)
    }
}

/// A walk under way.
pub(super) struct Walker<'w, D: Dentry> {
    pub(super) mount: &'w Mount<D>,
    pub(super) dentry: &'w Arc<D>,
    pub(super) root: (&'w Mount<D>, &'w Arc<D>),
    pub(super) ns: Option<&'w MntNamespace<D>>,
    pub(super) sample: u64,
    pub(super) links: u32,
    pub(super) resolve: Resolve,
    pub(super) guard: &'w Guard,
    /// The locks of a walk in its last resort; see [`lock_domains`].
    pub(super) locks: Option<Option<&'w WriteSet<D>>>,
}

impl<'w, D: Dentry> Walker<'w, D> {
    /// Begins a segment in the namespace of `self.mount`.
    pub(super) fn enter(&mut self) {
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
    pub(super) fn is_covered(&self) -> bool {
        match (self.locks, self.ns) {
            (None, _) | (_, None) => true,
            (Some(locks), Some(ns)) => locks.is_some_and(|locks| locks.holds(ns)),
        }
    }

    /// Whether what was seen in this segment may be believed.
    #[inline]
    pub(super) fn is_valid(&self) -> bool {
        (self.ns.is_none_or(|ns| ns.seq.unchanged(self.sample)) || planted("no_validation"))
            && (self.mount.is_sound() || planted("no_state_test"))
    }

    /// Walks `path`; `self` is then where it ended. Returns the last name with [`Last::Parent`], and whether a slash
    /// follows it.
    pub(super) fn run(&mut self, path: &'w [u8], last: Last) -> Result<(&'w [u8], bool), Stop<D>> {
        // What is left to walk: of the path or link at hand, and of those that it is in, the innermost last.
        let mut text = trim(path);
        let mut outer: SmallVec<[&'w [u8]; 4]> = SmallVec::new();
        let mut must_be_dir = false;
        loop {
            if text.is_empty() {
                match outer.pop() {
                    Some(next) => text = trim(next),
                    None => break,
                }
                continue;
            }
            let (name, tail) = split(text);
            // What follows the last name, slashes apart: nothing here, and nothing in the outer paths.
            let slash = !tail.is_empty();
            text = trim(tail);
            let is_last = text.is_empty() && outer.iter().all(|outer| trim(outer).is_empty());
            self.need_dir()?;
            if !self.dentry.may_search(self.mount) {
                return Err(WalkError::Denied.into());
            }
            if name.len() > NAME_MAX {
                return Err(WalkError::NameTooLong.into());
            }
            if is_last && last == Last::Parent {
                return if matches!(name, b"." | b"..") {
                    Err(WalkError::NoLastName.into())
                } else {
                    Ok((name, slash))
                };
            }
            must_be_dir = is_last && (slash || outer.iter().any(|outer| !outer.is_empty()));
            match name {
                b"." => continue,
                b".." => {
                    self.climb()?;
                    continue;
                }
                _ => {}
            }
            let directory = (self.mount, self.dentry);
            self.dentry = match self.dentry.lookup(name, self.guard) {
                Ok(found) => found,
                Err(error) => return Err(self.not_found(name, error)),
            };
            self.cross()?;
            let follow = !is_last || must_be_dir || !matches!(last, Last::NoFollow | Last::NoFollowAndCross);
            if !follow {
                continue;
            }
            if self.dentry.is_magic_link() {
                self.may_follow(Resolve::NO_SYMLINKS | Resolve::NO_MAGICLINKS)?;
                outer.try_push(if slash && is_last { b"/" } else { text })?;
                return Err(Stop::Magic(Arc::clone(self.dentry), join(&outer)?));
            }
            if let Some(target) = self.dentry.symlink() {
                self.may_follow(Resolve::NO_SYMLINKS)?;
                if target.is_empty() {
                    return Err(WalkError::NotFound.into());
                }
                if target[0] == b'/' {
                    self.jump_to_root()?;
                } else {
                    (self.mount, self.dentry) = directory;
                }
                if slash && is_last {
                    // The link's target must be a directory, as the link had to be.
                    outer.try_push(b"/")?;
                }
                if !text.is_empty() {
                    outer.try_push(text)?;
                }
                text = trim(target);
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
        Ok((b"", false))
    }

    /// One link more, unless `refused` or the mount forbids it.
    fn may_follow(&mut self, refused: Resolve) -> Result<(), Stop<D>> {
        self.links += 1;
        if self.resolve.intersects(refused)
            || self.links > LINKS_MAX
            || self.mount.flags().contains(MountFlags::NOSYMFOLLOW)
        {
            return Err(WalkError::Loop.into());
        }
        Ok(())
    }

    #[cold]
    fn not_found(&self, name: &[u8], error: LookupError) -> Stop<D> {
        match error {
            LookupError::NotFound => WalkError::NotFound.into(),
            LookupError::NotDirectory => WalkError::NotDirectory.into(),
            LookupError::Ask => match memory::collect(name.iter().copied()) {
                Ok(name) => Stop::Ask(Arc::clone(self.dentry), name),
                Err(NoMemory) => WalkError::NoMemory.into(),
            },
        }
    }

    fn need_dir(&self) -> Result<(), Stop<D>> {
        if self.dentry.is_dir() { Ok(()) } else { Err(WalkError::NotDirectory.into()) }
    }

    /// To the top of what is mounted here (D1).
    #[inline]
    fn cross(&mut self) -> Result<(), Stop<D>> {
        while self.dentry.mounted_here().is_mountpoint() {
            let Some(ns) = self.ns else { return Ok(()) };
            let hit = ns.lookup_mnt(self.mount, self.dentry, self.guard);
            // For a hit and for a miss: a walk that goes on from what a change is moving could go in circles.
            if !ns.seq.unchanged(self.sample) && !planted("no_validation") {
                return Err(Stop::Again);
            }
            let Some(mount) = hit else { return Ok(()) };
            // Linux is there with a reference before it turns back.
            self.may_change_mount().inspect_err(|_| mount.note_use())?;
            self.mount = mount;
            self.dentry = mount.root();
        }
        Ok(())
    }

    /// `..` (U1 to U7).
    fn climb(&mut self) -> Result<(), Stop<D>> {
        let (mut mount, mut dentry) = (self.mount, self.dentry);
        let at_root = |mount: &Mount<D>, dentry: &Arc<D>| {
            core::ptr::eq(mount, self.root.0) && Arc::ptr_eq(dentry, self.root.1)
        };
        loop {
            if at_root(mount, dentry) {
                if self.resolve.contains(Resolve::BENEATH) {
                    return Err(WalkError::Leaves.into());
                }
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
                if !core::ptr::eq(self.mount, mount) {
                    self.may_change_mount()?;
                }
                (self.mount, self.dentry) = (mount, parent);
                break;
            }
            match mount.up(self.guard) {
                Some(up) => (mount, dentry) = up,
                // The mount left its tree after the walk went into it: `..` is where it was, or what is there now. Under locks
                // this is the top of a fragment, as for a walk that begins in one.
                None if self.locks.is_none()
                    && self.ns.is_some()
                    && !mount.is_mounted()
                    && !planted("top_of_any_tree") =>
                {
                    return Err(Stop::Again);
                }
                None => break, // U3, U7: the top of the tree: stay where we were.
            }
            if self.ns.is_some_and(|ns| !ns.seq.unchanged(self.sample)) && !planted("no_validation") {
                return Err(Stop::Again);
            }
        }
        if self.resolve.intersects(Resolve::BENEATH | Resolve::IN_ROOT) && !self.is_inside() {
            // A rename took the directory out; its new parents would lead past the walk's root.
            return Err(WalkError::Again.into());
        }
        self.cross() // U4
    }

    fn may_change_mount(&self) -> Result<(), Stop<D>> {
        if self.resolve.contains(Resolve::NO_XDEV) { Err(WalkError::Leaves.into()) } else { Ok(()) }
    }

    /// Whether the walk is at its root or below it.
    fn is_inside(&self) -> bool {
        let (mut mount, mut dentry) = (self.mount, self.dentry);
        while !core::ptr::eq(mount, self.root.0) {
            let Some(up) = mount.up(self.guard) else { return false };
            (mount, dentry) = up;
            if self.ns.is_some_and(|ns| !ns.seq.unchanged(self.sample)) {
                return false;
            }
        }
        self.root.1.is_ancestor_of(dentry, self.guard)
    }

    /// An absolute link.
    fn jump_to_root(&mut self) -> Result<(), Stop<D>> {
        if self.resolve.contains(Resolve::BENEATH) {
            return Err(WalkError::Leaves.into());
        }
        if !core::ptr::eq(self.mount, self.root.0) {
            self.may_change_mount()?;
        }
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

/// The first name of `path`, which no slash is in front of, and what follows it.
#[inline]
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    // Names are short: a loop is faster than a search that is made for long texts.
    let mut end = 0;
    while end < path.len() && path[end] != b'/' {
        end += 1;
    }
    path.split_at(end)
}

/// What is left to walk of `paths`, the innermost last: a relative path, or nothing.
fn join(paths: &[&[u8]]) -> Result<Vec<u8>, NoMemory> {
    let mut left: Vec<u8> = Vec::new();
    left.make_room(paths.iter().map(|path| path.len() + 1).sum())?;
    for path in paths.iter().rev().filter(|path| !path.is_empty()) {
        left.extend_from_slice(path);
        left.push(b'/');
    }
    let ends_in_slash = paths.iter().find(|path| !path.is_empty()).is_some_and(|path| path.ends_with(b"/"));
    if !ends_in_slash {
        left.pop();
    }
    if !left.is_empty() && trim(&left).is_empty() {
        // The link must lead to a directory.
        left.clear();
        left.push(b'.');
    }
    left.drain(..left.len() - trim(&left).len());
    Ok(left)
}

/// `path` without slashes in front.
#[inline]
fn trim(mut path: &[u8]) -> &[u8] {
    while let [b'/', rest @ ..] = path {
        path = rest;
    }
    path
}
