//! Models of a plain umount beside walks: the file system is shut down in the call, and nobody waits for readers.

use std::sync::Arc;

use loom::thread;
use mnt_table::tree::Leave;
use mnt_table::walk::{Last, walk};
use mnt_table::{MntNamespace, Mount, WriteSet, pin};

use crate::harness::{Layer, Model, Outcome, model};
use crate::world::{self, FileSystem, Name, dissolve, mount, namespace, task, walk_label};

/// All of them, cheapest first.
pub fn models() -> Vec<Model> {
    vec![umount_vs_walk(), umount_vs_kept_walk(), dotdot_vs_detach(), slide_down_vs_walk(), tuck_vs_dotdot()]
}

/// Umounts `goes`, on which nothing is mounted, as `propagate` does for a private mount.
pub fn umount(ns: &Arc<MntNamespace<Name>>, goes: &Arc<Mount<Name>>) -> &'static str {
    let mut locks = WriteSet::one(ns);
    match propagate::umount::umount(&mut locks, goes) {
        Ok(_) => "umounted",
        Err(propagate::Retry::Failed(propagate::Error::Busy)) => "busy",
        Err(_) => panic!("it needs no other lock"),
    }
}

/// Takes `goes`, on which nothing is mounted, away lazily, as `propagate` does for a private mount.
fn detach(ns: &Arc<MntNamespace<Name>>, goes: &Arc<Mount<Name>>) {
    let mut locks = WriteSet::one(ns);
    let gone = propagate::umount::detach(&mut locks, goes);
    assert!(gone.is_ok(), "it needs no other lock");
}

/// A file system that forgets its names in its shutdown covers a directory in which the same name exists. A walk finds
/// the name in one or in the other: it was never absent.
fn umount_vs_walk() -> Model {
    model(Layer::Structure, "umount_vs_walk")
        .expect_outcomes(["m:n", "r:a/n"])
        .planted(["no_state_test", "shutdown_seen_relaxed"])
        .run(|| {
            let [r, m] = [FileSystem::new("r", ["a", "a/n"]), FileSystem::forgetful("m", ["n"])];
            let (ns, root) = namespace(&r);
            let goes = mount(&ns, m.root(), &root, r.name(0));
            let task = Arc::new(task(&root));
            let writer = thread::spawn({
                let ns = Arc::clone(&ns);
                move || umount(&ns, &goes)
            });
            let seen = walk_label(&task, "/a/n");
            assert_eq!(writer.join().unwrap(), "umounted");
            drop((task, root));
            dissolve([ns]);
            world::end([&r, &m]);
            seen
        })
}

/// The same with a walk that keeps what it finds: then the umount is refused, or comes later, and the file system stays.
fn umount_vs_kept_walk() -> Model {
    model(Layer::Structure, "umount_vs_kept_walk")
        .bound(3)
        .expect_outcomes(["m:n, busy", "m:n, umounted", "r:a/n, umounted"])
        .planted(["no_state_test", "keep_without_fence", "busy_without_fence"])
        .run(|| {
            let [r, m] = [FileSystem::new("r", ["a", "a/n"]), FileSystem::forgetful("m", ["n"])];
            let (ns, root) = namespace(&r);
            let goes = mount(&ns, m.root(), &root, r.name(0));
            let task = Arc::new(task(&root));
            let writer = thread::spawn({
                let ns = Arc::clone(&ns);
                move || umount(&ns, &goes)
            });
            let seen: Outcome = match walk(&task, b"/a/n", Last::Follow) {
                Ok(kept) => {
                    kept.mount.super_block().touch();
                    kept.dentry.label().to_owned()
                }
                Err(error) => panic!("{error:?}"),
            };
            let umounted = writer.join().unwrap();
            drop((task, root));
            dissolve([ns]);
            world::end([&r, &m]);
            format!("{seen}, {umounted}")
        })
}

/// A mount is detached, by a change of one edge and without a window, while a walk climbs out of it: what is beside its
/// place is there before and after.
fn dotdot_vs_detach() -> Model {
    model(Layer::Structure, "dotdot_vs_detach")
        .expect_outcomes(["r:"])
        .planted(["top_of_any_tree", "top_relaxed"])
        .run(|| {
            let [r, m] = [FileSystem::new("r", ["a"]), FileSystem::new("m", [])];
            let (ns, root) = namespace(&r);
            let goes = mount(&ns, m.root(), &root, r.name(0));
            let task = Arc::new(task(&root));
            let writer = thread::spawn({
                let ns = Arc::clone(&ns);
                move || detach(&ns, &goes)
            });
            let seen = walk_label(&task, "/a/..");
            writer.join().unwrap();
            drop((task, root));
            dissolve([ns]);
            world::end([&r, &m]);
            seen
        })
}

/// A mount with another one on its root is detached, and the other slides down: what it covers never shows. (A plain
/// umount has its state to say so, too.)
fn slide_down_vs_walk() -> Model {
    model(Layer::Structure, "slide_down_vs_walk")
        .bound(3)
        .expect_outcomes(["top:"])
        .planted(["no_window", "no_validation"])
        .run(|| {
            let [r, m, top] =
                [FileSystem::new("r", ["a"]), FileSystem::new("m", []), FileSystem::new("top", [])];
            let (ns, root) = namespace(&r);
            let goes = mount(&ns, m.root(), &root, r.name(0));
            let upper = mount(&ns, top.root(), &goes, m.root());
            let task = Arc::new(task(&root));
            let writer = thread::spawn({
                let (ns, root) = (Arc::clone(&ns), Arc::clone(&root));
                let a = Arc::clone(r.name(0));
                move || {
                    let mut locks = WriteSet::one(&ns);
                    let joint = world::joint(&mut locks, &upper, &root, &a);
                    let guard = pin();
                    locks.begin(&ns, &guard);
                    locks.rehang(&upper, joint, &guard);
                    locks.leave(&goes, Leave::Detached, &guard);
                    locks.end();
                }
            });
            let seen = walk_label(&task, "/a");
            writer.join().unwrap();
            drop((task, root));
            dissolve([ns]);
            world::end([&r, &m, &top]);
            seen
        })
}

/// A mount is tucked under another one, without a window: `..` from the one on top leads past both at every moment.
fn tuck_vs_dotdot() -> Model {
    model(Layer::Structure, "tuck_vs_dotdot")
        .bound(3)
        .expect_outcomes(["r:"])
        .planted(["tuck_without_way_up"])
        .run(|| {
            let [r, m, top] =
                [FileSystem::new("r", ["a"]), FileSystem::new("m", []), FileSystem::new("top", [])];
            let (ns, root) = namespace(&r);
            let upper = mount(&ns, top.root(), &root, r.name(0));
            let task = Arc::new(task(&root));
            let writer = thread::spawn({
                let (ns, root) = (Arc::clone(&ns), Arc::clone(&root));
                let (a, lower) = (Arc::clone(r.name(0)), Arc::clone(m.root()));
                move || {
                    let mut locks = WriteSet::one(&ns);
                    let tucked = world::new_mount(&mut locks, &ns, &lower);
                    let joint = world::joint(&mut locks, &tucked, &root, &a);
                    let upper_joint = world::joint(&mut locks, &upper, &tucked, &lower);
                    locks.tuck(&tucked, joint, &upper, upper_joint, &pin());
                }
            });
            let seen = walk_label(&task, "/a/..");
            writer.join().unwrap();
            drop((task, root));
            dissolve([ns]);
            world::end([&r, &m, &top]);
            seen
        })
}
