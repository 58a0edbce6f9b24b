//! A generated node: a systemd host with services, and any number of containers.
//!
//! - The host: everything shared, `/usr` covered by an update, one volume per container, and under
//!   `/run/propagate` one directory per container; into that of every third container something was mounted late.
//! - Six services: clones of the host's namespace, each mount `shared` + `master` of the host's group; a private
//!   `/tmp`, and one unbindable bind.
//! - The containers: own superblocks and peer groups, the host's `/sys` as a private group, a read-only bind of the
//!   volume, and `/run/host/incoming`, a slave of the host's `/run`, where the late mount arrived.
//!
//! The same number gives the same node, byte for byte.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use syscalls::mountinfo::{MountInfo, MountOptions, OptionFlags, PropagationTags};

use crate::forest::{Forest, Namespace};

/// Most containers that [`node`] makes: the host's mounts stay far below the limit of a namespace.
pub const PODS_MAX: usize = 4000;

const SERVICES: usize = 6;
/// Every how many containers one gets a late mount.
const LATE_EVERY: usize = 3;

/// The host's mounts after boot: mountpoint, type, source, flags, super options.
#[rustfmt::skip] // columns
const HOST: &[(&str, &str, &str, OptionFlags, &str)] = &[
    ("/", "ext4", "/dev/vda2", OptionFlags::RELATIME, "rw,errors=remount-ro"),
    ("/proc", "proc", "proc", API, "rw"),
    ("/sys", "sysfs", "sysfs", API, "rw"),
    ("/sys/kernel/security", "securityfs", "securityfs", API, "rw"),
    ("/sys/fs/cgroup", "cgroup2", "cgroup2", API, "rw,nsdelegate,memory_recursiveprot"),
    ("/sys/fs/pstore", "pstore", "pstore", API, "rw"),
    ("/dev", "devtmpfs", "udev", OptionFlags::NOSUID.union(OptionFlags::RELATIME), "rw,size=4096k,mode=755"),
    ("/dev/shm", "tmpfs", "tmpfs", NO_DEVICES, "rw"),
    ("/dev/pts", "devpts", "devpts", OptionFlags::NOSUID.union(OptionFlags::NOEXEC).union(OptionFlags::RELATIME), "rw,gid=5,mode=620,ptmxmode=000"),
    ("/dev/mqueue", "mqueue", "mqueue", API, "rw"),
    ("/dev/hugepages", "hugetlbfs", "hugetlbfs", NO_DEVICES, "rw,pagesize=2M"),
    ("/run", "tmpfs", "tmpfs", NO_DEVICES, "rw,size=804k,mode=755"),
    ("/run/lock", "tmpfs", "tmpfs", API, "rw,size=5120k"),
    ("/run/user/1000", "tmpfs", "tmpfs", NO_DEVICES, "rw,size=800k,mode=700,uid=1000"),
    ("/tmp", "tmpfs", "tmpfs", NO_DEVICES, "rw"),
    ("/usr", "squashfs", "/dev/mapper/usr", OptionFlags::RDONLY.union(OptionFlags::RELATIME), "ro"),
    ("/boot", "ext4", "/dev/vda1", OptionFlags::RELATIME, "rw"),
    ("/home", "ext4", "/dev/vdb1", OptionFlags::RELATIME, "rw"),
    ("/var/lib/kubelet", "xfs", "/dev/vdc", OptionFlags::RELATIME, "rw,attr2,inode64"),
];

/// `nosuid,nodev,relatime`
const NO_DEVICES: OptionFlags = OptionFlags::NOSUID.union(OptionFlags::NODEV).union(OptionFlags::RELATIME);
/// `nosuid,nodev,noexec,relatime`, as on kernel interfaces.
const API: OptionFlags = NO_DEVICES.union(OptionFlags::NOEXEC);

