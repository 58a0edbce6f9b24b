//! `sys`: numbers and names that an administrator sets.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use linux_raw_sys::general as abi;
use syscalls::Errno;
use syscalls::credentials::Capabilities;

use super::Context;
use super::directory::{Fixed, FixedWhat, Read, Write, say, say_bytes};
use crate::fs::file::OpenFile;
use crate::task;
use crate::task::ns::HostName;

const fn directory(name: &'static str, table: &'static [Fixed<Context>]) -> Fixed<Context> {
    Fixed { name, what: FixedWhat::Directory(table) }
}

const fn reads(name: &'static str, read: Read<Context>) -> Fixed<Context> {
    Fixed { name, what: FixedWhat::Text(0o444, read, None) }
}

const fn writes(name: &'static str, read: Read<Context>, write: Write<Context>) -> Fixed<Context> {
    Fixed { name, what: FixedWhat::Text(0o644, read, Some(write)) }
}

macro_rules! constant {
    ($name:literal, $text:expr) => {
        reads($name, |_, out| say(out, format_args!("{}\n", $text)))
    };
}

/// A number that is kept, and that nothing here depends on.
macro_rules! kept {
    ($name:literal, $initial:expr, $max:expr) => {{
        static VALUE: AtomicU64 = AtomicU64::new($initial);
        writes(
            $name,
            // Relaxed, both: a number that stands for itself.
            |_, out| say(out, format_args!("{}\n", VALUE.load(Ordering::Relaxed))),
            |_, _, bytes| {
                may_set()?;
                VALUE.store(number(bytes, $max)?, Ordering::Relaxed);
                Ok(())
            },
        )
    }};
}

/// `sys`
pub(super) static ENTRIES: &[Fixed<Context>] = &[
    directory("fs", FS),
    directory("kernel", KERNEL),
    directory("net", NET),
    directory("user", USER),
    directory("vm", VM),
];

static FS: &[Fixed<Context>] = &[
    directory("binfmt_misc", &[]),
    kept!("file-max", i64::MAX as u64, i64::MAX as u64),
    reads("file-nr", |_, out| say(out, format_args!("0\t0\t{}\n", i64::MAX))),
    writes(
        "mount-max",
        |_, out| say(out, format_args!("{}\n", syscalls::sysctl::mounts_max())),
        |_, _, bytes| {
            may_set()?;
            syscalls::sysctl::set_mounts_max(number(bytes, i32::MAX as u64)? as usize)
        },
    ),
    constant!("nr_open", crate::fs::fd::NR_OPEN),
    constant!("overflowgid", 65534),
    constant!("overflowuid", 65534),
    kept!("pipe-max-size", 1 << 20, 1 << 31),
    constant!("protected_hardlinks", 0),
    constant!("protected_symlinks", 0),
    kept!("suid_dumpable", 0, 2),
];

static KERNEL: &[Fixed<Context>] = &[
    constant!("cap_last_cap", abi::CAP_LAST_CAP),
    kept!("core_uses_pid", 0, 1),
    reads("core_pattern", |_, out| say_bytes(out, b"core\n")),
    writes("domainname", |_, out| name(out, false), |_, _, bytes| set_name(bytes, false)),
    writes("hostname", |_, out| name(out, true), |_, _, bytes| set_name(bytes, true)),
    kept!("keys_root_maxkeys", 1_000_000, u64::MAX),
    constant!("ngroups_max", 65536),
    writes(
        "ns_last_pid",
        |_, out| say(out, format_args!("{}\n", task::current().pid_ns().last())),
        set_last_pid,
    ),
    reads("osrelease", |_, out| say(out, format_args!("{}\n", task::ns_calls::RELEASE))),
    reads("ostype", |_, out| say_bytes(out, b"Linux\n")),
    constant!("overflowgid", 65534),
    constant!("overflowuid", 65534),
    kept!("panic", 0, i32::MAX as u64),
    constant!("pid_max", task::pid::PID_MAX),
    kept!("printk", 7, 15),
    directory("random", RANDOM),
    constant!("randomize_va_space", 0),
    constant!("tainted", 0),
    reads("threads-max", |_, out| say(out, format_args!("{}\n", task::stats::threads_max()))),
    kept!("unprivileged_userns_clone", 1, 1),
    reads("version", |_, out| say(out, format_args!("{}\n", task::ns_calls::VERSION))),
];

static RANDOM: &[Fixed<Context>] = &[
    reads("boot_id", |_, out| {
        static BOOT: crate::arch::spin::SpinLock<Option<[u8; 16]>> = crate::arch::spin::SpinLock::new(None);
        let id = *BOOT.lock().get_or_insert_with(fresh);
        uuid(id, out)
    }),
    constant!("entropy_avail", 256),
    constant!("poolsize", 256),
    reads("uuid", |_, out| uuid(fresh(), out)),
];

static NET: &[Fixed<Context>] = &[
    directory("core", &[constant!("somaxconn", 4096), constant!("wmem_default", 212_992)]),
    directory("unix", &[constant!("max_dgram_qlen", 10)]),
];

