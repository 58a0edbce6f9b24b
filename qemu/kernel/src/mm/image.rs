//! Programs: ELF files into a fresh space, and the first stack.
//!
//! The file is read through its pages, as it is mapped. Whatever is in it, the worst that comes of it is an error, or a program
//! that faults.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::Ordering::Relaxed;

use elf::abi;
use elf::endian::LittleEndian;
use elf::file::{Class, FileHeader, parse_ident};
use elf::parse::ParsingTable;
use elf::segment::ProgramHeader;
use linux_raw_sys::{auxvec, general as lx};
use syscalls::Errno;

use super::area::PAGE;
use super::backing::Backing;
use super::map::{MapRequest, Place};
use super::space::{AddressSpace, MAP_MIN, Prot, USER_END};
use crate::arch::fpu::FpuState;

/// Opens the interpreter with this path, as a program that is run.
pub(crate) type Opener<'a> = dyn FnMut(&[u8]) -> Result<Arc<dyn Backing>, Errno> + 'a;

/// Bytes of the ELF header.
const HEADER: usize = 64;
/// Bytes of a program header.
const PROGRAM_HEADER: usize = 56;
/// The program headers' table may have so many bytes.
const TABLE_MAX: usize = 65536;
/// Where programs go that can be anywhere: two thirds up, as in Linux.
const DYNAMIC_BASE: usize = (USER_END / 3 * 2) & !(PAGE - 1);
/// The longest path of an interpreter, with its end mark.
const PATH_MAX: u64 = 4096;

/// The longest argument, with its end mark.
pub(crate) const ARGUMENT_MAX: usize = 32 * PAGE;
/// The most bytes of arguments and environment, if the stack may be large.
const ARGUMENTS_MAX: usize = (6 << 20) - PAGE;
/// The least that a quarter of a small stack counts as.
const ARGUMENTS_MIN: usize = 128 << 10;
/// What is mapped of the stack at first, besides its contents.
const STACK_SPARE: usize = 128 << 10;
/// Room below the top of user memory for the stack, at least and at most.
const STACK_ROOM: Range<usize> = 128 << 20..USER_END / 6 * 5;
/// What a signal frame needs besides the vector registers.
const SIGNAL_FRAME: usize = 1024;
/// Ticks per second of times(2).
const TICKS: usize = 100;

/// What the loader found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Loaded {
    /// Where user mode begins: the interpreter's entry, if there is one.
    pub(crate) start: usize,
    /// `AT_ENTRY`: the program's own.
    pub(crate) entry: usize,
    /// `AT_BASE`: where the interpreter is; 0 without.
    pub(crate) base: usize,
    /// `AT_PHDR`, `AT_PHNUM`.
    pub(crate) headers: usize,
    pub(crate) header_count: usize,
    /// `PT_GNU_STACK` asks for an executable stack.
    pub(crate) executable_stack: bool,
}

/// True if the file begins like an ELF image; `#!` scripts and others do not.
pub(crate) fn is_elf(head: &[u8]) -> bool {
    head.starts_with(&abi::ELFMAGIC)
}

/// Reads all of `buffer`.
///
/// # Errors
/// `ENOEXEC`: the file is too short. `EIO`, `ENOMEM`.
fn read(file: &Arc<dyn Backing>, offset: u64, buffer: &mut [u8]) -> Result<(), Errno> {
    let end = offset.checked_add(buffer.len() as u64).ok_or(Errno::ENOEXEC)?;
    if end > file.size() {
        return Err(Errno::ENOEXEC);
    }
    let mut done = 0;
    while done < buffer.len() {
        let at = offset + done as u64;
        let page = file.page(at / PAGE as u64, false).map_err(|error| match error {
            Errno::EFAULT => Errno::ENOEXEC, // It was cut short meanwhile.
            error => error,
        })?;
        let offset = at as usize % PAGE;
        let count = (PAGE - offset).min(buffer.len() - done);
        page.read(offset, &mut buffer[done..done + count]);
        done += count;
    }
    Ok(())
}

/// An ELF file's headers.
struct Image {
    header: FileHeader<LittleEndian>,
    table: Vec<u8>,
}

