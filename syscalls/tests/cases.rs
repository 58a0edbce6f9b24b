//! The scripts in `cases`: what Linux answers, and in `cases/intended` what we answer instead. `cargo xtask oracle
//! --scripts` runs the former on Linux.

use std::fs;
use std::path::{Path, PathBuf};

use oracle::script::{Script, Section};
use oracle::{Model, Session};

fn scripts(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(folder);
    let files = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let mut scripts: Vec<_> =
        files.filter(|path| path.extension().is_some_and(|extension| extension == "case")).collect();
    scripts.sort();
    assert!(!scripts.is_empty());
    scripts
}

fn run(path: &Path) -> Result<(), String> {
    let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
    let script = Script::parse(&text).map_err(|error| format!("{error:#}"))?;
    script
        .sections
        .iter()
        .try_for_each(|section| run_section(section).map_err(|why| format!("{}: {why}", section.title)))
}

fn run_section(section: &Section) -> Result<(), String> {
    let mut session = Session::new(Model::new().map_err(|error| format!("{error:#}"))?);
    section.run(&mut session).map_err(|error| format!("{error:#}"))?;
    let violations = mnt_table::check::check(&session.machine.namespaces()).violations;
    if violations.is_empty() { Ok(()) } else { Err(violations.join("\n")) }
}

#[test]
fn every_script_passes() {
    let paths = [scripts("cases"), scripts("cases/intended")].concat();
    let failed: Vec<String> = paths
        .iter()
        .filter_map(|path| run(path).err().map(|error| format!("{}: {error}", path.display())))
        .collect();
    assert!(failed.is_empty(), "{} of {} scripts fail\n{}", failed.len(), paths.len(), failed.join("\n"));
}
