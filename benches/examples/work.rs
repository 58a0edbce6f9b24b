//! Does one thing so many times, for tools that count: `valgrind --tool=callgrind work THING COUNT`.
//!
//! The setup is the same for every count, so the difference of two runs is that of the counts.

use std::hint::black_box;
use std::process::ExitCode;
use std::sync::Arc;

use benches::keys::Keys;
use benches::namespace::{Instance, Namespace, Sharing};
use benches::receivers::{FEW, MANY, masters, places};
use benches::scaling::Change;
use mnt_table::walk::{Last, walk, walk_with};

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let (thing, count) = (words.next().unwrap_or_default(), words.next().and_then(|word| word.parse().ok()));
    let Some(count) = count else { return usage() };
    let (thing, sharing) = match thing.strip_suffix("-shared") {
        Some(thing) => (thing, Sharing::Shared),
        None => (&*thing, Sharing::Private),
    };
    let change = |change: Change| {
        let namespace = Namespace::new(1, sharing);
        let mut change = change.maker(&namespace, "directory");
        (0..count).for_each(|_| change());
    };
    // Mounts that go to so many receivers each, and their umounts.
    let deliver = |slaves: usize| {
        let (ns, places) = (masters(slaves), places(slaves));
        for _ in 0..count {
            places.iter().for_each(|path| ns.mount(Instance::Prepared, path));
            places.iter().for_each(|path| ns.umount(path));
        }
    };
    match thing {
        "few" => deliver(FEW),
        "many" => deliver(MANY),
        "lookup" => {
            Keys::new(1000, Namespace::new(1, sharing)).look_up(count);
        }
        "walk" | "keep" => {
            let namespace = Namespace::new(1, sharing);
            let path = "/1/2/3/4/5/6/7/8";
            let at = |end: usize| walk(&namespace.task().fs(), &path.as_bytes()[..end], Last::Follow);
            let mut above = namespace.root().root().clone();
            for level in 1..=8 {
                above.mkdir(&path.as_bytes()[level * 2 - 1..level * 2]).expect("a fresh name");
                if level % 4 == 0 {
                    namespace.mount(Instance::Fresh, &path[..level * 2]);
                }
                above = at(level * 2).expect("it was made").dentry;
            }
            let fs = namespace.task().fs();
            for _ in 0..count {
                let path = black_box(path.as_bytes());
                if thing == "keep" {
                    black_box(walk(&fs, path, Last::Follow).expect("it is there"));
                } else {
                    let found =
                        walk_with(&fs, path, Last::Follow, |found| Ok(Arc::as_ptr(found.dentry).addr()));
                    black_box(found.expect("it is there"));
                }
            }
        }
        "bind" => change(Change::Bind),
        "prepared" => change(Change::Prepared),
        "fresh" => change(Change::Fresh),
        _ => return usage(),
    }
    ExitCode::SUCCESS
}

fn usage() -> ExitCode {
    eprintln!("usage: work few|many|lookup|walk|keep|bind|prepared|fresh[-shared] COUNT");
    ExitCode::from(2)
}
