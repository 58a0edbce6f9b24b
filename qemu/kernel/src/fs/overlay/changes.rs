//! Making, removing, renaming: in the upper layer, and in the cache.
//!
//! Every change holds `changing`, under which no copy-up can be done: what is missing in the upper layer is copied before, and
//! a change that still meets something of the kind ([`Missing`]) lets go, copies, and begins again.
//!
//! What takes several steps in the upper layer is seen in one by users of the instance: names that are there are in the cache,
//! and who looks for another one, or lists a directory, waits for `changing` before it believes in what is found.

use alloc::sync::Arc;
use core::cell::RefCell;

use mnt_table::dentry::Dentry;
use mnt_table::list::NoMemory;
use mnt_table::memory;
use mnt_table::namespace::MntNamespace;
use syscalls::Errno;
use tmpfs::{FsError, New, Removed, TmpDentry, What, mode};

use super::copy_up::{copy_up, stored};
use super::entry::{self, Entry};
use super::layers::{Layer, Layers, discard, discard_whiteouts};
use super::lookup::{self, Found, is_below, is_whiteout};
use super::{attributes, listing};
use crate::fs::error;
use crate::fs::kernel::look;
use crate::fs::names::{Refused, removed};
use crate::fs::node::{End, MayRename, Names};
use crate::fs::permission::{EXEC, Subject, WRITE};

/// Who changes the entries of an instance's directories.
pub(super) struct Changes;

/// Files that have to be copied up before a change can be made.
type Missing = RefCell<Option<Arc<TmpDentry>>>;

/// The upper file of `dentry`, or an error that makes the change begin again once it was copied up.
fn need(missing: &Missing, dentry: &Arc<TmpDentry>) -> Result<Arc<TmpDentry>, Errno> {
    match entry::of(dentry)?.upper() {
        Some(upper) => Ok(Arc::clone(upper)),
        None => {
            missing.replace(Some(Arc::clone(dentry)));
            Err(Errno::EAGAIN)
        }
    }
}

/// Makes a change, again until nothing is missing for it.
fn change<T>(make: impl Fn(&Missing) -> Result<T, Errno>) -> Result<T, Errno> {
    let missing = Missing::default();
    loop {
        let made = make(&missing);
        match missing.take() {
            Some(dentry) if made.is_err() => copy_up(&dentry, None)?,
            _ => return made,
        }
    }
}

/// Whether whoever mounted the instance may change entries of a directory of the upper layer.
fn may_change(layers: &Layers, layer: &Layer, directory: &TmpDentry) -> Result<(), Errno> {
    Subject::new(layer.mount(), directory).may_access(&layers.mounter, WRITE | EXEC)
}

/// Does what only memory can be missing for, and what cannot be left half done.
fn surely<T>(work: impl Fn() -> Result<T, FsError>) -> Result<T, Errno> {
    let done = memory::until(|| match work() {
        Err(FsError::NoMemory) => Err(NoMemory),
        done => Ok(done),
    });
    done.map_err(error)
}

/// Renames within the upper layer, and lets go of what is replaced.
fn rename(from: End<'_>, to: End<'_>, own: &Arc<MntNamespace<TmpDentry>>) -> Result<(), FsError> {
    if let Some(gone) = tmpfs::rename(from, to, own)? {
        // Without memory, mounts elsewhere on what is gone stay on a place that nobody finds.
        let _ = removed(&gone);
    }
    Ok(())
}

/// Makes a whiteout in the work directory.
fn make_whiteout(layers: &Layers, name: &[u8]) -> Result<(), Errno> {
    let upper = layers.upper()?;
    let (uid, gid) = stored(&upper.layer, layers.mounter.fsuid, layers.mounter.fsgid)?;
    let new = New { what: What::Special(mode::CHARACTER, 0), mode: 0, uid, gid };
    upper.work.make(name, new).map(drop).map_err(error)
}

/// What `new` is to be in the upper layer, given the directory of the instance that it gets into.
fn inherited<'a>(layer: &Layer, directory: &TmpDentry, new: New<'a>) -> Result<New<'a>, Errno> {
    let New { what, mut mode, uid, mut gid } = new;
    if directory.inode().mode() & mode::SET_GID != 0 {
        gid = directory.inode().owner().1;
        if matches!(what, What::Directory) {
            mode |= mode::SET_GID;
        }
    }
    let (uid, gid) = stored(layer, uid, gid)?;
    Ok(New { what, mode, uid, gid })
}

