//! Vector and floating-point registers of user mode. The kernel itself uses none, so they are saved and loaded when threads are
//! switched, and copied for signal frames and forks.
//!
//! Where the CPU has XSAVE, all of x87, SSE, AVX and AVX-512 that it has is turned on and kept per thread; else FXSAVE.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::arch::asm;
use core::arch::x86_64::{__cpuid, __cpuid_count};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use syscalls::Errno;
use x86_64::registers::control::{Cr0, Cr0Flags, Cr4, Cr4Flags};

use crate::mm::user;

/// Bytes of the part that FXSAVE has too.
const LEGACY: usize = 512;
/// Bytes of XSAVE's header, right behind.
const HEADER: usize = 64;
/// State components: x87, SSE, AVX, and AVX-512's three.
const COMPONENTS: u64 = 0xe7;
/// x87 and SSE.
const LEGACY_COMPONENTS: u64 = 0x3;
/// Place and first value of the x87 control word.
const FCW: (usize, u16) = (0, 0x37f);
/// Place and first value of SSE's control word.
const MXCSR: (usize, u32) = (24, 0x1f80);
/// Place of the mask of SSE's control word.
const MXCSR_MASK: usize = 28;
/// That mask if the CPU says 0.
const MXCSR_MASK_DEFAULT: u32 = 0xffbf;
/// Where the software's bytes lie, in the part that no instruction uses.
const SOFTWARE: usize = 464;
/// First and last word of an extended signal frame.
const MAGIC: (u32, u32) = (0x4650_5853, 0x4650_5845);

/// Bytes of the whole area. Written once, by `init`.
static SIZE: AtomicU32 = AtomicU32::new(LEGACY as u32);
/// What is turned on in XCR0; 0 without XSAVE.
static ENABLED: AtomicU64 = AtomicU64::new(0);
static MASK: AtomicU32 = AtomicU32::new(MXCSR_MASK_DEFAULT);

/// Turns the units on. Context: once per CPU, the boot CPU first.
pub(super) fn init() {
    // SAFETY: user mode's floating point; the kernel uses none. NUMERIC_ERROR: x87 errors come as exceptions.
    unsafe { Cr0::update(|cr0| *cr0 = (*cr0 | Cr0Flags::NUMERIC_ERROR) & !Cr0Flags::TASK_SWITCHED) };
    let has_xsave = __cpuid(1).ecx & 1 << 26 != 0;
    if has_xsave {
        let (low, high) = (__cpuid_count(0xd, 0).eax, __cpuid_count(0xd, 0).edx);
        let enabled = (u64::from(low) | u64::from(high) << 32) & COMPONENTS;
        // SAFETY: the CPU has XSAVE, and what is turned on is what it says it has, x87 and SSE among it. AVX-512's parts come together.
        unsafe {
            Cr4::update(|cr4| *cr4 |= Cr4Flags::OSXSAVE);
            asm!("xsetbv", in("ecx") 0, in("eax") enabled as u32, in("edx") (enabled >> 32) as u32);
        }
        // Relaxed, both: every CPU writes the same, the first one before any thread.
        ENABLED.store(enabled, Relaxed);
        SIZE.store(__cpuid_count(0xd, 0).ebx, Relaxed); // For what XCR0 has now.
    }
    let mut legacy = [Block([0; 64]); LEGACY / 64];
    // SAFETY: 512 bytes, aligned to 64.
    unsafe { asm!("fxsave64 [{}]", in(reg) legacy.as_mut_ptr(), options(nostack)) };
    let [a, b, c, d, ..] = legacy[0].0[MXCSR_MASK..] else { return };
    let mask = u32::from_le_bytes([a, b, c, d]);
    // Relaxed: as above.
    MASK.store(if mask == 0 { MXCSR_MASK_DEFAULT } else { mask }, Relaxed);
}

/// Relaxed: written once, before the first thread of user mode.
fn size() -> usize {
    SIZE.load(Relaxed) as usize
}

#[repr(align(64))]
#[derive(Clone, Copy)]
struct Block([u8; 64]);

/// The registers of one thread, in the layout of XSAVE's standard form, or of FXSAVE where the CPU has no XSAVE.
pub(crate) struct FpuState(Box<[Block]>);

