//! Processes that take all that they can get of something, until memory is out: the kernel has to stay up, refuse or kill, and
//! give everything to others when they are gone.
//!
//! Each round has a PID and a mount namespace of its own, in which a few kinds of hoarders run on all CPUs; those that die
//! are started again. Then all are killed. Nothing may be left, and a process must be able to have half of the machine's
//! memory, of which others had all.

use std::fs::File;
use std::io::Write;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::exit;
use std::ptr;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change};
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::system::sysinfo;
use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::stress_job::LEAKS;
use crate::{debug_call, sys};

/// How much, and from where.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where randomness starts
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Rounds; in the first ones each kind has its turn
    #[arg(long, default_value_t = 16)]
    rounds: usize,
}

/// Length of a round.
const ROUND: Duration = Duration::from_millis(900);
/// How long somebody waits who was refused.
const PAUSE: Duration = Duration::from_millis(1);
/// Bytes of what is written at a time.
const CHUNK: usize = 1 << 16;
/// How gladly this process is killed when memory is out.
const SCORE: &str = "/proc/self/oom_score_adj";
/// Kinds in a round.
const AT_ONCE: usize = 3;

/// What is hoarded, and how: a step, which may be refused.
const KINDS: [(&str, fn()); 14] = [
    ("memory", memory),
    ("a file", file),
    ("directories", directories),
    ("links", links),
    ("pipes", pipes),
    ("datagrams", datagrams),
    ("processes", processes),
    ("threads", threads),
    ("binds", binds),
    ("file systems", file_systems),
    ("namespaces", namespaces),
    ("areas", areas),
    ("tables of pages", tables),
    ("mountinfo", mountinfo),
];

/// Runs the rounds. Whether nothing was wrong.
pub(crate) fn run(args: &Args) -> Result<bool> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    // Where nobody has much memory of his own, it could be this process that has most.
    std::fs::write(SCORE, "-1000")?;
    let before = debug_call::settled()?;
    let mut rng = SmallRng::seed_from_u64(args.seed);
    let mut first = KINDS.into_iter();
    for round in 0..args.rounds {
        let mut kinds: Vec<_> = first.by_ref().take(AT_ONCE).collect();
        while kinds.len() < AT_ONCE {
            kinds.extend(KINDS.choose(&mut rng));
        }
        let names = kinds.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
        println!("round {round}: {names}");
        let late = Duration::from_millis(rng.random_range(0..200));
        let top = sys::fork(|| lead(&kinds)).context("cannot fork")?;
        thread::sleep(ROUND + late);
        sys::kill(top);
        // And for the first process of the namespace, which ends after all others there.
        while sys::wait_now().is_ok() {
            thread::sleep(PAUSE);
        }
        let after = debug_call::settled()?;
        for (name, _) in LEAKS {
            let [before, after] = [&before, &after].map(|counters| counters.get(name).copied().unwrap_or(0));
            ensure!(after <= before, "{} {name} are left", after - before);
        }
        // It must not be killed, and be told of no error.
        let child = sys::fork(|| {
            let _ = std::fs::write(SCORE, "0");
            u8::from(!has_half())
        })
        .context("cannot fork")?;
        let status = sys::wait(child).map(|(_, status)| status);
        ensure!(status == Some(0), "a process cannot have half of the memory: {status:?}");
    }
    let violations = debug_call::check()?;
    violations.iter().for_each(|line| println!("violation: {line}"));
    Ok(violations.is_empty())
}

/// Starts hoarders in namespaces of their own, which end with their first process: the one that this process starts and
/// waits for.
fn lead(kinds: &[(&str, fn())]) -> u8 {
    let flags = UnshareFlags::NEWNS | UnshareFlags::NEWPID;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    let _ = std::fs::write(SCORE, "0");
    // SAFETY: one thread, which has nothing that rests on its namespaces.
    if unsafe { unshare_unsafe(flags) }.is_err() || mount_change("/", private).is_err() {
        return 1;
    }
    let first = sys::fork(|| {
        // With the one that is going to be killed.
        let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
        for (_, kind) in kinds {
            for _ in 0..2 {
                let _ = sys::fork(|| watch(*kind));
            }
        }
        loop {
            thread::sleep(ROUND);
        }
    });
    first.ok().and_then(sys::wait).map_or(1, |(_, status)| status)
}

/// Starts a hoarder again and again.
fn watch(kind: fn()) -> u8 {
    let many = Some(1 << 16);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: many, maximum: many });
    loop {
        if let Ok(hoarder) = sys::fork(|| {
            kind();
            0
        }) {
            let _ = sys::wait(hoarder);
        }
        thread::sleep(PAUSE);
    }
}

