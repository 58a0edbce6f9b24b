//! sysfs: of the machine's devices, what programs ask about. One instance for each network namespace.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use linux_raw_sys::general as abi;
use mnt_table::dentry::SuperBlockRef;
use mnt_table::{UserNs, memory};
use syscalls::context::Log;
use syscalls::file::OtherNamespace;
use syscalls::file_system::{Configure, FileSystemType, Purpose, Request, SuperFlags, TypeFlags};
use syscalls::{Credentials, Errno};
use tmpfs::{TmpDentry, What};

use super::node;
use super::proc::directory::{
    Directory, DirectoryNode, FIRST, Fixed, FixedDirectory, FixedWhat, Listed, Made, Name, say,
};
use super::singles::Singles;
use super::types::{self, Make};
use crate::arch::percpu;
use crate::task;

const MAGIC: u64 = abi::SYSFS_MAGIC as u64;

/// Instances, by the numbers of network namespaces.
static INSTANCES: Singles = Singles::new();

/// The type.
pub(crate) struct Sysfs;

impl FileSystemType<TmpDentry> for Sysfs {
    fn name(&self) -> &[u8] {
        b"sysfs"
    }

    fn flags(&self) -> TypeFlags {
        TypeFlags::USER_NS | TypeFlags::EXPOSES_KERNEL
    }

    fn owner(&self, _credentials: &Credentials) -> UserNs {
        task::with_current(|thread| thread.namespaces().net.owner().clone()).unwrap_or(UserNs::INITIAL)
    }

    fn configure(
        self: Arc<Self>,
        _purpose: Purpose<'_, TmpDentry>,
    ) -> Result<Box<dyn Configure<TmpDentry>>, Errno> {
        Ok(memory::boxed(Config).map_err(|_| Errno::ENOMEM)?)
    }
}

struct Config;

impl Configure<TmpDentry> for Config {
    fn get_tree(&mut self, request: &Request<'_>, _log: &mut Log) -> Result<SuperBlockRef<TmpDentry>, Errno> {
        let of = task::current().namespaces().net.id();
        INSTANCES.get(of, request, || {
            let root = node::handle(DirectoryNode(FixedDirectory(ENTRIES, ())))?;
            types::instance(Make::new(b"sysfs", MAGIC, What::HandleDirectory(root), (0o555, 0, 0)), request)
        })
    }

    fn reconfigure(&mut self, root: &Arc<TmpDentry>, flags: SuperFlags, _log: &mut Log) -> Result<(), Errno> {
        types::reconfigure(root, flags)
    }
}

const fn directory(name: &'static str, table: &'static [Fixed<()>]) -> Fixed<()> {
    Fixed { name, what: FixedWhat::Directory(table) }
}

const fn text(name: &'static str, read: fn(&(), &mut Vec<u8>) -> Result<(), Errno>) -> Fixed<()> {
    Fixed { name, what: FixedWhat::Text(0o444, read, None) }
}

static ENTRIES: &[Fixed<()>] = &[
    directory("block", &[]),
    directory("bus", &[]),
    directory("class", &[directory("tty", TTY)]),
    directory("dev", &[directory("block", &[]), directory("char", &[])]),
    directory("devices", &[directory("system", SYSTEM), directory("virtual", &[])]),
    directory("firmware", &[]),
    directory("fs", &[directory("bpf", &[]), directory("cgroup", &[])]),
    directory("kernel", KERNEL),
    directory("module", &[]),
    directory("power", &[]),
];

/// Which terminals the kernel writes to, by which programs find the console's.
static TTY: &[Fixed<()>] = &[
    directory(
        "console",
        &[
            text("active", |(), out| say(out, format_args!("ttyS0\n"))),
            text("dev", |(), out| say(out, format_args!("5:1\n"))),
        ],
    ),
    directory("ttyS0", &[text("dev", |(), out| say(out, format_args!("4:64\n")))]),
];

static KERNEL: &[Fixed<()>] = &[
    directory("debug", &[]),
    directory("mm", &[directory("transparent_hugepage", &[text("enabled", never)])]),
    directory("security", &[]),
    directory("tracing", &[]),
];

static SYSTEM: &[Fixed<()>] = &[
    Fixed { name: "cpu", what: FixedWhat::Other(|()| Made::directory(Cpus)) },
    directory("node", &[text("online", |(), out| say(out, format_args!("0\n")))]),
];

fn never(_: &(), out: &mut Vec<u8>) -> Result<(), Errno> {
    say(out, format_args!("always madvise [never]\n"))
}

fn all(_: &(), out: &mut Vec<u8>) -> Result<(), Errno> {
    match percpu::count() {
        1 => say(out, format_args!("0\n")),
        count => say(out, format_args!("0-{}\n", count - 1)),
    }
}

/// `devices/system/cpu`
struct Cpus;

static CPU: &[Fixed<()>] = &[
    text("isolated", |(), out| say(out, format_args!("\n"))),
    text("kernel_max", |(), out| say(out, format_args!("{}\n", percpu::MAX_CPUS - 1))),
    text("offline", |(), out| say(out, format_args!("\n"))),
    text("online", all),
    text("possible", all),
    text("present", all),
];

static TOPOLOGY: &[Fixed<()>] =
    &[directory("topology", &[text("physical_package_id", |(), out| say(out, format_args!("0\n")))])];

impl Directory for Cpus {
    fn make(&self, name: &[u8]) -> Result<Made, Errno> {
        let number = name.strip_prefix(b"cpu").and_then(|number| core::str::from_utf8(number).ok());
        match number.and_then(|number| number.parse::<usize>().ok()) {
            Some(number) if number < percpu::count() => Made::directory(FixedDirectory(TOPOLOGY, ())),
            _ => Fixed::find(CPU, &(), name),
        }
    }

    fn next(&self, at: u64) -> Option<Listed> {
        if let Some(listed) = Fixed::list(CPU, at) {
            return Some(listed);
        }
        let number = (at - FIRST) as usize - CPU.len();
        let mut name = Name::new();
        let _ = core::fmt::write(&mut name, format_args!("cpu{number}")); // It fits.
        (number < percpu::count()).then_some(Listed { next: at + 1, kind: abi::DT_DIR, name })
    }
}
