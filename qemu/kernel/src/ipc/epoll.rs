//! epoll(7): descriptors that wait for many files.
//!
//! 1. Each file that is waited for has an [`Item`], whose waker the file keeps from one poll to the next. Woken, an item
//!    goes to the end of `ready`, once, and wakes whoever waits for the instance.
//! 2. epoll_wait(2) takes items out of `ready` and asks their files again, which puts the wakers back. Who has nothing to
//!    tell is forgotten until it is woken. An item that is not edge-triggered goes back to the end, so that the next call
//!    asks it again.
//! 3. Items hold their files weakly: one whose last descriptor was closed is gone, and its item is dropped when it is met.
//!
//! # Invariants
//! - `[Room]` `ready` has room for every item, from the time on when it was added; so waking allocates nothing.
//! - `[Acyclic]` No instance waits for itself, directly or by way of others, and no chain of instances that wait for each
//!   other is longer than [`NESTS_MAX`]. All that adds one instance to another does so under `NESTING`; `outer` may name
//!   instances that wait no more, which only makes chains look longer.
//!
//! # Lock order
//! `NESTING` → `items` (sleeping) → locks of other instances further in and of files → `ready`, `Item::state` (leaves). No
//! file is asked, woken or dropped under the leaves.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::{Arc, Weak};
use alloc::task::Wake;
use alloc::vec::Vec;
use core::task::Waker;

use linux_raw_sys::general as abi;
use mnt_table::memory::Grow;
use mnt_table::sync::BlockingMutex;
use syscalls::Errno;

use super::wait::{self, Deadline};
use crate::arch::spin::SpinLock;
use crate::fs::anon;
use crate::fs::file::{FileOps, OpenFile};
use crate::mm::user;
use crate::sched::wait::{Wait, WaitList};
use crate::task;

/// Bytes of `struct epoll_event`, which has no padding on this machine.
const EVENT: usize = 12;
/// The most events that one call may ask for.
const EVENTS_MAX: usize = i32::MAX as usize / EVENT;
/// How many steps a chain of instances that wait for each other may have.
const NESTS_MAX: usize = 4;
/// What is no event but a way to wait.
const MODES: u32 = abi::EPOLLEXCLUSIVE | abi::EPOLLWAKEUP | abi::EPOLLONESHOT | abi::EPOLLET;
const ALWAYS: u32 = abi::EPOLLERR | abi::EPOLLHUP;

static NESTING: BlockingMutex<()> = BlockingMutex::new(());

/// An instance.
pub(crate) struct Epoll {
    items: BlockingMutex<BTreeMap<Key, Arc<Item>>>,
    ready: SpinLock<VecDeque<Arc<Item>>>,
    waiters: WaitList,
    /// Instances that wait for this one. Changed under `NESTING`.
    outer: BlockingMutex<Vec<Weak<Epoll>>>,
}

/// A descriptor and the file that it referred to: both, because either alone can be had twice.
type Key = (i32, usize);

struct Item {
    epoll: Weak<Epoll>,
    file: Weak<OpenFile>,
    fd: i32,
    state: SpinLock<State>,
}

struct State {
    /// What is waited for and how; 0: nothing, until it is set anew.
    events: u32,
    data: u64,
    /// It is in `ready`.
    queued: bool,
    removed: bool,
}

impl Wake for Item {
    fn wake(self: Arc<Self>) {
        if let Some(epoll) = self.epoll.upgrade() {
            epoll.queue(&self);
            epoll.waiters.wake();
        }
    }
}

impl Item {
    /// What its file has to tell, and how it is waited for; the file keeps the waker.
    fn ask(self: &Arc<Self>) -> Result<Option<(u32, u32, u64)>, Errno> {
        let Some(file) = self.file.upgrade() else { return Ok(None) };
        let there = file.ops().poll(&file, Some(&Waker::from(Arc::clone(self))))?;
        let state = self.state.lock();
        let wanted = match state.events & !MODES {
            0 => 0,
            events => events | ALWAYS,
        };
        Ok(Some((there & wanted, state.events, state.data)))
    }
}

