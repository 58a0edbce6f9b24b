//! Namespaces of the kinds that only their tasks know of: UTS, IPC, network, cgroup, time, and which PID namespace children
//! go to.
//!
//! A thread's set is one shared, immutable [`Namespaces`]; a change makes a new one. IPC, network and cgroup namespaces
//! are identities: there is nothing in them here that one namespace could keep from another.

use alloc::sync::Arc;
use core::any::Any;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use linux_raw_sys::general as abi;
use mnt_table::{UserNs, memory};
use syscalls::file::OtherNamespace;
use syscalls::{Credentials, Errno};

use super::pid::PidNamespace;
use super::time_ns::{Offsets, TimeNamespace};
use crate::arch::spin::SpinLock;

// The ids that the namespaces of boot have on Linux, where they are inode numbers that programs compare.
const IPC_INITIAL: u64 = 0xefff_ffff;
const UTS_INITIAL: u64 = 0xefff_fffe;
pub(crate) const PID_INITIAL: u64 = 0xefff_fffc;
const CGROUP_INITIAL: u64 = 0xefff_fffb;
const TIME_INITIAL: u64 = 0xefff_fffa;
const NET_INITIAL: u64 = 0xefff_fff9;

static NEXT_ID: AtomicU64 = AtomicU64::new(0xf000_0100);

/// A number for a new namespace.
pub(crate) fn next_id() -> u64 {
    NEXT_ID.fetch_add(1, Relaxed) // Relaxed: a number.
}

/// The longest host name.
pub(crate) const NAME_MAX: usize = 64;

/// A name of the machine.
pub(crate) type HostName = heapless::Vec<u8, NAME_MAX>;

/// A UTS namespace.
pub(crate) struct UtsNamespace {
    id: u64,
    owner: UserNs,
    names: SpinLock<(HostName, HostName)>,
}

/// An IPC, network or cgroup namespace.
pub(crate) struct PlainNamespace {
    kind: u32,
    id: u64,
    owner: UserNs,
}

/// What a thread is in.
#[derive(Clone)]
pub(crate) struct Namespaces {
    pub(crate) uts: Arc<UtsNamespace>,
    pub(crate) ipc: Arc<PlainNamespace>,
    pub(crate) net: Arc<PlainNamespace>,
    pub(crate) cgroup: Arc<PlainNamespace>,
    pub(crate) time: Arc<TimeNamespace>,
    pub(crate) time_for_children: Arc<TimeNamespace>,
    pub(crate) pid_for_children: Arc<PidNamespace>,
}

impl UtsNamespace {
    fn new(id: u64, owner: UserNs, names: (HostName, HostName)) -> Result<Arc<Self>, Errno> {
        memory::arc(UtsNamespace { id, owner, names: SpinLock::new(names) }).map_err(|_| Errno::ENOMEM)
    }

    /// The host's name.
    pub(crate) fn host(&self) -> HostName {
        self.names.lock().0.clone()
    }

    /// The domain's name.
    pub(crate) fn domain(&self) -> HostName {
        self.names.lock().1.clone()
    }

    /// sethostname(2); the caller has looked at permissions.
    pub(crate) fn set_host(&self, name: HostName) {
        self.names.lock().0 = name;
    }

    /// setdomainname(2); as [`Self::set_host`].
    pub(crate) fn set_domain(&self, name: HostName) {
        self.names.lock().1 = name;
    }
}

impl PlainNamespace {
    fn new(kind: u32, id: u64, owner: UserNs) -> Result<Arc<Self>, Errno> {
        memory::arc(PlainNamespace { kind, id, owner }).map_err(|_| Errno::ENOMEM)
    }
}

impl OtherNamespace for UtsNamespace {
    fn kind(&self) -> u32 {
        abi::CLONE_NEWUTS
    }

    fn id(&self) -> u64 {
        self.id
    }

    fn owner(&self) -> &UserNs {
        &self.owner
    }
}

impl OtherNamespace for PlainNamespace {
    fn kind(&self) -> u32 {
        self.kind
    }

    fn id(&self) -> u64 {
        self.id
    }

    fn owner(&self) -> &UserNs {
        &self.owner
    }
}

