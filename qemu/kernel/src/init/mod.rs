//! From the boot to the first process of user space.
//!
//! 1. The root of boot is made: an empty file system that nobody can leave or change, and on it the one that the image is
//!    unpacked into. So `pivot_root` away from the latter works, as it does on Linux from 7.0 on.
//! 2. The image is unpacked.
//! 3. The first process gets the console as descriptors 0, 1 and 2, and its program.
//!
//! What goes wrong before the program runs is told in one line, and the machine ends with the status for bad input.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use core::sync::atomic::Ordering::Relaxed;

use crate::boot::BootInfo;
use crate::task::Init;
use crate::{debug_call, fs, mm, syscall, tty};

mod line;

/// Starts the first process.
///
/// # Errors
/// Why that cannot be, in words.
pub(crate) fn start(info: &BootInfo) -> Result<(), String> {
    let line = line::Line::parse(&info.command_line);
    // Relaxed, both: before user mode, which a thread of the scheduler's starts.
    syscall::TELL_UNKNOWN.store(line.debug, Relaxed);
    debug_call::ENABLED.store(line.debug_call, Relaxed);
    let no_memory = |errno| format!("user mode cannot be begun: {errno}");
    fs::boot::init().map_err(no_memory)?;
    fs::pseudo::init().map_err(no_memory)?;
    if line.debug_call {
        fs::types::register(Arc::new(fs::stand_in::StandIn));
    }
    tty::console::init().map_err(no_memory)?;
    let mounts = fs::boot::mount_root(mm::initrd(info)).map_err(|error| error.to_string())?;
    let files = fs::boot::first_files(&mounts).map_err(no_memory)?;
    let init = Init::new(mounts, files).map_err(no_memory)?;
    let shown = String::from_utf8_lossy(&line.program).to_string();
    init.run(&line.program, line.arguments, &line.environment)
        .map_err(|errno| format!("{shown} cannot be run: {errno}"))
}
