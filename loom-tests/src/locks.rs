//! Models of the locks that a propagated change takes: who receives it is found while they are taken.

use std::sync::Arc;

use loom::thread;
use mnt_table::dentry::SuperBlockRef;
use mnt_table::platform::set_cpu;
use mnt_table::{Group, Kind, LockPlan, MntNamespace, Mount, NamespaceSpec, UserNs, WriteSet};
use propagate::attach::{Place, Rules, What, attach};
use propagate::copy_tree::{NewTree, clone_namespace};
use propagate::graph::{PropagationType, change_type, enslave, found_group, join_after};
use propagate::{Error, with_locks};

use crate::harness::{Layer, Model, model};
use crate::world::{self, FileSystem, Name, dissolve, namespace, new_mount};

/// All of them, cheapest first.
pub fn models() -> Vec<Model> {
    vec![lock_order(), late_group(), clone_vs_propagation()]
}

fn ok<R>(result: Result<R, Error>) -> R {
    result.unwrap_or_else(|error| panic!("{error:?}"))
}

fn set_type(ns: &Arc<MntNamespace<Name>>, mount: &Arc<Mount<Name>>, to: PropagationType) {
    let change = with_locks(LockPlan::new(ns), |locks| change_type(locks, mount, to));
    ok(change);
}

/// A copy of `from`; returns it and the number of mounts that were copied.
fn copy(from: &Arc<MntNamespace<Name>>) -> (Arc<MntNamespace<Name>>, usize) {
    let to = MntNamespace::from_spec(NamespaceSpec::new(Kind::Ordinary).with_mounts(4)).expect("memory");
    let copied = with_locks(LockPlan::new(from), |locks| {
        locks.add_new(&to);
        Ok(clone_namespace(locks, from, &to)?.len())
    });
    (to, ok(copied))
}

fn root(ns: &Arc<MntNamespace<Name>>) -> Arc<Mount<Name>> {
    Arc::clone(WriteSet::one(ns).root(ns).expect("it has one"))
}

fn mounts_len(ns: &Arc<MntNamespace<Name>>) -> usize {
    WriteSet::one(ns).mounts_len(ns)
}

fn group_of(mount: &Mount<Name>) -> Arc<Group<Name>> {
    mount.propagation().peers.expect("it is shared").0
}

/// A mount is propagated to a slave group, which a copy of a namespace joins meanwhile. The copy gets the mount once:
/// copied with the rest, or as a receiver.
fn clone_vs_propagation() -> Model {
    model(Layer::Structure, "clone_vs_propagation")
        .expect_outcomes(["1 receiver, 2 copied", "2 receivers, 1 copied"])
        .planted(["group_lock_skipped"])
        .run(|| {
            let [r, m] = [FileSystem::new("r", ["a"]), FileSystem::new("m", [])];
            let (sender, sender_root) = namespace(&r);
            set_type(&sender, &sender_root, PropagationType::Shared);
            let (receiver, _) = copy(&sender);
            let receiver_root = root(&receiver);
            set_type(&receiver, &receiver_root, PropagationType::Slave);
            set_type(&receiver, &receiver_root, PropagationType::Shared);
            let cloner = thread::spawn({
                let receiver = Arc::clone(&receiver);
                move || copy(&receiver)
            });
            // A try without all the locks makes a mount that goes again.
            let held = SuperBlockRef::new(Arc::clone(m.root()));
            let delivered = with_locks(LockPlan::new(&sender), |locks| {
                let mount = new_mount(locks, &sender, m.root());
                let what = What::New(NewTree::single(mount), Vec::new());
                let rules = Rules { mounts_max: 100, owner: UserNs::INITIAL };
                attach(locks, what, Place::top(&sender_root, r.name(0)), &rules)
            });
            let delivered = ok(delivered);
            let (clone, copied) = cloner.join().unwrap();
            for ns in [&sender, &receiver, &clone] {
                assert_eq!(mounts_len(ns), 2, "missed, or served twice");
            }
            drop((held, sender_root, receiver_root));
            dissolve([sender, receiver, clone]);
            world::end([&r, &m]);
            format!("{delivered} receiver{}, {copied} copied", if delivered == 1 { "" } else { "s" })
        })
}

/// Two namespaces, and two groups across them whose rings name them in opposite orders.
fn lock_order() -> Model {
    model(Layer::Structure, "lock_order").expect_outcomes(["done"]).planted(["no_common_order"]).run(|| {
        let r = FileSystem::new("r", ["a"]);
        let (one, one_root) = namespace(&r);
        let (two, two_root) = namespace(&r);
        let one_child = world::mount(&one, r.root(), &one_root, r.name(0));
        let two_child = world::mount(&two, r.root(), &two_root, r.name(0));
        for (ns, first, second) in [(&one, &one_root, &two_root), (&two, &two_child, &one_child)] {
            let mut locks = WriteSet::two(&one, &two);
            let group = locks.new_group(ns, None).expect("memory");
            found_group(&mut locks, &group, first);
            join_after(&mut locks, first, second);
        }
        let lock = |ns: &Arc<MntNamespace<Name>>, group: Arc<Group<Name>>| {
            let mut plan = LockPlan::new(ns);
            plan.receivers(&group);
            let locks = plan.lock().expect("memory");
            assert_eq!(locks.namespaces().len(), 2);
        };
        let other = thread::spawn({
            let (two, group) = (Arc::clone(&two), group_of(&two_child));
            move || {
                set_cpu(1);
                lock(&two, group);
            }
        });
        lock(&one, group_of(&one_root));
        other.join().unwrap();
        drop((one_root, two_root, one_child, two_child));
        dissolve([one, two]);
        world::end([&r]);
        "done".to_owned()
    })
}

/// A slave group that is older than its master's: it is found too late for the order, so everything is let go.
fn late_group() -> Model {
    model(Layer::Structure, "late_group").expect_outcomes(["done"]).planted(["late_group_locked"]).run(|| {
        let r = FileSystem::new("r", ["a"]);
        let (ns, root) = namespace(&r);
        let child = world::mount(&ns, r.root(), &root, r.name(0));
        set_type(&ns, &child, PropagationType::Shared);
        set_type(&ns, &root, PropagationType::Shared);
        let (slaves, masters) = (group_of(&child), group_of(&root));
        {
            let mut plan = LockPlan::new(&ns);
            plan.group(&slaves);
            plan.group(&masters);
            enslave(&mut plan.lock().expect("memory"), &root, &child);
        }
        let other = thread::spawn({
            let (ns, slaves, masters) = (Arc::clone(&ns), Arc::clone(&slaves), Arc::clone(&masters));
            move || {
                let mut plan = LockPlan::new(&ns);
                plan.group(&masters);
                plan.group(&slaves);
                drop(plan.lock().expect("memory"));
            }
        });
        let mut plan = LockPlan::new(&ns);
        plan.receivers(&masters);
        let locks = plan.lock().expect("memory");
        assert!(locks.holds_group(&masters) && locks.holds_group(&slaves));
        drop(locks);
        other.join().unwrap();
        drop((plan, root, child, slaves, masters));
        dissolve([ns]);
        world::end([&r]);
        "done".to_owned()
    })
}
