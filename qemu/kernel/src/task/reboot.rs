//! reboot(2).

use linux_raw_sys::general as abi;
use syscalls::Errno;
use syscalls::credentials::Capabilities;

use super::Thread;
use super::signal::send;
use crate::arch::power::{self, ExitCode};
use crate::console::println;
use crate::tty;

const MAGIC: u32 = 0xfee1_dead;
const MAGIC_2: [u32; 4] = [672_274_793, 85_072_278, 369_367_448, 537_993_216];
const RESTART: u32 = 0x0123_4567;
const RESTART_2: u32 = 0xa1b2_c3d4;
const HALT: u32 = 0xcdef_0123;
const CAD_ON: u32 = 0x89ab_cdef;
const CAD_OFF: u32 = 0;
const POWER_OFF: u32 = 0x4321_fedc;

/// reboot(2). In a PID namespace of its own it ends that: its first process dies of a signal that tells which.
pub(super) fn reboot(thread: &Thread, magic: u32, magic_2: u32, command: u32) -> Result<usize, Errno> {
    let ns = thread.pid_ns();
    let owner = syscalls::file::OtherNamespace::owner(&**ns);
    if !thread.credentials().capable(owner, Capabilities::SYS_BOOT) {
        return Err(Errno::EPERM);
    }
    if magic != MAGIC || !MAGIC_2.contains(&magic_2) {
        return Err(Errno::EINVAL);
    }
    let how = match command {
        CAD_ON | CAD_OFF if ns.level() == 0 => return Ok(0),
        RESTART | RESTART_2 => "restarting: the machine ends",
        HALT => "halted",
        POWER_OFF => "power off",
        _ => return Err(Errno::EINVAL),
    };
    if ns.level() != 0 {
        let signal = if matches!(command, RESTART | RESTART_2) { abi::SIGHUP } else { abi::SIGINT };
        if let Some(init) = ns.init() {
            send::kill(&init, signal);
        }
        return Ok(0);
    }
    tty::console::flush();
    println!("kernel: {how}");
    power::exit(ExitCode::Success)
}
