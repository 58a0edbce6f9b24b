//! Which of Linux's rules a step shows, as far as that can be told from outside: by the call, its answer, and what the
//! tasks saw before and after. Names of rules are those of case files.
//!
//! A rule that only the inside of a call knows is counted by case files alone.

use super::seen::{Seen, tucked};

/// A rule, an operation and an answer that show it, and what has to hold beside.
type Row = (&'static str, &'static str, &'static str, fn(&Seen<'_>) -> bool);

fn any(_: &Seen<'_>) -> bool {
    true
}

fn is_plain(seen: &Seen<'_>) -> bool {
    seen.target().starts_with('/') && seen.source().starts_with('/')
}

fn is_shared_at_target(seen: &Seen<'_>) -> bool {
    seen.carrier(seen.target()).is_some_and(|line| line.tags.shared.is_some())
}

/// The state of the mount that `path` is in, as the tables of 4.3 call it.
fn state<'a>(seen: &Seen<'_>, path: &str) -> Option<&'a str> {
    let tags = &seen.carrier(path)?.tags;
    Some(match (tags.shared.is_some(), tags.master.is_some(), tags.unbindable) {
        (true, true, _) => "shared+slave",
        (true, false, _) => "shared",
        (false, true, _) => "slave",
        (false, false, true) => "unbindable",
        (false, false, false) => "private",
    })
}

/// The cell of a table of 4.3 that a step is about.
fn cell(seen: &Seen<'_>) -> Option<String> {
    let table = ["bind", "move", "-t"]
        .into_iter()
        .find(|word| seen.is(&format!("mount --{word}")) || *word == "-t" && seen.is("mount -t"))?;
    let parent = if is_shared_at_target(seen) { "shared" } else { "not shared" };
    let known = state(seen, seen.target())?;
    let result = if seen.answer.is_ok() { String::new() } else { format!(": {}", seen.answer) };
    match table {
        "-t" => (seen.answer.is_ok()).then(|| format!("4.3 new on {known}")),
        table => {
            let source = state(seen, seen.source())?;
            // Other reasons than the types are not told apart.
            let counts = seen.answer.is_ok() || source == "unbindable" && seen.answer.to_string() == "EINVAL";
            counts.then(|| format!("4.3 {table} {source} to {parent}{result}"))
        }
    }
}

