//! The words of the script.

use std::collections::HashMap;
use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};

use anyhow::{Context, Result, bail};
use rustix::fs::{self as rfs, AtFlags, CWD, FileType, Mode, RenameFlags, Timespec, Timestamps, XattrFlags};
use rustix::mm::{MapFlags, ProtFlags, mmap};
use rustix::mount::{
    FsOpenFlags, MountFlags, UnmountFlags, fsconfig_create, fsconfig_set_fd, fsconfig_set_flag,
    fsconfig_set_string, fsopen, mount, mount_remount, unmount,
};

/// What the calls before have left.
pub(super) struct World {
    user_namespace: bool,
    open: HashMap<String, File>,
    maps: HashMap<String, *const u8>,
    numbers: HashMap<String, u64>,
}

/// An answer, or an error's name.
type Answer = io::Result<String>;

const PAGE: usize = 4096;

fn done<T>(result: io::Result<T>) -> Answer {
    result.map(|_| "ok".to_owned())
}

fn answer_of(answer: Answer) -> String {
    answer.unwrap_or_else(|error| match error.raw_os_error() {
        Some(number) => syscalls::Errno::from_raw(number as u32).to_string(),
        None => error.to_string(),
    })
}

fn call<T>(result: rustix::io::Result<T>) -> Answer {
    done(result.map_err(io::Error::from))
}

/// Makes a whiteout.
pub(super) fn whiteout(path: &str) -> rustix::io::Result<()> {
    rfs::mknodat(CWD, path, FileType::CharacterDevice, Mode::empty(), 0)
}

impl World {
    pub(super) fn new(user_namespace: bool) -> Self {
        World { user_namespace, open: HashMap::new(), maps: HashMap::new(), numbers: HashMap::new() }
    }

    /// What a command answers.
    ///
    /// # Errors
    /// No such command.
    pub(super) fn call(&mut self, command: &str) -> Result<String> {
        let words: Vec<&str> = command.split(' ').collect();
        let answer = self.answer(&words).with_context(|| format!("in `{command}`"))?;
        Ok(answer_of(answer))
    }

