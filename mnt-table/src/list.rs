//! A doubly linked list in a slab: order kept, insertion and removal anywhere in constant time, no pointers.
//!
//! A [`Slot`] names an element from its insertion to its removal, whatever happens to the others. Peer rings, slave
//! lists, children and the creation order of a namespace are such lists, each under the lock of its owner.
//!
//! # Promises
//! The plan of an operation has each insertion of its commit promised ([`List::promise`]); promises add up, each insertion
//! takes one, and as long as there are any insertions neither allocate nor fail. What a plan that failed did not take is
//! forgotten when the next one asks: a list knows whose promises it has. Should two plans have the same name, there is
//! more room than needed.

use alloc::vec::Vec;

/// Names an element of one [`List`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot(u32);

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
pub struct List<T> {
    nodes: Vec<Node<T>>,
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

impl<T> List<T> {
    /// An empty list, without memory of its own.
    pub const fn new() -> Self {
        List { nodes: Vec::new(), free: NONE, head: NONE, tail: NONE, len: 0, plan: Plan(0), promised: 0 }
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Makes room for `more` insertions by `plan`, besides those that it was promised before and has not made yet.
    ///
    /// # Errors
    /// [`NoMemory`]; nothing more is promised.
    pub fn promise(&mut self, plan: Plan, more: usize) -> Result<(), NoMemory> {
        if self.plan != plan {
            self.plan = plan;
            self.promised = 0;
        }
        let promised = (self.promised as usize).saturating_add(more);
        let spare = self.nodes.len() - self.len();
        self.nodes.try_reserve(promised.saturating_sub(spare)).map_err(|_| NoMemory)?;
        self.promised = u32::try_from(promised).map_err(|_| NoMemory)?;
        Ok(())
    }

    /// How many insertions are promised and not made yet.
    pub fn promised(&self) -> usize {
        self.promised as usize
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
        self.promised = self.promised.saturating_sub(1);
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
                let capacity = list.nodes.capacity();
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
                assert_eq!(
                    list.nodes.capacity(),
                    capacity,
                    "seed {seed}, plan {plan}: the commit took memory"
                );
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
        assert!(list.nodes.capacity() <= 8, "room for {}", list.nodes.capacity());
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
