use alloc::format;
use alloc::vec;

use super::*;

fn read(name: &str, text: &str) -> Namespace {
    Namespace::read(name, name, text.as_bytes()).unwrap()
}

fn load(texts: &[(&str, &str)]) -> Result<Forest, LoadError> {
    let read = |(name, text): &(&str, &str)| Namespace::read(name, name, text.as_bytes());
    Forest::new(texts.iter().map(read).collect::<Result<_, _>>()?)
}

#[track_caller]
fn check_error(text: &str, wanted: &str) {
    assert_eq!(load(&[("f", text)]).expect_err(text).to_string(), wanted);
}

/// One machine: a host, a service that receives from it, a container that receives through a group out of sight.
fn machine() -> Forest {
    load(&[
        (
            "host",
            "22 27 0:21 / /proc rw shared:2 - proc proc rw\n\
             27 1 0:20 / / rw shared:1 - ext4 /dev/vda rw\n\
             28 27 0:21 / /p2 rw shared:2 - proc other-name rw\n",
        ),
        (
            "service",
            "30 29 0:20 / / rw,noatime,nosuid shared:3 master:1 - ext4 /dev/vda rw\n\
             31 30 0:21 / /proc rw master:2 - proc proc rw\n\
             32 31 0:22 / /proc rw unbindable - tmpfs t rw\n",
        ),
        (
            "container",
            "41 40 0:23 /c / rw - overlay o rw\n\
             42 41 0:21 /sys//deleted /proc/sys ro master:9 propagate_from:2 - proc proc rw\n\
             43 41 0:4 mnt:[7] /ns rw - nsfs nsfs rw\n\
             44 41 0:21 / /p rw shared:2 - proc proc rw",
        ),
    ])
    .unwrap()
}

#[test]
fn a_plan_knows_parents_superblocks_and_groups() {
    let plan = machine().plan();
    let device = |superblock: &Superblock| (superblock.minor, superblock.fs_type.clone());
    let devices: Vec<_> = plan.superblocks.iter().map(device).collect();
    let wanted = [(21, "proc"), (20, "ext4"), (22, "tmpfs"), (23, "overlay"), (4, "nsfs")];
    assert_eq!(devices, wanted.map(|(minor, fs_type)| (minor, fs_type.as_bytes().to_vec())));

    let [host, service, container] = &plan.namespaces[..] else { panic!("three namespaces") };
    assert_eq!(host.order, [1, 0, 2]);
    assert!(host.hidden_root);
    assert_eq!((host.mounts[0].parent, &*host.mounts[0].at), (Parent::Listed(1), &b"/proc"[..]));
    assert_eq!((host.mounts[1].parent, &*host.mounts[1].at), (Parent::Outside, &b"/"[..]));
    assert_eq!((service.mounts[2].parent, &*service.mounts[2].at), (Parent::Listed(1), &b"/"[..]), "a stack");
    assert_eq!(container.mounts[0].root, Root::Path(b"/c".to_vec()));
    assert_eq!(container.mounts[1].root, Root::Deleted(b"/sys".to_vec()));
    assert_eq!(container.mounts[2].root, Root::Named(b"mnt:[7]".to_vec()));

    let place = |namespace, mount| Place { namespace, mount };
    let ids: Vec<_> = plan.groups.iter().map(|group| group.id).collect();
    assert_eq!(ids, [2, 1, 3, 9]);
    assert_eq!(plan.groups[0].members, [place(0, 0), place(0, 2), place(2, 3)]);
    assert_eq!(plan.groups[0].slaves, [place(1, 1)]);
    let stand_in = &plan.groups[3];
    assert!(stand_in.members.is_empty());
    assert_eq!((stand_in.superblock, stand_in.stand_in_master), (0, Some(0)));
    assert!(plan.groups[..3].iter().all(|group| group.stand_in_master.is_none()));
    assert_eq!((service.mounts[0].group, service.mounts[0].master), (Some(2), Some(1)));
}

#[test]
fn stand_ins_form_the_chain_that_propagate_from_tells() {
    // Group 9 is out of sight. One reader sees 3 above it, another sees 2, which is above 3.
    let forest = load(&[(
        "f",
        "1 1 0:1 / / rw - t s rw\n\
         2 1 0:2 / /a rw shared:2 - t s rw\n\
         3 1 0:2 / /b rw shared:3 master:2 - t s rw\n\
         4 1 0:2 / /c rw master:9 propagate_from:2 - t s rw\n\
         5 1 0:2 / /d rw master:9 propagate_from:3 - t s rw\n",
    )]);
    let plan = forest.unwrap().plan();
    assert_eq!(plan.groups[2].id, 9);
    assert_eq!(plan.groups[2].stand_in_master, Some(1));
    assert!(!plan.namespaces[0].hidden_root);
    assert_eq!(plan.namespaces[0].mounts[0].parent, Parent::Own);
}

