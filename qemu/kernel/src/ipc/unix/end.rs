//! One end of a connection: what arrives there, and who waits for it.
//!
//! Ends know nothing of each other, so that no cycle keeps them; a socket holds its own and its peer's.
//!
//! # Lock order
//! `queue` and `address` are leaves, but that `flight` takes the queues of several ends, one after the other, under its
//! own. No packet is dropped under a queue: with it may go the last reference to a file.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use syscalls::Errno;

use super::address::Address;
use super::flight::Cargo;
use crate::arch::spin::SpinLock;
use crate::sched::wait::WaitList;
use crate::task::pid::Pid;

/// Who sent something, or is on the other side; ids as the initial user namespace numbers them.
#[derive(Clone)]
pub(crate) struct Sender {
    pub(crate) pid: Arc<Pid>,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Sender {
    pub(super) fn is(&self, other: &Sender) -> bool {
        Arc::ptr_eq(&self.pid, &other.pid) && (self.uid, self.gid) == (other.uid, other.gid)
    }
}

/// What was sent at once: a message, or a part of a stream.
pub(super) struct Packet {
    pub(super) data: Arc<Vec<u8>>,
    /// Read so far; streams only.
    pub(super) offset: usize,
    pub(super) cargo: Cargo,
    pub(super) sender: Sender,
    pub(super) from: Option<Arc<Address>>,
}

/// What arrived.
#[derive(Default)]
pub(super) struct Queue {
    pub(super) packets: VecDeque<Packet>,
    /// Bytes that were not read.
    pub(super) bytes: usize,
    /// The owner reads no more: whoever writes is told.
    pub(super) closed: bool,
    /// Nobody writes any more: the end comes after the last packet.
    pub(super) finished: bool,
    /// The other side was closed before it had read everything (`ECONNRESET`).
    pub(super) reset: bool,
    /// The owner is gone.
    pub(super) gone: bool,
    /// The end that the owner is connected to; 0: none.
    pub(super) peer: u64,
}

/// One end.
pub(super) struct End {
    pub(super) id: u64,
    pub(super) queue: SpinLock<Queue>,
    /// Something arrived, or is not going to.
    pub(super) readable: WaitList,
    /// There is room again, or never.
    pub(super) writable: WaitList,
    address: SpinLock<Option<Arc<Address>>>,
}

static IDS: AtomicU64 = AtomicU64::new(1);

impl End {
    pub(super) fn new() -> Result<Arc<Self>, Errno> {
        let end = End {
            id: IDS.fetch_add(1, Ordering::Relaxed), // Relaxed: a number.
            queue: SpinLock::new(Queue::default()),
            readable: WaitList::new(),
            writable: WaitList::new(),
            address: SpinLock::new(None),
        };
        mnt_table::memory::arc(end).map_err(|_| Errno::ENOMEM)
    }

    /// The name that it is bound to.
    pub(super) fn address(&self) -> Option<Arc<Address>> {
        self.address.lock().clone()
    }

    pub(super) fn set_address(&self, address: Arc<Address>) {
        let old = self.address.lock().replace(address);
        drop(old);
    }

    /// Changes the queue, and wakes everybody.
    pub(super) fn change(&self, change: impl FnOnce(&mut Queue)) {
        change(&mut self.queue.lock());
        self.readable.wake();
        self.writable.wake();
    }

    /// Adds a packet. What it refuses comes back.
    pub(super) fn push(&self, packet: Packet) -> Result<(), (Errno, Packet)> {
        {
            let mut queue = self.queue.lock();
            if queue.packets.try_reserve(1).is_err() {
                return Err((Errno::ENOMEM, packet));
            }
            queue.bytes += packet.data.len();
            queue.packets.push_back(packet);
        }
        self.readable.wake();
        Ok(())
    }

    /// Takes everything out.
    pub(super) fn empty(&self) -> VecDeque<Packet> {
        let mut queue = self.queue.lock();
        queue.bytes = 0;
        core::mem::take(&mut queue.packets)
    }
}
