//! What a mount forbids and how it keeps access times.

use bitflags::bitflags;

bitflags! {
    /// Per-mount flags that a user can set (mount(2), mount_setattr(2)), and the locks on them.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct MountFlags: u32 {
        /// Writes through this mount fail with `EROFS`.
        const READONLY = 1;
        /// Set-id bits and file capabilities are ignored.
        const NOSUID = 2;
        /// Device nodes cannot be opened.
        const NODEV = 4;
        /// No execution, no executable mapping.
        const NOEXEC = 8;
        /// Access times stay.
        const NOATIME = 0x10;
        /// Access times of directories stay.
        const NODIRATIME = 0x20;
        /// Access times move when they are older than modification or a day.
        const RELATIME = 0x40;
        /// Symbolic links are not followed.
        const NOSYMFOLLOW = 0x80;
        /// The mount came from a namespace with another owner: READONLY may not be taken away here.
        const LOCK_READONLY = 0x100;
        /// As LOCK_READONLY, for NOSUID.
        const LOCK_NOSUID = 0x200;
        /// As LOCK_READONLY, for NODEV.
        const LOCK_NODEV = 0x400;
        /// As LOCK_READONLY, for NOEXEC.
        const LOCK_NOEXEC = 0x800;
        /// As LOCK_READONLY: NOATIME, NODIRATIME and RELATIME may not be changed at all.
        const LOCK_ATIME = 0x1000;
    }
}

impl MountFlags {
    /// Those that a user can set.
    pub const USER: MountFlags = MountFlags::READONLY
        .union(MountFlags::NOSUID)
        .union(MountFlags::NODEV)
        .union(MountFlags::NOEXEC)
        .union(MountFlags::TIMES)
        .union(MountFlags::NOSYMFOLLOW);

    /// Those that say when access times move.
    pub const TIMES: MountFlags =
        MountFlags::NOATIME.union(MountFlags::NODIRATIME).union(MountFlags::RELATIME);
}
