//! Open files of `/proc/PID/mountinfo`, `mounts` and `mountstats` (9.4, 9.5).
//!
//! A file shows the namespace and the root that its process had when it was opened, and keeps both. It is read in pieces
//! beside changes: the position is the unique id of the last mount that was shown, so no line comes twice.

use alloc::vec::Vec;
use core::task::Waker;

use linux_raw_sys::general as abi;
use mnt_table::memory::Grow;
use mnt_table::sync::BlockingMutex;
use mnt_table::{Dentry, PathRef, WriteSet, pin};

use crate::file::NamespaceRef;
use crate::kernel::shown;
use crate::listing::{Line, list};
use crate::{Errno, Show, Task};

/// Lines that are made at a time, under the namespace's lock.
const LINES: usize = 256;

/// Which file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `/proc/PID/mountinfo`
    Mountinfo,
    /// `/proc/PID/mounts`
    Mounts,
    /// `/proc/PID/mountstats`
    Mountstats,
}

/// An open file.
pub struct MountsFile<D: Dentry> {
    format: Format,
    ns: NamespaceRef<D>,
    root: PathRef<D>,
    cursor: BlockingMutex<Cursor>,
}

/// How far it was read, and which changes were seen.
struct Cursor {
    /// The unique id of the last mount whose line was made.
    after: u64,
    /// Of lines that were made, what was not read yet.
    text: Vec<u8>,
    /// The generation that the last poll, or the opening, saw.
    seen: u64,
}

impl<D: Dentry> MountsFile<D> {
    /// Opens a file of `task`.
    pub fn open(task: &Task<D>, format: Format) -> Self {
        loop {
            let ns = NamespaceRef::new(&task.namespace());
            let (mount, dentry) = task.fs().root();
            let kept = mount.keep(&pin());
            match kept {
                Ok(mount) => {
                    let cursor = Cursor { after: 0, text: Vec::new(), seen: ns.generation() };
                    let root = PathRef { mount, dentry };
                    return MountsFile { format, ns, root, cursor: BlockingMutex::new(cursor) };
                }
                // An umount of the root that is going to fail, since the task stands there.
                Err(unkept) => unkept.settle(),
            }
        }
    }

    /// read(2): the next bytes; none at the end.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn read(&self, show: &impl Show<D>, buffer: &mut [u8]) -> Result<usize, Errno> {
        let mut cursor = self.cursor.lock();
        while cursor.text.len() < buffer.len() {
            let lines = {
                let mut locks = WriteSet::one(&self.ns);
                locks.make_index(&self.ns);
                let root = (self.root.mount.to_arc(), self.root.dentry.clone());
                list(&locks, &self.ns, &root, show, (cursor.after + 1, LINES))?
            };
            for line in &lines {
                self.write(show, line, &mut cursor.text)?;
                cursor.after = line.unique_id;
            }
            if lines.is_empty() {
                break;
            }
        }
        let count = buffer.len().min(cursor.text.len());
        buffer[..count].copy_from_slice(&cursor.text[..count]);
        cursor.text.drain(..count);
        Ok(count)
    }

    /// lseek(2) to the beginning.
    pub fn rewind(&self) {
        let mut cursor = self.cursor.lock();
        cursor.after = 0;
        cursor.text.clear();
    }

    fn write(&self, show: &impl Show<D>, line: &Line<D>, out: &mut Vec<u8>) -> Result<(), Errno> {
        out.make_room(line.info.size_max() + 1)?;
        match self.format {
            Format::Mountinfo => line.info.write(out),
            Format::Mounts => line.info.write_mounts(out),
            Format::Mountstats => {
                let statistics = shown(|| show.statistics(&line.root))?;
                out.make_room(line.info.size_max() + statistics.as_ref().map_or(0, Vec::len) + 1)?;
                line.info.write_mountstats(statistics.as_deref(), out);
            }
        }
        out.push(b'\n');
        Ok(())
    }

    /// poll(2): which of the `wanted` events are there. A change is told of once, to the first poll that asks.
    pub fn poll(&self, wanted: u32) -> u32 {
        let mut there = abi::POLLIN | abi::POLLRDNORM;
        if self.format == Format::Mountstats {
            there |= abi::POLLOUT | abi::POLLWRNORM;
        } else {
            let mut cursor = self.cursor.lock();
            let now = self.ns.generation();
            if core::mem::replace(&mut cursor.seen, now) != now {
                there |= abi::POLLERR | abi::POLLPRI;
            }
        }
        there & (wanted | abi::POLLERR | abi::POLLHUP)
    }

    /// Wakes `waker` once after the next change that a poll would tell of; `false` if there is one now.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn watch(&self, waker: &Waker) -> Result<bool, Errno> {
        let seen = self.cursor.lock().seen;
        self.ns.watch(seen, waker).map_err(|_| Errno::ENOMEM)
    }
}
