//! Tasks and namespaces.

use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;

use super::Generator;
use super::names::Kind;
use super::paths::Paths;
use crate::{Model, Session};

impl Generator {
    /// Tasks and namespaces.
    pub(super) fn task_call(
        &mut self,
        task: usize,
        paths: &mut Paths<'_>,
        model: &Session<Model>,
        others: &[usize],
    ) -> String {
        let room = model.machine.namespaces().len() < self.limits.namespaces;
        let machine = &model.machine;
        // Rather somebody who is elsewhere.
        let own = machine.namespace_id(task);
        let elsewhere: Vec<usize> =
            others.iter().copied().filter(|other| machine.namespace_id(*other) != own).collect();
        let other = |rng: &mut SmallRng| match elsewhere.choose(rng) {
            Some(other) if rng.random_bool(0.8) => *other,
            _ => others.choose(rng).copied().unwrap_or(task),
        };
        match paths.rng.random_range(0..100) {
            0..24 if room => "unshare --mount".to_owned(),
            24..32 if room => "unshare --user --mount --map-root-user".to_owned(),
            32..34 if room => "unshare --user --mount".to_owned(),
            34..36 => {
                let how =
                    ["unshare --user --map-root-user", "unshare --user", "unshare --fs", "unshare --flags 1"];
                how.choose(paths.rng).copied().unwrap_or("unshare --fs").to_owned()
            }
            36..68 if self.tasks.len() < self.limits.tasks => {
                let how = match paths.rng.random_range(0..10) {
                    0 if room => "--mount ",
                    1 if room && paths.rng.random_bool(0.8) => "--user --mount --map-root-user ",
                    1 if room => "--user --mount ",
                    2 => "--fs ",
                    _ => "",
                };
                let child = self.tasks.len();
                self.tasks.push(self.tasks[task].clone());
                format!("fork {how}t{child}")
            }
            68..72 if model.machine.tasks().count() > 1 => "exit".to_owned(),
            72..80 => {
                let users = self.confined.choose(paths.rng).copied().unwrap_or(task);
                let other = other(paths.rng);
                let names = &mut self.tasks[task];
                match paths.rng.random_range(0..10) {
                    0..5 => format!("@{} = open @proc:{{t{other}}}/ns/mnt", names.add(Kind::Namespace)),
                    5..8 => format!("@{} = open @proc:{{t{users}}}/ns/user", names.add(Kind::Users)),
                    _ => format!("@{} = pidfd_open t{other}", names.add(Kind::Process)),
                }
            }
            80..87 => {
                // The file of a namespace as a mount: a detached one, and its way to a file.
                let younger = elsewhere.iter().copied().filter(|other| machine.namespace_id(*other) > own);
                let younger = younger.collect::<Vec<_>>().choose(paths.rng).copied();
                let other = younger.unwrap_or_else(|| other(paths.rng));
                let names = &mut self.tasks[task];
                let (tree, file) = (names.add(Kind::Tree), format!("{}/f", paths.any()));
                self.queue.push_back((task, format!("move_mount @{tree}: {file}")));
                self.queue.push_back((task, format!("@{} = open {file}", names.add(Kind::Namespace))));
                self.queue
                    .push_front((task, format!("@{tree} = open_tree --clone @proc:{{t{other}}}/ns/mnt")));
                format!("touch {file}")
            }
            87..96 => {
                let other = other(paths.rng);
                let names = &mut self.tasks[task];
                match paths.rng.random_range(0..10) {
                    0..6 => match names.any(paths.rng, &[Kind::Namespace]) {
                        Some(name) => format!("setns @{name}"),
                        None => {
                            let name = names.add(Kind::Namespace);
                            self.queue.push_back((task, format!("setns @{name}")));
                            format!("@{name} = open @proc:{{t{other}}}/ns/mnt")
                        }
                    },
                    6..8 => match names.any(paths.rng, &[Kind::Process]) {
                        Some(name) => format!("setns --type mnt @{name}"),
                        None => {
                            let name = names.add(Kind::Process);
                            self.queue.push_back((task, format!("setns --type mnt @{name}")));
                            format!("@{name} = pidfd_open t{other}")
                        }
                    },
                    8 => match names.any(paths.rng, &[Kind::Users]) {
                        Some(name) => format!("setns --type user @{name}"),
                        None => "getcwd".to_owned(),
                    },
                    _ => match names.any(paths.rng, &[Kind::Users, Kind::Process, Kind::File, Kind::Context])
                    {
                        Some(name) => format!("setns --type mnt @{name}"),
                        None => "getcwd".to_owned(),
                    },
                }
            }
            96..97 => {
                let what = ["sys_admin", "sys_chroot"].choose(paths.rng).copied().unwrap_or("sys_admin");
                format!("capset --drop {what}")
            }
            _ => format!("umount {}", paths.mountpoint()),
        }
    }
}
