//! Mount namespaces: a table, a sequence, a lock, and what the lock guards.
//!
//! Every mount in a tree belongs to exactly one namespace, ordinary or anonymous, and [`Mount`]'s `ns` names it. There
//! is no global table, sequence or lock. A detached mount belongs to none: nothing can be mounted on it. If it was
//! detached with others on it that stay connected, these are still found in the hash of the namespace that they were in.
//!
//! # What bumps the sequence
//! A change of one edge is one pointer store, and no reader can confuse the moments before and after it. So mount, bind
//! and attach of trees that were never visible (their inner edges are linked before their root edge), and the umount of
//! a single mount with nothing on its root, bump nothing and disturb no walk, not even in their own namespace. Two or
//! more changed edges that a walk could have met before or can meet after open a window ([`crate::seqlock`]): move,
//! pivot_root, a mount that slides down, several copies or removals in one namespace by one operation, and the
//! dissolving of a tree with more than one mount. Flags, propagation types and identifiers bump nothing: each is one
//! word that a walk reads once.
//!
//! # Lock order
//! Peer groups by stamp; then namespaces by id; then leaves: a dentry's list of mountpoints, a mount's
//! [`slow`](Mount) lock, a mount's master link, id spaces.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::cell::UnsafeCell;
use core::sync::atomic::Ordering as CoreOrdering;
use core::task::Waker;

use hashbrown::HashMap;

use crate::by_id::ById;
use crate::dentry::Dentry;
use crate::id::{IdPool, IdSpace};
use crate::list::{List, NoMemory, Plan, Slot};
use crate::memory;
use crate::mount::{Edge, Mount, edge_hash};
use crate::platform;
use crate::reclaim::{self, Guard, OverLimit, pin};
use crate::seqlock::Sequence;
use crate::sync::plain::{self, AtomicBool, AtomicU64, AtomicUsize};
use crate::sync::{self, Memory, Ordering, RawLock, order};
use crate::table::{Table, Writer};
use crate::user_ns::{Charge, UserNs};
use crate::write_set::WriteSet;

/// A namespace's id: larger means younger; never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamespaceId(pub u64);

/// What a namespace is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Of processes.
    Ordinary,
    /// Holds one detached tree (fsmount, open_tree).
    Anonymous,
    /// Holds a mount of the kernel's own, such as the one that files of namespaces are in: nobody is ever in it, and to
    /// calls that change mounts its mounts are as if detached.
    Internal,
}

/// A mount namespace.
#[repr(C)]
pub struct MntNamespace<D: Dentry> {
    // Read by walks.
    pub(crate) seq: Sequence,
    pub(crate) table: Table<Edge<D>>,
    id: NamespaceId,
    kind: Kind,
    owner: UserNs,
    origin: Option<NamespaceId>,
    /// The address by which the `Arc` around this knows it: a reference to this may not be used to free it.
    this: *const MntNamespace<D>,
    // Written by changes.
    pub(crate) lock: WriterLine<D>,
}

/// What changes write, away from the line that walks read.
#[repr(align(128))]
pub(crate) struct WriterLine<D: Dentry> {
    pub(crate) lock: RawLock,
    /// The token of the write set that holds `lock`, or 0.
    pub(crate) holder: AtomicUsize,
    /// Counts every change that a listing shows.
    generation: AtomicU64,
    /// Tasks, and whatever else keeps the namespace from dying.
    users: AtomicUsize,
    /// Whether the hash is [`starved`](Writer::starved), as the last writer left it.
    pub(crate) starved: AtomicBool,
    /// Whether somebody waits for a change. Set under the lock of `watchers`.
    watched: AtomicBool,
    watchers: plain::Mutex<Vec<Waker>>,
    /// How often everybody on the root's anchor was moved to another one; see [`MntNamespace::pivots`].
    pub(crate) pivots: sync::AtomicU64,
    pub(crate) mount_ids: Arc<IdSpace>,
    pub(crate) group_ids: Arc<IdSpace>,
    pub(crate) memory: Memory,
    pub(crate) state: UnsafeCell<NsState<D>>,
}

// SAFETY: `state` is reached only through a write set that holds `lock` (`WriteSet::namespace`); all else is Send and
// Sync.
unsafe impl<D: Dentry> Send for MntNamespace<D> {}
// SAFETY: as above.
unsafe impl<D: Dentry> Sync for MntNamespace<D> {}

