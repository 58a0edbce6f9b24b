//! The file system types in which the kernel shows itself.

use alloc::sync::Arc;

use syscalls::Errno;

use super::{devpts, devtmpfs, mqueue, nsfs, proc, sysfs, types};

/// Adds all of them. Context: boot, after [`super::boot::init`].
///
/// # Errors
/// `ENOMEM`.
pub(crate) fn init() -> Result<(), Errno> {
    nsfs::init()?;
    types::register(Arc::new(sysfs::Sysfs));
    types::register(Arc::new(proc::Proc));
    types::register(Arc::new(devtmpfs::Devtmpfs));
    types::register(Arc::new(devpts::Devpts));
    types::register(Arc::new(mqueue::Mqueue));
    Ok(())
}
