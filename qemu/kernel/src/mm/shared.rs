//! Shared anonymous memory: what `MAP_SHARED | MAP_ANONYMOUS` maps, and a process shares with its children.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;

use mnt_table::memory;
use mnt_table::sync::BlockingMutex;
use syscalls::Errno;
use tmpfs::Page;

use super::backing::{Backing, Description};

/// Pages that come when they are touched.
pub(crate) struct SharedMemory {
    pages: BlockingMutex<BTreeMap<u64, Page>>,
    length: u64,
}

impl SharedMemory {
    /// So many bytes.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn backing(length: usize) -> Result<Arc<dyn Backing>, Errno> {
        let memory = SharedMemory { pages: BlockingMutex::new(BTreeMap::new()), length: length as u64 };
        let memory: Arc<dyn Backing> = memory::arc(memory).map_err(|_| Errno::ENOMEM)?;
        Ok(memory)
    }
}

impl Backing for SharedMemory {
    fn page(&self, index: u64, _for_write: bool) -> Result<Page, Errno> {
        if index >= self.length.div_ceil(tmpfs::PAGE_SIZE as u64) {
            return Err(Errno::EFAULT);
        }
        let mut pages = self.pages.lock();
        if let Some(page) = pages.get(&index) {
            return Ok(page.clone());
        }
        let page = Page::zeroed().map_err(|_| Errno::ENOMEM)?;
        // A node may split up to the root; a tree of the numbers that fit into memory is not higher than that.
        let mut claims = memory::Claims::none();
        claims.claim(NODES_MAX).map_err(|_| Errno::ENOMEM)?;
        memory::covered(|| pages.insert(index, page.clone()));
        Ok(page)
    }

    fn size(&self) -> u64 {
        self.length
    }

    fn describe(&self) -> Result<Description, Errno> {
        let path = memory::collect(b"/dev/zero (deleted)".iter().copied())?;
        Ok(Description { dev: 0, ino: self.identity() >> 4 & 0xffff_ffff, path })
    }

    fn may_exec(&self) -> bool {
        true
    }

    fn identity(&self) -> u64 {
        // Its address: nothing else has it while it lives. The top bits keep it apart from files.
        core::ptr::from_ref(self).addr() as u64
    }
}

/// Nodes that an insertion makes at most.
const NODES_MAX: usize = 8;
