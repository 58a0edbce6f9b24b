//! Changes of every kind, each undone by whoever made it.
//!
//! Writers work in the cells of an arena ([`crate::arena`]), over paths of the input, in copies of namespaces, and in
//! the namespaces that are there to be pivoted in. What others do at the same time can make any step fail; then the
//! writer goes on with undoing. What it cannot undo, because its mount was taken along by somebody else's umount, is
//! gone; what is left at the end, the job removes.
//!
//! An umount takes whatever is on top of a path, and its counterparts in all peers with it. So that everybody undoes
//! what is the job's and nothing of the input, and readers know what a path of the input may lead to:
//! - Whatever becomes a peer of a mount of the input (a bind of a mountpoint, recursive or not) is made in a private cell,
//!   where nobody mounts on it: on every peer, the original included, that would show. What covers the original
//!   meanwhile comes to it too; so nothing is taken from it before it, with all that is on it, is nobody's peer.
//! - Binds in open cells, which others bind over and which are propagated, show directories of the job.
//! - A cover is taken away from the directory that it was made from: another one may have covered that directory's path.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, Ordering};

use linux_raw_sys::general as abi;
use mnt_table::Dentry;
use mnt_table::dentry::SuperBlockRef;
use mnt_table::walk::{Last, walk_with};
use rand::Rng;
use rand::rngs::SmallRng;
use syscalls::context::Log;
use syscalls::entry::detach_elsewhere;
use syscalls::file_system::{Configure, FileSystemType, Purpose, Request, SuperFlags};
use syscalls::mount::mount;
use syscalls::pivot_root::pivot_root;
use syscalls::umount::umount2;
use syscalls::{Errno, FileSystems, Task};
use tmpfs::{FsError, Options, Removed, TmpDentry, TmpSuperBlock};

use crate::arena::{Arenas, CLAIMED_CELLS, OPEN_CELLS, cell_path};
use crate::env::Env;
use crate::lookups::Covers;
use crate::world::{FOREIGN_DEV, World};

/// The one type of file system.
const TMPFS: &[u8] = b"tmpfs";

/// Tries of an umount before it is made a lazy one.
const UMOUNT_TRIES: u32 = 20;

/// Tries of what has to be done before a writer can go on, each after others had the CPU.
const PATIENCE: u32 = 10_000;

/// Binds on one place that one writer takes away, if others leave theirs.
const STACK_MAX: u32 = 8;

/// One in so many operations lets others see what it did before it undoes that.
const GIVES_WAY: usize = 8;

/// What a writer did.
#[derive(Clone, Copy, Debug, Default)]
#[expect(missing_docs, reason = "the names are those of the result")]
pub struct Done {
    pub operations: u64,
    pub mounts: u64,
    pub umounts: u64,
    pub lazy_umounts: u64,
    pub binds: u64,
    pub rbinds: u64,
    pub moves: u64,
    pub type_changes: u64,
    pub pivots: u64,
    pub propagated_mounts: u64,
    pub namespace_clones: u64,
    pub removals: u64,
    pub failed: u64,
}

/// The file systems of one writer: a fresh instance for each mount, with the directories that readers look for.
pub struct Files(Arc<Fresh>);

struct Fresh {
    next: AtomicU32,
}

impl Files {
    /// Those of writer `index`, whose instances have numbers of their own.
    pub fn new(index: usize) -> Self {
        Files(Arc::new(Fresh { next: AtomicU32::new(FOREIGN_DEV + ((index as u32) << 20)) }))
    }
}

impl FileSystems<TmpDentry> for Files {
    fn file_system(&self, name: &[u8]) -> Option<Arc<dyn FileSystemType<TmpDentry>>> {
        (name == TMPFS).then(|| Arc::clone(&self.0) as Arc<dyn FileSystemType<TmpDentry>>)
    }

    fn type_of(&self, _root: &Arc<TmpDentry>) -> Arc<dyn FileSystemType<TmpDentry>> {
        Arc::clone(&self.0) as Arc<dyn FileSystemType<TmpDentry>>
    }

