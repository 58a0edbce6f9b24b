//! mount(2), umount2(2), pivot_root(2), and where a task stands.

use rand::Rng;
use rand::seq::IndexedRandom;

use super::names::Kind;
use super::paths::Paths;
use super::{Generator, MANY_LINES};

/// Types to draw from.
const TYPES: [&str; 8] = ["shared", "shared", "shared", "shared", "slave", "slave", "private", "unbindable"];

/// Options of mounts to draw from.
const OPTIONS: [&str; 9] =
    ["ro", "nosuid", "nodev", "noexec", "noatime", "nodiratime", "relatime", "strictatime", "nosymfollow"];

impl Generator {
    /// mount(2), umount2(2), pivot_root(2), and where the task stands.
    pub(super) fn mount_call(
        &mut self,
        task: usize,
        paths: &mut Paths<'_>,
        lines: usize,
        tasks: &[usize],
    ) -> String {
        let names = &self.tasks[task];
        match paths.rng.random_range(0..100) {
            0..2 => format!("mount -t tmpfs -o {} none {}", paths.options(&OPTIONS), paths.any()),
            2..13 => format!("mount -t tmpfs none {}", paths.any()),
            13..15 => {
                let other = ["proc", "proc", "proc", "proc", "ramfs", "nonsense"];
                let other = other.choose(paths.rng).copied().unwrap_or("proc");
                let options = ["", "", "-o ro ", "-o noatime ", "-o nonsense "];
                let options = options.choose(paths.rng).copied().unwrap_or_default();
                format!("mount -t {other} {options}none {}", paths.any())
            }
            15..32 => {
                // A recursive bind can double what there is.
                let recursive = lines < MANY_LINES / 2 && paths.rng.random_bool(0.4);
                let word = if recursive { "rbind" } else { "bind" };
                let (from, to) = (paths.any(), paths.any());
                if paths.rng.random_bool(0.1) {
                    // What receives from where it comes, and may send on.
                    let from = paths.shared().unwrap_or(from);
                    self.queue.push_back((task, format!("mount --make-slave {to}")));
                    if paths.rng.random_bool(0.6) {
                        self.queue.push_back((task, format!("mount --make-shared {to}")));
                    }
                    return format!("mount --{word} {from} {to}");
                }
                format!("mount --{word} {from} {to}")
            }
            32..41 => {
                let slave = paths.slave().filter(|_| paths.rng.random_bool(0.4));
                format!("mount --move {} {}", slave.unwrap_or_else(|| paths.upper()), paths.any())
            }
            41..60 => {
                let slave = paths.slave().filter(|_| paths.rng.random_bool(0.2));
                if let Some(slave) = slave {
                    return format!("mount --make-shared {slave}");
                }
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
                let how = ["", "", "", "", "", "", "-l ", "-l ", "-l ", "-f "];
                format!("umount {}{}", how.choose(paths.rng).copied().unwrap_or_default(), paths.upper())
            }
            82..84 => {
                // Twice, often with nothing between.
                let text = format!("umount --expire {}", paths.upper());
                self.queue.push_back((task, text.clone()));
                text
            }
            84..85 => {
                let new_root = paths.upper();
                self.queue.push_back((task, "pivot_root . .".to_owned()));
                self.queue.push_back((task, "umount -l .".to_owned()));
                format!("cd {new_root}")
            }
            85..88 => {
                let new_root = paths.upper();
                let inside: Vec<usize> = (0..paths.places.len())
                    .filter(|at| paths.places[*at].path.starts_with(&new_root))
                    .collect();
                let put_old = inside.choose(paths.rng).and_then(|at| paths.places[*at].below(paths.rng));
                let put_old = put_old.unwrap_or_else(|| paths.any());
                format!("pivot_root {new_root} {put_old}")
            }
            88..94 => format!("cd {}", paths.any()),
            94..96 if !paths.magic.is_empty() && paths.rng.random_bool(0.6) => {
                // Where a descriptor refers to, which may be detached, or somebody else's.
                let place = paths.magic.choose(paths.rng).cloned().unwrap_or_default();
                match paths.rng.random_range(0..8) {
                    0..2 => format!("mount --bind {place} {}", paths.any()),
                    2 => format!("mount -t tmpfs none {place}"),
                    3 => format!("mount --move {place} {}", paths.any()),
                    4 => format!("move_mount {} {place}", paths.upper()),
                    5 => format!("umount {place}"),
                    6 => format!("mount -o remount,bind,ro {place}"),
                    _ => format!("mount --make-shared {place}"),
                }
            }
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
}
