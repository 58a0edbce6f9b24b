//! Reads an image as Linux does: archives one after the other, plain or compressed, zeroes between them.

use std::collections::BTreeMap;
use std::io::Read;

use flate2::bufread::GzDecoder;
use ruzstd::decoding::StreamingDecoder;

/// What is in an image.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Contents {
    /// Names without a leading `/` or `./`, in the order of the archive.
    pub(crate) names: Vec<Vec<u8>>,
    /// Bytes of all files.
    pub(crate) size: u64,
}

/// Bytes that one archive may unpack to.
const UNPACKED_MAX: u64 = 4 << 30;

/// Compressions and archives that Linux knows and this kernel does not.
const OTHERS: [(&[u8], &str); 7] = [
    (b"\xfd7zXZ", "xz"),
    (b"BZh", "bzip2"),
    (b"\x5d\0\0", "lzma"),
    (b"\x89LZO", "lzo"),
    (b"\x02\x21\x4c\x18", "lz4"),
    (b"070707", "cpio's old ASCII format"),
    (b"\xc7\x71", "cpio's old binary format"),
];

/// Checks an image.
///
/// # Errors
/// Why it cannot be unpacked: one line.
pub(crate) fn check(image: &[u8]) -> Result<Contents, String> {
    let mut contents = Contents::default();
    let mut rest = image;
    loop {
        let zeroes = rest.iter().take_while(|byte| **byte == 0).count();
        rest = &rest[zeroes..];
        let at = image.len() - rest.len();
        if rest.is_empty() {
            return if at == zeroes { Err("there is nothing in it".into()) } else { Ok(contents) };
        }
        if rest.starts_with(b"07070") && !rest.starts_with(b"070707") {
            archive(&mut rest, &mut contents).map_err(|(left, why)| {
                let at = image.len() - left;
                format!("at byte {at}: {why}")
            })?;
            continue;
        }
        let unpacked = match rest {
            [0x1f, 0x8b, ..] => decompress("gzip", GzDecoder::new(&mut rest)),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => match StreamingDecoder::new(&mut rest) {
                Ok(decoder) => decompress("zstd", decoder),
                Err(error) => Err(format!("zstd: {error}")),
            },
            other => Err(match OTHERS.iter().find(|(magic, _)| other.starts_with(magic)) {
                Some((_, name)) => {
                    format!("{name} is not supported: newc cpio, plain or in gzip or zstd, is")
                }
                None => "neither a newc cpio archive nor gzip nor zstd".into(),
            }),
        };
        let unpacked = unpacked.map_err(|why| format!("at byte {at}: {why}"))?;
        let inner = check(&unpacked).map_err(|why| format!("what is compressed at byte {at}: {why}"))?;
        contents.names.extend(inner.names);
        contents.size += inner.size;
    }
}

fn decompress(name: &str, decoder: impl Read) -> Result<Vec<u8>, String> {
    let mut unpacked = Vec::new();
    decoder.take(UNPACKED_MAX).read_to_end(&mut unpacked).map_err(|error| format!("{name}: {error}"))?;
    if unpacked.len() as u64 == UNPACKED_MAX {
        return Err(format!("{name}: it unpacks to {} GiB or more", UNPACKED_MAX >> 30));
    }
    Ok(unpacked)
}

/// Length of an entry's header: a magic number of six digits and thirteen numbers of eight.
const HEADER: usize = 110;

/// Numbers in a header.
const NUMBERS: usize = 13;
/// Those that are used, by position.
const MODE: usize = 1;
const FILE_SIZE: usize = 6;
const NAME_SIZE: usize = 11;
const CHECKSUM: usize = 12;

