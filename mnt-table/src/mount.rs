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
//! - `[Home]` `ns`: Release in attach, under a window of the old namespace; Acquire in [`Mount::domain`], read again
//!   after the sequence was sampled. Model `anonymous_attach_vs_walk`.
//! - `[Anchor]` An anchor's target: Release inside pivot's window; Acquire between a walk's sample and its check.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::UnsafeCell;
use core::ptr::{self, NonNull};

use bitflags::bitflags;
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
use crate::sync::{AtomicPtr, AtomicU32, Memory, Mutex, Ordering, fence, order, plain, planted};
use crate::table::{Entry, Links};
use crate::tree::release_children;
use crate::user_ns::UserNs;
use crate::visits;
use crate::writers::Writers;

bitflags! {
    /// Per-mount flags that a user can set (mount(2), mount_setattr(2)), and the locks on them.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct MountFlags: u32 {
        /// Writes through this mount fail with `EROFS`.
        const READONLY = 1;
        /// Set-id bits and file capabilities are ignored.
        const NOSUID = 2;
        /// Device nodes cannot be opened.
        const NODEV = 4;
        /// No execution, no executable mapping.
        const NOEXEC = 8;
        /// Access times stay.
        const NOATIME = 0x10;
        /// Access times of directories stay.
        const NODIRATIME = 0x20;
        /// Access times move when they are older than modification or a day.
        const RELATIME = 0x40;
        /// Symbolic links are not followed.
        const NOSYMFOLLOW = 0x80;
        /// The mount came from a namespace with another owner: READONLY may not be taken away here.
        const LOCK_READONLY = 0x100;
        /// As LOCK_READONLY, for NOSUID.
        const LOCK_NOSUID = 0x200;
        /// As LOCK_READONLY, for NODEV.
        const LOCK_NODEV = 0x400;
        /// As LOCK_READONLY, for NOEXEC.
        const LOCK_NOEXEC = 0x800;
        /// As LOCK_READONLY: NOATIME, NODIRATIME and RELATIME may not be changed at all.
        const LOCK_ATIME = 0x1000;
    }
}

impl MountFlags {
    /// Those that a user can set.
    pub const USER: MountFlags = MountFlags::READONLY
        .union(MountFlags::NOSUID)
        .union(MountFlags::NODEV)
        .union(MountFlags::NOEXEC)
        .union(MountFlags::TIMES)
        .union(MountFlags::NOSYMFOLLOW);

    /// Those that say when access times move.
    pub const TIMES: MountFlags =
        MountFlags::NOATIME.union(MountFlags::NODIRATIME).union(MountFlags::RELATIME);
}

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

/// A hash entry and a tree edge at once: `child` is mounted on `(parent, dentry)`. Never changes; a move makes a fresh
/// one.
pub struct Edge<D: Dentry> {
    memory: Memory,
    links: Links<Edge<D>>,
    parent: NonNull<Mount<D>>,
    dentry: *const D,
    child: NonNull<Mount<D>>,
    mountpoint: Arc<Mountpoint<D>>,
}

// SAFETY: the pointers are to objects that are Send and Sync themselves; who may follow them is argued where it is
// done.
unsafe impl<D: Dentry> Send for Edge<D> {}
// SAFETY: as above; an edge has no interior mutability besides its atomic links.
unsafe impl<D: Dentry> Sync for Edge<D> {}

impl<D: Dentry> Edge<D> {
    pub(crate) fn new(
        parent: &Arc<Mount<D>>,
        mountpoint: &Arc<Mountpoint<D>>,
        child: &Arc<Mount<D>>,
    ) -> Self {
        Edge {
            memory: Memory::new(),
            links: Links::new(),
            parent: NonNull::from(&**parent),
            dentry: Arc::as_ptr(mountpoint.dentry()),
            child: NonNull::from(&**child),
            mountpoint: Arc::clone(mountpoint),
        }
    }

    /// The mount that is attached.
    pub(crate) fn child<'g>(&'g self, _guard: &'g Guard) -> &'g Mount<D> {
        // SAFETY: while the edge is linked its child is in the tree; both are retired after it was unlinked, and an
        // edge that a pin holds was linked during the pin, so the pin holds the child too [Reach].
        unsafe { self.child.as_ref() }
    }

    /// The mount that it is attached to.
    pub(crate) fn parent<'g>(&'g self, _guard: &'g Guard) -> &'g Mount<D> {
        // SAFETY: as for `child`: a mount leaves a tree after the edges to its children.
        unsafe { self.parent.as_ref() }
    }

    pub(crate) fn mountpoint(&self) -> &Arc<Mountpoint<D>> {
        &self.mountpoint
    }

    #[inline]
    pub(crate) fn is_at(&self, parent: &Mount<D>, dentry: &D) -> bool {
        self.memory.check();
        ptr::eq(self.parent.as_ptr(), parent) && ptr::eq(self.dentry, dentry)
    }
}

