//! Files that make mounts busy, and entries that come and go.

use rand::Rng;
use rand::seq::IndexedRandom;

use super::Generator;
use super::names::Kind;
use super::paths::{Paths, all_are_plain};
use crate::Views;

impl Generator {
    /// Files that make mounts busy, and entries that come and go.
    pub(super) fn file_call(
        &mut self,
        task: usize,
        paths: &mut Paths<'_>,
        tasks: &[usize],
        views: &Views,
    ) -> String {
        let names = &mut self.tasks[task];
        let what = paths.rng.random_range(0..100);
        if what >= 64 {
            // The entries of proc are no matter of mounts.
            paths.magic.clear();
        }
        match what {
            0..18 => {
                let how = ["", "--path "].choose(paths.rng).copied().unwrap_or_default();
                format!("@{} = open {how}{}", names.add(Kind::File), paths.any())
            }
            18..25 => format!("@{} = open -rw --create {}/f", names.add(Kind::Plain), paths.any()),
            25..26 => match names.any(paths.rng, &[Kind::Plain]) {
                Some(name) => format!("mmap @{name}"),
                None => "getcwd".to_owned(),
            },
            26..60 => match names.any(
                paths.rng,
                &[Kind::Tree, Kind::File, Kind::Plain, Kind::Namespace, Kind::Context, Kind::Users],
            ) {
                Some(name) => format!("close @{name}"),
                None => format!("mkdir {}/new", paths.any()),
            },
            60..64 => match names.any(paths.rng, &[Kind::Tree, Kind::File]) {
                Some(name) => format!("@{} = dup @{name}", names.add(Kind::Tree)),
                None => "getcwd".to_owned(),
            },
            64..70 => format!("mkdir {}/new", paths.any()),
            70..76 => {
                // What others see mounted there goes too.
                let others = views.0.iter().flatten().flatten();
                let points: Vec<_> = others.map(|line| String::from_utf8_lossy(&line.mountpoint)).collect();
                let place = points.choose(paths.rng).filter(|_| paths.rng.random_bool(0.4));
                let place = place.map_or_else(|| paths.any(), |place| place.to_string());
                match paths.rng.random_range(0..10) {
                    0 => format!("rename --exchange {} {place}", paths.any()),
                    1..4 => format!("rename {} {place}", paths.any()),
                    _ => format!("rmdir {place}"),
                }
            }
            76..78 => format!("touch {}/f", paths.any()),
            78..80 => {
                let name = if paths.rng.random_bool(0.7) { "f" } else { "g" };
                format!("unlink {}/{name}", paths.any())
            }
            80..86 => format!("rename {} {}/moved", paths.any(), paths.any()),
            86..87 => format!("symlink {} {}/link", paths.any(), paths.any()),
            87..88 => {
                // As long as one of its names is left, a file is not gone.
                let (from, to) = (paths.any(), paths.any());
                let to = if paths.rng.random_bool(0.7) { format!("{from}/g") } else { to };
                format!("link {from}/f {to}")
            }
            88..91 if all_are_plain(views) => format!("ls {}", paths.any()),
            91..93 => {
                let resolve = ["no-xdev", "beneath", "in-root", "no-symlinks"];
                let resolve = resolve.choose(paths.rng).copied().unwrap_or_default();
                let place = match names.any(paths.rng, &[Kind::Tree, Kind::File]) {
                    Some(name) => paths.in_file(&name),
                    None => paths.any(),
                };
                format!("@{} = openat2 --resolve {resolve} {place}", names.add(Kind::File))
            }
            88..96 => {
                let known = ["mountinfo", "mountinfo", "mounts", "mountstats"];
                let known = known.choose(paths.rng).copied().unwrap_or("mountinfo");
                let other = tasks.choose(paths.rng).copied().unwrap_or(task);
                format!("@{} = open @proc:{{t{other}}}/{known}", names.add(Kind::Listing))
            }
            _ => match names.any(paths.rng, &[Kind::Listing]) {
                Some(name) if paths.rng.random_bool(0.5) => format!("poll @{name}"),
                Some(name) => format!("mountpoints @{name}"),
                None => format!("@{} = open @proc:self/mountinfo", names.add(Kind::Listing)),
            },
        }
    }
}
