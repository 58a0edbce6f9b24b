//! User memory: the only way in which the kernel touches it.
//!
//! All functions work on the running thread's space, and fault pages in. Context: threads, interrupts on, no spin lock held, not
//! pinned. With preemption off (a spin lock is held) they work too, but only on what is there: they fault nothing in, and say
//! `EFAULT` then.
//!
//! The routines below are the only instructions that touch user memory. Where one of them faults and the space does not resolve
//! that, `trap` continues at its fixup ([`fixup`]), which says how much is left.

use alloc::vec::Vec;
use core::arch::global_asm;

use syscalls::Errno;
use tmpfs::{PAGE_SIZE, Page};

use super::space::USER_END;
use crate::arch::user::SMAP;

global_asm!(
    // Each returns in rax what is left: bytes, or 1 for a word. `allow` and `forbid` do nothing without SMAP.
    ".macro allow",
    "cmpb $0, {smap}(%rip)",
    "je 1f",
    "stac",
    "1:",
    ".endm",
    ".macro forbid",
    "cmpb $0, {smap}(%rip)",
    "je 1f",
    "clac",
    "1:",
    ".endm",
    // user_copy(to, from, bytes): words, then bytes. If a word cannot be copied, what is left is tried by bytes.
    ".global user_copy",
    ".type user_copy, @function",
    "user_copy:",
    "allow",
    "movq %rdx, %rcx",
    "shrq $3, %rcx",
    "user_copy_words: rep movsq",
    "movl %edx, %ecx",
    "andl $7, %ecx",
    "user_copy_bytes: rep movsb",
    "user_copy_done:",
    "forbid",
    "movq %rcx, %rax",
    "ret",
    "user_copy_words_fixup:",
    "andl $7, %edx",
    "leaq (%rdx, %rcx, 8), %rcx",
    "jmp user_copy_bytes",
    ".size user_copy, . - user_copy",
    // user_zero(to, bytes)
    ".global user_zero",
    ".type user_zero, @function",
    "user_zero:",
    "allow",
    "xorl %eax, %eax",
    "movq %rsi, %rcx",
    "shrq $3, %rcx",
    "user_zero_words: rep stosq",
    "movl %esi, %ecx",
    "andl $7, %ecx",
    "user_zero_bytes: rep stosb",
    "user_zero_done:",
    "forbid",
    "movq %rcx, %rax",
    "ret",
    "user_zero_words_fixup:",
    "andl $7, %esi",
    "leaq (%rsi, %rcx, 8), %rcx",
    "jmp user_zero_bytes",
    ".size user_zero, . - user_zero",
    // user_load_4(from), user_load_8(from): the value in rdx.
    ".irp size, 4, 8",
    ".global user_load_\\size",
    ".type user_load_\\size, @function",
    "user_load_\\size:",
    "allow",
    "movl $1, %ecx",
    ".if \\size == 4",
    "user_load_\\size\\()_at: movl (%rdi), %edx",
    ".else",
    "user_load_\\size\\()_at: movq (%rdi), %rdx",
    ".endif",
    "xorl %ecx, %ecx",
    "user_load_\\size\\()_done:",
    "forbid",
    "movq %rcx, %rax",
    "ret",
    ".size user_load_\\size, . - user_load_\\size",
    ".endr",
    // user_exchange(at, old, new): what was there in rdx.
    ".global user_exchange",
    ".type user_exchange, @function",
    "user_exchange:",
    "allow",
    "movl $1, %ecx",
    "movl %esi, %eax",
    "user_exchange_at: lock cmpxchgl %edx, (%rdi)",
    "movl %eax, %edx",
    "xorl %ecx, %ecx",
    "user_exchange_done:",
    "forbid",
    "movq %rcx, %rax",
    "ret",
    ".size user_exchange, . - user_exchange",
    // Instructions that may fault, and where to go on then.
    ".pushsection .rodata.user_fixups, \"a\"",
    ".balign 8",
    ".global user_fixups",
    "user_fixups:",
    ".quad user_copy_words, user_copy_words_fixup",
    ".quad user_copy_bytes, user_copy_done",
    ".quad user_zero_words, user_zero_words_fixup",
    ".quad user_zero_bytes, user_zero_done",
    ".quad user_load_4_at, user_load_4_done",
    ".quad user_load_8_at, user_load_8_done",
    ".quad user_exchange_at, user_exchange_done",
    ".popsection",
    ".purgem allow",
    ".purgem forbid",
    smap = sym SMAP,
    options(att_syntax)
);

