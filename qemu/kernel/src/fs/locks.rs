//! Locks of files: flock(2), and record locks of fcntl(2).
//!
//! A file that somebody locks has an entry in one list, by its identity, as long as there are locks of it or somebody waits.
//! Locks of a whole file and record locks do not meet.
//!
//! Processes that wait for record locks are in one list, with those that they wait for: whoever would close a circle of them
//! is refused (`EDEADLK`). Others that come to be in the way while somebody waits are noted before it waits on.
//!
//! # Lock order
//! A file's `held` → `WAITING`; `FILES` → `held`. All are spin locks.
//!
//! Sources: flock(2), fcntl(2).

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering};

use linux_raw_sys::general as abi;
use mnt_table::memory;
use syscalls::Errno;

use super::fd::FdTable;
use super::file::OpenFile;
use super::kernel::Call;
use crate::arch::spin::SpinLock;
use crate::mm::user;
use crate::sched::wait::{Wait, WaitList};

/// Locks of other systems' files servers, which do nothing.
const LOCK_MAND: u32 = 32;

/// Whose a lock is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    /// Of a descriptor table: `F_SETLK`.
    Process(usize),
    /// Of an open file: `F_OFD_SETLK`.
    File(usize),
    /// Of an open file, for the whole file: flock(2).
    Whole(usize),
}

#[derive(Clone, Copy, Debug)]
struct Lock {
    owner: Owner,
    start: u64,
    /// The last byte.
    end: u64,
    exclusive: bool,
    pid: u32,
}

impl Lock {
    fn overlaps(&self, other: &Lock) -> bool {
        self.start <= other.end && other.start <= self.end
    }

    fn conflicts(&self, other: &Lock) -> bool {
        let whole = |lock: &Lock| matches!(lock.owner, Owner::Whole(_));
        whole(self) == whole(other)
            && self.owner != other.owner
            && self.overlaps(other)
            && (self.exclusive || other.exclusive)
    }
}

struct FileLocks {
    held: SpinLock<Vec<Lock>>,
    waiters: WaitList,
}

/// A file's identity, and its locks.
type Locked = ((u32, u64), Arc<FileLocks>);

static FILES: SpinLock<Vec<Locked>> = SpinLock::new(Vec::new());
/// Files in the list: without any, closing looks no farther.
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// Who waits, and for whom.
static WAITING: SpinLock<Vec<(Owner, Owner)>> = SpinLock::new(Vec::new());

/// Notes that `owner` waits for `other`.
///
/// # Errors
/// `EDEADLK`: `other` waits for `owner`, over however many. `ENOMEM`.
fn wait_for(owner: Owner, other: Owner) -> Result<(), Errno> {
    let both = matches!((owner, other), (Owner::Process(_), Owner::Process(_)));
    if !both {
        return Ok(());
    }
    let mut waiting = WAITING.lock();
    let mut at = other;
    // No process waits twice in a circle that there is not yet.
    for _ in 0..=waiting.len() {
        if at == owner {
            return Err(Errno::EDEADLK);
        }
        let Some((_, next)) = waiting.iter().find(|(waiter, _)| *waiter == at) else { break };
        at = *next;
    }
    match waiting.iter_mut().find(|(waiter, _)| *waiter == owner) {
        Some(entry) => entry.1 = other,
        None => {
            waiting.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            waiting.push((owner, other));
        }
    }
    Ok(())
}

/// `owner` waits for nobody any more.
fn waits_no_more(owner: Owner) {
    WAITING.lock().retain(|(waiter, _)| *waiter != owner);
}

fn id(file: &OpenFile) -> Result<(u32, u64), Errno> {
    file.dentry().map(|dentry| dentry.id()).ok_or(Errno::EBADF)
}

fn find(id: (u32, u64)) -> Option<Arc<FileLocks>> {
    FILES.lock().iter().find(|(other, _)| *other == id).map(|(_, locks)| Arc::clone(locks))
}

fn find_or_add(id: (u32, u64)) -> Result<Arc<FileLocks>, Errno> {
    let fresh = FileLocks { held: SpinLock::new(Vec::new()), waiters: WaitList::new() };
    let fresh = memory::arc(fresh).map_err(|_| Errno::ENOMEM)?;
    let mut files = FILES.lock();
    if let Some((_, there)) = files.iter().find(|(other, _)| *other == id) {
        return Ok(Arc::clone(there));
    }
    files.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
    files.push((id, Arc::clone(&fresh)));
    COUNT.store(files.len(), Ordering::Relaxed); // Relaxed: whoever locked a file sees its own store.
    Ok(fresh)
}

