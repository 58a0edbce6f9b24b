//! Several processes at once on one overlay, with a few names, so that they meet; and then the same tree once more, from the
//! layers alone.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use anyhow::{Result, ensure};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rustix::fs::{CWD, RenameFlags, renameat_with};

const PROCESSES: u64 = 4;
const OPERATIONS: usize = 1500;
const NAMES: usize = 6;

/// Makes the layers' contents, in `one` and `two`.
pub(super) fn prepare() -> Result<()> {
    for number in 0..NAMES {
        fs::create_dir_all(format!("one/d{number}/e"))?;
        fs::create_dir_all(format!("two/d{number}/f"))?;
        fs::write(format!("one/d{number}/a"), "one")?;
        fs::write(format!("two/d{number}/b"), "two")?;
        fs::write(format!("one/f{number}"), "one")?;
    }
    Ok(())
}

/// Changes the overlay at `m` from several processes at once. Everything may fail; nothing may hang or break.
pub(super) fn run(seed: u64) -> Result<()> {
    let mut children = Vec::new();
    for process in 0..PROCESSES {
        children.push(crate::sys::fork(|| {
            let mut random = SmallRng::seed_from_u64(seed ^ process.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            (0..OPERATIONS).for_each(|_| drop(operation(&mut random)));
            0
        })?);
    }
    for child in children {
        let status = crate::sys::wait(child).map(|(_, status)| status);
        ensure!(status == Some(0), "a process ended with {status:?}");
    }
    Ok(())
}

fn operation(random: &mut SmallRng) -> std::io::Result<()> {
    let file = |random: &mut SmallRng| match random.random_range(0..4) {
        0 => format!("m/d{}/a", random.random_range(0..NAMES)),
        1 => format!("m/d{}/b", random.random_range(0..NAMES)),
        _ => format!("m/f{}", random.random_range(0..NAMES)),
    };
    let directory = |random: &mut SmallRng| match random.random_range(0..3) {
        0 => format!("m/d{}/e", random.random_range(0..NAMES)),
        _ => format!("m/d{}", random.random_range(0..NAMES)),
    };
    let (one, two) = (file(random), file(random));
    let (outer, inner) = (directory(random), directory(random));
    match random.random_range(0..14) {
        0 => fs::write(&one, "new"),
        1 => OpenOptions::new().append(true).open(&one)?.write_all(b"+"),
        2 => fs::remove_file(&one),
        3 => fs::rename(&one, &two),
        4 => fs::hard_link(&one, &two),
        5 => fs::create_dir(&outer),
        6 => fs::remove_dir(&outer),
        7 => fs::remove_dir_all(&outer),
        8 => fs::rename(&outer, &inner),
        9 => Ok(renameat_with(CWD, &one, CWD, &two, RenameFlags::EXCHANGE)?),
        10 => Ok(renameat_with(CWD, &outer, CWD, &one, RenameFlags::EXCHANGE)?),
        11 => fs::set_permissions(&one, Permissions::from_mode(0o600 | random.random_range(0..0o100))),
        12 => fs::read(&one).map(drop),
        _ => fs::read_dir(&outer)?.try_for_each(|entry| entry.and_then(|entry| entry.metadata().map(drop))),
    }
}

/// What there is below `path`: modes and contents.
pub(super) fn tree(path: &Path) -> Result<BTreeMap<String, (u32, Vec<u8>)>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let (at, about) = (entry.path(), entry.metadata()?);
        let contents = if about.is_dir() { Vec::new() } else { fs::read(&at)? };
        if about.is_dir() {
            found.extend(tree(&at)?);
        }
        found.insert(at.display().to_string(), (about.mode(), contents));
    }
    Ok(found)
}
