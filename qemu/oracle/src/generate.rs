//! Random programs, each step made from what the tasks see at that moment, so that about half of them succeed.
//!
//! 1. Places are drawn from the mountpoints that the task sees and the directories in them; a few are relative, lead
//!    upwards, or are not there.
//! 2. Descriptors get names; a task knows those that it or its parent made, and of what kind they are.
//! 3. Operations that belong together (open a type, make an instance, mount it) stand in a queue of their task, and others
//!    come between.

use std::collections::VecDeque;

use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;

use crate::{Answer, Model, Session, Step, Views};
use names::{Kind, Names};
use paths::{Paths, places};

mod names;
mod odd;
mod paths;

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

/// Options of mounts to draw from.
const OPTIONS: [&str; 9] =
    ["ro", "nosuid", "nodev", "noexec", "noatime", "nodiratime", "relatime", "strictatime", "nosymfollow"];

/// Attributes that mount_setattr(2) is given.
const ATTRIBUTES: [&str; 12] = [
    "--set ro",
    "--clear ro",
    "--set nosuid,nodev",
    "--clear nosuid",
    "--set noexec --clear nodev",
    "--clear atime --set noatime",
    "--clear atime",
    "--clear atime --set strictatime",
    "--set noatime",
    "--set nodiratime,nosymfollow",
    "--propagation shared",
    "--propagation slave --set nosuid",
];

/// Makes steps.
pub struct Generator {
    limits: Limits,
    /// What each task made so far knows.
    tasks: Vec<Names>,
    /// What a task is going to do next.
    queue: VecDeque<(usize, String)>,
}

impl Generator {
    /// For one program.
    pub fn new(limits: Limits) -> Self {
        Generator { limits, tasks: vec![Names::default()], queue: VecDeque::new() }
    }

    /// The next step after `views`; `None` if no task is left.
    pub fn next(&mut self, rng: &mut SmallRng, model: &Session<Model>, views: &Views) -> Option<Step> {
        if rng.random_bool(0.8)
            && let Some((task, text)) = self.queue.pop_front()
            && model.has(task)
        {
            return Some(made(task, &text));
        }
        let tasks: Vec<usize> = model.machine.tasks().collect();
        let sees_nothing = |task: &usize| views.0[*task].as_ref().is_none_or(Vec::is_empty);
        let mut task = *tasks.choose(rng)?;
        for _ in 0..3 {
            // Somebody in an unreachable place can do little.
            if sees_nothing(&task) {
                task = *tasks.choose(rng)?;
            }
        }
        let lines = views.0.iter().flatten().map(Vec::len).max().unwrap_or(0);
        let text = {
            let mut paths = Paths { rng, places: places(views, task) };
            if lines > MANY_LINES {
                let target = paths.upper();
                format!("umount {}{target}", if paths.rng.random_bool(0.7) { "-l " } else { "" })
            } else {
                match paths.rng.random_range(0..100) {
                    0..56 => self.mount_call(task, &mut paths, lines, &tasks),
                    56..78 => self.tree_call(task, &mut paths),
                    78..92 => self.file_call(task, &mut paths),
                    92..97 => self.task_call(task, &mut paths, model, &tasks),
                    _ => odd::call(&mut paths, &self.tasks[task]),
                }
            }
        };
        Some(made(task, &text))
    }

    /// Tells what became of `step`.
    pub fn done(&mut self, step: &Step, answer: &Answer) {
        if !answer.is_ok() || step.text().starts_with("close ") {
            self.tasks[step.task].forget(step.text());
        }
    }

