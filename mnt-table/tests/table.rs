//! The hash table: growth, chains, and readers beside a writer.

mod common;

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use common::{Done, READERS, alone, beside_a_pin, sized};
use mnt_table::reclaim::{self, pin};
use mnt_table::table::{Entry, Links, Table, Unlinked, Writer};

/// An entry that says when it is freed.
struct Number {
    links: Links<Number>,
    key: u64,
    value: u64,
    freed: Option<Arc<AtomicUsize>>,
}

impl Number {
    fn new(key: u64, value: u64) -> Box<Self> {
        Box::new(Number { links: Links::new(), key, value, freed: None })
    }
}

impl Drop for Number {
    fn drop(&mut self) {
        if let Some(freed) = &self.freed {
            freed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn hash(key: u64) -> u64 {
    key.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl Entry for Number {
    fn hash(&self) -> u64 {
        hash(self.key)
    }

    fn links(&self) -> &Links<Self> {
        &self.links
    }
}

/// A table and its writer, and how they are used together.
struct Map {
    table: Table<Number>,
    writer: Writer<Number>,
}

impl Map {
    fn new() -> Self {
        let (table, writer) = Table::new().unwrap();
        Map { table, writer }
    }

    fn insert(&mut self, key: u64, value: u64) {
        self.writer.catch_up(&self.table);
        self.writer.insert(&self.table, Unlinked::new(Number::new(key, value)), &pin());
    }

    /// Catches up, waiting for threads of the test before that are still about to end.
    fn catch_up(&mut self) {
        while self.writer.starved() {
            self.writer.catch_up(&self.table);
            thread::yield_now();
        }
    }

    fn find(&self, key: u64) -> Option<NonNull<Number>> {
        self.writer.find(hash(key), |number| number.key == key)
    }

    fn remove(&mut self, key: u64) {
        let entry = self.find(key).unwrap();
        // SAFETY: just found by this writer.
        unsafe { self.writer.remove(&self.table, entry, &pin()) };
    }

    fn replace(&mut self, key: u64, value: u64) {
        let entry = self.find(key).unwrap();
        // SAFETY: just found by this writer.
        unsafe { self.writer.replace(&self.table, entry, Unlinked::new(Number::new(key, value)), &pin()) };
    }
}

fn get(table: &Table<Number>, key: u64) -> Option<u64> {
    table.find(hash(key), |number| number.key == key, &pin()).map(|number| number.value)
}

/// How many entries a lookup that misses compares on average.
fn average_chain(map: &Map) -> f64 {
    let tries = sized(1000, 100) as u64;
    let mut compared = 0;
    for key in 0..tries {
        map.table.find(
            hash(u64::MAX - key),
            |_| {
                compared += 1;
                false
            },
            &pin(),
        );
    }
    f64::from(compared) / tries as f64
}

#[test]
fn chains_stay_bounded_while_it_only_grows() {
    let _alone = alone();
    let mut map = Map::new();
    for key in 0..sized(100_000, 40) as u64 {
        map.catch_up();
        map.insert(key, key + 1);
        assert!(map.writer.len() <= 4 * map.writer.buckets(), "{} entries", map.writer.len());
        if key.is_power_of_two() {
            (0..=key).for_each(|key| assert_eq!(get(&map.table, key), Some(key + 1)));
            assert_eq!(get(&map.table, key + 1), None);
        }
    }
    assert!(average_chain(&map) <= 5.0, "{} entries a lookup", average_chain(&map));
    assert_eq!(map.table.iter(&pin()).count(), map.writer.len());
    assert_eq!(map.writer.entries().count(), map.writer.len());
}

#[test]
fn many_insertions_under_one_pin_are_caught_up_with() {
    let _alone = alone();
    let count = sized(50_000, 80);
    let mut map = Map::new();
    let guard = pin();
    for key in 0..count as u64 {
        map.writer.insert(&map.table, Unlinked::new(Number::new(key, key)), &guard);
    }
    drop(guard);
    assert!(map.writer.len() > 4 * map.writer.buckets(), "else this tests nothing");
    map.catch_up();
    assert!(map.writer.buckets() >= count);
    assert!((0..count as u64).all(|key| get(&map.table, key) == Some(key)));
    assert!(average_chain(&map) <= 2.0);
}

#[test]
fn what_is_expected_fits_at_once() {
    let _alone = alone();
    let count = sized(50_000, 40);
    let mut map = Map::new();
    map.insert(u64::MAX, 1);
    map.writer.expect(count);
    let guard = pin();
    for key in 0..count as u64 {
        map.writer.insert(&map.table, Unlinked::new(Number::new(key, key)), &guard);
    }
    drop(guard);
    assert!(average_chain(&map) <= 2.0);
    assert_eq!(get(&map.table, u64::MAX), Some(1));
}

#[test]
fn random_changes_do_what_a_sorted_map_does() {
    let _alone = alone();
    let mut map = Map::new();
    let mut model = std::collections::BTreeMap::new();
    let mut state = 12345u64;
    for step in 0..sized(100_000, 120) as u64 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let key = (state >> 33) % sized(2000, 60) as u64;
        match (model.contains_key(&key), (state >> 20) % 3) {
            (false, _) => {
                map.insert(key, step);
                model.insert(key, step);
            }
            (true, 0) => {
                map.replace(key, step);
                model.insert(key, step);
            }
            (true, _) => {
                map.remove(key);
                model.remove(&key);
            }
        }
        assert_eq!(map.writer.len(), model.len());
        let other = (state >> 10) % 60;
        assert_eq!(get(&map.table, other), model.get(&other).copied());
    }
    let guard = pin();
    let mut all: Vec<_> = map.table.iter(&guard).map(|number| (number.key, number.value)).collect();
    all.sort_unstable();
    assert!(all.into_iter().eq(model));
}

#[test]
fn a_constant_key_is_never_missed_beside_growth_and_change() {
    let _alone = alone();
    let mut map = Map::new();
    map.insert(0, 7);
    map.insert(1, 0);
    let (table, writer) = (&map.table, &mut map.writer);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let _done = Done(&done);
        for _ in 0..READERS {
            scope.spawn(|| {
                let mut last = 0;
                while !done.load(Ordering::Relaxed) {
                    assert_eq!(get(table, 0), Some(7));
                    let now = get(table, 1).expect("it is replaced and never away");
                    assert!(now >= last, "a replaced entry came back");
                    last = now;
                }
            });
        }
        let one = |writer: &Writer<Number>, key| writer.find(hash(key), |number| number.key == key).unwrap();
        for round in 0..sized(100_000, 40) as u64 {
            let guard = pin();
            writer.insert(table, Unlinked::new(Number::new(round + 2, 0)), &guard);
            let entry = one(writer, 1);
            // SAFETY: just found by this writer.
            unsafe { writer.replace(table, entry, Unlinked::new(Number::new(1, round)), &guard) };
            if round % 2 == 0 {
                let entry = one(writer, round / 2 + 2);
                // SAFETY: just found by this writer.
                unsafe { writer.remove(table, entry, &guard) };
            }
            drop(guard);
            writer.catch_up(table);
        }
    });
}

#[test]
fn a_reader_that_never_unpins_delays_growth_and_nothing_else() {
    let _alone = alone();
    let count = sized(400, 80) as u64;
    let mut map = Map::new();
    beside_a_pin(|| {
        (0..count).for_each(|key| map.insert(key, key));
        assert!(
            map.writer.len() > 4 * map.writer.buckets(),
            "the links of the retired array must not be written"
        );
        assert!((0..count).all(|key| get(&map.table, key) == Some(key)));
    });
    map.catch_up();
    assert!(map.writer.buckets() >= count as usize);
    assert!((0..count).all(|key| get(&map.table, key) == Some(key)));
}

#[test]
fn entries_are_freed_once_wherever_they_were() {
    let _alone = alone();
    let freed = Arc::new(AtomicUsize::new(0));
    let count = sized(1000, 30) as u64;
    let mut map = Map::new();
    let number = |key| {
        let mut number = Number::new(key, 0);
        number.freed = Some(Arc::clone(&freed));
        number
    };
    for key in 0..count {
        map.writer.insert(&map.table, Unlinked::new(number(key)), &pin());
    }
    for key in 0..count / 3 {
        map.remove(key);
    }
    for key in count / 3..count / 2 {
        let entry = map.find(key).unwrap();
        // SAFETY: just found by this writer.
        unsafe { map.writer.replace(&map.table, entry, Unlinked::new(number(key)), &pin()) };
    }
    let replaced = (count / 2 - count / 3) as usize;
    // The rest goes with the table, in the middle of a growth or not.
    drop(map);
    while freed.load(Ordering::Relaxed) < count as usize + replaced {
        reclaim::quiesce();
    }
    reclaim::quiesce();
    assert_eq!(freed.load(Ordering::Relaxed), count as usize + replaced);
}

#[test]
#[should_panic(expected = "the writer of another table")]
fn a_writer_knows_its_table() {
    let (mut one, other) = (Map::new(), Map::new());
    one.writer.insert(&other.table, Unlinked::new(Number::new(1, 1)), &pin());
}
