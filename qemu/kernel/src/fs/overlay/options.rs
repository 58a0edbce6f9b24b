//! What an instance is asked for with, and how that is shown.
//!
//! Linux' options and their values; those that ask for what there is not are refused with a line that says so. A remount
//! changes nothing but flags. A path with a comma can be given to fsconfig(2) alone.
//!
//! Source: Documentation/filesystems/overlayfs.rst.

use alloc::vec::Vec;

use linux_raw_sys::general as abi;
use mnt_table::dentry::Dentry;
use mnt_table::memory::Grow;
use mnt_table::walk::Last;
use mnt_table::{PathRef, pin};
use syscalls::Errno;
use syscalls::context::Log;
use syscalls::file_system::{Parameter, Value};
use tmpfs::TmpDentry;

use super::{entry, no_memory};
use crate::fs::kernel::Call;
use crate::task;

/// Lower layers of an instance.
const LOWERS_MAX: usize = 500;

/// Whether and how redirects are followed, as far as that is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Redirects {
    /// Nobody said.
    #[default]
    Usual,
    Follow,
    NoFollow,
}

/// A directory that was named.
pub(super) struct Named {
    pub(super) at: PathRef<TmpDentry>,
    /// As it was named.
    text: Vec<u8>,
}

/// What was asked for.
#[derive(Default)]
pub(super) struct Options {
    pub(super) lowers: Vec<Named>,
    /// The value of `lowerdir`, if that was given and not one layer after the other.
    lower_text: Option<Vec<u8>>,
    pub(super) upper: Option<Named>,
    pub(super) work: Option<Named>,
    pub(super) user_attributes: bool,
    pub(super) default_permissions: bool,
    pub(super) volatile: bool,
    pub(super) redirects: Redirects,
    /// `uuid`, as it was given.
    pub(super) uuid: Option<&'static str>,
    pub(super) numbers_of_several: bool,
}

fn copy(text: &[u8]) -> Result<Vec<u8>, Errno> {
    let mut copy = Vec::new();
    copy.try_reserve_exact(text.len()).map_err(no_memory)?;
    copy.extend_from_slice(text);
    Ok(copy)
}

/// Takes the backslashes away that make what follows them mean nothing else.
fn unescaped(text: &[u8]) -> Result<Vec<u8>, Errno> {
    let mut plain = Vec::new();
    plain.try_reserve_exact(text.len()).map_err(no_memory)?;
    let mut rest = text.iter();
    while let Some(byte) = rest.next() {
        plain.push(*if *byte == b'\\' { rest.next().unwrap_or(byte) } else { byte });
    }
    Ok(plain)
}

/// The parts of a list between colons.
fn split(text: &[u8]) -> Result<Vec<&[u8]>, Errno> {
    let mut parts: Vec<&[u8]> = Vec::new();
    let (mut start, mut at) = (0, 0);
    while at < text.len() {
        match text[at] {
            b'\\' => at += 1,
            b':' => {
                parts.try_push(&text[start..at]).map_err(no_memory)?;
                start = at + 1;
            }
            _ => {}
        }
        at += 1;
    }
    parts.try_push(&text[start..]).map_err(no_memory)?;
    Ok(parts)
}

/// The directory at `path`, for the running thread.
fn find(path: &[u8]) -> Result<PathRef<TmpDentry>, Errno> {
    let thread = task::current();
    Call::new(&thread).find(abi::AT_FDCWD, path, Last::Follow)
}

/// Whether a file can be in a layer: it is in a file system of memory, or in an instance like this.
fn can_be_layer(dentry: &TmpDentry) -> bool {
    let memory = matches!(dentry.super_block().fs_type(), b"tmpfs" | b"rootfs" | b"ramfs" | b"devtmpfs");
    memory && dentry.handle().is_none() || entry::of(dentry).is_ok()
}

