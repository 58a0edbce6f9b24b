use alloc::string::ToString;
use alloc::vec;

use proptest::prelude::*;

use super::*;

const HOST: &[u8] = b"\
20 1 0:1 / / rw,relatime shared:5 - ext4 /dev/vda rw
21 20 0:2 / /run rw,nosuid shared:6 - tmpfs tmpfs rw
22 21 0:3 / /run/in rw shared:7 - tmpfs late rw
";
const POD: &[u8] = b"\
30 9 0:4 / / rw,relatime - overlay overlay rw
31 30 0:2 /p /in rw master:6 propagate_from:8 - tmpfs tmpfs rw
32 31 0:3 / /in/in rw master:7 - tmpfs late rw
";

fn read(name: &str, text: &[u8]) -> Namespace {
    Namespace::read(name, name, text).unwrap()
}

fn snapshot() -> Vec<Namespace> {
    vec![read("host", HOST), read("pod", POD)]
}

/// Compares the snapshot with itself after `alter`.
#[track_caller]
fn check(alter: impl FnOnce(&mut Vec<Namespace>), wanted: &[&str]) {
    let mut altered = snapshot();
    alter(&mut altered);
    assert_eq!(compare(&snapshot(), &altered), wanted);
}

#[test]
fn a_snapshot_equals_itself_under_other_numbers() {
    check(|_| (), &[]);
    check(
        |altered| {
            for namespace in altered {
                for mount in &mut namespace.mounts {
                    mount.id += 1000;
                    mount.parent += 1000;
                    for tag in
                        [&mut mount.tags.shared, &mut mount.tags.master, &mut mount.tags.propagate_from]
                    {
                        *tag = tag.map(|group| 500 - group);
                    }
                }
            }
        },
        &[],
    );
}

#[test]
fn an_altered_field_is_named() {
    check(
        |altered| altered[0].mounts[1].mountpoint = b"/runs".to_vec(),
        &["host: line 2: mount point: wanted `/run`, got `/runs`"],
    );
    check(|altered| altered[1].mounts[2].minor = 9, &["pod: line 3: major:minor: wanted `0:3`, got `0:9`"]);
    check(
        |altered| altered[0].mounts[1].options = MountOptions::default(),
        &["host: line 2: mount options: wanted `rw,nosuid`, got `rw`"],
    );
    check(
        |altered| altered[0].mounts[2].tags.unbindable = true,
        &["host: line 3: unbindable: wanted `false`, got `true`"],
    );
    for field in ["root", "file system type", "mount source", "super options"] {
        let mut altered = snapshot();
        let mount = &mut altered[1].mounts[1];
        match field {
            "root" => &mut mount.root,
            "file system type" => &mut mount.fs_type,
            "mount source" => &mut mount.source,
            _ => &mut mount.super_options,
        }
        .push(b'x');
        let differences = compare(&snapshot(), &altered);
        assert_eq!(differences.len(), 1);
        assert!(differences[0].starts_with(&format!("pod: line 2: {field}: wanted ")), "{}", differences[0]);
    }
}

#[test]
fn another_parent_is_seen() {
    check(
        |altered| altered[0].mounts[2].parent = 20,
        &["host: line 3: parent: wanted `line 2`, got `line 1`"],
    );
    check(
        |altered| altered[0].mounts[2].parent = 77,
        &["host: line 3: parent: wanted `line 2`, got `outside the list`"],
    );
    check(
        |altered| altered[1].mounts[0].parent = 30,
        &["pod: line 1: parent: wanted `outside the list`, got `itself`"],
    );
    check(
        |altered| altered[0].mounts[2].id = 21,
        &["host: line 3: parent: wanted `line 2`, got `line 2`"]
            .map(|_| "host: line 3: mount id 21 is that of line 2 too"),
    );
}

