//! Unpacks an initramfs: newc cpio archives, plain, gzip or zstd, one after the other, with zeroes between them.
//!
//! As Linux does: later files replace earlier ones, `TRAILER!!!` ends an archive and forgets its hard links, directories that
//! an archive does not have are made. What is broken is an error that says where; nothing is guessed.
//!
//! Source: the kernel's description of the initramfs buffer format.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use mnt_table::dentry::Dentry;
use mnt_table::pin;
use tmpfs::{FsError, New, TmpDentry, What, mode};

/// Why an image cannot be unpacked.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Error {
    /// Something else than an archive, at this byte of the image, or of what was compressed.
    NoArchive(usize),
    /// A broken header, at this byte.
    Header(usize),
    /// It ends in the middle of a file.
    Short,
    /// A name that cannot be one.
    Name(usize),
    /// A broken compressed part, at this byte.
    Compressed(usize),
    /// What is compressed is compressed again.
    Nested,
    /// The file system does not take it.
    FileSystem(FsError),
}

impl From<FsError> for Error {
    fn from(error: FsError) -> Self {
        Error::FileSystem(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::NoArchive(at) => write!(f, "initramfs: no newc cpio archive, gzip or zstd at byte {at}"),
            Error::Header(at) => write!(f, "initramfs: a broken cpio header at byte {at}"),
            Error::Short => f.write_str("initramfs: the archive ends in the middle of a file"),
            Error::Name(at) => write!(f, "initramfs: a name that cannot be one at byte {at}"),
            Error::Compressed(at) => write!(f, "initramfs: broken compressed data at byte {at}"),
            Error::Nested => f.write_str("initramfs: compressed data in compressed data"),
            Error::FileSystem(FsError::NoSpace | FsError::NoMemory) => {
                f.write_str("initramfs: larger than what fits into memory")
            }
            Error::FileSystem(error) => write!(f, "initramfs: a file cannot be made: {error:?}"),
        }
    }
}

const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
const NEWC: &[u8] = b"070701";
const NEWC_CRC: &[u8] = b"070702";
const HEADER: usize = 110;
const TRAILER: &[u8] = b"TRAILER!!!";

/// True if `image` begins like something that [`unpack`] knows.
pub(crate) fn is_image(image: &[u8]) -> bool {
    [GZIP, ZSTD, NEWC, NEWC_CRC].iter().any(|magic| image.starts_with(magic))
}

/// Unpacks all of `image` into the file system with this root.
///
/// # Errors
/// What is broken, and where.
pub(crate) fn unpack(image: &[u8], root: &Arc<TmpDentry>) -> Result<(), Error> {
    parts(image, root, false)
}

fn parts(image: &[u8], root: &Arc<TmpDentry>, inside: bool) -> Result<(), Error> {
    let mut at = 0;
    while at < image.len() {
        let rest = &image[at..];
        if rest[0] == 0 {
            at += 1;
        } else if rest.starts_with(NEWC) || rest.starts_with(NEWC_CRC) {
            at += archive(rest, at, root)?;
        } else if inside && (rest.starts_with(GZIP) || rest.starts_with(ZSTD)) {
            return Err(Error::Nested);
        } else if rest.starts_with(GZIP) {
            let (unpacked, used) = gunzip(rest).ok_or(Error::Compressed(at))??;
            parts(&unpacked, root, true)?;
            at += used;
        } else if rest.starts_with(ZSTD) {
            parts(&unzstd(rest).ok_or(Error::Compressed(at))??, root, true)?;
            return Ok(());
        } else {
            return Err(Error::NoArchive(at));
        }
    }
    Ok(())
}

fn grow(bytes: &mut Vec<u8>, more: usize) -> Result<(), Error> {
    bytes.try_reserve(more).map_err(|_| FsError::NoMemory)?;
    bytes.resize(bytes.len() + more, 0);
    Ok(())
}