/// Makes the node with this many containers.
///
/// # Panics
/// More than [`PODS_MAX`] of them.
pub fn node(pods: usize) -> Forest {
    assert!(pods <= PODS_MAX, "at most {PODS_MAX} pods");
    let mut node = Node { next_id: 20, next_group: 1, next_minor: 20 };

    let mut host = node.namespace("host");
    for &(mountpoint, fs_type, source, flags, super_options) in HOST {
        let superblock = node.superblock(fs_type, source, super_options);
        node.mount(&mut host, mountpoint, &superblock, flags);
    }
    for pod in 0..pods {
        let volume = node.superblock("tmpfs", &format!("volume-{pod}"), "rw,size=64k");
        node.mount(&mut host, &format!("/var/lib/kubelet/pods/{pod}"), &volume, OptionFlags::RELATIME);
    }

    let mut services = Vec::with_capacity(SERVICES);
    for service in 0..SERVICES {
        let mut namespace = node.unshare(&host, &format!("service-{service}"));
        let private_tmp = node.superblock("tmpfs", &format!("private-tmp-{service}"), "rw");
        node.mount(&mut namespace, "/tmp", &private_tmp, NO_DEVICES);
        let home = find(&host, "/home").clone();
        let bind = node.bind(&mut namespace, &home, "/run/inaccessible", OptionFlags::RELATIME);
        bind.tags = PropagationTags { unbindable: true, ..PropagationTags::default() };
        services.push(namespace);
    }

    let mut containers: Vec<_> = (0..pods).map(|pod| node.container(&host, pod)).collect();

    let update = node.superblock("squashfs", "/dev/mapper/usr-update", "ro");
    node.propagate(&mut host, &mut services, "/usr", &update, OptionFlags::RDONLY | OptionFlags::RELATIME);
    for (pod, container) in containers.iter_mut().enumerate().step_by(LATE_EVERY) {
        let late = node.superblock("tmpfs", &format!("late-{pod}"), "rw");
        let path = format!("/run/propagate/{pod}/in");
        let group = node.propagate(&mut host, &mut services, &path, &late, OptionFlags::RELATIME);
        let arrived = node.mount(container, "/run/host/incoming/in", &late, OptionFlags::RELATIME);
        arrived.tags = PropagationTags { master: Some(group), ..PropagationTags::default() };
    }

    let mut namespaces = Vec::with_capacity(1 + SERVICES + pods);
    namespaces.push(host);
    namespaces.append(&mut services);
    namespaces.append(&mut containers);
    Forest::new(namespaces).expect("a generated node keeps the rules of a forest")
}

/// A superblock as its mounts show it.
struct Superblock {
    minor: u32,
    fs_type: String,
    source: String,
    super_options: String,
}

/// The numbers that the machine has given out.
struct Node {
    next_id: u32,
    next_group: u32,
    next_minor: u32,
}

fn take(next: &mut u32) -> u32 {
    *next += 1;
    *next - 1
}

/// The topmost mount at exactly this mountpoint.
fn find<'a>(namespace: &'a Namespace, mountpoint: &str) -> &'a MountInfo {
    let at = |mount: &&MountInfo| mount.mountpoint == mountpoint.as_bytes();
    namespace.mounts.iter().rfind(at).expect("mounted before")
}

/// The id of the topmost mount that a walk to `mountpoint` ends in.
fn parent_of(namespace: &Namespace, mountpoint: &[u8]) -> Option<u32> {
    let mut best: Option<&MountInfo> = None;
    for mount in &namespace.mounts {
        let above = mount.mountpoint.len() == 1
            || mountpoint
                .strip_prefix(&mount.mountpoint[..])
                .is_some_and(|rest| rest.is_empty() || rest[0] == b'/');
        if above && best.is_none_or(|best| best.mountpoint.len() <= mount.mountpoint.len()) {
            best = Some(mount);
        }
    }
    best.map(|mount| mount.id)
}

impl Node {
    fn namespace(&self, name: &str) -> Namespace {
        Namespace::empty(name, "pods", 1)
    }

    fn superblock(&mut self, fs_type: &str, source: &str, super_options: &str) -> Superblock {
        let minor = take(&mut self.next_minor);
        let (fs_type, source) = (fs_type.to_string(), source.to_string());
        Superblock { minor, fs_type, source, super_options: super_options.to_string() }
    }

