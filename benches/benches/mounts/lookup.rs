//! A single lookup in the mount hash, beside its peers, at rest and while another thread mounts and umounts.
//!
//! The peers' writer makes the same mounts, in a namespace that nobody looks at, and between mount and umount has the
//! key in the peer's map for as long; so all readers meet the same number of changes.

use std::cell::LazyCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use benches::churn::beside;
use benches::contest::{Cell, Contest};
use benches::keys::{Key, Keys, walk_through};
use benches::namespace::{Namespace, Sharing};
use benches::peers::Peer;
use benches::peers::dashmap::Sharded;
use benches::peers::hashbrown::Unsynchronised;
use benches::peers::papaya::LockFree;
use benches::peers::rwlock::Locked;
use tmpfs::TmpDentry;

/// What all cells of a contest look at; made when the first of them is measured.
struct Setup {
    keys: Keys,
    /// What is mounted on beside lookups in the same namespace.
    same: Arc<TmpDentry>,
    unrelated: Namespace,
    /// What is mounted on beside lookups in another namespace.
    other: Arc<TmpDentry>,
    entries: Vec<(Key, usize)>,
    order: Vec<Key>,
}

impl Setup {
    fn new(count: usize) -> Self {
        let keys = Keys::new(count, Namespace::new(8, Sharing::Private));
        let same = keys.namespace.mkdir("churn");
        let unrelated = Namespace::new(9, Sharing::Private);
        let other = unrelated.mkdir("churn");
        let entries = keys.entries();
        let order = entries.iter().map(|(key, _)| *key).collect();
        Setup { keys, same, unrelated, other, entries, order }
    }
}

type Lazy = Rc<LazyCell<Setup, Box<dyn FnOnce() -> Setup>>>;

/// The cells of ours at rest and beside a writer in the same namespace, with which the others are compared.
const QUIET: usize = 0;
const CHURN: usize = 1;

/// The contest over `count` mounts.
pub(crate) fn contest(count: usize) -> Contest {
    let setup: Lazy = Rc::new(LazyCell::new(Box::new(move || Setup::new(count))));
    let mut cells = Vec::new();
    let mut ours = |name: &str, measure: fn(&Setup, u64) -> Duration| {
        let setup = Rc::clone(&setup);
        cells.push(Cell::new(name, QUIET, move |lookups| measure(&setup, lookups)));
    };
    ours("ours, quiet", |setup, lookups| setup.keys.look_up(lookups));
    ours("ours, changes in the same namespace", |setup, lookups| {
        let Setup { keys, same, .. } = setup;
        beside(|| keys.namespace.attach_and_detach(same), || keys.look_up(lookups)).0
    });
    ours("ours, changes in an unrelated namespace", |setup, lookups| {
        let Setup { keys, unrelated, other, .. } = setup;
        beside(|| unrelated.attach_and_detach(other), || keys.look_up(lookups)).0
    });
    let floor = {
        let setup = Rc::clone(&setup);
        LazyCell::new(move || Unsynchronised::new(&setup.entries))
    };
    let at_floor = Rc::clone(&setup);
    cells.push(Cell::new(format!("{}, quiet", Unsynchronised::NAME), QUIET, move |lookups| {
        let keys = &at_floor.order;
        walk_through(keys.len(), lookups, |steps| floor.batch(keys, steps))
    }));
    peer::<LockFree>(&mut cells, &setup);
    peer::<Sharded>(&mut cells, &setup);
    peer::<Locked>(&mut cells, &setup);
    Contest { name: format!("lookup, {count} mounts"), cells }
}

fn peer<P: Peer + 'static>(cells: &mut Vec<Cell>, setup: &Lazy) {
    let map = {
        let setup = Rc::clone(setup);
        Rc::new(LazyCell::new(move || P::new(&setup.entries)))
    };
    fn look_up<P: Peer>(map: &P, keys: &[Key], lookups: u64) -> Duration {
        walk_through(keys.len(), lookups, |steps| map.batch(keys, steps))
    }
    let (at_rest, there) = (Rc::clone(&map), Rc::clone(setup));
    cells.push(Cell::new(format!("{}, quiet", P::NAME), QUIET, move |lookups| {
        look_up(&**at_rest, &there.order, lookups)
    }));
    let setup = Rc::clone(setup);
    cells.push(Cell::new(format!("{}, changes", P::NAME), CHURN, move |lookups| {
        let Setup { keys, same, unrelated, other, entries, order } = &**setup;
        let map = &**map;
        let (key, value) = (keys.key(same), entries[0].1);
        let change = || {
            let mount = unrelated.attach(other);
            map.insert(key, value);
            unrelated.detach(&mount);
            map.remove(key);
        };
        beside(change, || look_up(map, order, lookups)).0
    }));
}
