//! Mount and umount, alone and by two threads at once.

use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use benches::contest::{Cell, Contest};
use benches::namespace::{Namespace, Sharing};
use benches::scaling::{Change, Second};

const CHANGES: [Change; 3] = [Change::Bind, Change::Prepared, Change::Fresh];

/// What of scaling is in the table.
pub(crate) const SCALING: [(Sharing, Second, Change); 8] = [
    (Sharing::Private, Second::UnrelatedNamespace, Change::Bind),
    (Sharing::Private, Second::UnrelatedNamespace, Change::Prepared),
    (Sharing::Private, Second::UnrelatedNamespace, Change::Fresh),
    (Sharing::Shared, Second::UnrelatedNamespace, Change::Bind),
    (Sharing::Shared, Second::UnrelatedNamespace, Change::Prepared),
    (Sharing::Shared, Second::UnrelatedNamespace, Change::Fresh),
    (Sharing::Private, Second::SameNamespace, Change::Bind),
    (Sharing::Private, Second::SameNamespace, Change::Prepared),
];

/// The contest of changes in namespaces of this kind.
pub(crate) fn contest(sharing: Sharing) -> Contest {
    let first = Rc::new(Namespace::new(12, sharing));
    let second = Rc::new(Namespace::new(13, sharing));
    let mut cells = Vec::new();
    for change in CHANGES {
        let base = cells.len();
        let mut directories = 0..;
        let own = Rc::clone(&first);
        cells.push(Cell::new(change.name(), base, move |changes| {
            let name = format!("{change:?} alone {}", directories.next().unwrap_or(0));
            let mut change = change.maker(&own, &name);
            let start = Instant::now();
            (0..changes).for_each(|_| change());
            start.elapsed()
        }));
        for (where_to, name) in
            [(&first, "beside one in the same namespace"), (&second, "beside one in an unrelated namespace")]
        {
            let (own, beside) = (Rc::clone(&first), Rc::clone(where_to));
            let mut directories = 0..;
            cells.push(Cell::new(format!("{}, {name}", change.name()), base, move |changes| {
                let name = format!("{change:?} {name} {}", directories.next().unwrap_or(0));
                let own = change.maker(&own, &name);
                let other = change.maker(&beside, &format!("{name}, the other"));
                both(own, other, changes)
            }));
        }
    }
    Contest { name: format!("mount + umount, {sharing:?} mounts").to_lowercase(), cells }
}

/// Makes both changes so many times, each on a thread of its own.
fn both(
    mut one: Box<dyn FnMut() + Send + '_>,
    mut other: Box<dyn FnMut() + Send + '_>,
    changes: u64,
) -> Duration {
    let start = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| (0..changes).for_each(|_| other()));
        (0..changes).for_each(|_| one());
    });
    start.elapsed()
}