/// The key's hash: multiply-shift of both addresses. In models all are one chain: addresses differ from run to run, and
/// the most is seen where everything meets.
#[inline]
pub(crate) fn edge_hash<D: Dentry>(parent: *const Mount<D>, dentry: *const D) -> u64 {
    if cfg!(loom) {
        return 0;
    }
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    ((parent.addr() as u64).rotate_left(32) ^ dentry.addr() as u64).wrapping_mul(ODD)
}

impl<D: Dentry> Entry for Edge<D> {
    fn hash(&self) -> u64 {
        edge_hash(self.parent.as_ptr(), self.dentry)
    }

    fn links(&self) -> &Links<Self> {
        &self.links
    }
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

/// What was mounted: a device, or whatever the mounting call named. Copies of a mount share it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source(Arc<Vec<u8>>);

impl Source {
    /// `name` as a source.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new(name: &[u8]) -> Result<Self, NoMemory> {
        Ok(Source(memory::arc(memory::collect(name.iter().copied())?)?))
    }
}

impl core::ops::Deref for Source {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

/// What a new mount is made of.
pub struct MountSpec<D: Dentry> {
    /// Its root: the superblock's root or any dentry below it.
    pub root: Arc<D>,
    /// Per-mount flags.
    pub flags: MountFlags,
    /// The device name that mountinfo shows.
    pub source: Source,
    /// The user namespace whose ids it maps.
    pub idmap: Option<UserNs>,
}

impl<D: Dentry> MountSpec<D> {
    /// A mount of `root`, not id-mapped.
    pub fn new(root: Arc<D>, flags: MountFlags, source: Source) -> Self {
        MountSpec { root, flags, source, idmap: None }
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
        LIVE[cpu()].dropped.fetch_add(1, Ordering::Relaxed);
        // Relaxed: `&mut self`.
        if self.state.load(Ordering::Relaxed) == state::NEW {
            self.bury();
        }
    }
}

/// A reference to a mount that keeps it busy: of an open file, a path that outlives its walk.
///
/// Dropping it may be what ends a lazily detached mount, file system shutdown included: drop it where you may block,
/// with no lock of this crate held.
pub struct MountRef<D: Dentry>(NonNull<Mount<D>>);

// SAFETY: a `MountRef` gives `&Mount`, and Mount is Sync; its count may be put from any thread.
unsafe impl<D: Dentry> Send for MountRef<D> {}
// SAFETY: as above.
unsafe impl<D: Dentry> Sync for MountRef<D> {}

impl<D: Dentry> core::ops::Deref for MountRef<D> {
    type Target = Mount<D>;

    fn deref(&self) -> &Mount<D> {
        // SAFETY: a counted mount is not DEAD, so its owner's count is still there [Busy].
        unsafe { self.0.as_ref() }
    }
}

impl<D: Dentry> MountRef<D> {
    /// The owner's handle; see [`Mount::to_arc`].
    pub fn to_arc(&self) -> Arc<Mount<D>> {
        // SAFETY: as in `deref`; the owner's count is not zero while this reference counts.
        unsafe {
            Arc::increment_strong_count(self.this);
            Arc::from_raw(self.this)
        }
    }