impl Namespaces {
    /// Those of boot.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(super) fn initial(pids: Arc<PidNamespace>) -> Result<Arc<Self>, Errno> {
        let plain = |kind, id| PlainNamespace::new(kind, id, UserNs::INITIAL);
        let name = |text: &[u8]| HostName::from_slice(text).unwrap_or_default();
        let time = TimeNamespace::new(TIME_INITIAL, UserNs::INITIAL, Offsets::default())?;
        time.enter();
        let namespaces = Namespaces {
            uts: UtsNamespace::new(UTS_INITIAL, UserNs::INITIAL, (name(b"(none)"), name(b"(none)")))?,
            ipc: plain(abi::CLONE_NEWIPC, IPC_INITIAL)?,
            net: plain(abi::CLONE_NEWNET, NET_INITIAL)?,
            cgroup: plain(abi::CLONE_NEWCGROUP, CGROUP_INITIAL)?,
            time: time.clone(),
            time_for_children: time,
            pid_for_children: pids,
        };
        memory::arc(namespaces).map_err(|_| Errno::ENOMEM)
    }

    /// A copy with new namespaces of the kinds `flags` (`CLONE_NEW*`), which `owner` owns.
    ///
    /// # Errors
    /// `ENOSPC`, `ENOMEM`.
    pub(super) fn unshare(&self, flags: u32, owner: &UserNs) -> Result<Arc<Self>, Errno> {
        let mut new = self.clone();
        let has = |flag: u32| flags & flag != 0;
        let plain = |kind: u32| PlainNamespace::new(kind, next_id(), owner.clone());
        if has(abi::CLONE_NEWUTS) {
            let names = self.uts.names.lock().clone();
            new.uts = UtsNamespace::new(next_id(), owner.clone(), names)?;
        }
        if has(abi::CLONE_NEWIPC) {
            new.ipc = plain(abi::CLONE_NEWIPC)?;
        }
        if has(abi::CLONE_NEWNET) {
            new.net = plain(abi::CLONE_NEWNET)?;
        }
        if has(abi::CLONE_NEWCGROUP) {
            new.cgroup = plain(abi::CLONE_NEWCGROUP)?;
        }
        if has(abi::CLONE_NEWTIME) {
            new.time_for_children = TimeNamespace::new(next_id(), owner.clone(), self.time.offsets())?;
        }
        if has(abi::CLONE_NEWPID) {
            new.pid_for_children = self.pid_for_children.child(owner.clone())?;
        }
        memory::arc(new).map_err(|_| Errno::ENOMEM)
    }

    /// What a child gets, or a thread that calls execve(2): as this, with the time namespace for children as its own.
    pub(super) fn for_child(self: &Arc<Self>) -> Result<Arc<Self>, Errno> {
        if Arc::ptr_eq(&self.time, &self.time_for_children) {
            return Ok(Arc::clone(self));
        }
        self.time_for_children.enter();
        let new = Namespaces { time: self.time_for_children.clone(), ..(**self).clone() };
        memory::arc(new).map_err(|_| Errno::ENOMEM)
    }

    /// A copy in which a thread with `credentials`, that is in the PID namespace `pids`, has joined `ns`.
    ///
    /// # Errors
    /// `EPERM`: no `CAP_SYS_ADMIN` over it. `EINVAL`: a PID namespace that is not below. `ENOMEM`.
    pub(super) fn join(
        &self,
        ns: &Arc<dyn OtherNamespace>,
        credentials: &Credentials,
        pids: &PidNamespace,
    ) -> Result<Self, Errno> {
        if !credentials.is_admin(ns.owner()) || !credentials.is_admin(&credentials.user_ns) {
            return Err(Errno::EPERM);
        }
        let mut new = self.clone();
        let any = Arc::clone(ns) as Arc<dyn Any + Send + Sync>;
        match ns.kind() {
            abi::CLONE_NEWUTS => new.uts = any.downcast().map_err(|_| Errno::EINVAL)?,
            abi::CLONE_NEWIPC => new.ipc = any.downcast().map_err(|_| Errno::EINVAL)?,
            abi::CLONE_NEWNET => new.net = any.downcast().map_err(|_| Errno::EINVAL)?,
            abi::CLONE_NEWCGROUP => new.cgroup = any.downcast().map_err(|_| Errno::EINVAL)?,
            abi::CLONE_NEWTIME => {
                let time: Arc<TimeNamespace> = any.downcast().map_err(|_| Errno::EINVAL)?;
                time.enter();
                (new.time, new.time_for_children) = (time.clone(), time);
            }
            abi::CLONE_NEWPID => {
                let to: Arc<PidNamespace> = any.downcast().map_err(|_| Errno::EINVAL)?;
                if !to.is_within(pids) {
                    return Err(Errno::EINVAL);
                }
                new.pid_for_children = to;
            }
            _ => return Err(Errno::EINVAL),
        }
        Ok(new)
    }

    /// The namespace of the kind `kind`, as `/proc/PID/ns` shows it; the one for children for time and PIDs.
    pub(crate) fn of_kind(&self, kind: u32) -> Option<Arc<dyn OtherNamespace>> {
        Some(match kind {
            abi::CLONE_NEWUTS => self.uts.clone(),
            abi::CLONE_NEWIPC => self.ipc.clone(),
            abi::CLONE_NEWNET => self.net.clone(),
            abi::CLONE_NEWCGROUP => self.cgroup.clone(),
            abi::CLONE_NEWTIME => self.time.clone(),
            abi::CLONE_NEWPID => self.pid_for_children.clone(),
            _ => return None,
        })
    }
}
