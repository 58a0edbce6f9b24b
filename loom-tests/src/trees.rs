//! Models of trees that move between namespaces, and of detached trees that stay connected.

use std::sync::Arc;

use loom::thread;
use mnt_table::platform::set_cpu;
use mnt_table::walk::{How, Last, walk_how};
use mnt_table::{Kind, MntNamespace, NamespaceSpec, WriteSet, pin};
use propagate::with_locks;

use crate::harness::{Layer, Model, model};
use crate::world::{self, FileSystem, dissolve, mount, namespace, new_mount, task};

/// All of them, cheapest first.
pub fn models() -> Vec<Model> {
    vec![fragment_vs_last_puts(), adopt_vs_walk()]
}

/// The tree of an anonymous namespace is attached while a walk goes from its root to the mount inside: the walk finds that,
/// whichever of the two namespaces it asks.
fn adopt_vs_walk() -> Model {
    model(Layer::Structure, "adopt_vs_walk")
        .bound(3)
        .expect_outcomes(["inner:n"])
        .planted(["no_window", "no_validation", "enter_without_second_look"])
        .run(|| {
            let [r, m, inner] = [
                FileSystem::new("r", ["a"]),
                FileSystem::new("m", ["s", "s/n"]),
                FileSystem::new("inner", ["n"]),
            ];
            let (ns, root) = namespace(&r);
            let anonymous = MntNamespace::from_spec(NamespaceSpec::new(Kind::Anonymous).with_mounts(4));
            let anonymous = anonymous.expect("memory");
            let mut locks = WriteSet::one(&anonymous);
            let top = new_mount(&mut locks, &anonymous, m.root());
            locks.attach_root(&anonymous, &top);
            drop(locks);
            let child = mount(&anonymous, inner.root(), &top, m.name(0));
            let task = task(&root);
            let start = world::path(&top, m.root());
            let writer = thread::spawn({
                let (ns, anonymous, top, root) =
                    (Arc::clone(&ns), Arc::clone(&anonymous), Arc::clone(&top), Arc::clone(&root));
                let on = Arc::clone(r.name(0));
                move || {
                    let mut locks = WriteSet::two(&ns, &anonymous);
                    let inner = locks.prepare_adoption(&ns, std::slice::from_ref(&child)).expect("memory");
                    let joint = world::joint(&mut locks, &top, &root, &on);
                    locks.adopt(&top, joint, std::slice::from_ref(&child), inner, &pin());
                }
            });
            let how = How { dir: Some(&start), ..How::new(Last::Follow) };
            let seen = walk_how(&task, b"s/n", &how, |found| Ok(found.dentry.label().to_owned()));
            writer.join().unwrap();
            drop((start, task, root, top, anonymous));
            dissolve([ns]);
            world::end([&r, &m, &inner]);
            seen.unwrap_or_else(|error| panic!("{error:?}"))
        })
}

/// A tree was detached as one; the last references to its root and to the mount on it are put at once. Each is buried once:
/// the root by its last put, the other by its own or by the end of the root.
fn fragment_vs_last_puts() -> Model {
    model(Layer::Structure, "fragment_vs_last_puts")
        .bound(2)
        .expect_outcomes(["buried"])
        .planted(["connected_child_forgotten"])
        .run(|| {
            let [r, m, inner] =
                [FileSystem::new("r", ["a"]), FileSystem::new("m", ["s"]), FileSystem::new("inner", ["n"])];
            let (ns, root) = namespace(&r);
            let top = mount(&ns, m.root(), &root, r.name(0));
            let child = mount(&ns, inner.root(), &top, m.name(0));
            let [upper, lower] = [world::path(&child, inner.root()).mount, world::path(&top, m.root()).mount];
            let detached = with_locks(mnt_table::LockPlan::new(&ns), |locks| {
                locks.set_locked(&child, true);
                propagate::umount::detach(locks, &top)
            });
            assert!(detached.is_ok());
            drop((top, child));
            let puts = [(upper, 1), (lower, 2)].map(|(kept, cpu)| {
                thread::spawn(move || {
                    set_cpu(cpu);
                    drop(kept);
                })
            });
            puts.into_iter().for_each(|put| put.join().unwrap());
            drop(root);
            dissolve([ns]);
            world::end([&r, &m, &inner]);
            "buried".to_owned()
        })
}
