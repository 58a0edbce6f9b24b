//! Mounts by descriptors.

use rand::Rng;
use rand::seq::IndexedRandom;

use super::Generator;
use super::names::{Kind, Names};
use super::paths::Paths;

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

impl Generator {
    /// Mounts by descriptors.
    pub(super) fn tree_call(&mut self, task: usize, paths: &mut Paths<'_>) -> String {
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
            18..20 => {
                // A tree with the ids of a user namespace, and its way to where it is seen.
                let mut steps = Vec::new();
                let users = match self.confined.choose(paths.rng) {
                    Some(other) if paths.rng.random_bool(0.8) => {
                        let name = names.add(Kind::Users);
                        steps.push(format!("@{name} = open @proc:{{t{other}}}/ns/user"));
                        Some(name)
                    }
                    _ => names.any(paths.rng, &[Kind::Users, Kind::File, Kind::Namespace]),
                };
                let users = users.map_or("-1".to_owned(), |name| format!("@{name}"));
                let (source, tree) = (paths.any(), names.add(Kind::Tree));
                match paths.rng.random_range(0..4) {
                    0 => steps.push(format!("@{tree} = open_tree_attr --clone --idmap {users} {source}")),
                    1 => steps.push(format!("mount_setattr --idmap {users} {}", from(names, paths))),
                    _ => {
                        let all = ["", "-r "].choose(paths.rng).copied().unwrap_or_default();
                        steps.push(format!("@{tree} = open_tree --clone --recursive {source}"));
                        steps.push(format!("mount_setattr {all}--idmap {users} @{tree}:"));
                        steps.push(format!("move_mount @{tree}: {}", paths.any()));
                    }
                }
                let rest = steps.split_off(1);
                self.queue.extend(rest.into_iter().map(|text| (task, text)));
                steps.pop().expect("each way has a step")
            }
            20..23 => {
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
                let create = ["create", "create", "create", "create-excl"];
                let create = create.choose(paths.rng).copied().unwrap_or("create");
                let options = [
                    "",
                    "",
                    "",
                    "-o ro ",
                    "-o nosuid,noatime ",
                    "-o strictatime ",
                    "-o noatime,strictatime ",
                ];
                let options = options.choose(paths.rng).copied().unwrap_or_default();
                let rest = [
                    format!("fsconfig @{context} {create}"),
                    format!("@{tree} = fsmount {options}@{context}"),
                    format!("populate @{tree}:"),
                ];
                self.queue.extend(rest.map(|text| (task, text)));
                let types = ["tmpfs", "tmpfs", "tmpfs", "tmpfs", "tmpfs", "ramfs", "proc"];
                format!("@{context} = fsopen {}", types.choose(paths.rng).copied().unwrap_or("tmpfs"))
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
                Some(name) => {
                    const WHAT: [&str; 10] = [
                        "set-string size 1m",
                        "set-string size nonsense",
                        "set-string source here",
                        "set-string nonsense 1",
                        "set-flag ro",
                        "set-flag nonsense",
                        "set-path size /a",
                        "create",
                        "create-excl",
                        "reconfigure",
                    ];
                    let what = WHAT.choose(paths.rng).copied().unwrap_or("create");
                    match paths.rng.random_range(0..4) {
                        0 => format!("read @{name}"),
                        1 => format!("@{} = fsmount @{name}", names.add(Kind::Tree)),
                        _ => format!("fsconfig @{name} {what}"),
                    }
                }
                None => "@none = fsopen nonsense".to_owned(),
            },
        }
    }
}