impl Image {
    /// # Errors
    /// `ENOEXEC`: not for this machine, or no image at all.
    fn parse(file: &Arc<dyn Backing>) -> Result<Self, Errno> {
        let mut bytes = [0; HEADER];
        read(file, 0, &mut bytes)?;
        let (ident, tail) = bytes.split_at(abi::EI_NIDENT);
        let ident = parse_ident::<LittleEndian>(ident).map_err(|_| Errno::ENOEXEC)?;
        if ident.1 != Class::ELF64 {
            return Err(Errno::ENOEXEC);
        }
        let header = FileHeader::parse_tail(ident, tail).map_err(|_| Errno::ENOEXEC)?;
        let bytes = usize::from(header.e_phnum) * PROGRAM_HEADER;
        if !matches!(header.e_type, abi::ET_EXEC | abi::ET_DYN)
            || header.e_machine != abi::EM_X86_64
            || usize::from(header.e_phentsize) != PROGRAM_HEADER
            || !(1..=TABLE_MAX).contains(&bytes)
        {
            return Err(Errno::ENOEXEC);
        }
        let mut table = Vec::new();
        table.try_reserve_exact(bytes).map_err(|_| Errno::ENOMEM)?;
        table.resize(bytes, 0);
        read(file, header.e_phoff, &mut table)?;
        Ok(Image { header, table })
    }

    fn segments(&self) -> impl Iterator<Item = ProgramHeader> + '_ {
        ParsingTable::<LittleEndian, ProgramHeader>::new(LittleEndian, Class::ELF64, &self.table).iter()
    }

    fn loads(&self) -> impl Iterator<Item = ProgramHeader> + '_ {
        self.segments().filter(|segment| segment.p_type == abi::PT_LOAD && segment.p_memsz != 0)
    }

    fn can_be_anywhere(&self) -> bool {
        self.header.e_type == abi::ET_DYN
    }

    /// The whole pages from the first loaded byte to the last.
    ///
    /// # Errors
    /// `EINVAL`: nothing to load, or not in user memory.
    fn span(&self) -> Result<Range<usize>, Errno> {
        let (mut start, mut end) = (usize::MAX, 0);
        for load in self.loads() {
            let memory = load
                .p_vaddr
                .checked_add(load.p_memsz)
                .filter(|&end| end <= USER_END as u64)
                .ok_or(Errno::EINVAL)?;
            start = start.min(load.p_vaddr as usize & !(PAGE - 1));
            end = end.max((memory as usize).next_multiple_of(PAGE));
        }
        if start < end { Ok(start..end) } else { Err(Errno::EINVAL) }
    }

    /// The largest alignment that a segment asks for, of those that make sense.
    fn alignment(&self) -> usize {
        let all = self.loads().map(|load| load.p_align as usize);
        all.filter(|align| align.is_power_of_two() && *align < USER_END / 4).max().unwrap_or(PAGE).max(PAGE)
    }

    /// Where the table of program headers is in memory, without the bias.
    fn headers(&self) -> usize {
        let table = self.header.e_phoff;
        let holds = |load: &ProgramHeader| load.p_offset <= table && table - load.p_offset < load.p_filesz;
        self.loads().find(holds).map_or(0, |load| (table - load.p_offset).wrapping_add(load.p_vaddr) as usize)
    }

    /// Maps the segments, moved by `bias`.
    fn map(&self, space: &AddressSpace, file: &Arc<dyn Backing>, bias: usize) -> Result<(), Errno> {
        for load in self.loads() {
            map_segment(space, file, &load, bias)?;
        }
        Ok(())
    }
}

fn prot_of(flags: u32) -> Prot {
    let mut prot = Prot::empty();
    prot.set(Prot::READ, flags & abi::PF_R != 0);
    prot.set(Prot::WRITE, flags & abi::PF_W != 0);
    prot.set(Prot::EXEC, flags & abi::PF_X != 0);
    prot
}

