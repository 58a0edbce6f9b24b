//! Models of roots and working directories: places that pivot_root moves, beside walks, chdir and umount.

use std::sync::Arc;

use loom::thread;
use mnt_table::place::FsStruct;
use mnt_table::platform::set_cpu;
use mnt_table::tree::Leave;
use mnt_table::walk::{Last, walk};
use mnt_table::{MntNamespace, Mount, WriteSet, pin};

use crate::harness::{Layer, Model, model};
use crate::umount::umount;
use crate::world::{self, FileSystem, Name, dissolve, mount, namespace, task, walk_label};

/// All of them, cheapest first.
pub fn models() -> Vec<Model> {
    let mut models =
        vec![chdir_vs_walk(), chdir_vs_detach(), fork_vs_umount(), fork_vs_pivot(), chdir_vs_pivot()];
    models.extend(walk_vs_pivot());
    models.push(chdir_by_path_vs_pivot());
    models
}

/// What pivot_root(2) needs: the old root on the root of the very first file system, the new one on the old one's `x`.
struct Tree {
    file_systems: [FileSystem; 3],
    ns: Arc<MntNamespace<Name>>,
    root: Arc<Mount<Name>>,
    old: Arc<Mount<Name>>,
    new: Arc<Mount<Name>>,
}

impl Tree {
    fn new() -> Self {
        let file_systems = [
            FileSystem::new("r", []),
            FileSystem::new("old", ["x", "y"]),
            FileSystem::new("new", ["x", "y"]),
        ];
        let (ns, root) = namespace(&file_systems[0]);
        let old = mount(&ns, file_systems[1].root(), &root, file_systems[0].root());
        let new = mount(&ns, file_systems[2].root(), &old, file_systems[1].name(0));
        Tree { file_systems, ns, root, old, new }
    }

    /// What a thread does that pivots: `new` becomes the root, `old` goes to its `y`.
    fn pivot(&self) -> impl FnOnce() + Send + use<> {
        let (ns, old, new) = (Arc::clone(&self.ns), Arc::clone(&self.old), Arc::clone(&self.new));
        let put_old = (Arc::clone(&new), Arc::clone(self.file_systems[2].name(1)));
        move || {
            let mut locks = WriteSet::one(&ns);
            let old = (Arc::clone(&old), Arc::clone(old.root()));
            let new = (Arc::clone(&new), Arc::clone(new.root()));
            propagate::pivot_root::pivot_root(&mut locks, &ns, &old, &new, &put_old).expect("it fits");
        }
    }

    fn end(self) {
        let Tree { file_systems, ns, root, old, new } = self;
        drop((root, old, new));
        dissolve([ns]);
        world::end(file_systems.each_ref());
    }
}

/// Where a task stands, and that the mount is not dead.
fn cwd(task: &FsStruct<Name>) -> String {
    let (mount, dentry) = task.cwd();
    mount.super_block().touch();
    dentry.label().to_owned()
}

/// A walk from a working directory that is being changed.
fn chdir_vs_walk() -> Model {
    model(Layer::Structure, "chdir_vs_walk")
        .expect_outcomes(["r:a/n", "ENOENT"])
        .planted(["cell_load_relaxed", "cell_swap_relaxed"])
        .run(|| {
            let r = FileSystem::new("r", ["a", "b", "a/n"]);
            let (ns, root) = namespace(&r);
            let task = Arc::new(task(&root));
            task.set_cwd(&world::path(&root, r.name(1))).expect("no umount");
            let writer = thread::spawn({
                let task = Arc::clone(&task);
                let to = world::path(&root, r.name(0));
                move || task.set_cwd(&to).expect("no umount")
            });
            let seen = walk_label(&task, "n");
            writer.join().unwrap();
            drop((task, root));
            dissolve([ns]);
            world::end([&r]);
            seen
        })
}

/// A task that leaves a mount, which then is umounted, is copied meanwhile: the copy keeps the mount busy, or stands where
/// the task went.
fn fork_vs_umount() -> Model {
    model(Layer::Structure, "fork_vs_umount")
        .bound(3)
        .expect_outcomes(["m:, busy", "r:, busy", "r:, umounted"])
        .planted(["anchor_get_unlocked", "anchor_without_state", "anchors_not_summed"])
        .run(|| {
            let [r, m] = [FileSystem::new("r", ["a"]), FileSystem::new("m", [])];
            let (ns, root) = namespace(&r);
            let goes = mount(&ns, m.root(), &root, r.name(0));
            let task = Arc::new(task(&root));
            task.set_cwd(&world::path(&goes, m.root())).expect("no umount");
            let forker = thread::spawn({
                let task = Arc::clone(&task);
                move || {
                    set_cpu(1);
                    task.fork().unwrap()
                }
            });
            task.set_cwd(&world::path(&root, r.root())).expect("no umount of that");
            let umounted = umount(&ns, &goes);
            let copy = forker.join().unwrap();
            let stands = cwd(&copy);
            drop((task, copy, root, goes));
            dissolve([ns]);
            world::end([&r, &m]);
            format!("{stands}, {umounted}")
        })
}