/// Makes sure that a directory can be a layer.
fn check(at: &PathRef<TmpDentry>, name: &[u8], upper: bool, log: &mut Log) -> Result<(), Errno> {
    if !at.dentry.is_dir() {
        log.error(&[b"overlay: ", name, b" is not a directory"]);
        return Err(Errno::EINVAL);
    }
    if !can_be_layer(&at.dentry) {
        log.error(&[b"overlay: filesystem on ", name, b" not supported"]);
        return Err(Errno::EINVAL);
    }
    if upper && at.dentry.handle().is_some() {
        log.error(&[b"overlay: filesystem on ", name, b" not supported as upperdir"]);
        return Err(Errno::EINVAL);
    }
    if upper && at.mount.is_read_only() {
        log.error(&[b"overlay: filesystem on ", name, b" is read-only"]);
        return Err(Errno::EINVAL);
    }
    Ok(())
}

fn bad(key: &[u8], log: &mut Log) -> Errno {
    log.error(&[b"overlay: Bad value for '", key, b"'"]);
    Errno::EINVAL
}

impl Options {
    /// Takes a parameter.
    ///
    /// # Errors
    /// `EINVAL`; those of the walk; `ENOMEM`.
    pub(super) fn set(
        &mut self,
        key: &[u8],
        value: &Value<'_, TmpDentry>,
        log: &mut Log,
    ) -> Result<Parameter, Errno> {
        match key {
            b"lowerdir" => match value {
                Value::String(text) => self.set_lowers(text, log)?,
                _ => return Err(bad(key, log)),
            },
            b"lowerdir+" => {
                let named = Self::directory(key, value, false, log)?;
                if self.lower_text.is_some() {
                    log.error(&[b"overlay: lowerdir+ and datadir+ cannot follow lowerdir"]);
                    return Err(Errno::EINVAL);
                }
                self.add_lower(named, log)?;
            }
            b"upperdir" => self.upper = Some(Self::directory(key, value, true, log)?),
            b"workdir" => self.work = Some(Self::directory(key, value, true, log)?),
            b"userxattr" | b"volatile" | b"default_permissions" | b"override_creds" => {
                if !matches!(value, Value::Flag) {
                    log.error(&[b"overlay: Unexpected value for '", key, b"'"]);
                    return Err(Errno::EINVAL);
                }
                match key {
                    b"userxattr" => self.user_attributes = true,
                    b"volatile" => self.volatile = true,
                    b"default_permissions" => self.default_permissions = true,
                    _ => {}
                }
            }
            b"datadir+" | b"nooverride_creds" => {
                log.error(&[b"overlay: '", key, b"' is not supported"]);
                return Err(Errno::EINVAL);
            }
            b"index" | b"nfs_export" | b"metacopy" | b"verity" | b"redirect_dir" | b"xino" | b"uuid" => {
                let Value::String(text) = value else { return Err(bad(key, log)) };
                self.set_word(key, text, log)?;
            }
            _ => return Ok(Parameter::Unknown),
        }
        Ok(Parameter::Taken)
    }

    /// An option whose values are words.
    fn set_word(&mut self, key: &[u8], text: &[u8], log: &mut Log) -> Result<(), Errno> {
        const UUID: [&str; 4] = ["off", "null", "auto", "on"];
        match (key, text) {
            (b"redirect_dir", b"off" | b"follow") => self.redirects = Redirects::Follow,
            (b"redirect_dir", b"nofollow") => self.redirects = Redirects::NoFollow,
            (b"xino", b"off" | b"auto") => self.numbers_of_several = false,
            (b"xino", b"on") => self.numbers_of_several = true,
            (b"uuid", _) => {
                let known = UUID.into_iter().find(|word| word.as_bytes() == text);
                self.uuid = Some(known.ok_or_else(|| bad(key, log))?);
            }
            (b"index" | b"nfs_export" | b"metacopy" | b"verity", b"off") => {}
            (b"index" | b"nfs_export" | b"metacopy" | b"redirect_dir", b"on")
            | (b"verity", b"on" | b"require") => {
                log.error(&[b"overlay: '", key, b"=", text, b"' is not supported"]);
                return Err(Errno::EINVAL);
            }
            _ => return Err(bad(key, log)),
        }
        Ok(())
    }

