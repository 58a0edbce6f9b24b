//! Calls with arguments that few would give.

use rand::Rng;
use rand::seq::IndexedRandom;

use super::names::{Kind, Names};
use super::paths::Paths;

/// A call with an odd combination of flags, a null or bad pointer, or a descriptor of the wrong kind.
pub(super) fn call(paths: &mut Paths<'_>, names: &Names) -> String {
    let quoted =
        |path: String| if path.starts_with('@') { "\"/a\"".to_owned() } else { format!("\"{path}\"") };
    let (from, to) = (quoted(paths.any()), quoted(paths.mountpoint()));
    let any = [Kind::Tree, Kind::File, Kind::Plain, Kind::Context, Kind::Namespace, Kind::Listing];
    let file = names.any(paths.rng, &any).map_or("-1".to_owned(), |name| format!("@{name}"));
    let bits = 1_u64 << paths.rng.random_range(0..33);
    let path =
        [from.as_str(), "NULL", "BAD", "\"\"", "\"/none\""].choose(paths.rng).copied().unwrap_or("NULL");
    let call = match paths.rng.random_range(0..16) {
        0 => format!("raw mount {from} {to} NULL MS_BIND|{bits} NULL"),
        1 => format!("raw mount {from} {to} NULL MS_MOVE|{bits} NULL"),
        2 => format!("raw mount NULL {to} NULL MS_SHARED|{bits} NULL"),
        3 => format!("raw mount {path} {to} NULL MS_BIND NULL"),
        4 => format!("raw umount2 {to} {bits}"),
        5 => format!("raw open_tree -100 {path} {bits}"),
        6 => format!("raw move_mount -100 {from} -100 {to} {bits}"),
        7 => format!("raw move_mount {file} \"\" -100 {to} MOVE_MOUNT_F_EMPTY_PATH"),
        8 => format!("raw mount_setattr -100 {to} 0 <8:{bits} 8:0 8:0 8:0> 32"),
        9 => format!("raw mount_setattr -100 {to} 0 <8:0 8:0 8:{bits} 8:0> 32"),
        10 => format!("raw mount_setattr {file} \"\" AT_EMPTY_PATH <8:2 8:0 8:0 8:0> 32"),
        11 => format!("raw fsmount {file} 0 0"),
        12 => format!("raw setns {file} CLONE_NEWNS"),
        13 => format!("raw fsconfig {file} 6 NULL NULL 0"),
        14 => format!("raw pivot_root {path} {to}"),
        _ => format!("raw fchdir {file}"),
    };
    // What it returns may be a descriptor, whose number is nobody's business.
    format!("@odd = {call}")
}