    /// A new mount in a peer group of its own. The first of a namespace hangs from its hidden root.
    fn mount<'a>(
        &mut self,
        namespace: &'a mut Namespace,
        mountpoint: &str,
        superblock: &Superblock,
        flags: OptionFlags,
    ) -> &'a mut MountInfo {
        let parent = parent_of(namespace, mountpoint.as_bytes());
        let mount = MountInfo {
            parent: parent.unwrap_or_else(|| take(&mut self.next_id)),
            id: take(&mut self.next_id),
            major: 0,
            minor: superblock.minor,
            root: b"/".to_vec(),
            mountpoint: mountpoint.as_bytes().to_vec(),
            options: MountOptions::new(flags),
            tags: PropagationTags { shared: Some(take(&mut self.next_group)), ..PropagationTags::default() },
            fs_type: superblock.fs_type.clone().into_bytes(),
            source: superblock.source.clone().into_bytes(),
            super_options: superblock.super_options.clone().into_bytes(),
        };
        let index = namespace.mounts.len();
        namespace.mounts.push(mount);
        &mut namespace.mounts[index]
    }

    /// A bind of `source` in a peer group of its own.
    fn bind<'a>(
        &mut self,
        namespace: &'a mut Namespace,
        source: &MountInfo,
        mountpoint: &str,
        flags: OptionFlags,
    ) -> &'a mut MountInfo {
        let parent = parent_of(namespace, mountpoint.as_bytes()).expect("the namespace has a root");
        let mount = MountInfo {
            id: take(&mut self.next_id),
            parent,
            mountpoint: mountpoint.as_bytes().to_vec(),
            options: MountOptions::new(flags),
            tags: PropagationTags { shared: Some(take(&mut self.next_group)), ..PropagationTags::default() },
            ..source.clone()
        };
        let index = namespace.mounts.len();
        namespace.mounts.push(mount);
        &mut namespace.mounts[index]
    }

    /// A clone of the namespace that receives from it and is shared in itself.
    fn unshare(&mut self, host: &Namespace, name: &str) -> Namespace {
        let mut namespace = self.namespace(name);
        for mount in &host.mounts {
            let parent = parent_of(&namespace, &mount.mountpoint).unwrap_or_else(|| take(&mut self.next_id));
            let tags = PropagationTags {
                shared: Some(take(&mut self.next_group)),
                master: mount.tags.shared,
                ..PropagationTags::default()
            };
            namespace.mounts.push(MountInfo { id: take(&mut self.next_id), parent, tags, ..mount.clone() });
        }
        namespace
    }

    /// A mount on the host, and its copies in the services. Gives the host's new peer group.
    fn propagate(
        &mut self,
        host: &mut Namespace,
        services: &mut [Namespace],
        mountpoint: &str,
        superblock: &Superblock,
        flags: OptionFlags,
    ) -> u32 {
        let group = self.mount(host, mountpoint, superblock, flags).tags.shared;
        for service in services {
            self.mount(service, mountpoint, superblock, flags).tags.master = group;
        }
        group.expect("new mounts are shared")
    }

    fn container(&mut self, host: &Namespace, pod: usize) -> Namespace {
        let mut namespace = self.namespace(&format!("container-{pod}"));
        let layers = format!("rw,lowerdir=/layers/base,upperdir=/layers/{pod}");
        let root = self.superblock("overlay", "overlay", &layers);
        self.mount(&mut namespace, "/", &root, OptionFlags::RELATIME);

        let run = find(host, "/run").clone();
        let incoming = self.bind(&mut namespace, &run, "/run/host/incoming", NO_DEVICES);
        incoming.root = format!("/propagate/{pod}").into_bytes();
        incoming.tags = PropagationTags { master: run.tags.shared, ..PropagationTags::default() };

        for mountpoint in ["/sys", "/sys/kernel/security", "/sys/fs/cgroup", "/sys/fs/pstore"] {
            let source = find(host, mountpoint).clone();
            self.bind(&mut namespace, &source, mountpoint, API | OptionFlags::RDONLY);
        }
        for (mountpoint, fs_type, flags) in [
            ("/proc", "proc", API),
            ("/dev", "tmpfs", OptionFlags::NOSUID | OptionFlags::RELATIME),
            ("/dev/pts", "devpts", OptionFlags::NOSUID | OptionFlags::NOEXEC | OptionFlags::RELATIME),
            ("/dev/shm", "tmpfs", API),
        ] {
            let superblock = self.superblock(fs_type, &format!("{fs_type}-{pod}"), "rw");
            self.mount(&mut namespace, mountpoint, &superblock, flags);
        }
        let volume = find(host, &format!("/var/lib/kubelet/pods/{pod}")).clone();
        self.bind(&mut namespace, &volume, "/data", OptionFlags::RELATIME);
        self.bind(&mut namespace, &volume, "/etc/config", OptionFlags::RDONLY | OptionFlags::RELATIME);
        namespace
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_deterministic_and_has_the_shape_of_its_parts() {
        let (first, second) = (node(7), node(7));
        assert_eq!(first.to_image(), second.to_image());
        assert_eq!(first.namespaces().len(), 1 + SERVICES + 7);

        let [host, service, container] = [0, 1, 1 + SERVICES].map(|index| &first.namespaces()[index]);
        let (root, copy) = (find(host, "/").tags, find(service, "/").tags);
        assert_eq!(copy.master, root.shared);
        assert!(copy.shared.is_some() && copy.shared != root.shared);
        assert!(find(service, "/run/inaccessible").tags.unbindable);
        let incoming = &find(container, "/run/host/incoming").tags;
        assert_eq!((incoming.shared, incoming.master), (None, find(host, "/run").tags.shared));
        assert_eq!(
            find(container, "/run/host/incoming/in").tags.master,
            find(host, "/run/propagate/0/in").tags.shared,
        );
    }

    #[test]
    fn sizes_from_none_to_many_keep_the_rules() {
        for pods in [0, 1, 2, 50, 300] {
            let forest = node(pods);
            assert_eq!(forest.namespaces().len(), 1 + SERVICES + pods);
            let plan = forest.plan();
            assert!(plan.groups.iter().all(|group| !group.members.is_empty()), "no master is out of sight");
        }
    }
}
