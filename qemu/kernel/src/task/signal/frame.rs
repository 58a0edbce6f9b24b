//! What a handler finds on its stack, and the way back.
//!
//! ```text
//! old stack pointer - 128 (or the alternative stack's end)
//!   floating-point state, 64-aligned
//!   siginfo, ucontext, return address
//! new stack pointer, as after a call
//! ```

use alloc::sync::Arc;

use linux_raw_sys::general as abi;
use syscalls::Errno;

use super::super::Thread;
use super::{Action, AltStack, INFO_SIZE, Info, SigSet};
use crate::arch::fpu::FpuState;
use crate::arch::trap::TrapFrame;
use crate::mm::user;

/// Below the stack pointer a program may keep this much without telling.
const RED_ZONE: usize = 128;
/// `struct sigcontext` in words: registers, segments, what an exception said, the place of the floating-point state.
const CONTEXT_WORDS: usize = 32;
/// `struct ucontext`: flags, link, alternative stack, context, mask.
const UCONTEXT: usize = 8 + 8 + 24 + 8 * CONTEXT_WORDS + 8;
/// Return address, `ucontext`, `siginfo`.
const FRAME: usize = 8 + UCONTEXT + INFO_SIZE;
const CONTEXT_AT: usize = 8 + 8 + 8 + 24;
const MASK_AT: usize = CONTEXT_AT + 8 * CONTEXT_WORDS;
const INFO_AT: usize = 8 + UCONTEXT;
/// The state may be of XSAVE; SS is saved; SS is restored as it is.
const UC_FP_XSTATE: u64 = 1;
const UC_SIGCONTEXT_SS: u64 = 2;
const UC_STRICT_RESTORE_SS: u64 = 4;
/// The index of the place of the floating-point state among the context's words.
const FP_WORD: usize = 23;

/// Has `thread` run a handler when it goes to user mode; `mask` is put back when that returns.
///
/// # Errors
/// `EFAULT`: its stack is not usable.
pub(super) fn push(
    thread: &Arc<Thread>,
    frame: &mut TrapFrame,
    info: &Info,
    action: &Action,
    mask: SigSet,
) -> Result<(), Errno> {
    if action.flags & u64::from(abi::SA_RESTORER) == 0 {
        return Err(Errno::EFAULT);
    }
    let alt = thread.signals.lock().alt_stack;
    let old = frame.rsp as usize;
    let on_alt = alt.contains(old);
    let enters_alt =
        action.flags & u64::from(abi::SA_ONSTACK) != 0 && alt.flags & abi::SS_DISABLE == 0 && !on_alt;
    let top = if enters_alt { alt.base.wrapping_add(alt.size) } else { old.wrapping_sub(RED_ZONE) };
    let fpu_at = top.wrapping_sub(FpuState::frame_bytes()) & !63;
    let at = (fpu_at.wrapping_sub(FRAME) & !15).wrapping_sub(8);
    if (enters_alt || on_alt) && !(alt.base..alt.base.wrapping_add(alt.size)).contains(&at) {
        return Err(Errno::EFAULT);
    }
    let fpu = {
        let mut state = thread.user.lock();
        state.save();
        state.fpu.try_clone()?
    };
    fpu.put(fpu_at)?;
    let r = &*frame;
    let words: [u64; CONTEXT_WORDS] = [
        r.r8,
        r.r9,
        r.r10,
        r.r11,
        r.r12,
        r.r13,
        r.r14,
        r.r15,
        r.rdi,
        r.rsi,
        r.rbp,
        r.rbx,
        r.rdx,
        r.rax,
        r.rcx,
        r.rsp,
        r.rip,
        r.rflags,
        r.cs | r.ss << 48,
        if r.vector < 32 { r.error } else { 0 },
        if r.vector < 32 { r.vector } else { 0 },
        mask.0,
        match info.detail {
            super::Detail::Fault { address } => address,
            _ => 0,
        },
        fpu_at as u64,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
    ];
    let mut bytes = [0; FRAME];
    let mut put = |at: usize, value: u64| bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
    put(0, action.restorer as u64);
    put(8, UC_FP_XSTATE | UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS);
    put(16, 0);
    let flags = if enters_alt || on_alt { alt.flags | abi::SS_ONSTACK } else { alt.flags };
    put(24, alt.base as u64);
    put(32, flags.into());
    put(40, alt.size as u64);
    for (index, word) in words.into_iter().enumerate() {
        put(CONTEXT_AT + 8 * index, word);
    }
    put(MASK_AT, mask.0);
    bytes[INFO_AT..].copy_from_slice(&info.to_bytes());
    user::write(at, &bytes)?;
    if alt.flags & abi::SS_AUTODISARM != 0 {
        thread.signals.lock().alt_stack = AltStack::NONE;
    }
    frame.rdi = info.signal.into();
    frame.rsi = (at + INFO_AT) as u64;
    frame.rdx = (at + 8) as u64;
    frame.rax = 0;
    frame.rsp = at as u64;
    frame.rip = action.handler as u64;
    // Direction, single steps and resumption are the interrupted code's.
    frame.rflags &= !0x1_0500;
    frame.error = u64::MAX;
    // The handler's address may be anything.
    frame.sanitise();
    {
        let mut state = thread.user.lock();
        state.fpu.reset();
        super::super::reload(thread, &state);
    }
    Ok(())
}

/// rt_sigreturn(2): puts back what the handler's frame has. The result is what `rax` is then.
///
/// # Errors
/// `EFAULT`, `EINVAL`: the frame is not usable; the thread is to get SIGSEGV.
pub(super) fn pop(thread: &Arc<Thread>, frame: &mut TrapFrame) -> Result<(), Errno> {
    // The return took the first word off.
    let at = (frame.rsp as usize).wrapping_sub(8);
    let mut bytes = [0; 8 + UCONTEXT];
    user::read(at, &mut bytes)?;
    let get = |at: usize| {
        let mut word = [0; 8];
        word.copy_from_slice(&bytes[at..at + 8]);
        u64::from_le_bytes(word)
    };
    let word = |index: usize| get(CONTEXT_AT + 8 * index);
    let fpu_at = word(FP_WORD) as usize;
    let mut fpu = FpuState::new()?;
    if fpu_at != 0 {
        fpu.take(fpu_at)?;
    }
    for (index, register) in [
        &mut frame.r8,
        &mut frame.r9,
        &mut frame.r10,
        &mut frame.r11,
        &mut frame.r12,
        &mut frame.r13,
        &mut frame.r14,
        &mut frame.r15,
        &mut frame.rdi,
        &mut frame.rsi,
        &mut frame.rbp,
        &mut frame.rbx,
        &mut frame.rdx,
        &mut frame.rax,
        &mut frame.rcx,
        &mut frame.rsp,
        &mut frame.rip,
        &mut frame.rflags,
    ]
    .into_iter()
    .enumerate()
    {
        *register = word(index);
    }
    frame.sanitise();
    frame.error = u64::MAX;
    {
        let mut state = thread.user.lock();
        state.fpu = fpu;
        super::super::reload(thread, &state);
    }
    super::change_mask(thread, |_| SigSet(get(MASK_AT)));
    let alt = AltStack { base: get(24) as usize, size: get(40) as usize, flags: get(32) as u32 };
    // As sigaltstack(2) would; what it refuses stays as it is.
    let _ = super::calls::set_alt_stack(thread, alt, frame.rsp as usize);
    Ok(())
}