    fn super_flags(&self, root: &Arc<TmpDentry>) -> SuperFlags {
        if root.super_block().is_read_only() { SuperFlags::RDONLY } else { SuperFlags::empty() }
    }
}

impl FileSystemType<TmpDentry> for Fresh {
    fn name(&self) -> &[u8] {
        TMPFS
    }

    fn configure(
        self: Arc<Self>,
        _purpose: Purpose<'_, TmpDentry>,
    ) -> Result<Box<dyn Configure<TmpDentry>>, Errno> {
        Ok(Box::new(Files(self)))
    }
}

impl Configure<TmpDentry> for Files {
    fn get_tree(&mut self, request: &Request<'_>, _log: &mut Log) -> Result<SuperBlockRef<TmpDentry>, Errno> {
        // Relaxed: a number of this writer's own.
        let dev = self.0.next.fetch_add(1, Ordering::Relaxed);
        let read_only = request.flags.contains(SuperFlags::RDONLY);
        let options = Options { read_only, ..Options::new(dev, TMPFS) };
        let root = TmpSuperBlock::new(options).map_err(|_| Errno::ENOMEM)?;
        let root = SuperBlockRef::new(root);
        for name in ["over", "old", "i"] {
            root.root().mkdir(name.as_bytes()).map_err(|_| Errno::ENOMEM)?;
        }
        Ok(root)
    }

    fn reconfigure(&mut self, root: &Arc<TmpDentry>, flags: SuperFlags, _log: &mut Log) -> Result<(), Errno> {
        let done = root.super_block().set_read_only(flags.contains(SuperFlags::RDONLY));
        if done { Ok(()) } else { Err(Errno::EBUSY) }
    }
}

/// A writer.
pub struct Writer<'a> {
    /// The threads that it is one of.
    pub env: &'a dyn Env,
    /// All namespaces.
    pub world: &'a World,
    /// Where changes are made.
    pub arenas: &'a Arenas,
    /// When paths of the input are covered.
    pub covers: &'a Covers,
    /// Its file systems.
    pub files: Files,
    /// What it did.
    pub done: Done,
}

