//! How two writers go together: what they reach at once, as a multiple of what one reaches alone.

use std::time::Duration;

use crate::namespace::{Instance, Namespace, Sharing};
use crate::rate::{Rate, rate};
use crate::spread::Spread;

/// What each writer does over and over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A bind and its umount, by the lower layer.
    Bind,
    /// mount(2) and umount2(2) of a tmpfs that is there.
    Prepared,
    /// mount(2) and umount2(2) of a new tmpfs.
    Fresh,
}

impl Change {
    /// What tables call it.
    pub fn name(self) -> &'static str {
        match self {
            Change::Bind => "bind + umount, lower layer",
            Change::Prepared => "mount(2) + umount2(2), tmpfs that is there",
            Change::Fresh => "mount(2) + umount2(2), new tmpfs",
        }
    }

    /// Makes it, on a directory of its own in `namespace`, as often as it is called.
    pub fn maker<'a>(self, namespace: &'a Namespace, directory: &str) -> Box<dyn FnMut() + Send + 'a> {
        let dentry = namespace.mkdir(directory);
        let path = format!("/{directory}");
        let mounted = move |instance| {
            namespace.mount(instance, &path);
            namespace.umount(&path);
        };
        match self {
            Change::Bind => Box::new(move || namespace.attach_and_detach(&dentry)),
            Change::Prepared => Box::new(move || mounted(Instance::Prepared)),
            Change::Fresh => Box::new(move || mounted(Instance::Fresh)),
        }
    }
}

/// Where the second writer works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Second {
    /// In the first one's namespace, on a directory of its own.
    SameNamespace,
    /// In an unrelated namespace.
    UnrelatedNamespace,
}

/// What two writers reached.
#[derive(Clone, Copy, Debug)]
pub struct Scaling {
    /// Changes per second of one writer, by the clock.
    pub one: Spread,
    /// Both writers' rate by the clock, as a multiple of one's in the same round.
    pub by_clock: Spread,
    /// The same by processor time.
    pub by_processor: Spread,
}

/// Measures in `rounds`, each of one writer alone and of both, for a `slice` each.
pub fn scaling(change: Change, sharing: Sharing, second: Second, rounds: usize, slice: Duration) -> Scaling {
    let first = Namespace::new(1, sharing);
    let unrelated = Namespace::new(2, sharing);
    let beside = if second == Second::SameNamespace { &first } else { &unrelated };
    let mut measured: Vec<(Rate, Rate)> = Vec::with_capacity(rounds);
    for round in 0..rounds {
        let own = change.maker(&first, &format!("alone{round}"));
        let one = rate(vec![own], slice);
        let own = change.maker(&first, &format!("own{round}"));
        let other = change.maker(beside, &format!("other{round}"));
        measured.push((one, rate(vec![own, other], slice)));
    }
    let spread = |of: fn(&(Rate, Rate)) -> f64| Spread::of(measured.iter().map(of));
    Scaling {
        one: spread(|(one, _)| one.by_clock),
        by_clock: spread(|(one, both)| both.by_clock / one.by_clock),
        by_processor: spread(|(one, both)| both.by_processor / one.by_processor),
    }
}
