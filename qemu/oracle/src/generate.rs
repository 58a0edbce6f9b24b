//! Random programs, each step made from what the tasks see at that moment, so that about half of them succeed.

use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;

use crate::call::OPTIONS;
use crate::{Call, DIRECTORIES, Model, Step, Type, Views};

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
        let task = *tasks.choose(rng)?;
        let lines = views.0.iter().flatten().map(Vec::len).max().unwrap_or(0);
        let mut paths = Paths { rng, mountpoints: mountpoints(views, task) };
        let call = match paths.rng.random_range(0..100) {
            _ if lines > MANY_LINES => {
                let target = paths.mountpoint();
                Call::Umount { target, lazy: paths.rng.random_bool(0.7) }
            }
            0..14 => Call::Mount { target: paths.any() },
            14..32 => {
                // A recursive bind can double what there is.
                let recursive = lines < MANY_LINES / 2 && paths.rng.random_bool(0.4);
                Call::Bind { source: paths.any(), target: paths.any(), recursive }
            }
            32..42 => Call::Move { source: paths.mountpoint(), target: paths.any() },
            42..62 => {
                let to = *[Type::Shared, Type::Shared, Type::Shared]
                    .iter()
                    .chain(&[Type::Slave, Type::Slave, Type::Private, Type::Unbindable])
                    .collect::<Vec<_>>()
                    .choose(paths.rng)?;
                Call::Make { target: paths.mountpoint(), to: *to, recursive: paths.rng.random_bool(0.25) }
            }
            62..65 => {
                let flags = (0..2).filter_map(|_| OPTIONS.choose(paths.rng)).map(|(_, flag)| flag);
                Call::Remount { flags: flags.fold(0, |all, flag| all | flag), target: paths.mountpoint() }
            }
            65..80 => Call::Umount { target: paths.mountpoint(), lazy: paths.rng.random_bool(0.35) },
            80..84 => Call::PivotRoot { new_root: paths.mountpoint(), put_old: paths.below() },
            84..89 => Call::Cd { path: paths.any() },
            89..91 => Call::Chroot { path: paths.any() },
            91..95 if model.namespaces().len() < self.limits.namespaces => Call::Unshare,
            95..99 if self.tasks < self.limits.tasks => {
                self.tasks += 1;
                Call::Fork { child: self.tasks - 1 }
            }
            99 if tasks.len() > 1 => Call::Exit,
            _ => Call::Umount { target: paths.mountpoint(), lazy: false },
        };
        Some(Step { task, call })
    }
}

fn mountpoints(views: &Views, task: usize) -> Vec<String> {
    let lines = views.0.get(task).and_then(Option::as_ref);
    let text = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).into_owned();
    lines.into_iter().flatten().map(|line| text(&line.mountpoint)).collect()
}

/// Paths of one task.
struct Paths<'a> {
    rng: &'a mut SmallRng,
    mountpoints: Vec<String>,
}

impl Paths<'_> {
    fn join(above: &str, name: &str) -> String {
        format!("{}/{name}", above.trim_end_matches('/'))
    }

    /// Where something is mounted, with few exceptions.
    fn mountpoint(&mut self) -> String {
        match self.rng.random_range(0..20) {
            0 => self.odd(),
            1 => self.below(),
            _ => self.mountpoints.choose(self.rng).cloned().unwrap_or_else(|| "/".into()),
        }
    }

    /// A directory in something that is mounted.
    fn below(&mut self) -> String {
        let above = self.mountpoints.choose(self.rng).cloned().unwrap_or_default();
        let name = DIRECTORIES.choose(self.rng).copied().unwrap_or("a");
        Self::join(&above, name)
    }

    /// A path that most calls can do something with.
    fn any(&mut self) -> String {
        match self.rng.random_range(0..20) {
            0 => self.odd(),
            1..6 => self.mountpoint(),
            6..12 => Self::join("/", DIRECTORIES.choose(self.rng).copied().unwrap_or("a")),
            _ => self.below(),
        }
    }

    /// Relative, upwards, or not there.
    fn odd(&mut self) -> String {
        const ODD: [&str; 10] = ["/", ".", "..", "/..", "a", "x", "a/x", "../a", "a/..", "/none"];
        ODD.choose(self.rng).copied().unwrap_or("/").to_owned()
    }
}