/// The row of 4.2 that a change of one mount's type is about.
fn change_of_type(seen: &Seen<'_>) -> Option<&'static str> {
    let tags = &seen.mount(seen.target())?.tags;
    let alone = tags.shared.is_some_and(|group| seen.members(group) == 1);
    let to = seen.text().strip_prefix("mount --make-")?.split(' ').next()?;
    Some(match to {
        _ if !seen.answer.is_ok() => return None,
        "shared" => "4.2/1",
        "slave" if tags.shared.is_none() => "4.2/6",
        "slave" if !alone => "4.2/2",
        "slave" if tags.master.is_some() => "4.2/3",
        "slave" => "4.2/4",
        "private" => "4.2/7",
        "unbindable" => "4.2/8",
        _ => return None,
    })
}

const ROWS: &[Row] = &[
    ("2.4", "openat2", "ok", any),
    ("2.4", "openat2", "EXDEV", any),
    ("2.4", "openat2", "ELOOP", any),
    ("2.5/1", "rmdir", "EBUSY", any),
    ("2.5/2", "rename", "EBUSY", any),
    ("2.5/6", "rename", "EXDEV", any),
    ("2.5/4", "rename", "ok", |seen| seen.changes_elsewhere()),
    ("2.5/1", "rmdir", "ok", |seen| seen.changes_elsewhere()),
    ("3.1/4", "mount", "ENOENT", any),
    ("3.1/6", "raw mount", "EINVAL", |seen| {
        ["2147483648", "4294967296"].iter().any(|bit| seen.text().contains(bit))
    }),
    ("3.1/8", "mount", "EPERM", any),
    ("3.2/1", "mount -o", "ok", |seen| seen.text().contains("remount,bind")),
    ("3.2/2", "mount -o", "ok", |seen| !seen.text().contains("bind") && seen.text().contains("remount")),
    ("3.2/3", "mount --bind", "ok", any),
    ("3.2/4", "mount", "ok", |seen| seen.text().starts_with("mount --make-")),
    ("3.2/5", "mount --move", "ok", any),
    ("3.2/6", "mount -t", "ok", any),
    ("3.2", "raw mount", "ok", any),
    ("3.3", "mount -t", "ok", any),
    ("3.3/2", "mount -t", "ENODEV", any),
    ("3.3/4", "mount -t", "EINVAL", |seen| seen.text().contains("nonsense")),
    ("3.3/5", "mount -t", "EPERM", any),
    ("3.3/9", "mount -t", "EINVAL", |seen| {
        !seen.text().contains("nonsense") && seen.target().contains("/fd/")
    }),
    ("3.3/13", "mount -t", "ENOTDIR", any),
    ("3.4", "mount --bind", "ok", any),
    ("3.4", "mount --rbind", "ok", any),
    ("3.4/1", "raw mount", "EINVAL", |seen| seen.text().starts_with("raw mount NULL")),
    ("3.4/2", "mount --bind", "ENOENT", any),
    ("3.4/3", "mount --bind", "EINVAL", |seen| seen.source().contains("/ns/mnt")),
    ("3.4/6", "mount --bind", "EINVAL", |seen| state(seen, seen.source()) == Some("unbindable")),
    ("3.4/7", "mount --bind", "EINVAL", |seen| seen.source().contains("/fd/")),
    ("3.4/8", "mount --bind", "EINVAL", |seen| {
        seen.is_confined
            && is_plain(seen)
            && seen.tree(seen.source()).any(|line| line.mountpoint != seen.source().as_bytes())
    }),
    ("3.4/9", "mount --rbind", "EPERM", any),
    ("3.4/10", "mount --bind", "ENOTDIR", any),
    ("R-top", "mount --bind", "ENOENT", |seen| {
        seen.mount(seen.source()).is_some_and(|line| line.root.ends_with(b"//deleted"))
    }),
    ("R-top", "mount --move", "ENOENT", |seen| {
        seen.mount(seen.source()).is_some_and(|line| line.root.ends_with(b"//deleted"))
    }),
    ("3.5", "mount --move", "ok", any),
    ("3.5/2", "mount --move", "ENOENT", any),
    ("3.5/3", "mount --move", "EINVAL", |seen| seen.is_no_mount(seen.source())),
    ("3.5/6a", "mount --move", "EINVAL", |seen| seen.is_confined && seen.mount(seen.source()).is_some()),
    ("3.5/6b", "mount --move", "EINVAL", |seen| {
        seen.parent(seen.source()).is_some_and(|line| line.tags.shared.is_some())
    }),
    ("3.5/7a", "move_mount", "EINVAL", |seen| {
        seen.source().starts_with('@') && !seen.source().ends_with([':', '.'])
    }),
    ("3.5/7b", "move_mount", "EINVAL", |seen| {
        seen.source().starts_with('@') && seen.target().contains("/fd/")
    }),
    ("3.5/9", "mount --move", "EINVAL", |seen| {
        is_shared_at_target(seen) && seen.tree(seen.source()).any(|line| line.tags.unbindable)
    }),
    ("3.5/10", "move_mount", "ELOOP", |seen| seen.source().starts_with('@')),
    ("3.5/11", "mount --move", "ELOOP", any),
    ("3.6", "mount -o", "ok", |seen| seen.text().contains("remount,bind")),
    ("3.6/2", "mount -o", "EINVAL", |seen| seen.is_no_mount(seen.target()) && seen.text().contains("bind")),
    ("3.6/3", "mount -o", "EPERM", |seen| seen.text().contains("bind")),
    ("3.6/4", "mount -o", "EBUSY", |seen| seen.text().contains("bind")),
    ("3.7", "mount -o", "ok", |seen| !seen.text().contains("bind")),
    ("3.7/5", "mount -o", "EPERM", |seen| !seen.text().contains("bind")),
    ("3.7/7", "mount -o", "EBUSY", |seen| !seen.text().contains("bind")),
    ("3.8", "mount", "ok", |seen| seen.text().starts_with("mount --make-")),
    ("3.8/1", "mount", "EINVAL", |seen| {
        seen.text().starts_with("mount --make-") && seen.is_no_mount(seen.target())
    }),
    ("3.8/2", "raw mount", "EINVAL", |seen| seen.text().contains("MS_SHARED")),
    ("3.8/4", "mount", "EPERM", |seen| seen.text().starts_with("mount --make-")),
    ("3.9", "", "EROFS", any),
    ("T3", "mount --rbind", "ok", |seen| seen.tree(seen.source()).any(|line| line.tags.unbindable)),
    ("T4", "unshare --mount", "ok", |seen| seen.before().iter().any(|line| line.fs_type == b"nsfs")),
    ("T6", "unshare --user --mount", "ok", |seen| {
        seen.before().iter().any(|line| line.tags.shared.is_some())
    }),
    ("4.5", "mount", "ok", |seen| seen.gained() > 1),
    ("4.5/6", "", "ok", |seen| tucked(seen.after()) > tucked(seen.before())),
    ("P6", "mount", "ok", |seen| seen.gained() > 0 && seen.changes_elsewhere()),
    ("4.6", "mount -o", "ok", |seen| {
        seen.text().contains("remount,bind")
            && seen.mount(seen.target()).is_some_and(|line| line.tags.shared.is_some())
    }),
    ("4.7", "umount", "ok", |seen| seen.gained() < -1),
    ("4.7", "umount", "ok", |seen| seen.gained() < 0 && seen.changes_elsewhere()),
    ("C6", "umount", "ok", |seen| seen.gained() < 0 && tucked(seen.after()) < tucked(seen.before())),
    ("C7", "umount -l", "ok", |seen| seen.gained() < -1),
    ("4.9", "", "ok", |seen| seen.after().iter().any(|line| line.tags.propagate_from.is_some())),
    ("5.1", "umount -f", "ok", any),
    ("5.2/1", "raw umount2", "EINVAL", |seen| seen.target().parse::<u64>().is_ok_and(|bits| bits > 8)),
    ("5.2/2", "umount", "ENOENT", any),
    ("5.2/3", "umount", "EPERM", any),
    ("5.2/4", "umount", "EINVAL", |seen| seen.is_no_mount(seen.target())),
    ("5.2/5", "umount", "EINVAL", |seen| seen.target().contains("/fd/")),
    ("5.2/6", "umount", "EINVAL", |seen| {
        seen.is_confined && seen.target() != "/" && seen.mount(seen.target()).is_some()
    }),
    ("5.2/9", "umount --expire", "EINVAL", |seen| seen.target() == "/"),
    ("5.2/10", "umount --expire", "EBUSY", any),
    ("5.2/11", "umount --expire", "EAGAIN", any),
    ("5.4", "umount --expire", "ok", any),
    ("5.2/13", "umount", "ok", |seen| seen.target() == "/" && seen.gained() == 0),
    ("B1", "umount", "EBUSY", |seen| {
        seen.mount(seen.target())
            .is_some_and(|line| seen.before().iter().any(|other| other.parent == line.id))
    }),
    ("B2", "umount", "EBUSY", |seen| {
        let is_leaf = |id| !seen.before().iter().any(|other| other.parent == id);
        seen.mount(seen.target()).is_some_and(|line| is_leaf(line.id))
            && seen.parent(seen.target()).is_some_and(|line| line.tags.shared.is_none())
    }),
    ("B3", "umount", "EBUSY", |seen| {
        let is_leaf = |id| !seen.before().iter().any(|other| other.parent == id);
        seen.mount(seen.target()).is_some_and(|line| is_leaf(line.id))
            && seen.parent(seen.target()).is_some_and(|line| line.tags.shared.is_some())
    }),
    ("L1", "umount -l", "ok", |seen| seen.gained() < 0),
    ("L7", "umount -l", "ok", |seen| seen.changes_elsewhere()),
    ("L4", "mount", "ENOENT", |seen| seen.target() == "."),
    ("6.1/1", "pivot_root", "EPERM", any),
    ("6.1/2", "pivot_root", "ENOENT", any),
    ("6.1/3", "pivot_root", "ENOTDIR", any),
    ("6.1/6", "pivot_root", "EINVAL", |seen| {
        seen.parent(seen.source()).is_some_and(|line| line.tags.shared.is_some())
    }),
    ("6.1/8", "pivot_root", "EINVAL", |seen| seen.is_confined && seen.mount(seen.source()).is_some()),
    ("6.1/10", "pivot_root", "EBUSY", any),
    ("6.1/13", "pivot_root", "EINVAL", |seen| seen.is_no_mount(seen.source())),
    ("6.1/15", "pivot_root", "EINVAL", |seen| is_plain(seen) && !seen.target().starts_with(seen.source())),
    ("6.2", "pivot_root", "ok", any),
    ("6.2/5", "pivot_root", "ok", |seen| seen.before.0.iter().flatten().count() > 1),
    ("6.3", "pivot_root . .", "ok", any),
    ("7.1", "chroot", "ok", any),
    ("7.1", "cd", "ok", any),
    ("7.2", "unshare --mount", "ok", any),
    ("7.2", "fork --mount", "ok", any),
    ("7.2/1", "unshare --flags", "EINVAL", any),
    ("7.2/3", "unshare --mount", "EPERM", any),
    ("7.2/5", "unshare", "ok", |seen| seen.before().iter().any(|line| line.tags.unbindable)),
    ("7.2/6", "unshare", "ok", any),
    ("7.3", "unshare --user --mount", "ok", any),
    ("7.3/1", "umount", "EINVAL", |seen| {
        seen.is_confined && seen.target() != "/" && seen.mount(seen.target()).is_some()
    }),
    ("7.3/2", "move_mount --beneath", "EINVAL", |seen| {
        seen.is_confined && seen.mount(seen.target()).is_some()
    }),
    ("7.3/6", "mount_setattr", "EPERM", |seen| seen.is_confined),
    ("7.3/7", "mount -o", "EPERM", |seen| seen.is_confined),
    ("7.3/10", "umount", "ok", |seen| seen.is_confined && seen.gained() < 0),
    ("7.3/11", "pivot_root", "ok", |seen| seen.is_confined),
    ("7.4", "setns", "ok", any),
    ("7.4/1", "setns", "EBADF", any),
    ("7.4/2", "setns --type", "EINVAL", any),
    ("7.4/3", "setns", "EPERM", any),
    ("7.4/5", "setns", "EINVAL", |seen| !seen.has("--type")),
    ("7.4/6", "setns", "ok", any),
    ("7.5", "ioctl", "ok", any),
    ("7.5", "", "ok", |seen| seen.after().iter().any(|line| line.fs_type == b"nsfs")),
    ("8.2", "fsopen", "ok", any),
    ("8.2", "fsopen", "ENODEV", any),
    ("8.2", "fsopen", "EPERM", any),
    ("8.2", "read", "ok", any),
    ("8.2", "read", "ENODATA", any),
    ("8.3", "fsconfig", "ok", any),
    ("8.3", "fsconfig", "EINVAL", |seen| seen.text().contains("nonsense")),
    ("8.3/4", "raw fsconfig", "EINVAL", any),
    ("8.3/6", "fsconfig", "EBUSY", any),
    ("8.4", "fsmount", "ok", any),
    ("8.4/1", "fsmount", "EPERM", any),
    ("8.4/4", "fsmount", "EINVAL", |seen| seen.text().contains("noatime,strictatime")),
    ("8.4/5", "raw fsmount", "EINVAL", any),
    ("8.4/6", "fsmount", "EINVAL", |seen| !seen.text().contains("atime")),
    ("8.4/8", "fsmount", "EBUSY", any),
    ("8.5", "fspick", "ok", any),
    ("8.5", "fspick", "EINVAL", any),
    ("8.5", "fspick", "EPERM", any),
    ("8.6", "open_tree", "ok", any),
    ("8.6", "open_tree --clone", "ok", any),
    ("8.6/1", "raw open_tree", "EINVAL", any),
    ("8.6/3", "open_tree --clone", "EPERM", any),
    ("8.6/5", "open_tree --clone", "EINVAL", any),
    ("8.7", "open_tree_attr", "ok", any),
    ("8.8", "move_mount", "ok", any),
    ("8.8/1", "move_mount", "EPERM", any),
    ("8.8/2", "raw move_mount", "EINVAL", any),
    ("8.8.1", "move_mount --beneath", "ok", any),
    ("8.8.1/0", "move_mount --beneath", "EINVAL", |seen| seen.is_no_mount(seen.target())),
    ("8.8.1/3", "move_mount --beneath", "EINVAL", |seen| {
        seen.is_confined && seen.mount(seen.target()).is_some()
    }),
    ("8.8.1/5", "move_mount --beneath", "EINVAL", |seen| seen.target() == "/"),
    ("8.8.2", "move_mount --set-group", "ok", any),
    ("8.8.2/3", "move_mount --set-group", "EINVAL", |seen| {
        seen.is_no_mount(seen.source()) || seen.is_no_mount(seen.target())
    }),
    ("8.8.2/4", "move_mount --set-group", "EINVAL", |seen| {
        let devices = [seen.source(), seen.target()].map(|path| seen.mount(path).map(|line| line.minor));
        devices[0].zip(devices[1]).is_some_and(|(from, to)| from != to)
    }),
    ("8.8.2/7", "move_mount --set-group", "EINVAL", |seen| {
        seen.mount(seen.target()).is_some_and(|line| line.tags.shared.is_some() || line.tags.master.is_some())
    }),
    ("8.8.2/8", "move_mount --set-group", "EINVAL", |seen| {
        seen.mount(seen.source()).is_some_and(|line| line.tags.shared.is_none() && line.tags.master.is_none())
    }),
    ("8.9", "mount_setattr", "ok", any),
    ("8.9/4", "mount_setattr", "EPERM", any),
    ("8.9/8", "raw mount_setattr", "EINVAL", any),
    ("8.9/10", "mount_setattr", "EBADF", any),
    ("8.9/12", "mount_setattr", "EINVAL", |seen| seen.is_no_mount(seen.target())),
    ("8.9/13", "mount_setattr", "EINVAL", |seen| seen.target().starts_with('@')),
    ("8.9/14", "mount_setattr", "EPERM", |seen| seen.is_confined),
    ("8.9/15", "mount_setattr", "EPERM", |seen| seen.has("--idmap")),
    ("8.9/16", "mount_setattr", "EBUSY", any),
    ("8.9 idmap", "mount_setattr", "ok", |seen| seen.has("--idmap")),
    ("8.9 idmap", "open_tree_attr", "ok", |seen| seen.has("--idmap")),
    ("8.10", "statmount", "ok", any),
    ("8.10/4", "statmount", "EINVAL", any),
    ("8.10/5", "statmount", "ENOENT", |seen| seen.has("--ns-id")),
    ("8.10/7", "statmount", "EPERM", |seen| seen.has("--ns-id")),
    ("8.10/9", "statmount", "ENOENT", any),
    ("8.10/10", "statmount", "EPERM", any),
    ("8.10/11", "statmount", "EOVERFLOW", any),
    ("8.11", "listmount", "ok", any),
    ("8.11/6", "listmount", "ENOENT", |seen| seen.has("--ns-id")),
    ("8.11/7", "listmount", "ENOENT", any),
    ("8.11/8", "listmount", "EPERM", any),
    ("9.5", "poll", "ok", any),
    ("10.2", "fsconfig", "EPERM", any),
    ("10.3", "mount -t", "EPERM", |seen| seen.text().contains("-t proc")),
    ("O1", "mountpoints", "ok", any),
    ("O2", "", "ok", |seen| {
        seen.after()
            .iter()
            .any(|line| line.mountpoint != b"/" && !seen.after().iter().any(|other| other.id == line.parent))
    }),
    ("O3", "", "ok", |seen| seen.after().windows(2).any(|lines| lines[0].mountpoint == lines[1].mountpoint)),
    ("O4", "", "ok", |seen| tucked(seen.after()) > 0),
];

/// The names of all rules that [`shown`] can tell.
pub(super) fn known() -> impl Iterator<Item = String> {
    const TYPES: [&str; 5] = ["private", "shared", "slave", "shared+slave", "unbindable"];
    const CHANGES: [&str; 7] = ["4.2/1", "4.2/2", "4.2/3", "4.2/4", "4.2/6", "4.2/7", "4.2/8"];
    let new = TYPES.iter().map(|on| format!("4.3 new on {on}"));
    let cells = ["bind", "move"].into_iter().flat_map(|table| {
        TYPES.iter().flat_map(move |source| {
            ["shared", "not shared"].into_iter().map(move |parent| {
                // Those are refused, and a move of one to where nothing is sent is not.
                let refused = *source == "unbindable" && (table == "bind" || parent == "shared");
                format!("4.3 {table} {source} to {parent}{}", if refused { ": EINVAL" } else { "" })
            })
        })
    });
    ROWS.iter().map(|(rule, ..)| (*rule).to_owned()).chain(CHANGES.map(str::to_owned)).chain(new).chain(cells)
}

/// The rules that a step shows, each once.
pub(super) fn shown(seen: &Seen<'_>) -> Vec<String> {
    let answer = if seen.answer.is_ok() { "ok".to_owned() } else { seen.answer.to_string() };
    let fits = |(_, operation, wanted, holds): &&Row| {
        *wanted == answer && (operation.is_empty() || seen.is(operation)) && holds(seen)
    };
    let mut rules: Vec<String> = ROWS.iter().filter(fits).map(|(rule, ..)| (*rule).to_owned()).collect();
    rules.extend(change_of_type(seen).map(str::to_owned));
    rules.extend(cell(seen));
    rules.sort();
    rules.dedup();
    rules
}