#[test]
fn groups_map_one_to_one_over_all_namespaces() {
    // The pod's slave hangs from another group than the host's /run.
    check(
        |altered| altered[1].mounts[1].tags.master = Some(99),
        &["pod: line 2: master: wanted group 6, printed as 6 before, got 99"],
    );
    // Two groups of the input became one.
    check(
        |altered| altered[0].mounts[2].tags.shared = Some(6),
        &[
            "host: line 3: shared: wanted group 7, got 6, which was group 6 before",
            "pod: line 3: master: wanted group 7, printed as 6 before, got 7",
        ],
    );
    check(
        |altered| altered[1].mounts[1].tags.propagate_from = None,
        &["pod: line 2: propagate_from: wanted group 8, got none"],
    );
    check(
        |altered| altered[1].mounts[0].tags.shared = Some(44),
        &["pod: line 1: shared: wanted none, got group 44"],
    );
}

#[test]
fn lines_must_stand_in_the_same_order() {
    let mut altered = snapshot();
    altered[0].mounts.swap(1, 2);
    assert!(!compare(&snapshot(), &altered).is_empty());
}

#[test]
fn missing_and_surplus_lines_and_namespaces_are_listed() {
    check(
        |altered| altered[1].mounts.truncate(2),
        &["pod: missing: 32 31 0:3 / /in/in rw master:7 - tmpfs late rw"],
    );
    check(
        |altered| {
            let again = altered[0].mounts[0].clone();
            altered[0].mounts.push(MountInfo { id: 50, ..again });
        },
        &["host: not asked for: 50 1 0:1 / / rw,relatime shared:5 - ext4 /dev/vda rw"],
    );
    check(|altered| drop(altered.pop()), &["pod: the namespace is missing"]);
    check(
        |altered| {
            let mut again = altered[1].clone();
            altered.push(again.clone());
            again.name = "other".to_string();
            altered.push(again);
        },
        &["pod: the namespace is printed twice", "other: a namespace that was not asked for"],
    );
}

/// One change of a record that mountinfo can show.
fn alter(mount: &mut MountInfo, field: usize) {
    let flip = |group: &mut Option<u32>| *group = group.map_or(Some(999_999), |_| None);
    match field {
        0 => mount.mountpoint.push(b'x'),
        1 => mount.root.push(b'x'),
        2 => mount.fs_type.push(b'x'),
        3 => mount.source.push(b'x'),
        4 => mount.super_options.push(b'x'),
        5 => mount.minor += 1,
        6 => mount.major += 1,
        7 => mount.options.flags ^= syscalls::mountinfo::OptionFlags::NODEV,
        8 => mount.tags.unbindable ^= true,
        9 => flip(&mut mount.tags.shared),
        10 => flip(&mut mount.tags.master),
        11 => flip(&mut mount.tags.propagate_from),
        _ => mount.parent = if mount.parent == mount.id { 999_999 } else { mount.id },
    }
}

proptest! {
    #[test]
    fn one_altered_field_never_passes(namespace: prop::sample::Index, mount: prop::sample::Index, field in 0..13_usize) {
        let forest = crate::pods::node(4);
        let mut altered = forest.namespaces().to_vec();
        let mounts = &mut namespace.get_mut(&mut altered[..]).mounts;
        alter(mount.get_mut(&mut mounts[..]), field);
        prop_assert!(!compare(forest.namespaces(), &altered).is_empty());
    }

    #[test]
    fn renumbering_never_matters(salt in 1..1_000_000_u32) {
        let forest = crate::pods::node(4);
        let mut altered = forest.namespaces().to_vec();
        // Odd factors permute the numbers below a power of two.
        let renumber = |id: u32| id.wrapping_mul(2 * salt + 1) % (1 << 20);
        for mount in altered.iter_mut().flat_map(|namespace| &mut namespace.mounts) {
            (mount.id, mount.parent) = (renumber(mount.id), renumber(mount.parent));
            mount.tags.shared = mount.tags.shared.map(renumber);
            mount.tags.master = mount.tags.master.map(renumber);
        }
        prop_assert_eq!(compare(forest.namespaces(), &altered), [""; 0]);
    }
}
