//! Lines of real kernels print back byte for byte. The files are read where they are present.

use std::path::{Path, PathBuf};

use syscalls::mountinfo::MountInfo;

fn files_below(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.extension().and_then(|extension| extension.to_str()) {
            _ if path.is_dir() => files_below(&path, files),
            Some("txt" | "mountinfo") => files.push(path),
            _ => {}
        }
    }
}

fn check_file(path: &Path) {
    let text = std::fs::read(path).unwrap();
    for (line, number) in text.split(|&byte| byte == b'\n').zip(1..).filter(|(line, _)| !line.is_empty()) {
        let record =
            MountInfo::parse(line).unwrap_or_else(|error| panic!("{}:{number}: {error}", path.display()));
        assert_eq!(record.to_line(), line, "{}:{number}", path.display());
    }
}

#[test]
fn saved_files_print_back_exactly() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/mountinfo");
    if !folder.is_dir() {
        eprintln!("{} is absent: the samples in the unit tests stand alone", folder.display());
        return;
    }
    let mut files = Vec::new();
    files_below(&folder, &mut files);
    assert!(!files.is_empty());
    files.iter().for_each(|path| check_file(path));
}

#[test]
fn the_mounts_of_this_process_print_back_exactly() {
    check_file(Path::new("/proc/self/mountinfo"));
}