    /// mount(2), umount2(2), pivot_root(2), and where the task stands.
    fn mount_call(&mut self, task: usize, paths: &mut Paths<'_>, lines: usize, tasks: &[usize]) -> String {
        let names = &self.tasks[task];
        match paths.rng.random_range(0..100) {
            0..2 => format!("mount -t tmpfs -o {} none {}", paths.options(&OPTIONS), paths.any()),
            2..15 => format!("mount -t tmpfs none {}", paths.any()),
            15..32 => {
                // A recursive bind can double what there is.
                let recursive = lines < MANY_LINES / 2 && paths.rng.random_bool(0.4);
                let word = if recursive { "rbind" } else { "bind" };
                format!("mount --{word} {} {}", paths.any(), paths.any())
            }
            32..41 => format!("mount --move {} {}", paths.upper(), paths.any()),
            41..60 => {
                let to = *TYPES.choose(paths.rng).expect("there are some");
                let all = if paths.rng.random_bool(0.25) { "r" } else { "" };
                format!("mount --make-{all}{to} {}", paths.mountpoint())
            }
            60..63 => format!("mount -o remount,bind,{} {}", paths.options(&OPTIONS), paths.mountpoint()),
            63..65 => {
                let words = ["ro", "rw", "sync", "nosuid", "lazytime"];
                format!("mount -o remount,{} {}", paths.options(&words), paths.mountpoint())
            }
            65..82 => {
                format!("umount {}{}", if paths.rng.random_bool(0.35) { "-l " } else { "" }, paths.upper())
            }
            82..84 => {
                // Twice, often with nothing between.
                let text = format!("umount --expire {}", paths.upper());
                self.queue.push_back((task, text.clone()));
                text
            }
            84..88 => {
                let new_root = paths.upper();
                let inside: Vec<usize> = (0..paths.places.len())
                    .filter(|at| paths.places[*at].path.starts_with(&new_root))
                    .collect();
                let put_old = inside.choose(paths.rng).and_then(|at| paths.places[*at].below(paths.rng));
                let put_old = put_old.unwrap_or_else(|| paths.any());
                format!("pivot_root {new_root} {put_old}")
            }
            88..94 => format!("cd {}", paths.any()),
            94..96 => format!("chroot {}", paths.any()),
            96..98 => match names.any(paths.rng, &[Kind::File, Kind::Tree]) {
                Some(name) => format!("fchdir @{name}"),
                None => format!("cd {}", paths.any()),
            },
            _ => match tasks.choose(paths.rng) {
                Some(other) if *other != task => format!("cd {}", paths.any()),
                _ => "umount -l ..".to_owned(),
            },
        }
    }

