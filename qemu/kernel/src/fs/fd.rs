//! Descriptor tables.
//!
//! A table is one spin lock around an array; a look-up takes it for an instant and clones an `Arc`. Files are never dropped
//! under it: the end of one may block.
//!
//! # Lock order
//! `inner` is a leaf.

use alloc::sync::Arc;
use alloc::vec::Vec;

use syscalls::Errno;

use super::file::OpenFile;
use crate::arch::spin::SpinLock;

/// The most descriptors that a table can have (`/proc/sys/fs/nr_open`).
pub(crate) const NR_OPEN: usize = 1 << 20;

#[derive(Clone)]
struct Slot {
    file: Arc<OpenFile>,
    close_on_exec: bool,
}

#[derive(Default)]
struct Inner {
    slots: Vec<Option<Slot>>,
    /// No free one is before this.
    first_free: usize,
}

/// What the descriptors of one process, or of several that share them, refer to.
pub(crate) struct FdTable {
    inner: SpinLock<Inner>,
}

impl FdTable {
    /// An empty one.
    pub(crate) fn new() -> Result<Arc<Self>, Errno> {
        Self::make(Inner::default())
    }

    fn make(inner: Inner) -> Result<Arc<Self>, Errno> {
        mnt_table::memory::arc(FdTable { inner: SpinLock::new(inner) }).map_err(|_| Errno::ENOMEM)
    }

    /// A copy (fork(2)).
    pub(crate) fn fork(&self) -> Result<Arc<Self>, Errno> {
        self.fork_below(usize::MAX)
    }

    /// A copy without the descriptors from `end` on (`CLOSE_RANGE_UNSHARE`).
    pub(crate) fn fork_below(&self, end: usize) -> Result<Arc<Self>, Errno> {
        let mut slots: Vec<Option<Slot>> = Vec::new();
        loop {
            let wanted = {
                let inner = self.inner.lock();
                let used = inner.slots.iter().rposition(Option::is_some).map_or(0, |last| last + 1).min(end);
                if used <= slots.capacity() {
                    slots.extend(inner.slots[..used].iter().cloned());
                    let first_free = inner.first_free.min(used);
                    drop(inner);
                    return Self::make(Inner { slots, first_free });
                }
                used
            };
            slots.try_reserve_exact(wanted).map_err(|_| Errno::ENOMEM)?;
        }
    }

    /// What `fd` refers to.
    ///
    /// # Errors
    /// `EBADF`.
    #[inline]
    pub(crate) fn get(&self, fd: i32) -> Result<Arc<OpenFile>, Errno> {
        let index = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        match self.inner.lock().slots.get(index) {
            Some(Some(slot)) => Ok(Arc::clone(&slot.file)),
            _ => Err(Errno::EBADF),
        }
    }

    /// As [`FdTable::get`], not for places (`O_PATH`).
    ///
    /// # Errors
    /// `EBADF`.
    #[inline]
    pub(crate) fn get_open(&self, fd: i32) -> Result<Arc<OpenFile>, Errno> {
        self.get(fd).and_then(|file| if file.is_path() { Err(Errno::EBADF) } else { Ok(file) })
    }

    /// Gives `file` the lowest free descriptor from `from` on and below `limit` (`RLIMIT_NOFILE`).
    ///
    /// # Errors
    /// `EMFILE`, `ENOMEM`.
    pub(crate) fn install(
        &self,
        file: Arc<OpenFile>,
        from: usize,
        limit: usize,
        close_on_exec: bool,
    ) -> Result<i32, Errno> {
        let mut inner = self.inner.lock();
        let start = from.max(inner.first_free);
        let free = inner.slots.iter().skip(start).position(Option::is_none);
        let free = free.map_or(inner.slots.len().max(start), |free| start + free);
        if free >= limit.min(NR_OPEN) {
            return Err(Errno::EMFILE);
        }
        inner.reach(free)?;
        inner.slots[free] = Some(Slot { file, close_on_exec });
        if from <= inner.first_free {
            inner.first_free = free + 1;
        }
        Ok(free as i32)
    }

    /// Makes `fd` refer to `file`; what it referred to before is returned, to be closed by [`FdTable::closed`].
    ///
    /// # Errors
    /// `EBADF`: beyond `limit`. `ENOMEM`.
    pub(crate) fn replace(
        &self,
        fd: i32,
        file: Arc<OpenFile>,
        limit: usize,
        close_on_exec: bool,
    ) -> Result<Option<Arc<OpenFile>>, Errno> {
        let index = usize::try_from(fd).ok().filter(|fd| *fd < limit.min(NR_OPEN)).ok_or(Errno::EBADF)?;
        let mut inner = self.inner.lock();
        inner.reach(index)?;
        let old = inner.slots[index].replace(Slot { file, close_on_exec });
        drop(inner);
        Ok(old.map(|slot| slot.file))
    }

