//! futex(2), and the futexes that a thread leaves behind.
//!
//! 1. Waiters lie in buckets by their key: the space and the address of private memory, the object and the offset of shared
//!    memory.
//! 2. Who waits looks at the word under its bucket's lock and files itself there if it is as expected. Who wakes has changed
//!    the word before it comes to the bucket. So no wake-up is missed.
//! 3. A requeue moves waiters to another bucket, which is noted in the waiter; whoever takes itself out follows it.
//!
//! User memory is looked at under a bucket's lock only if it is there; else the lock is let go of, the page is fetched, and
//! all begins anew.
//!
//! Lock order: buckets by index; a waiter's `place` under its bucket. Wakers are woken under them.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering::*};
use core::task::Waker;

use linux_raw_sys::general as abi;
use mnt_table::memory::{self, Grow};
use syscalls::Errno;

use super::signal::{ERESTART_RESTARTBLOCK, ERESTARTSYS, Restart};
use super::time_ns::Clock;
use super::{Thread, time};
use crate::arch::clock;
use crate::arch::spin::SpinLock;
use crate::mm::user;
use crate::sched::{self, wait::Wait};

const BUCKETS: usize = 256;
/// A thread's list of robust futexes is followed this far.
const ROBUST_MAX: usize = 2048;

/// What a futex is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    Private { space: usize, address: usize },
    Shared { object: u64, offset: u64 },
}

struct Waiter {
    bits: u32,
    waker: Waker,
    /// Its key and bucket, and whether it is there.
    place: SpinLock<Place>,
    woken: AtomicBool,
}

#[derive(Clone, Copy)]
struct Place {
    key: Key,
    bucket: usize,
}

static TABLE: [SpinLock<Vec<Arc<Waiter>>>; BUCKETS] = [const { SpinLock::new(Vec::new()) }; BUCKETS];

impl Key {
    fn of(thread: &Thread, address: usize, private: bool) -> Result<Key, Errno> {
        if !address.is_multiple_of(4) {
            return Err(Errno::EINVAL);
        }
        let space = thread.space().ok_or(Errno::EFAULT)?;
        if !private {
            // What is shared is known by its page, so there must be one.
            user::get::<u32>(address)?;
            if let Some((object, offset)) = space.futex_key(address)? {
                return Ok(Key::Shared { object, offset });
            }
        }
        Ok(Key::Private { space: Arc::as_ptr(&space) as usize, address })
    }

    fn bucket(self) -> usize {
        let (a, b) = match self {
            Key::Private { space, address } => (space as u64, address as u64),
            Key::Shared { object, offset } => (object, offset),
        };
        let mixed = (a ^ b.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> 56) as usize % BUCKETS
    }
}

/// Runs `change` with the word at `address` under a lock that `lock` takes; fetches the page if it is not there.
fn with_word<G, R>(
    address: usize,
    mut lock: impl FnMut() -> G,
    mut access: impl FnMut() -> Result<u32, Errno>,
    mut change: impl FnMut(u32, &mut G) -> R,
) -> Result<R, Errno> {
    loop {
        {
            let mut guard = lock();
            if let Ok(word) = access() {
                return Ok(change(word, &mut guard));
            }
        }
        user::get::<u32>(address)?;
    }
}

/// FUTEX_WAIT and FUTEX_WAIT_BITSET, until `deadline_ns`.
fn wait(
    thread: &Thread,
    address: usize,
    value: u32,
    bits: u32,
    private: bool,
    deadline_ns: Option<u64>,
) -> Result<usize, Errno> {
    if bits == 0 {
        return Err(Errno::EINVAL);
    }
    let key = Key::of(thread, address, private)?;
    let place = Place { key, bucket: key.bucket() };
    let waiter =
        Waiter { bits, waker: sched::waker(), place: SpinLock::new(place), woken: AtomicBool::new(false) };
    let waiter = memory::arc(waiter).map_err(|_| Errno::ENOMEM)?;
    let filed = with_word(
        address,
        || TABLE[place.bucket].lock(),
        || user::load_u32(address),
        |word, bucket| {
            if word != value {
                return Err(Errno::EAGAIN);
            }
            bucket.try_push(Arc::clone(&waiter)).map_err(|_| Errno::ENOMEM)
        },
    )?;
    filed?;
    let how = Wait::INTERRUPTIBLE.until(deadline_ns);
    loop {
        // Acquire: pairs with the Release in `wake`.
        if waiter.woken.load(Acquire) {
            return Ok(0);
        }
        if let Err(error) = how.check() {
            return if take_out(&waiter) { Err(error) } else { Ok(0) };
        }
        sched::park_until(deadline_ns);
    }
}

