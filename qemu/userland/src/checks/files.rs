//! Files as they are made and looked at.

use std::fs::{self, File, OpenOptions};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::Path;

use anyhow::{Result, ensure};
use linux_raw_sys::general as abi;
use rustix::fs::{AtFlags, CWD, Mode, chmodat, statat};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::Check;
use crate::sys;

pub(super) const ALL: &[Check] = &[
    ("a new file keeps the set-group-id bit, but for a group that its maker is not in", set_group_id),
    ("who has no number on an id-mapped mount is nobody there, and nobody changes it", nobody),
    ("an empty path is told before the directory is looked at", empty_path),
    ("smaps tells of each mapping how much is there", smaps),
    ("arguments that are out of range are refused", out_of_range),
];

const SET_GID: u32 = 0o2000;

/// Permissions of a file that is made with `mode`, and cut to nothing.
fn made(path: &Path, mode: u32) -> Result<u32> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(path)?;
    Ok(file.metadata()?.mode() & 0o7777)
}

fn set_group_id() -> Result<()> {
    let folder = format!("/tmp/groups-{}", std::process::id());
    let (own, others) = (Path::new(&folder).join("own"), Path::new(&folder).join("others"));
    fs::create_dir_all(&own)?;
    fs::create_dir_all(&others)?;
    for folder in [&own, &others] {
        chown(folder, Some(1000), Some(2000))?;
    }
    fs::set_permissions(&others, fs::Permissions::from_mode(0o2777))?;
    let child = sys::fork(|| {
        // SAFETY: one thread, and nothing rests on who it is.
        let groups = unsafe { libc::setgroups(0, std::ptr::null()) };
        // SAFETY: as above.
        let ids = unsafe { (libc::setresgid(1000, 1000, 1000), libc::setresuid(1000, 1000, 1000)) };
        if (groups, ids) != (0, (0, 0)) {
            return 1;
        }
        let has = |path: &Path, umask: u32| {
            // SAFETY: changes what new files get, and nothing else.
            unsafe { libc::umask(umask) };
            made(path, SET_GID | 0o777).map(|mode| mode & SET_GID != 0).ok()
        };
        let found = [
            has(&own.join("a"), 0),
            has(&others.join("a"), 0),
            // What the umask takes away does not change whether the bit may be given.
            has(&others.join("b"), 0o010),
        ];
        if found == [Some(true), Some(false), Some(false)] { 0 } else { 2 }
    })?;
    let ended = sys::wait(child);
    fs::remove_dir_all(&folder)?;
    ensure!(ended == Some((child, 0)), "{ended:?}");
    Ok(())
}

/// A user namespace in which user and group 1000 are 0, and nobody else is anybody.
fn user_namespace() -> Result<File> {
    let (ready, go) = std::io::pipe()?;
    let child = sys::fork(|| {
        // SAFETY: one thread, and nothing rests on who it is.
        if unsafe { unshare_unsafe(UnshareFlags::NEWUSER) }.is_err() {
            return 1;
        }
        // Its end says that the namespace is there, which lasts until this process is killed.
        drop(go);
        std::thread::sleep(std::time::Duration::from_secs(60));
        1
    })?;
    std::io::read_to_string(ready)?;
    for map in ["uid_map", "gid_map"] {
        fs::write(format!("/proc/{child}/{map}"), "0 1000 1")?;
    }
    let file = File::open(format!("/proc/{child}/ns/user"))?;
    sys::kill(child);
    sys::wait(child);
    Ok(file)
}

fn nobody() -> Result<()> {
    const NOBODY: u32 = 65534;
    let folder = format!("/tmp/nobody-{}", std::process::id());
    fs::create_dir(&folder)?;
    for (name, id) in [("root", 0), ("other", 5)] {
        let path = Path::new(&folder).join(name);
        fs::write(&path, "")?;
        chown(&path, Some(id), Some(id))?;
    }
    let tree = open_tree(CWD, &*folder, OpenTreeFlags::OPEN_TREE_CLONE)?;
    let namespace = user_namespace()?;
    sys::map_ids(tree.as_fd(), namespace.as_fd())?;
    let owner = |name: &str| statat(&tree, name, AtFlags::empty()).map(|stat| (stat.st_uid, stat.st_gid));
    ensure!(owner("root") == Ok((1000, 1000)), "of what is root's: {:?}", owner("root"));
    ensure!(owner("other") == Ok((NOBODY, NOBODY)), "of what is nobody's: {:?}", owner("other"));
    let changed = chmodat(&tree, "other", Mode::RUSR, AtFlags::empty());
    ensure!(changed == Err(Errno::OVERFLOW), "permissions: {changed:?}");
    fs::remove_dir_all(&folder)?;
    Ok(())
}

fn empty_path() -> Result<()> {
    let file = File::open("/proc/self/status")?;
    let changed = chmodat(&file, "", Mode::RUSR, AtFlags::empty());
    ensure!(changed == Err(Errno::NOENT), "{changed:?}");
    let opened = rustix::fs::openat(&file, "", rustix::fs::OFlags::RDONLY, Mode::empty()).map(drop);
    ensure!(opened == Err(Errno::NOENT), "{opened:?}");
    Ok(())
}

fn smaps() -> Result<()> {
    const PAGES: usize = 64;
    let memory = vec![1_u8; PAGES << 12];
    let at = std::hint::black_box(&memory).as_ptr().addr();
    let text = fs::read_to_string("/proc/self/smaps")?;
    let mut inside = false;
    let mut resident = 0;
    for line in text.lines() {
        if let Some((start, end)) = line.split(' ').next().and_then(|range| range.split_once('-')) {
            let number = |text| usize::from_str_radix(text, 16);
            inside = number(start)? <= at && at < number(end)?;
        } else if let Some(rest) = line.strip_prefix("Rss:").filter(|_| inside) {
            resident = rest.trim().trim_end_matches(" kB").parse()?;
        }
    }
    ensure!(resident >= PAGES * 4, "{resident} KiB are there of {}", PAGES * 4);
    ensure!(text.contains("VmFlags: rd"), "no flags are told");
    Ok(())
}

fn out_of_range() -> Result<()> {
    let file =
        File::options().read(true).write(true).create(true).truncate(true).open("/tmp/out-of-range")?;
    let fd = file.as_raw_fd() as usize;
    // SAFETY: numbers, about a file that nobody else has.
    let range = |offset: i64, flags: usize| unsafe {
        sys::call(abi::__NR_sync_file_range, [fd, offset as usize, 1, flags])
    };
    ensure!(range(0, 7) == Ok(0), "all flags: {:?}", range(0, 7));
    ensure!(range(-1, 2) == Err(Errno::INVAL), "before the beginning: {:?}", range(-1, 2));
    ensure!(range(0, 8) == Err(Errno::INVAL), "an unknown flag: {:?}", range(0, 8));
    let pipe = std::io::pipe()?;
    // SAFETY: as above.
    let read = unsafe { sys::call(abi::__NR_readahead, [pipe.0.as_raw_fd() as usize, 0, 1]) };
    ensure!(read == Err(Errno::INVAL), "of a pipe: {read:?}");
    fs::remove_file("/tmp/out-of-range")?;
    Ok(())
}
