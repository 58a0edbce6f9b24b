//! Shared mounts with slaves, few or many for each, the same number of slaves in all.

use linux_raw_sys::general::{MS_SHARED, MS_SLAVE};

use crate::namespace::{Namespace, Sharing};

/// Few slaves of one master.
pub const FEW: usize = 100;
/// Many slaves of one master; and slaves in all, however they are spread.
pub const MANY: usize = 10_000;

/// [`MANY`] slaves, `slaves` for each of the shared mounts on `/m0`, `/m1` and so on.
pub fn masters(slaves: usize) -> Namespace {
    some_masters(MANY / slaves, slaves)
}

/// `masters` shared mounts on `/m0`, `/m1` and so on with `slaves` each.
pub fn some_masters(masters: usize, slaves: usize) -> Namespace {
    let ns = Namespace::new(1, Sharing::Private);
    for master in 0..masters {
        let source = format!("/m{master}");
        ns.mkdir(&source[1..]).mkdir(b"x").expect("a fresh name");
        ns.bind(&source, &source);
        ns.make(&source, MS_SHARED);
        for slave in 0..slaves {
            let path = format!("/s{master}.{slave}");
            ns.mkdir(&path[1..]);
            ns.bind(&source, &path);
            ns.make(&path, MS_SLAVE);
        }
    }
    ns
}

/// A directory in each master.
pub fn places(slaves: usize) -> Vec<String> {
    (0..MANY / slaves).map(|master| format!("/m{master}/x")).collect()
}
