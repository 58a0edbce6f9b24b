//! Path lookups over tmpfs with mounts on the way, at rest and while another thread mounts and umounts.

use std::hint::black_box;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use benches::churn::beside;
use benches::contest::{Cell, Contest};
use benches::namespace::{Instance, Namespace, Sharing};
use mnt_table::walk::{Last, walk, walk_with};

/// A namespace with a path in it.
struct Path {
    namespace: Namespace,
    path: String,
}

impl Path {
    /// A path of `depth` directories, on which `crossings` file systems are mounted, spread evenly from its end up;
    /// where there are more than directories, they are stacked.
    fn new(depth: usize, crossings: usize) -> Self {
        let namespace = Namespace::new(10, Sharing::Private);
        let mut path = String::new();
        for level in 1..=depth {
            let above = if path.is_empty() { "/" } else { &path };
            let above = walk(&namespace.task().fs(), above.as_bytes(), Last::Follow).expect("it was made");
            let name = format!("directory{level}");
            above.dentry.mkdir(name.as_bytes()).expect("a fresh name");
            path = format!("{path}/{name}");
            for _ in crossings * (level - 1) / depth..crossings * level / depth {
                namespace.mount(Instance::Fresh, &path);
            }
        }
        Path { namespace, path }
    }

    fn walk_pinned(&self, walks: u64) -> Duration {
        let fs = self.namespace.task().fs();
        let start = Instant::now();
        for _ in 0..walks {
            let path = black_box(self.path.as_bytes());
            let found = walk_with(&fs, path, Last::Follow, |found| Ok(Arc::as_ptr(found.dentry).addr()));
            black_box(found.expect("it is there"));
        }
        start.elapsed()
    }

    fn walk_kept(&self, walks: u64) -> Duration {
        let fs = self.namespace.task().fs();
        let start = Instant::now();
        for _ in 0..walks {
            let path = black_box(self.path.as_bytes());
            black_box(walk(&fs, path, Last::Follow).expect("it is there"));
        }
        start.elapsed()
    }
}

/// The contest over a path of `depth` with `crossings`.
pub(crate) fn contest(depth: usize, crossings: usize) -> Contest {
    let path = Rc::new(Path::new(depth, crossings));
    let own = path.namespace.mkdir("churn");
    let unrelated = Namespace::new(11, Sharing::Private);
    let other = unrelated.mkdir("churn");
    let (quiet, same, beside_other, kept) =
        (Rc::clone(&path), Rc::clone(&path), Rc::clone(&path), Rc::clone(&path));
    let cells = vec![
        Cell::new("quiet", 0, move |walks| quiet.walk_pinned(walks)),
        Cell::new("changes in the same namespace", 0, move |walks| {
            let namespace = &same.namespace;
            beside(|| namespace.attach_and_detach(&own), || same.walk_pinned(walks)).0
        }),
        Cell::new("changes in an unrelated namespace", 0, move |walks| {
            beside(|| unrelated.attach_and_detach(&other), || beside_other.walk_pinned(walks)).0
        }),
        Cell::new("quiet, kept", 0, move |walks| kept.walk_kept(walks)),
    ];
    Contest { name: format!("walk, depth {depth}, {crossings} crossings"), cells }
}