    /// Takes over a count that somebody else forgot.
    ///
    /// # Safety
    /// `mount` was kept, and that count was neither ended nor taken over since.
    pub(crate) unsafe fn from_counted(mount: NonNull<Mount<D>>) -> Self {
        MountRef(mount)
    }
}

impl<D: Dentry> Clone for MountRef<D> {
    fn clone(&self) -> Self {
        self.refs.get();
        MountRef(self.0)
    }
}

impl<D: Dentry> Drop for MountRef<D> {
    fn drop(&mut self) {
        // The put may set the mount free for its end; the pin keeps it for the look at its state.
        let guard = pin();
        // SAFETY: alive until the put; from there on the pin, which is older, holds it.
        let detached = unsafe { self.0.as_ref() }.put(&guard);
        drop(guard);
        Unkept(detached).settle();
    }
}

/// What is left to do after a reference ended: a detached mount may have lost its last one.
#[must_use = "a detached mount that nobody settles leaks"]
pub struct Unkept<D: Dentry>(pub(crate) Option<Arc<Mount<D>>>);

impl<D: Dentry> Unkept<D> {
    /// Buries the mount if that was its last reference.
    ///
    /// Context: not pinned; no lock of this crate held; may shut a superblock down, so may block.
    pub fn settle(self) {
        if let Some(mount) = self.0 {
            mount.settle();
        }
    }
}

/// Why a place on a mount was not counted.
pub(crate) enum NotKept<D: Dentry> {
    /// An umount is deciding or has decided.
    Unkept(Unkept<D>),
    /// `ENOMEM`.
    NoMemory,
}

impl<D: Dentry> From<Unkept<D>> for NotKept<D> {
    fn from(unkept: Unkept<D>) -> Self {
        NotKept::Unkept(unkept)
    }
}

impl<D: Dentry> From<NoMemory> for NotKept<D> {
    fn from(NoMemory: NoMemory) -> Self {
        NotKept::NoMemory
    }
}

/// Where processes stand that have a mount's root as root or working directory.
///
/// `pivot_root` moves all of them, in the whole system, from the old root to the new one: it changes the anchor's
/// target, so it touches no process and looks for none. One walk sees root, working directory and tree change
/// together, because the target changes inside the namespace's window.
///
/// An anchor belongs to the list of its target ([`Mount::slow`]); its users count as the target's.
pub struct Anchor<D: Dentry> {
    target: AtomicPtr<Mount<D>>,
    users: Counter,
}

impl<D: Dentry> Anchor<D> {
    /// A use of `mount`'s anchor, for a place on its root.
    ///
    /// Context: pinned; takes a leaf lock.
    ///
    /// # Errors
    /// As [`Mount::keep`]; also without memory for a first anchor.
    pub(crate) fn keep(mount: &Mount<D>, guard: &Guard) -> Result<Arc<Anchor<D>>, NotKept<D>> {
        let anchor = {
            let mut anchors = mount.slow.lock();
            let anchor = match anchors.first() {
                Some(anchor) => Arc::clone(anchor),
                None => {
                    anchors.make_room(1)?;
                    let target = AtomicPtr::new(ptr::from_ref(mount).cast_mut());
                    let anchor = memory::arc(Anchor { target, users: Counter::new() })?;
                    anchors.push(Arc::clone(&anchor));
                    anchor
                }
            };
            // Under the lock: an anchor whose sum is zero there has no user on the way.
            if !planted("anchor_get_unlocked") {
                anchor.users.get();
            }
            anchor
        };
        if planted("anchor_get_unlocked") {
            anchor.users.get();
        }
        // [Busy]: as in `Mount::keep`, with the lock in the place of the fences: whoever sums takes it after CHECK. So
        // either the sum has this use, or CHECK is seen here.
        if anchor.target(guard).is_sound() || planted("anchor_without_state") {
            return Ok(anchor);
        }
        Err(anchor.put(guard).into())
    }

    /// One user less; the caller settles after its pin.
    pub(crate) fn put(&self, guard: &Guard) -> Unkept<D> {
        let before = self.target(guard);
        before.note_use();
        self.users.put();
        if !planted("anchor_put_without_fence") {
            // [Put]: pairs with the fence in `settle`.
            fence(Ordering::SeqCst);
        }
        // A pivot may have moved the anchor meanwhile. It holds neither of the two mounts detached when it does, so
        // only the later target can need settling; the earlier one is looked at because a look costs nothing.
        let now = self.target(guard);
        Unkept([now, before].into_iter().find(|mount| mount.is_detached()).map(|mount| mount.to_arc(guard)))
    }

    /// The mount on whose root the users stand.
    ///
    /// Context: pinned, with a use or with a place that was current during the pin.
    #[inline]
    pub(crate) fn target<'g>(&self, _guard: &'g Guard) -> &'g Mount<D> {
        // Acquire [Anchor]: pairs with the Release in `move_all`.
        // SAFETY: never null; users keep the target from dying, and a target that died without users is retired
        // after the last place that led here was replaced [Reach].
        unsafe { &*self.target.load(Ordering::Acquire) }
    }

    /// Room for [`Anchor::move_all`].
    ///
    /// Context: holds the namespace's lock of both, so nothing moves; anchors can still be made, at most one.
    pub(crate) fn reserve_move(old: &Mount<D>, new: &Mount<D>) -> Result<(), NoMemory> {
        let count = old.slow.lock().len() + 1;
        new.slow.lock().try_reserve(count).map_err(|_| NoMemory)
    }

    /// Everybody on `old`'s root stands on `new`'s from here on.
    ///
    /// Context: inside the window of the namespace of both; [`Anchor::reserve_move`] made room.
    pub(crate) fn move_all(old: &Mount<D>, new: &Mount<D>) {
        // Two locks of a kind: by age, as everybody who takes two.
        let (mut first, mut second) = if old.unique_id < new.unique_id {
            let first = old.slow.lock();
            (first, new.slow.lock())
        } else {
            let second = new.slow.lock();
            (old.slow.lock(), second)
        };
        // Anchors without users go, so that pivoting to and fro does not collect them. Users come only under this
        // lock or from a user, so a sum of zero is final.
        second.retain(|anchor| anchor.users.sum() != 0);
        for anchor in first.drain(..) {
            if anchor.users.sum() != 0 {
                // Release [Anchor]: pairs with the Acquire in `target`.
                anchor
                    .target
                    .store(ptr::from_ref(new).cast_mut(), order(Ordering::Release, "anchor_relaxed"));
                second.push(anchor);
            }
        }
    }
}

/// Turns the tree's count of a mount into the one that a detached mount holds on itself until it settles.
pub(crate) fn detached_into_raw<D: Dentry>(life: Arc<Mount<D>>) {
    let _counted_until_settled = Arc::into_raw(life);
}
