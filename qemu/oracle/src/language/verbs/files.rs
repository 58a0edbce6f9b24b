//! Files: what makes mounts busy, what walks paths, what is removed under mounts, and what reads like a file.

use super::*;

/// Where a `statx` has the id of the mount.
pub(crate) const STATX_MNT_ID: usize = 0x90;

/// Where a `statx` has the attributes and the mode.
pub(crate) const STATX_ATTRIBUTES: usize = 8;
pub(crate) const STATX_MODE: usize = 0x1c;

/// Bytes of a `statx`.
const STATX_SIZE: usize = 256;

/// Where a `statfs` has the flags, and how large it is.
pub(crate) const STATFS_FLAGS: usize = 80;
const STATFS_SIZE: usize = 120;

/// The operation `verb`, if it is one of these.
pub(super) fn lower(verb: &str, words: &mut Words) -> Result<Option<Op>, String> {
    let path = |words: &mut Words| words.next("a path")?.place();
    let file = |words: &mut Words| words.next("a descriptor")?.value().map(Arg::from);
    let at =
        |nr, place: Place, last: u32| Call::new(nr, [place.directory.into(), place.path, Arg::int(last)]);
    let call = match verb {
        "populate" => return Ok(Some(Op::Calls(populate(&path(words)?)))),
        "ls" => return Ok(Some(Op::List(path(words)?))),
        "lines" => return Ok(Some(Op::Lines(words.next("a descriptor")?.value()?, Column::Whole))),
        "mountpoints" => {
            return Ok(Some(Op::Lines(words.next("a descriptor")?.value()?, Column::Mountpoint)));
        }
        "open" => {
            let (flags, place) = (open_flags(words), path(words)?);
            let place = name_dot(place);
            Call::new(
                abi::__NR_openat,
                [place.directory.into(), place.path, Arg::int(flags), Arg::int(FILE_MODE)],
            )
        }
        "openat2" => {
            let resolve = words.option("--resolve")?.map(|word| flags::bits(&word.lossy(), RESOLVE));
            let (flags, place) = (open_flags(words), path(words)?);
            let mode = if flags & u64::from(abi::O_CREAT) != 0 { u64::from(FILE_MODE) } else { 0 };
            let how = [flags, mode, resolve.transpose()?.unwrap_or(0)];
            let how = Arg::Struct(how.into_iter().map(|field| (8, Value::Int(field))).collect());
            let place = name_dot(place);
            Call::new(abi::__NR_openat2, [place.directory.into(), place.path, how, Arg::int(24_u32)])
        }
        "close" => Call::new(abi::__NR_close, [file(words)?]),
        "dup" => Call::new(abi::__NR_dup, [file(words)?]),
        "fchdir" => Call::new(abi::__NR_fchdir, [file(words)?]),
        "read" => Call::new(abi::__NR_read, [file(words)?, out(4096), Arg::int(4096_u32)]).show(Show::Bytes),
        "write" => {
            let (file, text) = (file(words)?, words.next("a text")?.text);
            let len = text.len() as u32;
            Call::new(abi::__NR_write, [file, Arg::Raw(raw::Arg::Bytes(text)), Arg::int(len)])
        }
        "mmap" => {
            // One page, shared: its address is nobody's business.
            let access = if words.flag("--exec") { 5_u32 } else { 1 };
            let file = file(words)?;
            Call::new(
                abi::__NR_mmap,
                [Arg::ZERO, Arg::int(4096_u32), Arg::int(access), Arg::int(1_u32), file],
            )
        }
        "poll" => {
            const EVENTS: u64 = (abi::POLLIN | abi::POLLPRI | abi::POLLERR) as u64;
            let file = words.next("a descriptor")?.value()?;
            let polled = Arg::Struct(vec![(4, file), (2, Value::Int(EVENTS)), (2, Value::Int(0))]);
            Call::new(abi::__NR_poll, [polled, Arg::int(1_u32)]).show(Show::Poll)
        }
        "mkdir" => at(abi::__NR_mkdirat, path(words)?, DIRECTORY_MODE),
        "touch" => at(abi::__NR_mknodat, path(words)?, REGULAR | FILE_MODE),
        "mknod" => {
            // The null device.
            let place = path(words)?;
            let args = [place.directory.into(), place.path, Arg::int(0o20644_u32), Arg::int(0x103_u32)];
            Call::new(abi::__NR_mknodat, args)
        }
        "unlink" => at(abi::__NR_unlinkat, path(words)?, 0),
        "rmdir" => at(abi::__NR_unlinkat, path(words)?, abi::AT_REMOVEDIR),
        "symlink" => {
            let (target, place) = (words.next("a target")?.string()?, path(words)?);
            Call::new(abi::__NR_symlinkat, [target, place.directory.into(), place.path])
        }
        "rename" | "link" => {
            let flags = words.flags(&[
                ("--no-replace", u64::from(abi::RENAME_NOREPLACE)),
                ("--exchange", u64::from(abi::RENAME_EXCHANGE)),
            ]);
            let nr = if verb == "link" { abi::__NR_linkat } else { abi::__NR_renameat2 };
            let (from, to) = (path(words)?, path(words)?);
            let args = [from.directory.into(), from.path, to.directory.into(), to.path, Arg::int(flags)];
            Call::new(nr, args)
        }
        "getcwd" => Call::new(abi::__NR_getcwd, [out(4096), Arg::int(4096_u32)]).show(Show::Path),
        "readlink" => {
            let place = path(words)?;
            let args = [place.directory.into(), place.path, out(4096), Arg::int(4096_u32)];
            Call::new(abi::__NR_readlinkat, args).show(Show::Bytes)
        }
        "stat" => {
            let flags = words.flags(&[
                ("--no-follow", u64::from(abi::AT_SYMLINK_NOFOLLOW)),
                ("--no-automount", u64::from(abi::AT_NO_AUTOMOUNT)),
            ]);
            statx_with(path(words)?, flags)
        }
        "statfs" => {
            let path = words.next("a path")?.string()?;
            Call::new(abi::__NR_statfs, [path, out(STATFS_SIZE)]).show(Show::StatFs)
        }
        _ => return Ok(None),
    };
    Ok(Some(call.into()))
}

