//! Text about a process: `stat`, `status`, and small files.
//!
//! Source: proc(5) and the pages that it is now cut into.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::Write;

use linux_raw_sys::general as abi;
use syscalls::credentials::Capabilities;
use syscalls::ids::Kind;
use syscalls::{Credentials, Errno};

use super::directory::{Out, say, say_bytes};
use super::process::Target;
use super::system::TICK_NS;
use crate::arch::percpu;
use crate::fs::file::OpenFile;
use crate::mm::space::{Layout, Usage};
use crate::task::process::State;
use crate::task::time_ns::{Clock, seen_ns};
use crate::task::{self, Process, Thread};

const OVERFLOW: u32 = 65534;
const NO_ID: u32 = u32::MAX;

/// Without the zeroes at its end.
fn trimmed(comm: &[u8]) -> &[u8] {
    comm.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// What is known of a process that has ended, or not.
struct View {
    process: Arc<Process>,
    thread: Option<Arc<Thread>>,
    state: u8,
    comm: [u8; 16],
    usage: Usage,
    layout: Layout,
}

impl View {
    fn new(target: &Target) -> Result<View, Errno> {
        let process = target.process()?;
        let thread = target.thread().ok();
        let space = thread.as_ref().and_then(|thread| thread.space());
        let state = match (&thread, process.state()) {
            (_, State::Released) => b'X',
            (None, _) | (_, State::Zombie(_)) => b'Z',
            (Some(thread), State::Alive) => thread.state(),
        };
        Ok(View {
            state,
            comm: thread.as_ref().map_or_else(|| process.last_comm(), |thread| thread.comm()),
            usage: space.as_ref().map(|space| space.usage()).unwrap_or_default(),
            layout: space.as_ref().map(|space| space.layout()).unwrap_or_default(),
            process,
            thread,
        })
    }
}

/// `stat`
pub(super) fn stat(target: &Target, out: &mut Vec<u8>) -> Result<(), Errno> {
    let view = View::new(target)?;
    let ns = &target.instance.ns;
    let process = &view.process;
    let session = process.session();
    let terminal = session.terminal();
    let foreground = terminal.as_ref().and_then(|terminal| terminal.foreground());
    let foreground = foreground.map_or(-1, |group| i64::from(group.number_in(ns).unwrap_or(0)));
    let (own, children) = match &view.thread {
        Some(thread) if target.is_task => (thread.cpu_times(), (0, 0)),
        _ => process.times(),
    };
    let nice = view.thread.as_ref().map_or(0, |thread| thread.nice());
    let (pending, _, blocked) = view.thread.as_ref().map(|thread| thread.signal_sets()).unwrap_or_default();
    let (ignored, caught) = process.actions().sets();
    // Addresses are for those who may look into the process.
    let layout = if target.may_inspect().is_ok() { view.layout } else { Layout::default() };
    let start_ns = if target.is_task { view.thread.as_ref().map(|thread| thread.start_ns()) } else { None };
    let cpu = view.thread.as_ref().and_then(|thread| thread.entity()).map_or(0, |entity| entity.cpu());
    say(out, format_args!("{} (", target.number()))?;
    say_bytes(out, trimmed(&view.comm))?;
    say(
        out,
        format_args!(
            ") {} {} {} {} {} {foreground} 0 0 0 0 0 {} {} {} {} {} {nice} {} 0 {} {} {} {} ",
            char::from(view.state),
            process.parent().and_then(|parent| parent.pid_in(ns)).unwrap_or(0),
            process.group().number_in(ns).unwrap_or(0),
            session.id.number_in(ns).unwrap_or(0),
            terminal.map_or(0, |terminal| terminal.device()),
            own.0 / TICK_NS,
            own.1 / TICK_NS,
            children.0 / TICK_NS,
            children.1 / TICK_NS,
            20 + nice,
            process.threads_len(),
            seen_ns(Clock::Boottime, start_ns.unwrap_or_else(|| process.start_ns())) / TICK_NS,
            view.usage.total * 4096,
            view.usage.resident,
            process.limit(abi::RLIMIT_RSS).soft,
        ),
    )?;
    say(
        out,
        format_args!(
            "{} {} {} 0 0 {} {} {} {} 0 0 0 17 {cpu} 0 0 0 0 0 {} {} {} {} {} {} {} ",
            layout.code_start,
            layout.code_end,
            layout.stack_start,
            pending.0 & 0x7fff_ffff,
            blocked.0 & 0x7fff_ffff,
            ignored.0 & 0x7fff_ffff,
            caught.0 & 0x7fff_ffff,
            layout.data_start,
            layout.data_end,
            layout.brk_start,
            layout.arg_start,
            layout.arg_end,
            layout.env_start,
            layout.env_end,
        ),
    )?;
    let code = match process.state() {
        State::Zombie(status) => status,
        _ => 0,
    };
    say(out, format_args!("{code}\n"))
}

/// `status`
pub(super) fn status(target: &Target, out: &mut Vec<u8>) -> Result<(), Errno> {
    let view = View::new(target)?;
    let process = &view.process;
    let credentials = view.thread.as_ref().map(|thread| thread.credentials());
    let credentials = credentials.unwrap_or_else(|| Arc::new(Credentials::ROOT));
    say_bytes(out, b"Name:\t")?;
    for byte in trimmed(&view.comm) {
        match byte {
            b'\n' => say_bytes(out, b"\\n")?,
            b'\\' => say_bytes(out, b"\\\\")?,
            byte => say_bytes(out, &[*byte])?,
        }
    }
    if let Some(thread) = &view.thread {
        say(out, format_args!("\nUmask:\t{:04o}", thread.mounts().fs().umask()))?;
    }
    numbers(target, &view, &credentials, out)?;
    if view.usage.total != 0 {
        memory(&view.usage, out)?;
    }
    let threads = process.threads_len();
    say(out, format_args!("CoreDumping:\t0\nTHP_enabled:\t1\nThreads:\t{}\n", threads.max(1)))?;
    let (own, shared, blocked) = view.thread.as_ref().map(|thread| thread.signal_sets()).unwrap_or_default();
    let (ignored, caught) = process.actions().sets();
    let limit = process.limit(abi::RLIMIT_SIGPENDING).soft;
    say(
        out,
        format_args!(
            "SigQ:\t0/{limit}\nSigPnd:\t{:016x}\nShdPnd:\t{:016x}\nSigBlk:\t{:016x}\nSigIgn:\t{:016x}\nSigCgt:\t{:016x}\n",
            own.0, shared.0, blocked.0, ignored.0, caught.0
        ),
    )?;
    say(
        out,
        format_args!(
            "CapInh:\t{:016x}\nCapPrm:\t{:016x}\nCapEff:\t{:016x}\nCapBnd:\t{:016x}\nCapAmb:\t{:016x}\nNoNewPrivs:\t{}\n\
             Seccomp:\t0\nSeccomp_filters:\t0\n",
            credentials.inheritable.bits(),
            credentials.permitted.bits(),
            credentials.effective.bits(),
            credentials.bounding.bits(),
            credentials.ambient.bits(),
            u8::from(credentials.no_new_privs),
        ),
    )?;
    let count = percpu::count();
    let all = if count >= 64 { u64::MAX } else { (1 << count) - 1 };
    let allowed =
        view.thread.as_ref().and_then(|thread| thread.entity()).map_or(all, |entity| entity.allowed() & all);
    say(out, format_args!("Cpus_allowed:\t{allowed:x}\nCpus_allowed_list:\t"))?;
    ranges(allowed, out)?;
    let (asked, not) = process.switches();
    say(
        out,
        format_args!(
            "\nMems_allowed:\t1\nMems_allowed_list:\t0\nvoluntary_ctxt_switches:\t{asked}\nnonvoluntary_ctxt_switches:\t{not}\n"
        ),
    )
}

/// The lines with numbers of processes, users and groups.
fn numbers(target: &Target, view: &View, who: &Credentials, out: &mut Vec<u8>) -> Result<(), Errno> {
    let (ns, process) = (&target.instance.ns, &view.process);
    let state = match view.state {
        b'R' => "R (running)",
        b'T' => "T (stopped)",
        b'Z' => "Z (zombie)",
        b'X' => "X (dead)",
        _ => "S (sleeping)",
    };
    let parent = process.parent().and_then(|parent| parent.pid_in(ns)).unwrap_or(0);
    say(
        out,
        format_args!(
            "\nState:\t{state}\nTgid:\t{}\nNgid:\t0\nPid:\t{}\nPPid:\t{parent}\nTracerPid:\t0\n",
            process.pid_in(ns).unwrap_or(0),
            target.number(),
        ),
    )?;
    let viewer = task::current().credentials();
    let seen = |kind: Kind, id: u32| kind.seen_by(&viewer.user_ns, id).unwrap_or(OVERFLOW);
    let [uid, euid, suid, fsuid] = [who.uid, who.euid, who.suid, who.fsuid].map(|id| seen(Kind::Users, id));
    let [gid, egid, sgid, fsgid] = [who.gid, who.egid, who.sgid, who.fsgid].map(|id| seen(Kind::Groups, id));
    let slots = view.thread.as_ref().and_then(|thread| thread.try_files()).map_or(0, |files| files.slots());
    say(
        out,
        format_args!(
            "Uid:\t{uid}\t{euid}\t{suid}\t{fsuid}\nGid:\t{gid}\t{egid}\t{sgid}\t{fsgid}\nFDSize:\t{}\nGroups:\t",
            slots.next_multiple_of(64)
        ),
    )?;
    for group in who.groups.as_slice() {
        say(out, format_args!("{} ", seen(Kind::Groups, *group)))?;
    }
    let own: [(&str, &task::Pid); 4] = [
        ("NStgid", process.identity()),
        ("NSpid", &target.pid),
        ("NSpgid", &process.group()),
        ("NSsid", &process.session().id),
    ];
    for (name, pid) in own {
        say(out, format_args!("\n{name}:"))?;
        for number in pid.numbers_from(ns) {
            say(out, format_args!("\t{number}"))?;
        }
    }
    say_bytes(out, b"\nKthread:\t0\n")
}

fn memory(usage: &Usage, out: &mut Vec<u8>) -> Result<(), Errno> {
    let lines = [
        ("VmPeak", usage.peak_total),
        ("VmSize", usage.total),
        ("VmLck", usage.locked),
        ("VmPin", 0),
        ("VmHWM", usage.peak_resident),
        ("VmRSS", usage.resident),
        ("RssAnon", usage.resident.saturating_sub(usage.shared)),
        ("RssFile", usage.shared),
        ("RssShmem", 0),
        ("VmData", usage.data),
        ("VmStk", usage.stack),
        ("VmExe", usage.text),
        ("VmLib", 0),
        ("VmPTE", usage.tables),
        ("VmSwap", 0),
        ("HugetlbPages", 0),
    ];
    let mut out = Out(out);
    for (name, pages) in lines {
        writeln!(out, "{name}:\t{:8} kB", pages * 4).map_err(|_| Errno::ENOMEM)?;
    }
    Ok(())
}

/// Numbers of bits that are set, as ranges.
pub(super) fn ranges(bits: u64, out: &mut Vec<u8>) -> Result<(), Errno> {
    let mut at = 0;
    let mut first = true;
    while at < u64::BITS {
        if bits >> at & 1 == 0 {
            at += 1;
            continue;
        }
        let end = at + (bits >> at).trailing_ones();
        let comma = if core::mem::take(&mut first) { "" } else { "," };
        match end - at {
            1 => say(out, format_args!("{comma}{at}"))?,
            _ => say(out, format_args!("{comma}{at}-{}", end - 1))?,
        }
        at = end;
    }
    Ok(())
}

pub(super) fn comm(target: &Target, out: &mut Vec<u8>) -> Result<(), Errno> {
    say_bytes(out, trimmed(&View::new(target)?.comm))?;
    say_bytes(out, b"\n")
}

/// Only the process itself names its threads.
pub(super) fn set_comm(target: &Target, _file: &OpenFile, bytes: &[u8]) -> Result<(), Errno> {
    let thread = target.thread()?;
    if !Arc::ptr_eq(thread.process(), task::current().process()) {
        return Err(Errno::EINVAL);
    }
    thread.set_comm(bytes);
    Ok(())
}

pub(super) fn limits(target: &Target, out: &mut Vec<u8>) -> Result<(), Errno> {
    #[rustfmt::skip]
    const NAMES: [(u32, &str, &str); 16] = [
        (abi::RLIMIT_CPU, "Max cpu time", "seconds"), (abi::RLIMIT_FSIZE, "Max file size", "bytes"),
        (abi::RLIMIT_DATA, "Max data size", "bytes"), (abi::RLIMIT_STACK, "Max stack size", "bytes"),
        (abi::RLIMIT_CORE, "Max core file size", "bytes"), (abi::RLIMIT_RSS, "Max resident set", "bytes"),
        (abi::RLIMIT_NPROC, "Max processes", "processes"), (abi::RLIMIT_NOFILE, "Max open files", "files"),
        (abi::RLIMIT_MEMLOCK, "Max locked memory", "bytes"), (abi::RLIMIT_AS, "Max address space", "bytes"),
        (abi::RLIMIT_LOCKS, "Max file locks", "locks"), (abi::RLIMIT_SIGPENDING, "Max pending signals", "signals"),
        (abi::RLIMIT_MSGQUEUE, "Max msgqueue size", "bytes"), (abi::RLIMIT_NICE, "Max nice priority", ""),
        (abi::RLIMIT_RTPRIO, "Max realtime priority", ""), (abi::RLIMIT_RTTIME, "Max realtime timeout", "us"),
    ];
    let limits = target.process()?.limits();
    say(out, format_args!("{:<25} {:<20} {:<20} {:<10}\n", "Limit", "Soft Limit", "Hard Limit", "Units"))?;
    let word = |value: u64| match value {
        u64::MAX => alloc::string::String::from("unlimited"),
        value => alloc::format!("{value}"),
    };
    for (resource, name, units) in NAMES {
        let limit = limits.get(resource);
        say(out, format_args!("{name:<25} {:<20} {:<20} {units:<10}\n", word(limit.soft), word(limit.hard)))?;
    }
    Ok(())
}

pub(super) fn cgroup(_target: &Target, out: &mut Vec<u8>) -> Result<(), Errno> {
    say_bytes(out, b"0::/\n")
}

pub(super) fn children(target: &Target, out: &mut Vec<u8>) -> Result<(), Errno> {
    for child in target.process()?.children() {
        if let Some(number) = child.pid_in(&target.instance.ns) {
            say(out, format_args!("{number} "))?;
        }
    }
    Ok(())
}

pub(super) fn no_id(_target: &Target, out: &mut Vec<u8>) -> Result<(), Errno> {
    say(out, format_args!("{NO_ID}"))
}

/// Nobody is audited, so there is nobody to say who has logged in.
pub(super) fn set_no_id(_target: &Target, _file: &OpenFile, _bytes: &[u8]) -> Result<(), Errno> {
    Err(Errno::EPERM)
}

pub(super) fn wchan(_target: &Target, out: &mut Vec<u8>) -> Result<(), Errno> {
    say_bytes(out, b"0")
}

pub(super) fn personality(_target: &Target, out: &mut Vec<u8>) -> Result<(), Errno> {
    say_bytes(out, b"00000000\n")
}

pub(super) fn oom_score(target: &Target, out: &mut Vec<u8>) -> Result<(), Errno> {
    let score = (666 + i64::from(target.process()?.oom_score_adj()) * 2 / 3).clamp(0, 1333);
    say(out, format_args!("{score}\n"))
}

pub(super) fn oom_score_adj(target: &Target, out: &mut Vec<u8>) -> Result<(), Errno> {
    say(out, format_args!("{}\n", target.process()?.oom_score_adj()))
}

pub(super) fn set_oom_score_adj(target: &Target, _file: &OpenFile, bytes: &[u8]) -> Result<(), Errno> {
    let text = core::str::from_utf8(bytes).map_err(|_| Errno::EINVAL)?.trim();
    let value: i32 = text.parse().map_err(|_| Errno::EINVAL)?;
    if !(-1000..=1000).contains(&value) {
        return Err(Errno::EINVAL);
    }
    let process = target.process()?;
    let may_lower =
        task::current().credentials().capable(&mnt_table::UserNs::INITIAL, Capabilities::SYS_RESOURCE);
    if value < process.oom_score_adj() && !may_lower {
        return Err(Errno::EACCES);
    }
    process.set_oom_score_adj(value);
    Ok(())
}
