//! Changes of every kind, each undone by whoever made it.
//!
//! Writers work in the cells of an arena ([`crate::arena`]), over paths of the input, in copies of namespaces, and in
//! the namespaces that are there to be pivoted in. What others do at the same time can make any step fail; then the
//! writer goes on with undoing. What it cannot undo, because its mount was taken along by somebody else's umount, is
//! gone; what is left at the end, the job removes.

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
use crate::lookups::Covers;
use crate::world::{FOREIGN_DEV, World};

/// The one type of file system.
const TMPFS: &[u8] = b"tmpfs";

/// Tries of an umount before it is made a lazy one.
const UMOUNT_TRIES: u32 = 20;

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
        let options = Options { dev, fs_type: TMPFS, source: b"none", read_only };
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
                    if which < 6 && self.new_mount(task, &at) {
                        self.umount(task, &at);
                    }
                    self.umount(task, &at);
                }
            }
            30..40 => {
                let at = format!("{cell}/b");
                let source = self.source(place, pick);
                if self.bind(task, &source, &at, false) {
                    self.umount(task, &at);
                }
            }
            40..52 => self.moves(task, place, claimed, pick),
            52..64 => return self.peers(task, place, claimed),
            64..72 => self.private_copy(task, pick),
            72..76 => self.cover(task, place, pick),
            76..82 => return self.remove(task, place, claimed),
            _ => self.pivot(pick)?,
        }
        Ok(())
    }

    /// A mountpoint of the input.
    fn source(&self, place: usize, pick: usize) -> alloc::vec::Vec<u8> {
        let visible = &self.world.places[place].visible;
        visible.get(pick % visible.len().max(1)).map_or_else(|| b"/".to_vec(), |(path, _)| path.clone())
    }

    /// In a cell that is a private mount of its own: a mount that goes to and fro, and a recursive bind.
    fn moves(&mut self, task: &Task<TmpDentry>, place: usize, claimed: usize, pick: usize) {
        let Some(claim) = self.arenas.of(place).claim(claimed) else { return };
        let cell = claim.path.clone();
        if !self.bind(task, cell.as_bytes(), &cell, false) {
            return;
        }
        self.set_type(task, &cell, abi::MS_PRIVATE);
        let (x, y) = (format!("{cell}/x"), format!("{cell}/y"));
        if self.new_mount(task, &x) {
            for (from, to) in [(&x, &y), (&y, &x), (&x, &y)] {
                let moved = self.call(task, Some(from.as_bytes()), to, abi::MS_MOVE);
                self.done.moves += u64::from(moved);
            }
            self.umount(task, &y);
        }
        let b = format!("{cell}/b");
        let source = self.source(place, pick);
        if source != b"/" && self.bind(task, &source, &b, true) {
            // So that taking it away does not take the originals' submounts away.
            self.set_type(task, &b, abi::MS_PRIVATE | abi::MS_REC);
            self.detach(task, &b);
        }
        self.detach(task, &cell);
    }

    /// Two peers and a slave: what is mounted in one shows in the others, and goes with it.
    fn peers(&mut self, task: &Task<TmpDentry>, place: usize, claimed: usize) -> Result<(), String> {
        let Some(claim) = self.arenas.of(place).claim(claimed) else { return Ok(()) };
        let cell = claim.path.clone();
        let (t, u, p) = (format!("{cell}/t"), format!("{cell}/u"), format!("{cell}/p"));
        let mut result = Ok(());
        if !self.bind(task, cell.as_bytes(), &cell, false) {
            return result;
        }
        self.set_type(task, &cell, abi::MS_PRIVATE);
        if self.new_mount(task, &t) && self.set_type(task, &t, abi::MS_SHARED) {
            let peer = self.bind(task, t.as_bytes(), &u, false);
            let slave = self.bind(task, t.as_bytes(), &p, false) && self.set_type(task, &p, abi::MS_SLAVE);
            if peer && slave && self.new_mount(task, &format!("{t}/i")) {
                let at = |base: &str| root_dev(task, &format!("{base}/i"));
                let (here, there, down) = (at(&t), at(&u), at(&p));
                if here.is_none() || here != there || here != down {
                    result = Err(format!("{cell}: t/i is {here:?}, its peer {there:?}, its slave {down:?}"));
                }
                self.umount(task, &format!("{u}/i"));
                let left = at(&p);
                if result.is_ok() && left == here {
                    result =
                        Err(format!("{cell}: p/i is still {left:?} after the umount of its master's peer"));
                }
            }
            if slave {
                self.detach(task, &p);
            }
            if peer {
                self.detach(task, &u);
            }
            self.detach(task, &t);
        }
        self.detach(task, &cell);
        result
    }

    /// A copy of the namespace: made private, pivoted into a new root, left.
    fn private_copy(&mut self, task: &Task<TmpDentry>, pick: usize) {
        let Some(copy) = task.fork().ok().filter(|copy| copy.unshare_mounts().is_ok()) else {
            self.done.failed += 1;
            return;
        };
        self.done.namespace_clones += 1;
        self.set_type(&copy, "/", abi::MS_PRIVATE | abi::MS_REC);
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
        // Namespaces that were copied from this one meanwhile may have the mount still; they let go of it.
        match claim.directory.rmdir(b"r", &task.namespace()) {
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
        let at = String::from_utf8_lossy(&self.source(place, pick)).into_owned();
        if at == "/" {
            return;
        }
        self.covers.begin();
        if self.new_mount(task, &at) {
            self.umount(task, &at);
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

    /// Umounts, lazily if readers keep it busy for long.
    fn umount(&mut self, task: &Task<TmpDentry>, target: &str) {
        for _ in 0..UMOUNT_TRIES {
            match umount2(task, target.as_bytes(), 0) {
                Ok(_) => {
                    self.done.umounts += 1;
                    return;
                }
                Err(Errno::EBUSY) => {}
                // Somebody else's umount took it along.
                Err(_) => {
                    self.done.failed += 1;
                    return;
                }
            }
        }
        self.detach(task, target);
    }

    fn detach(&mut self, task: &Task<TmpDentry>, target: &str) {
        match umount2(task, target.as_bytes(), abi::MNT_DETACH) {
            Ok(_) => self.done.lazy_umounts += 1,
            Err(_) => self.done.failed += 1,
        }
    }
}

/// The file system that a path leads to, if it is one of the job's.
fn root_dev(task: &Task<TmpDentry>, path: &str) -> Option<u32> {
    let dev = walk_with(&task.fs(), path.as_bytes(), Last::Follow, |found| Ok(found.dentry.id().0));
    dev.ok().filter(|dev| *dev >= FOREIGN_DEV)
}
