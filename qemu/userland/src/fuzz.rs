//! Random system calls with random arguments, by processes and threads on all CPUs: the kernel has to stay up.
//!
//! Numbers are drawn from all that Linux has and some that it has not, arguments from what a call may take to be a
//! descriptor, a size, a flag or an address: of memory with random words in it, of its edge, of nothing, of the kernel.
//! Each worker is a process in namespaces of its own, so that what it does to mounts is its own ruin; many die, and others
//! take their place. A worker's calls depend on the seed and its number alone, and every process prints nothing.

use std::ptr;
use std::time::Duration;

use anyhow::{Context, Result};
use linux_raw_sys::general as abi;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, RngCore, SeedableRng};
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, mprotect};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::{debug_call, sys};

/// How long and from where.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where randomness starts
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How long
    #[arg(long, default_value_t = 20)]
    seconds: u64,
}

/// Numbers from which on there are no calls.
const NUMBERS_END: u64 = 480;

/// Calls that end the worker, or that would have it wait for ever: these are left to other tests.
const LEFT_OUT: [u32; 6] = [
    abi::__NR_exit_group,
    abi::__NR_exit,
    abi::__NR_pause,
    abi::__NR_rt_sigsuspend,
    abi::__NR_reboot,
    abi::__NR_kill,
];

/// Calls about mounts and places, which are drawn as often as all others together.
const MOUNTS: [u32; 24] = [
    abi::__NR_mount,
    abi::__NR_umount2,
    abi::__NR_pivot_root,
    abi::__NR_chroot,
    abi::__NR_unshare,
    abi::__NR_setns,
    abi::__NR_fsopen,
    abi::__NR_fsconfig,
    abi::__NR_fsmount,
    abi::__NR_fspick,
    abi::__NR_open_tree,
    abi::__NR_open_tree_attr,
    abi::__NR_move_mount,
    abi::__NR_mount_setattr,
    abi::__NR_statmount,
    abi::__NR_listmount,
    abi::__NR_openat2,
    abi::__NR_openat,
    abi::__NR_chdir,
    abi::__NR_fchdir,
    abi::__NR_mkdir,
    abi::__NR_rmdir,
    abi::__NR_rename,
    abi::__NR_symlink,
];

/// Bytes of each of the two areas of memory.
const AREA: usize = 1 << 16;

/// Calls between looks at the clock.
const BATCH: usize = 200;
/// How long one worker lives at most.
const LIFE: Duration = Duration::from_millis(1500);

/// Runs workers until the time is over. Whether the kernel's invariants hold then.
pub(crate) fn run(args: &Args) -> Result<bool> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let end = sys::now_ns() + args.seconds * 1_000_000_000;
    let count = 2 * sys::cpus();
    let (mut number, mut died) = (0_u64, 0_u64);
    let mut workers: Vec<(i32, u64)> = Vec::new();
    while sys::now_ns() < end {
        while workers.len() < count {
            let seed = args.seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            number += 1;
            let pid = sys::fork(|| worker(seed)).context("cannot fork")?;
            workers.push((pid, sys::now_ns() + LIFE.as_nanos() as u64));
        }
        std::thread::sleep(Duration::from_millis(5));
        for (pid, until) in &mut workers {
            if sys::now_ns() > *until {
                sys::kill(*pid);
                *until = u64::MAX;
            }
        }
        while let Ok(Some((pid, status))) = sys::wait_now() {
            died += u64::from(status >= 128);
            workers.retain(|(worker, _)| *worker != pid);
        }
    }
    workers.iter().for_each(|(pid, _)| sys::kill(*pid));
    // Whatever they started is a child of this process now.
    let patience = sys::now_ns() + 60_000_000_000;
    loop {
        match sys::wait_now() {
            Err(_) => break,
            Ok(Some(_)) => {}
            Ok(None) if sys::now_ns() > patience => {
                println!("violation: processes do not end");
                return Ok(false);
            }
            Ok(None) => {
                kill_children();
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
    let calls = debug_call::counters().ok().and_then(|counters| counters.get("syscalls").copied());
    println!("@fuzz {number} workers, {died} ended by a signal, {} calls in all", calls.unwrap_or(0));
    match debug_call::check() {
        Ok(violations) => {
            violations.iter().for_each(|line| println!("violation: {line}"));
            Ok(violations.is_empty())
        }
        Err(error) => {
            println!("this kernel does not check itself ({error})");
            Ok(true)
        }
    }
}

/// Kills what was left to this process, whose numbers only proc knows.
fn kill_children() {
    let own = std::process::id().to_string();
    let Ok(processes) = std::fs::read_dir("/proc") else { return };
    for process in processes.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let Ok(stat) = std::fs::read_to_string(process.path().join("stat")) else { continue };
        // The parent is the second word behind the name, which may hold anything.
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1));
        if parent == Some(&own) {
            sys::kill(pid);
        }
    }
}

/// A worker in a PID namespace of its own: whoever it sends signals to is its own ruin too.
fn worker(seed: u64) -> u8 {
    // SAFETY: one thread, and nothing rests on which namespace its children are in.
    if unsafe { unshare_unsafe(UnshareFlags::NEWPID) }.is_err() {
        return 1;
    }
    let status = |child| sys::wait(child).map_or(1, |(_, status)| status);
    // The first process of a namespace is spared most signals, so it is not the one that makes the calls.
    sys::fork(|| sys::fork(|| life(seed)).map_or(1, status)).map_or(1, status)
}