#[test]
fn something_can_be_mounted_over_a_root_that_is_its_own_parent() {
    let plan = load(&[("f", "1 1 0:1 / / rw - t s rw\n2 1 0:2 / / rw - t s rw\n")]).unwrap().plan();
    let parents = plan.namespaces[0].mounts.iter().map(|mount| mount.parent).collect::<Vec<_>>();
    assert_eq!(parents, [Parent::Own, Parent::Listed(0)]);
}

#[test]
fn roots_that_are_no_paths_keep_their_text() {
    let forest = load(&[(
        "f",
        "1 0 0:1 /../.. / rw - cgroup2 c rw\n\
         2 1 0:2 /a//deleted /a rw - t s rw\n\
         3 1 0:3 net:[1] /b rw - nsfs n rw\n",
    )]);
    let plan = forest.unwrap().plan();
    let roots: Vec<_> = plan.namespaces[0].mounts.iter().map(|mount| mount.root.clone()).collect();
    let named = |text: &[u8]| Root::Named(text.to_vec());
    assert_eq!(roots, [named(b"/../.."), Root::Deleted(b"/a".to_vec()), named(b"net:[1]")]);
}

#[test]
fn a_chain_through_two_groups_out_of_sight_is_found() {
    // 9 -> 3 -> 8 -> 2, where 9 and 8 are out of sight, and no reader sees more than one link.
    let forest = load(&[
        (
            "a",
            "1 0 0:1 / / rw - t s rw\n\
             2 1 0:2 / /a rw shared:3 master:8 - t s rw\n\
             3 1 0:2 / /b rw master:9 propagate_from:3 - t s rw\n",
        ),
        (
            "b",
            "1 0 0:1 / / rw - t s rw\n\
             2 1 0:2 / /a rw shared:2 - t s rw\n\
             3 1 0:2 / /b rw master:8 propagate_from:2 - t s rw\n",
        ),
    ]);
    let plan = forest.unwrap().plan();
    let master = |id| {
        let group = plan.groups.iter().find(|group| group.id == id)?;
        Some(plan.groups[group.stand_in_master?].id)
    };
    assert_eq!([9, 8, 3, 2].map(master), [Some(3), Some(2), None, None]);
}

#[test]
fn an_image_reads_back() {
    let forest = machine();
    let mut image = forest.to_image();
    let again = Forest::from_image(&image).unwrap();
    assert_eq!(again.to_image(), image);
    assert_eq!(again.plan(), forest.plan());
    assert_eq!(again.mounts(), 10);
    image.extend_from_slice(&[0; 5]);
    assert!(Forest::from_image(&image).is_ok(), "padding");
}

#[test]
fn every_cut_of_an_image_is_an_error() {
    let image = machine().to_image();
    for end in 0..image.len() {
        assert!(Forest::from_image(&image[..end]).is_err(), "cut at {end} of {}", image.len());
    }
}

#[test]
#[rustfmt::skip] // columns
fn a_broken_image_names_its_line() {
    for (image, wanted) in [
        ("forests 1\n", "image:1: not a forest image"),
        ("forest 1\nnamespace a\n", "image:2: neither `namespace NAME MOUNTS` nor `end`"),
        ("forest 1\nnamespace a 1\n1 1 0:1 / / rw - t s rx\nend\n", "image:3: super options: neither `ro` nor `rw` comes first: `rx`"),
        ("forest 1\nnamespace a 1\n1 1 0:1 / x rw - t s rw\nend\n", "image:3: mount point: not an absolute path in plain form"),
        ("forest 1\nend\nmore", "image:3: text after `end`"),
    ] {
        assert_eq!(Forest::from_image(image.as_bytes()).expect_err(image).to_string(), wanted);
    }
}