const FIXUPS: usize = 7;

/// What is left, and a value.
#[repr(C)]
struct Word {
    left: u64,
    value: u64,
}

unsafe extern "C" {
    static user_fixups: [[u64; 2]; FIXUPS];
    fn user_copy(to: usize, from: usize, bytes: usize) -> usize;
    fn user_zero(to: usize, bytes: usize) -> usize;
    fn user_load_4(from: usize) -> Word;
    fn user_load_8(from: usize) -> Word;
    fn user_exchange(at: usize, old: u32, new: u32) -> Word;
}

/// Where to go on when the instruction at `rip` faulted, if it is one of those that touch user memory.
pub(crate) fn fixup(rip: u64) -> Option<u64> {
    // SAFETY: the table above, which nobody changes.
    let table = unsafe { &user_fixups };
    table.iter().find(|[at, _]| *at == rip).map(|[_, fixup]| *fixup)
}

/// True if all of it lies in user memory.
#[inline]
fn is_user(address: usize, length: usize) -> bool {
    address <= USER_END && length <= USER_END - address
}

/// The part of it that lies in user memory.
#[inline]
fn user_part(address: usize, length: usize) -> usize {
    length.min(USER_END.saturating_sub(address))
}

/// Types that any bytes are a value of, and that have no padding.
///
/// # Safety
/// Just that.
pub(crate) unsafe trait Pod: Copy + 'static {}

macro_rules! pods { ($($t:ty)*) => { $(
    // SAFETY: any bytes are one.
    unsafe impl Pod for $t {}
)* } }
pods! { u8 u16 u32 u64 u128 usize i8 i16 i32 i64 isize }
// SAFETY: as its elements.
unsafe impl<T: Pod, const N: usize> Pod for [T; N] {}

/// Reads; returns how many bytes could be, from the start on.
pub(crate) fn copy_in(address: usize, buffer: &mut [u8]) -> usize {
    let count = user_part(address, buffer.len());
    // SAFETY: writes so many bytes of the buffer at most; what is read is user memory, or faults there and is fixed up.
    count - unsafe { user_copy(buffer.as_mut_ptr() as usize, address, count) }
}

/// Writes; returns how many bytes could be, from the start on.
pub(crate) fn copy_out(address: usize, bytes: &[u8]) -> usize {
    let count = user_part(address, bytes.len());
    // SAFETY: writes user memory, to which the kernel has no references, or faults there and is fixed up.
    count - unsafe { user_copy(address, bytes.as_ptr() as usize, count) }
}

/// Reads `count` bytes into a page, from `offset` on; as [`copy_in`].
///
/// # Panics
/// If that is not within the page.
pub(crate) fn copy_in_page(address: usize, page: &Page, offset: usize, count: usize) -> usize {
    assert!(offset <= PAGE_SIZE && count <= PAGE_SIZE - offset, "beyond the page");
    let count = user_part(address, count);
    // SAFETY: within the page, which the handle keeps and which is memory that may change at any time; as in `copy_in`.
    count - unsafe { user_copy(page.address().as_ptr() as usize + offset, address, count) }
}

/// Writes `count` bytes of a page, from `offset` on; as [`copy_out`].
///
/// # Panics
/// If that is not within the page.
pub(crate) fn copy_out_page(address: usize, page: &Page, offset: usize, count: usize) -> usize {
    assert!(offset <= PAGE_SIZE && count <= PAGE_SIZE - offset, "beyond the page");
    let count = user_part(address, count);
    // SAFETY: as in `copy_in_page` and `copy_out`.
    count - unsafe { user_copy(address, page.address().as_ptr() as usize + offset, count) }
}

/// Writes zeroes; returns how many could be.
pub(crate) fn zero(address: usize, length: usize) -> usize {
    let count = user_part(address, length);
    // SAFETY: as in `copy_out`.
    count - unsafe { user_zero(address, count) }
}