/// Takes the entry away if nothing is left of it.
fn tidy(id: (u32, u64), locks: &Arc<FileLocks>) {
    /// Of the list and of the caller.
    const IDLE: usize = 2;
    let mut files = FILES.lock();
    let Some(at) = files.iter().position(|(other, _)| *other == id) else { return };
    // Somebody new would have to come by the list, which is locked.
    if Arc::strong_count(locks) == IDLE && locks.held.lock().is_empty() {
        let gone = files.swap_remove(at);
        // Relaxed: a count, changed under the list's lock.
        COUNT.store(files.len(), Ordering::Relaxed);
        drop(files);
        drop(gone);
    }
}

/// Takes `owner`'s locks of `range` away, leaving what lies beside it.
fn clear(held: &mut Vec<Lock>, new: &Lock) -> Result<(), Errno> {
    // One lock can become two.
    held.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
    let mut index = 0;
    while index < held.len() {
        let old = held[index];
        if old.owner != new.owner || !old.overlaps(new) {
            index += 1;
            continue;
        }
        held.swap_remove(index);
        if old.start < new.start {
            held.push(Lock { end: new.start - 1, ..old });
        }
        if old.end > new.end {
            held.push(Lock { start: new.end + 1, ..old });
        }
        // What was pushed does not overlap; what was swapped in is looked at next.
    }
    Ok(())
}

/// Sets `new`, or, without one, clears its range.
fn change(id: (u32, u64), new: &Lock, unlock: bool, waits: bool) -> Result<usize, Errno> {
    let locks = find_or_add(id)?;
    let attempt = || -> Option<Result<(), Errno>> {
        let mut held = locks.held.lock();
        if !unlock && let Some(other) = held.iter().find(|other| other.conflicts(new)) {
            return match if waits { wait_for(new.owner, other.owner) } else { Ok(()) } {
                Ok(()) => None,
                Err(error) => Some(Err(error)),
            };
        }
        // Both at once: room for what is split, and for the new one.
        let done = held.try_reserve(2).map_err(|_| Errno::ENOMEM).and_then(|()| clear(&mut held, new));
        if done.is_ok() && !unlock {
            held.push(*new);
        }
        Some(done)
    };
    let result = match attempt() {
        Some(done) => done,
        None if !waits => Err(Errno::EAGAIN),
        None => locks.waiters.wait(Wait::INTERRUPTIBLE, attempt).and_then(|done| done),
    };
    if waits {
        waits_no_more(new.owner);
    }
    locks.waiters.wake();
    tidy(id, &locks);
    result.map(|()| 0)
}

fn forget_all(id: (u32, u64), owners: &[Owner]) {
    let Some(locks) = find(id) else { return };
    let had = {
        let mut held = locks.held.lock();
        let before = held.len();
        held.retain(|lock| !owners.contains(&lock.owner));
        held.len() != before
    };
    if had {
        locks.waiters.wake();
    }
    tidy(id, &locks);
}

/// A descriptor of `table` that referred to `file` was closed: its process's record locks of that file go.
pub(crate) fn forget(file: &OpenFile, table: &FdTable) {
    // Relaxed: whoever has a lock sees its own store.
    if COUNT.load(Ordering::Relaxed) != 0
        && let Ok(id) = id(file)
    {
        forget_all(id, &[Owner::Process(core::ptr::from_ref(table).addr())]);
    }
}

/// `file` ends, and with it what it has locked.
pub(crate) fn released(file: &OpenFile) {
    // Relaxed: as in `forget`.
    if COUNT.load(Ordering::Relaxed) != 0
        && let Ok(id) = id(file)
    {
        let owner = core::ptr::from_ref(file).addr();
        forget_all(id, &[Owner::File(owner), Owner::Whole(owner)]);
    }
}

/// flock(2).
pub(crate) fn flock(call: &Call<'_>, fd: i32, operation: u32) -> Result<usize, Errno> {
    if operation & LOCK_MAND != 0 {
        return Ok(0);
    }
    let (exclusive, unlock) = match operation & !abi::LOCK_NB {
        abi::LOCK_SH => (false, false),
        abi::LOCK_EX => (true, false),
        abi::LOCK_UN => (false, true),
        _ => return Err(Errno::EINVAL),
    };
    let file = call.open_file(fd)?;
    let owner = Owner::Whole(Arc::as_ptr(&file).addr());
    let new = Lock { owner, start: 0, end: u64::MAX, exclusive, pid: call.thread.process().pid() };
    change(id(&file)?, &new, unlock, operation & abi::LOCK_NB == 0)
}

