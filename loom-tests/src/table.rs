//! Models of the hash table: lookup beside insertion, removal, replacement and growth.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use loom::cell::UnsafeCell;
use loom::sync::Mutex;
use loom::thread;
use mnt_table::pin;
use mnt_table::reclaim::drain;
use mnt_table::table::{Entry, Links, Table, Unlinked, Writer};

use crate::harness::{Layer, Model, Outcome, model};

/// All of them, cheapest first.
pub fn models() -> Vec<Model> {
    vec![lookup_vs_insert_remove(), lookup_vs_replace(), growth_vs_lookup(), growth_before_grace()]
}

/// Entries whose memory is in use. Plain: a count for the end of each execution.
static LIVE: AtomicU64 = AtomicU64::new(0);

/// An entry whose key and value are in a cell, so that loom sees a reader that came too early.
struct Item {
    hash: u64,
    inside: UnsafeCell<(u64, &'static str)>,
    links: Links<Item>,
}

// SAFETY: the cell is written when the item is made and by nobody later; loom checks that.
unsafe impl Sync for Item {}

impl Item {
    /// The key is the hash: its high bits choose the bucket.
    fn new(key: u64, value: &'static str) -> Unlinked<Item> {
        LIVE.fetch_add(1, Relaxed);
        let inside = UnsafeCell::new((key, value));
        Unlinked::new(Box::new(Item { hash: key, inside, links: Links::new() }))
    }

    fn key(&self) -> u64 {
        // SAFETY: never written after it was made.
        self.inside.with(|inside| unsafe { (*inside).0 })
    }

    fn value(&self) -> &'static str {
        // SAFETY: as above.
        self.inside.with(|inside| unsafe { (*inside).1 })
    }
}

impl Drop for Item {
    fn drop(&mut self) {
        LIVE.fetch_sub(1, Relaxed);
    }
}

impl Entry for Item {
    fn hash(&self) -> u64 {
        self.hash
    }

    fn links(&self) -> &Links<Self> {
        &self.links
    }
}

/// A table, and its writer behind the lock that an owner has.
struct Shared {
    table: Table<Item>,
    writer: Mutex<Writer<Item>>,
}

