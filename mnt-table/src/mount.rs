//! Mounts, the edges that hang them in a tree, and references that outlive a pin.
//!
//! # Three lifetimes
//! 1. *Visibility* ends when the edge is unlinked, at once.
//! 2. *The superblock* is let go when the mount is dead ([`Mount::bury`]); the last one shuts it down, in the umount
//!    call itself, or for a lazily detached mount when its last reference is put.
//! 3. *Memory* goes through the reclaimer.
//!
//! # State
//! `LIVE` in a tree; `CHECK` while a decision about it is running; `DETACHED` lazily, kept by references; `DEAD`.
//! Changed under the namespace's lock while in a tree, under [`Mount::slow`] once detached.
//!
//! # Fragments
//! A mount that is detached together with its parent can stay attached to it (`CONNECTED`), so that what it covers is
//! not revealed to who still holds the parent: a locked one does, and everything in a tree that ends as a whole. Such
//! mounts keep their edges in the hash of the namespace that they were in, and name it, though they are not in it any
//! more; the namespace's memory lives as long as there are any. The parent keeps a connected child going. When the
//! parent dies it lets go of its children, under that namespace's lock, and each of them settles for itself.
//!
//! One of its stores is Release: `DETACHED`, which ends what "in a tree" stood for. All others follow the fence of
//! `[Busy]` with nothing in between that a reader needs, and a reader that is turned away by what it sees uses nothing.
//!
//! # References
//! In a tree is a state and not a count; a [`MountRef`] counts ([`crate::count`]), and so does each user of an
//! [`Anchor`].
//! - **keep** (a pinned reader wants to stay): count a get; SeqCst fence; load the state; `CHECK` or `DEAD`: put it
//!   back and fail.
//! - **busy?** (umount, under the locks of all mounts that go): `CHECK` on all; SeqCst fence; sums; all within their
//!   allowance: `DEAD`, else `LIVE` again and `EBUSY`.
//! - *Winner of the race*: the umount, unless the get was counted. If the reader's fence is first, the sum has its
//!   get; if the umounter's is first, the reader sees `CHECK`. Both can happen: then the umount says `EBUSY`, as it
//!   does for any lookup in flight.
//! - **put**: count it; SeqCst fence; load the state; `DETACHED`: look whether this was the last. The fence pairs with
//!   the one in [`Mount::settle`], so a last put and a detach cannot miss each other.
//!
//! # Edges
//! - `[Busy]`, `[Put]`: above and in [`crate::count`]. Models `ref_vs_busy`, `last_put_vs_detach`.
//! - `[Detached]` Release of `DETACHED`; the fence in [`Mount::settle`] behind a load that saw it: what was done with the
//!   mount while it was in the tree comes before its superblock's shutdown. Model `last_put_vs_detach`.
//! - `[Killed]` The state, then the superblock's shutdown, which a file system publishes with Release; the file system's
//!   Acquire in a walk, then the state ([`Mount::is_sound`]). Model `umount_vs_walk`.
//! - `[Pair]` A mount's parent and mountpoint are read as one pointer, its [`Edge`]: Release in the tree's changes,
//!   Acquire in [`Mount::up`]. Model `dotdot_vs_move`.
//! - `[Top]` A mount that leaves its tree is `DETACHED` or `DEAD` before its edge goes: the state, then Release of the empty
//!   pointer; Acquire in [`Mount::up`], then the state ([`Mount::is_mounted`]). Model `dotdot_vs_detach`.
//! - `[Home]` `ns`: Release in attach, under a window of the old namespace; Acquire in [`Mount::domain`], read again
//!   after the sequence was sampled. Model `anonymous_attach_vs_walk`.
//! - `[Anchor]` An anchor's target: Release inside pivot's window; Acquire between a walk's sample and its check.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::UnsafeCell;
use core::ptr::{self, NonNull};

use smallvec::SmallVec;

