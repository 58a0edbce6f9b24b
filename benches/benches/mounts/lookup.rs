//! A single lookup in the mount hash, beside its peers, at rest and while another thread mounts and umounts.
//!
//! The peers' writer makes the same mounts, in a namespace that nobody looks at, and between mount and umount has the
//! key in the peer's map for as long; so all readers meet the same number of changes.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use benches::churn::beside;
use benches::contest::{Cell, Contest};
use benches::keys::{Key, Keys, Steps, walk_through};
use benches::namespace::{Namespace, Sharing};
use benches::peers::Peer;
use benches::peers::dashmap::Sharded;
use benches::peers::hashbrown::Unsynchronised;
use benches::peers::papaya::LockFree;
use benches::peers::rwlock::Locked;
use mnt_table::pin;
use tmpfs::TmpDentry;

/// Where a writer works, and on what.
struct Writer {
    namespace: Namespace,
    dentry: Arc<TmpDentry>,
}

impl Writer {
    fn new() -> Self {
        let namespace = Namespace::new(9, Sharing::Private);
        let dentry = namespace.mkdir("churn");
        Writer { namespace, dentry }
    }
}

/// The cells of ours at rest and beside a writer in the same namespace, with which the others are compared.
const QUIET: usize = 0;
const CHURN: usize = 1;

/// The contest over `count` mounts.
pub(crate) fn contest(count: usize) -> Contest {
    let keys = Rc::new(Keys::new(count, Namespace::new(8, Sharing::Private)));
    let own = keys.namespace.mkdir("churn");
    let unrelated = Rc::new(Writer::new());
    let mut cells = Vec::new();
    let at_rest = Rc::clone(&keys);
    cells.push(Cell::new("ours, quiet", QUIET, move |lookups| ours(&at_rest, lookups)));
    let same = Rc::clone(&keys);
    let dentry = Arc::clone(&own);
    cells.push(Cell::new("ours, changes in the same namespace", QUIET, move |lookups| {
        let namespace = &same.namespace;
        let looked = || ours_of(namespace, same.dentries(), lookups);
        beside(|| namespace.attach_and_detach(&dentry), looked).0
    }));
    let (others, writer) = (Rc::clone(&keys), Rc::clone(&unrelated));
    cells.push(Cell::new("ours, changes in an unrelated namespace", QUIET, move |lookups| {
        let Writer { namespace, dentry } = &*writer;
        let looked = || ours(&others, lookups);
        beside(|| namespace.attach_and_detach(dentry), looked).0
    }));
    let entries = keys.entries();
    let floor = Unsynchronised::new(&entries);
    let order: Rc<[Key]> = entries.iter().map(|(key, _)| *key).collect();
    let floor_order = Rc::clone(&order);
    cells.push(Cell::new(format!("{}, quiet", Unsynchronised::NAME), QUIET, move |lookups| {
        walk_through(floor_order.len(), lookups, |steps| floor.batch(&floor_order, steps))
    }));
    let churned = (keys.key(&own), entries[0].1);
    peer::<LockFree>(&mut cells, &entries, &order, churned, &unrelated);
    peer::<Sharded>(&mut cells, &entries, &order, churned, &unrelated);
    peer::<Locked>(&mut cells, &entries, &order, churned, &unrelated);
    Contest { name: format!("lookup, {count} mounts"), cells }
}

fn ours(keys: &Keys, lookups: u64) -> Duration {
    ours_of(&keys.namespace, keys.dentries(), lookups)
}

fn ours_of(namespace: &Namespace, dentries: &[Arc<TmpDentry>], lookups: u64) -> Duration {
    let (ns, root) = (&**namespace.ns(), &**namespace.root());
    walk_through(dentries.len(), lookups, |steps: &mut Steps| {
        let guard = pin();
        steps.run(|at| {
            ns.lookup_mnt(root, &dentries[at], &guard).map_or(0, |found| (&raw const *found).addr())
        });
    })
}

fn peer<P: Peer + 'static>(
    cells: &mut Vec<Cell>,
    entries: &[(Key, usize)],
    order: &Rc<[Key]>,
    (key, value): (Key, usize),
    writer: &Rc<Writer>,
) {
    let map = Rc::new(P::new(entries));
    let looked =
        |map: &P, order: &[Key], lookups| walk_through(order.len(), lookups, |steps| map.batch(order, steps));
    let (at_rest, keys) = (Rc::clone(&map), Rc::clone(order));
    cells.push(Cell::new(format!("{}, quiet", P::NAME), QUIET, move |lookups| {
        looked(&at_rest, &keys, lookups)
    }));
    let (keys, writer) = (Rc::clone(order), Rc::clone(writer));
    cells.push(Cell::new(format!("{}, changes", P::NAME), CHURN, move |lookups| {
        let (map, Writer { namespace, dentry }) = (&*map, &*writer);
        let change = || {
            let mount = namespace.attach(dentry);
            map.insert(key, value);
            namespace.detach(&mount);
            map.remove(key);
        };
        beside(change, || looked(map, &keys, lookups)).0
    }));
}
