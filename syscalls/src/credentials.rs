//! Who a task is: its user namespace, its users and groups, and its capabilities there.
//!
//! Ids are those of the initial user namespace. What rules there are about changing them is the kernel's matter; here is
//! what mounts and files ask.
//!
//! | needed | meaning |
//! |---|---|
//! | namespace admin | `CAP_SYS_ADMIN` in the user namespace that owns the task's mount namespace |
//! | superblock admin | `CAP_SYS_ADMIN` in the user namespace that owns the superblock |
//!
//! Sources: capabilities(7), credentials(7), user_namespaces(7).

use alloc::sync::Arc;

use bitflags::bitflags;
use linux_raw_sys::general as abi;
use mnt_table::UserNs;

bitflags! {
    /// Capabilities, with the bits of capabilities(7).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Capabilities: u64 {
        /// To change owners of files.
        const CHOWN = 1 << abi::CAP_CHOWN;
        /// To read, write and search whatever the permission bits say.
        const DAC_OVERRIDE = 1 << abi::CAP_DAC_OVERRIDE;
        /// To read and search whatever the permission bits say.
        const DAC_READ_SEARCH = 1 << abi::CAP_DAC_READ_SEARCH;
        /// What else only a file's owner may do.
        const FOWNER = 1 << abi::CAP_FOWNER;
        /// To keep set-id bits of files that change.
        const FSETID = 1 << abi::CAP_FSETID;
        /// To signal processes of others.
        const KILL = 1 << abi::CAP_KILL;
        /// setgid(2), setgroups(2) and their like.
        const SETGID = 1 << abi::CAP_SETGID;
        /// setuid(2) and its like.
        const SETUID = 1 << abi::CAP_SETUID;
        /// To drop capabilities from the bounding set, and to give what one does not have to programs run later.
        const SETPCAP = 1 << abi::CAP_SETPCAP;
        /// Networks.
        const NET_ADMIN = 1 << abi::CAP_NET_ADMIN;
        /// To lock memory.
        const IPC_LOCK = 1 << abi::CAP_IPC_LOCK;
        /// To use what others made of System V IPC.
        const IPC_OWNER = 1 << abi::CAP_IPC_OWNER;
        /// chroot(2), setns(2).
        const SYS_CHROOT = 1 << abi::CAP_SYS_CHROOT;
        /// To look into tasks of others.
        const SYS_PTRACE = 1 << abi::CAP_SYS_PTRACE;
        /// Nearly everything here.
        const SYS_ADMIN = 1 << abi::CAP_SYS_ADMIN;
        /// reboot(2).
        const SYS_BOOT = 1 << abi::CAP_SYS_BOOT;
        /// Priorities and CPUs of others.
        const SYS_NICE = 1 << abi::CAP_SYS_NICE;
        /// To touch devices behind the kernel's back, and to map the lowest addresses.
        const SYS_RAWIO = 1 << abi::CAP_SYS_RAWIO;
        /// To go beyond limits.
        const SYS_RESOURCE = 1 << abi::CAP_SYS_RESOURCE;
        /// To set the clock.
        const SYS_TIME = 1 << abi::CAP_SYS_TIME;
        /// vhangup(2), terminals of others.
        const SYS_TTY_CONFIG = 1 << abi::CAP_SYS_TTY_CONFIG;
        /// mknod(2) of devices.
        const MKNOD = 1 << abi::CAP_MKNOD;
        /// To set file capabilities.
        const SETFCAP = 1 << abi::CAP_SETFCAP;
        /// To choose the numbers of processes.
        const CHECKPOINT_RESTORE = 1 << abi::CAP_CHECKPOINT_RESTORE;
        /// Those that mean nothing here.
        const _ = !0;
    }
}

impl Capabilities {
    /// All that exist (`/proc/sys/kernel/cap_last_cap`).
    pub const EXISTING: Capabilities = Capabilities::from_bits_retain((2 << abi::CAP_LAST_CAP) - 1);
}

/// Supplementary groups, in ascending order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Groups(Option<Arc<[u32]>>);

impl Groups {
    /// None.
    pub const NONE: Groups = Groups(None);

    /// These, in any order.
    pub fn new(mut groups: alloc::vec::Vec<u32>) -> Groups {
        groups.sort_unstable();
        if groups.is_empty() { Groups(None) } else { Groups(Some(groups.into())) }
    }

    /// The groups.
    pub fn as_slice(&self) -> &[u32] {
        self.0.as_deref().unwrap_or_default()
    }

    /// Whether `group` is among them.
    pub fn contains(&self, group: u32) -> bool {
        self.as_slice().binary_search(&group).is_ok()
    }
}

