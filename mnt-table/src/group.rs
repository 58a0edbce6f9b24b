//! Peer groups and slave lists: the objects. The rules that use them are in the `propagate` crate.
//!
//! A [`Group`] is the ring of shared mounts that exchange mount and umount events, in any number of namespaces. A
//! mount that receives from a group without sending to it is a *slave* of one of its members and stands in that
//! member's slave list; a whole group can be slave of another, member by member.
//!
//! # Which lock guards what
//! - A mount's group: its namespace's lock **and** the group's lock. Either one is enough to read it.
//! - The ring, the members' slave lists, and the master link of everyone in them: the lock of the (master) group. So
//!   10,000 slaves are handed to a new master under two group locks and no lock of a slave's namespace.
//!
//! `[Older]` A master group's stamp is below the stamps of its slave groups: a group gets a master only when it is
//! made for a slave, by hand-over to the master's master, or not at all. So the closure of receivers can be locked in
//! ascending order while it is being discovered. The operations do not rest on it: whoever finds a group out of
//! order starts again with the union ([`crate::write_set`]); the checker reports it.

use alloc::sync::Arc;
use core::cell::UnsafeCell;

use crate::dentry::Dentry;
use crate::id::{Id, unique_after};
use crate::list::{List, NoMemory, Plan, Slot};
use crate::memory;
use crate::mount::Mount;
use crate::sync::plain::{self, AtomicUsize};
use crate::sync::{Memory, Ordering, RawLock};

/// A peer group.
pub struct Group<D: Dentry> {
    pub(crate) lock: RawLock,
    /// The token of the write set that holds `lock`, or 0.
    pub(crate) holder: AtomicUsize,
    stamp: u64,
    id: Id,
    /// The group of its members' master, who all have the same. For listings, which look up the chain of masters without
    /// the locks of other people's groups.
    above: plain::Mutex<Option<Arc<Group<D>>>>,
    pub(crate) memory: Memory,
    pub(crate) state: UnsafeCell<GroupState<D>>,
}

// SAFETY: `state` is reached only through a write set that holds `lock` (see `WriteSet::group`), which hands out
// `&` for `&WriteSet` and `&mut` for `&mut WriteSet`; what it contains is Send and Sync.
unsafe impl<D: Dentry> Send for Group<D> {}
// SAFETY: as above.
unsafe impl<D: Dentry> Sync for Group<D> {}

/// What a group's lock guards.
pub struct GroupState<D: Dentry> {
    /// The ring, in order.
    pub members: List<Member<D>>,
}

/// The mounts whose master a member is, in order.
pub type Slaves<D> = List<Arc<Mount<D>>>;

/// A member of a ring.
pub struct Member<D: Dentry> {
    /// The shared mount.
    pub mount: Arc<Mount<D>>,
    /// Its slaves.
    pub slaves: Slaves<D>,
}

/// Whom a slave receives from, and where it stands in that member's slave list.
pub struct MasterLink<D: Dentry> {
    /// The master's group.
    pub group: Arc<Group<D>>,
    /// The master, a member of `group`.
    pub member: Slot,
    /// This mount's place in the master's slave list.
    pub place: Slot,
}

impl<D: Dentry> Member<D> {
    /// `mount` as a member without slaves, with the room that was made for them. Needs no memory.
    pub fn new(mount: &Arc<Mount<D>>) -> Self {
        Member { mount: Arc::clone(mount), slaves: mount.take_slaves_to_be() }
    }
}

impl<D: Dentry> Clone for MasterLink<D> {
    fn clone(&self) -> Self {
        MasterLink { group: Arc::clone(&self.group), member: self.member, place: self.place }
    }
}

impl<D: Dentry> Group<D> {
    /// A group without members but with room for one, younger than `master`, with the id `id`.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn new(id: Id, master: Option<&Group<D>>, plan: Plan) -> Result<Arc<Self>, NoMemory> {
        let mut members = List::new();
        members.promise(plan, 1)?;
        memory::arc(Group {
            lock: RawLock::new(),
            holder: AtomicUsize::new(0),
            stamp: unique_after(master.map_or(0, Group::stamp)),
            id,
            above: plain::Mutex::new(None),
            memory: Memory::new(),
            state: UnsafeCell::new(GroupState { members }),
        })
    }

    /// The number that `shared:N` and `master:N` show.
    pub fn id(&self) -> u32 {
        self.id.number()
    }

    /// The creation stamp, by which groups are locked.
    pub fn stamp(&self) -> u64 {
        self.stamp
    }

    /// The group that its members receive from; a moment's answer.
    pub fn above(&self) -> Option<Arc<Group<D>>> {
        self.above.lock().clone()
    }

    /// Its members receive from `above`. Called for each of them.
    pub(crate) fn set_above(&self, above: Option<Arc<Group<D>>>) {
        let old = core::mem::replace(&mut *self.above.lock(), above);
        // Behind the lock: it may be the last handle of a group.
        drop(old);
    }

    /// Whether the write set with `token` holds this group's lock.
    pub(crate) fn held_by(&self, token: usize) -> bool {
        // Relaxed: only the holder can find its own token here.
        token != 0 && self.holder.load(Ordering::Relaxed) == token
    }
}
