//! Instances that mounts share: one for each namespace of some kind.

use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};

use mnt_table::dentry::{Dentry, SuperBlockRef};
use mnt_table::sync::BlockingMutex;
use syscalls::Errno;
use syscalls::file_system::Request;
use tmpfs::TmpDentry;

/// The instances of one type, by the numbers of what they are of.
pub(super) struct Singles(BlockingMutex<BTreeMap<u64, Weak<TmpDentry>>>);

impl Singles {
    pub(super) const fn new() -> Self {
        Singles(BlockingMutex::new(BTreeMap::new()))
    }

    /// The instance of `of`, which is made if there is none.
    ///
    /// # Errors
    /// `EBUSY`: there is one, and the request is for a new one. `ENOMEM`; those of `make`.
    pub(super) fn get(
        &self,
        of: u64,
        request: &Request<'_>,
        make: impl FnOnce() -> Result<SuperBlockRef<TmpDentry>, Errno>,
    ) -> Result<SuperBlockRef<TmpDentry>, Errno> {
        let mut known = self.0.lock();
        known.retain(|_, root| root.strong_count() != 0);
        let living = known.get(&of).and_then(Weak::upgrade).filter(|root| !root.super_block().is_shut_down());
        match living {
            Some(_) if request.exclusive => Err(Errno::EBUSY),
            Some(root) => Ok(SuperBlockRef::new(root)),
            None => {
                let made = make()?;
                let weak = Arc::downgrade(made.root());
                mnt_table::memory::once(|| known.insert(of, weak)).map_err(|_| Errno::ENOMEM)?;
                Ok(made)
            }
        }
    }
}