/// The last task on a mount leaves it while it is detached: it is buried once, by whoever comes last.
fn chdir_vs_detach() -> Model {
    model(Layer::Structure, "chdir_vs_detach")
        .expect_outcomes(["buried"])
        .planted(["anchor_put_without_fence", "settle_without_fence", "put_relaxed"])
        .run(|| {
            let [r, m] = [FileSystem::new("r", ["a"]), FileSystem::new("m", [])];
            let (ns, root) = namespace(&r);
            let goes = mount(&ns, m.root(), &root, r.name(0));
            let task = task(&root);
            task.set_cwd(&world::path(&goes, m.root())).expect("no umount");
            let to = world::path(&root, r.root());
            let goer = thread::spawn(move || {
                set_cpu(1);
                assert_eq!(cwd(&task), "m:");
                task.set_cwd(&to).expect("no umount of that");
                task
            });
            {
                let mut locks = WriteSet::one(&ns);
                locks.leave(&goes, Leave::Detached, &pin());
            }
            let task = goer.join().unwrap();
            assert_eq!(m.instance().shutdowns(), 1, "nobody buried it");
            drop((task, root, goes));
            dissolve([ns]);
            world::end([&r, &m]);
            "buried".to_owned()
        })
}

/// A walk from the root beside a pivot. Before, `x` is covered by the new root and `y` is a name; after, it is the other
/// way round, in the new root.
fn walk_vs_pivot() -> [Model; 2] {
    let down = model(Layer::Structure, "walk_vs_pivot").expect_outcomes(["new:", "new:x"]).planted([
        "anchors_outside_window",
        "resolve_once",
        "no_validation",
        "no_window",
    ]);
    let back = model(Layer::Structure, "walk_vs_pivot_back")
        .expect_outcomes(["old:y", "old:"])
        .planted(["anchor_relaxed"]);
    [(down, "/x"), (back, "/y")].map(|(model, path)| {
        model.bound(3).run(move || {
            let tree = Tree::new();
            let task = Arc::new(task(&tree.old));
            let pivot = thread::spawn(tree.pivot());
            let seen = walk_label(&task, path);
            pivot.join().unwrap();
            assert_eq!(cwd(&task), "new:");
            drop(task);
            tree.end();
            seen
        })
    })
}

/// A task on the old root is copied beside a pivot: the copy stands on the new root in the end, as the task does.
fn fork_vs_pivot() -> Model {
    model(Layer::Structure, "fork_vs_pivot")
        .bound(2)
        .expect_outcomes(["new:"])
        .planted(["fork_without_second_look"])
        .run(|| {
            let tree = Tree::new();
            let task = Arc::new(task(&tree.old));
            let pivot = thread::spawn(tree.pivot());
            let copy = task.fork().unwrap();
            pivot.join().unwrap();
            let stands = cwd(&copy);
            drop((task, copy));
            tree.end();
            stands
        })
}

/// A task goes to the old root beside a pivot, after which the old root is umounted: unless the task is there. The task
/// stays where it was if it meets the umount.
fn chdir_vs_pivot() -> Model {
    model(Layer::Structure, "chdir_vs_pivot")
        .bound(2)
        .expect_outcomes(["r:, busy", "r:, umounted", "old:, busy", "new:, busy", "new:, umounted"])
        .planted(["anchor_get_unlocked", "anchors_not_summed"])
        .run(|| {
            let tree = Tree::new();
            let task = Arc::new(task(&tree.root));
            drop(world::task(&tree.old)); // Leaves an anchor without users.
            let to = world::path(&tree.old, tree.old.root());
            let goer = thread::spawn({
                let task = Arc::clone(&task);
                move || {
                    set_cpu(1);
                    let _stale = task.set_cwd(&to);
                }
            });
            tree.pivot()();
            let umounted = umount(&tree.ns, &tree.old);
            goer.join().unwrap();
            let stands = cwd(&task);
            drop(task);
            tree.end();
            format!("{stands}, {umounted}")
        })
}

/// A task goes to its root by a path, beside a pivot: it stands on the new root in the end, whichever came first.
fn chdir_by_path_vs_pivot() -> Model {
    model(Layer::Structure, "chdir_by_path_vs_pivot")
        .bound(3)
        .expect_outcomes(["new:"])
        .planted(["pivots_not_compared", "pivots_relaxed", "pivots_load_relaxed"])
        .run(|| {
            let tree = Tree::new();
            let task = Arc::new(task(&tree.old));
            let pivot = thread::spawn(tree.pivot());
            loop {
                let pivots = tree.ns.pivots();
                let to = walk(&task, b"/", Last::Follow).expect("there is a root");
                if task.set_cwd_while(&to, || tree.ns.pivots() == pivots).is_ok() {
                    break;
                }
                thread::yield_now();
            }
            pivot.join().unwrap();
            let stands = cwd(&task);
            drop(task);
            tree.end();
            stands
        })
}