    /// Mounts by descriptors.
    fn tree_call(&mut self, task: usize, paths: &mut Paths<'_>) -> String {
        let names = &mut self.tasks[task];
        let from =
            |names: &Names, paths: &mut Paths<'_>| match names.any(paths.rng, &[Kind::Tree, Kind::File]) {
                Some(name) if paths.rng.random_bool(0.6) => paths.in_file(&name),
                _ => paths.upper(),
            };
        match paths.rng.random_range(0..100) {
            0..18 => {
                let how = ["", "--clone ", "--clone ", "--clone --recursive ", "--clone --recursive "];
                let how = how.choose(paths.rng).copied().unwrap_or_default();
                let source = if paths.rng.random_bool(0.2) { from(names, paths) } else { paths.any() };
                format!("@{} = open_tree {how}{source}", names.add(Kind::Tree))
            }
            18..23 => {
                let attributes = *ATTRIBUTES.choose(paths.rng).expect("there are some");
                let how = ["", "--clone ", "--clone --recursive "];
                let how = how.choose(paths.rng).copied().unwrap_or_default();
                format!(
                    "@{} = open_tree_attr {attributes} {how}{}",
                    names.add(Kind::Tree),
                    paths.mountpoint()
                )
            }
            23..32 => {
                let (context, tree) = (names.add(Kind::Context), names.add(Kind::Tree));
                let rest = [
                    format!("fsconfig @{context} create"),
                    format!("@{tree} = fsmount @{context}"),
                    format!("populate @{tree}:"),
                ];
                self.queue.extend(rest.map(|text| (task, text)));
                format!("@{context} = fsopen tmpfs")
            }
            32..36 => {
                let context = names.add(Kind::Context);
                let word = ["ro", "rw", "sync"].choose(paths.rng).copied().unwrap_or("ro");
                let rest = [
                    format!("fsconfig @{context} set-flag {word}"),
                    format!("fsconfig @{context} reconfigure"),
                ];
                self.queue.extend(rest.map(|text| (task, text)));
                format!("@{context} = fspick {}", paths.mountpoint())
            }
            36..56 => format!("move_mount {} {}", from(names, paths), paths.any()),
            56..72 => format!("move_mount --beneath {} {}", from(names, paths), paths.upper()),
            72..74 => format!("move_mount --set-group {} {}", from(names, paths), from(names, paths)),
            74..80 => {
                let Some((of, to)) = paths.same_device() else { return "getcwd".to_owned() };
                self.queue.push_back((task, format!("move_mount --set-group {of} {to}")));
                format!("mount --make-private {to}")
            }
            80..96 => {
                let attributes = *ATTRIBUTES.choose(paths.rng).expect("there are some");
                let all = if paths.rng.random_bool(0.3) { "-r " } else { "" };
                format!("mount_setattr {all}{attributes} {}", from(names, paths))
            }
            _ => match names.any(paths.rng, &[Kind::Context]) {
                Some(name) => format!("fsconfig @{name} set-string size 1m"),
                None => "@none = fsopen nonsense".to_owned(),
            },
        }
    }

    /// Files that make mounts busy, and entries that come and go.
    fn file_call(&mut self, task: usize, paths: &mut Paths<'_>) -> String {
        let names = &mut self.tasks[task];
        match paths.rng.random_range(0..100) {
            0..18 => {
                let how = ["", "--path "].choose(paths.rng).copied().unwrap_or_default();
                format!("@{} = open {how}{}", names.add(Kind::File), paths.any())
            }
            18..26 => format!("@{} = open -w --create {}/f", names.add(Kind::Plain), paths.any()),
            26..60 => match names
                .any(paths.rng, &[Kind::Tree, Kind::File, Kind::Plain, Kind::Namespace, Kind::Context])
            {
                Some(name) => format!("close @{name}"),
                None => format!("mkdir {}/new", paths.any()),
            },
            60..64 => match names.any(paths.rng, &[Kind::Tree, Kind::File]) {
                Some(name) => format!("@{} = dup @{name}", names.add(Kind::Tree)),
                None => "getcwd".to_owned(),
            },
            64..70 => format!("mkdir {}/new", paths.any()),
            70..76 => format!("rmdir {}", paths.any()),
            76..78 => format!("touch {}/f", paths.any()),
            78..80 => format!("unlink {}/f", paths.any()),
            80..86 => format!("rename {} {}/moved", paths.any(), paths.any()),
            86..88 => format!("symlink {} {}/link", paths.any(), paths.any()),
            88..91 => format!("ls {}", paths.any()),
            91..93 => {
                let resolve = ["no-xdev", "beneath", "in-root", "no-symlinks"];
                let resolve = resolve.choose(paths.rng).copied().unwrap_or_default();
                let place = match names.any(paths.rng, &[Kind::Tree, Kind::File]) {
                    Some(name) => paths.in_file(&name),
                    None => paths.any(),
                };
                format!("@{} = openat2 --resolve {resolve} {place}", names.add(Kind::File))
            }
            93..96 => format!("@{} = open @proc:self/mountinfo", names.add(Kind::Listing)),
            _ => match names.any(paths.rng, &[Kind::Listing]) {
                Some(name) if paths.rng.random_bool(0.5) => format!("poll @{name}"),
                Some(name) => format!("mountpoints @{name}"),
                None => format!("@{} = open @proc:self/mountinfo", names.add(Kind::Listing)),
            },
        }
    }

    /// Tasks and namespaces.
    fn task_call(
        &mut self,
        task: usize,
        paths: &mut Paths<'_>,
        model: &Session<Model>,
        tasks: &[usize],
    ) -> String {
        let room = model.machine.namespaces().len() < self.limits.namespaces;
        match paths.rng.random_range(0..100) {
            0..24 if room => "unshare --mount".to_owned(),
            24..36 if room => "unshare --user --mount --map-root-user".to_owned(),
            36..68 if self.tasks.len() < self.limits.tasks => {
                let how = match paths.rng.random_range(0..10) {
                    0 if room => "--mount ",
                    1 if room => "--user --mount --map-root-user ",
                    2 => "--fs ",
                    _ => "",
                };
                let child = self.tasks.len();
                self.tasks.push(self.tasks[task].clone());
                format!("fork {how}t{child}")
            }
            68..72 if tasks.len() > 1 => "exit".to_owned(),
            72..84 => {
                let other =
                    tasks.choose(paths.rng).copied().filter(|other| model.machine.may_inspect(task, *other));
                let other = other.unwrap_or(task);
                format!("@{} = open @proc:{{t{other}}}/ns/mnt", self.tasks[task].add(Kind::Namespace))
            }
            84..94 => match self.tasks[task].any(paths.rng, &[Kind::Namespace]) {
                Some(name) if paths.rng.random_bool(0.7) => format!("setns @{name}"),
                Some(name) => format!("ioctl @{name} NS_MNT_GET_INFO"),
                None => "getcwd".to_owned(),
            },
            94..95 => "capset --drop sys_admin".to_owned(),
            _ => format!("umount {}", paths.mountpoint()),
        }
    }
}

/// A step that the language has.
fn made(task: usize, text: &str) -> Step {
    Step::new(task, text).expect("the language has all that is made here")
}
