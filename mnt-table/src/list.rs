//! A doubly linked list in a slab: order kept, insertion and removal anywhere in constant time, no pointers. Without
//! elements it is one word: most mounts have neither children nor slaves.
//!
//! A [`Slot`] names an element from its insertion to its removal, whatever happens to the others. Peer rings, slave
//! lists, children and the creation order of a namespace are such lists, each under the lock of its owner.
//!
//! # Promises
//! The plan of an operation has each insertion of its commit promised ([`List::promise`]); promises add up, each insertion
//! takes one, and as long as there are any insertions neither allocate nor fail. What a plan that failed did not take is
//! forgotten when the next one asks: a list knows whose promises it has. Should two plans have the same name, there is
//! more room than needed.

use alloc::boxed::Box;
use core::num::NonZeroU32;

use smallvec::SmallVec;

use crate::foresight;
use crate::memory::{self, Grow};
use crate::visits;

/// Names an element of one [`List`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot(
    /// One more than the index, so that no slot takes no room.
    NonZeroU32,
);

impl Slot {
    /// The slot of the node at `index`; `None` for [`NONE`].
    fn at(index: u32) -> Option<Self> {
        NonZeroU32::new(index.wrapping_add(1)).map(Slot)
    }

    fn index(self) -> u32 {
        self.0.get() - 1
    }
}

const NONE: u32 = u32::MAX;

/// Names a plan for the lists that it changes. Not the same as the plan before it; otherwise, names come again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Plan(u32);

impl Plan {
    /// The name of a plan that begins.
    pub fn begin(&mut self) -> Plan {
        self.0 = self.0.wrapping_add(1);
        *self
    }
}

struct Node<T> {
    value: Option<T>,
    prev: u32,
    next: u32,
}

/// The list; see the module's header.
pub struct List<T>(Option<Box<Slab<T>>>);

struct Slab<T> {
    /// The first one is here: a second allocation would be one more line to wait for.
    nodes: SmallVec<[Node<T>; 1]>,
    /// First of the free nodes, which are chained by `next`.
    free: u32,
    head: u32,
    tail: u32,
    len: u32,
    /// Whose promises these are.
    plan: Plan,
    /// Insertions for which there is room, in free nodes or behind all nodes.
    promised: u32,
}

/// The slab could not grow: `ENOMEM`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoMemory;

impl<T> Slab<T> {
    fn new() -> Self {
        Slab {
            nodes: SmallVec::new(),
            free: NONE,
            head: NONE,
            tail: NONE,
            len: 0,
            plan: Plan(0),
            promised: 0,
        }
    }

    fn node(&self, slot: Slot) -> &Node<T> {
        visits::count();
        &self.nodes[slot.index() as usize]
    }

    fn insert(&mut self, value: T, prev: u32, next: u32) -> Slot {
        visits::count();
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
        self.promised = self.promised.saturating_sub(1);
        Slot::at(at).expect("it has an element")
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
}

impl<T> List<T> {
    /// An empty list, without memory of its own.
    pub const fn new() -> Self {
        List(None)
    }

    /// The slab, which an element or a promise made.
    fn slab(&self) -> &Slab<T> {
        self.0.as_ref().expect("the slot is in use")
    }

    fn slab_mut(&mut self) -> &mut Slab<T> {
        self.0.as_mut().expect("the slot is in use")
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |slab| slab.len as usize)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Makes room for `more` insertions by `plan`, besides those that it was promised before and has not made yet.
    ///
    /// # Errors
    /// [`NoMemory`]; nothing more is promised.
    pub fn promise(&mut self, plan: Plan, more: usize) -> Result<(), NoMemory> {
        let slab = match &mut self.0 {
            Some(slab) => slab,
            none => none.insert(memory::boxed(Slab::new())?),
        };
        if slab.plan != plan {
            slab.plan = plan;
            slab.promised = 0;
        }
        let promised = (slab.promised as usize).saturating_add(more);
        let spare = slab.nodes.len() - slab.len as usize;
        slab.nodes.make_room(promised.saturating_sub(spare))?;
        slab.promised = u32::try_from(promised).map_err(|_| NoMemory)?;
        Ok(())
    }

    /// Asks for what an insertion is going to write ([`crate::foresight`]).
    #[inline]
    pub(crate) fn foresee(&self) {
        if let Some(slab) = &self.0 {
            foresight::ask(&raw const **slab);
        }
    }

    /// How many insertions are promised and not made yet.
    pub fn promised(&self) -> usize {
        self.0.as_ref().map_or(0, |slab| slab.promised as usize)
    }

    /// The element in `slot`.
    pub fn get(&self, slot: Slot) -> &T {
        self.slab().node(slot).value.as_ref().expect("the slot is in use")
    }

    /// The element in `slot`.
    pub fn get_mut(&mut self, slot: Slot) -> &mut T {
        visits::count();
        self.slab_mut().nodes[slot.index() as usize].value.as_mut().expect("the slot is in use")
    }

    /// The first element's slot.
    pub fn first(&self) -> Option<Slot> {
        Slot::at(self.0.as_ref()?.head)
    }