use crate::count::Counter;
use crate::dentry::{Dentry, SuperBlock};
use crate::group::{Group, MasterLink, Slaves};
use crate::id::Id;
use crate::list::{List, NoMemory, Plan, Slot};
use crate::memory::{self, Claims, Grow};
use crate::namespace::{MntNamespace, Mountpoint};
use crate::platform::{CPUS_MAX, cpu};
use crate::reclaim::{self, Guard, pin};
use crate::sync::{AtomicPtr, AtomicU32, Memory, Mutex, Ordering, fence, plain, planted};
use crate::tree::release_children;
use crate::user_ns::UserNs;
use crate::visits;
use crate::writers::Writers;

mod anchor;
mod edge;
mod flags;
mod reference;
mod spec;

pub use anchor::Anchor;
pub use edge::Edge;
pub(crate) use edge::edge_hash;
pub use flags::MountFlags;
pub(crate) use reference::NotKept;
pub use reference::{MountRef, Unkept};
pub use spec::{MountSpec, Source};

/// State words; `CHECK` is a bit on top of `LIVE` or `DETACHED`, `CONNECTED` one on top of `DETACHED`.
pub(crate) mod state {
    pub(crate) const LIVE: u32 = 0;
    pub(crate) const CHECK: u32 = 1;
    pub(crate) const DETACHED: u32 = 2;
    pub(crate) const DEAD: u32 = 4;
    /// Made by a plan and never seen by anybody.
    pub(crate) const NEW: u32 = 8;
    /// Still attached to a detached parent, which keeps it going.
    pub(crate) const CONNECTED: u32 = 16;
}

/// What a mount's namespace lock guards; reached through [`WriteSet::tree`](crate::WriteSet::tree).
pub(crate) struct TreeLinks<D: Dentry> {
    pub(crate) parent: Option<Arc<Mount<D>>>,
    pub(crate) mountpoint: Option<(Arc<Mountpoint<D>>, Slot)>,
    pub(crate) children: List<Arc<Mount<D>>>,
    pub(crate) in_parent: Option<Slot>,
    pub(crate) in_order: Option<Slot>,
    pub(crate) unbindable: bool,
    pub(crate) locked: bool,
    /// How many children are `CONNECTED`.
    pub(crate) connected: u32,
    /// What a change noted here while it planned.
    pub(crate) marks: u8,
    /// Which change that was.
    pub(crate) marked_by: u64,
}

/// What is seldom looked at.
struct Cold<D: Dentry> {
    /// Until the mount is buried.
    id: Option<Id>,
    /// Whose ids it maps; the initial one's are mapped by nobody.
    idmap: UserNs,
    /// Of a mount in no group: room for the slaves that it will have as a member of one.
    slaves_to_be: Slaves<D>,
}

/// An instance of a subtree of a file system somewhere in a tree.
///
/// In the order of who uses what: a change of many mounts goes over them several times, and each time over the first two
/// lines or three.
#[repr(C)]
pub struct Mount<D: Dentry> {
    memory: Memory,
    // Read by walks, written seldom.
    pub(crate) ns: AtomicPtr<MntNamespace<D>>,
    pub(crate) edge: AtomicPtr<Edge<D>>,
    pub(crate) state: AtomicU32,
    flags: AtomicU32,
    root: Arc<D>,
    // Constant.
    /// The address by which the `Arc` around this knows it: a reference to this may not be used to free it.
    this: *const Mount<D>,
    // Read and written by changes.
    /// Its place in the propagation graph. Leaf lock, for reading by anyone; see [`crate::group`] for who may write.
    propagation: Mutex<Propagation<D>>,
    pub(crate) tree_memory: Memory,
    pub(crate) tree: UnsafeCell<TreeLinks<D>>,
    // Constant.
    unique_id: u64,
    number: u32,
    /// Whether there is an id map: most mounts have none.
    is_mapped: plain::AtomicBool,
    /// An umount with MNT_EXPIRE came by, and nobody since.
    expiring: plain::AtomicBool,
    // Written by writers and by references; inline until it is shared.
    refs: Counter,
    writers: Writers,
    /// Anchors whose target this mount is. Leaf lock; also orders the decisions about a detached mount.
    slow: Mutex<Vec<Arc<Anchor<D>>>>,
    source: Source,
    /// Leaf lock.
    cold: plain::Mutex<Cold<D>>,
}