/// An entry is made of what `make` puts under a name into a directory of the upper layer; `adopt` puts it into the cache. In
/// the place of a whiteout, it is made in the work directory first.
fn add<T>(
    (directory, name): End<'_>,
    make: impl Fn(&Arc<TmpDentry>, &[u8]) -> Result<Arc<TmpDentry>, FsError>,
    adopt: impl Fn(&Entry, &Arc<TmpDentry>) -> Result<T, Errno>,
) -> Result<T, Errno> {
    let entry = entry::of(directory)?;
    let layers = &entry.layers;
    copy_up(directory, None)?;
    let upper = layers.upper()?;
    let above = entry.upper().ok_or(Errno::ENOENT)?;
    let _writing = layers.writing()?;
    may_change(layers, &upper.layer, above)?;
    let _changing = layers.changing.lock();
    if directory.is_removed() {
        return Err(Errno::ENOENT);
    }
    let whiteout = match above.entry(name) {
        Some(there) if is_whiteout(&there) => Some(there),
        Some(_) => return Err(Errno::EEXIST),
        None if lookup::find(entry, name)?.is_some() => return Err(Errno::EEXIST),
        None => None,
    };
    let Some(_) = whiteout else {
        let made = make(above, name).map_err(error)?;
        return adopt(entry, &made).inspect_err(|_| discard(above, name));
    };
    let temporary = layers.temporary();
    let made = make(&upper.work, &temporary).map_err(error)?;
    let opaque = if made.is_dir() { attributes::set_opaque(layers, &made) } else { Ok(()) };
    let placed = opaque.and_then(|()| adopt(entry, &made)).and_then(|adopted| {
        let own = super::own_namespace();
        let (work, place) = ((&upper.work, &*temporary), (above, name));
        let placed = if made.is_dir() {
            tmpfs::exchange(work, place, &own, |_, _| Ok::<_, FsError>(()))
        } else {
            rename(work, place, &own)
        };
        placed.map(|()| adopted).map_err(|failure| {
            discard(directory, name);
            error(failure)
        })
    });
    // What was made, or the whiteout.
    discard(&upper.work, &temporary);
    placed
}

/// Takes an entry of the upper layer away, of the directory `entry`; a whiteout takes its place if a lower layer has one too.
fn remove_upper(
    entry: &Entry,
    (above, name): End<'_>,
    is_directory: bool,
    own: &Arc<MntNamespace<TmpDentry>>,
) -> Result<(), Errno> {
    let layers = &entry.layers;
    let upper = layers.upper()?;
    let there = above.entry(name);
    if is_below(entry, name)? {
        let temporary = layers.temporary();
        make_whiteout(layers, &temporary)?;
        let (work, place) = ((&upper.work, &*temporary), (above, name));
        let placed = if there.is_some_and(|there| there.is_dir()) {
            tmpfs::exchange(work, place, own, |_, _| Ok::<_, FsError>(()))
        } else {
            rename(work, place, own)
        };
        // The directory that was there and its whiteouts, or the whiteout that was not placed.
        discard(&upper.work, &temporary);
        return placed.map_err(error);
    }
    match there {
        None => Ok(()),
        Some(there) => {
            if is_directory {
                discard_whiteouts(&there)?;
            }
            let gone = if is_directory { above.rmdir(name, own) } else { above.unlink(name, own) };
            let _ = removed(&gone.map_err(error)?);
            Ok(())
        }
    }
}