/// `struct flock`: type and whence, start, length, pid.
type Flock = [u64; 4];

/// The lock that user memory describes, and whether it unlocks.
fn read(
    call: &Call<'_>,
    file: &Arc<OpenFile>,
    addr: usize,
    open_file: bool,
) -> Result<(Lock, Option<bool>), Errno> {
    let words: Flock = user::get(addr)?;
    let (kind, whence) = (words[0] as u16, (words[0] >> 16) as u16);
    let base = match u32::from(whence) {
        abi::SEEK_SET => 0,
        abi::SEEK_CUR => *file.offset().lock() as i64,
        abi::SEEK_END => file.dentry().and_then(|dentry| dentry.size().ok()).unwrap_or(0) as i64,
        _ => return Err(Errno::EINVAL),
    };
    let start = base.checked_add(words[1] as i64).ok_or(Errno::EOVERFLOW)?;
    let len = words[2] as i64;
    let (start, end) = match len {
        0 => (start, i64::MAX),
        1.. => (start, start.checked_add(len - 1).ok_or(Errno::EOVERFLOW)?),
        _ => (start.checked_add(len).ok_or(Errno::EINVAL)?, start - 1),
    };
    let start = u64::try_from(start).map_err(|_| Errno::EINVAL)?;
    let end = if end == i64::MAX { u64::MAX } else { end as u64 };
    if open_file && words[3] as u32 != 0 {
        return Err(Errno::EINVAL);
    }
    let owner = if open_file {
        Owner::File(Arc::as_ptr(file).addr())
    } else {
        Owner::Process(Arc::as_ptr(&call.thread.files()).addr())
    };
    let exclusive = match u32::from(kind) {
        abi::F_RDLCK => Some(false),
        abi::F_WRLCK => Some(true),
        abi::F_UNLCK => None,
        _ => return Err(Errno::EINVAL),
    };
    let pid = call.thread.process().pid();
    Ok((Lock { owner, start, end, exclusive: exclusive == Some(true), pid }, exclusive))
}

/// `F_SETLK` and its like.
pub(crate) fn set(
    call: &Call<'_>,
    fd: i32,
    file: &Arc<OpenFile>,
    addr: usize,
    open_file: bool,
    waits: bool,
) -> Result<usize, Errno> {
    let (new, exclusive) = read(call, file, addr, open_file)?;
    match exclusive {
        Some(true) if !file.is_writable() => return Err(Errno::EBADF),
        Some(false) if !file.is_readable() => return Err(Errno::EBADF),
        _ => {}
    }
    let id = id(file)?;
    let done = change(id, &new, exclusive.is_none(), waits)?;
    // Closed by another thread meanwhile, nobody would take the lock away.
    let files = call.thread.files();
    if !open_file && !files.get(fd).is_ok_and(|now| Arc::ptr_eq(&now, file)) {
        forget(file, &files);
    }
    Ok(done)
}

/// `F_GETLK` and its like: the first lock in the way.
pub(crate) fn get(
    call: &Call<'_>,
    file: &Arc<OpenFile>,
    addr: usize,
    open_file: bool,
) -> Result<usize, Errno> {
    let (wanted, exclusive) = read(call, file, addr, open_file)?;
    if exclusive.is_none() && !open_file {
        return Err(Errno::EINVAL);
    }
    let found = find(id(file)?).and_then(|locks| {
        let held = locks.held.lock();
        held.iter().filter(|lock| lock.conflicts(&wanted)).min_by_key(|lock| lock.start).copied()
    });
    let mut words: Flock = user::get(addr)?;
    match found {
        None => words[0] = words[0] & !0xffff | u64::from(abi::F_UNLCK),
        Some(lock) => {
            let kind = if lock.exclusive { abi::F_WRLCK } else { abi::F_RDLCK };
            let len = if lock.end == u64::MAX { 0 } else { lock.end - lock.start + 1 };
            let pid = if matches!(lock.owner, Owner::File(_)) { u32::MAX } else { lock.pid };
            words = [kind.into(), lock.start, len, words[3] & !0xffff_ffff | u64::from(pid)];
        }
    }
    user::put(addr, words)?;
    Ok(0)
}
