//! Models of removing a directory entry beside mounts on it, in namespaces that share no lock.

use std::sync::Arc;

use loom::thread;
use mnt_table::dentry::RegisterError;
use mnt_table::removal::Removal;
use mnt_table::{MntNamespace, Mount, WriteSet, pin};

use crate::harness::{Layer, Model, model};
use crate::world::{self, FileSystem, Name, dissolve, namespace, new_mount};

/// All of them, cheapest first.
pub fn models() -> Vec<Model> {
    vec![rmdir_vs_mount()]
}

/// Mounts `m` on `on`, unless the directory is being removed.
fn mount(
    ns: &Arc<MntNamespace<Name>>,
    m: &Arc<Name>,
    root: &Arc<Mount<Name>>,
    on: &Arc<Name>,
) -> &'static str {
    let mut locks = WriteSet::one(ns);
    let child = new_mount(&mut locks, ns, m);
    match locks.prepare(&child, root, on) {
        Ok(joint) => {
            locks.attach(&child, joint, &pin());
            "mounted"
        }
        Err(RegisterError::Dying) => "ENOENT",
        Err(RegisterError::NoMemory) => panic!("memory"),
    }
}

/// A directory is removed while it is mounted on in the remover's namespace and in another one: a mount in its own is
/// `EBUSY`, one in the other goes with the directory, and none begins on a directory that is gone.
fn rmdir_vs_mount() -> Model {
    model(Layer::Structure, "rmdir_vs_mount")
        .bound(3)
        .expect_outcomes([
            "removed, ENOENT, ENOENT",
            "removed, ENOENT, mounted",
            "EBUSY, mounted, ENOENT",
            "EBUSY, mounted, mounted",
        ])
        .planted(["dying_not_tested", "elsewhere_not_visited"])
        .run(|| {
            let [r, m] = [FileSystem::new("r", ["a"]), FileSystem::new("m", [])];
            let keep = namespace(&m); // So that `m` is not shut down by a mount that fails.
            let (own, own_root) = namespace(&r);
            let (other, other_root) = namespace(&r);
            let mounters = [(&own, own_root), (&other, other_root)].map(|(ns, root)| {
                let (ns, m, a) = (Arc::clone(ns), Arc::clone(m.root()), Arc::clone(r.name(0)));
                thread::spawn(move || mount(&ns, &m, &root, &a))
            });
            let a = r.name(0);
            let removed = match Removal::begin(a, &own) {
                Ok(removal) => {
                    a.remove();
                    for ns in removal.done() {
                        let mut locks = WriteSet::one(&ns);
                        assert!(propagate::umount::detach_from(&mut locks, &ns, a).is_ok());
                    }
                    "removed"
                }
                Err(_) => "EBUSY",
            };
            let [here, there] = mounters.map(|mounter| mounter.join().unwrap());
            if removed == "removed" {
                for ns in [&own, &other] {
                    assert!(
                        WriteSet::one(ns).mounts_on(ns, a).next().is_none(),
                        "mounted on what was removed"
                    );
                }
            }
            drop(keep.1);
            dissolve([own, other, keep.0]);
            world::end([&r, &m]);
            format!("{removed}, {here}, {there}")
        })
}