/// epoll_create1(2)
///
/// # Errors
/// `EINVAL`: unknown flags. `EMFILE`, `ENOMEM`.
pub(super) fn create(flags: u32) -> Result<usize, Errno> {
    if flags & !abi::EPOLL_CLOEXEC != 0 {
        return Err(Errno::EINVAL);
    }
    let epoll = Epoll {
        items: BlockingMutex::new(BTreeMap::new()),
        ready: SpinLock::new(VecDeque::new()),
        waiters: WaitList::new(),
        outer: BlockingMutex::new(Vec::new()),
    };
    let ops = mnt_table::memory::arc(epoll).map_err(|_| Errno::ENOMEM)?;
    anon::install(ops, anon::Kind::Anon("[eventpoll]"), abi::O_RDWR, flags & abi::EPOLL_CLOEXEC != 0)
}

fn get(file: &OpenFile) -> Result<Arc<Epoll>, Errno> {
    let ops: Arc<dyn core::any::Any + Send + Sync> = file.ops().clone();
    ops.downcast().map_err(|_| Errno::EINVAL)
}

/// epoll_ctl(2)
///
/// # Errors
/// `EFAULT`; `EBADF`; `EPERM`: the file cannot be waited for; `EINVAL`; `EEXIST`, `ENOENT`, `ELOOP`, `ENOMEM`.
pub(super) fn control(epfd: i32, op: u32, fd: i32, event: usize) -> Result<usize, Errno> {
    let (mut events, mut data) = (0, 0);
    if op != abi::EPOLL_CTL_DEL {
        let [first, second, third] = user::get::<[u32; 3]>(event)?;
        (events, data) = (first, u64::from(second) | u64::from(third) << 32);
    }
    let files = task::current().files();
    let (outer, file) = (files.get_open(epfd)?, files.get_open(fd)?);
    if !file.ops().can_wait() {
        return Err(Errno::EPERM);
    }
    let epoll = get(&outer)?;
    if Arc::ptr_eq(&outer, &file) {
        return Err(Errno::EINVAL);
    }
    let inner = get(&file).ok();
    if events & abi::EPOLLEXCLUSIVE != 0 {
        let allowed =
            abi::EPOLLIN | abi::EPOLLOUT | ALWAYS | abi::EPOLLWAKEUP | abi::EPOLLET | abi::EPOLLEXCLUSIVE;
        if op == abi::EPOLL_CTL_MOD || inner.is_some() || events & !allowed != 0 {
            return Err(Errno::EINVAL);
        }
    }
    let key = (fd, Arc::as_ptr(&file) as usize);
    match op {
        abi::EPOLL_CTL_ADD => epoll.add(key, &file, inner.as_ref(), (events, data)),
        abi::EPOLL_CTL_MOD => epoll.modify(key, events, data),
        abi::EPOLL_CTL_DEL => epoll.remove(key),
        _ => Err(Errno::EINVAL),
    }?;
    Ok(0)
}

/// epoll_wait(2)
///
/// # Errors
/// `EBADF`, `EINVAL`, `EFAULT`, `EINTR`, `ENOMEM`.
pub(super) fn wait(epfd: i32, to: usize, max: i32, timeout_ms: i32) -> Result<usize, Errno> {
    wait_until(epfd, to, max, wait::after_ms(timeout_ms))
}

/// epoll_pwait(2)
///
/// # Errors
/// As [`wait`]; `EINVAL`: no set of signals.
pub(super) fn pwait(
    epfd: i32,
    (to, max): (usize, i32),
    timeout_ms: i32,
    (set, size): (usize, usize),
) -> Result<usize, Errno> {
    let deadline = wait::after_ms(timeout_ms);
    wait::block_signals(set, size)?;
    wait_until(epfd, to, max, deadline)
}

/// epoll_pwait2(2)
///
/// # Errors
/// As [`pwait`]; `EINVAL`: no time.
pub(super) fn pwait2(
    epfd: i32,
    (to, max): (usize, i32),
    timeout: usize,
    (set, size): (usize, usize),
) -> Result<usize, Errno> {
    let deadline = wait::timespec(timeout)?;
    wait::block_signals(set, size)?;
    wait_until(epfd, to, max, deadline)
}

fn wait_until(epfd: i32, to: usize, max: i32, deadline: Deadline) -> Result<usize, Errno> {
    let max = usize::try_from(max).ok().filter(|max| (1..=EVENTS_MAX).contains(max)).ok_or(Errno::EINVAL)?;
    let file = task::current().files().get_open(epfd)?;
    let epoll = get(&file)?;
    loop {
        let count = epoll.deliver(to, max)?;
        if count != 0 {
            return Ok(count);
        }
        let ready = || (!epoll.ready.lock().is_empty()).then_some(());
        match epoll.waiters.wait(Wait::INTERRUPTIBLE.until(deadline), ready) {
            Ok(()) => {}
            Err(Errno::ETIMEDOUT) => return epoll.deliver(to, max),
            Err(Errno::ENOMEM) => return Err(Errno::ENOMEM),
            // Never begun again, whatever the signal does.
            Err(_) => return Err(Errno::EINTR),
        }
    }
}