/// What a namespace's lock guards.
pub(crate) struct NsState<D: Dentry> {
    pub(crate) edges: Writer<Edge<D>>,
    pub(crate) root: Option<Arc<Mount<D>>>,
    /// All mounts, by unique id. This is the count that stands for "in a tree".
    pub(crate) order: List<Arc<Mount<D>>>,
    /// The last one that entered `order`, if it still is there.
    pub(crate) entered: Option<Slot>,
    /// Where in `order` to find an id.
    pub(crate) by_id: ById,
    /// By the dentry's address.
    pub(crate) mountpoints: HashMap<usize, Arc<Mountpoint<D>>>,
    /// The first of the mountpoints that may have become unused in this operation; see [`Mountpoint::touched`].
    pub(crate) touched: Option<Arc<Mountpoint<D>>>,
    /// The last plan that was made with this namespace as the first of its locks.
    pub(crate) plan: Plan,
    pub(crate) window: bool,
    /// The generation that was announced to those who wait for one.
    pub(crate) announced: u64,
    /// The namespace is gone; nothing may be attached any more.
    pub(crate) dissolved: bool,
    /// Counted until it is gone.
    pub(crate) charge: Option<Charge>,
    /// Detached mounts whose edges are in the hash; see [`crate::mount`].
    pub(crate) fragments: usize,
}

/// What a new namespace is made of.
pub struct NamespaceSpec {
    /// What it is for.
    pub kind: Kind,
    /// The user namespace that owns it.
    pub owner: UserNs,
    /// The namespace that an anonymous one's tree was copied from.
    pub origin: Option<NamespaceId>,
    /// Its owner's count of namespaces.
    pub charge: Option<Charge>,
    /// How many mounts are going to be attached before anybody walks here.
    pub mounts: usize,
    ids: Option<Ids>,
}

/// Where a namespace's identifiers come from.
struct Ids {
    mounts: Arc<IdSpace>,
    groups: Arc<IdSpace>,
}

impl NamespaceSpec {
    /// Of the initial user namespace, not counted.
    pub fn new(kind: Kind) -> Self {
        NamespaceSpec { kind, owner: UserNs::INITIAL, origin: None, charge: None, mounts: 0, ids: None }
    }

    /// For `mounts` that are going to be attached before anybody walks there.
    pub fn with_mounts(self, mounts: usize) -> Self {
        NamespaceSpec { mounts, ..self }
    }

    /// For a tree that somebody in `ns` makes, and is going to attach there or elsewhere: its identifiers are those that
    /// `ns` would give out, and it has the same owner.
    pub fn anonymous<D: Dentry>(ns: &MntNamespace<D>) -> Self {
        let ids = Ids { mounts: Arc::clone(&ns.lock.mount_ids), groups: Arc::clone(&ns.lock.group_ids) };
        NamespaceSpec { owner: ns.owner().clone(), ids: Some(ids), ..Self::new(Kind::Anonymous) }
    }
}

/// A dentry that this namespace mounts on.
pub struct Mountpoint<D: Dentry> {
    ns: Weak<MntNamespace<D>>,
    dentry: Arc<D>,
    pub(crate) memory: Memory,
    /// Under the namespace's lock.
    pub(crate) mounts: UnsafeCell<List<Arc<Mount<D>>>>,
    /// Under the namespace's lock: whether this may have become unused in the operation at hand, and then the next one
    /// that may, so that noting it takes no memory.
    pub(crate) touched: UnsafeCell<Option<Touched<D>>>,
}

/// What follows a mountpoint that may have become unused.
pub(crate) struct Touched<D: Dentry>(pub(crate) Option<Arc<Mountpoint<D>>>);

// SAFETY: `mounts` and `touched` are reached only through a write set that holds the namespace (`WriteSet::mounts_on`,
// `WriteSet::touch`).
unsafe impl<D: Dentry> Send for Mountpoint<D> {}
// SAFETY: as above.
unsafe impl<D: Dentry> Sync for Mountpoint<D> {}

impl<D: Dentry> Mountpoint<D> {
    pub(crate) fn new(ns: &Arc<MntNamespace<D>>, dentry: Arc<D>) -> Result<Arc<Self>, NoMemory> {
        memory::arc(Mountpoint {
            ns: Arc::downgrade(ns),
            dentry,
            memory: Memory::new(),
            mounts: UnsafeCell::new(List::new()),
            touched: UnsafeCell::new(None),
        })
    }

    /// The dentry.
    pub fn dentry(&self) -> &Arc<D> {
        &self.dentry
    }

    /// The namespace that mounts here, unless it is gone.
    pub fn namespace(&self) -> Option<Arc<MntNamespace<D>>> {
        self.ns.upgrade()
    }
}

