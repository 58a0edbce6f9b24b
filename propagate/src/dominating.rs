//! The dominating group of a slave, which mountinfo shows as `propagate_from`: the nearest one up the chain of masters that
//! the reader sees a member of, if it is not the direct master's.
//!
//! Each group is looked at once for a whole listing, however many slaves it has below it.

use alloc::sync::Arc;
use alloc::vec::Vec;

use hashbrown::HashMap;

use mnt_table::{Dentry, Group, Mount};

/// The groups that one reader sees, and what was found out about others.
#[derive(Default)]
pub struct Dominating {
    /// By stamp: the id of the first group from this one on, upwards, that is seen.
    known: HashMap<u64, Option<u32>>,
}

impl Dominating {
    /// The reader sees `mount`. To be said of all before the first question.
    pub fn sees<D: Dentry>(&mut self, mount: &Mount<D>) {
        if let Some((group, _)) = mount.propagation().peers {
            self.known.insert(group.stamp(), Some(group.id()));
        }
    }

    /// The dominating group of `mount`, as mountinfo shows it.
    pub fn of<D: Dentry>(&mut self, mount: &Mount<D>) -> Option<u32> {
        let direct = mount.propagation().master?.group;
        self.nearest(&direct).filter(|id| *id != direct.id())
    }

    /// The nearest group up the chain of masters that the reader sees, the direct master's included (statmount(2)).
    pub fn nearest_of<D: Dentry>(&mut self, mount: &Mount<D>) -> Option<u32> {
        self.nearest(&mount.propagation().master?.group)
    }

    fn nearest<D: Dentry>(&mut self, group: &Arc<Group<D>>) -> Option<u32> {
        let mut unknown = Vec::new();
        let mut at = Some(Arc::clone(group));
        let found = loop {
            let Some(group) = at else { break None };
            if let Some(known) = self.known.get(&group.stamp()) {
                break *known;
            }
            unknown.push(group.stamp());
            at = group.above();
        };
        self.known.extend(unknown.into_iter().map(|stamp| (stamp, found)));
        found
    }
}