/// Sees to it that what both ends of a rename name is in the cache, if it is anything: nothing else is looked at from there on.
///
/// # Errors
/// `ENOENT`: the first one is nothing. What the lookup says.
fn look_at((one, two): (End<'_>, End<'_>)) -> Result<(), Errno> {
    look(one.0, one.1)?;
    match look(two.0, two.1) {
        Ok(_) | Err(Errno::ENOENT) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Makes sure that a directory of an instance is empty, and so its cache. Context: holds `changing`.
///
/// # Errors
/// `ENOTEMPTY`, `EACCES`, `ENOMEM`.
fn must_be_empty(directory: &Arc<TmpDentry>) -> Result<(), Errno> {
    if !listing::is_empty(entry::of(directory)?, directory)? {
        return Err(Errno::ENOTEMPTY);
    }
    // What is in the cache was taken away behind the instance's back.
    let stale = directory.entries().map_err(error)?;
    stale.iter().for_each(|(name, _)| discard(directory, name));
    Ok(())
}

/// Makes sure that a directory can be renamed: one that a lower layer has cannot.
fn can_move(dentry: &TmpDentry) -> Result<(), Errno> {
    let lower = dentry.is_dir() && !entry::of(dentry)?.lowers.is_empty();
    if lower { Err(Errno::EXDEV) } else { Ok(()) }
}

/// A directory that gets into `to`, which lower layers have too, hides what they have under its new name.
fn hide_below(moved: &Arc<TmpDentry>, upper: &Arc<TmpDentry>, to: &Entry) -> Result<(), Errno> {
    let layers = &to.layers;
    let Ok(layer) = layers.upper() else { return Ok(()) };
    if !moved.is_dir() || to.lowers.is_empty() || attributes::is_opaque(layers, &layer.layer, upper) {
        return Ok(());
    }
    attributes::set_opaque(layers, upper).map_err(|_| Errno::EXDEV)
}

/// The rename in the upper layer, of `moved` over `target` if there is one.
fn rename_upper(
    missing: &Missing,
    (from, to): (End<'_>, End<'_>),
    moved: &Arc<TmpDentry>,
    target: Option<&Arc<TmpDentry>>,
    own: &Arc<MntNamespace<TmpDentry>>,
) -> Result<(), Errno> {
    can_move(moved)?;
    if let Some(target) = target.filter(|target| target.is_dir()) {
        must_be_empty(target)?;
    }
    let old = need(missing, moved)?;
    let (from_above, to_above) = (need(missing, from.0)?, need(missing, to.0)?);
    let (from_entry, to_entry) = (entry::of(from.0)?, entry::of(to.0)?);
    let layers = &from_entry.layers;
    let upper = layers.upper()?;
    may_change(layers, &upper.layer, &from_above)?;
    may_change(layers, &upper.layer, &to_above)?;
    hide_below(moved, &old, to_entry)?;
    let (from_place, to_place) = ((&from_above, from.1), (&to_above, to.1));
    // What may fail comes first: the whiteout, and room for what is moved.
    let whiteout = if is_below(from_entry, from.1)? { Some(layers.temporary()) } else { None };
    if let Some(whiteout) = &whiteout {
        make_whiteout(layers, whiteout)?;
    }
    let clean = |failure: Errno| {
        whiteout.iter().for_each(|whiteout| discard(&upper.work, whiteout));
        failure
    };
    let in_the_way = to_above.entry(to.1).filter(|there| there.is_dir() || moved.is_dir());
    let aside = in_the_way.map(|_| layers.temporary());
    if let Some(aside) = &aside {
        rename(to_place, (&upper.work, aside), own).map_err(|failure| clean(error(failure)))?;
    }
    if let Err(failure) = rename(from_place, to_place, own) {
        if let Some(aside) = &aside {
            surely(|| rename((&upper.work, aside), to_place, own))?;
        }
        return Err(clean(error(failure)));
    }
    if let Some(whiteout) = &whiteout {
        surely(|| rename((&upper.work, whiteout), from_place, own))?;
    }
    aside.iter().for_each(|aside| discard(&upper.work, aside));
    Ok(())
}

impl Names for Changes {
    fn make(&self, at: End<'_>, new: New<'_>) -> Result<Arc<TmpDentry>, Errno> {
        if matches!(new.what, What::Special(mode::CHARACTER, 0)) {
            return Err(Errno::EPERM);
        }
        let (directory, name) = at;
        let layers = &entry::of(directory)?.layers;
        let New { what, mode, uid, gid } = inherited(&layers.upper()?.layer, directory, new)?;
        let make = |into: &Arc<TmpDentry>, name: &[u8]| {
            let what = match &what {
                What::Directory => What::Directory,
                What::Symlink(target) => What::Symlink(target),
                What::Special(kind, device) => What::Special(*kind, *device),
                _ => What::File,
            };
            into.make(name, New { what, mode, uid, gid })
        };
        add(at, make, |entry, made| {
            let found = Found { upper: Some(Arc::clone(made)), ..Found::default() };
            lookup::adopt(entry, directory, name, found)
        })
    }

    fn nameless(&self, directory: &Arc<TmpDentry>, new: New<'_>) -> Result<Arc<TmpDentry>, Errno> {
        let entry = entry::of(directory)?;
        let layers = &entry.layers;
        copy_up(directory, None)?;
        let layer = &layers.upper()?.layer;
        let above = entry.upper().ok_or(Errno::ENOENT)?;
        let _writing = layers.writing()?;
        may_change(layers, layer, above)?;
        let made = above.nameless(inherited(layer, directory, new)?).map_err(error)?;
        let what = lookup::what(entry, Found { upper: Some(made), ..Found::default() })?;
        directory.nameless(New::of(what)).map_err(error)
    }

    fn link(&self, at: End<'_>, of: &Arc<TmpDentry>) -> Result<(), Errno> {
        copy_up(of, None)?;
        let source = entry::of(of)?.upper().ok_or(Errno::ENOENT)?;
        let (directory, name) = at;
        let make = |into: &Arc<TmpDentry>, name: &[u8]| into.link(name, source);
        add(at, make, |_, _| directory.link(name, of).map(drop).map_err(error))
    }

    fn remove(
        &self,
        (directory, name): End<'_>,
        is_directory: bool,
        own: &Arc<MntNamespace<TmpDentry>>,
    ) -> Result<Removed, Errno> {
        let entry = entry::of(directory)?;
        let layers = &entry.layers;
        let _writing = layers.writing()?;
        change(|missing| {
            let _changing = layers.changing.lock();
            let gone = directory.remove_with(name, is_directory, own, |child| {
                if is_directory {
                    must_be_empty(child).map_err(Refused)?;
                }
                let above = need(missing, directory).map_err(Refused)?;
                may_change(layers, &layers.upper().map_err(Refused)?.layer, &above).map_err(Refused)?;
                remove_upper(entry, (&above, name), is_directory, own).map_err(Refused)
            });
            gone.map_err(|refused| refused.0)
        })
    }

    fn rename(
        &self,
        from: End<'_>,
        to: End<'_>,
        own: &Arc<MntNamespace<TmpDentry>>,
        may: MayRename<'_>,
    ) -> Result<Option<Removed>, Errno> {
        let layers = &entry::of(from.0)?.layers;
        let _writing = layers.writing()?;
        change(|missing| {
            look_at((from, to))?;
            let _changing = layers.changing.lock();
            let may = |moved: &_, target: Option<&_>| may(moved, target).map_err(Refused);
            let gone = tmpfs::rename_with(from, to, own, may, |moved, target| {
                rename_upper(missing, (from, to), moved, target, own).map_err(Refused)
            });
            gone.map_err(|refused| refused.0)
        })
    }

    fn exchange(
        &self,
        one: End<'_>,
        two: End<'_>,
        own: &Arc<MntNamespace<TmpDentry>>,
        may: MayRename<'_>,
    ) -> Result<(), Errno> {
        let (one_entry, two_entry) = (entry::of(one.0)?, entry::of(two.0)?);
        let layers = &one_entry.layers;
        let _writing = layers.writing()?;
        let in_upper = |missing: &Missing, first: &Arc<TmpDentry>, second: &Arc<TmpDentry>| {
            can_move(first)?;
            can_move(second)?;
            let (first_upper, second_upper) = (need(missing, first)?, need(missing, second)?);
            let (one_above, two_above) = (need(missing, one.0)?, need(missing, two.0)?);
            let layer = &layers.upper()?.layer;
            may_change(layers, layer, &one_above)?;
            may_change(layers, layer, &two_above)?;
            hide_below(first, &first_upper, two_entry)?;
            hide_below(second, &second_upper, one_entry)?;
            let all = |_: &_, _: Option<&_>| Ok::<_, FsError>(());
            tmpfs::exchange((&one_above, one.1), (&two_above, two.1), own, all).map_err(error)
        };
        change(|missing| {
            look_at((one, two))?;
            let _changing = layers.changing.lock();
            let may = |first: &_, second: Option<&_>| may(first, second).map_err(Refused);
            let done = tmpfs::exchange_with(one, two, own, may, |first, second| {
                in_upper(missing, first, second).map_err(Refused)
            });
            done.map_err(|refused| refused.0)
        })
    }
}