// SAFETY: `tree` is reached only through a write set that holds the mount's namespace (`WriteSet::tree`), which hands
// out `&` for `&WriteSet` and `&mut` for `&mut WriteSet`; all else is Send and Sync.
unsafe impl<D: Dentry> Send for Mount<D> {}
// SAFETY: as above.
unsafe impl<D: Dentry> Sync for Mount<D> {}

/// A mount's place in the propagation graph.
pub struct Propagation<D: Dentry> {
    /// The peer group of a shared mount, and its place in the ring.
    pub peers: Option<(Arc<Group<D>>, Slot)>,
    /// Whom a slave receives from.
    pub master: Option<MasterLink<D>>,
}

impl<D: Dentry> Clone for Propagation<D> {
    fn clone(&self) -> Self {
        Propagation { peers: self.peers.clone(), master: self.master.clone() }
    }
}

impl<D: Dentry> Mount<D> {
    /// A mount that is nowhere yet. Dropped without being attached, it lets go of its superblock again.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn new(
        spec: MountSpec<D>,
        ns: &MntNamespace<D>,
        (id, unique_id): (Id, u64),
    ) -> Result<Arc<Self>, NoMemory> {
        const { assert!(size_of::<Self>() + 128 <= memory::ALLOCATION_MAX, "too large for a claim") };
        memory::once(|| Self::make(spec, ns, id, unique_id))
    }

    /// Allocates once.
    fn make(spec: MountSpec<D>, ns: &MntNamespace<D>, id: Id, unique_id: u64) -> Arc<Self> {
        spec.root.super_block().active().add();
        spec.root.mounted();
        // Relaxed: statistics.
        LIVE[cpu()].made.fetch_add(1, Ordering::Relaxed);
        Arc::new_cyclic(|this| Mount {
            memory: Memory::new(),
            ns: AtomicPtr::new(ptr::from_ref(ns).cast_mut()),
            edge: AtomicPtr::new(ptr::null_mut()),
            state: AtomicU32::new(state::NEW),
            flags: AtomicU32::new(spec.flags.bits()),
            root: spec.root,
            this: this.as_ptr(),
            propagation: Mutex::new(Propagation { peers: None, master: None }),
            tree_memory: Memory::new(),
            tree: UnsafeCell::new(TreeLinks {
                parent: None,
                mountpoint: None,
                children: List::new(),
                in_parent: None,
                in_order: None,
                unbindable: false,
                locked: false,
                connected: 0,
                marks: 0,
                marked_by: 0,
            }),
            unique_id,
            number: id.number(),
            is_mapped: plain::AtomicBool::new(spec.idmap.is_some()),
            expiring: plain::AtomicBool::new(false),
            refs: Counter::new(),
            writers: if spec.flags.contains(MountFlags::READONLY) {
                Writers::new_read_only()
            } else {
                Writers::new()
            },
            slow: Mutex::new(Vec::new()),
            source: spec.source,
            cold: plain::Mutex::new(Cold {
                id: Some(id),
                idmap: spec.idmap.unwrap_or(UserNs::INITIAL),
                slaves_to_be: List::new(),
            }),
        })
    }

    /// The root dentry of this mount.
    #[inline]
    pub fn root(&self) -> &Arc<D> {
        &self.root
    }

    /// The superblock.
    pub fn super_block(&self) -> &Arc<D::SuperBlock> {
        self.root.super_block()
    }

    /// The per-mount flags of this moment.
    pub fn flags(&self) -> MountFlags {
        // Relaxed: one word that stands for itself.
        MountFlags::from_bits_retain(self.flags.load(Ordering::Relaxed))
    }

    /// Sets the flags. Context: holds the namespace's lock.
    pub(crate) fn set_flags(&self, flags: MountFlags) {
        self.flags.store(flags.bits(), Ordering::Relaxed);
    }

    /// The id that is never used again, above 2^31.
    pub fn unique_id(&self) -> u64 {
        self.unique_id
    }

    /// The small id that mountinfo shows; used again after the mount is gone.
    pub fn id(&self) -> u32 {
        self.number
    }

    /// The place in the propagation graph of this moment: stable for whoever holds the locks that its writer needs.
    pub fn propagation(&self) -> Propagation<D> {
        self.propagation.lock().clone()
    }

    /// As [`Mount::propagation`], for a look that needs no handles.
    ///
    /// Context: `look` takes no lock.
    #[inline]
    pub fn with_propagation<R>(&self, look: impl FnOnce(&Propagation<D>) -> R) -> R {
        visits::count();
        look(&self.propagation.lock())
    }

    /// Joins or leaves a peer group. Context: holds the namespace's lock and the group's.
    pub fn set_peers(&self, peers: Option<(Arc<Group<D>>, Slot)>) {
        let mut here = self.propagation.lock();
        if let Some((group, _)) = &peers {
            group.set_above(here.master.as_ref().map(|link| Arc::clone(&link.group)));
        }
        here.peers = peers;
    }

    /// Changes whom it receives from. Context: holds the lock of the old and of the new master's group.
    pub fn set_master(&self, master: Option<MasterLink<D>>) {
        let mut here = self.propagation.lock();
        if let Some((group, _)) = &here.peers {
            group.set_above(master.as_ref().map(|link| Arc::clone(&link.group)));
        }
        here.master = master;
    }

    /// Makes room for `more` slaves of a mount that is going to be a member of a group.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn reserve_slaves_to_be(&self, plan: Plan, more: usize) -> Result<(), NoMemory> {
        self.cold.lock().slaves_to_be.promise(plan, more)
    }

    /// The empty list of slaves, with its room, that the mount takes into its group.
    pub(crate) fn take_slaves_to_be(&self) -> Slaves<D> {
        core::mem::take(&mut self.cold.lock().slaves_to_be)
    }

    /// The device name.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// Whether it maps ids.
    #[inline]
    pub fn is_idmapped(&self) -> bool {
        // Relaxed: a mount gets a map before anybody else knows it, or under the namespace's lock while nobody writes.
        self.is_mapped.load(Ordering::Relaxed)
    }

    /// The user namespace whose ids it maps.
    pub fn idmap(&self) -> Option<UserNs> {
        if !self.is_idmapped() {
            return None;
        }
        let idmap = self.cold.lock().idmap.clone();
        (idmap != UserNs::INITIAL).then_some(idmap)
    }

    /// Sets whose ids it maps. Context: holds the namespace's lock; nobody can have written through the mount yet.
    pub(crate) fn set_idmap(&self, idmap: Option<UserNs>) {
        let is_mapped = idmap.is_some();
        let old = core::mem::replace(&mut self.cold.lock().idmap, idmap.unwrap_or(UserNs::INITIAL));
        self.is_mapped.store(is_mapped, Ordering::Relaxed); // Relaxed: as in `is_idmapped`.
        // Behind the lock: it may be the last handle.
        drop(old);
    }

    /// Who writes through it, and whether anybody may.
    pub(crate) fn own_writers(&self) -> &Writers {
        &self.writers
    }

    /// Marks it for the next umount with `MNT_EXPIRE`; returns whether it was marked already and not used since.
    pub fn mark_expiring(&self) -> bool {
        // Relaxed: the mark decides nothing by itself; the umount that follows looks for users as any does.
        self.expiring.swap(true, Ordering::Relaxed)
    }

    /// Somebody used it: the mark of [`mark_expiring`](Mount::mark_expiring) is gone.
    #[inline]
    pub fn note_use(&self) {
        // Relaxed: as in `mark_expiring`. Read first: the line is everybody's.
        if self.expiring.load(Ordering::Relaxed) {
            self.expiring.store(false, Ordering::Relaxed);
        }
    }

    /// The namespace in whose hash the mounts on this one are; `None` for a detached mount with nothing on it.
    ///
    /// Context: pinned. Ordering: `[Home]`; may be out of date when it returns.
    #[inline]
    pub(crate) fn domain<'g>(&self, _guard: &'g Guard) -> Option<&'g MntNamespace<D>> {
        // Acquire [Home]: pairs with the Release in the tree's changes.
        // SAFETY: a namespace is retired after its last mount left it [Reach].
        unsafe { self.ns.load(Ordering::Acquire).as_ref() }
    }

    /// Whether it is in some namespace; a moment's answer unless that namespace is locked.
    pub fn is_mounted(&self) -> bool {
        self.memory.check();
        // Acquire: what made it so is seen.
        self.state.load(Ordering::Acquire) & !state::CHECK == state::LIVE
    }

    /// Where it is attached: parent and mountpoint, read together; `None` for the root of a tree.
    ///
    /// Context: pinned. Ordering: reads `[Pair]`; the caller validates its namespace's sequence.
    #[inline]
    pub(crate) fn up<'g>(&self, guard: &'g Guard) -> Option<(&'g Mount<D>, &'g Arc<D>)> {
        // Acquire [Pair]: pairs with the Release in the tree's changes.
        // SAFETY: the edge is retired after this pointer stopped naming it [Reach].
        let edge = unsafe { self.edge.load(Ordering::Acquire).as_ref::<'g>() }?;
        edge.memory.check();
        Some((edge.parent(guard), edge.mountpoint().dentry()))
    }

    /// Whether what a walk found in this mount may be believed: no decision about it is running, and it is not dead,
    /// so its superblock was not being shut down.
    #[inline]
    pub(crate) fn is_sound(&self) -> bool {
        self.memory.check();
        // Relaxed [Killed]: whoever met something of the shutdown met it by an Acquire of the file system's, and the state
        // changed before. Nothing else rests on this order: [Busy] has its fence.
        self.state.load(Ordering::Relaxed) & (state::CHECK | state::DEAD) == 0
    }

    /// The owner's handle of a mount that a pinned reader sees. Not a reference in the sense of "busy".
    pub fn to_arc(&self, _guard: &Guard) -> Arc<Self> {
        // SAFETY: every mount lives in an `Arc` (`new`), and the count that stands for "in a tree or detached" is
        // dropped through the reclaimer, so for a pinned reader it is not zero.
        unsafe {
            Arc::increment_strong_count(self.this);
            Arc::from_raw(self.this)
        }
    }

    /// A reference that outlives the pin.
    ///
    /// Context: pinned, and the caller found the mount during this pin; never blocks.
    ///
    /// # Errors
    /// An umount is deciding or has decided. The caller unpins, calls [`Unkept::settle`] and walks again.
    pub fn keep(&self, guard: &Guard) -> Result<MountRef<D>, Unkept<D>> {
        self.refs.get();
        if !planted("keep_without_fence") {
            // [Busy]: pairs with the fence in `WriteSet::take_if_idle` and in `settle`.
            fence(Ordering::SeqCst);
        }
        if self.is_sound() || planted("keep_without_state") {
            return Ok(MountRef(NonNull::from(self)));
        }
        let detached = self.put(guard);
        Err(Unkept(detached.filter(|_| !planted("undo_forgets_settle"))))
    }

    /// Ends a reference; returns the mount if it is detached, to be settled after the pin.
    #[must_use]
    fn put(&self, guard: &Guard) -> Option<Arc<Self>> {
        self.note_use();
        self.refs.put();
        if !planted("put_without_fence") {
            // [Put]: pairs with the fence in `settle`.
            fence(Ordering::SeqCst);
        }
        self.is_detached().then(|| self.to_arc(guard))
    }

    fn is_detached(&self) -> bool {
        // Relaxed [Detached]: a yes leads to the fence in `settle`.
        self.state.load(Ordering::Relaxed) & state::DETACHED != 0
    }

    /// References from outside, never underestimated. Context: after the fence of `[Busy]`.
    pub(crate) fn users(&self) -> u32 {
        let anchors = self.slow.lock();
        self.users_with(&anchors)
    }

    fn users_with(&self, anchors: &[Arc<Anchor<D>>]) -> u32 {
        let anchors = if planted("anchors_not_summed") { &[] } else { anchors };
        anchors.iter().fold(self.refs.sum(), |sum, anchor| sum.wrapping_add(anchor.users.sum()))
    }

    /// Whether a detached mount has lost its last reference; then buries it, and what it kept going. Called by whoever may
    /// have been the last.
    ///
    /// Context: no lock of this crate held; may shut the superblock down, so may block; waits for memory.
    pub(crate) fn settle(&self) {
        let mut claims = Claims::none();
        memory::until(|| reclaim::claim(&mut claims, 1));
        self.settle_claimed();
    }

    /// As [`Mount::settle`], where a change claimed the memory to retire the mount.
    pub(crate) fn settle_claimed(&self) {
        let Some(life) = self.die() else { return };
        let mut dead: SmallVec<[Arc<Self>; 1]> = SmallVec::new();
        dead.push(life);
        while let Some(life) = dead.pop() {
            let children = memory::until(|| release_children(&life, |count| dead.make_room(count)));
            if !planted("connected_child_forgotten") {
                dead.extend(children.iter().filter_map(|child| child.die()));
            }
            life.bury();
            pin().retire_arc(life);
        }
    }

    /// The count of a detached mount that has no references and no parent to keep it, which is DEAD from here on.
    fn die(&self) -> Option<Arc<Self>> {
        let anchors = self.slow.lock();
        // Relaxed [Detached]: before the fence below; written under `slow` since it was detached.
        if self.state.load(Ordering::Relaxed) != state::DETACHED {
            return None;
        }
        self.state.store(state::DETACHED | state::CHECK, Ordering::Relaxed);
        if !planted("settle_without_fence") {
            // [Busy] and [Put]: pairs with the fences in `Mount::keep` and in both `put`s. [Detached]: pairs with the
            // Release of DETACHED.
            fence(Ordering::SeqCst);
        }
        if self.users_with(&anchors) != 0 {
            // Relaxed: as before the check; the next one comes by the lock.
            self.state.store(state::DETACHED, Ordering::Relaxed);
            return None;
        }
        // Relaxed [Killed]: before the shutdown, which the file system publishes.
        self.state.store(state::DEAD, Ordering::Relaxed);
        // SAFETY: `detached_into_raw` left this count behind before the mount was marked DETACHED, and the change from
        // DETACHED to DEAD happens once.
        Some(unsafe { Arc::from_raw(self.this) })
    }

    /// Its parent let go of it: it lives for its own references from here on. The caller settles it.
    ///
    /// Context: holds the lock of the namespace that has its edge, which is unlinked.
    pub(crate) fn disconnect(&self) {
        let _decisions = self.slow.lock();
        // Relaxed: whoever decides about it takes the lock.
        self.state.store(state::DETACHED, Ordering::Relaxed);
    }

    /// Lets go of the superblock and the small id; the last mount shuts the superblock down.
    ///
    /// Context: once, when the mount is DEAD or was never attached; no lock held; may block.
    pub(crate) fn bury(&self) {
        let id = self.cold.lock().id.take();
        drop(id);
        self.root.unmounted();
        let super_block = self.super_block();
        if super_block.active().remove() {
            super_block.shutdown();
        }
    }
}

