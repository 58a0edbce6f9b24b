//! The system calls about memory.

use alloc::sync::Arc;

use linux_raw_sys::general as lx;
use syscalls::Errno;
use syscalls::credentials::Capabilities;

use super::area::PAGE;
use super::backing::Backing;
use super::map::{MapRequest, Place};
use super::shared::SharedMemory;
use super::space::{AddressSpace, MAP_MIN, Prot};
use super::user;
use crate::task::Thread;

/// mprotect's prot may have it; it means nothing here.
const PROT_SEM: u32 = 0x8;
/// Pages of one piece of mincore(2).
const PIECE: usize = 512;

/// The call `nr` of `thread`, if it is one of these.
pub(crate) fn call(thread: &Arc<Thread>, nr: u32, args: [usize; 6]) -> Option<Result<usize, Errno>> {
    let [a, b, c, d, e, f] = args;
    let done = |result: Result<(), Errno>| result.map(|()| 0);
    let on_space = |work: &dyn Fn(&AddressSpace) -> Result<usize, Errno>| match thread.space() {
        Some(space) => work(&space),
        None => Err(Errno::ENOMEM),
    };
    Some(match nr {
        lx::__NR_mmap => on_space(&|space| mmap(thread, space, [a, b, c, d, e, f])),
        lx::__NR_munmap => on_space(&|space| done(space.unmap(a, b))),
        lx::__NR_mprotect => on_space(&|space| done(mprotect(space, a, b, c as u32))),
        lx::__NR_pkey_mprotect => on_space(&|space| {
            // There are no keys, so the only one that can be given is none.
            if d as i32 == -1 { done(mprotect(space, a, b, c as u32)) } else { Err(Errno::EINVAL) }
        }),
        lx::__NR_mremap => on_space(&|space| space.remap(a, b, c, d as u32, e)),
        lx::__NR_brk => on_space(&|space| Ok(space.brk(a))),
        lx::__NR_madvise => on_space(&|space| done(space.advise(a, b, c as u32))),
        lx::__NR_msync => on_space(&|space| done(space.sync(a, b, c as u32))),
        lx::__NR_mincore => on_space(&|space| done(mincore(space, a, b, c))),
        lx::__NR_mlock => on_space(&|space| done(mlock(thread, space, a, b, 0))),
        lx::__NR_mlock2 => on_space(&|space| done(mlock(thread, space, a, b, c as u32))),
        lx::__NR_munlock => on_space(&|space| done(space.unlock(a, b))),
        lx::__NR_mlockall => on_space(&|space| done(mlockall(thread, space, a as u32))),
        lx::__NR_munlockall => on_space(&|space| done(space.lock_all(false, false, false, true))),
        _ => return None,
    })
}

fn mmap(thread: &Arc<Thread>, space: &AddressSpace, args: [usize; 6]) -> Result<usize, Errno> {
    const KNOWN: u32 = lx::MAP_TYPE
        | lx::MAP_FIXED
        | lx::MAP_ANONYMOUS
        | lx::MAP_32BIT
        | lx::MAP_GROWSDOWN
        | lx::MAP_DENYWRITE
        | lx::MAP_EXECUTABLE
        | lx::MAP_LOCKED
        | lx::MAP_NORESERVE
        | lx::MAP_POPULATE
        | lx::MAP_NONBLOCK
        | lx::MAP_STACK
        | lx::MAP_HUGETLB
        | lx::MAP_FIXED_NOREPLACE
        | lx::MAP_UNINITIALIZED;
    let [address, length, prot, flags, fd, offset] = args;
    let (prot, flags) = (Prot::from_bits_truncate(prot as u32), flags as u32);
    let has = |flag| flags & flag != 0;
    if !offset.is_multiple_of(PAGE) {
        return Err(Errno::EINVAL);
    }
    let file = if has(lx::MAP_ANONYMOUS) { None } else { Some(thread.files().get_open(fd as i32)?) };
    if length == 0 {
        return Err(Errno::EINVAL);
    }
    if has(lx::MAP_HUGETLB) {
        return Err(Errno::ENOMEM); // There are no huge pages.
    }
    let place = if has(lx::MAP_FIXED_NOREPLACE) {
        Place::NoReplace(address)
    } else if has(lx::MAP_FIXED) {
        Place::Fixed(address)
    } else {
        Place::Hint(address)
    };
    if !matches!(place, Place::Hint(_)) && address < MAP_MIN {
        if !address.is_multiple_of(PAGE) {
            return Err(Errno::EINVAL);
        }
        if !capable(thread, Capabilities::SYS_RAWIO) {
            return Err(Errno::EPERM);
        }
    }
    let kind = flags & lx::MAP_TYPE;
    let shared = matches!(kind, lx::MAP_SHARED | lx::MAP_SHARED_VALIDATE);
    let mut max_prot = Prot::all();
    let backing = match file {
        Some(file) => {
            match kind {
                lx::MAP_SHARED_VALIDATE if flags & !KNOWN != 0 => return Err(Errno::EOPNOTSUPP),
                lx::MAP_SHARED | lx::MAP_SHARED_VALIDATE => {
                    if !file.is_writable() {
                        if prot.contains(Prot::WRITE) {
                            return Err(Errno::EACCES);
                        }
                        max_prot -= Prot::WRITE;
                    }
                }
                lx::MAP_PRIVATE => {}
                _ => return Err(Errno::EINVAL),
            }
            if !file.is_readable() {
                return Err(Errno::EACCES);
            }
            let backing: Arc<dyn Backing> = file.ops().backing(&file)?;
            if !backing.may_exec() {
                if prot.contains(Prot::EXEC) {
                    return Err(Errno::EPERM);
                }
                max_prot -= Prot::EXEC;
            }
            if has(lx::MAP_GROWSDOWN) {
                return Err(Errno::EINVAL);
            }
            Some((backing, offset as u64))
        }
        None if kind == lx::MAP_SHARED || kind == lx::MAP_SHARED_VALIDATE => {
            if has(lx::MAP_GROWSDOWN) {
                return Err(Errno::EINVAL);
            }
            Some((SharedMemory::backing(length)?, 0))
        }
        None if kind == lx::MAP_PRIVATE => None,
        None => return Err(Errno::EINVAL),
    };
    let may_lock_all = capable(thread, Capabilities::IPC_LOCK);
    if has(lx::MAP_LOCKED) && !may_lock(space, may_lock_all) {
        return Err(Errno::EPERM);
    }
    space.map(MapRequest {
        place,
        length,
        prot,
        max_prot,
        shared,
        backing,
        grows_down: has(lx::MAP_GROWSDOWN),
        locked: has(lx::MAP_LOCKED),
        may_lock_all,
        populate: has(lx::MAP_POPULATE) && !has(lx::MAP_NONBLOCK),
        no_reserve: has(lx::MAP_NORESERVE),
        low: has(lx::MAP_32BIT),
    })
}

