//! Random programs, each step made from what the tasks see at that moment, so that about half of them succeed.

use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;

use syscalls::mountinfo::MountInfo;

use crate::{DIRECTORIES, Model, Step, Views};

/// How large things get.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Tasks of one program.
    pub tasks: usize,
    /// Namespaces at one time.
    pub namespaces: usize,
}

/// Lines that a task sees from which on mounts are rather taken away.
const MANY_LINES: usize = 30;

/// Types to draw from.
const TYPES: [&str; 8] = ["shared", "shared", "shared", "shared", "slave", "slave", "private", "unbindable"];

/// Options to draw from.
const OPTIONS: [&str; 9] =
    ["ro", "nosuid", "nodev", "noexec", "noatime", "nodiratime", "relatime", "strictatime", "nosymfollow"];

/// Makes steps.
pub struct Generator {
    limits: Limits,
    /// Tasks made so far.
    tasks: usize,
}

impl Generator {
    /// For one program.
    pub fn new(limits: Limits) -> Self {
        Generator { limits, tasks: 1 }
    }

    /// The next step after `views`; `None` if no task is left.
    pub fn next(&mut self, rng: &mut SmallRng, model: &Model, views: &Views) -> Option<Step> {
        let tasks: Vec<usize> = model.tasks().collect();
        let sees_nothing = |task: &usize| views.0[*task].as_ref().is_none_or(Vec::is_empty);
        let mut task = *tasks.choose(rng)?;
        for _ in 0..3 {
            // Somebody in an unreachable place can do little.
            if sees_nothing(&task) {
                task = *tasks.choose(rng)?;
            }
        }
        let lines = views.0.iter().flatten().map(Vec::len).max().unwrap_or(0);
        let mut paths = Paths { rng, places: places(views, task) };
        let text = match paths.rng.random_range(0..100) {
            _ if lines > MANY_LINES => {
                let target = paths.upper();
                format!("umount {}{target}", if paths.rng.random_bool(0.7) { "-l " } else { "" })
            }
            0..14 => format!("mount -t tmpfs none {}", paths.any()),
            14..32 => {
                // A recursive bind can double what there is.
                let recursive = lines < MANY_LINES / 2 && paths.rng.random_bool(0.4);
                format!(
                    "mount --{} {} {}",
                    if recursive { "rbind" } else { "bind" },
                    paths.any(),
                    paths.any()
                )
            }
            32..42 => format!("mount --move {} {}", paths.upper(), paths.any()),
            42..62 => {
                let to = *TYPES.choose(paths.rng)?;
                let all = if paths.rng.random_bool(0.25) { "r" } else { "" };
                format!("mount --make-{all}{to} {}", paths.mountpoint())
            }
            62..65 => {
                let words: Vec<_> = (0..2).filter_map(|_| OPTIONS.choose(paths.rng)).copied().collect();
                format!("mount -o remount,bind,{} {}", words.join(","), paths.mountpoint())
            }
            65..80 => {
                let target = paths.upper();
                format!("umount {}{target}", if paths.rng.random_bool(0.35) { "-l " } else { "" })
            }
            80..84 => {
                let new_root = paths.upper();
                let inside: Vec<usize> = (0..paths.places.len())
                    .filter(|at| paths.places[*at].path.starts_with(&new_root))
                    .collect();
                let put_old = inside.choose(paths.rng).and_then(|at| paths.places[*at].below(paths.rng));
                let put_old = put_old.unwrap_or_else(|| paths.any());
                format!("pivot_root {new_root} {put_old}")
            }
            84..88 => format!("cd {}", paths.any()),
            88..90 => format!("chroot {}", paths.any()),
            90..95 if model.namespaces().len() < self.limits.namespaces => "unshare --mount".to_owned(),
            95..99 if self.tasks < self.limits.tasks => {
                self.tasks += 1;
                format!("fork t{}", self.tasks - 1)
            }
            99 if tasks.len() > 1 => "exit".to_owned(),
            _ => format!("umount {}", paths.mountpoint()),
        };
        Some(Step::new(task, &text).expect("the language has all that is made here"))
    }
}

/// Where a task sees mounts, and the directories in each that it has as its root directory's.
fn places(views: &Views, task: usize) -> Vec<Place> {
    let lines = views.0.get(task).and_then(Option::as_ref);
    let text = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).into_owned();
    let place = |line: &MountInfo| Place { path: text(&line.mountpoint), root: text(&line.root) };
    lines.into_iter().flatten().map(place).collect()
}

struct Place {
    /// The mountpoint.
    path: String,
    /// The mount's root in its file system.
    root: String,
}

impl Place {
    /// A directory in it, unless its root is one without.
    fn below(&self, rng: &mut SmallRng) -> Option<String> {
        let root = self.root.trim_start_matches('/');
        let inside = DIRECTORIES.iter().filter_map(|path| match root {
            "" => Some(*path),
            root => path.strip_prefix(root)?.strip_prefix('/'),
        });
        let name = *inside.collect::<Vec<_>>().choose(rng)?;
        Some(format!("{}/{name}", self.path.trim_end_matches('/')))
    }
}

/// Paths of one task.
struct Paths<'a> {
    rng: &'a mut SmallRng,
    places: Vec<Place>,
}

impl Paths<'_> {
    /// Where something is mounted, with few exceptions.
    fn mountpoint(&mut self) -> String {
        match self.rng.random_range(0..25) {
            0 => self.odd(),
            1 => self.below(),
            _ => self.places.choose(self.rng).map_or_else(|| "/".into(), |place| place.path.clone()),
        }
    }

    /// Where something is mounted, rather not the root.
    fn upper(&mut self) -> String {
        let first = self.mountpoint();
        if first == "/" { self.mountpoint() } else { first }
    }

    /// A directory in something that is mounted.
    fn below(&mut self) -> String {
        let found = self.places.choose(self.rng).and_then(|place| place.below(self.rng));
        found.unwrap_or_else(|| format!("/{}", DIRECTORIES.choose(self.rng).unwrap_or(&"a")))
    }

    /// A path that most calls can do something with.
    fn any(&mut self) -> String {
        match self.rng.random_range(0..25) {
            0 => self.odd(),
            1..9 => self.mountpoint(),
            _ => self.below(),
        }
    }

    /// Relative, upwards, or not there.
    fn odd(&mut self) -> String {
        const ODD: [&str; 10] = ["/", ".", "..", "/..", "a", "x", "a/x", "../a", "a/..", "/none"];
        ODD.choose(self.rng).copied().unwrap_or("/").to_owned()
    }
}
