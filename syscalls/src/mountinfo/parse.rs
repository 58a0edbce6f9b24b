//! Reading one line of mountinfo.
//!
//! Strict where the format is fixed (numbers, separators, order of the tags, escapes), because a field read wrongly
//! would rebuild another tree than the one asked for.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use super::{MountInfo, MountOptions, OPTION_WORDS, OptionFlags, PropagationTags};

/// A field of the line, named as in the manual page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub enum Field {
    MountId,
    ParentId,
    Device,
    Root,
    Mountpoint,
    Options,
    Tags,
    Separator,
    FsType,
    Source,
    SuperOptions,
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MountId => "mount id",
            Self::ParentId => "parent id",
            Self::Device => "major:minor",
            Self::Root => "root",
            Self::Mountpoint => "mount point",
            Self::Options => "mount options",
            Self::Tags => "optional fields",
            Self::Separator => "separator ` - `",
            Self::FsType => "file system type",
            Self::Source => "mount source",
            Self::SuperOptions => "super options",
        })
    }
}

/// Why a line is not one of mountinfo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    /// Where.
    pub field: Field,
    /// What is wrong with it.
    pub reason: &'static str,
    /// The text at fault, escaped for printing and cut to a readable length; empty if the field is absent.
    pub found: String,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.reason)?;
        if self.found.is_empty() { Ok(()) } else { write!(f, ": `{}`", self.found) }
    }
}

impl core::error::Error for ParseError {}

/// Bytes of a faulty field that an error shows.
const FOUND_LEN_MAX: usize = 60;

fn error(field: Field, reason: &'static str, found: &[u8]) -> ParseError {
    use alloc::string::ToString;
    let mut text = found[..found.len().min(FOUND_LEN_MAX)].escape_ascii().to_string();
    if found.len() > FOUND_LEN_MAX {
        text.push_str("...");
    }
    ParseError { field, reason, found: text }
}

/// What is left of the line.
struct Rest<'a>(Option<&'a [u8]>);

impl<'a> Rest<'a> {
    /// The text up to the next space, or to the end; an empty word counts as one.
    fn word_or_empty(&mut self, field: Field) -> Result<&'a [u8], ParseError> {
        let rest = self.0.take().ok_or_else(|| error(field, "missing", b""))?;
        match rest.iter().position(|&byte| byte == b' ') {
            Some(space) => {
                self.0 = Some(&rest[space + 1..]);
                Ok(&rest[..space])
            }
            None => Ok(rest),
        }
    }

    fn word(&mut self, field: Field) -> Result<&'a [u8], ParseError> {
        match self.word_or_empty(field)? {
            [] => Err(error(field, "empty", b"")),
            word => Ok(word),
        }
    }
}

pub(super) fn line(line: &[u8]) -> Result<MountInfo, ParseError> {
    let mut rest = Rest(Some(line));
    let id = number(Field::MountId, rest.word(Field::MountId)?)?;
    let parent = number(Field::ParentId, rest.word(Field::ParentId)?)?;
    let (major, minor) = device(rest.word(Field::Device)?)?;
    let root = unescape(Field::Root, rest.word(Field::Root)?)?;
    let mountpoint = unescape(Field::Mountpoint, rest.word(Field::Mountpoint)?)?;
    let options = options(rest.word(Field::Options)?)?;
    let mut tags = Tags::default();
    loop {
        match rest.word(Field::Separator)? {
            b"-" => break,
            word => tags.push(word)?,
        }
    }
    let tags = tags.known;
    let fs_type = unescape(Field::FsType, rest.word(Field::FsType)?)?;
    // The source alone may be empty: the kernel then prints two adjacent spaces.
    let source = unescape(Field::Source, rest.word_or_empty(Field::Source)?)?;
    let super_options = super_options(rest.0)?;
    Ok(MountInfo {
        id,
        parent,
        major,
        minor,
        root,
        mountpoint,
        options,
        tags,
        fs_type,
        source,
        super_options,
    })
}

/// A decimal number as the kernel prints it: no sign, no leading zero.
fn number(field: Field, word: &[u8]) -> Result<u32, ParseError> {
    if word.is_empty() || !word.iter().all(u8::is_ascii_digit) {
        return Err(error(field, "not a number", word));
    }
    if word.len() > 1 && word[0] == b'0' {
        return Err(error(field, "leading zero", word));
    }
    // Digits are UTF-8, so only the size can be wrong.
    let number = core::str::from_utf8(word).ok().and_then(|text| text.parse::<u32>().ok());
    number.filter(|&number| number <= i32::MAX as u32).ok_or_else(|| error(field, "number too large", word))
}