/// A worker's life.
fn life(seed: u64) -> u8 {
    let mut rng = SmallRng::seed_from_u64(seed);
    // So that it neither fills the console nor reads from it.
    if let Ok(null) = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null") {
        for fd in 0..3 {
            // SAFETY: nothing of this process owns these descriptors by value.
            unsafe { libc::dup2(std::os::fd::AsRawFd::as_raw_fd(&null), fd) };
        }
    }
    let kinds = [
        UnshareFlags::NEWNS,
        UnshareFlags::NEWNS | UnshareFlags::NEWUSER,
        UnshareFlags::NEWNS | UnshareFlags::NEWPID | UnshareFlags::NEWIPC,
    ];
    let flags = kinds.choose(&mut rng).copied().unwrap_or(UnshareFlags::NEWNS);
    // SAFETY: one thread, and its memory and descriptors rest on none of these.
    if unsafe { unshare_unsafe(flags) }.is_err() {
        return 1;
    }
    let private = rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC;
    if rustix::mount::mount_change("/", private).is_err() {
        return 1;
    }
    let Some(memory) = Memory::new() else { return 1 };
    // Not for ever in a call that waits.
    // SAFETY: sets a timer and a signal's mask; no handler runs.
    unsafe {
        let every = libc::timeval { tv_sec: 0, tv_usec: 50_000 };
        let timer = libc::itimerval { it_interval: every, it_value: every };
        libc::signal(libc::SIGALRM, nothing as extern "C" fn(i32) as usize);
        libc::setitimer(libc::ITIMER_REAL, &raw const timer, ptr::null_mut());
    }
    loop {
        for _ in 0..BATCH {
            call(&memory, &mut rng);
        }
    }
}

extern "C" fn nothing(_: i32) {}

/// What arguments point to.
struct Memory {
    /// Words and paths, and behind it what cannot be touched.
    area: *mut u8,
}

/// Strings that calls can do something with.
const STRINGS: [&[u8]; 16] = [
    b"/",
    b".",
    b"..",
    b"/tmp",
    b"/tmp/a",
    b"/tmp/a/b",
    b"/proc",
    b"/proc/self/ns/mnt",
    b"/proc/self/fd/3",
    b"/dev/null",
    b"/dev/shm",
    b"tmpfs",
    b"proc",
    b"size=1m,mode=700",
    b"source",
    b"",
];

/// Bytes from one string to the next.
const STRING: usize = 64;

impl Memory {
    fn new() -> Option<Self> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the kernel chooses fresh addresses, and the second half is taken away before anybody knows them.
        let area = unsafe { mmap_anonymous(ptr::null_mut(), 2 * AREA, access, MapFlags::PRIVATE) }.ok()?;
        // SAFETY: as above.
        unsafe { mprotect(area.cast::<u8>().add(AREA).cast(), AREA, rustix::mm::MprotectFlags::empty()) }
            .ok()?;
        Some(Memory { area: area.cast() })
    }

    /// An address, with something at it.
    fn address(&self, rng: &mut SmallRng) -> u64 {
        let base = self.area as u64;
        match rng.random_range(0..16) {
            0 => 0,
            1 => rng.next_u64(),
            2 => base + AREA as u64,
            3 => base + AREA as u64 - rng.random_range(1..64),
            4 => 0xffff_8000_0000_0000 | (rng.next_u64() & 0x3fff_ffff),
            5 => 0x7fff_ffff_f000,
            6..11 => {
                let index = rng.random_range(0..STRINGS.len());
                let mut bytes = [0; STRING];
                bytes[..STRINGS[index].len()].copy_from_slice(STRINGS[index]);
                self.write(index * STRING, &bytes);
                base + (index * STRING) as u64
            }
            _ => {
                let at = rng.random_range(STRINGS.len() * STRING..AREA - 256) & !7;
                let mut bytes = [0; 128];
                for word in bytes.chunks_exact_mut(8) {
                    word.copy_from_slice(&number(rng).to_le_bytes());
                }
                self.write(at, &bytes);
                base + at as u64
            }
        }
    }

    /// Other calls of this process may have unmapped it: then the process dies here, which is as good.
    fn write(&self, at: usize, bytes: &[u8]) {
        // SAFETY: `at` and what follows lie in the first half of the area, which no reference of this program points into.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.area.add(at), bytes.len()) };
    }
}

/// A number that is small, or a flag, or at an edge, or anything.
fn number(rng: &mut SmallRng) -> u64 {
    match rng.random_range(0..8) {
        0..3 => rng.random_range(0..16),
        3 => 1 << rng.random_range(0..64),
        4 => (1_u64 << rng.random_range(0..64)).wrapping_sub(1),
        5 => (rng.random_range(-200_i64..0)) as u64,
        6 => rng.random_range(0..0x10000),
        _ => rng.next_u64(),
    }
}

fn call(memory: &Memory, rng: &mut SmallRng) {
    let nr = if rng.random() {
        MOUNTS.choose(rng).map_or(0, |nr| u64::from(*nr))
    } else {
        rng.random_range(0..NUMBERS_END)
    };
    if LEFT_OUT.iter().any(|left| u64::from(*left) == nr) {
        return;
    }
    let mut args = [0_u64; 6];
    for arg in &mut args {
        *arg = match rng.random_range(0..4) {
            0 => number(rng),
            1 => rng.random_range(0..12),
            _ => memory.address(rng),
        };
    }
    let [a, b, c, d, e, f] = args;
    // SAFETY: none at all: the process may be left in any state, die, or become another program. It shares no memory with
    // its parent, and the kernel protects everybody else.
    unsafe { libc::syscall(nr as i64, a, b, c, d, e, f) };
}