/// A capability over the whole machine.
fn capable(thread: &Thread, wanted: Capabilities) -> bool {
    thread.credentials().capable(&mnt_table::UserNs::INITIAL, wanted)
}

/// Whether it may lock memory at all.
fn may_lock(space: &AddressSpace, any: bool) -> bool {
    any || space.limits.locked.load(core::sync::atomic::Ordering::Relaxed) != 0 // Relaxed: a number that stands for itself.
}

fn mprotect(space: &AddressSpace, address: usize, length: usize, prot: u32) -> Result<(), Errno> {
    let grows = prot & (lx::PROT_GROWSDOWN | lx::PROT_GROWSUP);
    if grows == lx::PROT_GROWSDOWN | lx::PROT_GROWSUP {
        return Err(Errno::EINVAL);
    }
    let known = Prot::from_bits(prot & !grows & !PROT_SEM);
    if !address.is_multiple_of(PAGE) {
        return Err(Errno::EINVAL);
    }
    if length == 0 {
        return Ok(());
    }
    super::map::page_range(address, length)?;
    let prot = known.ok_or(Errno::EINVAL)?;
    if grows == lx::PROT_GROWSUP {
        return Err(Errno::EINVAL); // Nothing grows upwards.
    }
    space.protect(address, length, prot, grows != 0)
}

fn mincore(space: &AddressSpace, address: usize, length: usize, to: usize) -> Result<(), Errno> {
    if !address.is_multiple_of(PAGE) {
        return Err(Errno::EINVAL);
    }
    let range = super::map::page_range(address, length)?;
    let mut there = [0; PIECE];
    for start in range.clone().step_by(PIECE * PAGE) {
        let count = PIECE.min((range.end - start) / PAGE);
        space.resident(start, &mut there[..count])?;
        let at = to.checked_add((start - range.start) / PAGE).ok_or(Errno::EFAULT)?;
        user::write(at, &there[..count])?;
    }
    Ok(())
}

fn mlock(
    thread: &Thread,
    space: &AddressSpace,
    address: usize,
    length: usize,
    flags: u32,
) -> Result<(), Errno> {
    if flags & !lx::MLOCK_ONFAULT != 0 {
        return Err(Errno::EINVAL);
    }
    let any = capable(thread, Capabilities::IPC_LOCK);
    if !may_lock(space, any) {
        return Err(Errno::EPERM);
    }
    space.lock(address, length, flags & lx::MLOCK_ONFAULT == 0, any)
}

fn mlockall(thread: &Thread, space: &AddressSpace, flags: u32) -> Result<(), Errno> {
    let has = |flag| flags & flag != 0;
    if flags == 0
        || flags & !(lx::MCL_CURRENT | lx::MCL_FUTURE | lx::MCL_ONFAULT) != 0
        || flags == lx::MCL_ONFAULT
    {
        return Err(Errno::EINVAL);
    }
    let any = capable(thread, Capabilities::IPC_LOCK);
    if !may_lock(space, any) {
        return Err(Errno::EPERM);
    }
    space.lock_all(has(lx::MCL_CURRENT), has(lx::MCL_FUTURE), !has(lx::MCL_ONFAULT), any)
}
