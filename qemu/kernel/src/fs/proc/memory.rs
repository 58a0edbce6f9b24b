//! Files about a process's memory: its arguments, its mappings, the memory itself.

use alloc::sync::Arc;
use alloc::vec::Vec;

use syscalls::Errno;

use super::directory::{say, say_bytes};
use super::process::Target;
use crate::fs::copy::{Sink, Source};
use crate::fs::file::{FileOps, OpenFile, Whence};
use crate::fs::node::Opened;
use crate::mm::space::{AddressSpace, AreaView, Prot, Role};

/// Bytes that are copied at a time.
const CHUNK: usize = 512;
/// The most bytes of arguments or environment that are shown.
const STRINGS_MAX: usize = 1 << 20;
/// Where the name of a mapping begins in its line.
const NAME_COLUMN: usize = 73;

fn space(target: &Target) -> Option<Arc<AddressSpace>> {
    target.thread().ok()?.space()
}

/// Appends the memory from `from` to `to`.
fn copy(space: &AddressSpace, from: usize, to: usize, out: &mut Vec<u8>) -> Result<(), Errno> {
    let mut at = from;
    let end = to.min(from.saturating_add(STRINGS_MAX));
    while at < end {
        let mut chunk = [0; CHUNK];
        let wanted = (end - at).min(CHUNK);
        let count = space.read_other(at, &mut chunk[..wanted]);
        say_bytes(out, &chunk[..count])?;
        if count < wanted {
            break;
        }
        at += count;
    }
    Ok(())
}

pub(super) fn cmdline(target: &Target, out: &mut Vec<u8>) -> Result<(), Errno> {
    let Some(space) = space(target) else { return Ok(()) };
    let layout = space.layout();
    copy(&space, layout.arg_start, layout.arg_end, out)?;
    // A program that writes over its arguments says where they end now by leaving no zero there.
    if out.last().is_some_and(|last| *last != 0) {
        copy(&space, layout.env_start, layout.env_end, out)?;
        if let Some(end) = out.iter().position(|byte| *byte == 0) {
            out.truncate(end + 1);
        }
    }
    Ok(())
}

pub(super) fn environ(target: &Target, out: &mut Vec<u8>) -> Result<(), Errno> {
    let Some(space) = space(target) else { return Ok(()) };
    let layout = space.layout();
    copy(&space, layout.env_start, layout.env_end, out)
}

pub(super) fn auxv(target: &Target, out: &mut Vec<u8>) -> Result<(), Errno> {
    let Some(space) = space(target) else { return Ok(()) };
    let layout = space.layout();
    copy(&space, layout.auxv_start, layout.auxv_end, out)
}

pub(super) fn statm(target: &Target, out: &mut Vec<u8>) -> Result<(), Errno> {
    let usage = space(target).map(|space| space.usage()).unwrap_or_default();
    say(
        out,
        format_args!(
            "{} {} {} {} 0 {} 0\n",
            usage.total, usage.resident, usage.shared, usage.text, usage.data
        ),
    )
}

fn line(area: &AreaView<'_>, out: &mut Vec<u8>) -> Result<(), Errno> {
    let start = out.len();
    let letter = |flag: Prot, letter: char| if area.prot.contains(flag) { letter } else { '-' };
    let file = area.backing.map(|backing| backing.describe()).transpose()?.unwrap_or_default();
    let (major, minor) = crate::fs::device_parts(file.dev);
    say(
        out,
        format_args!(
            "{:08x}-{:08x} {}{}{}{} {:08x} {major:02x}:{minor:02x} {} ",
            area.start,
            area.end,
            letter(Prot::READ, 'r'),
            letter(Prot::WRITE, 'w'),
            letter(Prot::EXEC, 'x'),
            if area.shared { 's' } else { 'p' },
            area.offset,
            file.ino,
        ),
    )?;
    let name: &[u8] = match area.role {
        _ if !file.path.is_empty() => &file.path,
        Role::Heap => b"[heap]",
        Role::Stack => b"[stack]",
        Role::Plain => b"",
    };
    if !name.is_empty() {
        while out.len() - start < NAME_COLUMN {
            say_bytes(out, b" ")?;
        }
        // Names of files may have line ends.
        for byte in name {
            if *byte == b'\n' { say_bytes(out, b"\\012")? } else { say_bytes(out, &[*byte])? }
        }
    }
    say_bytes(out, b"\n")
}

pub(super) fn maps(target: &Target, out: &mut Vec<u8>) -> Result<(), Errno> {
    let Some(space) = space(target) else { return Ok(()) };
    let mut result = Ok(());
    space.areas(false, &mut |area| {
        result = line(area, out);
        result.is_ok()
    });
    result
}

/// As [`maps`], each line with how much of the mapping is in memory. A page counts as this process's alone, which is told
/// of none to be shared.
pub(super) fn smaps(target: &Target, out: &mut Vec<u8>) -> Result<(), Errno> {
    let Some(space) = space(target) else { return Ok(()) };
    let mut result = Ok(());
    space.areas(true, &mut |area| {
        result = line(area, out).and_then(|()| details(area, out));
        result.is_ok()
    });
    result
}

