//! Who a task is: its user namespace, its user, and its capabilities there.
//!
//! | needed | meaning |
//! |---|---|
//! | namespace admin | `CAP_SYS_ADMIN` in the user namespace that owns the task's mount namespace |
//! | superblock admin | `CAP_SYS_ADMIN` in the user namespace that owns the superblock |
//!
//! Sources: capabilities(7), user_namespaces(7).

use bitflags::bitflags;
use linux_raw_sys::general as abi;
use mnt_table::UserNs;

bitflags! {
    /// Capabilities, with the bits of capabilities(7).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Capabilities: u64 {
        /// chroot(2), setns(2).
        const SYS_CHROOT = 1 << abi::CAP_SYS_CHROOT;
        /// To look into tasks of others.
        const SYS_PTRACE = 1 << abi::CAP_SYS_PTRACE;
        /// Nearly everything here.
        const SYS_ADMIN = 1 << abi::CAP_SYS_ADMIN;
        /// Those that mean nothing to mounts.
        const _ = !0;
    }
}

/// Who a task is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The user namespace that it is in.
    pub user_ns: UserNs,
    /// Its effective user, as the initial user namespace numbers it.
    pub euid: u32,
    /// Its effective capabilities in its user namespace.
    pub effective: Capabilities,
}

impl Credentials {
    /// The administrator of the machine.
    pub const ROOT: Credentials =
        Credentials { user_ns: UserNs::INITIAL, euid: 0, effective: Capabilities::all() };

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
        Credentials { user_ns: user_ns.clone(), euid, effective }
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
