//! Real mountinfo files load, plan, and survive the image. The files are read where they are present.

use std::path::Path;

use stress::compare::compare;
use stress::forest::{Forest, Namespace};

fn folder() -> Option<std::path::PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/mountinfo");
    if !folder.is_dir() {
        eprintln!("{} is absent: the samples in the unit tests stand alone", folder.display());
        return None;
    }
    Some(folder)
}

fn files(folder: &Path, extension: &str) -> Vec<Namespace> {
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|other| other == extension));
    paths.sort();
    let read = |path: &std::path::PathBuf| {
        let name = path.file_stem().unwrap().to_string_lossy();
        let text = std::fs::read(path).unwrap();
        Namespace::read(&name, &path.to_string_lossy(), &text).unwrap_or_else(|error| panic!("{error}"))
    };
    paths.iter().map(read).collect()
}

fn check(namespaces: Vec<Namespace>) -> Forest {
    let forest = Forest::new(namespaces).unwrap_or_else(|error| panic!("{error}"));
    let again = Forest::from_image(&forest.to_image()).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(compare(forest.namespaces(), again.namespaces()), [""; 0]);
    for (namespace, plan) in forest.namespaces().iter().zip(forest.plan().namespaces) {
        assert_eq!(plan.order.len(), namespace.mounts.len());
    }
    forest
}

#[test]
fn single_machines_load() {
    let Some(folder) = folder() else { return };
    let namespaces = files(&folder, "txt");
    assert!(!namespaces.is_empty());
    for namespace in namespaces {
        check(vec![namespace]);
    }
}

#[test]
fn the_namespaces_of_one_node_load_together() {
    let Some(folder) = folder() else { return };
    let forest = check(files(&folder.join("node"), "mountinfo"));
    assert_eq!(forest.namespaces().len(), 15);
    assert!(forest.plan().groups.iter().all(|group| !group.members.is_empty()), "all masters are in sight");
}

#[test]
fn a_container_alone_needs_stand_ins() {
    let Some(folder) = folder() else { return };
    let mut namespaces = files(&folder.join("node"), "mountinfo");
    namespaces.truncate(1);
    let plan = check(namespaces).plan();
    let stand_ins: Vec<_> =
        plan.groups.iter().filter(|group| group.members.is_empty()).map(|group| group.id).collect();
    assert_eq!(stand_ins, [12, 235]);
}

#[test]
fn the_mounts_of_this_process_load() {
    let text = std::fs::read("/proc/self/mountinfo").unwrap();
    check(vec![Namespace::read("self", "/proc/self/mountinfo", &text).unwrap()]);
}
