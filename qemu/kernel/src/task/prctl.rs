//! prctl(2), arch_prctl(2).

use alloc::sync::Arc;
use core::sync::atomic::Ordering::Relaxed;

use linux_raw_sys::prctl as pr;
use syscalls::credentials::Capabilities;
use syscalls::{Credentials, Errno};

use super::signal::SIGNALS;
use super::thread::COMM_LEN;
use super::{Thread, caps, creds};
use crate::mm::user;

/// prctl(2).
pub(super) fn prctl(thread: &Thread, args: [usize; 6]) -> Result<usize, Errno> {
    let [operation, a, b, c, d, _] = args;
    let process = &thread.process;
    let no_more = |rest: &[usize]| if rest.iter().all(|arg| *arg == 0) { Ok(()) } else { Err(Errno::EINVAL) };
    // Relaxed, all: numbers.
    match operation as u32 {
        pr::PR_SET_NAME => {
            let mut name = [0; COMM_LEN];
            for (index, byte) in name[..COMM_LEN - 1].iter_mut().enumerate() {
                *byte = user::get(a.wrapping_add(index))?;
                if *byte == 0 {
                    break;
                }
            }
            thread.set_comm(&name);
        }
        pr::PR_GET_NAME => user::write(a, &thread.comm())?,
        pr::PR_SET_PDEATHSIG => {
            let signal = u32::try_from(a).ok().filter(|signal| *signal <= SIGNALS).ok_or(Errno::EINVAL)?;
            thread.death_signal.store(signal, Relaxed);
        }
        pr::PR_GET_PDEATHSIG => user::put(a, thread.death_signal.load(Relaxed))?,
        pr::PR_SET_DUMPABLE if a > 1 => return Err(Errno::EINVAL),
        pr::PR_SET_DUMPABLE => process.dumpable.store(a as u32, Relaxed),
        pr::PR_GET_DUMPABLE => return Ok(process.dumpable() as usize),
        pr::PR_SET_KEEPCAPS => return caps::set_keep_caps(thread, a),
        pr::PR_GET_KEEPCAPS => {
            return Ok(usize::from(thread.credentials().securebits & caps::KEEP_CAPS != 0));
        }
        pr::PR_CAPBSET_READ => return caps::bounding_has(thread, a),
        pr::PR_CAPBSET_DROP => return caps::drop_bounding(thread, a),
        pr::PR_GET_SECUREBITS => return Ok(thread.credentials().securebits as usize),
        pr::PR_SET_SECUREBITS => return caps::set_securebits(thread, a),
        pr::PR_CAP_AMBIENT => return caps::ambient(thread, a, b, c | d),
        pr::PR_SET_NO_NEW_PRIVS => {
            if a != 1 || b | c | d != 0 {
                return Err(Errno::EINVAL);
            }
            let old = thread.credentials();
            creds::set(thread, Credentials { no_new_privs: true, ..(*old).clone() })?;
        }
        pr::PR_GET_NO_NEW_PRIVS => {
            no_more(&[a, b, c, d])?;
            return Ok(usize::from(thread.credentials().no_new_privs));
        }
        pr::PR_SET_CHILD_SUBREAPER => process.subreaper.store(a != 0, Relaxed),
        pr::PR_GET_CHILD_SUBREAPER => user::put(a, u32::from(process.subreaper.load(Relaxed)))?,
        pr::PR_SET_TIMERSLACK => {
            let mut settings = thread.settings.lock();
            settings.timer_slack_ns = if a as i64 <= 0 { settings.default_slack_ns } else { a as u64 };
        }
        pr::PR_GET_TIMERSLACK => return Ok(thread.settings.lock().timer_slack_ns as usize),
        pr::PR_GET_TIMING => {}
        pr::PR_SET_TIMING if a != 0 => return Err(Errno::EINVAL),
        pr::PR_SET_TIMING => {}
        pr::PR_GET_TID_ADDRESS => user::put(a, thread.clear_child_tid.load(Relaxed))?,
        pr::PR_GET_SECCOMP => {}
        pr::PR_SET_THP_DISABLE => no_more(&[b, c, d])?,
        pr::PR_GET_THP_DISABLE => no_more(&[a, b, c, d])?,
        pr::PR_SET_MM
            if !thread.credentials().capable(&mnt_table::UserNs::INITIAL, Capabilities::SYS_RESOURCE) =>
        {
            return Err(Errno::EPERM);
        }
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}

const ARCH_SET_GS: u32 = 0x1001;
const ARCH_SET_FS: u32 = 0x1002;
const ARCH_GET_FS: u32 = 0x1003;
const ARCH_GET_GS: u32 = 0x1004;
const ARCH_GET_CPUID: u32 = 0x1011;
const ARCH_SET_CPUID: u32 = 0x1012;

/// arch_prctl(2).
pub(super) fn arch_prctl(thread: &Arc<Thread>, operation: u32, addr: usize) -> Result<usize, Errno> {
    match operation {
        ARCH_SET_FS | ARCH_SET_GS => {
            let mut state = thread.user.lock();
            if operation == ARCH_SET_FS {
                state.set_fs_base(addr)?;
            } else {
                state.set_gs_base(addr)?;
            }
            state.load_bases();
        }
        ARCH_GET_FS | ARCH_GET_GS => {
            let base = {
                let state = thread.user.lock();
                if operation == ARCH_GET_FS { state.fs_base() } else { state.gs_base() }
            };
            user::put(addr, base)?;
        }
        // CPUID is for everybody.
        ARCH_GET_CPUID => return Ok(1),
        ARCH_SET_CPUID => return Err(Errno::ENODEV),
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}
