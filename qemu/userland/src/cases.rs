//! The case files on the kernel underneath: each program of a file on fresh processes.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use oracle::linux::Nursery;
use oracle::script::Script;
use oracle::{Linux, Session, linux};

/// Runs `paths`, files or folders of files. Prints each program that answers otherwise.
pub(crate) fn run(paths: &[PathBuf]) -> Result<bool> {
    linux::prepare()?;
    let nursery = Nursery::on_first()?;
    let mut files = Vec::new();
    for path in paths {
        find(path, &mut files)?;
    }
    ensure!(!files.is_empty(), "there are no case files");
    let (mut programs, mut failed) = (0, 0);
    for file in &files {
        let text =
            std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        for section in Script::parse(&text).with_context(|| file.display().to_string())?.sections {
            programs += 1;
            let machine = Linux::new(&nursery, section.tasks());
            let result = machine.and_then(|machine| section.run(&mut Session::new(machine)));
            if let Err(error) = result {
                failed += 1;
                println!("FAILED {}: {}: {error:#}", file.display(), section.title);
            }
        }
    }
    println!("@cases {} files, {programs} programs, {failed} failures", files.len());
    Ok(failed == 0)
}

/// The case files in `path`, in the order of their names.
fn find(path: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    if !path.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    let entries = std::fs::read_dir(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.retain(|path| path.is_dir() || path.extension().is_some_and(|extension| extension == "case"));
    paths.sort();
    paths.iter().try_for_each(|path| find(path, files))
}