/// Mounts whose memory is in use, on a line per CPU.
#[repr(align(128))]
struct Live {
    made: plain::AtomicU64,
    dropped: plain::AtomicU64,
}

static LIVE: [Live; CPUS_MAX] =
    [const { Live { made: plain::AtomicU64::new(0), dropped: plain::AtomicU64::new(0) } }; CPUS_MAX];

/// How many mounts there are, detached and retired ones included. Exact at rest.
pub fn live_mounts() -> u64 {
    // Relaxed: statistics.
    let sum = |field: fn(&Live) -> &plain::AtomicU64| {
        LIVE.iter().fold(0u64, |sum, cpu| sum.wrapping_add(field(cpu).load(Ordering::Relaxed)))
    };
    let dropped = sum(|cpu| &cpu.dropped);
    sum(|cpu| &cpu.made).saturating_sub(dropped)
}

impl<D: Dentry> Drop for Mount<D> {
    fn drop(&mut self) {
        // Relaxed: statistics.
        LIVE[cpu()].dropped.fetch_add(1, Ordering::Relaxed);
        // Relaxed: `&mut self`.
        if self.state.load(Ordering::Relaxed) == state::NEW {
            self.bury();
        }
    }
}

/// Turns the tree's count of a mount into the one that a detached mount holds on itself until it settles.
pub(crate) fn detached_into_raw<D: Dentry>(life: Arc<Mount<D>>) {
    let _counted_until_settled = Arc::into_raw(life);
}
