//! What ends what goes on for too long: processor time, circles of locks. And what was used.

use std::fs::File;
use std::os::fd::AsRawFd;

use anyhow::{Result, ensure};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, setrlimit};

use super::Check;
use crate::sys;

pub(super) const ALL: &[Check] = &[
    ("a process that has used its processor time is told, and then killed", processor_time),
    ("a circle of processes that wait for locks is not closed", circle),
    ("the most memory that a child had is told", most_memory),
];

fn processor_time() -> Result<()> {
    let limits = Rlimit { current: Some(1), maximum: Some(2) };
    let spin = |ignores: bool| {
        let child = sys::fork(|| {
            // SAFETY: ignoring a signal takes nothing that could be wrong.
            let ignored = !ignores || unsafe { libc::signal(libc::SIGXCPU, libc::SIG_IGN) } != libc::SIG_ERR;
            if !ignored || setrlimit(Resource::Cpu, limits).is_err() {
                return 1;
            }
            loop {
                std::hint::spin_loop();
            }
        })?;
        anyhow::Ok(sys::wait(child).map(|(_, status)| i32::from(status) - 128))
    };
    let told = spin(false)?;
    ensure!(told == Some(libc::SIGXCPU), "{told:?}");
    let killed = spin(true)?;
    ensure!(killed == Some(libc::SIGKILL), "{killed:?}");
    Ok(())
}

/// Locks a byte of a file, waiting for it.
fn lock(file: &File, byte: i64) -> Result<(), Errno> {
    // SAFETY: numbers, for which zero is a value.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    (lock.l_type, lock.l_start, lock.l_len) = (libc::F_WRLCK as i16, byte, 1);
    // SAFETY: the descriptor and the structure are ours.
    sys::done(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLKW, &raw const lock) })
}

fn circle() -> Result<()> {
    let path = format!("/tmp/circle-{}", std::process::id());
    let file = File::options().read(true).write(true).create_new(true).open(&path)?;
    std::fs::remove_file(&path)?;
    lock(&file, 0)?;
    let (ready, go) = std::io::pipe()?;
    let child = sys::fork(|| {
        if lock(&file, 1).is_err() {
            return 1;
        }
        // The end of all that could write tells the parent, whose own goes with this function.
        drop(go);
        // The parent ends, or is refused and lets go.
        u8::from(lock(&file, 0).is_err())
    })?;
    std::io::read_to_string(ready)?;
    // It is about to wait.
    std::thread::sleep(std::time::Duration::from_millis(200));
    let closed = lock(&file, 1);
    ensure!(closed == Err(Errno::DEADLK), "{closed:?}");
    // SAFETY: as in `lock`.
    let mut free: libc::flock = unsafe { std::mem::zeroed() };
    free.l_type = libc::F_UNLCK as i16;
    // SAFETY: as in `lock`.
    sys::done(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLK, &raw const free) })?;
    let ended = sys::wait(child);
    ensure!(ended == Some((child, 0)), "{ended:?}");
    Ok(())
}

fn most_memory() -> Result<()> {
    const MIB: usize = 32;
    let child = sys::fork(|| {
        let memory = vec![1_u8; MIB << 20];
        u8::from(std::hint::black_box(&memory)[MIB << 19] != 1)
    })?;
    ensure!(sys::wait(child) == Some((child, 0)), "it did not end well");
    // SAFETY: numbers, for which zero is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the structure is ours.
    sys::done(unsafe { libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage) })?;
    let mib = usage.ru_maxrss >> 10;
    ensure!((MIB as i64..MIB as i64 * 2).contains(&mib), "{mib} MiB");
    Ok(())
}