    /// The directory that a parameter names.
    fn directory(
        key: &[u8],
        value: &Value<'_, TmpDentry>,
        upper: bool,
        log: &mut Log,
    ) -> Result<Named, Errno> {
        let named = match value {
            Value::String(text) if !text.is_empty() => {
                let path = if upper { unescaped(text)? } else { copy(text)? };
                Named { at: find(&path)?, text: copy(text)? }
            }
            Value::File(file) => {
                let at = file.path().cloned().ok_or(Errno::EINVAL)?;
                let text = crate::fs::names::path_for_proc(&at)?;
                Named { at, text }
            }
            _ => return Err(bad(key, log)),
        };
        check(&named.at, &named.text, upper, log)?;
        Ok(named)
    }

    fn add_lower(&mut self, named: Named, log: &mut Log) -> Result<(), Errno> {
        if self.lowers.len() == LOWERS_MAX {
            log.error(&[b"overlay: too many lower directories, limit is 500"]);
            return Err(Errno::EINVAL);
        }
        self.lowers.try_push(named).map_err(no_memory)?;
        Ok(())
    }

    /// `lowerdir=`: a list, in the place of all that was said before.
    fn set_lowers(&mut self, text: &[u8], log: &mut Log) -> Result<(), Errno> {
        self.lowers.clear();
        self.lower_text = None;
        if text.is_empty() {
            return Ok(());
        }
        let parts = split(text)?;
        // Two colons begin layers of contents alone.
        if parts.len() > LOWERS_MAX || parts.iter().any(|part| part.is_empty()) {
            return Err(Errno::EINVAL);
        }
        for part in parts {
            let path = unescaped(part)?;
            let at = find(&path)?;
            check(&at, &path, false, log)?;
            self.add_lower(Named { at, text: Vec::new() }, log)?;
        }
        self.lower_text = Some(copy(text)?);
        Ok(())
    }

    /// How an instance made of this shows its parameters; `uuid` if that is worth a word.
    pub(super) fn show(&self, without_attributes: bool, uuid: Option<&str>) -> Vec<u8> {
        let mut text = Vec::new();
        let mut word = |key: &[u8], value: &[u8]| {
            text.push(b',');
            text.extend_from_slice(key);
            text.push(b'=');
            escape(value, &mut text);
        };
        match &self.lower_text {
            Some(lowers) => word(b"lowerdir", lowers),
            None => self.lowers.iter().for_each(|lower| word(b"lowerdir+", &lower.text)),
        }
        let upper = self.upper.as_ref();
        if let Some(upper) = upper {
            word(b"upperdir", &upper.text);
            if let Some(work) = &self.work {
                word(b"workdir", &work.text);
            }
        }
        if self.default_permissions {
            text.extend_from_slice(b",default_permissions");
        }
        if self.redirects == Redirects::NoFollow || self.user_attributes || without_attributes {
            text.extend_from_slice(b",redirect_dir=nofollow");
        } else if upper.is_none() {
            text.extend_from_slice(b",redirect_dir=on");
        }
        if let Some(uuid) = uuid {
            text.extend_from_slice(b",uuid=");
            text.extend_from_slice(uuid.as_bytes());
        }
        if self.user_attributes {
            text.extend_from_slice(b",userxattr");
        }
        if self.volatile && upper.is_some() {
            text.extend_from_slice(b",fsync=volatile");
        }
        text
    }
}

/// Bytes of a value that would be taken for something else are shown in octal.
fn escape(value: &[u8], text: &mut Vec<u8>) {
    for byte in value {
        if b",= \t\n\\".contains(byte) {
            text.extend_from_slice(&[b'\\', b'0' + (byte >> 6), b'0' + (byte >> 3 & 7), b'0' + (byte & 7)]);
        } else {
            text.push(*byte);
        }
    }
}

/// Whether `one` is `other` or contains it.
pub(super) fn contains(one: &TmpDentry, other: &TmpDentry) -> bool {
    one.is_ancestor_of(other, &pin())
}
