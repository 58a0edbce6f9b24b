//! Places that a task may mean.

use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;

use syscalls::mountinfo::MountInfo;

use super::names::{Kind, Names};
use crate::{DIRECTORIES, Views};

/// Where a task sees mounts.
pub(super) fn places(views: &Views, task: usize) -> Vec<Place> {
    let lines = views.0.get(task).and_then(Option::as_ref);
    let text = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).into_owned();
    let place = |line: &MountInfo| Place {
        path: text(&line.mountpoint),
        root: text(&line.root),
        device: line.minor,
        fs_type: text(&line.fs_type),
        is_shared: line.tags.shared.is_some() || line.tags.master.is_some(),
        is_slave: line.tags.master.is_some(),
    };
    lines.into_iter().flatten().map(place).collect()
}

pub(super) struct Place {
    /// The mountpoint.
    pub(super) path: String,
    /// The mount's root in its file system.
    root: String,
    device: u32,
    fs_type: String,
    /// Whether it has peers or a master.
    is_shared: bool,
    is_slave: bool,
}

impl Place {
    /// A directory in it, unless its root is one without.
    pub(super) fn below(&self, rng: &mut SmallRng) -> Option<String> {
        if self.fs_type != "tmpfs" {
            return None;
        }
        let root = self.root.trim_start_matches('/');
        let inside = DIRECTORIES.iter().filter_map(|path| match root {
            "" => Some(*path),
            root => path.strip_prefix(root)?.strip_prefix('/'),
        });
        let name = *inside.collect::<Vec<_>>().choose(rng)?;
        Some(format!("{}/{name}", self.path.trim_end_matches('/')))
    }
}

/// Whether nobody sees a file system that the kernel fills.
pub(super) fn all_are_plain(views: &Views) -> bool {
    views.0.iter().flatten().flatten().all(|line| line.fs_type == b"tmpfs" || line.fs_type == b"nsfs")
}

/// Paths that lead somewhere else through where proc is mounted, to what a task with `names` refers to or to what the
/// tasks `others` have.
pub(super) fn magic(places: &[Place], names: &Names, others: &[usize]) -> Vec<String> {
    let mut found = Vec::new();
    for proc in places.iter().filter(|place| place.fs_type == "proc" && place.root == "/") {
        let proc = proc.path.trim_end_matches('/');
        let links = ["root", "cwd", "ns/mnt"];
        found.extend(links.map(|link| format!("{proc}/self/{link}")));
        found.extend(names.all(&[Kind::Tree, Kind::File]).map(|name| format!("{proc}/self/fd/{{@{name}}}")));
        found.extend(others.iter().flat_map(|task| links.map(|link| format!("{proc}/{{t{task}}}/{link}"))));
    }
    found
}

/// Paths of one task.
pub(super) struct Paths<'a> {
    pub(super) rng: &'a mut SmallRng,
    pub(super) places: Vec<Place>,
    /// Those of [`magic`].
    pub(super) magic: Vec<String>,
}

impl Paths<'_> {
    /// Where something is mounted, with few exceptions.
    pub(super) fn mountpoint(&mut self) -> String {
        match self.rng.random_range(0..25) {
            0 => self.odd(),
            1 => self.below(),
            _ => self.places.choose(self.rng).map_or_else(|| "/".into(), |place| place.path.clone()),
        }
    }

    /// Where something is mounted, rather not the root.
    pub(super) fn upper(&mut self) -> String {
        let first = self.mountpoint();
        if first == "/" { self.mountpoint() } else { first }
    }

    /// A directory in something that is mounted.
    pub(super) fn below(&mut self) -> String {
        let found = self.places.choose(self.rng).and_then(|place| place.below(self.rng));
        found.unwrap_or_else(|| format!("/{}", DIRECTORIES.choose(self.rng).unwrap_or(&"a")))
    }

    /// A path that most calls can do something with.
    pub(super) fn any(&mut self) -> String {
        match self.rng.random_range(0..50) {
            0 => format!("{}/f", self.below()),
            1..3 => self.odd(),
            3..8 if !self.magic.is_empty() => self.magic.choose(self.rng).cloned().unwrap_or_default(),
            3..18 => self.mountpoint(),
            _ => self.below(),
        }
    }

    /// Where something that has peers or a master is mounted.
    pub(super) fn shared(&mut self) -> Option<String> {
        let shared: Vec<&Place> = self.places.iter().filter(|place| place.is_shared).collect();
        shared.choose(self.rng).map(|place| place.path.clone())
    }

    /// Where something that has a master is mounted.
    pub(super) fn slave(&mut self) -> Option<String> {
        let slaves: Vec<&Place> = self.places.iter().filter(|place| place.is_slave).collect();
        slaves.choose(self.rng).map(|place| place.path.clone())
    }

    /// Two mounts of one file system, of which the first has peers or a master.
    pub(super) fn same_device(&mut self) -> Option<(String, String)> {
        let shared: Vec<&Place> = self.places.iter().filter(|place| place.is_shared).collect();
        let of = *shared.choose(self.rng)?;
        let same = |place: &&Place| place.device == of.device && place.path != of.path;
        let others: Vec<&Place> = self.places.iter().filter(same).collect();
        Some((of.path.clone(), others.choose(self.rng)?.path.clone()))
    }

    /// A file itself, or something below it.
    pub(super) fn in_file(&mut self, name: &str) -> String {
        match self.rng.random_range(0..10) {
            0..7 => format!("@{name}:"),
            7 => format!("@{name}:."),
            _ => format!("@{name}:{}", DIRECTORIES.choose(self.rng).unwrap_or(&"a")),
        }
    }

    /// Relative, upwards, or not there.
    fn odd(&mut self) -> String {
        const ODD: [&str; 10] = ["/", ".", "..", "/..", "a", "x", "a/x", "../a", "a/..", "/none"];
        ODD.choose(self.rng).copied().unwrap_or("/").to_owned()
    }

    /// Up to two of `words`, with a comma between.
    pub(super) fn options(&mut self, words: &[&str]) -> String {
        let words: Vec<_> = (0..2).filter_map(|_| words.choose(self.rng)).copied().collect();
        words.join(",")
    }
}
