//! How many processes and threads each user has (`RLIMIT_NPROC`).
//!
//! Lock order: the table is a leaf.

use alloc::collections::BTreeMap;

use linux_raw_sys::general as abi;
use mnt_table::memory::{self, Claims};
use syscalls::credentials::Capabilities;
use syscalls::{Credentials, Errno};

use super::Thread;
use crate::arch::spin::SpinLock;

static COUNTS: SpinLock<BTreeMap<u32, u64>> = SpinLock::new(BTreeMap::new());
/// As many allocations as an insertion takes at most.
const INSERT_ALLOCATIONS: usize = 10;

/// One thread of a user that is counted; dropped, it is no more.
#[derive(Debug)]
pub(super) struct Charge(u32);

impl Charge {
    pub(super) fn new(uid: u32) -> Result<Charge, Errno> {
        let mut claims = Claims::none();
        claims.claim(INSERT_ALLOCATIONS).map_err(|_| Errno::ENOMEM)?;
        let mut counts = COUNTS.lock();
        *memory::covered(|| counts.entry(uid).or_insert(0)) += 1;
        Ok(Charge(uid))
    }

    pub(super) fn uid(&self) -> u32 {
        self.0
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let mut counts = COUNTS.lock();
        if let Some(count) = counts.get_mut(&self.0) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.0);
            }
        }
    }
}

/// Whether a user with `credentials` has more than it may have.
pub(super) fn is_over_limit(thread: &Thread, credentials: &Credentials, more: u64) -> bool {
    let count = COUNTS.lock().get(&credentials.uid).copied().unwrap_or(0);
    let initial = &mnt_table::UserNs::INITIAL;
    count + more > thread.process.limit(abi::RLIMIT_NPROC).soft
        && credentials.uid != 0
        && !credentials.capable(initial, Capabilities::SYS_RESOURCE)
        && !credentials.capable(initial, Capabilities::SYS_ADMIN)
}

/// Counts a child of `parent`.
///
/// # Errors
/// `EAGAIN`: its user has as many as it may have. `ENOMEM`.
pub(super) fn charge(parent: &Thread) -> Result<Charge, Errno> {
    let credentials = parent.credentials();
    if is_over_limit(parent, &credentials, 1) {
        return Err(Errno::EAGAIN);
    }
    Charge::new(credentials.uid)
}
