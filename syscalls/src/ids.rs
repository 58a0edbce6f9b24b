//! Ids of users and groups, as user namespaces number them.

use alloc::sync::Arc;

use mnt_table::UserNs;
use mnt_table::user_ns::IdRange;

/// Kinds of ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Users.
    Users,
    /// Groups.
    Groups,
}

/// What is the id of nobody, in any user namespace: calls say "leave it as it is" by it.
const INVALID: u32 = u32::MAX;

impl Kind {
    fn ranges(self, ns: &UserNs) -> Option<Arc<[IdRange]>> {
        ns.maps().map(|maps| match self {
            Kind::Users => maps.uids,
            Kind::Groups => maps.gids,
        })
    }

    /// The id `id` of `ns` as the initial user namespace numbers it.
    pub fn absolute(self, ns: &UserNs, id: u32) -> Option<u32> {
        let mut id = Some(id).filter(|id| *id != INVALID)?;
        let mut at = ns;
        while let Some(parent) = at.parent() {
            let ranges = self.ranges(at)?;
            let range = ranges.iter().find(|range| id.wrapping_sub(range.inside) < range.count)?;
            id = range.outside + (id - range.inside);
            at = parent;
        }
        Some(id)
    }

    /// The id `id` of the initial user namespace as `ns` numbers it; `None` if it has none.
    pub fn seen_by(self, ns: &UserNs, id: u32) -> Option<u32> {
        let Some(parent) = ns.parent() else { return Some(id).filter(|id| *id != INVALID) };
        let id = self.seen_by(parent, id)?;
        let ranges = self.ranges(ns)?;
        let range = ranges.iter().find(|range| id.wrapping_sub(range.outside) < range.count)?;
        Some(range.inside + (id - range.outside))
    }
}
