//! Files of proc about the machine.

use alloc::vec::Vec;
use core::fmt::Write;

use syscalls::Errno;

use super::Context;
use super::directory::{Fixed, FixedWhat, Out, say, say_bytes};
use crate::arch::{clock, percpu};
use crate::task::time_ns::{Clock, seen_ns};
use crate::{mm, task};

/// What Linux counts times in.
pub(super) const TICK_NS: u64 = 10_000_000;
const SECOND_NS: u64 = 1_000_000_000;

const fn text(name: &'static str, read: super::directory::Read<Context>) -> Fixed<Context> {
    Fixed { name, what: FixedWhat::Text(0o444, read, None) }
}

/// All of them, and the links and directories beside them.
pub(super) static ENTRIES: &[Fixed<Context>] = &[
    text("cmdline", |_, out| say(out, format_args!("{}\n", crate::command_line::whole()))),
    text("cpuinfo", cpuinfo),
    text("devices", devices),
    text("filesystems", filesystems),
    text("loadavg", loadavg),
    text("meminfo", meminfo),
    text("modules", |_, _| Ok(())),
    Fixed { name: "mounts", what: FixedWhat::Symlink("self/mounts") },
    Fixed { name: "net", what: FixedWhat::Symlink("self/net") },
    text("partitions", partitions),
    text("stat", stat),
    text("swaps", |_, out| say(out, format_args!("Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"))),
    Fixed { name: "sys", what: FixedWhat::Directory(super::sysctl::ENTRIES) },
    text("uptime", uptime),
    text("version", version),
    text("vmstat", vmstat),
];

fn version(_: &Context, out: &mut Vec<u8>) -> Result<(), Errno> {
    say(out, format_args!("Linux version {} {}\n", task::ns_calls::RELEASE, task::ns_calls::VERSION))
}

fn uptime(_: &Context, out: &mut Vec<u8>) -> Result<(), Errno> {
    let hundredths = |ns: u64| (ns / SECOND_NS, ns % SECOND_NS / TICK_NS);
    let idle = percpu::all().map(|cpu| cpu.run_queue.idle_ns()).sum();
    let ((up, up_rest), (idle, idle_rest)) =
        (hundredths(seen_ns(Clock::Boottime, clock::now_ns())), hundredths(idle));
    say(out, format_args!("{up}.{up_rest:02} {idle}.{idle_rest:02}\n"))
}

fn loadavg(_: &Context, out: &mut Vec<u8>) -> Result<(), Errno> {
    let running: usize = percpu::all().map(|cpu| cpu.run_queue.load()).sum();
    let stats = task::stats();
    // There is no average: the moment stands for all three.
    say(
        out,
        format_args!(
            "{running}.00 {running}.00 {running}.00 {}/{} {}\n",
            running.max(1),
            stats.threads,
            task::current().pid_ns().last()
        ),
    )
}

fn meminfo(_: &Context, out: &mut Vec<u8>) -> Result<(), Errno> {
    const PAGE_KIB: usize = 4;
    let (total, free) = (mm::frames::total() * PAGE_KIB, mm::frames::free() * PAGE_KIB);
    let mut out = Out(out);
    let mut line = |name: &str, kib: usize| {
        writeln!(out, "{:<15} {kib:8} kB", alloc::format!("{name}:")).map_err(|_| Errno::ENOMEM)
    };
    let pages = tmpfs::pages().max(0) as usize * PAGE_KIB;
    line("MemTotal", total)?;
    line("MemFree", free)?;
    line("MemAvailable", free)?;
    for name in ["Buffers", "Cached", "SwapCached", "Active", "Inactive", "Unevictable", "Mlocked"] {
        line(name, 0)?;
    }
    for name in ["SwapTotal", "SwapFree", "Dirty", "Writeback"] {
        line(name, 0)?;
    }
    line("AnonPages", pages)?;
    line("Mapped", pages)?;
    line("Shmem", 0)?;
    let heap = mm::heap::live().bytes.max(0) as usize >> 10;
    line("Slab", heap)?;
    line("SReclaimable", 0)?;
    line("SUnreclaim", heap)?;
    line("CommitLimit", total)?;
    line("Committed_AS", pages)?;
    for name in ["VmallocTotal", "VmallocUsed", "HugePages_Total", "HugePages_Free"] {
        line(name, 0)?;
    }
    Ok(())
}