    /// The last element's slot.
    pub fn last(&self) -> Option<Slot> {
        Slot::at(self.0.as_ref()?.tail)
    }

    /// The slot after `slot`.
    pub fn next(&self, slot: Slot) -> Option<Slot> {
        Slot::at(self.slab().node(slot).next)
    }

    /// The slot before `slot`.
    pub fn prev(&self, slot: Slot) -> Option<Slot> {
        Slot::at(self.slab().node(slot).prev)
    }

    /// The slot after `slot`, taking the list as a ring.
    pub fn next_in_ring(&self, slot: Slot) -> Slot {
        self.next(slot).or(self.first()).expect("the slot is in use")
    }

    /// Puts `value` before all others.
    pub fn push_front(&mut self, value: T) -> Slot {
        let slab = self.0.get_or_insert_with(|| Box::new(Slab::new()));
        slab.insert(value, NONE, slab.head)
    }

    /// Puts `value` behind all others.
    pub fn push_back(&mut self, value: T) -> Slot {
        let slab = self.0.get_or_insert_with(|| Box::new(Slab::new()));
        slab.insert(value, slab.tail, NONE)
    }

    /// Puts `value` right behind `slot`.
    pub fn insert_after(&mut self, slot: Slot, value: T) -> Slot {
        let next = self.slab().node(slot).next;
        self.slab_mut().insert(value, slot.index(), next)
    }

    /// Takes the element in `slot` out.
    pub fn remove(&mut self, slot: Slot) -> T {
        visits::count();
        let slab = self.slab_mut();
        let node = &mut slab.nodes[slot.index() as usize];
        let value = node.value.take().expect("the slot is in use");
        let (prev, next) = (node.prev, node.next);
        node.next = slab.free;
        slab.free = slot.index();
        slab.join(prev, next);
        slab.len -= 1;
        value
    }

    /// The elements with their slots, first to last.
    pub fn iter(&self) -> impl Iterator<Item = (Slot, &T)> + Clone {
        core::iter::successors(self.first(), |slot| self.next(*slot)).map(|slot| (slot, self.get(slot)))
    }
}

impl<T> Default for List<T> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    fn room<T>(list: &List<T>) -> usize {
        list.0.as_ref().map_or(0, |slab| slab.nodes.capacity())
    }

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

    /// Random numbers of a fixed seed, which each failure prints.
    struct Random(u64);

    impl Random {
        fn below(&mut self, bound: usize) -> usize {
            // Knuth's generator; the high bits are the good ones.
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) as usize % bound
        }
    }

    #[test]
    fn what_was_promised_is_inserted_without_memory_whatever_else_the_plan_did() {
        for seed in 0..if cfg!(miri) { 3 } else { 300 } {
            let mut random = Random(seed);
            let mut list = List::new();
            // What the list holds, in order, with its slots.
            let mut naive: Vec<(Slot, u32)> = Vec::new();
            let mut names = Plan::default();
            for plan in 0..40 {
                let name = names.begin();
                let mut promised = 0;
                for _ in 0..random.below(4) {
                    let more = random.below(5);
                    list.promise(name, more).unwrap();
                    promised += more;
                    assert_eq!(list.promised(), promised, "seed {seed}, plan {plan}: promises add up");
                }
                let capacity = room(&list);
                // Some plans fail, and some use less than they were promised.
                while promised != 0 && random.below(8) != 0 {
                    if !naive.is_empty() && random.below(3) == 0 {
                        let (slot, value) = naive.remove(random.below(naive.len()));
                        assert_eq!(list.remove(slot), value, "seed {seed}, plan {plan}");
                        continue;
                    }
                    promised -= 1;
                    let (at, value) = (random.below(naive.len() + 1), (plan * 100 + promised) as u32);
                    let slot = match at {
                        0 => list.push_front(value),
                        at if at == naive.len() => list.push_back(value),
                        at => list.insert_after(naive[at - 1].0, value),
                    };
                    naive.insert(at, (slot, value));
                    assert_eq!(list.promised(), promised, "seed {seed}, plan {plan}: one each");
                }
                assert_eq!(room(&list), capacity, "seed {seed}, plan {plan}: the commit took memory");
                let expected: Vec<u32> = naive.iter().map(|(_, value)| *value).collect();
                assert_eq!(values(&list), expected, "seed {seed}, plan {plan}");
            }
        }
    }

    #[test]
    fn plans_that_fail_leave_no_promises_behind() {
        let mut list = List::new();
        let mut names = Plan::default();
        list.push_back(0);
        for _ in 0..1000 {
            let name = names.begin();
            list.promise(name, 1).unwrap();
            list.promise(name, 2).unwrap();
            assert_eq!(list.promised(), 3);
        }
        assert!(room(&list) <= 8, "room for {}", room(&list));
    }

    #[test]
    fn a_promise_that_cannot_be_kept_is_not_given() {
        let mut list = List::<u32>::new();
        let name = Plan::default().begin();
        list.promise(name, 2).unwrap();
        assert_eq!(list.promise(name, usize::MAX), Err(NoMemory));
        assert_eq!(list.promised(), 2);
    }
}