/// Takes a waiter out; `false` if it was woken.
fn take_out(waiter: &Arc<Waiter>) -> bool {
    loop {
        let index = waiter.place.lock().bucket;
        let mut bucket = TABLE[index].lock();
        // Acquire: pairs with the Release of whoever wakes.
        if waiter.woken.load(Acquire) {
            return false;
        }
        if waiter.place.lock().bucket == index {
            if let Some(at) = bucket.iter().position(|other| Arc::ptr_eq(other, waiter)) {
                let own = bucket.remove(at);
                drop(bucket);
                drop(own);
            }
            return true;
        }
    }
}

/// Wakes up to `count` waiters of `key` in its bucket.
fn wake_in(bucket: &mut Vec<Arc<Waiter>>, key: Key, count: usize, bits: u32) -> usize {
    let mut woken = 0;
    bucket.retain(|waiter| {
        let wanted = woken < count && waiter.bits & bits != 0 && waiter.place.lock().key == key;
        if wanted {
            woken += 1;
            waiter.woken.store(true, Release); // Release: pairs with the Acquire in `wait`.
            waiter.waker.wake_by_ref();
        }
        !wanted
    });
    woken
}

fn wake(thread: &Thread, address: usize, count: usize, bits: u32, private: bool) -> Result<usize, Errno> {
    if bits == 0 {
        return Err(Errno::EINVAL);
    }
    let key = Key::of(thread, address, private)?;
    Ok(wake_in(&mut TABLE[key.bucket()].lock(), key, count, bits))
}

/// Wakes one waiter at `address`, private or shared (`clear_child_tid`).
pub(super) fn wake_address(thread: &Thread, address: usize) {
    let shared = wake(thread, address, 1, u32::MAX, false);
    if shared != Ok(1) {
        let _ = wake(thread, address, 1, u32::MAX, true);
    }
}

/// Both buckets, in the order of locking; the second is `None` if they are one.
type Two<'a> = (
    lock_api::MutexGuard<'a, crate::arch::spin::RawSpin, Vec<Arc<Waiter>>>,
    Option<lock_api::MutexGuard<'a, crate::arch::spin::RawSpin, Vec<Arc<Waiter>>>>,
);

fn lock_two(a: usize, b: usize) -> Two<'static> {
    if a == b {
        return (TABLE[a].lock(), None);
    }
    if a < b {
        let first = TABLE[a].lock();
        (first, Some(TABLE[b].lock()))
    } else {
        let second = TABLE[b].lock();
        (TABLE[a].lock(), Some(second))
    }
}

/// FUTEX_REQUEUE and FUTEX_CMP_REQUEUE.
fn requeue(
    thread: &Thread,
    (from, to): (usize, usize),
    (wakes, moves): (usize, usize),
    expected: Option<u32>,
    private: bool,
) -> Result<usize, Errno> {
    let (source, target) = (Key::of(thread, from, private)?, Key::of(thread, to, private)?);
    let (a, b) = (source.bucket(), target.bucket());
    with_word(
        from,
        || lock_two(a, b),
        || expected.map_or(Ok(0), |_| user::load_u32(from)),
        |word, (source_bucket, target_bucket)| {
            if expected.is_some_and(|expected| expected != word) {
                return Err(Errno::EAGAIN);
            }
            let woken = wake_in(source_bucket, source, wakes, u32::MAX);
            let mut moved = 0;
            match target_bucket {
                None => {
                    for waiter in source_bucket.iter() {
                        let mut place = waiter.place.lock();
                        if moved < moves && place.key == source {
                            place.key = target;
                            moved += 1;
                        }
                    }
                }
                Some(target_bucket) => {
                    let count = source_bucket.iter().filter(|w| w.place.lock().key == source).count();
                    target_bucket.make_room(count.min(moves)).map_err(|_| Errno::ENOMEM)?;
                    source_bucket.retain(|waiter| {
                        let mut place = waiter.place.lock();
                        let wanted = moved < moves && place.key == source;
                        if wanted {
                            *place = Place { key: target, bucket: b };
                            target_bucket.push(Arc::clone(waiter));
                            moved += 1;
                        }
                        !wanted
                    });
                }
            }
            Ok(if expected.is_some() { woken + moved } else { woken })
        },
    )?
}