#[test]
#[rustfmt::skip] // columns
fn each_rule_names_the_line_that_breaks_it() {
    const ROOT: &str = "1 0 0:1 / / rw - t s rw\n";
    check_error("", "f:1: no mounts");
    check_error("1 0 0:1 / / rw - t s rw\n\n", "f:2: mount id: empty");
    check_error("1 0 0:1 / / rw,later - t s rw", "f:1: mount options: this kernel has no `later`");
    check_error(&format!("{ROOT}1 0 0:1 / /a rw - t s rw"), "f:2: mount id 1 stands on line 1 too");
    for path in ["a", "/a/", "//a", "/a/../b", "/a/./b"] {
        check_error(&format!("1 0 0:1 / {path} rw - t s rw"), "f:1: mount point: not an absolute path in plain form");
    }
    check_error("1 0 0:1 / / rw shared:1 unbindable - t s rw", "f:1: optional fields: unbindable and shared");
    check_error("1 0 0:1 / / rw propagate_from:1 - t s rw", "f:1: optional fields: propagate_from without master");
    check_error("1 0 0:1 / / rw master:1 propagate_from:1 - t s rw", "f:1: optional fields: propagate_from is the master itself");
    check_error("1 0 0:1 / / rw shared:1 master:1 - t s rw", "f:1: optional fields: a group is its own master");
    check_error(
        &format!("{ROOT}2 1 0:1 / /a rw - t s rw\n3 2 0:1 / /ab rw - t s rw"),
        "f:3: mount point /ab is not below /a, that of its parent 2",
    );
    check_error(
        &format!("{ROOT}2 1 0:1 / /a rw - t s rw\n3 1 0:1 / /a rw - t s rw"),
        "f:3: line 2 has a mount at /a on the same parent",
    );
    check_error(
        "1 0 0:1 / /a rw - t s rw\n2 9 0:1 / /a rw - t s rw",
        "f:2: line 1 has a mount at /a on the same parent",
    );
    check_error("1 2 0:1 / / rw - t s rw\n2 1 0:1 / / rw - t s rw", "f:1: mount 1 is its own ancestor");
    check_error(
        &format!("{ROOT}2 4 0:1 / /a/b rw - t s rw\n3 4 0:1 / /a rw - t s rw\n4 3 0:1 / /a rw - t s rw"),
        "f:4: mount 4 is its own ancestor",
    );
    check_error(
        "1 1 0:1 / / rw - t s rw\n2 9 0:1 / /a rw - t s rw",
        "f:2: a second root: the mount on line 1 is its own parent or has none",
    );
    check_error(
        &format!("{ROOT}2 1 0:2 / /a rw shared:5 - t s rw\n3 1 0:3 / /b rw master:5 - t s rw"),
        "f:3: peer group 5 is of another superblock on f:2",
    );
    check_error(
        &format!("{ROOT}2 1 0:2 / /a rw shared:5 master:6 - t s rw\n3 1 0:2 / /b rw shared:6 master:5 - t s rw"),
        "f:2: peer group 5 is a master of itself",
    );
    check_error(
        &format!("{ROOT}2 1 0:2 / /a rw shared:5 - t s rw\n3 1 0:2 / /b rw master:5 propagate_from:6 - t s rw"),
        "f:3: propagate_from:6 is no master of group 5",
    );
}

#[test]
fn names_of_namespaces_are_unique_words() {
    const TEXT: &str = "1 0 0:1 / / rw - t s rw";
    assert_eq!(load(&[("a", TEXT), ("a", TEXT)]).unwrap_err().reason, "a second namespace is named `a`");
    assert_eq!(load(&[("a b", TEXT)]).unwrap_err().reason, "`a b` cannot name a namespace");
}

#[test]
fn mounts_are_limited_per_namespace_with_the_hidden_root() {
    let lines = |count: usize, parent: u32| {
        let mut namespace = Namespace::empty("f", "f", 1);
        for id in 0..count as u32 {
            let parent = if id == 0 { parent } else { 0 };
            let path = if id == 0 { String::new() } else { id.to_string() };
            namespace.push(format!("{id} {parent} 0:1 / /{path} rw - t s rw").as_bytes()).unwrap();
        }
        Forest::new(vec![namespace])
    };
    assert!(lines(MOUNTS_MAX, 0).is_ok());
    assert_eq!(
        lines(MOUNTS_MAX + 1, 0).unwrap_err().to_string(),
        "f:100001: too many mounts: 100000 at most"
    );
    assert!(lines(MOUNTS_MAX - 1, i32::MAX as u32).is_ok());
    assert_eq!(
        lines(MOUNTS_MAX, i32::MAX as u32).unwrap_err().to_string(),
        "f:100000: too many mounts: 100000 at most"
    );
}

#[test]
fn views_without_the_roots_parent_load() {
    let forest = load(&[(
        "chroot",
        "15 20 0:3 / /proc rw - proc /proc rw\n\
         16 20 0:15 / /sys rw - sysfs /sys rw\n\
         20 7 0:16 / / rw - ext4 /dev/a rw\n",
    )])
    .unwrap();
    assert_eq!(forest.plan().namespaces[0].order, [2, 0, 1]);
    let plan = load(&[(
        "chroot",
        "15 20 0:3 / /proc rw - proc /proc rw\n\
         16 21 0:15 / /sys rw - sysfs /sys rw\n",
    )])
    .unwrap()
    .plan();
    assert!(plan.namespaces[0].mounts.iter().all(|mount| mount.parent == Parent::Outside));
}

#[test]
fn a_reused_id_gets_a_mount_of_its_own() {
    let namespace = read(
        "f",
        "1 0 0:1 / / rw - t s rw\n\
         2 1 0:2 / /dev/pts rw - t s rw\n\
         3 1 0:3 / /sys rw - t s rw\n\
         3 2 0:4 / /data rw - cifs s rw\n",
    );
    assert_eq!(
        namespace.notices,
        ["f:4: id 3 was reused while the file was read; loaded with a parent outside the list"]
    );
    let plan = Forest::new(vec![namespace]).unwrap().plan();
    assert_eq!(plan.namespaces[0].mounts[3].parent, Parent::Outside);
}

#[test]
fn a_long_stack_is_planned_without_recursion() {
    let mut namespace = Namespace::empty("f", "f", 1);
    for id in 0..50_000 {
        // Line by line the child comes before its parent.
        namespace.push(format!("{id} {} 0:1 / / rw - t s rw", id + 1).as_bytes()).unwrap();
    }
    let plan = Forest::new(vec![namespace]).unwrap().plan();
    assert!(plan.namespaces[0].order.iter().copied().eq((0..50_000).rev()));
}