/// # Errors
/// `EINVAL`: more of the file than memory, or the two do not lie alike in their pages. `ENOMEM`. `EPERM`: too low.
fn map_segment(
    space: &AddressSpace,
    file: &Arc<dyn Backing>,
    load: &ProgramHeader,
    bias: usize,
) -> Result<(), Errno> {
    if load.p_filesz > load.p_memsz {
        return Err(Errno::EINVAL);
    }
    let start = (load.p_vaddr as usize).wrapping_add(bias);
    let in_user = |length: u64| (start as u64).checked_add(length).filter(|&end| end <= USER_END as u64);
    let memory_end = in_user(load.p_memsz).ok_or(Errno::EINVAL)? as usize;
    let file_end = start + load.p_filesz as usize;
    let first = start & !(PAGE - 1);
    if first < MAP_MIN {
        return Err(Errno::EPERM);
    }
    let prot = prot_of(load.p_flags);
    let mut free = first;
    if load.p_filesz != 0 {
        let offset = load
            .p_offset
            .checked_sub((start - first) as u64)
            .filter(|offset| offset.is_multiple_of(PAGE as u64));
        let offset = offset.ok_or(Errno::EINVAL)?;
        free = file_end.next_multiple_of(PAGE);
        let request = MapRequest {
            backing: Some((file.clone(), offset)),
            ..MapRequest::anonymous(Place::Fixed(first), free - first, prot)
        };
        space.map(request)?;
        // The rest of the last page is not the file's.
        if memory_end > file_end && file_end < free {
            let rest = memory_end.min(free) - file_end;
            let whole = free - file_end;
            if space.zero_other(file_end, whole) < rest && prot.contains(Prot::WRITE) {
                return Err(Errno::ENOMEM);
            }
        }
    }
    let end = memory_end.next_multiple_of(PAGE);
    if end > free {
        space.map(MapRequest::anonymous(Place::Fixed(free), end - free, prot))?;
    }
    Ok(())
}

/// Maps the program into `space`, a fresh one that need not be active. `open` opens the interpreter by its path (`PT_INTERP`), for
/// execution.
///
/// # Errors
/// `ENOEXEC`: no image that this machine runs. `EINVAL`, `ENOMEM`, `EPERM`, `EIO`: a broken one. `ELIBBAD`: the interpreter is no
/// image. Errors of `open`.
pub(crate) fn load(
    space: &AddressSpace,
    file: &Arc<dyn Backing>,
    open: &mut Opener<'_>,
) -> Result<Loaded, Errno> {
    let image = Image::parse(file)?;
    space.set_map_top(map_top(space.limits.stack.load(Relaxed) as u64)); // Relaxed: a number that stands for itself.
    let interpreter = match image.segments().find(|segment| segment.p_type == abi::PT_INTERP) {
        Some(segment) => Some(open_interpreter(file, &segment, open)?),
        None => None,
    };
    let stack = image.segments().find(|segment| segment.p_type == abi::PT_GNU_STACK);
    let span = image.span()?;
    let bias = if image.can_be_anywhere() {
        (DYNAMIC_BASE & !(image.alignment() - 1)).wrapping_sub(span.start)
    } else {
        0
    };
    image.map(space, file, bias)?;
    let entry = (image.header.e_entry as usize).wrapping_add(bias);
    let headers = image.headers();
    let mut loaded = Loaded {
        start: entry,
        entry,
        base: 0,
        headers: if headers == 0 { 0 } else { headers.wrapping_add(bias) },
        header_count: image.header.e_phnum.into(),
        executable_stack: stack.is_some_and(|segment| segment.p_flags & abi::PF_X != 0),
    };
    space.set_layout(|layout| {
        layout.code_start = usize::MAX;
        for load in image.loads() {
            let start = (load.p_vaddr as usize).wrapping_add(bias);
            let file_end = start.wrapping_add(load.p_filesz as usize);
            layout.code_start = layout.code_start.min(start);
            if load.p_flags & abi::PF_X != 0 {
                layout.code_end = layout.code_end.max(file_end);
            }
            layout.data_start = layout.data_start.max(start);
            layout.data_end = layout.data_end.max(file_end);
        }
        layout.brk_start = span.end.wrapping_add(bias);
        layout.brk = layout.brk_start;
    });
    if let Some((file, image)) = interpreter {
        let span = image.span().map_err(|_| Errno::ELIBBAD)?;
        let bias = if image.can_be_anywhere() {
            let room = span.len().checked_add(image.alignment() - PAGE).ok_or(Errno::ENOMEM)?;
            let at = space.find_place(room).ok_or(Errno::ENOMEM)?.next_multiple_of(image.alignment());
            at.wrapping_sub(span.start)
        } else {
            0
        };
        image.map(space, &file, bias)?;
        loaded.base = bias;
        loaded.start = (image.header.e_entry as usize).wrapping_add(bias);
    }
    if loaded.start >= USER_END || loaded.entry >= USER_END {
        return Err(Errno::EINVAL);
    }
    Ok(loaded)
}