/// The type of a regular file in a mode.
const REGULAR: u32 = 0o100_000;

/// statx(2) of `place`.
pub(super) fn statx_with(place: Place, flags: u64) -> Call {
    const MASK: u32 = abi::STATX_BASIC_STATS | abi::STATX_MNT_ID_UNIQUE;
    let flags = flags | empty(&place, abi::AT_EMPTY_PATH);
    let args = [place.directory.into(), place.path, Arg::int(flags), Arg::int(MASK), out(STATX_SIZE)];
    Call::new(abi::__NR_statx, args).show(Show::Stat)
}

/// statx(2) of `place`, symbolic links followed.
pub(crate) fn statx(place: Place) -> Call {
    statx_with(place, 0)
}

fn open_flags(words: &mut Words) -> u64 {
    words.flags(&[
        ("-r", 0),
        ("-w", u64::from(abi::O_WRONLY)),
        ("-rw", u64::from(abi::O_RDWR)),
        ("--path", u64::from(abi::O_PATH)),
        ("--create", u64::from(abi::O_CREAT)),
        ("--excl", u64::from(abi::O_EXCL)),
        ("--trunc", u64::from(abi::O_TRUNC)),
        ("--directory", u64::from(abi::O_DIRECTORY)),
        ("--no-follow", u64::from(abi::O_NOFOLLOW)),
    ])
}

/// `@t:` is opened as `.`: there is no flag for an empty path.
fn name_dot(place: Place) -> Place {
    if place.is_empty { Place { path: Arg::text("."), is_empty: false, ..place } } else { place }
}
