//! Pages by their index in a file: a tree of nodes with 32 slots, as deep as the largest index needs.

use alloc::boxed::Box;

use mnt_table::memory;

use crate::{FsError, Page};

const BITS: u32 = 5;
const SLOTS: usize = 1 << BITS;

#[derive(Default)]
enum Slot {
    #[default]
    Empty,
    Page(Page),
    Node(Box<Node>),
}

struct Node {
    slots: [Slot; SLOTS],
    /// Slots that are not empty.
    used: u32,
}

/// The pages of a file.
#[derive(Default)]
pub(crate) struct Radix {
    root: Slot,
    /// Levels of nodes: with none, the root is page 0.
    levels: u32,
    count: u64,
}

/// Where `index` is, `levels` above the pages.
fn slot_of(index: u64, level: u32) -> usize {
    (index >> (BITS * level)) as usize % SLOTS
}

/// The first index that a tree of so many levels has no room for.
fn end_of(levels: u32) -> u64 {
    1u64.checked_shl(BITS * levels).unwrap_or(u64::MAX)
}

fn new_node() -> Result<Box<Node>, FsError> {
    let node = Node { slots: [const { Slot::Empty }; SLOTS], used: 0 };
    memory::boxed(node).map_err(|_| FsError::NoMemory)
}

impl Radix {
    /// How many pages there are.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// The page at `index`.
    pub(crate) fn get(&self, index: u64) -> Option<&Page> {
        if index >= end_of(self.levels) {
            return None;
        }
        let mut at = &self.root;
        let mut level = self.levels;
        loop {
            match at {
                Slot::Empty => return None,
                Slot::Page(page) => return Some(page),
                Slot::Node(node) => {
                    level -= 1;
                    at = &node.slots[slot_of(index, level)];
                }
            }
        }
    }

    /// Puts `page` at `index`, where there is none.
    ///
    /// # Errors
    /// `ENOMEM`; nothing was changed that can be seen.
    pub(crate) fn insert(&mut self, index: u64, page: Page) -> Result<(), FsError> {
        while index >= end_of(self.levels) {
            if !matches!(self.root, Slot::Empty) {
                let mut node = new_node()?;
                node.slots[0] = core::mem::take(&mut self.root);
                node.used = 1;
                self.root = Slot::Node(node);
            }
            self.levels += 1;
        }
        // The nodes on the way first: an empty one that is left behind by a failure does no harm.
        let mut at = &mut self.root;
        for level in (0..self.levels).rev() {
            if matches!(at, Slot::Empty) {
                *at = Slot::Node(new_node()?);
            }
            let Slot::Node(node) = at else { unreachable!("pages are on the lowest level") };
            let slot = &mut node.slots[slot_of(index, level)];
            if matches!(slot, Slot::Empty) {
                node.used += 1;
            }
            at = slot;
        }
        debug_assert!(matches!(at, Slot::Empty), "there is a page");
        *at = Slot::Page(page);
        self.count += 1;
        Ok(())
    }

    /// Takes out the first page from `first` on and below `end`, to be dropped where that is welcome.
    pub(crate) fn take(&mut self, first: u64, end: u64) -> Option<Page> {
        let index = self.next(first, true).filter(|index| *index < end)?;
        let page = Self::take_at(&mut self.root, self.levels, index);
        self.count -= u64::from(page.is_some());
        if matches!(self.root, Slot::Empty) {
            self.levels = 0;
        }
        page
    }

    fn take_at(at: &mut Slot, level: u32, index: u64) -> Option<Page> {
        match core::mem::take(at) {
            Slot::Empty => None,
            Slot::Page(page) => Some(page),
            Slot::Node(mut node) => {
                let slot = &mut node.slots[slot_of(index, level - 1)];
                let page = Self::take_at(slot, level - 1, index);
                if page.is_some() && matches!(slot, Slot::Empty) {
                    node.used -= 1;
                }
                if node.used != 0 {
                    *at = Slot::Node(node);
                }
                page
            }
        }
    }

    /// The first index from `from` on at which there is a page, or is none.
    pub(crate) fn next(&self, from: u64, page: bool) -> Option<u64> {
        if page { Self::next_page(&self.root, self.levels, from) } else { Some(self.next_hole(from)) }
    }

    fn next_page(at: &Slot, level: u32, from: u64) -> Option<u64> {
        if from >= end_of(level) {
            return None;
        }
        match at {
            Slot::Empty => None,
            Slot::Page(_) => Some(0),
            Slot::Node(node) => {
                let below = level - 1;
                let first = slot_of(from, below);
                (first..SLOTS).find_map(|slot| {
                    let base = (slot as u64) << (BITS * below);
                    let found = Self::next_page(&node.slots[slot], below, from.saturating_sub(base))?;
                    Some(base + found)
                })
            }
        }
    }

    fn next_hole(&self, from: u64) -> u64 {
        let mut at = from;
        while self.get(at).is_some() {
            at += 1;
        }
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeMap;
    use alloc::vec::Vec;

    #[test]
    fn is_a_map() {
        let mut radix = Radix::default();
        let mut model = BTreeMap::new();
        let mut seed = 7u64;
        for step in 0..if cfg!(miri) { 200 } else { 20_000 } {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let index = (seed >> 33) >> (seed % 24);
            if seed & 3 != 0 {
                if radix.get(index).is_none() {
                    let page = Page::zeroed().unwrap();
                    model.insert(index, page.clone());
                    radix.insert(index, page).unwrap();
                }
            } else {
                let taken = radix.take(index, u64::MAX);
                let wanted = model.range(index..).next().map(|(index, _)| *index);
                assert_eq!(taken.is_some(), wanted.is_some(), "step {step}");
                if let (Some(taken), Some(wanted)) = (taken, wanted) {
                    assert!(taken.is(&model.remove(&wanted).unwrap()), "step {step}");
                }
            }
            assert_eq!(radix.count(), model.len() as u64);
            assert_eq!(radix.next(index, true), model.range(index..).next().map(|(index, _)| *index));
        }
        let found: Vec<u64> =
            core::iter::successors(radix.next(0, true), |at| radix.next(at + 1, true)).collect();
        assert_eq!(found, model.keys().copied().collect::<Vec<_>>());
        while radix.take(0, u64::MAX).is_some() {}
        assert_eq!((radix.count(), radix.levels), (0, 0));
    }
}