impl Epoll {
    /// Puts an item into `ready`, unless it is there.
    fn queue(&self, item: &Arc<Item>) {
        let mut ready = self.ready.lock();
        let mut state = item.state.lock();
        if !state.queued && !state.removed {
            state.queued = true;
            ready.push_back(Arc::clone(item)); // [Room]
        }
    }

    fn add(
        self: &Arc<Self>,
        key: Key,
        file: &Arc<OpenFile>,
        inner: Option<&Arc<Epoll>>,
        (events, data): (u32, u64),
    ) -> Result<(), Errno> {
        let _nobody_nests = inner.map(|_| NESTING.lock());
        if let Some(inner) = inner {
            let below = inner.steps_down(self, NESTS_MAX)?;
            let above = self.steps_up(NESTS_MAX);
            if below.is_none_or(|below| above + 1 + below > NESTS_MAX) {
                return Err(Errno::ELOOP);
            }
            let mut outer = inner.outer.lock();
            outer.retain(|outer| outer.strong_count() != 0);
            outer.make_room(1).map_err(|_| Errno::ENOMEM)?;
            outer.push(Arc::downgrade(self));
        }
        let state = State { events, data, queued: false, removed: false };
        let item = Item {
            epoll: Arc::downgrade(self),
            file: Arc::downgrade(file),
            fd: key.0,
            state: SpinLock::new(state),
        };
        let item = mnt_table::memory::arc(item).map_err(|_| Errno::ENOMEM)?;
        let mut dead = Vec::new();
        {
            let mut items = self.items.lock();
            if items.contains_key(&key) {
                return Err(Errno::EEXIST);
            }
            self.sweep(&mut items, &mut dead)?;
            let wanted = items.len() + 1;
            let mut ready = self.ready.lock();
            let more = wanted.saturating_sub(ready.len());
            ready.try_reserve(more).map_err(|_| Errno::ENOMEM)?;
            drop(ready);
            items.insert(key, Arc::clone(&item));
        }
        drop(dead);
        match item.ask() {
            Ok(Some((there, _, _))) if there != 0 => {
                self.queue(&item);
                self.waiters.wake();
            }
            Ok(_) => {}
            Err(error) => {
                let _ = self.remove(key);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Takes out the items of files that are gone, once there are many items: each costs one look at most.
    fn sweep(&self, items: &mut BTreeMap<Key, Arc<Item>>, dead: &mut Vec<Arc<Item>>) -> Result<(), Errno> {
        const MANY: usize = 64;
        if items.len() < MANY || !items.len().is_power_of_two() {
            return Ok(());
        }
        let gone = items.values().filter(|item| item.file.strong_count() == 0).count();
        dead.make_room(gone).map_err(|_| Errno::ENOMEM)?;
        items.retain(|_, item| {
            let lives = item.file.strong_count() != 0;
            if !lives && dead.len() < dead.capacity() {
                item.state.lock().removed = true;
                dead.push(Arc::clone(item));
                return false;
            }
            true
        });
        Ok(())
    }

    /// The longest chain of instances below it, up to `most`; `None` if it waits for `unwanted`, or is it.
    fn steps_down(self: &Arc<Self>, unwanted: &Arc<Epoll>, most: usize) -> Result<Option<usize>, Errno> {
        if Arc::ptr_eq(self, unwanted) {
            return Ok(None);
        }
        let mut inner: Vec<Arc<Epoll>> = Vec::new();
        for item in self.items.lock().values() {
            if let Some(epoll) = item.file.upgrade().and_then(|file| get(&file).ok()) {
                inner.make_room(1).map_err(|_| Errno::ENOMEM)?;
                inner.push(epoll);
            }
        }
        let mut longest = 0;
        for epoll in inner {
            // Longer than allowed is as good as a circle.
            if most == 0 {
                return Ok(None);
            }
            match epoll.steps_down(unwanted, most - 1)? {
                Some(steps) => longest = longest.max(steps + 1),
                None => return Ok(None),
            }
        }
        Ok(Some(longest))
    }

    /// The longest chain of instances above it, up to `most`.
    fn steps_up(&self, most: usize) -> usize {
        if most == 0 {
            return 0;
        }
        let above = self.outer.lock();
        let steps = above.iter().filter_map(|outer| Some(outer.upgrade()?.steps_up(most - 1) + 1));
        steps.max().unwrap_or(0)
    }

    fn modify(&self, key: Key, events: u32, data: u64) -> Result<(), Errno> {
        let item = self.items.lock().get(&key).cloned().ok_or(Errno::ENOENT)?;
        {
            let mut state = item.state.lock();
            state.events = events;
            state.data = data;
        }
        if let Some((there, _, _)) = item.ask()?
            && there != 0
        {
            self.queue(&item);
            self.waiters.wake();
        }
        Ok(())
    }

    fn remove(&self, key: Key) -> Result<(), Errno> {
        let item = self.items.lock().remove(&key).ok_or(Errno::ENOENT)?;
        self.forget(&item);
        Ok(())
    }

    /// Takes an item that was removed from `items` out of everything else.
    fn forget(&self, item: &Arc<Item>) {
        {
            let mut ready = self.ready.lock();
            item.state.lock().removed = true;
            ready.retain(|other| !Arc::ptr_eq(other, item));
        }
        if let Some(file) = item.file.upgrade() {
            file.ops().unwatch(&file, &Waker::from(Arc::clone(item)));
            if let Ok(inner) = get(&file) {
                let mut outer = inner.outer.lock();
                if let Some(at) = outer.iter().position(|outer| outer.as_ptr() == item.epoll.as_ptr()) {
                    outer.swap_remove(at);
                }
            }
        }
    }

    /// Copies events out, at most `max`; how many.
    fn deliver(&self, to: usize, max: usize) -> Result<usize, Errno> {
        // Items that come back to the end are not met again.
        let mut left = self.ready.lock().len();
        let mut count = 0;
        while left != 0 && count < max {
            left -= 1;
            let Some(item) = self.pop() else { break };
            match self.tell(&item, to + count * EVENT) {
                Ok(told) => count += usize::from(told),
                Err(error) => {
                    self.queue(&item);
                    return if count == 0 { Err(error) } else { Ok(count) };
                }
            }
        }
        Ok(count)
    }

    fn pop(&self) -> Option<Arc<Item>> {
        let mut ready = self.ready.lock();
        let item = ready.pop_front()?;
        item.state.lock().queued = false;
        Some(item)
    }

    /// Asks an item and copies its event out, if it has one.
    fn tell(&self, item: &Arc<Item>, to: usize) -> Result<bool, Errno> {
        let Some((there, modes, data)) = item.ask()? else {
            // Its file is gone.
            let key = (item.fd, item.file.as_ptr() as usize);
            let removed = self.items.lock().remove(&key);
            drop(removed);
            return Ok(false);
        };
        if there == 0 {
            return Ok(false);
        }
        user::put(to, [there, data as u32, (data >> 32) as u32])?;
        if modes & abi::EPOLLONESHOT != 0 {
            item.state.lock().events &= MODES;
        } else if modes & abi::EPOLLET == 0 {
            self.queue(item);
        }
        Ok(true)
    }
}

impl FileOps for Epoll {
    fn poll(&self, _file: &OpenFile, waker: Option<&Waker>) -> Result<u32, Errno> {
        if let Some(waker) = waker {
            self.waiters.watch(waker)?;
        }
        let mut left = self.ready.lock().len();
        while left != 0 {
            left -= 1;
            let Some(item) = self.pop() else { break };
            let asked = item.ask();
            let ready = !matches!(asked, Ok(None | Some((0, _, _))));
            if ready {
                self.queue(&item);
                asked?;
                return Ok(abi::POLLIN | abi::POLLRDNORM);
            }
        }
        Ok(0)
    }

    fn unwatch(&self, _file: &OpenFile, waker: &Waker) {
        self.waiters.unwatch(waker);
    }

    fn release(&self, _file: &OpenFile) {
        let items = core::mem::take(&mut *self.items.lock());
        items.values().for_each(|item| self.forget(item));
    }

    fn fdinfo(&self, _file: &OpenFile, text: &mut Vec<u8>) {
        for item in self.items.lock().values() {
            let state = item.state.lock();
            let (events, data) = (state.events, state.data);
            drop(state);
            let line = alloc::format!("tfd: {:8} events: {events:8x} data: {data:16x}\n", item.fd);
            text.extend_from_slice(line.as_bytes());
        }
    }
}