impl Writer<'_> {
    /// One operation in namespace `place`, by a task that stands at its root. What cannot be right is returned as a line.
    pub fn change(&mut self, task: &Task<TmpDentry>, place: usize, rng: &mut SmallRng) -> Result<(), String> {
        self.done.operations += 1;
        let cell = cell_path(rng.random_range(0..OPEN_CELLS));
        let claimed = rng.random_range(0..CLAIMED_CELLS);
        let which = rng.random_range(0..100);
        // Drawn for every operation, so that the sequence does not depend on what happens.
        let pick: usize = rng.random_range(0..1 << 20);
        match which {
            0..30 => {
                let at = format!("{cell}/p");
                if self.new_mount(task, &at) {
                    self.give_way(pick);
                    if which < 6 && self.new_mount(task, &at) {
                        self.give_way(pick);
                        self.umount(task, &at);
                    }
                    self.umount(task, &at);
                }
            }
            30..35 => self.bind_own(task, &cell, pick),
            35..40 => return self.bind_input(task, place, claimed, pick),
            40..52 => return self.moves(task, place, claimed, pick),
            52..64 => return self.peers(task, place, claimed, pick),
            64..72 => self.private_copy(task, pick),
            72..76 => self.cover(task, place, pick),
            76..82 => return self.remove(task, place, claimed),
            _ => self.pivot(pick)?,
        }
        Ok(())
    }

    /// Now and then, between what was done and what undoes it.
    fn give_way(&self, pick: usize) {
        if pick.is_multiple_of(GIVES_WAY) {
            self.env.give_way();
        }
    }

    /// A mountpoint of the input.
    fn source(&self, place: usize, pick: usize) -> alloc::vec::Vec<u8> {
        let visible = &self.world.places[place].visible;
        visible.get(pick % visible.len().max(1)).map_or_else(|| b"/".to_vec(), |(path, _)| path.clone())
    }

    /// A directory of one open cell bound in another, where others do the same: stacks of binds, each of which shows on
    /// every peer of what it is on.
    fn bind_own(&mut self, task: &Task<TmpDentry>, cell: &str, pick: usize) {
        let at = format!("{cell}/b");
        let name = if (pick / OPEN_CELLS).is_multiple_of(2) { "x" } else { "y" };
        let source = format!("{}/{name}", cell_path(pick % OPEN_CELLS));
        if !self.bind(task, source.as_bytes(), &at, false) {
            return;
        }
        self.give_way(pick);
        // Somebody who umounted here may have taken, instead of the own bind, what came to this place through a peer.
        for _ in 0..STACK_MAX {
            if !self.umount(task, &at) {
                break;
            }
        }
    }

    /// Does `work` in a cell that is a private mount of its own, of which nothing is left afterwards, here or elsewhere.
    fn in_private_cell(
        &mut self,
        task: &Task<TmpDentry>,
        place: usize,
        claimed: usize,
        work: impl FnOnce(&mut Self, &str) -> Result<(), String>,
    ) -> Result<(), String> {
        let Some(claim) = self.arenas.of(place).claim(claimed) else { return Ok(()) };
        let cell = &claim.path;
        if !self.bind(task, cell.as_bytes(), cell, false) {
            return Ok(());
        }
        if !self.set_type(task, cell, abi::MS_PRIVATE) {
            self.umount(task, cell);
            return Ok(());
        }
        let result = work(self, cell);
        self.detach(task, cell);
        result
    }

    /// Ends all propagation to and from the mount at `cell` and everything on it.
    fn sever(&mut self, task: &Task<TmpDentry>, cell: &str) -> Result<(), String> {
        for _ in 0..PATIENCE {
            if self.set_type(task, cell, abi::MS_PRIVATE | abi::MS_REC) {
                return Ok(());
            }
            // No memory before readers leave.
            self.env.give_way();
        }
        Err(format!("{cell}: cannot be made private"))
    }

    /// A mountpoint of the input, bound in a private cell.
    fn bind_input(
        &mut self,
        task: &Task<TmpDentry>,
        place: usize,
        claimed: usize,
        pick: usize,
    ) -> Result<(), String> {
        let source = self.source(place, pick);
        self.in_private_cell(task, place, claimed, |this, cell| {
            let b = format!("{cell}/b");
            if this.bind(task, &source, &b, false) {
                this.give_way(pick);
                this.sever(task, cell)?;
                this.umount(task, &b);
            }
            Ok(())
        })
    }

    /// In a private cell: a mount that goes to and fro, and a recursive bind.
    fn moves(
        &mut self,
        task: &Task<TmpDentry>,
        place: usize,
        claimed: usize,
        pick: usize,
    ) -> Result<(), String> {
        let source = self.source(place, pick);
        self.in_private_cell(task, place, claimed, |this, cell| {
            let (x, y, b) = (format!("{cell}/x"), format!("{cell}/y"), format!("{cell}/b"));
            if this.new_mount(task, &x) {
                for (from, to) in [(&x, &y), (&y, &x), (&x, &y)] {
                    let moved = this.call(task, Some(from.as_bytes()), to, abi::MS_MOVE);
                    this.done.moves += u64::from(moved);
                    this.give_way(pick);
                }
                this.umount(task, &y);
            }
            if source != b"/" && this.bind(task, &source, &b, true) {
                this.give_way(pick);
                this.sever(task, cell)?;
                this.detach(task, &b);
            }
            Ok(())
        })
    }

    /// Two peers and a slave: what is mounted in one shows in the others, and goes with it.
    fn peers(
        &mut self,
        task: &Task<TmpDentry>,
        place: usize,
        claimed: usize,
        pick: usize,
    ) -> Result<(), String> {
        self.in_private_cell(task, place, claimed, |this, cell| {
            let (t, u, p) = (format!("{cell}/t"), format!("{cell}/u"), format!("{cell}/p"));
            let mut result = Ok(());
            if this.new_mount(task, &t) && this.set_type(task, &t, abi::MS_SHARED) {
                let peer = this.bind(task, t.as_bytes(), &u, false);
                let slave =
                    this.bind(task, t.as_bytes(), &p, false) && this.set_type(task, &p, abi::MS_SLAVE);
                if peer && slave && this.new_mount(task, &format!("{t}/i")) {
                    let at = |base: &str| root_dev(task, &format!("{base}/i"));
                    let (here, there, down) = (at(&t), at(&u), at(&p));
                    if here.is_none() || here != there || here != down {
                        result =
                            Err(format!("{cell}: t/i is {here:?}, its peer {there:?}, its slave {down:?}"));
                    }
                    this.give_way(pick);
                    this.umount(task, &format!("{u}/i"));
                    let left = at(&p);
                    if result.is_ok() && left == here {
                        result = Err(format!(
                            "{cell}: p/i is still {left:?} after the umount of its master's peer"
                        ));
                    }
                }
                if slave {
                    this.detach(task, &p);
                }
                if peer {
                    this.detach(task, &u);
                }
                this.detach(task, &t);
            }
            result
        })
    }

    /// A copy of the namespace: made private, pivoted into a new root, left.
    fn private_copy(&mut self, task: &Task<TmpDentry>, pick: usize) {
        let Some(copy) = task.fork().ok().filter(|copy| copy.unshare_mounts().is_ok()) else {
            self.done.failed += 1;
            return;
        };
        self.done.namespace_clones += 1;
        if !self.set_type(&copy, "/", abi::MS_PRIVATE | abi::MS_REC) {
            return;
        }
        let root = format!("{}/p", cell_path(pick % OPEN_CELLS));
        if self.new_mount(&copy, &root) {
            // The root mount of a namespace without a hidden one cannot be pivoted away from: `EINVAL`.
            if pivot_root(&copy, root.as_bytes(), format!("{root}/old").as_bytes()).is_ok() {
                self.done.pivots += 1;
                self.detach(&copy, "/old");
            } else {
                self.done.failed += 1;
            }
        }
    }

    /// A directory that is removed under a mount: refused while its own namespace mounts there, and else the mounts of
    /// others go with it.
    fn remove(&mut self, task: &Task<TmpDentry>, place: usize, claimed: usize) -> Result<(), String> {
        let Some(claim) = self.arenas.of(place).claim(claimed) else { return Ok(()) };
        let at = format!("{}/r", claim.path);
        if claim.directory.mkdir(b"r").is_err() {
            self.done.failed += 1;
            return Ok(());
        }
        let mut result = Ok(());
        let Ok(copy) = task.fork() else {
            self.done.failed += 1;
            return result;
        };
        let copied =
            copy.unshare_mounts().is_ok() && self.set_type(&copy, "/", abi::MS_PRIVATE | abi::MS_REC);
        self.done.namespace_clones += u64::from(copied);
        let elsewhere = copied && self.new_mount(&copy, &at);
        if self.new_mount(task, &at) {
            if !matches!(claim.directory.rmdir(b"r", &task.namespace()), Err(FsError::Busy)) {
                result = Err(format!("{at}: removed, with a mount of its own namespace on it"));
            }
            self.umount(task, &at);
        }
        // A bind of the root in another cell, made private meanwhile, may show the mount still, until that writer is done.
        let mut removed = claim.directory.rmdir(b"r", &task.namespace());
        for _ in 0..PATIENCE {
            if !matches!(removed, Err(FsError::Busy)) {
                break;
            }
            self.env.give_way();
            removed = claim.directory.rmdir(b"r", &task.namespace());
        }
        // Namespaces that were copied from this one meanwhile may have the mount still; they let go of it.
        match removed {
            Ok(Removed { dentry, elsewhere: namespaces }) => {
                if detach_elsewhere(&dentry, &namespaces).is_err() {
                    self.done.failed += 1;
                } else if elsewhere && root_dev(&copy, &at).is_some() {
                    result = Err(format!("{at}: removed, and mounted on elsewhere"));
                }
                self.done.removals += 1;
            }
            // A propagated mount: the writer that made it, in another namespace with this root, takes it away.
            Err(error) => result = result.and(Err(format!("{at}: cannot be removed: {error:?}"))),
        }
        if copied && self.new_mount(&copy, &at) {
            result = Err(format!("{at}: mounted on after it was removed"));
        }
        result
    }

    /// A mount over a path of the input.
    fn cover(&mut self, task: &Task<TmpDentry>, place: usize, pick: usize) {
        let source = self.source(place, pick);
        let source = String::from_utf8_lossy(&source);
        let (directory, name) = source.rsplit_once('/').unwrap_or_default();
        if name.is_empty() {
            return;
        }
        self.covers.begin();
        let stands = task.chdir(if directory.is_empty() { b"/" } else { directory.as_bytes() }).is_ok();
        if stands && self.new_mount(task, name) {
            self.give_way(pick);
            self.umount(task, name);
        }
        self.covers.end();
    }

    fn pivot(&mut self, pick: usize) -> Result<(), String> {
        let Some(pivot) = self.arenas.pivots.get(pick % self.arenas.pivots.len().max(1)) else {
            return Ok(());
        };
        let result = pivot.turn(|new, old| {
            let result = pivot_root(&pivot.task, new.as_bytes(), old.as_bytes());
            (result, result.is_ok())
        });
        match result {
            Some(Ok(())) => self.done.pivots += 1,
            Some(Err(Errno::ENOMEM)) => self.done.failed += 1,
            Some(Err(error)) => return Err(format!("pivot_root among two roots of one's own: {error}")),
            None => {}
        }
        Ok(())
    }

    fn call(&mut self, task: &Task<TmpDentry>, source: Option<&[u8]>, target: &str, flags: u32) -> bool {
        match mount(task, &self.files, source, target.as_bytes(), Some(b"tmpfs"), flags, b"") {
            Ok(done) => {
                self.done.propagated_mounts += done.propagated as u64;
                true
            }
            Err(_) => {
                self.done.failed += 1;
                false
            }
        }
    }

    fn new_mount(&mut self, task: &Task<TmpDentry>, target: &str) -> bool {
        let made = self.call(task, None, target, 0);
        self.done.mounts += u64::from(made);
        made
    }

    fn bind(&mut self, task: &Task<TmpDentry>, source: &[u8], target: &str, recursive: bool) -> bool {
        let flags = if recursive { abi::MS_BIND | abi::MS_REC } else { abi::MS_BIND };
        let made = self.call(task, Some(source), target, flags);
        *(if recursive { &mut self.done.rbinds } else { &mut self.done.binds }) += u64::from(made);
        made
    }

    fn set_type(&mut self, task: &Task<TmpDentry>, target: &str, flags: u32) -> bool {
        let changed = self.call(task, None, target, flags);
        self.done.type_changes += u64::from(changed);
        changed
    }

    /// Umounts, lazily if readers keep it busy for long. Whether something went.
    fn umount(&mut self, task: &Task<TmpDentry>, target: &str) -> bool {
        for _ in 0..UMOUNT_TRIES {
            match umount2(task, target.as_bytes(), 0) {
                Ok(_) => {
                    self.done.umounts += 1;
                    return true;
                }
                Err(Errno::EBUSY) => {}
                // Somebody else's umount took it along.
                Err(_) => {
                    self.done.failed += 1;
                    return false;
                }
            }
        }
        self.detach(task, target)
    }

    fn detach(&mut self, task: &Task<TmpDentry>, target: &str) -> bool {
        let gone = umount2(task, target.as_bytes(), abi::MNT_DETACH).is_ok();
        *(if gone { &mut self.done.lazy_umounts } else { &mut self.done.failed }) += 1;
        gone
    }
}

/// The file system that a path leads to, if it is one of the job's.
fn root_dev(task: &Task<TmpDentry>, path: &str) -> Option<u32> {
    let dev = walk_with(&task.fs(), path.as_bytes(), Last::Follow, |found| Ok(found.dentry.id().0));
    dev.ok().filter(|dev| *dev >= FOREIGN_DEV)
}
