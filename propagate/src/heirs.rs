//! Who gets the slaves of mounts that leave the graph together: the next peer in the ring that stays; if none does, the
//! master, or its next peer that stays, and so on up the chain.
//!
//! The members of a ring that leave may all have slaves, and may be all of the ring; so whoever was passed on the way to an
//! heir has the same one, and is not passed again:
//! - Between a member and the next one that stays, all leave: for them it is the next one as well.
//! - If nobody in the ring stays, all of its members go up to the same place, since they all have the same master.
//!
//! So the whole costs what leaves, however it lies in rings and chains.

use alloc::sync::Arc;

use hashbrown::HashMap;
use mnt_table::list::NoMemory;
use mnt_table::memory::Grow;
use mnt_table::{Dentry, Mount, WriteSet};
use smallvec::SmallVec;

use crate::graph::{Peer, leave_graph};

/// The heirs of mounts that are going to leave, in the order in which they do.
pub(crate) struct Heirs<D: Dentry> {
    /// Of those that have slaves: which of them it is, and its heir, which has room for the slaves.
    list: SmallVec<[(usize, Option<Peer<D>>); 1]>,
    next: usize,
}

impl<D: Dentry> Heirs<D> {
    /// Finds the heirs of those of `leaving` that have slaves, and makes room there. `leaving` are mounts and their numbers
    /// in the order in which they leave, all of those that do not `stay` and are shared at least.
    ///
    /// Context: holds their groups and their masters' groups.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn find<'a>(
        locks: &mut WriteSet<D>,
        leaving: impl IntoIterator<Item = (usize, &'a Arc<Mount<D>>)>,
        stays: impl Fn(&WriteSet<D>, &Mount<D>) -> bool,
    ) -> Result<Self, NoMemory>
    where
        D: 'a,
    {
        let mut list = SmallVec::new();
        let mut known = Known(HashMap::default());
        for (turn, mount) in leaving {
            let Some((group, slot)) = mount.with_propagation(|here| here.peers.clone()) else { continue };
            let slaves = locks.group(&group).members.get(slot).slaves.len();
            if slaves == 0 {
                continue;
            }
            let heir = known.heir(locks, mount, (group, slot), &stays)?;
            if let Some((group, member)) = &heir {
                let heir = Arc::clone(&locks.group(group).members.get(*member).mount);
                locks.reserve_slaves(&heir, slaves)?;
            }
            list.try_push((turn, heir))?;
        }
        Ok(Heirs { list, next: 0 })
    }

    /// `mount`, whose number is `turn`, leaves the graph. They come in order.
    pub(crate) fn leave(&mut self, locks: &mut WriteSet<D>, turn: usize, mount: &Mount<D>) {
        let heir = self.list.get(self.next).filter(|(whose, _)| *whose == turn);
        self.next += usize::from(heir.is_some());
        leave_graph(locks, mount, heir.and_then(|(_, heir)| heir.as_ref()));
    }
}

/// Heirs of mounts that leave, by unique id.
struct Known<D: Dentry>(HashMap<u64, Option<Peer<D>>>);

impl<D: Dentry> Known<D> {
    /// The heir of `mount`, which is the member `at`.
    fn heir(
        &mut self,
        locks: &WriteSet<D>,
        mount: &Mount<D>,
        mut at: Peer<D>,
        stays: &impl Fn(&WriteSet<D>, &Mount<D>) -> bool,
    ) -> Result<Option<Peer<D>>, NoMemory> {
        let mut passed: SmallVec<[u64; 4]> = SmallVec::new();
        // Where this ring was entered.
        let mut first = at.1;
        let mut here = mount;
        let heir = loop {
            if let Some(known) = self.0.get(&here.unique_id()) {
                break known.clone();
            }
            passed.try_push(here.unique_id())?;
            let members = &locks.group(&at.0).members;
            at.1 = members.next_in_ring(at.1);
            if at.1 == first {
                let Some(link) = members.get(first).mount.propagation().master else { break None };
                at = (link.group, link.member);
                first = at.1;
            }
            here = &locks.group(&at.0).members.get(at.1).mount;
            if stays(locks, here) {
                break Some(at);
            }
        };
        // One step is not worth remembering: who passes this one as well remembers it.
        if passed.len() == 1 {
            return Ok(heir);
        }
        self.0.try_reserve(passed.len()).map_err(|_| NoMemory)?;
        self.0.extend(passed.into_iter().map(|passed| (passed, heir.clone())));
        Ok(heir)
    }
}
