//! Models of the path walk: beside changes of one edge and of two, downwards and up.

use std::sync::Arc;

use loom::thread;
use mnt_table::tree::Leave;
use mnt_table::{WriteSet, pin, walk};

use crate::harness::{Layer, Model, model};
use crate::world::{self, FileSystem, dissolve, joint, mount, namespace, task, walk_label};

/// All of them, cheapest first.
pub fn models() -> Vec<Model> {
    vec![miss_vs_unhash(), dotdot_vs_move(), walk_vs_two_edges()]
}

/// A walk over a place where nothing is mounted, and one over a place where something is, beside the umount of another
/// place: neither has to begin again.
fn miss_vs_unhash() -> Model {
    model(Layer::Structure, "miss_vs_unhash").expect_outcomes(["r:a q:"]).planted(["unlink_clears_next"]).run(
        || {
            let [r, p, q] =
                [FileSystem::new("r", ["a", "b", "c"]), FileSystem::new("p", []), FileSystem::new("q", [])];
            let (ns, root) = namespace(&r);
            let (other, other_root) = namespace(&r);
            // The flag of `a` is set by another namespace, so this one looks into its table.
            mount(&other, p.root(), &other_root, r.name(0));
            mount(&ns, q.root(), &root, r.name(2));
            let goes = mount(&ns, p.root(), &root, r.name(1));
            let task = Arc::new(task(&root));
            let writer = thread::spawn({
                let ns = Arc::clone(&ns);
                move || {
                    let mut locks = WriteSet::one(&ns);
                    assert!(locks.condemn_if_idle(&[Arc::clone(&goes)]));
                    locks.leave(&goes, Leave::Dead, &pin());
                }
            });
            let before = walk::stats();
            let miss = walk_label(&task, "/a");
            let hit = walk_label(&task, "/c");
            assert_eq!(walk::stats(), before, "the umount of another place disturbed a walk");
            writer.join().unwrap();
            drop((task, root, other_root));
            dissolve([ns, other]);
            world::end([&r, &p, &q]);
            format!("{miss} {hit}")
        },
    )
}

/// `..` from a mount that is moved. It climbs to the old place or to the new one, and what it then finds there is what
/// was there at that time.
fn dotdot_vs_move() -> Model {
    model(Layer::Structure, "dotdot_vs_move")
        .expect_outcomes(["ENOENT", "m:"])
        .planted(["pair_relaxed", "no_validation", "no_window"])
        .run(|| {
            let [r, n, m] =
                [FileSystem::new("r", ["a", "n"]), FileSystem::new("n", ["x"]), FileSystem::new("m", [])];
            let (ns, root) = namespace(&r);
            let to = mount(&ns, n.root(), &root, r.name(1));
            let moved = mount(&ns, m.root(), &root, r.name(0));
            let task = Arc::new(task(&root));
            task.set_cwd(&world::path(&moved, m.root())).expect("no umount");
            let writer = thread::spawn({
                let ns = Arc::clone(&ns);
                let x = Arc::clone(n.name(0));
                move || {
                    let mut locks = WriteSet::one(&ns);
                    let joint = joint(&mut locks, &moved, &to, &x);
                    let guard = pin();
                    locks.begin(&ns, &guard);
                    locks.rehang(&moved, joint, &guard);
                    locks.end();
                }
            });
            // There is an `x` beside the new place only, and `moved` covers it.
            let seen = walk_label(&task, "../x");
            writer.join().unwrap();
            drop((task, root));
            dissolve([ns]);
            world::end([&r, &n, &m]);
            seen
        })
}

/// Two mounts, one on the other, change places. A walk through both finds the one on top, before or after: never the
/// covered name, which is what one edge without the other leads to.
fn walk_vs_two_edges() -> Model {
    model(Layer::Structure, "walk_vs_two_edges")
        .bound(3)
        .expect_outcomes(["p:", "q:"])
        .planted([
            "no_window",
            "no_validation",
            "sample_relaxed",
            "window_close_relaxed",
            "flag_clear_relaxed",
        ])
        .run(|| {
            let [r, p, q] =
                [FileSystem::new("r", ["a"]), FileSystem::new("p", ["x"]), FileSystem::new("q", ["x"])];
            let (ns, root) = namespace(&r);
            let lower = mount(&ns, p.root(), &root, r.name(0));
            let upper = mount(&ns, q.root(), &lower, p.name(0));
            let task = Arc::new(task(&root));
            let writer = thread::spawn({
                let (ns, root) = (Arc::clone(&ns), Arc::clone(&root));
                let (a, x) = (Arc::clone(r.name(0)), Arc::clone(q.name(0)));
                move || {
                    let mut locks = WriteSet::one(&ns);
                    let down = joint(&mut locks, &upper, &root, &a);
                    let up = joint(&mut locks, &lower, &upper, &x);
                    let guard = pin();
                    locks.begin(&ns, &guard);
                    locks.rehang(&upper, down, &guard);
                    locks.rehang(&lower, up, &guard);
                    locks.end();
                }
            });
            let seen = walk_label(&task, "/a/x");
            writer.join().unwrap();
            drop((task, root));
            dissolve([ns]);
            world::end([&r, &p, &q]);
            seen
        })
}