/// Reads one archive off the front of `rest`.
///
/// This is no work for the `cpio` crate: it takes names in UTF-8 only and does not notice a file that is cut off.
///
/// # Errors
/// What is wrong, and how many bytes were left at the entry where it is.
fn archive(rest: &mut &[u8], contents: &mut Contents) -> Result<(), (usize, String)> {
    let start = *rest;
    let mut sizes = BTreeMap::new();
    loop {
        let here = rest.len();
        // Entries begin at a multiple of four from the start of the archive, and so do their files.
        let bad = |why: &str| (here, why.to_owned());
        let header = rest.get(..HEADER).ok_or_else(|| bad("the archive is cut off in a header"))?;
        let has_checksum = match &header[..6] {
            b"070701" => false,
            b"070702" => true,
            _ => return Err(bad("no header of a newc archive")),
        };
        let number = |index: usize| {
            let digits = &header[6 + 8 * index..][..8];
            let text =
                std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|c| c.is_ascii_hexdigit()));
            text.and_then(|text| u32::from_str_radix(text, 16).ok())
                .ok_or_else(|| bad("a number in a header is none"))
        };
        (0..NUMBERS).try_for_each(|index| number(index).map(drop))?;
        let (name_size, file_size) = (number(NAME_SIZE)? as usize, number(FILE_SIZE)? as usize);
        let name_end = HEADER + name_size;
        let name = rest.get(HEADER..name_end).ok_or_else(|| bad("the archive is cut off in a name"))?;
        let name = name.strip_suffix(b"\0").ok_or_else(|| bad("a name does not end"))?;
        if name == b"TRAILER!!!" {
            let end = (start.len() - here + name_end).next_multiple_of(4);
            *rest = start.get(end..).unwrap_or_default();
            return Ok(());
        }
        let file_start = name_end.next_multiple_of(4);
        let file = rest.get(file_start..file_start + file_size).ok_or_else(|| {
            (here, format!("the archive is cut off in file `{}`", String::from_utf8_lossy(name)))
        })?;
        if has_checksum {
            let sum = file.iter().fold(0_u32, |sum, byte| sum.wrapping_add(u32::from(*byte)));
            let is_file = number(MODE)? & 0o170_000 == 0o100_000;
            if is_file && sum != number(CHECKSUM)? {
                return Err((
                    here,
                    format!("the checksum of file `{}` is wrong", String::from_utf8_lossy(name)),
                ));
            }
        }
        let plain = name.strip_prefix(b"./").unwrap_or(name);
        let plain = plain.iter().position(|byte| *byte != b'/').map_or(&b""[..], |at| &plain[at..]);
        sizes.insert(plain.to_vec(), file_size as u64);
        contents.names.push(plain.to_vec());
        contents.size += file_size as u64;
        *rest = rest.get((file_start + file_size).next_multiple_of(4)..).unwrap_or_default();
        if rest.is_empty() {
            return Err(bad("the archive ends without its trailer"));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;
    use crate::initramfs::Initramfs;

    fn image() -> Vec<u8> {
        let mut image = Initramfs::default();
        image.file("/init", b"hello".to_vec(), 0o755).file("/etc/a", b"x".to_vec(), 0o644);
        image.to_bytes().unwrap()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Uncompressed)
    }

    #[test]
    fn archives_follow_one_another_in_any_form() {
        let one = check(&image()).unwrap();
        assert_eq!(one.names, [&b"etc"[..], b"etc/a", b"init"]);
        assert_eq!(one.size, 6);
        for bytes in [gzip(&image()), zstd(&image()), [image(), vec![0; 512]].concat()] {
            assert_eq!(check(&bytes).unwrap(), one);
        }
        let all = [image(), vec![0; 8], gzip(&image()), zstd(&image()), vec![0; 3]].concat();
        assert_eq!(check(&all).unwrap().names.len(), 9);
    }

    #[test]
    fn what_is_wrong_is_said_in_one_line() {
        let cut = |at: usize| image()[..at].to_vec();
        let mut padded = image();
        padded.resize(512, 0);
        let mut broken = image();
        broken[6] = b'g';
        let mut bad_gzip = gzip(&image());
        let last = bad_gzip.len() - 5;
        bad_gzip[last] ^= 1;
        for (bytes, wanted) in [
            (vec![], "there is nothing in it"),
            (vec![0; 64], "there is nothing in it"),
            (b"hello".to_vec(), "at byte 0: neither a newc cpio archive nor gzip nor zstd"),
            (
                b"\xfd7zXZ\0".to_vec(),
                "at byte 0: xz is not supported: newc cpio, plain or in gzip or zstd, is",
            ),
            (cut(50), "at byte 0: the archive is cut off in a header"),
            (cut(112), "at byte 0: the archive is cut off in a name"),
            (cut(116), "at byte 0: the archive ends without its trailer"),
            (broken, "at byte 0: a number in a header is none"),
            (
                gzip(b"x"),
                "what is compressed at byte 0: at byte 0: neither a newc cpio archive nor gzip nor zstd",
            ),
            ([padded, b"x".to_vec()].concat(), "at byte 512: neither a newc cpio archive nor gzip nor zstd"),
        ] {
            assert_eq!(check(&bytes).unwrap_err(), wanted);
        }
        assert!(check(&bad_gzip).unwrap_err().starts_with("at byte 0: gzip: "));
        assert!(check(&cut(image().len() - 140)).unwrap_err().contains("cut off"));
    }
}