/// How often [`MntNamespace::make_room`] looks before it refuses: long enough for a reader that was preempted.
const ROOM_TRIES: u32 = 2048;

static MOUNT_IDS: IdPool = IdPool::new();
static GROUP_IDS: IdPool = IdPool::new();
static NAMESPACES: AtomicU64 = AtomicU64::new(1);

impl<D: Dentry> MntNamespace<D> {
    /// A namespace without mounts. It lives until [`WriteSet::dissolve`](crate::WriteSet::dissolve), whoever holds
    /// the `Arc`.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new(kind: Kind) -> Result<Arc<Self>, NoMemory> {
        Self::from_spec(NamespaceSpec::new(kind))
    }

    /// As [`MntNamespace::new`], with an owner and the rest.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn from_spec(spec: NamespaceSpec) -> Result<Arc<Self>, NoMemory> {
        let (table, edges) = Table::with_capacity(spec.mounts).ok_or(NoMemory)?;
        const { assert!(size_of::<Self>() + 128 <= memory::ALLOCATION_MAX, "too large for a claim") };
        let ids = match spec.ids {
            Some(ids) => ids,
            None => Ids {
                mounts: memory::arc(IdSpace::new(&MOUNT_IDS, 0))?,
                groups: memory::arc(IdSpace::new(&GROUP_IDS, 1))?,
            },
        };
        let make = |this: &Weak<Self>| MntNamespace {
            this: this.as_ptr(),
            seq: Sequence::new(),
            table,
            // Relaxed: a number. The one counter of the machine, written once per namespace.
            id: NamespaceId(NAMESPACES.fetch_add(1, CoreOrdering::Relaxed)),
            kind: spec.kind,
            owner: spec.owner,
            origin: spec.origin,
            lock: WriterLine {
                lock: RawLock::new(),
                holder: AtomicUsize::new(0),
                generation: AtomicU64::new(0),
                users: AtomicUsize::new(0),
                starved: AtomicBool::new(false),
                watched: AtomicBool::new(false),
                watchers: plain::Mutex::new(Vec::new()),
                pivots: sync::AtomicU64::new(0),
                mount_ids: ids.mounts,
                group_ids: ids.groups,
                memory: Memory::new(),
                state: UnsafeCell::new(NsState {
                    edges,
                    root: None,
                    order: List::new(),
                    entered: None,
                    mountpoints: HashMap::new(),
                    touched: None,
                    plan: Plan::default(),
                    window: false,
                    announced: 0,
                    dissolved: false,
                    charge: spec.charge,
                    fragments: 0,
                    by_id: ById::default(),
                }),
            },
        };
        let ns = memory::once(|| Arc::new_cyclic(make))?;
        // The count of being alive, which `dissolve` gives to the reclaimer: a pinned walk that reads `Mount::ns` relies
        // on it.
        let _until_dissolved = Arc::into_raw(Arc::clone(&ns));
        Ok(ns)
    }

    /// The id.
    pub fn id(&self) -> NamespaceId {
        self.id
    }

    /// What it is for.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The user namespace that owns it.
    pub fn owner(&self) -> &UserNs {
        &self.owner
    }

    /// The namespace that an anonymous one's tree was copied from; `None` for one that `fsmount` made, and for ordinary
    /// ones.
    pub fn origin(&self) -> Option<NamespaceId> {
        self.origin
    }

    /// A number that grows with every change that a listing of the namespace shows.
    pub fn generation(&self) -> u64 {
        // Acquire: with the generation comes what it counts.
        self.lock.generation.load(Ordering::Acquire)
    }

    /// How many pivots there were. Who finds a place, and then stands there, compares: a pivot between the two did not find
    /// anybody there whom it had to move.
    ///
    /// Ordering: `[Pivots]` Acquire, with the Release in [`WriteSet::move_anchors`]: a walk that begins after a number was
    /// read sees the tree of that pivot, or waits for it. That a number is still the same is read after the anchor was taken
    /// under the lock under which a pivot looks for anchors. Model `chdir_by_path_vs_pivot`.
    pub fn pivots(&self) -> u64 {
        self.lock.pivots.load(order(Ordering::Acquire, "pivots_load_relaxed"))
    }

    /// Wakes `waker` once, after the next change that a listing shows, unless the generation is not `seen` any more: then
    /// it answers `false`, and forgets the waker (poll(2) on `/proc/PID/mountinfo`).
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn watch(&self, seen: u64, waker: &Waker) -> Result<bool, NoMemory> {
        let mut watchers = self.lock.watchers.lock();
        watchers.try_reserve(1).map_err(|_| NoMemory)?;
        watchers.push(waker.clone());
        // SeqCst, with the load in `announce`: either this generation is the new one, or the change finds the waker.
        self.lock.watched.store(true, Ordering::SeqCst);
        if self.lock.generation.load(Ordering::SeqCst) == seen {
            return Ok(true);
        }
        watchers.pop();
        Ok(false)
    }

    /// Those who wait for a change, if there was one. Context: holds the namespace's lock.
    pub(crate) fn announce(&self, announced: &mut u64) -> Vec<Waker> {
        let now = self.lock.generation.load(Ordering::SeqCst);
        // SeqCst: pairs with `watch`.
        if core::mem::replace(announced, now) == now || !self.lock.watched.load(Ordering::SeqCst) {
            return Vec::new();
        }
        let mut watchers = self.lock.watchers.lock();
        self.lock.watched.store(false, Ordering::SeqCst);
        core::mem::take(&mut *watchers)
    }

    /// Called before a change that allocates: makes room for it, or refuses. Umounts do without, and so never wait.
    ///
    /// Context: not pinned; no lock held; may wait a little.
    ///
    /// # Errors
    /// `ENOMEM` ([`OverLimit`]): readers do not leave, and either the memory that waits for them is at its limit, or the
    /// hash cannot grow because of them and its chains are at theirs.
    pub fn make_room(&self) -> Result<(), OverLimit> {
        reclaim::reserve()?;
        for spins in 0..ROOM_TRIES {
            // Relaxed: a hint; the next change sets it again.
            if !self.lock.starved.load(Ordering::Relaxed) {
                return Ok(());
            }
            let _looked = WriteSet::one(&self.to_arc(&pin()));
            platform::relax(spins);
        }
        Err(OverLimit)
    }

    /// One more task, file or bind keeps the namespace from dying.
    pub fn get_user(&self) {
        // Relaxed: the caller has a user, or made the namespace.
        self.lock.users.fetch_add(1, Ordering::Relaxed);
    }

    /// As [`MntNamespace::get_user`], for somebody who has none; `false` if the last one has left.
    #[must_use]
    pub fn try_get_user(&self) -> bool {
        // Relaxed: as in `get_user`; who gets one here does so under the lock of whatever led to the namespace.
        let more = |users: usize| (users != 0).then(|| users + 1);
        self.lock.users.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    /// One user less. Whoever gets `true` was the last, and dissolves the namespace.
    #[must_use]
    pub fn put_user(&self) -> bool {
        // AcqRel: what the other users did comes before the end.
        self.lock.users.fetch_sub(1, Ordering::AcqRel) == 1
    }

    pub(crate) fn bump_generation(&self) {
        // SeqCst: see `generation` and `watch`. Read-modify-write: a master's change shows in its slaves' namespaces,
        // unlocked.
        self.lock.generation.fetch_add(1, Ordering::SeqCst);
    }

    /// The mount attached on `dentry` in `parent`, if any. At most one: a stack is climbed root by root.
    ///
    /// Context: pinned; no lock; never allocates or blocks. The caller validates the sequence, for a hit and for a
    /// miss.
    #[inline]
    pub fn lookup_mnt<'g>(&self, parent: &Mount<D>, dentry: &D, guard: &'g Guard) -> Option<&'g Mount<D>> {
        let edge = self.table.find(edge_hash(parent, dentry), |edge| edge.is_at(parent, dentry), guard)?;
        Some(edge.child(guard))
    }

    /// The owner's handle, for a pinned walk that found the namespace through a mount.
    pub(crate) fn to_arc(&self, _guard: &Guard) -> Arc<Self> {
        // SAFETY: every namespace lives in an `Arc` (`new`), and the count of being alive is dropped through the
        // reclaimer, so for a pinned reader it is not zero.
        unsafe {
            Arc::increment_strong_count(self.this);
            Arc::from_raw(self.this)
        }
    }

    /// Whether the write set with `token` holds this namespace's lock.
    #[inline]
    pub(crate) fn held_by(&self, token: usize) -> bool {
        // Relaxed: only the holder can find its own token here.
        token != 0 && self.lock.holder.load(Ordering::Relaxed) == token
    }
}

/// The namespace that a mount is in, if any, as a handle to lock it by. Stale as soon as it is returned.
pub fn namespace_of<D: Dentry>(mount: &Mount<D>) -> Option<Arc<MntNamespace<D>>> {
    let guard = pin();
    mount.domain(&guard).map(|ns| ns.to_arc(&guard))
}
