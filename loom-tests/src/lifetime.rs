//! Models of memory over the real crossbeam-epoch: nothing is freed under a pin, everything after the last one.
//!
//! What a pinned reader meets (edges, mounts, bucket arrays, places) has a cell that its last owner writes when the memory
//! is freed, so loom reports a reader that is still inside.

use std::sync::Arc;

use crossbeam_epoch::Collector;
use loom::cell::UnsafeCell;
use loom::sync::Mutex;
use loom::thread;
use mnt_table::mount::live_mounts;
use mnt_table::platform::set_cpu;
use mnt_table::reclaim::RcuCell;
use mnt_table::table::{Entry, Links, Table, Unlinked, Writer};
use mnt_table::tree::Leave;
use mnt_table::{MntNamespace, Mount, WriteSet, pin, reclaim};

use crate::epoch::Warm;
use crate::harness::{Layer, Model, model};
use crate::world::{self, FileSystem, Name, dissolve, mount, namespace, task, walk_label};

/// All of them, cheapest first.
pub fn models() -> Vec<Model> {
    vec![
        retire_vs_reader(),
        retire_vs_quiesce(),
        pin_vs_growth(),
        last_put_and_flush(),
        walk_vs_umount_and_flush(),
        last_put_and_lookup(),
    ]
}

/// Calls of `quiesce` after which nothing is left, retirements of what was freed included.
const ROUNDS: usize = 6;

/// The collector of one execution, with a handle for the main thread and one for the other.
struct Epochs {
    collector: Collector,
}

impl Epochs {
    fn new() -> Self {
        let collector = Collector::new();
        Warm::new(&collector).enter();
        Epochs { collector }
    }

    /// Starts a thread that may pin, on a CPU of its own.
    fn spawn<R: 'static>(&self, body: impl FnOnce() -> R + 'static) -> thread::JoinHandle<(R, Warm)> {
        let handle = Warm::new(&self.collector);
        thread::spawn(move || {
            // The whole handle moves in.
            let handle: Warm = handle;
            handle.enter();
            set_cpu(1);
            let result = body();
            (result, Warm::leave())
        })
    }

    /// The end of an execution: the handles of the other threads are gone, and all that was retired is freed.
    fn end(self) {
        let all_freed = || {
            let stats = reclaim::stats();
            stats.retired == stats.freed
        };
        for _ in 0..ROUNDS {
            reclaim::quiesce();
            if all_freed() {
                break;
            }
        }
        assert!(all_freed(), "retired and never freed");
        assert_eq!(live_mounts(), 0, "a mount was not freed");
        drop(Warm::leave());
        drop(self.collector);
    }
}

/// What others retired is pushed out, and freed as far as pins allow.
fn flush() {
    for _ in 0..3 {
        pin().flush();
    }
}

/// What is retired: its last owner writes its cell.
struct Value {
    text: &'static str,
    cell: UnsafeCell<()>,
}

// SAFETY: the cell guards nothing; loom checks the order of the accesses.
unsafe impl Sync for Value {}

impl Value {
    fn new(text: &'static str) -> Box<Self> {
        Box::new(Value { text, cell: UnsafeCell::new(()) })
    }

    fn read(&self) -> &'static str {
        self.cell.with(|_| ());
        self.text
    }
}

impl Drop for Value {
    fn drop(&mut self) {
        self.cell.with_mut(|_| ());
    }
}

/// A value is replaced, retired and flushed through the bags of its CPU while a reader may look at it.
fn retire_vs_reader() -> Model {
    model(Layer::Lifetime, "retire_vs_reader")
        .bound(2)
        .expect_outcomes(["old", "new"])
        .planted(["freed_at_once"])
        .run(|| {
            let epochs = Epochs::new();
            let cell = Arc::new(RcuCell::new(Value::new("old")));
            let reader = epochs.spawn({
                let cell = Arc::clone(&cell);
                move || {
                    let guard = pin();
                    cell.get(&guard).read()
                }
            });
            cell.replace(Value::new("new"), &pin());
            flush();
            let (seen, handle) = reader.join().unwrap();
            drop((cell, handle));
            epochs.end();
            seen.to_owned()
        })
}

/// A CPU that is over the limit, or at the end of a run, takes what waits on another one, which fills, closes and empties
/// its bags meanwhile. All is freed, once.
fn retire_vs_quiesce() -> Model {
    model(Layer::Lifetime, "retire_vs_quiesce")
        .bound(2)
        .expect_outcomes(["0 freed", "1 freed"])
        .planted(["emptied_twice"])
        .run(|| {
            let epochs = Epochs::new();
            let before = reclaim::stats().freed;
            let other = epochs.spawn(|| {
                pin().retire(Value::new("its"));
                flush();
            });
            reclaim::quiesce();
            let freed = reclaim::stats().freed - before;
            drop(other.join().unwrap());
            epochs.end();
            format!("{freed} freed")
        })
}

struct Item {
    key: u64,
    links: Links<Item>,
}

impl Entry for Item {
    fn hash(&self) -> u64 {
        self.key
    }

    fn links(&self) -> &Links<Self> {
        &self.links
    }
}