fn open_interpreter(
    file: &Arc<dyn Backing>,
    segment: &ProgramHeader,
    open: &mut Opener<'_>,
) -> Result<(Arc<dyn Backing>, Image), Errno> {
    if !(2..=PATH_MAX).contains(&segment.p_filesz) {
        return Err(Errno::ENOEXEC);
    }
    let mut path = Vec::new();
    path.try_reserve_exact(segment.p_filesz as usize).map_err(|_| Errno::ENOMEM)?;
    path.resize(segment.p_filesz as usize, 0);
    read(file, segment.p_offset, &mut path)?;
    if path.pop() != Some(0) {
        return Err(Errno::ENOEXEC);
    }
    let end = path.iter().position(|&byte| byte == 0).unwrap_or(path.len());
    let interpreter = open(&path[..end])?;
    let image = Image::parse(&interpreter)
        .map_err(|error| if error == Errno::ENOEXEC { Errno::ELIBBAD } else { error })?;
    Ok((interpreter, image))
}

/// What the new program's stack holds.
pub(crate) struct Start<'a> {
    pub(crate) loaded: Loaded,
    /// Strings without end marks.
    pub(crate) arguments: &'a [Vec<u8>],
    pub(crate) environment: &'a [Vec<u8>],
    /// `AT_EXECFN`.
    pub(crate) name: &'a [u8],
    pub(crate) uid: u32,
    pub(crate) euid: u32,
    pub(crate) gid: u32,
    pub(crate) egid: u32,
    /// `AT_SECURE`.
    pub(crate) secure: bool,
    pub(crate) random: [u8; 16],
    /// `RLIMIT_STACK`.
    pub(crate) stack_limit: u64,
}

/// The bytes that arguments and environment may have together, strings and pointers, with a stack of at most `stack_limit`.
pub(crate) fn arguments_max(stack_limit: u64) -> usize {
    (stack_limit / 4).clamp(ARGUMENTS_MIN as u64, ARGUMENTS_MAX as u64) as usize
}

