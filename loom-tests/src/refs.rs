//! Models of references: against the decision that a mount is idle, and as the last thing that keeps a detached one.

use std::sync::Arc;

use loom::thread;
use mnt_table::platform::set_cpu;
use mnt_table::tree::Leave;
use mnt_table::{MntNamespace, Mount, MountRef, WriteSet, pin};

use crate::harness::{Layer, Model, model};
use crate::world::{self, FileSystem, Name, dissolve, mount, namespace};

/// All of them, cheapest first.
pub fn models() -> Vec<Model> {
    vec![ref_vs_busy(), ref_vs_busy_handover(), ref_vs_busy_spill(), last_put_vs_detach(), undo_vs_detach()]
}

/// A mount of `m` on `r`'s only name.
struct Tree {
    r: FileSystem,
    m: FileSystem,
    ns: Arc<MntNamespace<Name>>,
    mount: Arc<Mount<Name>>,
}

impl Tree {
    fn new() -> Self {
        let [r, m] = [FileSystem::new("r", ["a"]), FileSystem::new("m", [])];
        let (ns, root) = namespace(&r);
        let mount = mount(&ns, m.root(), &root, r.name(0));
        Tree { r, m, ns, mount }
    }

    /// Plain umount: shuts the file system down, or says that it is busy.
    fn umount(&self) -> &'static str {
        let mut locks = WriteSet::one(&self.ns);
        if !locks.condemn_if_idle(&[Arc::clone(&self.mount)]) {
            return "busy";
        }
        locks.leave(&self.mount, Leave::Dead, &pin());
        drop(locks);
        assert_eq!(self.m.instance().shutdowns(), 1, "a plain umount returns after the shutdown");
        "umounted"
    }

    /// Lazy umount, by somebody who uses the mount without a reference as long as it is in the tree.
    fn detach(&self) {
        let mut locks = WriteSet::one(&self.ns);
        self.mount.super_block().touch();
        locks.leave(&self.mount, Leave::Detached, &pin());
    }

    fn end(self) {
        let Tree { r, m, ns, mount } = self;
        drop(mount);
        dissolve([ns]);
        world::end([&r, &m]);
    }
}

/// Uses the file system under a reference.
fn touch(kept: &MountRef<Name>) {
    kept.super_block().touch();
}

/// A reader keeps the mount, uses it and lets it go, on its own CPU, while another one umounts it.
fn ref_vs_busy() -> Model {
    model(Layer::Structure, "ref_vs_busy")
        .expect_outcomes(["kept, busy", "kept, umounted", "gone, busy", "gone, umounted"])
        .planted(["keep_without_fence", "busy_without_fence", "keep_without_state", "put_relaxed"])
        .run(|| {
            let tree = Tree::new();
            let reader = thread::spawn({
                let mount = Arc::clone(&tree.mount);
                move || {
                    set_cpu(1);
                    match mount.keep(&pin()) {
                        Ok(kept) => {
                            touch(&kept);
                            "kept"
                        }
                        Err(unkept) => {
                            unkept.settle();
                            "gone"
                        }
                    }
                }
            });
            let umounted = tree.umount();
            let kept = reader.join().unwrap();
            tree.end();
            format!("{kept}, {umounted}")
        })
}

/// A reference is handed on, so that there is one at every moment, while its holder changes the CPU.
fn ref_vs_busy_handover() -> Model {
    model(Layer::Structure, "ref_vs_busy_handover")
        .expect_outcomes(["busy", "umounted"])
        .planted(["gets_before_puts", "put_relaxed"])
        .run(|| {
            let tree = Tree::new();
            // The main thread's changes of CPU split the count.
            let first = world::path(&tree.mount, tree.m.root()).mount;
            set_cpu(1);
            let second = first.clone();
            set_cpu(2);
            let third = second.clone();
            drop((first, second));
            set_cpu(0);
            let holder = thread::spawn(move || {
                set_cpu(1);
                let fourth = third.clone();
                set_cpu(2);
                drop(third);
                touch(&fourth);
            });
            let umounted = tree.umount();
            holder.join().unwrap();
            tree.end();
            umounted.to_owned()
        })
}

/// The array with a pair per CPU appears while the umounter sums: the reader counts its second reference there.
fn ref_vs_busy_spill() -> Model {
    model(Layer::Structure, "ref_vs_busy_spill")
        .bound(3)
        .expect_outcomes(["kept, busy", "kept, umounted", "gone, busy", "gone, umounted"])
        .planted(["keep_without_fence", "busy_without_fence", "slots_relaxed", "sum_without_slots"])
        .run(|| {
            let tree = Tree::new();
            // The next change of CPU but one splits the count.
            let reader = thread::spawn({
                let mount = Arc::clone(&tree.mount);
                move || {
                    set_cpu(1);
                    let first = mount.keep(&pin());
                    set_cpu(2);
                    let second = mount.keep(&pin());
                    match first {
                        Ok(first) => drop(first),
                        Err(unkept) => unkept.settle(),
                    }
                    match second {
                        Ok(second) => {
                            touch(&second);
                            "kept"
                        }
                        Err(unkept) => {
                            unkept.settle();
                            "gone"
                        }
                    }
                }
            });
            let umounted = tree.umount();
            let kept = reader.join().unwrap();
            tree.end();
            format!("{kept}, {umounted}")
        })
}

/// The last two references to a mount are put while it is detached: it is buried once, by whoever comes last.
fn last_put_vs_detach() -> Model {
    model(Layer::Structure, "last_put_vs_detach")
        .bound(2)
        .expect_outcomes(["buried"])
        .planted(["put_without_fence", "settle_without_fence", "put_relaxed", "detached_relaxed"])
        .run(|| {
            let tree = Tree::new();
            let first = world::path(&tree.mount, tree.m.root()).mount;
            let second = first.clone();
            let put = |kept: MountRef<Name>, cpu| {
                thread::spawn(move || {
                    set_cpu(cpu);
                    touch(&kept);
                })
            };
            let holders = [put(first, 1), put(second, 2)];
            tree.detach();
            for holder in holders {
                holder.join().unwrap();
            }
            assert_eq!(tree.m.instance().shutdowns(), 1, "nobody buried it");
            tree.end();
            "buried".to_owned()
        })
}

/// A reader that cannot keep a mount, because it is being decided about, may by its short count be what keeps it.
fn undo_vs_detach() -> Model {
    model(Layer::Structure, "undo_vs_detach")
        .expect_outcomes(["kept", "gone"])
        .planted(["undo_forgets_settle", "keep_without_state", "keep_without_fence"])
        .run(|| {
            let tree = Tree::new();
            let reader = thread::spawn({
                let mount = Arc::clone(&tree.mount);
                move || {
                    set_cpu(1);
                    match mount.keep(&pin()) {
                        Ok(kept) => {
                            touch(&kept);
                            "kept"
                        }
                        Err(unkept) => {
                            unkept.settle();
                            "gone"
                        }
                    }
                }
            });
            tree.detach();
            let kept = reader.join().unwrap();
            assert_eq!(tree.m.instance().shutdowns(), 1, "nobody buried it");
            tree.end();
            kept.to_owned()
        })
}