/// Two growths are due beside a pinned reader: the second one begins only after the reader has left the first array.
fn pin_vs_growth() -> Model {
    // As in the structure layer's model: what the second growth would do to a reader in the first array is a miss.
    const KEYS: [u64; 4] = [0, 1 << 61, 1 << 63, 1 << 63 | 1];
    fn item(key: u64) -> Unlinked<Item> {
        Unlinked::new(Box::new(Item { key, links: Links::new() }))
    }
    fn insert((table, writer): &(Table<Item>, Mutex<Writer<Item>>), key: u64) {
        writer.lock().unwrap().insert(table, item(key), &pin());
    }
    model(Layer::Lifetime, "pin_vs_growth")
        .bound(2)
        .expect_outcomes(["grows", "waits"])
        .planted(["grow_before_grace", "freed_at_once"])
        .run(|| {
            let epochs = Epochs::new();
            let (table, writer) = Table::with_capacity(2).expect("memory");
            let shared = Arc::new((table, Mutex::new(writer)));
            KEYS[..2].iter().for_each(|key| insert(&shared, *key));
            let reader = epochs.spawn({
                let shared = Arc::clone(&shared);
                move || {
                    let guard = pin();
                    for key in &KEYS[..2] {
                        let found = shared.0.find(*key, |item| item.key == *key, &guard);
                        assert!(found.is_some(), "an untouched key was missed");
                    }
                }
            });
            insert(&shared, KEYS[2]); // The first growth ends.
            flush();
            insert(&shared, KEYS[3]); // The second one is due.
            let waits = shared.1.lock().unwrap().waits();
            drop(reader.join().unwrap());
            drop(Arc::into_inner(shared).expect("the threads are gone"));
            epochs.end();
            if waits { "waits" } else { "grows" }.to_owned()
        })
}

/// A walk beside an umount whose edges, mount and mountpoint are retired and flushed at once.
fn walk_vs_umount_and_flush() -> Model {
    model(Layer::Lifetime, "walk_vs_umount_and_flush")
        .bound(2)
        .expect_outcomes(["m:", "r:a"])
        .planted(["freed_at_once"])
        .run(|| {
            let epochs = Epochs::new();
            let [r, m] = [FileSystem::new("r", ["a"]), FileSystem::new("m", [])];
            let (ns, root) = namespace(&r);
            let goes = mount(&ns, m.root(), &root, r.name(0));
            let task = task(&root);
            let reader = epochs.spawn(move || (walk_label(&task, "/a"), task));
            {
                let mut locks = WriteSet::one(&ns);
                assert!(locks.condemn_if_idle(&[Arc::clone(&goes)]));
                locks.leave(&goes, Leave::Dead, &pin());
            }
            drop(goes);
            flush();
            let ((seen, task), handle) = reader.join().unwrap();
            drop((task, root, handle));
            dissolve([ns]);
            epochs.end();
            world::check_file_systems([&r, &m]);
            seen
        })
}

/// Lazy umount, by a caller that holds nothing but the lock.
fn detach(ns: &Arc<MntNamespace<Name>>, goes: Arc<Mount<Name>>) {
    let mut locks = WriteSet::one(ns);
    let guard = pin();
    locks.leave(&goes, Leave::Detached, &guard);
    drop(goes);
    drop(guard);
}

/// The last reference to a mount is put, and what is left of it flushed, while another thread is still detaching it.
fn last_put_and_flush() -> Model {
    model(Layer::Lifetime, "last_put_and_flush")
        .bound(2)
        .expect_outcomes(["buried"])
        .planted(["detached_count_late", "freed_at_once"])
        .run(|| {
            let epochs = Epochs::new();
            let [r, m] = [FileSystem::new("r", ["a"]), FileSystem::new("m", [])];
            let (ns, root) = namespace(&r);
            let goes = mount(&ns, m.root(), &root, r.name(0));
            let kept = world::path(&goes, m.root()).mount;
            let holder = epochs.spawn(move || {
                drop(kept);
                flush();
            });
            detach(&ns, goes);
            pin().flush();
            drop(holder.join().unwrap());
            drop(root);
            dissolve([ns]);
            epochs.end();
            world::check_file_systems([&r, &m]);
            "buried".to_owned()
        })
}

/// The holder of the last reference puts it while the mount still has its place, and then looks there: what the put
/// retired was not unlinked yet.
fn last_put_and_lookup() -> Model {
    model(Layer::Lifetime, "last_put_and_lookup")
        .bound(2)
        .expect_outcomes(["there", "leaving", "gone"])
        .planted(["freed_at_once"])
        .run(|| {
            let epochs = Epochs::new();
            let [r, m] = [FileSystem::new("r", ["a"]), FileSystem::new("m", [])];
            let (ns, root) = namespace(&r);
            let goes = mount(&ns, m.root(), &root, r.name(0));
            let kept = world::path(&goes, m.root()).mount;
            let detacher = epochs.spawn({
                let ns = Arc::clone(&ns);
                move || {
                    detach(&ns, goes);
                    reclaim::quiesce(); // Takes what the other one retired, too.
                }
            });
            drop(kept);
            pin().flush();
            let seen = {
                let guard = pin();
                match ns.lookup_mnt(&root, r.name(0), &guard) {
                    Some(found) if found.is_mounted() => "there",
                    Some(_) => "leaving",
                    None => "gone",
                }
            };
            drop(detacher.join().unwrap());
            drop(root);
            dissolve([ns]);
            epochs.end();
            world::check_file_systems([&r, &m]);
            seen.to_owned()
        })
}
