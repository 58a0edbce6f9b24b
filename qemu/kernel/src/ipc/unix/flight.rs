//! Files in flight: sent, and not yet received.
//!
//! A socket that is sent through a socket can come to be kept by nothing but its own queue. So sockets in flight are
//! counted here, and now and then those are looked for that nobody can receive any more:
//!
//! 1. *Candidates* are sockets of which every reference is in flight.
//! 2. A candidate that is in more queues than those of candidates is reachable, and so is whatever is in the queue of a
//!    reachable one.
//! 3. The queues of the others are emptied, which ends them.
//!
//! A file that is being received has a reference that is not in a candidate's queue, so it counts as reachable, whichever
//! of the two notices first.
//!
//! # Lock order
//! `FLIGHT` → the queues of ends, one after the other. Files are dropped under neither.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use linux_raw_sys::general as abi;
use mnt_table::memory::Grow;
use syscalls::Errno;
use syscalls::credentials::Capabilities;

use super::Socket;
use crate::arch::spin::SpinLock;
use crate::fs::file::OpenFile;
use crate::task;

/// With so many sockets in flight, whoever sends another looks for some that are lost.
const MANY: usize = 256;

/// Files on their way.
#[derive(Default)]
pub(super) struct Cargo {
    files: Vec<Arc<OpenFile>>,
    uid: u32,
}

struct InFlight {
    file: Weak<OpenFile>,
    count: usize,
}

struct Flight {
    /// Sockets, by the address of their files.
    sockets: Vec<InFlight>,
    /// How many files of each user there are.
    users: Vec<(u32, usize)>,
}

static FLIGHT: SpinLock<Flight> = SpinLock::new(Flight { sockets: Vec::new(), users: Vec::new() });

impl Flight {
    fn find(&self, file: *const OpenFile) -> Result<usize, usize> {
        self.sockets.binary_search_by_key(&file, |socket| socket.file.as_ptr())
    }

    fn land(&mut self, uid: u32, files: &[Arc<OpenFile>]) {
        for file in files {
            if let Ok(at) = self.find(Arc::as_ptr(file)) {
                self.sockets[at].count -= 1;
                if self.sockets[at].count == 0 {
                    self.sockets.remove(at);
                }
            }
        }
        if let Some(at) = self.users.iter().position(|(user, _)| *user == uid) {
            self.users[at].1 -= files.len();
            if self.users[at].1 == 0 {
                self.users.swap_remove(at);
            }
        }
    }
}

