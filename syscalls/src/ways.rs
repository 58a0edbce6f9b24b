//! Ways from mounts up to a reader's root: whether there is one, and the path that it is.
//!
//! A listing asks for many mounts of one namespace, whose ways have most of their steps in common: each step is taken once,
//! however deep mounts lie on each other.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;

use hashbrown::HashMap;

use mnt_table::list::NoMemory;
use mnt_table::memory::Grow;
use mnt_table::{Dentry, Guard, Mount, WriteSet};
use propagate::pivot_root::Position;

use crate::paths::climb;

/// The ways to one root, as far as they are known; of one moment, for the namespace is locked.
pub(crate) struct Ways<'a, D: Dentry> {
    locks: &'a WriteSet<D>,
    root: &'a Position<D>,
    guard: &'a Guard,
    /// By unique id.
    known: HashMap<u64, Way>,
    /// All paths; the one of a mount is the beginning of those of what was found on it.
    text: Vec<u8>,
}

/// The way to a mount's root.
#[derive(Clone)]
enum Way {
    /// There is none.
    Nowhere,
    /// There is one, of which a rename, which other namespaces' mounts do not hinder, took a mountpoint out of what its mount
    /// shows.
    Broken,
    /// This part of the text; nothing for the root.
    Path(Range<usize>),
}

impl<'a, D: Dentry> Ways<'a, D> {
    /// Nothing is known yet of the ways to `root`.
    pub(crate) fn new(locks: &'a WriteSet<D>, root: &'a Position<D>, guard: &'a Guard) -> Self {
        Ways { locks, root, guard, known: HashMap::new(), text: Vec::new() }
    }

    /// Whether the root of `mount` can be reached.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn is_visible(&mut self, mount: &Arc<Mount<D>>) -> Result<bool, NoMemory> {
        Ok(!matches!(self.find(mount)?, Way::Nowhere))
    }

    /// The path to the root of `mount`; none if it cannot be reached, or its way is broken.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn path(&mut self, mount: &Arc<Mount<D>>) -> Result<Option<&[u8]>, NoMemory> {
        Ok(match self.find(mount)? {
            Way::Path(path) if path.is_empty() => Some(b"/"),
            Way::Path(path) => Some(&self.text[path]),
            Way::Broken | Way::Nowhere => None,
        })
    }

    fn find(&mut self, mount: &Arc<Mount<D>>) -> Result<Way, NoMemory> {
        let locks = self.locks;
        if Arc::ptr_eq(mount, &self.root.0) {
            let shown = self.root.1.is_ancestor_of(mount.root(), self.guard);
            return Ok(if shown { Way::Path(0..0) } else { Way::Nowhere });
        }
        let mut unknown: Vec<&Arc<Mount<D>>> = Vec::new();
        let mut at = mount;
        let mut way = loop {
            if Arc::ptr_eq(at, &self.root.0) {
                break Way::Path(0..0);
            }
            if let Some(way) = self.known.get(&at.unique_id()) {
                break way.clone();
            }
            unknown.try_push(at)?;
            match locks.parent(at) {
                Some(parent) => at = parent,
                None => break Way::Nowhere,
            }
        };
        self.known.try_reserve(unknown.len()).map_err(|_| NoMemory)?;
        for mount in unknown.into_iter().rev() {
            way = self.step(way, mount)?;
            self.known.insert(mount.unique_id(), way.clone());
        }
        Ok(way)
    }

    /// The way to the root of `mount`, if `above` is the one to its parent's.
    fn step(&mut self, above: Way, mount: &Arc<Mount<D>>) -> Result<Way, NoMemory> {
        let (Way::Path(above), Some(parent), Some(on)) =
            (&above, self.locks.parent(mount), self.locks.mountpoint(mount))
        else {
            return Ok(above);
        };
        let first = Arc::ptr_eq(parent, &self.root.0);
        let top = if first { &self.root.1 } else { parent.root() };
        let start = if above.end == self.text.len() {
            above.start
        } else {
            self.text.make_room(above.len())?;
            self.text.extend_from_within(above.clone());
            self.text.len() - above.len()
        };
        let end = self.text.len();
        if !climb(on, Some(top), &mut self.text, self.guard)? {
            self.text.truncate(end);
            return Ok(if first { Way::Nowhere } else { Way::Broken });
        }
        self.text[end..].reverse();
        Ok(Way::Path(start..self.text.len()))
    }
}