    fn answer(&mut self, words: &[&str]) -> Result<Answer> {
        Ok(match *words {
            ["mkdir", path] => done(fs::create_dir(path)),
            ["mkdir", path, mode] => {
                done(fs::DirBuilder::new().mode(u32::from_str_radix(mode, 8)?).create(path))
            }
            ["write", path, text] => done(fs::write(path, text)),
            ["append", path, text] => done(
                OpenOptions::new()
                    .append(true)
                    .create(true)
                    .open(path)
                    .and_then(|mut file| file.write_all(text.as_bytes())),
            ),
            ["read", path] => fs::read_to_string(path),
            ["truncate", path, size] => {
                let size = size.parse()?;
                done(OpenOptions::new().write(true).open(path).and_then(|file| file.set_len(size)))
            }
            ["chmod", path, mode] => {
                done(fs::set_permissions(path, fs::Permissions::from_mode(u32::from_str_radix(mode, 8)?)))
            }
            ["touch", path] => call(rfs::utimensat(CWD, path, &times(None), AtFlags::empty())),
            ["times", path, seconds] => {
                call(rfs::utimensat(CWD, path, &times(Some(seconds.parse()?)), AtFlags::empty()))
            }
            ["when", path] => fs::symlink_metadata(path).map(|file| file.mtime().to_string()),
            ["rename", from, to] => done(fs::rename(from, to)),
            ["exchange", from, to] => call(rfs::renameat_with(CWD, from, CWD, to, RenameFlags::EXCHANGE)),
            ["noreplace", from, to] => call(rfs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)),
            ["link", from, to] => done(fs::hard_link(from, to)),
            ["symlink", target, path] => done(std::os::unix::fs::symlink(target, path)),
            ["link-text", path] => fs::read_link(path).map(|target| target.display().to_string()),
            ["unlink", path] => done(fs::remove_file(path)),
            ["rmdir", path] => done(fs::remove_dir(path)),
            ["fifo", path] => call(rfs::mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o644), 0)),
            ["whiteout", path] => call(whiteout(path)),
            ["node", path, device] => {
                let (major, minor) = device.split_once(':').context("no device")?;
                let device = rfs::makedev(major.parse()?, minor.parse()?);
                call(rfs::mknodat(CWD, path, FileType::CharacterDevice, Mode::from_raw_mode(0o644), device))
            }
            ["ls", path] => list(path),
            ["stat", path] => stat(path),
            ["same", one, two] => number(one).and_then(|one| Ok((one == number(two)?).to_string())),
            ["number", path] => number(path).map(|number| {
                let known = *self.numbers.entry(path.to_owned()).or_insert(number);
                if known == number { "as before".to_owned() } else { "another".to_owned() }
            }),
            ["kind", path] => rfs::statfs(path).map(|of| format!("{:x}", of.f_type)).map_err(io::Error::from),
            ["set", path, name, value] => {
                call(rfs::lsetxattr(path, name, value.as_bytes(), XattrFlags::empty()))
            }
            ["set-new", path, name, value] => {
                call(rfs::lsetxattr(path, name, value.as_bytes(), XattrFlags::CREATE))
            }
            ["set-old", path, name, value] => {
                call(rfs::lsetxattr(path, name, value.as_bytes(), XattrFlags::REPLACE))
            }
            ["set-both", path, name, value] => {
                let flags = XattrFlags::CREATE | XattrFlags::REPLACE;
                call(rfs::lsetxattr(path, name, value.as_bytes(), flags))
            }
            ["set-big", path, name, size] => {
                call(rfs::lsetxattr(path, name, &vec![b'x'; size.parse()?], XattrFlags::empty()))
            }
            ["size", path, name] => length(rfs::lgetxattr(path, name, &mut [0_u8; 0])),
            ["room", path, name, size] => length(rfs::lgetxattr(path, name, &mut vec![0_u8; size.parse()?])),
            ["room-list", path, size] => {
                // How long the list is depends on what a security module has added.
                call(rfs::llistxattr(path, &mut vec![0_u8; size.parse()?]))
            }
            ["as", user, ref rest @ ..] => {
                become_user(user.parse()?)?;
                let answer = self.answer(rest);
                become_user(0)?;
                answer?
            }
            ["get", path, name] => attribute(path, name),
            ["unset", path, name] => call(rfs::lremovexattr(path, name)),
            ["list", path] => attributes(path),
            ["opaque", path] => {
                let prefix = if self.user_namespace { "user" } else { "trusted" };
                attribute(path, &format!("{prefix}.overlay.opaque"))
            }
            ["mount", at, options] => self.mount(at, options)?,
            ["mount", at] => self.mount(at, "")?,
            ["fs", ref parameters @ ..] => self.context(parameters),
            ["tmpfs", at] => call(mount("tmpfs", at, "tmpfs", MountFlags::empty(), None)),
            ["tmpfs-of", at, inodes] => {
                let options = CString::new(format!("nr_inodes={inodes}"))?;
                call(mount("tmpfs", at, "tmpfs", MountFlags::empty(), options.as_c_str()))
            }
            ["ramfs", at] => call(mount("ramfs", at, "ramfs", MountFlags::empty(), None)),
            ["umount", at] => call(unmount(at, UnmountFlags::empty())),
            ["remount-ro", at] => call(mount_remount(at, MountFlags::RDONLY, c"")),
            ["remount-rw", at] => call(mount_remount(at, MountFlags::empty(), c"")),
            ["open", slot, path] => self.keep(slot, File::open(path)),
            ["open-tmpfile", slot, path] => {
                let file = OpenOptions::new()
                    .read(true)
                    .write(true)
                    .custom_flags(libc::O_TMPFILE)
                    .mode(0o640)
                    .open(path);
                self.keep(slot, file.and_then(|mut file| file.write_all(b"nameless").map(|()| file)))
            }
            ["name-tmpfile", slot, path] => {
                let file = self.open.get(slot).context("not open")?;
                let from = format!("/proc/self/fd/{}", file.as_raw_fd());
                call(rfs::linkat(CWD, from, CWD, path, AtFlags::SYMLINK_FOLLOW))
            }
            ["read-open", slot] => {
                let file = self.open.get_mut(slot).context("not open")?;
                let mut text = String::new();
                file.seek(SeekFrom::Start(0)).and_then(|_| file.read_to_string(&mut text)).map(|_| text)
            }
            ["close", slot] => {
                drop(self.open.remove(slot));
                self.unmap(slot)
            }
            ["map", slot] => {
                let file = self.open.get(slot).context("not open")?;
                // SAFETY: a mapping of its own, somewhere.
                let map =
                    unsafe { mmap(std::ptr::null_mut(), PAGE, ProtFlags::READ, MapFlags::SHARED, file, 0) };
                done(
                    map.map_err(io::Error::from)
                        .map(|at| self.maps.insert(slot.to_owned(), at.cast::<u8>().cast_const())),
                )
            }
            ["read-map", slot] => {
                let at = *self.maps.get(slot).context("not mapped")?;
                // SAFETY: a page that is mapped, of a file that has not become shorter.
                let bytes = unsafe { std::slice::from_raw_parts(at, PAGE) };
                let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(PAGE);
                Ok(String::from_utf8_lossy(&bytes[..end]).into_owned())
            }
            _ => bail!("no such word"),
        })
    }

    fn mount(&self, at: &str, options: &str) -> Result<Answer> {
        let user = if self.user_namespace { ",userxattr" } else { "" };
        let options = CString::new(format!("{options}{user}"))?;
        Ok(call(mount("overlay", at, "overlay", MountFlags::empty(), options.as_c_str())))
    }

    /// A context with parameters, each a word, `key=value`, or `key=@path` for an open file, and what it says to them.
    fn context(&self, parameters: &[&str]) -> Answer {
        let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        let mut said = Vec::new();
        let user = self.user_namespace.then_some("userxattr");
        for parameter in parameters.iter().copied().chain(user) {
            let set = match parameter.split_once('=') {
                None => fsconfig_set_flag(&context, parameter),
                Some((key, value)) => match value.strip_prefix('@') {
                    Some(path) => fsconfig_set_fd(&context, key, File::open(path)?),
                    None => fsconfig_set_string(&context, key, value),
                },
            };
            said.push(answer_of(call(set)));
            let mut line = [0; 256];
            while let Ok(length) = rustix::io::read(&context, &mut line) {
                said.push(format!("[{}]", String::from_utf8_lossy(&line[..length]).trim_end()));
            }
        }
        said.push(answer_of(call(fsconfig_create(&context))));
        Ok(said.join(", "))
    }

    fn keep(&mut self, slot: &str, file: io::Result<File>) -> Answer {
        done(file.map(|file| self.open.insert(slot.to_owned(), file)))
    }

    fn unmap(&mut self, slot: &str) -> Answer {
        let Some(at) = self.maps.remove(slot) else { return Ok("ok".to_owned()) };
        // SAFETY: mapped before, and nobody has it any more.
        call(unsafe { rustix::mm::munmap(at.cast_mut().cast(), PAGE) })
    }
}

