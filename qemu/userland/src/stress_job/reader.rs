//! Lookups that know what they must find.
//!
//! - The path of a mount of the forest leads to that mount, its `..` to what it was, and proc shows the path for it: nobody
//!   mounts on these paths, moves these mounts or takes them away.
//! - What is mounted on arenas holds, if it has one, a tag that its maker wrote before it took that name.
//! - mountinfo lists every mount of the forest once, as it was, whatever comes and goes meanwhile.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;

use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rustix::fs::{CWD, Mode, OFlags, openat};

use super::build::World;
use super::place::{Arena, Mark, Place, find, mountinfo, name_of};
use super::shared::{Shared, add};

/// The name of the file with a tag.
pub(crate) const TAG: &str = "tag";
/// How a tag begins.
pub(crate) const TAG_TEXT: &str = "made by ";

/// Lookups in one visit to a place.
const LOOKUPS: usize = 256;

/// A visit to a place: this process must be in it.
pub(crate) fn visit(world: &World, place: &Place, rng: &mut SmallRng, shared: &Shared) {
    for _ in 0..LOOKUPS {
        let result = match rng.random_range(0..8) {
            0 => place.arenas.choose(rng).map_or(Ok(()), arena),
            _ => place.marks.choose(rng).map_or(Ok(()), |found| mark(found, &world.proc)),
        };
        if let Err(text) = result {
            shared.violation(&format!("{}: {text}", place.name));
        }
    }
    add(&shared.lookups, LOOKUPS as u64);
    if rng.random_ratio(1, 8)
        && let Err(text) = list(world, place)
    {
        shared.violation(&format!("{}: {text}", place.name));
    }
}

/// A mount of the forest.
pub(crate) fn mark(mark: &Mark, proc: &OwnedFd) -> Result<(), String> {
    let shown = mark.path.display();
    let (fd, found) = find(CWD, &mark.path).map_err(|error| format!("{shown}: {error}"))?;
    if found != mark.found {
        return Err(format!("{shown} leads to {found:?} instead of {:?}", mark.found));
    }
    let (_, above) = find(&fd, "..").map_err(|error| format!("{shown}/..: {error}"))?;
    if above.file != mark.above {
        return Err(format!("{shown}/.. is {:?} instead of {:?}", above.file, mark.above));
    }
    let name = name_of(&fd, proc).map_err(|error| format!("{shown}: its name: {error}"))?;
    if name != mark.name {
        return Err(format!("{shown} is called {}", name.escape_ascii()));
    }
    Ok(())
}

/// What is on an arena: whatever it is, its tag is whole.
fn arena(arena: &Arena) -> Result<(), String> {
    let path = arena.path.join(TAG);
    tag(&path)
}

/// Reads a tag, if there is one.
pub(crate) fn tag(path: &Path) -> Result<(), String> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    // Gone, or never there.
    let Ok(file) = openat(CWD, path, flags, Mode::empty()) else { return Ok(()) };
    let mut text = String::new();
    let shown = path.display();
    std::fs::File::from(file).read_to_string(&mut text).map_err(|error| format!("{shown}: {error}"))?;
    let whole = text.strip_prefix(TAG_TEXT).is_some_and(|rest| rest.ends_with('\n'));
    if whole { Ok(()) } else { Err(format!("{shown} holds {text:?}")) }
}

/// Every mount of the forest is listed once, as it was.
///
/// Ids of other mounts can be listed twice: the file is read in pieces, and between two of them an id can go to a new mount.
fn list(world: &World, place: &Place) -> Result<(), String> {
    let lines = mountinfo(&world.proc).map_err(|error| format!("{error:#}"))?;
    for wanted in &place.lines {
        let mut listed = lines.iter().filter(|line| line.id == wanted.id);
        match (listed.next(), listed.next()) {
            (Some(line), None) if line == wanted => {}
            (Some(line), None) => return Err(format!("mountinfo: `{line}` instead of `{wanted}`")),
            (Some(_), Some(_)) => return Err(format!("mountinfo lists mount {} twice", wanted.id)),
            (None, _) => return Err(format!("mountinfo lacks `{wanted}`")),
        }
    }
    Ok(())
}