impl FpuState {
    /// As of a fresh program.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn new() -> Result<Self, Errno> {
        let blocks = size().div_ceil(size_of::<Block>());
        let mut area: Vec<Block> = Vec::new();
        area.try_reserve_exact(blocks).map_err(|_| Errno::ENOMEM)?;
        area.resize(blocks, Block([0; 64]));
        let mut state = FpuState(area.into_boxed_slice());
        state.reset();
        Ok(state)
    }

    /// A copy.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn try_clone(&self) -> Result<Self, Errno> {
        let mut copy = Self::new()?;
        copy.0.copy_from_slice(&self.0);
        Ok(copy)
    }

    /// As of a fresh program.
    pub(crate) fn reset(&mut self) {
        self.0.fill(Block([0; 64]));
        let bytes = self.bytes_mut();
        bytes[FCW.0..][..2].copy_from_slice(&FCW.1.to_le_bytes());
        bytes[MXCSR.0..][..4].copy_from_slice(&MXCSR.1.to_le_bytes());
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: the blocks are plain bytes, in one piece and borrowed as a whole.
        unsafe { core::slice::from_raw_parts(self.0.as_ptr().cast(), size_of_val(&*self.0)) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        let length = size_of_val(&*self.0);
        // SAFETY: as in `bytes`.
        unsafe { core::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), length) }
    }

    /// Copies the registers into the area. Context: the thread whose registers they are runs, and is not preempted.
    pub(super) fn save(&mut self) {
        let enabled = ENABLED.load(Relaxed); // Relaxed: as `size`.
        let area = self.0.as_mut_ptr();
        // SAFETY: the area is as large as the instruction's image ([`size`]) and aligned to 64.
        unsafe {
            if enabled != 0 {
                asm!("xsave64 [{}]", in(reg) area, in("eax") enabled as u32, in("edx") (enabled >> 32) as u32,
                    options(nostack, preserves_flags));
            } else {
                asm!("fxsave64 [{}]", in(reg) area, options(nostack, preserves_flags));
            }
        }
    }

    /// Copies the area into the registers. Context: as [`Self::save`].
    pub(super) fn load(&self) {
        let enabled = ENABLED.load(Relaxed); // Relaxed: as `size`.
        let area = self.0.as_ptr();
        // SAFETY: as in `save`; the area is one that the CPU takes: made by `reset` or `save`, or checked by `take`.
        unsafe {
            if enabled != 0 {
                asm!("xrstor64 [{}]", in(reg) area, in("eax") enabled as u32, in("edx") (enabled >> 32) as u32,
                    options(nostack, preserves_flags, readonly));
            } else {
                asm!("fxrstor64 [{}]", in(reg) area, options(nostack, preserves_flags, readonly));
            }
        }
    }

    /// Bytes that [`Self::put`] writes.
    pub(crate) fn frame_bytes() -> usize {
        // Relaxed: as `size`.
        if ENABLED.load(Relaxed) == 0 { LEGACY } else { size() + size_of::<u32>() }
    }

    /// Writes the registers to user memory at `address`, which is a multiple of 64, as a signal frame has them.
    ///
    /// # Errors
    /// `EFAULT`.
    pub(crate) fn put(&self, address: usize) -> Result<(), Errno> {
        let enabled = ENABLED.load(Relaxed); // Relaxed: as `size`.
        user::write(address, &self.bytes()[..size()])?;
        if enabled != 0 {
            let mut software = [0; LEGACY - SOFTWARE];
            software[..4].copy_from_slice(&MAGIC.0.to_le_bytes());
            software[4..8].copy_from_slice(&(Self::frame_bytes() as u32).to_le_bytes());
            software[8..16].copy_from_slice(&enabled.to_le_bytes());
            software[16..20].copy_from_slice(&(size() as u32).to_le_bytes());
            user::write(address + SOFTWARE, &software)?;
            user::put(address + size(), MAGIC.1)?;
        }
        Ok(())
    }

    /// Reads registers from user memory at `address`, written by [`Self::put`] and then perhaps changed. What the CPU would not
    /// take is made right.
    ///
    /// # Errors
    /// `EFAULT`.
    pub(crate) fn take(&mut self, address: usize) -> Result<(), Errno> {
        let enabled = ENABLED.load(Relaxed); // Relaxed: as `size`.
        self.reset();
        user::read(address, &mut self.bytes_mut()[..LEGACY])?;
        let word = |bytes: &[u8], at: usize| bytes[at..].first_chunk().map_or(0, |&b| u32::from_le_bytes(b));
        let bytes = self.bytes();
        let extended = enabled != 0
            && word(bytes, SOFTWARE) == MAGIC.0
            && word(bytes, SOFTWARE + 16) as usize == size()
            && user::get::<u32>(address + size()) == Ok(MAGIC.1);
        let wanted = bytes[SOFTWARE + 8..].first_chunk().map_or(0, |&b| u64::from_le_bytes(b));
        let all = size();
        let bytes = self.bytes_mut();
        if extended {
            user::read(address + LEGACY, &mut bytes[LEGACY..all])?;
        }
        let mxcsr = word(bytes, MXCSR.0) & MASK.load(Relaxed); // Relaxed: as `size`.
        bytes[MXCSR.0..][..4].copy_from_slice(&mxcsr.to_le_bytes());
        bytes[SOFTWARE..LEGACY].fill(0);
        if enabled != 0 {
            let present = bytes[LEGACY..].first_chunk().map_or(0, |&b| u64::from_le_bytes(b));
            let present = if extended { present & wanted & enabled } else { LEGACY_COMPONENTS };
            bytes[LEGACY..][..8].copy_from_slice(&present.to_le_bytes());
            bytes[LEGACY + 8..][..HEADER - 8].fill(0);
        }
        Ok(())
    }
}

impl core::fmt::Debug for FpuState {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{} bytes of registers", self.bytes().len())
    }
}