fn cpuinfo(_: &Context, out: &mut Vec<u8>) -> Result<(), Errno> {
    let identity = crate::arch::identity::read();
    let count = percpu::count();
    for cpu in percpu::all() {
        say(
            out,
            format_args!(
                "processor\t: {}\nvendor_id\t: {}\ncpu family\t: {}\nmodel\t\t: {}\nmodel name\t: {}\nstepping\t: {}\n\
                 physical id\t: 0\nsiblings\t: {count}\ncore id\t\t: {}\ncpu cores\t: {count}\n\
                 apicid\t\t: {}\nfpu\t\t: yes\nfpu_exception\t: yes\ncpuid level\t: {}\nwp\t\t: yes\nflags\t\t: {}\n\
                 clflush size\t: 64\ncache_alignment\t: 64\naddress sizes\t: 40 bits physical, 48 bits virtual\n\n",
                cpu.index,
                identity.vendor,
                identity.family,
                identity.model,
                identity.name,
                identity.stepping,
                cpu.index,
                cpu.apic_id,
                identity.level,
                identity.flags,
            ),
        )?;
    }
    Ok(())
}

fn stat(_: &Context, out: &mut Vec<u8>) -> Result<(), Errno> {
    let now_ns = clock::now_ns();
    let idle = |cpu: &percpu::PerCpu| cpu.run_queue.idle_ns() / TICK_NS;
    let all = now_ns / TICK_NS;
    // Whether a CPU was busy for a program or for the kernel is counted by process only.
    let total_idle: u64 = percpu::all().map(idle).sum();
    let busy = (all * percpu::count() as u64).saturating_sub(total_idle);
    say(out, format_args!("cpu  {busy} 0 0 {total_idle} 0 0 0 0 0 0\n"))?;
    for cpu in percpu::all() {
        let idle = idle(cpu);
        let busy = all.saturating_sub(idle);
        say(out, format_args!("cpu{} {busy} 0 0 {idle} 0 0 0 0 0 0\n", cpu.index))?;
    }
    let stats = task::stats();
    let boot = task::time::wall_offset_ns() / SECOND_NS;
    let running: usize = percpu::all().map(|cpu| cpu.run_queue.load()).sum();
    say(
        out,
        format_args!(
            "intr 0\nctxt 0\nbtime {boot}\nprocesses {}\nprocs_running {}\nprocs_blocked 0\n",
            stats.forks,
            running.max(1)
        ),
    )
}

fn filesystems(_: &Context, out: &mut Vec<u8>) -> Result<(), Errno> {
    for name in crate::fs::types::all() {
        say_bytes(out, b"nodev\t")?;
        say_bytes(out, name.name())?;
        say_bytes(out, b"\n")?;
    }
    Ok(())
}

fn devices(_: &Context, out: &mut Vec<u8>) -> Result<(), Errno> {
    let text = "Character devices:\n  1 mem\n  4 ttyS\n  5 /dev/tty\n  5 /dev/console\n  5 /dev/ptmx\n136 pts\n\n\
                Block devices:\n  1 ramdisk\n";
    say(out, format_args!("{text}"))
}

fn partitions(_: &Context, out: &mut Vec<u8>) -> Result<(), Errno> {
    say(out, format_args!("major minor  #blocks  name\n\n"))?;
    for node in crate::dev::NODES.iter().filter(|node| node.is_block) {
        let (major, minor) = node.numbers;
        say(out, format_args!("{major:4}  {minor:7} {:10} {}\n", crate::dev::ram::SIZE >> 10, node.name))?;
    }
    Ok(())
}

fn vmstat(_: &Context, out: &mut Vec<u8>) -> Result<(), Errno> {
    let (free, pages) = (mm::frames::free(), tmpfs::pages().max(0));
    say(
        out,
        format_args!(
            "nr_free_pages {free}\nnr_anon_pages {pages}\npgfault 0\npgmajfault 0\npswpin 0\npswpout 0\n"
        ),
    )
}