    /// Takes `fd` away (close(2)).
    ///
    /// # Errors
    /// `EBADF`.
    pub(crate) fn close(&self, fd: i32) -> Result<(), Errno> {
        let index = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        let slot = self.inner.lock().take(index).ok_or(Errno::EBADF)?;
        self.closed(slot.file);
        Ok(())
    }

    /// A descriptor of this table no longer refers to `file`.
    ///
    /// Context: no spin lock held; may block.
    pub(crate) fn closed(&self, file: Arc<OpenFile>) {
        file.ops().flush(&file);
        super::locks::forget(&file, self);
    }

    /// Whether execve(2) closes `fd`.
    ///
    /// # Errors
    /// `EBADF`.
    pub(crate) fn close_on_exec(&self, fd: i32) -> Result<bool, Errno> {
        let index = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        match self.inner.lock().slots.get(index) {
            Some(Some(slot)) => Ok(slot.close_on_exec),
            _ => Err(Errno::EBADF),
        }
    }

    /// Sets whether execve(2) closes `fd`.
    ///
    /// # Errors
    /// `EBADF`.
    pub(crate) fn set_close_on_exec(&self, fd: i32, close: bool) -> Result<(), Errno> {
        let index = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        match self.inner.lock().slots.get_mut(index) {
            Some(Some(slot)) => slot.close_on_exec = close,
            _ => return Err(Errno::EBADF),
        }
        Ok(())
    }

    /// How many descriptors there could be before it grows: none of higher numbers are used.
    pub(crate) fn slots(&self) -> usize {
        self.inner.lock().slots.len()
    }

    /// The lowest descriptor from `from` on that is used, and its file.
    pub(crate) fn next(&self, from: usize) -> Option<(i32, Arc<OpenFile>)> {
        let inner = self.inner.lock();
        let found =
            inner.slots.iter().enumerate().skip(from).find_map(|(fd, slot)| Some((fd, slot.as_ref()?)));
        found.map(|(fd, slot)| (fd as i32, Arc::clone(&slot.file)))
    }

    /// execve(2): closes what is to be closed then.
    ///
    /// Context: the caller's alone (de-threaded, unshared).
    pub(crate) fn exec(&self) {
        self.close_if(0, usize::MAX, |slot| slot.close_on_exec);
    }

    /// close_range(2).
    pub(crate) fn close_range(&self, first: usize, last: usize) {
        self.close_if(first, last, |_| true);
    }

    /// close_range(2) with `CLOSE_RANGE_CLOEXEC`.
    pub(crate) fn mark_range(&self, first: usize, last: usize) {
        let mut inner = self.inner.lock();
        let end = inner.slots.len().min(last.saturating_add(1));
        if first < end {
            inner.slots[first..end].iter_mut().flatten().for_each(|slot| slot.close_on_exec = true);
        }
    }

    fn close_if(&self, first: usize, last: usize, close: impl Fn(&Slot) -> bool) {
        let mut at = first;
        loop {
            let slot = {
                let mut inner = self.inner.lock();
                let end = inner.slots.len().min(last.saturating_add(1));
                let found = (at..end).find(|fd| inner.slots[*fd].as_ref().is_some_and(&close));
                let Some(found) = found else { return };
                at = found + 1;
                inner.take(found)
            };
            slot.into_iter().for_each(|slot| self.closed(slot.file));
        }
    }
}

impl Inner {
    /// Makes sure that there is a slot `index`.
    fn reach(&mut self, index: usize) -> Result<(), Errno> {
        if index >= self.slots.len() {
            let more = index + 1 - self.slots.len();
            self.slots.try_reserve(more).map_err(|_| Errno::ENOMEM)?;
            self.slots.resize_with(index + 1, || None);
        }
        Ok(())
    }

    fn take(&mut self, index: usize) -> Option<Slot> {
        let slot = self.slots.get_mut(index)?.take()?;
        self.first_free = self.first_free.min(index);
        Some(slot)
    }
}

impl Drop for FdTable {
    fn drop(&mut self) {
        // Not as fields are dropped: each file is told first.
        self.close_range(0, usize::MAX);
    }
}