/// Who a task is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The user namespace that it is in.
    pub user_ns: UserNs,
    /// Real user.
    pub uid: u32,
    /// Effective user.
    pub euid: u32,
    /// Saved user.
    pub suid: u32,
    /// User in the eyes of file systems.
    pub fsuid: u32,
    /// Real group.
    pub gid: u32,
    /// Effective group.
    pub egid: u32,
    /// Saved group.
    pub sgid: u32,
    /// Group in the eyes of file systems.
    pub fsgid: u32,
    /// Supplementary groups.
    pub groups: Groups,
    /// Capabilities that it may make effective.
    pub permitted: Capabilities,
    /// Capabilities that programs which ask for them inherit.
    pub inheritable: Capabilities,
    /// Capabilities in its user namespace.
    pub effective: Capabilities,
    /// Capabilities that it can ever get by running a program.
    pub bounding: Capabilities,
    /// Capabilities that every program inherits.
    pub ambient: Capabilities,
    /// `SECBIT_*`.
    pub securebits: u32,
    /// No program gives it more than it has (`PR_SET_NO_NEW_PRIVS`).
    pub no_new_privs: bool,
}

impl Credentials {
    /// The administrator of the machine.
    pub const ROOT: Credentials = Credentials {
        user_ns: UserNs::INITIAL,
        uid: 0,
        euid: 0,
        suid: 0,
        fsuid: 0,
        gid: 0,
        egid: 0,
        sgid: 0,
        fsgid: 0,
        groups: Groups::NONE,
        permitted: Capabilities::EXISTING,
        inheritable: Capabilities::empty(),
        effective: Capabilities::EXISTING,
        bounding: Capabilities::EXISTING,
        ambient: Capabilities::empty(),
        securebits: 0,
        no_new_privs: false,
    };

    /// The same user, all powerful in `user_ns`, which it just made or joined.
    #[must_use]
    pub fn entering(&self, user_ns: UserNs) -> Credentials {
        Credentials {
            user_ns,
            permitted: Capabilities::EXISTING,
            inheritable: Capabilities::empty(),
            effective: Capabilities::EXISTING,
            bounding: Capabilities::EXISTING,
            ambient: Capabilities::empty(),
            securebits: 0,
            ..self.clone()
        }
    }

    /// Whether files of `group` are its group's.
    pub fn is_in_group(&self, group: u32) -> bool {
        self.fsgid == group || self.groups.contains(group)
    }

    /// Whether it has all of `wanted` in `ns`.
    ///
    /// In its own user namespace that is its set. In one below, it has every capability if it is in the parent and the
    /// user who made it, or if it has the capability in the parent; and so on down. Above it has none.
    pub fn capable(&self, ns: &UserNs, wanted: Capabilities) -> bool {
        let mut at = ns;
        loop {
            if *at == self.user_ns {
                return self.effective.contains(wanted);
            }
            if at.level() <= self.user_ns.level() {
                return false;
            }
            let Some(parent) = at.parent() else { return false };
            if *parent == self.user_ns && at.owner() == self.euid {
                return true;
            }
            at = parent;
        }
    }

    /// Whether it has `CAP_SYS_ADMIN` in `ns`.
    pub fn is_admin(&self, ns: &UserNs) -> bool {
        self.capable(ns, Capabilities::SYS_ADMIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(user_ns: &UserNs, euid: u32, effective: Capabilities) -> Credentials {
        Credentials { user_ns: user_ns.clone(), euid, effective, ..Credentials::ROOT }
    }

    #[test]
    fn capabilities_reach_down_and_never_up() {
        let outer = UserNs::INITIAL.child(1000).unwrap();
        let inner = outer.child(1000).unwrap();
        let sibling = UserNs::INITIAL.child(1000).unwrap();
        let all = Capabilities::all();
        let none = Capabilities::empty();
        // Who, where, whether.
        let table = [
            (Credentials::ROOT, &inner, true),
            (member(&outer, 1000, all), &UserNs::INITIAL, false),
            (member(&outer, 1000, all), &outer, true),
            (member(&outer, 1000, all), &inner, true),
            (member(&outer, 1000, all), &sibling, false),
            (member(&outer, 7, all - Capabilities::SYS_ADMIN), &outer, false),
            // The user who made a user namespace rules it and all below, from its parent only.
            (member(&UserNs::INITIAL, 1000, none), &outer, true),
            (member(&UserNs::INITIAL, 1000, none), &inner, true),
            (member(&UserNs::INITIAL, 1001, none), &outer, false),
            (member(&inner, 1000, all), &outer, false),
            (member(&sibling, 1000, all), &outer, false),
        ];
        for (who, ns, wanted) in table {
            assert_eq!(who.is_admin(ns), wanted, "{who:?} in {ns:?}");
        }
    }
}