fn device(word: &[u8]) -> Result<(u32, u32), ParseError> {
    let colon = word.iter().position(|&byte| byte == b':');
    let colon = colon.ok_or_else(|| error(Field::Device, "no colon", word))?;
    Ok((number(Field::Device, &word[..colon])?, number(Field::Device, &word[colon + 1..])?))
}

/// Undoes the escapes of one field.
fn unescape(field: Field, word: &[u8]) -> Result<Vec<u8>, ParseError> {
    let mut out = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        match (byte, tail) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..]) => {
                out.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = after;
            }
            (b'\\', _) => return Err(error(field, "a backslash without three octal digits", word)),
            (b'\t' | b'\n', _) => return Err(error(field, "an unescaped tab or newline", word)),
            _ => out.push(byte),
        }
    }
    if out.contains(&0) {
        return Err(error(field, "a zero byte", word));
    }
    Ok(out)
}

fn options(word: &[u8]) -> Result<MountOptions, ParseError> {
    let mut words = word.split(|&byte| byte == b',');
    let mut options = MountOptions::default();
    match words.next() {
        Some(b"rw") => {}
        Some(b"ro") => options.flags = OptionFlags::RDONLY,
        _ => return Err(error(Field::Options, "neither `ro` nor `rw` comes first", word)),
    }
    for option in words {
        match OPTION_WORDS.iter().find(|(_, name)| *name == option) {
            Some((flag, _)) if options.flags.contains(*flag) => {
                return Err(error(Field::Options, "a word stands twice", word));
            }
            Some((flag, _)) => options.flags |= *flag,
            None if matches!(option, b"" | b"ro" | b"rw") => {
                return Err(error(Field::Options, "an empty, `ro` or `rw` word after the first", word));
            }
            None => options.unknown.push(option.to_vec()),
        }
    }
    let mut canonical = Vec::with_capacity(word.len());
    options.write(&mut canonical);
    options.verbatim = (canonical != word).then(|| word.to_vec());
    Ok(options)
}

/// The optional fields read so far, and how far in the kernel's order they have come.
#[derive(Default)]
struct Tags {
    known: PropagationTags,
    rank: u8,
}

impl Tags {
    fn push(&mut self, word: &[u8]) -> Result<(), ParseError> {
        let colon = word.iter().position(|&byte| byte == b':');
        let (name, value) = match colon {
            Some(colon) => (&word[..colon], Some(&word[colon + 1..])),
            None => (word, None),
        };
        let rank = match (name, value) {
            (b"shared", Some(group)) => {
                self.known.shared = Some(peer_group(group)?);
                1
            }
            (b"master", Some(group)) => {
                self.known.master = Some(peer_group(group)?);
                2
            }
            (b"propagate_from", Some(group)) => {
                self.known.propagate_from = Some(peer_group(group)?);
                3
            }
            (b"unbindable", None) => {
                self.known.unbindable = true;
                4
            }
            _ => return Err(error(Field::Tags, "unknown tag", word)),
        };
        if rank <= self.rank {
            return Err(error(Field::Tags, "a tag stands twice or out of order", word));
        }
        self.rank = rank;
        Ok(())
    }
}

fn peer_group(word: &[u8]) -> Result<u32, ParseError> {
    match number(Field::Tags, word)? {
        0 => Err(error(Field::Tags, "peer group 0", word)),
        group => Ok(group),
    }
}

fn super_options(rest: Option<&[u8]>) -> Result<Vec<u8>, ParseError> {
    let rest = rest.ok_or_else(|| error(Field::SuperOptions, "missing", b""))?;
    if rest.last() == Some(&b'\r') {
        return Err(error(Field::SuperOptions, "a carriage return at the end of the line", rest));
    }
    if rest.contains(&b'\n') || rest.contains(&0) {
        return Err(error(Field::SuperOptions, "a newline or zero byte", rest));
    }
    match rest.split(|&byte| byte == b',').next() {
        Some(b"ro" | b"rw") => Ok(rest.to_vec()),
        _ => Err(error(Field::SuperOptions, "neither `ro` nor `rw` comes first", rest)),
    }
}
