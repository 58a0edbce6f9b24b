//! Block devices of memory: as large as they say, and as large in memory as what was written to them.
//!
//! # Lock order
//! `pages` is a leaf; user memory is not touched under it.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;

use linux_raw_sys::ioctl;
use syscalls::Errno;
use syscalls::credentials::Capabilities;
use tmpfs::{PAGE_SIZE, Page};

use crate::arch::spin::SpinLock;
use crate::fs::copy::{Sink, Source};
use crate::fs::file::{FileOps, OpenFile, Whence};
use crate::mm::user;
use crate::task;

/// How many there are.
const COUNT: usize = 4;
/// Bytes of each.
pub(crate) const SIZE: u64 = 384 << 20;
const SECTOR: u32 = 512;

/// A device.
struct Disk {
    pages: SpinLock<BTreeMap<u64, Page>>,
}

static DISKS: SpinLock<[Option<Arc<Disk>>; COUNT]> = SpinLock::new([const { None }; COUNT]);

/// Opens the device `minor`. What was written stays for the next who opens it.
///
/// # Errors
/// `ENXIO`, `ENOMEM`.
pub(super) fn open(minor: u32) -> Result<Arc<dyn FileOps>, Errno> {
    let fresh = Disk { pages: SpinLock::new(BTreeMap::new()) };
    let fresh = mnt_table::memory::arc(fresh).map_err(|_| Errno::ENOMEM)?;
    let mut disks = DISKS.lock();
    let disk = disks.get_mut(minor as usize).ok_or(Errno::ENXIO)?;
    let disk: &Arc<Disk> = disk.get_or_insert(fresh);
    Ok(disk.clone())
}

/// Where `at` is, and how many of `wanted` bytes are in that page.
fn piece(at: u64, wanted: usize) -> (u64, usize, usize) {
    let offset = (at % PAGE_SIZE as u64) as usize;
    let in_disk = usize::try_from(SIZE.saturating_sub(at)).unwrap_or(usize::MAX);
    (at / PAGE_SIZE as u64, offset, wanted.min(PAGE_SIZE - offset).min(in_disk))
}

impl Disk {
    fn page(&self, index: u64) -> Option<Page> {
        self.pages.lock().get(&index).cloned()
    }

    /// The page, which is made if there is none.
    fn page_to_write(&self, index: u64) -> Result<Page, Errno> {
        if let Some(page) = self.page(index) {
            return Ok(page);
        }
        let fresh = Page::zeroed().map_err(|_| Errno::ENOMEM)?;
        let mut pages = self.pages.lock();
        if let Some(page) = pages.get(&index) {
            return Ok(page.clone());
        }
        /// The most nodes that one insertion makes.
        const NODES: usize = 8;
        let mut claims = mnt_table::memory::Claims::none();
        claims.claim(NODES).map_err(|_| Errno::ENOMEM)?;
        mnt_table::memory::covered(|| pages.insert(index, fresh.clone()));
        Ok(fresh)
    }
}

impl FileOps for Disk {
    fn read(&self, _file: &OpenFile, to: &mut Sink<'_>, at: u64) -> Result<usize, Errno> {
        let start = to.done();
        let mut at = at;
        while to.left() != 0 {
            let mut chunk = [0; 512];
            let (index, offset, count) = piece(at, to.left().min(chunk.len()));
            if count == 0 {
                break;
            }
            if let Some(page) = self.page(index) {
                page.read(offset, &mut chunk[..count]);
            }
            match to.put(&chunk[..count]) {
                Ok(put) => at += put as u64,
                Err(error) if to.done() == start => return Err(error),
                Err(_) => break,
            }
        }
        Ok(to.done() - start)
    }

    fn write(&self, _file: &OpenFile, from: &mut Source<'_>, at: u64) -> Result<(usize, u64), Errno> {
        let mut at = at;
        let begin = at;
        if at >= SIZE && from.left() != 0 {
            return Err(Errno::ENOSPC);
        }
        while from.left() != 0 {
            let mut chunk = [0; 512];
            let (index, offset, count) = piece(at, from.left().min(chunk.len()));
            if count == 0 {
                break;
            }
            let taken = from.take(&mut chunk[..count]).and_then(|taken| {
                self.page_to_write(index)?.write(offset, &chunk[..taken]);
                Ok(taken)
            });
            match taken {
                Ok(taken) => at += taken as u64,
                Err(error) if at == begin => return Err(error),
                Err(_) => break,
            }
        }
        Ok(((at - begin) as usize, at))
    }

    fn is_seekable(&self) -> bool {
        true
    }

    fn can_wait(&self) -> bool {
        false
    }

    fn seek(&self, _file: &OpenFile, now: u64, offset: i64, whence: Whence) -> Result<u64, Errno> {
        let base = match whence {
            Whence::Set => 0,
            Whence::Current => now,
            Whence::End => SIZE,
            Whence::Data | Whence::Hole => return Err(Errno::EINVAL),
        };
        base.checked_add_signed(offset).filter(|at| *at <= SIZE).ok_or(Errno::EINVAL)
    }

    fn sync(&self, _file: &OpenFile) -> Result<(), Errno> {
        Ok(())
    }

    fn ioctl(&self, _file: &Arc<OpenFile>, request: u32, arg: usize) -> Result<usize, Errno> {
        match request {
            ioctl::BLKGETSIZE64 => user::put(arg, SIZE)?,
            ioctl::BLKGETSIZE => user::put(arg, SIZE / u64::from(SECTOR))?,
            ioctl::BLKSSZGET => user::put(arg, SECTOR)?,
            ioctl::BLKBSZGET | ioctl::BLKPBSZGET | ioctl::BLKIOMIN => user::put(arg, PAGE_SIZE as u32)?,
            ioctl::BLKIOOPT | ioctl::BLKROGET | ioctl::BLKRAGET => user::put(arg, 0_u32)?,
            ioctl::BLKFLSBUF => {
                let credentials = task::current().credentials();
                if !credentials.capable(&mnt_table::UserNs::INITIAL, Capabilities::SYS_ADMIN) {
                    return Err(Errno::EACCES);
                }
                let old = core::mem::take(&mut *self.pages.lock());
                drop(old);
            }
            _ => return Err(Errno::ENOTTY),
        }
        Ok(0)
    }
}
