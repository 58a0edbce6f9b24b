//! The dominating group of a slave, which mountinfo shows as `propagate_from`: the nearest one up the chain of masters that
//! the reader sees a member of, if it is not the direct master's.
//!
//! Each group is looked at once for a whole listing, however many slaves it has below it; and not at all if its members
//! have no master themselves, for then there is nobody else to name.

use alloc::sync::Arc;
use alloc::vec::Vec;

use hashbrown::HashMap;

use mnt_table::list::NoMemory;
use mnt_table::memory::Grow;
use mnt_table::{Dentry, Group, Mount};

/// The groups that one reader sees, and what was found out about others.
#[derive(Default)]
pub struct Dominating {
    /// By stamp: the id of the first group from this one on, upwards, that is seen.
    known: HashMap<u64, Option<u32>>,
}

impl Dominating {
    /// The reader sees `mount`. To be said of all before the first question.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn sees<D: Dentry>(&mut self, mount: &Mount<D>) -> Result<(), NoMemory> {
        let group =
            mount.with_propagation(|here| here.peers.as_ref().map(|(group, _)| (group.stamp(), group.id())));
        if let Some((stamp, id)) = group {
            self.known.try_reserve(1).map_err(|_| NoMemory)?;
            self.known.insert(stamp, Some(id));
        }
        Ok(())
    }

    /// The dominating group of a slave of `direct`, as mountinfo shows it.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn of<D: Dentry>(&mut self, direct: &Arc<Group<D>>) -> Result<Option<u32>, NoMemory> {
        Ok(self.nearest(direct)?.filter(|id| *id != direct.id()))
    }

    /// The nearest group up the chain of masters that the reader sees, `direct` included (statmount(2)).
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn nearest<D: Dentry>(&mut self, direct: &Arc<Group<D>>) -> Result<Option<u32>, NoMemory> {
        let mut unknown = Vec::new();
        let mut at = Some(Arc::clone(direct));
        let found = loop {
            let Some(group) = at else { break None };
            if let Some(known) = self.known.get(&group.stamp()) {
                break *known;
            }
            unknown.try_push(group.stamp())?;
            at = group.above();
        };
        self.known.try_reserve(unknown.len()).map_err(|_| NoMemory)?;
        self.known.extend(unknown.into_iter().map(|stamp| (stamp, found)));
        Ok(found)
    }
}