/// One gzip member: what it holds, and how long it is. `None`: it is broken.
fn gunzip(data: &[u8]) -> Option<Result<(Vec<u8>, usize), Error>> {
    use miniz_oxide::inflate::TINFLStatus;
    use miniz_oxide::inflate::core::{DecompressorOxide, decompress, inflate_flags};
    const DEFLATE: u8 = 8;
    const FIXED: usize = 10;
    const HCRC: u8 = 2;
    const EXTRA: u8 = 4;
    const NAME: u8 = 8;
    const COMMENT: u8 = 16;
    let header = data.get(..FIXED)?;
    if header[2] != DEFLATE {
        return None;
    }
    let mut at = FIXED;
    if header[3] & EXTRA != 0 {
        at += 2 + usize::from(u16::from_le_bytes([*data.get(at)?, *data.get(at + 1)?]));
    }
    for flag in [NAME, COMMENT] {
        if header[3] & flag != 0 {
            at += data.get(at..)?.iter().position(|byte| *byte == 0)? + 1;
        }
    }
    at += if header[3] & HCRC != 0 { 2 } else { 0 };
    let mut unpacked = Vec::new();
    if let Err(error) = grow(&mut unpacked, (data.len() * 4).clamp(65536, 1 << 26)) {
        return Some(Err(error));
    }
    let mut state = alloc::boxed::Box::<DecompressorOxide>::default();
    let mut written = 0;
    loop {
        let flags = inflate_flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
        let (status, used, more) = decompress(&mut state, data.get(at..)?, &mut unpacked, written, flags);
        at += used;
        written += more;
        match status {
            TINFLStatus::Done => break,
            TINFLStatus::HasMoreOutput => {
                let more = unpacked.len();
                if let Err(error) = grow(&mut unpacked, more) {
                    return Some(Err(error));
                }
            }
            _ => return None,
        }
    }
    unpacked.truncate(written);
    let word = |at: usize| Some(u32::from_le_bytes(data.get(at..at + 4)?.try_into().ok()?));
    if word(at)? != crc32fast::hash(&unpacked) || word(at + 4)? != written as u32 {
        return None;
    }
    Some(Ok((unpacked, at + 8)))
}

/// All zstd frames. `None`: broken.
fn unzstd(data: &[u8]) -> Option<Result<Vec<u8>, Error>> {
    use ruzstd::io::Read;
    let mut rest = data;
    let mut unpacked = Vec::new();
    while rest.starts_with(ZSTD) {
        let mut decoder = ruzstd::decoding::StreamingDecoder::new(&mut rest).ok()?;
        loop {
            const CHUNK: usize = 1 << 18;
            let start = unpacked.len();
            if let Err(error) = grow(&mut unpacked, CHUNK) {
                return Some(Err(error));
            }
            let count = decoder.read(&mut unpacked[start..]).ok()?;
            unpacked.truncate(start + count);
            if count == 0 {
                break;
            }
        }
    }
    if rest.iter().any(|byte| *byte != 0) { None } else { Some(Ok(unpacked)) }
}

/// The fields of a header, in their order.
#[derive(Clone, Copy)]
struct Header([u32; 13]);

impl Header {
    fn parse(bytes: &[u8]) -> Option<Header> {
        let mut fields = [0; 13];
        for (field, digits) in fields.iter_mut().zip(bytes.get(6..HEADER)?.chunks(8)) {
            *field = u32::from_str_radix(core::str::from_utf8(digits).ok()?, 16).ok()?;
        }
        Some(Header(fields))
    }

    fn ino(&self) -> (u32, u32, u32) {
        (self.0[0], self.0[7], self.0[8])
    }

    fn mode(&self) -> u32 {
        self.0[1]
    }

    fn owner(&self) -> (u32, u32) {
        (self.0[2], self.0[3])
    }

    fn links(&self) -> u32 {
        self.0[4]
    }

    fn modified_ns(&self) -> i64 {
        i64::from(self.0[5]) * 1_000_000_000
    }

    fn size(&self) -> usize {
        self.0[6] as usize
    }

    fn device(&self) -> u64 {
        super::device_number(self.0[9], self.0[10])
    }

    fn name_size(&self) -> usize {
        self.0[11] as usize
    }
}

/// Files with several names in an archive: device and inode there, and what was made.
type Linked = Vec<((u32, u32, u32), Arc<TmpDentry>)>;

