//! Mounts that become slaves, private or unbindable, one after the other.
//!
//! Each leaves its group: its slaves go to the next peer, as a block in front of those that it has, and so does the mount
//! itself, before them, if it is to be a slave. Without peers its master takes their place, and without a master its
//! slaves are nobody's.
//!
//! That peer may be the next to leave. Passed on one by one, the slaves of N peers would go through N lists. So it is done
//! on paper first ([`Paper`]), where a list is passed on as a whole; then each slave moves once, from the list that it is in
//! to the one that it will be in. On paper is only what is new in a list. It is always in front of what was there, and that
//! is not looked at.

use alloc::sync::Arc;
use alloc::vec::Vec;

use hashbrown::HashMap;
use mnt_table::list::NoMemory;
use mnt_table::memory::Grow;
use mnt_table::{Dentry, Mount, WriteSet};

use crate::graph::{Peer, PropagationType, enslave_to, free_from_master, is_shared, master_of};

/// What is noted at mounts ([`WriteSet::mark`]).
mod mark {
    /// It changes.
    pub(super) const CHANGES: u8 = 1;
    /// Its turn was there.
    pub(super) const CHANGED: u8 = 2;
}

/// Changes the types of `mounts`, each once, in their order; not to [`PropagationType::Shared`]. All or none.
///
/// Context: holds their namespace and their groups.
///
/// # Errors
/// `ENOMEM`.
pub(crate) fn unshare<D: Dentry>(
    locks: &mut WriteSet<D>,
    mounts: &[Arc<Mount<D>>],
    to: PropagationType,
) -> Result<(), NoMemory> {
    let paper = Paper::of(locks, mounts, to)?;

    // Nothing fails from here on.
    for mount in mounts {
        let was_shared = is_shared(mount);
        mount.set_peers(None);
        free_from_master(locks, mount);
        if to != PropagationType::Slave || was_shared {
            locks.set_unbindable(mount, to == PropagationType::Unbindable);
        }
    }
    paper.commit(locks);
    Ok(())
}

/// A place in a list on paper: a slave's, or where a list begins and ends.
struct Place<D: Dentry> {
    slave: Option<Arc<Mount<D>>>,
    before: usize,
    behind: usize,
}

/// Where the list of those who will have no master begins and ends.
const LOST: usize = 0;

/// Who will be in whose list.
struct Paper<D: Dentry> {
    places: Vec<Place<D>>,
    /// Those who get slaves, in any number of turns, with the begin of their lists.
    masters: Vec<(Arc<Mount<D>>, usize)>,
    /// The begins again, by unique id.
    lists: HashMap<u64, usize>,
    /// Of the mounts that change, the places of those that are in a list here.
    own: HashMap<u64, usize>,
    /// Those that left their group, and who took over: at first, or from there ([`Paper::successor`]).
    left: HashMap<u64, Option<Arc<Mount<D>>>>,
    /// Where they were.
    leaving: Vec<Peer<D>>,
}

impl<D: Dentry> Paper<D> {
    /// Does all on paper, and makes room for it.
    fn of(locks: &mut WriteSet<D>, mounts: &[Arc<Mount<D>>], to: PropagationType) -> Result<Self, NoMemory> {
        let mut paper = Paper {
            places: Vec::new(),
            masters: Vec::new(),
            lists: HashMap::default(),
            own: HashMap::default(),
            left: HashMap::default(),
            leaving: Vec::new(),
        };
        paper.new_place(None)?;
        mounts.iter().for_each(|mount| locks.mark(mount, mark::CHANGES));
        for mount in mounts {
            let master = master_of(locks, mount).and_then(|master| paper.successor(master));
            let heir = paper.leave(locks, mount, master.as_ref())?;
            locks.mark(mount, mark::CHANGED);
            let place = paper.own.get(&mount.unique_id()).copied();
            if let Some(place) = place {
                paper.take_out(place);
            }
            if to == PropagationType::Slave
                && let Some(master) = heir.or(master)
            {
                let place = match place {
                    Some(place) => place,
                    None => paper.own_place(mount)?,
                };
                let list = paper.list_of(&master)?;
                paper.put_behind(list, place);
            }
        }
        for (master, list) in &paper.masters {
            let slaves = paper.backwards(*list).count();
            // Those that left have none any more.
            if slaves != 0 {
                locks.reserve_slaves(master, slaves)?;
            }
        }
        Ok(paper)
    }