/// Makes the stack in `space`, which need not be active. Returns the stack pointer.
///
/// # Errors
/// `E2BIG`: arguments and environment are too long. `ENOMEM`.
pub(crate) fn build_stack(space: &AddressSpace, start: &Start<'_>) -> Result<usize, Errno> {
    let strings = start.arguments.iter().chain(start.environment);
    let mut bytes = 0_usize;
    for string in strings.clone() {
        if string.len() >= ARGUMENT_MAX {
            return Err(Errno::E2BIG);
        }
        bytes += string.len() + 1 + size_of::<usize>();
    }
    if bytes > arguments_max(start.stack_limit) {
        return Err(Errno::E2BIG);
    }

    // From the top down: an end mark of 8 bytes, the program's name, environment, arguments, the platform, random bytes; then, aligned,
    // the vectors. `text` begins with the platform.
    const PLATFORM: &[u8] = b"x86_64\0";
    let text_bytes: usize = strings.map(|string| string.len() + 1).sum::<usize>() + start.name.len() + 1 + 8;
    let mut text = Vec::new();
    text.try_reserve_exact(text_bytes + start.random.len() + PLATFORM.len()).map_err(|_| Errno::ENOMEM)?;
    let bottom = USER_END - (text_bytes + start.random.len() + PLATFORM.len());
    text.extend_from_slice(&start.random);
    text.extend_from_slice(PLATFORM);
    let mut pointers: Vec<usize> = Vec::new();
    let count = start.arguments.len() + start.environment.len() + 3;
    pointers.try_reserve_exact(count + 2 * 24).map_err(|_| Errno::ENOMEM)?;
    pointers.push(start.arguments.len());
    let push = |text: &mut Vec<u8>, string: &[u8]| {
        let at = bottom + text.len();
        text.extend_from_slice(string);
        text.push(0);
        at
    };
    let arg_start = bottom + text.len();
    for string in start.arguments {
        pointers.push(push(&mut text, string));
    }
    pointers.push(0);
    let arg_end = bottom + text.len();
    for string in start.environment {
        pointers.push(push(&mut text, string));
    }
    pointers.push(0);
    let env_end = bottom + text.len();
    let name = push(&mut text, start.name);
    text.extend_from_slice(&[0; 8]);
    let auxv = pointers.len();
    let loaded = &start.loaded;
    let frame = (FpuState::frame_bytes() + SIGNAL_FRAME).max(lx::MINSIGSTKSZ as usize);
    for (kind, value) in [
        (auxvec::AT_MINSIGSTKSZ, frame),
        (auxvec::AT_HWCAP, core::arch::x86_64::__cpuid(1).edx as usize),
        (auxvec::AT_PAGESZ, PAGE),
        (auxvec::AT_CLKTCK, TICKS),
        (auxvec::AT_PHDR, loaded.headers),
        (auxvec::AT_PHENT, PROGRAM_HEADER),
        (auxvec::AT_PHNUM, loaded.header_count),
        (auxvec::AT_BASE, loaded.base),
        (auxvec::AT_FLAGS, 0),
        (auxvec::AT_ENTRY, loaded.entry),
        (auxvec::AT_UID, start.uid as usize),
        (auxvec::AT_EUID, start.euid as usize),
        (auxvec::AT_GID, start.gid as usize),
        (auxvec::AT_EGID, start.egid as usize),
        (auxvec::AT_SECURE, usize::from(start.secure)),
        (auxvec::AT_RANDOM, bottom),
        (auxvec::AT_HWCAP2, 0),
        (auxvec::AT_EXECFN, name),
        (auxvec::AT_PLATFORM, bottom + start.random.len()),
        (auxvec::AT_NULL, 0),
    ] {
        pointers.extend([kind as usize, value]);
    }
    let pointer = (bottom - pointers.len() * size_of::<usize>()) & !15;

    let low = (pointer & !(PAGE - 1)).saturating_sub(STACK_SPARE);
    let mut prot = Prot::READ | Prot::WRITE;
    prot.set(Prot::EXEC, loaded.executable_stack);
    let request =
        MapRequest { grows_down: true, ..MapRequest::anonymous(Place::Fixed(low), USER_END - low, prot) };
    space.map(request)?;
    let mut words: Vec<u8> = Vec::new();
    words.try_reserve_exact(pointers.len() * size_of::<usize>()).map_err(|_| Errno::ENOMEM)?;
    words.extend(pointers.iter().flat_map(|word| word.to_le_bytes()));
    if space.write_other(pointer, &words) != words.len() || space.write_other(bottom, &text) != text.len() {
        return Err(Errno::ENOMEM);
    }
    let auxv_start = pointer + auxv * size_of::<usize>();
    space.set_layout(|layout| {
        layout.stack_start = pointer;
        (layout.arg_start, layout.arg_end) = (arg_start, arg_end);
        (layout.env_start, layout.env_end) = (arg_end, env_end);
        (layout.auxv_start, layout.auxv_end) = (auxv_start, pointer + words.len());
    });
    Ok(pointer)
}

/// Where mappings begin, from the top down, with a stack of at most `stack_limit`.
fn map_top(stack_limit: u64) -> usize {
    let room = (stack_limit.min(USER_END as u64) as usize).clamp(STACK_ROOM.start, STACK_ROOM.end);
    (USER_END - room) & !(PAGE - 1)
}