/// One archive; returns its length. `base`: where it begins, for errors.
fn archive(data: &[u8], base: usize, root: &Arc<TmpDentry>) -> Result<usize, Error> {
    let mut links = Linked::new();
    let mut at = 0;
    loop {
        let bytes = data.get(at..at + HEADER).ok_or(Error::Short)?;
        if !bytes.starts_with(NEWC) && !bytes.starts_with(NEWC_CRC) {
            return Err(Error::Header(base + at));
        }
        let header = Header::parse(bytes).ok_or(Error::Header(base + at))?;
        let name_at = at + HEADER;
        let name = data.get(name_at..name_at.saturating_add(header.name_size())).ok_or(Error::Short)?;
        let [name @ .., 0] = name else { return Err(Error::Name(base + name_at)) };
        let body_at = (name_at + header.name_size()).next_multiple_of(4);
        let end = body_at.checked_add(header.size()).ok_or(Error::Short)?;
        if name == TRAILER {
            return Ok(end);
        }
        let body = data.get(body_at..end).ok_or(Error::Short)?;
        file(root, &header, name, body, &mut links).map_err(|error| match error {
            FsError::BadName | FsError::NameTooLong => Error::Name(base + name_at),
            error => Error::FileSystem(error),
        })?;
        at = end.next_multiple_of(4);
    }
}

/// One file.
fn file(
    root: &Arc<TmpDentry>,
    header: &Header,
    path: &[u8],
    body: &[u8],
    links: &mut Linked,
) -> Result<(), FsError> {
    let mut names = path.split(|byte| *byte == b'/').filter(|name| !matches!(*name, b"" | b"."));
    let Some(mut name) = names.next() else {
        // The root itself.
        root.set_permissions(header.mode());
        let (uid, gid) = header.owner();
        root.set_owner(uid, gid);
        return Ok(());
    };
    let mut directory = Arc::clone(root);
    for next in names {
        directory = subdirectory(&directory, name)?;
        name = next;
    }
    let there = directory.lookup(name, &pin()).map(Arc::clone).ok();
    let kind = header.mode() & mode::TYPE;
    let (uid, gid) = header.owner();
    if kind == mode::DIRECTORY
        && let Some(there) = there.as_ref().filter(|there| there.is_dir())
    {
        there.set_permissions(header.mode());
        there.set_owner(uid, gid);
        return Ok(());
    }
    if there.is_some() {
        drop(directory.forget(name));
    }
    let linked = header.links() > 1 && kind != mode::DIRECTORY;
    let made = match links.iter().find(|(ino, _)| linked && *ino == header.ino()) {
        Some((_, first)) => directory.link(name, first)?,
        None => {
            let what = match kind {
                mode::DIRECTORY => What::Directory,
                mode::FILE => What::File,
                mode::SYMLINK => What::Symlink(body),
                mode::CHARACTER | mode::BLOCK => What::Special(kind, header.device()),
                mode::FIFO | mode::SOCKET => What::Special(kind, 0),
                _ => return Err(FsError::NotFile),
            };
            let new = New { what, mode: header.mode() & 0o7777, uid, gid };
            let made = directory.adopt(name, new)?;
            if linked {
                links.try_reserve(1).map_err(|_| FsError::NoMemory)?;
                links.push((header.ino(), Arc::clone(&made)));
            }
            made
        }
    };
    // Of hard links the last one has the contents.
    if kind == mode::FILE && !body.is_empty() {
        made.write_at(0, body)?;
    }
    made.inode()
        .change_times(|times| (times.modified, times.changed) = (header.modified_ns(), header.modified_ns()));
    Ok(())
}

fn subdirectory(directory: &Arc<TmpDentry>, name: &[u8]) -> Result<Arc<TmpDentry>, FsError> {
    let there = directory.lookup(name, &pin()).map(Arc::clone);
    match there {
        Ok(there) if there.is_dir() => Ok(there),
        // A link to a directory, as in archives that have `bin` lead to `usr/bin`.
        Ok(there) => {
            let target = there.symlink().ok_or(FsError::NotDirectory)?;
            let from = if target.starts_with(b"/") { root_of(directory) } else { Arc::clone(directory) };
            let names = target.split(|byte| *byte == b'/').filter(|name| !matches!(*name, b"" | b"."));
            names.into_iter().try_fold(from, |at, name| match name {
                b".." => Err(FsError::BadName),
                name => subdirectory(&at, name),
            })
        }
        Err(_) => directory.adopt(name, New::of(What::Directory)),
    }
}

fn root_of(directory: &Arc<TmpDentry>) -> Arc<TmpDentry> {
    let mut at = Arc::clone(directory);
    loop {
        let up = at.parent(&pin()).map(|(_, parent)| Arc::clone(parent));
        match up {
            Some(up) => at = up,
            None => return at,
        }
    }
}