    /// `mount`, whose master is `master`, leaves its group. Returns the next peer.
    fn leave(
        &mut self,
        locks: &WriteSet<D>,
        mount: &Arc<Mount<D>>,
        master: Option<&Arc<Mount<D>>>,
    ) -> Result<Option<Arc<Mount<D>>>, NoMemory> {
        let Some((group, slot)) = mount.propagation().peers else { return Ok(None) };
        let members = &locks.group(&group).members;
        // Whoever left between the two had a peer to follow: this mount, at least.
        let next = self.successor(Arc::clone(&members.get(members.next_in_ring(slot)).mount));
        let heir = next.filter(|next| !Arc::ptr_eq(next, mount));
        let slaves = &members.get(slot).slaves;
        if !slaves.is_empty() || self.lists.contains_key(&mount.unique_id()) {
            let list = self.list_of(mount)?;
            // In front of them is what came here.
            for (_, slave) in slaves.iter() {
                let marks = locks.marks(slave);
                if marks & mark::CHANGED != 0 {
                    continue;
                }
                let place = match marks & mark::CHANGES {
                    0 => self.new_place(Some(slave))?,
                    _ => self.own_place(slave)?,
                };
                self.put_behind(self.places[list].before, place);
            }
            let to = match heir.as_ref().or(master) {
                Some(to) => self.list_of(to)?,
                None => LOST,
            };
            self.pass_on(list, to);
        }
        self.left.try_reserve(1).map_err(|_| NoMemory)?;
        self.left.insert(mount.unique_id(), heir.as_ref().or(master).cloned());
        self.leaving.try_push((group, slot))?;
        Ok(heir)
    }

    /// `mount`, or who will have taken over from it by now; `None` if nobody was left.
    ///
    /// Everybody on the way is pointed to the end of it, so that a long way is gone once.
    fn successor(&mut self, mount: Arc<Mount<D>>) -> Option<Arc<Mount<D>>> {
        let mut end = Some(Arc::clone(&mount));
        while let Some(at) = &end
            && let Some(next) = self.left.get(&at.unique_id())
        {
            end = next.clone();
        }
        let mut at = Some(mount);
        while let Some(mount) = at
            && let Some(next) = self.left.get_mut(&mount.unique_id())
        {
            at = core::mem::replace(next, end.clone());
        }
        end
    }

    /// The begin of the list of `master`.
    fn list_of(&mut self, master: &Arc<Mount<D>>) -> Result<usize, NoMemory> {
        if let Some(list) = self.lists.get(&master.unique_id()) {
            return Ok(*list);
        }
        let list = self.new_place(None)?;
        self.lists.try_reserve(1).map_err(|_| NoMemory)?;
        self.lists.insert(master.unique_id(), list);
        self.masters.try_push((Arc::clone(master), list))?;
        Ok(list)
    }

    /// A place in no list, or an empty list.
    fn new_place(&mut self, slave: Option<&Arc<Mount<D>>>) -> Result<usize, NoMemory> {
        let at = self.places.len();
        self.places.try_push(Place { slave: slave.cloned(), before: at, behind: at })?;
        Ok(at)
    }

    /// As [`Paper::new_place`], for one that changes, whose place is asked for when its turn comes.
    fn own_place(&mut self, slave: &Arc<Mount<D>>) -> Result<usize, NoMemory> {
        let place = self.new_place(Some(slave))?;
        self.own.try_reserve(1).map_err(|_| NoMemory)?;
        self.own.insert(slave.unique_id(), place);
        Ok(place)
    }

    fn join(&mut self, before: usize, behind: usize) {
        self.places[before].behind = behind;
        self.places[behind].before = before;
    }

    fn take_out(&mut self, place: usize) {
        let Place { before, behind, .. } = self.places[place];
        self.join(before, behind);
    }

    fn put_behind(&mut self, before: usize, place: usize) {
        let behind = self.places[before].behind;
        self.join(before, place);
        self.join(place, behind);
    }

    /// Puts all of the list that begins at `from` in front of the list that begins at `to`.
    fn pass_on(&mut self, from: usize, to: usize) {
        let Place { before: last, behind: first, .. } = self.places[from];
        if first == from {
            return;
        }
        let behind = self.places[to].behind;
        self.join(to, first);
        self.join(last, behind);
        self.join(from, from);
    }

    /// The list that begins at `list`, from its end.
    fn backwards(&self, list: usize) -> impl Iterator<Item = &Arc<Mount<D>>> {
        core::iter::successors(Some(self.places[list].before), |at| Some(self.places[*at].before))
            .map_while(|at| self.places[at].slave.as_ref())
    }

    /// Does it. The mounts that change are in no group and no list any more, but for those that they are themselves.
    fn commit(mut self, locks: &mut WriteSet<D>) {
        for (group, slot) in core::mem::take(&mut self.leaving) {
            locks.group_mut(&group).members.remove(slot);
        }
        self.backwards(LOST).for_each(|slave| slave.set_master(None));
        for (master, list) in &self.masters {
            let mut slaves = self.backwards(*list).peekable();
            if slaves.peek().is_none() {
                continue;
            }
            let (group, member) = master.propagation().peers.expect("who gets slaves stays in its group");
            slaves.for_each(|slave| enslave_to(locks, &group, member, slave));
        }
    }
}
