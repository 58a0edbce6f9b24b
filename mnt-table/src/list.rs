//! A doubly linked list in a slab: order kept, insertion and removal anywhere in constant time, no pointers.
//!
//! A [`Slot`] names an element from its insertion to its removal, whatever happens to the others. Peer rings, slave
//! lists, children and the creation order of a namespace are such lists, each under the lock of its owner.
//! [`List::reserve`] is for the plan of an operation: after it, that many insertions cannot fail.

use alloc::vec::Vec;

/// Names an element of one [`List`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot(u32);

const NONE: u32 = u32::MAX;

struct Node<T> {
    value: Option<T>,
    prev: u32,
    next: u32,
}

/// The list; see the module's header.
pub struct List<T> {
    nodes: Vec<Node<T>>,
    /// First of the free nodes, which are chained by `next`.
    free: u32,
    head: u32,
    tail: u32,
    len: u32,
}

/// The slab could not grow: `ENOMEM`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoMemory;

impl<T> List<T> {
    /// An empty list, without memory of its own.
    pub const fn new() -> Self {
        List { nodes: Vec::new(), free: NONE, head: NONE, tail: NONE, len: 0 }
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Makes room for `more` insertions.
    ///
    /// # Errors
    /// [`NoMemory`]; the list is as before.
    pub fn reserve(&mut self, more: usize) -> Result<(), NoMemory> {
        let spare = self.nodes.len() - self.len();
        self.nodes.try_reserve(more.saturating_sub(spare)).map_err(|_| NoMemory)
    }

    /// The element in `slot`.
    pub fn get(&self, slot: Slot) -> &T {
        self.nodes[slot.0 as usize].value.as_ref().expect("the slot is in use")
    }

    /// The element in `slot`.
    pub fn get_mut(&mut self, slot: Slot) -> &mut T {
        self.nodes[slot.0 as usize].value.as_mut().expect("the slot is in use")
    }

    /// The first element's slot.
    pub fn first(&self) -> Option<Slot> {
        Self::slot(self.head)
    }

    /// The last element's slot.
    pub fn last(&self) -> Option<Slot> {
        Self::slot(self.tail)
    }

    /// The slot after `slot`.
    pub fn next(&self, slot: Slot) -> Option<Slot> {
        Self::slot(self.nodes[slot.0 as usize].next)
    }

    /// The slot before `slot`.
    pub fn prev(&self, slot: Slot) -> Option<Slot> {
        Self::slot(self.nodes[slot.0 as usize].prev)
    }

    /// The slot after `slot`, taking the list as a ring.
    pub fn next_in_ring(&self, slot: Slot) -> Slot {
        self.next(slot).unwrap_or(Slot(self.head))
    }

    /// Puts `value` before all others.
    pub fn push_front(&mut self, value: T) -> Slot {
        self.insert(value, NONE, self.head)
    }

    /// Puts `value` behind all others.
    pub fn push_back(&mut self, value: T) -> Slot {
        self.insert(value, self.tail, NONE)
    }

    /// Puts `value` right behind `slot`.
    pub fn insert_after(&mut self, slot: Slot, value: T) -> Slot {
        self.insert(value, slot.0, self.nodes[slot.0 as usize].next)
    }

    /// Takes the element in `slot` out.
    pub fn remove(&mut self, slot: Slot) -> T {
        let node = &mut self.nodes[slot.0 as usize];
        let value = node.value.take().expect("the slot is in use");
        let (prev, next) = (node.prev, node.next);
        node.next = self.free;
        self.free = slot.0;
        self.join(prev, next);
        self.len -= 1;
        value
    }

    /// The elements with their slots, first to last.
    pub fn iter(&self) -> impl Iterator<Item = (Slot, &T)> {
        core::iter::successors(self.first(), |slot| self.next(*slot)).map(|slot| (slot, self.get(slot)))
    }

    fn insert(&mut self, value: T, prev: u32, next: u32) -> Slot {
        let node = Node { value: Some(value), prev, next };
        let at = if self.free == NONE {
            self.nodes.push(node);
            u32::try_from(self.nodes.len() - 1).expect("fewer than 2^32 elements")
        } else {
            let at = self.free;
            self.free = self.nodes[at as usize].next;
            self.nodes[at as usize] = node;
            at
        };
        self.join(prev, at);
        self.join(at, next);
        self.len += 1;
        Slot(at)
    }

    /// Makes `next` follow `prev`; [`NONE`] stands for the list's ends.
    fn join(&mut self, prev: u32, next: u32) {
        match prev {
            NONE => self.head = next,
            prev => self.nodes[prev as usize].next = next,
        }
        match next {
            NONE => self.tail = prev,
            next => self.nodes[next as usize].prev = prev,
        }
    }

    fn slot(index: u32) -> Option<Slot> {
        (index != NONE).then_some(Slot(index))
    }
}

impl<T> Default for List<T> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn values(list: &List<u32>) -> Vec<u32> {
        list.iter().map(|(_, value)| *value).collect()
    }

    #[test]
    fn order_survives_removal_and_reuse_of_slots() {
        let mut list = List::new();
        let two = list.push_back(2);
        let four = list.push_back(4);
        list.push_front(1);
        list.insert_after(two, 3);
        assert_eq!(values(&list), [1, 2, 3, 4]);
        assert_eq!(list.remove(two), 2);
        let five = list.push_back(5);
        assert_eq!(values(&list), [1, 3, 4, 5]);
        assert_eq!(*list.get(four), 4);
        assert_eq!(list.next_in_ring(five), list.first().unwrap());
        assert_eq!(list.prev(five), Some(four));
        assert_eq!(list.len(), 4);
    }
}