fn details(area: &AreaView<'_>, out: &mut Vec<u8>) -> Result<(), Errno> {
    const KIB: usize = 4;
    let resident = area.resident * KIB;
    let dirty = area.writable * KIB;
    let anonymous = if area.backing.is_none() {
        resident
    } else if area.shared {
        0
    } else {
        dirty
    };
    let (shared_clean, shared_dirty, clean, private_dirty) =
        if area.shared { (resident - dirty, dirty, 0, 0) } else { (0, 0, resident - dirty, dirty) };
    for (name, kib) in [
        ("Size", (area.end - area.start) >> 10),
        ("KernelPageSize", KIB),
        ("MMUPageSize", KIB),
        ("Rss", resident),
        ("Pss", resident),
        ("Pss_Dirty", dirty),
        ("Shared_Clean", shared_clean),
        ("Shared_Dirty", shared_dirty),
        ("Private_Clean", clean),
        ("Private_Dirty", private_dirty),
        ("Referenced", resident),
        ("Anonymous", anonymous),
        ("KSM", 0),
        ("LazyFree", 0),
        ("AnonHugePages", 0),
        ("ShmemPmdMapped", 0),
        ("FilePmdMapped", 0),
        ("Shared_Hugetlb", 0),
        ("Private_Hugetlb", 0),
        ("Swap", 0),
        ("SwapPss", 0),
        ("Locked", if area.locked { resident } else { 0 }),
    ] {
        let width = 24 - name.len().min(16);
        say(out, format_args!("{name}:{kib:>width$} kB\n"))?;
    }
    say(out, format_args!("THPeligible:           0\nVmFlags: "))?;
    for (flag, holds) in [
        ("rd", area.prot.contains(Prot::READ)),
        ("wr", area.prot.contains(Prot::WRITE)),
        ("ex", area.prot.contains(Prot::EXEC)),
        ("sh", area.shared),
        ("mr mw me", true),
        ("gd", area.grows_down),
        ("lo", area.locked),
        ("ac", true),
    ] {
        if holds {
            say(out, format_args!("{flag} "))?;
        }
    }
    say_bytes(out, b"\n")
}

pub(super) fn smaps_rollup(target: &Target, out: &mut Vec<u8>) -> Result<(), Errno> {
    let Some(space) = space(target) else { return Ok(()) };
    let (usage, layout) = (space.usage(), space.layout());
    let kib = |pages: usize| pages * 4;
    say(
        out,
        format_args!(
            "{:08x}-{:08x} ---p 00000000 00:00 0 [rollup]\nRss: {:19} kB\nPss: {:19} kB\n",
            layout.code_start,
            layout.stack_start,
            kib(usage.resident),
            kib(usage.resident),
        ),
    )
}

/// `mem`: the memory of a process, at the offsets of its addresses.
struct Memory(Arc<AddressSpace>);

/// Opens it; the caller may look into the process.
///
/// # Errors
/// `EACCES`: it has none. `ENOMEM`.
pub(super) fn open(target: &Target) -> Result<Opened, Errno> {
    let memory = Memory(space(target).ok_or(Errno::EACCES)?);
    let memory: Arc<dyn FileOps> = mnt_table::memory::arc(memory).map_err(|_| Errno::ENOMEM)?;
    Ok(memory.into())
}

impl FileOps for Memory {
    fn read(&self, _file: &OpenFile, to: &mut Sink<'_>, at: u64) -> Result<usize, Errno> {
        let start = to.done();
        let mut at = usize::try_from(at).map_err(|_| Errno::EIO)?;
        while to.left() != 0 {
            let mut chunk = [0; CHUNK];
            let wanted = to.left().min(CHUNK);
            let count = self.0.read_other(at, &mut chunk[..wanted]);
            if count == 0 {
                break;
            }
            at += to.put(&chunk[..count])?;
            if count < wanted {
                break;
            }
        }
        if to.done() == start && to.left() != 0 { Err(Errno::EIO) } else { Ok(to.done() - start) }
    }

    fn write(&self, _file: &OpenFile, from: &mut Source<'_>, at: u64) -> Result<(usize, u64), Errno> {
        let begin = usize::try_from(at).map_err(|_| Errno::EIO)?;
        let mut at = begin;
        while from.left() != 0 {
            let mut chunk = [0; CHUNK];
            let wanted = from.left().min(CHUNK);
            let taken = from.take(&mut chunk[..wanted])?;
            let count = self.0.write_other(at, &chunk[..taken]);
            at += count;
            if count < wanted {
                break;
            }
        }
        if at == begin && from.left() != 0 { Err(Errno::EIO) } else { Ok((at - begin, at as u64)) }
    }

    fn is_seekable(&self) -> bool {
        true
    }

    fn seek(&self, _file: &OpenFile, now: u64, offset: i64, whence: Whence) -> Result<u64, Errno> {
        match whence {
            Whence::Set => Ok(offset as u64),
            Whence::Current => Ok(now.wrapping_add_signed(offset)),
            _ => Err(Errno::EINVAL),
        }
    }

    fn can_wait(&self) -> bool {
        false
    }
}