impl Cargo {
    /// Files that the calling task sends.
    ///
    /// # Errors
    /// `ETOOMANYREFS`: its user has more in flight than a process may have open. `ENOMEM`.
    pub(super) fn new(files: Vec<Arc<OpenFile>>) -> Result<Cargo, Errno> {
        if files.is_empty() {
            return Ok(Cargo::default());
        }
        let thread = task::current();
        let credentials = thread.credentials();
        let free = Capabilities::SYS_RESOURCE;
        let unlimited = credentials.capable(&mnt_table::UserNs::INITIAL, free)
            || credentials.capable(&mnt_table::UserNs::INITIAL, Capabilities::SYS_ADMIN);
        let limit = if unlimited { u64::MAX } else { thread.process().limit(abi::RLIMIT_NOFILE).soft };
        let uid = credentials.uid;
        let is_socket = |file: &Arc<OpenFile>| file.as_ops::<Socket>().is_some();
        let sockets = files.iter().filter(|file| is_socket(file)).count();
        if sockets != 0 && FLIGHT.lock().sockets.len() >= MANY {
            collect();
        }
        let mut flight = FLIGHT.lock();
        let now = flight.users.iter().find(|(user, _)| *user == uid).map_or(0, |(_, count)| *count);
        if now as u64 > limit {
            return Err(Errno::ETOOMANYREFS);
        }
        flight
            .sockets
            .make_room(sockets)
            .and_then(|()| flight.users.make_room(1))
            .map_err(|_| Errno::ENOMEM)?;
        for file in files.iter().filter(|file| is_socket(file)) {
            match flight.find(Arc::as_ptr(file)) {
                Ok(at) => flight.sockets[at].count += 1,
                Err(at) => flight.sockets.insert(at, InFlight { file: Arc::downgrade(file), count: 1 }),
            }
        }
        match flight.users.iter_mut().find(|(user, _)| *user == uid) {
            Some((_, count)) => *count += files.len(),
            None => flight.users.push((uid, files.len())),
        }
        Ok(Cargo { files, uid })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// The files, for whoever looks without taking them.
    pub(super) fn files(&self) -> &[Arc<OpenFile>] {
        &self.files
    }

    /// They have arrived.
    pub(super) fn land(mut self) -> Vec<Arc<OpenFile>> {
        self.take()
    }

    fn take(&mut self) -> Vec<Arc<OpenFile>> {
        let files = core::mem::take(&mut self.files);
        if !files.is_empty() {
            FLIGHT.lock().land(self.uid, &files);
        }
        files
    }
}

impl Drop for Cargo {
    fn drop(&mut self) {
        // Nobody receives them.
        drop(self.take());
    }
}

/// Ends sockets that are in flight and that nobody can receive any more.
///
/// Context: no lock held; may block.
pub(crate) fn collect() {
    // Without memory there is no looking; the next one may have some.
    let lost = FLIGHT.lock().lost().unwrap_or_default();
    for socket in &lost {
        let packets = socket.as_ops::<Socket>().map(Socket::empty).unwrap_or_default();
        drop(packets);
    }
}

/// Whether sockets are in flight.
pub(super) fn is_busy() -> bool {
    !FLIGHT.lock().sockets.is_empty()
}

/// What is known of a candidate.
struct Candidate {
    file: Arc<OpenFile>,
    /// References that are in queues, and how many of those are candidates'.
    count: usize,
    internal: usize,
    reachable: bool,
}

impl Flight {
    /// The sockets that nobody can receive.
    fn lost(&self) -> Result<Vec<Arc<OpenFile>>, Errno> {
        let no_memory = |_| Errno::ENOMEM;
        let mut candidates: Vec<Candidate> = Vec::new();
        candidates.make_room(self.sockets.len()).map_err(no_memory)?;
        for socket in &self.sockets {
            // Counted before this look adds one.
            let all = socket.file.strong_count();
            if all == socket.count
                && let Some(file) = socket.file.upgrade()
            {
                candidates.push(Candidate { file, count: socket.count, internal: 0, reachable: false });
            }
        }
        // In the order of `sockets`, hence sorted too.
        let find = |candidates: &[Candidate], file: &Arc<OpenFile>| {
            candidates.binary_search_by_key(&Arc::as_ptr(file), |other| Arc::as_ptr(&other.file)).ok()
        };
        let mut inside = Vec::new();
        for index in 0..candidates.len() {
            children(&candidates[index].file, |file| {
                inside.make_room(1).map_err(no_memory)?;
                inside.extend(find(&candidates, file));
                Ok(())
            })?;
        }
        inside.into_iter().for_each(|index| candidates[index].internal += 1);
        let mut reached = Vec::new();
        reached.make_room(candidates.len()).map_err(no_memory)?;
        for (index, candidate) in candidates.iter_mut().enumerate() {
            if candidate.internal < candidate.count {
                candidate.reachable = true;
                reached.push(index);
            }
        }
        while let Some(index) = reached.pop() {
            let mut found = Vec::new();
            children(&candidates[index].file, |file| {
                found.make_room(1).map_err(no_memory)?;
                found.extend(find(&candidates, file));
                Ok(())
            })?;
            for child in found {
                if !core::mem::replace(&mut candidates[child].reachable, true) {
                    reached.push(child); // Each once: there is room.
                }
            }
        }
        // What is reachable is let go of by `collect`'s caller: a candidate's last reference is not this one, which was
        // added to those in flight.
        candidates.retain(|candidate| !candidate.reachable);
        Ok(candidates.into_iter().map(|candidate| candidate.file).collect())
    }
}

/// Calls `found` with the files in the queue of a socket, and in those of sockets that it has not accepted yet.
fn children(
    socket: &Arc<OpenFile>,
    mut found: impl FnMut(&Arc<OpenFile>) -> Result<(), Errno>,
) -> Result<(), Errno> {
    let Some(socket) = socket.as_ops::<Socket>() else { return Ok(()) };
    socket.queued_files(&mut found)
}