static VM: &[Fixed<Context>] = &[
    kept!("max_map_count", 65530, i32::MAX as u64),
    kept!("mmap_min_addr", 65536, u64::MAX),
    kept!("overcommit_memory", 1, 2),
    kept!("overcommit_ratio", 50, 100),
    kept!("swappiness", 60, 200),
];

/// How many namespaces of each kind a user namespace may own. Only of mount namespaces is there a count.
static USER: &[Fixed<Context>] = &[
    kept!("max_cgroup_namespaces", NAMESPACES, i32::MAX as u64),
    kept!("max_ipc_namespaces", NAMESPACES, i32::MAX as u64),
    writes("max_mnt_namespaces", max_mnt_namespaces, set_max_mnt_namespaces),
    kept!("max_net_namespaces", NAMESPACES, i32::MAX as u64),
    kept!("max_pid_namespaces", NAMESPACES, i32::MAX as u64),
    kept!("max_time_namespaces", NAMESPACES, i32::MAX as u64),
    kept!("max_user_namespaces", NAMESPACES, i32::MAX as u64),
    kept!("max_uts_namespaces", NAMESPACES, i32::MAX as u64),
];

const NAMESPACES: u64 = 31_000;

fn max_mnt_namespaces(_: &Context, out: &mut Vec<u8>) -> Result<(), Errno> {
    let ns = task::current().credentials().user_ns.clone();
    let max = ns.mount_namespaces_max().min(i32::MAX as u32);
    say(out, format_args!("{max}\n"))
}

fn set_max_mnt_namespaces(_: &Context, _: &OpenFile, bytes: &[u8]) -> Result<(), Errno> {
    let credentials = task::current().credentials();
    if !credentials.capable(&credentials.user_ns, Capabilities::SYS_RESOURCE) {
        return Err(Errno::EPERM);
    }
    let max = number(bytes, i32::MAX as u64)?;
    credentials.user_ns.set_mount_namespaces_max(max as u32);
    Ok(())
}

/// The number that the next process of the caller's PID namespace comes after.
fn set_last_pid(_: &Context, _: &OpenFile, bytes: &[u8]) -> Result<(), Errno> {
    let thread = task::current();
    let owner = syscalls::file::OtherNamespace::owner(&**thread.pid_ns()).clone();
    let credentials = thread.credentials();
    let either = [Capabilities::SYS_ADMIN, Capabilities::CHECKPOINT_RESTORE];
    if !either.into_iter().any(|one| credentials.capable(&owner, one)) {
        return Err(Errno::EPERM);
    }
    let last = number(bytes, u64::from(task::pid::PID_MAX) - 1)?;
    thread.pid_ns().set_last(last as u32);
    Ok(())
}

/// The machine's administrator may, and nobody else, whatever the file's owner is.
fn may_set() -> Result<(), Errno> {
    let may = task::current().credentials().capable(&mnt_table::UserNs::INITIAL, Capabilities::SYS_ADMIN);
    if may { Ok(()) } else { Err(Errno::EPERM) }
}

/// # Errors
/// `EINVAL`: no number, or above `max`.
fn number(bytes: &[u8], max: u64) -> Result<u64, Errno> {
    let text = core::str::from_utf8(bytes).map_err(|_| Errno::EINVAL)?;
    let word = text.split_ascii_whitespace().next().ok_or(Errno::EINVAL)?;
    word.parse().ok().filter(|value| *value <= max).ok_or(Errno::EINVAL)
}

fn name(out: &mut Vec<u8>, host: bool) -> Result<(), Errno> {
    let uts = task::current().namespaces().uts.clone();
    say_bytes(out, &if host { uts.host() } else { uts.domain() })?;
    say_bytes(out, b"\n")
}

fn set_name(bytes: &[u8], host: bool) -> Result<(), Errno> {
    let thread = task::current();
    let uts = thread.namespaces().uts.clone();
    let owner = syscalls::file::OtherNamespace::owner(&*uts).clone();
    if !thread.credentials().capable(&owner, Capabilities::SYS_ADMIN) {
        return Err(Errno::EPERM);
    }
    let end = bytes.iter().position(|byte| matches!(byte, 0 | b'\n')).unwrap_or(bytes.len());
    let name = &bytes[..end.min(task::ns::NAME_MAX)];
    let name = HostName::from_slice(name).unwrap_or_default();
    if host {
        uts.set_host(name)
    } else {
        uts.set_domain(name)
    }
    Ok(())
}

fn fresh() -> [u8; 16] {
    let mut id = [0; 16];
    crate::random::fill(&mut id);
    // Version 4, which is random.
    id[6] = id[6] & 0x0f | 0x40;
    id[8] = id[8] & 0x3f | 0x80;
    id
}

fn uuid(id: [u8; 16], out: &mut Vec<u8>) -> Result<(), Errno> {
    for (index, byte) in id.iter().enumerate() {
        let dash = if matches!(index, 4 | 6 | 8 | 10) { "-" } else { "" };
        say(out, format_args!("{dash}{byte:02x}"))?;
    }
    say_bytes(out, b"\n")
}