/// Does `step` for ever, with a pause where it is refused.
fn forever<T, E>(mut step: impl FnMut(usize) -> Result<T, E>) {
    let mut number = 0;
    loop {
        match step(number) {
            // Whoever holds something holds it to the end.
            Ok(held) => std::mem::forget(held),
            Err(_) => thread::sleep(PAUSE),
        }
        number += 1;
    }
}

/// Whether half of the memory can be had.
fn has_half() -> bool {
    let info = sysinfo();
    touch(info.totalram as usize * info.mem_unit as usize / 2).is_ok()
}

/// Maps so many bytes and touches each page.
fn touch(bytes: usize) -> rustix::io::Result<()> {
    const PAGE: usize = 4096;
    // SAFETY: fresh memory that nobody else knows, written within its bounds.
    unsafe {
        let area =
            mmap_anonymous(ptr::null_mut(), bytes, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)?;
        (0..bytes).step_by(PAGE).for_each(|at| area.cast::<u8>().add(at).write_volatile(1));
    }
    Ok(())
}

fn memory() {
    forever(|_| touch(1 << 20));
}

/// Mounts a file system of one's own on `/tmp`, and goes there.
fn move_to(fs_type: &str) {
    let mounted = mount("hoard", "/tmp", fs_type, MountFlags::empty(), None);
    if mounted.is_err() || std::env::set_current_dir("/tmp").is_err() {
        exit(1);
    }
}

fn file() {
    move_to("ramfs");
    let Ok(mut file) = File::create("file") else { return };
    forever(|_| file.write_all(&[1; CHUNK]));
}

fn directories() {
    move_to("ramfs");
    forever(|number| std::fs::create_dir(format!("{number:0200}")));
}

fn links() {
    move_to("ramfs");
    let target = "t".repeat(4000);
    forever(|number| std::os::unix::fs::symlink(&target, number.to_string()));
}

fn pipes() {
    forever(|_| {
        let (reader, mut writer) = std::io::pipe()?;
        writer.write_all(&[1; CHUNK])?;
        std::io::Result::Ok((reader, writer))
    });
}

fn datagrams() {
    forever(|_| {
        let (one, other) = UnixDatagram::pair()?;
        one.set_nonblocking(true)?;
        while one.send(&[1; 100]).is_ok() {}
        std::io::Result::Ok((one, other))
    });
}

fn processes() {
    forever(|_| {
        sys::fork(|| {
            let _ = touch(1 << 18);
            loop {
                thread::sleep(ROUND);
            }
        })
    });
}

fn threads() {
    forever(|_| thread::Builder::new().stack_size(CHUNK).spawn(|| thread::sleep(8 * ROUND)));
}

fn binds() {
    move_to("tmpfs");
    let _ = std::fs::create_dir("a");
    forever(|_| mount_bind("a", "a"));
}

fn file_systems() {
    move_to("tmpfs");
    let _ = mount_change("/tmp", MountPropagationFlags::SHARED);
    forever(|number| {
        let name = number.to_string();
        std::fs::create_dir(&name)?;
        mount("hoard", Path::new(&name), "tmpfs", MountFlags::empty(), None).map_err(std::io::Error::from)
    });
}

fn namespaces() {
    forever(|_| {
        // SAFETY: one thread, which has nothing that rests on its mount namespace.
        unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
        File::open("/proc/self/ns/mnt")
    });
}

fn areas() {
    const STEP: usize = 8192;
    forever(|_| {
        // SAFETY: fresh memory that nobody else knows and nobody touches.
        unsafe {
            let area = mmap_anonymous(ptr::null_mut(), 1 << 26, ProtFlags::empty(), MapFlags::PRIVATE)?;
            for at in (0..1 << 26).step_by(STEP) {
                mprotect(area.cast::<u8>().add(at).cast(), STEP / 2, MprotectFlags::READ)?;
            }
        }
        rustix::io::Result::Ok(())
    });
}

fn tables() {
    const HUGE: usize = 2 << 20;
    const SIZE: usize = 1 << 40;
    forever(|_| {
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: fresh memory that nobody else knows, read within its bounds.
        unsafe {
            let area = mmap_anonymous(ptr::null_mut(), SIZE, ProtFlags::READ, flags)?;
            (0..SIZE).step_by(HUGE).for_each(|at| {
                area.cast::<u8>().add(at).read_volatile();
            });
        }
        rustix::io::Result::Ok(())
    });
}

fn mountinfo() {
    forever(|_| std::fs::read("/proc/self/mountinfo").map(drop));
}
