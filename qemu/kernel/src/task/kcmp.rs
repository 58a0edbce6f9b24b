//! kcmp(2): whether two threads share a thing, and in which order such things come.

use alloc::sync::Arc;

use mnt_table::sync::Mutex;
use syscalls::Errno;

use super::Thread;
use super::creds::As;
use crate::random;

/// What is compared.
const FILE: u32 = 0;
const VM: u32 = 1;
const FILES: u32 = 2;
const FS: u32 = 3;
const SIGHAND: u32 = 4;
/// Contexts of block devices; undone operations of semaphores; files behind an epoll.
const IO: u32 = 5;
const SYSVSEM: u32 = 6;
const EPOLL_TFD: u32 = 7;

/// What addresses are mixed with, so that their order is all that is told; the second is odd.
static SECRET: Mutex<[u64; 2]> = Mutex::new([0; 2]);

/// The place in the order of what is at `address`.
fn place<T: ?Sized>(address: *const T) -> u64 {
    let mut secret = SECRET.lock();
    if secret[1] == 0 {
        let mut bytes = [0; 16];
        random::fill(&mut bytes);
        let word = |at: usize| u64::from_le_bytes(core::array::from_fn(|byte| bytes[at + byte]));
        *secret = [word(0), word(8) | 1];
    }
    (address.cast::<u8>().addr() as u64 ^ secret[0]).wrapping_mul(secret[1])
}

/// kcmp(2): 0 for the same thing, 1 and 2 for one that comes before or behind the other.
///
/// # Errors
/// `ESRCH`, `EPERM`, `EBADF`; `EINVAL`: an unknown kind. `EOPNOTSUPP`: one that there is not.
pub(super) fn kcmp(
    thread: &Arc<Thread>,
    pids: [i32; 2],
    kind: u32,
    indices: [usize; 2],
) -> Result<usize, Errno> {
    let find = |pid: i32| {
        let pid = u32::try_from(pid).map_err(|_| Errno::ESRCH)?;
        thread.pid_ns().thread(pid).ok_or(Errno::ESRCH)
    };
    let threads = [find(pids[0])?, find(pids[1])?];
    if !threads.iter().all(|other| thread.may_inspect(other, As::Itself)) {
        return Err(Errno::EPERM);
    }
    let of = |which: usize| -> Result<u64, Errno> {
        let thread = &threads[which];
        let files = || thread.try_files().ok_or(Errno::EBADF);
        Ok(match kind {
            FILE => {
                let number = i32::try_from(indices[which]).map_err(|_| Errno::EBADF)?;
                place(Arc::as_ptr(&files()?.get(number)?))
            }
            VM => thread.space().map_or(0, |space| place(Arc::as_ptr(&space))),
            FILES => thread.try_files().map_or(0, |files| place(Arc::as_ptr(&files))),
            FS => place(Arc::as_ptr(&thread.mounts.fs())),
            SIGHAND => place(Arc::as_ptr(&thread.process.actions())),
            IO | SYSVSEM | EPOLL_TFD => return Err(Errno::EOPNOTSUPP),
            _ => return Err(Errno::EINVAL),
        })
    };
    Ok(match of(0)?.cmp(&of(1)?) {
        core::cmp::Ordering::Equal => 0,
        core::cmp::Ordering::Less => 1,
        core::cmp::Ordering::Greater => 2,
    })
}