/// Reads all of `buffer`.
///
/// # Errors
/// `EFAULT`.
pub(crate) fn read(address: usize, buffer: &mut [u8]) -> Result<(), Errno> {
    if copy_in(address, buffer) == buffer.len() { Ok(()) } else { Err(Errno::EFAULT) }
}

/// Writes all of `bytes`.
///
/// # Errors
/// `EFAULT`.
pub(crate) fn write(address: usize, bytes: &[u8]) -> Result<(), Errno> {
    if copy_out(address, bytes) == bytes.len() { Ok(()) } else { Err(Errno::EFAULT) }
}

/// Reads a value.
///
/// # Errors
/// `EFAULT`.
pub(crate) fn get<T: Pod>(address: usize) -> Result<T, Errno> {
    if !is_user(address, size_of::<T>()) {
        return Err(Errno::EFAULT);
    }
    let mut value = core::mem::MaybeUninit::<T>::uninit();
    let to = value.as_mut_ptr();
    // SAFETY: `to` has room for the value; the rest is as in `copy_in`.
    let left = unsafe {
        match size_of::<T>() {
            4 => {
                let word = user_load_4(address);
                to.cast::<u32>().write_unaligned(word.value as u32);
                word.left as usize
            }
            8 => {
                let word = user_load_8(address);
                to.cast::<u64>().write_unaligned(word.value);
                word.left as usize
            }
            size => user_copy(to as usize, address, size),
        }
    };
    if left != 0 {
        return Err(Errno::EFAULT);
    }
    // SAFETY: all bytes were written, and any bytes are a value (`Pod`).
    Ok(unsafe { value.assume_init() })
}

/// Writes a value.
///
/// # Errors
/// `EFAULT`.
pub(crate) fn put<T: Pod>(address: usize, value: T) -> Result<(), Errno> {
    if !is_user(address, size_of::<T>()) {
        return Err(Errno::EFAULT);
    }
    // SAFETY: reads the value's bytes, of which none is padding (`Pod`); the rest is as in `copy_out`.
    let left = unsafe { user_copy(address, &raw const value as usize, size_of::<T>()) };
    if left == 0 { Ok(()) } else { Err(Errno::EFAULT) }
}

/// Bytes that a string is read by, up to the end of a page.
const PIECE: usize = 256;

/// Reads a string up to its end mark, which is left out. Of `limit` bytes one must be the end mark.
///
/// # Errors
/// `EFAULT`. `ENAMETOOLONG`: no end mark within `limit` bytes. `ENOMEM`.
pub(crate) fn get_string(address: usize, limit: usize) -> Result<Vec<u8>, Errno> {
    let mut string = Vec::new();
    let mut piece = [0; PIECE];
    while string.len() < limit {
        let at = address.checked_add(string.len()).ok_or(Errno::EFAULT)?;
        // Not over the end of a page: what is behind the string may not be there.
        let wanted = PIECE.min(limit - string.len()).min(4096 - at % 4096);
        let count = copy_in(at, &mut piece[..wanted]);
        let got = &piece[..count];
        let end = got.iter().position(|&byte| byte == 0);
        let part = &got[..end.unwrap_or(got.len())];
        string.try_reserve(part.len()).map_err(|_| Errno::ENOMEM)?;
        string.extend_from_slice(part);
        if end.is_some() {
            return Ok(string);
        }
        if got.len() < wanted {
            return Err(Errno::EFAULT);
        }
    }
    Err(Errno::ENAMETOOLONG)
}

/// Loads a futex word. The address is a multiple of 4.
///
/// # Errors
/// `EFAULT`.
pub(crate) fn load_u32(address: usize) -> Result<u32, Errno> {
    get(address)
}

/// Exchanges a futex word if it is `old`; returns what it was. The address is a multiple of 4.
///
/// # Errors
/// `EFAULT`.
pub(crate) fn compare_exchange_u32(address: usize, old: u32, new: u32) -> Result<u32, Errno> {
    if !is_user(address, 4) {
        return Err(Errno::EFAULT);
    }
    // SAFETY: an atomic exchange of user memory, to which the kernel has no references, or faults there and is fixed up.
    let word = unsafe { user_exchange(address, old, new) };
    if word.left == 0 { Ok(word.value as u32) } else { Err(Errno::EFAULT) }
}