/// When a file is to have been read and changed: then, or now.
fn times(seconds: Option<i64>) -> Timestamps {
    let at = match seconds {
        Some(tv_sec) => Timespec { tv_sec, tv_nsec: 0 },
        None => Timespec { tv_sec: 0, tv_nsec: rfs::UTIME_NOW },
    };
    Timestamps { last_access: at, last_modification: at }
}

fn length(result: rustix::io::Result<usize>) -> Answer {
    result.map(|length| length.to_string()).map_err(io::Error::from)
}

/// Acts as another user, and without the administrator's capabilities, from here on.
fn become_user(user: u32) -> Result<()> {
    // SAFETY: numbers alone; this process has one thread.
    let done = unsafe { libc::seteuid(user) };
    anyhow::ensure!(done == 0, "cannot act as {user}: {}", crate::sys::last_error());
    Ok(())
}

fn number(path: &str) -> io::Result<u64> {
    Ok(fs::symlink_metadata(path)?.ino())
}

fn list(path: &str) -> Answer {
    let mut names = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        let mark = if kind.is_dir() {
            "/"
        } else if kind.is_symlink() {
            "@"
        } else {
            ""
        };
        names.push(format!("{}{mark}", entry.file_name().to_string_lossy()));
    }
    names.sort();
    Ok(names.join(" "))
}

/// What stat(2) tells, but for what is another on each machine.
fn stat(path: &str) -> Answer {
    let file = fs::symlink_metadata(path)?;
    // How many names a whiteout has depends on how many there are.
    if file.mode() & libc::S_IFMT == libc::S_IFCHR && file.rdev() == 0 {
        return Ok("whiteout".to_owned());
    }
    // Whether it is on the device of the overlay.
    let device = fs::metadata("m").is_ok_and(|m| m.dev() == file.dev());
    let (mode, links, uid, gid) = (file.mode(), file.nlink(), file.uid(), file.gid());
    Ok(format!("{mode:o} {links} {uid}:{gid} {} {}", file.size(), if device { "here" } else { "elsewhere" }))
}

fn attribute(path: &str, name: &str) -> Answer {
    let mut value = [0; 64];
    let length = rfs::lgetxattr(path, name, &mut value)?;
    Ok(String::from_utf8_lossy(&value[..length]).into_owned())
}

/// The names of a file's attributes, but for those that a security module may add, and the overlay's own on a layer.
fn attributes(path: &str) -> Answer {
    let mut text = [0; 1024];
    let length = rfs::llistxattr(path, &mut text)?;
    let text = String::from_utf8_lossy(&text[..length]).into_owned();
    let names = text.split('\0').filter(|name| !name.is_empty() && !name.starts_with("security."));
    Ok(names.collect::<Vec<_>>().join(" "))
}