impl Shared {
    fn new(capacity: usize, items: &[(u64, &'static str)]) -> Arc<Self> {
        let (table, writer) = Table::with_capacity(capacity).expect("memory");
        let shared = Arc::new(Shared { table, writer: Mutex::new(writer) });
        items.iter().for_each(|(key, value)| shared.insert(*key, value));
        shared
    }

    fn insert(&self, key: u64, value: &'static str) {
        let mut writer = self.writer.lock().unwrap();
        writer.insert(&self.table, Item::new(key, value), &pin());
    }

    fn remove(&self, key: u64) {
        let mut writer = self.writer.lock().unwrap();
        let entry = writer.find(key, |item| item.key() == key).expect("it was inserted");
        // SAFETY: the writer has just found it.
        unsafe { writer.remove(&self.table, entry, &pin()) };
    }

    fn replace(&self, key: u64, value: &'static str) {
        let mut writer = self.writer.lock().unwrap();
        let entry = writer.find(key, |item| item.key() == key).expect("it was inserted");
        // SAFETY: the writer has just found it.
        unsafe { writer.replace(&self.table, entry, Item::new(key, value), &pin()) };
    }

    fn find(&self, key: u64) -> &'static str {
        let guard = pin();
        self.table.find(key, |item| item.key() == key, &guard).map_or("none", Item::value)
    }

    /// The end of an execution: no thread is left, everything is freed.
    fn end(self: Arc<Self>, outcome: Outcome) -> Outcome {
        drop(Arc::into_inner(self).expect("the threads are gone"));
        drain();
        assert_eq!(LIVE.load(Relaxed), 0, "an entry was not freed");
        outcome
    }
}

/// One chain. `near` stands before `far` in it; `near` goes and comes again while both are looked up.
fn lookup_vs_insert_remove() -> Model {
    const FAR: u64 = 1;
    const NEAR: u64 = 2;
    model(Layer::Structure, "lookup_vs_insert_remove")
        .expect_outcomes(["old old", "old none", "old new", "none none", "none new", "new new"])
        .planted(["link_relaxed", "head_load_relaxed", "unlink_clears_next"])
        .run(|| {
            let shared = Shared::new(8, &[(FAR, "far"), (NEAR, "old")]);
            let writer = thread::spawn({
                let shared = Arc::clone(&shared);
                move || {
                    shared.remove(NEAR);
                    shared.insert(NEAR, "new");
                }
            });
            let first = shared.find(NEAR);
            assert_eq!(shared.find(FAR), "far", "an untouched key was missed");
            let second = shared.find(NEAR);
            writer.join().unwrap();
            shared.end(format!("{first} {second}"))
        })
}

/// In the middle of a chain, a key that is replaced never looks empty, and neither does what stands behind it.
fn lookup_vs_replace() -> Model {
    const FAR: u64 = 1;
    const MIDDLE: u64 = 2;
    const NEAR: u64 = 3;
    model(Layer::Structure, "lookup_vs_replace")
        .expect_outcomes(["old old", "old new", "new new"])
        .planted(["unlink_relaxed", "next_load_relaxed", "unlink_clears_next"])
        .run(|| {
            let shared = Shared::new(8, &[(FAR, "far"), (MIDDLE, "old"), (NEAR, "near")]);
            let writer = thread::spawn({
                let shared = Arc::clone(&shared);
                move || shared.replace(MIDDLE, "new")
            });
            let first = shared.find(MIDDLE);
            assert_eq!(shared.find(FAR), "far", "an untouched key was missed");
            let second = shared.find(MIDDLE);
            writer.join().unwrap();
            shared.end(format!("{first} {second}"))
        })
}

/// The array doubles while `here` is looked up, which nobody touches, and `comes`, which is inserted before the first
/// bucket is linked and removed after it.
fn growth_vs_lookup() -> Model {
    const HERE: u64 = 1 << 63 | 1;
    const COMES: u64 = 2;
    model(Layer::Structure, "growth_vs_lookup")
        .expect_outcomes(["none none", "none one", "one one", "one none"])
        .planted([
            "publish_before_linked",
            "remove_from_one_array",
            "array_publish_relaxed",
            "array_load_relaxed",
        ])
        .run(|| {
            let shared = Shared::new(2, &[(HERE, "here")]);
            let writer = thread::spawn({
                let shared = Arc::clone(&shared);
                move || {
                    shared.insert(COMES, "one"); // Growth starts and links the bucket that this is in.
                    shared.remove(COMES); // The other bucket is linked; the new array is published.
                }
            });
            let first = shared.find(COMES);
            assert_eq!(shared.find(HERE), "here", "an untouched key was missed");
            let second = shared.find(COMES);
            writer.join().unwrap();
            assert_eq!(shared.writer.lock().unwrap().buckets(), 4);
            assert_eq!(shared.find(COMES), "none", "a removed key was found");
            shared.end(format!("{first} {second}"))
        })
}

/// Two growths are due while a reader may still be in the first array: the second one, which writes the links of the
/// first again, waits for the grace period.
fn growth_before_grace() -> Model {
    // One bucket of two and one of four; two of eight.
    const A: u64 = 0;
    const B: u64 = 1 << 61;
    const C: u64 = 1 << 63;
    const D: u64 = 1 << 63 | 1;
    model(Layer::Structure, "growth_before_grace").expect_outcomes(["4"]).planted(["grow_before_grace"]).run(
        || {
            let shared = Shared::new(2, &[(A, "a"), (B, "b")]);
            let writer = thread::spawn({
                let shared = Arc::clone(&shared);
                move || {
                    shared.insert(C, "c"); // The first growth ends.
                    shared.insert(D, "d"); // The second one is due.
                }
            });
            assert_eq!(shared.find(A), "a", "an untouched key was missed");
            assert_eq!(shared.find(B), "b", "an untouched key was missed");
            writer.join().unwrap();
            let before = shared.writer.lock().unwrap().buckets();
            drain();
            // The grace period is over: growth begins with the next change, and ends three changes later.
            for _ in 0..3 {
                shared.remove(D);
                shared.insert(D, "d");
            }
            assert_eq!(shared.writer.lock().unwrap().buckets(), 8);
            for (key, value) in [(A, "a"), (B, "b"), (C, "c"), (D, "d")] {
                assert_eq!(shared.find(key), value);
            }
            shared.end(before.to_string())
        },
    )
}