/// FUTEX_WAKE_OP.
fn wake_op(
    thread: &Thread,
    (first, second): (usize, usize),
    (wakes, more): (usize, usize),
    operation: u32,
    private: bool,
) -> Result<usize, Errno> {
    let (a, b) = (Key::of(thread, first, private)?, Key::of(thread, second, private)?);
    let sign = |bits: u32| ((bits << 20) as i32) >> 20;
    let (kind, compare) = (operation >> 28 & 7, operation >> 24 & 15);
    let shift = operation >> 31 != 0;
    let argument = sign(operation >> 12 & 0xfff);
    let argument = if shift { 1_u32.wrapping_shl(argument as u32) } else { argument as u32 };
    let operand = sign(operation & 0xfff);
    let apply = |old: u32| match kind {
        abi::FUTEX_OP_SET => Ok(argument),
        abi::FUTEX_OP_ADD => Ok(old.wrapping_add(argument)),
        abi::FUTEX_OP_OR => Ok(old | argument),
        abi::FUTEX_OP_ANDN => Ok(old & !argument),
        abi::FUTEX_OP_XOR => Ok(old ^ argument),
        _ => Err(Errno::ENOSYS),
    };
    apply(0)?;
    let exchange = || loop {
        let old = user::load_u32(second)?;
        if user::compare_exchange_u32(second, old, apply(old)?)? == old {
            return Ok::<u32, Errno>(old);
        }
    };
    let write = || user::get::<u32>(second).and_then(|word| user::put(second, word));
    loop {
        {
            let (mut first_bucket, mut second_bucket) = lock_two(a.bucket(), b.bucket());
            if let Ok(old) = exchange() {
                let old = old as i32;
                let also = match compare {
                    abi::FUTEX_OP_CMP_EQ => old == operand,
                    abi::FUTEX_OP_CMP_NE => old != operand,
                    abi::FUTEX_OP_CMP_LT => old < operand,
                    abi::FUTEX_OP_CMP_GE => old >= operand,
                    abi::FUTEX_OP_CMP_LE => old <= operand,
                    abi::FUTEX_OP_CMP_GT => old > operand,
                    _ => return Err(Errno::ENOSYS),
                };
                let mut woken = wake_in(&mut first_bucket, a, wakes, u32::MAX);
                if also {
                    let bucket = second_bucket.as_mut().unwrap_or(&mut first_bucket);
                    woken += wake_in(bucket, b, more, u32::MAX);
                }
                return Ok(woken);
            }
        }
        // Fetches the page, for writing.
        write()?;
    }
}

/// futex(2).
pub(super) fn futex(thread: &Thread, args: [usize; 6]) -> Result<usize, Errno> {
    let [address, operation, value, timeout, address2, value3] = args;
    let (operation, value, value3) = (operation as u32, value as u32, value3 as u32);
    let private = operation & abi::FUTEX_PRIVATE_FLAG != 0;
    let realtime = operation & abi::FUTEX_CLOCK_REALTIME != 0;
    let command = operation & !(abi::FUTEX_PRIVATE_FLAG | abi::FUTEX_CLOCK_REALTIME);
    if realtime && command != abi::FUTEX_WAIT_BITSET && command != abi::FUTEX_WAIT {
        return Err(Errno::ENOSYS);
    }
    match command {
        abi::FUTEX_WAIT | abi::FUTEX_WAIT_BITSET => {
            let absolute = command == abi::FUTEX_WAIT_BITSET;
            let bits = if absolute { value3 } else { u32::MAX };
            let deadline_ns = match timeout {
                0 => None,
                addr if absolute => {
                    let by = if realtime { None } else { Some(Clock::Monotonic) };
                    Some(time::deadline_at(addr, by)?)
                }
                addr => Some(time::deadline_after(addr)?),
            };
            wait_or_restart(thread, address, value, bits, private, deadline_ns)
        }
        abi::FUTEX_WAKE => wake(thread, address, value as usize, u32::MAX, private),
        abi::FUTEX_WAKE_BITSET => wake(thread, address, value as usize, value3, private),
        abi::FUTEX_REQUEUE | abi::FUTEX_CMP_REQUEUE => {
            if (value as i32) < 0 || (timeout as i32) < 0 {
                return Err(Errno::EINVAL);
            }
            let expected = (command == abi::FUTEX_CMP_REQUEUE).then_some(value3);
            requeue(thread, (address, address2), (value as usize, timeout), expected, private)
        }
        abi::FUTEX_WAKE_OP => {
            wake_op(thread, (address, address2), (value as usize, timeout), value3, private)
        }
        _ => Err(Errno::ENOSYS),
    }
}

/// A wait with a time limit goes on until the same time when a signal without handler interrupted it.
pub(super) fn wait_or_restart(
    thread: &Thread,
    address: usize,
    value: u32,
    bits: u32,
    private: bool,
    deadline_ns: Option<u64>,
) -> Result<usize, Errno> {
    let result = wait(thread, address, value, bits, private, deadline_ns);
    match (result, deadline_ns) {
        (Err(ERESTARTSYS), Some(deadline_ns)) => {
            thread.set_restart(Restart::Futex { address, value, bits, private, deadline_ns });
            Err(ERESTART_RESTARTBLOCK)
        }
        (result, _) => result,
    }
}

/// Marks the robust futexes of `thread`, which ends, as left behind, and wakes who waits for them. Context: the thread
/// itself; its memory is still there.
pub(super) fn exit_robust_list(thread: &Thread) {
    let head = thread.robust_list.swap(0, Relaxed); // Relaxed: own thread.
    if head == 0 {
        return;
    }
    // `struct robust_list_head`: the first entry, the word's offset from an entry, the one that is being taken.
    let Ok([first, offset, pending]) = user::get::<[usize; 3]>(head) else { return };
    let mut at = first;
    for _ in 0..ROBUST_MAX {
        if at & !1 == head {
            break;
        }
        let next = user::get::<usize>(at & !1);
        if at & !1 != pending & !1 && leave(thread, (at & !1).wrapping_add(offset)).is_err() {
            return;
        }
        let Ok(next) = next else { return };
        at = next;
    }
    if pending & !1 != 0 {
        let _ = leave(thread, (pending & !1).wrapping_add(offset));
    }
}

fn leave(thread: &Thread, address: usize) -> Result<(), Errno> {
    if !address.is_multiple_of(4) {
        return Err(Errno::EINVAL);
    }
    let tid = thread.own_tid();
    loop {
        let word: u32 = user::get(address)?;
        if word & abi::FUTEX_TID_MASK != tid {
            return Ok(());
        }
        let left = word & abi::FUTEX_WAITERS | abi::FUTEX_OWNER_DIED;
        if user::compare_exchange_u32(address, word, left)? == word {
            if word & abi::FUTEX_WAITERS != 0 {
                wake_address(thread, address);
            }
            return Ok(());
        }
    }
}

/// Goes on with a wait that a signal interrupted.
pub(super) fn restart(thread: &Thread, restart: Restart) -> Result<usize, Errno> {
    match restart {
        Restart::Futex { address, value, bits, private, deadline_ns } if clock::now_ns() < deadline_ns => {
            wait_or_restart(thread, address, value, bits, private, Some(deadline_ns))
        }
        _ => Err(Errno::ETIMEDOUT),
    }
}
